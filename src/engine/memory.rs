//! The account of what all connections' buffers hold, and what one of them may hold.
//!
//! Owns the limits and one number. Knows no connection: it is kept up to date by the loop, which calls it around each
//! change.

/// What a connection may buffer however little memory is free. With none at all it could never move again.
pub const MINIMUM_BUFFER: usize = 4 * 1024;

/// How much the loop may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the backlog. Those the loop opened itself count, but are never refused.
    pub connections: usize,
    /// Bytes buffered for one connection that its peer does not read. A protocol that leaves input unconsumed may have
    /// as many buffered for that.
    pub connection_buffer: usize,
    /// Bytes buffered for all of them. As it fills up, each gets less, down to 4 KiB.
    pub total_buffer: usize,
}

impl Default for Limits {
    /// Any number of connections, 256 KiB each, 64 MiB in all.
    fn default() -> Limits {
        Limits { connections: usize::MAX, connection_buffer: 256 * 1024, total_buffer: 64 * 1024 * 1024 }
    }
}

/// Bytes of memory that all connections' buffers hold.
#[derive(Debug)]
pub(crate) struct Memory {
    limits: Limits,
    held: usize,
}

impl Memory {
    pub(crate) fn new(limits: Limits) -> Memory {
        Memory { limits, held: 0 }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// A connection that held `before` bytes holds `after`.
    pub(crate) fn changed(&mut self, before: usize, after: usize) {
        self.held = self.held - before + after;
    }

    /// How many bytes a connection may buffer that holds `own` bytes already: its limit while memory is plenty; as it
    /// gets scarce, no more on top than a quarter of what is free, so that some is left for others; and always enough
    /// to go on. All together thus hold at most the total limit and 4 KiB a connection, unless a protocol keeps its
    /// input and answers it at length.
    pub(crate) fn room_now(&self, own: usize) -> usize {
        let free = self.limits.total_buffer.saturating_sub(self.held);
        (own + free / 4).max(MINIMUM_BUFFER).min(self.limits.connection_buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_less_as_memory_gets_scarce_and_never_nothing() {
        let limits = Limits { connections: 9, connection_buffer: 100_000, total_buffer: 1_000_000 };
        let mut memory = Memory::new(limits);
        assert_eq!(memory.room_now(0), 100_000);
        memory.changed(0, 900_000);
        assert_eq!((memory.room_now(0), memory.room_now(50_000)), (25_000, 75_000));
        memory.changed(900_000, 1_000_000);
        assert_eq!((memory.room_now(0), memory.room_now(50_000)), (MINIMUM_BUFFER, 50_000));
        memory.changed(1_000_000, 0);
        assert_eq!(memory.held(), 0);
    }
}
