//! Exercise 1, solved: a server that answers each line with the same line backwards.
//!
//!     cargo run --example solution-1-lines [ADDR]
//!     printf 'one\ntwo\nthr' | nc -N 127.0.0.1 65432
//!
//! Step 6 with a second buffer for each connection, `line`. What a read brings becomes answers at once. What is left is
//! the beginning of one line, so no whole line ever waits to be looked at again.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// How many bytes one read takes at the most, and so how many a connection may have to keep.
const BUFFER: usize = 64 * 1024;

/// How many bytes a line may have. A connection keeps this much of a line that is not whole yet, and one byte more.
const LONGEST: usize = 1024;

/// The answer to a longer line.
const TOO_LONG: &[u8] = b"line too long";

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<Token, Connection>,
    /// The newest connection's. No token is used twice, so an event cannot reach a connection that it is not about.
    last: Token,
    /// What a read fills. One is enough for all connections: each keeps only answers and the beginning of a line.
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// The line that is not whole yet: its beginning, up to the byte that makes it too long.
    line: Vec<u8>,
    /// Answers.
    outbound: Vec<u8>,
    /// How many bytes of `outbound` were sent since.
    sent: usize,
    /// Whether the peer has ended its direction.
    ended: bool,
}

/// Why `Connection::serve` returned.
enum Served {
    /// A call would block: an event will say when there is more to do.
    Waits,
    /// The peer has ended its direction, and every line was answered.
    Finished,
}

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:65432".into());
    let mut server = Server::bind(addr.parse().map_err(io::Error::other)?)?;
    eprintln!("Listening on {}", server.listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    loop {
        server.turn(&mut events)?;
    }
}

impl Server {
    fn bind(addr: SocketAddr) -> io::Result<Server> {
        let mut listener = TcpListener::bind(addr)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Server { poll, listener, connections: HashMap::new(), last: LISTENER, buffer: vec![0; BUFFER] })
    }

    /// Sleeps until something is ready, and answers every event.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()), // A signal came; nothing is lost.
            result => result?,
        }
        for event in &*events {
            match event.token() {
                LISTENER => self.accept()?,
                token => self.serve(token),
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some((mut stream, peer)) = attempt(|| self.listener.accept())? {
            self.last.0 += 1;
            // Both kinds of events, once and for all: an edge comes only when something changes, so a socket that could
            // always be written to wakes nobody.
            self.poll.registry().register(&mut stream, self.last, Interest::READABLE | Interest::WRITABLE)?;
            self.connections.insert(self.last, Connection::new(stream, peer));
        }
        Ok(())
    }

    /// Serves one connection. It returns no error, so none can end the loop.
    fn serve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.serve(&mut self.buffer) {
            Ok(Served::Waits) => return,
            Ok(Served::Finished) => {}
            Err(error) => eprintln!("Closing connection to {}: {error}", connection.peer),
        }
        self.connections.remove(&token); // Dropping the stream closes it, and `poll` forgets it.
    }
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr) -> Connection {
        Connection { stream, peer, line: Vec::new(), outbound: Vec::new(), sent: 0, ended: false }
    }

    /// Sends and reads in turn until a call would block. Nothing is read while answers wait to be sent. So there are
    /// never more of them than one read brings.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<Served> {
        loop {
            if !self.flush()? {
                return Ok(Served::Waits);
            }
            if self.ended {
                return Ok(Served::Finished); // Closing sends our FIN: nothing is unread, so it is no reset.
            }
            let Some(received) = attempt(|| self.stream.read(buffer))? else { return Ok(Served::Waits) };
            self.take(&buffer[..received]);
            if received == 0 {
                self.ended = true; // A last answer may have to wait for room, so the loop goes round once more.
                if !self.line.is_empty() {
                    self.answer();
                }
            }
        }
    }

    /// Adds what one read brought to the line, and answers each line that becomes whole. Each byte is looked at once.
    fn take(&mut self, input: &[u8]) {
        for part in input.split_inclusive(|&byte| byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = LONGEST + 1 - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < part.len() {
                self.answer();
            }
        }
    }

    /// Answers the line. The next one begins.
    fn answer(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.len() > LONGEST {
            self.outbound.extend_from_slice(TOO_LONG);
        } else {
            self.outbound.extend(line.iter().rev());
        }
        self.outbound.push(b'\n');
    }

    /// Sends what waits. Whether nothing does any more.
    fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.outbound.len() {
            let Some(sent) = attempt(|| self.stream.write(&self.outbound[self.sent..]))? else { return Ok(false) };
            self.sent += sent;
        }
        self.outbound = Vec::new(); // Gives the memory back: a connection at rest keeps nothing.
        self.sent = 0;
        Ok(true)
    }
}

/// Calls until the call is not interrupted by a signal. `None` if it would have to block.
fn attempt<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result.map(Some),
        }
    }
}
