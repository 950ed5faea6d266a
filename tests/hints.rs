//! Hints: each with a server that behaves so, and none where nothing is wrong.
#![cfg(feature = "cli")]

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;

use common::{client, report as json, serving};
use serde_json::Value;

/// Runs the client, whose report has this hint and no other. Returns the hint's evidence and the exit code.
#[track_caller]
fn hint(kind: &str, addr: SocketAddr, connections: u32, args: &[&str]) -> (Value, Option<i32>) {
    let (code, report) = json(addr, connections, args);
    let hints = report["hints"].as_array().unwrap();
    assert_eq!(hints.iter().map(|hint| &hint["kind"]).collect::<Vec<_>>(), [kind], "{report}");
    (hints[0]["evidence"].clone(), code)
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
    let args = ["--size", "64", "--messages", "12"];
    let (evidence, code) = hint("delayed_ack", addr, 4, &args);
    assert_eq!((&evidence["message_bytes"], code), (&64.into(), Some(0)), "{evidence}");
    let run = client(addr, 4, &[&["-q"], &args[..]].concat());
    assert!(run.stdout.contains("\nhint         messages of 64 bytes take 4"), "{run:?}");
    assert!(run.stdout.contains("\nverdict      intact"), "{run:?}");
}
