//! The hot paths of a connection, each by itself, to have their instructions counted: `hot-paths NAME TIMES`.
//!
//! Owns transports in memory that never fail and never wait, so that nothing but the path is left. What it costs is found
//! by running it under callgrind for two counts and taking the difference: `cargo test --release -p benchmarks --test
//! guard` does.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use multiconn::client::exchange::Exchange;
use multiconn::client::load::{Content, Load, Pacing};
use multiconn::client::measure::{Figured, Meter, NoMeter, Sample, Scheduled};
use multiconn::client::pattern::Pattern;
use multiconn::client::schedule::Run;
use multiconn::client::side::Side;
use multiconn::client::timeline::Interval;
use multiconn::internals::connection::{Connection, Context, Outcome, Readiness, SERVICE_BUDGET, Transport};
use multiconn::internals::log_budget::LogBudget;
use multiconn::internals::protocol::Protocol;
use multiconn::internals::time::Moment;
use multiconn::report::interval::IntervalReport;
use multiconn::server::echo::Echo;

const LIMIT: usize = 256 * 1024;
const ONCE: Readiness = Readiness { readable: true, writable: true, read_closed: false, urgent: false };

/// A peer with so many bytes to read, and room for so many.
#[derive(Default)]
struct Peer {
    waiting: usize,
    room: usize,
}

impl Read for Peer {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let count = self.waiting.min(space.len());
        self.waiting -= count;
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.room.min(bytes.len());
        self.room -= count;
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Peer {
    fn reset_on_close(&mut self) {}

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// A peer that echoes.
#[derive(Default)]
struct Mirror(VecDeque<u8>);

impl Read for Mirror {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { self.0.read(space) }
    }
}

impl Write for Mirror {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Mirror {
    fn reset_on_close(&mut self) {}

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Serves a connection so often, as its loop does on an event.
fn serve<T: Transport, P: Protocol>(transport: T, protocol: P, times: u64, mut before: impl FnMut(&mut T)) {
    let addr = "192.0.2.1:7".parse().expect("an address");
    let mut connection = Connection::open(transport, addr, protocol, Moment::START);
    let mut scratch = vec![0; SERVICE_BUDGET];
    let mut log = LogBudget::new();
    for _ in 0..times {
        before(connection.transport_mut());
        connection.note(black_box(ONCE));
        let outcome = connection.service(&mut Context {
            partner: None,
            has_room: false,
            now: Moment::START,
            clock: &Moment::START,
            scratch: &mut scratch,
            room_now: LIMIT,
            room_most: LIMIT,
            short_read_is_last: true,
            log: &mut log,
            notified: false,
        });
        assert!(!matches!(outcome, Outcome::Ended(_)), "{outcome:?}");
    }
}

fn exchange(size: u64, in_flight: u32, times: u64) {
    let load = Load::new(Content::Generated { run: 1, size }, Pacing::InFlight(in_flight));
    let run = Run::new(load, 1, Box::new(NoMeter));
    run.begin(Moment::START, 1);
    // One service moves messages until its budget is spent. As in the client's loop, either side could be its protocol.
    serve(Mirror::default(), Side::Exchange(Exchange::new(1, Rc::new(run))), times, |_| {});
}

/// Ends intervals of an open loop, each after 1,000 messages, and makes the text line of each. What the end of an interval
/// costs depends on how far its times are spread, and not on their number. Here they go from 50 µs to 400 ms in every
/// histogram.
fn intervals(times: u64) {
    let figured = Figured::new();
    for number in 1..=times {
        let mut micros = 50.0;
        for _ in 0..1000 {
            let time = Duration::from_secs_f64(micros / 1e6);
            let scheduled = Some(Scheduled { late: time, total: time });
            figured.echoed(Sample { at: Moment::START, first_byte: time, service: time, scheduled });
            micros *= 1.009;
        }
        let to = Duration::from_secs(number);
        let interval = Interval {
            from: to.saturating_sub(Duration::from_secs(1)),
            to,
            is_measured: true,
            connections: 1,
            faults: 0,
            waiting: 0,
            oldest: None,
            figures: figured.next_part(),
        };
        black_box(IntervalReport::of(&interval).to_string());
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(Ok(times))) = (args.next(), args.next().map(|times| times.parse::<u64>())) else {
        eprintln!("usage: hot-paths NAME TIMES");
        return ExitCode::from(2);
    };
    let pattern = Pattern::new(1, 1);
    let mut bytes = vec![0; 64 * 1024];
    match name.as_str() {
        "echo 512 B" => serve(Peer::default(), Echo, times, |peer| *peer = Peer { waiting: 512, room: usize::MAX }),
        "echo 512 B, half of it late" => {
            // Every other event brings no bytes, but room for the half that had none.
            let mut bytes = [512, 0].into_iter().cycle();
            serve(Peer::default(), Echo, times, |peer| *peer = Peer { waiting: bytes.next().unwrap_or(0), room: 256 });
        }
        "exchange 64 B" => exchange(64, 1, times),
        "exchange 16 x 1 KiB" => exchange(1024, 16, times),
        "interval" => intervals(times),
        "fill 64 KiB" => (0..times).for_each(|turn| pattern.fill(black_box(turn), black_box(&mut bytes))),
        "match 64 KiB" => {
            pattern.fill(3, &mut bytes);
            for _ in 0..times {
                assert_eq!(black_box(pattern.matching(black_box(3), &bytes)), bytes.len());
            }
        }
        other => {
            eprintln!("there is no path {other:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
