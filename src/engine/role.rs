//! What a program does with its loop.
//!
//! Owns the trait that a server's, a client's or your own role implements, and the events that it is handed. Owns no
//! state.

use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;

use crate::engine::connection::End;
use crate::engine::event_loop::EventLoop;
use crate::engine::protocol::Protocol;
use crate::engine::signals::Signal;
use crate::engine::system::{Mio, System};

/// What happened to a connection, for the role.
#[derive(Debug)]
pub enum Event<P> {
    /// A connection was accepted.
    Accepted {
        /// Its token.
        token: Token,
        /// The peer's address.
        addr: SocketAddr,
    },
    /// A connect succeeded.
    Connected {
        /// Its token.
        token: Token,
        /// How long it took.
        after: Duration,
    },
    /// A protocol called [`Outbox::notify`](crate::engine::protocol::Outbox::notify), and its connection is not over. If it
    /// is, `Closed` carries the protocol with all that it has to tell.
    Notified {
        /// Its connection's token.
        token: Token,
    },
    /// A connection is over, or a connect failed.
    Closed {
        /// Its token, if it ever had one. It may already belong to another.
        token: Option<Token>,
        /// The peer's address.
        addr: SocketAddr,
        /// Its protocol, with whatever it has to tell.
        protocol: P,
        /// Why it is over.
        end: End,
        /// Bytes received.
        received: u64,
        /// Bytes sent.
        sent: u64,
    },
    /// A signal arrived.
    Signal(Signal),
}

/// What a program does with its loop: a server, a client, or both on one loop.
pub trait Role<P: Protocol, S: System = Mio> {
    /// Opens what there is to open now. Returns whether there is still more to open later; a loop without listener and
    /// connections ends if not.
    fn advance(&mut self, event_loop: &mut EventLoop<P, S>) -> bool {
        let _ = event_loop;
        false
    }

    /// Something happened. Called between turns, so everything about the loop may be changed.
    fn handle(&mut self, event: Event<P>, event_loop: &mut EventLoop<P, S>);
}
