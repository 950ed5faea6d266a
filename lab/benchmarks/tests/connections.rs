//! The plain generators of connections: what they count is what a server sees, and what is wrong ends them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

mod common;

use common::{have, product};

/// The two of them; the one in C where there is a compiler.
fn generators() -> Vec<PathBuf> {
    let mut generators = vec![PathBuf::from(env!("CARGO_BIN_EXE_plain-connections"))];
    if have("cc") {
        // Each test makes its own: one that runs cannot be written.
        let made =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("plain_connections-{:?}", thread::current().id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/plain_connections.c");
        let built =
            Command::new("cc").args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&made).arg(source).status();
        assert!(built.unwrap().success());
        generators.push(made);
    }
    generators
}

fn run(generator: &PathBuf, addr: SocketAddr, arguments: &[&str]) -> Output {
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    Command::new(generator).args([host, port]).args(arguments).output().unwrap()
}

/// The address that a server has written into its log, once it has.
fn listening(log: &Path) -> SocketAddr {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let said = fs::read_to_string(log).unwrap();
        if let Some((line, _)) = said.split_once('\n') {
            return line.strip_prefix("Listening on ").expect(line).parse().unwrap();
        }
        assert!(Instant::now() < deadline, "the server does not listen");
        thread::yield_now();
    }
}

#[test]
fn a_plain_generator_counts_the_connections_and_messages_that_the_server_sees() {
    const MESSAGES: u64 = 3;
    for generator in generators() {
        // Into a file, which takes every line: the server does not wait for a pipe that is full, and leaves lines out.
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("connections.log");
        let mut server = Command::new(product("multiconn-server"))
            .args(["-v", "127.0.0.1", "0"])
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let addr = listening(&log);
        let output = run(&generator, addr, &["8", &MESSAGES.to_string(), "0.1", "127.0.0.1", "127.0.1.1"]);
        sys::signal(server.id(), libc::SIGTERM).unwrap();
        assert!(server.wait().unwrap().success());
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for line in fs::read_to_string(&log).unwrap().lines() {
            *seen.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }

        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let connections = report["connections"].as_u64().unwrap();
        assert!(connections > 8, "none came in the place of another: {report}");
        assert_eq!(seen["Accepted"], connections, "{seen:?}");
        assert_eq!(seen["Closing"], connections, "{seen:?}");
        assert_eq!(seen["Echoing"], MESSAGES * connections, "{seen:?}");
        let figure = |name: &str| report[name].as_f64().unwrap();
        let product = figure("connections_per_second") * figure("measured_seconds");
        assert!((product - connections as f64).abs() < 1.0, "{report}");
        assert!((0.1..1.0).contains(&figure("measured_seconds")), "{report}");
    }
}

/// Runs a generator against a server that answers its first message with `answer` bytes, and closes.
fn against(generator: &PathBuf, answer: usize) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut message = [0; 64];
        stream.read_exact(&mut message).unwrap();
        stream.write_all(&vec![0; answer]).unwrap();
    });
    let output = run(generator, addr, &["1", "1", "0.1"]);
    server.join().unwrap();
    output
}

#[test]
fn a_plain_generator_fails_when_too_little_or_too_much_comes_back() {
    for generator in generators() {
        for (answer, complaint) in [(63, "ended a connection early"), (65, "more came back than was sent")] {
            let output = against(&generator, answer);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(complaint), "{said}");
            assert!(output.stdout.is_empty(), "{output:?}");
        }
    }
}
