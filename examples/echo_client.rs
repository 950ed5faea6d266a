//! The tutorial's first client: one message there and back, blocking calls, nothing but `std::net`.
//!
//!     cargo run --example echo_client [HOST [PORT]]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use multiconn::Escaped;
use multiconn::cli;
use multiconn::sockets;

const MESSAGE: &[u8] = b"This is example data.";
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let (host, port) = match cli::host_and_port() {
        Ok(args) => args, // By default 127.0.0.1, the loopback interface, and the tutorial's port, 65432.
        Err(code) => return code,
    };
    match talk(&host, port) {
        Ok(data) => {
            let _ = writeln!(io::stdout(), "Received {}", Escaped(&data)); // Unlike println!, it survives `| head`.
            ExitCode::SUCCESS
        }
        Err(error) => {
            let advice = sockets::connect_advice(&error, false);
            cli::fail(&anyhow::anyhow!("cannot get an echo from {host:?} port {port}: {error}; {advice}"))
        }
    }
}

fn talk(host: &str, port: u16) -> io::Result<Vec<u8>> {
    let mut stream = connect(host, port)?;
    stream.write_all(MESSAGE)?;
    // One read may return a single byte: read until as many bytes are back as were sent.
    let mut data = [0; MESSAGE.len()];
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.read_exact(&mut data).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "the echo did not come back in time"),
        ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the server closed before the whole echo was back"),
        _ => error,
    })?;
    Ok(data.to_vec())
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
