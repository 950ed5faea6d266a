//! A peer's bytes in a log line: whatever they are, the line is one line, printable, and short.
//!
//! Owns another reading of the escapes, back to the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multiconn::internals::escape::Escaped;

/// Bytes shown at the most, as the documentation has it.
const SHOWN: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let text = Escaped(bytes).to_string();
    let (body, tail) = text.strip_prefix("b\"").and_then(|rest| rest.rsplit_once('"')).expect("quotes");
    assert!(text.len() <= 4 * SHOWN + "b\"…\" (18446744073709551615 bytes)".len());
    let body = if bytes.len() > SHOWN {
        assert_eq!(tail, format!(" ({} bytes)", bytes.len()));
        body.strip_suffix('…').expect("a sign that it was cut")
    } else {
        assert_eq!(tail, "");
        body
    };
    assert!(body.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    assert_eq!(unescaped(body), bytes[..bytes.len().min(SHOWN)]);
});

fn unescaped(body: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = body.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        let byte = match (first, behind) {
            (b'\\', [b'x', digits @ ..]) => {
                rest = &digits[2..];
                let digits = str::from_utf8(&digits[..2]).expect("digits");
                u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
            }
            (b'\\', [letter, behind @ ..]) => {
                rest = behind;
                match letter {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'\\' | b'"' => *letter,
                    _ => panic!("no escape that Python knows: \\{}", char::from(*letter)),
                }
            }
            (b'"', _) => panic!("a quote in the middle"),
            _ => *first,
        };
        bytes.push(byte);
    }
    bytes
}
