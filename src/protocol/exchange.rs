//! The client's half of an echo: what it sends, and the comparison of every byte that comes back.
//!
//! Owns the position in both directions and the first fault. Never keeps a byte that came in.

use std::fmt;
use std::rc::Rc;

use super::{Outbox, Protocol};
use crate::escape::Escaped;

/// How many bytes of a difference a fault shows.
const EVIDENCE: usize = 16;

/// Sends a list of messages and compares the echo with it, byte for byte.
///
/// Each message is sent when the last one is out, whether or not its echo is back. Once the last byte is back it
/// half-closes, and reads on to the peer's FIN, so that a byte too many is seen as well. (Half-closing earlier would
/// make a server written like the tutorial's, which closes at end of stream, drop what it has not sent yet.)
#[derive(Debug)]
pub struct Exchange {
    number: u32,
    messages: Rc<[Vec<u8>]>,
    sending: Cursor,
    checking: Cursor,
    fault: Option<Fault>,
}

/// A position in the stream that the messages make, one after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Messages that lie wholly behind.
    messages: usize,
    /// Bytes of the next one that lie behind.
    within: usize,
    /// Bytes that lie behind in all.
    bytes: u64,
}

impl Cursor {
    /// What is left of the message that the cursor stands in; nothing at the end of the stream.
    fn rest(self, messages: &[Vec<u8>]) -> &[u8] {
        messages.get(self.messages).map_or(&[], |message| &message[self.within..])
    }

    /// Steps over `count` bytes of that rest.
    fn advance(&mut self, count: usize, messages: &[Vec<u8>]) {
        self.within += count;
        self.bytes += count as u64;
        if self.within == messages[self.messages].len() {
            self.messages += 1;
            self.within = 0;
        }
    }
}

/// What is wrong with an echo. Offsets count the bytes of the echoed stream from zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte came back that is not the one that was sent.
    Corrupted {
        /// Where the difference begins.
        offset: u64,
        /// What was sent there: up to 16 bytes of the rest of its message.
        expected: Vec<u8>,
        /// What came instead: up to 16 bytes.
        got: Vec<u8>,
    },
    /// More came back than was sent.
    Extra {
        /// How much had been sent.
        offset: u64,
        /// What came beyond it: up to 16 bytes.
        got: Vec<u8>,
    },
    /// The peer finished before everything was back.
    Truncated {
        /// How much had come back.
        offset: u64,
        /// How much was to come back.
        expected: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Corrupted { offset, expected, got } => {
                write!(f, "at byte {offset} {} came back where {} was sent", Escaped(got), Escaped(expected))
            }
            Fault::Extra { offset, got } => {
                write!(f, "{} came back beyond the {offset} bytes that were sent", Escaped(got))
            }
            Fault::Truncated { offset, expected } => {
                write!(f, "the peer finished after {offset} of {expected} bytes")
            }
        }
    }
}

impl Exchange {
    /// The exchange of connection `number` (counted from 1), which has everything yet to send.
    ///
    /// The list of messages is shared between connections. Empty messages are no messages on a byte stream and are
    /// left out here, not carried along.
    #[must_use]
    pub fn new(number: u32, messages: Rc<[Vec<u8>]>) -> Exchange {
        debug_assert!(messages.iter().all(|message| !message.is_empty()), "an empty message sends nothing");
        Exchange { number, messages, sending: Cursor::default(), checking: Cursor::default(), fault: None }
    }

    /// The connection's number, counted from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many messages were handed to the connection whole.
    #[must_use]
    pub fn messages_sent(&self) -> u64 {
        self.sending.messages as u64
    }

    /// How many messages came back whole.
    #[must_use]
    pub fn messages_echoed(&self) -> u64 {
        self.checking.messages as u64
    }

    /// How many bytes came back right.
    #[must_use]
    pub fn bytes_echoed(&self) -> u64 {
        self.checking.bytes
    }

    /// Whether every byte is back, and none was wrong.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.fault.is_none() && self.checking.messages == self.messages.len()
    }

    /// The first thing that was wrong, if anything was.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Compares `input` with what was sent; the first difference is the fault.
    fn check(&mut self, mut input: &[u8]) -> Result<(), Fault> {
        while !input.is_empty() {
            if self.checking.bytes == self.sending.bytes {
                return Err(Fault::Extra { offset: self.sending.bytes, got: evidence(input) });
            }
            // Bytes that are right but not sent yet are no echo either, so compare with what was sent, no further.
            let rest = self.checking.rest(&self.messages);
            let ahead = usize::try_from(self.sending.bytes - self.checking.bytes).unwrap_or(usize::MAX);
            let expected = &rest[..rest.len().min(ahead)];
            let compared = input.len().min(expected.len());
            if input[..compared] != expected[..compared] {
                let same = input.iter().zip(expected).take_while(|(got, sent)| got == sent).count();
                let (got, expected) = (evidence(&input[same..]), evidence(&expected[same..]));
                self.checking.advance(same, &self.messages);
                return Err(Fault::Corrupted { offset: self.checking.bytes, expected, got });
            }
            self.checking.advance(compared, &self.messages);
            input = &input[compared..];
        }
        Ok(())
    }
}

fn evidence(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(EVIDENCE)].to_vec()
}

impl Protocol for Exchange {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        match self.check(input) {
            Ok(()) if self.is_complete() => out.finish(),
            Ok(()) => {}
            Err(fault) => {
                self.fault = Some(fault);
                out.abort();
            }
        }
        input.len()
    }

    fn produce(&mut self, space: &mut [u8]) -> usize {
        let rest = self.sending.rest(&self.messages);
        let count = rest.len().min(space.len());
        if count > 0 {
            space[..count].copy_from_slice(&rest[..count]);
            self.sending.advance(count, &self.messages);
        }
        count
    }

    fn finish<'a>(&mut self, _rest: &'a [u8], _out: &mut Outbox<'a>) {
        if !self.is_complete() {
            let expected = self.messages.iter().map(|message| message.len() as u64).sum();
            self.fault = Some(Fault::Truncated { offset: self.checking.bytes, expected });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::SendBuffer;

    fn exchange() -> Exchange {
        Exchange::new(1, Rc::new([b"Message 1".to_vec(), b"Message 2".to_vec()]))
    }

    fn send_all(exchange: &mut Exchange) -> Vec<u8> {
        let (mut sent, mut space) = (Vec::new(), [0; 64]);
        loop {
            match exchange.produce(&mut space) {
                0 => return sent,
                count => sent.extend(&space[..count]),
            }
        }
    }

    /// Hands `input` over and returns whether the exchange asked to finish and to abort.
    fn receive(exchange: &mut Exchange, input: &[u8]) -> (bool, bool) {
        let mut out = Outbox::new(SendBuffer::new(), 100);
        assert_eq!(exchange.receive(input, &mut out), input.len());
        assert!(out.queue.is_empty() && out.tail.is_empty(), "the checking end answers nothing");
        (out.finish, out.abort)
    }

    #[test]
    fn messages_go_out_one_at_a_time() {
        let mut exchange = exchange();
        let mut space = [0; 64];
        assert_eq!(exchange.produce(&mut space), 9);
        assert_eq!(&space[..9], b"Message 1");
        assert_eq!(exchange.produce(&mut space[..4]), 4);
        assert_eq!(exchange.produce(&mut space), 5);
        assert_eq!(&space[..5], b"age 2");
        assert_eq!(exchange.produce(&mut space), 0);
        assert_eq!(exchange.messages_sent(), 2);
    }

    #[test]
    fn it_finishes_when_the_last_byte_is_back_however_it_was_cut() {
        let mut exchange = exchange();
        let sent = send_all(&mut exchange);
        let (last, before) = sent.split_last().unwrap();
        for byte in before {
            assert_eq!(receive(&mut exchange, &[*byte]), (false, false));
        }
        assert_eq!(exchange.messages_echoed(), 1);
        assert_eq!(receive(&mut exchange, &[*last]), (true, false));
        assert!(exchange.is_complete());
        assert_eq!(exchange.bytes_echoed(), 18);
    }

    #[test]
    fn a_wrong_byte_is_named_with_its_place() {
        let mut exchange = exchange();
        send_all(&mut exchange);
        assert_eq!(receive(&mut exchange, b"Message 1Message 3"), (false, true));
        let fault = Fault::Corrupted { offset: 17, expected: b"2".to_vec(), got: b"3".to_vec() };
        assert_eq!(exchange.fault(), Some(&fault));
        assert_eq!(fault.to_string(), r#"at byte 17 b"3" came back where b"2" was sent"#);
        assert!(!exchange.is_complete());
    }

    #[test]
    fn a_byte_too_many_is_seen_after_the_half_close() {
        let mut exchange = exchange();
        let sent = send_all(&mut exchange);
        assert_eq!(receive(&mut exchange, &sent), (true, false));
        assert_eq!(receive(&mut exchange, b"!"), (false, true));
        assert_eq!(exchange.fault(), Some(&Fault::Extra { offset: 18, got: b"!".to_vec() }));
        assert!(!exchange.is_complete());
    }

    #[test]
    fn bytes_that_were_not_sent_yet_are_no_echo() {
        let mut exchange = exchange();
        exchange.produce(&mut [0; 4]);
        assert_eq!(receive(&mut exchange, b"Message 1"), (false, true));
        assert_eq!(exchange.fault(), Some(&Fault::Extra { offset: 4, got: b"age 1".to_vec() }));
    }

    #[test]
    fn an_early_end_is_a_truncation() {
        let mut exchange = exchange();
        send_all(&mut exchange);
        receive(&mut exchange, b"Message 1Mess");
        exchange.finish(&[], &mut Outbox::new(SendBuffer::new(), 100));
        assert_eq!(exchange.fault(), Some(&Fault::Truncated { offset: 13, expected: 18 }));
    }

    #[test]
    fn a_whole_echo_ends_without_fault() {
        let mut exchange = exchange();
        let sent = send_all(&mut exchange);
        receive(&mut exchange, &sent);
        exchange.finish(&[], &mut Outbox::new(SendBuffer::new(), 100));
        assert_eq!(exchange.fault(), None);
    }
}
