//! A peer's address in 28 bytes.
//!
//! Owns nothing but the address. `std::net::SocketAddr` takes 32 bytes, and ten thousand connections keep one each.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV6};

/// A peer's address. An IPv4 address is kept mapped into IPv6 (RFC 4291, 2.5.5.2), and returned and shown as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(SocketAddrV6);

impl PeerAddr {
    /// The address as a type of the standard library.
    #[must_use]
    #[inline(never)] // Only log lines need it: inlined, it would cost instructions on the way of every byte.
    pub fn get(&self) -> SocketAddr {
        match self.0.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::from((ip, self.0.port())),
            None => SocketAddr::V6(self.0),
        }
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> PeerAddr {
        PeerAddr(match addr {
            SocketAddr::V4(addr) => SocketAddrV6::new(addr.ip().to_ipv6_mapped(), addr.port(), 0, 0),
            SocketAddr::V6(addr) => addr,
        })
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_unchanged_and_a_mapped_one_as_ipv4() {
        for text in ["192.0.2.1:7", "[2001:db8::1]:7", "[fe80::1%3]:7"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(PeerAddr::from(addr).get(), addr);
            assert_eq!(PeerAddr::from(addr).to_string(), text);
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(PeerAddr::from(mapped).to_string(), "192.0.2.1:7");
        assert_eq!(size_of::<PeerAddr>(), 28);
    }
}
