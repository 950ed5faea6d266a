//! The tutorial's first client: one message there and back, blocking calls, nothing but `std::net`.
//!
//!     cargo run --example echo_client [HOST [PORT]]
//!
//! It compares what comes back with what it sent, and exits with 1 if they differ.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

const MESSAGE: &[u8] = b"This is example data.";
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let host = args.next().unwrap_or_else(|| "127.0.0.1".into()); // The loopback interface.
    let port = args.next().unwrap_or_else(|| "65432".into());
    let Ok(port) = port.parse() else {
        eprintln!("error: {port:?} is not a port; usage: [HOST [PORT]], by default 127.0.0.1 65432");
        return ExitCode::from(2);
    };
    match talk(&host, port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let refused = error.kind() == ErrorKind::ConnectionRefused;
            let advice = if refused { "; is the server running, and is the port right?" } else { "" };
            eprintln!("error: cannot get an echo from {host:?} port {port}: {error}{advice}");
            ExitCode::FAILURE
        }
    }
}

fn talk(host: &str, port: u16) -> io::Result<()> {
    let mut stream = connect(host, port)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(MESSAGE)?;
    // One read may return a single byte: read until as many bytes are back as were sent.
    let mut data = [0; MESSAGE.len()];
    stream.read_exact(&mut data).map_err(explained)?;
    let _ = writeln!(io::stdout(), "Received b\"{}\"", data.escape_ascii()); // Unlike println!, it survives `| head`.
    if data != MESSAGE {
        return Err(io::Error::other("what came back is not what was sent"));
    }
    // Our FIN. The server has nothing more to send back, and answers with its own.
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut data).map_err(explained)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more came back than was sent")),
    }
}

/// What an error of reading means here.
fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "the server did not answer in time"),
        ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the server closed before the whole echo was back"),
        _ => error,
    }
}

/// Tries every address of the name: `localhost` may be both `::1` and `127.0.0.1`.
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
