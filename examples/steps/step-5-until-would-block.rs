//! Step 5: read, write and accept until `WouldBlock`.
//!
//!     cargo run --example step-5-until-would-block [ADDR]
//!
//! Step 4 did one call for each event, and stood still when one event meant more. Here each event is answered by as
//! many calls as there is work for. Only `WouldBlock` promises another event: now there is nothing, so the next byte,
//! or the next room for one, is a change. The kind of the event does not matter: a call too many costs one
//! `WouldBlock`.
//!
//! ```console
//! $ multiconn-client -q 127.0.0.1 65432 200 --size 10KiB --messages 3
//! …
//! verdict      intact: every byte of every connection came back
//! ```
//!
//! # What it cannot do
//!
//! Send everything back to a peer that finishes early. When the peer's FIN is read, it drops what still waits to be
//! sent, as the tutorial does:
//!
//! ```console
//! $ multiconn-probe 127.0.0.1 65432 --only half-close
//! …
//! half-close         cut        back: …
//! …
//! 1 of 2 is not as expected.
//! ```
//!
//! Stop a peer that sends and does not read. What waits for it has no limit, and so the server's memory has none. Each
//! `drain` moves all of it:
//!
//! ```console
//! $ bash -c 'exec 3<>/dev/tcp/127.0.0.1/65432; head -c 100M /dev/zero >&3; grep VmRSS /proc/$(pgrep step-5)/status'
//! VmRSS:    102344 kB
//! ```
//!
//! Survive a reset. This peer closes with five bytes unread, so its kernel sends a reset in place of a FIN, and `?`
//! carries the error up to `main`:
//!
//! ```console
//! $ bash -c 'exec 3<>/dev/tcp/127.0.0.1/65432; echo hello >&3; head -c 1 <&3 >/dev/null'
//! $ target/debug/examples/step-5-until-would-block 127.0.0.1:65432
//! Listening on 127.0.0.1:65432
//! Error: Os { code: 104, kind: ConnectionReset, message: "Connection reset by peer" }
//! ```
//!
//! Step 6 mends all three.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(0);

struct Connection {
    stream: TcpStream,
    /// What was read and not yet sent back.
    outbound: Vec<u8>,
}

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:65432".into());
    let mut listener = TcpListener::bind(addr.parse().map_err(io::Error::other)?)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    eprintln!("Listening on {}", listener.local_addr()?);
    let mut events = Events::with_capacity(1024);
    let mut connections = HashMap::new();
    let mut last = LISTENER;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            let token = event.token();
            if token == LISTENER {
                while let Some((mut stream, _)) = attempt(listener.accept())? {
                    last = Token(last.0 + 1);
                    poll.registry().register(&mut stream, last, Interest::READABLE | Interest::WRITABLE)?;
                    connections.insert(last, Connection { stream, outbound: Vec::new() });
                }
            } else if let Some(connection) = connections.get_mut(&token)
                && !connection.serve()?
            {
                connections.remove(&token);
            }
        }
    }
}

impl Connection {
    /// Reads all there is, and then writes as much as the socket takes. Whether the connection stays open.
    fn serve(&mut self) -> io::Result<bool> {
        let mut data = [0; 16 * 1024];
        while let Some(received) = attempt(self.stream.read(&mut data))? {
            if received == 0 {
                return Ok(false); // The peer's FIN. What is still in `outbound` goes with the connection.
            }
            self.outbound.extend_from_slice(&data[..received]);
        }
        while !self.outbound.is_empty()
            && let Some(sent) = attempt(self.stream.write(&self.outbound))?
        {
            self.outbound.drain(..sent); // Moves all that is left to the front.
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
