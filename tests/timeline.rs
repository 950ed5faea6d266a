//! A run in intervals: each message in one of them, where it was seen, whatever becomes of the lines.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{CLIENT, Server};
use rustix::process::Signal;
use serde_json::Value;

fn client(server: &Server, connections: u32, options: &[&str]) -> Child {
    let addr = server.addr;
    let mut command = Command::new(CLIENT);
    command.args([&addr.ip().to_string(), &addr.port().to_string(), &connections.to_string(), "-q"]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What is behind `name` in each line that is an object with that field alone.
fn object(line: &str, name: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(line).unwrap();
    value.get_mut(name).map(Value::take)
}

fn sum(intervals: &[Value], path: &str) -> u64 {
    intervals.iter().map(|interval| interval.pointer(path).and_then(Value::as_u64).unwrap_or(0)).sum()
}

/// Whether the intervals follow each other and hold what the report of the whole run has.
#[track_caller]
fn assert_they_sum_up(intervals: &[Value], report: &Value) {
    assert_eq!(intervals[0]["from_seconds"], 0.0);
    for pair in intervals.windows(2) {
        assert_eq!(pair[0]["to_seconds"], pair[1]["from_seconds"]);
    }
    for path in [
        "/messages/sent",
        "/messages/echoed",
        "/bytes/sent",
        "/bytes/echoed",
        "/latency_us/service/count",
        "/latency_us/scheduled/count",
        "/first_byte_us/count",
        "/late_us/count",
        "/connect_us/count",
    ] {
        let whole = report.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        assert_eq!(sum(intervals, path), whole, "{path}: {intervals:#?}");
    }
    let failed = report["connections"]["failed"].as_u64().unwrap();
    assert_eq!(sum(intervals, "/faults"), failed);
    let max = |value: &Value| value.pointer("/latency_us/service/max").and_then(Value::as_u64);
    assert_eq!(intervals.iter().filter_map(max).max(), max(report));
}

#[test]
fn a_stall_shows_in_the_interval_in_which_it_was_and_in_no_other() {
    let server = Server::start(&[]);
    let mut client = client(&server, 4, &["--rate", "400", "--duration", "4s", "--interval", "1s", "--json-lines"]);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The connects, and two seconds.
    let mut intervals: Vec<Value> = lines.by_ref().take(3).map(|line| object(&line, "interval").unwrap()).collect();
    let pause = Duration::from_millis(300);
    server.program.signal(Signal::STOP);
    std::thread::sleep(pause);
    server.program.signal(Signal::CONT);
    let rest: Vec<String> = lines.collect();
    let (report, rest) = rest.split_last().unwrap();
    intervals.extend(rest.iter().map(|line| object(line, "interval").unwrap()));
    assert!(client.wait().unwrap().success());

    assert_they_sum_up(&intervals, &object(report, "report").unwrap());
    assert_eq!(intervals.len(), 5, "{intervals:#?}");
    let longest = |interval: &Value| interval["latency_us"]["scheduled"]["max"].as_u64().unwrap_or(0);
    let stalled: Vec<f64> = intervals
        .iter()
        .filter(|interval| u128::from(longest(interval)) >= pause.as_micros() * 9 / 10)
        .map(|interval| interval["from_seconds"].as_f64().unwrap().round())
        .collect();
    assert_eq!(stalled, [2.0], "{intervals:#?}");
}

#[test]
fn what_is_expected_of_every_interval_is_judged_in_each_and_the_places_are_named() {
    let server = Server::start(&[]);
    let options = ["--rate", "400", "--duration", "1s", "--interval", "100ms", "--json"];
    let expect = ["--expect", "every p99<0ms", "--expect", "every max<1m", "--expect", "every connect.max<1m"];
    let output = client(&server, 4, &[&options[..], &expect[..]].concat()).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    common::schema::check_against("report.schema.json", &report);
    let intervals = report["intervals"].as_array().unwrap();
    let measured: Vec<&Value> = intervals.iter().filter(|interval| interval["measured"] == true).collect();
    let outcome = &report["expectations"][0];
    assert_eq!(
        (&outcome["held"], &outcome["intervals"]["judged"]),
        (&false.into(), &measured.len().into()),
        "{report}"
    );
    assert_eq!(outcome["intervals"]["not_held"], measured.len(), "{report}");
    let places: Vec<&Value> = measured.iter().take(5).map(|interval| &interval["from_seconds"]).collect();
    assert_eq!(outcome["intervals"]["from_seconds"].as_array().unwrap().iter().collect::<Vec<_>>(), places, "{report}");
    for held in [1, 2] {
        assert_eq!(report["expectations"][held]["held"], true, "{report}");
    }
    let max = report["latency_us"]["scheduled"]["max"].as_f64();
    assert_eq!(report["expectations"][1]["measured"].as_f64(), max, "the worst of all is that of the run: {report}");
}

#[test]
fn intervals_are_in_the_report_and_in_files_and_sum_to_the_whole() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let [csv, log] = ["run.csv", "run.hlog"].map(|name| folder.path().join(name));
    let options = ["--size", "2000", "--pipeline", "4", "--duration", "500ms", "--interval", "100ms", "--json"];
    let files = ["--csv", csv.to_str().unwrap(), "--hdr-log", log.to_str().unwrap()];
    let mut client = client(&server, 3, &[&options[..], &files].concat());
    let mut stdout = String::new();
    client.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert!(client.wait().unwrap().success());

    let report: Value = serde_json::from_str(&stdout).unwrap();
    let intervals = report["intervals"].as_array().unwrap();
    assert_they_sum_up(intervals, &report);
    assert!((3..=6).contains(&intervals.len()), "{intervals:#?}");

    let csv = fs::read_to_string(csv).unwrap();
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let heads = rows.next().unwrap();
    let column = heads.iter().position(|&head| head == "messages.echoed").unwrap();
    let echoed: u64 = rows.map(|row| row[column].parse::<u64>().unwrap()).sum();
    assert_eq!(echoed, report["messages"]["echoed"].as_u64().unwrap());

    let log = fs::read_to_string(log).unwrap();
    let measured = intervals.iter().filter(|interval| interval["measured"] == true).count();
    assert_eq!(log.lines().filter(|line| line.starts_with("Tag=service,")).count(), measured);
}

#[test]
fn a_reader_that_does_not_read_stalls_nothing_and_misses_nothing() {
    let server = Server::start(&[]);
    let mut client = client(&server, 1, &["--rate", "1000", "--duration", "1s", "--interval", "10ms", "--json-lines"]);
    let mut stdout = client.stdout.take().unwrap();
    let room = rustix::pipe::fcntl_setpipe_size(&stdout, 4096).unwrap();
    // The run ends although nothing was read.
    server.program.line("Closing connection to");
    let mut lines = String::new();
    stdout.read_to_string(&mut lines).unwrap();
    assert!(client.wait().unwrap().success());
    assert!(lines.len() > 4 * room, "the pipe had room for all: {} bytes", lines.len());

    let lines: Vec<&str> = lines.lines().collect();
    let (report, intervals) = lines.split_last().unwrap();
    let intervals: Vec<Value> = intervals.iter().map(|line| object(line, "interval").unwrap()).collect();
    assert_they_sum_up(&intervals, &object(report, "report").unwrap());
}

#[test]
fn a_reader_that_goes_away_ends_nothing() {
    let server = Server::start(&[]);
    let mut client = client(&server, 1, &["--rate", "1000", "--duration", "500ms", "--interval", "10ms"]);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first: Vec<String> = lines.by_ref().take(2).collect();
    assert!(first[0].trim_start().starts_with("seconds conns messages/s"), "{first:?}");
    assert!(first[1].trim_start().starts_with("0.00-0.0"), "{first:?}");
    drop(lines);
    assert!(client.wait().unwrap().success());
    server.program.line("Closing connection to");
}

#[test]
fn waiting_messages_and_the_age_of_the_oldest_are_known_while_nothing_comes_back() {
    let server = Server::start(&[]);
    let mut client = client(&server, 2, &["--rate", "100", "--duration", "1s", "--interval", "100ms", "--json-lines"]);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || object(&lines.next().unwrap(), "interval").unwrap();
    let (_connects, _first) = (next(), next());
    server.program.signal(Signal::STOP);
    let stopped = [next(), next(), next()];
    server.program.signal(Signal::CONT);
    let waiting = |interval: &Value| interval["messages"]["waiting"].as_u64().unwrap();
    let oldest = |interval: &Value| interval["messages"]["oldest_us"].as_u64().unwrap();
    for pair in stopped.windows(2) {
        assert_eq!(pair[1]["messages"]["echoed"], 0, "{stopped:#?}");
        let length = pair[1]["to_seconds"].as_f64().unwrap() - pair[1]["from_seconds"].as_f64().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let grown = (oldest(&pair[1]) - oldest(&pair[0])) as f64 / 1e6;
        assert!((grown - length).abs() < 1e-5, "it is the same one: {stopped:#?}");
        // One is due every 10 ms, the oldest among them.
        assert!(waiting(&pair[1]).abs_diff(oldest(&pair[1]) / 10_000 + 1) <= 1, "{stopped:#?}");
    }
    drop(lines);
    client.wait().unwrap();
}
