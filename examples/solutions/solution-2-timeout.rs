//! Exercise 2, solved: an echo server that ends a connection on which nothing has moved for a second.
//!
//!     cargo run --example solution-2-timeout [ADDR]
//!
//! Step 6 with a queue of all connections, ordered by their last movement. The first one's deadline is the timeout of
//! `poll`.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// How many bytes one read takes at the most, and so how many a connection may have to keep.
const BUFFER: usize = 64 * 1024;

/// How long a connection may stay on which nothing moves.
const PATIENCE: Duration = Duration::from_secs(1);

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<Token, Connection>,
    /// Each connection once, under the time of its last movement. All have the same patience, so the first one's deadline
    /// is the nearest.
    by_movement: BTreeSet<(Instant, Token)>,
    /// The newest connection's. No token is used twice, so an event cannot reach a connection that it is not about.
    last: Token,
    /// What a read fills. One is enough for all connections: each keeps only what its socket did not take.
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// When a byte was last received or sent.
    moved: Instant,
    /// What the peer's socket did not take.
    outbound: Vec<u8>,
    /// How many bytes of `outbound` were sent since.
    sent: usize,
}

/// Why `Connection::serve` returned.
enum Served {
    /// A call would block: an event will say when there is more to do.
    Waits,
    /// The peer has ended its direction, and everything was sent back.
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
        let (connections, by_movement) = (HashMap::new(), BTreeSet::new());
        Ok(Server { poll, listener, connections, by_movement, last: LISTENER, buffer: vec![0; BUFFER] })
    }

    /// Sleeps until something is ready or due, and answers every event.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        match self.poll.poll(events, self.until_deadline()) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()), // A signal came; nothing is lost.
            result => result?,
        }
        for event in &*events {
            match event.token() {
                LISTENER => self.accept()?,
                token => self.serve(token),
            }
        }
        self.expire(); // Behind the events: a byte that has come in time saves its connection.
        Ok(())
    }

    /// How long nothing is due. `None` if there is no connection: then only an event ends the sleep.
    fn until_deadline(&self) -> Option<Duration> {
        let (moved, _) = self.by_movement.first()?;
        Some(PATIENCE.saturating_sub(moved.elapsed()))
    }

    /// Ends the connections on which nothing has moved for too long.
    fn expire(&mut self) {
        while let Some(&(moved, token)) = self.by_movement.first()
            && moved.elapsed() >= PATIENCE
        {
            self.by_movement.pop_first();
            if let Some(connection) = self.connections.remove(&token) {
                eprintln!("Closing connection to {}: nothing moves", connection.peer);
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some((mut stream, peer)) = attempt(|| self.listener.accept())? {
            self.last.0 += 1;
            // Both kinds of events, once and for all: an edge comes only when something changes, so a socket that could
            // always be written to wakes nobody.
            self.poll.registry().register(&mut stream, self.last, Interest::READABLE | Interest::WRITABLE)?;
            let moved = Instant::now(); // The connect: a peer that never says anything has a deadline as well.
            self.by_movement.insert((moved, self.last));
            self.connections.insert(self.last, Connection { stream, peer, moved, outbound: Vec::new(), sent: 0 });
        }
        Ok(())
    }

    /// Serves one connection. It returns no error, so none can end the loop.
    fn serve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        self.by_movement.remove(&(connection.moved, token));
        match connection.serve(&mut self.buffer) {
            Ok(Served::Waits) => {
                self.by_movement.insert((connection.moved, token));
                return;
            }
            Ok(Served::Finished) => {}
            Err(error) => eprintln!("Closing connection to {}: {error}", connection.peer),
        }
        self.connections.remove(&token); // Dropping the stream closes it, and `poll` forgets it.
    }
}

impl Connection {
    /// Sends and reads in turn until a call would block. Nothing is read while bytes wait to be sent. A peer that does
    /// not read therefore fills the sockets on the way, and in the end its own sends block. For the same reason the end
    /// of input is read when everything before it has been sent back.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<Served> {
        loop {
            if !self.flush()? {
                return Ok(Served::Waits);
            }
            let Some(received) = attempt(|| self.stream.read(buffer))? else { return Ok(Served::Waits) };
            if received == 0 {
                return Ok(Served::Finished); // Closing sends our FIN: nothing is unread, so it is no reset.
            }
            self.moved = Instant::now();
            let sent = attempt(|| self.stream.write(&buffer[..received]))?.unwrap_or(0);
            self.outbound = buffer[sent..received].to_vec();
        }
    }

    /// Sends what waits. Whether nothing does any more.
    fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.outbound.len() {
            let Some(sent) = attempt(|| self.stream.write(&self.outbound[self.sent..]))? else { return Ok(false) };
            self.sent += sent;
            self.moved = Instant::now();
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
