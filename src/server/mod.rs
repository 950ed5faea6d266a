//! The server: a listener, a protocol for each peer, and an orderly end.
//!
//! Owns the server's role: the log lines about connections, and what a signal does. Never touches a byte: the protocol
//! does, in an echo server [`Echo`](crate::server::echo::Echo).

pub mod echo;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use log::{info, warn};

use crate::engine::connection::{End, Timeouts};
use crate::engine::event_loop::{Event, EventLoop, Limits, ListenerConfig, ListenerId, Role};
use crate::engine::handle::Handle;
use crate::engine::log_budget::Line;
use crate::engine::protocol::Protocol;
use crate::engine::signals::Signal;
use crate::engine::sockets::{self, ListenOptions};
use crate::engine::system::Mio;

/// How a server listens, and its limits and timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How the listener is made.
    pub listen: ListenOptions,
    /// What the listener is called, and how many connections may come in through it.
    pub listener: ListenerConfig,
    /// How many connections and bytes it may hold.
    pub limits: Limits,
    /// The time without a byte in either direction after which a connection is shut down; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How long a connect may take, of connections that the server opens itself (a proxy's); `None`: as long as the
    /// system tries.
    pub connect_timeout: Option<Duration>,
    /// The time after which a connection is closed if bytes wait and its peer takes none of them; `None`: never.
    pub stall_timeout: Option<Duration>,
    /// How long to wait for the peers' FINs when the server drains, or when it shuts an idle connection down.
    pub drain_timeout: Duration,
    /// How long each wait polls before it sleeps ([`Mio::with_busy_poll`]).
    pub busy_poll: Duration,
}

impl Default for Config {
    /// No idle timeout, 10 s to connect, 60 s for a stalled peer, 10 s to drain, no busy polling, and the default limits.
    fn default() -> Config {
        Config {
            listen: ListenOptions::default(),
            listener: ListenerConfig::default(),
            limits: Limits::default(),
            idle_timeout: None,
            connect_timeout: Some(Duration::from_secs(10)),
            stall_timeout: Some(Duration::from_secs(60)),
            drain_timeout: Duration::from_secs(10),
            busy_poll: Duration::ZERO,
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It stopped listening and drained its connections. Those that were open when the time was over were closed.
    Drained,
    /// A second signal ended it at once.
    Killed(Signal),
}

static ACCEPTED: Line = Line::info("Accepted connection from");
static CLOSING: Line = Line::info("Closing connection");

/// A server that is bound and has not begun to serve.
///
/// ```no_run
/// use multiconn::server::echo::Echo;
/// use multiconn::server::{Config, Server};
///
/// let mut server = Server::bind("127.0.0.1", 65432, &Config::default(), |_| Echo)?;
/// server.catch_signals()?;
/// server.run()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Server<P> {
    event_loop: EventLoop<P>,
    /// Where it listens: the address that [`Server::bind`] bound, then those of further listeners.
    listeners: Vec<(ListenerId, SocketAddr)>,
    drain_timeout: Duration,
}

impl<P: Protocol> Server<P> {
    /// Listens on `host` and `port` (see [`sockets::listen`]). Each peer gets the protocol `protocol_for(peer)`.
    ///
    /// Peers can connect from now on; [`run`](Server::run) serves them.
    ///
    /// # Errors
    /// The host is unknown or has no address that can be bound, or the system gives no poller.
    pub fn bind(
        host: &str,
        port: u16,
        config: &Config,
        protocol_for: impl FnMut(SocketAddr) -> P + 'static,
    ) -> io::Result<Server<P>> {
        let listener = sockets::listen(host, port, config.listen)?;
        let addr = listener.local_addr()?;
        let timeouts = Timeouts {
            connect: config.connect_timeout,
            idle: config.idle_timeout,
            stall: config.stall_timeout,
            linger: Some(config.drain_timeout),
        };
        let system = Mio::new()?.with_busy_poll(config.busy_poll);
        let mut event_loop = EventLoop::on(system, config.limits, timeouts);
        let id = event_loop.listen_with(config.listener, listener, protocol_for)?;
        Ok(Server { event_loop, listeners: vec![(id, addr)], drain_timeout: config.drain_timeout })
    }

    /// Listens on another `host` and `port` as well, each peer there with the protocol `protocol_for(peer)`. The
    /// listener has a name, which the log and the table of connections show, and a limit of its own. Returns what
    /// [`Event::Accepted`] says of its connections, and the address.
    ///
    /// # Errors
    /// As those of [`bind`](Server::bind).
    pub fn listen_also(
        &mut self,
        host: &str,
        port: u16,
        options: ListenOptions,
        config: ListenerConfig,
        protocol_for: impl FnMut(SocketAddr) -> P + 'static,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let listener = sockets::listen(host, port, options)?;
        let addr = listener.local_addr()?;
        let id = self.event_loop.listen_with(config, listener, protocol_for)?;
        self.listeners.push((id, addr));
        Ok((id, addr))
    }

    /// The server's loop, before it runs: to set a timer, say, or to open connections.
    pub fn event_loop(&mut self) -> &mut EventLoop<P> {
        &mut self.event_loop
    }

    /// The listener that [`bind`](Server::bind) made.
    pub fn listener(&self) -> ListenerId {
        self.listeners[0].0
    }

    /// The address that the server listens on, with the port that it got if it asked for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.listeners[0].1
    }

    /// From now on SIGINT and SIGTERM drain the server, and a second one ends it at once. SIGUSR1 is an event for
    /// [`run_with`](Server::run_with), which may print what the server is doing.
    ///
    /// # Errors
    /// The handlers or their pipe cannot be set up.
    pub fn catch_signals(&mut self) -> io::Result<()> {
        self.event_loop.catch_signals()
    }

    /// A handle for other threads, to stop or drain this server or to wake its handler of events
    /// ([`run_with`](Server::run_with)).
    pub fn handle(&mut self) -> io::Result<Handle> {
        self.event_loop.handle()
    }

    /// Serves until a signal or a [`Handle`] ends the server.
    ///
    /// # Errors
    /// The poller or the signal pipe failed. No connection can cause that.
    pub fn run(self) -> io::Result<Ending> {
        self.run_with(|_, _| {})
    }

    /// Serves as [`run`](Server::run) does, and hands every event on to `on_event`: for a server whose connections talk
    /// to each other.
    ///
    /// # Errors
    /// As those of [`run`](Server::run).
    pub fn run_with(mut self, on_event: impl FnMut(Event<P>, &mut EventLoop<P>)) -> io::Result<Ending> {
        for (id, addr) in self.listeners {
            match self.event_loop.listener_name(id) {
                "" => info!("Listening on {addr}"),
                name => info!("Listening on {addr} ({name})"),
            }
        }
        let mut serving = Serving { drain_timeout: self.drain_timeout, drained_by: None, killed_by: None, on_event };
        self.event_loop.run(&mut serving)?;
        Ok(serving.killed_by.map_or(Ending::Drained, Ending::Killed))
    }
}

/// The server's role.
struct Serving<H> {
    drain_timeout: Duration,
    drained_by: Option<Signal>,
    killed_by: Option<Signal>,
    on_event: H,
}

impl<P: Protocol, H: FnMut(Event<P>, &mut EventLoop<P>)> Role<P> for Serving<H> {
    fn handle(&mut self, event: Event<P>, event_loop: &mut EventLoop<P>) {
        match &event {
            Event::Accepted { addr, listener, .. } if event_loop.log_budget().allows(&ACCEPTED) => {
                match event_loop.listener_name(*listener) {
                    "" => info!("Accepted connection from {addr}"),
                    name => info!("Accepted connection from {addr} on {name}"),
                }
            }
            Event::Closed { addr, end, .. } if event_loop.log_budget().allows(&CLOSING) => match end {
                End::Finished => info!("Closing connection to {addr}"),
                end => info!("Closing connection to {addr}: {end}"),
            },
            // On SIGUSR1 the program prints its table, in `on_event`.
            Event::Signal(signal) if *signal != Signal::Status => self.end(*signal, event_loop),
            _ => {}
        }
        (self.on_event)(event, event_loop);
    }
}

impl<H> Serving<H> {
    fn end<P: Protocol>(&mut self, signal: Signal, event_loop: &mut EventLoop<P>) {
        if self.drained_by.is_some() {
            warn!("Caught {}, exiting at once", signal.name());
            self.killed_by = Some(signal);
            event_loop.stop();
            return;
        }
        self.drained_by = Some(signal);
        info!("Caught {}, exiting", signal.name());
        let open = event_loop.open_connections();
        if open > 0 {
            let seconds = self.drain_timeout.as_secs_f64();
            let what = if open == 1 { "1 connection".to_owned() } else { format!("{open} connections") };
            info!("Finishing {what}, for {seconds} s at the most; a second signal ends at once");
        }
        event_loop.drain(self.drain_timeout);
    }
}
