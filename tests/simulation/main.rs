//! The whole loop, server and client, on a simulated network. Each seed is a world of its own, and gives the same world
//! each time.
//!
//! Server and client run on one loop, as in `examples/loopback.rs`; further peers belong to the network. In every
//! world, each byte arrives, or its loss is reported as what it was. A seed that fails is printed:
//!
//! ```text
//! MULTICONN_SEED=1234 cargo test --test simulation one_world -- --ignored --nocapture
//! MULTICONN_SECONDS=600 cargo test --release --test simulation -- --ignored
//! ```

#![allow(clippy::single_match_else, reason = "two cases of equal weight stand side by side")]
#![allow(clippy::struct_excessive_bools, reason = "independent facts of a socket")]

#[path = "../common/dice.rs"]
mod dice;
mod network;
mod peer;
mod promises;
mod speaker;
mod world;

use std::panic;
use std::time::{Duration, Instant};

/// How many worlds a plain test run has. In a release build, a world takes a millisecond.
const WORLDS: u64 = if cfg!(debug_assertions) { 300 } else { 5000 };

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Runs the world of each seed until one fails.
fn run(seeds: impl Iterator<Item = u64>) {
    let mut tally = world::Tally::default();
    for seed in seeds {
        match panic::catch_unwind(|| world::run(seed, false)) {
            Ok(world) => tally.add(&world),
            Err(cause) => {
                eprintln!("seed {seed}: MULTICONN_SEED={seed} cargo test --test simulation one_world -- --ignored");
                panic::resume_unwind(cause);
            }
        }
    }
    println!("{tally:#?}");
    tally.assert_everything_happened();
}

#[test]
fn every_byte_arrives_or_its_loss_is_reported() {
    run(0..number("MULTICONN_WORLDS").unwrap_or(WORLDS));
}

#[test]
#[ignore = "takes as long as MULTICONN_SECONDS says, 60 s if it does not"]
fn new_worlds_for_as_long_as_asked() {
    let (begun, lasting) = (Instant::now(), Duration::from_secs(number("MULTICONN_SECONDS").unwrap_or(60)));
    // Each run begins with another seed.
    let first = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() << 32;
    println!("from seed {first} on");
    run((first..).take_while(|_| begun.elapsed() < lasting));
}

#[test]
#[ignore = "runs the one world that MULTICONN_SEED names"]
fn one_world() {
    println!("{:#?}", world::run(number("MULTICONN_SEED").unwrap_or(0), true));
}
