//! Hints: each with a server that behaves so, and none where nothing is wrong.
#![cfg(feature = "cli")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Server, client, echo, report as json, reset, serving};
use serde_json::Value;

/// Runs the client, whose report has this hint and no other. Returns the report and the hint's evidence.
#[track_caller]
fn hint(kind: &str, addr: SocketAddr, connections: u32, args: &[&str]) -> (Value, Value) {
    let (code, report) = json(addr, connections, args);
    let hints = report["hints"].as_array().unwrap();
    assert_eq!(hints.iter().map(|hint| &hint["kind"]).collect::<Vec<_>>(), [kind], "{report}");
    let is_intact = report["connections"]["intact"] == connections;
    assert_eq!(code, Some(i32::from(!is_intact)), "the faults decide it: {report}");
    let evidence = hints[0]["evidence"].clone();
    (report, evidence)
}

/// Reads a message of `size` bytes and sends it back; whether there was one.
fn echo_one(stream: &mut TcpStream, size: usize) -> bool {
    let mut message = vec![0; size];
    stream.read_exact(&mut message).and_then(|()| stream.write_all(&message)).is_ok()
}

/// Ends a connection in order, without a reset that could overtake what was sent.
fn finish(mut stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

#[test]
fn an_answer_in_two_pieces_meets_the_delayed_acknowledgement() {
    // Without TCP_NODELAY the second piece waits for the acknowledgement of the first, and the client's kernel delays that.
    let addr = serving(|_, mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            let sent = stream.write_all(&message[..1]).and_then(|()| stream.write_all(&message[1..]));
            if sent.is_err() {
                break;
            }
        }
    });
    let args = ["--size", "64", "--messages", "20"];
    let (report, evidence) = hint("delayed_ack", addr, 4, &args);
    assert_eq!(evidence["message_bytes"], 64, "{evidence}");
    assert_eq!(evidence["p50_us"], report["latency_us"]["service"]["p50"], "{report}");
    let run = client(addr, 4, &[&["-q"], &args[..]].concat());
    assert!(run.stdout.contains("\nhint         messages of 64 bytes take 4"), "{run:?}");
    let (_, below) = run.stdout.split_once("\nhint ").unwrap();
    assert!(run.code == Some(0) && below.contains("\nverdict      intact: every byte"), "{run:?}");
}

/// Waits until connects to `addr` are under way.
#[cfg(target_os = "linux")]
fn until_connects_wait(addr: SocketAddr) {
    let remote = format!("0100007F:{:04X}", addr.port());
    let begun = Instant::now();
    // The remote address and the state (02: SYN_SENT) are the 3rd and 4th field of a line.
    let waits = |line: &str| line.split_whitespace().skip(2).take(2).eq([&*remote, "02"]);
    while !std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(waits) {
        assert!(begun.elapsed() < common::PATIENCE, "no connect waits");
        std::thread::sleep(Duration::from_millis(1)); // Nothing tells that a SYN was sent.
    }
}

#[cfg(target_os = "linux")]
#[test]
fn connects_that_find_the_backlog_full_are_sent_again_after_a_second() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap(); // Holds one connection.
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    std::thread::spawn(move || {
        until_connects_wait(addr);
        for stream in std::net::TcpListener::from(listener).incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(&stream));
        }
    });
    let (report, evidence) = hint("retransmitted_syn", addr, 3, &["--connect-window", "3"]);
    let again = evidence["connects"].as_u64().unwrap();
    assert!((1..3).contains(&again) && report["connections"]["sent_again"] == again, "{report}");
    assert_eq!((&evidence["established"], &evidence["max_us"]), (&3.into(), &report["connect_us"]["max"]), "{report}");
}

#[test]
fn a_path_that_connects_on_demand_keeps_first_messages_waiting() {
    let addr = serving(|_, mut stream| {
        let mut message = [0; 64];
        let _ = stream.read_exact(&mut message);
        std::thread::sleep(Duration::from_millis(200)); // As long as it takes to connect.
        let _ = stream.write_all(&message);
        echo(&stream);
    });
    // For twenty times as long: first messages that waited because the machine stood still once are not cold.
    let args = ["--size", "64", "--rate", "200", "--duration", "4100ms"];
    let (_, evidence) = hint("cold_first", addr, 4, &args);
    assert_eq!(evidence["connections"], 4, "{evidence}");
    let [first, later] = ["first_p50_us", "later_p50_us"].map(|name| evidence[name].as_u64().unwrap());
    assert!(first >= 200_000 && later < first / 10, "{evidence}");
}

#[test]
fn one_bad_backend_of_three_fails_every_third_connection() {
    let addr = serving(|number, stream| if number % 3 == 2 { reset(stream) } else { echo(&stream) });
    let (report, evidence) = hint("every_nth", addr, 10, &["--connect-window", "1", "--size", "64", "--messages", "5"]);
    let numbers = ["every", "first", "failures", "connections"].map(|name| evidence[name].as_u64().unwrap());
    assert_eq!(numbers, [3, 2, 3, 10], "{report}");
}

#[test]
fn a_server_that_ends_connections_at_one_age_is_told_from_one_that_dies() {
    const AGE: Duration = Duration::from_millis(1100);
    let addr = serving(|_, stream| {
        let reader = stream.try_clone().unwrap();
        std::thread::spawn(move || echo(&reader));
        std::thread::sleep(AGE);
        let _ = stream.shutdown(Shutdown::Both);
    });
    let args = ["--size", "64", "--rate", "40", "--duration", "10s", "--connect-rate", "5"];
    let (report, evidence) = hint("one_age", addr, 4, &args);
    assert_eq!(evidence["failures"], 4, "{report}");
    let [from, to, within] = ["shortest_seconds", "longest_seconds", "within_seconds"]
        .map(|name| evidence[name].as_f64().unwrap_or_else(|| panic!("{evidence}")));
    assert!(AGE.as_secs_f64() - 0.01 < from && from <= to && to < 1.3 && within > 0.4, "{report}");
}

#[test]
fn a_server_that_ends_idle_connections_is_found_out() {
    const IDLE: Duration = Duration::from_millis(1050);
    let addr = serving(|_, stream| {
        stream.set_read_timeout(Some(IDLE)).unwrap();
        echo(&stream);
    });
    // A message of each every 1.3 s, at different times.
    let args = ["--size", "64", "--rate", "2.3", "--duration", "10s"];
    let (report, evidence) = hint("one_idle_time", addr, 3, &args);
    assert_eq!(evidence["failures"], 3, "{report}");
    let times = ["shortest_seconds", "longest_seconds"].map(|name| evidence[name].as_f64().unwrap());
    assert!(times.iter().all(|time| (1.04..1.15).contains(time)), "{report}");
}

#[test]
fn a_server_that_dies_has_no_timeout() {
    let accepted = Instant::now() + Duration::from_millis(1300);
    let addr = serving(move |_, stream| {
        let reader = stream.try_clone().unwrap();
        std::thread::spawn(move || echo(&reader));
        std::thread::sleep(accepted.saturating_duration_since(Instant::now()));
        let _ = stream.shutdown(Shutdown::Both);
    });
    let (_, report) = json(addr, 8, &["--size", "64", "--rate", "4", "--duration", "10s"]);
    assert_eq!(report["connections"]["failed"], 8, "{report}");
    assert_eq!(report["hints"], Value::Array(Vec::new()), "{report}");
}

#[test]
fn a_server_that_sends_back_so_many_bytes_and_no_more_has_a_size_limit() {
    let addr = serving(|_, stream| {
        let _ = std::io::copy(&mut (&stream).take(10_000), &mut &stream);
        finish(&stream);
    });
    let (report, evidence) = hint("one_offset", addr, 4, &["--size", "4096", "--messages", "5"]);
    assert_eq!((&evidence["failures"], &evidence["offset"]), (&4.into(), &10_000.into()), "{report}");
    let text = report["hints"][0]["text"].as_str().unwrap();
    assert!(text.contains("byte 10000 of the echo, in the middle of a message"), "{text}");
}

#[test]
fn a_server_that_answers_so_many_messages_and_no_more_has_a_limit_too() {
    let addr = serving(|_, mut stream| {
        if echo_one(&mut stream, 64) && echo_one(&mut stream, 64) {
            finish(&stream);
        }
    });
    let (report, evidence) = hint("one_offset", addr, 4, &["--size", "64", "--rate", "16", "--duration", "10s"]);
    assert_eq!((&evidence["failures"], &evidence["offset"]), (&4.into(), &128.into()), "{report}");
    let text = report["hints"][0]["text"].as_str().unwrap();
    assert!(text.contains("behind a whole message"), "{text}");
}

#[test]
fn a_hundred_healthy_runs_have_no_hint() {
    let server = Server::start(&[]);
    let threads = serving(|_, stream| echo(&stream));
    let loads: [&[&str]; 10] = [
        &[],
        &["-m", "hello"],
        &["--size", "64", "--messages", "20"],
        &["--size", "64", "--messages", "50", "--pipeline", "8"],
        &["--size", "100k", "--messages", "4"],
        &["--size", "64", "--rate", "2000", "--duration", "30ms"],
        &["--size", "64", "--rate", "500", "--duration", "30ms", "--connect-rate", "1000"],
        &["--size", "64", "--duration", "30ms", "--churn", "3"],
        &["--size", "64", "--duration", "30ms", "--warmup", "10ms"],
        &["--size", "64", "--messages", "10", "--hold", "20ms"],
    ];
    for addr in [server.addr, threads] {
        for connections in [1, 3, 10, 30, 100] {
            for load in loads {
                let (code, report) = json(addr, connections, load);
                assert_eq!((code, &report["hints"]), (Some(0), &Value::Array(Vec::new())), "{report}");
            }
        }
    }
}
