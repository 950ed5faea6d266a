//! Where the intervals of a client's run go: to standard output and to files as they end, and into the report.
//!
//! Owns what is not written yet. A reader of standard output that is slow never stalls the run: the lines wait, in bounded
//! memory, and when that is full they become fewer, of longer intervals. What goes to a file is written at once.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use rustix::stdio::stdout;
use serde::Serialize;

use crate::cli::unblocked::Unblocked;
use crate::client::timeline::Interval;
use crate::report::expect::Expectation;
use crate::report::hdr_log::HdrLog;
use crate::report::interval::IntervalReport;
use crate::report::measured::Measured;

/// How many lines wait for the reader of standard output: those of a quarter of an hour of seconds, in 1 MB at the most.
const MOST_WAITING: usize = 1000;

/// How many intervals a report has: those of five hours of seconds, in 20 MB at the most. If there are more, the last one
/// is longer.
const MOST_REPORTED: usize = 20_000;

/// The form of a line on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Columns, below their heads.
    Text,
    /// An object `{"interval":{…}}`.
    Json,
}

/// Takes all intervals, or fails.
type Sink = Box<dyn FnMut(&Interval) -> anyhow::Result<()>>;

/// Where the intervals of one run go.
#[derive(Default)]
pub struct Intervals {
    lines: Option<Lines>,
    reported: Option<Backlog>,
    files: Vec<(PathBuf, Sink)>,
    /// What is expected of each, or of the whole run.
    expectations: Vec<Expectation>,
    is_scheduled: bool,
    /// Why one of the files failed.
    failed: Option<anyhow::Error>,
}

impl Intervals {
    /// A line each on standard output.
    pub fn print(&mut self, form: Form) {
        self.lines = Some(Lines::new(form));
    }

    /// Into the report.
    pub fn report(&mut self) {
        self.reported = Some(Backlog::new(MOST_REPORTED));
    }

    /// A line of CSV each in this file.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn write_csv(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut file = create(path)?;
        let mut has_heads = false;
        self.files.push((
            path.to_owned(),
            Box::new(move |interval| {
                let report = IntervalReport::of(interval);
                let heads = if has_heads { String::new() } else { report.csv_heads() };
                has_heads = true;
                Ok(file.write_all((heads + &report.csv_line()).as_bytes())?)
            }),
        ));
        Ok(())
    }

    /// Their histograms in this file, as those of a run that begins now.
    ///
    /// # Errors
    /// It cannot be created or written.
    pub fn write_hdr_log(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut log = HdrLog::begin(create(path)?, SystemTime::now()).with_context(|| cannot_write(path))?;
        self.files.push((path.to_owned(), Box::new(move |interval| log.add(interval))));
        Ok(())
    }

    /// Judges each. `is_scheduled`: an open loop.
    pub fn expect(&mut self, expectations: Vec<Expectation>, is_scheduled: bool) {
        (self.expectations, self.is_scheduled) = (expectations, is_scheduled);
    }

    /// What is expected, judged so far.
    #[must_use]
    pub fn expectations(&self) -> &[Expectation] {
        &self.expectations
    }

    /// Whether lines go to a terminal: then nothing else may be drawn at its foot.
    pub(crate) fn are_on_a_terminal(&self) -> bool {
        self.lines.is_some() && io::stdout().is_terminal()
    }

    /// Sends an interval where it belongs.
    pub(crate) fn send(&mut self, interval: Interval) {
        let measured = Measured::of_interval(&interval, self.is_scheduled);
        for expectation in &mut self.expectations {
            expectation.interval_is_over(interval.from, &measured);
        }
        self.files.retain_mut(|(path, write)| match write(&interval) {
            Ok(()) => true,
            Err(error) => {
                self.failed.get_or_insert_with(|| error.context(cannot_write(path)));
                false
            }
        });
        if let Some(reported) = &mut self.reported {
            reported.push(interval);
        } else if let Some(lines) = &mut self.lines {
            lines.backlog.push(interval);
            lines.write();
        }
    }

    /// The run is over. Returns the lines that still have to be written, the intervals of the report, and whether all
    /// files have what belongs there.
    pub fn finish(self) -> (Vec<u8>, Vec<IntervalReport>, anyhow::Result<()>) {
        let lines = self.lines.map_or_else(Vec::new, Lines::rest);
        let reports = self.reported.into_iter().flatten().collect();
        (lines, reports, self.failed.map_or(Ok(()), Err))
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Lines on their way to standard output.
struct Lines {
    form: Form,
    stdout: Unblocked,
    /// The bytes of the lines begun that are not written yet.
    begun: Vec<u8>,
    backlog: Backlog,
}

impl Lines {
    fn new(form: Form) -> Lines {
        let begun = match form {
            Form::Text => IntervalReport::HEADS.into(),
            Form::Json => Vec::new(),
        };
        Lines { form, stdout: Unblocked::new(stdout()), begun, backlog: Backlog::new(MOST_WAITING) }
    }

    /// Writes what standard output takes now.
    fn write(&mut self) {
        loop {
            let (written, may_take_more) = self.stdout.write(&self.begun);
            self.begun.drain(..written);
            if !may_take_more {
                self.begun.clear(); // Nobody reads it. (A full disk will be noticed when the report is written.)
            }
            if !self.begun.is_empty() {
                return;
            }
            let Some(next) = self.backlog.next() else { return };
            self.begun = self.form.line(&next).into_bytes();
        }
    }

    /// What is not written yet.
    fn rest(self) -> Vec<u8> {
        let Lines { form, begun: mut bytes, backlog, .. } = self;
        backlog.for_each(|report| bytes.extend_from_slice(form.line(&report).as_bytes()));
        bytes
    }
}

impl Form {
    fn line(self, report: &IntervalReport) -> String {
        match self {
            Form::Text => report.to_string(),
            Form::Json => object("interval", report),
        }
    }
}

/// A line with an object of one field.
///
/// # Panics
/// If the value holds a map whose keys are no text.
#[must_use]
pub fn object(name: &str, value: &impl Serialize) -> String {
    let value = serde_json::to_string(value).expect("the keys of all maps are text");
    format!("{{\"{name}\":{value}}}\n")
}

/// Intervals in bounded memory. When it is full, they become one.
struct Backlog {
    most: usize,
    reports: VecDeque<IntervalReport>,
    /// Those that came when it was full.
    merged: Option<Interval>,
}

impl Backlog {
    fn new(most: usize) -> Backlog {
        Backlog { most, reports: VecDeque::new(), merged: None }
    }

    fn push(&mut self, interval: Interval) {
        match &mut self.merged {
            Some(merged) => merged.add(interval),
            None if self.reports.len() < self.most => self.reports.push_back(IntervalReport::of(&interval)),
            None => self.merged = Some(interval),
        }
    }
}

impl Iterator for Backlog {
    type Item = IntervalReport;

    fn next(&mut self) -> Option<IntervalReport> {
        self.reports.pop_front().or_else(|| self.merged.take().map(|merged| IntervalReport::of(&merged)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::client::measure::Figures;

    fn interval(second: u64) -> Interval {
        Interval {
            from: Duration::from_secs(second),
            to: Duration::from_secs(second + 1),
            is_measured: true,
            connections: 1,
            faults: 0,
            waiting: 0,
            oldest: None,
            figures: Figures { messages_echoed: 1, ..Figures::new() },
        }
    }

    #[test]
    fn intervals_that_wait_become_fewer_and_longer_and_none_is_lost() {
        let mut backlog = Backlog::new(3);
        (0..10).for_each(|second| backlog.push(interval(second)));
        let first = backlog.next().unwrap();
        backlog.push(interval(10));
        let rest: Vec<_> = backlog.by_ref().collect();
        backlog.push(interval(11));
        let last = backlog.next().unwrap();
        let seen: Vec<_> = [first].into_iter().chain(rest).chain([last]).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds")]
        let shown = seen.iter().map(|report| (report.from_seconds as u64, report.to_seconds as u64));
        assert_eq!(shown.collect::<Vec<_>>(), [(0, 1), (1, 2), (2, 3), (3, 11), (11, 12)]);
        assert_eq!(seen.iter().map(|report| report.messages.echoed).sum::<u64>(), 12);
    }
}
