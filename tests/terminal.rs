//! What people see on their terminal: the log, the line of progress below it, and help, at any width.
//!
//! The programs write to a pseudo-terminal, and an emulator shows what is on the screen then.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::{CLIENT, PATIENCE, SERVER, Server};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Few enough rows for the log to scroll.
const ROWS: usize = 16;

/// What terminals do with lines that are longer than a new width. Both kinds are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// They are broken into several, and joined again: most of today's.
    Reflowing,
    /// They are cut: xterm.
    Cutting,
}

struct Terminal {
    master: OwnedFd,
    /// The end that programs write to. Kept open, as otherwise the other end cannot be read.
    device: File,
    emulator: avt::Terminal,
    /// The beginning of a character that is not here whole.
    part: Vec<u8>,
    /// Everything that was written.
    text: String,
    rows: usize,
}

impl Terminal {
    fn new(kind: Kind, columns: usize) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let device = File::options().read(true).write(true).open(name).unwrap();
        // The emulator cuts lines where it does not scroll either, so everything has to fit there.
        let rows = if kind == Kind::Cutting { 10 * ROWS } else { ROWS };
        let mut emulator = avt::Terminal::with_scrollback(columns, rows, None).unwrap();
        if kind == Kind::Cutting {
            emulator.feed("\x1b[?1047h");
        }
        let mut terminal = Terminal { master, device, emulator, part: Vec::new(), text: String::new(), rows };
        terminal.resize(columns);
        terminal
    }

    fn resize(&mut self, columns: usize) {
        let (ws_row, ws_col) = (u16::try_from(self.rows).unwrap(), u16::try_from(columns).unwrap());
        tcsetwinsize(&self.master, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        self.emulator.resize(columns, self.rows);
    }

    /// The client, for a run against `server`, with its log on this terminal.
    fn client(&self, server: &Server, connections: u32, args: &[&str]) -> Command {
        let (port, connections) = (server.addr.port().to_string(), connections.to_string());
        let mut command = Command::new(CLIENT);
        command.args(["127.0.0.1", &port, &connections]).args(args).stdin(Stdio::null()).stdout(Stdio::null());
        command.env_remove("RUST_LOG").env("TERM", "xterm").stderr(self.device.try_clone().unwrap());
        command
    }

    /// The lines on the screen and above it, each whole however many rows it takes.
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.emulator.screen().text().iter().map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Waits until the screen shows what it should; its lines then.
    #[track_caller]
    fn until(&mut self, what: &str, shown: impl Fn(&[String]) -> bool) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let lines = self.lines();
            if shown(&lines) {
                return lines;
            }
            let left = PATIENCE.checked_sub(begun.elapsed());
            let Some(left) = left else { panic!("no {what} in {lines:#?}") };
            let left = Timespec::try_from(left).unwrap();
            if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&left)).unwrap() > 0 {
                self.read();
            }
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        let count = rustix::io::read(&self.master, &mut bytes).unwrap();
        self.part.extend(&bytes[..count]);
        let whole = std::str::from_utf8(&self.part).map_or_else(|error| error.valid_up_to(), str::len);
        let text = String::from_utf8(self.part.drain(..whole).collect()).unwrap();
        self.emulator.feed(&*text);
        self.text.push_str(&text);
    }

    /// All lines, after the program ended. The place of its next line must be empty.
    #[track_caller]
    fn last_lines(&mut self) -> Vec<String> {
        self.device.write_all(b"<<the last line>>\n").unwrap();
        let mut lines = self.until("end", |lines| lines.iter().any(|line| line.contains("<<the last line>>")));
        assert_eq!(lines.pop().as_deref(), Some("<<the last line>>"), "{lines:#?}");
        lines
    }
}

/// The lines of the log, above the one line of progress.
#[track_caller]
fn log_of(lines: &[String]) -> Vec<String> {
    let (progress, log) = lines.split_last().unwrap();
    assert!(progress.starts_with("running: "), "{lines:#?}");
    for word in ["connecting: ", "running: ", "closing: "] {
        assert!(log.iter().all(|line| !line.contains(word)), "remains of the progress line: {lines:#?}");
    }
    log.to_vec()
}

#[test]
fn the_log_and_the_progress_line_leave_each_other_whole_at_any_width() {
    for kind in [Kind::Reflowing, Kind::Cutting] {
        log_and_progress(kind);
    }
}

fn log_and_progress(kind: Kind) {
    const CONNECTIONS: usize = 5;
    let server = Server::start(&[]);
    let mut terminal = Terminal::new(kind, 80);
    let mut client =
        terminal.client(&server, 5, &["--rate", "200", "--duration", "1m", "-v"]).spawn().expect("the client starts");
    let pid = Pid::from_child(&client);
    let is_row = |line: &&String| line.split_whitespace().nth(1) == Some("established");
    let rows = |lines: &[String]| lines.iter().filter(is_row).count();
    let is_drawn = |lines: &[String]| lines.last().is_some_and(|line| line.starts_with("running: "));

    let wide = |lines: &[String]| is_drawn(lines) && lines.last().unwrap().contains(" messages/s, p99 ");
    let lines = terminal.until("progress", wide);
    assert!(lines.last().unwrap().starts_with("running: 5 of 5 connected, 0 faults, "), "{lines:#?}");
    assert!(lines.last().unwrap().chars().count() <= 80, "{lines:#?}");
    let started = log_of(&lines);
    assert_eq!(started.len(), CONNECTIONS, "{kind:?}: {lines:#?}");
    for (number, line) in (1..).zip(started) {
        let opening = format!("Starting connection {number} to {} from 127.0.0.1:", server.addr);
        assert!(line.starts_with(&opening), "{kind:?}: {line:?}");
    }

    // Lines of the log in the middle of the run.
    kill_process(pid, Signal::USR1).unwrap();
    let lines = terminal.until("table", |lines| rows(lines) == CONNECTIONS && is_drawn(lines));
    let mut log = log_of(&lines);
    let table = &log[CONNECTIONS..];
    assert_eq!(table.len(), 5 + CONNECTIONS, "{lines:#?}");
    assert_eq!(table[0], "5 connections: 5 established");
    assert!(table[1].starts_with("bytes waiting: ") && table[2].starts_with("received "), "{table:#?}");
    assert_eq!(table[3], format!("foreign {} in every row", server.addr));
    assert!(table[4].starts_with("nr state ") && table[4].ends_with("idle  local"), "{table:#?}");
    assert!(table[5..].iter().all(|row| row.contains("s  127.0.0.1:")), "{table:#?}");

    // Narrower: the progress line that stands there is too long, and the lines that follow take two rows each.
    terminal.resize(40);
    if kind == Kind::Cutting {
        for line in &mut log {
            line.truncate(40);
            line.truncate(line.trim_end().len());
        }
    }
    let short = "running: 5 of 5 connected, 0 faults";
    let lines = terminal.until("short progress", |lines| lines.last().is_some_and(|line| line == short));
    assert_eq!(log_of(&lines), log, "{kind:?}: what stood there is as it was");
    kill_process(pid, Signal::USR1).unwrap();
    let lines = terminal.until("second table", |lines| {
        rows(lines) == 2 * CONNECTIONS && lines.last().is_some_and(|line| line == short)
    });
    let longer = log_of(&lines);
    assert_eq!(longer[..log.len()], log, "{kind:?}");
    let table = &longer[log.len()..];
    assert!(table.len() == 5 + CONNECTIONS && table[4].ends_with("idle  local"), "{kind:?}: {table:#?}");
    assert!(table[5..].iter().all(|row| row.contains("s  127.0.0.1:")), "long lines go on in the next row: {table:#?}");

    // Wider again.
    terminal.resize(80);
    let lines = terminal.until("long progress", wide);
    // (Rows that were one line stay apart where lines are cut, and the emulator shows the gap between them.)
    let text_of = |lines: &[String]| lines.concat().replace(' ', "");
    assert_eq!(text_of(&log_of(&lines)), text_of(&longer), "{kind:?}");

    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(130));
    let lines = terminal.last_lines();
    assert_eq!(text_of(&lines[..longer.len()]), text_of(&longer), "{kind:?}");
    assert_eq!(lines[longer.len()..], ["Caught interrupt, exiting"], "{kind:?}: nothing else is left");
}

#[test]
fn a_progress_line_that_is_drawn_for_a_wider_terminal_is_not_broken_in_two() {
    // A terminal may become narrower after it was asked for its width.
    let server = Server::start(&[]);
    let mut terminal = Terminal::new(Kind::Reflowing, 80);
    terminal.emulator.resize(30, ROWS);
    let status = terminal.client(&server, 5, &["--duration", "700ms"]).status().unwrap();
    assert!(status.success());
    assert_eq!(terminal.last_lines(), [""; 0]);
    assert!(terminal.text.contains("running: 5 of 5 connected, 0 faults, 0 s left, "), "{:?}", terminal.text);
}

#[test]
fn progress_is_shown_on_a_terminal_whatever_q_says_and_switched_off_by_its_own_option() {
    let server = Server::start(&[]);
    let shown = |args: &[&str], term: &str| {
        let mut terminal = Terminal::new(Kind::Reflowing, 120);
        let mut command = terminal.client(&server, 5, &["--duration", "700ms", "--warmup", "300ms"]);
        assert!(command.args(args).env("TERM", term).status().unwrap().success());
        assert_eq!(terminal.last_lines(), [""; 0], "{args:?}: nothing of it is left");
        terminal.text
    };
    for args in [&[][..], &["-q"]] {
        let text = shown(args, "xterm");
        assert!(text.contains("warming up: 5 of 5 connected, 0 faults, 0 s left\x1b"), "{args:?}: {text:?}");
        assert!(text.contains("running: 5 of 5 connected, 0 faults, "), "{args:?}: {text:?}");
        assert!(text.contains(" messages/s, p99 ") && text.contains(" MB/s\x1b"), "{args:?}: {text:?}");
    }
    assert_eq!(shown(&["--no-progress"], "xterm"), "<<the last line>>\r\n");
    assert_eq!(shown(&[], "dumb"), "<<the last line>>\r\n", "a terminal that cannot move its cursor");

    let run = common::client(server.addr, 5, &["--duration", "700ms"]);
    assert_eq!((run.code, &*run.stderr), (Some(0), ""), "no terminal");
}

#[test]
fn help_is_wrapped_between_words_at_80_columns_and_less() {
    for program in [SERVER, CLIENT] {
        let help = common::run(Command::new(program).arg("--help").env_remove("COLUMNS")).stdout;
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        let words: Vec<&str> = help.split_whitespace().collect();
        for columns in [80, 60, 40] {
            let mut terminal = Terminal::new(Kind::Reflowing, columns);
            let mut command = Command::new(program);
            let output = terminal.device.try_clone().unwrap();
            assert!(command.arg("--help").env("TERM", "xterm").stdout(output).status().unwrap().success());
            let lines = terminal.last_lines();
            // Only the line of usage, which clap does not wrap, needs more than 40 columns.
            let is_broken = |row: &&avt::Line| row.is_wrapped() && !row.text().starts_with("Usage: ");
            let broken = terminal.emulator.screen().all_lines().find(is_broken).map(avt::Line::text);
            assert_eq!(broken, None, "{program} at {columns} columns: {lines:#?}");
            let shown = lines.join(" ");
            assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), words, "{program} at {columns} columns");
        }
    }
}
