//! A benchmark that can fail: what must not get slower is counted, not timed, so that it holds on any busy machine.
//!
//! Instructions of the hot paths are counted by callgrind and compared with `instructions.json`; after a change that is
//! meant to cost or to save some, `MULTICONN_BASELINE=write cargo test --release -p benchmarks --test guard` writes it
//! anew, to be committed with its reason. System calls a message are counted by strace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

mod common;

use common::{Listening, have, product};

/// How much more a path may cost than it did. Another compiler makes a percent or two of difference.
const TOLERANCE: f64 = 1.05;

/// The paths, and how often each is run to be told from what surrounds it.
const PATHS: [(&str, u64); 6] = [
    ("echo 512 B", 20_000),
    ("echo 512 B, half of it late", 20_000),
    ("exchange 64 B", 20),
    ("exchange 16 x 1 KiB", 20),
    ("fill 64 KiB", 200),
    ("match 64 KiB", 200),
];

/// Instructions that a program takes, as callgrind counts them.
fn instructions(path: &str, times: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", env!("CARGO_BIN_EXE_hot-paths"), path])
        .arg(times.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1));
    collected.expect(&said).trim().parse().unwrap()
}

#[test]
fn hot_paths_take_no_more_instructions_than_they_did() {
    if !have("valgrind") {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let counted: BTreeMap<String, u64> = PATHS
        .iter()
        .map(|&(path, times)| {
            // What the program does besides is the same in both.
            let more = instructions(path, 2 * times) - instructions(path, times);
            (path.to_owned(), more / times)
        })
        .collect();
    if std::env::var_os("MULTICONN_BASELINE").is_some_and(|wish| wish == "write") {
        std::fs::write(file, serde_json::to_string_pretty(&counted).unwrap() + "\n").unwrap();
        return;
    }
    let baseline: BTreeMap<String, u64> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut slower = Vec::new();
    for (path, now) in &counted {
        let ratio = *now as f64 / baseline[path] as f64;
        println!("figure: {path}: {now} instructions, {ratio:.3} of the baseline");
        if ratio > TOLERANCE {
            slower.push(path);
        }
    }
    assert!(slower.is_empty(), "more instructions than before: {slower:?}; if that is meant, see this file's head");
}

/// A server whose calls are counted into a file.
fn traced(counts: &Path) -> Listening {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(counts).arg(product("multiconn-server")).args(["127.0.0.1", "0"]);
    Listening::start(&mut strace)
}

#[test]
fn an_echo_takes_two_system_calls_and_a_share_of_a_wait() {
    const CONNECTIONS: u64 = 50;
    const MESSAGES: u64 = 1000;
    if !have("strace") {
        return;
    }
    let counts = Path::new(env!("CARGO_TARGET_TMPDIR")).join("calls");
    let mut server = traced(&counts);
    let status = Command::new(product("multiconn-client"))
        .args(["-q", "127.0.0.1", &server.addr.port().to_string(), &CONNECTIONS.to_string()])
        .args(["--size", "512", "--messages", &MESSAGES.to_string()])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    // strace hands the signal on, and writes its table when the server has ended.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.child.id())).unwrap();
    let server_pid: u32 = children.split_whitespace().next().unwrap().parse().unwrap();
    sys::signal(server_pid, libc::SIGTERM).unwrap();
    assert!(server.child.wait().unwrap().success());

    let table = std::fs::read_to_string(&counts).unwrap();
    let calls = |name: &str| -> u64 {
        let row = table.lines().find(|line| line.split_whitespace().next_back() == Some(name));
        row.map_or(0, |row| row.split_whitespace().nth(3).unwrap().parse().unwrap())
    };
    let echoes = CONNECTIONS * MESSAGES;
    let each = (calls("recvfrom") + calls("sendto") + calls("epoll_wait")) as f64 / echoes as f64;
    println!("figure: system calls an echo: {each:.3}");
    assert!(each <= 2.05, "{each} calls an echo:\n{table}");
    // One for each connection, and the listener's and the signals' own.
    assert!(calls("epoll_ctl") <= CONNECTIONS + 5, "something is registered again and again:\n{table}");
    assert!(calls("accept4") <= 2 * CONNECTIONS, "{table}");
    // Options are inherited from the listener: none is set for a connection.
    for name in ["setsockopt", "getsockopt", "fcntl", "getpeername", "shutdown"] {
        assert!(calls(name) < CONNECTIONS / 2, "{name}:\n{table}");
    }
}
