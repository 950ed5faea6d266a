//! Peer bytes as text that is safe to print.
//!
//! Owns the escaping and the limit on the length. Never allocates.

use std::fmt;

/// How many bytes of a peer's data a log line shows. Even if each of them becomes four characters (`\xff`), the line is far
/// shorter than `PIPE_BUF` (4,096 on Linux, pipe(7)), the most that a pipe takes in one piece.
const SHOWN: usize = 64;

/// Displays bytes as `b"…"`, as Python prints them: printable ASCII unchanged, everything else escaped.
///
/// Control characters, escape sequences, bidirectional overrides and invalid UTF-8 thus cannot reach a terminal.
/// Of more than 64 bytes, the first 64 are shown with the whole length: `b"aaaa…" (65536 bytes)`.
///
/// ```
/// # use multiconn::Escaped;
/// assert_eq!(Escaped(b"It's \x1b[31mred\n").to_string(), r#"b"It's \x1b[31mred\n""#);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN)];
        f.write_str("b\"")?;
        for &byte in shown {
            if byte == b'\'' {
                f.write_str("'")?; // `escape_default` escapes both quotes; only one of them delimits.
            } else {
                write!(f, "{}", byte.escape_ascii())?;
            }
        }
        if shown.len() == self.0.len() { f.write_str("\"") } else { write!(f, "…\" ({} bytes)", self.0.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_become_harmless_text() {
        let hostile = "\x1b]0;title\x07\r\nfake line\u{202e}\u{7f}".as_bytes();
        let text = Escaped(hostile).to_string();
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        assert!(text.starts_with(r#"b"\x1b]0;title\x07\r\nfake line\xe2\x80\xae"#), "{text}");
    }

    #[test]
    fn quotes_and_backslashes_read_as_in_python() {
        assert_eq!(Escaped(br#"a"b\c'd"#).to_string(), r#"b"a\"b\\c'd""#);
    }

    #[test]
    fn long_data_is_cut_and_its_length_named() {
        assert!(!Escaped(&[b'x'; SHOWN]).to_string().contains('…'));
        let text = Escaped(&vec![0xff; 65_536]).to_string();
        assert!(text.ends_with("…\" (65536 bytes)"), "{text}");
        assert!(text.len() < 4 * SHOWN + 32);
    }
}
