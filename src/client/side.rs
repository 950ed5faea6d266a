//! Either end of an echo: what a loop talks that has a client on it, and perhaps the server as well.
//!
//! Owns nothing but the choice: everything is handed on to the protocol of that end. The methods are inlined, so that the
//! choice costs no call.

use tcp_state::TcpState;

use crate::client::exchange::Exchange;
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
use crate::engine::time::Clock;
use crate::server::echo::Echo;

/// A loop has one type of protocol. With a client on it, that is this.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the small one is rare: it is there only where one loop has both ends")]
pub enum Side {
    /// The end that was accepted.
    Echo(Echo),
    /// The end that connected.
    Exchange(Exchange),
}

impl Side {
    /// The exchange, if this is one.
    #[must_use]
    pub fn exchange(&self) -> Option<&Exchange> {
        match self {
            Side::Echo(_) => None,
            Side::Exchange(exchange) => Some(exchange),
        }
    }

    /// The exchange, if this is one.
    pub fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match self {
            Side::Echo(_) => None,
            Side::Exchange(exchange) => Some(exchange),
        }
    }
}

impl Protocol for Side {
    #[inline]
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        match self {
            Side::Echo(echo) => echo.receive(input, out),
            Side::Exchange(exchange) => exchange.receive(input, out),
        }
    }

    #[inline]
    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        match self {
            Side::Echo(echo) => echo.produce(space, clock),
            Side::Exchange(exchange) => exchange.produce(space, clock),
        }
    }

    #[inline]
    fn blocked(&mut self) {
        match self {
            Side::Echo(echo) => echo.blocked(),
            Side::Exchange(exchange) => exchange.blocked(),
        }
    }

    #[inline]
    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        match self {
            Side::Echo(echo) => echo.end_of_input(rest, out),
            Side::Exchange(exchange) => exchange.end_of_input(rest, out),
        }
    }

    #[inline]
    fn answers(&self) -> bool {
        match self {
            Side::Echo(echo) => echo.answers(),
            Side::Exchange(exchange) => exchange.answers(),
        }
    }

    #[inline]
    fn expects(&self) -> Expects {
        match self {
            Side::Echo(echo) => echo.expects(),
            Side::Exchange(exchange) => exchange.expects(),
        }
    }

    #[inline]
    fn ending(&mut self, look: &dyn Fn() -> Option<TcpState>) {
        match self {
            Side::Echo(echo) => echo.ending(look),
            Side::Exchange(exchange) => exchange.ending(look),
        }
    }

    #[inline]
    fn log_received(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        match self {
            Side::Echo(echo) => echo.log_received(bytes, peer, log),
            Side::Exchange(exchange) => exchange.log_received(bytes, peer, log),
        }
    }

    #[inline]
    fn log_sent(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        match self {
            Side::Echo(echo) => echo.log_sent(bytes, peer, log),
            Side::Exchange(exchange) => exchange.log_sent(bytes, peer, log),
        }
    }
}
