//! What the programs share and the library does not need: arguments, the logger, exit codes, what is shown while they run.
//!
//! Behind the feature `cli`, which is on by default. A server of your own may use it as well; the examples do.

pub mod intervals;
pub mod progress_line;
pub mod standard_error;
pub mod table;
mod unblocked;

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use log::LevelFilter;

use crate::cli::standard_error::{LossyStderr, USUAL_WIDTH};
use crate::client::rate::Rate;
pub use crate::client::units::duration;
use crate::client::units::split_multiplier;
use crate::engine::event_loop::MINIMUM_BUFFER;
use crate::engine::signals::Signal;
use crate::engine::{descriptors, sockets};
use crate::server::Ending;

/// The system refused something, or a connection was not intact.
pub const EXIT_FAILURE: u8 = 1;

/// The command line alone shows that it is wrong.
const EXIT_USAGE: u8 = 2;

/// How wide `--help` is at the most, however wide the terminal.
pub const HELP_WIDTH: usize = USUAL_WIDTH;

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Verbosity {
    /// Log every line, however many there are, and details
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Log nothing but the error that ends the program
    #[arg(short, long)]
    pub quiet: bool,
}

impl Verbosity {
    fn level(self) -> LevelFilter {
        match self {
            Verbosity { quiet: true, .. } => LevelFilter::Error,
            Verbosity { verbose: true, .. } => LevelFilter::Debug,
            _ => LevelFilter::Info,
        }
    }
}

/// Sends the log to standard error by a logger that neither blocks nor fails ([`LossyStderr`]).
///
/// Lines have no timestamp and, at `info`, no level: a run reads like a transcript. `RUST_LOG` rules over `verbosity`.
///
/// # Panics
/// If there is a logger already.
pub fn start_logging(verbosity: Verbosity) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(verbosity.level());
    let mut refused = None;
    if let Ok(filters) = std::env::var("RUST_LOG") {
        // env_logger complains of a bad filter by eprintln!, which panics if standard error is closed. So look first.
        match env_filter::Builder::new().try_parse(&filters) {
            Ok(_) => {
                builder.parse_filters(&filters);
            }
            Err(error) => refused = Some(error),
        }
    }
    builder.format(|line, record| match record.level() {
        log::Level::Info => writeln!(line, "{}", record.args()),
        level => writeln!(line, "{}: {}", level_name(level), record.args()),
    });
    builder.target(env_logger::Target::Pipe(Box::new(LossyStderr)));
    builder.init();
    if let Some(error) = refused {
        log::warn!("RUST_LOG is ignored: {error}");
    }
}

fn level_name(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warning",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

/// Parses the command line, or says what is wrong with it and which exit code that makes: 2, or 0 for `--help`.
pub fn parse<A: clap::Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        let text = format!("{}\n", error.render().to_string().trim_end());
        if error.use_stderr() {
            let _ = LossyStderr.write(text.as_bytes()); // It never fails.
            ExitCode::from(EXIT_USAGE)
        } else {
            print(&text).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
        }
    })
}

/// Writes a program's result to standard output. A reader that closes the pipe early (`head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// As [`print()`].
pub fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output"))
        }
        _ => Ok(()),
    }
}

/// Says in one line why the program ends, whatever the log level. Returns its exit code.
#[must_use]
pub fn fail(error: &anyhow::Error) -> ExitCode {
    let _ = LossyStderr.write(format!("error: {error:#}\n").as_bytes()); // It never fails.
    ExitCode::from(EXIT_FAILURE)
}

/// The exit code of a server that ran and ended, or could not: says then why. After a second signal it is that of the
/// signal.
#[must_use]
pub fn served(result: anyhow::Result<Ending>) -> ExitCode {
    match result {
        Ok(Ending::Drained) => ExitCode::SUCCESS,
        Ok(Ending::Killed(signal)) => ExitCode::from(exit_code_of(signal)),
        Err(error) => fail(&error),
    }
}

/// Says in one line what is wrong with the command line. Returns the exit code for that.
#[must_use]
pub fn misuse(what: &str) -> ExitCode {
    let _ = LossyStderr.write(format!("error: {what}\n").as_bytes()); // It never fails.
    ExitCode::from(EXIT_USAGE)
}

/// The exit code of a program that a signal ended, as shells have it.
#[must_use]
pub fn exit_code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.number()).unwrap_or(EXIT_FAILURE)
}

/// How many connections the server takes: as many as descriptors allow, unless `asked` for otherwise. Raises the limit
/// of open files.
pub fn connection_cap(asked: Option<usize>) -> anyhow::Result<usize> {
    let (limit, fit) = raise_descriptor_limit()?;
    if let Some(asked) = asked.filter(|&asked| asked > fit) {
        log::warn!(
            "--max-connections {asked} is more than the {limit} descriptors of this process allow; accepting will pause \
             when they run out (ulimit -Hn shows the limit)"
        );
    }
    Ok(asked.unwrap_or(fit))
}

/// Raises the limit of open files and returns it, with the number of connections that fit under it.
pub fn raise_descriptor_limit() -> anyhow::Result<(u64, usize)> {
    let limit = descriptors::raise_limit().context("cannot raise the limit of open files")?;
    Ok((limit, descriptors::connections_within(limit)))
}

/// Why a server could not be bound, and what to do about it.
#[must_use]
pub fn cannot_listen(host: &str, port: u16, error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot listen on {host:?} port {port}: {error}; {}", sockets::listen_advice(error))
}

/// The arguments `[HOST [PORT]]` of an example, by default the tutorial's. What is wrong with them has been said.
pub fn host_and_port() -> Result<(String, u16), ExitCode> {
    const USAGE: &str = "usage: [HOST [PORT]], by default 127.0.0.1 65432";
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.len() > 2 || args.iter().any(|arg| arg.starts_with('-')) {
        return Err(misuse(USAGE));
    }
    let wrong = |text: &str, error: &str| misuse(&format!("{text:?}: {error}; {USAGE}"));
    let host_text = args.first().map_or("127.0.0.1", String::as_str);
    let host = host(host_text).map_err(|error| wrong(host_text, &error))?;
    let port = args.get(1).map_or("65432", String::as_str);
    Ok((host, any_port(port).map_err(|error| wrong(port, &error))?))
}

/// An address or a name, which is looked up later. `HOST:PORT`, as other programs have it, is answered by what to write
/// instead: here they are two arguments.
pub fn host(text: &str) -> Result<String, String> {
    let pair = text.rsplit_once(':').filter(|_| text.parse::<Ipv6Addr>().is_err());
    let pair = pair.and_then(|(host, port)| match sockets::without_brackets(host) {
        Some(bare) => Some((bare, port)),
        None if !host.contains(':') || host.parse::<Ipv6Addr>().is_ok() => Some((host, port)),
        None => None, // An IPv6 address with the name of a link behind it, or nonsense that the resolver will name.
    });
    let Some((host, port)) = pair else { return Ok(text.to_owned()) };
    let fit_to_print = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
    let host = if fit_to_print { host } else { "HOST" };
    let port = if digits(port).is_ok() { port } else { "PORT" };
    Err(format!("HOST and PORT are two arguments: write {host} {port}"))
}

/// A port from 0 to 65535, in digits alone.
pub fn any_port(text: &str) -> Result<u16, String> {
    digits(text)?.parse().map_err(|_| "a port is a number from 0 to 65535".to_owned())
}

/// A port that can be connected to: from 1 to 65535.
pub fn port(text: &str) -> Result<u16, String> {
    match any_port(text) {
        Ok(0) => Err("port 0 means a free port and is for servers; connect to one from 1 to 65535".to_owned()),
        Err(error) => Err(error.replace("0 to", "1 to")),
        port => port,
    }
}

/// A whole number from 1 on: `5000` or `5k`.
pub fn count(text: &str) -> Result<u32, String> {
    u32::try_from(large_count(text)?.get()).map_err(|_| format!("more than {}", u32::MAX))
}

/// A whole number from 1 on, as large as it may be: `5000` or `5k`.
pub fn large_count(text: &str) -> Result<NonZeroU64, String> {
    let (number, unit) = split_multiplier(text);
    let number = digits(number).map_err(|_| "not a whole number: write it like 5000, 5k or 5M")?;
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).map(NonZeroU64::new) {
        Some(Some(count)) => Ok(count),
        Some(None) => Err("at least 1 is needed".to_owned()),
        None => Err(format!("more than {}", u64::MAX)),
    }
}

/// A number of events a second: `5000`, `5k` or `0.5`.
pub fn rate(text: &str) -> Result<Rate, String> {
    text.parse()
}

/// The key of a run's bytes, in hex digits, as the report has it.
pub fn seed(text: &str) -> Result<u64, String> {
    let is_hex = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
    number.ok_or_else(|| "write it in hex digits, 16 at the most, as the report has it".to_owned())
}

/// Local addresses to connect from. (Not a `Vec`, which clap would take for an option that may be repeated.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(pub Vec<IpAddr>);

/// The most addresses that a range may have: as many as ports, and thus connections for a few lifetimes.
const MOST_SOURCES: u32 = 65_536;

/// Addresses of one family: `ADDR,ADDR,…`, or a range `FIRST-LAST`.
pub fn sources(text: &str) -> Result<Sources, String> {
    let addr = |text: &str| {
        let bare = text.trim();
        bare.parse::<IpAddr>()
            .map(|addr| addr.to_canonical())
            .map_err(|_| format!("{bare:?} is no address: write it like 127.0.0.1,127.0.0.2 or 10.0.0.1-10.0.0.9"))
    };
    let addrs = match text.split_once('-') {
        None => text.split(',').map(addr).collect::<Result<Vec<_>, _>>()?,
        Some((first, last)) => match (addr(first)?, addr(last)?) {
            (IpAddr::V4(first), IpAddr::V4(last))
                if first <= last && u32::from(last) - u32::from(first) < MOST_SOURCES =>
            {
                (u32::from(first)..=u32::from(last)).map(|bits| IpAddr::V4(bits.into())).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last))
                if first <= last && u128::from(last) - u128::from(first) < u128::from(MOST_SOURCES) =>
            {
                (u128::from(first)..=u128::from(last)).map(|bits| IpAddr::V6(bits.into())).collect()
            }
            _ => {
                return Err(format!(
                    "a range goes from a lower to a higher address of one family, {MOST_SOURCES} at the most"
                ));
            }
        },
    };
    if addrs.iter().any(|addr| addr.is_ipv4() != addrs[0].is_ipv4()) {
        return Err("the addresses have to be all IPv4 or all IPv6".to_owned());
    }
    let mut once: Vec<IpAddr> = addrs.clone();
    once.sort_unstable();
    once.dedup();
    if once.len() < addrs.len() {
        return Err("an address is given twice".to_owned());
    }
    Ok(Sources(addrs))
}

/// Rust's own parsers take a `+`, which is a mistake wherever a user writes it.
fn digits(text: &str) -> Result<&str, String> {
    if text.is_empty() {
        Err("a number is needed".to_owned())
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text)
    } else {
        Err("not a number in digits".to_owned())
    }
}

/// A duration longer than nothing.
pub fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a timeout has to be longer than that".to_owned()),
        duration => Ok(duration),
    }
}

/// The shortest interval: a shorter one costs more than it shows.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// The length of a part of a run.
pub fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        length if length < SHORTEST_INTERVAL => {
            Err(format!("at least {} ms are needed", SHORTEST_INTERVAL.as_millis()))
        }
        length => Ok(length),
    }
}

/// A duration longer than nothing, or `off`.
pub fn timeout_or_off(text: &str) -> Result<TimeLimit, String> {
    if text == "off" { Ok(TimeLimit(None)) } else { timeout(text).map(|timeout| TimeLimit(Some(timeout))) }
}

/// A time limit that can be off. (Not an `Option`, which clap would take for an option that need not be given.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit(pub Option<Duration>);

/// How many digits the largest number of bytes has.
const MOST_DIGITS: usize = 20;

/// A number of bytes as people write it, `64KiB` or `1MB`; a bare number is bytes.
pub fn size(text: &str) -> Result<usize, String> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err("write it like 64KiB, 1MB or 4096".to_owned());
    }
    // With more digits `parse_size` overflows: it panics or, without overflow checks, returns 0.
    let significant = text.trim_start_matches(['0', '.', '_']).bytes().filter(u8::is_ascii_digit).count();
    if significant > MOST_DIGITS {
        return Err("more digits than a size has".to_owned());
    }
    let bytes = parse_size::parse_size(text).map_err(|error| format!("{error}: write it like 64KiB, 1MB or 4096"))?;
    match usize::try_from(bytes) {
        Ok(0) => Err("at least one byte is needed".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("more than this machine can address".to_owned()),
    }
}

/// A size that a connection can work with.
pub fn buffer_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        size if size < MINIMUM_BUFFER => Err(format!("at least {MINIMUM_BUFFER} bytes are needed")),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_digits_in_range() {
        assert_eq!(any_port("0"), Ok(0));
        assert_eq!(port("65535"), Ok(65535));
        for bad in ["", "-1", "+5", "65536", "abc", "1 ", "0x50", "１"] {
            assert!(any_port(bad).is_err(), "{bad:?}");
            assert!(port(bad).is_err(), "{bad:?}");
        }
        assert!(port("0").is_err());
    }

    #[test]
    fn counts_begin_at_one() {
        assert_eq!(count("1000000000"), Ok(1_000_000_000));
        for bad in ["0", "-1", "+1", "1.5", "18446744073709551616", ""] {
            assert!(count(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn thousands_are_written_as_people_write_them() {
        assert_eq!(count("5k"), Ok(5_000));
        assert_eq!(count("5K"), count("5k"));
        assert_eq!(count("2M"), Ok(2_000_000));
        assert_eq!(large_count("18446744073G").map(NonZeroU64::get), Ok(18_446_744_073_000_000_000));
        assert_eq!(size("5k"), Ok(5_000), "a k is the same in sizes");
        for bad in ["k", "0k", "1.5k", "5 k", "5kk", "5kB", "5m", "-5k", "18446744074G"] {
            assert!(large_count(bad).is_err(), "{bad:?}");
        }
        assert_eq!(count("5G"), Err("more than 4294967295".to_owned()));
        assert!(count("5kB").unwrap_err().contains("write it like 5000, 5k or 5M"));
    }

    #[test]
    fn a_seed_is_hex_digits_alone() {
        assert_eq!((seed("0"), seed("00ff"), seed("FFFFFFFFFFFFFFFF")), (Ok(0), Ok(255), Ok(u64::MAX)));
        for bad in ["", "+1", "-1", "0x1", "1 ", "g", "10000000000000000"] {
            assert!(seed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_and_port_in_one_are_distinguished_from_hosts() {
        for (text, instead) in [
            ("127.0.0.1:65432", "127.0.0.1 65432"),
            ("localhost:65432", "localhost 65432"),
            ("[::1]:65432", "::1 65432"),
            ("[fe80::1%eth0]:7", "fe80::1%eth0 7"),
            ("::1:65432", "::1 65432"),
            ("localhost:echo", "localhost PORT"),
            ("localhost:", "localhost PORT"),
            (":65432", "HOST 65432"),
            ("\x1b[31mred:65432", "HOST 65432"),
        ] {
            assert_eq!(host(text), Err(format!("HOST and PORT are two arguments: write {instead}")));
        }
        for right in ["", "127.0.0.1", "localhost", "::1", "[::1]", "::", "::1:7", "fe80::1%eth0", "::ffff:127.0.0.1"] {
            assert_eq!(host(right), Ok(right.to_owned()));
        }
    }

    #[test]
    fn sources_are_a_list_or_a_range() {
        let addrs = |text: &str| sources(text).map(|sources| sources.0.len());
        assert_eq!(addrs("127.0.0.1"), Ok(1));
        assert_eq!(addrs("127.0.0.1, 127.0.0.9"), Ok(2));
        assert_eq!(addrs("127.0.0.254-127.0.1.1"), Ok(4));
        assert_eq!(addrs("::1-::ff"), Ok(255));
        assert_eq!(sources("::ffff:127.0.0.1"), sources("127.0.0.1"), "as the server's address is read");
        for bad in [
            "",
            "127.0.0.1-",
            "127.0.0.2-127.0.0.1",
            "127.0.0.1,::1",
            "::1-127.0.0.1",
            "0.0.0.0-9.0.0.0",
            "127.0.0.1,127.0.0.1",
            "localhost",
        ] {
            assert!(sources(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn timeouts_are_longer_than_nothing_or_off() {
        assert!(timeout("0ms").is_err());
        assert_eq!(timeout_or_off("off"), Ok(TimeLimit(None)));
        assert_eq!(timeout_or_off("1m"), Ok(TimeLimit(Some(Duration::from_secs(60)))));
    }

    #[test]
    fn sizes_are_written_as_people_write_them() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("4096"), Ok(4096));
        for bad in ["", "0", "-1", "+1", "KiB", "1XB", "99999999999999999999", "1e30"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_size_of_more_digits_than_fit_is_refused_and_does_not_panic() {
        for bad in ["184467440737095516155", "18446744073709551615.9", "1.84467440737095516155KiB"] {
            assert_eq!(size(bad), Err("more digits than a size has".to_owned()), "{bad:?}");
        }
        assert_eq!(size(&usize::MAX.to_string()), Ok(usize::MAX));
        assert_eq!(size("0000000000000000000000001"), Ok(1));
        assert_eq!(size("0.50000000000000000000KiB"), Ok(512));
    }
}
