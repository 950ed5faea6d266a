//! What a connection does with the bytes that it carries.
//!
//! Owns the trait that a server of your own implements, and the [`Outbox`] for its answers. Knows no socket and no
//! loop, so a protocol is tested without them ([`Rehearsal`](crate::Rehearsal)).

use log::info;
use tcp_state::TcpState;

use crate::engine::buffer::SendBuffer;
use crate::engine::escape::Escaped;
use crate::engine::log_budget::{Line, LogBudget};
use crate::engine::peer_addr::PeerAddr;
use crate::engine::time::{Clock, Moment};

/// One end of one connection: bytes in, bytes out.
///
/// The connection calls these functions and carries out what they ask for. Partial sends, backpressure, half-close and
/// errors are the connection's work, not the protocol's. A protocol that answers each line with the number of its
/// bytes:
///
/// ```
/// use multiconn::{Outbox, Protocol};
///
/// struct Count;
///
/// impl Protocol for Count {
///     fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
///         let mut consumed = 0;
///         for line in input.split_inclusive(|&byte| byte == b'\n') {
///             // A line that is not whole yet is left, and shown again with more bytes behind it. A line whose answer
///             // has no room is left as well, and shown again when the peer has read what waits.
///             if !line.ends_with(b"\n") || out.room() < 32 {
///                 break;
///             }
///             out.copy(format!("{}\n", line.len() - 1).as_bytes());
///             consumed += line.len();
///         }
///         consumed
///     }
/// }
/// ```
pub trait Protocol {
    /// Takes what has arrived: `input` is everything received and not yet consumed, oldest first.
    ///
    /// Returns how many of its bytes are done with. The rest waits in the connection's inbound buffer and is shown
    /// again, with more behind it, when more arrives or when the queue of outbound bytes has been sent. A protocol
    /// that wants more than a whole buffer before it consumes anything ends its connection
    /// ([`End::MessageTooLong`](crate::engine::connection::End::MessageTooLong)); one that cannot take more *now* says
    /// so ([`Outbox::hold`]).
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize;

    /// Puts bytes to send that answer no input into `space`, from its beginning on.
    ///
    /// Called whenever the socket takes bytes and none are queued, and again until it produces nothing. So the next
    /// message follows as soon as the last one is out. What is produced is written at once. It is not called while the
    /// peer's FIN has arrived and the input before it is not read yet.
    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        let _ = (space, clock);
        Produced::Nothing
    }

    /// The socket did not take all of what was produced last. The next call of [`produce`](Protocol::produce) comes
    /// when the socket has taken the rest.
    fn blocked(&mut self) {}

    /// The end of input: the peer's FIN was read, and nothing comes any more.
    ///
    /// `rest` is what `receive` never consumed, a last line without its newline, say. What is sent here goes out behind
    /// everything sent before. By default our direction is shut down then, as an echo server does. A protocol that has
    /// more to say, now or later, leaves [`Outbox::shut_down`] out: the connection stays half-open (RFC 9293, 3.6), and
    /// ends when [`produce`](Protocol::produce) or the role
    /// ([`EventLoop::shut_down`](crate::EventLoop::shut_down)) shuts our direction down too.
    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        let _ = rest;
        out.shut_down();
    }

    /// Our direction is about to be shut down, and not because the protocol asked for it: the loop drains, the connection
    /// was idle for too long, or the role shuts it down. What is sent here is the last that goes out before our FIN: TLS
    /// sends its `close_notify`, a chat says good-bye. Not called on a joined connection, whose bytes are its partner's.
    fn last_words(&mut self, out: &mut Outbox<'_>) {
        let _ = out;
    }

    /// When this protocol wants to be called although nothing arrives; `None`: never. A function of its state: the loop
    /// asks again whenever it has served the connection. So there is no timer to set, to move or to forget. A role that
    /// changes the state ([`EventLoop::protocol_mut`](crate::EventLoop::protocol_mut)) has to wake the
    /// connection.
    ///
    /// A time limit for a request, or for a line to be whole, is the moment at which it began and the limit; a ticker's
    /// is its next tick. A process that was stopped (SIGSTOP) reads what arrived meanwhile before it calls a deadline
    /// passed. Backpressure, a pause and a hold do not stop the clock: input that the connection does not read then is
    /// not seen before the deadline.
    fn deadline(&self) -> Option<Moment> {
        None
    }

    /// The time that [`deadline`](Protocol::deadline) said has passed. By default that ends the connection. A protocol
    /// that does something else must move its deadline as well, or is called again in every turn.
    fn deadline_passed(&mut self, out: &mut Outbox<'_>) {
        out.abort();
    }

    /// Whether input leads to output. It does for most servers: then nothing is read while too much waits to be sent
    /// (backpressure). A protocol that produces its output and only looks at its input must return `false`: otherwise
    /// both sides may wait for ever for the other to read.
    fn answers(&self) -> bool {
        true
    }

    /// What the peer has to do not to be called idle. For a server, anything at all.
    fn expects(&self) -> Expects {
        Expects::Anything
    }

    /// The connection is about to end: called before our FIN goes out, if it ever does, and again when the connection is
    /// over, before its socket closes. `look` asks the kernel what it knows of the connection: segments sent again, round
    /// trips, what the peer has not acknowledged. It costs a system call, and is `None` where the system does not tell. By
    /// default nobody asks. Not called for a connect that fails at once.
    fn ending(&mut self, look: &dyn Fn() -> Option<TcpState>) {
        let _ = look;
    }

    /// Bytes arrived: the place for a log line about them. By default there is none.
    fn log_received(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        let _ = (bytes, peer, log);
    }

    /// The socket took bytes: the place for a log line about them. By default `Sending b"…" to …`, as the tutorial has
    /// it.
    fn log_sent(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        static SENDING: Line = Line::info("Sending");
        if log.allows(&SENDING) {
            info!("Sending {} to {peer}", Escaped(bytes));
        }
    }
}

/// What counts as a sign of life for the idle timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expects {
    /// Nothing: silence is in order.
    Nothing,
    /// A byte, in either direction.
    Anything,
    /// An answer, which the peer owes since that moment. Bytes that the socket takes at once are no sign of life,
    /// because it takes megabytes for a peer that is gone. Bytes that the socket takes after it was full are one.
    AnswerSince(Moment),
}

/// What a protocol produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Produced {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing any more: our FIN follows what was sent (half-close). Input still arrives.
    Finished,
}

/// What a protocol asks for beside sending. Most calls ask for nothing, which one comparison finds out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes(u8);

impl Wishes {
    pub(crate) const SHUT_DOWN: Wishes = Wishes(1);
    pub(crate) const FINISH: Wishes = Wishes(2);
    pub(crate) const ABORT: Wishes = Wishes(4);
    pub(crate) const HOLD: Wishes = Wishes(8);
    pub(crate) const NOTIFY: Wishes = Wishes(16);

    pub(crate) fn has(self, wish: Wishes) -> bool {
        self.0 & wish.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn add(&mut self, wish: Wishes) {
        self.0 |= wish.0;
    }
}

/// Takes a protocol's answer, and what else the protocol asks for.
///
/// The lifetime is that of the input: [`send`](Outbox::send) borrows from the input, so an echo costs no copy.
pub struct Outbox<'a> {
    /// The connection's own queue, lent for the call.
    pub(crate) queue: SendBuffer,
    /// The part that goes out behind the queue, from where it was read if the socket takes it.
    pub(crate) tail: &'a [u8],
    pub(crate) wishes: Wishes,
    limit: usize,
    clock: &'a dyn Clock,
}

impl<'a> Outbox<'a> {
    pub(crate) fn new(queue: SendBuffer, limit: usize, clock: &'a dyn Clock) -> Outbox<'a> {
        Outbox { queue, tail: &[], wishes: Wishes::default(), limit, clock }
    }

    /// The time now: just behind the read that brought the input.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Sends a part of the input without copying it, behind everything sent before.
    ///
    /// The first part in a call costs no copy; a second one copies the first into the queue.
    pub fn send(&mut self, bytes: &'a [u8]) {
        self.queue.push(self.tail, self.limit);
        self.tail = bytes;
    }

    /// Sends bytes that live only for the call, by copying them into the queue.
    pub fn copy(&mut self, bytes: &[u8]) {
        self.send(&[]); // Keeps the order: what was borrowed so far goes first.
        self.queue.push(bytes, self.limit);
    }

    /// Calls a protocol inside of this one, which sees other bytes than those that travel: TLS, a compression, a framing.
    /// The inner protocol gets an outbox of its own with room for `room` bytes. Returns what the call returned, and the
    /// bytes that were sent in it. What the inner protocol asks for beside sending (to shut down, to notify, ...) is asked
    /// for here; so bytes of the wrapper's own, sent after this call, still go out before a FIN that was asked for inside.
    ///
    /// A wrapper that only looks at the bytes, a counter say, needs no second outbox: it hands its own one on. A protocol
    /// that produces ([`Protocol::produce`]) or has a deadline is asked by its wrapper.
    ///
    /// ```
    /// use multiconn::{Outbox, Protocol};
    ///
    /// /// Turns every bit around, for a protocol that knows nothing of it.
    /// struct Inverted<P>(P);
    ///
    /// fn inverted(bytes: &[u8]) -> Vec<u8> {
    ///     bytes.iter().map(|byte| !byte).collect()
    /// }
    ///
    /// impl<P: Protocol> Protocol for Inverted<P> {
    ///     fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
    ///         let plain = inverted(input);
    ///         let (consumed, answer) = out.inside(out.room(), |out| self.0.receive(&plain, out));
    ///         out.copy(&inverted(&answer));
    ///         consumed
    ///     }
    ///
    ///     fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
    ///         let plain = inverted(rest);
    ///         let ((), answer) = out.inside(out.room(), |out| self.0.end_of_input(&plain, out));
    ///         out.copy(&inverted(&answer));
    ///     }
    /// }
    /// ```
    pub fn inside<'b, R>(&mut self, room: usize, call: impl FnOnce(&mut Outbox<'b>) -> R) -> (R, Vec<u8>)
    where
        'a: 'b,
    {
        let mut inner: Outbox<'b> = Outbox::new(SendBuffer::new(), room, self.clock);
        let result = call(&mut inner);
        self.wishes.add(inner.wishes);
        let mut sent = Vec::with_capacity(inner.queue.len() + inner.tail.len());
        while !inner.queue.is_empty() {
            let front = inner.queue.front();
            sent.extend(front);
            let taken = front.len();
            inner.queue.consume(taken);
        }
        sent.extend(inner.tail);
        (result, sent)
    }

    /// Whether it was asked, in this call, for an end of our direction ([`shut_down`](Outbox::shut_down),
    /// [`finish`](Outbox::finish) or [`abort`](Outbox::abort)). A protocol that wraps another one looks at this behind
    /// [`inside`](Outbox::inside), and sends what has to come before the FIN.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        [Wishes::SHUT_DOWN, Wishes::FINISH, Wishes::ABORT].into_iter().any(|wish| self.wishes.has(wish))
    }

    /// Whether it was asked, in this call, to hold the input ([`hold`](Outbox::hold)).
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.wishes.has(Wishes::HOLD)
    }

    /// How many more bytes may be sent before the connection is over its limit.
    ///
    /// Input is never longer than this, so a protocol whose answers are no longer than their input need not ask. A
    /// protocol whose answers are longer should stop consuming when they no longer fit. If a connection has more queued
    /// than its limit after the socket took what it could, it ends
    /// ([`End::Overflow`](crate::engine::connection::End::Overflow)).
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.queue.len() + self.tail.len())
    }

    /// Shuts our direction down: everything sent so far goes out, then our FIN (half-close). Input still arrives.
    pub fn shut_down(&mut self) {
        self.wishes.add(Wishes::SHUT_DOWN);
    }

    /// Ends the connection in order: everything sent so far goes out, then our FIN. What still arrives is thrown away,
    /// up to the peer's FIN or until the linger timeout is over ([`Timeouts::linger`](crate::Timeouts::linger)).
    pub fn finish(&mut self) {
        self.wishes.add(Wishes::FINISH);
    }

    /// Ends the connection at once. What was sent in this call, and what waits from earlier ones, is lost; if there is
    /// any, the peer sees a reset, as a FIN would say that it was everything. For an end that lets it out first see
    /// [`finish`](Outbox::finish).
    pub fn abort(&mut self) {
        self.wishes.add(Wishes::ABORT);
    }

    /// Not now: what is not consumed is shown again when the role wakes the connection
    /// ([`EventLoop::wake`](crate::EventLoop::wake)), and nothing more is read until then. The peer's window closes, and
    /// it stops sending: backpressure. No time to be idle runs meanwhile, as the wait is ours.
    pub fn hold(&mut self) {
        self.wishes.add(Wishes::HOLD);
    }

    /// Tells the loop's role that this connection has something for it
    /// ([`Event::Notified`](crate::engine::event_loop::Event::Notified)): how a chat learns that a line came in.
    pub fn notify(&mut self) {
        self.wishes.add(Wishes::NOTIFY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrowed_and_copied_parts_keep_their_order() {
        let mut out = Outbox::new(SendBuffer::new(), 100, &Moment::START);
        out.send(b"one ");
        out.copy(b"two ");
        out.send(b"three ");
        out.send(b"four");
        assert_eq!(out.queue.front(), b"one two three ");
        assert_eq!(out.tail, b"four");
        assert_eq!(out.room(), 100 - 18);
    }

    #[test]
    fn what_an_inner_protocol_sends_comes_back_and_what_it_asks_for_is_asked_for() {
        let mut out = Outbox::new(SendBuffer::new(), 100, &Moment::START);
        let (result, sent) = out.inside(10, |out| {
            out.copy(b"one ");
            out.send(b"two");
            out.shut_down();
            out.room()
        });
        assert_eq!((result, sent.as_slice()), (3, &b"one two"[..]));
        assert_eq!((out.room(), out.wishes), (100, Wishes::SHUT_DOWN));
        assert!(out.is_ending() && !out.is_held());
    }

    #[test]
    fn one_borrowed_part_is_not_copied() {
        let mut out = Outbox::new(SendBuffer::new(), 100, &Moment::START);
        out.send(b"borrowed");
        assert_eq!(out.queue.capacity(), 0);
    }
}
