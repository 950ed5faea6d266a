//! The language of the probe and its partner: one line that asks, and one line that answers (docs/probe-protocol.md).
//!
//! Owns both lines, their limits, and the asking of a question over a connection. Decides nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::client::direction::Received;

/// What every line of the language begins with; the number is that of the language.
pub const OPENING: &str = "multiconn-probe/1 ";

/// What a server that was asked to greet says to a connection that says nothing.
pub const GREETING: &str = "multiconn-probe/1 greeting\n";

/// A longer line asks nothing: the longest question has some 60 bytes.
pub const LONGEST_QUESTION: usize = 96;

/// A longer line is no answer: the longest one, with three IPv6 addresses, has some 260 bytes.
const LONGEST_ANSWER: usize = 512;

/// A question ends with an empty line. A partner answers in front of its echo; so an echo server that is none is known
/// by the empty line, and nobody has to wait for an answer that does not come.
const END: &str = "\n\n";

/// The most bytes that a partner sends behind a question.
pub const MOST_BYTES: u64 = 64 << 20;

/// The most bytes that a partner sends in front of a reset or a close: they fit any socket's buffer. Those that the peer's
/// window or a new connection's first ten segments do not let out at once are lost at the end that follows.
pub const MOST_LAST_BYTES: u64 = 16 << 10;

/// The longest time for which a partner reads nothing.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The most connections that one question lets a partner greet.
pub const MOST_GREETINGS: u64 = 16;

/// What a connection can ask a partner for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who are you, and who am I to you? Everything that follows is echoed.
    Who,
    /// Send this many bytes and a FIN, and read on to the peer's.
    Finish(u64),
    /// Send this many bytes and a reset.
    Reset(u64),
    /// Read nothing for a time, send this many bytes then, and close the socket with what is unread.
    Close(u64, Duration),
    /// Read nothing for a time, and then everything. Nothing is echoed.
    Hold(Duration),
    /// What became of a connection, by its server and its number there?
    End(u64, u64),
    /// What came in of the generated stream that begins with this word?
    Account(u64),
    /// Greet this many of the next connections that say nothing.
    Greet(u64),
}

/// The question's line, without its end.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(OPENING)?;
        match self {
            Question::Who => f.write_str("who"),
            Question::Finish(bytes) => write!(f, "finish {bytes}"),
            Question::Reset(bytes) => write!(f, "reset {bytes}"),
            Question::Close(bytes, after) => write!(f, "close {bytes} {}", after.as_millis()),
            Question::Hold(time) => write!(f, "hold {}", time.as_millis()),
            Question::End(server, connection) => write!(f, "end {server:016x} {connection}"),
            Question::Account(word) => write!(f, "account {word:016x}"),
            Question::Greet(count) => write!(f, "greet {count}"),
        }
    }
}

/// Reads a line without its end. What is wrong with it is said in words that are sent back.
impl FromStr for Question {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Question, &'static str> {
        let mut words = line.strip_prefix(OPENING).ok_or("not a question of this version")?.split(' ');
        let question = match words.next() {
            Some("who") => Question::Who,
            Some("finish") => Question::Finish(number(words.next(), MOST_BYTES)?),
            Some("reset") => Question::Reset(number(words.next(), MOST_LAST_BYTES)?),
            Some("close") => Question::Close(number(words.next(), MOST_LAST_BYTES)?, pause(words.next())?),
            Some("hold") => Question::Hold(pause(words.next())?),
            Some("end") => Question::End(name(words.next())?, number(words.next(), u64::MAX)?),
            Some("account") => Question::Account(name(words.next())?),
            Some("greet") => Question::Greet(number(words.next(), MOST_GREETINGS)?),
            _ => return Err("unknown question"),
        };
        match words.next() {
            None => Ok(question),
            Some(_) => Err("too many words"),
        }
    }
}

/// A decimal number up to `most`.
fn number(word: Option<&str>, most: u64) -> Result<u64, &'static str> {
    let digits = word.filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()) && !word.is_empty());
    let digits = digits.ok_or("a number is missing")?;
    digits.parse().ok().filter(|&number| number <= most).ok_or("a number is too large")
}

/// A name of 16 hexadecimal digits.
fn name(word: Option<&str>) -> Result<u64, &'static str> {
    let digits = word.filter(|word| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or("16 hexadecimal digits are missing")
}

fn pause(word: Option<&str>) -> Result<Duration, &'static str> {
    let most = u64::try_from(LONGEST_PAUSE.as_millis()).unwrap_or(u64::MAX);
    Ok(Duration::from_millis(number(word, most)?))
}

/// A partner's answer: names and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Vec<(String, String)>);

impl Answer {
    /// Reads a line without its end; `None` if it is no answer, or says that something is wrong. Values are printed, so
    /// nothing may be in them that a terminal takes for a command.
    fn of(line: &str) -> Option<Answer> {
        if line.contains(|letter: char| letter != ' ' && !letter.is_ascii_graphic()) {
            return None;
        }
        let pairs = line.strip_prefix(OPENING)?.strip_prefix("ok ")?.split(' ');
        let pairs = pairs.map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
        pairs.collect::<Option<_>>().map(Answer)
    }

    /// The value with that name.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The decimal number with that name.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// What it says of a stream, if the partner keeps an account of it.
    #[must_use]
    pub fn received(&self) -> Option<Received> {
        Some(Received { bytes: self.number("received")?, right: self.number("right")? })
    }

    /// The hexadecimal number with that name.
    #[must_use]
    pub fn hex(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(self.text(name)?, 16).ok()
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A partner's answer.
    Answer(Answer),
    /// The question came back, and no answer of a partner: an echo server that is none, or one that did not understand.
    Echoed,
    /// Something else came.
    Foreign,
}

/// A question on its way over a connection, as its first bytes.
#[derive(Debug)]
pub struct Asking {
    text: String,
    sent: usize,
    /// What came back. It grows no further than question and answer together.
    heard: Vec<u8>,
    reply: Option<Reply>,
}

impl Asking {
    /// Asks that.
    #[must_use]
    pub fn new(question: Question) -> Asking {
        Asking { text: format!("{question}{END}"), sent: 0, heard: Vec::new(), reply: None }
    }

    /// Puts the next bytes of the question into `space`; returns how many, and 0 when all are sent.
    pub fn fill(&mut self, space: &mut [u8]) -> usize {
        let left = &self.text.as_bytes()[self.sent..];
        let count = left.len().min(space.len());
        space[..count].copy_from_slice(&left[..count]);
        self.sent += count;
        count
    }

    /// Takes what came. Returns how many of its bytes belong to the reply: all, until it is whole.
    pub fn hear(&mut self, input: &[u8]) -> usize {
        for (index, &byte) in input.iter().enumerate() {
            if self.reply.is_some() {
                return index;
            }
            self.heard.push(byte);
            self.judge();
        }
        input.len()
    }

    /// What came of it; `None`: that is not known yet.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    fn judge(&mut self) {
        let line = self.text.len() - 1; // The line with its newline; the empty one is echoed behind the answer.
        let echoed = self.heard.len().min(line);
        if self.heard[..echoed] != self.text.as_bytes()[..echoed] || self.heard.len() > line + LONGEST_ANSWER {
            self.reply = Some(Reply::Foreign);
            return;
        }
        let answer = &self.heard[echoed..];
        if answer == b"\n" {
            self.reply = Some(Reply::Echoed);
        } else if answer.ends_with(END.as_bytes()) {
            let line = str::from_utf8(&answer[..answer.len() - END.len()]).ok();
            let answer = line.and_then(Answer::of).filter(|answer| answer.hex("server").is_some());
            self.reply = Some(answer.map_or(Reply::Echoed, Reply::Answer));
        }
    }
}

/// The part of a question that has come in, at a partner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked(Vec<u8>);

/// What a partner makes of the next byte of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It may be a question.
    Part,
    /// Its line is whole: the answer goes out behind the echo of this byte.
    Whole(Result<Question, &'static str>),
    /// It is none, and the connection is like any other.
    Nothing,
}

impl Asked {
    /// Takes the next byte. Behind [`Heard::Whole`] only the empty line is missing.
    pub(super) fn hear(&mut self, byte: u8) -> Heard {
        let place = self.0.len();
        let fits = OPENING.as_bytes().get(place).is_none_or(|&expected| expected == byte);
        if !fits || place == LONGEST_QUESTION {
            return Heard::Nothing;
        }
        if byte != b'\n' {
            self.0.push(byte);
            return Heard::Part;
        }
        match str::from_utf8(&self.0) {
            Ok(line) => Heard::Whole(line.parse()),
            Err(_) => Heard::Nothing,
        }
    }
}

/// The answer with these names and values.
#[cfg(test)]
pub(crate) fn answer(pairs: &str) -> Answer {
    Answer::of(&format!("{OPENING}ok {pairs}")).expect("pairs")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Question; 8] = [
        Question::Who,
        Question::Finish(MOST_BYTES),
        Question::Reset(1_000),
        Question::Close(MOST_LAST_BYTES, Duration::from_millis(500)),
        Question::Hold(LONGEST_PAUSE),
        Question::End(u64::MAX, u64::MAX),
        Question::Account(7),
        Question::Greet(1),
    ];

    #[test]
    fn a_question_reads_back_as_itself_and_none_is_too_long() {
        for question in ALL {
            let line = question.to_string();
            assert!(line.len() < LONGEST_QUESTION, "{line}");
            assert_eq!(line.parse(), Ok(question), "{line}");
            let mut asked = Asked::default();
            assert!(line.bytes().all(|byte| asked.hear(byte) == Heard::Part), "{line}");
            assert_eq!(asked.hear(b'\n'), Heard::Whole(Ok(question)));
        }
    }

    #[test]
    fn what_is_no_question_is_said_to_be_wrong() {
        for (line, why) in [
            ("multiconn-probe/1 what", "unknown question"),
            ("multiconn-probe/1 finish", "a number is missing"),
            ("multiconn-probe/1 finish 67108865", "a number is too large"),
            ("multiconn-probe/1 reset -1", "a number is missing"),
            ("multiconn-probe/1 hold +5", "a number is missing"),
            ("multiconn-probe/1 hold 99999999999999999999", "a number is too large"),
            ("multiconn-probe/1 account ff", "16 hexadecimal digits are missing"),
            ("multiconn-probe/1 end  7", "16 hexadecimal digits are missing"),
            ("multiconn-probe/1 hold 60001", "a number is too large"),
            ("multiconn-probe/1 who are you", "too many words"),
            ("multiconn-probe/2 who", "not a question of this version"),
        ] {
            assert_eq!(line.parse::<Question>(), Err(why), "{line}");
        }
    }

    #[test]
    fn other_bytes_are_no_question() {
        for text in ["x", "multiconn-probe/2 who", "multiconn\n", &format!("{OPENING}{}", "a".repeat(LONGEST_QUESTION))]
        {
            let mut asked = Asked::default();
            assert_eq!(
                text.bytes().map(|byte| asked.hear(byte)).find(|heard| *heard != Heard::Part),
                Some(Heard::Nothing)
            );
        }
    }

    /// What is made of a question's echo with `answer` behind its line, in pieces of `piece` bytes; and of its rest.
    fn replied(answer: &str, piece: usize) -> (Option<Reply>, usize) {
        let mut asking = Asking::new(Question::Who);
        let mut space = [0; 100];
        let count = asking.fill(&mut space);
        assert_eq!(&space[..count], b"multiconn-probe/1 who\n\n");
        assert_eq!(asking.fill(&mut space), 0);
        let reply = format!("multiconn-probe/1 who\n{answer}\nrest");
        let heard: usize = reply.as_bytes().chunks(piece).map(|piece| asking.hear(piece)).sum();
        (asking.reply().cloned(), reply.len() - heard)
    }

    #[test]
    fn an_answer_an_echo_and_anything_else_are_told_apart_however_they_are_cut() {
        for piece in [1, 7, 1000] {
            let (reply, rest) = replied("multiconn-probe/1 ok server=00ff connection=7 peer=127.0.0.1:9\n", piece);
            let Some(Reply::Answer(answer)) = reply else { panic!("{reply:?}") };
            assert_eq!((answer.hex("server"), answer.number("connection"), rest), (Some(255), Some(7), 4));
            assert_eq!((answer.text("peer"), answer.text("local")), (Some("127.0.0.1:9"), None));
            assert_eq!(replied("", piece), (Some(Reply::Echoed), 4));
            assert_eq!(replied("multiconn-probe/1 error unknown question\n", piece), (Some(Reply::Echoed), 4));
            for wrong in ["state=fin", "server=", "server=x", "server=7 proxy=v1,\x1b[2J", "server=7  state=fin"] {
                let wrong = format!("multiconn-probe/1 ok {wrong}\n");
                assert_eq!(replied(&wrong, piece).0, Some(Reply::Echoed), "{wrong:?}");
            }
            assert_eq!(replied(&"x".repeat(LONGEST_ANSWER), piece).0, Some(Reply::Foreign));
        }
        let mut asking = Asking::new(Question::Who);
        assert_eq!((asking.hear(b"HTTP/1.1"), asking.reply()), (1, Some(&Reply::Foreign)));
    }
}
