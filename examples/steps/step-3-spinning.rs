//! Step 3: all peers on one thread, which asks each of them again and again.
//!
//!     cargo run --example step-3-spinning [ADDR]
//!
//! Step 2 paid for each peer with a thread, because a blocking call needs one to sleep in. A non-blocking call never
//! sleeps: where there is nothing to do, it returns the error `WouldBlock` at once. So one thread can ask all peers in
//! turn. What the peer's socket does not take now is kept, and offered again in the next round.
//!
//! # What it cannot do
//!
//! Rest. It asks whether or not there is anything to do, and burns a core with one idle peer, or with none:
//!
//! ```console
//! $ time timeout 3 target/debug/examples/step-3-spinning 127.0.0.1:65432
//! Listening on 127.0.0.1:65432
//!
//! real    0m3.004s
//! user    0m0.128s
//! sys     0m2.871s
//! ```
//!
//! A sleep in each round would only trade CPU time for latency. The tutorial's server burns the same core: it asks to
//! hear when a socket can be written to, an idle socket always can, and so `select` never sleeps. Step 4 sleeps until
//! the kernel says who is ready.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

struct Connection {
    stream: TcpStream,
    /// What was read and not yet sent back.
    outbound: Vec<u8>,
}

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:65432".into());
    let listener = TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?; // Without it, `accept` would sleep until the next peer comes.
    eprintln!("Listening on {}", listener.local_addr()?);
    let mut connections = Vec::new();
    loop {
        if let Some((stream, _)) = attempt(listener.accept())? {
            stream.set_nonblocking(true)?;
            connections.push(Connection { stream, outbound: Vec::new() });
        }
        connections.retain_mut(|connection| connection.serve().unwrap_or(false)); // An error ends its own connection.
    }
}

impl Connection {
    /// Does one thing for the peer, if there is one to do. Whether the connection stays open.
    fn serve(&mut self) -> io::Result<bool> {
        if self.outbound.is_empty() {
            let mut data = [0; 1024];
            let Some(received) = attempt(self.stream.read(&mut data))? else { return Ok(true) };
            self.outbound.extend_from_slice(&data[..received]);
            return Ok(received > 0); // Zero bytes are the peer's FIN, and here everything before it was sent back.
        }
        if let Some(sent) = attempt(self.stream.write(&self.outbound))? {
            self.outbound.drain(..sent); // Perhaps only a part.
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
