//! What a behaviour of a path is: the conversations that show it, and the row that says what was seen.
//!
//! Owns the trait that each behaviour implements, verdicts and rows, and the words that rows share. Knows no loop: a
//! behaviour asks for conversations, round by round, and is handed what each of them saw.

use std::fmt;
use std::time::Duration;

use crate::client::foreign_bytes;
use crate::engine::escape::Escaped;
use crate::probe::conversation::{Ending, Plan, Seen, Step};

/// Finds out one thing about a path.
pub trait Behaviour {
    /// The conversations of the next round, which are held side by side. None: everything is known.
    fn next_round(&mut self) -> Vec<Plan>;

    /// What the conversation with the number `index` of this round saw.
    fn hear(&mut self, index: usize, seen: Seen);

    /// What was found out so far, under the behaviour's name: carried, as long as nothing speaks against it.
    fn row(&self, name: &'static str) -> Row;
}

/// What the path made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrived unchanged.
    Carried,
    /// It came out as something else: an orderly end as a reset, or 200 connections at once as a hundred, twice.
    Changed,
    /// Bytes were lost or altered, or a connection was ended that was to go on.
    Cut,
    /// Nothing came any more.
    Silent,
    /// Connections were refused or not answered.
    Refused,
    /// The probe was ended before it was known, or could not find it out.
    NotKnown,
    /// It needs a partner, and there is none.
    NotTried,
}

impl Verdict {
    /// Those that a path can earn.
    pub const ALL: [Verdict; 5] = [Verdict::Carried, Verdict::Changed, Verdict::Cut, Verdict::Silent, Verdict::Refused];

    /// Its word in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Carried => "carried",
            Verdict::Changed => "changed",
            Verdict::Cut => "cut",
            Verdict::Silent => "silent",
            Verdict::Refused => "refused",
            Verdict::NotKnown => "not known",
            Verdict::NotTried => "not tried",
        }
    }

    /// What one conversation says of the path.
    #[must_use]
    pub fn of(seen: &Seen) -> Verdict {
        match &seen.ending {
            _ if seen.wrong_at.is_some() => Verdict::Cut,
            Ending::Done if seen.came_back() => Verdict::Carried,
            Ending::Done if seen.unanswered => Verdict::NotKnown,
            // All that was left was the peer's FIN. A reset at any other place cuts something off.
            Ending::Reset(_) if seen.came_back() && seen.step == Some(Step::AwaitEnd) => Verdict::Changed,
            Ending::Done | Ending::EarlyEnd | Ending::Reset(_) => Verdict::Cut,
            Ending::Silent => Verdict::Silent,
            Ending::NotConnected(_) => Verdict::Refused,
        }
    }
}

impl Verdict {
    /// What a conversation says whose connection may be refused by a limit. One that is ended at once, before a byte came
    /// back, is refused as well: whether the connect has succeeded by then is a matter of microseconds.
    #[must_use]
    pub fn of_admission(seen: &Seen) -> Verdict {
        if seen.was_turned_away() { Verdict::Refused } else { Verdict::of(seen) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The behaviour's name.
    pub name: &'static str,
    /// What the path made of it.
    pub verdict: Verdict,
    /// What was seen, in numbers.
    pub seen: String,
    /// What a failure means for programs, and the setting that commonly mends it, in whole sentences.
    pub advice: &'static str,
}

/// What is in order on a path, although it is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The behaviour's name.
    pub name: &'static str,
    /// What the path makes of it.
    pub verdict: Verdict,
}

impl Row {
    /// Whether the path did what was expected of it: to carry it, if nothing else was said. What needs a partner, where
    /// there is none, is nothing that the path did.
    #[must_use]
    pub fn is_as_expected(&self, expected: &[Expected]) -> bool {
        match expected.iter().rev().find(|expected| expected.name == self.name) {
            Some(expected) => self.verdict == expected.verdict,
            None => matches!(self.verdict, Verdict::Carried | Verdict::NotTried),
        }
    }
}

/// A size as people write it: 22 B, 100 kB, 4 MB.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{} kB", decimals(bytes, 1_000)),
        _ => format!("{} MB", decimals(bytes, 1_000_000)),
    }
}

fn decimals(bytes: u64, unit: u64) -> String {
    let tenths = bytes / (unit / 10); // A partner's number may be as large as it likes.
    if tenths.is_multiple_of(10) { format!("{}", tenths / 10) } else { format!("{}.{}", tenths / 10, tenths % 10) }
}

/// A time as people write it: 0.08 ms, 45 ms, 2.3 s.
pub(crate) fn time(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.2} ms"),
        ..1000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

/// The advice that fits what a conversation saw: `usual`, unless bytes were altered.
pub(crate) fn advice(seen: Option<&Seen>, usual: &'static str) -> &'static str {
    if seen.is_some_and(|seen| seen.wrong_at.is_some()) {
        "Bytes are altered, and TCP's checksum does not show it: a box that rewrites payloads (an application gateway, a \
         filter), or memory or a network card that fails. Only a checksum in the application notices (TLS has one)."
    } else {
        usual
    }
}

/// How a conversation ended, and on which way it failed, for people.
pub(crate) fn ending(seen: &Seen) -> String {
    let way = seen.way.map_or(String::new(), |way| format!("; {way}"));
    how_it_ended(seen) + &way
}

fn how_it_ended(seen: &Seen) -> String {
    if let Some(at) = seen.wrong_at {
        let what = match foreign_bytes::recognise(&seen.wrong) {
            // In the middle of a stream, what looks like a protocol's first bytes does so by chance.
            Some(name) if at <= 1 => format!(", it looks like {name}"),
            _ => String::new(),
        };
        return format!("a wrong byte at offset {at}: {}{what}", Escaped(&seen.wrong));
    }
    let when = time(seen.after);
    match &seen.ending {
        Ending::Done if seen.unanswered => "its question reached a server that is no partner".to_owned(),
        Ending::Done => format!("ended in order after {when}"),
        Ending::EarlyEnd => format!("ended by a FIN after {when}"),
        Ending::Reset(how) => format!("{how} after {when}"),
        Ending::Silent => {
            let cause = seen.cause.map_or(String::new(), |cause| format!(": {cause}"));
            format!("silent, given up after {when}{cause}")
        }
        Ending::NotConnected(how) => seen.cause.map_or_else(|| how.clone(), |cause| format!("{how}: {cause}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short_and_exact_enough() {
        assert_eq!(
            [22, 9_999, 100_000, 81_920, 4_000_000, 1_420_000, u64::MAX].map(size),
            ["22 B", "9999 B", "100 kB", "81.9 kB", "4 MB", "1.4 MB", "18446744073709.5 MB"]
        );
        assert_eq!(
            [80, 45_000, 2_340_000].map(|micros| time(Duration::from_micros(micros))),
            ["0.08 ms", "45 ms", "2.3 s"]
        );
    }

    #[test]
    fn a_verdict_says_what_became_of_bytes_and_end() {
        let whole = Seen::example(Ending::Done);
        let reset = || Ending::Reset("reset".to_owned());
        assert_eq!(Verdict::of(&whole), Verdict::Carried);
        let cases = [
            (Seen { returned: 99, ..whole.clone() }, Verdict::Cut),
            (Seen { wrong_at: Some(100), ..whole.clone() }, Verdict::Cut),
            (Seen { unanswered: true, planned: 0, sent: 0, returned: 0, ..whole.clone() }, Verdict::NotKnown),
            (Seen { ending: Ending::EarlyEnd, step: Some(Step::AwaitEcho), ..whole.clone() }, Verdict::Cut),
            (Seen { ending: reset(), step: Some(Step::AwaitEnd), ..whole.clone() }, Verdict::Changed),
            (Seen { ending: reset(), step: Some(Step::AwaitEnd), returned: 99, ..whole.clone() }, Verdict::Cut),
            // Everything sent so far is back, but more was to follow.
            (Seen { ending: reset(), step: Some(Step::Quiet(Duration::ZERO)), ..whole.clone() }, Verdict::Cut),
            (
                Seen { ending: reset(), step: Some(Step::AwaitEnd), sent: 50, returned: 50, ..whole.clone() },
                Verdict::Cut,
            ),
            (Seen { ending: Ending::Silent, step: Some(Step::AwaitEnd), ..whole.clone() }, Verdict::Silent),
            (Seen { ending: Ending::NotConnected(String::new()), connected_after: None, ..whole }, Verdict::Refused),
        ];
        for (seen, verdict) in cases {
            assert_eq!(Verdict::of(&seen), verdict, "{seen:?}");
        }
    }

    #[test]
    fn wrong_bytes_are_shown_and_recognised_only_at_the_beginning() {
        let http = Seen { wrong_at: Some(0), wrong: b"HTTP/1.1 400 Bad".to_vec(), ..Seen::example(Ending::Done) };
        assert_eq!(
            ending(&http),
            "a wrong byte at offset 0: b\"HTTP/1.1 400 Bad\", it looks like an HTTP/1.1 response"
        );
        let later = Seen { wrong_at: Some(700), ..http };
        assert_eq!(ending(&later), "a wrong byte at offset 700: b\"HTTP/1.1 400 Bad\"");
    }
}
