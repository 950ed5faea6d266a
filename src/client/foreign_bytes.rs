//! What foreign bytes look like: the first bytes of protocols that often answer in place of an echo.
//!
//! Owns their signatures. Looks only at bytes, and says what they look like, not what they are.

/// What `bytes`, the first that came, look like, with its article; `None` if they look like nothing known here.
#[must_use]
pub fn recognise(bytes: &[u8]) -> Option<&'static str> {
    SIGNATURES
        .iter()
        .find(|(signature, _)| opens_with(bytes, signature))
        .map(|&(_, name)| name)
        .or_else(|| tls_record(bytes))
        .or_else(|| socks_reply(bytes))
}

/// Fixed first bytes.
const SIGNATURES: [(&[u8], &str); 9] = [
    // The PROXY protocol (haproxy.org/download/3.0/doc/proxy-protocol.txt), 2.1 and 2.2.
    (b"PROXY TCP4 ", "a PROXY protocol v1 header"),
    (b"PROXY TCP6 ", "a PROXY protocol v1 header"),
    (b"PROXY UNKNOWN", "a PROXY protocol v1 header"),
    (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol v2 header"),
    // RFC 9112, 4: the status line.
    (b"HTTP/1.0 ", "an HTTP/1.0 response"),
    (b"HTTP/1.1 ", "an HTTP/1.1 response"),
    // RFC 4253, 4.2 and 5.1: the identification string; version 1.99 is one that speaks 1.x as well.
    (b"SSH-2.0-", "an SSH banner"),
    (b"SSH-1.99-", "an SSH banner"),
    (b"SSH-1.5-", "an SSH banner"),
];

/// Whether `bytes` begin with `signature`. Its first byte may be missing: on one connection in 256 it is by chance the
/// byte that was expected, and then the difference begins with the second.
fn opens_with(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.starts_with(signature) || bytes.starts_with(&signature[1..])
}

/// RFC 8446, 5.1 and 5.2, and RFC 6101, 5.2.1 (SSL 3.0): type, version, length.
fn tls_record(bytes: &[u8]) -> Option<&'static str> {
    /// The longest payload of any version: 2^14 bytes, and 2,048 for encryption in TLS 1.2 (RFC 5246, 6.2.3).
    const LONGEST: u16 = (1 << 14) + 2048;
    let &[kind, 3, 0..=3, high, low] = bytes.first_chunk::<5>()? else { return None };
    if !(1..=LONGEST).contains(&u16::from_be_bytes([high, low])) {
        return None;
    }
    match kind {
        20 | 23 => Some("a TLS record"),
        21 => Some("a TLS alert"),
        22 => Some("a TLS handshake record"),
        _ => None,
    }
}

/// A reply of SOCKS 4 ("SOCKS: A protocol for TCP proxy across firewalls", Y.-D. Lee) or 5 (RFC 1928, 3 and 6). They are
/// short and begin with common bytes, so that they must be whole, and nothing may follow the shortest.
fn socks_reply(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        // Version 0, then granted or one of three refusals; six bytes of port and address follow.
        [0, 90..=93, _, _, _, _, _, _] => Some("a SOCKS4 reply"),
        // Two bytes: the method that was chosen (none, GSSAPI, a password), or 255, "no acceptable methods". Ten or more:
        // a result, a zero byte, and an address (IPv4, a name or IPv6).
        [5, 0..=2 | 255] | [5, 0..=8, 0, 1 | 3 | 4, _, _, _, _, _, _, ..] => Some("a SOCKS5 reply"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::pattern::Pattern;

    #[test]
    fn what_often_answers_for_an_echo_is_recognised() {
        let cases: [(&[u8], &str); 18] = [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 7\r\n", "a PROXY protocol v1 header"),
            (b"PROXY TCP6 ::1 ::1", "a PROXY protocol v1 header"),
            (b"PROXY UNKNOWN\r\n", "a PROXY protocol v1 header"),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", "a PROXY protocol v2 header"),
            (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP/1.1 response"),
            (b"HTTP/1.0 408 Request Time-out\r\n", "an HTTP/1.0 response"),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH banner"),
            (b"SSH-1.99-Cisco-1.25\n", "an SSH banner"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "a TLS alert"),
            (b"\x15\x03\x03\x00\x02\x02\x0a", "a TLS alert"),
            (b"\x16\x03\x03\x00\x7a\x02", "a TLS handshake record"),
            (b"\x17\x03\x03\x40\x11\x00", "a TLS record"),
            (b"\x00\x5b\x00\x00\x00\x00\x00\x00", "a SOCKS4 reply"),
            (b"\x05\xff", "a SOCKS5 reply"),
            (b"\x05\x00", "a SOCKS5 reply"),
            (b"\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00", "a SOCKS5 reply"),
            // Without a first byte that happened to be the one expected.
            (b"ROXY TCP4 192.0.", "a PROXY protocol v1 header"),
            (b"TTP/1.1 400 Bad ", "an HTTP/1.1 response"),
        ];
        for (bytes, name) in cases {
            assert_eq!(recognise(bytes), Some(name), "{bytes:?}");
            // A report keeps 16 bytes, and they are enough.
            assert_eq!(recognise(&bytes[..bytes.len().min(16)]), Some(name), "{bytes:?}");
        }
    }

    #[test]
    fn other_bytes_look_like_nothing() {
        let cases: [&[u8]; 12] = [
            b"",
            b"P",
            b"PROXY",
            b"HTTP/2 200",
            b"Message 1 from client.",
            b"\x15\x03\x01\x00\x00",
            b"\x15\x03\x05\x00\x02\x02\x46",
            b"\x16\x03\x03\xff\xff\x00",
            b"\x18\x03\x03\x00\x02\x00",
            b"\x05\x00\x00",
            b"\x00\x5b\x00\x00\x00\x00\x00\x00\x00",
            b"\x05\x09\x00\x01\x00\x00\x00\x00\x00\x00",
        ];
        for bytes in cases {
            assert_eq!(recognise(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn generated_bytes_look_like_nothing() {
        for connection in 0..10_000 {
            let mut bytes = [0; 16];
            Pattern::new(7, connection).fill(0, &mut bytes);
            assert_eq!(recognise(&bytes), None, "{bytes:?} of connection {connection}");
        }
    }
}
