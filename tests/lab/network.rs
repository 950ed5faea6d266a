//! Both programs on a network that misbehaves: two network namespaces of the test's own, joined by a virtual cable, that
//! nothing leaves.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::proc::descriptor_numbers;
use common::{CLIENT, PATIENCE, Program, Run, SERVER, Server, figure, have, run, run_within, skipped};
use rustix::process::Signal;
use serde_json::Value;

/// Private addresses, in the namespaces alone.
const SERVER_ADDR: &str = "10.200.0.1";
const CLIENT_ADDR: &str = "10.200.0.2";

/// The one device that joins the two, called the same at both ends.
const CABLE: &str = "cable";

/// Two network namespaces, gone with the value.
struct Network {
    server: String,
    client: String,
}

impl Network {
    /// A new network; `None`, with a line that says so, where none can be made.
    fn new() -> Option<Network> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !have(&["ip", "nft", "ss"]) {
            return None;
        }
        let name = format!("multiconn-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Network { server: format!("{name}-server"), client: format!("{name}-client") };
        let made = run(Command::new("ip").args(["netns", "add", &network.server]));
        if made.code != Some(0) {
            skipped(&format!("the right to make network namespaces ({})", made.stderr.trim()));
            return None;
        }
        system(Command::new("ip").args(["netns", "add", &network.client]));
        let ends = ["type", "veth", "peer", "name", CABLE, "netns", &network.client];
        system(Command::new("ip").args(["link", "add", CABLE, "netns", &network.server]).args(ends));
        for (namespace, addr) in [(&network.server, SERVER_ADDR), (&network.client, CLIENT_ADDR)] {
            system(Command::new("ip").args(["-n", namespace, "addr", "add", &format!("{addr}/24"), "dev", CABLE]));
            system(Command::new("ip").args(["-n", namespace, "link", "set", CABLE, "up"]));
            system(Command::new("ip").args(["-n", namespace, "link", "set", "lo", "up"]));
        }
        Some(network)
    }

    fn server(&self, options: &str) -> Server {
        let mut command = inside(&self.server, SERVER);
        command.args([SERVER_ADDR, "0"]).args(options.split_whitespace());
        Server::start_command(command)
    }

    fn client(&self, server: &Server, connections: u32, options: &str) -> Command {
        let mut command = inside(&self.client, CLIENT);
        let port = server.addr.port().to_string();
        command.args([SERVER_ADDR, &port, &connections.to_string(), "--json"]).args(options.split_whitespace());
        command
    }

    /// Runs the client beside the test.
    fn start_client(&self, server: &Server, connections: u32, options: &str) -> JoinHandle<Run> {
        let mut command = self.client(server, connections, options);
        std::thread::spawn(move || run_within(4 * PATIENCE, &mut command))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
        }
    }
}

/// A program in a namespace. `ip` becomes that program, so that signals reach it.
fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

/// Runs one of the system's tools. Returns what it printed.
#[track_caller]
fn system(command: &mut Command) -> String {
    let run = run(command);
    assert_eq!(run.code, Some(0), "{command:?}: {run:?}");
    run.stdout
}

#[track_caller]
fn report(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

/// Waits until the server has no connection. (A line that contains "0 connections" may be about 10.)
#[track_caller]
fn until_nobody_is_left(server: &Server) {
    let begun = Instant::now();
    loop {
        let table = server.table();
        if table[0] == "0 connections" {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{table:#?}");
    }
}

#[track_caller]
fn ends_well(mut server: Server) {
    server.program.signal(Signal::TERM);
    let lines = server.program.all_lines(0);
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
}

#[test]
#[ignore = "needs root, ip, nft and ss"]
fn every_byte_survives_a_network_that_loses_packets() {
    let Some(network) = Network::new() else { return };
    let rules = format!(
        "table inet lossy {{\n chain arriving {{\n type filter hook input priority 0;\n \
         iifname {CABLE} numgen random mod 100 < 5 counter drop\n }}\n }}"
    );
    for namespace in [&network.server, &network.client] {
        system(inside(namespace, "nft").arg(&rules));
    }
    let server = network.server("");
    for (what, connections, options) in [
        ("small messages", 20, "--size 500 --messages 25"),
        ("an open loop", 20, "--size 200 --rate 400 --messages 40"),
        ("bulk", 4, "--size 300KB --messages 3"),
    ] {
        let begun = Instant::now();
        let options = format!("{options} --timeout 60s --connect-timeout 60s -q");
        let run = run_within(3 * PATIENCE, &mut network.client(&server, connections, &options));
        let report = report(&run);
        assert_eq!((run.code, &report["connections"]["intact"]), (Some(0), &connections.into()), "{what}: {run:?}");
        assert_eq!(report["bytes"]["sent"], report["bytes"]["echoed"], "{what}: {report}");
        let segments = &report["kernel"]["segments"];
        assert!(segments["retransmitted"].as_u64().unwrap() > 0, "{what}: {report}");
        assert_eq!(report["kernel"]["mss"], serde_json::json!({ "min": 1448, "max": 1448 }), "{what}: {report}");
        let again = format!("{} of {}", segments["retransmitted"], segments["sent"]);
        figure(&format!("segments that the client's kernel sent again at 5 % loss each way, {what}"), again);
        figure(&format!("messages intact at 5 % loss each way, {what}"), &report["messages"]["echoed"]);
        figure(&format!("p99 at 5 % loss each way, {what}, µs"), &report["latency_us"]["service"]["p99"]);
        figure(&format!("time at 5 % loss each way, {what}, ms"), begun.elapsed().as_millis());
    }
    for namespace in [&network.server, &network.client] {
        let rules = system(inside(namespace, "nft").args(["list", "ruleset"]));
        let count = rules.split_once("counter packets ").and_then(|(_, rest)| rest.split_once(' ')).unwrap().0;
        assert!(count.parse::<u32>().unwrap() > 20, "{count} packets dropped: {rules}");
        figure("packets that the network lost, one way", count);
    }
    ends_well(server);
}

#[test]
#[ignore = "needs root, ip, nft and ss"]
fn what_the_path_swallows_is_unacknowledged() {
    let Some(network) = Network::new() else { return };
    // What the client sends never arrives; then, what the server acknowledges never comes back.
    for (namespace, which) in [(&network.server, "dport"), (&network.client, "sport")] {
        let server = network.server("");
        let port = server.addr.port();
        let run = network.start_client(&server, 5, "--rate 500 --duration 60s --timeout 2s");
        server.until_table_has("5 connections: 5 established");
        system(inside(namespace, "nft").arg(format!(
            "table inet hole {{\n chain arriving {{\n type filter hook input priority 0;\n \
             iifname {CABLE} tcp {which} {port} drop\n }}\n }}"
        )));
        let run = run.join().unwrap();
        let report = report(&run);
        assert_eq!((run.code, &report["faults_by_kind"]["no_progress"]), (Some(1), &5.into()), "{run:?}");
        for fault in report["faults"].as_array().unwrap() {
            assert_eq!(fault["cause"], "unacknowledged", "{run:?}");
            let detail = fault["detail"].as_str().unwrap();
            assert!(detail.contains("; what was sent is not acknowledged"), "{detail}");
            let (rest, heard) = detail.rsplit_once(" (the peer was last heard ").unwrap_or_else(|| panic!("{detail}"));
            let heard: f64 = heard.strip_suffix(" s ago): the path, or the peer's host").unwrap().parse().unwrap();
            // Where nothing of ours comes through, the server sends its last echo again. Our kernel hears that, and may begin
            // to count its own retransmissions anew.
            if which == "sport" {
                assert!((1.5..10.0).contains(&heard), "{detail}");
                let again = rest.split_once(", though sent again ").and_then(|(_, again)| again.strip_suffix(" times"));
                assert!(again.unwrap_or_else(|| panic!("{detail}")).parse::<u32>().unwrap() >= 2, "{detail}");
            }
        }
        // A connect ends there as well.
        let run = run_within(PATIENCE, &mut network.client(&server, 1, "--connect-timeout 2500ms"));
        let report = self::report(&run);
        let fault = &report["faults"][0];
        assert_eq!((&fault["kind"], &fault["cause"]), (&"connect_timeout".into(), &"unacknowledged".into()), "{run:?}");
        let detail = fault["detail"].as_str().unwrap();
        assert!(detail.contains("; the SYN was sent ") && detail.ends_with(" times"), "{detail}");
    }
}

/// The client's local ports of a server's connections.
fn ports(namespace: &str, server: &Server) -> Vec<u16> {
    let filter = format!("sport = :{}", server.addr.port());
    let list = system(inside(namespace, "ss").args(["-Htn", "state", "established", &filter]));
    let peer = |line: &str| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok();
    list.lines().filter_map(peer).collect()
}

#[test]
#[ignore = "needs root, ip, nft and ss"]
fn a_connection_killed_by_the_administrator_ends_alone() {
    const CONNECTIONS: u32 = 20;
    let Some(network) = Network::new() else { return };
    let server = network.server("");
    let baseline = descriptor_numbers(&server.program).len();
    let run = network.start_client(&server, CONNECTIONS, "--rate 1000 --duration 2s");
    server.until_table_has(&format!("{CONNECTIONS} connections: {CONNECTIONS} established"));
    let ports = ports(&network.server, &server);
    assert_eq!(ports.len(), CONNECTIONS as usize);
    // Five at the server's end, three at the client's.
    for (index, port) in ports.iter().take(8).enumerate() {
        let (namespace, filter) = if index < 5 {
            (&network.server, format!("dport = :{port}"))
        } else {
            (&network.client, format!("sport = :{port}"))
        };
        let killed = system(inside(namespace, "ss").args(["-HKtn", &filter]));
        if killed.trim().is_empty() {
            return skipped("a kernel with CONFIG_INET_DIAG_DESTROY");
        }
    }
    let run = run.join().unwrap();
    let report = report(&run);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(report["connections"]["intact"], CONNECTIONS - 8, "{run:?}");
    assert_eq!(report["faults_by_kind"], serde_json::json!({ "reset": 8 }), "{run:?}");
    assert_eq!(run.stderr.lines().filter(|line| line.starts_with("warning: ")).count(), 8, "{run:?}");
    until_nobody_is_left(&server);
    assert_eq!(descriptor_numbers(&server.program).len(), baseline);
    let told = server.program.lines().iter().filter(|line| line.contains("(os error ")).count();
    assert_eq!(told, 8, "{:#?}", server.program.lines());
    figure("connections killed of 20 under load, the others intact", 8);
    ends_well(server);
}

#[test]
#[ignore = "needs root, ip, nft and ss"]
fn no_local_port_left_fails_clearly() {
    const PORTS: u32 = 100;
    let Some(network) = Network::new() else { return };
    let narrow = "echo 32768 32867 > /proc/sys/net/ipv4/ip_local_port_range";
    system(inside(&network.client, "sh").args(["-c", narrow]));
    let server = network.server("");

    // More connections than ports: nothing is opened at all.
    let refused = run_within(PATIENCE, &mut network.client(&server, 300, ""));
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    assert!(refused.stderr.contains("300 connections need more local ports than there are, 100"), "{refused:?}");
    assert_eq!(server.program.accounted_for("Accepted connection"), 0);

    // Other programs hold ports, so some connects fail for want of one.
    let mut others = network.client(&server, 60, "--hold 10m");
    others.stdout(Stdio::null());
    let others = Program::start(others);
    server.until_table_has("60 connections: 60 established");
    let run = run_within(PATIENCE, &mut network.client(&server, 80, "--messages 10"));
    let report = report(&run);
    let (fit, rest) = (PORTS - 60, 80 - (PORTS - 60));
    assert_eq!((run.code, &report["connections"]["intact"]), (Some(1), &fit.into()), "{run:?}");
    assert_eq!(report["faults_by_kind"], serde_json::json!({ "connect_failed": rest }), "{run:?}");
    let told = run.stderr.lines().filter(|line| line.contains("there is no free local port")).count();
    assert_eq!(told, rest as usize, "one line each: {run:?}");
    drop(others);
    until_nobody_is_left(&server);
    figure("connections of 80 that 40 free ports carried, the others told one by one", fit);
    ends_well(server);
}

#[test]
#[ignore = "needs root, ip, nft and ss"]
fn a_cable_pulled_in_mid_run_ends_both_sides_in_time() {
    let Some(network) = Network::new() else { return };
    let server = network.server("--idle-timeout 1s --stall-timeout 1s --drain-timeout 1s");
    let baseline = descriptor_numbers(&server.program).len();
    let run = network.start_client(&server, 10, "--rate 500 --duration 60s --timeout 1s");
    server.until_table_has("10 connections: 10 established");
    system(Command::new("ip").args(["-n", &network.server, "link", "set", CABLE, "down"]));
    let pulled = Instant::now();

    let run = run.join().unwrap();
    let client_ended = pulled.elapsed();
    let report = report(&run);
    assert_eq!((run.code, &report["connections"]["failed"]), (Some(1), &10.into()), "{run:?}");
    assert_eq!(report["faults_by_kind"], serde_json::json!({ "no_progress": 10 }), "{run:?}");
    assert!(client_ended < Duration::from_secs(5), "{client_ended:?}");
    until_nobody_is_left(&server);
    let server_ended = pulled.elapsed();
    assert!(server_ended < Duration::from_secs(10), "{server_ended:?}");
    assert_eq!(descriptor_numbers(&server.program).len(), baseline);
    figure("client's end after the cable was pulled, at --timeout 1s, ms", client_ended.as_millis());
    figure("server's last connection gone after the cable was pulled, at timeouts of 1s, ms", server_ended.as_millis());

    // Plugged in again, the same server serves.
    system(Command::new("ip").args(["-n", &network.server, "link", "set", CABLE, "up"]));
    let again = run_within(PATIENCE, &mut network.client(&server, 10, "--messages 5"));
    assert_eq!(again.code, Some(0), "{again:?}");
    ends_well(server);
}
