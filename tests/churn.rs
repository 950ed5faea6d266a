//! Connections that come and go: `--churn`, `--churn-rate` and `--reconnect`.
#![cfg(feature = "cli")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::schema::check_against;
use common::{CLIENT, Program, SERVER, Server, client, echo, report, serving};
use rustix::process::Signal;
use serde_json::{Value, json};

#[track_caller]
fn count(report: &Value, group: &str, name: &str) -> u64 {
    report[group][name].as_u64().unwrap_or_else(|| panic!("no {group}.{name} in {report}"))
}

#[track_caller]
fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no time"))
}

#[test]
fn a_connection_that_has_exchanged_its_messages_finishes_and_another_takes_its_place() {
    let server = Server::start(&[]);
    let (code, report) = report(server.addr, 5, &["--churn", "3", "--duration", "500ms", "--warmup", "100ms"]);
    assert_eq!(code, Some(0), "{report}");
    let begun = count(&report, "connections", "requested");
    assert!(begun > 50, "{report}");
    for name in ["established", "intact"] {
        assert_eq!(count(&report, "connections", name), begun, "{report}");
    }
    for times in ["connect_us", "close_us"] {
        assert_eq!(count(&report, times, "count"), begun, "{report}");
    }
    // Those of the warm-up and the last five are not among the messages that are measured, or carried fewer.
    let echoed = count(&report, "messages", "echoed");
    assert!(echoed <= 3 * begun && echoed > begun, "{report}");
    let rates = ["connections_per_second", "messages_per_second"].map(|name| seconds(&report[name]));
    assert!((rates[0] * 3.0 - rates[1]).abs() <= 3.0 * 10.0 * 2.0, "five at either end, in half a second: {report}");
}

#[test]
fn as_many_connections_as_asked_for_are_open_while_they_come_and_go() {
    const CONNECTIONS: u32 = 7;
    let (open, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let first = Arc::new(Barrier::new(CONNECTIONS as usize));
    let counted = (Arc::clone(&open), Arc::clone(&most));
    let addr = serving(move |number, stream| {
        let (open, most) = &counted;
        most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        if number <= CONNECTIONS as usize {
            first.wait();
        }
        echo(&stream);
        // Before our FIN, behind which the next one comes.
        open.fetch_sub(1, Ordering::SeqCst);
    });
    let (code, report) = report(addr, CONNECTIONS, &["--churn", "1", "--duration", "300ms", "--size", "10"]);
    assert_eq!(code, Some(0), "{report}");
    assert!(count(&report, "connections", "requested") > 50, "{report}");
    let [open, most] = [open, most].map(|count| count.load(Ordering::SeqCst));
    assert_eq!((open, most), (0, CONNECTIONS), "{report}");
}

#[test]
fn in_an_open_loop_the_successor_goes_on_in_the_schedule() {
    let server = Server::start(&[]);
    let args = ["--rate", "200", "--churn", "2", "--duration", "1s", "--warmup", "100ms"];
    let (code, report) = report(server.addr, 4, &args);
    assert_eq!(code, Some(0), "{report}");
    // Every message of the schedule is sent once, by whichever connection stands in its slot.
    let messages = json!({ "sent": 200, "echoed": 200, "missed": 0, "unanswered": 0 });
    assert_eq!(report["messages"], messages, "{report}");
    assert_eq!(count(&report["latency_us"], "scheduled", "count"), 200, "{report}");
    // 220 messages, two a connection, and at the end four that carry one or none.
    let begun = count(&report, "connections", "requested");
    assert!((110..=114).contains(&begun), "{report}");
    let rate = seconds(&report["connections_per_second"]);
    assert!((96.0..=102.0).contains(&rate), "{report}");
}

#[test]
fn what_was_due_while_no_connection_stood_in_the_slot_counts_from_its_time() {
    // It ends each connection 100 ms after the client's FIN: that long, the only slot is taken.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
            std::thread::sleep(Duration::from_millis(100)); // The time that is tested.
        }
    });
    let (code, report) = report(addr, 1, &["--rate", "100", "--churn", "5", "--duration", "1s"]);
    assert_eq!(code, Some(0), "{report}");
    let messages = json!({ "sent": 100, "echoed": 100, "missed": 0, "unanswered": 0 });
    assert_eq!(report["messages"], messages, "{report}");
    let scheduled = count(&report["latency_us"], "scheduled", "p50");
    assert!(scheduled > 100_000, "20 connections take two seconds for the messages of one: {report}");
    assert!(count(&report["latency_us"], "service", "p50") < 50_000, "{report}");
    assert!(count(&report, "close_us", "min") >= 99_000, "{report}");
    // On a busy machine the client may be late with the five that the first connection sends at their times.
    assert!(count(&report, "client", "own_late") <= 5, "the client was not the one who was late: {report}");
}

#[test]
fn connections_are_opened_on_a_schedule_of_their_own() {
    let server = Server::start(&[]);
    let (code, report) = report(server.addr, 50, &["--churn", "2", "--churn-rate", "100", "--duration", "1s"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!((count(&report, "connections", "requested"), count(&report, "connections", "missed")), (100, 0));
    assert_eq!(count(&report, "messages", "echoed"), 200, "{report}");
    assert_eq!(count(&report, "connect_late_us", "count"), 100, "{report}");
    assert!((seconds(&report["connections_per_second"]) - 100.0).abs() <= 1.0, "{report}");
}

#[test]
fn behind_the_end_no_connection_is_opened_however_many_more_may_be_open() {
    let server = Server::start(&[]);
    let (code, report) = report(server.addr, 50, &["--churn", "1", "--churn-rate", "10", "--duration", "300ms"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(count(&report, "connections", "requested"), 3, "{report}");
    assert_eq!(count(&report, "connect_late_us", "count"), 3, "{report}");
}

#[test]
fn a_connection_for_which_there_is_no_room_waits_and_its_lateness_shows() {
    // One at a time, and each takes 50 ms: of ten connections that are due in 100 ms, two are over by then.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::sleep(Duration::from_millis(50)); // The time that is tested.
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        }
    });
    let args = ["-q", "--churn", "1", "--churn-rate", "100", "--duration", "400ms"];
    let run = client(addr, 1, &args);
    assert_eq!(run.code, Some(0), "{run:?}");
    let (code, report) = report(addr, 1, &args[1..]);
    assert_eq!(code, Some(0), "{report}");
    let (begun, missed) = (count(&report, "connections", "requested"), count(&report, "connections", "missed"));
    assert!((5..=9).contains(&begun) && begun + missed == 40, "{report}");
    assert!(count(&report, "connect_late_us", "max") > 200_000, "{report}");
    assert!(run.stdout.contains("\nconnect late"), "{run:?}");
    assert!(run.stdout.trim_end().ends_with(" connections were missed: due, and not begun"), "{run:?}");
}

#[test]
fn a_connection_that_fails_is_counted_by_its_kind_and_replaced() {
    // Every fifth is reset before it was answered.
    let addr = serving(|number, stream| if number % 5 == 0 { common::reset(stream) } else { echo(&stream) });
    let (code, report) = report(addr, 3, &["--churn", "2", "--duration", "500ms"]);
    assert_eq!(code, Some(1), "{report}");
    let [begun, intact, failed] = ["requested", "intact", "failed"].map(|name| count(&report, "connections", name));
    assert_eq!(intact + failed, begun, "{report}");
    assert!(begun > 50 && failed.abs_diff(begun / 5) <= 3, "{report}");
    let kinds: u64 = report["faults_by_kind"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(kinds, failed, "{report}");
    assert_eq!(report["outages"], Value::Null, "{report}");
}

#[test]
fn bytes_behind_the_last_message_of_a_connection_that_gives_way_are_too_many() {
    let addr = serving(|_, mut stream| {
        let mut message = [0; 64];
        stream.read_exact(&mut message).unwrap();
        let _ = stream.write_all(&message).and_then(|()| stream.write_all(b"more"));
    });
    let (code, report) = report(addr, 1, &["--churn", "1", "--duration", "100ms"]);
    assert_eq!((code, report["faults"][0]["kind"].as_str()), (Some(1), Some("extra")), "{report}");
}

#[test]
fn a_run_in_which_nothing_can_be_reached_ends_with_its_time() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for option in [&["--reconnect"][..], &["--churn", "1"], &["--reconnect", "--rate", "100"]] {
        let begun = Instant::now();
        let (code, report) = report(closed, 2, &[option, &["--duration", "300ms", "--timeout", "200ms"]].concat());
        assert_eq!(code, Some(1), "{report}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{report}");
        let failed = count(&report, "connections", "failed");
        assert_eq!(count(&report, "connections", "requested"), failed, "{report}");
        if option[0] == "--reconnect" {
            assert_eq!(failed, 2, "the tries are counted apart: {report}");
            assert!((10..=80).contains(&count(&report, "outages", "tries")), "{report}");
            assert_eq!(count(&report, "outages", "count"), 2, "{report}");
            let longest = seconds(&report["outages"]["max_seconds"]);
            assert!(longest <= seconds(&report["elapsed_seconds"]), "no outage is longer than the run: {report}");
        } else {
            assert!((10..=80).contains(&failed), "no slot connects more often than every 10 ms: {report}");
        }
    }
}

/// A client that runs against `addr`, and its report in the end.
struct Running(Program);

impl Running {
    fn start(addr: SocketAddr, connections: u32, args: &[&str]) -> Running {
        let mut command = Command::new(CLIENT);
        command.args([&addr.ip().to_string(), &addr.port().to_string(), &connections.to_string(), "--json"]);
        Running(Program::start({
            command.args(args).stdout(Stdio::piped());
            command
        }))
    }

    #[track_caller]
    fn report(mut self, code: i32) -> Value {
        let mut text = String::new();
        self.0.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.ends_with(code);
        let report = serde_json::from_str(&text).unwrap();
        check_against("report.schema.json", &report);
        report
    }
}

#[test]
fn messages_that_are_due_wait_though_no_connection_was_ever_established() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let args = ["--reconnect", "--rate", "100", "--duration", "1s", "--timeout", "100ms", "--interval", "250ms"];
    let (code, report) = report(closed, 2, &[&args[..], &["--expect", "every waiting<90"]].concat());
    assert_eq!(code, Some(1), "{report}");
    let intervals = report["intervals"].as_array().unwrap();
    let measured = intervals.iter().filter(|interval| interval["measured"] == true);
    let waiting: Vec<u64> = measured.map(|interval| count(interval, "messages", "waiting")).collect();
    assert!(waiting.len() >= 4 && waiting.is_sorted() && *waiting.last().unwrap() == 100, "{report}");
    assert_eq!(report["expectations"][0]["measured"], 100.0, "{report}");
    assert_eq!(count(&report, "messages", "missed"), 100, "{report}");
}

/// A server on this port, once it listens.
fn server_on(addr: SocketAddr) -> Server {
    let mut command = Command::new(SERVER);
    command.args([&addr.ip().to_string(), &addr.port().to_string(), "-v"]);
    Server::start_command(command)
}

#[test]
fn the_reported_outage_is_that_of_a_server_that_was_killed_and_started_again() {
    for pacing in [&["--pipeline", "1"][..], &["--rate", "2000"]] {
        let mut server = Server::start(&["-v"]);
        let addr = server.addr;
        let client = Running::start(addr, 20, &[pacing, &["--reconnect", "--duration", "3s"]].concat());
        server.until_connections(20);
        std::thread::sleep(Duration::from_millis(500)); // Into the middle of the run.
        server.program.signal(Signal::KILL);
        server.program.wait();
        let gone = Instant::now();
        std::thread::sleep(Duration::from_millis(500)); // The injected outage.
        let _server = server_on(addr);
        let injected = gone.elapsed().as_secs_f64();
        let report = client.report(1);

        let outages = &report["outages"];
        assert_eq!(count(&report, "outages", "count"), 20, "{report}");
        // A slot tries again a sixteenth of the outage late at the most, the first of all slots much sooner; and its outage
        // ends with an echo, which takes its time where many ask at once.
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let echo = count(&report["latency_us"], "service", "max") as f64 / 1e6;
        let bounds = [(&outages["gone"]["max_seconds"], 0.0), (&outages["max_seconds"], injected / 16.0 + echo)];
        for (longest, late) in bounds {
            let off = seconds(longest) - injected;
            assert!(-0.05 < off && off < 0.05 + late, "{longest} s reported, {injected} s injected: {report}");
        }
        assert_eq!(outages["gone"]["count"], 1, "{report}");
        // A dying server's listener may be the last to close: what it still answers is reset, and fails once more.
        let [begun, failed] = ["requested", "failed"].map(|name| count(&report, "connections", name));
        assert!((20..=40).contains(&failed), "each failed: {report}");
        assert_eq!(count(&report, "connections", "intact"), 20, "and was opened again: {report}");
        assert_eq!(begun, failed + 20, "tries are no connections: {report}");
        assert!(count(&report, "outages", "tries") >= 20, "{report}");
        if pacing[0] == "--rate" {
            // What was due meanwhile was begun in the end, and counts from its time.
            let messages = &report["messages"];
            assert_eq!((&messages["missed"], messages["sent"].as_u64()), (&json!(0), Some(6000)), "{report}");
            let p90 = count(&report["latency_us"], "scheduled", "p90");
            assert!(p90 > 200_000, "a sixth of the messages waited, up to half a second: {report}");
        }
    }
}

#[test]
fn one_connection_that_fails_is_no_outage_of_the_service() {
    // The first connection ends after ten messages; its successor and the other one stay.
    let addr = serving(|number, mut stream| {
        let mut message = [0; 64];
        for _ in 0..10 {
            if stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_err() {
                return;
            }
        }
        if number > 1 {
            echo(&stream);
        }
    });
    let run = client(addr, 2, &["-q", "--reconnect", "--duration", "300ms"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let line =
        run.stdout.lines().find_map(|line| line.strip_prefix("outages      ")).unwrap_or_else(|| panic!("{run:?}"));
    assert!(line.starts_with("1 connection, 0.0"), "{run:?}");
    assert!(line.contains("; more than 1 % of the connections were out from 0.0"), "{run:?}");
    assert!(run.stdout.contains("\nconnections  3 requested, 3 established, 2 intact, 1 failed\n"), "{run:?}");
    let (code, report) = report(Server::start(&[]).addr, 2, &["--reconnect", "--duration", "100ms"]);
    assert_eq!((code, count(&report, "outages", "count")), (Some(0), 0), "{report}");
}

#[test]
fn options_that_make_no_sense_together_are_named() {
    let addr: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--churn", "1"], &["--churn", "give --duration"]),
        (&["--churn", "1", "--messages", "3"], &["--churn", "not --messages"]),
        (&["--churn", "0", "--duration", "1s"], &["--churn"]),
        (&["--churn", "1", "-m", "text", "--duration", "1s"], &["--message"]),
        (&["--churn-rate", "5", "--duration", "1s"], &["not provided"]),
        (&["--churn", "1", "--churn-rate", "5", "--rate", "5", "--duration", "1s"], &["--churn-rate", "--rate"]),
        (&["--churn", "1", "--churn-rate", "5", "--connect-rate", "5", "--duration", "1s"], &["--connect-rate"]),
        (&["--churn", "1", "--churn-rate", "5", "--reconnect", "--duration", "1s"], &["--reconnect"]),
        (&["--churn", "1", "--churn-rate", "5", "--hold", "1s", "--duration", "1s"], &["--hold", "--churn-rate"]),
        (&["--reconnect"], &["--reconnect", "give --duration"]),
        (&["--reconnect", "--messages", "3"], &["--reconnect", "give --duration"]),
    ];
    for (args, parts) in cases {
        let run = client(addr, 3, args);
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
        for part in *parts {
            assert!(run.stderr.contains(part), "{args:?}: {part:?} not in {run:?}");
        }
    }
}
