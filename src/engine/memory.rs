//! The account of what all connections' buffers hold, and what one of them may hold.
//!
//! Owns the limits and one number. Knows no connection and touches no buffer: the loop reports each change.

/// How many bytes a connection may buffer even if no memory is free. With none, the connection could never move again.
pub const MINIMUM_BUFFER: usize = 4 * 1024;

/// How much the loop may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections may be open; more peers wait in the backlog. Connections that the loop opens count as well,
    /// but are never refused.
    pub connections: usize,
    /// How many bytes are buffered for one connection, if its peer does not read them or its protocol does not consume
    /// them.
    pub connection_buffer: usize,
    /// How many bytes are buffered for all connections together. As less is free, each connection may buffer less, down
    /// to 4 KiB.
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

    /// Notes that a connection which held `before` bytes now holds `after`.
    pub(crate) fn changed(&mut self, before: usize, after: usize) {
        self.held = self.held - before + after;
    }

    /// How many bytes each buffer of a connection may hold whose larger one holds `own` bytes already. While memory is
    /// plenty, that is the limit of a connection. As memory gets scarce, it is no more on top than a quarter of what is
    /// free, so that some is left for others; and always enough to go on. All connections together thus hold at most the
    /// total limit and 4 KiB each, or 8 KiB where a protocol holds its input or answers it at length.
    pub(crate) fn room_now(&self, own: usize) -> usize {
        let free = self.limits.total_buffer.saturating_sub(self.held);
        (own + free / 4).max(MINIMUM_BUFFER).min(self.limits.connection_buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_may_buffer_less_as_memory_gets_scarce_but_never_nothing() {
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
