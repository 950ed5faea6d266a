//! Which connections are ended because their peer makes no progress, and which must not be: those of slow readers, and
//! those of busy peers after a process was stopped.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{CLIENT, Program, Server, figure};
use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

/// More connections than epoll returns in one wait: after a pause, a look at all of them takes several waits.
const CROWD: u32 = 1_500;
const LARGE_CROWD: u32 = 6_000;

/// What floods are made of.
static BLOCK: [u8; 16384] = [b'x'; 16384];

/// How many rounds the long tests take.
fn rounds() -> u32 {
    std::env::var("MULTICONN_ROUNDS").map_or(20, |text| text.parse().unwrap())
}

/// A connection whose peer announces room in small steps, so that a slow reader shows soon.
fn connect_with_a_small_receive_buffer(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&server.addr.into()).unwrap();
    TcpStream::from(socket)
}

/// Sends until the server takes no more, then reads 4 KiB every 50 ms for the time `lasting`. Megabytes wait for this
/// reader all the time, and the server's socket reports no room. Returns how many bytes were read; fails if the server
/// ends the connection.
fn read_slowly(server: &Server, lasting: Duration) -> usize {
    let mut stream = connect_with_a_small_receive_buffer(server);
    let mut writer = stream.try_clone().unwrap();
    thread::spawn(move || while writer.write_all(&BLOCK).is_ok() {});
    server.until_table_has("1 stalled");
    let (begun, mut got) = (Instant::now(), 0);
    while begun.elapsed() < lasting {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => panic!("the server finished after {got} bytes: {:#?}", server.program.lines()),
            Ok(count) => got += count,
            Err(error) => panic!("{error} after {got} bytes: {:#?}", server.program.lines()),
        }
        thread::sleep(Duration::from_millis(50)); // A slow reader is what is tested.
    }
    assert_eq!(server.program.count("Closing connection"), 0, "{:#?}", server.program.lines());
    got
}

#[test]
fn a_slow_but_steady_reader_is_not_called_stalled() {
    let server = Server::start(&["--stall-timeout", "2s"]);
    let got = read_slowly(&server, Duration::from_secs(7));
    figure("bytes read in 7 s by a slow reader at --stall-timeout 2s", got);
}

#[test]
fn a_slow_but_steady_reader_is_not_called_idle() {
    let server = Server::start(&["--idle-timeout", "1s", "--stall-timeout", "off"]);
    read_slowly(&server, Duration::from_secs(4));
}

/// 1 KB every 0.1 s, with default options and default buffers, for longer than the time to stall.
#[test]
#[ignore = "takes 150 s"]
fn a_reader_of_10_kb_a_second_is_not_called_stalled() {
    let server = Server::start(&[]);
    let readers: Vec<_> = (0..rounds())
        .map(|_| {
            let mut stream = server.connect();
            thread::spawn(move || {
                stream.set_nonblocking(true).unwrap();
                let sent = (0..640).map_while(|_| stream.write(&BLOCK).ok()).sum::<usize>();
                stream.set_nonblocking(false).unwrap();
                let (begun, mut got) = (Instant::now(), 0);
                while begun.elapsed() < Duration::from_secs(150) {
                    got += stream.read(&mut [0; 1024]).unwrap_or_else(|error| panic!("{error} after {got} of {sent}"));
                    thread::sleep(Duration::from_millis(100)); // A slow reader is what is tested.
                }
                stream // Open until all have been counted.
            })
        })
        .collect();
    let streams: Vec<TcpStream> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert_eq!(server.program.count("Closing connection"), 0);
    figure("readers of 10 KB/s that were kept for 150 s at the default time to stall", streams.len());
}

#[test]
fn a_peer_that_stops_reading_is_ended_within_the_time_and_a_quarter() {
    let server = Server::start(&["--stall-timeout", "2s"]);
    let mut stream = connect_with_a_small_receive_buffer(&server);
    let mut writer = stream.try_clone().unwrap();
    thread::spawn(move || while writer.write_all(&BLOCK).is_ok() {});
    server.until_table_has("1 stalled");
    let begun = Instant::now();
    server.program.line("the peer reads nothing");
    let took = begun.elapsed();
    figure("a peer that reads nothing is ended at --stall-timeout 2s after", format_args!("{took:.2?}"));
    // Its kernel answers probes of the closed window, which is no progress. A busy machine may take a while longer.
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(4), "{took:?}");
    while let Ok(1..) = stream.read(&mut [0; 16384]) {} // To its end: nothing keeps it open any more.
}

/// What the kernel keeps for a reader that has not read it.
#[derive(Clone, Copy)]
enum Buffer {
    /// What a connection begins with.
    Default,
    /// Fixed by `SO_RCVBUF`. The kernel doubles the number (socket(7)).
    Fixed(usize),
    /// Grown while the reader was fast: the kernel goes up to `net.ipv4.tcp_rmem`.
    Grown,
}

/// What is sent to make a receive buffer grow, in blocks: 1 GiB, a second's work.
const BLOCKS_TO_GROW: usize = 65_536;

/// The longest time in which a reader's kernel acknowledged nothing, and the size of its buffer in the end. The reader
/// takes `rate` bytes a second, a tenth of them every 0.1 s.
fn longest_gap(rate: usize, buffer: Buffer, time: Duration) -> (Duration, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Buffer::Fixed(bytes) = buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    let mut reader = TcpStream::from(socket);
    let (mut writer, _) = listener.accept().unwrap();
    if let Buffer::Grown = buffer {
        let mut flooder = writer.try_clone().unwrap();
        let flood = thread::spawn(move || (0..BLOCKS_TO_GROW).for_each(|_| flooder.write_all(&BLOCK).unwrap()));
        let mut space = vec![0; 64 * BLOCK.len()]; // Many at a time: the buffer grows with what one read takes.
        (0..BLOCKS_TO_GROW / 64).for_each(|_| reader.read_exact(&mut space).unwrap());
        flood.join().unwrap();
    }
    writer.set_nonblocking(true).unwrap();
    let mut slow_reader = reader.try_clone().unwrap();
    thread::spawn(move || {
        let mut piece = vec![0; rate / 10];
        while slow_reader.read(&mut piece).is_ok_and(|count| count > 0) {
            thread::sleep(Duration::from_millis(100)); // A slow reader is what is measured.
        }
    });
    let (begun, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    let (mut written, mut acknowledged) = (0_usize, 0);
    while begun.elapsed() < time {
        written += std::iter::from_fn(|| writer.write(&BLOCK).ok()).sum::<usize>(); // The queue is always full.
        let taken = written.saturating_sub(tcp_state::unacknowledged(writer.as_fd()).unwrap() as usize);
        if taken > acknowledged {
            longest = longest.max(last.elapsed());
            (acknowledged, last) = (taken, Instant::now());
        }
        thread::sleep(Duration::from_millis(20)); // No event says that a queue shrinks.
    }
    (longest.max(last.elapsed()), SockRef::from(&reader).recv_buffer_size().unwrap())
}

/// What `--stall-timeout` can tell: a shorter one than these would take the reader for stalled.
#[test]
#[ignore = "takes 120 s"]
fn how_seldom_the_queue_of_a_slow_reader_shrinks() {
    let cases = [
        (10_000, Buffer::Default),
        (20_000, Buffer::Default),
        (100_000, Buffer::Default),
        (10_000, Buffer::Fixed(1 << 20)),
        (20_000, Buffer::Fixed(1 << 20)),
        (50_000, Buffer::Grown),
        (100_000, Buffer::Grown),
    ];
    let measured: Vec<_> = cases
        .into_iter()
        .map(|(rate, buffer)| thread::spawn(move || longest_gap(rate, buffer, Duration::from_secs(120))))
        .collect();
    for ((rate, buffer), gap) in cases.into_iter().zip(measured) {
        let (gap, size) = gap.join().unwrap();
        let buffer = match buffer {
            Buffer::Default => format!("the default buffer of {size}"),
            Buffer::Fixed(_) => format!("a fixed buffer of {size}"),
            Buffer::Grown => format!("a buffer that grew to {size}"),
        };
        figure(&format!("longest time without progress, {rate} bytes/s into {buffer}"), format_args!("{gap:.1?}"));
        assert!(gap < Duration::from_secs(60), "the default time to stall is too short for it");
    }
}

/// A busy client with messages of 64 bytes, and a server that has seen some of each connection.
fn busy_client(server: &Server, connections: u32, args: &[&str]) -> Program {
    let mut command = Command::new(CLIENT);
    let port = server.addr.port().to_string();
    command.args(["127.0.0.1", &port, &connections.to_string(), "-q", "--json", "--size", "64"]).args(args);
    let client = Program::start({
        command.stdout(Stdio::piped());
        command
    });
    let begun = Instant::now();
    while server.total("received ") < u64::from(connections) * 64 * 4 {
        assert!(begun.elapsed() < common::PATIENCE, "the client does not get on");
    }
    client
}

fn stop_for(program: &Program, time: Duration) {
    program.signal(Signal::STOP);
    thread::sleep(time); // The pause is what is tested.
    program.signal(Signal::CONT);
}

#[track_caller]
fn all_are_intact(mut client: Program, connections: u32) {
    let mut text = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["connections"]["intact"], connections, "{}", report["faults_by_kind"]);
    client.ends_with(0);
}

fn pause_the_client(connections: u32) {
    let server = Server::start(&[]);
    let client = busy_client(&server, connections, &["--duration", "4s", "--timeout", "1s"]);
    stop_for(&client, Duration::from_secs(2));
    all_are_intact(client, connections);
}

fn pause_the_server(connections: u32) {
    let server = Server::start(&["--idle-timeout", "1s"]);
    let client = busy_client(&server, connections, &["--duration", "4s"]);
    stop_for(&server.program, Duration::from_secs(2));
    all_are_intact(client, connections);
    assert_eq!(server.program.count("idle for too long"), 0);
}

/// What Ctrl-Z and `fg` do to both in one shell.
fn pause_both(connections: u32) {
    let server = Server::start(&["--idle-timeout", "1s"]);
    let client = busy_client(&server, connections, &["--duration", "4s", "--timeout", "1s"]);
    server.program.signal(Signal::STOP);
    stop_for(&client, Duration::from_secs(2));
    server.program.signal(Signal::CONT);
    all_are_intact(client, connections);
    assert_eq!(server.program.count("idle for too long"), 0);
}

#[test]
fn a_client_that_was_stopped_does_not_take_its_peers_for_dead() {
    pause_the_client(CROWD);
}

#[test]
fn a_server_that_was_stopped_does_not_take_a_crowd_for_idle() {
    pause_the_server(CROWD);
}

#[test]
fn a_client_and_a_server_that_were_stopped_together_go_on() {
    pause_both(CROWD);
}

#[test]
#[ignore = "takes 8 s a round, of which there are 20, or MULTICONN_ROUNDS"]
fn a_pause_with_6000_busy_connections_makes_nobody_look_dead() {
    multiconn::descriptors::raise_limit().unwrap();
    for _ in 0..rounds() {
        pause_the_client(LARGE_CROWD);
        pause_the_server(LARGE_CROWD);
        pause_both(LARGE_CROWD);
    }
    figure("pauses of 2 s at timeouts of 1 s with 6,000 busy connections, of which none was called dead", 3 * rounds());
}
