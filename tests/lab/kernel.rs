//! Both programs under honest kernel faults: made frequent by a library that is preloaded (`lab/faults/`), or injected one
//! by one by strace.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::dice::Dice;
use common::pairs::{
    Answer, ENDS, Proxy, half_closes, half_closes_before_a_server, start_proxy, two_hundred_are_intact,
};
use common::proc::{cpu, cpu_since, descriptor_numbers};
use common::{CLIENT, PATIENCE, Run, SERVER, Server, built, figure, have, ping, run_within};
use rustix::process::Signal;
use serde_json::Value;

/// The library, built on first use.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| built("--package", "faults"))
}

/// A program under the library, in the world of `seed`.
fn under_faults(program: &str, seed: u64, counts: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library()).env("FAULTS_SEED", seed.to_string()).env("FAULTS_COUNTS", counts);
    command
}

/// What the library did, by fault.
fn injected(counts: &Path) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in std::fs::read_to_string(counts).unwrap().lines() {
        let (name, count) = line.split_once(' ').unwrap();
        *sums.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap();
    }
    sums
}

/// The client's runs in one world: how many connections, and with which options.
fn runs(dice: &mut Dice, bulk: u64) -> Vec<(u64, String)> {
    let size = dice.scaled(1, (1 << 14) - 1);
    let open = dice.scaled(1, (1 << 10) - 1);
    let large = 4096 + dice.scaled(1, (1 << 22) - 1);
    let connections = dice.between(1, 12);
    vec![
        (dice.between(100, 200), String::new()),
        (dice.between(50, 100), format!("--size {size} --messages 100 --pipeline {}", dice.between(1, 32))),
        (50, format!("--size {open} --rate 5000 --messages 50")),
        (connections, format!("--size {large} --messages {}", bulk.div_ceil(large * connections))),
    ]
}

#[test]
#[ignore = "needs the fault library built, and time"]
fn every_byte_survives_the_fault_library() {
    const WORLD: u64 = 100_000_000;
    let gigabytes: u64 = std::env::var("MULTICONN_GIGABYTES").map_or(1, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let counts = [folder.path().join("server"), folder.path().join("client")];
    let (mut seed, mut echoed, mut connections) = (0, 0, 0);
    let begun = Instant::now();
    while echoed < gigabytes * 1_000_000_000 {
        seed += 1;
        let mut command = under_faults(SERVER, 2 * seed, &counts[0]);
        command.args(["127.0.0.1", "0"]);
        let mut server = Server::start_command(command);
        for (number, options) in runs(&mut Dice::new(seed), WORLD) {
            let mut command = under_faults(CLIENT, 2 * seed + 1, &counts[1]);
            command.args(["127.0.0.1", &server.addr.port().to_string(), &number.to_string(), "--json", "-q"]);
            let run = run_within(Duration::from_secs(120), command.args(options.split_whitespace()));
            let world = format!("seed {seed}, {number} connections {options}: {run:?}");
            assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{world}");
            let report: Value = serde_json::from_str(&run.stdout).expect(&world);
            assert_eq!(report["connections"]["intact"], number, "{world}");
            assert_eq!(report["bytes"]["sent"], report["bytes"]["echoed"], "{world}");
            assert_eq!(
                (&report["faults"], &report["messages"]["missed"]),
                (&Value::Array(vec![]), &0.into()),
                "{world}"
            );
            echoed += report["bytes"]["echoed"].as_u64().unwrap();
            connections += number;
        }
        server.program.signal(Signal::TERM);
        let lines = server.program.all_lines(0);
        let failed = |line: &&String| line.starts_with("Closing connection to") && line.contains(": ");
        assert_eq!(lines.iter().find(failed), None, "seed {seed}");
        assert!(!lines.iter().any(|line| line.contains("panicked")), "seed {seed}: {lines:#?}");
    }
    let took = begun.elapsed();
    figure("bytes echoed through the fault library, none lost or changed", echoed);
    figure("connections through the fault library, all intact", connections);
    figure("worlds of the fault library", seed);
    figure("echo rate under the fault library, MB/s", echoed / 1000 / u64::try_from(took.as_millis()).unwrap());
    for (role, counts) in ["server", "client"].into_iter().zip(&counts) {
        let injected = injected(counts);
        assert_eq!(injected.len(), 10);
        for (fault, count) in injected {
            figure(&format!("{fault} injected into the {role}"), count);
            assert!(count > 0 || (role == "client" && fault.starts_with("accept")), "{role}: no {fault}");
        }
    }
}

#[test]
#[ignore = "needs the fault library built, and time"]
fn a_proxy_under_the_fault_library_carries_all_bytes_and_both_ends() {
    const WORLDS: u64 = 3;
    let folder = tempfile::tempdir().unwrap();
    let counts = folder.path().join("proxy");
    let program = built("--example", "proxy");
    let under_faults = |seed| under_faults(program.to_str().unwrap(), seed, &counts);
    for world in 0..WORLDS {
        let mut proxy = Proxy::start(under_faults(2 * world));
        for (end, when) in ENDS.into_iter().flat_map(|end| [(end, Answer::AsItComes), (end, Answer::AfterTheEnd)]) {
            half_closes(&proxy, end, when);
        }
        let echo = Server::start(&[]);
        let mut before_echo = start_proxy(under_faults(2 * world + 1), echo.addr);
        half_closes_before_a_server(&before_echo);
        two_hundred_are_intact(&before_echo);
        for program in [&mut proxy.server.program, &mut before_echo.program] {
            program.signal(Signal::TERM);
            let lines = program.all_lines(0);
            assert!(!lines.iter().any(|line| line.contains("panicked")), "world {world}: {lines:#?}");
        }
    }
    for (fault, count) in injected(&counts) {
        figure(&format!("{fault} injected into the proxy"), count);
        assert!(count > 0, "no {fault}");
    }
}

// One errno at a time, by strace. Two injections are left out because no kernel does them: EAGAIN where bytes, room or
// connections wait (the kernel returns it only when there are none, and an edge follows), and a return value without the
// call.

/// How long a connection may have to wait for a fault to be over: two rests of the listener, on a busy machine.
const SOON: Duration = Duration::from_secs(2);

const ACCEPT4: [&str; 23] = [
    "EBADF",
    "ECONNABORTED",
    "EFAULT",
    "EINTR",
    "EINVAL",
    "EMFILE",
    "ENFILE",
    "ENOBUFS",
    "ENOMEM",
    "ENOTSOCK",
    "EOPNOTSUPP",
    "EPERM",
    "EPROTO",
    // Errors of the network that the new socket has met already.
    "ENETDOWN",
    "ENOPROTOOPT",
    "EHOSTDOWN",
    "ENONET",
    "EHOSTUNREACH",
    "ENETUNREACH",
    // "Various Linux kernels can return" them.
    "ENOSR",
    "ESOCKTNOSUPPORT",
    "EPROTONOSUPPORT",
    "ETIMEDOUT",
];

/// Those of recv(2), and those that tcp(7) and ip(7) add: errors that the network reported to the connection.
const RECVFROM: [&str; 15] = [
    "EBADF",
    "ECONNREFUSED",
    "EFAULT",
    "EINTR",
    "EINVAL",
    "ENOMEM",
    "ENOTCONN",
    "ENOTSOCK",
    "ECONNRESET",
    "ETIMEDOUT",
    "EPIPE",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "ENETDOWN",
    "EPROTO",
];

const SENDTO: [&str; 20] = [
    "EACCES",
    "EALREADY",
    "EBADF",
    "ECONNRESET",
    "EDESTADDRREQ",
    "EFAULT",
    "EINTR",
    "EINVAL",
    "EISCONN",
    "EMSGSIZE",
    "ENOBUFS",
    "ENOMEM",
    "ENOTCONN",
    "ENOTSOCK",
    "EOPNOTSUPP",
    "EPIPE",
    "ETIMEDOUT",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "ENETDOWN",
];

const EPOLL_WAIT: [&str; 4] = ["EBADF", "EFAULT", "EINTR", "EINVAL"];

const EPOLL_CTL: [&str; 8] = ["EBADF", "EEXIST", "EINVAL", "ELOOP", "ENOENT", "ENOMEM", "ENOSPC", "EPERM"];

const SOCKET: [&str; 8] =
    ["EACCES", "EAFNOSUPPORT", "EINVAL", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPROTONOSUPPORT"];

/// Not EINPROGRESS, which is no failure.
const CONNECT: [&str; 16] = [
    "EACCES",
    "EPERM",
    "EADDRINUSE",
    "EADDRNOTAVAIL",
    "EAFNOSUPPORT",
    "EAGAIN",
    "EALREADY",
    "EBADF",
    "ECONNREFUSED",
    "EFAULT",
    "EINTR",
    "EISCONN",
    "ENETUNREACH",
    "ENOTSOCK",
    "EPROTOTYPE",
    "ETIMEDOUT",
];

/// Prints the case in which a test failed.
struct Case(String);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the case {}", self.0);
        }
    }
}

/// A program whose calls of `syscall` fail with `errno`, those that `when` says (strace(1): the first is 1).
fn injecting(program: &str, syscall: &str, errno: &str, when: &str) -> Command {
    let mut command = Command::new("strace");
    // -D: the program stays our own child, to be signalled and watched. `?`: not every architecture has both.
    let syscalls = if syscall == "epoll_wait" { "?epoll_wait,?epoll_pwait" } else { syscall };
    command.args(["-D", "-qq", "-o", "/dev/null", "-e", &format!("trace={syscalls}")]);
    command.args(["-e", &format!("inject={syscalls}:error={errno}:when={when}"), program]);
    command
}

fn server_injecting(syscall: &str, errno: &str, when: &str) -> Server {
    let mut command = injecting(SERVER, syscall, errno, when);
    command.args(["127.0.0.1", "0"]);
    Server::start_command(command)
}

/// Ends a server that has to be in good health.
#[track_caller]
fn ends_well(mut server: Server, case: &str) {
    let used = cpu(&server.program);
    assert!(used < Duration::from_millis(300), "{case}: {used:?} of CPU: did it spin?");
    server.program.signal(Signal::TERM);
    let lines = server.program.all_lines(0);
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{case}: {lines:#?}");
}

/// Expects the end of a connection, by FIN or by RST.
#[track_caller]
fn expect_over(stream: &mut TcpStream, case: &str) {
    match stream.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{case}: {other:?}"),
    }
}

#[test]
#[ignore = "needs strace"]
fn every_error_of_accept_leaves_nobody_waiting() {
    if !have(&["strace"]) {
        return;
    }
    let mut longest = Duration::ZERO;
    for errno in ACCEPT4 {
        let _case = Case(format!("accept4: {errno}"));
        let server = server_injecting("accept4", errno, "2..3");
        let mut streams: Vec<TcpStream> = (0..4).map(|_| server.connect()).collect();
        let begun = Instant::now();
        for stream in &mut streams {
            ping(stream, errno.as_bytes());
        }
        longest = longest.max(begun.elapsed());
        assert!(begun.elapsed() < SOON, "{errno}: {:?}", begun.elapsed());
        drop(streams);
        ends_well(server, errno);
    }
    figure("errors of accept4 injected", ACCEPT4.len());
    figure("longest wait of a client after two errors of accept4 in a row, ms", longest.as_millis());
}

#[test]
#[ignore = "needs strace"]
fn an_accept_that_fails_for_ever_costs_next_to_no_cpu() {
    if !have(&["strace"]) {
        return;
    }
    for errno in ["EMFILE", "ENOMEM", "ECONNABORTED", "EINTR", "ENETDOWN"] {
        let mut command = injecting(SERVER, "accept4", errno, "2+");
        command.args(["127.0.0.1", "0", "--drain-timeout", "100ms"]); // Draining cannot end by itself here.
        let server = Server::start_command(command);
        let mut stream = server.connect();
        ping(&mut stream, b"before");
        let _waits = server.connect();
        let (first, _) = server.program.line_from(0, "cannot accept with 1 connections open");
        let (before, begun) = (cpu(&server.program), Instant::now());
        // The line is repeated once a second while the state lasts.
        server.program.line_from(first + 1, "cannot accept with");
        ping(&mut stream, b"unaffected");
        let (used, took) = (cpu_since(&server.program, before), begun.elapsed());
        assert!(took > Duration::from_millis(700), "{errno}: again after {took:?}");
        assert!(used < Duration::from_millis(20) + took / 10, "{errno}: {used:?} of {took:?}");
        figure(
            &format!("CPU while every accept4 fails with {errno}, ms of {} (under strace)", took.as_millis()),
            used.as_millis(),
        );
        ends_well(server, errno);
    }
}

/// Three connections, of which the second meets a fault at its second message: how it goes on with all three.
#[track_caller]
fn second_of_three_fails(syscall: &str, errno: &str) {
    let case = format!("{syscall}: {errno}");
    let _case = Case(case.clone());
    let server = server_injecting(syscall, errno, "5");
    let [mut first, mut second, mut third] = [(); 3].map(|()| server.connect());
    for stream in [&mut first, &mut second, &mut third] {
        ping(stream, b"before");
    }
    ping(&mut first, b"before");
    let before = descriptor_numbers(&server.program).len();
    if errno == "EINTR" {
        ping(&mut second, b"interrupted");
        ends_well(server, &case);
        return;
    }
    second.write_all(b"meets the fault").unwrap();
    expect_over(&mut second, &case);
    for stream in [&mut first, &mut third] {
        ping(stream, b"unaffected");
    }
    let closing = server.program.line("Closing connection to");
    let addr = second.local_addr().unwrap().to_string();
    assert!(closing.contains(&addr) && closing.contains("(os error "), "{case}: {closing}");
    assert_eq!(server.table()[0], "2 connections: 2 established", "{case}");
    assert_eq!(descriptor_numbers(&server.program).len(), before - 1, "{case}");
    drop((first, third));
    ends_well(server, &case);
}

#[test]
#[ignore = "needs strace"]
fn every_error_of_recv_and_send_ends_its_own_connection_only() {
    if !have(&["strace"]) {
        return;
    }
    for (syscall, errnos) in [("recvfrom", &RECVFROM[..]), ("sendto", &SENDTO)] {
        for errno in errnos {
            second_of_three_fails(syscall, errno);
        }
        figure(&format!("errors of {syscall} injected, each ending its own connection only"), errnos.len());
    }
}

#[test]
#[ignore = "needs strace"]
fn a_connection_that_cannot_be_registered_ends_alone() {
    if !have(&["strace"]) {
        return;
    }
    for errno in EPOLL_CTL {
        let _case = Case(format!("epoll_ctl: {errno}"));
        // The listener and the signals' pipe come first, then the connections.
        let server = server_injecting("epoll_ctl", errno, "4");
        let mut streams = [(); 3].map(|()| server.connect());
        ping(&mut streams[0], b"before");
        ping(&mut streams[2], b"unaffected");
        expect_over(&mut streams[1], errno);
        ping(&mut streams[0], b"unaffected");
        let closing = server.program.line("Closing connection to");
        assert!(closing.contains(&streams[1].local_addr().unwrap().to_string()), "{errno}: {closing}");
        assert!(closing.contains("(os error "), "{errno}: {closing}");
        assert_eq!(server.table()[0], "2 connections: 2 established", "{errno}");
        drop(streams);
        ends_well(server, errno);
    }
    figure("errors of epoll_ctl injected, each ending its own connection only", EPOLL_CTL.len());
}

#[test]
#[ignore = "needs strace"]
fn a_poller_that_fails_ends_the_program_with_one_line() {
    if !have(&["strace"]) {
        return;
    }
    for errno in EPOLL_WAIT {
        if errno == "EINTR" {
            let server = server_injecting("epoll_wait", errno, "1..50");
            let mut stream = server.connect();
            ping(&mut stream, b"interrupted");
            drop(stream);
            ends_well(server, errno);
            continue;
        }
        let mut server = server_injecting("epoll_wait", errno, "4");
        let mut stream = server.connect();
        let mut ended = false;
        for _ in 0..4 {
            // The program ends at one of its first waits. Some of these messages may still come back.
            ended |= stream.write_all(b"x").is_err() || !matches!(stream.read(&mut [0]), Ok(1));
        }
        assert!(ended, "{errno}");
        let lines = server.program.all_lines(1);
        let told: Vec<&String> =
            lines.iter().filter(|line| line.contains("error") || line.contains("panicked")).collect();
        assert!(
            told.len() == 1 && told[0].starts_with("error: ") && told[0].contains("(os error "),
            "{errno}: {lines:#?}"
        );
    }
    // Nothing works without the listener and the signals, so that error comes before any connection is accepted.
    for (errno, when) in EPOLL_CTL.into_iter().zip(["1", "2"].into_iter().cycle()) {
        let mut command = injecting(SERVER, "epoll_ctl", errno, when);
        let run = run_within(PATIENCE, command.args(["127.0.0.1", "0", "-q"]));
        assert_eq!(run.code, Some(1), "{errno}: {run:?}");
        assert!(run.stderr.starts_with("error: ") && run.stderr.lines().count() == 1, "{errno}: {run:?}");
    }
}

/// Runs the client with three connections, some of whose calls fail.
#[track_caller]
fn client_injecting(addr: SocketAddr, syscall: &str, errno: &str, when: &str) -> Run {
    let mut command = injecting(CLIENT, syscall, errno, when);
    command.args(["127.0.0.1", &addr.port().to_string(), "3", "--messages", "5", "--json", "--timeout", "2s"]);
    let run = run_within(PATIENCE, &mut command);
    assert!(!run.stderr.contains("panicked"), "{syscall}: {errno}: {run:?}");
    run
}

#[test]
#[ignore = "needs strace"]
fn every_error_of_the_clients_calls_fails_one_connection_with_one_line() {
    if !have(&["strace"]) {
        return;
    }
    let server = Server::start(&[]);
    let cases = [
        ("socket", &SOCKET[..], "2"),
        ("connect", &CONNECT, "2"),
        ("epoll_ctl", &EPOLL_CTL, "3"), // The signals' pipe comes first.
        ("recvfrom", &RECVFROM, "5"),
        ("sendto", &SENDTO, "5"),
        ("epoll_wait", &["EINTR"], "1..20"),
    ];
    for (syscall, errnos, when) in cases {
        for &errno in errnos {
            let run = client_injecting(server.addr, syscall, errno, when);
            let case = format!("{syscall}: {errno}: {run:?}");
            let report: Value = serde_json::from_str(&run.stdout).expect(&case);
            let warnings = run.stderr.lines().filter(|line| line.starts_with("warning: ")).count();
            let connections = &report["connections"];
            if errno == "EINTR" && syscall != "connect" {
                assert_eq!((run.code, warnings, &connections["intact"]), (Some(0), 0, &3.into()), "{case}");
                continue;
            }
            assert_eq!((run.code, warnings), (Some(1), 1), "{case}");
            assert_eq!((&connections["intact"], &connections["failed"]), (&2.into(), &1.into()), "{case}");
            let detail = report["faults"][0]["detail"].as_str().expect(&case);
            assert!(detail.contains("(os error "), "{case}");
        }
        figure(&format!("errors of the client's {syscall} injected"), errnos.len());
    }
    for errno in ["EBADF", "EFAULT", "EINVAL"] {
        let run = client_injecting(server.addr, "epoll_wait", errno, "3");
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{errno}: {run:?}");
        assert_eq!(run.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{errno}: {run:?}");
    }
    assert_eq!(server.table()[0], "0 connections");
    ends_well(server, "the server beside them");
}
