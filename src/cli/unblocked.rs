//! Writing to a standard stream without ever waiting for its reader.
//!
//! Owns the question whether a descriptor takes bytes now. What becomes of those that it does not take is the caller's
//! business.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;
use rustix::termios::ttyname;

/// A stream of the process, written to without waiting.
///
/// Before each write it asks poll(2) whether the descriptor takes bytes; on a pipe that means at least `PIPE_BUF` of
/// them, and that number goes in without blocking (pipe(7)). `O_NONBLOCK` alone would do, but belongs to the open file,
/// which other processes share: the shell that started this one, for instance. Only a terminal needs it, as it says
/// that it takes bytes when it takes some, and then blocks until it has taken all; it is opened a second time for that.
#[derive(Debug)]
pub(crate) struct Unblocked {
    stream: BorrowedFd<'static>,
    /// A non-blocking open file of our own for the terminal that it is.
    terminal: Option<OwnedFd>,
}

impl Unblocked {
    pub(crate) fn new(stream: BorrowedFd<'static>) -> Unblocked {
        let terminal = ttyname(stream, Vec::new()).ok().and_then(|name| {
            open(name, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
        });
        Unblocked { stream, terminal }
    }

    /// Writes what it takes now of `bytes`. Returns how many those were, and whether it may take more later. It does not if
    /// its reader is gone, or the disk is full.
    pub(crate) fn write(&self, bytes: &[u8]) -> (usize, bool) {
        let descriptor = self.terminal.as_ref().map_or(self.stream, OwnedFd::as_fd);
        let mut written = 0;
        while written < bytes.len() {
            match poll(&mut [PollFd::new(&descriptor, PollFlags::OUT)], Some(&Timespec::default())) {
                Ok(0) => return (written, true),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return (written, false),
            }
            let most = bytes.len().min(written + PIPE_BUF);
            match rustix::io::write(descriptor, &bytes[written..most]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return (written, true),
                Err(_) => return (written, false),
            }
        }
        (written, true)
    }
}
