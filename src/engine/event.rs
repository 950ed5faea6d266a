//! What the loop tells its role.
//!
//! Owns the list of events. Keeps no state: an event is handed over once.

use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;

use crate::engine::connection::End;
use crate::engine::listeners::ListenerId;
use crate::engine::signals::Signal;
use crate::engine::time::Moment;

/// What happened to a connection, for the role.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<P> {
    /// A connection was accepted. Nothing of it was read yet.
    Accepted {
        /// Its token.
        token: Token,
        /// The peer's address.
        addr: SocketAddr,
        /// The listener that it came in through.
        listener: ListenerId,
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
    /// There is room again for what did not fit in the last [`EventLoop::send`](crate::EventLoop::send).
    Room {
        /// The connection's token.
        token: Token,
    },
    /// A connection is over, or a connect failed. There was no `Accepted` before it if the poller did not take an
    /// accepted connection.
    Closed {
        /// Its token. A connection that is opened from now on may get the same token.
        token: Token,
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
        /// When it was accepted, or its connect was begun.
        opened: Moment,
        /// When a byte last moved, in either direction ([`Connection::last_active`](crate::Connection::last_active)).
        last_active: Moment,
        /// The connection that it was joined to until now.
        partner: Option<Token>,
    },
    /// A signal arrived.
    Signal(Signal),
    /// The time that was set with [`EventLoop::set_timer`](crate::EventLoop::set_timer) has come.
    Timer,
    /// Another thread called [`Handle::wake`](crate::Handle::wake), once or more since the last of these.
    Woken,
}
