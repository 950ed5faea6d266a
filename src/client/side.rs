//! Either end of a connection, for a loop that has both.
//!
//! Owns nothing but the choice: everything is handed on to the protocol of that end.

use super::exchange::Exchange;
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
use crate::engine::time::Clock;

/// A loop has one type of protocol; where it serves and is a client as well, that is this.
#[derive(Debug)]
pub enum Side<S> {
    /// The end that was accepted.
    Server(S),
    /// The end that connected.
    Client(Exchange),
}

impl<S> From<Exchange> for Side<S> {
    fn from(exchange: Exchange) -> Side<S> {
        Side::Client(exchange)
    }
}

impl<S: Protocol> Protocol for Side<S> {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        match self {
            Side::Server(server) => server.receive(input, out),
            Side::Client(exchange) => exchange.receive(input, out),
        }
    }

    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        match self {
            Side::Server(server) => server.produce(space, clock),
            Side::Client(exchange) => exchange.produce(space, clock),
        }
    }

    fn blocked(&mut self) {
        match self {
            Side::Server(server) => server.blocked(),
            Side::Client(exchange) => exchange.blocked(),
        }
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        match self {
            Side::Server(server) => server.end_of_input(rest, out),
            Side::Client(exchange) => exchange.end_of_input(rest, out),
        }
    }

    fn answers(&self) -> bool {
        match self {
            Side::Server(server) => server.answers(),
            Side::Client(exchange) => exchange.answers(),
        }
    }

    fn expects(&self) -> Expects {
        match self {
            Side::Server(server) => server.expects(),
            Side::Client(exchange) => exchange.expects(),
        }
    }

    fn log_received(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        match self {
            Side::Server(server) => server.log_received(bytes, peer, log),
            Side::Client(exchange) => exchange.log_received(bytes, peer, log),
        }
    }

    fn log_sent(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        match self {
            Side::Server(server) => server.log_sent(bytes, peer, log),
            Side::Client(exchange) => exchange.log_sent(bytes, peer, log),
        }
    }
}
