//! Exercise 3, solved: what one peer says goes to all the others.
//!
//!     cargo run --example solution-3-broadcast [ADDR]
//!     nc 127.0.0.1 65432          in two or more terminals
//!
//! Step 6 with the work of `serve` divided: what is read from one connection is written to all the others, by
//! `Server::tell_others`.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// How many bytes one read takes at the most.
const BUFFER: usize = 64 * 1024;

/// How many bytes may wait for a peer that does not read what the others say.
const MOST_WAITING: usize = 1024 * 1024;

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<Token, Connection>,
    /// The newest connection's. No token is used twice, so an event cannot reach a connection that it is not about.
    last: Token,
    /// What a read fills. One is enough for all connections: each keeps only what its own socket did not take.
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// What the peer's socket did not take. A queue and no `Vec` with an index: others may add to it for ever before it is
    /// empty once.
    outbound: VecDeque<u8>,
}

/// What `Connection::hear` found.
enum Heard {
    /// The peer has said this number of bytes.
    Words(usize),
    /// A call would block: an event will say when there is more to do.
    Nothing,
    /// The peer has ended its direction, and what the others said was sent to it.
    End,
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
            self.connections.insert(self.last, Connection { stream, peer, outbound: VecDeque::new() });
        }
        Ok(())
    }

    /// Serves one connection. It returns no error, so none can end the loop.
    fn serve(&mut self, token: Token) {
        // An earlier event of the same turn may have removed it: see `tell_others`.
        while let Some(connection) = self.connections.get_mut(&token) {
            match connection.hear(&mut self.buffer) {
                Ok(Heard::Words(received)) => {
                    self.tell_others(token, received);
                    continue;
                }
                Ok(Heard::Nothing) => return,
                Ok(Heard::End) => {}
                Err(error) => eprintln!("Closing connection to {}: {error}", connection.peer),
            }
            self.connections.remove(&token); // Dropping the stream closes it, and `poll` forgets it.
        }
    }

    /// Sends the first bytes of the buffer to all but the speaker. A connection that turns out to be broken ends here, and
    /// its error is its own: the speaker and the others go on.
    fn tell_others(&mut self, speaker: Token, length: usize) {
        let words = &self.buffer[..length];
        self.connections.retain(|&token, connection| {
            if token == speaker {
                return true;
            }
            let result = connection.tell(words);
            if let Err(error) = &result {
                eprintln!("Closing connection to {}: {error}", connection.peer);
            }
            result.is_ok()
        });
    }
}

impl Connection {
    /// Sends what waits, and then reads once. Nothing is read while bytes wait to be sent: a peer that does not listen may
    /// not speak. For the same reason the end of input is read when everything before it has been sent.
    fn hear(&mut self, buffer: &mut [u8]) -> io::Result<Heard> {
        if !self.flush()? {
            return Ok(Heard::Nothing);
        }
        Ok(match attempt(|| self.stream.read(buffer))? {
            None => Heard::Nothing,
            Some(0) => Heard::End, // Closing sends our FIN: nothing is unread, so it is no reset.
            Some(received) => Heard::Words(received),
        })
    }

    /// Sends what another peer said. What the socket does not take has to wait, up to a limit.
    fn tell(&mut self, words: &[u8]) -> io::Result<()> {
        self.outbound.extend(words);
        if !self.flush()? && self.outbound.len() > MOST_WAITING {
            return Err(io::Error::other("it does not read what the others say"));
        }
        Ok(())
    }

    /// Sends what waits. Whether nothing does any more.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.outbound.is_empty() {
            let Some(sent) = attempt(|| self.stream.write(self.outbound.as_slices().0))? else { return Ok(false) };
            self.outbound.drain(..sent);
        }
        self.outbound = VecDeque::new(); // Gives the memory back: a connection at rest keeps nothing.
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
