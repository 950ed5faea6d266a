//! A server of your own: answers each line with the same line in upper case.
//!
//!     cargo run --example line_server [HOST [PORT]]
//!     nc 127.0.0.1 65432
//!
//! All it takes is the [`Protocol`] below. A line that is not whole yet stays in the connection's inbound buffer;
//! partial sends, slow readers, half-close, signals and limits are the library's business.

use std::process::ExitCode;

use multiconn::cli::{self, Verbosity};
use multiconn::server::{Config, Ending, Server};
use multiconn::{Outbox, Protocol};

/// One connection's state.
#[derive(Default)]
struct UpperCase {
    /// How many bytes of the unfinished line were searched for its end already. Without this number, a line that
    /// arrives byte by byte would be searched from its beginning each time.
    searched: usize,
}

impl Protocol for UpperCase {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        let new = &input[self.searched..];
        let Some(last) = new.iter().rposition(|&byte| byte == b'\n') else {
            self.searched = input.len();
            return 0;
        };
        let whole = self.searched + last + 1;
        out.copy(&input[..whole].to_ascii_uppercase());
        self.searched = 0; // What follows the last whole line is shown again.
        whole
    }

    fn end_of_input<'a>(&mut self, rest: &'a [u8], out: &mut Outbox<'a>) {
        out.copy(&rest.to_ascii_uppercase()); // A last line without its newline.
        out.shut_down();
    }
}

fn main() -> ExitCode {
    cli::start_logging(Verbosity::default());
    let (host, port) = match cli::host_and_port() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::served(serve(&host, port))
}

fn serve(host: &str, port: u16) -> anyhow::Result<Ending> {
    let mut server = Server::bind(host, port, &Config::default(), |_| UpperCase::default())
        .map_err(|error| cli::cannot_listen(host, port, &error))?;
    server.catch_signals()?;
    Ok(server.run()?)
}
