//! What stands side by side in a run: echo servers, or proxies in front of one.
//!
//! Owns what differs between the two. How they are measured does not.

use serde::Serialize;

use crate::peers::{self, Peer, Places, Version};
use crate::proxies;
use crate::scenarios::{self, Scenario};
use crate::server::{CORE, LOAD_CORE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Servers,
    Proxies,
}

impl Subject {
    /// The word for one of them in the tables.
    pub fn noun(self) -> &'static str {
        match self {
            Subject::Servers => "server",
            Subject::Proxies => "proxy",
        }
    }

    pub fn scenarios(self) -> &'static [Scenario] {
        match self {
            Subject::Servers => &scenarios::ALL,
            Subject::Proxies => &scenarios::PROXIES,
        }
    }

    /// All of them, the floor first.
    pub fn peers(self, places: &Places) -> Vec<Peer> {
        match self {
            Subject::Servers => peers::all(places),
            Subject::Proxies => proxies::all(places),
        }
    }

    pub fn versions(self, places: &Places) -> Vec<Version> {
        match self {
            Subject::Servers => peers::versions(places),
            Subject::Proxies => proxies::versions(places),
        }
    }

    /// What runs where.
    pub fn cores(self) -> String {
        match self {
            Subject::Servers => format!("Servers on core {CORE}, the load on core {LOAD_CORE}."),
            Subject::Proxies => {
                format!("Proxies on core {CORE}, the load and the echo server behind them on core {LOAD_CORE}.")
            }
        }
    }

    /// Where the raw figures go.
    pub fn file(self) -> &'static str {
        match self {
            Subject::Servers => "benchmarks.json",
            Subject::Proxies => "proxies.json",
        }
    }

    /// What the page's generated part begins with.
    pub fn marker(self) -> &'static str {
        match self {
            Subject::Servers => "<!-- generated from here on: cargo run --release -p benchmarks -->",
            Subject::Proxies => "<!-- generated from here on: cargo run --release -p benchmarks -- --proxies -->",
        }
    }

    /// The heading of a chapter, which is unlike any of the other subject's on the page.
    pub fn chapter(self, title: &str) -> String {
        match self {
            Subject::Servers => format!("\n## {title}\n\n"),
            Subject::Proxies => format!("\n### Proxies: {title}\n\n"),
        }
    }

    /// The heading of a scenario's table.
    pub fn heading(self, scenario: &str, what: &str) -> String {
        match self {
            Subject::Servers => format!("\n### {scenario}: {what}\n\n"),
            Subject::Proxies => format!("\n#### Proxies, {scenario}: {what}\n\n"),
        }
    }
}
