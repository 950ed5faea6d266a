//! The examples, as whole programs.
#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Server, connect, example, expect, expect_end};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, Socket, Type};

#[test]
fn the_blocking_pair_meets_as_in_the_tutorial() {
    let mut server = example("echo_server").args(["127.0.0.1", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = lines.next().unwrap().rsplit(':').next().unwrap().to_owned();
    let run = common::run(example("echo_client").args(["127.0.0.1", &port]));
    assert_eq!((run.code, &*run.stdout), (Some(0), "Received b\"This is example data.\"\n"), "{run:?}");
    assert!(lines.next().unwrap().starts_with("Connected by 127.0.0.1:"));
    assert!(server.wait().unwrap().success(), "it serves one peer and ends");

    let run = common::run(example("echo_client").args(["127.0.0.1", &port]));
    assert_eq!(run.code, Some(1));
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    assert!(run.stderr.contains("Connection refused") && run.stderr.contains("is the server running"), "{run:?}");
}

#[test]
fn the_blocking_client_reads_on_until_all_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let slow = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut byte = [0; 1];
        while stream.read(&mut byte).unwrap() > 0 {
            stream.write_all(&byte).unwrap();
        }
    });
    let run = common::run(example("echo_client").args(["127.0.0.1", &port]));
    assert_eq!(run.stdout, "Received b\"This is example data.\"\n", "{run:?}");
    slow.join().unwrap();
}

/// The blocking client, against a server that sends `answer` for the message, whatever it is.
fn blocking_client_answered(answer: &'static [u8]) -> common::Run {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 21]).unwrap();
        stream.write_all(answer).unwrap();
    });
    let run = common::run(example("echo_client").args(["127.0.0.1", &port]));
    server.join().unwrap();
    run
}

#[test]
fn the_blocking_client_exits_with_1_when_the_echo_is_wrong() {
    for (answer, said) in [
        (&b"HTTP/1.1 400 Bad Requ"[..], "what came back is not what was sent"),
        (b"This is example data", "the server closed before the whole echo was back"),
        (b"This is example data..", "more came back than was sent"),
    ] {
        let run = blocking_client_answered(answer);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(1), 1), "{run:?}");
        assert!(run.stderr.contains(said), "{run:?}");
    }
}

#[test]
fn the_blocking_pair_uses_std_alone() {
    for name in ["echo_server", "echo_client"] {
        let path = format!("{}/examples/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(path).unwrap();
        let uses: Vec<&str> = source.lines().filter(|line| line.starts_with("use ")).collect();
        assert!(!uses.is_empty() && uses.iter().all(|line| line.starts_with("use std::")), "{uses:#?}");
    }
}

#[test]
fn loopback_runs_both_ends_on_one_loop() {
    let run = common::run(&mut example("loopback"));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("1000 requested, 1000 established, 1000 intact, 0 failed"), "{run:?}");
    assert!(run.stdout.contains(" turns of one loop, for both ends\n"), "{run:?}");
    assert_eq!(run.stderr, "");
}

#[test]
fn line_server_answers_whole_lines() {
    let mut command = example("line_server");
    command.args(["127.0.0.1", "0"]);
    let server = Server::start_command(command);
    let mut stream = server.connect();
    stream.write_all(b"one\ntw").unwrap();
    expect(&mut stream, b"ONE\n");
    stream.write_all(b"o\nthree\nfo").unwrap();
    expect(&mut stream, b"TWO\nTHREE\n");
    stream.write_all(b"ur").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    expect(&mut stream, b"FOUR");
    expect_end(&mut stream);

    // A line that never ends costs its own connection only.
    let mut endless = server.connect();
    let _ = endless.write_all(&vec![b'x'; 1024 * 1024]);
    server.program.line("a message longer than the buffer");
    let mut stream = server.connect();
    common::ping(&mut stream, b"123\n");
}

#[test]
fn chat_members_hear_each_other() {
    const LINES: usize = 60_000;
    let mut command = example("chat");
    command.args(["127.0.0.1", "0"]);
    let server = Server::start_command(command);
    let member = || BufReader::new(connect(server.addr));
    let line = |member: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        member.read_line(&mut line).unwrap();
        line
    };
    let mut ann = member();
    assert!(line(&mut ann).ends_with("; others here: 0\n"));
    let mut bob = member();
    assert!(line(&mut bob).ends_with("; others here: 1\n"));
    let bob_addr = bob.get_ref().local_addr().unwrap();
    assert_eq!(line(&mut ann), format!("{bob_addr} is here\n"));

    bob.get_mut().write_all(b"hello\nis any").unwrap();
    assert_eq!(line(&mut ann), format!("{bob_addr}: hello\n"));
    bob.get_mut().write_all(b"body here?\n").unwrap();
    assert_eq!(line(&mut ann), format!("{bob_addr}: is anybody here?\n"));
    drop(bob);
    assert_eq!(line(&mut ann), format!("{bob_addr} is gone\n"));

    // A member that reads gets everything, however much another says at once.
    let mut eve = connect(server.addr);
    let eve_addr = eve.local_addr().unwrap();
    assert_eq!(line(&mut ann), format!("{eve_addr} is here\n"));
    let talking = std::thread::spawn(move || {
        eve.write_all(&vec![b'\n'; LINES]).unwrap();
        eve
    });
    for _ in 0..LINES {
        assert_eq!(line(&mut ann), format!("{eve_addr}: \n"));
    }
    drop(talking.join().unwrap());
}

/// Starts an example that takes a host, a port and perhaps more.
fn start(name: &str, args: &[&str]) -> Server {
    let mut command = example(name);
    command.args(["127.0.0.1", "0"]).args(args);
    Server::start_command(command)
}

fn read_line(reader: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn ticker_sends_each_line_to_everybody() {
    let server = start("ticker", &["20ms"]);
    let begun = Instant::now();
    let mut ann = BufReader::new(connect(server.addr));
    for number in 1..=5 {
        assert_eq!(read_line(&mut ann), format!("line {number}, to 1\n"));
    }
    assert!(begun.elapsed() >= Duration::from_millis(100), "a line each 20 ms");

    let mut bob = BufReader::new(connect(server.addr));
    let first = read_line(&mut bob);
    assert!(first.ends_with(", to 2\n"), "{first:?}");
    while read_line(&mut ann) != first {} // The read timeout ends the test if this line never comes.
    drop(bob);
    while !read_line(&mut ann).ends_with(", to 1\n") {}
}

/// Connects with small buffers and segments in the kernel, which are soon full.
fn connect_with_small_buffers(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
    socket.connect(&server.addr.into()).unwrap();
    socket.into()
}

#[test]
fn ticker_lets_a_slow_reader_miss_whole_lines_and_no_part_of_one() {
    let server = start("ticker", &["10us"]);
    let mut slow = BufReader::new(connect_with_small_buffers(&server));
    let number = |line: &str| -> u64 {
        let number = line.strip_prefix("line ").and_then(|rest| rest.strip_suffix(", to 1\n"));
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("not a whole line: {line:?}"))
    };
    server.until_table_has("1 stalled");
    let mut last = number(&read_line(&mut slow));
    assert_eq!(last, 1);
    loop {
        let next = number(&read_line(&mut slow));
        if next > last + 1 {
            break; // Lines are missing here.
        }
        last = next;
    }
    for _ in 0..100 {
        number(&read_line(&mut slow)); // And whole ones follow.
    }
}

/// The page that the status port of `two_listeners` sends, up to its end.
fn status_of(server: &Server) -> String {
    let line = server.program.line("(status)");
    let mut stream = connect(line.split(' ').nth(2).unwrap().parse().unwrap());
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn two_listeners_report_on_the_echo_while_it_is_full() {
    let server = start("two_listeners", &["0", "--echo-connections", "2"]);
    assert_eq!(status_of(&server), "echo    0 open, 0 in all\nbytes   0\nuptime  0 s\n");
    let mut peers = [server.connect(), server.connect()];
    for peer in &mut peers {
        common::ping(peer, b"hello");
    }
    let mut waiting = server.connect();
    waiting.write_all(b"late").unwrap();
    assert!(status_of(&server).starts_with("echo    2 open, 2 in all\nbytes   10\n"), "the port is full");
    let (first, _) = server.program.line_from(0, " on status");
    server.program.line_from(first + 1, " on status");
    assert_eq!(server.program.count(" on echo"), 2, "the third one is not accepted");
    let table = server.table();
    let on_echo = Server::rows(&table).iter().filter(|row| row.split_whitespace().nth(7) == Some("echo")).count();
    assert_eq!(on_echo, 2, "{table:#?}");

    let [first, _second] = peers;
    drop(first);
    expect(&mut waiting, b"late");
    assert!(status_of(&server).starts_with("echo    2 open, 3 in all\nbytes   14\n"));
}

#[test]
fn a_worker_answers_each_connection_while_others_are_served() {
    let server = start("worker", &[]);
    let mut ann = BufReader::new(connect(server.addr));
    let mut bob = BufReader::new(connect(server.addr));
    ann.get_mut().write_all(b"500000\n10\n").unwrap();
    ann.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_line(&mut ann), "questions before yours: 0\n");

    bob.get_mut().write_all(b"100\n").unwrap();
    assert_eq!(read_line(&mut bob), "questions before yours: 1\n", "he is served while the worker counts for Ann");

    assert_eq!(read_line(&mut ann), "41538 primes below 500000\n");
    assert_eq!(read_line(&mut bob), "25 primes below 100\n");
    assert!(read_line(&mut ann).starts_with("questions before yours: "));
    assert_eq!(read_line(&mut ann), "4 primes below 10\n");
    expect_end(ann.get_mut());

    bob.get_mut().write_all(b"as many as there are\n").unwrap();
    assert_eq!(read_line(&mut bob), "each line is a number up to 10000000\n");
    expect_end(bob.get_mut());
}

#[test]
fn an_answer_never_goes_to_a_connection_that_did_not_ask() {
    let server = start("worker", &[]);
    let mut gone = BufReader::new(connect(server.addr));
    gone.get_mut().write_all(b"500000\n").unwrap();
    assert_eq!(read_line(&mut gone), "questions before yours: 0\n");
    common::reset(gone.into_inner());
    server.program.line("Closing connection");

    // The next connection gets the token of the one that is gone.
    let mut next = BufReader::new(connect(server.addr));
    next.get_mut().write_all(b"10\n").unwrap();
    assert_eq!(read_line(&mut next), "questions before yours: 1\n");
    assert_eq!(read_line(&mut next), "4 primes below 10\n");
}

#[test]
fn a_worker_that_drains_answers_what_was_asked() {
    let mut server = start("worker", &[]);
    let mut ann = BufReader::new(connect(server.addr));
    ann.get_mut().write_all(b"300000\n").unwrap();
    assert_eq!(read_line(&mut ann), "questions before yours: 0\n");
    server.program.signal(Signal::TERM);
    server.program.line("Finishing 1 connection");
    assert_eq!(read_line(&mut ann), "25997 primes below 300000\n");
    expect_end(ann.get_mut());
    drop(ann);
    server.program.ends_with(0);
}

/// The server of TLS, and a client's side of a session with it that checks its certificate.
fn start_tls() -> (Server, impl Fn() -> ClientConnection) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let server = start("tls_echo", &[file.path().to_str().unwrap()]);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file.path()).unwrap()).unwrap();
    let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let session = move || {
        let mut session = ClientConnection::new(Arc::clone(&config), "localhost".try_into().unwrap()).unwrap();
        session.set_buffer_limit(None);
        session
    };
    (server, session)
}

#[test]
fn tls_echo_sends_everything_back_and_ends_with_a_close_notify() {
    const PIECE: usize = 10_007;
    let (server, session) = start_tls();
    let (mut session, mut stream) = (session(), server.connect());
    let message: Vec<u8> = (0..1_000_000_u32).map(|place| place.to_be_bytes()[3] ^ place.to_be_bytes()[2]).collect();
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    for piece in message.chunks(PIECE) {
        tls.write_all(piece).unwrap();
        let mut echo = vec![0; piece.len()];
        tls.read_exact(&mut echo).unwrap();
        assert!(echo == piece, "what came back is not what was sent");
    }
    // A half-close of TLS alone: no FIN.
    tls.write_all(b"last words").unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    let mut rest = Vec::new();
    tls.read_to_end(&mut rest).expect("rustls wants a close_notify, and not only a FIN");
    assert_eq!(rest, b"last words");
    expect_end(&mut stream);
    drop(stream);
    server.program.line("Closing connection");
    assert_eq!(server.program.count("warning"), 0, "{:#?}", server.program.lines());
}

#[test]
fn tls_echo_reads_no_more_than_it_has_room_for() {
    let (server, session) = start_tls();
    let (mut session, stream) = (session(), connect_with_small_buffers(&server));
    let message = vec![b'x'; 24 * 1024 * 1024];
    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
    while session.is_handshaking() {
        session.complete_io(&mut writer).unwrap();
    }
    session.writer().write_all(&message).unwrap();
    session.send_close_notify();
    let mut records = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut records).unwrap();
    }
    let writing = std::thread::spawn(move || writer.write_all(&records).unwrap());
    let table = server.until_table_has("1 stalled");
    let held: usize = table.join(" ").rsplit("buffers ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(held <= 2 * 256 * 1024, "{table:#?}");

    let mut echo = Vec::new();
    rustls::Stream::new(&mut session, &mut reader).read_to_end(&mut echo).unwrap();
    assert!(echo == message, "what came back is not what was sent");
    writing.join().unwrap();
}

#[test]
fn tls_echo_answers_rubbish_with_an_alert() {
    let (server, _) = start_tls();
    let mut stream = server.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut alert = Vec::new();
    stream.read_to_end(&mut alert).unwrap();
    assert_eq!((alert.len(), alert[0], alert[5]), (7, 21, 2), "one fatal alert: {alert:?}");
    drop(stream);
    server.program.line("warning: TLS failed with 127.0.0.1:");
}

#[test]
fn tls_echo_tells_a_cut_off_stream_from_one_that_ended() {
    let (server, session) = start_tls();
    for begins in [false, true] {
        let (mut session, mut stream) = (session(), server.connect());
        if begins {
            let mut tls = rustls::Stream::new(&mut session, &mut stream);
            tls.write_all(b"hello").unwrap();
            tls.read_exact(&mut [0; 5]).unwrap();
        }
        let before = server.program.lines().len();
        stream.shutdown(Shutdown::Write).unwrap();
        if begins {
            let rest = rustls::Stream::new(&mut session, &mut stream).read_to_end(&mut Vec::new());
            assert_eq!(rest.unwrap(), 0, "its own end is in order");
        }
        server.program.line_from(before, "warning: TLS input without a close_notify at its end");
    }
}

#[test]
fn tls_echo_ends_with_a_close_notify_when_it_drains() {
    let (server, session) = start_tls();
    let (mut session, mut stream) = (session(), server.connect());
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    tls.write_all(b"hello").unwrap();
    tls.read_exact(&mut [0; 5]).unwrap();
    server.program.signal(Signal::TERM);
    assert_eq!(tls.read_to_end(&mut Vec::new()).expect("rustls wants a close_notify, and not only a FIN"), 0);
}
