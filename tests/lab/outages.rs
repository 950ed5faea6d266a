//! The client's account of outages, against reloads and failovers of real boxes whose times are known.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::schema::check_against;
use common::{CLIENT, PATIENCE, Program, SERVER, Server, figure, have};
use rustix::process::Signal;
use serde_json::Value;

/// How many connections the client keeps open.
const CONNECTIONS: u64 = 20;

/// How far the reported outage may be from the injected one.
const TOLERANCE: f64 = 0.05;

/// How long a box lets old connections go on when it reloads.
const SHUTDOWN: &str = "300ms";

fn free_addr() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Starts a box that listens at `addr`, and waits until it does.
fn start(command: &mut Command, addr: SocketAddr) -> Program {
    let mut program = Command::new(command.get_program());
    program.args(command.get_args()).stdout(Stdio::null());
    let program = Program::start(program);
    let begun = Instant::now();
    while TcpStream::connect(addr).is_err() {
        assert!(begun.elapsed() < PATIENCE, "it does not listen: {:#?}", program.lines());
        std::thread::sleep(Duration::from_millis(5)); // Nothing tells that another program listens.
    }
    program
}

/// Begins a run of 3 s through the box at `addr`.
fn client(addr: SocketAddr) -> Program {
    let mut command = Command::new(CLIENT);
    command.args([&addr.ip().to_string(), &addr.port().to_string(), &CONNECTIONS.to_string(), "--json"]);
    command.args(["--rate", "2000", "--duration", "3s", "--reconnect"]).stdout(Stdio::piped());
    let program = Program::start(command);
    std::thread::sleep(Duration::from_secs(1)); // Into the middle of the run.
    program
}

/// The report of a run, with its exit code.
fn report(mut client: Program) -> (Option<i32>, Value) {
    let mut text = String::new();
    client.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let report = serde_json::from_str(&text).unwrap();
    check_against("report.schema.json", &report);
    (client.wait().code(), report)
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no time"))
}

/// haproxy in front of these servers.
fn haproxy(folder: &Path, listen: SocketAddr, servers: &str) -> Command {
    let config = format!(
        "global\n hard-stop-after {SHUTDOWN}\ndefaults\n mode tcp\n timeout connect 1s\n timeout client 60s\n \
         timeout server 60s\n retries 0\nfrontend in\n bind {listen}\n default_backend out\nbackend out\n{servers}"
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f", file.to_str().unwrap()]);
    command
}

/// Each connection was ended once by the reload, and answered again within the tolerance.
#[track_caller]
fn each_was_out_for_a_moment(what: &str, report: &Value) {
    let outages = &report["outages"];
    let longest = seconds(&outages["max_seconds"]);
    figure(&format!("{what}: longest outage of a connection"), format!("{longest:.3} s"));
    assert_eq!(outages["count"].as_u64(), Some(CONNECTIONS), "{report}");
    assert!(longest < TOLERANCE, "the next process was there all the time: {report}");
    assert_eq!(report["connections"]["intact"].as_u64(), Some(CONNECTIONS), "{report}");
    assert_eq!(report["messages"]["missed"], 0, "{report}");
}

#[test]
#[ignore = "needs haproxy"]
fn a_reload_of_haproxy_that_cuts_old_connections_is_an_outage_of_moments() {
    if !have(&["haproxy"]) {
        return;
    }
    let (server, addr, folder) = (Server::start(&[]), free_addr(), tempfile::tempdir().unwrap());
    let mut command = haproxy(folder.path(), addr, &format!(" server echo {}\n", server.addr));
    let old = start(&mut command, addr);
    let client = client(addr);
    let _next = start(command.args(["-sf", &old.child.id().to_string()]), addr);
    let (code, report) = report(client);
    assert_eq!(code, Some(1), "{report}");
    each_was_out_for_a_moment("haproxy -sf, hard-stop-after 300ms", &report);
}

#[test]
#[ignore = "needs nginx with its stream module"]
fn a_reload_of_nginx_that_cuts_old_connections_is_an_outage_of_moments() {
    if !have(&["nginx"]) {
        return;
    }
    let (server, addr, folder) = (Server::start(&[]), free_addr(), tempfile::tempdir().unwrap());
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nworker_processes 1;\n\
         worker_shutdown_timeout {SHUTDOWN};\npid {};\nevents {{ worker_connections 1024; }}\n\
         stream {{ server {{ listen {addr}; proxy_pass {}; }} }}\n",
        folder.path().join("nginx.pid").display(),
        server.addr
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let nginx = start(Command::new("nginx").args(["-e", "stderr", "-c", file.to_str().unwrap()]), addr);
    let client = client(addr);
    nginx.signal(Signal::HUP);
    let (code, report) = report(client);
    nginx.signal(Signal::QUIT);
    assert_eq!(code, Some(1), "{report}");
    each_was_out_for_a_moment("nginx reload, worker_shutdown_timeout 300ms", &report);
}

#[test]
#[ignore = "needs haproxy"]
fn the_outage_of_a_backend_that_fails_over_is_the_time_without_a_backend() {
    if !have(&["haproxy"]) {
        return;
    }
    let (mut first, addr, folder) = (Server::start(&[]), free_addr(), tempfile::tempdir().unwrap());
    let second = free_addr();
    let servers = format!(
        " option redispatch\n server first {} check inter 5ms fall 1 on-marked-down shutdown-sessions\n \
         server second {second} check inter 5ms rise 1 backup\n",
        first.addr
    );
    let _haproxy = start(&mut haproxy(folder.path(), addr, &servers), addr);
    let client = client(addr);
    first.program.signal(Signal::KILL);
    first.program.wait();
    let gone = Instant::now();
    std::thread::sleep(Duration::from_millis(500)); // The injected outage.
    let mut command = Command::new(SERVER);
    command.args([&second.ip().to_string(), &second.port().to_string()]);
    let _second = Server::start_command(command);
    let injected = gone.elapsed().as_secs_f64();
    let (code, report) = report(client);
    assert_eq!(code, Some(1), "{report}");
    let reported = seconds(&report["outages"]["gone"]["max_seconds"]);
    figure("haproxy fails over: injected and reported", format!("{injected:.3} s and {reported:.3} s"));
    assert!((reported - injected).abs() < TOLERANCE, "{injected} s injected: {report}");
    assert_eq!(report["outages"]["count"].as_u64(), Some(CONNECTIONS), "{report}");
    assert_eq!(report["messages"]["missed"], 0, "{report}");
}
