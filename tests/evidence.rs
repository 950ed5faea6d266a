//! What a report says to those who look for a fault elsewhere: which connection, when, from where, and how to repeat the run.
#![cfg(feature = "cli")]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime};

use common::relay::Relay;
use common::{CLIENT, PATIENCE, Program, Run, Server, client, echo, report, reset, serving};
use multiconn::client::side::Side;
use multiconn::client::{Client, Plan};
use multiconn::report::Report;
use multiconn::{Event, EventLoop, Limits, Role};
use rustix::process::Signal;
use serde_json::Value;

#[track_caller]
fn json(addr: SocketAddr, connections: u32, args: &[&str]) -> Value {
    report(addr, connections, args).1
}

#[track_caller]
fn time(value: &Value) -> SystemTime {
    humantime::parse_rfc3339(value.as_str().unwrap()).unwrap()
}

#[track_caller]
fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The faults in this file, each of which is an object on a line of its own.
#[track_caller]
fn faults_in(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The lines of a report's text below the counts of faults.
#[track_caller]
fn fault_lines(run: &Run) -> Vec<&str> {
    let lines = run.stdout.lines().skip_while(|line| !line.starts_with("faults ")).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| line.starts_with("  ")).collect();
    assert!(!lines.is_empty(), "{run:?}");
    lines
}

#[test]
fn a_fault_says_which_connection_it_was_and_how_that_stood() {
    const PAUSE: Duration = Duration::from_millis(300);
    let (seen, reset_from) = mpsc::channel();
    let addr = serving(move |number, mut stream| {
        if number != 7 {
            return echo(&stream);
        }
        let mut messages = [0; 500];
        stream.read_exact(&mut messages[..200]).unwrap();
        stream.write_all(&messages[..200]).unwrap();
        // Of the first three messages two are back, and two more were sent for them.
        stream.read_exact(&mut messages[200..]).unwrap();
        std::thread::sleep(PAUSE); // Is to be measured.
        seen.send(stream.peer_addr().unwrap()).unwrap();
        reset(stream);
    });
    let before = SystemTime::now();
    let report = json(addr, 20, &["--connect-window", "1", "--size", "100", "--pipeline", "3", "--messages", "10"]);
    assert_eq!((&report["connections"]["failed"], &report["faults_left_out"]), (&1.into(), &0.into()), "{report}");
    let fault = &report["faults"][0];
    assert_eq!((&fault["connection"], &fault["kind"]), (&7.into(), &"reset".into()), "{fault}");
    assert_eq!(fault["local"], reset_from.recv().unwrap().to_string(), "the server saw this address: {fault}");
    assert_eq!(fault["peer"], addr.to_string(), "{fault}");
    let counts = ["sent", "returned", "in_flight"].map(|name| fault[name].as_u64().unwrap());
    assert_eq!(counts, [500, 200, 3], "{fault}");

    let [at, age, idle] = ["seconds", "age_seconds", "idle_seconds"].map(|name| seconds(&fault[name]));
    assert!(PAUSE.as_secs_f64() <= idle && idle <= age && age <= at, "{fault}");
    assert!(at <= seconds(&report["elapsed_seconds"]), "{report}");
    let [started, fault_time, ended] = [&report["started"], &fault["time"], &report["ended"]].map(time);
    assert!(started < fault_time && fault_time <= ended && ended <= SystemTime::now(), "{report}");
    // Times have milliseconds, and the rest is cut.
    assert!(started + Duration::from_millis(1) > before, "{report}");
    let apart = fault_time.duration_since(started).unwrap().as_secs_f64();
    assert!((apart - at).abs() < 0.01, "{apart}: {report}");
    if cfg!(target_os = "linux") {
        let kernel = &fault["kernel"];
        assert_eq!((&kernel["state"], &kernel["unacknowledged"]), (&"UNCONN".into(), &0.into()), "{fault}");
        assert!(kernel["retransmitted"].is_u64(), "{fault}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernels_state_of_a_faulty_connection_has_the_name_that_ss_gives_it() {
    let finishes = serving(|_, stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = (&stream).read_to_end(&mut Vec::new());
    });
    let report = json(finishes, 1, &["--size", "10"]);
    assert_eq!(report["faults"][0]["kernel"]["state"], "CLOSE-WAIT", "{report}");

    let changes = serving(|_, mut stream| {
        let _ = stream.write_all(b"not an echo");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let report = json(changes, 1, &["--size", "10"]);
    assert_eq!(report["faults"][0]["kernel"]["state"], "ESTAB", "{report}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_connect_that_nobody_answers_has_its_port_and_its_state() {
    // A full backlog answers no further SYN.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let within = Duration::from_millis(200);
    let _fillers: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&addr, within).ok()).collect();
    let report = json(addr, 1, &["--connect-timeout", "300ms"]);
    let fault = &report["faults"][0];
    let local: SocketAddr = fault["local"].as_str().unwrap().parse().unwrap();
    assert!(local.ip().is_loopback() && local.port() > 0, "{fault}");
    assert_eq!((&fault["kernel"]["state"], &fault["in_flight"]), (&"SYN-SENT".into(), &0.into()), "{fault}");
    assert!(seconds(&fault["age_seconds"]) >= 0.3, "{fault}");
}

#[test]
fn where_nothing_is_established_the_target_is_the_first_address_and_there_are_no_others() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let report = json(closed, 2, &[]);
    assert_eq!((&report["target"], &report["targets"]), (&closed.to_string().into(), &Value::Array(Vec::new())));
}

#[test]
fn all_of_1500_faults_are_in_the_file_and_the_text_stays_short() {
    const CONNECTIONS: u16 = 1500;
    let mut server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faults.jsonl");
    let (port, connections) = (server.addr.port().to_string(), CONNECTIONS.to_string());
    let mut command = Command::new(CLIENT);
    command.args(["127.0.0.1", &port, &connections, "-q", "--rate", "3000", "--duration", "1m", "--faults"]);
    let mut program = Program::start({
        command.arg(&path).stdout(Stdio::piped());
        command
    });
    server.until_table_has(&format!("{CONNECTIONS} connections: {CONNECTIONS} established"));
    server.program.child.kill().unwrap();
    let mut stdout = String::new();
    program.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    program.ends_with(1);

    let faults = faults_in(&path);
    let numbers: BTreeSet<u64> = faults.iter().map(|fault| fault["connection"].as_u64().unwrap()).collect();
    assert_eq!((faults.len(), numbers), (CONNECTIONS.into(), (1..=CONNECTIONS.into()).collect()));
    let locals: BTreeSet<&str> = faults.iter().map(|fault| fault["local"].as_str().unwrap()).collect();
    assert_eq!(locals.len(), usize::from(CONNECTIONS), "each has its own port");
    assert!(faults.windows(2).all(|pair| seconds(&pair[0]["seconds"]) <= seconds(&pair[1]["seconds"])));

    let run = Run { code: Some(1), stdout, stderr: String::new() };
    let lines = fault_lines(&run);
    assert!(lines.len() <= 10, "{run:?}");
    let more = lines.iter().find(|line| line.contains(" more within ")).unwrap_or_else(|| panic!("{run:?}"));
    assert!(more.contains(" ms of each other, from ") && more.contains(" s on, local ports "), "{more}");
    assert!(run.stdout.lines().count() <= 40, "{run:?}");
}

#[test]
fn json_has_every_fault() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faults.jsonl");
    let report = json(closed, 200, &["--faults", path.to_str().unwrap()]);
    let faults = report["faults"].as_array().unwrap();
    assert_eq!((faults.len(), &report["faults_left_out"]), (200, &0.into()));
    assert_eq!(faults_in(&path), *faults, "the same objects");
}

#[test]
fn a_fault_is_in_the_file_while_the_run_goes_on() {
    let addr = serving(|number, stream| if number == 1 { reset(stream) } else { echo(&stream) });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faults.jsonl");
    let mut command = Command::new(CLIENT);
    let port = addr.port().to_string();
    command.args(["127.0.0.1", &port, "3", "-q", "--rate", "30", "--duration", "1m", "--faults"]).arg(&path);
    let mut program = Program::start({
        command.stdout(Stdio::null());
        command
    });
    let begun = Instant::now();
    while std::fs::read_to_string(&path).map_or(0, |text| text.lines().count()) == 0 {
        assert!(begun.elapsed() < PATIENCE, "no fault: {:#?}", program.lines());
        std::thread::sleep(Duration::from_millis(1)); // Nothing tells that a file has grown.
    }
    assert_eq!(faults_in(&path)[0]["kind"], "reset");
    assert_eq!(program.child.try_wait().unwrap(), None, "it goes on");
    program.signal(Signal::INT);
    program.ends_with(130);
    assert_eq!(faults_in(&path).len(), 1);
}

#[test]
fn a_file_of_faults_that_cannot_be_written_is_refused_beforehand_or_told_behind_the_report() {
    let server = Server::start(&[]);
    let run = client(server.addr, 3, &["-q", "--faults", "/nonexistent/faults.jsonl"]);
    assert_eq!((run.code, run.stderr.lines().count()), (Some(1), 1), "{run:?}");
    assert!(run.stderr.starts_with("error: cannot write /nonexistent/faults.jsonl: "), "{run:?}");
    assert_eq!(server.program.count("Accepted"), 0, "before the first connect");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = client(closed, 3, &["-q", "--faults", "/dev/full"]);
    assert!(run.stdout.contains("\nverdict      faulty"), "{run:?}");
    assert_eq!((run.code, run.stderr.lines().count()), (Some(1), 1), "{run:?}");
    assert!(run.stderr.starts_with("error: cannot write /dev/full: "), "{run:?}");
}

#[test]
fn the_line_about_a_fault_has_its_local_address() {
    let (seen, reset_from) = mpsc::channel();
    let addr = serving(move |_, mut stream| {
        stream.read_exact(&mut [0; 10]).unwrap();
        seen.send(stream.peer_addr().unwrap()).unwrap();
        reset(stream);
    });
    let run = client(addr, 1, &["--size", "10"]);
    let line = format!("connection 1 to {addr} from {} reset: ", reset_from.recv().unwrap());
    assert!(run.stderr.starts_with(&format!("warning: {line}")), "{run:?}");
    assert!(fault_lines(&run)[0].starts_with(&format!("  {line}")), "{run:?}");
}

#[test]
fn the_server_is_asked_about_no_more_faults_than_people_see() {
    let partner = Server::start(&["--probes"]);
    let relay = Relay { flips_there: Some(700), ..Relay::default() }.start(&[partner.addr]);
    let report = json(relay, 30, &["--size", "1000"]);
    let faults = report["faults"].as_array().unwrap();
    let ways = faults.iter().filter(|fault| fault["way"] == "there").count();
    let unasked = faults.iter().filter(|fault| fault["way"] == Value::Null).count();
    assert_eq!((ways, unasked), (10, 20), "{report}");
    assert_eq!(partner.program.count("Accepted"), 30 + 10);
}

#[test]
fn a_report_says_which_program_made_it_and_when_and_where() {
    let server = Server::start(&[]);
    let before = SystemTime::now();
    let report = json(server.addr, 2, &["--duration", "300ms"]);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(report["host"], host);
    let port = server.addr.port().to_string();
    let command_line = [CLIENT, "127.0.0.1", &port, "2", "-q", "--json", "--duration", "300ms"];
    assert_eq!(report["command_line"], Value::from(command_line.to_vec()));
    let (started, ended) = (time(&report["started"]), time(&report["ended"]));
    assert!(started + Duration::from_millis(1) > before && ended <= SystemTime::now(), "{report}");
    let took = ended.duration_since(started).unwrap().as_secs_f64();
    assert!((took - seconds(&report["elapsed_seconds"])).abs() < 0.01, "{report}");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = client(closed, 1, &["-q"]);
    let started = run.stdout.lines().find_map(|line| line.strip_prefix("started      ")).unwrap();
    let (started, on) = started.split_once(", on ").unwrap();
    assert_eq!(on, host);
    assert!(humantime::parse_rfc3339(started).unwrap() >= before, "{run:?}");
}

/// A server that sends the bytes of each connection to the test when it is over.
fn recorder() -> (SocketAddr, Receiver<Vec<u8>>) {
    let (record, records) = mpsc::channel();
    let addr = serving(move |_, mut stream| {
        let mut bytes = vec![0; 3000];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        record.send(bytes).unwrap();
    });
    (addr, records)
}

#[test]
fn the_seed_of_a_report_sends_the_same_bytes_again() {
    let (addr, records) = recorder();
    let sent = |args: &[&str]| {
        let report = json(addr, 1, &[&["--size", "3000"], args].concat());
        assert_eq!(report["connections"]["intact"], 1, "{report}");
        (report["seed"].as_str().unwrap().to_owned(), records.recv_timeout(PATIENCE).unwrap())
    };
    let (seed, bytes) = sent(&[]);
    assert_eq!(seed.len(), 16, "{seed}");
    assert!(sent(&["--seed", &seed]) == (seed, bytes.clone()), "the same bytes");
    let (other, others) = sent(&["--seed", "2A"]);
    assert_eq!(other, "000000000000002a");
    assert!(others != bytes && sent(&["--seed", "2a"]).1 == others, "its own bytes, and the same again");
    assert!(sent(&[]).1 != bytes, "without a seed each run has its own");
}

#[test]
fn texts_have_no_seed_and_take_none() {
    let server = Server::start(&[]);
    assert_eq!(json(server.addr, 1, &[])["seed"], Value::Null);
    for (args, part) in [
        (&["--seed", "1", "-m", "text"][..], "--seed is for generated messages"),
        (&["--seed", "1"], "--seed needs an end"),
        (&["--seed", "0x1", "--size", "1"], "hex digits"),
    ] {
        let run = client(server.addr, 1, args);
        assert!(run.code == Some(2) && run.stderr.contains(part), "{run:?}");
    }
}

/// A client whose first address takes one connection, and refuses those that come later.
struct OneThere {
    client: Client,
    listener: Option<TcpListener>,
}

impl Role<Side> for OneThere {
    fn advance(&mut self, event_loop: &mut EventLoop<Side>) -> bool {
        self.client.advance(event_loop)
    }

    fn handle(&mut self, event: Event<Side>, event_loop: &mut EventLoop<Side>) {
        if let (Event::Connected { .. }, Some(listener)) = (&event, self.listener.take()) {
            let (stream, _) = listener.accept().unwrap();
            // A program that another test starts right now has a copy of it, so closing it alone may come too early.
            socket2::SockRef::from(&listener).shutdown(Shutdown::Both).unwrap();
            std::thread::spawn(move || echo(&stream));
        }
        self.client.handle(event, event_loop);
    }
}

#[test]
fn the_target_is_the_address_that_most_connections_were_established_to() {
    let server = Server::start(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let first = listener.local_addr().unwrap();
    let plan = Plan { connect_window: Some(1), ..Plan::tutorial(5) };
    let mut event_loop = EventLoop::<Side>::new(Limits::default(), plan.timeouts()).unwrap();
    let mut role = OneThere { client: Client::new(vec![first, server.addr], &plan), listener: Some(listener) };
    event_loop.run(&mut role).unwrap();
    let report = Report::of(&role.client.into_findings(&event_loop), &[]);
    assert!(report.is_intact(), "{report}");
    assert_eq!((report.target, &*report.targets), (server.addr, &[server.addr, first][..]), "{report}");
    assert!(report.to_string().starts_with(&format!("target       {}, {first}\n", server.addr)), "{report}");
}

/// The addresses from which a server accepted connections, in that order.
fn accepted(server: &Server) -> Vec<String> {
    let lines = server.program.lines();
    lines.iter().filter_map(|line| line.strip_prefix("Accepted connection from ")).map(str::to_owned).collect()
}

#[test]
fn the_table_of_a_client_has_the_numbers_of_its_connections() {
    let server = Server::start(&[]);
    let mut command = Command::new(CLIENT);
    let port = server.addr.port().to_string();
    command.args(["127.0.0.1", &port, "12", "-q", "--connect-window", "1", "--rate", "100", "--duration", "1m"]);
    let program = Program::start({
        command.stdout(Stdio::null());
        command
    });
    let table = server.until_table_has("12 connections: 12 established");
    assert!(table.iter().any(|line| line.starts_with("state ")), "a server's connections have no numbers: {table:#?}");
    program.signal(Signal::USR1);
    let (mut line, mut rows) = (program.line_from(0, "nr state ").0, HashMap::new());
    while rows.len() < 12 {
        let (next, row) = program.line_from(line + 1, "established ");
        let words: Vec<&str> = row.split_whitespace().collect();
        rows.insert(words[0].parse::<usize>().unwrap(), words[words.len() - 1].to_owned());
        line = next;
    }
    for (number, local) in (1..).zip(accepted(&server)) {
        assert_eq!(rows[&number], local, "{:#?}", program.lines());
    }
}

#[test]
fn a_detailed_log_has_the_local_address_of_each_connection() {
    let server = Server::start(&[]);
    let run = client(server.addr, 3, &["-v", "--connect-window", "1", "--size", "10"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for (number, local) in (1..).zip(accepted(&server)) {
        for line in [
            format!("Starting connection {number} to {} from {local}", server.addr),
            format!("Closing connection {number} from {local}"),
        ] {
            assert_eq!(run.stderr.lines().filter(|printed| **printed == line).count(), 1, "{line}: {run:?}");
        }
    }
}
