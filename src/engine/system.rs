//! What the loop asks of the operating system: sockets, readiness, signals and the time.
//!
//! Owns the poller, the timer, the signal pipe and the clock. Keeps nothing about a connection and decides nothing: the
//! system reports, and the loop acts. It is a trait, so that the whole loop also runs on a simulated network, where
//! each run with the same seed is the same run.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::engine::connection::{Readiness, Transport};
use crate::engine::handle::{Handle, Requests};
use crate::engine::signals::{Signal, Signals};
use crate::engine::sockets;
use crate::engine::time::{Clock, Moment};
use crate::engine::timer::Timer;

/// The first listener's token: the tutorial's `key.data is None`. Further listeners have the tokens behind it.
/// Connections have the numbers of their places, which count up from 0.
pub const LISTENER: Token = Token(usize::MAX / 2);
/// The token of the signals.
pub const SIGNALS: Token = Token(usize::MAX);
/// The token of the timer.
pub const TIMER: Token = Token(usize::MAX - 1);
/// The token of the requests of other threads.
pub const HANDLE: Token = Token(usize::MAX - 2);

/// How many events one wait of epoll's returns at most. If more connections are ready, the next turn has the rest, so
/// turns stay short. At 12 bytes an event, the buffer is small.
const EVENTS_A_WAIT: usize = 1024;

/// Everything is registered once, for both directions, and never again: the flags in [`Readiness`] remember each edge.
#[cfg(any(target_os = "linux", target_os = "android"))]
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Whether mio uses epoll, which promises another edge after a short read. Its poll(2) backend reports a socket again
/// only after a `WouldBlock` of mio's own.
const EPOLL: bool = cfg!(all(any(target_os = "linux", target_os = "android"), not(mio_unsupported_force_poll_poll)));

/// An operating system with an edge-triggered poller: each change of readiness is reported once.
pub trait System: Clock {
    /// A connection's socket.
    type Stream: Transport;
    /// A listening socket.
    type Listener;

    /// Whether a read that returns less than was asked for means that the socket is empty, and that the next byte will
    /// be reported. epoll(7) promises it for streams; other pollers report a socket again only after a `WouldBlock`.
    const SHORT_READ_IS_LAST: bool;

    /// Reports about `stream` from now on, under `token`, until it is dropped.
    fn register(&mut self, stream: &mut Self::Stream, token: Token) -> io::Result<()>;

    /// Reports about `listener` from now on, under `token`, until it is dropped.
    fn register_listener(&mut self, listener: &mut Self::Listener, token: Token) -> io::Result<()>;

    /// Begins to connect to `addr`, from the local address `source` if there is one.
    fn connect(&mut self, source: Option<IpAddr>, addr: SocketAddr) -> io::Result<Self::Stream>;

    /// Accepts the peer at the front of the backlog. [`AcceptError`](super::sockets::AcceptError) says what an error
    /// means.
    fn accept(&mut self, listener: &Self::Listener) -> io::Result<(Self::Stream, SocketAddr)>;

    /// Waits for events, for `timeout` at the most; without a timeout, for ever. The events replace those of the last
    /// wait.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// How many events one wait returns at most. If more sockets are ready, the next waits return the others first:
    /// what became ready later comes behind them.
    fn most_events(&self) -> usize;

    /// What the last wait found.
    fn events(&self) -> impl Iterator<Item = (Token, Readiness)>;

    /// Reports signals from now on, under [`SIGNALS`].
    fn catch_signals(&mut self) -> io::Result<()>;

    /// The signals that came since the last call, each once. Called after each event of [`SIGNALS`].
    fn take_signals(&mut self) -> io::Result<Vec<Signal>>;

    /// Reports once, under [`TIMER`], that the time `wait` has passed; `None` cancels.
    fn set_timer(&mut self, wait: Option<Duration>) -> io::Result<()>;

    /// Called after each event of [`TIMER`].
    fn take_timer(&mut self) -> io::Result<()>;

    /// What other threads asked for; asked for after each event of [`HANDLE`]. By default there are no other threads.
    fn take_requests(&mut self) -> Requests {
        Requests::default()
    }
}

/// The real system: mio's `Poll`, sockets, and the monotonic clock.
pub struct Mio {
    poll: Poll,
    events: Events,
    signals: Option<Signals>,
    /// Made when it is first asked for.
    handle: Option<Handle>,
    timer: Timer,
    began: Instant,
    busy_poll: Duration,
    polled: Duration,
}

impl fmt::Debug for Mio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mio").field("poll", &self.poll).finish_non_exhaustive()
    }
}

impl Mio {
    /// A poller with nothing registered. Its clock begins now.
    ///
    /// # Errors
    /// The system gives no poller: most likely, the process is out of descriptors.
    pub fn new() -> io::Result<Mio> {
        Ok(Mio {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_A_WAIT),
            signals: None,
            handle: None,
            timer: Timer::new(TIMER),
            began: Instant::now(),
            busy_poll: Duration::ZERO,
            polled: Duration::ZERO,
        })
    }

    /// Lets each wait poll again and again for the time `busy_poll` before it sleeps. On a short path, most answers
    /// come sooner than a thread falls asleep and wakes up. Busy polling costs up to a whole core.
    #[must_use]
    pub fn with_busy_poll(self, busy_poll: Duration) -> Mio {
        Mio { busy_poll, ..self }
    }

    /// A handle to the loop for other threads.
    pub fn handle(&mut self) -> io::Result<Handle> {
        if let Some(handle) = &self.handle {
            return Ok(handle.clone());
        }
        Ok(self.handle.insert(Handle::new(self.poll.registry(), HANDLE)?).clone())
    }

    /// How much time busy polling took: CPU time that did no work.
    #[must_use]
    pub fn time_polled(&self) -> Duration {
        self.polled
    }

    /// Polls again and again for `time`. Returns whether there are events.
    fn poll_busily(&mut self, time: Duration) -> io::Result<bool> {
        let began = Instant::now();
        loop {
            let result = self.poll.poll(&mut self.events, Some(Duration::ZERO));
            let elapsed = began.elapsed();
            if result.is_err() || !self.events.is_empty() || elapsed >= time {
                self.polled += elapsed;
                return result.map(|()| !self.events.is_empty());
            }
        }
    }
}

impl Clock for Mio {
    fn now(&self) -> Moment {
        Moment::after_start(self.began.elapsed())
    }
}

impl System for Mio {
    type Stream = TcpStream;
    type Listener = TcpListener;
    const SHORT_READ_IS_LAST: bool = EPOLL;

    fn register(&mut self, stream: &mut TcpStream, token: Token) -> io::Result<()> {
        self.poll.registry().register(stream, token, INTEREST)
    }

    fn register_listener(&mut self, listener: &mut TcpListener, token: Token) -> io::Result<()> {
        self.poll.registry().register(listener, token, Interest::READABLE)
    }

    fn connect(&mut self, source: Option<IpAddr>, addr: SocketAddr) -> io::Result<TcpStream> {
        sockets::connect(source, addr)
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        sockets::accept(listener)
    }

    fn wait(&mut self, mut timeout: Option<Duration>) -> io::Result<()> {
        if !EPOLL && let Some(handle) = &self.handle {
            handle.remind()?;
        }
        let busily = timeout.map_or(self.busy_poll, |timeout| timeout.min(self.busy_poll));
        if !busily.is_zero() {
            if self.poll_busily(busily)? {
                return Ok(());
            }
            timeout = timeout.map(|timeout| timeout.saturating_sub(busily));
        }
        self.poll.poll(&mut self.events, timeout)
    }

    fn most_events(&self) -> usize {
        // mio's poll(2) backend returns all events that there are.
        if EPOLL { EVENTS_A_WAIT } else { usize::MAX }
    }

    fn events(&self) -> impl Iterator<Item = (Token, Readiness)> {
        self.events.iter().map(|event| (event.token(), readiness(event)))
    }

    fn catch_signals(&mut self) -> io::Result<()> {
        self.signals = Some(Signals::catch(self.poll.registry(), SIGNALS)?);
        Ok(())
    }

    fn take_signals(&mut self) -> io::Result<Vec<Signal>> {
        match &mut self.signals {
            Some(signals) => signals.take(self.poll.registry()),
            None => Ok(Vec::new()),
        }
    }

    fn set_timer(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.timer.set(self.poll.registry(), wait)
    }

    fn take_requests(&mut self) -> Requests {
        self.handle.as_ref().map(Handle::take_requests).unwrap_or_default()
    }

    fn take_timer(&mut self) -> io::Result<()> {
        if EPOLL {
            return Ok(()); // With epoll, the timer's next expiry is another edge.
        }
        self.timer.rearm(self.poll.registry())
    }
}

/// What an event says about a connection. An error or a hang-up makes both directions ready, whatever else it says.
fn readiness(event: &mio::event::Event) -> Readiness {
    let over = event.is_error() || (event.is_read_closed() && event.is_write_closed());
    Readiness {
        readable: event.is_readable() || event.is_read_closed() || over,
        writable: event.is_writable() || event.is_write_closed() || over,
        read_closed: event.is_read_closed() || over,
        urgent: event.is_priority(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thread_asked_for_is_not_forgotten_when_a_socket_is_registered_behind_it() {
        let mut system = Mio::new().unwrap();
        system.handle().unwrap().wake().unwrap();
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        system.register_listener(&mut listener, LISTENER).unwrap();
        system.wait(Some(Duration::from_secs(10))).unwrap();
        let tokens: Vec<Token> = system.events().map(|(token, _)| token).collect();
        assert_eq!(tokens, [HANDLE]);
    }
}
