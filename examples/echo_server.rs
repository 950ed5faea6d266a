//! The tutorial's first server: one connection, blocking calls, nothing but `std::net`.
//!
//!     cargo run --example echo_server [HOST [PORT]]
//!
//! It serves one peer and ends; a second peer is not served. The rest of this package is about serving many at once.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

use multiconn::cli;

fn main() -> ExitCode {
    let (host, port) = match cli::host_and_port() {
        Ok(args) => args, // By default 127.0.0.1, the loopback interface, and the tutorial's port, 65432.
        Err(code) => return code,
    };
    match serve(&host, port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&cli::cannot_listen(&host, port, &error)),
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
