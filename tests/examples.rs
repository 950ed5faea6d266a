//! The examples, as whole programs.
#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;

use common::{Server, connect, example, expect, expect_end};

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

#[test]
fn loopback_runs_both_ends_on_one_loop() {
    let run = common::run(&mut example("loopback"));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("1000 asked for, 1000 established, 1000 intact, 0 failed"), "{run:?}");
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
