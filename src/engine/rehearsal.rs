//! A protocol tried out without a network.
//!
//! Owns a real connection over a socket that is played: what arrives, how much the peer takes and how time passes is
//! what the test says. So the rules are those of the loop, and none is written twice.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::engine::connection::{Connection, Context, End, Outcome, Readiness, SERVICE_BUDGET, Transport};
use crate::engine::log_budget::LogBudget;
use crate::engine::protocol::Protocol;
use crate::engine::time::Moment;

/// Tries a protocol out: feeds it bytes in any cuts, an end, a peer that takes little and time, and shows what it sent
/// and asked for.
///
/// Behind it is the connection that the loop uses. Backpressure, unconsumed input, half-close and the end are as they
/// are on a network. Timeouts of the loop ([`Timeouts`](crate::Timeouts)) are not played.
///
/// ```
/// use multiconn::{Outbox, Protocol, Rehearsal};
///
/// /// Answers each whole line with its length.
/// struct Count;
///
/// impl Protocol for Count {
///     fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
///         let mut consumed = 0;
///         for line in input.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
///             out.copy(format!("{}\n", line.len() - 1).as_bytes());
///             consumed += line.len();
///         }
///         consumed
///     }
/// }
///
/// let mut rehearsal = Rehearsal::new(Count);
/// for piece in b"one\nthree\nand".chunks(2) {
///     rehearsal.receive(piece);
/// }
/// assert_eq!(rehearsal.sent(), b"3\n5\n");
/// assert_eq!(rehearsal.unconsumed(), 3);
/// rehearsal.end_of_input();
/// assert!(rehearsal.has_shut_down(), "by default, our FIN follows the peer's");
/// ```
pub struct Rehearsal<P> {
    connection: Connection<Stage, P>,
    scratch: Vec<u8>,
    log: LogBudget,
    limit: usize,
    now: Moment,
    notified: bool,
    end: Option<End>,
}

impl<P: Protocol> Rehearsal<P> {
    /// A connection that is open, with a peer that takes everything and a buffer of 256 KiB, at the time
    /// [`Moment::START`].
    pub fn new(protocol: P) -> Rehearsal<P> {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Rehearsal {
            connection: Connection::open(Stage::default(), peer, protocol, Moment::START),
            scratch: vec![0; SERVICE_BUDGET],
            log: LogBudget::new(),
            limit: 256 * 1024,
            now: Moment::START,
            notified: false,
            end: None,
        }
    }

    /// The same with a buffer of `limit` bytes ([`Limits::connection_buffer`](crate::Limits::connection_buffer)).
    #[must_use]
    pub fn with_buffer(self, limit: usize) -> Rehearsal<P> {
        Rehearsal { limit, ..self }
    }

    /// Bytes arrive together. A protocol must do the same whatever the cuts, so feed it the same bytes in several ways.
    ///
    /// # Panics
    /// If the end of input came before.
    pub fn receive(&mut self, bytes: &[u8]) {
        let stage = self.connection.transport_mut();
        assert!(!stage.ended, "bytes behind the end of input");
        stage.arrived.extend(bytes);
        self.serve();
    }

    /// The peer's FIN arrives.
    pub fn end_of_input(&mut self) {
        self.connection.transport_mut().ended = true;
        self.serve();
    }

    /// From now on, the peer takes `bytes` more bytes; 0 for one that stops reading, `usize::MAX` for one that goes on.
    pub fn peer_takes(&mut self, bytes: usize) {
        self.connection.transport_mut().room = bytes;
        self.serve();
    }

    /// Time passes. The protocol is called at each of its deadlines in turn.
    ///
    /// # Panics
    /// If a deadline does not move although the protocol was called: in a loop, the protocol would be called for ever.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now.plus(time);
        while self.end.is_none()
            && let Some(when) = self.connection.protocol_deadline().filter(|&when| when <= until)
        {
            self.now = self.now.max(when);
            self.connection.protocol_is_due();
            self.serve();
            let after = self.connection.protocol_deadline();
            let moved = after.is_none_or(|after| after > when);
            assert!(self.end.is_some() || moved, "deadline_passed was called, and the deadline stayed");
        }
        self.now = until;
        self.serve();
    }

    /// The role wakes the connection ([`EventLoop::wake`](crate::EventLoop::wake)).
    pub fn wake(&mut self) {
        self.connection.wake();
        self.serve();
    }

    /// What the peer got since this was asked last.
    pub fn sent(&mut self) -> Vec<u8> {
        mem::take(&mut self.connection.transport_mut().sent)
    }

    /// How many bytes wait that the peer does not take.
    pub fn waiting(&self) -> usize {
        self.connection.outbound_len()
    }

    /// How many bytes have arrived that the protocol did not consume. Bytes that the connection did not even read, as
    /// the protocol holds or the buffer is full, are among them.
    pub fn unconsumed(&self) -> usize {
        self.connection.inbound_len() + self.connection.transport().arrived.len()
    }

    /// Whether the protocol called [`Outbox::notify`](crate::Outbox::notify) since this was asked last.
    pub fn was_notified(&mut self) -> bool {
        mem::take(&mut self.notified)
    }

    /// Whether the protocol holds its input ([`Outbox::hold`](crate::Outbox::hold)).
    pub fn is_held(&self) -> bool {
        self.connection.takes_nothing()
    }

    /// Whether our FIN was sent.
    pub fn has_shut_down(&self) -> bool {
        self.connection.transport().fin_sent || matches!(self.end, Some(End::Finished))
    }

    /// Whether the peer saw a reset: bytes were lost in the end.
    pub fn was_reset(&self) -> bool {
        self.connection.transport().reset
    }

    /// How the connection ended, if it did.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The protocol.
    pub fn protocol(&self) -> &P {
        self.connection.protocol()
    }

    /// The protocol, to change it as a role does. [`wake`](Rehearsal::wake) shows it what it left.
    pub fn protocol_mut(&mut self) -> &mut P {
        self.connection.protocol_mut()
    }

    /// The time that has passed.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Serves the connection until nothing more can be done, as the loop does.
    fn serve(&mut self) {
        while self.end.is_none() {
            self.connection.note(Readiness { read_closed: self.connection.transport().ended, ..WORTH_A_TRY });
            let mut context = Context {
                now: self.now,
                clock: &self.now,
                scratch: &mut self.scratch,
                room_now: self.limit,
                room_most: self.limit,
                short_read_is_last: false,
                log: &mut self.log,
                partner: None,
                notified: false,
                has_room: false,
            };
            let outcome = self.connection.service(&mut context);
            self.notified |= context.notified;
            match outcome {
                Outcome::Runnable => {}
                Outcome::Waiting => break,
                Outcome::Ended(end) => self.end = Some(end),
            }
        }
    }
}

impl<P> fmt::Debug for Rehearsal<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehearsal")
            .field("waiting", &self.connection.outbound_len())
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

const WORTH_A_TRY: Readiness = Readiness { readable: true, writable: true, read_closed: false, urgent: false };

/// A socket that is played.
#[derive(Debug)]
struct Stage {
    arrived: VecDeque<u8>,
    /// The peer's FIN follows what arrived.
    ended: bool,
    sent: Vec<u8>,
    /// How many more bytes the peer takes.
    room: usize,
    fin_sent: bool,
    reset: bool,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage {
            arrived: VecDeque::new(),
            ended: false,
            sent: Vec::new(),
            room: usize::MAX,
            fin_sent: false,
            reset: false,
        }
    }
}

impl Read for Stage {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.arrived.is_empty() && !self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.arrived.read(space)
    }
}

impl Write for Stage {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= if self.room == usize::MAX { 0 } else { count };
        self.sent.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Stage {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.fin_sent = true;
        Ok(())
    }

    fn reset_on_close(&mut self) {
        self.reset = true;
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::protocol::{Outbox, Produced};
    use crate::engine::time::Clock;
    use crate::server::echo::Echo;

    #[test]
    fn a_peer_that_takes_little_gets_everything_in_the_end() {
        let mut rehearsal = Rehearsal::new(Echo).with_buffer(4);
        rehearsal.peer_takes(2);
        rehearsal.receive(b"abcdefghij");
        assert_eq!(
            (rehearsal.sent(), rehearsal.waiting(), rehearsal.unconsumed()),
            (b"ab".to_vec(), 4, 4),
            "not above its buffer"
        );
        rehearsal.end_of_input();
        assert!(!rehearsal.has_shut_down(), "bytes wait");
        rehearsal.peer_takes(usize::MAX);
        assert_eq!(rehearsal.sent(), b"cdefghij");
        assert!(rehearsal.has_shut_down() && matches!(rehearsal.end(), Some(End::Finished)));
    }

    /// Ticks every two seconds. Holds its input while `holds` is true.
    struct Ticker {
        next: Moment,
        tocks: bool,
        moves: bool,
        holds: bool,
    }

    impl Protocol for Ticker {
        fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
            if self.holds {
                out.hold();
                out.notify();
                return 0;
            }
            input.len()
        }

        fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
            if !mem::take(&mut self.tocks) {
                return Produced::Nothing;
            }
            space[..5].copy_from_slice(b"tock ");
            Produced::Bytes(5)
        }

        fn deadline(&self) -> Option<Moment> {
            Some(self.next)
        }

        fn deadline_passed(&mut self, out: &mut Outbox<'_>) {
            out.copy(b"tick ");
            self.tocks = true;
            if self.moves {
                self.next = self.next.plus(Duration::from_secs(2));
            }
        }
    }

    fn ticker(moves: bool) -> Rehearsal<Ticker> {
        let next = Moment::START.plus(Duration::from_secs(2));
        Rehearsal::new(Ticker { next, tocks: false, moves, holds: true })
    }

    #[test]
    fn a_protocol_is_called_at_each_of_its_deadlines() {
        let mut rehearsal = ticker(true);
        rehearsal.pass(Duration::from_secs(1));
        assert_eq!(rehearsal.sent(), b"");
        rehearsal.pass(Duration::from_secs(4));
        assert_eq!(rehearsal.sent(), b"tick tock tick tock ", "it is asked what it produces behind each");
    }

    #[test]
    #[should_panic(expected = "the deadline stayed")]
    fn a_deadline_that_does_not_move_is_found() {
        ticker(false).pass(Duration::from_secs(2));
    }

    #[test]
    fn held_input_is_shown_again_when_the_role_wakes_the_connection() {
        let mut rehearsal = ticker(true);
        rehearsal.receive(b"later");
        assert!(rehearsal.is_held() && rehearsal.was_notified() && !rehearsal.was_notified());
        rehearsal.receive(b" on");
        assert_eq!(rehearsal.unconsumed(), 8);
        rehearsal.protocol_mut().holds = false;
        rehearsal.wake();
        assert!(!rehearsal.is_held());
        assert_eq!(rehearsal.unconsumed(), 0);
    }
}
