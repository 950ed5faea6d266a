//! Step 4: sleep until the kernel says who is ready. This is the Python tutorial's server, translated as it stands.
//!
//!     cargo run --example step-4-readiness [ADDR]
//!
//! Step 3 asked all peers all the time. `Poll` is Python's selector: it sleeps until sockets are ready and returns an
//! event for each of them. The tutorial reads once for a readable event and writes once for a writable one. An idle
//! peer costs nothing now, and small messages come back:
//!
//! ```console
//! $ multiconn-client -q 127.0.0.1 65432 1 --hold 100ms --size 64 --messages 1000
//! …
//! verdict      intact: every byte of every connection came back
//! ```
//!
//! # What it cannot do
//!
//! Send back more than one read takes:
//!
//! ```console
//! $ multiconn-client -q 127.0.0.1 65432 1 --hold 100ms --size 10KiB --timeout 1s
//! …
//!   connection 1 to 127.0.0.1:65432 from 127.0.0.1:… no progress: nothing moves; 1024 of 10240 bytes sent are back; …
//! …
//! ```
//!
//! Python's selector is level-triggered: it reports a socket for as long as there is something to read. mio is
//! edge-triggered: it reports that something *came*, once. The 10,240 bytes came at once, so there is one event, one
//! read of 1,024 bytes and one write. 9,216 bytes stay in the socket, and as nothing more comes, there is no other
//! event. For the same reason an idle peer that can always be written to burns no core here, and does so in Python.
//! Peers have the same trouble at the listener: of two that connect together, one is accepted; the other waits until
//! the next one comes.
//!
//! The client gives up, and that ends the server with all its peers:
//!
//! ```console
//! $ target/debug/examples/step-4-readiness 127.0.0.1:65432
//! Listening on 127.0.0.1:65432
//! Error: Os { code: 32, kind: BrokenPipe, message: "Broken pipe" }
//! ```
//!
//! Step 5 does as many calls as there is work for.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

/// The tutorial's `SimpleNamespace`.
struct Connection {
    stream: TcpStream,
    outbound: Vec<u8>,
}

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:65432".into());
    let mut listener = TcpListener::bind(addr.parse().map_err(io::Error::other)?)?; // mio's sockets never block.
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    eprintln!("Listening on {}", listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    let mut connections = HashMap::new();
    let mut last = LISTENER;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue, // A signal, which Python hides.
            result => result?,
        }
        for event in &events {
            let token = event.token();
            if token == LISTENER {
                if let Some((mut stream, _)) = attempt(listener.accept())? {
                    last = Token(last.0 + 1);
                    poll.registry().register(&mut stream, last, Interest::READABLE | Interest::WRITABLE)?;
                    connections.insert(last, Connection { stream, outbound: Vec::new() });
                }
            } else if let Some(connection) = connections.get_mut(&token)
                && !connection.serve(event)?
            {
                connections.remove(&token); // Dropping the stream closes it, and `poll` forgets it.
            }
        }
    }
}

impl Connection {
    /// The tutorial's `service_connection`. Whether the connection stays open.
    fn serve(&mut self, event: &Event) -> io::Result<bool> {
        if event.is_readable() {
            let mut data = [0; 1024];
            match attempt(self.stream.read(&mut data))? {
                Some(0) => return Ok(false),
                Some(received) => self.outbound.extend_from_slice(&data[..received]),
                None => {}
            }
        }
        if event.is_writable()
            && !self.outbound.is_empty()
            && let Some(sent) = attempt(self.stream.write(&self.outbound))?
        {
            self.outbound.drain(..sent);
        }
        Ok(true)
    }
}

/// `None` if the call would have to block.
fn attempt<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
