//! What the client's intervals cost it, in CPU time beside that of its messages, both measured on the same machine within
//! the same few seconds.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

mod common;

use common::product;

/// The CPU time of a program, from its start to its end.
fn cpu(command: &mut Command) -> Duration {
    let before = sys::children_cpu_time().unwrap();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sys::children_cpu_time().unwrap().saturating_sub(before)
}

#[test]
fn an_interval_a_second_costs_less_than_a_percent_of_200_000_messages() {
    const INTERVALS: u32 = 1000;
    let mut server =
        Command::new(product("multiconn-server")).args(["127.0.0.1", "0"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let addr = lines.find_map(|line| Some(line.unwrap().strip_prefix("Listening on 127.0.0.1:")?.to_owned())).unwrap();
    let drained = std::thread::spawn(move || lines.for_each(drop)); // What it says later is read, so that it never waits.

    let parts: Vec<f64> = (0..5)
        .map(|_| {
            let mut load = Command::new(product("multiconn-client"));
            load.args(["-q", "127.0.0.1", &addr, "100", "--size", "64", "--messages", "2000"]);
            let messages = cpu(&mut load);
            let intervals =
                |times: u32| cpu(Command::new(env!("CARGO_BIN_EXE_hot-paths")).args(["interval", &times.to_string()]));
            // The start of the program is the same in both.
            let interval = intervals(2 * INTERVALS).saturating_sub(intervals(INTERVALS)) / INTERVALS;
            println!("figure: 200,000 messages: {messages:?} of CPU, the end of an interval: {interval:?}");
            interval.as_secs_f64() / messages.as_secs_f64()
        })
        .collect();
    sys::signal(server.id(), libc::SIGTERM).unwrap();
    assert!(server.wait().unwrap().success());
    drained.join().unwrap();

    let mut sorted = parts;
    sorted.sort_by(f64::total_cmp);
    println!(
        "figure: an interval a second at 200,000 messages a second: {:.2} % of the client's CPU",
        sorted[2] * 100.0
    );
    assert!(sorted[2] < 0.01, "{sorted:?}");
}
