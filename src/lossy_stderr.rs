//! Standard error that never blocks and never fails.
//!
//! Owns the decision to drop a line, and the count of those dropped. One thread serves every connection, so a log
//! reader that is slow must not stop it, and one that is gone must not end it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pipe::PIPE_BUF;
use rustix::stdio::stderr;
use rustix::termios::ttyname;

/// Lines that could not be written. Of the process, as the descriptor is.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Something is drawn on the terminal's last line, which the next line of the log takes the place of.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// The width that every terminal has.
pub(crate) const USUAL_WIDTH: usize = 80;

/// Writes each line whole, at once, or not at all.
///
/// Before each write it asks poll(2) whether the descriptor takes bytes; on a pipe that means at least `PIPE_BUF` of
/// them, and so much goes in without blocking (pipe(7)). `O_NONBLOCK` alone would do, but belongs to the open file,
/// which other processes share: the shell that started this one, for instance. Only a terminal needs it, as it says
/// that it takes bytes when it takes some, and then blocks until it has taken all; it is opened a second time for that.
/// Dropped lines are counted, and the count is written when lines pass again.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossyStderr;

impl LossyStderr {
    /// Draws a line of progress, without a newline, on a terminal. Not counted if it is dropped: another follows.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the client draws"))]
    pub(crate) fn draw(text: &str) {
        write_now(text.as_bytes());
        DRAWN.store(true, Ordering::Relaxed);
    }

    /// Writes `line`, with its newline, or counts it as dropped. What exceeds `PIPE_BUF` bytes is cut.
    fn write_line(line: &[u8]) {
        if DRAWN.swap(false, Ordering::Relaxed) {
            write_now(b"\r\x1b[2K");
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 && !write_now(format!("{dropped} log lines were dropped: nobody read them\n").as_bytes()) {
            DROPPED.fetch_add(dropped + 1, Ordering::Relaxed);
            return;
        }
        let written = if line.len() <= PIPE_BUF {
            write_now(line)
        } else {
            let mut cut = line[..PIPE_BUF].to_vec();
            cut[PIPE_BUF - 1] = b'\n';
            write_now(&cut)
        };
        if !written {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Standard error, or a non-blocking open file of our own for the terminal that it is.
fn descriptor() -> BorrowedFd<'static> {
    static TERMINAL: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let terminal = TERMINAL.get_or_init(|| {
        let name = ttyname(stderr(), Vec::new()).ok()?; // An error: it is no terminal.
        open(name, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
    });
    terminal.as_ref().map_or(stderr(), OwnedFd::as_fd)
}

/// Whether all of `bytes` could be written without waiting.
fn write_now(mut bytes: &[u8]) -> bool {
    let descriptor = descriptor();
    while !bytes.is_empty() {
        match poll(&mut [PollFd::new(&descriptor, PollFlags::OUT)], Some(&Timespec::default())) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return false,
        }
        match rustix::io::write(descriptor, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false, // Full, closed, no space on disk: there is nowhere to tell it.
        }
    }
    true
}

impl Write for LossyStderr {
    /// Takes one whole line. Never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LossyStderr::write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
