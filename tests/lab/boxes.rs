//! The probe through real boxes: what each of them makes of each behaviour, checked against an independent script.
//!
//! Prints the table of `docs/path.md`.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::schema::check_against;
use common::{PATIENCE, PROBE, Program, SERVER, Server, built, figure, have, run, run_within, skipped};
use serde_json::Value;

const PATH_PY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/path.py");

const NAMES: [&str; 7] = ["connect", "sizes", "half-close", "slow-reader", "idle", "long", "together"];

/// What a box makes of each of [`NAMES`], one thing `or` another if it depends on the moment; `None`: it is not tried. socat and xinetd start a process for each connection,
/// and 250 at a time are too many.
type Verdicts = [Option<&'static str>; NAMES.len()];

const C: Option<&str> = Some("carried");
const CARRIED: Verdicts = [C; NAMES.len()];

/// The verdicts of a box that carries all but these.
fn but<const N: usize>(others: [(&str, Option<&'static str>); N]) -> Verdicts {
    let mut verdicts = CARRIED;
    for (name, verdict) in others {
        verdicts[NAMES.iter().position(|&known| known == name).unwrap()] = verdict;
    }
    verdicts
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null());
    command
}

/// A box that listens on a port of its own.
struct Running {
    name: &'static str,
    addr: SocketAddr,
    expected: Verdicts,
    _programs: Vec<Program>,
}

/// Starts the programs of a box, and waits until it accepts connections.
fn start(name: &'static str, port: u16, expected: Verdicts, commands: Vec<Command>) -> Running {
    let programs: Vec<Program> = commands.into_iter().map(Program::start).collect();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let begun = Instant::now();
    while TcpStream::connect(addr).is_err() {
        let lines: Vec<_> = programs.iter().map(Program::lines).collect();
        assert!(begun.elapsed() < PATIENCE, "{name} does not listen: {lines:#?}");
        std::thread::sleep(Duration::from_millis(10)); // Nothing tells that another program listens.
    }
    Running { name, addr, expected, _programs: programs }
}

/// Each box in turn, in front of `server`.
fn boxes(server: SocketAddr, folder: &Path) -> Vec<Box<dyn Fn() -> Running + '_>> {
    let file = move |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let to = server.port();
    let haproxy = move |name, expected, client: &str, maxconn: &str| {
        let port = free_port();
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client {client}\n timeout server 60s\n\
             frontend in\n bind 127.0.0.1:{port}\n {maxconn}\n default_backend out\n\
             backend out\n server echo 127.0.0.1:{to}\n"
        );
        start(name, port, expected, vec![command("haproxy", &["-db", "-f", &file("haproxy.cfg", &config)])])
    };
    let nginx = move |name, expected, half_close: &str| {
        let port = free_port();
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\npid {};\n\
             events {{ worker_connections 1024; }}\n\
             stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{to}; {half_close} }} }}\n",
            folder.join("nginx.pid").display()
        );
        start(name, port, expected, vec![command("nginx", &["-e", "stderr", "-c", &file("nginx.conf", &config)])])
    };
    let socat = move |name, expected, options: &[&str]| {
        let port = free_port();
        let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,backlog=256");
        let target = format!("TCP:127.0.0.1:{to}");
        start(name, port, expected, vec![command("socat", &[options, &[&listen, &target]].concat())])
    };
    let rinetd = move || {
        let port = free_port();
        let config = file("rinetd.conf", &format!("127.0.0.1 {port} 127.0.0.1 {to}\n"));
        let expected = but([("half-close", Some("cut"))]);
        start("rinetd", port, expected, vec![command("rinetd", &["-f", "-c", &config])])
    };
    let stunnel = move || {
        let (front, back) = (free_port(), free_port());
        let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
        let made = run(Command::new("openssl")
            .args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout".split(' '))
            .args([&key, Path::new("-out"), &certificate]));
        assert_eq!(made.code, Some(0), "{made:?}");
        let common = "foreground = yes\npid =\nsyslog = no\ndebug = warning\n[echo]\n";
        let near = format!("{common}client = yes\naccept = 127.0.0.1:{front}\nconnect = 127.0.0.1:{back}\n");
        let far = format!(
            "{common}accept = 127.0.0.1:{back}\nconnect = 127.0.0.1:{to}\ncert = {}\nkey = {}\n",
            certificate.display(),
            key.display()
        );
        let ends = [file("far.conf", &far), file("near.conf", &near)];
        // It loses the end of what a pausing reader has not read yet, in some runs.
        let expected = but([("half-close", Some("carried or cut"))]);
        start("stunnel on both sides", front, expected, ends.map(|end| command("stunnel", &[&end])).into())
    };
    let xinetd = move || {
        let port = free_port();
        let config = format!(
            "defaults\n{{\n instances = UNLIMITED\n cps = 10000 1\n}}\nservice echo\n{{\n type = INTERNAL UNLISTED\n \
             id = echo-stream\n socket_type = stream\n protocol = tcp\n port = {port}\n bind = 127.0.0.1\n user = root\n \
             wait = no\n}}\n"
        );
        let expected = but([("together", None)]);
        start(
            "xinetd's echo",
            port,
            expected,
            vec![command("xinetd", &["-dontfork", "-f", &file("xinetd.conf", &config)])],
        )
    };
    let ours = move || {
        let port = free_port();
        let mut proxy = Command::new(built("--example", "proxy"));
        proxy.args(["127.0.0.1", &port.to_string(), "127.0.0.1", &to.to_string(), "-q"]);
        start("examples/proxy", port, CARRIED, vec![proxy])
    };
    let direct = move || Running { name: "none", addr: server, expected: CARRIED, _programs: Vec::new() };
    let ended = [("idle", Some("cut"))];
    let full = [("together", Some("silent"))];
    let nothing_back = [("half-close", Some("cut"))];
    // Behind a FIN it waits 0.5 s for the other direction, and with -t0 not at all; the reader pauses for 1.5 s.
    let impatient = [("half-close", Some("cut")), ("together", None)];
    vec![
        Box::new(direct),
        Box::new(ours),
        Box::new(move || haproxy("haproxy", CARRIED, "60s", "")),
        Box::new(move || haproxy("haproxy, timeout client 2s", but(ended), "2s", "")),
        Box::new(move || haproxy("haproxy, maxconn 50", but(full), "60s", "maxconn 50")),
        Box::new(move || nginx("nginx stream", but(nothing_back), "")),
        Box::new(move || nginx("nginx stream, proxy_half_close on", CARRIED, "proxy_half_close on;")),
        Box::new(move || socat("socat", but(impatient), &[])),
        Box::new(move || socat("socat -t0", but(impatient), &["-t0"])),
        Box::new(rinetd),
        Box::new(stunnel),
        Box::new(xinetd),
    ]
}

/// The rows of the probe, by name: the verdict, and what was seen.
fn rows(command: &mut Command) -> Vec<(String, String, String)> {
    let run = run_within(5 * PATIENCE, command.arg("--json"));
    let object: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    check_against("probe.schema.json", &object);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = object["rows"].as_array().unwrap();
    rows.iter().map(|row| (text(&row["name"]), text(&row["verdict"]), text(&row["seen"]))).collect()
}

/// Where the script sees something else than the probe.
fn disagreements(rows: &[(String, String, String)], script: &Value, certain: impl Fn(&str) -> bool) -> Vec<String> {
    let is_true = |value: &Value| value.as_bool().unwrap();
    let says = [
        ("half-close", script["half-close"].as_array().unwrap().iter().all(|case| is_true(&case["whole"]))),
        ("idle", script["idle"].as_object().unwrap().values().all(is_true)),
        ("sizes", script["sizes"].as_object().unwrap().values().all(is_true)),
    ];
    let verdict = |name| rows.iter().find(|row| row.0 == name).map(|row| row.1 == "carried");
    let differs = says.iter().filter(|&&(name, whole)| certain(name) && verdict(name) != Some(whole));
    differs.map(|(name, whole)| format!("{name}: the script says {whole}: {script}")).collect()
}

#[test]
#[ignore = "needs haproxy, nginx, socat, rinetd, stunnel, xinetd and python3, and three minutes"]
fn each_box_makes_of_each_behaviour_what_is_known_of_it() {
    if !have(&["haproxy", "nginx", "socat", "rinetd", "stunnel", "openssl", "xinetd", "python3"]) {
        return;
    }
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut table = format!("| box | {} |\n|{}\n", NAMES.join(" | "), " --- |".repeat(NAMES.len() + 1));
    let (mut details, mut wrong) = (String::new(), Vec::new());
    for start in boxes(server.addr, folder.path()) {
        let running = start();
        let port = running.addr.port().to_string();
        let tried = NAMES.iter().zip(running.expected).filter(|(_, verdict)| verdict.is_some());
        let only: Vec<&str> = tried.map(|(&name, _)| name).collect();
        let mut probe = Command::new(PROBE);
        let rows = rows(probe.args(["127.0.0.1", &port, "--idle-max", "4s", "--only", &only.join(",")]));
        let script = run_within(2 * PATIENCE, Command::new("python3").args([PATH_PY, "127.0.0.1", &port]));
        let script: Value = serde_json::from_str(&script.stdout).unwrap_or_else(|_| panic!("{script:?}"));
        let _ = write!(table, "| {} |", running.name);
        for (name, expected) in NAMES.iter().zip(running.expected) {
            let found = rows.iter().find(|row| row.0 == *name);
            let as_expected = match (found, expected) {
                (Some(row), Some(expected)) => expected.split(" or ").any(|verdict| verdict == row.1),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            let _ = write!(table, " {} |", if as_expected { expected.unwrap_or("not tried") } else { "?" });
            if !as_expected {
                wrong.push(format!("{}: {name} is expected to be {expected:?}: {found:?}", running.name));
            }
        }
        table.push('\n');
        for (name, verdict, seen) in rows.iter().filter(|row| row.1 != "carried") {
            let _ = writeln!(details, "- {}, {name}: {verdict}: {seen}", running.name);
        }
        // What depends on the moment may differ between two looks at it.
        let certain = |name: &str| {
            !NAMES
                .iter()
                .zip(running.expected)
                .any(|(&known, verdict)| known == name && verdict.is_some_and(|verdict| verdict.contains(" or ")))
        };
        wrong.extend(disagreements(&rows, &script, certain).iter().map(|line| format!("{}: {line}", running.name)));
    }
    println!("{table}\n{details}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Two hosts with a router between them, each in a network namespace of its own, gone with the value.
struct Routed {
    client: String,
    router: String,
    server: String,
}

const SERVER_ADDR: &str = "10.201.2.1";

impl Routed {
    /// A new network; `None`, with a line that says so, where none can be made.
    fn new(name: &str) -> Option<Routed> {
        if !have(&["ip", "nft"]) {
            return None;
        }
        let name = |end: &str| format!("multiconn-{}-{name}-{end}", std::process::id());
        let network = Routed { client: name("client"), router: name("router"), server: name("server") };
        let made = run(Command::new("ip").args(["netns", "add", &network.router]));
        if made.code != Some(0) {
            skipped(&format!("the right to make network namespaces ({})", made.stderr.trim()));
            return None;
        }
        let ends = [
            (&network.client, "near", "10.201.1.1", "10.201.1.254"),
            (&network.server, "far", SERVER_ADDR, "10.201.2.254"),
        ];
        for (host, cable, addr, gateway) in ends {
            system(&format!("ip netns add {host}"));
            system(&format!("ip link add {cable} netns {} type veth peer name cable netns {host}", network.router));
            system(&format!("ip -n {} addr add {gateway}/24 dev {cable}", network.router));
            system(&format!("ip -n {} link set {cable} up", network.router));
            system(&format!("ip -n {host} addr add {addr}/24 dev cable"));
            system(&format!("ip -n {host} link set cable up"));
            system(&format!("ip -n {host} link set lo up"));
            system(&format!("ip -n {host} route add default via {gateway}"));
        }
        network.route("sysctl -qw net.ipv4.ip_forward=1");
        Some(network)
    }

    /// Runs one of the system's tools on the router.
    #[track_caller]
    fn route(&self, command: &str) {
        system(&format!("ip netns exec {} {command}", self.router));
    }

    /// A server at the far end.
    fn server(&self) -> Server {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.server, SERVER, SERVER_ADDR, "0"]);
        Server::start_command(command)
    }

    /// The probe at the near end, with these options, which are separated by spaces.
    fn probe(&self, server: &Server, options: &str) -> Command {
        let mut command = Command::new("ip");
        let port = server.addr.port().to_string();
        command.args(["netns", "exec", &self.client, PROBE, SERVER_ADDR, &port]).args(options.split_whitespace());
        command
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.router, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs one of the system's tools.
#[track_caller]
fn system(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let run = run(Command::new(words[0]).args(&words[1..]));
    assert_eq!(run.code, Some(0), "{command}: {run:?}");
}

/// The two numbers in what was seen, with its unit's multiple.
fn numbers(seen: &str) -> Vec<f64> {
    seen.split(' ').filter_map(|word| word.parse().ok()).collect()
}

#[test]
#[ignore = "needs root, ip and nft"]
fn a_router_that_forgets_a_connection_is_narrowed_to_half_a_second() {
    let Some(network) = Routed::new("forgets") else { return };
    network.route(
        "nft add table inet forgets { chain forwarded { type filter hook forward priority 0 ; ct state invalid drop ; } ; }",
    );
    network.route(
        "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=3 net.netfilter.nf_conntrack_tcp_loose=0",
    );
    let server = network.server();
    let rows = rows(&mut network.probe(&server, "--only sizes,half-close,idle,long --idle-max 8s"));
    for (name, verdict, seen) in &rows {
        assert_eq!(verdict, if name == "idle" { "silent" } else { "carried" }, "{name}: {seen}");
    }
    let idle = rows.iter().find(|row| row.0 == "idle").unwrap();
    assert!(idle.2.ends_with("; with TCP keepalive every second it lives"), "{idle:?}");
    let limits = numbers(&idle.2);
    // An entry of netfilter's lives up to a second longer than its time: it is looked for now and then.
    assert!(limits[1] - limits[0] <= 0.55 && limits[0] < 4.0 && limits[1] >= 3.0, "{idle:?}");
    figure("a router that forgets after 3 s", &idle.2);
}

#[test]
#[ignore = "needs root, ip and nft"]
fn a_hole_in_the_mtu_is_found_within_eight_bytes() {
    let Some(network) = Routed::new("hole") else { return };
    system(&format!("ip -n {} link set far mtu 1300", network.router));
    // "Fragmentation needed" never arrives.
    network.route(
        "nft add table inet hole { chain leaving { type filter hook output priority 0 ; ip protocol icmp drop ; } ; }",
    );
    let server = network.server();
    let rows = rows(&mut network.probe(&server, "--only sizes --timeout 2s"));
    let sizes = rows.iter().find(|row| row.0 == "sizes").unwrap();
    assert_eq!(sizes.1, "silent", "{sizes:?}");
    // 1,300 bytes less 20 for IP, 20 for TCP and 12 for its timestamps.
    let limits = numbers(&sizes.2);
    assert!(limits[0] <= 1_248.0 && 1_248.0 < limits[1] && limits[1] - limits[0] <= 8.0, "{sizes:?}");
    figure("a hole in the MTU at 1,300 bytes", &sizes.2);
}
