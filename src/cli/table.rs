//! The table of connections that SIGUSR1 asks for.
//!
//! Owns its layout. It says what `ss` and `netstat` cannot: what waits inside the process, and for whom.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;
use std::iter;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;
use mio::net::TcpStream;

use crate::cli::standard_error::{LossyStderr, USUAL_WIDTH};
use crate::engine::connection::Connection;
use crate::engine::event::Event;
use crate::engine::event_loop::EventLoop;
use crate::engine::protocol::Protocol;
use crate::engine::signals::Signal;
use crate::engine::sockets;
use crate::engine::time::Moment;

/// How many connections are shown, those with the most bytes waiting first. It fits a screen, and 50 lines are written
/// in well under a millisecond; the totals above them count all.
const ROWS: usize = 50;

/// The columns in front of the addresses. The first is text, the others numbers.
const COLUMNS: [&str; 7] = ["state", "inbound", "outbound", "received", "sent", "age", "idle"];

/// The column between them and the addresses, where it says something: the names of listeners.
const VIA: &str = "via";

/// The column in front of them, where connections have numbers: those of a client.
const NUMBER: &str = "nr";

/// Writes the table to standard error, whatever the log level, a line at a time. As with the log, lines that find no reader
/// are dropped. `number` is a connection's number, if it has one.
pub(crate) fn write_table<P: Protocol>(event_loop: &EventLoop<P>, number: impl Fn(&P) -> Option<u32>) {
    for line in table(event_loop, number) {
        let _ = LossyStderr.write(format!("{line}\n").as_bytes()); // It never fails.
    }
}

/// What to do with a server's events so that SIGUSR1 makes it print its table ([`Server::run_with`]).
///
/// [`Server::run_with`]: crate::server::Server::run_with
#[expect(clippy::needless_pass_by_value, reason = "an event is handed over")]
pub fn on_request<P: Protocol>(event: Event<P>, event_loop: &mut EventLoop<P>) {
    if matches!(event, Event::Signal(Signal::Status)) {
        write_table(event_loop, |_| None);
    }
}

fn table<P: Protocol>(event_loop: &EventLoop<P>, number: impl Fn(&P) -> Option<u32>) -> Vec<String> {
    let now = event_loop.now();
    let mut connections: Vec<_> = event_loop.connections().collect();
    connections.sort_by_key(|(_, connection)| Reverse(connection.inbound_len() + connection.outbound_len()));

    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    let (mut inbound, mut outbound, mut received, mut sent) = (0, 0, 0, 0);
    for (_, connection) in &connections {
        *states.entry(connection.state().to_string()).or_default() += 1;
        inbound += connection.inbound_len();
        outbound += connection.outbound_len();
        received += connection.received();
        sent += connection.sent();
    }
    let states: Vec<String> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut lines = wrapped(&format!(
        "{} connection{}{}{}",
        connections.len(),
        if connections.len() == 1 { "" } else { "s" },
        if states.is_empty() { "" } else { ": " },
        states.join(", ")
    ));
    lines.extend(wrapped(&format!(
        "bytes waiting: {inbound} inbound, {outbound} outbound; memory for buffers {}",
        event_loop.memory()
    )));
    lines.extend(wrapped(&format!("received {received}, sent {sent}; turns {}", event_loop.turns())));
    let left_out = connections.len().saturating_sub(ROWS);
    connections.truncate(ROWS);
    let listeners = listeners(event_loop, &connections);
    let connections: Vec<_> = connections.into_iter().map(|(_, connection)| connection).collect();
    let numbers: Vec<_> = connections.iter().map(|connection| number(connection.protocol())).collect();
    lines.extend(rows(&connections, &numbers, listeners.as_deref(), now));
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines
}

/// The name of the listener that each connection came in through, and `-` for those that were opened here. `None` where
/// that would say nothing: all came in through listeners without a name, or all were opened here.
fn listeners<P: Protocol>(
    event_loop: &EventLoop<P>,
    connections: &[(Token, &Connection<TcpStream, P>)],
) -> Option<Vec<&'static str>> {
    let ids: Vec<_> = connections.iter().map(|&(token, _)| event_loop.listener_of(token)).collect();
    let name = |id| match event_loop.listener_name(id) {
        "" => "unnamed",
        name => name,
    };
    let names: Vec<_> = ids.iter().map(|id| id.map_or("-", name)).collect();
    let has_a_name = ids.iter().flatten().any(|&id| !event_loop.listener_name(id).is_empty());
    let is_mixed = names.windows(2).any(|pair| pair[0] != pair[1]);
    (has_a_name || is_mixed).then_some(names)
}

/// A row for each connection, below their heads, with their numbers and the names of their listeners if there are any. Of
/// the two addresses, the one that all rows share is said once, above them: a server's own, a client's target.
fn rows<P>(
    connections: &[&Connection<TcpStream, P>],
    numbers: &[Option<u32>],
    listeners: Option<&[&'static str]>,
    now: Moment,
) -> Vec<String> {
    // A connection that was reset has no local address any more.
    let local =
        |connection: &Connection<TcpStream, P>| connection.transport().local_addr().ok().map(sockets::canonical);
    let one_local = all_the_same(connections.iter().filter_map(|connection| local(connection)));
    let one_foreign = all_the_same(connections.iter().map(|connection| connection.addr()));
    let (shared, shows_foreign, shows_local) = match (one_local, one_foreign) {
        (Some(local), _) => (Some(format!("local {local} in every row")), true, false),
        (None, Some(foreign)) => (Some(format!("foreign {foreign} in every row")), false, true),
        (None, None) => (None, true, true),
    };
    let addresses = |foreign: String, local: String| {
        let foreign = shows_foreign.then_some(foreign);
        foreign.into_iter().chain(shows_local.then_some(local))
    };

    let cells: Vec<[String; COLUMNS.len()]> = connections.iter().map(|connection| row(connection, now)).collect();
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
        cells.iter().map(|row| row[column].len()).chain([COLUMNS[column].len()]).max().unwrap_or(0)
    });
    let names_width = listeners.unwrap_or_default().iter().map(|name| name.len()).chain([VIA.len()]).max().unwrap_or(0);
    let numbers = in_front(numbers);
    let line = |number: &str, row: &[String; COLUMNS.len()], name: Option<&str>, foreign: String, local: String| {
        let row = format!("{number}{}", aligned(row, widths));
        let name = name.map(|name| format!("{name:<names_width$}"));
        filled(iter::once(row).chain(name).chain(addresses(foreign, local)), "  ")
    };
    let mut lines: Vec<String> = shared.into_iter().collect();
    let heads = COLUMNS.map(String::from);
    lines.extend(line(&numbers[0], &heads, listeners.map(|_| VIA), "foreign".to_owned(), "local".to_owned()));
    for (index, (connection, row)) in connections.iter().zip(&cells).enumerate() {
        let local = local(connection).map_or_else(|| "-".to_owned(), |addr| addr.to_string());
        let name = listeners.map(|names| names[index]);
        lines.extend(line(&numbers[index + 1], row, name, connection.addr().to_string(), local));
    }
    if connections.is_empty() { Vec::new() } else { lines }
}

/// The column of numbers, its head first, with the gap behind it. Empty texts if no connection has a number.
fn in_front(numbers: &[Option<u32>]) -> Vec<String> {
    if numbers.iter().all(Option::is_none) {
        return vec![String::new(); numbers.len() + 1];
    }
    let texts = numbers.iter().map(|number| number.map_or("-".to_owned(), |number| number.to_string()));
    let texts: Vec<String> = iter::once(NUMBER.to_owned()).chain(texts).collect();
    let width = texts.iter().map(String::len).max().unwrap_or(0);
    texts.into_iter().map(|text| format!("{text:<width$} ")).collect()
}

fn all_the_same(mut addrs: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let first = addrs.next()?;
    addrs.all(|addr| addr == first).then_some(first)
}

fn row<P>(connection: &Connection<TcpStream, P>, now: Moment) -> [String; COLUMNS.len()] {
    [
        connection.state().to_string(),
        amount(connection.inbound_len() as u64),
        amount(connection.outbound_len() as u64),
        amount(connection.received()),
        amount(connection.sent()),
        age(now.since(connection.opened())),
        age(now.since(connection.last_active())),
    ]
}

/// Text to the left, numbers to the right.
fn aligned(row: &[String; COLUMNS.len()], widths: [usize; COLUMNS.len()]) -> String {
    let text = format!("{:<1$}", row[0], widths[0]);
    let numbers = row.iter().zip(widths).skip(1).map(|(cell, width)| format!("{cell:>width$}"));
    iter::once(text).chain(numbers).collect::<Vec<_>>().join(" ")
}

/// A number of bytes in at most seven characters: exact below ten million, else in thousands, millions and so on, cut.
fn amount(bytes: u64) -> String {
    let values = iter::successors(Some(bytes), |value| Some(value / 1000));
    let mut texts = values.zip(["", "k", "M", "G", "T", "P"]).map(|(value, unit)| format!("{value}{unit}"));
    texts.find(|text| text.len() <= 7).unwrap_or_default() // The most that there can be is 18446P.
}

/// A time in at most four characters (for three years): `1.5s`, `60s`, `20m`, `30h`, `50d`, cut.
fn age(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        return format!("{}.{}s", time.as_secs(), time.subsec_millis() / 100);
    }
    let units = [(1, 's'), (60, 'm'), (3600, 'h'), (86_400, 'd')];
    let unit = units.into_iter().find(|(seconds, _)| time.as_secs() / seconds < 1000);
    let (seconds, letter) = unit.unwrap_or(units[3]);
    format!("{}{letter}", time.as_secs() / seconds)
}

/// Text in lines that fit every terminal, broken behind a comma or semicolon.
fn wrapped(text: &str) -> Vec<String> {
    filled(text.split_inclusive([',', ';']).map(|part| part.trim_start().to_owned()), " ")
}

/// Parts in lines that fit every terminal, with `gap` between them. What does not fit goes to the next line, indented.
fn filled(parts: impl Iterator<Item = String>, gap: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            None => lines.push(part),
            Some(line) if line.len() + gap.len() + part.len() <= USUAL_WIDTH => line.extend([gap, &part]),
            Some(line) => {
                line.truncate(line.trim_end().len()); // A part may be filled up with spaces, for one that follows.
                lines.push(format!("  {part}"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::connection::{State, Timeouts};
    use crate::engine::event_loop::{Limits, ListenerConfig};
    use crate::engine::sockets::ListenOptions;
    use crate::server::echo::Echo;

    #[test]
    fn the_totals_come_first_and_the_table_is_cut() {
        let listener = sockets::listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut event_loop = EventLoop::new(Limits::default(), Timeouts::default()).unwrap();
        let table = |event_loop: &EventLoop<Echo>| table(event_loop, |_| None);
        assert_eq!(table(&event_loop)[0], "0 connections");
        for _ in 0..ROWS + 7 {
            event_loop.connect(addr, Echo);
        }
        let lines = table(&event_loop);
        assert_eq!(lines[0], "57 connections: 57 connecting");
        assert_eq!(lines[1], "bytes waiting: 0 inbound, 0 outbound; memory for buffers 0");
        assert_eq!(lines[2], "received 0, sent 0; turns 0");
        assert_eq!(lines[3], format!("foreign {addr} in every row"));
        assert_eq!(lines[4], "state      inbound outbound received sent  age idle  local");
        assert_eq!(lines.len(), 3 + 2 + ROWS + 1);
        assert_eq!(lines.last().unwrap(), "and 7 more");
    }

    #[test]
    fn numbers_are_a_column_in_front_if_any_connection_has_one() {
        assert_eq!(in_front(&[None, None]), ["", "", ""]);
        assert_eq!(in_front(&[Some(7), None, Some(1234)]), ["nr   ", "7    ", "-    ", "1234 "]);
    }

    #[test]
    fn each_row_names_its_listener_where_there_are_names_or_connections_of_our_own() {
        const BACKEND: ListenerConfig = ListenerConfig { name: "backend", connections: usize::MAX };
        let listen = || sockets::listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
        let (front, back) = (listen(), listen());
        let (front_addr, back_addr) = (front.local_addr().unwrap(), back.local_addr().unwrap());
        let mut event_loop = EventLoop::new(Limits::default(), Timeouts::default()).unwrap();
        event_loop.listen(front, |_| Echo).unwrap();
        event_loop.listen_with(BACKEND, back, |_| Echo).unwrap();
        let table = |event_loop: &EventLoop<Echo>| table(event_loop, |_| None);
        // The eighth column, the one behind `idle`, with its head.
        let via = |event_loop: &EventLoop<Echo>| -> Vec<String> {
            let lines = table(event_loop);
            let below =
                lines.iter().skip_while(|line| !line.starts_with("state")).filter(|line| !line.starts_with(' '));
            let mut words: Vec<_> =
                below.filter_map(|line| line.split_whitespace().nth(7)).map(str::to_owned).collect();
            words.sort();
            words
        };
        let until = |count: usize, event_loop: &mut EventLoop<Echo>| {
            while event_loop.open_connections() < count {
                event_loop.turn().unwrap();
            }
        };

        let first = std::net::TcpStream::connect(front_addr).unwrap();
        until(1, &mut event_loop);
        assert_eq!(via(&event_loop), [first.local_addr().unwrap().to_string(), "foreign".to_owned()]);

        event_loop.connect(back_addr, Echo);
        assert_eq!(via(&event_loop), ["-", "unnamed", "via"], "one came in, one was opened here");
        until(3, &mut event_loop);
        assert_eq!(via(&event_loop), ["-", "backend", "unnamed", "via"]);
        let head = table(&event_loop).into_iter().find(|line| line.starts_with("state")).unwrap();
        assert!(head.ends_with("idle  via      foreign  local"), "{head:?}");
        assert!(table(&event_loop).iter().all(|line| line.len() <= 80 && line.trim_end() == line));
    }

    #[test]
    fn the_widest_row_that_there_can_be_fits_80_columns() {
        let most: [String; COLUMNS.len()] = [
            State::PeerFinished.to_string(),
            amount(9_999_999),
            amount(u64::from(u32::MAX)),
            amount(u64::MAX),
            amount(9_999_999),
            age(Duration::from_secs(999 * 86_400)),
            age(Duration::from_millis(9_999)),
        ];
        let widths = std::array::from_fn(|column| most[column].len().max(COLUMNS[column].len()));
        let row = aligned(&most, widths);
        assert_eq!(row, "peer finished 9999999    4294M   18446P 9999999 999d 9.9s");
        let fill = |addr: &str| filled([row.clone(), addr.to_owned()].into_iter(), "  ");
        assert_eq!(fill("255.255.255.255:65535"), [format!("{row}  255.255.255.255:65535")]);
        let long = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535";
        assert_eq!(fill(long), [row.clone(), format!("  {long}")], "an IPv6 address may need a line of its own");

        let states = "1048576 connections: 100000 connecting, 100000 established, 100000 finishing, 100000 peer \
                      finished, 648576 stalled";
        let lines = wrapped(states);
        assert_eq!(lines.iter().map(|line| line.trim_start()).collect::<Vec<_>>().join(" "), states);
        assert!(lines.len() == 2 && lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
    }

    #[test]
    fn amounts_and_ages_are_short_and_never_rounded_up() {
        let amounts = [0, 9_999_999, 10_000_000, 999_999_999, 1_000_000_000].map(amount);
        assert_eq!(amounts, ["0", "9999999", "10000k", "999999k", "1000M"]);
        let ages = [0, 9, 10, 999, 1000, 59_999, 60_000, 3_600_000, 86_400_000, 86_400_001].map(Duration::from_secs);
        let texts = ages.map(age);
        assert_eq!(texts, ["0.0s", "9.0s", "10s", "999s", "16m", "999m", "16h", "41d", "1000d", "1000d"]);
        assert_eq!(age(Duration::from_millis(9_990)), "9.9s");
    }
}
