//! What the fuzz targets have in common: bytes read as a script, and text that is safe to print.
//!
//! # To run them
//!
//! A nightly compiler and `cargo install --locked cargo-fuzz` are needed; then, from the repository's root:
//!
//! ```text
//! cargo +nightly fuzz run --fuzz-dir lab/fuzz connection -- -max_total_time=60 -max_len=1024
//! ```
//!
//! The targets are `connection`, `exchange`, `arguments` and `escape`. A script of some hundred bytes goes far; longer
//! ones only make each run slower.
//!
//! `corpus/` holds one small input for each piece of behaviour that a long run has found. A new input gets in by
//! `cargo +nightly fuzz cmin --fuzz-dir lab/fuzz TARGET`, which keeps one for each piece and throws the others away. What makes a target
//! fail is put in `artifacts/` and runs again by `cargo +nightly fuzz run --fuzz-dir lab/fuzz TARGET FILE`; the bug then gets a test of its
//! own beside the code that had it, as nobody needs a fuzzer to run that.

/// Bytes that say what is to be done, from the first to the last.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    /// The next byte; `None` at the end.
    pub fn step(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// The next byte, or 0 at the end.
    pub fn byte(&mut self) -> u8 {
        self.step().unwrap_or(0)
    }

    /// The next byte as a number, so that `most` is never exceeded and both small and large ones are frequent: half of
    /// all bytes stand for themselves.
    pub fn amount(&mut self, most: usize) -> usize {
        let byte = usize::from(self.byte());
        let amount = if byte < 128 { byte } else { (byte - 127).pow(2) };
        amount.min(most)
    }

    /// The next bytes as they are, so many or what is left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Whether a terminal shows this as one line and takes none of it for a command.
#[must_use]
pub fn is_harmless_line(text: &str) -> bool {
    let invisible = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
    !text.contains(invisible)
}
