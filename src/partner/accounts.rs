//! Asks a partner for its accounts, after a run that had faults: on which way did they happen?
//!
//! Owns a loop of its own for that.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::direction::{Received, Way};
use crate::client::fault::FaultKind;
use crate::client::findings::{DESCRIBED_FAULTS, Findings};
use crate::client::pattern::{Pattern, stream_of};
use crate::engine::connection::Timeouts;
use crate::engine::event_loop::{Event, EventLoop, Limits, Role};
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
use crate::engine::signals::Signal;
use crate::engine::time::{Clock, Moment};
use crate::partner::question::{Asking, Question, Reply};

/// Asks the server about faults of a run with generated messages in which bytes were lost or changed, for `patience` at the
/// most, and notes on which way that happened. Of each kind it asks about the first [`DESCRIBED_FAULTS`], those that people
/// see: each question takes a connection. `run` is the key of the messages.
///
/// # Errors
/// The poller or the signal pipe failed.
pub fn find_ways(findings: &mut Findings, run: u64, patience: Duration) -> io::Result<()> {
    let mut asked: BTreeMap<FaultKind, usize> = BTreeMap::new();
    let broken = findings.faults.iter_mut().filter_map(|faulty| {
        let place = faulty.broken_at()?;
        let asked = asked.entry(faulty.fault.kind).or_default();
        *asked += 1;
        (*asked <= DESCRIBED_FAULTS).then_some((place, faulty))
    });
    let (places, faults): (Vec<_>, Vec<_>) = broken.unzip();
    let stream = |connection| Pattern::new(run, stream_of(connection)).first_word();
    let streams: Vec<_> = faults.iter().map(|faulty| (faulty.peer, stream(faulty.connection))).collect();
    if streams.is_empty() {
        return Ok(());
    }
    let received = ask(&streams, patience)?;
    for ((faulty, (at, sent)), received) in faults.into_iter().zip(places).zip(received) {
        faulty.happened_on(Way::of(received, at, sent));
    }
    Ok(())
}

/// What each server received of a stream, which is named by its first word; `None` where it keeps no account or did not
/// answer in time. Each takes a connection, all at once.
fn ask(streams: &[(SocketAddr, u64)], patience: Duration) -> io::Result<Vec<Option<Received>>> {
    let timeouts = Timeouts { connect: Some(patience), ..Timeouts::default() };
    let mut event_loop = EventLoop::new(Limits::default(), timeouts)?;
    event_loop.catch_signals()?; // Who has no patience left gets the report at once.
    let until = event_loop.clock_now().plus(patience);
    for (index, &(addr, stream)) in streams.iter().enumerate() {
        event_loop.connect(addr, Asker { asking: Asking::new(Question::Account(stream)), index, until });
    }
    let mut answers = Answers { open: streams.len(), received: vec![None; streams.len()] };
    event_loop.run(&mut answers)?;
    Ok(answers.received)
}

/// One question on its way.
struct Asker {
    asking: Asking,
    index: usize,
    until: Moment,
}

impl Protocol for Asker {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        self.asking.hear(input);
        if self.asking.reply().is_some() {
            out.abort(); // What else comes is of no interest.
        }
        input.len()
    }

    fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
        match self.asking.fill(space) {
            0 => Produced::Nothing,
            count => Produced::Bytes(count),
        }
    }

    fn deadline(&self) -> Option<Moment> {
        Some(self.until)
    }

    fn answers(&self) -> bool {
        false
    }

    fn expects(&self) -> Expects {
        Expects::Nothing
    }

    /// A question is nothing that the user sent.
    fn log_sent(&self, _bytes: &[u8], _peer: &PeerAddr, _log: &mut LogBudget) {}
}

/// The role: waits for all replies.
struct Answers {
    open: usize,
    received: Vec<Option<Received>>,
}

impl Role<Asker> for Answers {
    fn advance(&mut self, _event_loop: &mut EventLoop<Asker>) -> bool {
        self.open > 0
    }

    fn handle(&mut self, event: Event<Asker>, event_loop: &mut EventLoop<Asker>) {
        match event {
            Event::Closed { protocol, .. } => {
                self.open -= 1;
                if let Some(Reply::Answer(answer)) = protocol.asking.reply() {
                    self.received[protocol.index] = answer.received();
                }
            }
            Event::Signal(signal) if signal != Signal::Status => event_loop.stop(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Instant;

    #[test]
    fn a_server_that_says_nothing_or_is_not_there_costs_no_more_than_the_patience() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let addr = silent.local_addr().unwrap();
        assert_eq!(ask(&[(addr, 1), (addr, 2)], Duration::from_millis(100)).unwrap(), [None, None]);
        assert!(begun.elapsed() >= Duration::from_millis(100) && begun.elapsed() < Duration::from_secs(10));
        drop(silent);
        assert_eq!(ask(&[(addr, 1)], Duration::from_secs(60)).unwrap(), [None]);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
