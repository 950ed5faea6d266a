//! The tutorial's first client: one message there and back, blocking calls, nothing but `std::net`.
//!
//!     cargo run --example echo_client [HOST [PORT]]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use multiconn::escape::Escaped;

const HOST: &str = "127.0.0.1"; // Where the server is,
const PORT: &str = "65432"; // and the port that it listens on.
const MESSAGE: &[u8] = b"This is example data.";
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let host = args.next().unwrap_or_else(|| HOST.to_owned());
    let port = args.next().unwrap_or_else(|| PORT.to_owned());
    let Ok(port) = port.parse() else {
        eprintln!("error: {port:?} is no port: give a number from 1 to 65535");
        return ExitCode::from(2);
    };
    match talk(&host, port) {
        Ok(data) => {
            println!("Received {}", Escaped(&data));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {host} port {port}: {error}; {}", multiconn::net::connect_advice(&error));
            ExitCode::FAILURE
        }
    }
}

fn talk(host: &str, port: u16) -> io::Result<Vec<u8>> {
    let mut stream = connect(host, port)?;
    stream.write_all(MESSAGE)?;
    // One read may return a single byte: read until as much is back as was sent.
    let mut data = [0; MESSAGE.len()];
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.read_exact(&mut data).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "the echo did not come back in time"),
        ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the server closed before the whole echo was back"),
        _ => error,
    })?;
    Ok(data.to_vec())
}

/// Tries every address that the name has, as `localhost` may be both `::1` and `127.0.0.1`.
fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
    for addr in (host, port).to_socket_addrs()? {
        result = TcpStream::connect_timeout(&addr, TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    result
}
