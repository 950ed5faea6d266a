//! The client's half of an echo: what it sends and when, and the comparison of every byte that comes back.
//!
//! Owns the position in both directions, the messages in flight and the first fault. Keeps no byte that came in: what was
//! sent is known, or made again, to be compared.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use log::info;
use tcp_state::TcpState;

use crate::client::fault::{Fault, FaultKind};
use crate::client::load::{Content, Pacing};
use crate::client::measure::{Sample, Scheduled};
use crate::client::pattern::{self, Origin, Pattern};
use crate::client::schedule::{Run, Schedule};
use crate::engine::escape::Escaped;
use crate::engine::log_budget::{Line, LogBudget};
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
use crate::engine::time::{Clock, Moment};

/// One connection's part of a run: sends its messages and compares the echo with them, byte for byte.
///
/// Once its last byte is back it half-closes, and reads on to the peer's FIN, so that a byte too many is seen as well.
/// (Half-closing earlier would make a server written like the tutorial's, which closes at end of stream, drop what it
/// has not sent yet.)
#[derive(Debug)]
pub struct Exchange {
    number: u32,
    /// The address at this end. The system forgets it when the peer resets the connection.
    local: Option<SocketAddr>,
    /// Its place among those that take turns in an open loop.
    slot: u32,
    /// The index of its first message among those of its slot.
    first: u64,
    run: Rc<Run>,
    sending: Cursor,
    checking: Cursor,
    /// When the messages were begun that are not wholly back.
    batches: VecDeque<Batch>,
    /// When the first byte of the first of them came back.
    first_byte: Option<Moment>,
    /// Measured messages that were begun.
    begun: u64,
    /// The socket was full, and not all messages that fell due since then have been begun.
    held_up: bool,
    /// The scheduled messages that could not be begun in time, once they were given up.
    given_up: u64,
    /// When everything was back, and our FIN was to follow.
    finished: Option<Moment>,
    /// When its first and its last right byte came back.
    heard: Option<(Moment, Moment)>,
    /// The peer's FIN came behind ours, with nothing wrong.
    closed: bool,
    /// Boxed, as most connections never have one.
    fault: Option<Box<Fault>>,
    /// What the kernel knew in the end. Boxed, as no connection has it before.
    kernel: Option<Box<TcpState>>,
}

/// A position in the stream that the messages make, one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Messages that lie wholly behind.
    messages: u64,
    /// Bytes of the next one that lie behind.
    within: u64,
    /// Bytes that lie behind in all.
    bytes: u64,
}

impl Cursor {
    /// Steps over `count` bytes of a message of `length` bytes; whether that was its end.
    fn advance(&mut self, count: u64, length: u64) -> bool {
        self.within += count;
        self.bytes += count;
        let ended = self.within == length;
        if ended {
            self.messages += 1;
            self.within = 0;
        }
        ended
    }
}

/// Messages begun at the same time. In an open loop nothing but the socket limits how many are in flight, and small ones
/// may be millions: this is all that is kept of them, what else there is to know follows from their index.
#[derive(Clone, Copy, Debug)]
struct Batch {
    begun: Moment,
    count: u64,
}

/// What comes next.
enum Next {
    /// A message that is due then, if it is scheduled.
    Begin(Option<Moment>),
    Wait,
    /// There is no next message, but the schedule of the others is not over.
    Stay,
    /// There is no next message.
    Done,
    /// The schedule has one, but it has waited for too long and will not be begun.
    TooLate,
}

impl Exchange {
    /// The exchange of connection `number` (counted from 1), with everything yet to do.
    #[must_use]
    pub fn new(number: u32, run: Rc<Run>) -> Exchange {
        run.note_stream(pattern::stream_of(number));
        Exchange {
            number,
            local: None,
            slot: 0,
            first: 0,
            run,
            sending: Cursor::default(),
            checking: Cursor::default(),
            batches: VecDeque::new(),
            first_byte: None,
            begun: 0,
            held_up: false,
            given_up: 0,
            finished: None,
            heard: None,
            closed: false,
            fault: None,
            kernel: None,
        }
    }

    /// The connection's number, counted from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whose [`Pattern`] it sends.
    fn stream(&self) -> u32 {
        pattern::stream_of(self.number)
    }

    /// The address at this end, if it was noted.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Notes the address at this end.
    pub fn comes_from(&mut self, local: SocketAddr) {
        self.local = Some(local);
    }

    /// Gives it its place, counted from 0, among those that take turns in an open loop.
    pub fn take_slot(&mut self, slot: u32) {
        self.slot = slot;
    }

    /// As [`take_slot`](Exchange::take_slot), in place of a connection that is over: its first message is that with the
    /// index `first` in the slot. What fell due while no connection stood there waited for no fault of ours.
    pub fn take_over(&mut self, slot: u32, first: u64) {
        self.slot = slot;
        self.first = first;
        self.held_up = true;
    }

    /// Its place among those that take turns.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The index in its slot of the message that would be begun next.
    #[must_use]
    pub fn next_in_slot(&self) -> u64 {
        self.first + self.checking.messages + self.in_flight()
    }

    /// When its first and its last right byte came back, if any did.
    #[must_use]
    pub fn heard(&self) -> Option<(Moment, Moment)> {
        self.heard
    }

    /// How many bytes came back right.
    #[must_use]
    pub fn bytes_echoed(&self) -> u64 {
        self.checking.bytes
    }

    /// How many messages were begun and are not wholly back.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.sending.messages + u64::from(self.sending.within > 0) - self.checking.messages
    }

    /// Whether a part of a message is back.
    #[must_use]
    pub fn is_within_message(&self) -> bool {
        self.checking.within > 0
    }

    /// How many measured messages were begun and are not wholly back.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.in_flight().min(self.begun) // Those that are measured are the last.
    }

    /// How many of the [`unanswered`](Exchange::unanswered) messages were due more than `limit` before `now`. In a closed
    /// loop none is due.
    #[must_use]
    pub fn unanswered_for(&self, limit: Duration, now: Moment) -> u64 {
        let Some(schedule) = self.run.schedule() else { return 0 };
        let newest = self.checking.messages + self.in_flight();
        let waits = |index: &u64| schedule.due(self.place_in(schedule, *index)).plus(limit) < now;
        (newest - self.unanswered()..newest).take_while(waits).count() as u64
    }

    /// How many measured messages were due, or begun if nothing schedules them, and are not back at `now`; and since when the
    /// oldest of them waits.
    #[must_use]
    pub fn waiting(&self, now: Moment) -> Option<(u64, Moment)> {
        let Some(schedule) = self.run.schedule() else {
            let oldest = self.batches.front()?.begun;
            let count = self.unanswered();
            return (count > 0).then_some((count, oldest));
        };
        let (count, oldest) = schedule.waiting(self.slot, self.first + self.checking.messages, now)?;
        (count > self.given_up).then(|| (count - self.given_up, oldest))
    }

    /// Whether everything that was begun is back, no more is to be begun, and our FIN follows or is out.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// How many scheduled messages could not be begun in time and never will be.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// The first fault, if there was one.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_deref()
    }

    /// What the kernel knew of the connection when it was over, if the system tells.
    #[must_use]
    pub fn kernel(&self) -> Option<&TcpState> {
        self.kernel.as_deref()
    }

    /// The number in the schedule of this connection's message `index`.
    fn place_in(&self, schedule: &Schedule, index: u64) -> u64 {
        schedule.number(self.slot, self.first + index)
    }

    /// What the next message is to do at `now`.
    fn next(&self, now: Moment) -> Next {
        let run = &*self.run;
        if run.load.churn.is_some_and(|most| self.sending.messages >= most) {
            return Next::Done; // Another takes its place.
        }
        let is_there = run.load.message_len(self.sending.messages).is_some();
        if let Some(schedule) = run.schedule() {
            return self.next_of(schedule, is_there, now);
        }
        if !is_there {
            return Next::Done;
        }
        if run.start().is_none() {
            return Next::Wait;
        }
        let enough = run.load.messages.is_some_and(|most| self.begun >= most);
        let over = run.stop().is_some_and(|stop| now >= stop);
        if run.is_measured(now) && (enough || over) {
            return Next::Done;
        }
        let may_begin = match run.load.pacing {
            Pacing::Streamed => true,
            Pacing::InFlight(most) => self.in_flight() < u64::from(most),
            Pacing::Rate(_) => false, // It has a schedule.
        };
        if may_begin { Next::Begin(None) } else { Next::Wait }
    }

    /// As [`next`](Exchange::next), in an open loop. Messages that were due before its end are begun, however late, so that
    /// none that a user would have waited for is left out.
    fn next_of(&self, schedule: &Schedule, is_there: bool, now: Moment) -> Next {
        let number = self.place_in(schedule, self.sending.messages);
        if !is_there || number >= schedule.end {
            return if now >= schedule.last_due { Next::Done } else { Next::Stay };
        }
        if now >= schedule.last_due.plus(self.run.patience) {
            return Next::TooLate;
        }
        let due = schedule.due(number);
        if due <= now { Next::Begin(Some(due)) } else { Next::Wait }
    }

    fn begin(&mut self, due: Option<Moment>, now: Moment) {
        if self.is_measured(self.sending.messages, now) {
            self.begun += 1;
            self.run.meter.begun(due.map_or(Duration::ZERO, |due| self.own_lateness(due, now)));
            self.run.measured_begun(now);
        }
        match self.batches.back_mut() {
            Some(batch) if batch.begun == now => batch.count += 1,
            _ => self.batches.push_back(Batch { begun: now, count: 1 }),
        }
    }

    /// The part of the lateness of a message, due at `due`, that is our own. It is none behind a full socket: all messages
    /// that fell due meanwhile are sent as fast as the socket takes them.
    fn own_lateness(&self, due: Moment, now: Moment) -> Duration {
        if self.held_up { Duration::ZERO } else { now.since(due) }
    }

    /// The rest of this slot's schedule will not be begun. The meter hears of that once.
    fn give_up(&mut self, now: Moment) {
        if self.given_up > 0 {
            return;
        }
        if let Some(schedule) = self.run.schedule() {
            let number = self.place_in(schedule, self.sending.messages);
            let own = self.own_lateness(schedule.due(number), now);
            self.given_up = schedule.left_in_slot(number);
            self.run.meter.given_up(self.given_up, own);
        }
    }

    /// Whether the message with this index, begun at `begun`, is measured.
    fn is_measured(&self, index: u64, begun: Moment) -> bool {
        let scheduled = self.run.schedule().map(|schedule| (schedule, self.place_in(schedule, index)));
        is_measured(&self.run, scheduled, begun)
    }

    /// Puts what is to be sent at `cursor` into `space`, which is no longer than the rest of its message.
    fn fill(&self, cursor: Cursor, space: &mut [u8]) {
        match &self.run.load.content {
            Content::Texts(_) => space.copy_from_slice(&self.text_at(cursor)[..space.len()]),
            Content::Generated { run, .. } => Pattern::new(*run, self.stream()).fill(cursor.bytes, space),
        }
    }

    /// The length of the prefix of `input` that is as it was sent. `input` is no longer than the rest of the message at
    /// `checking`.
    fn matching(&self, input: &[u8]) -> usize {
        match &self.run.load.content {
            _ if !self.run.load.verify => input.len(),
            Content::Texts(_) => {
                let text = self.text_at(self.checking);
                if text.starts_with(input) {
                    input.len()
                } else {
                    input.iter().zip(text).take_while(|(got, sent)| got == sent).count()
                }
            }
            Content::Generated { run, .. } => Pattern::new(*run, self.stream()).matching(self.checking.bytes, input),
        }
    }

    fn text_at(&self, cursor: Cursor) -> &[u8] {
        let Content::Texts(texts) = &self.run.load.content else { return &[] };
        let place = (usize::try_from(cursor.messages).ok(), usize::try_from(cursor.within).ok());
        let (Some(message), Some(within)) = place else { return &[] };
        texts.get(message).map_or(&[], |text| &text[within..])
    }

    /// Compares `input` with what was sent. Returns how many of its bytes are done with: all of them, unless they end with a
    /// difference that only the next bytes can explain.
    fn check(&mut self, mut input: &[u8], now: Moment) -> Result<usize, Box<Fault>> {
        let given = input.len();
        while !input.is_empty() {
            let ahead = self.sending.bytes - self.checking.bytes;
            let (Some(length), true) = (self.run.load.message_len(self.checking.messages), ahead > 0) else {
                // Nothing was sent here. But if the bytes show where they belong, that says more.
                let placed = self.place(input).filter(|(kind, _)| *kind != FaultKind::Lost);
                return Err(self.fault_here(placed.unwrap_or_else(|| (self.unsent(), None)), &[], input));
            };
            // Bytes that are right but not sent yet are no echo either, so compare with what was sent, no further.
            let most = (length - self.checking.within).min(ahead);
            let compared = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
            let matched = self.matching(&input[..compared]);
            if matched > 0 {
                self.count_back(matched as u64, length, now);
            }
            input = &input[matched..];
            if matched < compared {
                return match self.explain(input) {
                    Some(fault) => Err(fault),
                    None => Ok(given - input.len()),
                };
            }
        }
        Ok(given)
    }

    /// `bytes` more of the message at `checking` came back right.
    fn count_back(&mut self, bytes: u64, length: u64, now: Moment) {
        let Some(&Batch { begun, .. }) = self.batches.front() else { return };
        let first_byte = *self.first_byte.get_or_insert(now);
        match &mut self.heard {
            Some((_, last)) => *last = now,
            None => self.hear_first(begun, now),
        }
        let index = self.checking.messages;
        let scheduled = self.run.schedule().map(|schedule| (schedule, self.place_in(schedule, index)));
        let measured = is_measured(&self.run, scheduled, begun);
        if measured {
            self.run.meter.returned(bytes);
        }
        if !self.checking.advance(bytes, length) {
            return;
        }
        self.first_byte = None;
        if let Some(batch) = self.batches.front_mut() {
            batch.count -= 1;
        }
        if self.batches.front().is_some_and(|batch| batch.count == 0) {
            self.batches.pop_front();
        }
        if measured {
            let due = scheduled.map(|(schedule, place)| schedule.due(place));
            self.run.meter.echoed(Sample {
                at: now,
                first_byte: first_byte.since(begun),
                service: now.since(begun),
                scheduled: due.map(|due| Scheduled { late: begun.since(due), total: now.since(due) }),
            });
        }
    }

    /// The first byte of all is back. Its message was begun when `begun` says.
    #[cold] // Once for each connection; the code around it is run for each message.
    fn hear_first(&mut self, begun: Moment, now: Moment) {
        self.heard = Some((now, now));
        if self.is_measured(0, begun) {
            self.run.meter.heard_first(now.since(begun));
        }
    }

    /// What a difference at the beginning of `input` means; `None` if that takes more bytes, and more are to come. Until they
    /// come, the difference counts as corruption.
    fn explain(&mut self, input: &[u8]) -> Option<Box<Fault>> {
        let ahead = self.sending.bytes - self.checking.bytes;
        let mut expected = vec![0; usize::try_from(ahead).unwrap_or(usize::MAX).min(pattern::EVIDENCE)];
        let Content::Generated { run, .. } = self.run.load.content else {
            let text = self.text_at(self.checking);
            let shown = expected.len().min(text.len());
            return Some(self.fault_here((FaultKind::Corrupted, None), &text[..shown], input));
        };
        Pattern::new(run, self.stream()).fill(self.checking.bytes, &mut expected);
        let placed = self.place(input).unwrap_or((FaultKind::Corrupted, None));
        let fault = self.fault_here(placed, &expected, input);
        if input.len() < pattern::EVIDENCE && (input.len() as u64) < ahead {
            self.fault = Some(fault);
            return None;
        }
        Some(fault)
    }

    /// If `input` shows that it belongs elsewhere: what kind of fault that is, and where it belongs.
    fn place(&self, input: &[u8]) -> Option<(FaultKind, Option<Origin>)> {
        let Content::Generated { run, .. } = self.run.load.content else { return None };
        let here = self.checking.bytes;
        // A word that names a place far beyond all that was sent does so by chance.
        let end = match self.run.load.churn {
            Some(messages) => messages.saturating_mul(self.run.load.message_len(0).unwrap_or_default()),
            // No connection can have sent much more than this one.
            None => self.sending.bytes.saturating_mul(2).saturating_add(1 << 40),
        };
        let origin = Pattern::new(run, self.stream()).origin(input, self.run.streams(), end)?;
        let kind = match origin {
            _ if origin.connection != self.stream() => FaultKind::Foreign,
            _ if origin.position > here => FaultKind::Lost,
            _ if origin.position < here => FaultKind::Duplicated,
            _ => return None,
        };
        Some((kind, Some(origin)))
    }

    /// What fault it is if bytes come where nothing was sent.
    ///
    /// Before the end of the load they have the name of any other wrong bytes in their place: whether our next message
    /// went out before they came or after must not decide it. Only behind the last message, which a count decides and no
    /// clock, are they too many.
    fn unsent(&self) -> FaultKind {
        let load = &self.run.load;
        let all_begun = load.messages.is_some_and(|most| self.begun >= most)
            || load.churn.is_some_and(|most| self.sending.messages >= most)
            || self.run.load.message_len(self.sending.messages).is_none();
        if all_begun && self.sending.within == 0 { FaultKind::Extra } else { FaultKind::Corrupted }
    }

    /// A fault at `checking`, where `got` came for `expected`.
    fn fault_here(&self, what: (FaultKind, Option<Origin>), expected: &[u8], got: &[u8]) -> Box<Fault> {
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(pattern::EVIDENCE)].to_vec();
        let (kind, origin) = what;
        let offset = Some(self.checking.bytes);
        Box::new(Fault { offset, origin, expected: shown(expected), got: shown(got), ..Fault::new(kind) })
    }

    /// Whether a FIN of the peer comes when nothing more is to come.
    fn is_done(&self, now: Moment) -> bool {
        self.finished.is_some() || self.in_flight() == 0 && matches!(self.next(now), Next::Stay | Next::Done)
    }
}

/// Whether a message is measured: by its place in the schedule, or by when it was begun.
fn is_measured(run: &Run, scheduled: Option<(&Schedule, u64)>, begun: Moment) -> bool {
    scheduled.map_or_else(|| run.is_measured(begun), |(schedule, place)| place >= schedule.first)
}

impl Protocol for Exchange {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        match self.check(input, out.now()) {
            Ok(consumed) => consumed,
            Err(fault) => {
                self.fault = Some(fault);
                out.abort();
                input.len()
            }
        }
    }

    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        let (now, run) = (clock.now(), Rc::clone(&self.run));
        let (mut filled, mut measured_bytes, mut measured_messages) = (0, 0, 0);
        while filled < space.len() {
            if self.sending.within == 0 {
                match self.next(now) {
                    Next::Begin(due) => self.begin(due, now),
                    next @ (Next::Done | Next::TooLate) => {
                        if matches!(next, Next::TooLate) {
                            self.give_up(now);
                        }
                        self.held_up = false;
                        if filled == 0 && self.in_flight() == 0 {
                            self.finished = Some(now);
                            return Produced::Finished;
                        }
                        break;
                    }
                    Next::Wait | Next::Stay => {
                        self.held_up = false;
                        break;
                    }
                }
            }
            let Some(length) = run.load.message_len(self.sending.messages) else { break };
            let rest = usize::try_from(length - self.sending.within).unwrap_or(usize::MAX);
            let count = rest.min(space.len() - filled);
            self.fill(self.sending, &mut space[filled..filled + count]);
            filled += count;
            let begun = self.batches.back().map_or(now, |batch| batch.begun);
            let measured = self.is_measured(self.sending.messages, begun);
            let ended = self.sending.advance(count as u64, length);
            if measured {
                measured_bytes += count as u64;
                measured_messages += u64::from(ended);
            }
            if matches!(run.load.pacing, Pacing::Streamed) {
                break; // A write, and a line in the log, for each.
            }
        }
        if filled == 0 {
            return Produced::Nothing;
        }
        if measured_bytes > 0 {
            run.meter.sent(measured_bytes, measured_messages);
        }
        Produced::Bytes(filled)
    }

    fn blocked(&mut self) {
        self.held_up = true;
    }

    fn end_of_input<'a>(&mut self, _rest: &'a [u8], out: &mut Outbox<'a>) {
        if self.fault.is_none() && !self.is_done(out.now()) {
            // Bytes that still wait in our own queue were never sent, and are not missing.
            let sent = self.sending.bytes.saturating_sub(out.queue.len() as u64);
            let kind = if sent > self.checking.bytes { FaultKind::Truncated } else { FaultKind::ClosedEarly };
            self.fault = Some(self.fault_here((kind, None), &[], &[]));
        }
        if self.fault.is_some() {
            out.abort(); // There is nothing more to find out, and bytes that wait would be sent in vain.
        } else {
            if let Some(finished) = self.finished {
                self.run.meter.closed(out.now().since(finished));
                self.closed = true;
            }
            out.shut_down();
        }
    }

    /// Input is compared, and never answered.
    fn answers(&self) -> bool {
        false
    }

    /// The peer is idle while it owes something: an echo, or its FIN.
    fn expects(&self) -> Expects {
        match self.batches.front() {
            Some(oldest) => Expects::AnswerSince(oldest.begun),
            None if self.finished.is_some() || self.fault.is_some() => Expects::Anything,
            None => Expects::Nothing,
        }
    }

    /// Keeps what the kernel knows in the end, but the round trip from before our FIN. A FIN is acknowledged when the far
    /// program has closed, or late: with it, the last round trip would be that of the program.
    ///
    /// Where connections come and go, one look is enough for those that end in order. Each look is a system call, and nothing
    /// follows the first but the end.
    fn ending(&mut self, look: &dyn Fn() -> Option<TcpState>) {
        if self.closed && self.run.load.churn.is_some() {
            return;
        }
        let Some(state) = look() else { return };
        let smoothed_rtt = self.kernel.as_ref().map_or(state.smoothed_rtt, |before| before.smoothed_rtt);
        self.kernel = Some(Box::new(TcpState { smoothed_rtt, ..state }));
    }

    /// Logs texts that came back. Generated bytes are nothing to read. Inlined, as it is called for each read.
    #[inline]
    fn log_received(&self, bytes: &[u8], _peer: &PeerAddr, log: &mut LogBudget) {
        static RECEIVED: Line = Line::info("Received");
        if matches!(self.run.load.content, Content::Texts(_)) && log.allows(&RECEIVED) {
            info!("Received {} from connection {}", Escaped(bytes), self.number);
        }
    }

    /// Logs texts that were sent. Inlined, as it is called for each write.
    #[inline]
    fn log_sent(&self, bytes: &[u8], _peer: &PeerAddr, log: &mut LogBudget) {
        static SENDING: Line = Line::info("Sending");
        if matches!(self.run.load.content, Content::Texts(_)) && log.allows(&SENDING) {
            info!("Sending {} to connection {}", Escaped(bytes), self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::load::Load;
    use crate::client::measure::{Meter, NoMeter};
    use crate::client::rate::Rate;
    use crate::engine::buffer::SendBuffer;
    use crate::engine::protocol::Wishes;
    use std::cell::{Cell, RefCell};

    /// Remembers what is measured.
    #[derive(Clone, Default)]
    struct Notes(
        Rc<RefCell<Vec<Sample>>>,
        Rc<RefCell<Vec<Duration>>>,
        Rc<Cell<(u64, u64)>>,
        Rc<RefCell<Vec<(u64, Duration)>>>,
        Rc<RefCell<Vec<Duration>>>,
        Rc<RefCell<Vec<Duration>>>,
    );

    impl Meter for Notes {
        fn closed(&self, after: Duration) {
            self.4.borrow_mut().push(after);
        }
        fn begun(&self, own_late: Duration) {
            self.1.borrow_mut().push(own_late);
        }
        fn given_up(&self, messages: u64, own: Duration) {
            self.3.borrow_mut().push((messages, own));
        }
        fn sent(&self, bytes: u64, messages: u64) {
            assert!(bytes > 0, "nothing was sent");
            self.2.set((self.2.get().0 + bytes, self.2.get().1 + messages));
        }
        fn returned(&self, _bytes: u64) {}
        fn heard_first(&self, after: Duration) {
            self.5.borrow_mut().push(after);
        }
        fn echoed(&self, sample: Sample) {
            self.0.borrow_mut().push(sample);
        }
    }

    #[test]
    fn the_round_trip_is_that_from_before_our_fin() {
        let run = Run::new(Load::tutorial(), 1, Box::new(NoMeter));
        let mut exchange = Exchange::new(1, Rc::new(run));
        for (micros, sent) in [(30, 5), (40_000, 7)] {
            let (smoothed_rtt, segments_sent) = (Some(Duration::from_micros(micros)), Some(sent));
            exchange.ending(&|| Some(TcpState { segments_sent, smoothed_rtt, ..TcpState::default() }));
        }
        let kernel = exchange.kernel().unwrap();
        assert_eq!((kernel.smoothed_rtt, kernel.segments_sent), (Some(Duration::from_micros(30)), Some(7)));
    }

    #[test]
    fn where_connections_come_and_go_the_kernel_is_asked_once_unless_they_fail() {
        let asked = |churn, ends: bool| {
            let (mut exchange, _) = generated(8, Pacing::InFlight(1), |load| {
                load.churn = churn;
                load.messages = Some(1);
            });
            let sent = send(&mut exchange, 8, at(0));
            receive(&mut exchange, &sent, at(0));
            send(&mut exchange, 8, at(0));
            assert!(exchange.is_finished());
            let times = Cell::new(0);
            let look = || {
                times.set(times.get() + 1);
                Some(TcpState::default())
            };
            exchange.ending(&look);
            if ends {
                end(&mut exchange);
            }
            exchange.ending(&look);
            assert!(exchange.kernel().is_some());
            times.get()
        };
        assert_eq!((asked(Some(1), true), asked(Some(1), false), asked(None, true)), (1, 2, 2));
    }

    #[test]
    fn a_connection_that_is_to_give_way_finishes_after_its_messages() {
        let (mut exchange, notes) = generated(8, Pacing::InFlight(4), |load| {
            load.churn = Some(2);
            load.duration = Some(Duration::from_secs(1));
        });
        let sent = send(&mut exchange, 100, at(1));
        assert_eq!(sent.len(), 16, "two, though four may be in flight");
        receive(&mut exchange, &sent[..8], at(2));
        assert_eq!(send(&mut exchange, 100, at(2)), b"");
        assert!(!exchange.is_finished());
        receive(&mut exchange, &sent[8..], at(5));
        assert_eq!(send(&mut exchange, 100, at(6)), b"");
        assert!(exchange.is_finished());
        assert_eq!((exchange.next_in_slot(), exchange.heard()), (2, Some((at(2), at(5)))));
        let now = at(9);
        let mut out = Outbox::new(SendBuffer::new(), 100, &now);
        exchange.end_of_input(&[], &mut out);
        assert_eq!((exchange.fault(), notes.4.borrow().as_slice()), (None, &[Duration::from_millis(3)][..]));
    }

    #[test]
    fn what_is_behind_the_last_message_of_a_connection_that_gives_way_is_extra() {
        let (mut exchange, _) = generated(8, Pacing::InFlight(1), |load| load.churn = Some(1));
        let sent = send(&mut exchange, 100, at(0));
        assert!(receive(&mut exchange, &[&sent[..], b"!"].concat(), at(0)));
        assert_eq!(kind(&exchange), Some(FaultKind::Extra));
    }

    #[test]
    fn a_successor_goes_on_in_the_schedule_and_is_not_blamed_for_what_fell_due_before_it_stood() {
        // 100 a second over 2 slots: slot 1 has those of 10 ms, 30 ms, 50 ms, …
        let rate = Pacing::Rate(Rate::per_second(100).unwrap());
        let (mut exchange, notes) = generated(8, rate, |load| load.churn = Some(3));
        exchange.take_over(1, 1);
        assert_eq!(send(&mut exchange, 100, at(60)).len(), 16, "those of 30 and 50 ms");
        assert_eq!(exchange.next_in_slot(), 3);
        let sent = send(&mut exchange, 100, at(75));
        assert_eq!(sent.len(), 8, "that of 70 ms");
        assert_eq!(*notes.1.borrow(), [0, 0, 5].map(Duration::from_millis));
        assert_eq!(send(&mut exchange, 100, at(200)), b"", "the next are another connection's");
    }

    #[test]
    fn a_byte_that_is_wrong_is_no_sign_of_life() {
        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |_| {});
        send(&mut exchange, 64, at(0));
        assert!(receive(&mut exchange, &[0xee; 64], at(3)));
        assert_eq!((exchange.heard(), exchange.next_in_slot()), (None, 1));
    }

    #[test]
    fn connections_are_told_apart_however_many_there_were() {
        let load = Load::new(Content::Generated { run: 7, size: 64 }, Pacing::InFlight(1));
        let run = Rc::new(Run::new(Load { churn: Some(1), ..load }, 1, Box::new(NoMeter)));
        run.begin(at(0), 1);
        let numbers = [1, 1000, pattern::MAX_CONNECTION + 500];
        let [_, mut middle, mut last] = numbers.map(|number| Exchange::new(number, Rc::clone(&run)));
        let sent = send(&mut middle, 64, at(0));
        assert_eq!(send(&mut last, 64, at(0)).len(), 64);
        assert!(receive(&mut last, &sent, at(0)));
        let fault = last.fault().unwrap();
        assert_eq!((fault.kind, fault.origin), (FaultKind::Foreign, Some(Origin { connection: 1000, position: 0 })));
    }

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    fn texts() -> Exchange {
        let load = Load::texts([b"Message 1".to_vec(), b"Message 2".to_vec()]);
        let run = Run::new(load, 1, Box::new(NoMeter));
        run.begin(Moment::START, 1);
        Exchange::new(1, Rc::new(run))
    }

    /// An exchange of generated messages that has begun at 0.
    fn generated(size: u64, pacing: Pacing, change: impl FnOnce(&mut Load)) -> (Exchange, Notes) {
        patient(size, pacing, change, Duration::MAX)
    }

    /// As [`generated`], with this patience for messages that are late.
    fn patient(size: u64, pacing: Pacing, change: impl FnOnce(&mut Load), patience: Duration) -> (Exchange, Notes) {
        let notes = Notes::default();
        let mut load = Load::new(Content::Generated { run: 7, size }, pacing);
        change(&mut load);
        let mut run = Run::new(load, 9, Box::new(notes.clone()));
        run.patience = patience;
        run.begin(at(0), 2);
        (Exchange::new(3, Rc::new(run)), notes)
    }

    fn send(exchange: &mut Exchange, space: usize, now: Moment) -> Vec<u8> {
        let mut space = vec![0; space];
        match exchange.produce(&mut space, &now) {
            Produced::Bytes(count) => space[..count].to_vec(),
            Produced::Nothing | Produced::Finished => Vec::new(),
        }
    }

    fn send_all(exchange: &mut Exchange) -> Vec<u8> {
        std::iter::repeat_with(|| send(exchange, 1000, at(0))).take_while(|sent| !sent.is_empty()).flatten().collect()
    }

    /// Hands `input` over; whether the exchange asked to abort.
    fn receive(exchange: &mut Exchange, input: &[u8], now: Moment) -> bool {
        let mut out = Outbox::new(SendBuffer::new(), 100, &now);
        exchange.receive(input, &mut out);
        assert!(out.queue.is_empty() && out.tail.is_empty(), "the checking end answers nothing");
        out.wishes.has(Wishes::ABORT)
    }

    /// Ends the peer's input; returns whether the exchange asked to abort.
    fn end(exchange: &mut Exchange) -> bool {
        let now = at(0);
        let mut out = Outbox::new(SendBuffer::new(), 100, &now);
        exchange.end_of_input(&[], &mut out);
        out.wishes.has(Wishes::ABORT)
    }

    fn kind(exchange: &Exchange) -> Option<FaultKind> {
        exchange.fault().map(|fault| fault.kind)
    }

    #[test]
    fn what_comes_back_is_read_however_much_waits_to_be_sent() {
        assert!(!texts().answers());
    }

    #[test]
    fn texts_go_out_one_at_a_time() {
        let mut exchange = texts();
        assert_eq!(send(&mut exchange, 64, at(0)), b"Message 1");
        assert_eq!(send(&mut exchange, 4, at(0)), b"Mess");
        assert_eq!(send(&mut exchange, 64, at(0)), b"age 2");
        assert_eq!(exchange.produce(&mut [0; 64], &at(0)), Produced::Nothing, "their echo is to come");
    }

    #[test]
    fn it_finishes_when_the_last_byte_is_back_however_it_was_cut() {
        let mut exchange = texts();
        for byte in send_all(&mut exchange) {
            assert_eq!(exchange.produce(&mut [0; 64], &at(0)), Produced::Nothing);
            assert!(!receive(&mut exchange, &[byte], at(0)));
        }
        assert_eq!(exchange.produce(&mut [0; 64], &at(0)), Produced::Finished);
        assert_eq!(exchange.bytes_echoed(), 18);
        end(&mut exchange);
        assert_eq!(exchange.fault(), None);
    }

    #[test]
    fn a_wrong_byte_is_named_with_its_place() {
        let mut exchange = texts();
        send_all(&mut exchange);
        assert!(receive(&mut exchange, b"Message 1Message 3", at(0)));
        let fault = exchange.fault().unwrap();
        assert_eq!((fault.kind, fault.offset), (FaultKind::Corrupted, Some(17)));
        assert_eq!(fault.to_string(), r#"at byte 17 b"3" came back where b"2" was sent"#);
    }

    #[test]
    fn a_byte_too_many_is_seen_after_the_half_close() {
        let mut exchange = texts();
        let sent = send_all(&mut exchange);
        receive(&mut exchange, &sent, at(0));
        assert_eq!(exchange.produce(&mut [0; 64], &at(0)), Produced::Finished);
        assert!(receive(&mut exchange, b"!", at(0)));
        let fault = exchange.fault().unwrap();
        assert_eq!((fault.kind, fault.offset, &*fault.got), (FaultKind::Extra, Some(18), &b"!"[..]));
    }

    #[test]
    fn bytes_that_were_not_sent_yet_are_no_echo() {
        let mut exchange = texts();
        send(&mut exchange, 4, at(0));
        assert!(receive(&mut exchange, b"Message 1", at(0)));
        let fault = exchange.fault().unwrap();
        assert_eq!((fault.kind, fault.offset, &*fault.got), (FaultKind::Corrupted, Some(4), &b"age 1"[..]));
        assert_eq!(fault.to_string(), r#"at byte 4 b"age 1" came where nothing was sent"#);
    }

    #[test]
    fn an_end_with_bytes_missing_is_a_truncation() {
        let mut exchange = texts();
        send_all(&mut exchange);
        receive(&mut exchange, b"Message 1Mess", at(0));
        assert!(end(&mut exchange), "there is nothing more to find out");
        assert_eq!((kind(&exchange), exchange.fault().unwrap().offset), (Some(FaultKind::Truncated), Some(13)));
    }

    #[test]
    fn an_end_with_nothing_missing_is_closed_early() {
        let (mut exchange, _) = generated(8, Pacing::InFlight(1), |load| load.messages = Some(2));
        let sent = send(&mut exchange, 1000, at(0));
        receive(&mut exchange, &sent, at(0));
        assert!(end(&mut exchange));
        assert_eq!((kind(&exchange), exchange.fault().unwrap().offset), (Some(FaultKind::ClosedEarly), Some(8)));

        // So is an end before the first message.
        let (mut exchange, _) = generated(8, Pacing::InFlight(1), |load| load.messages = Some(2));
        end(&mut exchange);
        assert_eq!(kind(&exchange), Some(FaultKind::ClosedEarly));
    }

    #[test]
    fn bytes_that_wait_in_our_own_queue_are_not_missing() {
        for (waiting, expected) in [(50, FaultKind::ClosedEarly), (49, FaultKind::Truncated)] {
            let (mut exchange, _) = generated(100, Pacing::InFlight(1), |_| {});
            let sent = send(&mut exchange, 100, at(0));
            receive(&mut exchange, &sent[..50], at(0));
            let mut queue = SendBuffer::new();
            queue.push(&sent[100 - waiting..], 100);
            exchange.end_of_input(&[], &mut Outbox::new(queue, 100, &at(0)));
            assert_eq!(kind(&exchange), Some(expected), "{waiting} of 100 bytes were never sent");
        }
    }

    #[test]
    fn a_peer_that_finishes_first_once_everything_is_back_did_nothing_wrong() {
        let (mut exchange, _) = generated(8, Pacing::InFlight(1), |load| load.messages = Some(1));
        let sent = send(&mut exchange, 1000, at(0));
        receive(&mut exchange, &sent, at(0));
        assert!(!end(&mut exchange));
        assert_eq!(exchange.fault(), None);
    }

    /// What `bytes` in front of the echo are called: those that came before our first message, then behind it.
    fn in_front(bytes: &[u8], change: impl Fn(&mut Load)) -> [FaultKind; 2] {
        [false, true].map(|sends_first| {
            let (mut exchange, _) = generated(64, Pacing::InFlight(1), &change);
            let sent = if sends_first { send(&mut exchange, 64, at(0)) } else { Vec::new() };
            receive(&mut exchange, &[bytes, &sent].concat(), at(0));
            kind(&exchange).unwrap()
        })
    }

    #[test]
    fn foreign_bytes_have_one_name_whatever_the_timing() {
        let openings: [&[u8]; 5] = [
            b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 7\r\n",
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"\x05\xff",
        ];
        for bytes in openings {
            assert_eq!(in_front(bytes, |_| {}), [FaultKind::Corrupted; 2]);
            assert_eq!(in_front(bytes, |load| load.messages = Some(1)), [FaultKind::Corrupted; 2]);
        }
    }

    #[test]
    fn behind_the_last_message_bytes_are_extra_and_before_it_corrupted() {
        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |load| load.messages = Some(2));
        for _ in 0..2 {
            // A message that is out in part is no last byte.
            let mut sent = send(&mut exchange, 10, at(0));
            assert_eq!(exchange.unsent(), FaultKind::Corrupted);
            sent.extend(send(&mut exchange, 1000, at(0)));
            receive(&mut exchange, &sent, at(0));
        }
        assert_eq!(exchange.unsent(), FaultKind::Extra);

        // Where time alone ends the load, a byte would be extra or not by the time it came.
        let (mut exchange, _) =
            generated(64, Pacing::InFlight(1), |load| load.duration = Some(Duration::from_millis(10)));
        let sent = send(&mut exchange, 1000, at(0));
        receive(&mut exchange, &sent, at(9));
        assert_eq!(exchange.unsent(), FaultKind::Corrupted);
        send(&mut exchange, 1000, at(10));
        assert!(exchange.is_finished());
        assert_eq!(exchange.unsent(), FaultKind::Corrupted);
    }

    #[test]
    fn what_foreign_bytes_look_like_is_said() {
        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |_| {});
        receive(&mut exchange, b"SSH-2.0-OpenSSH_9.2p1\r\n", at(0));
        let text = exchange.fault().unwrap().to_string();
        assert_eq!(text, r#"at byte 0 b"SSH-2.0-OpenSSH_" came where nothing was sent; this looks like an SSH banner"#);
    }

    /// Sends 100 messages of 50 bytes and receives `echo` of them, which `change` made wrong.
    #[track_caller]
    fn found(change: impl FnOnce(&mut Vec<u8>)) -> (FaultKind, u64, Option<Origin>) {
        let (mut exchange, _) = generated(50, Pacing::InFlight(100), |load| load.messages = Some(100));
        let mut echo = send(&mut exchange, 5000, at(0));
        assert_eq!(echo.len(), 5000);
        change(&mut echo);
        assert!(receive(&mut exchange, &echo, at(0)), "{:?}", exchange.fault());
        let fault = exchange.fault().unwrap();
        (fault.kind, fault.offset.unwrap(), fault.origin)
    }

    fn drop_range(echo: &mut Vec<u8>, from: usize, count: usize) {
        echo.drain(from..from + count);
    }

    #[test]
    fn every_kind_of_fault_is_recognised() {
        let origin = |connection, position| Some(Origin { connection, position });
        assert_eq!(found(|echo| echo[777] ^= 0x10), (FaultKind::Corrupted, 777, None));
        for gap in [1, 3, 8, 50, 1000] {
            // The first byte behind the gap may by chance be the one that is missing: then the difference begins later.
            let (kind, offset, belongs) = found(|echo| drop_range(echo, 1234, gap));
            assert_eq!((kind, belongs), (FaultKind::Lost, origin(3, offset + gap as u64)));
            assert!((1234..1237).contains(&offset), "{offset}");
        }
        let repeated = |echo: &mut Vec<u8>| {
            let again = echo[1003..1103].to_vec();
            echo.splice(1103..1103, again);
        };
        assert_eq!(found(repeated), (FaultKind::Duplicated, 1103, origin(3, 1003)));
        let foreign = |echo: &mut Vec<u8>| Pattern::new(7, 5).fill(333, &mut echo[2001..2101]);
        assert_eq!(found(foreign), (FaultKind::Foreign, 2001, origin(5, 333)));
        let of_another_run = |echo: &mut Vec<u8>| Pattern::new(8, 3).fill(2001, &mut echo[2001..2101]);
        assert_eq!(found(of_another_run), (FaultKind::Corrupted, 2001, None));
        assert_eq!(found(|echo| echo.push(0)), (FaultKind::Extra, 5000, None));
        assert_eq!(found(|echo| echo.extend_from_within(..50)), (FaultKind::Duplicated, 5000, origin(3, 0)));
        let another = |echo: &mut Vec<u8>| {
            echo.resize(5100, 0);
            Pattern::new(7, 5).fill(0, &mut echo[5000..]);
        };
        assert_eq!(found(another), (FaultKind::Foreign, 5000, origin(5, 0)));
        assert_eq!(found(|echo| echo[4999] ^= 1), (FaultKind::Corrupted, 4999, None));
    }

    #[test]
    fn a_difference_is_explained_by_what_follows() {
        let (mut exchange, _) = generated(50, Pacing::InFlight(2), |load| load.messages = Some(2));
        let mut echo = send(&mut exchange, 100, at(0));
        drop_range(&mut echo, 10, 5);
        // A byte at a time: the connection shows what was not consumed again, with more behind it.
        let mut shown = Vec::new();
        for byte in echo {
            shown.push(byte);
            let mut out = Outbox::new(SendBuffer::new(), 100, &Moment::START);
            let consumed = exchange.receive(&shown, &mut out);
            if out.wishes.has(Wishes::ABORT) {
                break;
            }
            shown.drain(..consumed);
        }
        let fault = exchange.fault().unwrap();
        assert_eq!((fault.kind, fault.offset), (FaultKind::Lost, Some(10)));
        let position = fault.origin.unwrap().position;
        assert_eq!(position, 15, "five bytes are missing");
    }

    #[test]
    fn a_closed_loop_keeps_as_many_in_flight_as_asked() {
        let (mut exchange, notes) = generated(8, Pacing::InFlight(2), |load| load.messages = Some(3));
        let first = send(&mut exchange, 1000, at(1));
        assert_eq!(first.len(), 16);
        assert_eq!((exchange.in_flight(), exchange.batches.len()), (2, 1), "begun together, kept together");
        assert!(send(&mut exchange, 1000, at(2)).is_empty());
        receive(&mut exchange, &first[..1], at(4));
        receive(&mut exchange, &first[1..], at(6));
        assert_eq!(send(&mut exchange, 1000, at(7)).len(), 8);
        assert!(send(&mut exchange, 1000, at(8)).is_empty());
        let sample = notes.0.borrow()[0];
        assert_eq!((sample.first_byte, sample.service), (Duration::from_millis(3), Duration::from_millis(5)));
        assert_eq!(sample.scheduled, None);
    }

    #[test]
    fn the_first_byte_of_the_first_message_is_measured_apart_unless_the_run_warms_up() {
        let heard = |warmup| {
            let (mut exchange, notes) = generated(8, Pacing::InFlight(1), |load| load.warmup = warmup);
            for now in [0, 100] {
                let sent = send(&mut exchange, 1000, at(now));
                receive(&mut exchange, &sent[..1], at(now + 3));
                receive(&mut exchange, &sent[1..], at(now + 7));
            }
            notes.5.borrow().clone()
        };
        assert_eq!(heard(Duration::ZERO), [Duration::from_millis(3)]);
        assert_eq!(heard(Duration::from_millis(50)), [], "the first that is measured was not the first");
    }

    #[test]
    fn an_open_loop_keeps_its_schedule_and_measures_how_late_it_was() {
        // 100 a second over 2 connections: this one, the second, at 10 ms, 30 ms, 50 ms, …
        let rate = Pacing::Rate(Rate::per_second(100).unwrap());
        let (mut exchange, notes) = generated(8, rate, |_| {});
        exchange.take_slot(1);
        assert!(send(&mut exchange, 1000, at(9)).is_empty());
        let first = send(&mut exchange, 1000, at(10));
        assert_eq!(first.len(), 8);
        assert!(send(&mut exchange, 1000, at(29)).is_empty());
        let rest = send(&mut exchange, 1000, at(55));
        assert_eq!(rest.len(), 16, "two are due, with the first not back");
        receive(&mut exchange, &[first, rest].concat(), at(60));
        let times = |sample: &Sample| {
            let Scheduled { late, total } = sample.scheduled.unwrap();
            [late, sample.service, total].map(|time| time.as_millis())
        };
        assert_eq!(notes.0.borrow().iter().map(times).collect::<Vec<_>>(), [[0, 50, 50], [25, 5, 30], [5, 5, 10]]);
        let schedule = exchange.run.schedule().unwrap();
        assert_eq!((schedule.due_before(at(50)), schedule.due(3)), (5, at(30)));
    }

    #[test]
    fn the_time_counts_from_the_first_measured_message() {
        let (mut exchange, notes) = generated(8, Pacing::InFlight(1), |load| {
            load.warmup = Duration::from_millis(10);
            load.duration = Some(Duration::from_millis(10));
        });
        for (now, begins) in [(0, true), (9, true), (13, true), (22, true), (23, false)] {
            let sent = send(&mut exchange, 1000, at(now));
            assert_eq!(!sent.is_empty(), begins, "at {now} ms");
            receive(&mut exchange, &sent, at(now));
        }
        assert_eq!(notes.0.borrow().len(), 2, "warming up is not counted");
        assert_eq!(exchange.run.stop(), Some(at(23)));
        assert!(exchange.is_finished());
    }

    #[test]
    fn a_run_that_has_not_begun_waits_and_blames_nobody() {
        let load = Load::new(Content::Generated { run: 1, size: 8 }, Pacing::InFlight(1));
        let mut exchange = Exchange::new(1, Rc::new(Run::new(load, 1, Box::new(NoMeter))));
        assert_eq!(exchange.produce(&mut [0; 64], &at(0)), Produced::Nothing);
        assert_eq!(exchange.expects(), Expects::Nothing);
        exchange.run.begin(at(1), 1);
        assert_eq!(exchange.produce(&mut [0; 64], &at(1)), Produced::Bytes(8));
        assert_eq!(exchange.expects(), Expects::AnswerSince(at(1)));
    }

    #[test]
    fn without_verification_bytes_are_only_counted() {
        let (mut exchange, _) = generated(8, Pacing::InFlight(1), |load| load.verify = false);
        send(&mut exchange, 8, at(0));
        assert!(!receive(&mut exchange, &[0; 8], at(0)));
        assert_eq!(exchange.bytes_echoed(), 8);
    }

    #[test]
    fn what_was_sent_is_counted_to_the_byte() {
        let (mut exchange, notes) = generated(10, Pacing::InFlight(3), |load| load.warmup = Duration::from_millis(5));
        send(&mut exchange, 25, at(0));
        assert_eq!(notes.2.get(), (0, 0), "warming up");
        let (mut exchange, notes) = generated(10, Pacing::InFlight(3), |_| {});
        send(&mut exchange, 25, at(0));
        assert_eq!(notes.2.get(), (25, 2));
        send(&mut exchange, 25, at(0));
        assert_eq!(notes.2.get(), (30, 3));
    }

    #[test]
    fn a_schedule_ends_with_the_last_message_due_before_its_end() {
        // Ten a second for two connections: this one's are due at 0, 200 and 400 ms, and at 600 ms no more.
        let (mut exchange, _) = generated(10, Pacing::Rate(Rate::per_second(10).unwrap()), |load| {
            load.duration = Some(Duration::from_millis(500));
        });
        for (now, bytes) in [(0, 10), (100, 0), (200, 10), (400, 10)] {
            let sent = send(&mut exchange, 100, at(now));
            assert_eq!(sent.len(), bytes, "at {now} ms");
            receive(&mut exchange, &sent, at(now));
            assert!(!exchange.is_finished());
        }
        assert_eq!(exchange.run.first_measured(), Some(at(0)));
        assert_eq!(send(&mut exchange, 100, at(499)), b"");
        assert!(!exchange.is_finished(), "all connections stay to the end");
        assert_eq!(send(&mut exchange, 100, at(500)), b"");
        assert!(exchange.is_finished(), "the next would be due too late");
    }

    #[test]
    fn a_connection_stays_until_the_last_message_of_the_others_is_due() {
        // Ten a second for two connections, two messages each: the last of all is due at 300 ms.
        let (mut exchange, _) = generated(10, Pacing::Rate(Rate::per_second(10).unwrap()), |load| {
            load.messages = Some(2);
        });
        for now in [0, 200] {
            let sent = send(&mut exchange, 100, at(now));
            assert_eq!(sent.len(), 10, "at {now} ms");
            receive(&mut exchange, &sent, at(now));
        }
        assert_eq!(send(&mut exchange, 100, at(299)), b"");
        assert!(!exchange.is_finished());
        assert_eq!(exchange.expects(), Expects::Nothing, "its silence is in order");
        send(&mut exchange, 100, at(300));
        assert!(exchange.is_finished());
        let schedule = exchange.run.schedule().unwrap();
        assert_eq!((schedule.first, schedule.end, schedule.last_due, schedule.until), (0, 4, at(300), at(400)));
    }

    #[test]
    fn a_peer_that_ends_after_the_last_echo_and_before_the_schedule_does_truncates_nothing() {
        let (mut exchange, _) = generated(10, Pacing::Rate(Rate::per_second(10).unwrap()), |load| {
            load.messages = Some(1);
        });
        let sent = send(&mut exchange, 100, at(0));
        receive(&mut exchange, &sent, at(0));
        end(&mut exchange);
        assert_eq!(exchange.fault(), None);
    }

    #[test]
    fn what_was_due_before_the_end_is_begun_however_late_and_the_full_socket_is_not_blamed_on_us() {
        let (mut exchange, notes) = generated(10, Pacing::Rate(Rate::per_second(10).unwrap()), |load| {
            load.duration = Some(Duration::from_millis(500));
        });
        assert_eq!(send(&mut exchange, 100, at(1)).len(), 10);
        exchange.blocked();
        assert_eq!(send(&mut exchange, 100, at(900)).len(), 20, "those of 200 and 400 ms");
        assert_eq!(*notes.1.borrow(), [1, 0, 0].map(Duration::from_millis));
        assert_eq!(exchange.unanswered(), 3);
    }

    #[test]
    fn of_the_messages_on_their_way_those_that_wait_for_long_are_counted() {
        let (mut exchange, _) = generated(10, Pacing::Rate(Rate::per_second(10).unwrap()), |_| {});
        let sent = send(&mut exchange, 100, at(450)); // Those of 0, 200 and 400 ms.
        receive(&mut exchange, &sent[..15], at(450)); // The first, and a part of the second.
        let waiting = |limit| exchange.unanswered_for(Duration::from_millis(limit), at(450));
        assert_eq!((exchange.unanswered(), waiting(0), waiting(49), waiting(50), waiting(250)), (2, 2, 2, 1, 0));
        let (mut closed, _) = generated(10, Pacing::InFlight(1), |_| {});
        send(&mut closed, 100, at(0));
        assert_eq!((closed.unanswered(), closed.unanswered_for(Duration::ZERO, at(450))), (1, 0));
    }

    #[test]
    fn behind_a_full_socket_the_lateness_is_not_ours_until_all_that_was_due_is_begun() {
        let (mut exchange, notes) = generated(10, Pacing::Rate(Rate::per_second(10).unwrap()), |_| {});
        send(&mut exchange, 10, at(0));
        exchange.blocked();
        send(&mut exchange, 10, at(500)); // That of 200 ms.
        send(&mut exchange, 10, at(510)); // That of 400 ms: the socket takes it, but it came to wait behind the other.
        assert!(send(&mut exchange, 10, at(520)).is_empty());
        send(&mut exchange, 10, at(630));
        let own: Vec<u128> = notes.1.borrow().iter().map(Duration::as_millis).collect();
        assert_eq!(own, [0, 0, 0, 30]);
    }

    #[test]
    fn what_waits_for_longer_than_the_patience_is_given_up_once() {
        let late = |full: bool| {
            let rate = Pacing::Rate(Rate::per_second(10).unwrap());
            let duration = Some(Duration::from_millis(500));
            let patience = Duration::from_millis(100);
            let (mut exchange, notes) = patient(10, rate, |load| load.duration = duration, patience);
            let sent = send(&mut exchange, 100, at(0));
            if full {
                exchange.blocked();
            }
            receive(&mut exchange, &sent, at(0));
            for _ in 0..2 {
                assert_eq!(send(&mut exchange, 100, at(600)), b"");
            }
            assert!(exchange.is_finished());
            assert_eq!(exchange.given_up(), 2);
            notes.3.borrow().clone()
        };
        assert_eq!(late(true), [(2, Duration::ZERO)], "the peer's doing");
        assert_eq!(late(false), [(2, Duration::from_millis(400))]);
    }

    #[test]
    fn a_peer_that_ends_when_it_is_too_late_for_the_next_message_closed_early() {
        let (mut exchange, _) = patient(
            10,
            Pacing::Rate(Rate::per_second(10).unwrap()),
            |load| {
                load.messages = Some(1);
            },
            Duration::ZERO,
        );
        let now = at(5000);
        exchange.end_of_input(&[], &mut Outbox::new(SendBuffer::new(), 100, &now));
        assert_eq!(kind(&exchange), Some(FaultKind::ClosedEarly), "its message was never sent");
    }

    #[test]
    fn when_everything_is_back_a_difference_is_no_longer_in_doubt() {
        let (mut exchange, _) = generated(8, Pacing::InFlight(1), |_| {});
        let mut sent = send(&mut exchange, 100, at(0));
        sent[5] ^= 1;
        assert!(receive(&mut exchange, &sent, at(0)), "three bytes tell little, but no more are to come");
        assert_eq!(kind(&exchange), Some(FaultKind::Corrupted));
    }

    #[test]
    fn two_words_are_evidence_enough() {
        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |_| {});
        let mut sent = send(&mut exchange, 64, at(0));
        sent[0] ^= 1;
        assert!(!receive(&mut exchange, &sent[..pattern::EVIDENCE - 1], at(0)), "what follows may explain it");
        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |_| {});
        send(&mut exchange, 64, at(0));
        assert!(receive(&mut exchange, &sent[..pattern::EVIDENCE], at(0)));
    }

    #[test]
    fn bytes_of_a_connection_that_is_far_ahead_are_recognised() {
        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |_| {});
        send(&mut exchange, 64, at(0));
        let mut foreign = [0; 64];
        Pattern::new(7, 5).fill(1 << 30, &mut foreign);
        assert!(receive(&mut exchange, &foreign, at(0)));
        assert_eq!(exchange.fault().unwrap().origin, Some(Origin { connection: 5, position: 1 << 30 }));
    }

    #[test]
    fn after_its_last_message_or_a_fault_the_peer_is_expected_to_end() {
        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |load| load.messages = Some(1));
        let sent = send(&mut exchange, 64, at(0));
        receive(&mut exchange, &sent, at(0));
        assert_eq!(exchange.expects(), Expects::Nothing, "it was not asked to finish yet");
        send(&mut exchange, 64, at(0));
        assert_eq!(exchange.expects(), Expects::Anything);

        let (mut exchange, _) = generated(64, Pacing::InFlight(1), |_| {});
        receive(&mut exchange, b"too much", at(0));
        assert_eq!((kind(&exchange), exchange.expects()), (Some(FaultKind::Corrupted), Expects::Anything));
    }
}
