//! What came in of a generated stream, without its key.
//!
//! Owns the count of bytes that were right. Keeps no byte but the first three words.

use crate::client::pattern::{Pattern, WORD};

/// A shorter stream has no name, as two words have to agree.
pub const SHORTEST: u64 = 2 * WORD as u64;

/// How many bytes show which stream it is: with one word wrong, the other two still agree.
const SHOWN: usize = 3 * WORD;

/// The account of what one connection sent.
///
/// Successive words of a generated stream differ by a constant ([`Pattern`]), so the stream is known from any word of it,
/// and each byte behind it can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The first bytes, until they have shown which stream it is.
    first: Vec<u8>,
    stream: Option<Pattern>,
    received: u64,
    right: u64,
}

impl Account {
    /// Takes what came.
    pub fn receive(&mut self, input: &[u8]) {
        let before = self.received;
        self.received += input.len() as u64;
        if before < SHOWN as u64 {
            let more = input.len().min(SHOWN - self.first.len());
            self.first.extend(&input[..more]);
            if self.first.len() < SHOWN {
                return;
            }
            self.stream = stream_of(&self.first);
            let first = std::mem::take(&mut self.first);
            self.compare(0, &first);
            self.compare(SHOWN as u64, &input[more..]);
        } else {
            self.compare(before, input);
        }
    }

    /// Counts on, unless something was wrong before.
    fn compare(&mut self, position: u64, input: &[u8]) {
        if let Some(stream) = self.stream
            && self.right == position
        {
            self.right += stream.matching(position, input) as u64;
        }
    }

    /// The first word of the stream; `None` if it is not a generated one, or too short to show it.
    #[must_use]
    pub fn first_word(&self) -> Option<u64> {
        self.stream.or_else(|| stream_of(&self.first)).map(Pattern::first_word)
    }

    /// How many bytes came.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many of them were right, from the first on. If that is less than [`received`](Account::received), the first wrong
    /// byte has this offset.
    #[must_use]
    pub fn right(&self) -> u64 {
        match self.stream.or_else(|| stream_of(&self.first)) {
            Some(stream) if self.received < SHOWN as u64 => stream.matching(0, &self.first) as u64,
            _ => self.right,
        }
    }
}

/// The stream that most of the whole words in `first` agree on.
fn stream_of(first: &[u8]) -> Option<Pattern> {
    let (words, _) = first.as_chunks::<WORD>();
    let streams = words.iter().zip(0..).map(|(&word, index)| Pattern::with_word(word, index));
    let streams: Vec<Pattern> = streams.collect();
    streams.iter().copied().find(|one| streams.iter().filter(|other| *other == one).count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Pattern::new(7, 3).fill(0, &mut bytes);
        bytes
    }

    fn account(bytes: &[u8], piece: usize) -> Account {
        let mut account = Account::default();
        bytes.chunks(piece).for_each(|piece| account.receive(piece));
        account
    }

    #[test]
    fn a_whole_stream_is_right_to_its_end_however_it_is_cut() {
        for length in [16, 17, 23, 24, 25, 1_000] {
            for piece in [1, 5, 24, 1_000] {
                let account = account(&stream(length), piece);
                assert_eq!(account.first_word(), Some(Pattern::new(7, 3).first_word()));
                assert_eq!((account.received(), account.right()), (length as u64, length as u64), "{length} {piece}");
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_found_wherever_it_is_and_the_stream_keeps_its_name() {
        for wrong in (0..40).chain([999]) {
            for piece in [1, 7, 24, 1_000] {
                let mut bytes = stream(1_000);
                bytes[wrong] ^= 1;
                let account = account(&bytes, piece);
                assert_eq!(account.first_word(), Some(Pattern::new(7, 3).first_word()), "{wrong}");
                assert_eq!((account.received(), account.right()), (1_000, wrong as u64), "{wrong} {piece}");
            }
        }
    }

    #[test]
    fn other_bytes_have_no_account() {
        for bytes in [&b""[..], b"Message 1 from client.", &[0; 100], &stream(15)] {
            let account = account(bytes, 9);
            assert_eq!((account.first_word(), account.right()), (None, 0), "{bytes:?}");
            assert_eq!(account.received(), bytes.len() as u64);
        }
    }
}
