//! The echo on mio in the manner of mio's own example: a map of connections, reads into a buffer of the connection until
//! the socket would block, and another registration whenever the interest changes.
//!
//! `peer-mio PORT`.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};

const SERVER: Token = Token(0);

struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
}

impl Connection {
    /// Reads all there is and sends what the socket takes. Whether the connection lives on.
    fn serve(&mut self, registry: &Registry, token: Token, writable: bool, readable: bool) -> io::Result<bool> {
        if writable {
            self.flush(registry, token)?;
        }
        if !readable {
            return Ok(true);
        }
        let mut open = true;
        let mut received = vec![0; 4096];
        let mut filled = 0;
        loop {
            match self.stream.read(&mut received[filled..]) {
                Ok(0) => {
                    open = false;
                    break;
                }
                Ok(count) => {
                    filled += count;
                    if filled == received.len() {
                        received.resize(received.len() + 1024, 0);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let waited = !self.unsent.is_empty();
        self.unsent.extend_from_slice(&received[..filled]);
        if open && !waited && !self.unsent.is_empty() {
            registry.reregister(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)?;
        }
        Ok(open)
    }

    /// Sends what waits; when nothing does any more, only reading is of interest.
    fn flush(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => {
                    self.unsent.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        registry.reregister(&mut self.stream, token, Interest::READABLE)
    }
}

fn main() -> io::Result<()> {
    let port = env::args().nth(1).and_then(|port| port.parse().ok()).ok_or(ErrorKind::InvalidInput)?;
    // mio's own bind has a backlog of its own; all peers have the same one here.
    // SAFETY: the descriptor was given up just now and is nobody else's.
    let mut listener = unsafe { TcpListener::from_raw_fd(sys::listen(port)?.into_raw_fd()) };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    poll.registry().register(&mut listener, SERVER, Interest::READABLE)?;
    let mut connections: HashMap<Token, Connection> = HashMap::new();
    let mut next = SERVER.0;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() == SERVER {
                loop {
                    let mut stream = match listener.accept() {
                        Ok((stream, _)) => stream,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    };
                    next += 1;
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE)?;
                    connections.insert(Token(next), Connection { stream, unsent: Vec::new() });
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&event.token()) else { continue };
            let (writable, readable) = (event.is_writable(), event.is_readable());
            if !connection.serve(poll.registry(), event.token(), writable, readable).unwrap_or(false)
                && let Some(mut done) = connections.remove(&event.token())
            {
                let _ = poll.registry().deregister(&mut done.stream);
            }
        }
    }
}
