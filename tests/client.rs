//! The client against servers that are wrong, slow, rude or absent: the fault that it reports and its exit code.
#![cfg(feature = "cli")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{CLIENT, Program, Run, Server, client, expect, pattern, reset};
use multiconn::client::load::Load;
use multiconn::client::side::Side;
use multiconn::client::{Client, Plan};
use multiconn::descriptors::raise_limit;
use multiconn::report::Report;
use multiconn::{Event, EventLoop, Limits, Role};
use rustix::process::Signal;

/// A server that does `serve` with each connection, on a thread.
fn faulty(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(serve));
    addr
}

/// Reads all that the client sends.
const SENT: &[u8] = b"Message 1 from client.Message 2 from client.";

fn read_all(stream: &mut TcpStream) {
    expect(stream, SENT);
}

/// Runs the client against a server that does `serve`. Expects its one connection to fail for this reason.
#[track_caller]
fn fails(serve: impl Fn(TcpStream) + Send + 'static, reason: &str, detail: &str) -> Run {
    let run = client(faulty(serve), 1, &["--timeout", "300ms"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("0 intact, 1 failed"), "{run:?}");
    assert!(run.stdout.contains(&format!("\nfaults       1 {reason}\n")), "{run:?}");
    let line = format!(" {reason}: {detail}");
    assert!(run.stdout.contains(&line), "{line} not in {run:?}");
    assert!(run.stderr.contains(&line), "{line} not in {run:?}");
    run
}

#[test]
fn a_changed_byte_is_corrupted() {
    let serve = |mut stream: TcpStream| {
        read_all(&mut stream);
        let mut echo = SENT.to_vec();
        echo[30] ^= 0x20;
        stream.write_all(&echo).unwrap();
        let _ = stream.read(&mut [0; 1]);
    };
    fails(serve, "corrupted", r#"at byte 30 b"\x12 from client." came back where b"2 from client." was sent"#);
}

#[test]
fn a_fin_with_bytes_missing_is_truncated() {
    let serve = |mut stream: TcpStream| {
        read_all(&mut stream);
        stream.write_all(&SENT[..40]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0; 1]);
    };
    fails(serve, "truncated", "the peer finished; 40 of 44 bytes sent are back");
}

#[test]
fn a_byte_too_many_is_extra_even_after_the_half_close() {
    let serve = |mut stream: TcpStream| {
        read_all(&mut stream);
        stream.write_all(SENT).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the client half-closes when all is back");
        stream.write_all(b"!").unwrap();
    };
    fails(serve, "extra", "b\"!\" came back beyond the 44 bytes that were sent");
}

#[test]
fn a_reset_is_reported_as_reset() {
    let serve = |mut stream: TcpStream| {
        read_all(&mut stream);
        stream.write_all(&SENT[..10]).unwrap();
        reset(stream);
    };
    let addr = faulty(serve);
    let run = client(addr, 1, &[]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("faults       1 reset\n"), "{run:?}");
}

#[test]
fn silence_is_no_progress() {
    let serve = |mut stream: TcpStream| {
        read_all(&mut stream);
        let _ = stream.read(&mut [0; 1]);
    };
    fails(serve, "no progress", "nothing moves; 0 of 44 bytes sent are back");
}

#[test]
fn a_server_that_never_finishes_is_unclosed() {
    let serve = |mut stream: TcpStream| {
        read_all(&mut stream);
        stream.write_all(SENT).unwrap();
        std::mem::forget(stream); // Stays open as long as the test runs.
    };
    fails(serve, "unclosed", "the peer does not finish; 44 of 44 bytes sent are back");
}

/// Runs the client where nothing moves. Expects this cause for each connection, in JSON and in words.
#[cfg(target_os = "linux")]
#[track_caller]
fn waits_in_vain(addr: SocketAddr, args: &[&str], kind: &str, cause: &str, words: &str) {
    let run = client(addr, 2, &[&["--json", "--timeout", "1s"], args].concat());
    assert_eq!(run.code, Some(1), "{run:?}");
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["faults"].as_array().unwrap().len(), 2, "{report}");
    for fault in report["faults"].as_array().unwrap() {
        assert_eq!((&fault["kind"], &fault["cause"]), (&kind.into(), &cause.into()), "{report}");
        assert!(fault["detail"].as_str().unwrap().contains(words), "{report}");
    }
}

#[cfg(target_os = "linux")]
const ACKNOWLEDGED: &str = " bytes sent are back; what was sent is acknowledged, and no answer comes: ";
#[cfg(target_os = "linux")]
const CLOSED_WINDOW: &str = " bytes sent are back; the peer's window is closed: ";

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_reads_and_never_answers_is_no_answer() {
    let addr = faulty(|mut stream| {
        std::thread::spawn(move || while stream.read(&mut [0; 8192]).is_ok_and(|count| count > 0) {});
    });
    waits_in_vain(addr, &[], "no_progress", "no_answer", ACKNOWLEDGED);
    // An open loop sends to the end.
    let open_loop = ["--rate", "2k", "--duration", "10s"];
    waits_in_vain(addr, &open_loop, "no_progress", "no_answer", ACKNOWLEDGED);
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_never_reads_has_closed_its_window() {
    let addr = faulty(std::mem::forget); // Stays open as long as the test runs.
    waits_in_vain(addr, &["--size", "16MiB"], "no_progress", "window_closed", CLOSED_WINDOW);
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_is_stopped_acknowledges_until_its_window_is_closed() {
    let server = Server::start(&[]);
    server.program.signal(Signal::STOP);
    waits_in_vain(server.addr, &[], "no_progress", "no_answer", ACKNOWLEDGED);
    waits_in_vain(server.addr, &["--size", "16MiB"], "no_progress", "window_closed", CLOSED_WINDOW);
    server.program.signal(Signal::CONT);
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_acknowledges_our_fin_and_sends_none_is_no_answer() {
    let addr = faulty(|mut stream| {
        read_all(&mut stream);
        stream.write_all(SENT).unwrap();
        std::mem::forget(stream); // Stays open as long as the test runs.
    });
    waits_in_vain(addr, &[], "unclosed", "no_answer", ACKNOWLEDGED);
}

#[test]
fn a_refused_connect_comes_with_advice() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = client(closed, 12, &[]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("12 requested, 0 established, 0 intact, 12 failed"), "{run:?}");
    assert!(run.stdout.contains("faults       12 refused\n") && run.stdout.contains("\n  9 more within "), "{run:?}");
    let opening = format!("warning: connection 1 to {closed} from 127.0.0.1:");
    let line = run.stderr.lines().find(|line| line.starts_with(&opening)).unwrap_or_else(|| panic!("{run:?}"));
    assert!(line.contains(" refused: Connection refused (os error 111); is the server running"), "{run:?}");
}

#[test]
fn an_unanswered_connect_times_out() {
    // A full backlog answers no further SYN.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
        fillers.push(stream);
    }
    let run = client(addr, 2, &["--connect-timeout", "300ms"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("faults       2 connect timeout\n"), "{run:?}");
    assert!(run.stderr.contains("no answer; is the host up"), "{run:?}");
    if cfg!(target_os = "linux") {
        assert!(run.stderr.contains("?; the SYN was sent once\n"), "{run:?}");
    }
}

#[test]
fn a_connect_timeout_beside_established_connections_does_not_blame_a_firewall() {
    // A backlog of 0 holds one connection. It is established, and the SYNs of the others are dropped.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let run = client(addr, 3, &["--connect-timeout", "300ms", "--timeout", "300ms"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("3 requested, 1 established"), "{run:?}");
    assert!(run.stdout.contains("no answer; others stand: most likely the server's accept queue is full"), "{run:?}");
    assert!(!run.stdout.contains("firewall"), "{run:?}");
}

#[test]
fn a_server_that_echoes_everything_and_finishes_first_is_intact() {
    let addr = faulty(|mut stream| {
        read_all(&mut stream);
        stream.write_all(SENT).unwrap();
        stream.shutdown(Shutdown::Write).unwrap(); // In the same breath as the echo.
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    });
    let run = client(addr, 1, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

/// Puts `header` in front of each echo, on a thread for each connection.
fn with_header(header: &'static [u8]) -> SocketAddr {
    faulty(move |mut stream| {
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            let _ = stream.write_all(header);
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                let _ = stream.write_all(&bytes[..count]);
            }
        });
    })
}

#[test]
fn a_proxy_header_has_one_name_on_every_connection() {
    let addr = with_header(b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 65432\r\n");
    for round in 0..50 {
        let run = client(addr, 3, &["--size", "64"]);
        assert_eq!(run.code, Some(1));
        assert!(run.stdout.contains("\nfaults       3 corrupted\n"), "round {round}: {run:?}");
        assert_eq!(run.stdout.matches("; this looks like a PROXY protocol v1 header\n").count(), 3, "{run:?}");
    }
}

#[test]
fn answers_of_other_protocols_are_recognised() {
    let cases: [(&[u8], &str); 4] = [
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", "a PROXY protocol v2 header"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP/1.1 response"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "a TLS alert"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH banner"),
    ];
    for (bytes, name) in cases {
        let run = client(with_header(bytes), 1, &[]);
        assert_eq!(run.code, Some(1));
        assert!(run.stdout.contains("\nfaults       1 corrupted\n"), "{run:?}");
        assert!(run.stdout.contains(&format!("; this looks like {name}\n")), "{run:?}");
    }
    // A reply of two bytes, and the end.
    let refuse = |mut stream: TcpStream| {
        read_all(&mut stream);
        stream.write_all(b"\x05\xff").unwrap();
    };
    fails(
        refuse,
        "corrupted",
        r#"at byte 0 b"\x05\xff" came back where b"Message 1 from c" was sent; this looks like"#,
    );
}

#[test]
fn one_bad_connection_leaves_the_others_intact() {
    let count = std::cell::Cell::new(0);
    let addr = faulty(move |mut stream| {
        count.set(count.get() + 1);
        read_all(&mut stream);
        if count.get() == 2 {
            return reset(stream);
        }
        stream.write_all(SENT).unwrap();
    });
    let run = client(addr, 5, &[]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("5 requested, 5 established, 4 intact, 1 failed"), "{run:?}");
    assert!(run.stdout.contains("\n  connection 2 to "), "{run:?}");
}

#[test]
fn an_echo_a_byte_at_a_time_is_intact() {
    let addr = faulty(|mut stream| {
        stream.set_nodelay(true).unwrap();
        let mut byte = [0; 1];
        while stream.read(&mut byte).unwrap_or(0) > 0 {
            stream.write_all(&byte).unwrap();
        }
    });
    let run = client(addr, 3, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn every_address_of_a_name_is_tried() {
    // localhost is ::1 first on many systems, 127.0.0.1 alone on others: with the server on IPv4, either must do.
    let server = Server::start(&[]);
    let run = common::run(Command::new(CLIENT).args(["localhost", &server.addr.port().to_string(), "3"]));
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn ctrl_c_reports_so_far_and_exits_130() {
    let addr = faulty(|mut stream| {
        std::thread::spawn(move || while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {});
    });
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut command = Command::new(CLIENT);
        command.args([addr.ip().to_string(), addr.port().to_string(), "3".to_owned()]).stdout(Stdio::piped());
        let mut program = Program::start(command);
        program.line("Sending b\"Message 2 from client.\" to connection 3");
        program.signal(signal);
        program.ends_with(code);
        let mut report = String::new();
        program.child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        assert!(report.contains("3 requested, 3 established, 0 intact, 0 failed, 3 unfinished"), "{report}");
        assert!(report.contains("messages     6 sent, 0 echoed") && report.contains("interrupted  by "), "{report}");
    }
}

#[test]
fn a_client_that_was_stopped_does_not_blame_the_server() {
    let server = Server::start(&[]);
    let port = server.addr.port().to_string();
    server.program.signal(Signal::STOP);
    let mut command = Command::new(CLIENT);
    command.args(["127.0.0.1", &port, "3", "--timeout", "1s"]).stdout(Stdio::null());
    let mut program = Program::start(command);
    program.line("Sending b\"Message 2 from client.\" to connection 3");
    program.signal(Signal::STOP); // Ctrl-Z
    server.program.signal(Signal::CONT);
    server.program.line("Echoing");
    std::thread::sleep(Duration::from_millis(1500)); // Longer than the timeout.
    program.signal(Signal::CONT);
    program.ends_with(0);
}

#[test]
fn a_server_killed_in_mid_run_is_reported_as_reset() {
    let mut server = Server::start(&[]);
    let port = server.addr.port().to_string();
    server.program.signal(Signal::STOP);
    let mut command = Command::new(CLIENT);
    command.args(["127.0.0.1", &port, "3"]).stdout(Stdio::piped());
    let mut program = Program::start(command);
    program.line("Sending b\"Message 2 from client.\" to connection 3");
    server.program.child.kill().unwrap();
    program.ends_with(1);
    program.line("reset: Connection reset by peer (os error 104); 0 of 44 bytes sent are back");
}

/// Cases that no command line can produce.
#[test]
fn thirty_two_mebibytes_a_message_do_not_deadlock() {
    let server = Server::start(&[]);
    let plan = Plan { load: Load::texts(vec![pattern(32 * 1024 * 1024); 2]), ..Plan::tutorial(3) };
    let mut event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
    let mut client = Client::new(vec![server.addr], &plan);
    event_loop.run(&mut client).unwrap();
    let report = Report::of(&client.into_findings(&event_loop), &[]);
    assert!(report.is_intact(), "{report}");
    assert_eq!(report.bytes.echoed, 3 * 2 * 32 * 1024 * 1024);
}

#[test]
fn the_second_address_is_tried_when_the_first_refuses() {
    raise_limit().unwrap();
    let server = Server::start(&[]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plan = Plan::tutorial(300);
    let mut event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
    let mut client = Client::new(vec![closed, server.addr], &plan);
    event_loop.run(&mut client).unwrap();
    assert!(client.is_done());
    let report = Report::of(&client.into_findings(&event_loop), &[]);
    assert!(report.is_intact(), "{report}");
    assert_eq!(report.connections.established, 300);
}

/// A listener with room for five in its backlog, which never accepts.
fn silent() -> (socket2::Socket, SocketAddr) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(5).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    (listener, addr)
}

#[test]
fn connects_that_nobody_answers_do_not_wait_for_each_other() {
    let (_listener, addr) = silent();
    let begun = Instant::now();
    let run = client(addr, 40, &["-q", "--connect-timeout", "500ms", "--timeout", "300ms"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    // One after the other they would take 17 seconds.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: {run:?}", begun.elapsed());
}

#[test]
fn the_address_that_worked_last_is_tried_first() {
    let server = Server::start(&[]);
    let (_listener, silent) = silent();
    let within = Duration::from_millis(500);
    let _queued: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&silent, within).ok()).collect();
    let plan = Plan { connect_timeout: within, ..Plan::tutorial(100) };
    let mut event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
    let mut client = Client::new(vec![silent, server.addr], &plan);
    let begun = Instant::now();
    event_loop.run(&mut client).unwrap();
    let report = Report::of(&client.into_findings(&event_loop), &[]);
    assert!(report.is_intact(), "{report}");
    assert!(begun.elapsed() < Duration::from_secs(2), "only the first connects wait in vain: {:?}", begun.elapsed());
}

/// Has no CPU for a while, as soon as connections stand and others are under way.
struct Sleeper {
    client: Client,
    connected: bool,
    slept: bool,
}

impl Role<Side> for Sleeper {
    fn advance(&mut self, event_loop: &mut EventLoop<Side>) -> bool {
        let more = self.client.advance(event_loop);
        if self.connected && !self.slept {
            self.slept = true;
            std::thread::sleep(Duration::from_millis(1200)); // The pause is what is tested.
        }
        more
    }

    fn handle(&mut self, event: Event<Side>, event_loop: &mut EventLoop<Side>) {
        self.connected |= matches!(event, Event::Connected { .. });
        self.client.handle(event, event_loop);
    }
}

#[test]
fn a_pause_of_the_client_is_no_full_backlog() {
    let server = Server::start(&[]);
    let plan = Plan::tutorial(40);
    let mut event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
    let mut role = Sleeper { client: Client::new(vec![server.addr], &plan), connected: false, slept: false };
    event_loop.run(&mut role).unwrap();
    let report = Report::of(&role.client.into_findings(&event_loop), &[]);
    assert!(report.is_intact(), "{report}");
    let slowest = report.connect_us.as_ref().unwrap().max.unwrap();
    assert!(slowest > 1_000_000, "connects were under way in the pause: {slowest} µs");
    assert_eq!(report.connections.sent_again, 0, "{report}");
}

#[test]
fn a_failing_connect_of_many_ends_quickly() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begun = Instant::now();
    let run = client(closed, 2000, &["-q"]);
    assert_eq!(run.code, Some(1));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(run.stderr, "");
}
