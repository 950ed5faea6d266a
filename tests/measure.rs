//! The client as an instrument: the right name for each fault, right times, and what it reports about itself.
#![cfg(feature = "cli")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::schema::check_documented;
use common::{CLIENT, Program, Server, client, report as json, serving};
use multiconn::report::names::{Kind, NUMBERS, TIMES};
use rustix::process::Signal;
use serde_json::Value;

/// A server that reads everything first and then sends back what `change` makes of it.
fn server(total: usize, change: impl Fn(usize, Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    serving(move |number, mut stream| {
        let mut sent = vec![0; total];
        if stream.read_exact(&mut sent).is_ok() {
            let _ = stream.write_all(&change(number, sent));
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 1]);
        }
    })
}

/// 40 messages of 1,000 bytes on one connection, whose echo `change` makes wrong: the reported fault.
#[track_caller]
fn fault(change: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static) -> Value {
    let addr = server(40_000, move |_, bytes| change(bytes));
    let (code, report) =
        json(addr, 1, &["--size", "1000", "--messages", "40", "--pipeline", "40", "--timeout", "500ms"]);
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(report["connections"]["failed"], 1, "{report}");
    assert_eq!(report["faults_by_kind"].as_object().unwrap().len(), 1, "{report}");
    let fault = report["faults"][0].clone();
    assert_eq!((&fault["connection"], &fault["peer"]), (&Value::from(1), &Value::from(addr.to_string())));
    fault
}

#[test]
fn every_kind_of_fault_is_named_with_its_place() {
    let corrupted = fault(|mut bytes| {
        bytes[12_345] ^= 0x40;
        bytes
    });
    assert_eq!((&corrupted["kind"], &corrupted["offset"]), (&"corrupted".into(), &12_345.into()));
    let (expected, got) = (corrupted["expected"].as_str().unwrap(), corrupted["got"].as_str().unwrap());
    assert_eq!((expected.len(), got.len()), (32, 32));
    assert_eq!(expected[2..], got[2..], "one byte differs");

    for gap in [5, 800] {
        let lost = fault(move |mut bytes| {
            bytes.drain(20_001..20_001 + gap);
            bytes
        });
        // By chance the first byte behind the gap is the one that is missing: then the difference begins later.
        assert_eq!(lost["kind"], "lost", "{lost}");
        assert!((20_001..20_004).contains(&lost["offset"].as_u64().unwrap()), "{lost}");
    }
    let duplicated = fault(|mut bytes| {
        let again = bytes[7_003..7_303].to_vec();
        bytes.splice(7_303..7_303, again);
        bytes.truncate(40_000);
        bytes
    });
    assert_eq!(duplicated["kind"], "duplicated", "{duplicated}");
    assert!((7_303..7_306).contains(&duplicated["offset"].as_u64().unwrap()), "{duplicated}");

    let truncated = fault(|bytes| bytes[..33_333].to_vec());
    assert_eq!((&truncated["kind"], &truncated["offset"]), (&"truncated".into(), &33_333.into()));
    assert_eq!((&truncated["sent"], &truncated["returned"]), (&40_000.into(), &33_333.into()));
    let extra = fault(|bytes| [bytes, b"and more".to_vec()].concat());
    assert_eq!(
        (&extra["kind"], &extra["offset"], &extra["got"]),
        (&"extra".into(), &40_000.into(), &"616e64206d6f7265".into())
    );
}

/// The report of a run at 500 messages a second, in which `end` ends the server.
#[track_caller]
fn ended_early(end: Signal) -> Value {
    let server = Server::start(&[]);
    let mut command = Command::new(CLIENT);
    let port = server.addr.port().to_string();
    command.args(["127.0.0.1", &port, "10", "--json", "--rate", "500", "--duration", "2s"]).stdout(Stdio::piped());
    let mut program = Program::start(command);
    server.until_table_has("established");
    std::thread::sleep(Duration::from_millis(500)); // Into the middle of the run.
    server.program.signal(end);
    program.ends_with(1);
    let mut text = String::new();
    program.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_peer_that_ends_in_order_with_nothing_missing_truncates_nothing() {
    for signal in [Signal::TERM, Signal::KILL] {
        let report = ended_early(signal);
        let faults = report["faults"].as_array().unwrap();
        assert_eq!(faults.len(), 10, "{report}");
        let mut missing = 0;
        for fault in faults {
            let (sent, returned) = (fault["sent"].as_u64().unwrap(), fault["returned"].as_u64().unwrap());
            missing += sent - returned;
            // A message that crossed the end may be answered with a reset, and is missing then.
            let fits = match fault["kind"].as_str().unwrap() {
                "closed_early" => sent == returned,
                "truncated" | "reset" => sent > returned,
                _ => false,
            };
            assert!(fits, "{fault}");
            let counts = format!("; {returned} of {sent} bytes sent are back");
            assert!(fault["detail"].as_str().unwrap().ends_with(&counts), "{fault}");
        }
        let bytes = &report["bytes"];
        assert_eq!(bytes["sent"].as_u64().unwrap() - bytes["echoed"].as_u64().unwrap(), missing, "{report}");
        // Two milliseconds lie between messages, and an echo takes a fraction of one: few can have crossed the end.
        assert!(report["faults_by_kind"]["closed_early"].as_u64().unwrap() > 5, "{signal:?}: {report}");
    }
}

#[test]
fn bytes_of_another_connection_are_foreign() {
    let first: std::sync::Mutex<Option<Vec<u8>>> = std::sync::Mutex::new(None);
    let addr = server(8000, move |_, bytes| {
        let mut first = first.lock().unwrap();
        match &*first {
            None => {
                *first = Some(bytes.clone());
                bytes
            }
            Some(other) => [&bytes[..4000], &other[4000..]].concat(),
        }
    });
    let (code, report) = json(addr, 2, &["--size", "8000"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        (&report["connections"]["intact"], &report["faults_by_kind"]["foreign"]),
        (&1.into(), &1.into()),
        "{report}"
    );
    assert_eq!(report["faults"][0]["offset"], 4000, "{report}");
}

#[test]
fn a_fault_without_a_place_has_none() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, report) = json(closed, 3, &["--size", "10"]);
    assert_eq!(code, Some(1));
    assert_eq!(report["faults_by_kind"]["refused"], 3, "{report}");
    for name in ["offset", "sent", "returned"] {
        assert_eq!(report["faults"][2][name], Value::Null, "{report}");
    }
    assert_eq!(report["latency_us"]["service"], Value::Null);
}

#[test]
fn our_own_server_raises_no_false_alarm() {
    let server = Server::start(&[]);
    for (connections, size, pipeline) in
        [(1, "1", "1"), (50, "7", "3"), (20, "64KiB", "4"), (3, "5000001", "2"), (200, "100", "16")]
    {
        let (code, report) =
            json(server.addr, connections, &["--size", size, "--pipeline", pipeline, "--messages", "20"]);
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(report["messages"]["echoed"], 20 * connections, "{report}");
        assert_eq!(report["bytes"]["sent"], report["bytes"]["echoed"]);
    }
}

/// The long version: 10 GB in all kinds of sizes. Called by .ci/run in part, by `-- --ignored` in full.
#[test]
#[ignore = "takes a minute"]
fn ten_gigabytes_raise_no_false_alarm() {
    let gigabytes: u64 = std::env::var("MULTICONN_GIGABYTES").map_or(10, |text| text.parse().unwrap());
    let server = Server::start(&[]);
    let (mut echoed, mut round) = (0, 0_u64);
    while echoed < gigabytes * 1_000_000_000 {
        round += 1;
        let connections = 1 + u32::try_from(round * 7 % 40).unwrap();
        let size = (1 + round * 7919 % 200_003).to_string();
        let pipeline = (1 + round % 9).to_string();
        let messages =
            (500_000_000 / (u64::from(connections) * (1 + round * 7919 % 200_003))).clamp(1, 20_000).to_string();
        let (code, report) =
            json(server.addr, connections, &["--size", &size, "--pipeline", &pipeline, "--messages", &messages]);
        assert_eq!(code, Some(0), "{report}");
        echoed += report["bytes"]["echoed"].as_u64().unwrap();
    }
}

#[test]
fn a_server_that_stops_for_300_ms_shows_in_the_scheduled_times() {
    let server = Server::start(&[]);
    let mut command = Command::new(CLIENT);
    let port = server.addr.port().to_string();
    command
        .args(["127.0.0.1", &port, "20", "-v", "--json", "--rate", "1000", "--duration", "3s"])
        .stdout(Stdio::piped());
    let mut program = Program::start(command);
    program.line("Starting connection 20");
    std::thread::sleep(Duration::from_secs(1)); // Into the middle of the run.
    server.program.signal(Signal::STOP);
    let stopped = Instant::now();
    std::thread::sleep(Duration::from_millis(300)); // What is to be measured.
    server.program.signal(Signal::CONT);
    let stopped = stopped.elapsed().as_secs_f64();
    program.ends_with(0);
    let mut text = String::new();
    program.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();

    let scheduled = &report["latency_us"]["scheduled"];
    assert_eq!(scheduled["count"], 3000, "{report}");
    let longest = scheduled["max"].as_f64().unwrap() / 1e6;
    assert!((stopped - 0.02..stopped + 0.1).contains(&longest), "{longest} s for a stop of {stopped} s: {report}");
    // Of 3 s, the server stood still for a tenth: the times of those messages are spread evenly up to the stop, so that
    // the 95th percentile lies in the middle of it.
    let share = |times: &Value| times["p90"].as_f64().unwrap() / 1e6;
    assert!(share(scheduled) < stopped / 4.0, "more than a tenth waited: {report}");
    let p99 = scheduled["p99"].as_f64().unwrap() / 1e6;
    let waited = stopped * 0.9; // The last hundredth of all is the last tenth of a tenth.
    assert!((waited - 0.05..waited + 0.1).contains(&p99), "{p99}: {report}");
}

#[test]
fn a_known_delay_is_measured_to_a_millisecond_or_so() {
    const DELAY: Duration = Duration::from_millis(40);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut message = [0; 100];
        while stream.read_exact(&mut message).is_ok() {
            std::thread::sleep(DELAY);
            stream.write_all(&message).unwrap();
        }
    });
    let (code, report) = json(addr, 1, &["--size", "100", "--messages", "30"]);
    assert_eq!(code, Some(0), "{report}");
    let service = &report["latency_us"]["service"];
    assert!(service["min"].as_u64().unwrap() >= 40_000, "{report}");
    // The server's own sleep is late by a timer's slack; the median stays close.
    assert!(service["p50"].as_u64().unwrap() < 42_000, "{report}");
    assert_eq!(report["client"]["bottleneck"], false, "{report}");
}

#[test]
fn a_client_that_cannot_reach_its_rate_says_so() {
    let server = Server::start(&[]);
    // Messages of one byte: no socket is ever full, so the client itself causes what is late.
    let args = ["--rate", "1000000000", "--size", "1", "--duration", "300ms", "--timeout", "300ms"];
    let (code, report) = json(server.addr, 2, &args);
    assert_eq!((code, &report["faults_by_kind"]), (Some(1), &serde_json::json!({ "no_progress": 2 })), "{report}");
    assert_eq!(report["client"]["bottleneck"], true, "{report}");
    assert!(report["client"]["why"].as_str().unwrap().contains("fell behind its schedule"), "{report}");
    assert!(report["messages"]["missed"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_slow_schedule_is_kept() {
    let server = Server::start(&[]);
    let (code, report) = json(server.addr, 5, &["--rate", "200", "--duration", "1s", "--warmup", "200ms"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!((&report["messages"]["sent"], &report["messages"]["missed"]), (&200.into(), &0.into()), "{report}");
    // Tens of microseconds where a core is free; on a busy machine the tail waits for one.
    assert!(report["late_us"]["p50"].as_u64().unwrap() < 1000, "{report}");
    let seconds = report["measured_seconds"].as_f64().unwrap();
    assert!((0.99..1.1).contains(&seconds), "{report}");
}

#[test]
fn a_rate_is_what_the_run_took_and_not_what_the_echo_took() {
    let server = Server::start(&[]);
    let (code, report) = json(server.addr, 1, &["--rate", "2", "--duration", "1s"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["messages"]["echoed"], 2, "{report}");
    let rate = report["messages_per_second"].as_f64().unwrap();
    assert!((1.8..=2.01).contains(&rate), "{report}");
}

#[test]
fn a_schedule_that_is_over_costs_nothing() {
    // The server echoes ten messages and then keeps its end open until the client gives up.
    let addr = server(640, |_, bytes| bytes);
    let held = faulty_after_echo();
    let (code, report) = json(held, 1, &["--rate", "200000", "--messages", "10", "--timeout", "1s"]);
    assert_eq!((code, &report["faults_by_kind"]["unclosed"]), (Some(1), &1.into()), "{report}");
    assert!(report["client"]["cpu_seconds"].as_f64().unwrap() < 0.2, "{report}");
    let (code, _) = json(addr, 1, &["--rate", "200000", "--messages", "10"]);
    assert_eq!(code, Some(0));
}

/// A server that echoes everything and never finishes.
fn faulty_after_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..count]).unwrap();
        }
        std::mem::forget(stream); // Stays open as long as the test runs.
    });
    addr
}

#[test]
fn a_peer_that_fails_is_not_the_clients_slowness() {
    // It echoes one message a connection and goes.
    let addr = server(64, |_, bytes| bytes);
    let (code, report) = json(addr, 20, &["--rate", "2000", "--duration", "500ms"]);
    assert_eq!(code, Some(1));
    assert_eq!(report["connections"]["failed"], 20, "{report}");
    assert_blamed_only_if_late(&report);
}

/// On a busy machine a client may really be late. Then it must say so, and otherwise it must not. For runs in which no
/// socket is ever full.
#[track_caller]
fn assert_blamed_only_if_late(report: &Value) {
    let late = report["late_us"]["p99"].as_u64().is_some_and(|late| late > 1000);
    assert_eq!(report["client"]["bottleneck"], late, "{report}");
}

/// A client that is running, whose report comes as JSON.
fn start_client(addr: SocketAddr, connections: u32, args: &[&str]) -> Program {
    let mut command = Command::new(CLIENT);
    command.args(["127.0.0.1", &addr.port().to_string(), &connections.to_string(), "-q", "--json"]).args(args);
    command.stdout(Stdio::piped());
    Program::start(command)
}

/// Waits for the client to end with this code, and parses its report.
#[track_caller]
fn report_of(program: &mut Program, code: i32) -> Value {
    let mut text = String::new();
    program.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    program.ends_with(code);
    serde_json::from_str(&text).unwrap()
}

fn messages(report: &Value, which: &str) -> u64 {
    report["messages"][which].as_u64().unwrap()
}

#[test]
fn messages_due_while_the_server_stood_still_are_sent_late_and_count() {
    let server = Server::start(&[]);
    let args = ["--rate", "1000", "--size", "64KiB", "--duration", "2s", "--expect", "p80<100ms"];
    let mut program = start_client(server.addr, 1, &args);
    server.program.line("Accepted");
    std::thread::sleep(Duration::from_millis(1500)); // A quarter before the end.
    server.program.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(1500)); // Beyond the end.
    server.program.signal(Signal::CONT);
    let report = report_of(&mut program, 1);
    let counts = ["sent", "echoed", "missed", "unanswered"].map(|which| messages(&report, which));
    assert_eq!(counts, [2000, 2000, 0, 0], "{report}");
    assert_eq!(report["expectations"][0]["held"], false, "{report}");
    assert!(report["latency_us"]["scheduled"]["p90"].as_u64().unwrap() > 500_000, "{report}");
    // These messages waited for room in the socket.
    assert!(report["late_us"]["max"].as_u64().unwrap() > 500_000, "{report}");
}

#[test]
fn messages_that_never_come_back_count_as_longer_than_all_others() {
    // The first connection is echoed, the second one is not even read.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut echoed, _) = listener.accept().unwrap();
        std::mem::forget(listener.accept().unwrap()); // Stays open as long as the test runs.
        let mut bytes = vec![0; 65536];
        while let Ok(count @ 1..) = echoed.read(&mut bytes) {
            echoed.write_all(&bytes[..count]).unwrap();
        }
    });
    let args = ["--rate", "1000", "--size", "64KiB", "--duration", "1s", "--timeout", "2s", "--connect-window", "1"];
    let (code, report) =
        json(addr, 2, &[&args[..], &["--expect", "p49<10s", "--expect", "p60<10s", "--expect", "p60>10s"]].concat());
    assert_eq!((code, &report["faults_by_kind"]), (Some(1), &serde_json::json!({ "no_progress": 1 })), "{report}");
    let [echoed, missed, unanswered] = ["echoed", "missed", "unanswered"].map(|which| messages(&report, which));
    assert_eq!((echoed, missed + unanswered), (500, 500), "{report}");
    assert!(missed > 0 && unanswered > 0, "{report}");
    let times = &report["latency_us"]["scheduled"];
    assert_eq!((&times["count"], &times["p90"], &times["max"]), (&500.into(), &Value::Null, &Value::Null), "{report}");
    assert!(times["p50"].is_u64(), "{report}");
    let outcomes: Vec<_> = report["expectations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|outcome| (outcome["held"].as_bool().unwrap(), outcome["measured"].is_null(), &outcome["never"]))
        .collect();
    let never = &Value::from(500);
    assert_eq!(outcomes, [(true, false, never), (false, true, never), (true, true, never)], "{report}");
}

#[test]
fn the_pacing_alone_decides_which_times_a_bare_percentile_means() {
    // It takes a message, sends nothing back, and goes.
    let addr = server(64, |_, _| Vec::new());
    for (args, histogram) in [(&["--size", "64"][..], "service"), (&["--rate", "10", "--messages", "1"], "scheduled")] {
        let (code, report) = json(addr, 1, &[args, &["--expect", "p99<1s"]].concat());
        assert_eq!((code, messages(&report, "unanswered")), (Some(1), 1), "{report}");
        assert_eq!(report["expectations"][0]["histogram"], histogram, "{report}");
    }
    // Nothing is sent at all.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_, report) = json(closed, 1, &["--rate", "10", "--messages", "1", "--expect", "p99<1s"]);
    assert_eq!(report["expectations"][0]["histogram"], "scheduled", "{report}");
}

#[test]
fn messages_for_which_a_slow_reader_leaves_no_room_are_reported_as_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = vec![0; 256 * 1024];
            while stream.read_exact(&mut bytes).is_ok() {
                std::thread::sleep(Duration::from_millis(20)); // A quarter of the messages that are due.
                stream.write_all(&bytes).unwrap();
            }
        }
    });
    let args = ["-q", "--rate", "200", "--size", "256KiB", "--duration", "500ms", "--timeout", "300ms"];
    let run = client(addr, 1, &[&args[..], &["--expect", "p99<1m"]].concat());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("0 intact, 1 failed") && run.stdout.contains(" missed"), "{run:?}");
    assert!(run.stdout.contains(" no progress: ") && run.stdout.contains("could not be begun in time; "), "{run:?}");
    assert!(run.stdout.contains(" messages were missed: due, and not sent"), "{run:?}");
    let never = run.stdout.lines().find(|line| line.starts_with("never ")).unwrap();
    assert!(never.contains(" of 100 messages"), "{run:?}");
    let scheduled = run.stdout.lines().find(|line| line.starts_with("scheduled ")).unwrap();
    assert!(scheduled.contains(" never "), "{run:?}");
    assert!(run.stdout.contains("expected     scheduled.p99<1m: did NOT hold, "), "{run:?}");
    assert!(run.stdout.contains(" messages never came back\n"), "{run:?}");
}

#[test]
fn all_connections_stay_to_the_end_of_the_schedule() {
    // Half of them have nothing to send; and where each has a message, the first ones are done long before the last.
    for (args, sent) in [(["--rate", "50", "--duration", "1s"], 50), (["--rate", "100", "--messages", "1"], 100)] {
        let server = Server::start(&[]);
        let mut program = start_client(server.addr, 100, &args);
        server.until_connections(100);
        std::thread::sleep(Duration::from_millis(700)); // Most of the run.
        assert_eq!(server.connections(), 100);
        let report = report_of(&mut program, 0);
        assert_eq!(
            (&report["connections"]["intact"], messages(&report, "sent"), messages(&report, "missed")),
            (&100.into(), sent, 0),
            "{report}"
        );
    }
}

#[test]
fn what_was_due_after_an_interruption_is_not_missed() {
    let server = Server::start(&[]);
    let mut program = start_client(server.addr, 10, &["--rate", "2000", "--duration", "1m"]);
    server.until_connections(10);
    std::thread::sleep(Duration::from_millis(300)); // Into the run.
    program.signal(Signal::INT);
    let report = report_of(&mut program, 130);
    assert!(messages(&report, "sent") > 0, "{report}");
    assert_eq!(messages(&report, "missed"), 0, "{report}");
    assert_blamed_only_if_late(&report);
}

#[test]
fn what_is_on_its_way_at_an_interruption_is_unanswered_and_counts_if_it_waited_for_long() {
    let server = Server::start(&[]);
    let args = ["--rate", "1000", "--duration", "1m", "--timeout", "1m", "--expect", "p95<100ms"];
    let mut program = start_client(server.addr, 1, &args);
    server.until_connections(1);
    std::thread::sleep(Duration::from_millis(300)); // Some messages come back,
    server.program.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(500)); // and some do not.
    program.signal(Signal::INT);
    let report = report_of(&mut program, 130);
    let [sent, echoed, unanswered] = ["sent", "echoed", "unanswered"].map(|which| messages(&report, which));
    assert!(echoed > 0 && unanswered > 200 && sent == echoed + unanswered, "{report}");
    let never = report["latency_us"]["never"].as_u64().unwrap();
    assert!((200..=unanswered).contains(&never), "{report}");
    let outcome = &report["expectations"][0];
    assert_eq!((&outcome["held"], &outcome["never"]), (&false.into(), &never.into()), "{report}");
    assert_eq!(report["latency_us"]["scheduled"]["max"], Value::Null, "{report}");
}

#[test]
fn what_was_due_after_the_end_of_the_server_is_not_missed() {
    let mut server = Server::start(&[]);
    let begun = Instant::now();
    let mut program = start_client(server.addr, 10, &["--rate", "2000", "--duration", "1m"]);
    server.until_connections(10);
    std::thread::sleep(Duration::from_millis(300)); // Into the run.
    server.program.child.kill().unwrap();
    let report = report_of(&mut program, 1);
    assert_eq!(report["connections"]["failed"], 10, "{report}");
    let due = u64::try_from(begun.elapsed().as_millis()).unwrap() * 2;
    let all = ["echoed", "missed", "unanswered"].map(|which| messages(&report, which)).iter().sum::<u64>();
    assert!((1..=due).contains(&all), "{all} of {due} by now: {report}");
    assert_blamed_only_if_late(&report);
}

#[test]
fn a_rate_is_over_the_time_that_the_schedule_gives() {
    let server = Server::start(&[]);
    for (rate, count, given) in [("10", "1", 0.1), ("1", "3", 3.0), ("0.5", "1", 2.0)] {
        let (code, report) = json(server.addr, 1, &["--rate", rate, "--messages", count]);
        assert_eq!(code, Some(0), "{report}");
        let (asked, measured) = (rate.parse::<f64>().unwrap(), report["messages_per_second"].as_f64().unwrap());
        assert!((measured / asked - 1.0).abs() < 0.001, "{report}");
        assert!((report["measured_seconds"].as_f64().unwrap() - given).abs() < 0.001, "{report}");
    }
}

#[test]
fn a_rate_may_be_written_in_thousands() {
    let server = Server::start(&[]);
    let args = ["--rate", "0.5k", "--connect-rate", "1K", "--messages", "10", "--expect", "messages_per_second>0.49k"];
    let (code, report) = json(server.addr, 5, &args);
    assert_eq!(code, Some(0), "{report}");
    let rate = report["messages_per_second"].as_f64().unwrap();
    assert!((rate / 500.0 - 1.0).abs() < 0.001, "fifty messages have a tenth of a second: {report}");
}

#[test]
fn a_rate_may_be_a_fraction() {
    let server = Server::start(&[]);
    let begun = Instant::now();
    let (code, report) = json(server.addr, 2, &["--rate", "2.5", "--duration", "1s", "--connect-rate", "2.5"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(messages(&report, "sent"), 3, "at 0, 0.4 and 0.8 s: {report}");
    assert!(begun.elapsed() >= Duration::from_millis(1400), "the second connect is begun after 0.4 s");
}

/// A server with room for ten in its backlog, which takes a millisecond for each connection that it accepts.
fn small_backlog() -> SocketAddr {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(10).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    std::thread::spawn(move || {
        for mut stream in TcpListener::from(listener).incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            std::thread::sleep(Duration::from_millis(1)); // A slow server is what is tested.
        }
    });
    addr
}

#[test]
fn a_small_backlog_resets_nobody_and_the_report_says_that_it_was_full() {
    let run = client(small_backlog(), 40, &["-q"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let line = run.stdout.lines().find(|line| line.starts_with("hint ")).unwrap_or_else(|| panic!("{run:?}"));
    let count: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(count > 0 && line.contains(" of 40 connects took about 1 s or longer, "), "{run:?}");
    let (code, report) = json(Server::start(&[]).addr, 40, &[]);
    assert_eq!((code, &report["connections"]["sent_again"]), (Some(0), &0.into()), "{report}");
}

#[test]
fn a_duration_ends_a_closed_loop() {
    let server = Server::start(&[]);
    let begun = Instant::now();
    let (code, report) = json(server.addr, 10, &["--duration", "500ms", "--warmup", "200ms", "--pipeline", "2"]);
    assert_eq!(code, Some(0), "{report}");
    assert!(begun.elapsed() >= Duration::from_millis(700));
    let seconds = report["measured_seconds"].as_f64().unwrap();
    assert!((0.49..0.7).contains(&seconds), "{report}");
    let rate = report["messages"]["echoed"].as_f64().unwrap() / seconds;
    assert!((report["messages_per_second"].as_f64().unwrap() / rate - 1.0).abs() < 0.001, "{report}");
}

#[test]
fn holding_connecting_slowly_and_choosing_sources() {
    let server = Server::start(&[]);
    let begun = Instant::now();
    let (code, report) = json(server.addr, 10, &["--connect-rate", "50", "--hold", "200ms", "--size", "10"]);
    assert_eq!(code, Some(0), "{report}");
    assert!(begun.elapsed() >= Duration::from_millis(9 * 20 + 200), "{:?}", begun.elapsed());

    let (code, report) =
        json(server.addr, 6, &["--source", "127.0.0.2-127.0.0.4", "--connect-window", "2", "--size", "10"]);
    assert_eq!(code, Some(0), "{report}");
    for source in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        assert_eq!(server.program.count(&format!("Accepted connection from {source}:")), 2);
    }
}

#[test]
fn expectations_decide_the_exit_code() {
    let server = Server::start(&[]);
    let held = [
        "--size",
        "10",
        "--messages",
        "50",
        "--expect",
        "p99<10s",
        "--expect",
        "faults=0",
        "--expect",
        "messages_per_second>1",
    ];
    let (code, report) = json(server.addr, 3, &held);
    assert_eq!(code, Some(0), "{report}");
    let run = client(server.addr, 3, &["-q", "--size", "10", "--expect", "p50<0ms", "--expect", "faults=0"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("expected     service.p50<0ms: did NOT hold, "), "{run:?}");
    assert!(run.stdout.contains("expected     faults=0: held, 0 faults\n"), "{run:?}");
    assert!(run.stdout.contains("; 1 expectation did not hold"), "{run:?}");
}

#[test]
fn what_is_expected_is_what_is_reported_under_that_name() {
    let server = Server::start(&[]);
    // Where the JSON report has each number, and what it has to be multiplied by.
    let open_loop = [
        ("elapsed", "/elapsed_seconds", 1e6),
        ("measured", "/measured_seconds", 1e6),
        ("cpu", "/client/cpu_seconds", 1e6),
        ("rtt.min", "/kernel/rtt_us/min", 1.0),
        ("rtt.p50", "/kernel/rtt_us/p50", 1.0),
        ("messages_per_second", "/messages_per_second", 1.0),
        ("megabytes_per_second", "/megabytes_per_second", 1.0),
        ("connections", "/connections/established", 1.0),
        ("connections.sent_again", "/connections/sent_again", 1.0),
        ("intact", "/connections/intact", 1.0),
        ("unfinished", "/connections/unfinished", 1.0),
        ("faults", "/connections/failed", 1.0),
        ("messages.sent", "/messages/sent", 1.0),
        ("messages.echoed", "/messages/echoed", 1.0),
        ("missed", "/messages/missed", 1.0),
        ("unanswered", "/messages/unanswered", 1.0),
        ("never", "/latency_us/never", 1.0),
        ("own_late", "/client/own_late", 1.0),
        ("bytes.sent", "/bytes/sent", 1.0),
        ("bytes.echoed", "/bytes/echoed", 1.0),
        ("mss.min", "/kernel/mss/min", 1.0),
        ("mss.max", "/kernel/mss/max", 1.0),
        ("service.p99", "/latency_us/service/p99", 1.0),
        ("scheduled.p999", "/latency_us/scheduled/p999", 1.0),
        ("first_byte.mean", "/first_byte_us/mean", 1.0),
        ("late.max", "/late_us/max", 1.0),
        ("connect.min", "/connect_us/min", 1.0),
    ];
    let churn = [
        ("connections_per_second", "/connections_per_second", 1.0),
        ("connections.missed", "/connections/missed", 1.0),
        ("connect_late.max", "/connect_late_us/max", 1.0),
        ("close.p50", "/close_us/p50", 1.0),
    ];
    let reconnect = [
        ("outage.count", "/outages/count", 1.0),
        ("outage.max", "/outages/max_seconds", 1e6),
        ("outage.total", "/outages/total_seconds", 1e6),
        ("outage.gone.count", "/outages/gone/count", 1.0),
        ("outage.gone.max", "/outages/gone/max_seconds", 1e6),
        ("outage.gone.total", "/outages/gone/total_seconds", 1e6),
    ];
    let number = |name: &str| NUMBERS.iter().find(|number| number.name == name);
    let unit = |name: &str| match number(name).map(|number| number.unit.kind()) {
        Some(Kind::Time) | None => "s",
        Some(Kind::Share) => "%",
        Some(Kind::Count | Kind::Rate) => "",
    };
    for (options, places) in [
        (&["--rate", "500"][..], &open_loop[..]),
        (&["--churn", "2", "--churn-rate", "100"], &churn),
        (&["--reconnect"], &reconnect),
    ] {
        let expectations: Vec<String> = places.iter().map(|(name, ..)| format!("{name}>=0{}", unit(name))).collect();
        let expect = expectations.iter().flat_map(|expectation| ["--expect", expectation]);
        let args: Vec<&str> = options.iter().copied().chain(["--duration", "200ms"]).chain(expect).collect();
        let (code, report) = json(server.addr, 3, &args);
        assert_eq!(code, Some(0), "{report}");
        for (index, (name, place, factor)) in places.iter().enumerate() {
            let reported = report.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("{place}: {report}"));
            let measured = report["expectations"][index]["measured"].as_f64().unwrap();
            // The shortest round trip is reported in whole microseconds.
            let tolerance = if *name == "rtt.min" { 1.0 } else { 1e-9 * measured };
            assert!((reported * factor - measured).abs() <= tolerance, "{name}: {report}");
        }
    }
    let tried: Vec<&str> = open_loop.iter().chain(&churn).chain(&reconnect).map(|(name, ..)| *name).collect();
    for number in NUMBERS {
        // A share has no field of its own: it is that of two others. What only an interval has is not in the report.
        let is_apart = number.unit.kind() == Kind::Share || !number.is_of_runs();
        assert!(is_apart || tried.contains(&number.name), "{} is not tried here", number.name);
    }
    for times in TIMES {
        let figures = format!("{}.", times.name);
        assert!(tried.iter().any(|name| name.starts_with(&figures)), "{} is not tried here", times.name);
    }
}

#[test]
fn the_histogram_log_is_written_or_refused_beforehand() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.hlog");
    let path = path.to_str().unwrap();
    let (code, _) = json(server.addr, 3, &["--rate", "100", "--duration", "200ms", "--hdr-log", path]);
    assert_eq!(code, Some(0));
    let log = std::fs::read_to_string(path).unwrap();
    for tag in ["Tag=service,", "Tag=scheduled,", "Tag=connect,"] {
        assert_eq!(log.lines().filter(|line| line.starts_with(tag)).count(), 1, "{log}");
    }

    let accepted = server.program.count("Accepted");
    for path in ["/nonexistent/run.hlog", "/dev/full"] {
        let run = client(server.addr, 3, &["-q", "--hdr-log", path]);
        assert_eq!((run.code, run.stderr.lines().count()), (Some(1), 1), "{run:?}");
        assert!(run.stderr.starts_with(&format!("error: cannot write {path}: ")), "{run:?}");
        assert_eq!(server.program.count("Accepted"), accepted, "before the first connect");
    }
}

#[test]
fn a_disk_that_becomes_full_does_not_suppress_the_report() {
    let server = Server::start(&[]);
    let run = client(server.addr, 3, &["-q", "--interval", "1s", "--csv", "/dev/full"]);
    assert_eq!((run.code, run.stderr.lines().count()), (Some(1), 1), "{run:?}");
    assert!(run.stderr.starts_with("error: cannot write /dev/full: "), "{run:?}");
    assert!(run.stdout.contains("verdict      intact"), "{run:?}");
}

#[test]
fn every_field_of_the_json_report_is_documented() {
    check_documented("report.schema.json", "report.md");
}

#[test]
fn the_json_report_has_the_documented_shape() {
    let server = Server::start(&[]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (addr, args) in [
        (server.addr, &["--rate", "100", "--duration", "200ms", "--interval", "100ms", "--expect", "p99<1s"][..]),
        (server.addr, &["--size", "100"][..]),
        (server.addr, &[][..]),
        (closed, &[][..]),
    ] {
        json(addr, 3, args); // It compares each report with the schema.
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_kernels_view_stands_beside_the_programs() {
    let server = Server::start(&[]);
    let (code, report) = json(server.addr, 10, &["--size", "100", "--messages", "20"]);
    assert_eq!(code, Some(0), "{report}");
    let kernel = &report["kernel"];
    // SYN, 20 messages and FIN, and at the least one acknowledgement of the server's SYN.
    assert!(kernel["segments"]["sent"].as_u64().unwrap() >= 10 * 23, "{report}");
    assert!(kernel["segments"]["retransmitted"].is_u64(), "{report}");
    let [shortest, median] = ["min", "p50"].map(|which| kernel["rtt_us"][which].as_u64().unwrap());
    assert!(0 < shortest && shortest <= median, "{report}");
    assert!(median < report["latency_us"]["service"]["max"].as_u64().unwrap(), "{report}");
    assert!(kernel["mss"]["min"].as_u64().unwrap() >= 536, "{report}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_has_the_kernels_view_of_the_connections_that_stood() {
    let server = Server::start(&[]);
    let mut program = start_client(server.addr, 10, &["--rate", "1000", "--duration", "20s"]);
    server.until_table_has("10 connections: 10 established");
    program.signal(Signal::INT);
    let report = report_of(&mut program, 130);
    assert_eq!(report["connections"]["unfinished"], 10, "{report}");
    assert!(report["kernel"]["segments"]["sent"].as_u64().unwrap() >= 20, "{report}");
    assert!(report["kernel"]["rtt_us"]["p50"].is_u64(), "{report}");
}

#[test]
fn options_that_exclude_each_other_are_named() {
    let addr: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--rate", "10", "--pipeline", "2", "--duration", "1s"], &["--rate", "--pipeline"]),
        (&["--messages", "1", "--duration", "1s"], &["--messages", "--duration"]),
        (&["--size", "10", "-m", "text"], &["--size", "--message"]),
        (&["--rate", "10"], &["--rate needs an end", "--duration"]),
        (&["--warmup", "1s"], &["--warmup needs an end"]),
        (&["--rate", "0", "--duration", "1s"], &["--rate", "more than 0"]),
        (&["--rate", "0.0000001", "--duration", "1s"], &["--rate", "six digits"]),
        (&["--rate", "1e3", "--duration", "1s"], &["--rate", "write it in digits"]),
        (&["--rate", "1000000001", "--duration", "1s"], &["--rate", "at most 1000000000"]),
        (&["--connect-rate", "0"], &["--connect-rate"]),
        (&["--connect-window", "0"], &["--connect-window"]),
        (&["--duration", "0s"], &["--duration"]),
        (&["--duration", "5"], &["--duration", "unit"]),
        (&["--size", "0"], &["--size", "at least one byte"]),
        (&["--size", "-1"], &["-1"]),
        (&["--size", "1XB"], &["--size"]),
        (&["--messages", "0"], &["--messages"]),
        (&["--pipeline", "0", "--messages", "1"], &["--pipeline"]),
        (&["--size", "8EiB", "--messages", "2"], &["2^63"]),
        (&["--size", "1TiB", "--messages", "18446744073709551615"], &["2^63"]),
        (&["--source", "nowhere"], &["--source"]),
        (&["--expect", "p99<5"], &["--expect"]),
        (&["--expect", "p99!5ms"], &["--expect", "write it like"]),
        (&["--expect", "scheduled.p99<5ms", "--size", "1"], &["'scheduled.p99<5ms' goes with --rate"]),
        (&["--expect", "late.max < 5ms"], &["'late.max<5ms' goes with --rate"]),
        (&["--expect", "every  p99<5ms"], &["'every p99<5ms' goes with --interval"]),
        (&["--expect", "every elapsed<5s"], &["only the whole run has elapsed"]),
        (&["--expect", "rate>5"], &["there is no \"rate\"; there are"]),
        (&["--hold", "x"], &["--hold"]),
    ];
    for (args, parts) in cases {
        let run = client(addr, 3, args);
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
        let first = run.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: "), "{args:?}: {run:?}");
        for part in *parts {
            assert!(first.contains(part), "{args:?}: {part:?} not in {first:?}");
        }
    }
}

#[test]
fn a_source_that_is_not_ours_is_refused_beforehand() {
    // No host has an address of TEST-NET-1 (RFC 5737).
    let server = Server::start(&[]);
    let run = client(server.addr, 3, &["--source", "192.0.2.1"]);
    assert_eq!((run.code, run.stderr.lines().count()), (Some(1), 1), "{run:?}");
    assert!(run.stderr.starts_with("error: cannot connect from 192.0.2.1, is it an address of this host?"), "{run:?}");
    let run = client(server.addr, 3, &["--source", "::1"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("not of the same family"), "{run:?}");
    assert_eq!(server.program.count("Accepted"), 0);
}

#[test]
fn an_open_loop_notices_that_nothing_comes_back() {
    // No connection is accepted or read. The kernel takes the bytes, for much longer than this test waits.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let (code, report) =
        json(silent.local_addr().unwrap(), 4, &["--rate", "400", "--duration", "1m", "--timeout", "500ms"]);
    assert_eq!((code, &report["faults_by_kind"]), (Some(1), &serde_json::json!({ "no_progress": 4 })), "{report}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn every_row_of_the_histogram_has_its_bar() {
    // Most echoes come at once, and every hundredth after 20 ms: two bulks, far from each other.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut message = [0; 100];
        for count in 1.. {
            if stream.read_exact(&mut message).is_err() {
                break;
            }
            if count % 100 == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
            stream.write_all(&message).unwrap();
        }
    });
    let run = client(addr, 1, &["-q", "--size", "100", "--messages", "2000"]);
    let rows: Vec<&str> = run.stdout.lines().filter(|line| line.ends_with(" %")).collect();
    assert!((2..=12).contains(&rows.len()), "{run:?}");
    assert!(rows.iter().all(|row| row.contains(" #")), "{run:?}");
    let shares = rows.iter().map(|row| row.trim_end_matches(" %").rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    assert!((98.0..102.0).contains(&shares.sum::<f64>()), "{run:?}");
    assert!(!run.stdout.contains("more "), "{run:?}");
}

#[test]
fn the_elapsed_time_is_that_of_the_whole_run() {
    let server = Server::start(&[]);
    let begun = Instant::now();
    let run = client(server.addr, 3, &["-q", "--hold", "400ms", "--duration", "300ms"]);
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(run.code, Some(0), "{run:?}");
    let line = run.stdout.lines().find_map(|line| line.strip_prefix("elapsed      ")).unwrap();
    let (whole, rest) = line.split_once(" s, ").expect(line);
    let (measured, _) = rest.split_once(" s of it measured; client CPU ").expect(line);
    let (whole, measured): (f64, f64) = (whole.parse().unwrap(), measured.parse().unwrap());
    assert!(measured >= 0.3 && whole - measured > 0.399 && whole < took + 0.001, "{took}: {line}");

    let (_, report) = json(server.addr, 3, &["--hold", "400ms", "--duration", "300ms"]);
    let (whole, measured) = (&report["elapsed_seconds"], &report["measured_seconds"]);
    assert!(whole.as_f64().unwrap() >= measured.as_f64().unwrap() + 0.4, "{report}");

    // Nothing was measured, so the report names no measured part.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = client(closed, 3, &["-q", "--duration", "300ms"]);
    assert!(!run.stdout.contains("of it measured"), "{run:?}");
}

#[test]
fn a_run_that_failed_early_lasted_no_longer_than_it_did() {
    // It echoes one message and closes: both connections are over at once, and the minute with them.
    let addr = server(1000, |_, bytes| bytes);
    let (code, report) = json(addr, 2, &["--size", "1000", "--duration", "1m"]);
    assert_eq!(code, Some(1), "{report}");
    assert_eq!(report["connections"]["failed"], 2, "{report}");
    assert!(report["measured_seconds"].as_f64().unwrap() < 30.0, "{report}");
}

#[test]
fn without_an_echo_the_measured_part_is_the_time_that_was_waited_for_one() {
    let addr = server(1_000_000, |_, _| Vec::new());
    let args = ["--size", "10", "--messages", "1", "--hold", "500ms", "--timeout", "300ms"];
    let (code, report) = json(addr, 1, &args);
    assert_eq!(code, Some(1), "{report}");
    let (whole, measured) = (report["elapsed_seconds"].as_f64().unwrap(), report["measured_seconds"].as_f64().unwrap());
    assert!(measured >= 0.3 && whole >= measured + 0.5, "{report}");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_, report) = json(closed, 1, &args);
    assert_eq!(report["measured_seconds"].as_f64(), Some(0.0), "nothing was measured: {report}");
}
