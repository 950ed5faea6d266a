//! Step 6: errors, ends and memory are each connection's own.
//!
//!     cargo run --example step-6-whole [ADDR]
//!
//! Step 5 lost the bytes of a peer that finished early, kept all that a peer did not read, and ended with the first
//! reset. The first two have one remedy: nothing is read while anything waits to be sent. The remedy for the third is a
//! type: `Server::serve` returns nothing that `?` could carry up.
//!
//! ```console
//! $ multiconn-probe 127.0.0.1 65432 --only half-close
//! …
//! half-close         carried    back: all of 22 B, all of 100 kB, all of 4 MB, all
//!                               of 6 MB to a reader that pauses
//! …
//! $ bash -c 'exec 3<>/dev/tcp/127.0.0.1/65432; echo hello >&3; head -c 1 <&3 >/dev/null'
//! $ target/debug/examples/step-6-whole 127.0.0.1:65432
//! Listening on 127.0.0.1:65432
//! Closing connection to 127.0.0.1:…: Connection reset by peer (os error 104)
//! ```
//!
//! # What it cannot do
//!
//! Run out of descriptors and go on. The error of `accept` belongs to no connection and ends the server:
//!
//! ```console
//! $ bash -c 'ulimit -n 20; exec target/debug/examples/step-6-whole 127.0.0.1:65432'
//! Listening on 127.0.0.1:65432
//! Error: Os { code: 24, kind: Uncategorized, message: "Too many open files" }
//! $ multiconn-client -q 127.0.0.1 65432 20 --hold 5s
//! …
//! connections  20 requested, … established, 0 intact, 20 failed
//! …
//! ```
//!
//! To ignore the error would be no better: the event for the peers that wait has come already, and the next event comes
//! with the next peer. This is missing as well:
//!
//! - Fairness: `Connection::serve` returns only when the socket is empty. A peer that always has more to send keeps the
//!   loop there, and all other peers wait.
//! - Limits: of connections, and of memory for all of them together.
//! - Time: a peer that never sends, never reads or is gone without a FIN stays for ever.
//! - Draining: Ctrl-C cuts every connection off in the middle.
//!
//! Step 7 leaves all this to the library.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// How many bytes one read takes at the most, and so how many a connection may have to keep.
const BUFFER: usize = 64 * 1024;

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: HashMap<Token, Connection>,
    /// The newest connection's. No token is used twice, so an event cannot reach a connection that it is not about.
    last: Token,
    /// What a read fills. One is enough for all connections: each keeps only what its socket did not take.
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
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
            self.connections.insert(self.last, Connection { stream, peer, outbound: Vec::new(), sent: 0 });
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
            let sent = attempt(|| self.stream.write(&buffer[..received]))?.unwrap_or(0);
            self.outbound = buffer[sent..received].to_vec();
        }
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
