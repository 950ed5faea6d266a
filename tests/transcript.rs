//! The tutorial's run, in two terminals: what both programs print.
#![cfg(feature = "cli")]

mod common;

use common::{PATIENCE, Server, client};
use rustix::process::Signal;
use std::time::Instant;

#[test]
fn three_connections_read_like_the_tutorial() {
    let mut server = Server::start(&[]);
    let run = client(server.addr, 3, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");

    let addr = server.addr;
    let mut expected = Vec::new();
    for number in 1..=3 {
        expected.push(format!("Starting connection {number} to {addr}"));
        expected.push(format!("Sending b\"Message 1 from client.\" to connection {number}"));
        expected.push(format!("Sending b\"Message 2 from client.\" to connection {number}"));
        expected.push(format!("Closing connection {number}"));
    }
    for line in &expected {
        assert_eq!(run.stderr.lines().filter(|printed| printed == line).count(), 1, "{line}\n{}", run.stderr);
    }
    // The echo may come back in one piece or in several.
    for line in run.stderr.lines().filter(|line| !expected.iter().any(|known| known == line)) {
        assert!(line.starts_with("Received b\"") && line.contains("\" from connection "), "{line}");
    }

    server.program.signal(Signal::INT);
    let lines = server.program.all_lines(0);
    assert_eq!(lines[0], format!("Listening on {addr}"));
    assert_eq!(lines.last().unwrap(), "Caught interrupt, exiting");
    for (opening, count) in [("Accepted connection from 127.0.0.1:", 3), ("Closing connection to 127.0.0.1:", 3)] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(opening)).count(), count, "{lines:#?}");
    }
    assert!(lines.iter().any(|line| line.starts_with("Echoing b\"Message 1 from client.")), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains("left out")), "a small run is whole: {lines:#?}");
}

#[test]
fn the_report_counts_what_was_sent_and_echoed() {
    let server = Server::start(&[]);
    let run = client(server.addr, 50, &["-q", "-m", "one", "--message", "three"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stderr, "", "-q is silent");
    let report: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(report[0], format!("target       {}", server.addr));
    assert_eq!(report[1], "connections  50 requested, 50 established, 50 intact, 0 failed");
    assert!(report[2].starts_with("messages     100 sent, 100 echoed; "), "{report:?}");
    assert!(report[3].starts_with("bytes        400 sent, 400 echoed; "), "{report:?}");
    assert!(report[4].starts_with("elapsed      "), "{report:?}");
    for row in ["service ", "first byte ", "connect "] {
        assert!(report.iter().any(|line| line.starts_with(row)), "{report:?}");
    }
    assert_eq!(*report.last().unwrap(), "verdict      intact: every byte of every connection came back");
    assert!(report.len() <= 24, "it fits a screen");
}

#[test]
fn a_flood_of_lines_is_cut_and_counted() {
    let server = Server::start(&[]);
    let begun = Instant::now();
    let run = client(server.addr, 3000, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let windows = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    let printed = run.stderr.lines().filter(|line| line.starts_with("Starting")).count();
    assert!(printed >= 100 && printed <= 200 * windows, "{printed} lines");
    let left_out: usize = run
        .stderr
        .lines()
        .filter_map(|line| line.strip_suffix(" more lines \"Starting connection …\" left out"))
        .map(|count| count.parse::<usize>().unwrap())
        .sum();
    assert_eq!(printed + left_out, 3000);
    // The server counts them as well, a second later and without another line.
    server.program.line_from(0, "more lines \"Accepted connection from …\" left out");
    assert!(begun.elapsed() < PATIENCE);

    let verbose = client(server.addr, 600, &["-v"]);
    assert_eq!(verbose.stderr.lines().filter(|line| line.starts_with("Starting")).count(), 600);
}

#[test]
fn a_run_with_generated_messages_has_no_line_for_each_connection() {
    let server = Server::start(&[]);
    let quiet = client(server.addr, 200, &["--messages", "2"]);
    assert_eq!((quiet.code, &*quiet.stderr), (Some(0), ""), "{quiet:?}");
    let verbose = client(server.addr, 200, &["--messages", "2", "-v"]);
    for opening in ["Starting connection ", "Closing connection "] {
        let printed = verbose.stderr.lines().filter(|line| line.starts_with(opening)).count();
        assert_eq!(printed, 200, "{opening}: {verbose:?}");
    }
    // A connection that fails has its line in any case.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failing = client(closed, 3, &["--messages", "2"]);
    assert_eq!((failing.code, failing.stderr.lines().count()), (Some(1), 3), "{failing:?}");
    assert!(failing.stderr.lines().all(|line| line.starts_with("warning: connection ")), "{failing:?}");
}

#[test]
fn hostile_bytes_reach_no_terminal() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    common::ping(&mut stream, "\x1b[2J\r\nAccepted connection from nobody\u{202e}\0".as_bytes());
    let line = server.program.line("Echoing");
    assert!(
        line.starts_with(r#"Echoing b"\x1b[2J\r\nAccepted connection from nobody\xe2\x80\xae\x00" to 127."#),
        "{line}"
    );
}
