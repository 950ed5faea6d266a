//! The partner of a probe: an echo server that does more for a connection whose first line asks for it.
//!
//! Owns what the server does for such a connection ([`Partner`]), and what it remembers of connections that are over
//! ([`Partners`]). Every other connection is echoed as by any echo server. The language is [`question`]'s.

pub mod account;
pub mod accounts;
mod proxy_header;
pub mod question;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::Duration;

use mio::Token;

use self::account::Account;
use self::proxy_header::Front;
use self::question::{Asked, GREETING, Heard, MOST_GREETINGS, OPENING, Question};
use crate::client::pattern::Pattern;
use crate::client::verdict;
use crate::engine::connection::{Connection, End};
use crate::engine::event_loop::{Event, EventLoop};
use crate::engine::log_budget::LogBudget;
use crate::engine::peer_addr::PeerAddr;
use crate::engine::protocol::{Outbox, Produced, Protocol};
use crate::engine::sockets;
use crate::engine::time::{Clock, Moment};
use crate::server::echo::Echo;

/// How many connections that are over can be asked for. Each takes some 150 bytes.
pub const REMEMBERED: usize = 4096;

/// A connection that was silent for this long says nothing by itself, and may be greeted.
const SILENT: Duration = Duration::from_millis(300);

/// For how long a question for greetings holds. No other connection is greeted, so it is short.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// One connection of a server that is a partner.
#[derive(Debug)]
pub struct Partner {
    /// Counted from 1 by [`Partners`].
    number: u64,
    /// What is sent to a peer that asks for bytes.
    stream: Pattern,
    /// Whether it asked a question. Its bytes are nothing to read then.
    asked: bool,
    /// The PROXY header in front.
    proxy: Option<String>,
    /// What others may ask about. The role holds it too.
    record: Rc<RefCell<Record>>,
    state: State,
    /// What the role is to do.
    wish: Option<Wish>,
}

#[derive(Debug)]
enum State {
    /// Nothing came yet, but perhaps a PROXY header. If nothing comes until then, the peer may be greeted.
    Fresh(Option<Moment>),
    /// What came so far may be a question. It is echoed in any case.
    Opening(Asked),
    /// A question was answered, and its empty line is missing.
    Answered(Question),
    /// What comes is echoed.
    Echo,
    /// What comes is counted only.
    Sink,
    /// Nothing is read until then. So many bytes are sent then and the socket closed, or it is read on.
    Holding { until: Moment, then: Option<u64> },
    /// A part of our stream is yet to be sent, and a FIN behind it or a reset.
    Sending { from: u64, to: u64, reset: bool },
    /// Everything was sent that comes before a reset or a close.
    Sent(LastAct),
    /// The role knows it.
    Ending,
}

/// How the role ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastAct {
    Reset,
    Close,
}

/// What a connection asks its role for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Answer(Result<Question, &'static str>),
    /// A time of reading nothing is over.
    ReadOn,
    Greet,
    End(LastAct),
}

impl Default for Partner {
    fn default() -> Partner {
        Partner {
            number: 0,
            stream: Pattern::new(0, 0),
            asked: false,
            proxy: None,
            record: Rc::new(RefCell::new(Record { account: Account::default(), unread: None, state: "open" })),
            state: State::Fresh(None),
            wish: None,
        }
    }
}

impl Partner {
    fn ask(&mut self, wish: Wish, out: &mut Outbox<'_>) {
        self.wish = Some(wish);
        out.notify();
    }

    fn echo<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        self.record.borrow_mut().account.receive(input);
        out.send(input);
        input.len()
    }

    /// Echoes bytes that may be a question, to the end of its line. Returns how many.
    fn open<'a>(&mut self, mut asked: Asked, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        for (index, &byte) in input.iter().enumerate() {
            match asked.hear(byte) {
                Heard::Part => {}
                Heard::Nothing => {
                    self.state = State::Echo;
                    return self.echo(input, out);
                }
                Heard::Whole(question) => {
                    out.send(&input[..=index]);
                    self.asked = true;
                    self.record.borrow_mut().account = Account::default(); // The question is no part of a stream.
                    self.state = State::Answered(question.unwrap_or(Question::Who));
                    self.ask(Wish::Answer(question), out);
                    out.hold(); // The role's answer goes out in front of the next echo.
                    return index + 1;
                }
            }
        }
        self.state = State::Opening(asked);
        self.echo(input, out)
    }

    /// Echoes the empty line behind a question, and begins what was asked for.
    fn begin<'a>(&mut self, question: Question, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        if !input.starts_with(b"\n") {
            self.state = State::Echo;
            return self.echo(input, out);
        }
        out.send(&input[..1]);
        let now = out.now();
        let mut hold = |time, then| {
            out.hold();
            State::Holding { until: now.plus(time), then }
        };
        self.state = match question {
            Question::Who | Question::End(..) | Question::Account(_) | Question::Greet(_) => State::Echo,
            Question::Finish(to) => State::Sending { from: 0, to, reset: false },
            Question::Reset(to) => State::Sending { from: 0, to, reset: true },
            Question::Close(to, time) => hold(time, Some(to)),
            Question::Hold(time) => hold(time, None),
        };
        1
    }

    /// The role has counted it as the connection with that number.
    fn accepted(&mut self, number: u64, stream: Pattern, greet_at: Option<Moment>) {
        (self.number, self.stream) = (number, stream);
        if let State::Fresh(when) = &mut self.state {
            *when = greet_at;
        }
    }
}

impl Protocol for Partner {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let mut length = 0;
        if let State::Fresh(_) = self.state {
            if self.proxy.is_none() {
                match proxy_header::front(input) {
                    Front::Partial => return 0,
                    Front::None => {}
                    Front::Header { length: header, named } => (length, self.proxy) = (header, Some(named)),
                }
            }
            if length == input.len() {
                return length; // The header is the proxy's. Whom it speaks for has said nothing, and may be greeted.
            }
            self.state = State::Opening(Asked::default());
        }
        let rest = &input[length..];
        length
            + match &mut self.state {
                State::Opening(asked) => {
                    let asked = std::mem::take(asked);
                    self.open(asked, rest, out)
                }
                &mut State::Answered(question) => self.begin(question, rest, out),
                State::Fresh(_) | State::Echo => self.echo(rest, out),
                State::Holding { .. } => {
                    out.hold();
                    0
                }
                State::Sink | State::Sending { .. } | State::Sent(_) | State::Ending => {
                    self.record.borrow_mut().account.receive(rest);
                    rest.len()
                }
            }
    }

    fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
        let State::Sending { from, to, reset } = &mut self.state else { return Produced::Nothing };
        let count = usize::try_from(*to - *from).unwrap_or(usize::MAX).min(space.len());
        if count > 0 {
            self.stream.fill(*from, &mut space[..count]);
            *from += count as u64;
            return Produced::Bytes(count);
        }
        if *reset {
            self.state = State::Sent(LastAct::Reset);
            return Produced::Nothing;
        }
        self.state = State::Sink;
        Produced::Finished
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        match self.state {
            // There is more to come from us, and its own end.
            State::Sending { .. } | State::Sent(_) | State::Ending => {}
            _ => {
                self.echo(rest, out); // The beginning of what might have become a PROXY header.
                out.shut_down();
            }
        }
    }

    /// Where a drain cuts our stream short, a FIN would say that it was everything.
    fn last_words(&mut self, out: &mut Outbox<'_>) {
        if let State::Sending { .. } = self.state {
            out.copy(&[0]); // It is lost, and what loses bytes ends with a reset.
            out.abort();
        }
    }

    fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Fresh(greet_at) => greet_at,
            State::Holding { until, .. } => Some(until),
            State::Sent(_) => Some(Moment::START), // Now: only in a deadline can the role be told of it.
            _ => None,
        }
    }

    fn deadline_passed(&mut self, out: &mut Outbox<'_>) {
        match self.state {
            State::Fresh(_) => {
                self.state = State::Fresh(None);
                self.ask(Wish::Greet, out); // Others may have been silent for as long.
            }
            // What came meanwhile stays unread.
            State::Holding { then: Some(count), .. } => {
                let mut bytes = vec![0; usize::try_from(count).unwrap_or_default()];
                self.stream.fill(0, &mut bytes);
                out.copy(&bytes);
                self.state = State::Sent(LastAct::Close);
            }
            State::Holding { then: None, .. } => {
                self.state = State::Sink;
                self.ask(Wish::ReadOn, out);
            }
            State::Sent(end) => {
                self.state = State::Ending;
                self.ask(Wish::End(end), out);
            }
            _ => {}
        }
    }

    fn log_sent(&self, bytes: &[u8], peer: &PeerAddr, log: &mut LogBudget) {
        if !self.asked {
            Echo.log_sent(bytes, peer, log);
        }
    }
}

/// What is known of a connection.
#[derive(Debug)]
struct Record {
    /// What came behind the question, or in all if there was none.
    account: Account,
    /// How many bytes were unread when a time of reading nothing was over.
    unread: Option<u64>,
    /// "open", or how it ended.
    state: &'static str,
}

/// The role's part of a partner: counts connections, answers questions, and remembers how connections ended.
#[derive(Debug)]
pub struct Partners {
    /// Names this server among several behind one address.
    server: u64,
    accepted: u64,
    /// How many more connections may be greeted, and until when.
    greetings: (u64, Moment),
    /// All connections that are open, and those that ended last.
    records: BTreeMap<u64, Rc<RefCell<Record>>>,
    /// Those that are over, in that order.
    ended: VecDeque<u64>,
}

impl Default for Partners {
    fn default() -> Partners {
        let server = RandomState::new().build_hasher().finish(); // std's source of random numbers.
        let greetings = (0, Moment::START);
        Partners { server, accepted: 0, greetings, records: BTreeMap::new(), ended: VecDeque::new() }
    }
}

impl Partners {
    /// Does what an event asks for. To be called with every event of the loop.
    pub fn handle(&mut self, event: &Event<Partner>, event_loop: &mut EventLoop<Partner>) {
        match event {
            Event::Accepted { token, .. } => {
                self.accepted += 1;
                let now = event_loop.now();
                let greet_at = (self.greetings.0 > 0 && now < self.greetings.1).then(|| now.plus(SILENT));
                let stream = Pattern::new(self.server.wrapping_add(self.accepted), 0);
                if let Some(partner) = event_loop.protocol_mut(*token) {
                    partner.accepted(self.accepted, stream, greet_at);
                    self.records.insert(self.accepted, Rc::clone(&partner.record));
                }
                if greet_at.is_some() {
                    event_loop.wake(*token); // Its deadline has changed.
                }
            }
            Event::Notified { token } => self.grant(*token, event_loop),
            Event::Closed { protocol, end, .. } => {
                protocol.record.borrow_mut().state = match end {
                    End::Finished => "fin",
                    End::Failed(error) if verdict::is_reset(error) => "reset",
                    _ => "other",
                };
                if protocol.number == 0 {
                    return; // The poller did not take it, and nobody was told its number.
                }
                self.ended.push_back(protocol.number);
                if self.ended.len() > REMEMBERED
                    && let Some(forgotten) = self.ended.pop_front()
                {
                    self.records.remove(&forgotten);
                }
            }
            _ => {}
        }
    }

    /// Does what a connection asks for.
    fn grant(&mut self, token: Token, event_loop: &mut EventLoop<Partner>) {
        let wish = event_loop.protocol_mut(token).and_then(|partner| partner.wish.take());
        match wish {
            None => {}
            Some(Wish::Answer(question)) => {
                let answer = match question {
                    Ok(question) => self.answer(question, token, event_loop),
                    Err(why) => format!("{OPENING}error {why}\n"),
                };
                // It is short, and little was sent before it: there is room.
                let _ = event_loop.send(token, answer.as_bytes());
                event_loop.wake(token);
            }
            Some(Wish::ReadOn) => {
                let socket = event_loop.connection(token).map(Connection::transport);
                let unread = socket.and_then(|socket| rustix::io::ioctl_fionread(socket).ok());
                if let Some(partner) = event_loop.protocol_mut(token) {
                    partner.record.borrow_mut().unread = unread;
                }
                event_loop.wake(token);
            }
            Some(Wish::Greet) if self.greetings.0 == 0 => {}
            Some(Wish::Greet) => {
                self.greetings.0 -= 1;
                let _ = event_loop.send(token, GREETING.as_bytes());
            }
            Some(Wish::End(LastAct::Reset)) => event_loop.reset(token),
            Some(Wish::End(LastAct::Close)) => {
                // What came with the question was read with it: the kernel does not know that it was not looked at.
                if event_loop.connection(token).is_some_and(|connection| connection.inbound_len() > 0) {
                    event_loop.reset(token);
                } else {
                    event_loop.close(token);
                }
            }
        }
    }

    fn answer(&mut self, question: Question, token: Token, event_loop: &EventLoop<Partner>) -> String {
        let mut answer = format!("{OPENING}ok server={:016x}", self.server);
        let found = match question {
            Question::Greet(count) => {
                let now = event_loop.now();
                // Those that another probe asked for just now are owed as well.
                let owed = if now < self.greetings.1 { self.greetings.0 } else { 0 };
                self.greetings = ((owed + count).min(MOST_GREETINGS), now.plus(GREETING_TIME));
                None
            }
            Question::End(server, _) if server != self.server => Some(None),
            Question::End(_, number) => Some(self.records.get(&number)),
            // The newest one first: a run that is repeated has the same streams.
            Question::Account(word) => {
                Some(self.records.values().rev().find(|record| record.borrow().account.first_word() == Some(word)))
            }
            Question::Who | Question::Finish(_) | Question::Reset(_) | Question::Close(..) | Question::Hold(_) => None,
        };
        match found {
            Some(Some(record)) => {
                let Record { account, unread, state } = &*record.borrow();
                let (received, right) = (account.received(), account.right());
                let _ = write!(answer, " state={state} received={received} right={right}");
                if let Some(unread) = unread {
                    let _ = write!(answer, " unread={unread}");
                }
            }
            Some(None) => answer += " state=unknown",
            None => {
                if let Some(connection) = event_loop.connection(token) {
                    let Partner { number, stream, proxy, .. } = connection.protocol();
                    let _ = write!(answer, " connection={number} stream={:016x}", stream.first_word());
                    let _ = write!(answer, " peer={}", connection.addr());
                    if let Ok(local) = connection.transport().local_addr() {
                        let _ = write!(answer, " local={}", sockets::canonical(local));
                    }
                    let _ = write!(answer, " proxy={}", proxy.as_deref().unwrap_or("none"));
                }
            }
        }
        answer + "\n"
    }
}
