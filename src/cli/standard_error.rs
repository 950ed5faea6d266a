//! Standard error that never blocks and never fails.
//!
//! Owns the decision to drop a line, the count of those dropped, and what stands on the terminal's last line, below the
//! log. One thread serves every connection, so a log reader that is slow must not stop it, and one that is gone must
//! not end it.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::pipe::PIPE_BUF;
use rustix::stdio::stderr;
use rustix::termios::tcgetwinsize;

use crate::cli::unblocked::Unblocked;

/// Lines that could not be written. Of the process, as the descriptor is.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// What is drawn below the log. Of the process, as the terminal is.
static FOOT: Mutex<Foot> = Mutex::new(Foot { text: String::new(), on_screen: false });

/// The terminal's last line, which moves down as the log grows.
#[derive(Debug)]
struct Foot {
    /// What is to stand there; empty: nothing.
    text: String,
    /// Something may stand there that has to be erased.
    on_screen: bool,
}

/// Erases the foot, which begins where the cursor is: the whole rest of the screen, as a terminal that became narrower
/// may have broken the line in two.
const ERASE: &[u8] = b"\r\x1b[J";

/// What stands before the foot's text and behind it. Between them the terminal does not break a line that is too long
/// for it: its width may have changed since it was asked. The cursor goes back to where the foot begins, which is where
/// the next line goes, and stays there when the terminal is resized.
const DRAW: (&[u8], &[u8]) = (b"\x1b[?7l", b"\x1b[?7h\r");

/// The width that every terminal has, and one that was never given a size is taken to have.
pub(crate) const USUAL_WIDTH: usize = 80;

/// Writes each line whole, at once, or not at all, without waiting. Dropped lines are counted, and the count is written when
/// lines pass again.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossyStderr;

impl LossyStderr {
    /// Draws `text` on the terminal's last line, below the log, until the next call; an empty text takes it away. Not
    /// counted if it is dropped: another follows. Not for anything but a terminal.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the client draws"))]
    pub(crate) fn draw(text: &str) {
        text.clone_into(&mut FOOT.lock().unwrap_or_else(PoisonError::into_inner).text);
        write_above_foot(b"");
    }

    /// Writes `line`, with its newline, or counts it as dropped. What exceeds `PIPE_BUF` bytes is cut.
    fn write_line(line: &[u8]) {
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        let count = || format!("{dropped} log lines were dropped: nobody read them\n");
        if dropped > 0 && !write_above_foot(count().as_bytes()) {
            DROPPED.fetch_add(dropped + 1, Ordering::Relaxed);
            return;
        }
        let written = if line.len() <= PIPE_BUF {
            write_above_foot(line)
        } else {
            let mut cut = line[..PIPE_BUF].to_vec();
            cut[PIPE_BUF - 1] = b'\n';
            write_above_foot(&cut)
        };
        if !written {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes `lines` where the foot stands and draws the foot below them, in one piece, so that neither is ever seen
/// without the other. Returns whether the lines could be written.
fn write_above_foot(lines: &[u8]) -> bool {
    let mut foot = FOOT.lock().unwrap_or_else(PoisonError::into_inner);
    if foot.text.is_empty() && !foot.on_screen {
        return write_now(lines) == lines.len();
    }
    let mut bytes = [ERASE, lines].concat();
    let needed = bytes.len();
    if !foot.text.is_empty() {
        bytes.extend([DRAW.0, fitting(&foot.text, width()).as_bytes(), DRAW.1].concat());
    }
    let written = write_now(&bytes);
    // What was cut in the middle is erased the next time.
    foot.on_screen = !foot.text.is_empty() || written < bytes.len();
    written >= needed
}

/// How many columns the terminal has at this moment.
fn width() -> usize {
    match tcgetwinsize(stderr()).map_or(0, |size| size.ws_col) {
        0 => USUAL_WIDTH,
        width => width.into(),
    }
}

/// The beginning of `text` that fits into `width` columns, cut before a comma or colon: half a number would be another
/// number.
fn fitting(text: &str, width: usize) -> &str {
    let Some((end, _)) = text.char_indices().nth(width) else { return text };
    let cuts = text.match_indices([',', ':']).map(|(at, _)| at);
    &text[..cuts.take_while(|&at| at <= end).last().unwrap_or(end)]
}

/// How many of `bytes` could be written without waiting.
fn write_now(bytes: &[u8]) -> usize {
    static STREAM: OnceLock<Unblocked> = OnceLock::new();
    // Full, closed, no space on disk: there is nowhere to tell it.
    STREAM.get_or_init(|| Unblocked::new(stderr())).write(bytes).0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out_in_whole_parts() {
        let text = "running: 12 of 12 connected, 0 faults, p99 12345 µs";
        assert_eq!(fitting(text, 51), text);
        assert_eq!(fitting(text, 50), "running: 12 of 12 connected, 0 faults");
        assert_eq!(fitting(text, 37), "running: 12 of 12 connected, 0 faults");
        assert_eq!(fitting(text, 36), "running: 12 of 12 connected");
        assert_eq!(fitting(text, 26), "running");
        assert_eq!(fitting(text, 3), "run");
        assert_eq!(fitting("µµ", 1), "µ");
    }
}
