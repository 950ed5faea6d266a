//! The tutorial's steps: each one does what its text claims, and fails as its text says. The commands are those of the
//! text and are run as they stand there, but for the port; what they print is compared with the text.
//!
//! They are about epoll: mio's poll(2) backend is neither level- nor edge-triggered.
#![cfg(all(feature = "cli", target_os = "linux", not(mio_unsupported_force_poll_poll)))]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::pairs::{fill, plenty};
use common::{CLIENT, PATIENCE, Run, Server, client, example, expect, expect_end, ping, proc};
use rustix::process::Signal;

const STEPS: [&str; 7] = [
    "step-1-blocking",
    "step-2-threads",
    "step-3-spinning",
    "step-4-readiness",
    "step-5-until-would-block",
    "step-6-whole",
    "step-7-library",
];

/// The most lines of code of a step.
const MOST_LINES: usize = 160;

/// A command of a step's text, and what the text says that it prints. There `…` stands for anything.
struct Told {
    command: String,
    output: String,
}

fn source(step: &str) -> String {
    std::fs::read_to_string(format!("{}/examples/steps/{step}.rs", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The one command of a step's text that begins like this.
#[track_caller]
fn told(step: &str, beginning: &str) -> Told {
    let source = source(step);
    let text: Vec<&str> = source.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let begins = |line: &&str| line.strip_prefix(" $ ").is_some_and(|command| command.starts_with(beginning));
    let mut found = text.iter().enumerate().filter(|(_, line)| begins(line)).map(|(index, _)| index);
    let (Some(at), None) = (found.next(), found.next()) else { panic!("{step} has no or many {beginning:?}") };
    let output = text[at + 1..].iter().take_while(|line| !line.starts_with(" $ ") && !line.starts_with(" ```"));
    Told { command: text[at][3..].to_owned(), output: output.fold(String::new(), |all, line| all + line + "\n") }
}

impl Told {
    /// Starts a server by this command, on a port of its own.
    #[track_caller]
    fn start(&self) -> Server {
        let examples = example(STEPS[0]).get_program().to_str().unwrap().replace(STEPS[0], "");
        let command = self.command.replace("target/debug/examples/", &examples).replace(":65432", ":0");
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec {command}")]);
        bash.env_remove("RUST_BACKTRACE"); // A backtrace needs more memory than step 2 is left with.
        Server::start_command(bash)
    }

    /// Runs this command against a server: it must end with `code` and print what the text says.
    #[track_caller]
    fn holds(&self, server: &Server, code: i32) {
        let run = self.run(server, PATIENCE);
        assert_eq!(run.code, Some(code), "{}: {run:#?}", self.command);
        self.assert_printed(server, &run.stdout);
        assert_eq!(run.stderr, "", "{}", self.command);
    }

    #[track_caller]
    fn run(&self, server: &Server, limit: Duration) -> Run {
        let (port, pid) = (server.addr.port().to_string(), server.program.child.id().to_string());
        let command = self.command.replace("65432", &port).replace("$(pgrep step-5)", &pid);
        let programs = Path::new(CLIENT).parent().unwrap().to_str().unwrap();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        common::run_within(limit, Command::new("bash").args(["-c", &command]).env("PATH", path))
    }

    /// The server must end with `code` and have printed what the text says.
    #[track_caller]
    fn ended(&self, mut server: Server, code: i32) {
        let lines = server.program.all_lines(code).join("\n");
        self.assert_printed(&server, &lines);
    }

    #[track_caller]
    fn assert_printed(&self, server: &Server, output: &str) {
        let told = one_space(&self.output);
        let output = one_space(&output.replace(&format!(":{}", server.addr.port()), ":65432"));
        assert!(fits(&output, &told), "{}\nprints\n{output}\nand not\n{told}", self.command);
    }
}

/// Each line with one space between its words.
fn one_space(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Whether a text is the pattern, with anything in place of each `…`.
fn fits(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn start(step: &str) -> Server {
    let mut command = example(step);
    command.arg("127.0.0.1:0");
    Server::start_command(command)
}

/// Our client finds each of these runs intact.
#[track_caller]
fn is_intact(server: &Server, connections: u32, args: &[&str]) {
    let run = client(server.addr, connections, &[&["-q"], args].concat());
    assert_eq!(run.code, Some(0), "{run:#?}");
}

fn ping_all(peers: &mut [TcpStream]) {
    for peer in peers {
        ping(peer, b"hello");
    }
}

/// An idle connection, and a server at rest.
#[track_caller]
fn rests_beside_an_idle_peer(server: &Server) {
    let mut idle = server.connect();
    ping(&mut idle, b"hello");
    proc::settle(&server.program);
    let (woken, used) = proc::cost_of_rest(&server.program, Duration::from_millis(500));
    assert_eq!((woken, used), (0, Duration::ZERO));
}

/// A peer that sends everything and the FIN before it reads gets everything back.
#[track_caller]
fn answers_a_peer_that_finishes_early(server: &Server, length: usize) {
    let stream = server.connect();
    common::pairs::finish_first(&stream, length, Duration::ZERO);
}

#[test]
fn every_step_is_short_and_stands_alone() {
    for step in STEPS {
        let source = source(step);
        let code: Vec<&str> = source.lines().map(str::trim).filter(|line| !line.starts_with("//")).collect();
        let lines = code.iter().filter(|line| !line.is_empty()).count();
        assert!(lines <= MOST_LINES, "{step} has {lines} lines of code");
        let uses = |name: &str| code.iter().any(|line| line.contains(&format!("{name}::")));
        let number: usize = step[5..6].parse().unwrap();
        assert_eq!((uses("mio"), uses("multiconn")), ((4..7).contains(&number), number == 7), "{step}");
        assert!(number == 7 || source.contains("//! # What it cannot do\n"), "{step}");
    }
}

#[test]
fn step_1_sends_back_what_its_client_sends() {
    let server = start("step-1-blocking");
    for _ in 0..2 {
        let run = common::run(example("step-1-blocking").args(["client", &server.addr.to_string()]));
        assert_eq!((run.code, &*run.stdout), (Some(0), "Received b\"This is example data.\"\n"), "{run:?}");
    }
    is_intact(&server, 1, &["--size", "1MiB", "--messages", "3"]);
}

#[test]
fn the_client_of_step_1_compares_what_comes_back() {
    for wrong in ["This is example dat", "This is example data!", "This is example data..", ""] {
        let run = answered(wrong, |addr| common::run(example("step-1-blocking").args(["client", addr])));
        assert_eq!((run.code, &*run.stdout), (Some(1), &*format!("Received b\"{wrong}\"\n")), "{run:?}");
        assert!(run.stderr.ends_with("this is not what was sent\n"), "{run:?}");
    }
}

/// Runs a client against a server that reads to the end of input and then sends `answer`.
fn answered(answer: &'static str, run: impl FnOnce(&str) -> Run) -> Run {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let run = run(&addr);
    server.join().unwrap();
    run
}

#[test]
fn the_client_of_step_1_says_in_one_line_that_it_was_refused() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let run = common::run(example("step-1-blocking").args(["client", &addr]));
    assert_eq!((run.code, run.stderr), (Some(1), format!("{addr}: Connection refused (os error 111)\n")));
}

#[test]
fn step_1_leaves_a_second_peer_waiting() {
    told("step-1-blocking", "multiconn-client").holds(&start("step-1-blocking"), 1);
}

#[test]
fn step_2_serves_peers_that_stay() {
    let server = start("step-2-threads");
    is_intact(&server, 20, &["--rate", "400", "--duration", "500ms"]);
    is_intact(&server, 20, &["--size", "1MiB"]);
    answers_a_peer_that_finishes_early(&server, 1_000_000);
}

#[test]
fn step_2_ends_one_connection_for_a_reset() {
    let server = start("step-2-threads");
    let mut other = server.connect();
    common::reset(server.connect());
    server.program.line("Connection reset by peer");
    ping(&mut other, b"hello");
}

#[test]
fn step_2_needs_a_thread_for_each_peer() {
    const PEERS: usize = 200;
    let server = start("step-2-threads");
    let before = proc::private_memory(&server.program);
    let mut peers: Vec<TcpStream> = (0..PEERS).map(|_| server.connect()).collect();
    ping_all(&mut peers);
    assert_eq!(proc::threads(&server.program), PEERS + 1);
    let each = (proc::private_memory(&server.program) - before) / PEERS as u64;
    assert!(each >= 8 * 1024, "{each} bytes of memory for each peer");
}

#[test]
fn step_2_ends_when_it_gets_no_thread() {
    let by = told("step-2-threads", "bash");
    let server = by.start();
    told("step-2-threads", "multiconn-client").holds(&server, 1);
    by.ended(server, 101);
}

#[test]
fn step_3_serves_all_peers_on_one_thread() {
    let server = start("step-3-spinning");
    is_intact(&server, 50, &["--size", "10KiB", "--messages", "3"]);
    is_intact(&server, 5, &["--size", "1MiB"]);
    answers_a_peer_that_finishes_early(&server, 1_000_000);
    let mut other = server.connect();
    common::reset(server.connect());
    ping(&mut other, b"hello");
    assert_eq!(proc::threads(&server.program), 1);
}

#[test]
fn step_3_burns_a_core_beside_an_idle_peer() {
    let server = start("step-3-spinning");
    let mut idle = server.connect();
    ping(&mut idle, b"hello");
    let (before, begun) = (proc::cpu(&server.program), Instant::now());
    // However busy the machine is, a program that never sleeps gets there.
    while proc::cpu_since(&server.program, before) < Duration::from_millis(500) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", proc::cpu_since(&server.program, before));
        std::thread::sleep(Duration::from_millis(10)); // Leaves the core to the server.
    }
}

#[test]
fn step_4_sends_small_messages_back_and_rests() {
    let server = start("step-4-readiness");
    told("step-4-readiness", "multiconn-client -q 127.0.0.1 65432 1 --hold 100ms --size 64").holds(&server, 0);
    let mut peers: Vec<TcpStream> = Vec::new();
    for _ in 0..50 {
        peers.push(server.connect());
        ping(peers.last_mut().unwrap(), b"hello");
    }
    ping_all(&mut peers);
    rests_beside_an_idle_peer(&server);
}

#[test]
fn step_4_stands_still_after_one_read_and_ends_when_the_client_gives_up() {
    let by = told("step-4-readiness", "target");
    let server = by.start();
    told("step-4-readiness", "multiconn-client -q 127.0.0.1 65432 1 --hold 100ms --size 10KiB").holds(&server, 1);
    by.ended(server, 1);
}

/// Two peers that connect before the server looks.
fn two_at_once(server: &Server) -> [TcpStream; 2] {
    proc::stop(&server.program);
    let peers = [server.connect(), server.connect()];
    server.program.signal(Signal::CONT);
    peers
}

#[test]
fn step_4_accepts_one_of_two_peers_that_connect_together() {
    let server = start("step-4-readiness");
    let [mut first, mut second] = two_at_once(&server);
    ping(&mut first, b"hello");
    second.write_all(b"hello").unwrap();
    proc::settle(&server.program);
    second.set_nonblocking(true).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was served");
    second.set_nonblocking(false).unwrap();
    let _third = server.connect();
    expect(&mut second, b"hello");
}

#[test]
fn step_5_sends_everything_back_and_rests() {
    let server = start("step-5-until-would-block");
    told("step-5-until-would-block", "multiconn-client").holds(&server, 0);
    is_intact(&server, 5, &["--size", "1MiB"]);
    ping_all(&mut two_at_once(&server));
    rests_beside_an_idle_peer(&server);
}

#[test]
fn step_5_loses_bytes_of_a_peer_that_finishes_early() {
    let server = start("step-5-until-would-block");
    told("step-5-until-would-block", "multiconn-probe").holds(&server, 1);
}

#[test]
fn step_5_grows_for_a_peer_that_does_not_read() {
    let server = start("step-5-until-would-block");
    let grown = told("step-5-until-would-block", "bash -c 'exec 3<>/dev/tcp/127.0.0.1/65432; head -c 100M");
    let run = grown.run(&server, PATIENCE);
    let kilobytes = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    // A part of the 100 MiB may still be in the kernel.
    let (told, found) = (kilobytes(&grown.output), kilobytes(&run.stdout));
    assert!(found.abs_diff(told) < told / 5, "{run:#?}");
}

#[test]
fn step_5_ends_with_a_reset() {
    let resetting = told("step-5-until-would-block", "bash -c 'exec 3<>/dev/tcp/127.0.0.1/65432; echo hello");
    let by = told("step-5-until-would-block", "target");
    let server = by.start();
    resetting.holds(&server, 0);
    by.ended(server, 1);
}

#[test]
fn step_6_sends_everything_back_and_rests() {
    let server = start("step-6-whole");
    is_intact(&server, 200, &["--size", "10KiB", "--messages", "3"]);
    is_intact(&server, 5, &["--size", "1MiB"]);
    ping_all(&mut two_at_once(&server));
    rests_beside_an_idle_peer(&server);
}

#[test]
fn step_6_loses_nothing_of_a_peer_that_finishes_early() {
    let server = start("step-6-whole");
    told("step-6-whole", "multiconn-probe").holds(&server, 0);
}

#[test]
fn step_6_stops_a_peer_that_does_not_read() {
    let server = start("step-6-whole");
    let before = proc::private_memory(&server.program);
    let mut peer = server.connect();
    let taken = fill(&peer);
    let grown = proc::private_memory(&server.program) - before;
    assert!(grown < 256 * 1024, "{grown} bytes");
    // And all of it comes back.
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&mut peer, &plenty()[..taken]);
    expect_end(&mut peer);
}

#[test]
fn step_6_ends_one_connection_for_a_reset() {
    let by = told("step-6-whole", "target");
    let server = by.start();
    let mut other = server.connect();
    told("step-6-whole", "bash -c 'exec 3<>/dev/tcp").holds(&server, 0);
    server.program.line("Closing connection");
    by.assert_printed(&server, &server.program.lines().join("\n"));
    ping(&mut other, b"hello");
}

#[test]
fn step_6_ends_when_it_gets_no_descriptor() {
    let by = told("step-6-whole", "bash -c 'ulimit");
    let server = by.start();
    told("step-6-whole", "multiconn-client").holds(&server, 1);
    by.ended(server, 1);
}

#[test]
fn step_6_names_what_is_missing() {
    let source = source("step-6-whole");
    for missing in ["Run out of descriptors", "Fairness:", "Limits:", "Time:", "Draining:"] {
        assert!(source.contains(missing), "{missing}");
    }
}

#[test]
fn step_7_does_what_step_6_could_not() {
    let mut server = told("step-7-library", "bash").start();
    told("step-7-library", "multiconn-client").holds(&server, 0);
    let mut peer = server.connect();
    ping(&mut peer, b"hello");
    server.program.signal(Signal::INT);
    expect_end(&mut peer);
    drop(peer);
    server.program.ends_with(0);
}

#[test]
fn the_parts_of_step_6_are_where_step_7_says() {
    let source = source("step-7-library");
    let mut checked = 0;
    for place in source.lines().filter(|line| line.starts_with("//! | ")).flat_map(|line| line.split([';', '|'])) {
        let Some((file, functions)) = place.trim().split_once("`: ") else { continue };
        let code = std::fs::read_to_string(format!("{}/{}", env!("CARGO_MANIFEST_DIR"), &file[1..])).unwrap();
        for function in functions.split(", ").map(|name| name.trim_matches('`')) {
            assert!(code.contains(&format!("fn {function}(")) || code.contains(&format!("fn {function}<")), "{place}");
            checked += 1;
        }
    }
    assert!(checked >= 30, "{checked} functions");
}
