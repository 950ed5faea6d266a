//! What the loop's connections do with their bytes: the product's two protocols, one that uses all that a protocol may ask
//! for, and one for connections that are joined to another.
//!
//! Owns the thinker and the forwarder. Knows no network.

use std::collections::VecDeque;

use multiconn::client::exchange::Exchange;
use multiconn::internals::protocol::{Expects, Outbox, Produced, Protocol};
use multiconn::internals::time::Clock;
use multiconn::server::echo::Echo;

/// The protocol of a connection.
pub enum Speaker {
    Echo(Echo),
    Exchange(Exchange),
    Thinker(Thinker),
    Forwarder(Forwarder),
}

/// Sends what it hears: on the connection that its own is joined to. Takes it in pieces, and leaves the rest where the
/// last piece has to wait.
pub struct Forwarder {
    /// Bytes that it takes at a time.
    pub piece: usize,
}

impl Protocol for Forwarder {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let taken = input.len().min(self.piece);
        out.send(&input[..taken]);
        taken
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        out.send(rest);
        out.shut_down();
    }
}

/// An echo that takes its time. It asks the role for attention and answers when the role says so: in the middle of the
/// input, or long after its end. It holds input for which it has no place.
#[derive(Default)]
pub struct Thinker {
    heard: VecDeque<u8>,
    /// Bytes that it remembers at most.
    memory: usize,
    /// The role said that it may answer what it has heard.
    answers: bool,
    end_was_heard: bool,
}

impl Thinker {
    pub fn new(memory: usize) -> Thinker {
        Thinker { memory, ..Thinker::default() }
    }

    /// Lets it answer what it has heard so far.
    pub fn answer(&mut self) {
        self.answers = true;
    }
}

impl Protocol for Thinker {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let taken = input.len().min(self.memory - self.heard.len());
        self.heard.extend(&input[..taken]);
        if taken < input.len() {
            out.hold();
        }
        out.notify();
        taken
    }

    fn produce(&mut self, space: &mut [u8], _clock: &dyn Clock) -> Produced {
        if !self.answers {
            return Produced::Nothing;
        }
        let count = self.heard.len().min(space.len());
        if count > 0 {
            for (place, byte) in space.iter_mut().zip(self.heard.drain(..count)) {
                *place = byte;
            }
            return Produced::Bytes(count);
        }
        if self.heard.is_empty() {
            self.answers = false;
            if self.end_was_heard {
                return Produced::Finished;
            }
        }
        Produced::Nothing
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        assert!(rest.is_empty(), "input was held, and its end was read all the same");
        self.end_was_heard = true;
        out.notify(); // Our direction stays open: the answer is to come.
    }

    /// What it hears is answered later, from its own memory: nothing that waits to be sent keeps it from reading.
    fn answers(&self) -> bool {
        false
    }
}

impl Protocol for Speaker {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        match self {
            Speaker::Echo(echo) => echo.receive(input, out),
            Speaker::Exchange(exchange) => exchange.receive(input, out),
            Speaker::Thinker(thinker) => thinker.receive(input, out),
            Speaker::Forwarder(forwarder) => forwarder.receive(input, out),
        }
    }

    fn produce(&mut self, space: &mut [u8], clock: &dyn Clock) -> Produced {
        match self {
            Speaker::Echo(echo) => echo.produce(space, clock),
            Speaker::Exchange(exchange) => exchange.produce(space, clock),
            Speaker::Thinker(thinker) => thinker.produce(space, clock),
            Speaker::Forwarder(forwarder) => forwarder.produce(space, clock),
        }
    }

    fn blocked(&mut self) {
        match self {
            Speaker::Echo(echo) => echo.blocked(),
            Speaker::Exchange(exchange) => exchange.blocked(),
            Speaker::Thinker(thinker) => thinker.blocked(),
            Speaker::Forwarder(forwarder) => forwarder.blocked(),
        }
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        match self {
            Speaker::Echo(echo) => echo.end_of_input(rest, out),
            Speaker::Exchange(exchange) => exchange.end_of_input(rest, out),
            Speaker::Thinker(thinker) => thinker.end_of_input(rest, out),
            Speaker::Forwarder(forwarder) => forwarder.end_of_input(rest, out),
        }
    }

    fn answers(&self) -> bool {
        match self {
            Speaker::Echo(echo) => echo.answers(),
            Speaker::Exchange(exchange) => exchange.answers(),
            Speaker::Thinker(thinker) => thinker.answers(),
            Speaker::Forwarder(forwarder) => forwarder.answers(),
        }
    }

    fn expects(&self) -> Expects {
        match self {
            Speaker::Echo(echo) => echo.expects(),
            Speaker::Exchange(exchange) => exchange.expects(),
            Speaker::Thinker(thinker) => thinker.expects(),
            Speaker::Forwarder(forwarder) => forwarder.expects(),
        }
    }
}
