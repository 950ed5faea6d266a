//! All listeners of a loop, and which connection came in through which.
//!
//! Owns the listeners by their numbers, and counts the connections of each. Accepts none: the loop does.

use std::fmt;
use std::net::SocketAddr;

use mio::Token;

use crate::engine::accepting::Accepting;
use crate::engine::system::LISTENER;

/// How many listeners a loop has at most: each connection's is remembered in one byte.
pub const MOST_LISTENERS: usize = 256;

/// One of a loop's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(u8);

impl ListenerId {
    /// The listener with this token, if it is one of a listener.
    pub(crate) fn of(token: Token) -> Option<ListenerId> {
        token.0.checked_sub(LISTENER.0).and_then(|number| u8::try_from(number).ok()).map(ListenerId)
    }

    /// Its token.
    #[must_use]
    pub fn token(self) -> Token {
        Token(LISTENER.0 + usize::from(self.0))
    }
}

/// What a listener is called, and how much it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name in the log and in the table of connections. The only listener of a server needs none.
    pub name: &'static str,
    /// How many of its connections may be open at a time; more peers wait in its backlog. The limit of the loop
    /// ([`Limits::connections`](crate::Limits::connections)) holds as well.
    pub connections: usize,
}

impl Default for ListenerConfig {
    /// No name, and any number of connections.
    fn default() -> ListenerConfig {
        ListenerConfig { name: "", connections: usize::MAX }
    }
}

/// A listener, how many of its connections are open, and how many may be.
pub(crate) struct Entry<L, P> {
    pub(crate) accepting: Accepting<L, P>,
    open: usize,
    most: usize,
}

impl<L, P> Entry<L, P> {
    /// Whether to accept another connection, as far as this listener is concerned.
    pub(crate) fn may_accept(&self) -> bool {
        self.accepting.may_accept(self.open, self.most)
    }
}

/// A loop's listeners by number; one that was closed leaves its place empty.
pub(crate) struct Listeners<L, P> {
    entries: Vec<Option<Entry<L, P>>>,
    /// The names stay when a listener is closed: its connections may live on.
    names: Vec<&'static str>,
    /// Which listener each accepted connection came in through. Those beyond the end of the list came in through the
    /// first: so a loop with one listener keeps nothing here.
    through: Vec<ListenerId>,
}

const FIRST: ListenerId = ListenerId(0);

impl<L, P> Listeners<L, P> {
    pub(crate) fn new() -> Listeners<L, P> {
        Listeners { entries: Vec::new(), names: Vec::new(), through: Vec::new() }
    }

    /// The number of the next listener; `None` if there are as many as there may be.
    pub(crate) fn next_id(&self) -> Option<ListenerId> {
        u8::try_from(self.entries.len()).ok().map(ListenerId)
    }

    /// Adds a listener under the number [`next_id`](Listeners::next_id).
    pub(crate) fn add(
        &mut self,
        socket: L,
        config: ListenerConfig,
        protocol_for: impl FnMut(SocketAddr) -> P + 'static,
    ) {
        self.names.push(config.name);
        let accepting = Accepting::new(socket, protocol_for);
        self.entries.push(Some(Entry { accepting, open: 0, most: config.connections }));
    }

    /// Whether none is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    /// The numbers of all that are or were open.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ListenerId> + use<L, P> {
        (0..=u8::MAX).take(self.entries.len()).map(ListenerId)
    }

    pub(crate) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Entry<L, P>> {
        self.entries.get_mut(usize::from(id.0))?.as_mut()
    }

    /// All that are open.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Accepting<L, P>> {
        self.entries.iter_mut().flatten().map(|entry| &mut entry.accepting)
    }

    /// Closes one listener. Connections that wait in its backlog are reset.
    pub(crate) fn close(&mut self, id: ListenerId) {
        if let Some(entry) = self.entries.get_mut(usize::from(id.0)) {
            *entry = None;
        }
    }

    pub(crate) fn name(&self, id: ListenerId) -> &'static str {
        self.names.get(usize::from(id.0)).copied().unwrap_or_default()
    }

    /// The listener through which an accepted connection came in.
    pub(crate) fn of_connection(&self, token: Token) -> ListenerId {
        self.through.get(token.0).copied().unwrap_or(FIRST)
    }

    /// A connection came in through `id`.
    pub(crate) fn opened(&mut self, id: ListenerId, token: Token) {
        if id != FIRST && self.through.len() <= token.0 {
            self.through.resize(token.0 + 1, FIRST);
        }
        if let Some(through) = self.through.get_mut(token.0) {
            *through = id;
        }
        if let Some(entry) = self.get_mut(id) {
            entry.open += 1;
        }
    }

    /// A connection that was accepted is over.
    pub(crate) fn closed(&mut self, token: Token) {
        let id = self.of_connection(token);
        if let Some(entry) = self.get_mut(id) {
            entry.open -= 1;
        }
    }
}

impl<L, P> fmt::Debug for Listeners<L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}
