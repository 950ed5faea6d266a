//! What a user writes on the command line: no parser panics, what is taken means what was written, and what is refused
//! is refused in one line that a terminal can show.
//!
//! Owns another reading of each argument, by other means than the product's.
#![no_main]

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use multiconn::cli::{self, TimeLimit};
use multiconn::report::expect::Expectation;
use multiconn::client::measure::Figures;
use multiconn::report::measured::Measured;
use multiconn::internals::event_loop::MINIMUM_BUFFER;
use multiconn_fuzz::is_harmless_line;

/// Addresses of one range at the most.
const MOST_SOURCES: usize = 65_536;

// No argument holds a NUL, so one input holds several, with a NUL between them.
fuzz_target!(|texts: &str| {
    for text in texts.split('\0') {
        hosts(text);
        numbers(text);
        times(text);
        sizes(text);
        sources(text);
        expectations(text);
    }
});

/// What was parsed, if its error is fit to be printed.
fn told<T: Debug>(parsed: Result<T, String>) -> Option<T> {
    let is_harmless = |error: &str| !error.is_empty() && error.lines().all(is_harmless_line);
    parsed.inspect_err(|error| assert!(is_harmless(error), "{error:?}")).ok()
}

fn hosts(text: &str) {
    match told(cli::host(text)) {
        Some(host) => assert_eq!(host, text),
        None => assert!(text.contains(':') && text.parse::<IpAddr>().is_err(), "what is no pair is a host"),
    }
}

fn numbers(text: &str) {
    let number = |text: &str| {
        let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // So many digits fit, with nine more for a unit, and are more than any number here has.
        let digits = text.trim_start_matches('0');
        (is_digits && digits.len() < 29).then(|| digits.parse::<u128>().unwrap_or(0))
    };
    let within =
        |number: Option<u128>, least: u128, most: u128| number.filter(|number| (least..=most).contains(number));
    assert_eq!(told(cli::any_port(text)).map(u128::from), within(number(text), 0, 65_535));
    assert_eq!(told(cli::port(text)).map(u128::from), within(number(text), 1, 65_535));
    let mut digits = text.to_owned();
    let zeros = match digits.pop() {
        Some('k' | 'K') => 3,
        Some('M') => 6,
        Some('G') => 9,
        last => {
            digits.extend(last);
            0
        }
    };
    let count = number(&digits).map(|number| number * 10_u128.pow(zeros));
    assert_eq!(told(cli::count(text)).map(u128::from), within(count, 1, u32::MAX.into()));
    assert_eq!(told(cli::large_count(text)).map(|count| count.get().into()), within(count, 1, u64::MAX.into()));
}

fn times(text: &str) {
    let duration = told(cli::duration(text));
    if let Some(duration) = duration {
        let again = format!("{}s {}ns", duration.as_secs(), duration.subsec_nanos());
        assert_eq!(cli::duration(&again), Ok(duration));
        assert!(text.bytes().any(|byte| byte.is_ascii_alphabetic()), "a time without a unit");
    }
    let timeout = told(cli::timeout(text));
    assert_eq!(timeout, duration.filter(|&duration| duration > Duration::ZERO));
    let limit = told(cli::timeout_or_off(text));
    assert_eq!(
        limit,
        if text == "off" { Some(TimeLimit(None)) } else { timeout.map(|timeout| TimeLimit(Some(timeout))) }
    );
}

fn sizes(text: &str) {
    let size = told(cli::size(text));
    if let Some(size) = size {
        assert!(size > 0);
        assert_eq!(cli::size(&size.to_string()), Ok(size));
    }
    assert_eq!(told(cli::buffer_size(text)), size.filter(|&size| size >= MINIMUM_BUFFER));
    if let Ok(plain) = text.parse::<usize>()
        && !text.starts_with('+')
    {
        assert_eq!(size, Some(plain).filter(|&plain| plain > 0));
    }
}

fn sources(text: &str) {
    let Some(sources) = told(cli::sources(text)) else { return };
    let addrs = &sources.0;
    assert!((1..=MOST_SOURCES).contains(&addrs.len()));
    assert!(addrs.iter().all(|addr| addr.is_ipv4() == addrs[0].is_ipv4()));
    if text.contains('-') {
        assert!(addrs.is_sorted());
        let again = format!("{}-{}", addrs[0], addrs[addrs.len() - 1]);
        assert_eq!(cli::sources(&again).as_ref(), Ok(&sources));
    } else {
        let again: Vec<String> = addrs.iter().map(ToString::to_string).collect();
        assert_eq!(cli::sources(&again.join(" , ")).as_ref(), Ok(&sources));
    }
}

fn expectations(text: &str) {
    let Some(mut expectation) = told(Expectation::parse(text)) else { return };
    assert!(is_harmless_line(&expectation.to_string()), "{expectation:?}");
    let each = expectation.is_for_each_interval();
    let rest = if each { text.trim_start().trim_start_matches("every") } else { text };
    let spaced: String = rest.chars().flat_map(|char| [' ', char]).collect();
    let spaced = if each { format!("every {spaced}") } else { spaced };
    let mut again = Expectation::parse(&spaced).expect("space means nothing behind 'every'");
    assert_eq!(again.to_string(), expectation.to_string());
    assert_eq!(again.needs(), expectation.needs());
    let figures = Figures::new();
    let measured = Measured {
        figures: &figures,
        took: Duration::ZERO,
        is_scheduled: false,
        is_measured: true,
        connections: 0,
        faults: 0,
        unanswered: 0,
        never: 0,
        waiting: 0,
        run: None,
    };
    let outcomes = [&mut expectation, &mut again].map(|expectation| {
        expectation.interval_is_over(Duration::ZERO, &measured);
        expectation.outcome(&measured)
    });
    assert_eq!(outcomes[0], outcomes[1]);
    let [outcome, _] = outcomes;
    assert!(outcome.measured.is_none_or(|measured| measured == 0.0));
    assert!(!outcome.held || outcome.measured.is_some(), "what was not measured does not hold");
    assert!(is_harmless_line(&outcome.to_string()), "{outcome:?}");
}
