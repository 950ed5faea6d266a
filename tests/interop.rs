//! Both programs against the tutorial's own, in Python.
//!
//! Where there is no python3, these tests say so and pass; the project's CI fails there.
#![cfg(feature = "cli")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Server, client};

/// `python3 tests/interop/NAME ARGS`, if there is a python3.
fn python(name: &str, args: &[&str]) -> Option<Command> {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(format!("{}/tests/interop/{name}", env!("CARGO_MANIFEST_DIR"))).args(args);
    Some(command)
}

#[test]
fn our_client_finds_the_python_server_intact() {
    let Some(mut command) = python("selectors_server.py", &["127.0.0.1", "0", "53"]) else { return };
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port: u16 = lines.next().unwrap().strip_prefix("Listening on ").unwrap().parse().unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    for connections in [3, 50] {
        let run = client(([127, 0, 0, 1], port).into(), connections, &["-q"]);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    assert!(server.wait().unwrap().success(), "it saw all 53 connections end");
}

#[test]
fn the_python_client_finds_our_server_intact() {
    let server = Server::start(&[]);
    for connections in ["3", "200"] {
        let port = server.addr.port().to_string();
        let Some(mut command) = python("selectors_client.py", &["127.0.0.1", &port, connections]) else { return };
        let run = common::run(&mut command);
        assert_eq!(run.code, Some(0), "{run:?}");
    }
}
