//! Slow computations beside the loop: a thread counts prime numbers, and every connection is served meanwhile.
//!
//!     cargo run --release --example worker [HOST [PORT]]
//!     nc 127.0.0.1 65432          and type 3000000
//!
//! One thread serves all connections, so nothing on it may take long. Here the way of a question is this:
//!
//! 1. The protocol reads a line, keeps the number, notifies the role, and takes nothing more (`Outbox::hold`): at most one
//!    question of each connection is under way, and its peer waits.
//! 2. The role hands the question to the worker's thread over a channel.
//! 3. The worker puts its answer into another channel and wakes the loop (`Handle::wake`).
//! 4. The role sends the answer and wakes the connection, which reads its next line.
//!
//! A connection may end while its question is under way, and its token may go to a new connection. So each question has a
//! number of its own: an answer goes only to a connection that waits for an answer of that number.

use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use multiconn::cli::{self, Verbosity};
use multiconn::server::{Config, Ending, Server};
use multiconn::{Event, EventLoop, Handle, Outbox, Protocol, Token};

/// The largest limit that is taken, so that one question does not keep the worker from the others for minutes.
const MOST: u64 = 10_000_000;

/// What a connection is doing.
enum Asker {
    Reading,
    /// It has asked for the primes below this number; the role has yet to take the question.
    Asked(u64),
    /// Its question has this number.
    Waiting(u64),
}

impl Protocol for Asker {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let Some(end) = input.iter().position(|&byte| byte == b'\n') else { return 0 };
        let number = str::from_utf8(&input[..end]).ok().and_then(|line| line.trim().parse().ok());
        if let Some(limit) = number.filter(|&number| number <= MOST) {
            *self = Asker::Asked(limit);
            out.notify();
            out.hold(); // Not even the end of input is read before the answer is sent.
        } else {
            out.copy(format!("each line is a number up to {MOST}\n").as_bytes());
            out.finish();
        }
        end + 1
    }
}

/// Which primes to count, and who waits for their number.
struct Question {
    token: Token,
    number: u64,
    limit: u64,
}

/// The worker, as the role sees it.
struct Desk {
    questions: Sender<Question>,
    answers: Receiver<(Question, usize)>,
    asked: u64,
    answered: u64,
}

impl Desk {
    fn handle(&mut self, event: &Event<Asker>, event_loop: &mut EventLoop<Asker>) {
        match *event {
            Event::Notified { token } => self.ask(token, event_loop),
            Event::Woken => {
                while let Ok((question, primes)) = self.answers.try_recv() {
                    self.answered += 1;
                    answer(&question, primes, event_loop);
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, token: Token, event_loop: &mut EventLoop<Asker>) {
        let Some(asker) = event_loop.protocol_mut(token) else { return };
        let Asker::Asked(limit) = *asker else { return };
        let (number, before) = (self.asked, self.asked - self.answered);
        *asker = Asker::Waiting(number);
        self.asked += 1;
        let _ = self.questions.send(Question { token, number, limit }); // The worker lives as long as this sender.
        say(&format!("questions before yours: {before}\n"), token, event_loop);
    }
}

fn answer(question: &Question, primes: usize, event_loop: &mut EventLoop<Asker>) {
    let &Question { token, number, limit } = question;
    let Some(asker) = event_loop.protocol_mut(token) else { return };
    if matches!(asker, Asker::Waiting(own) if *own == number) {
        *asker = Asker::Reading;
        say(&format!("{primes} primes below {limit}\n"), token, event_loop);
        event_loop.wake(token);
    }
}

/// Sends a whole line. A peer that reads none of its answers is closed when its buffer is full.
fn say(line: &str, token: Token, event_loop: &mut EventLoop<Asker>) {
    if event_loop.send(token, line.as_bytes()) != Ok(line.len()) {
        event_loop.close(token);
    }
}

/// The worker: answers one question after the other, until there is nobody who could ask.
fn work(questions: &Receiver<Question>, answers: &Sender<(Question, usize)>, handle: &Handle) {
    for question in questions {
        let primes = (2..question.limit).filter(|&number| is_prime(number)).count();
        if answers.send((question, primes)).is_err() {
            return; // The loop has ended.
        }
        let _ = handle.wake(); // Where that fails, the answer waits for the next one that succeeds.
    }
}

/// By trying all divisors: slow is what this example is about.
fn is_prime(number: u64) -> bool {
    (2..=number.isqrt()).all(|divisor| !number.is_multiple_of(divisor))
}

fn main() -> ExitCode {
    cli::start_logging(Verbosity::default());
    let (host, port) = match cli::host_and_port() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::served(serve(&host, port))
}

fn serve(host: &str, port: u16) -> anyhow::Result<Ending> {
    let mut server = Server::bind(host, port, &Config::default(), |_| Asker::Reading)
        .map_err(|error| cli::cannot_listen(host, port, &error))?;
    server.catch_signals()?;
    let handle = server.handle()?;
    let (questions, asked) = mpsc::channel();
    let (answered, answers) = mpsc::channel();
    thread::spawn(move || work(&asked, &answered, &handle));
    let mut desk = Desk { questions, answers, asked: 0, answered: 0 };
    Ok(server.run_with(|event, event_loop| desk.handle(&event, event_loop))?)
}
