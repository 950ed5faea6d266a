//! An echo over TLS: a protocol that wraps another one.
//!
//!     cargo run --release --example tls_echo [HOST [PORT [CERTIFICATE]]]
//!     openssl s_client -connect 127.0.0.1:65432 -CAfile CERTIFICATE -quiet
//!
//! The key and the certificate, for `localhost`, are new at each start; the certificate is written to the file CERTIFICATE
//! if one is named. rustls turns bytes into other bytes and knows no socket, so it fits into a [`Protocol`]: [`Tls`]
//! decrypts what arrives, shows it to the protocol inside (`Outbox::inside`), and encrypts what that one sends.
//!
//! Anybody on the way can cut a TCP stream off. So TLS has an alert that says that a direction is at its end,
//! `close_notify`. Ours goes out before our FIN, be it the protocol inside that ends, a drain or an idle timeout. The log
//! says where a peer's FIN came without one.

use std::fs;
use std::io::{self, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use log::warn;
use multiconn::cli::{self, Verbosity, table};
use multiconn::server::echo::Echo;
use multiconn::server::{Config, Ending, Server};
use multiconn::{Event, Line, LogBudget, Outbox, PeerAddr, Protocol};
use rcgen::CertifiedKey;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection};

/// Echo every byte of every TLS connection
#[derive(Debug, Parser)]
struct Args {
    /// Address or name to listen on; "" for all interfaces
    #[arg(default_value = "127.0.0.1", value_parser = cli::host)]
    host: String,
    /// Port to listen on; 0 for any free one
    #[arg(default_value = "65432", value_parser = cli::any_port)]
    port: u16,
    /// File to write the certificate to, for clients that check it
    certificate: Option<PathBuf>,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// How long a peer may be silent: one that never begins the handshake, say.
const IDLE: Duration = Duration::from_secs(60);

/// How much plaintext goes into one record of TLS at the most, and how many bytes longer its record is at the most.
const RECORD: usize = 16 * 1024;
const OVERHEAD: usize = 64;

/// A protocol inside of TLS. It is shown input and told of the end of input, and answers both at once, with no more bytes
/// than it was shown.
///
/// It must not hold input.
struct Tls<P> {
    session: ServerConnection,
    inner: P,
    /// What was decrypted and the inner protocol has not consumed.
    plain: Vec<u8>,
    /// How many bytes at the beginning of the input were decrypted in an earlier call.
    decrypted: usize,
    peer_closed: bool,
    end: SessionEnd,
}

/// How the peer's direction ended.
enum SessionEnd {
    Open,
    /// By a `close_notify`, of which the inner protocol has heard.
    Closed,
    /// By a FIN without a `close_notify`.
    CutOff,
    Failed(io::Error),
}

impl<P: Protocol> Tls<P> {
    fn new(mut session: ServerConnection, inner: P) -> Tls<P> {
        session.set_buffer_limit(None); // Nothing stays in there: it all goes to the outbox, which has a limit.
        Tls { session, inner, plain: Vec::new(), decrypted: 0, peer_closed: false, end: SessionEnd::Open }
    }

    /// Decrypts `new`, shows the inner protocol what it has not consumed, and tells it of the end.
    fn advance(&mut self, new: &[u8], out: &mut Outbox<'_>) -> io::Result<()> {
        self.decrypt(new)?;
        self.send_records(out)?; // A part of the handshake, say.
        let plain = mem::take(&mut self.plain);
        let mut done = 0;
        let all_shown = loop {
            // As on a connection, an inner protocol is shown no more than it has room to answer.
            let left = &plain[done..];
            let shown = &left[..left.len().min(room_inside(out))];
            let consumed = if shown.is_empty() { 0 } else { self.call(out, |inner, out| inner.receive(shown, out))? };
            done += consumed;
            if consumed == 0 {
                break shown.len() == left.len();
            }
        };
        let left = &plain[done..];
        if self.peer_closed && all_shown {
            self.call(out, |inner, out| inner.end_of_input(left, out))?;
            self.end = SessionEnd::Closed;
            return self.close(out);
        }
        self.plain = left.to_vec(); // No memory is kept where nothing is left.
        Ok(())
    }

    fn decrypt(&mut self, mut input: &[u8]) -> io::Result<()> {
        // What comes behind a close_notify is no part of the stream.
        while !input.is_empty() && !self.peer_closed {
            self.session.read_tls(&mut input)?;
            let state = self.session.process_new_packets().map_err(io::Error::other)?;
            self.peer_closed = state.peer_has_closed();
            let before = self.plain.len();
            self.plain.resize(before + state.plaintext_bytes_to_read(), 0);
            self.session.reader().read_exact(&mut self.plain[before..])?;
        }
        Ok(())
    }

    /// Calls the inner protocol and sends its answer.
    fn call<'a: 'b, 'b, R>(
        &mut self,
        out: &mut Outbox<'a>,
        call: impl FnOnce(&mut P, &mut Outbox<'b>) -> R,
    ) -> io::Result<R> {
        let (result, answer) = out.inside(room_inside(out), |out| call(&mut self.inner, out));
        self.session.writer().write_all(&answer)?;
        if out.is_ending() {
            self.session.send_close_notify();
        }
        self.send_records(out)?;
        Ok(result)
    }

    fn close(&mut self, out: &mut Outbox<'_>) -> io::Result<()> {
        self.session.send_close_notify();
        out.shut_down(); // Our FIN follows behind what is sent in this call.
        self.send_records(out)
    }

    fn send_records(&mut self, out: &mut Outbox<'_>) -> io::Result<()> {
        let mut records = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut records)?;
        }
        out.copy(&records);
        Ok(())
    }

    fn fail(&mut self, error: io::Error, out: &mut Outbox<'_>) {
        self.end = SessionEnd::Failed(error);
        let _ = self.send_records(out); // An alert says to the peer what was wrong.
        out.finish();
    }
}

/// How many bytes may be sent inside of TLS.
fn room_inside(out: &Outbox<'_>) -> usize {
    let room = out.room();
    room.saturating_sub((room / RECORD + 1) * OVERHEAD)
}

impl<P: Protocol> Protocol for Tls<P> {
    fn receive<'a>(&mut self, input: &'a [u8], out: &mut Outbox<'a>) -> usize {
        if !matches!(self.end, SessionEnd::Open) {
            out.finish(); // A peer that sends more behind its close_notify cannot keep the connection by that.
            return input.len();
        }
        if let Err(error) = self.advance(&input[self.decrypted..], out) {
            self.fail(error, out);
            return input.len();
        }
        // As much of the input is left as the inner protocol left of its own. So the connection counts what waits, reads
        // no more than there is room for, and calls again when there is room.
        self.decrypted = self.plain.len().min(input.len());
        input.len() - self.decrypted
    }

    fn end_of_input<'a>(&mut self, _: &'a [u8], out: &mut Outbox<'a>) {
        if matches!(self.end, SessionEnd::Open) {
            self.end = SessionEnd::CutOff; // The inner protocol never hears of an end, as it would take its input for whole.
            if let Err(error) = self.close(out) {
                self.fail(error, out);
            }
        }
    }

    fn last_words(&mut self, out: &mut Outbox<'_>) {
        let closed = self.call(out, |inner, out| inner.last_words(out)).and_then(|()| self.close(out));
        if let Err(error) = closed {
            self.end = SessionEnd::Failed(error);
        }
    }

    /// Nobody can read what is encrypted.
    fn log_sent(&self, _: &[u8], _: &PeerAddr, _: &mut LogBudget) {}
}

fn log_end(addr: SocketAddr, end: &SessionEnd, log: &mut LogBudget) {
    static CUT_OFF: Line = Line::warn("TLS input without a close_notify");
    static FAILED: Line = Line::warn("TLS failed");
    match end {
        SessionEnd::CutOff if log.allows(&CUT_OFF) => {
            warn!("TLS input without a close_notify at its end, which may be cut off, from {addr}");
        }
        SessionEnd::Failed(error) if log.allows(&FAILED) => warn!("TLS failed with {addr}: {error}"),
        _ => {}
    }
}

fn main() -> ExitCode {
    let args = match cli::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    cli::start_logging(args.verbosity);
    cli::served(serve(&args))
}

fn serve(args: &Args) -> anyhow::Result<Ending> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    if let Some(path) = &args.certificate {
        fs::write(path, cert.pem()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.into()], key.into())?;
    let tls = Arc::new(tls);
    ServerConnection::new(Arc::clone(&tls))?; // Fails where the others would: they have the same configuration.
    let session = move || ServerConnection::new(Arc::clone(&tls)).expect("the first one succeeded");
    let config = Config { idle_timeout: Some(IDLE), ..Config::default() };
    let mut server = Server::bind(&args.host, args.port, &config, move |_| Tls::new(session(), Echo))
        .map_err(|error| cli::cannot_listen(&args.host, args.port, &error))?;
    server.catch_signals()?;
    let ending = server.run_with(|event, event_loop| match event {
        Event::Closed { addr, protocol, .. } => log_end(addr, &protocol.end, event_loop.log_budget()),
        event => table::on_request(event, event_loop),
    })?;
    Ok(ending)
}
