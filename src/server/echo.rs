//! The echo: sends back what arrives.
//!
//! Owns no state. Knows no socket and no loop.

use log::info;

use crate::engine::escape::Escaped;
use crate::engine::log_budget::{Line, LogBudget};
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Outbox, Protocol};

/// Sends every byte back, straight from the buffer that it was read into.
///
/// It has no state, so it takes no memory in its connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Protocol for Echo {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        out.send(input);
        input.len()
    }

    fn log_sent(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        static ECHOING: Line = Line::info("Echoing");
        if log.allows(&ECHOING) {
            info!("Echoing {} to {peer}", Escaped(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::buffer::SendBuffer;
    use crate::engine::time::Moment;

    #[test]
    fn everything_is_sent_back_without_a_copy() {
        let mut out = Outbox::new(SendBuffer::new(), 100, &Moment::START);
        assert_eq!(Echo.receive(b"all of it", &mut out), 9);
        assert_eq!(out.tail, b"all of it");
        assert!(out.queue.is_empty());
        assert_eq!(size_of::<Echo>(), 0);
    }
}
