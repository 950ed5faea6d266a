//! One connection of the probe: what it does, step by step, and what it saw.
//!
//! Owns the steps and the comparison of what came back. Judges nothing: a behaviour does.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_state::TcpState;

use crate::client::cause::Cause;
use crate::client::direction::Way;
use crate::client::pattern::{Pattern, WORD};
use crate::client::verdict;
use crate::engine::connection::End;
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Expects, Outbox, Produced, Protocol};
use crate::engine::time::{Clock, Moment};
use crate::partner::question::{Answer, Asking, GREETING, Question, Reply};

/// What a connection does next. Each step begins when the one before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends this many bytes, and goes on when the socket has taken them.
    Send(u64),
    /// Sends one urgent byte (RFC 9293, 3.8.5).
    SendUrgent,
    /// Waits until everything came that is to come: what was sent came back, or the partner's bytes.
    AwaitEcho,
    /// Waits for a partner's greeting, but no longer than this.
    AwaitGreeting(Duration),
    /// Does nothing for a while. What comes meanwhile is read.
    Quiet(Duration),
    /// Sends our FIN.
    ShutDown,
    /// Waits for the peer's FIN.
    AwaitEnd,
    /// Resets the connection.
    Reset,
}

/// What one connection is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How long to wait before the connect.
    pub delay: Duration,
    /// How long to read nothing, from the connect on.
    pub deaf: Duration,
    /// Whether TCP keepalive probes are sent while nothing moves, and how often.
    pub keepalive: Option<Duration>,
    /// What a partner is asked for first. The steps begin behind its answer.
    pub ask: Option<Question>,
    /// What is done then.
    pub steps: Vec<Step>,
}

/// How a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were done, and both FINs exchanged, or our reset sent. Or the question reached no partner.
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
    /// Bytes that are to come: those that all steps together send, or those that a partner was asked for.
    pub planned: u64,
    /// Bytes that the socket took.
    pub sent: u64,
    /// Bytes that came, right and in order.
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
    /// Bytes that the socket had taken when it first took none for half a second.
    pub sent_when_stuck: Option<u64>,
    /// The partner's answer, if there was a question and a partner.
    pub answer: Option<Answer>,
    /// Whether it asked a question that no partner answered. Nothing of the plan was done then.
    pub unanswered: bool,
    /// When the partner's greeting was whole, from the connect on.
    pub greeted_after: Option<Duration>,
    /// How many bytes are missing at the first wrong one, if the bytes there show that few are.
    pub missing: Option<u64>,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    /// The largest segment that the two ends agreed on, if the system says so.
    pub segment: Option<u32>,
    /// Names the stream of bytes that was sent.
    pub stream: u64,
    /// On whom it waited, if it was silent and the system tells.
    pub cause: Option<Cause>,
    /// On which way bytes were lost or changed, as far as it was asked for.
    pub way: Option<Way>,
}

impl Seen {
    /// Whether every byte of the plan came back, and no other, however it ended.
    #[must_use]
    pub fn came_back(&self) -> bool {
        self.wrong_at.is_none() && self.returned == self.planned && self.connected_after.is_some() && !self.unanswered
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

    /// The offset of the first byte of an echo that did not come back right, of those that were sent.
    #[must_use]
    pub fn fault_at(&self) -> Option<u64> {
        let missing = (self.returned < self.sent).then_some(self.returned);
        self.wrong_at.or(missing).filter(|_| self.connected_after.is_some())
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
    over: Option<Over>,
    sent_while_deaf: u64,
    sent_when_stuck: Option<u64>,
    last_produced: Moment,
    question: Option<Question>,
    asking: Option<Asking>,
    answer: Option<Answer>,
    /// Bytes of the greeting that came.
    greeting: usize,
    greeted_after: Option<Duration>,
    /// The role knows what the step asks it for.
    told: bool,
    local: Option<SocketAddr>,
    segment: Option<u32>,
    /// Bytes of the question that the kernel took.
    asked: u64,
    cause: Option<Cause>,
}

/// A socket that takes nothing for this long is stuck, and not only slow.
const STUCK: Duration = Duration::from_millis(500);

/// How many missing bytes are recognised.
const FEW: u64 = 64;

impl Conversation {
    /// What is to be done by `plan`, with the bytes of `pattern`. It gives up when nothing has moved for `patience`.
    #[must_use]
    pub fn new(plan: &Plan, pattern: Pattern, patience: Duration) -> Conversation {
        Conversation {
            steps: plan.steps.clone(),
            question: plan.ask,
            asking: plan.ask.map(Asking::new),
            answer: None,
            greeting: 0,
            greeted_after: None,
            told: false,
            local: None,
            segment: None,
            asked: 0,
            cause: None,
            sent_when_stuck: None,
            last_produced: Moment::START,
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
            over: None,
            sent_while_deaf: 0,
        }
    }

    /// The connect succeeded: the first step begins. Nothing is read for as long as `deaf`.
    pub fn connected(&mut self, now: Moment, after: Duration, deaf: Duration) {
        (self.connected, self.step_began, self.last_moved) = (now, now, now.plus(deaf));
        self.connected_after = Some(after);
        self.last_produced = now;
        self.enter();
    }

    /// What the socket knows of its connection.
    pub fn know(&mut self, local: Option<SocketAddr>, segment: Option<u32>) {
        (self.local, self.segment) = (local, segment);
    }

    /// What the role is to do for the step that it was notified of.
    #[must_use]
    pub fn wish(&self) -> Option<Wish> {
        match self.step() {
            Some(Step::SendUrgent) if self.told => {
                let mut byte = [0];
                self.pattern.fill(self.produced, &mut byte);
                Some(Wish::SendUrgent(byte))
            }
            Some(Step::Reset) if self.told => Some(Wish::Reset),
            _ => None,
        }
    }

    /// The role did it.
    pub fn done(&mut self, now: Moment) {
        match self.step() {
            Some(Step::SendUrgent) => (self.produced, self.to_send) = (self.produced + 1, self.to_send + 1),
            _ => self.over = Some(Over::Left),
        }
        self.next(now);
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
            _ if self.over == Some(Over::Left) => Ending::Done,
            _ if self.over == Some(Over::Silent) => Ending::Silent,
            End::Finished if self.over == Some(Over::Early) => Ending::EarlyEnd,
            End::Finished => Ending::Done,
            End::Failed(error) if verdict::is_reset(error) => Ending::Reset("reset".to_owned()),
            end => Ending::Reset(end.to_string()),
        };
        Seen {
            ending,
            connected_after: self.connected_after,
            planned: self.planned(),
            sent: self.produced,
            returned: self.returned,
            wrong_at: self.wrong_at,
            wrong: self.wrong.clone(),
            step: self.step(),
            first_echo: self.first_echo,
            after: now.since(self.connected),
            in_step: now.since(self.step_began),
            sent_while_deaf: self.sent_while_deaf,
            sent_when_stuck: self.sent_when_stuck,
            answer: self.answer.clone(),
            unanswered: self.question.is_some() && self.answer.is_none(),
            greeted_after: self.greeted_after,
            missing: self.missing(),
            local: self.local,
            segment: self.segment,
            stream: self.pattern.first_word(),
            cause: self.cause.filter(|_| self.connected_after.is_some() || verdict::is_unanswered(end)),
            way: None,
        }
    }

    /// How many bytes are to come in all.
    fn planned(&self) -> u64 {
        let sent = |step: &Step| match step {
            Step::Send(count) => *count,
            Step::SendUrgent => 1,
            _ => 0,
        };
        self.asked_for().unwrap_or_else(|| self.steps.iter().map(sent).sum())
    }

    /// How many bytes a partner was asked for, if it was asked for other things than an echo.
    fn asked_for(&self) -> Option<u64> {
        match self.question? {
            Question::Finish(bytes) | Question::Reset(bytes) | Question::Close(bytes, _) => Some(bytes),
            Question::Hold(_) => Some(0),
            Question::Who | Question::End(..) | Question::Account(_) | Question::Greet(_) => None,
        }
    }

    /// The stream of what comes.
    fn incoming(&self) -> Pattern {
        let partners = self.asked_for().and(self.answer.as_ref()).and_then(|answer| answer.hex("stream"));
        partners.map_or(self.pattern, |word| Pattern::with_word(word.to_be_bytes(), 0))
    }

    /// How many bytes may come now.
    fn owed(&self) -> u64 {
        self.asked_for().unwrap_or(self.produced) - self.returned
    }

    fn missing(&self) -> Option<u64> {
        let at = self.wrong_at.filter(|_| self.wrong.len() >= WORD / 2)?;
        let stream = self.incoming();
        (1..=FEW).find(|missing| stream.matching(at + missing, &self.wrong) == self.wrong.len())
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
        self.told = false;
        self.moved(now);
        self.enter();
    }

    fn moved(&mut self, now: Moment) {
        self.last_moved = self.last_moved.max(now);
    }

    /// Takes the part of `input` that belongs to the reply to our question. Returns how many bytes that are.
    fn hear_reply(&mut self, input: &[u8], out: &mut Outbox<'_>) -> usize {
        let Some(asking) = &mut self.asking else { return 0 };
        let heard = asking.hear(input);
        let Some(reply) = asking.reply().cloned() else {
            self.moved(out.now());
            return heard;
        };
        self.asking = None;
        self.step_began = out.now();
        self.moved(out.now());
        match reply {
            Reply::Answer(answer) => self.answer = Some(answer),
            // No partner is there. Nothing of the plan can be done, and what comes is of no interest.
            Reply::Echoed | Reply::Foreign => self.at = self.steps.len(),
        }
        if self.step().is_none() {
            self.over = Some(Over::Left);
            out.abort();
        }
        heard
    }

    /// Takes the part of `input` that belongs to a greeting.
    fn hear_greeting(&mut self, input: &[u8], now: Moment) -> usize {
        if self.step().is_none()
            || self.returned > 0
            || !self.steps.iter().any(|step| matches!(step, Step::AwaitGreeting(_)))
        {
            return 0;
        }
        let left = &GREETING.as_bytes()[self.greeting..];
        let count = left.iter().zip(input).take_while(|(expected, got)| expected == got).count();
        let owed = usize::try_from(self.owed()).unwrap_or(usize::MAX).min(input.len());
        if self.greeting == 0 && self.incoming().matching(0, &input[..owed]) > count {
            return 0; // It is the echo, which begins like a greeting by chance.
        }
        self.greeting += count;
        if count > 0 && self.greeting == GREETING.len() {
            self.greeted_after = Some(now.since(self.connected));
        }
        count
    }
}

/// What decides how a conversation is over, beside what the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The peer's FIN came before the steps were done.
    Early,
    /// Nothing moved for too long.
    Silent,
    /// We left it: with a reset, or as everything was known.
    Left,
}

/// What a conversation asks its role for: what a protocol cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Send this byte as an urgent one.
    SendUrgent([u8; 1]),
    /// Reset the connection.
    Reset,
}

impl Protocol for Conversation {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let length = input.len();
        let replied = self.hear_reply(input, out);
        let input = &input[replied..];
        if input.is_empty() || out.is_ending() {
            return length;
        }
        let input = &input[self.hear_greeting(input, out.now())..];
        let mut right = 0;
        if self.wrong_at.is_none() {
            let owed = usize::try_from(self.owed()).unwrap_or(usize::MAX);
            right = self.incoming().matching(self.returned, &input[..input.len().min(owed)]);
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
        length
    }

    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        if self.connected_after.is_none() {
            return Produced::Nothing;
        }
        if let Some(asking) = &mut self.asking {
            let count = asking.fill(space);
            self.asked += count as u64;
            return if count > 0 { Produced::Bytes(count) } else { Produced::Nothing };
        }
        loop {
            match self.step() {
                Some(Step::Send(_)) if self.produced < self.to_send => {
                    let left = usize::try_from(self.to_send - self.produced).unwrap_or(usize::MAX);
                    let count = left.min(space.len());
                    self.pattern.fill(self.produced, &mut space[..count]);
                    let now = clock.now();
                    if self.produced > 0 && now.since(self.last_produced) >= STUCK {
                        self.sent_when_stuck.get_or_insert(self.produced);
                    }
                    self.last_produced = now;
                    self.produced += count as u64;
                    self.moved(now);
                    return if count > 0 { Produced::Bytes(count) } else { Produced::Nothing };
                }
                // Whatever is wrong, waiting for it to become right is in vain.
                Some(Step::AwaitEcho) if self.owed() > 0 && self.wrong_at.is_none() => {
                    return Produced::Nothing;
                }
                Some(Step::AwaitGreeting(_)) if self.greeted_after.is_none() => return Produced::Nothing,
                Some(Step::Quiet(_) | Step::AwaitEnd | Step::SendUrgent | Step::Reset) | None => {
                    return Produced::Nothing;
                }
                Some(Step::Send(_) | Step::AwaitEcho | Step::AwaitGreeting(_)) => self.next(clock.now()),
                Some(Step::ShutDown) => {
                    self.next(clock.now());
                    return Produced::Finished;
                }
            }
        }
    }

    fn end_of_input<'a>(&mut self, _rest: &'a [u8], out: &mut Outbox<'a>) {
        self.moved(out.now());
        if self.step() == Some(Step::AwaitEnd) && self.asking.is_none() {
            self.next(out.now());
            if self.at < self.steps.len() {
                return; // Our direction goes on.
            }
        } else if self.at < self.steps.len() || self.asking.is_some() {
            self.over = Some(Over::Early);
        }
        out.shut_down();
    }

    fn deadline(&self) -> Option<Moment> {
        self.connected_after?; // The connect has a time limit of its own.
        match self.step() {
            _ if self.asking.is_some() => Some(self.last_moved.plus(self.patience)),
            Some(Step::Quiet(time) | Step::AwaitGreeting(time)) => Some(self.step_began.plus(time)),
            // Now: only in a deadline can the role be told of it.
            Some(Step::SendUrgent | Step::Reset) if !self.told => Some(self.step_began),
            _ => Some(self.last_moved.plus(self.patience)),
        }
    }

    fn deadline_passed(&mut self, out: &mut Outbox<'_>) {
        match self.step() {
            _ if self.asking.is_some() => {}
            Some(Step::Quiet(_) | Step::AwaitGreeting(_)) => return self.next(out.now()),
            Some(Step::SendUrgent | Step::Reset) if !self.told => {
                self.told = true;
                return out.notify();
            }
            _ => {}
        }
        self.over = Some(Over::Silent);
        out.abort();
    }

    /// Looks why nothing moves.
    fn ending(&mut self, look: &dyn Fn() -> Option<TcpState>) {
        if self.connected_after.is_none() {
            self.cause = look().map(|state| Cause::of_connect(&state));
        } else if self.over == Some(Over::Silent) {
            // What the kernel acknowledged counts the question as well.
            self.cause = look().map(|state| Cause::of_silence(&state, self.returned + self.asked));
        }
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
            sent_when_stuck: None,
            answer: None,
            unanswered: false,
            greeted_after: None,
            missing: None,
            local: None,
            segment: None,
            stream: 0,
            cause: None,
            way: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rehearsal::Rehearsal;

    #[test]
    fn an_echo_that_begins_like_a_greeting_is_the_echo() {
        let steps = vec![Step::AwaitGreeting(Duration::from_secs(1)), Step::Send(22), Step::AwaitEcho];
        let plan = Plan { steps, ..Plan::default() };
        let begins_like_one = |pattern: &Pattern| pattern.matching(0, &GREETING.as_bytes()[..1]) == 1;
        let pattern = (0..1_000_000).map(|number| Pattern::new(7, number)).find(begins_like_one).unwrap();
        for greeting in ["", GREETING] {
            let mut rehearsal = Rehearsal::new(Conversation::new(&plan, pattern, Duration::from_secs(5)));
            let now = rehearsal.now();
            rehearsal.protocol_mut().connected(now, Duration::ZERO, Duration::ZERO);
            rehearsal.receive(greeting.as_bytes());
            rehearsal.pass(Duration::from_secs(1));
            let sent = rehearsal.sent();
            assert_eq!(sent.len(), 22);
            rehearsal.receive(&sent);
            let seen = rehearsal.protocol().seen(&End::Finished, rehearsal.now());
            assert_eq!((seen.wrong_at, seen.returned), (None, 22), "{greeting:?}");
            assert_eq!(seen.greeted_after.is_some(), !greeting.is_empty());
        }
    }
}
