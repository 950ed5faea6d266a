//! The server against peers that are many, slow, rude or gone. What exhausts it is in `exhaustion.rs`.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::proc::{cpu, cpu_since, threads};
use common::{PATIENCE, Server, client, connect, expect, expect_end, flood, pattern, ping};
use multiconn::descriptors::raise_limit;
use rustix::process::Signal;
use socket2::SockRef;

#[test]
fn a_thousand_connections_are_served_at_once() {
    raise_limit().unwrap();
    let server = Server::start(&[]);
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| server.connect()).collect();
    for round in 0..3 {
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(format!("{number} in round {round}").as_bytes()).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            expect(stream, format!("{number} in round {round}").as_bytes());
        }
    }
    assert_eq!(server.table()[0], "1000 connections: 1000 established");
    assert_eq!(threads(&server.program), 1);
}

#[test]
fn the_client_has_all_its_connections_open_at_once() {
    raise_limit().unwrap();
    let server = Server::start(&[]);
    let addr = server.addr;
    let run = std::thread::spawn(move || client(addr, 1000, &["-q", "--hold", "1s"]));
    server.until_table_has("1000 connections: 1000 established");
    let run = run.join().unwrap();
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn one_connection_carries_thirty_two_mebibytes_each_way() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let data = pattern(32 * 1024 * 1024);
    let mut writer = stream.try_clone().unwrap();
    let to_send = data.clone();
    let sending = std::thread::spawn(move || {
        writer.write_all(&to_send).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo).unwrap();
    sending.join().unwrap();
    assert!(echo == data, "{} bytes came back, or not the ones sent", echo.len());
}

#[test]
fn half_close_echoes_everything_first() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let data = pattern(2 * 1024 * 1024);
    // More than the sockets and the server's buffer hold together could block the writer for ever; this is less.
    SockRef::from(&stream).set_recv_buffer_size(4 * 1024 * 1024).unwrap();
    stream.write_all(&data).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    expect(&mut stream, &data);
    expect_end(&mut stream);
    server.program.line("Closing connection to");
}

#[test]
fn a_lone_byte_and_its_fin_come_back() {
    let server = Server::start(&[]);
    for _ in 0..100 {
        let mut stream = server.connect();
        stream.write_all(b"x").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        expect(&mut stream, b"x");
        expect_end(&mut stream);
    }
}

#[test]
fn urgent_data_comes_back_whole_and_at_once() {
    let server = Server::start(&[]);
    for _ in 0..100 {
        let mut stream = server.connect();
        let socket = SockRef::from(&stream);
        socket.set_out_of_band_inline(true).unwrap();
        socket.send(b"abc").unwrap();
        socket.send_out_of_band(b"X").unwrap();
        socket.send(b"def").unwrap();
        expect(&mut stream, b"abcXdef");
        ping(&mut stream, b"and on");
    }
}

#[test]
fn four_hundred_connects_at_once_fit_the_backlog() {
    raise_limit().unwrap();
    let server = Server::start(&[]);
    // A stopped server accepts no connection, so all must fit the backlog. One too many would wait a second for its next SYN.
    server.program.signal(Signal::STOP);
    let mut streams: Vec<TcpStream> = (0..400)
        .map(|_| TcpStream::connect_timeout(&server.addr, Duration::from_millis(900)).expect("a place in the backlog"))
        .collect();
    for stream in &mut streams {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello").unwrap();
    }
    server.program.signal(Signal::CONT);
    for stream in &mut streams {
        expect(stream, b"hello");
    }
}

#[test]
fn connections_beyond_the_cap_wait_their_turn() {
    let server = Server::start(&["--max-connections", "2"]);
    let mut first = server.connect();
    let mut second = server.connect();
    ping(&mut first, b"1");
    ping(&mut second, b"2");
    let mut third = server.connect();
    third.write_all(b"3").unwrap();
    assert_eq!(server.table()[0], "2 connections: 2 established");
    third.set_nonblocking(true).unwrap();
    assert!(third.read(&mut [0; 1]).is_err(), "served beyond the cap");
    third.set_nonblocking(false).unwrap();
    drop(first);
    expect(&mut third, b"3");
    drop(second);
    let run = client(server.addr, 20, &["-q"]);
    assert_eq!(run.code, Some(0), "one after the other: {run:?}");
}

#[test]
fn idle_connections_cost_no_turns() {
    raise_limit().unwrap();
    let server = Server::start(&[]);
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| server.connect()).collect();
    for stream in &mut streams {
        ping(stream, b"hello");
    }
    // The log's last line counts what was left out. It takes a turn of its own.
    for opening in ["Accepted connection from", "Echoing"] {
        let begun = Instant::now();
        while server.program.accounted_for(opening) < 1000 {
            assert!(begun.elapsed() < PATIENCE, "{:#?}", server.program.lines());
            std::thread::yield_now();
        }
    }
    // The signal that asks may interrupt a wait, which ends that turn; then its pipe is readable. It depends on where the
    // signal finds the server, so measuring it once does not say what the next one costs.
    let cost_of_asking = 2;
    let (before, used) = (server.total("turns"), cpu(&server.program));
    std::thread::sleep(Duration::from_secs(10)); // The measured time.
    let turns = server.total("turns") - before;
    assert!(turns <= cost_of_asking, "{turns} turns, of which asking costs {cost_of_asking}");
    assert!(cpu_since(&server.program, used) <= Duration::from_millis(10), "asking alone costs more than nothing");
}

#[test]
fn an_idle_timeout_ends_only_the_idle() {
    let server = Server::start(&["--idle-timeout", "1s"]);
    let mut idle = server.connect();
    let mut busy = server.connect();
    ping(&mut idle, b"hello");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(900) {
        ping(&mut busy, b"still here");
        std::thread::sleep(Duration::from_millis(50)); // Keeps it busy, at its own pace.
    }
    expect_end(&mut idle);
    ping(&mut busy, b"and on");
    drop(idle);
    server.program.line("Closing connection to");
}

#[test]
fn a_server_that_was_stopped_does_not_take_its_peers_for_idle() {
    raise_limit().unwrap();
    let server = Server::start(&["--idle-timeout", "8s"]);
    // More connections than one wait returns events for.
    let mut streams: Vec<TcpStream> = (0..3000).map(|_| server.connect()).collect();
    for stream in &mut streams {
        ping(stream, b"hello");
    }
    server.program.signal(Signal::STOP);
    for stream in &mut streams {
        stream.write_all(b"still here").unwrap();
    }
    std::thread::sleep(Duration::from_millis(8500)); // Longer than the timeout.
    server.program.signal(Signal::CONT);
    for stream in &mut streams {
        expect(stream, b"still here");
    }
}

#[test]
fn peers_that_never_stop_sending_do_not_outlast_the_end() {
    for drain in [false, true] {
        let server = Server::start(&["--idle-timeout", "300ms", "--drain-timeout", "600ms"]);
        // Busy all the time, and deaf to our FIN: together they are always somewhere in the run queue.
        let streams: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
        if drain {
            streams.iter().for_each(flood_and_read);
            server.until_table_has("8 connections");
            server.program.signal(Signal::TERM);
        } else {
            for stream in &streams {
                expect_end(&mut stream.try_clone().unwrap());
            }
            streams.iter().for_each(flood_and_read);
        }
        let begun = Instant::now();
        let reason = if drain { "the time to drain was over" } else { "idle for too long" };
        server.program.line(reason);
        assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    }
}

/// Writes on one thread and reads on another until the connection ends.
fn flood_and_read(stream: &TcpStream) {
    flood(stream);
    let mut stream = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        // On behind the server's FIN, of which a well-behaved peer would take notice.
        while stream.read(&mut vec![0; 65536]).is_ok() {
            std::thread::yield_now();
        }
    });
}

#[test]
fn an_idle_peer_that_never_finishes_is_closed_in_the_end() {
    let server = Server::start(&["--idle-timeout", "100ms", "--drain-timeout", "200ms"]);
    let mut stream = server.connect();
    expect_end(&mut stream); // And we do not end.
    server.program.line("idle for too long");
}

#[test]
fn a_signal_drains_what_was_sent() {
    let mut server = Server::start(&[]);
    // As much as a receive window takes before anybody reads: what is still on its way has not arrived.
    let data = pattern(30_000);
    let mut connected = server.connect();
    ping(&mut connected, b"hello");
    server.program.signal(Signal::STOP);
    // When the signal comes, these bytes are not read and this connection is not accepted.
    connected.write_all(&data).unwrap();
    let mut waiting = server.connect();
    waiting.write_all(&data).unwrap();
    server.program.signal(Signal::TERM);
    server.program.signal(Signal::CONT);
    for stream in [&mut connected, &mut waiting] {
        expect(stream, &data);
        expect_end(stream);
    }
    assert!(TcpStream::connect(server.addr).is_err(), "it still listens");
    assert!(server.program.child.try_wait().unwrap().is_none(), "it waits for its peers");
    drop((connected, waiting));
    server.program.ends_with(0);
    server.program.line("Caught SIGTERM, exiting");
}

#[test]
fn draining_ends_when_its_time_is_over() {
    let mut server = Server::start(&["--drain-timeout", "200ms"]);
    let mut stream = server.connect();
    ping(&mut stream, b"hello");
    let begun = Instant::now();
    server.program.signal(Signal::INT);
    expect_end(&mut stream);
    server.program.ends_with(0);
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    server.program.line("not done when the time to drain was over");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut fastest = PATIENCE;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::INT, 130)] {
        let mut server = Server::start(&[]);
        let mut stream = server.connect();
        ping(&mut stream, b"hello");
        server.program.signal(signal);
        server.program.line("a second signal ends at once");
        let begun = Instant::now();
        server.program.signal(signal);
        server.program.ends_with(code);
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest <= Duration::from_millis(50), "{fastest:?}");
}

#[test]
fn the_port_can_be_bound_again_at_once() {
    let mut server = Server::start(&[]);
    let addr = server.addr;
    let mut stream = server.connect();
    ping(&mut stream, b"hello");
    server.program.signal(Signal::INT);
    expect_end(&mut stream); // The server finishes first, so its end will linger in TIME_WAIT.
    drop(stream);
    server.program.ends_with(0);

    let mut command = Command::new(common::SERVER);
    command.args([addr.ip().to_string(), addr.port().to_string()]);
    let successor = Server::start_command(command);
    assert_eq!(successor.addr, addr);
    ping(&mut successor.connect(), b"hello again");
}

#[test]
fn a_port_that_is_taken_is_refused_unless_shared() {
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    let run = common::run(Command::new(common::SERVER).args(["127.0.0.1", &port]));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    assert!(run.stderr.contains(&port) && run.stderr.contains("another program listens there"), "{run:?}");

    let one = Server::start(&["--reuse-port"]);
    let mut command = Command::new(common::SERVER);
    command.args(["127.0.0.1", &one.addr.port().to_string(), "--reuse-port"]);
    let other = Server::start_command(command);
    let streams: Vec<TcpStream> = (0..64).map(|_| one.connect()).collect();
    one.program.line("Accepted");
    other.program.line("Accepted");
    drop(streams);
}

#[test]
fn a_server_listens_on_ipv6_and_on_both_families_with_one_socket() {
    let server = Server::start_on("::1", &[]);
    assert!(server.addr.is_ipv6());
    ping(&mut server.connect(), b"hello");
    let run = common::client(server.addr, 3, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains(&format!("Starting connection 1 to [::1]:{}", server.addr.port())), "{run:?}");

    for host in ["", "::", "[::]"] {
        let server = Server::start_on(host, &[]);
        let port = server.addr.port();
        ping(&mut connect(SocketAddr::from(([127, 0, 0, 1], port))), b"by IPv4");
        ping(&mut connect(format!("[::1]:{port}").parse().unwrap()), b"by IPv6");
        server.program.line("Accepted connection from [::1]:");
        // IPv4 in IPv6 clothes ([::ffff:127.0.0.1]) prints as what it is.
        server.program.line("Accepted connection from 127.0.0.1:");
    }
}

#[test]
fn an_ipv4_address_mapped_into_ipv6_is_listened_on_and_connected_to() {
    for host in ["::ffff:127.0.0.1", "[::ffff:127.0.0.1]", "::ffff:0.0.0.0"] {
        let server = Server::start_on(host, &[]);
        assert!(server.addr.is_ipv4(), "{host}: a mapped address prints as IPv4, not {}", server.addr);
        let port = server.addr.port().to_string();
        let run = common::run(Command::new(common::CLIENT).args([host, &port, "3"]));
        assert_eq!(run.code, Some(0), "{host}: {run:?}");
        assert!(run.stdout.starts_with(&format!("target       {}\n", server.addr)), "{host}: {run:?}");
        server.program.line("Accepted connection from 127.0.0.1:");
    }
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    let source = ["::ffff:127.0.0.1", &port, "3", "--source", "::ffff:127.0.0.2"];
    let run = common::run(Command::new(common::CLIENT).args(source));
    assert_eq!(run.code, Some(0), "{run:?}");
    server.program.line("Accepted connection from 127.0.0.2:");
}

#[test]
fn the_table_shows_what_the_kernel_cannot() {
    let server = Server::start(&["--connection-buffer", "64KiB"]);
    assert_eq!(server.table()[0], "0 connections");
    let mut quiet = server.connect();
    ping(&mut quiet, b"hello");
    let stuck = server.connect();
    flood(&stuck);
    let table = server.until_table_has("1 established, 1 stalled");
    assert_eq!(table[0], "2 connections: 1 established, 1 stalled");
    assert!(table.contains(&format!("local {} in every row", server.addr)), "{table:#?}");
    assert!(table.iter().all(|line| line.len() <= 80), "{table:#?}");
    // Those with most waiting come first.
    let foreign = stuck.local_addr().unwrap().to_string();
    let row: Vec<&str> = Server::rows(&table)[0].split_whitespace().collect();
    assert_eq!((row[0], row[7]), ("stalled", &*foreign));
    let outbound: u64 = row[2].parse().unwrap();
    assert!(outbound > 0 && outbound <= 64 * 1024, "{table:#?}");
    let row: Vec<&str> = Server::rows(&table)[1].split_whitespace().collect();
    assert_eq!(&row[..5], ["established", "0", "0", "5", "5"]);
    assert!(row[5].ends_with('s') && row[6].ends_with('s'));
}

#[test]
fn the_table_fits_80_columns_with_ipv6_and_with_both_addresses_in_each_row() {
    let server = Server::start_on("::1", &[]);
    let mut quiet = server.connect();
    ping(&mut quiet, b"hello");
    let table = server.until_table_has("1 established");
    let foreign = quiet.local_addr().unwrap().to_string();
    assert!(Server::rows(&table)[0].ends_with(&foreign), "a short address stands in its row: {table:#?}");

    // No address is the same in all rows.
    let server = Server::start_on("::", &[]);
    let port = server.addr.port();
    let mut streams: Vec<TcpStream> =
        ["127.0.0.1", "127.0.0.2", "::1"].iter().map(|host| TcpStream::connect((*host, port)).unwrap()).collect();
    for stream in &mut streams {
        ping(stream, b"hello");
    }
    let table = server.until_table_has("3 established");
    assert!(table.iter().all(|line| line.len() <= 80), "{table:#?}");
    assert!(table.iter().any(|line| line.ends_with("idle  foreign  local")), "{table:#?}");
    for stream in &streams {
        let ends = [stream.local_addr().unwrap(), stream.peer_addr().unwrap()].map(|addr| addr.to_string());
        for end in ends {
            server.until_table_has(&end);
        }
    }
}

#[test]
fn stopping_and_continuing_changes_nothing() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    for _ in 0..20 {
        server.program.signal(Signal::STOP);
        server.program.signal(Signal::CONT);
        ping(&mut stream, b"hello");
    }
}

#[test]
fn bytes_one_at_a_time_come_back_in_order() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let data = pattern(5000);
    for byte in &data {
        stream.write_all(&[*byte]).unwrap();
    }
    expect(&mut stream, &data);
}

#[test]
fn busy_polling_lasts_as_long_as_asked_and_no_longer() {
    use common::proc::{exact_cpu, wake_ups};
    const POLLED: Duration = Duration::from_secs(1);
    let server = Server::start(&["--busy-poll", "1s"]);
    let mut stream = server.connect();
    ping(&mut stream, b"ping");
    let (cpu, woken) = (exact_cpu(&server.program), wake_ups(&server.program));
    ping(&mut stream, b"pong");
    assert_eq!(wake_ups(&server.program), woken, "it was awake");
    // The option sets a time. How much CPU that takes depends on the other programs.
    let begun = Instant::now();
    while exact_cpu(&server.program).checked_sub(cpu).unwrap() < POLLED / 10 {
        assert!(begun.elapsed() < common::PATIENCE, "it does not poll");
    }
    std::thread::sleep(2 * POLLED);
    let used = exact_cpu(&server.program).checked_sub(cpu).unwrap();
    assert!(used < 2 * POLLED, "{used:?}");
    let asleep = common::proc::cost_of_rest(&server.program, Duration::from_millis(500));
    assert_eq!(asleep, (0, Duration::ZERO));
    ping(&mut stream, b"and again");
}
