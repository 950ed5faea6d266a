//! What the probe found, for people and for programs.
//!
//! Owns the words and the layout of the table, and the JSON object. Judges nothing.

use std::fmt::Write;
use std::net::SocketAddr;

use serde::Serialize;

use crate::engine::signals::Signal;
use crate::probe::behaviour::{Expected, Row, Verdict};
use crate::probe::{BEHAVIOURS, Probed};

/// The version of the JSON object; it is raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// The width of the column of names.
const NAME: usize = 19;

/// The names of all behaviours, each with what it finds out.
#[must_use]
pub fn behaviours() -> String {
    BEHAVIOURS.iter().fold(String::new(), |mut text, known| {
        let partner = if known.needs_partner { " *" } else { "" };
        let _ = writeln!(text, "{:<NAME$}{}{partner}", known.name, known.what);
        text
    }) + "\n* needs multiconn-server --probes at the other end\n"
}

/// The table, and below it what each failure means.
#[must_use]
pub fn text(probed: &Probed, expected: &[Expected]) -> String {
    let mut text = format!("The path to {}:\n\n", probed.addr);
    let (not_tried, tried): (Vec<&Row>, _) = probed.rows.iter().partition(|row| row.verdict == Verdict::NotTried);
    for row in tried {
        let head = format!("{:<NAME$}{:<11}", row.name, row.verdict);
        text += &wrapped(&head, head.len(), &row.seen);
    }
    if !not_tried.is_empty() {
        let names: Vec<&str> = not_tried.iter().map(|row| row.name).collect();
        let need = if names.len() == 1 { "needs" } else { "need" };
        let why = format!("{} {need} multiconn-server --probes at the other end.", names.join(", "));
        text += "\n";
        text += &wrapped("Not tried: ", 2, &why);
    }
    let unexpected = || probed.rows.iter().filter(|row| !row.is_as_expected(expected));
    let told = |row: &&Row| !matches!(row.verdict, Verdict::NotKnown | Verdict::NotTried);
    for row in unexpected().filter(told) {
        text += "\n";
        text += &wrapped(&format!("{}: ", row.name), 2, row.advice);
    }
    let verdict = match (probed.interrupted, unexpected().count()) {
        (Some(signal), _) => format!("Ended by {}: not everything was tried.", signal.name()),
        (None, 0) if probed.rows.iter().all(|row| matches!(row.verdict, Verdict::Carried | Verdict::NotTried)) => {
            "All carried.".to_owned()
        }
        (None, 0) => "All as expected.".to_owned(),
        (None, 1) => format!("1 of {} is not as expected.", probed.rows.len() - not_tried.len()),
        (None, count) => format!("{count} of {} are not as expected.", probed.rows.len() - not_tried.len()),
    };
    text + "\n" + &verdict + "\n"
}

/// `head` and `words` in lines that fit a terminal, all but the first indented by `indent`. A number stays with its unit.
fn wrapped(head: &str, indent: usize, words: &str) -> String {
    let mut text = head.to_owned();
    let mut column = head.chars().count();
    let mut pieces: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match pieces.last_mut() {
            Some(last) if last.parse::<f64>().is_ok() => last.extend([" ", word]),
            _ => pieces.push(word.to_owned()),
        }
    }
    for (number, word) in pieces.iter().enumerate() {
        let width = word.chars().count();
        if number > 0 && column + 1 + width > USUAL_WIDTH {
            text += "\n";
            text += &" ".repeat(indent);
            column = indent;
        } else if number > 0 {
            text += " ";
            column += 1;
        }
        text += word;
        column += width;
    }
    text + "\n"
}

/// The width that every terminal has.
const USUAL_WIDTH: usize = 80;

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
/// # Panics
/// Never: the object has nothing that JSON cannot say.
#[must_use]
pub fn json(probed: &Probed, expected: &[Expected]) -> String {
    let rows = probed.rows.iter().map(|found| ObjectRow {
        name: found.name,
        verdict: found.verdict.name(),
        as_expected: found.is_as_expected(expected),
        seen: &found.seen,
        advice: found.advice,
    });
    let object = Object {
        schema: SCHEMA,
        program: "multiconn-probe",
        version: env!("CARGO_PKG_VERSION"),
        server: probed.addr,
        as_expected: probed.is_as_expected(expected),
        interrupted_by: probed.interrupted.map(Signal::name),
        rows: rows.collect(),
    };
    serde_json::to_string_pretty(&object).expect("strings, numbers and truth values") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(rows: &[(&'static str, Verdict)]) -> Probed {
        let advice = "Mind it.";
        let row = |&(name, verdict)| Row { name, verdict, seen: "seen ".repeat(30).trim().to_owned(), advice };
        Probed { addr: ([127, 0, 0, 1], 7).into(), rows: rows.iter().map(row).collect(), interrupted: None }
    }

    #[test]
    fn no_line_is_wider_than_a_terminal_and_no_word_is_lost() {
        let text = text(&probed(&[("half-close", Verdict::Cut), ("idle", Verdict::NotKnown)]), &[]);
        assert!(text.lines().all(|line| line.len() <= USUAL_WIDTH && line == line.trim_end()), "{text}");
        assert_eq!(text.matches("seen").count(), 60, "{text}");
        assert!(text.contains("\n\nhalf-close: Mind it.\n\n2 of 2 are not as expected.\n"), "{text}");
    }

    #[test]
    fn the_list_of_behaviours_fits_a_terminal() {
        let list = behaviours();
        assert!(list.lines().all(|line| line.len() <= USUAL_WIDTH), "{list}");
    }

    #[test]
    fn a_number_stays_with_its_unit() {
        let words = "after 9.8 ms ".repeat(20);
        let text = wrapped("", 0, words.trim_end());
        assert_eq!(text.matches("9.8 ms").count(), 20, "{text}");
        assert!(text.lines().all(|line| line.len() <= USUAL_WIDTH), "{text}");
    }

    #[test]
    fn what_is_expected_needs_no_advice() {
        let expected = [Expected { name: "half-close", verdict: Verdict::Cut }];
        let text = text(&probed(&[("half-close", Verdict::Cut), ("idle", Verdict::Carried)]), &expected);
        assert!(text.ends_with("seen\n\nAll as expected.\n") && !text.contains("Mind"), "{text}");
    }
}
