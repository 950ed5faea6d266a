//! An echo server and a checking client for many TCP connections, each on one thread, over a hand-written readiness
//! loop on [mio](https://docs.rs/mio)'s `Poll`; and the loop itself, to build a single-threaded server of your own on.
//!
//! The programs are `multiconn-server HOST PORT`, `multiconn-client HOST PORT NUM_CONNS` and `multiconn-probe HOST PORT`;
//! the README shows them at work. This page is about the library.
//!
//! # A server of your own
//!
//! Say what to do with the bytes of one connection by implementing [`Protocol`], and hand it to a [`Server`]. The library
//! takes care of partial sends, slow readers, half-closes, resets, limits, signals and an orderly end:
//!
//! ```no_run
//! use multiconn::server::{Config, Server};
//! use multiconn::{Outbox, Protocol};
//!
//! /// Sends everything back in upper case.
//! struct Shout;
//!
//! impl Protocol for Shout {
//!     fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
//!         out.copy(&input.to_ascii_uppercase());
//!         input.len()
//!     }
//! }
//!
//! let mut server = Server::bind("127.0.0.1", 65432, &Config::default(), |_peer| Shout)?;
//! server.catch_signals()?;
//! server.run()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! `examples/line_server.rs` keeps a line that is not whole yet, `examples/chat.rs` lets connections talk to each
//! other, and `examples/loopback.rs` runs a server and a client on one loop. `examples/ticker.rs` sends everybody a line
//! a second ([`EventLoop::set_timer`]), `examples/two_listeners.rs` reports on one port how the service on another one is
//! doing ([`Server::listen_also`]), `examples/worker.rs` leaves slow computations to a thread ([`Handle`]), and
//! `examples/tls_echo.rs` puts a protocol inside of TLS ([`Outbox::inside`]).
//!
//! # A proxy of your own
//!
//! A TCP connection is two streams, and each may end, stall or fail while the other lives. Join two connections, and what
//! the protocol of one sends goes out on the other:
//!
//! ```no_run
//! use multiconn::server::{Config, Server};
//! use multiconn::{Event, Outbox, Protocol};
//!
//! struct Forward;
//!
//! impl Protocol for Forward {
//!     fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
//!         out.send(input);
//!         input.len()
//!     }
//! }
//!
//! let backend = ([127, 0, 0, 1], 8080).into();
//! let mut server = Server::bind("127.0.0.1", 65432, &Config::default(), |_peer| Forward)?;
//! server.run_with(move |event, event_loop| {
//!     if let Event::Accepted { token, .. } = event {
//!         let there = event_loop.connect(backend, Forward);
//!         if !event_loop.join(token, there) {
//!             event_loop.reset(token);
//!         }
//!     }
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`EventLoop::join`] says what is carried across and how. What was read goes to the other socket straight from the
//! buffer that it was read into; a protocol may as well look at it or change it on its way.
//!
//! What a role can do to a connection: [`send`](EventLoop::send) (as much as fits; [`Event::Room`] says when there is
//! room for more), [`pause`](EventLoop::pause) and [`resume`](EventLoop::resume) reading,
//! [`shut_down`](EventLoop::shut_down) its own direction, [`close`](EventLoop::close) or [`reset`](EventLoop::reset) it.
//! Other threads reach the loop by a [`Handle`]. A protocol alone is tried out with a [`Rehearsal`].
//!
//! # The house
//!
//! A folder of `src` names only folders below it in this list, and a file of `engine` only files above it there. So each
//! can be read, and tested, without the rest.
//!
//! | folder | what is in it |
//! | --- | --- |
//! | `bin` | the programs, thin |
//! | `cli` | arguments, the logger, standard error that never blocks, exit codes, the table of connections |
//! | `report` | what a run found, for people and for programs; expectations |
//! | `probe` | what a path does to TCP; names of `client` only `pattern`, `foreign_bytes`, `verdict`, `cause` and `direction` |
//! | `partner` | the server that a probe can ask: `multiconn-server --probes` |
//! | `client` | load, schedule, comparison of every byte, faults, measurements |
//! | [`server`] | the server's role: what becomes of an accepted peer, a signal, an end; [`Echo`](server::echo::Echo) |
//! | `engine` | one loop over mio; knows nothing of echoes, measurements or arguments |
//!
//! | file in `engine` | what it owns |
//! | --- | --- |
//! | `time` | [`Moment`], a point in the loop's time in eight bytes; [`Clock`] |
//! | `buffer` | bytes that the socket has not taken |
//! | `escape`, `log_budget`, `peer_addr` | peers' bytes made fit for a log line; how many lines are printed; an address in 28 bytes |
//! | `protocol` | what an author writes: bytes in, bytes out, the end of input |
//! | `wire` | a socket with sticky readiness, its counts, and the policy for every errno of reading and writing |
//! | `progress` | whether the peer takes what waits for it |
//! | `connection`, `connection/service`, `connection/deadline` | one peer: wire, buffers, protocol; how each direction stands; how it ends; the way of its bytes; its times |
//! | `rehearsal` | a protocol tried out without a network |
//! | `descriptors`, `handle`, `signals`, `sockets`, `timer` | the limit of open files; other threads' requests; signals as events; socket options and addresses; a time as an event |
//! | `system` | what the loop asks of the operating system: mio, or a simulation |
//! | `accepting`, `listeners` | when to accept: a listener, its budget, its rest when descriptors run out (`turn` accepts, and learns the address there); all listeners of a loop, and whose each connection is |
//! | `deadlines`, `silence` | what is due when; the proof of silence that a deadline needs |
//! | `memory` | how many bytes all buffers hold, and may hold; [`Limits`] |
//! | `pairs` | which connections are joined |
//! | `run_queue` | who can do something now, each once |
//! | `slots` | the connections, each under the number that is its token |
//! | `event`, `event_loop`, `event_loop/turn` | what the loop tells its role; the loop, and what a role may do with it; the turn |
//!
//! | file in `client` | what it owns |
//! | --- | --- |
//! | `load`, `schedule`, `rate` | what is sent; when it is due |
//! | `pattern`, `exchange` | bytes that know their place; one connection's sending and comparing |
//! | `fault`, `foreign_bytes`, `verdict` | a fault and its words; what bytes from elsewhere look like; which fault an end is |
//! | `evidence` | when and where a connection failed |
//! | `cause`, `direction` | on whom a connection waits on which nothing moves; on which way bytes were lost or changed |
//! | `measure`, `kernel`, `findings` | counts and histograms; the kernel's; what a run found, for `report` |
//! | `connect_window` | how many connects are under way |
//! | `side`, `progress`, `units` | a loop's protocol, echo or exchange; the progress line's words; numbers as people write them |
//!
//! | file in `partner` | what it owns |
//! | --- | --- |
//! | `question` | the language: the line that asks, the line that answers |
//! | `account`, `accounts` | what came in of a generated stream, without its key; a client's asking for it |
//! | `proxy_header` | whether a PROXY header is in front |
//! | `mod` | what the server does for a connection that asks, and what it remembers of those that are over |
//!
//! | file in `probe` | what it owns |
//! | --- | --- |
//! | `behaviour` | what a behaviour is; verdicts, rows and their words |
//! | `conversation` | one connection: its steps, and what it saw |
//! | `inquiry` | what the partner saw of a conversation, asked for until it is known |
//! | `last_bytes` | two behaviours: what comes in front of the server's reset, and of its close with unread bytes |
//! | all others | a behaviour each: what it asks for, and its row |
//! | `table` | the table, and the JSON object |
//!
//! Where does a change go? A socket option: `sockets`. A limit on connections: `Limits`, applied where `turn`
//! accepts; a limit by address: the server's role, which hears of each. A fault: named in `fault`, found in `exchange` or
//! `verdict`, listed in `docs/report.schema.json`. A field of the report: `findings`, then `report` and its schema; if it can
//! be expected, a line in `report::names`. A signal: `signals`; both programs catch every one, and one that a role does not
//! name ends it. Another poller: another [`System`], if it reports readiness; completions would change `wire`. The log's
//! form: `cli`.
//!
//! `wire`, `connection` and everything above them know no mio, no socket and no clock: what is hard is tested without a
//! network.
//!
//! # The turn
//!
//! [`EventLoop::turn`] does four things, and the whole product hangs on their order:
//!
//! 1. **Wait**: not at all if anything can run, else until something is due, else for ever.
//! 2. **Note**: each event sets flags on its connection and puts it on the run queue, once. No socket is touched and no
//!    slot is freed, so no event can reach the wrong connection.
//! 3. **Act**: each queued connection is served once, within a budget of bytes, so that no peer starves the others. What
//!    is not done stays queued: nothing relies on another edge from the poller. Listeners accept first, up to a budget.
//!    What they accept is served in the next turn, when the role has heard of it.
//! 4. **Expire**: deadlines that passed mark their connections, which end in the next turn's act.
//!
//! The poller is edge-triggered: it says once that a socket became ready. The flags remember it until the socket says
//! `WouldBlock`, and a connection that has no room for more input simply is not read. So every socket is registered
//! once, for everything, and never again.
//!
//! # The way of a byte
//!
//! From `epoll_wait` to `sendto`, each step a function of that name:
//!
//! 1. [`System::wait`]: the poller says that a socket is readable.
//! 2. `EventLoop::note`: the flag is set, and the connection stands in the run queue.
//! 3. [`Connection::service`]: the connection's turn has come.
//! 4. `Wire::read`: the byte is read into the loop's one buffer.
//! 5. [`Protocol::receive`]: the protocol sees it there, and its answer may borrow it.
//! 6. `Connection::call_protocol`: what the protocol asked for is done.
//! 7. `Wire::write`: the answer goes out from where it was read. Only what the socket does not take is copied.
//!
//! # From the tutorial's Python
//!
//! | Python | here |
//! | --- | --- |
//! | `selectors.DefaultSelector()` | [`mio::Poll`], owned by [`Mio`], the loop's [`System`] |
//! | the `sel.select()` loop | [`EventLoop::run`], [`EventLoop::turn`] |
//! | `key.data is None` | the token [`LISTENER`] |
//! | `accept_wrapper` | `EventLoop::accept` (private: the loop calls it) |
//! | `service_connection` | [`Connection::service`] |
//! | `SimpleNamespace(addr, inb, outb)` | [`Connection`] `{ addr, inbound, outbound, .. }` |
//! | `data.outb = data.outb[sent:]` | `SendBuffer::consume` |
//! | `start_connections` | `Client::start_connections` (private) |
//! | `sel.get_map()` is empty | [`EventLoop::is_idle`] |
//!
//! # Features and platforms
//!
//! `cli`, on by default, holds what only the programs need, the client among it; without it the library depends on log,
//! mio, rustix, signal-hook, socket2 and its own `tcp-state` alone (and on Linux nix, for one socket option). It
//! never raises the limit of open files by itself: see [`descriptors`]. Linux is supported and tested; other Unixes
//! compile by `cfg`. Windows is not supported.

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("multiconn is for Unix systems: readiness, signals and descriptors are not Windows' notions");

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod client;
mod engine;
#[cfg(feature = "cli")]
pub mod partner;
#[cfg(feature = "cli")]
pub mod probe;
#[cfg(feature = "cli")]
pub mod report;
pub mod server;

pub use crate::engine::connection::{Connection, End, SendError, State, Timeout, Timeouts};
pub use crate::engine::descriptors;
pub use crate::engine::escape::Escaped;
pub use crate::engine::event_loop::{Event, Role};
pub use crate::engine::event_loop::{EventLoop, LISTENER, Limits, MINIMUM_BUFFER, Token};
pub use crate::engine::handle::Handle;
pub use crate::engine::listeners::{ListenerConfig, ListenerId, MOST_LISTENERS};
pub use crate::engine::log_budget::{Line, LogBudget};
pub use crate::engine::peer_addr::PeerAddr;
pub use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
pub use crate::engine::rehearsal::Rehearsal;
pub use crate::engine::signals::Signal;
pub use crate::engine::sockets;
pub use crate::engine::system::{Mio, System};
pub use crate::engine::time::{Clock, Moment};
pub use crate::server::Server;
pub use tcp_state::TcpState;

/// What simulation, fuzzing and benchmarks look at. It may change with any version.
#[doc(hidden)]
pub mod internals {
    pub use crate::engine::*;
}
