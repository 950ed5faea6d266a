//! The proxies side by side: what each is, how it is started, and why one is absent.
//!
//! Owns their list. Each relays to an echo server of its own; `TCP_NODELAY` is on wherever it is offered.

use std::ffi::OsString;
use std::process::Command;

use crate::peers::{FLOOR, OURS, Peer, Places, Proxy, Version, common_versions, line, program, said_by};

/// All of them, the floor first.
pub fn all(places: &Places) -> Vec<Peer> {
    let peer = |name, what, command, proxy| Peer { name, what, command, spins: false, near_the_floor: false, proxy };
    let behind = || {
        let command = program(places, "peer-floor", &["{port}"]);
        Proxy { backend: Box::new(peer("backend", "an echo", Ok(command), None)), config: None, forks: false }
    };
    let configured = |file| Some(Proxy { config: Some(places.source(file)), ..behind() });
    let own = |name| Ok(program(places, name, &["{port}", "{backend}"]));
    let (haproxy, nginx) = (["-db", "-f", "{config}"], ["-e", "stderr", "-c", "{config}"]);
    let accepting = "TCP-LISTEN:{port},bind=127.0.0.1,backlog=4096,reuseaddr,nodelay,fork";
    let socat = [accepting, "TCP:127.0.0.1:{backend},nodelay"];
    vec![
        peer(FLOOR, "raw epoll, edge-triggered, one shared buffer", own("peer-proxy-floor"), Some(behind())),
        peer(OURS, "examples/proxy -q, all else as it comes", ours(places), Some(behind())),
        peer("tokio", "tokio, current_thread, copy_bidirectional", own("peer-proxy-tokio"), Some(behind())),
        peer("haproxy", "haproxy, mode tcp, one thread", installed("haproxy", &haproxy), configured("haproxy.cfg")),
        peer("nginx", "nginx, stream module, one worker", installed("nginx", &nginx), configured("nginx.conf")),
        peer(
            "socat",
            "socat, a process a connection",
            installed("socat", &socat),
            Some(Proxy { forks: true, ..behind() }),
        ),
    ]
}

fn ours(places: &Places) -> Result<Vec<OsString>, String> {
    let proxy = places.programs.join("examples/proxy");
    said_by(Command::new(&proxy).arg("--help"))?;
    Ok(line(proxy, ["-q", "127.0.0.1", "{port}", "127.0.0.1", "{backend}"].map(OsString::from)))
}

/// The command line of a program that this machine may have.
fn installed(name: &str, arguments: &[&str]) -> Result<Vec<OsString>, String> {
    version(name)?;
    Ok(line(name, arguments.iter().map(OsString::from)))
}

/// What a program says about its version, if it is installed.
fn version(name: &str) -> Result<String, String> {
    match name {
        // Its first line is about who wrote it.
        "socat" => said_by(Command::new(name).arg("-V")).map(|text| text.lines().skip(1).take(1).collect()),
        _ => said_by(Command::new(name).arg("-v")),
    }
}

/// The versions of what the proxies are made of.
pub fn versions(places: &Places) -> Vec<Version> {
    let mut versions = common_versions(places, &["mio", "tokio", "libc"]);
    versions.extend(["haproxy", "nginx", "socat"].map(|name| (name, version(name))));
    versions
}
