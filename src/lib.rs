//! An echo server and a checking client for many TCP connections, each on one thread, over a hand-written readiness
//! loop on [mio](https://docs.rs/mio)'s `Poll`; and the loop itself, to build a single-threaded server of your own on.
//!
//! The programs are `multiconn-server HOST PORT` and `multiconn-client HOST PORT NUM_CONNS`; the README shows them at
//! work. This page is about the library.
//!
//! # A server of your own
//!
//! Say what to do with the bytes of one connection by implementing [`Protocol`](protocol::Protocol), and hand it to a
//! [`Server`](server::Server). Partial sends, slow readers, half-close, resets, limits, signals and an orderly end are
//! the library's business:
//!
//! ```no_run
//! use multiconn::protocol::{Outbox, Protocol};
//! use multiconn::server::{Config, Server};
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
//! other, and `examples/loopback.rs` runs a server and a client on one loop.
//!
//! # The rings
//!
//! Modules name only what lies further in, so each can be read, and tested, without what lies outside of it.
//!
//! | ring | modules | uses |
//! | --- | --- | --- |
//! | 0, pure | [`moment`], [`rate`], [`buffer`], [`escape`], [`protocol`] with [`echo`](protocol::echo), [`exchange`](protocol::exchange), [`pattern`](protocol::pattern) and [`side`](protocol::side) | `std`; no socket, no clock |
//! | 1, bytes | [`log_budget`], [`wire`], [`connection`]: short writes, backpressure, half-close, errors | `std::io`, `log`; no mio |
//! | 2, readiness | [`net`], [`signals`], `timer`, [`descriptors`], [`lossy_stderr`], [`system`], [`event_loop`] | mio, slab, socket2, rustix, signal-hook |
//! | 3, roles | [`server`]; `client` (feature `cli`) | ring 2; hdrhistogram, serde |
//! | 4, programs | `cli` (feature `cli`), `bin/`, `examples/` | clap, `env_logger`, ring 3 |
//!
//! # The turn
//!
//! [`EventLoop::turn`](event_loop::EventLoop::turn) does four things, and the whole product hangs on their order:
//!
//! 1. **Wait**, not at all if anything can run, else until the next deadline, else for ever.
//! 2. **Note**: each event sets flags on its connection and puts it on the run queue, once. No socket is touched and no
//!    slot is freed, so no event can reach the wrong connection.
//! 3. **Act**: each queued connection is served once, within a budget of bytes, so that no peer starves the others. What
//!    is not done stays queued: nothing relies on another edge from the poller. The listener is one more entry of the
//!    queue; it accepts, up to a budget, when its turn comes.
//! 4. **Expire**: deadlines that passed mark their connections, which end in the next turn's act.
//!
//! The poller is edge-triggered: it says once that a socket became ready. The flags remember it until the socket says
//! `WouldBlock`, and a connection that has no room for more input simply is not read. So every socket is registered
//! once, for everything, and never again.
//!
//! # From the tutorial's Python
//!
//! | Python | here |
//! | --- | --- |
//! | `selectors.DefaultSelector()` | [`mio::Poll`], owned by [`Mio`](system::Mio), the loop's [`System`](system::System) |
//! | the `sel.select()` loop | [`EventLoop::run`](event_loop::EventLoop::run), [`EventLoop::turn`](event_loop::EventLoop::turn) |
//! | `key.data is None` | the token [`LISTENER`](event_loop::LISTENER) |
//! | `accept_wrapper` | `EventLoop::accept` (private: the loop calls it) |
//! | `service_connection` | [`Connection::service`](connection::Connection::service) |
//! | `SimpleNamespace(addr, inb, outb)` | [`Connection`](connection::Connection) `{ addr, inbound, outbound, .. }` |
//! | `data.outb = data.outb[sent:]` | [`SendBuffer::consume`](buffer::SendBuffer::consume) |
//! | `start_connections` | `Client::start_connections` (private) |
//! | `sel.get_map()` is empty | [`EventLoop::is_idle`](event_loop::EventLoop::is_idle) |
//!
//! # Features and platforms
//!
//! `cli`, on by default, holds what only the programs need, the client among it; without it the library depends on log,
//! mio, rustix, signal-hook, slab and socket2 alone (and on Linux nix, for one socket option). It never raises the limit of
//! open files by itself: see [`descriptors`]. Linux is supported and tested; other Unixes compile by `cfg`. Windows is out.

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("multiconn is for Unix systems: readiness, signals and descriptors are not Windows' notions");

mod accepting;
pub mod buffer;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod client;
pub mod connection;
mod deadlines;
pub mod descriptors;
pub mod escape;
pub mod event_loop;
pub mod log_budget;
pub mod lossy_stderr;
mod memory;
pub mod moment;
pub mod net;
pub mod peer_addr;
mod progress;
pub mod protocol;
pub mod rate;
mod role;
mod run_queue;
pub mod server;
pub mod signals;
mod silence;
mod status;
pub mod system;
mod timer;
pub mod wire;
