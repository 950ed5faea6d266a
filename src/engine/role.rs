//! What a program does with its loop.
//!
//! Owns the trait that the role of a server, of a client or of your own program implements, and the events that the
//! loop hands to the role. Keeps no state.

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
    /// A protocol called [`Outbox::notify`](crate::engine::protocol::Outbox::notify), and its connection is open. If
    /// the connection ended in the same turn, only `Closed` comes, which carries the protocol.
    Notified {
        /// The connection's token.
        token: Token,
    },
    /// A connection is over, or a connect failed.
    Closed {
        /// Its token, if it ever had one. A connection that the role opens from now on may get the same token.
        token: Option<Token>,
        /// The peer's address.
        addr: SocketAddr,
        /// Its protocol, with the state that it has in the end.
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
    /// Another thread called [`Handle::wake`](crate::Handle::wake), once or more since the last of these.
    Woken,
}

/// What a program does with its loop: a server, a client, or both on one loop.
pub trait Role<P: Protocol, S: System = Mio> {
    /// Opens what there is to open now. Returns whether there is more to open later. If not, a loop without listener
    /// and connections ends.
    fn advance(&mut self, event_loop: &mut EventLoop<P, S>) -> bool {
        let _ = event_loop;
        false
    }

    /// Handles an event. Called between turns, so the role may change anything about the loop.
    fn handle(&mut self, event: Event<P>, event_loop: &mut EventLoop<P, S>);
}
