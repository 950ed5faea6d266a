//! The run as text: tables for a terminal and for the docs page, which are the same, and the raw figures as JSON.
//!
//! Owns the generated part of `docs/benchmarks.md`. What stands around it was written by hand and is left as it is.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::machine::Machine;
use crate::measure::Sample;
use crate::peers::{FLOOR, FLOOR_SPINNING, OURS};
use crate::run::{self, Run, Settings};
use crate::scenarios::{Load, Scenario};
use crate::stats::Spread;
use crate::subject::Subject;
use crate::targets::{self, Target, calls_per_message};

const END: &str = "<!-- generated up to here -->";

/// What the page is before anything was written by hand.
const NEW_PAGE: &str = "# Benchmarks\n\n";

/// A table as Markdown, its columns as wide as they need to be, numbers to the right.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headers[column].chars().count(), 3]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let is_number =
        |column: usize| rows.iter().any(|row| row[column].starts_with(|first: char| first.is_ascii_digit()));
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        for (column, cell) in cells.enumerate() {
            let width = widths[column];
            let _ =
                if is_number(column) { write!(text, "| {cell:>width$} ") } else { write!(text, "| {cell:<width$} ") };
        }
        text.push_str("|\n");
    };
    line(&mut headers.iter().map(ToString::to_string));
    line(&mut widths.iter().enumerate().map(|(column, width)| {
        if is_number(column) { format!("{}:", "-".repeat(width - 1)) } else { "-".repeat(*width) }
    }));
    for row in rows {
        line(&mut row.iter().cloned());
    }
    text
}

/// Three digits that matter, whatever the size.
fn short(value: f64) -> String {
    match value.abs() {
        1000.0.. => {
            let mut digits = format!("{value:.0}");
            for place in (1..digits.len()).rev().filter(|place| (digits.len() - place) % 3 == 0).collect::<Vec<_>>() {
                digits.insert(place, ',');
            }
            digits
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |Spread { median, min, max }| {
        format!("{} ({}..{})", short(median), short(min), short(max))
    })
}

fn median(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |spread| short(spread.median))
}

/// The whole report; the same for a terminal and for the page, but for the charts.
pub fn text(run: &Run, targets: &[Target]) -> String {
    let mut text = String::new();
    about(&mut text, run);
    text.push_str(&run.subject.chapter("Targets"));
    text.push_str(&targets_table(targets));
    text.push_str(&run.subject.chapter("Figures"));
    text.push_str(METHOD);
    if run.subject == Subject::Proxies {
        text.push_str(METHOD_OF_PROXIES);
    }
    for scenario in run.subject.scenarios() {
        match scenario.load {
            Load::Idle { .. } => idle(&mut text, run, scenario.name, scenario.what),
            Load::Crowd { .. } => {
                let what = "the same 50, in the same servers, before the others came";
                figures(&mut text, run, &Scenario { name: "crowd-alone", what, ..*scenario });
                figures(&mut text, run, scenario);
            }
            _ => figures(&mut text, run, scenario),
        }
    }
    with_client(&mut text, run);
    calls(&mut text, run);
    if !run.failures.is_empty() {
        text.push_str(&run.subject.chapter("What failed"));
        for failure in &run.failures {
            let _ = writeln!(text, "- {failure}");
        }
    }
    text
}

const METHOD: &str = "\
Each figure is the median over the rounds, with the least and the most. Ratios are taken within each round, between
measurements that followed each other, and the median is over those. CPU is user and system time of the server's process
by its CPU clock, read where the measured time begins and ends. Tables are in the order of CPU a message.
";

const METHOD_OF_PROXIES: &str = "
A message goes through the proxy to the echo server and back through the proxy. The CPU and the memory are those of all
the processes of the proxy; the echo server is not counted. It shares the load's core, which is the one that is full: so
messages/s and MB/s say how fast the three are together, and only CPU a message what the proxy costs. Each byte of a
message counts once in MB/s. *To multiconn* is the CPU a message as a multiple of multiconn's.
";

/// What it was measured on, how, and where each program ran.
pub fn machine(text: &mut String, machine: &Machine, settings: &Settings, took_seconds: f64, cores: &str) {
    let _ = writeln!(
        text,
        "Machine: {}{}, {} cores, {} GiB, Linux {}, {} descriptors, load average before \
         the run {:.2}. `{}`: {} rounds of {} s a measurement, {:.0} s in all. \
         {}\n",
        machine.cpu,
        if machine.is_virtual { " (virtual)" } else { "" },
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.descriptors,
        machine.load_average,
        settings.command,
        settings.rounds,
        settings.seconds,
        took_seconds,
        cores,
    );
}

fn about(text: &mut String, run: &Run) {
    machine(text, &run.machine, &run.settings, run.took_seconds, &run.subject.cores());
    let versions: Vec<String> = run.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
    let _ = writeln!(text, "Versions: {}.\n", versions.join("; "));
    let rows: Vec<Vec<String>> = run
        .peers
        .iter()
        .map(|(name, what, absent)| {
            let absent = absent.as_ref().map_or_else(String::new, |reason| format!("; **absent**: {reason}"));
            vec![(*name).to_owned(), format!("{what}{absent}")]
        })
        .collect();
    text.push_str(&table(&[run.subject.noun(), "what it is"], &rows));
}

fn targets_table(targets: &[Target]) -> String {
    let rows: Vec<Vec<String>> = targets
        .iter()
        .map(|Target { scenario, what, wanted, measured, reached }| {
            let verdict = if *reached { "reached" } else { "**missed**" };
            vec![(*scenario).to_owned(), what.clone(), wanted.clone(), measured.clone(), verdict.to_owned()]
        })
        .collect();
    table(&["scenario", "target", "wanted", "measured", "verdict"], &rows)
}

fn cpu(sample: &Sample) -> f64 {
    sample.cpu_per_message_us
}

/// The table of one scenario.
fn figures(text: &mut String, run: &Run, scenario: &Scenario) {
    let (scenario, what, size) = (scenario.name, scenario.what, scenario.size());
    let Some(peers) = run.samples.get(scenario) else { return };
    let mut names: Vec<&str> = peers.keys().copied().collect();
    names.sort_by(|one, other| {
        let median = |name| run.spread(scenario, name, cpu).map_or(f64::INFINITY, |spread| spread.median);
        median(one).total_cmp(&median(other))
    });
    let proxies = run.subject == Subject::Proxies;
    let rate = |sample: &Sample| sample.messages_per_second;
    let rows = names.iter().map(|name| {
        let of = |figure: fn(&Sample) -> f64| run.spread(scenario, name, figure);
        let to = |other| run.ratio((scenario, name), (scenario, other), cpu).map_or_else(String::new, targets::show);
        let traced = run.traced.get(scenario).and_then(|peers| peers.get(name));
        let mut row = vec![(*name).to_owned(), spread(of(cpu)), to(FLOOR)];
        if proxies {
            row.push(to(OURS));
        }
        row.push(spread(of(rate)));
        if proxies && let Some(size) = size {
            row.push(spread(run.spread(scenario, name, |sample| rate(sample) * size as f64 / 1e6)));
        }
        row.extend([
            median(of(|sample| sample.p50_us)),
            median(of(|sample| sample.p99_us)),
            median(of(|sample| sample.p999_us)),
            median(of(|sample| sample.resident_bytes as f64 / 1024.0 / 1024.0)),
            traced.map_or_else(String::new, |traced| format!("{:.2}", calls_per_message(traced, None))),
        ]);
        row
    });
    let mut headers = vec![run.subject.noun(), "CPU µs a message", "to the floor"];
    headers.extend(proxies.then_some("to multiconn"));
    headers.push("messages/s");
    headers.extend((proxies && size.is_some()).then_some("MB/s"));
    headers.extend(["p50 µs", "p99 µs", "p99.9 µs", "RSS MiB", "calls"]);
    text.push_str(&run.subject.heading(scenario, what));
    text.push_str(&table(&headers, &rows.collect::<Vec<_>>()));
}

fn idle(text: &mut String, run: &Run, scenario: &str, what: &str) {
    let Some(peers) = run.samples.get(scenario) else { return };
    let mut rows: Vec<_> = peers
        .iter()
        .filter_map(|(name, samples)| {
            let sample = samples.first()?.as_ref()?;
            Some((name, sample.idle?, sample.resident_bytes))
        })
        .collect();
    rows.sort_by(|one, other| one.1.bytes_per_connection.total_cmp(&other.1.bytes_per_connection));
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, idle, resident)| {
            let resident = *resident as f64 / 1024.0 / 1024.0;
            let wake_ups = format!("{:.1}", idle.wake_ups_per_second);
            vec![(**name).to_owned(), short(idle.bytes_per_connection), short(resident), wake_ups]
        })
        .collect();
    let headers = ["server", "bytes a connection", "RSS MiB", "wake-ups a second"];
    let _ = write!(text, "\n### {scenario}: {what}\n\n{}", table(&headers, &rows));
}

/// The product's client beside the generator, and as the load in its place.
fn with_client(text: &mut String, run: &Run) {
    if run.with_client.is_empty() {
        return;
    }
    text.push_str("\n## With multiconn-client as the load\n\n");
    text.push_str(
        "The server's figures include accepting the connections. The load's are those of the client, which\n",
    );
    text.push_str("verifies, and of the plain generator against the floor in the same rounds.\n\n");
    let mut rows = Vec::new();
    let wanted = run.subject.scenarios().iter().filter(|scenario| run.with_client.contains_key(scenario.name));
    for scenario in wanted {
        let mut row = |load: &str, server: &str, samples: &[Option<Sample>], of: Option<&[Option<Sample>]>| {
            let figure = |figure: fn(&Sample) -> f64| Spread::of(samples.iter().flatten().map(figure));
            let rate = |sample: &Sample| sample.messages_per_second;
            rows.push(vec![
                scenario.name.to_owned(),
                load.to_owned(),
                server.to_owned(),
                spread(figure(cpu)),
                spread(figure(rate)),
                of.and_then(|of| run::ratios(samples, of, rate)).map_or_else(String::new, targets::show),
                spread(figure(|sample| sample.load_cpu_per_message_us)),
                median(figure(|sample| sample.p50_us)),
            ]);
        };
        let plain = run.without_client.get(scenario.name).map(Vec::as_slice);
        if let Some(plain) = plain {
            row("generator", FLOOR, plain, None);
        }
        for (name, samples) in &run.with_client[scenario.name] {
            row("client", name, samples, plain.filter(|_| *name == FLOOR));
        }
    }
    let headers = [
        "scenario",
        "load",
        "server",
        "server's CPU µs a message",
        "messages/s",
        "to the generator",
        "load's CPU µs a message",
        "p50 µs",
    ];
    text.push_str(&table(&headers, &rows));
}

/// The system calls by name.
fn calls(text: &mut String, run: &Run) {
    if run.traced.is_empty() && run.accepting.is_empty() {
        return;
    }
    text.push_str(&run.subject.chapter("System calls a message"));
    text.push_str(
        "Counted in runs of their own under `strace -c -f`, from the first message to the last; those below 0.001\n",
    );
    text.push_str(
        "a message left out. In `churn`, and in `accepting` (1,000 that connect one after the other and say\n",
    );
    text.push_str("nothing), a message is a connection.\n\n");
    let mut rows = Vec::new();
    let scenarios = run.subject.scenarios();
    let traced = scenarios.iter().filter_map(|scenario| Some((scenario.name, run.traced.get(scenario.name)?)));
    for (scenario, peers) in traced.chain([("accepting", &run.accepting)]) {
        for (name, _, _) in run.peers.iter().filter(|(name, ..)| peers.contains_key(name) && *name != FLOOR_SPINNING) {
            let traced = &peers[name];
            let mut calls: Vec<(&String, f64)> =
                traced.calls.keys().map(|call| (call, calls_per_message(traced, Some(call)))).collect();
            calls.sort_by(|one, other| other.1.total_cmp(&one.1));
            let calls: Vec<String> = calls
                .iter()
                .filter(|(_, count)| *count >= 0.001)
                .map(|(call, count)| format!("{call} {count:.3}"))
                .collect();
            let all = format!("{:.3}", calls_per_message(traced, None));
            rows.push(vec![scenario.to_owned(), (*name).to_owned(), all, calls.join(", ")]);
        }
    }
    text.push_str(&table(&["scenario", run.subject.noun(), "calls", "which"], &rows));
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    run: &'a Run,
    targets: &'a [Target],
}

/// Writes the raw figures.
pub fn write_json(run: &Run, targets: &[Target], path: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(&Json { run, targets })?;
    text.push('\n');
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// Puts the report into the page, in place of the one before.
pub fn write_page(marker: &str, report: &str, charts: &[&str], path: &Path) -> anyhow::Result<()> {
    let page = fs::read_to_string(path).unwrap_or_else(|_| NEW_PAGE.to_owned());
    let charts = charts.iter().fold(String::new(), |text, chart| format!("{text}![{chart}]({chart})\n\n"));
    let page = replace_generated(&page, marker, &format!("{charts}{report}"));
    fs::write(path, page).with_context(|| path.display().to_string())
}

/// The page with its generated part replaced, or with one at its end if it had none.
fn replace_generated(page: &str, marker: &str, generated: &str) -> String {
    let part = format!("{marker}\n\n{generated}\n{END}");
    let old = page.split_once(marker).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    match old {
        Some((before, behind)) => format!("{before}{part}{behind}"),
        None => format!("{}\n\n{part}\n", page.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_by_hand_survives() {
        let marker = Subject::Servers.marker();
        let first = replace_generated("# Title\n\nby hand\n", marker, "one");
        let second = replace_generated(&format!("{first}\nanalysis\n"), marker, "two");
        assert!(second.starts_with("# Title\n\nby hand\n\n"), "{second}");
        assert!(second.ends_with("\nanalysis\n"), "{second}");
        assert!(second.contains("two") && !second.contains("one"), "{second}");
        assert_eq!(replace_generated(&second, marker, "two"), second);
    }

    #[test]
    fn each_subject_replaces_its_own_part_of_the_page() {
        let page = replace_generated("# Title\n", Subject::Servers.marker(), "servers 1");
        let page = replace_generated(&page, Subject::Proxies.marker(), "proxies 1");
        let page = replace_generated(&page, Subject::Servers.marker(), "servers 2");
        let page = replace_generated(&page, Subject::Proxies.marker(), "proxies 2");
        assert!(!page.contains('1'), "{page}");
        assert!(page.find("servers 2").unwrap() < page.find("proxies 2").unwrap(), "{page}");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.31, 3.2, 13.94, 324.4, 1000.0, 1_234_567.0].map(short);
        assert_eq!(shown, ["0.310", "3.20", "13.9", "324", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_table_lines_up() {
        let text = table(&["a", "b"], &[vec!["x".into(), "1.5".into()], vec!["long".into(), "10".into()]]);
        assert_eq!(text, "| a    |   b |\n| ---- | --: |\n| x    | 1.5 |\n| long |  10 |\n");
    }
}
