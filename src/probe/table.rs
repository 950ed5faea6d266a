//! What the probe found, for people and for programs.
//!
//! Owns the words and the layout of the table, and the JSON object. Judges nothing.

use std::fmt::Write;
use std::net::SocketAddr;

use serde::Serialize;

use crate::probe::behaviour::{Expected, Row, Verdict};
use crate::probe::{BEHAVIOURS, Probed};

/// The version of the JSON object; it is raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// The names of all behaviours, each with what it finds out.
#[must_use]
pub fn behaviours() -> String {
    BEHAVIOURS.iter().fold(String::new(), |mut text, (name, what)| {
        let _ = writeln!(text, "{name:<12} {what}");
        text
    })
}

/// The table, and below it what each failure means.
#[must_use]
pub fn text(addr: SocketAddr, probed: &Probed, expected: &[Expected]) -> String {
    let mut text = format!("The path to {addr}:\n\n");
    for row in &probed.rows {
        let _ = writeln!(text, "{:<12} {:<8} {}", row.name, row.verdict, row.seen);
    }
    let unexpected: Vec<&Row> = probed.rows.iter().filter(|row| !row.is_as_expected(expected)).collect();
    for row in &unexpected {
        let _ = write!(text, "\n{}: {}.\n", row.name, row.advice);
    }
    let _ = match (probed.interrupted, unexpected.len()) {
        (Some(signal), _) => writeln!(text, "\nEnded by {}: not everything was tried.", signal.name()),
        (None, 0) if probed.rows.iter().all(|row| row.verdict == Verdict::Carried) => writeln!(text, "\nAll carried."),
        (None, 0) => writeln!(text, "\nAll as expected."),
        (None, 1) => writeln!(text, "\n1 of {} is not carried as it should be.", probed.rows.len()),
        (None, count) => writeln!(text, "\n{count} of {} are not carried as they should be.", probed.rows.len()),
    };
    text
}

#[derive(Serialize)]
struct Object<'a> {
    schema: u32,
    program: &'static str,
    version: &'static str,
    server: SocketAddr,
    as_expected: bool,
    interrupted_by: Option<&'static str>,
    rows: Vec<ObjectRow<'a>>,
}

#[derive(Serialize)]
struct ObjectRow<'a> {
    name: &'a str,
    verdict: &'static str,
    as_expected: bool,
    seen: &'a str,
    advice: &'a str,
}

/// One JSON object and a newline.
///
/// # Errors
/// There are none; writing to memory cannot fail.
pub fn json(addr: SocketAddr, probed: &Probed, expected: &[Expected]) -> anyhow::Result<String> {
    let row = |row: &Row| row.is_as_expected(expected);
    let rows = probed.rows.iter().map(|found| ObjectRow {
        name: found.name,
        verdict: found.verdict.name(),
        as_expected: row(found),
        seen: &found.seen,
        advice: found.advice,
    });
    let object = Object {
        schema: SCHEMA,
        program: "multiconn-probe",
        version: env!("CARGO_PKG_VERSION"),
        server: addr,
        as_expected: probed.is_as_expected(expected),
        interrupted_by: probed.interrupted.map(|signal| signal.name()),
        rows: rows.collect(),
    };
    Ok(serde_json::to_string_pretty(&object)? + "\n")
}
