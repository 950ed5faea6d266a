//! A socket that does not block, with what the poller said of it.
//!
//! Owns the transport, the sticky readiness flags, the counts of bytes and the policy for every error of reading and
//! writing. Knows no buffer, no protocol and no end of a connection: it moves bytes and says what came of it.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

/// What a connection needs of its socket: bytes in, bytes out without blocking, a FIN, and what became of the bytes.
pub trait Transport: Read + Write {
    /// Ends our direction: the peer reads end of stream behind what was written (shutdown(2) with `SHUT_WR`).
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Whether a connect that was begun has succeeded; `false`: not decided yet. An error is that of the connect.
    fn finish_connect(&mut self) -> io::Result<bool>;

    /// What the kernel still holds for the peer; `None` if the system cannot tell.
    fn unacknowledged(&self) -> Option<Unacknowledged>;
}

/// Bytes that the kernel has taken and the peer's kernel has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacknowledged {
    /// How many: what `ss` shows as Send-Q.
    pub bytes: u32,
    /// How long ago the peer's last acknowledgement came, be it of bytes or only an answer to a window probe.
    pub last_acknowledgement: Duration,
}

/// What the poller said, kept until a `WouldBlock` takes it back: an edge-triggered poller says it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent flags of one event, not a state")]
pub struct Readiness {
    /// A read may find something: bytes, the end, or an error.
    pub readable: bool,
    /// A write may find room, or an error.
    pub writable: bool,
    /// The peer's FIN or an error is there, so a short read is not the end: read on to 0.
    pub read_closed: bool,
    /// Urgent data is or was in the stream. A read stops at its mark with bytes left behind it, so a short read says
    /// nothing from now on.
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

/// A transport and what is known of it.
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

    /// Notes what the poller said. Flags are only ever added here; touching no socket, this is safe at any time.
    pub(crate) fn note(&mut self, event: Readiness) {
        self.ready.readable |= event.readable;
        self.ready.writable |= event.writable;
        self.ready.read_closed |= event.read_closed;
        self.ready.urgent |= event.urgent;
    }

    /// Whether the peer's end is known to be near and may be read now.
    pub(crate) fn end_is_near(&self) -> bool {
        self.ready.read_closed && self.ready.readable
    }
}

impl<T: Transport> Wire<T> {
    /// Reads once. `space` must not be empty: a read into nothing looks like the end.
    ///
    /// With `short_read_is_last`, a read that comes short has emptied the socket, so that another would only say
    /// `WouldBlock` (epoll(7)). Two things hide behind a short read all the same: the end of the stream, and bytes behind
    /// an urgent mark.
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

    /// Writes `bytes` until the socket takes no more. Returns how many it took.
    ///
    /// A short write is no reason to stop, as a short read is: something other than a full socket may have cut it, and
    /// then no edge would follow. Only `WouldBlock` promises one.
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

    /// Whether a connect is through. mio's docs say how to find out: wait for writable, then look at `SO_ERROR`, then ask
    /// for the peer's address.
    pub(crate) fn finish_connect(&mut self) -> io::Result<bool> {
        if !self.ready.writable {
            return Ok(false);
        }
        let through = self.transport.finish_connect()?;
        self.ready.writable = through;
        Ok(through)
    }
}
