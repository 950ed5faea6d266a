//! The echo: what came is what goes.

use super::{Outbox, Protocol};

/// Sends every byte back, straight from the buffer that it was read into.
///
/// It has no state, and so takes no memory in its connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Protocol for Echo {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.send(input);
        input.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::SendBuffer;
    use crate::moment::Moment;

    #[test]
    fn everything_goes_back_uncopied() {
        let mut out = Outbox::new(SendBuffer::new(), 100, &Moment::START);
        assert_eq!(Echo.receive(b"all of it", &mut out), 9);
        assert_eq!(out.tail, b"all of it");
        assert!(out.queue.is_empty());
        assert_eq!(size_of::<Echo>(), 0);
    }
}
