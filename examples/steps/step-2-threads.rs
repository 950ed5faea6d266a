//! Step 2: a thread for each peer.
//!
//!     cargo run --example step-2-threads [ADDR]
//!
//! Step 1 could not serve a second peer while the first one stayed. Here each peer has a thread of its own to sleep in,
//! and the code that serves it is the same. An error ends one thread, and so one connection. For some hundred peers
//! this is a good server.
//!
//! # What it cannot do
//!
//! Serve very many peers cheaply. 10,000 idle ones (`multiconn-client 127.0.0.1 65432 10000 --connect-rate 2000 --hold
//! 9s`) took 10,001 threads, 300 MB of memory (96 MB of stacks, 160 MB of the kernel's own stacks, 40 MB of page
//! tables), 21 GB of addresses, and three times the CPU time of step 6, which needs 1.6 MB for them.
//!
//! The number of threads is limited as well, by the system and by memory. At the limit `spawn` fails, and here that
//! ends the server with all its peers. This server has a gigabyte of addresses, and each thread takes a tenth of it:
//!
//! ```console
//! $ bash -c 'ulimit -v 1000000; RUST_MIN_STACK=100000000 exec target/debug/examples/step-2-threads 127.0.0.1:65432'
//! Listening on 127.0.0.1:65432
//! …
//! failed to spawn thread: Os { code: 11, kind: WouldBlock, message: "Resource temporarily unavailable" }
//! …
//! $ multiconn-client -q 127.0.0.1 65432 20 --hold 5s
//! …
//! connections  20 requested, … established, 0 intact, 20 failed
//! …
//! ```
//!
//! Step 3 serves all peers on one thread.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:65432".into());
    let listener = TcpListener::bind(addr)?;
    eprintln!("Listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept()?;
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("Closing connection to {peer}: {error}");
            }
        });
    }
}

/// Sends back what the peer sends, up to its end.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut data = [0; 1024];
    loop {
        let received = stream.read(&mut data)?; // Sleeps, and with it this thread alone.
        if received == 0 {
            return Ok(());
        }
        stream.write_all(&data[..received])?;
    }
}
