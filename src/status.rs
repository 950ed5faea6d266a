//! The table of connections that SIGUSR1 asks for.
//!
//! Owns its layout. It says what `ss` and `netstat` cannot: what waits inside the process, and for whom.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;

use mio::net::TcpStream;

use crate::connection::Connection;
use crate::event_loop::EventLoop;
use crate::lossy_stderr::LossyStderr;
use crate::moment::Moment;
use crate::protocol::Protocol;

/// How many connections are shown, those with the most bytes waiting first. It fits a screen, and 50 lines are written
/// in well under a millisecond; the totals above them count all.
const ROWS: usize = 50;

/// The first columns are text, the others numbers.
const TEXT_COLUMNS: usize = 3;

/// Writes the table to standard error, whatever the log level, a line at a time: as with the log, lines that nobody
/// reads are dropped.
pub(crate) fn write_table<P: Protocol>(event_loop: &EventLoop<P>) {
    for line in table(event_loop) {
        let _ = LossyStderr.write(format!("{line}\n").as_bytes()); // It never fails.
    }
}

fn table<P: Protocol>(event_loop: &EventLoop<P>) -> Vec<String> {
    let now = event_loop.now();
    let mut connections: Vec<_> = event_loop.connections().map(|(_, connection)| connection).collect();
    connections.sort_by_key(|connection| Reverse(connection.inbound_len() + connection.outbound_len()));

    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    let (mut inbound, mut outbound, mut received, mut sent) = (0, 0, 0, 0);
    for connection in &connections {
        *states.entry(connection.state().to_string()).or_default() += 1;
        inbound += connection.inbound_len();
        outbound += connection.outbound_len();
        received += connection.received();
        sent += connection.sent();
    }
    let states: Vec<String> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();

    let mut lines = vec![
        format!(
            "{} connection{}{}{}",
            connections.len(),
            if connections.len() == 1 { "" } else { "s" },
            if states.is_empty() { "" } else { ": " },
            states.join(", ")
        ),
        format!(
            "bytes waiting: {inbound} inbound, {outbound} outbound; received {received}, sent {sent}; memory for buffers \
             {}; turns {}",
            event_loop.memory(),
            event_loop.turns()
        ),
    ];
    let rows: Vec<[String; 9]> = std::iter::once(
        ["local", "foreign", "state", "inbound", "outbound", "received", "sent", "age", "idle"].map(String::from),
    )
    .chain(connections.iter().take(ROWS).map(|connection| row(connection, now)))
    .collect();
    if rows.len() > 1 {
        let widths: [usize; 9] =
            std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
        lines.extend(rows.iter().map(|row| aligned(row, widths)));
    }
    if connections.len() > ROWS {
        lines.push(format!("and {} more", connections.len() - ROWS));
    }
    lines
}

fn row<P>(connection: &Connection<TcpStream, P>, now: Moment) -> [String; 9] {
    // A connection that was reset has no local address any more.
    let local = connection.transport().local_addr().map_or_else(|_| "-".to_owned(), |addr| addr.to_string());
    let seconds = |since: Moment| format!("{:.1}s", now.since(since).as_secs_f64());
    [
        local,
        connection.addr().to_string(),
        connection.state().to_string(),
        connection.inbound_len().to_string(),
        connection.outbound_len().to_string(),
        connection.received().to_string(),
        connection.sent().to_string(),
        seconds(connection.opened()),
        seconds(connection.last_active()),
    ]
}

/// Text to the left, numbers to the right.
fn aligned(row: &[String; 9], widths: [usize; 9]) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        if column > 0 {
            line.push_str("  ");
        }
        let padding = " ".repeat(width - cell.len());
        let (before, behind) = if column < TEXT_COLUMNS { ("", &*padding) } else { (&*padding, "") };
        line.extend([before, cell, behind]);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Timeouts;
    use crate::event_loop::Limits;
    use crate::narrator::Voice;
    use crate::net::{self, ListenOptions};
    use crate::protocol::echo::Echo;

    #[test]
    fn the_totals_come_first_and_the_table_is_cut() {
        let listener = net::listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut event_loop = EventLoop::new(Limits::default(), Timeouts::default(), Voice::SILENT).unwrap();
        assert_eq!(table(&event_loop)[0], "0 connections");
        for _ in 0..ROWS + 7 {
            event_loop.connect(addr, Echo);
        }
        let lines = table(&event_loop);
        assert_eq!(lines[0], "57 connections: 57 connecting");
        assert!(lines[1].starts_with("bytes waiting: 0 inbound, 0 outbound; received 0, sent 0;"), "{}", lines[1]);
        assert!(lines[2].starts_with("local ") && lines[2].ends_with("idle"), "{}", lines[2]);
        assert_eq!(lines.len(), 2 + 1 + ROWS + 1);
        assert_eq!(lines.last().unwrap(), "and 7 more");
    }
}
