//! What the client's intervals cost it, in CPU time beside that of its messages, both measured on the same machine within
//! the same few seconds.

use std::process::Command;
use std::time::Duration;

mod common;

use common::{Listening, product};

/// The CPU time of a program, from its start to its end.
fn cpu(command: &mut Command) -> Duration {
    let before = sys::children_cpu_time().unwrap();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sys::children_cpu_time().unwrap().checked_sub(before).unwrap()
}

#[test]
fn an_interval_a_second_costs_less_than_a_percent_of_200_000_messages() {
    const INTERVALS: u32 = 1000;
    let server = Listening::start(Command::new(product("multiconn-server")).args(["127.0.0.1", "0"]));
    let mut load = Command::new(product("multiconn-client"));
    load.args(["-q", "127.0.0.1", &server.addr.port().to_string(), "100", "--size", "64", "--messages", "2000"]);
    let intervals =
        |times: u32| cpu(Command::new(env!("CARGO_BIN_EXE_hot-paths")).args(["interval", &times.to_string()]));

    let mut parts = [0.0; 5].map(|_: f64| {
        let messages = cpu(&mut load);
        // The start of the program is the same in both.
        let interval = intervals(2 * INTERVALS).checked_sub(intervals(INTERVALS)).unwrap() / INTERVALS;
        println!("figure: 200,000 messages: {messages:?} of CPU, the end of an interval: {interval:?}");
        interval.as_secs_f64() / messages.as_secs_f64()
    });
    parts.sort_by(f64::total_cmp);
    let median = parts[2];
    println!("figure: an interval a second at 200,000 messages a second: {:.2} % of the client's CPU", median * 100.0);
    assert!(median < 0.01, "{parts:?}");
}
