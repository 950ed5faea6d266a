//! The tutorial's first server: one connection, blocking calls, nothing but `std::net`.
//!
//!     cargo run --example echo_server [HOST [PORT]]
//!
//! It serves one peer and ends; a second peer is not served. `examples/steps` goes on from here.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let host = args.next().unwrap_or_else(|| "127.0.0.1".into()); // The loopback interface.
    let port = args.next().unwrap_or_else(|| "65432".into());
    let Ok(port) = port.parse() else {
        eprintln!("error: {port:?} is not a port; usage: [HOST [PORT]], by default 127.0.0.1 65432");
        return ExitCode::from(2);
    };
    match serve(&host, port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot serve on {host:?} port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(host: &str, port: u16) -> io::Result<()> {
    // socket(), bind() and listen() in one: without the listen, connects are refused.
    let host = if host.is_empty() { "0.0.0.0" } else { host }; // "" means all interfaces.
    let listener = TcpListener::bind((host, port))?;
    say(&format!("Listening on {}", listener.local_addr()?));
    let (mut conn, addr) = listener.accept()?; // Blocks until somebody connects.
    say(&format!("Connected by {addr}"));
    let mut data = [0; 1024];
    loop {
        let received = conn.read(&mut data)?; // Up to 1,024 bytes, and as few as one.
        if received == 0 {
            break; // The end of input: the peer's FIN. Without this break, the loop would never end.
        }
        conn.write_all(&data[..received])?; // `write` alone may take only a part: sendall() in Python.
    }
    Ok(()) // Dropping the socket closes it, as the tutorial's `with` does.
}

/// Prints a line. `println!` would panic if the reader of standard output is gone.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
