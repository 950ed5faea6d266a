//! Step 1: one peer, with blocking calls. The server and its client are both here.
//!
//!     cargo run --example step-1-blocking                 # the server, in one terminal
//!     cargo run --example step-1-blocking client          # the client, in another one
//!
//! An address may follow; by default it is 127.0.0.1:65432. A blocking call returns when its work is done: `accept`
//! when a peer has connected, `read` when bytes have come. Until then the program sleeps and costs nothing.
//!
//! # What it cannot do
//!
//! Serve a second peer while the first one stays. The server sleeps in the first one's `read` and sees nothing else:
//!
//! ```console
//! $ multiconn-client -q 127.0.0.1 65432 2 --rate 10 --duration 2s --timeout 1s
//! …
//! connections  2 requested, 2 established, 1 intact, 1 failed
//! …
//!   connection 2 to 127.0.0.1:65432 from 127.0.0.1:… no progress: nothing moves; 0 of … bytes sent are back; …
//! ```
//!
//! The kernel completes the second connect and takes its bytes without an `accept`. Nobody reads them. Step 2 gives
//! each peer a thread to sleep in.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;

const MESSAGE: &[u8] = b"This is example data.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    let is_client = args.next_if_eq("client").is_some();
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:65432".into());
    match if is_client { ask(&addr) } else { listen(&addr) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{addr}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(addr: &str) -> io::Result<()> {
    // Python's socket(), bind() and listen() in one.
    let listener = TcpListener::bind(addr)?;
    eprintln!("Listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept()?;
        eprintln!("Accepted connection from {peer}");
        serve(stream)?;
        eprintln!("Closing connection to {peer}");
    }
}

/// Sends back what the peer sends, up to its end.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut data = [0; 1024];
    loop {
        let received = stream.read(&mut data)?; // At most 1024 bytes, and as few as one.
        if received == 0 {
            return Ok(()); // The peer's FIN. Dropping the stream closes it.
        }
        stream.write_all(&data[..received])?; // Python's sendall(): a single write may take only a part.
    }
}

/// Sends the message and compares what comes back, byte by byte and up to the server's end: nothing may be missing,
/// changed or added.
fn ask(addr: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(MESSAGE)?;
    stream.shutdown(Shutdown::Write)?; // "That was all": our FIN. We can still read.
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo)?;
    println!("Received b\"{}\"", echo.escape_ascii());
    if echo == MESSAGE { Ok(()) } else { Err(io::Error::other("this is not what was sent")) }
}
