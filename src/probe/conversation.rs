//! One connection of the probe: what it does, step by step, and what it saw.
//!
//! Owns the steps and the comparison of what came back. Judges nothing: a behaviour does.

use std::time::Duration;

use crate::client::pattern::Pattern;
use crate::client::verdict;
use crate::engine::connection::End;
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
use crate::engine::time::{Clock, Moment};

/// What a connection does next. Each step begins when the one before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends this many bytes, and goes on when the socket has taken them.
    Send(u64),
    /// Waits until everything that was sent came back.
    AwaitEcho,
    /// Does nothing for a while. What comes meanwhile is read.
    Quiet(Duration),
    /// Sends our FIN.
    ShutDown,
    /// Waits for the peer's FIN.
    AwaitEnd,
}

/// What one connection is to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// How long to wait before the connect.
    pub delay: Duration,
    /// How long to read nothing, from the connect on.
    pub deaf: Duration,
    /// Whether TCP keepalive probes are sent while nothing moves, and how often.
    pub keepalive: Option<Duration>,
    /// What is done then.
    pub steps: Vec<Step>,
}

/// How a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were done, and both FINs exchanged.
    Done,
    /// The peer's FIN came before the steps were done.
    EarlyEnd,
    /// A reset, or another error of the connection.
    Reset(String),
    /// Nothing moved for as long as the probe is patient.
    Silent,
    /// The connect failed, or was not answered.
    NotConnected(String),
}

/// How many of the first wrong bytes are kept: enough to recognise the protocols that often answer for an echo.
const WRONG_BYTES: usize = 16;

/// What a conversation saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How it ended.
    pub ending: Ending,
    /// How long the connect took; `None` if it failed.
    pub connected_after: Option<Duration>,
    /// Bytes that all steps together send.
    pub planned: u64,
    /// Bytes that the socket took.
    pub sent: u64,
    /// Bytes that came back, right and in order.
    pub returned: u64,
    /// Where the first wrong or surplus byte was.
    pub wrong_at: Option<u64>,
    /// The first bytes that came from there on, 16 at the most.
    pub wrong: Vec<u8>,
    /// The step that it was at when it ended; `None`: all were done.
    pub step: Option<Step>,
    /// How long the first byte took to come back, from the connect on; `None` if none came.
    pub first_echo: Option<Duration>,
    /// When it ended or, if it was silent, when the silence was noticed; from the connect on.
    pub after: Duration,
    /// How long the last step had lasted when it ended.
    pub in_step: Duration,
    /// Bytes that the socket had taken when the plan's time of reading nothing was over.
    pub sent_while_deaf: u64,
}

impl Seen {
    /// Whether every byte of the plan came back, and no other, however it ended.
    #[must_use]
    pub fn came_back(&self) -> bool {
        self.wrong_at.is_none() && self.returned == self.planned && self.connected_after.is_some()
    }

    /// Whether every byte came back, all steps were done, and both ends finished in order.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ending == Ending::Done && self.came_back()
    }

    /// Whether the path ended it while it was left alone.
    #[must_use]
    pub fn ended_in_quiet(&self) -> bool {
        matches!(self.ending, Ending::EarlyEnd | Ending::Reset(_)) && matches!(self.step, Some(Step::Quiet(_)))
    }

    /// Whether the connection was accepted and then ended, without an answer: a limit refuses like this as well.
    #[must_use]
    pub fn was_turned_away(&self) -> bool {
        matches!(self.ending, Ending::EarlyEnd | Ending::Reset(_))
            && self.first_echo.is_none()
            && self.wrong_at.is_none()
    }
}

/// The protocol that goes through the steps of a plan.
#[derive(Debug)]
pub struct Conversation {
    steps: Vec<Step>,
    /// The step that it is at; the number of steps when all are done.
    at: usize,
    pattern: Pattern,
    /// How long nothing may move.
    patience: Duration,
    /// Bytes that are to be sent by the steps so far.
    to_send: u64,
    produced: u64,
    returned: u64,
    wrong_at: Option<u64>,
    wrong: Vec<u8>,
    connected: Moment,
    connected_after: Option<Duration>,
    first_echo: Option<Duration>,
    step_began: Moment,
    /// When something moved last that was in order. While nothing is read, the end of that time.
    last_moved: Moment,
    silent: bool,
    ended_early: bool,
    sent_while_deaf: u64,
}

impl Conversation {
    /// A conversation with `steps`, whose bytes are those of `pattern`, and which gives up when nothing has moved for
    /// `patience`.
    #[must_use]
    pub fn new(steps: Vec<Step>, pattern: Pattern, patience: Duration) -> Conversation {
        Conversation {
            steps,
            at: 0,
            pattern,
            patience,
            to_send: 0,
            produced: 0,
            returned: 0,
            wrong_at: None,
            wrong: Vec::new(),
            connected: Moment::START,
            connected_after: None,
            first_echo: None,
            step_began: Moment::START,
            last_moved: Moment::START,
            silent: false,
            ended_early: false,
            sent_while_deaf: 0,
        }
    }

    /// The connect succeeded: the first step begins. Nothing is read for as long as `deaf`.
    pub fn connected(&mut self, now: Moment, after: Duration, deaf: Duration) {
        (self.connected, self.step_began, self.last_moved) = (now, now, now.plus(deaf));
        self.connected_after = Some(after);
        self.enter();
    }

    /// From now on input is read, after a time in which the socket took `sent` bytes.
    pub fn listens(&mut self, sent: u64, now: Moment) {
        self.sent_while_deaf = sent;
        self.moved(now);
    }

    /// What was seen, once the connection is over.
    #[must_use]
    pub fn seen(&self, end: &End, now: Moment) -> Seen {
        let ending = match end {
            _ if self.connected_after.is_none() => Ending::NotConnected(end.to_string()),
            _ if self.silent => Ending::Silent,
            End::Finished if self.ended_early => Ending::EarlyEnd,
            End::Finished => Ending::Done,
            End::Failed(error) if verdict::is_reset(error) => Ending::Reset("reset".to_owned()),
            end => Ending::Reset(end.to_string()),
        };
        Seen {
            ending,
            connected_after: self.connected_after,
            planned: self.steps.iter().map(|step| if let Step::Send(count) = step { *count } else { 0 }).sum(),
            sent: self.produced,
            returned: self.returned,
            wrong_at: self.wrong_at,
            wrong: self.wrong.clone(),
            step: self.step(),
            first_echo: self.first_echo,
            after: now.since(self.connected),
            in_step: now.since(self.step_began),
            sent_while_deaf: self.sent_while_deaf,
        }
    }

    fn step(&self) -> Option<Step> {
        self.steps.get(self.at).copied()
    }

    /// Notes what the step that begins now is to send.
    fn enter(&mut self) {
        if let Some(Step::Send(count)) = self.step() {
            self.to_send += count;
        }
    }

    fn next(&mut self, now: Moment) {
        self.at += 1;
        self.step_began = now;
        self.moved(now);
        self.enter();
    }

    fn moved(&mut self, now: Moment) {
        self.last_moved = self.last_moved.max(now);
    }
}

impl Protocol for Conversation {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let mut right = 0;
        if self.wrong_at.is_none() {
            let owed = usize::try_from(self.produced - self.returned).unwrap_or(usize::MAX);
            right = self.pattern.matching(self.returned, &input[..input.len().min(owed)]);
            self.returned += right as u64;
            self.moved(out.now());
            if right > 0 {
                self.first_echo.get_or_insert(out.now().since(self.connected));
            }
        }
        let rest = &input[right..];
        if !rest.is_empty() {
            self.wrong_at.get_or_insert(self.returned);
            // Enough of it to recognise what it is. A stream that never ends must not hold the probe up, so wrong bytes
            // are no movement, and nothing is waited for behind them.
            self.wrong.extend(rest.iter().take(WRONG_BYTES - self.wrong.len()));
            if self.wrong.len() == WRONG_BYTES {
                out.abort();
            }
        }
        input.len()
    }

    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        if self.connected_after.is_none() {
            return Produced::Nothing;
        }
        loop {
            match self.step() {
                Some(Step::Send(_)) if self.produced < self.to_send => {
                    let left = usize::try_from(self.to_send - self.produced).unwrap_or(usize::MAX);
                    let count = left.min(space.len());
                    self.pattern.fill(self.produced, &mut space[..count]);
                    self.produced += count as u64;
                    self.moved(clock.now());
                    return if count > 0 { Produced::Bytes(count) } else { Produced::Nothing };
                }
                // Whatever is wrong, waiting for it to become right is in vain.
                Some(Step::AwaitEcho) if self.returned < self.produced && self.wrong_at.is_none() => {
                    return Produced::Nothing;
                }
                Some(Step::Quiet(_) | Step::AwaitEnd) | None => return Produced::Nothing,
                Some(Step::Send(_) | Step::AwaitEcho) => self.next(clock.now()),
                Some(Step::ShutDown) => {
                    self.next(clock.now());
                    return Produced::Finished;
                }
            }
        }
    }

    fn end_of_input<'a>(&mut self, _rest: &'a [u8], out: &mut Outbox<'a>) {
        self.moved(out.now());
        if self.step() == Some(Step::AwaitEnd) && self.at + 1 == self.steps.len() {
            self.next(out.now());
        } else {
            self.ended_early = self.at < self.steps.len();
        }
        out.shut_down();
    }

    fn deadline(&self) -> Option<Moment> {
        self.connected_after?; // The connect has a time limit of its own.
        match self.step() {
            Some(Step::Quiet(time)) => Some(self.step_began.plus(time)),
            _ => Some(self.last_moved.plus(self.patience)),
        }
    }

    fn deadline_passed(&mut self, out: &mut Outbox<'_>) {
        if matches!(self.step(), Some(Step::Quiet(_))) {
            return self.next(out.now());
        }
        self.silent = true;
        out.abort();
    }

    /// What comes back is only looked at.
    fn answers(&self) -> bool {
        false
    }

    fn expects(&self) -> Expects {
        Expects::Nothing
    }

    /// Generated bytes are nothing to read.
    fn log_sent(&self, _bytes: &[u8], _peer: &PeerAddr, _log: &mut LogBudget) {}
}

#[cfg(test)]
impl Seen {
    /// What a conversation of 100 bytes saw that was whole but for this ending.
    pub(crate) fn example(ending: Ending) -> Seen {
        Seen {
            ending,
            connected_after: Some(Duration::ZERO),
            planned: 100,
            sent: 100,
            returned: 100,
            wrong_at: None,
            wrong: Vec::new(),
            step: None,
            first_echo: Some(Duration::ZERO),
            after: Duration::from_secs(5),
            in_step: Duration::from_secs(5),
            sent_while_deaf: 0,
        }
    }
}
