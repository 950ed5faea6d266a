//! The bytes that a socket has not taken yet.
//!
//! Owns one queue of bytes, and the rule by which its memory grows and is freed. Never decides how much may be queued: the
//! connection passes its limit with each push.

use std::collections::VecDeque;

/// A queue of outbound bytes: pushed at the back, sent from the front.
///
/// This is the tutorial's `data.outb`, with two differences. Taking sent bytes off the front
/// ([`consume`](SendBuffer::consume)) moves nothing, where `outb = outb[sent:]` copies all that is left each
/// time. And an empty queue is one null pointer: its heap memory is freed as soon as the last byte is sent, so that ten
/// thousand idle connections do not keep what they needed when they were busiest.
#[derive(Debug, Default)]
pub struct SendBuffer {
    #[expect(clippy::box_collection, reason = "the idle connection is the common one: 8 bytes here rather than 32")]
    bytes: Option<Box<VecDeque<u8>>>,
}

impl SendBuffer {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> SendBuffer {
        SendBuffer { bytes: None }
    }

    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len())
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of memory the queue holds, waiting bytes or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.as_ref().map_or(0, |bytes| bytes.capacity())
    }

    /// The bytes to send next: as many as lie in one piece. Empty only if nothing waits.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| bytes.as_slices().0)
    }

    /// Appends `bytes`.
    ///
    /// The memory grows to what is needed or, if that is more, to twice what it was, but at most to `limit` bytes. Only if
    /// more than `limit` bytes wait does the queue hold more memory than that.
    #[inline] // Mostly there is nothing to queue.
    pub fn push(&mut self, bytes: &[u8], limit: usize) {
        if !bytes.is_empty() {
            self.append(bytes, limit);
        }
    }

    fn append(&mut self, bytes: &[u8], limit: usize) {
        let queue = self.bytes.get_or_insert_default();
        let target = grown(queue.len() + bytes.len(), queue.capacity(), limit);
        queue.reserve_exact(target - queue.len());
        queue.extend(bytes);
    }

    /// Takes `sent` bytes off the front.
    ///
    /// # Panics
    /// If fewer bytes wait.
    pub fn consume(&mut self, sent: usize) {
        assert!(sent <= self.len(), "more was sent than was waiting");
        if sent == self.len() {
            self.bytes = None;
        } else if let Some(bytes) = &mut self.bytes {
            bytes.drain(..sent);
        }
    }
}

/// The capacity that a buffer should have to hold `needed` bytes. If `capacity` is not enough, it is doubled, so that the
/// next bytes fit as well; but beyond `limit` it is no more than needed.
pub(crate) fn grown(needed: usize, capacity: usize, limit: usize) -> usize {
    if needed <= capacity { capacity } else { needed.max(limit.min(capacity * 2)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_queue_is_one_pointer_and_no_heap() {
        let mut buffer = SendBuffer::new();
        assert_eq!(size_of::<SendBuffer>(), size_of::<usize>());
        buffer.push(b"gone", 1024);
        buffer.consume(4);
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn pushing_nothing_allocates_nothing() {
        let mut buffer = SendBuffer::new();
        buffer.push(b"", 1024);
        assert_eq!(buffer.capacity(), 0);
        assert_eq!(buffer.front(), b"");
    }

    #[test]
    fn memory_doubles_up_to_the_limit() {
        let mut buffer = SendBuffer::new();
        buffer.push(&[0; 600], 1000);
        assert_eq!(buffer.capacity(), 600);
        buffer.push(&[0; 100], 1000);
        assert_eq!(buffer.capacity(), 1000);
        buffer.push(&[0; 300], 1000);
        assert_eq!(buffer.capacity(), 1000);
    }

    #[test]
    #[should_panic(expected = "more was sent")]
    fn consuming_more_than_waits_is_a_bug() {
        SendBuffer::new().consume(1);
    }

    proptest! {
        /// Any interleaving of pushes and sends gives the bytes back once, in order, within the limit.
        #[test]
        fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((0_usize..300, 0_usize..300), 1..60)) {
            const LIMIT: usize = 1000;
            let mut buffer = SendBuffer::new();
            let (mut pushed, mut taken) = (0_usize, 0_usize);
            let byte_at = |position: usize| u8::try_from(position % 251).unwrap();
            for (push, take) in steps {
                let push = push.min(LIMIT - buffer.len());
                let bytes: Vec<u8> = (pushed..pushed + push).map(byte_at).collect();
                buffer.push(&bytes, LIMIT);
                pushed += push;
                let sent = take.min(buffer.front().len());
                for &byte in &buffer.front()[..sent] {
                    prop_assert_eq!(byte, byte_at(taken));
                    taken += 1;
                }
                buffer.consume(sent);
                prop_assert_eq!(buffer.len(), pushed - taken);
                prop_assert_eq!(buffer.front().is_empty(), buffer.is_empty());
                prop_assert!(buffer.capacity() <= LIMIT);
            }
        }
    }
}
