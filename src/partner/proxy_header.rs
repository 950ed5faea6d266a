//! A PROXY header in front of a connection's bytes, which a proxy puts there to say whom it speaks for.
//!
//! Owns the choice of what counts as one. The format (haproxy's `proxy-protocol.txt`) is the `proxy-header` crate's.

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// What every header begins with, of version 1 and 2.
const BEGINNINGS: [(&str, &[u8]); 2] = [("v1", b"PROXY "), ("v2", b"\r\n\r\n\0\r\nQUIT\n")];

/// A header that is not whole after this many bytes is none. One of version 1 has 107 bytes at the most; one of version
/// 2 has 52, and fields that a proxy adds.
const LONGEST: usize = 1024;

/// What a connection's first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// No header.
    None,
    /// The beginning of one.
    Partial,
    /// A header of `length` bytes, with its version and whom it names.
    Header { length: usize, named: String },
}

/// What `input` begins with. A proxy sends its header at once, so it is known by its first read: a byte that is echoed is
/// never held back because more might make a header of it.
pub(super) fn front(input: &[u8]) -> Front {
    let Some((version, _)) = BEGINNINGS.iter().find(|(_, beginning)| input.starts_with(beginning)) else {
        return Front::None;
    };
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(input, config) {
        Ok((header, length)) => {
            let named = header.proxied_address().map_or("unknown".to_owned(), |named| named.source.to_string());
            Front::Header { length, named: format!("{version},{named}") }
        }
        Err(Error::BufferTooShort) if input.len() < LONGEST => Front::Partial,
        Err(_) => Front::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: usize, named: &str) -> Front {
        Front::Header { length, named: named.to_owned() }
    }

    #[test]
    fn headers_of_both_versions_are_read_whatever_comes_behind_them() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 7\r\n\xff\r\nPROXY";
        assert_eq!(front(line), header(39, "v1,192.0.2.1:5000"));
        assert_eq!(front(b"PROXY TCP6 2001:db8::1 ::1 5000 7\r\n"), header(35, "v1,[2001:db8::1]:5000"));
        assert_eq!(front(b"PROXY UNKNOWN\r\nx"), header(15, "v1,unknown"));
        let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x13\x88\0\x07rest";
        assert_eq!(front(binary), header(28, "v2,192.0.2.1:5000"));
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0rest";
        assert_eq!(front(local), header(16, "v2,unknown"));
    }

    #[test]
    fn a_header_that_is_not_whole_is_waited_for_and_nothing_else_is() {
        assert_eq!(front(b"PROXY TCP4 192.0.2.1"), Front::Partial);
        assert_eq!(front(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0"), Front::Partial);
        for other in [&b"P"[..], b"PROXY", b"PROXYING", b"\r\n\r\n", b"", b"PROXY TCP9 1 2 3 4\r\n"] {
            assert_eq!(front(other), Front::None, "{other:?}");
        }
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat();
        assert_eq!(front(&endless), Front::None);
        let announced = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; LONGEST]].concat();
        assert_eq!(front(&announced), Front::None);
    }
}
