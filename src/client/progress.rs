//! The line that shows how a run is getting on.
//!
//! Owns the line on the terminal and when it is drawn again. Nothing is shown where there is no terminal, and no thread
//! draws: the client calls in between its turns.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::lossy_stderr::LossyStderr;
use crate::moment::Moment;

/// How often the line is drawn: often enough to look alive, and the percentiles in it cost some 50 µs each time.
const INTERVAL: Duration = Duration::from_millis(200);

/// The progress line, on a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    line: ProgressBar,
    next: Moment,
}

impl Progress {
    /// A line, if standard error is a terminal.
    pub(super) fn on_terminal() -> Option<Progress> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let target = ProgressDrawTarget::term_like(Box::new(LossyTerminal::default()));
        let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is sound");
        let line = ProgressBar::with_draw_target(None, target).with_style(style);
        Some(Progress { line, next: Moment::START })
    }

    /// When it is to be drawn next.
    pub(super) fn next(&self) -> Moment {
        self.next
    }

    /// Draws what `text` gives, if it is time.
    pub(super) fn draw(&mut self, now: Moment, text: impl FnOnce() -> String) {
        if now >= self.next {
            self.next = now.plus(INTERVAL);
            self.line.set_message(text());
            self.line.tick();
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }
}

/// Standard error as a terminal to draw on that, like the log, never waits.
#[derive(Default)]
struct LossyTerminal {
    drawn: Mutex<String>,
}

impl fmt::Debug for LossyTerminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LossyTerminal")
    }
}

impl LossyTerminal {
    fn add(&self, text: &str) {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }
}

impl TermLike for LossyTerminal {
    fn width(&self) -> u16 {
        // A terminal that was never given a size says 0.
        rustix::termios::tcgetwinsize(io::stderr())
            .ok()
            .map(|size| size.ws_col)
            .filter(|&width| width > 0)
            .unwrap_or(80)
    }
    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        if lines > 0 {
            self.add(&format!("\x1b[{lines}A"));
        }
        Ok(())
    }
    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        if lines > 0 {
            self.add(&format!("\x1b[{lines}B"));
        }
        Ok(())
    }
    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        if columns > 0 {
            self.add(&format!("\x1b[{columns}C"));
        }
        Ok(())
    }
    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        if columns > 0 {
            self.add(&format!("\x1b[{columns}D"));
        }
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text);
        self.add("\r\n");
        Ok(())
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K");
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner));
        LossyStderr::draw(&drawn);
        Ok(())
    }
}
