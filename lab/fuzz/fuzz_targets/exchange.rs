//! The client's exchange, and bytes that say what comes back to it: its echo, in pieces, or an echo with bytes changed,
//! left out, repeated, or from elsewhere, while it goes on sending.
//!
//! Owns a model that is as plain as can be: everything that was sent lies in one vector, and what comes back is right as
//! far as it is the beginning of that.
#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use multiconn::internals::connection::{Connection, Outcome, Readiness, Transport, Context};
use multiconn::internals::time::{Clock, Moment};
use multiconn::internals::log_budget::LogBudget;
use multiconn::client::exchange::Exchange;
use multiconn::client::fault::FaultKind;
use multiconn::client::load::{Content, Load, Pacing};
use multiconn::client::measure::{Meter, Sample, Scheduled};
use multiconn::client::pattern::{EVIDENCE, Pattern};
use multiconn::internals::protocol::{Expects, Outbox, Produced, Protocol};
use multiconn::client::rate::Rate;
use multiconn::client::schedule::Run;
use multiconn_fuzz::{Script, is_harmless_line};

const ALLOWED: usize = 8 * 1024;
/// No more is sent than this, so that one run stays short.
const MOST_SENT: usize = 6 * 1024;
const WORD: usize = 8;

/// What the meter was told.
#[derive(Clone, Default)]
struct Tally(Rc<Told>);

#[derive(Default)]
struct Told {
    begun: Cell<u64>,
    bytes_sent: Cell<u64>,
    messages_sent: Cell<u64>,
    returned: Cell<u64>,
    echoed: Cell<u64>,
}

fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}

impl Meter for Tally {
    fn begun(&self, _own_late: Duration) {
        add(&self.0.begun, 1);
    }

    fn given_up(&self, messages: u64, _own: Duration) {
        panic!("{messages} messages given up without a limit to the patience");
    }

    fn sent(&self, bytes: u64, messages: u64) {
        add(&self.0.bytes_sent, bytes);
        add(&self.0.messages_sent, messages);
    }

    fn returned(&self, bytes: u64) {
        add(&self.0.returned, bytes);
    }

    fn heard_first(&self, _after: Duration) {}

    fn echoed(&self, sample: Sample) {
        assert!(sample.first_byte <= sample.service);
        let adds_up = |scheduled: Scheduled| scheduled.total == scheduled.late + sample.service;
        assert!(sample.scheduled.is_none_or(adds_up), "{sample:?}");
        add(&self.0.echoed, 1);
    }

    fn closed(&self, _after: Duration) {}
}

/// The exchange, and what it must make of the bytes.
struct Checked {
    exchange: Exchange,
    run: Rc<Run>,
    tally: Tally,
    number: u32,
    /// Its place among those that take turns in an open loop, and how many there are.
    slot: (u64, u64),
    /// Everything that was sent.
    sent: Vec<u8>,
    /// How much of it is back.
    back: usize,
    /// Where the first byte stands that is not as it was sent, if one came.
    differs_at: Option<usize>,
    aborted: bool,
    finished: bool,
}

impl Checked {
    /// The bytes of the stream of connection `number` from `from` on.
    fn stream(&self, number: u32, from: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        match &self.run.load.content {
            Content::Texts(texts) => {
                let all = texts.concat();
                let from = usize::try_from(from).unwrap();
                bytes.copy_from_slice(&all[from..from + count]);
            }
            Content::Generated { run, .. } => Pattern::new(*run, number).fill(from, &mut bytes),
        }
        bytes
    }

    /// How many messages lie wholly in the first `bytes` bytes, and whether the next one has begun there.
    fn messages_in(&self, bytes: usize) -> (u64, bool) {
        match &self.run.load.content {
            Content::Texts(texts) => {
                let (mut whole, mut left) = (0, bytes);
                for text in texts {
                    if left < text.len() {
                        break;
                    }
                    left -= text.len();
                    whole += 1;
                }
                (whole, left > 0)
            }
            Content::Generated { size, .. } => (bytes as u64 / size, !(bytes as u64).is_multiple_of(*size)),
        }
    }

    fn begun(&self) -> u64 {
        let (whole, partly) = self.messages_in(self.sent.len());
        whole + u64::from(partly)
    }

    /// How many messages there are in all, if the load says so.
    fn messages(&self) -> Option<u64> {
        match &self.run.load.content {
            Content::Texts(texts) => Some(texts.len() as u64),
            Content::Generated { .. } => self.run.load.messages,
        }
    }

    /// Whether the last message was sent to its end, where a count decides which is the last. Those sent while warming up
    /// are beside the number that was asked for, so that the meter has to say how many were measured.
    fn all_is_sent(&self) -> bool {
        let (whole, partly) = self.messages_in(self.sent.len());
        let all = match &self.run.load.content {
            Content::Texts(texts) => whole == texts.len() as u64,
            Content::Generated { .. } => false,
        };
        !partly && (all || self.run.load.messages.is_some_and(|all| self.tally.0.begun.get() >= all))
    }

    /// Whether everything was told that was to be told, and nothing else.
    fn check_counts(&self) {
        let told = &*self.tally.0;
        assert_eq!(self.exchange.bytes_echoed(), self.back as u64);
        assert_eq!(self.exchange.is_finished(), self.finished);
        if !self.run.load.warmup.is_zero() {
            return; // Fewer are measured then, but never more.
        }
        let (sent, back) = (self.messages_in(self.sent.len()).0, self.messages_in(self.back).0);
        assert_eq!((told.bytes_sent.get(), told.messages_sent.get()), (self.sent.len() as u64, sent));
        assert_eq!((told.returned.get(), told.echoed.get()), (self.back as u64, back));
        assert_eq!(told.begun.get(), self.begun());
    }

    /// Whether the fault tells the truth about `wrong`, which came where `expected` was to come.
    fn check_fault(&self, expected: &[u8], wrong: &[u8]) {
        let fault = self.exchange.fault().expect("other bytes came than were sent");
        let offset = fault.offset.expect("it has a place");
        assert_eq!(offset, self.back as u64, "{fault:?}");
        assert_eq!(fault.got, wrong[..wrong.len().min(EVIDENCE)]);
        assert!(expected.starts_with(&fault.expected), "{fault:?}");
        assert_eq!(fault.expected.is_empty(), expected.is_empty());
        assert!(is_harmless_line(&fault.to_string()));
        // Wherever it says that these bytes belong, at least one whole word of them must stand there.
        let stands_at = |number, position| {
            let stream = self.stream(number, position, fault.got.len());
            let words = |bytes: &[u8]| bytes.windows(WORD).map(<[u8]>::to_vec).collect::<Vec<_>>();
            assert!(words(&stream).iter().zip(words(&fault.got)).any(|(one, other)| *one == other), "{fault:?}");
        };
        match fault.kind {
            FaultKind::Corrupted => assert!(!expected.is_empty() || !self.all_is_sent()),
            FaultKind::Extra => assert!(expected.is_empty() && self.all_is_sent()),
            FaultKind::Lost => {
                let origin = fault.origin.expect("it shows where it belongs");
                assert!(origin.position > offset && !expected.is_empty());
                stands_at(self.number, origin.position);
            }
            FaultKind::Duplicated => {
                let origin = fault.origin.expect("it shows where it belongs");
                assert!(origin.position < offset);
                stands_at(self.number, origin.position);
            }
            FaultKind::Foreign => {
                let number = fault.origin.expect("it shows where it belongs").connection;
                assert!(number != self.number && (1..=self.run.connections).contains(&number));
                assert!(matches!(self.run.load.content, Content::Generated { .. }));
            }
            _ => panic!("the bytes cannot show this: {fault:?}"),
        }
    }
}

impl Protocol for Checked {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        assert!(!self.aborted, "nothing is looked at behind a fault");
        let expected = self.sent[self.back..].to_vec();
        let right = if self.run.load.verify {
            input.iter().zip(&expected).take_while(|(got, sent)| got == sent).count()
        } else {
            input.len().min(expected.len())
        };
        let consumed = self.exchange.receive(input, out);
        self.back += right;
        if right == input.len() {
            assert_eq!((consumed, self.differs_at), (right, None));
            assert_eq!(self.exchange.fault(), None, "what came is what was sent");
        } else {
            let first = *self.differs_at.get_or_insert(self.back);
            assert_eq!(first, self.back, "behind a difference, nothing is right");
            self.check_fault(&expected[right..], &input[right..]);
            // It may wait for as much as it takes to tell what kind of fault it is, if that much is to come.
            let wrong = input.len() - right;
            let waits = matches!(self.run.load.content, Content::Generated { .. })
                && wrong < EVIDENCE
                && wrong < expected.len() - right;
            assert_eq!(consumed, if waits { right } else { input.len() });
            self.aborted = !waits;
        }
        self.check_counts();
        consumed
    }

    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        let most = space.len().min(MOST_SENT.saturating_sub(self.sent.len()));
        if most == 0 {
            return Produced::Nothing;
        }
        let before = (self.begun(), self.messages_in(self.sent.len()));
        let produced = self.exchange.produce(&mut space[..most], clock);
        match produced {
            Produced::Bytes(count) => {
                assert!((1..=most).contains(&count));
                assert_eq!(space[..count], self.stream(self.number, self.sent.len() as u64, count));
                self.sent.extend_from_slice(&space[..count]);
                assert!(!self.finished, "it had finished");
            }
            Produced::Nothing => {}
            Produced::Finished => {
                assert_eq!(self.back, self.sent.len(), "finished before everything was back");
                // Those sent while warming up are beside the number that was asked for.
                let enough = |messages| match self.run.load.warmup.is_zero() {
                    true => self.begun() == messages,
                    false => self.begun() >= messages,
                };
                assert!(self.messages().is_none_or(enough) || self.run.load.duration.is_some());
                self.finished = true;
            }
        }
        let (begun, in_flight) = (self.begun(), self.begun() - self.messages_in(self.back).0);
        assert!(self.messages().is_none_or(|messages| begun <= messages) || !self.run.load.warmup.is_zero());
        match self.run.load.pacing {
            Pacing::Streamed => assert!(begun - before.1.0 <= 1, "one message at a time"),
            Pacing::InFlight(most) => assert!(in_flight <= u64::from(most)),
            Pacing::Rate(rate) => {
                let (Some(start), (slot, slots)) = (self.run.start(), self.slot) else {
                    assert_eq!(begun, 0);
                    return produced;
                };
                // Message n of this connection is due when n * slots + slot messages of all are.
                let passed = clock.now().since(start);
                let due = |index: u64| rate.time_of(index * slots + slot) <= passed;
                assert!(begun == 0 || due(begun - 1), "sent before its time");
                // However late: nothing that was due before the end is left out.
                let schedule = self.run.schedule().unwrap();
                let all = match &self.run.load.content {
                    Content::Texts(texts) => begun == texts.len() as u64 || begun * slots + slot >= schedule.end,
                    Content::Generated { .. } => begun * slots + slot >= schedule.end,
                };
                assert!(produced != Produced::Finished || (all && clock.now() >= schedule.last_due), "it left early");
                let held_back = produced == Produced::Nothing && !due(begun);
                assert!(held_back || matches!(produced, Produced::Bytes(_)) || all, "not sent when it was due");
            }
        }
        self.check_counts();
        produced
    }

    fn blocked(&mut self) {
        self.exchange.blocked();
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        let before = self.exchange.fault().cloned();
        assert_eq!(before.is_some(), self.differs_at.is_some());
        // What still waits to be written is not missing.
        let written = self.sent.len() - (ALLOWED - out.room());
        self.exchange.end_of_input(rest, out);
        match (before, self.exchange.fault()) {
            (Some(before), after) => assert_eq!(Some(&before), after, "the first fault is the one to tell"),
            (None, None) => {
                assert_eq!(self.back, self.sent.len());
                assert!(self.messages().is_none_or(|all| self.begun() >= all) || self.run.load.duration.is_some());
            }
            (None, Some(fault)) => {
                let kind = if written > self.back { FaultKind::Truncated } else { FaultKind::ClosedEarly };
                assert_eq!((fault.kind, fault.offset), (kind, Some(self.back as u64)));
                let (whole, partly) = self.messages_in(self.back);
                let all_is_back = self.back == self.sent.len() && !partly && self.messages() == Some(whole);
                // A run that was never begun is not done, nor is one that goes on to warm up.
                assert!(!all_is_back || self.run.start().is_none() || !self.run.load.warmup.is_zero());
                assert!(!self.finished);
            }
        }
    }

    fn answers(&self) -> bool {
        self.exchange.answers()
    }

    fn expects(&self) -> Expects {
        let owes = self.begun() > self.messages_in(self.back).0;
        let expects = self.exchange.expects();
        assert_eq!(owes, matches!(expects, Expects::AnswerSince(_)), "{expects:?}");
        expects
    }
}

/// A socket that gives what it is told to, and takes what it has room for.
#[derive(Default)]
struct Socket {
    incoming: VecDeque<u8>,
    fin: bool,
    written: Vec<u8>,
    room: usize,
    /// Where the stream that comes back goes on.
    echoed: usize,
}

impl Read for Socket {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self.incoming.read(space)? {
            0 if !self.fin => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= count;
        self.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Socket {
    fn reset_on_close(&mut self) {}

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }
}

impl Socket {
    /// The next bytes of the echo, so many at the most.
    fn echo(&mut self, count: usize) -> &mut [u8] {
        let from = self.echoed.min(self.written.len());
        self.echoed = from.saturating_add(count).min(self.written.len());
        let at = self.incoming.len();
        self.incoming.extend(&self.written[from..self.echoed]);
        &mut self.incoming.make_contiguous()[at..]
    }

    /// Does one step of the script.
    fn happen(&mut self, what: u8, run: u64, script: &mut Script<'_>) {
        match what {
            0..=2 => {
                let count = script.amount(usize::MAX);
                self.echo(count);
            }
            3 => {
                self.echo(usize::MAX);
            }
            4 => {
                let count = usize::from(script.byte() & 31);
                self.incoming.extend(script.take(count));
            }
            5 => {
                let (count, change) = (script.amount(usize::MAX), script.byte());
                if let Some(last) = self.echo(count).last_mut() {
                    *last ^= change;
                }
            }
            6 => self.echoed = self.echoed.saturating_add(script.amount(usize::MAX)),
            7 => self.echoed = self.echoed.saturating_sub(script.amount(usize::MAX)),
            8 => {
                // Bytes of any connection of this run, from any place.
                let (number, from) = (u32::from(script.byte()), script.amount(usize::MAX) as u64);
                let mut bytes = vec![0; usize::from(script.byte() & 31)];
                Pattern::new(run, number).fill(from, &mut bytes);
                self.incoming.extend(bytes);
            }
            9..=11 => self.room = script.amount(usize::MAX) << (what - 9),
            _ => self.fin = script.byte() & 7 == 7,
        }
    }
}

/// The load that the first bytes of the script describe, for how many connections, and the key of its patterns.
fn load(script: &mut Script<'_>) -> (Load, u32, u64) {
    let (which, how) = (script.byte(), script.byte());
    let run = u64::from(how >> 5);
    let pacing = match which >> 1 & 3 {
        0 | 1 => Pacing::Streamed,
        2 => Pacing::InFlight(1 + u32::from(which >> 4)),
        _ => Pacing::Rate(Rate::per_second(1 + 50 * u64::from(which >> 3)).unwrap()),
    };
    let mut load = if which & 1 == 0 {
        let texts: Vec<Vec<u8>> = (0..=how % 4)
            .map(|_| {
                let count = usize::from(script.byte() & 31);
                script.take(count).to_vec()
            })
            .chain([b"!".to_vec()])
            .collect();
        Load { pacing, ..Load::texts(texts) }
    } else {
        let size = script.amount(3000).max(1) as u64;
        let mut load = Load::new(Content::Generated { run, size }, pacing);
        load.messages = (how & 4 != 0).then(|| u64::from(script.byte()));
        load.duration = (how & 8 != 0).then(|| Duration::from_millis(u64::from(script.byte())));
        load
    };
    load.verify = how & 16 == 0;
    if which & 0x80 != 0 {
        load.warmup = Duration::from_millis(u64::from(script.byte()));
    }
    (load, 1 + u32::from(how & 3), run)
}

fn try_exchange(mut script: Script<'_>, scratch: &mut [u8]) {
    let tally = Tally::default();
    let (load, connections, key) = load(&mut script);
    let run = Rc::new(Run::new(load, connections, Box::new(tally.clone())));
    let (number, slot) = (1 + u32::from(script.byte()) % connections, script.byte());
    let slots = u32::from(slot & 3) + 1;
    let slot = u32::from(slot >> 2) % slots;
    let mut exchange = Exchange::new(number, Rc::clone(&run));
    exchange.take_slot(slot);
    let checked = Checked {
        exchange,
        run: Rc::clone(&run),
        tally,
        number,
        slot: (slot.into(), slots.into()),
        sent: Vec::new(),
        back: 0,
        differs_at: None,
        aborted: false,
        finished: false,
    };
    let mut now = Moment::after_start(Duration::from_secs(1));
    let socket = Socket { room: usize::MAX, ..Socket::default() };
    let mut connection = Connection::open(socket, ([192, 0, 2, 1], 7).into(), checked, now);
    let mut log = LogBudget::new();
    while let Some(order) = script.step() {
        // Of two orders, one is carried out before the next, so that things happen one by one and together.
        match order & 15 {
            13 => now = now.plus(Duration::from_millis(script.amount(usize::MAX) as u64)),
            14 | 15 if run.start().is_none() => run.begin(now, slots),
            14 | 15 => {}
            what => connection.transport_mut().happen(what, key, &mut script),
        }
        if order & 16 != 0 {
            continue;
        }
        connection.note(Readiness::ALL);
        let outcome = connection.service(&mut Context {
            partner: None,
            has_room: false,
            now,
            clock: &now,
            scratch,
            room_now: ALLOWED,
            room_most: ALLOWED,
            short_read_is_last: order & 32 == 0,
            log: &mut log,
            notified: false,
        });
        connection.protocol().expects();
        if let Outcome::Ended(_) = outcome {
            break;
        }
    }
    let checked = connection.protocol();
    checked.check_counts();
    assert_eq!(
        checked.differs_at.is_some(),
        checked
            .exchange
            .fault()
            .is_some_and(|fault| !matches!(fault.kind, FaultKind::Truncated | FaultKind::ClosedEarly))
    );
}

thread_local! {
    /// The loop's read buffer, made once.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

fuzz_target!(|bytes: &[u8]| SCRATCH.with_borrow_mut(|scratch| try_exchange(Script(bytes), scratch)));
