//! A non-blocking socket with sticky readiness.
//!
//! Owns the transport, the readiness flags, the counts of bytes and the policy for every error of reading and writing.
//! Knows no buffer, no protocol and no end of a connection: it moves bytes and returns what it found.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use tcp_state::TcpState;

/// What a connection needs of its socket: bytes in and out without blocking, a FIN, and the kernel's send queue.
pub trait Transport: Read + Write {
    /// Shuts our direction down: the peer reads the end of input behind what was written (shutdown(2) with `SHUT_WR`).
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Lets closing send a reset: the peer learns that this is no end in order, and what was not sent is thrown away
    /// (socket(7), `SO_LINGER` with a time of 0).
    fn reset_on_close(&mut self);

    /// Whether the connect has succeeded; `false` if it is still under way.
    ///
    /// # Errors
    /// The connect failed.
    fn finish_connect(&mut self) -> io::Result<bool>;

    /// The error that the socket has met and nobody has seen, if any; it is seen once (socket(7), `SO_ERROR`).
    fn take_error(&mut self) -> io::Result<Option<io::Error>>;

    /// What the kernel still holds for the peer; `None` if the system cannot tell.
    fn unacknowledged(&self) -> Option<Unacknowledged> {
        None
    }

    /// What the kernel knows of the connection; `None` if the system does not tell.
    fn tcp_state(&self) -> Option<TcpState> {
        None
    }
}

/// Bytes that the kernel has taken and the peer's kernel has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacknowledged {
    /// The number of bytes: what `ss` shows as Send-Q.
    pub bytes: u32,
    /// How long ago the peer's last acknowledgement came. An answer to a window probe counts as well.
    pub last_acknowledgement: Duration,
}

/// What the poller reported. An edge-triggered poller reports each change once, so each flag stays until a `WouldBlock`
/// clears it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent flags of one event, not a state")]
pub struct Readiness {
    /// A read may find something: bytes, the end of input, or an error.
    pub readable: bool,
    /// A write may find room, or an error.
    pub writable: bool,
    /// The peer's FIN or an error has arrived, so a short read is not the last one: read on to 0.
    pub read_closed: bool,
    /// Urgent data is or was in the stream. A read stops at the urgent mark although bytes follow, so from now on a
    /// short read does not mean that the socket is empty.
    pub urgent: bool,
}

impl Readiness {
    /// Every direction is worth a try.
    pub const ALL: Readiness = Readiness { readable: true, writable: true, read_closed: true, urgent: true };
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// This many bytes, at least one.
    Bytes(usize),
    /// The end of input: the peer's FIN.
    End,
    /// Nothing yet: the next edge says when there is more.
    Nothing,
}

/// A transport, its readiness and its counts.
#[derive(Debug)]
pub(crate) struct Wire<T> {
    pub(crate) transport: T,
    pub(crate) ready: Readiness,
    /// Bytes received so far.
    pub(crate) received: u64,
    /// Bytes sent so far: what the socket took.
    pub(crate) sent: u64,
}

impl<T> Wire<T> {
    pub(crate) fn new(transport: T) -> Wire<T> {
        Wire { transport, ready: Readiness::default(), received: 0, sent: 0 }
    }

    /// Notes what the poller reported. Only adds flags and touches no socket, so it is safe at any time.
    pub(crate) fn note(&mut self, event: Readiness) {
        self.ready.readable |= event.readable;
        self.ready.writable |= event.writable;
        self.ready.read_closed |= event.read_closed;
        self.ready.urgent |= event.urgent;
    }

    /// Whether the peer's FIN or an error has arrived and is not read yet.
    pub(crate) fn end_is_near(&self) -> bool {
        self.ready.read_closed && self.ready.readable
    }
}

impl<T: Transport> Wire<T> {
    /// Reads once. `space` must not be empty: a read of no bytes looks like the end of input.
    ///
    /// With `short_read_is_last`, a short read has emptied the socket, and another read would only say `WouldBlock`
    /// (epoll(7)). There are two exceptions: the end of input, and bytes behind an urgent mark.
    #[expect(
        clippy::inline_always,
        reason = "on the way of every byte, called from one place: counted, 20 instructions"
    )]
    #[inline(always)]
    pub(crate) fn read(&mut self, space: &mut [u8], short_read_is_last: bool) -> io::Result<Input> {
        let read = loop {
            match self.transport.read(space) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => {
                self.ready.readable = false;
                Ok(Input::End)
            }
            Ok(count) => {
                self.received += count as u64;
                if count < space.len() && short_read_is_last && !self.ready.read_closed && !self.ready.urgent {
                    self.ready.readable = false;
                }
                Ok(Input::Bytes(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready.readable = false;
                Ok(Input::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes `bytes` until the socket takes no more. Returns how many bytes it took.
    ///
    /// Does not stop after a short write: something other than a full socket may have cut it, and then no edge would
    /// follow. Only `WouldBlock` promises an edge.
    #[expect(clippy::inline_always, reason = "as `read`")]
    #[inline(always)]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while self.ready.writable && taken < bytes.len() {
            match self.transport.write(&bytes[taken..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    taken += count;
                    self.sent += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Looks for an error that no read will find, as nothing is read now.
    pub(crate) fn look_for_error(&mut self) -> io::Result<()> {
        self.transport.take_error()?.map_or(Ok(()), Err)
    }

    /// Whether the connect succeeded, once the socket is writable. Before, nothing is asked.
    pub(crate) fn finish_connect(&mut self) -> io::Result<bool> {
        if !self.ready.writable {
            return Ok(false);
        }
        let succeeded = self.transport.finish_connect()?;
        self.ready.writable = succeeded;
        Ok(succeeded)
    }
}
