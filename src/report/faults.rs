//! The faults in the report's text: the first ones of each kind one by one, the rest by when they came.
//!
//! Owns how many lines that takes, and the words for faults that are shown together.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::fault::{FaultKind, FaultyConnection};
use crate::client::findings::DESCRIBED_FAULTS;

/// How many faults of a kind are shown one by one where there is no room for all of them.
const FEW: usize = 3;

/// Faults that follow each other within this time have one cause, most likely. A server that is killed takes its connections
/// with it in some milliseconds.
const TOGETHER: Duration = Duration::from_millis(100);

/// Faults that came within this time are said to have come within a time of each other; others, between two times.
const CLOSE: Duration = Duration::from_secs(1);

/// The lines that show `faults`, which stand in the order of their times. The kinds share [`DESCRIBED_FAULTS`] lines, and
/// each has at least one.
pub(super) fn lines(faults: &[FaultyConnection]) -> Vec<String> {
    let mut kinds: BTreeMap<FaultKind, Vec<&FaultyConnection>> = BTreeMap::new();
    for faulty in faults {
        kinds.entry(faulty.fault.kind).or_default().push(faulty);
    }
    let room = (DESCRIBED_FAULTS / kinds.len().max(1)).max(1);
    kinds.values().flat_map(|faults| lines_of_kind(faults, room)).collect()
}

/// The lines, no more than `room`, for faults of one kind.
fn lines_of_kind(faults: &[&FaultyConnection], room: usize) -> Vec<String> {
    if faults.len() <= room {
        return faults.iter().map(ToString::to_string).collect();
    }
    let (few, rest) = faults.split_at(FEW.min(room - 1));
    let groups: Vec<_> = rest.chunk_by(|one, next| next.evidence.at <= one.evidence.at + TOGETHER).collect();
    let groups = if few.len() + groups.len() <= room { groups } else { vec![rest] };
    let what = if few.is_empty() { rest[0].fault.kind.to_string() } else { "more".to_owned() };
    let groups = groups.iter().map(|group| format!("{} {what} {}{}", group.len(), times(group), ports(group)));
    few.iter().map(ToString::to_string).chain(groups).collect()
}

/// When the faults of a group came.
fn times(group: &[&FaultyConnection]) -> String {
    let (first, last) = (group[0].evidence.at, group[group.len() - 1].evidence.at);
    let (from, to) = (first.as_secs_f64(), last.as_secs_f64());
    match last.saturating_sub(first) {
        _ if group.len() == 1 => format!("at {from:.3} s"),
        span if span <= CLOSE => {
            let millis = span.as_micros().div_ceil(1000).max(1);
            format!("within {millis} ms of each other, from {from:.3} s on")
        }
        _ => format!("between {from:.3} s and {to:.3} s"),
    }
}

/// The range of a group's local ports, as far as they are known.
fn ports(group: &[&FaultyConnection]) -> String {
    let ports = group.iter().filter_map(|faulty| faulty.evidence.local).map(|local| local.port());
    match (ports.clone().min(), ports.max()) {
        (Some(lowest), Some(highest)) if lowest == highest => format!(", local port {lowest}"),
        (Some(lowest), Some(highest)) => format!(", local ports {lowest} to {highest}"),
        _ => String::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::client::evidence::Evidence;
    use crate::client::fault::Fault;

    /// A fault of connection `number`, from port 40000 + `number`.
    pub(in crate::report) fn faulty(number: u16, kind: FaultKind, millis: u64) -> FaultyConnection {
        let evidence = Evidence {
            local: Some(([192, 0, 2, 7], 40_000 + number).into()),
            time: SystemTime::UNIX_EPOCH,
            at: Duration::from_millis(millis),
            age: Duration::ZERO,
            idle: Duration::ZERO,
            in_flight: 0,
            within_message: false,
            finished: false,
            kernel: None,
        };
        FaultyConnection {
            connection: number.into(),
            fault: Fault::new(kind),
            peer: ([192, 0, 2, 1], 7).into(),
            evidence,
            detail: "words".to_owned(),
        }
    }

    fn resets(times: impl IntoIterator<Item = u64>) -> Vec<FaultyConnection> {
        (1..).zip(times).map(|(number, millis)| faulty(number, FaultKind::Reset, millis)).collect()
    }

    #[test]
    fn as_many_faults_as_there_are_lines_are_shown_one_by_one() {
        let ten = lines(&resets(0..10));
        assert_eq!(ten.len(), 10);
        assert_eq!(ten[9], "connection 10 to 192.0.2.1:7 from 192.0.2.7:40010 reset: words");
    }

    #[test]
    fn faults_that_came_together_are_one_line_with_their_ports() {
        let shown = lines(&resets((0..1000).map(|index| 2100 + index / 50)));
        assert_eq!(shown.len(), FEW + 1, "{shown:#?}");
        assert_eq!(shown[FEW], "997 more within 19 ms of each other, from 2.100 s on, local ports 40004 to 41000");
    }

    #[test]
    fn faults_that_came_at_several_times_have_a_line_for_each() {
        let shown = lines(&resets((0..50).map(|index| index / 20 * 3000)));
        assert_eq!(
            shown[FEW..],
            [
                "17 more within 1 ms of each other, from 0.000 s on, local ports 40004 to 40020",
                "20 more within 1 ms of each other, from 3.000 s on, local ports 40021 to 40040",
                "10 more within 1 ms of each other, from 6.000 s on, local ports 40041 to 40050",
            ]
        );
        let one_late = lines(&resets((0..20).chain([5000])));
        assert_eq!(one_late[FEW + 1], "1 more at 5.000 s, local port 40021");
    }

    #[test]
    fn faults_that_come_one_after_the_other_are_one_line_with_their_first_and_last_time() {
        for apart in [50, 500] {
            let shown = lines(&resets((0..100).map(|index| index * apart)));
            assert_eq!(shown.len(), FEW + 1, "{shown:#?}");
            let (from, to) = (3 * apart, 99 * apart);
            let times = format!("between {}.{:03} s and {}.{:03} s", from / 1000, from % 1000, to / 1000, to % 1000);
            assert_eq!(shown[FEW], format!("97 more {times}, local ports 40004 to 40100"));
        }
    }

    #[test]
    fn several_kinds_share_the_lines() {
        let of_kinds = |kinds: &[FaultKind]| {
            let faults = (0..20).flat_map(|number| kinds.iter().map(move |&kind| faulty(number, kind, 0)));
            lines(&faults.collect::<Vec<_>>())
        };
        assert_eq!(of_kinds(&[FaultKind::Reset, FaultKind::Lost]).len(), 2 * (FEW + 1));
        let five = [FaultKind::Refused, FaultKind::Lost, FaultKind::Foreign, FaultKind::Extra, FaultKind::Reset];
        assert_eq!(of_kinds(&five).len(), 10);
        let six = of_kinds(&[&five[..], &[FaultKind::Failed]].concat());
        assert_eq!(six.len(), 6);
        assert!(six[1].starts_with("20 lost within 1 ms of each other"), "{six:#?}");
    }

    #[test]
    fn a_fault_whose_port_is_not_known_names_none() {
        let mut faults = resets([0; 20]);
        for faulty in &mut faults {
            faulty.evidence.local = None;
        }
        let shown = lines(&faults);
        assert_eq!(shown[0], "connection 1 to 192.0.2.1:7 reset: words");
        assert_eq!(shown[FEW], "17 more within 1 ms of each other, from 0.000 s on");
    }
}
