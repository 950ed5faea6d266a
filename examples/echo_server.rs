//! The tutorial's first server: one connection, blocking calls, nothing but `std::net`.
//!
//!     cargo run --example echo_server [HOST [PORT]]
//!
//! It serves one peer and ends. What it cannot do (a second peer waits until the first is done) is what the rest of
//! this package is about.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;

const HOST: &str = "127.0.0.1"; // The loopback interface: this host only.
const PORT: &str = "65432"; // Ports below 1024 need a special right.

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let host = args.next().unwrap_or_else(|| HOST.to_owned());
    let port = args.next().unwrap_or_else(|| PORT.to_owned());
    let Ok(port) = port.parse() else {
        eprintln!("error: {port:?} is no port: give a number from 0 to 65535");
        return ExitCode::from(2);
    };
    match serve(&host, port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {host} port {port}: {error}; {}", multiconn::net::listen_advice(&error));
            ExitCode::FAILURE
        }
    }
}

fn serve(host: &str, port: u16) -> io::Result<()> {
    // socket(), bind() and listen() in one: without the listen, connects are refused.
    let listener = TcpListener::bind((host, port))?;
    println!("Listening on {}", listener.local_addr()?);
    let (mut conn, addr) = listener.accept()?; // Blocks until somebody connects.
    println!("Connected by {addr}");
    let mut data = [0; 1024];
    loop {
        let received = conn.read(&mut data)?; // Up to 1,024 bytes, and as few as one.
        if received == 0 {
            break; // The peer has finished. Without this break, an endless loop.
        }
        conn.write_all(&data[..received])?; // `write` alone may take only a part: sendall() in Python.
    }
    Ok(()) // Dropping the socket closes it, as the tutorial's `with` does.
}
