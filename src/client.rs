//! The client: many connections at once, and whether every byte of each came back.
//!
//! Owns the plan (how many, how fast, what to send) and the account of what became of each connection. The bytes are
//! the [`Exchange`]'s, their transport is the connection's.

mod report;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::{info, warn};

pub use self::report::{Failure, Reason, Report};
use crate::connection::{End, Timeout, Timeouts};
use crate::escape::Escaped;
use crate::event_loop::{Event, EventLoop, Limits, Role};
use crate::narrator::{Line, Voice};
use crate::net;
use crate::protocol::Protocol;
use crate::protocol::exchange::{Exchange, Fault};
use crate::signals::Signal;
use crate::status;

/// How many connects may be under way at once. Far below any sane backlog, so that no server has to drop one (which
/// costs a second each), and enough to keep a long path busy.
const CONNECT_WINDOW: u32 = 128;

/// What to send, and how long to wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many connections to open.
    pub connections: u32,
    /// What each of them sends, one after the other. Empty ones are left out; one that is not is needed.
    pub messages: Vec<Vec<u8>>,
    /// How long a connect may take, for each address that is tried.
    pub connect_timeout: Duration,
    /// How long nothing may move on a connection.
    pub timeout: Duration,
    /// Lifts the budgets of log lines.
    pub unlimited_log: bool,
}

impl Plan {
    /// The tutorial's plan, for so many connections: its two messages, 5 s to connect and 10 s without progress.
    #[must_use]
    pub fn tutorial(connections: u32) -> Plan {
        Plan {
            connections,
            messages: vec![b"Message 1 from client.".to_vec(), b"Message 2 from client.".to_vec()],
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            unlimited_log: false,
        }
    }

    /// The times that a loop has to keep for this plan.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        Timeouts { connect: Some(self.connect_timeout), idle: Some(self.timeout), stall: None, linger: None }
    }
}

/// The protocol of a loop that a client can open connections on: an [`Exchange`], or something that may be one. A loop
/// with a server on it as well has a protocol that is one or the other.
pub trait MayBeExchange: Protocol + From<Exchange> {
    /// The exchange, if this is one.
    fn exchange(&self) -> Option<&Exchange>;
}

impl MayBeExchange for Exchange {
    fn exchange(&self) -> Option<&Exchange> {
        Some(self)
    }
}

/// The voice of the client, as the tutorial has it: `Sending b"…" to connection 1`, `Received b"…" from connection 1`.
#[must_use]
pub fn voice() -> Voice<Exchange> {
    Voice {
        verb: "Sending",
        sending: Some(|exchange, _, bytes| info!("Sending {} to connection {}", Escaped(bytes), exchange.number())),
        received: Some(|exchange, _, bytes| info!("Received {} from connection {}", Escaped(bytes), exchange.number())),
    }
}

/// Carries out `plan` against the first of `addrs` that answers, connection by connection, and reports.
///
/// SIGINT and SIGTERM end it early, with a report of what there is so far. An error is one of the loop itself; what
/// goes wrong with a connection stands in the report.
///
/// # Panics
/// If `addrs` is empty, or the plan has nothing to send.
pub fn run(addrs: Vec<SocketAddr>, plan: &Plan) -> io::Result<Report> {
    let mut event_loop = EventLoop::new(Limits::default(), plan.timeouts(), voice(), plan.unlimited_log)?;
    event_loop.catch_signals()?;
    let mut client = Client::new(addrs, plan);
    event_loop.run(&mut client)?;
    Ok(client.into_report(&event_loop))
}

/// The client's part in a loop.
#[derive(Debug)]
pub struct Client {
    addrs: Vec<SocketAddr>,
    messages: Rc<[Vec<u8>]>,
    /// The number of the last connection that was started.
    started: u32,
    /// Connects that are under way.
    connecting: u32,
    /// Connections that are not over.
    open: u32,
    began: Instant,
    report: Report,
}

impl Client {
    /// A client that has everything yet to do. Of `addrs`, each connection tries one after the other.
    ///
    /// # Panics
    /// If `addrs` is empty, or the plan has nothing to send.
    #[must_use]
    pub fn new(addrs: Vec<SocketAddr>, plan: &Plan) -> Client {
        let report = Report::new(addrs[0], plan.connections);
        let messages: Rc<[_]> = plan.messages.iter().filter(|message| !message.is_empty()).cloned().collect();
        assert!(!messages.is_empty(), "a plan needs a message: an echo ends when its last byte is back");
        Client { addrs, messages, started: 0, connecting: 0, open: 0, began: Instant::now(), report }
    }

    /// Whether every connection was opened and is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.started == self.report.requested && self.open == 0
    }

    /// What came of it: counted to the end for connections that are over, so far for those still on `event_loop`.
    #[must_use]
    pub fn into_report<P: MayBeExchange>(mut self, event_loop: &EventLoop<P>) -> Report {
        for (_, connection) in event_loop.connections() {
            if let Some(exchange) = connection.protocol().exchange() {
                self.report.count(exchange, connection.sent());
            }
        }
        self.report.unfinished = self.report.requested - self.report.intact - self.report.failed();
        self.report.elapsed = self.began.elapsed();
        self.report
    }

    /// Opens connections while fewer than the window are being opened.
    fn start_connections<P: MayBeExchange>(&mut self, event_loop: &mut EventLoop<P>) {
        while self.connecting < CONNECT_WINDOW && self.started < self.report.requested {
            self.started += 1;
            self.open += 1;
            self.start(self.started, self.addrs[0], event_loop);
        }
    }

    fn start<P: MayBeExchange>(&mut self, number: u32, addr: SocketAddr, event_loop: &mut EventLoop<P>) {
        if event_loop.narrator().allows(Line::Starting) {
            info!("Starting connection {number} to {addr}");
        }
        self.connecting += 1;
        event_loop.connect(addr, Exchange::new(number, Rc::clone(&self.messages)).into());
    }

    /// A connection is over: tries the next address, or counts it as intact or failed.
    fn settle<P: MayBeExchange>(
        &mut self,
        exchange: &Exchange,
        (addr, sent): (SocketAddr, u64),
        end: &End,
        event_loop: &mut EventLoop<P>,
    ) {
        let number = exchange.number();
        if matches!(end, End::ConnectFailed(_) | End::TimedOut(Timeout::Connect)) {
            self.connecting -= 1;
            let tried = self.addrs.iter().position(|&other| other == addr);
            if let Some(&next) = tried.and_then(|index| self.addrs.get(index + 1)) {
                if event_loop.narrator().allows(Line::Failed) {
                    info!("Connection {number} to {addr}: {end}; trying the next address");
                }
                return self.start(number, next, event_loop);
            }
        }
        self.open -= 1;
        self.report.count(exchange, sent);
        match failure(exchange, addr, end) {
            None => {
                self.report.intact += 1;
                if event_loop.narrator().allows(Line::Closing) {
                    info!("Closing connection {number}");
                }
            }
            Some(failure) => {
                if event_loop.narrator().allows(Line::Failed) {
                    warn!("{failure}");
                }
                self.report.fail(failure);
            }
        }
    }
}

impl<P: MayBeExchange> Role<P> for Client {
    fn advance(&mut self, event_loop: &mut EventLoop<P>) -> bool {
        self.start_connections(event_loop);
        !self.is_done()
    }

    fn handle(&mut self, event: Event<P>, event_loop: &mut EventLoop<P>) {
        match event {
            Event::Connected { .. } => {
                self.connecting -= 1;
                self.report.established += 1;
            }
            Event::Closed { addr, protocol, end, sent, .. } => {
                if let Some(exchange) = protocol.exchange() {
                    self.settle(exchange, (addr, sent), &end, event_loop);
                }
            }
            Event::Signal(Signal::Status) => status::write_table(event_loop),
            Event::Signal(signal) => {
                warn!("Caught {}, exiting", signal.name());
                self.report.interrupted = Some(signal);
                event_loop.stop();
            }
            Event::Accepted { .. } | Event::Notified { .. } => {}
        }
    }
}

/// What was wrong with a connection that is over, if anything was. What the exchange saw first counts: a FIN that came
/// too early stays that, whatever reset may have followed.
fn failure(exchange: &Exchange, addr: SocketAddr, end: &End) -> Option<Failure> {
    let (reason, detail) = match (exchange.fault(), end) {
        (Some(fault), _) => (reason_of(fault), fault.to_string()),
        (None, End::Finished) if exchange.is_complete() => return None,
        (None, End::ConnectFailed(error)) => {
            let reason = match error.kind() {
                ErrorKind::ConnectionRefused => Reason::Refused,
                ErrorKind::TimedOut => Reason::ConnectTimeout,
                _ => Reason::ConnectFailed,
            };
            (reason, format!("{error}; {}", net::connect_advice(error)))
        }
        (None, End::TimedOut(Timeout::Connect)) => {
            let error = io::Error::from(ErrorKind::TimedOut);
            (Reason::ConnectTimeout, format!("no answer; {}", net::connect_advice(&error)))
        }
        (None, End::TimedOut(_)) if exchange.is_complete() => {
            (Reason::Unclosed, "everything is back, but the peer does not finish".to_owned())
        }
        (None, End::TimedOut(_)) => {
            (Reason::NoProgress, format!("nothing moves after {} bytes", exchange.bytes_echoed()))
        }
        (None, End::Failed(error))
            if matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
            ) =>
        {
            (Reason::Reset, format!("{error} after {} bytes", exchange.bytes_echoed()))
        }
        (None, end) => (Reason::Failed, end.to_string()),
    };
    Some(Failure { connection: exchange.number(), addr, reason, detail })
}

fn reason_of(fault: &Fault) -> Reason {
    match fault {
        Fault::Corrupted { .. } => Reason::Corrupted,
        Fault::Extra { .. } => Reason::Extra,
        Fault::Truncated { .. } => Reason::Truncated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::SendBuffer;
    use crate::protocol::Outbox;

    fn addr() -> SocketAddr {
        "127.0.0.1:7".parse().unwrap()
    }

    fn exchange() -> Exchange {
        let mut exchange = Exchange::new(3, Rc::new([b"hello".to_vec()]));
        exchange.produce(&mut [0; 16]);
        exchange
    }

    fn reason(exchange: &Exchange, end: &End) -> Option<Reason> {
        failure(exchange, addr(), end).map(|failure| failure.reason)
    }

    #[test]
    fn every_end_has_its_reason() {
        let exchange = exchange();
        let error = |kind: ErrorKind| io::Error::from(kind);
        let refused = End::ConnectFailed(error(ErrorKind::ConnectionRefused));
        assert_eq!(reason(&exchange, &refused), Some(Reason::Refused));
        assert_eq!(reason(&exchange, &End::TimedOut(Timeout::Connect)), Some(Reason::ConnectTimeout));
        let unreachable = End::ConnectFailed(error(ErrorKind::NetworkUnreachable));
        assert_eq!(reason(&exchange, &unreachable), Some(Reason::ConnectFailed));
        assert_eq!(reason(&exchange, &End::TimedOut(Timeout::Idle)), Some(Reason::NoProgress));
        assert_eq!(reason(&exchange, &End::Failed(error(ErrorKind::BrokenPipe))), Some(Reason::Reset));
        assert_eq!(reason(&exchange, &End::Failed(error(ErrorKind::WriteZero))), Some(Reason::Failed));
    }

    #[test]
    fn a_whole_echo_that_is_not_closed_is_no_success() {
        let mut exchange = exchange();
        exchange.receive(b"hello", &mut Outbox::new(SendBuffer::new(), 100));
        assert_eq!(reason(&exchange, &End::Finished), None);
        assert_eq!(reason(&exchange, &End::TimedOut(Timeout::Idle)), Some(Reason::Unclosed));
    }

    #[test]
    fn a_truncation_stays_one_whatever_reset_follows() {
        let mut exchange = exchange();
        exchange.finish(&[], &mut Outbox::new(SendBuffer::new(), 100));
        let reset = End::Failed(ErrorKind::ConnectionReset.into());
        assert_eq!(reason(&exchange, &reset), Some(Reason::Truncated));
    }
}
