//! The tutorial's exercises (docs/tutorial.md), checked. A reader runs these tests on a program of his own:
//!
//!     cargo test --test exercises -- --ignored exercise_1
//!
//! An ordinary `cargo test` runs them on the solutions, and on step 6, where each exercise begins.
#![cfg(all(feature = "cli", target_os = "linux", not(mio_unsupported_force_poll_poll)))]

mod common;

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::pairs::wait_for;
use common::{PATIENCE, Server, example, proc};
use rustix::event::PollFlags;
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

/// The program that each exercise begins with.
const BEGINNING: &str = "step-6-whole";

/// How long a test waits in vain on step 6, which does nothing of what it waits for.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// How much memory of its own a server may take more for one connection, or for a few. The limits of the exercises are
/// far below, and what a server without them would keep is far above.
const MEMORY: u64 = 4 * MIB as u64;

const MIB: usize = 1024 * 1024;

/// A failure in plain words: what happened, what was expected, what came.
type Checked = Result<(), String>;

type Check = fn(&Stage) -> Checked;

/// A running program, and what has happened to it.
struct Stage {
    server: Server,
    patience: Duration,
    story: RefCell<Vec<String>>,
}

impl Stage {
    fn start(name: &str, patience: Duration) -> Stage {
        let mut command = example(name);
        command.arg("127.0.0.1:0");
        Stage { server: Server::start_command(command), patience, story: RefCell::default() }
    }

    /// The reader's program, compiled as it is now.
    #[track_caller]
    fn start_yours(name: &str, built: &OnceLock<Checked>) -> Stage {
        if let Err(why) = built.get_or_init(|| build(name)) {
            panic!("{why}");
        }
        Stage::start(name, PATIENCE / 4)
    }

    fn happens(&self, what: impl Display) {
        self.story.borrow_mut().push(what.to_string());
    }

    fn failure(&self, expected: impl Display, came: impl Display) -> String {
        const SHOWN: usize = 8;
        let story = self.story.borrow();
        let mut lines = vec![String::new(), "What happened:".into()];
        let left_out = story.len().saturating_sub(SHOWN);
        if left_out > 0 {
            lines.push(format!("    … ({left_out} things before)"));
        }
        lines.extend(story[left_out..].iter().map(|line| format!("    {line}")));
        lines.push(format!("Expected:\n    {expected}\nCame:\n    {came}"));
        let printed = self.server.program.lines();
        let last = &printed[printed.len().saturating_sub(SHOWN).max(1)..]; // The first line says where it listens.
        if !last.is_empty() {
            lines.push(format!("The server's last lines:\n    {}", last.join("\n    ")));
        }
        lines.join("\n") + "\n"
    }

    fn connect(&self, name: &'static str) -> Result<Peer<'_>, String> {
        self.happens(format_args!("{name} connects"));
        let stream = TcpStream::connect(self.server.addr).map_err(|error| self.failure("a connection", error))?;
        Ok(self.peer(name, stream))
    }

    /// A peer whose kernel keeps little for it.
    fn connect_narrow(&self, name: &'static str) -> Result<Peer<'_>, String> {
        self.happens(format_args!("{name} connects, with a small receive buffer"));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&self.server.addr.into()).map_err(|error| self.failure("a connection", error))?;
        Ok(self.peer(name, socket.into()))
    }

    fn peer(&self, name: &'static str, stream: TcpStream) -> Peer<'_> {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(self.patience)).unwrap();
        stream.set_write_timeout(Some(self.patience)).unwrap();
        Peer { name, stream, stage: self }
    }

    fn memory(&self) -> u64 {
        proc::private_memory(&self.server.program)
    }

    /// The server's memory must not have grown by more than some buffers.
    fn memory_is_bounded(&self, before: u64) -> Checked {
        let grown = self.memory().saturating_sub(before);
        let limit = MEMORY / MIB as u64;
        let came = format_args!("{grown} bytes more");
        if grown < MEMORY { Ok(()) } else { Err(self.failure(format_args!("less than {limit} MiB more memory"), came)) }
    }

    fn descriptors(&self) -> usize {
        proc::descriptor_numbers(&self.server.program).len()
    }

    /// Waits until the server has closed what it opened since it had this number of descriptors.
    fn closes(&self, descriptors: usize, what: &str, limit: Duration) -> Checked {
        let begun = Instant::now();
        while self.descriptors() > descriptors {
            if begun.elapsed() > limit {
                return Err(self.failure(format_args!("the server closes {what}"), format_args!("not after {limit:?}")));
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// Compiles the reader's program.
fn build(name: &str) -> Checked {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(format!("examples/{name}.rs")).exists() {
        return Err(format!(
            "\nThere is no examples/{name}.rs. Begin with:\n    cp examples/steps/{BEGINNING}.rs examples/{name}.rs\n"
        ));
    }
    let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo says to a test about its package would be news to build scripts, and dependencies be compiled again.
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
    {
        cargo.env_remove(name);
    }
    let output = cargo.args(["build", "--quiet", "--example", name]).args(profile).current_dir(root).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("\nexamples/{name}.rs does not compile:\n{errors}")) }
}

#[test]
fn the_code_on_the_page_of_solutions_is_that_of_the_solutions() {
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let page = read("docs/tutorial-solutions.md");
    let chapters: Vec<&str> = page.split("\n## ").skip(1).collect();
    for (chapter, name) in chapters.iter().zip(["1-lines", "2-timeout", "3-broadcast"]) {
        let file = format!("examples/solutions/solution-{name}.rs");
        assert!(chapter.contains(&format!("(../{file})")), "no link to {file}");
        // The page has less indentation.
        let lines = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
        let solution = lines(&read(&file));
        let blocks: Vec<&str> =
            chapter.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(blocks.len() >= 3, "{} blocks of {file}", blocks.len());
        for block in blocks {
            assert!(solution.contains(&lines(block)), "{file} does not have\n{block}");
        }
    }
    assert_eq!(chapters.len(), 3);
}

/// One connection to the program.
struct Peer<'a> {
    name: &'static str,
    stream: TcpStream,
    stage: &'a Stage,
}

impl Peer<'_> {
    fn happens(&self, what: impl Display) {
        self.stage.happens(format_args!("{} {what}", self.name));
    }

    fn failure(&self, expected: impl Display, came: impl Display) -> String {
        self.stage.failure(format_args!("{} {expected}", self.name), came)
    }

    fn sends(&self, bytes: &[u8]) -> Checked {
        self.happens(format_args!("sends {}", shown(bytes)));
        (&self.stream).write_all(bytes).map_err(|error| {
            let came = match error.kind() {
                ErrorKind::WouldBlock => "the server took a part and then no more".into(),
                _ => error.to_string(),
            };
            self.failure("can send this: the server reads it", came)
        })
    }

    /// Sends the beginning of `bytes` until nothing more is taken, and reads nothing. Returns how many bytes it was.
    fn sends_until_stopped(&self, bytes: &[u8]) -> Result<usize, String> {
        /// A sender that has had no room for this long is stopped. Too short a time would only make the test easier.
        const STILL: Duration = Duration::from_millis(300);

        let size = bytes.len() / MIB;
        self.happens(format_args!("sends {size} MiB, as far as they are taken, and reads nothing"));
        self.stream.set_nonblocking(true).unwrap();
        let mut taken = 0;
        while taken < bytes.len() && !wait_for(&self.stream, PollFlags::OUT, STILL).is_empty() {
            match (&self.stream).write(&bytes[taken..]) {
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.failure("can send until the server stops reading", plain(&error))),
            }
        }
        self.stream.set_nonblocking(false).unwrap();
        if taken == bytes.len() {
            return Err(self.failure("is stopped: the server stops reading", "it took everything"));
        }
        self.happens(format_args!("is stopped after {taken} bytes"));
        Ok(taken)
    }

    /// Ends its direction.
    fn finishes(&self) {
        self.happens("ends its direction (FIN)");
        let _ = self.stream.shutdown(Shutdown::Write); // An error is a connection that the server has ended: see what comes.
    }

    /// Closes with RST in place of FIN.
    fn resets(self) {
        self.happens("closes with a reset (RST)");
        common::reset(self.stream);
    }

    fn receives(&self, expected: &[u8]) -> Checked {
        let mut came = vec![0; expected.len()];
        let mut length = 0;
        while length < expected.len() {
            let end = match (&self.stream).read(&mut came[length..]) {
                Ok(0) => "the end of input".into(),
                Ok(count) if came[length..length + count] == expected[length..length + count] => {
                    length += count;
                    continue;
                }
                Ok(count) => {
                    let right = came.iter().zip(expected).take_while(|(came, expected)| came == expected).count();
                    let (expected, wrong) = (&expected[right..], &came[right..length + count]);
                    let after = if right == 0 { String::new() } else { format!("after {right} right bytes: ") };
                    let expected = format_args!("receives {after}{}", shown(expected)).to_string();
                    return Err(self.failure(expected, format_args!("{after}{}", shown(wrong))));
                }
                Err(error) => plain(&error),
            };
            let came = format!("{}, and then {end}", shown(&came[..length]));
            return Err(self.failure(format_args!("receives {}", shown(expected)), came));
        }
        self.happens(format_args!("receives {}", shown(expected)));
        Ok(())
    }

    /// Nothing has come. What the server has done so far has arrived: a loopback loses no time.
    fn has_received_nothing(&self) -> Checked {
        let mut came = vec![0; 1024];
        self.stream.set_nonblocking(true).unwrap();
        let result = (&self.stream).read(&mut came);
        self.stream.set_nonblocking(false).unwrap();
        let came = match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => plain(&error),
            Ok(0) => "the end of input".into(),
            Ok(count) => shown(&came[..count]),
        };
        Err(self.failure("receives nothing, and its connection stays", came))
    }

    fn receives_the_end(&self) -> Checked {
        let mut more = vec![0; 1024];
        let came = match (&self.stream).read(&mut more) {
            Ok(0) => return Ok(()),
            Ok(count) => shown(&more[..count]),
            Err(error) => plain(&error),
        };
        Err(self.failure("receives the end of input (FIN), and nothing before it", came))
    }

    /// One message there, and its answer back.
    fn asks(&self, question: &[u8], answer: &[u8]) -> Checked {
        self.sends(question)?;
        self.receives(answer)
    }
}

/// Numbers as text, so that a byte lost or doubled shows.
fn numbers(length: usize) -> Vec<u8> {
    (0..length / 16).flat_map(|number| format!("{number:015} ").into_bytes()).collect()
}

/// Bytes as text, the middle of many left out.
fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    match bytes.len() {
        0 => "nothing".into(),
        length if length <= 4 * SHOWN => format!("\"{}\"", bytes.escape_ascii()),
        length => {
            let (first, last) = (&bytes[..SHOWN], &bytes[length - SHOWN..]);
            format!("\"{}…{}\" ({length} bytes)", first.escape_ascii(), last.escape_ascii())
        }
    }
}

fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock => "nothing more, for as long as the test waits".into(),
        _ => error.to_string(),
    }
}

/// The tests of one exercise: on the reader's program, on the solution, and on step 6. Step 6 passes those that it `keeps`:
/// they are about what the exercise may not break. It fails the others.
macro_rules! exercise {
    ($yours:ident, $solution:ident, $name:literal, new: [$($new:ident),* $(,)?], keeps: [$($kept:ident),* $(,)?] $(,)?) => {
        mod $yours {
            use super::*;

            static BUILT: OnceLock<Checked> = OnceLock::new();

            $(exercise! { @yours $name, $new })*
            $(exercise! { @yours $name, $kept })*
        }

        mod $solution {
            use super::*;

            $(exercise! { @solution $name, $new })*
            $(exercise! { @solution $name, $kept })*

            #[test]
            fn step_6_passes_none_of_the_new_ones() {
                let checks = [$((stringify!($new), super::$new as Check)),*];
                on_step_6(SHORT_PATIENCE, &checks, |name, checked| assert!(checked.is_err(), "{name} holds already"));
            }

            #[test]
            fn step_6_passes_the_others() {
                let checks = [$((stringify!($kept), super::$kept as Check)),*];
                on_step_6(PATIENCE, &checks, |_, checked| assert_passes(checked));
            }
        }
    };
    (@yours $name:literal, $check:ident) => {
        #[test]
        #[ignore = "for your own program: docs/tutorial.md, Exercises"]
        fn $check() {
            assert_passes(super::$check(&Stage::start_yours(concat!("exercise-", $name), &BUILT)));
        }
    };
    (@solution $name:literal, $check:ident) => {
        #[test]
        fn $check() {
            assert_passes(super::$check(&Stage::start(concat!("solution-", $name), PATIENCE)));
        }
    };
}

/// Runs checks on step 6, all at once.
fn on_step_6(patience: Duration, checks: &[(&str, Check)], judge: fn(&str, Checked)) {
    std::thread::scope(|scope| {
        for (name, check) in checks {
            scope.spawn(move || judge(name, check(&Stage::start(BEGINNING, patience))));
        }
    });
}

#[track_caller]
fn assert_passes(checked: Checked) {
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}

exercise! {
    exercise_1, solution_1, "1-lines",
    new: [
        a_line_is_answered_when_it_is_whole,
        many_lines_of_one_read_are_answered_in_order,
        a_line_that_is_too_long_is_refused_in_its_place,
        a_line_without_end_takes_no_memory,
        the_last_line_needs_no_newline,
        unread_answers_stop_the_reading_and_all_come_when_there_is_room,
    ],
    keeps: [a_reset_ends_one_connection],
}

/// The longest line of exercise 1, without its newline.
const LONGEST: usize = 1024;

/// What exercise 1 answers to these whole lines.
fn backwards(lines: &[u8]) -> Vec<u8> {
    let mut answers = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        answers.extend(line[..line.len() - 1].iter().rev());
        answers.push(b'\n');
    }
    answers
}

fn a_line_is_answered_when_it_is_whole(stage: &Stage) -> Checked {
    let line = b"hello, world\n";
    let (a, b) = (stage.connect("A")?, stage.connect("B")?);
    // When B has its answer, the server has read what A sent before.
    let settles = || b.asks(b"b\n", b"b\n");
    for at in 1..line.len() {
        a.sends(&line[..at])?;
        settles()?;
        a.has_received_nothing()?;
        a.asks(&line[at..], b"dlrow ,olleh\n")?;
    }
    for byte in &line[..line.len() - 1] {
        a.sends(&[*byte])?;
        settles()?;
        a.has_received_nothing()?;
    }
    a.asks(b"\n", b"dlrow ,olleh\n")
}

fn many_lines_of_one_read_are_answered_in_order(stage: &Stage) -> Checked {
    let a = stage.connect("A")?;
    a.asks(b"one\ntwo\n\nfour\n", b"eno\nowt\n\nruof\n")?;
    let lines: Vec<u8> = (0..1000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
    a.asks(&lines, &backwards(&lines))?;
    a.sends(b"whole\nnot who")?; // The end of a read need not be the end of a line.
    a.receives(b"elohw\n")?;
    a.asks(b"le\n", b"elohw ton\n")
}

fn a_line_that_is_too_long_is_refused_in_its_place(stage: &Stage) -> Checked {
    let a = stage.connect("A")?;
    let longest = [&vec![b'x'; LONGEST - 1][..], b"y\n"].concat();
    a.asks(&longest, &backwards(&longest))?;
    let longer = [b"before\nx", &longest[..], b"after\n"].concat();
    a.asks(&longer, b"erofeb\nline too long\nretfa\n")
}

fn a_line_without_end_takes_no_memory(stage: &Stage) -> Checked {
    let a = stage.connect("A")?;
    a.asks(b"a\n", b"a\n")?;
    let before = stage.memory();
    a.sends(&vec![b'x'; 32 * MIB])?;
    stage.memory_is_bounded(before)?;
    a.asks(b"\nafter\n", b"line too long\nretfa\n")
}

fn the_last_line_needs_no_newline(stage: &Stage) -> Checked {
    let ends =
        [(&b"one\ntwo"[..], &b"eno\nowt\n"[..]), (b"last", b"tsal\n"), (b"one\ntwo\n", b"eno\nowt\n"), (b"", b"")];
    for (sent, answers) in ends {
        let a = stage.connect("A")?;
        a.sends(sent)?;
        a.finishes();
        a.receives(answers)?;
        a.receives_the_end()?;
    }
    Ok(())
}

fn unread_answers_stop_the_reading_and_all_come_when_there_is_room(stage: &Stage) -> Checked {
    let mut lines = Vec::new();
    for number in 0.. {
        lines.extend_from_slice(format!("{number} {:>1$}\n", "", number % (LONGEST - 20)).as_bytes());
        if lines.len() > 32 * MIB {
            break;
        }
    }
    let a = stage.connect("A")?;
    a.asks(b"a\n", b"a\n")?;
    let before = stage.memory();
    SockRef::from(&a.stream).set_send_buffer_size(64 * 1024).unwrap(); // What is in it may be many lines.
    let taken = a.sends_until_stopped(&lines)?;
    stage.memory_is_bounded(before)?;
    a.finishes();
    a.happens("begins to read");
    // The last line has no newline, unless one was the last byte taken.
    let taken = lines[..taken].strip_suffix(b"\n").unwrap_or(&lines[..taken]);
    a.receives(&backwards(&[taken, b"\n"].concat()))?;
    a.receives_the_end()
}

fn a_reset_ends_one_connection(stage: &Stage) -> Checked {
    let (a, b) = (stage.connect("A")?, stage.connect("B")?);
    a.sends(b"a")?;
    a.resets();
    b.asks(b"b\n", b"b\n")
}

exercise! {
    exercise_2, solution_2, "2-timeout",
    new: [
        a_peer_that_never_sends_is_closed_in_time,
        a_peer_that_falls_silent_is_closed_in_time,
        a_peer_that_never_reads_is_closed_in_time,
        each_of_many_connections_has_a_time_of_its_own,
        the_loop_wakes_up_for_what_is_due_and_no_more,
    ],
    keeps: [
        a_byte_now_and_then_keeps_a_connection,
        a_loop_without_connections_does_not_wake_up,
        a_reset_ends_one_connection,
    ],
}

/// How long a connection of exercise 2 may stay on which nothing moves, and when it must be gone.
const IDLE: Duration = Duration::from_secs(1);
const GONE: Duration = Duration::from_secs(2);

impl Peer<'_> {
    /// The server must end this connection, on which the last byte moved after `moved`.
    fn is_closed_in_time(&self, moved: Instant) -> Checked {
        let mut more = vec![0; 1024];
        let left = GONE.saturating_sub(moved.elapsed()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).unwrap();
        let expected = format!("is closed when nothing has moved for {IDLE:?}, and before {GONE:?}");
        let came = match (&self.stream).read(&mut more) {
            Ok(count) if count > 0 => shown(&more[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => "it is still open".into(),
            _ if moved.elapsed() >= IDLE => return Ok(()),
            _ => format!("closed after {:?}", moved.elapsed()),
        };
        Err(self.failure(expected, came))
    }
}

fn a_peer_that_never_sends_is_closed_in_time(stage: &Stage) -> Checked {
    let begun = Instant::now();
    stage.connect("A")?.is_closed_in_time(begun)
}

fn a_peer_that_falls_silent_is_closed_in_time(stage: &Stage) -> Checked {
    let a = stage.connect("A")?;
    std::thread::sleep(IDLE / 2); // What is before the last movement does not count.
    let moved = Instant::now();
    a.asks(b"hello", b"hello")?;
    a.is_closed_in_time(moved)
}

fn a_peer_that_never_reads_is_closed_in_time(stage: &Stage) -> Checked {
    let before = stage.descriptors();
    let a = stage.connect("A")?;
    a.sends_until_stopped(&vec![b'x'; 32 * MIB])?;
    stage.closes(before, "the connection to A, on which nothing moves", GONE)
}

fn each_of_many_connections_has_a_time_of_its_own(stage: &Stage) -> Checked {
    let ask = |peer: &Peer| {
        let moved = Instant::now();
        peer.asks(b"hello", b"hello").map(|()| moved)
    };
    let mut peers = Vec::new();
    for _ in 0..200 {
        let peer = stage.connect("one of 200")?;
        let moved = ask(&peer)?;
        peers.push((peer, moved));
    }
    std::thread::sleep(IDLE / 4); // The two halves must be apart.
    let (first, second) = peers.split_at_mut(100);
    for (peer, moved) in &mut *first {
        *moved = ask(peer)?; // Those that came first are due last.
    }
    for (peer, moved) in second.iter().chain(&*first) {
        peer.is_closed_in_time(*moved)?;
    }
    Ok(())
}

fn the_loop_wakes_up_for_what_is_due_and_no_more(stage: &Stage) -> Checked {
    /// It goes to sleep behind the answer, and it may wake up once too early.
    const MOST: u64 = 3;

    let a = stage.connect("A")?;
    let moved = Instant::now();
    a.asks(b"hello", b"hello")?;
    let before = proc::wake_ups(&stage.server.program);
    a.is_closed_in_time(moved)?;
    stage.wakes_up_at_most(MOST, before)
}

impl Stage {
    fn wakes_up_at_most(&self, most: u64, before: u64) -> Checked {
        let woken = proc::wake_ups(&self.server.program) - before;
        let expected = format!("the server wakes up at most {most} times");
        if woken <= most { Ok(()) } else { Err(self.failure(expected, format_args!("it woke up {woken} times"))) }
    }
}

fn a_byte_now_and_then_keeps_a_connection(stage: &Stage) -> Checked {
    let a = stage.connect("A")?;
    for _ in 0..5 {
        a.asks(b"x", b"x")?;
        std::thread::sleep(IDLE * 3 / 10); // The peer's pause.
    }
    a.has_received_nothing()
}

fn a_loop_without_connections_does_not_wake_up(stage: &Stage) -> Checked {
    /// It goes to sleep behind the end of A, and it may wake up once for a deadline that is none any more.
    const MOST: u64 = 2;

    let a = stage.connect("A")?;
    a.asks(b"hello", b"hello")?;
    a.finishes();
    a.receives_the_end()?;
    let before = proc::wake_ups(&stage.server.program);
    stage.happens("nobody is connected for a while");
    std::thread::sleep(IDLE * 3 / 2); // The measured time.
    stage.wakes_up_at_most(MOST, before)
}

exercise! {
    exercise_3, solution_3, "3-broadcast",
    new: [
        all_others_hear_what_one_says_in_order,
        the_speaker_does_not_hear_itself,
        a_speech_of_less_than_the_limit_is_heard_by_all,
        a_peer_that_pauses_hears_everything_later,
        a_peer_that_reads_nothing_is_cut_off_and_the_others_go_on,
        a_peer_that_resets_in_mid_broadcast_harms_nobody,
        a_peer_that_finishes_is_heard_to_its_end,
    ],
    keeps: [the_loop_rests_beside_idle_peers],
}

/// How many bytes of exercise 3 may wait for one peer.
const MOST_WAITING: usize = MIB;

/// What one peer says at a time, in the tests that say much.
const PART: usize = 64 * 1024;

fn all_others_hear_what_one_says_in_order(stage: &Stage) -> Checked {
    let (a, b, c) = (stage.connect("A")?, stage.connect("B")?, stage.connect("C")?);
    all_are_there(&[&a, &b, &c])?;
    let mut all = Vec::new();
    for number in 0..1000 {
        let words = format!("{number} ");
        a.sends(words.as_bytes())?;
        all.extend_from_slice(words.as_bytes());
    }
    b.receives(&all)?;
    c.receives(&all)?;
    for (speaker, others) in [(&b, [&a, &c]), (&c, [&a, &b])] {
        speaker.sends(speaker.name.as_bytes())?;
        for other in others {
            other.receives(speaker.name.as_bytes())?;
        }
    }
    Ok(())
}

/// A peer hears nothing that was said before it was accepted. Peers are accepted in the order of their connects, so all are
/// there when the others hear the last one.
fn all_are_there(peers: &[&Peer]) -> Checked {
    let [others @ .., last] = peers else { return Ok(()) };
    last.sends(b"I am here. ")?;
    others.iter().try_for_each(|other| other.receives(b"I am here. "))
}

fn the_speaker_does_not_hear_itself(stage: &Stage) -> Checked {
    let (a, b) = (stage.connect("A")?, stage.connect("B")?);
    all_are_there(&[&a, &b])?;
    a.sends(b"hello")?;
    b.receives(b"hello")?;
    b.sends(b"good day")?;
    a.receives(b"good day")?;
    a.has_received_nothing()?;
    b.has_received_nothing()
}

fn a_speech_of_less_than_the_limit_is_heard_by_all(stage: &Stage) -> Checked {
    let (a, b, c) = (stage.connect("A")?, stage.connect_narrow("B")?, stage.connect_narrow("C")?);
    all_are_there(&[&a, &b, &c])?;
    let speech = numbers(MOST_WAITING);
    a.sends(&speech)?;
    b.receives(&speech)?;
    c.receives(&speech)
}

/// A speaks, B listens, and C pauses until more than the kernel takes waits for it.
fn a_peer_that_pauses_hears_everything_later(stage: &Stage) -> Checked {
    /// So much more memory of the server is what waits for C.
    const WAITS: u64 = MOST_WAITING as u64 / 4;

    let (a, b, c) = (stage.connect("A")?, stage.connect("B")?, stage.connect_narrow("C")?);
    all_are_there(&[&a, &b, &c])?;
    let speech = numbers(16 * MIB);
    let (before, mut said) = (stage.memory(), 0);
    for part in speech.chunks(PART) {
        a.sends(part)?;
        b.receives(part)?;
        said += part.len();
        if stage.memory() > before + WAITS {
            break;
        }
    }
    c.happens("begins to read");
    c.receives(&speech[..said])?;
    a.sends(b"the end")?;
    b.receives(b"the end")?;
    c.receives(b"the end")
}

fn a_peer_that_reads_nothing_is_cut_off_and_the_others_go_on(stage: &Stage) -> Checked {
    let (a, b, c) = (stage.connect("A")?, stage.connect("B")?, stage.connect_narrow("C")?);
    all_are_there(&[&a, &b, &c])?;
    let before = (stage.memory(), stage.descriptors());
    c.happens("reads nothing from here on");
    for part in numbers(16 * MIB).chunks(PART) {
        a.sends(part)?;
        b.receives(part)?;
        stage.memory_is_bounded(before.0)?;
    }
    stage.closes(before.1 - 1, "the connection to C", stage.patience)?;
    b.sends(b"we go on")?;
    a.receives(b"we go on")
}

fn a_peer_that_resets_in_mid_broadcast_harms_nobody(stage: &Stage) -> Checked {
    let (a, b) = (stage.connect("A")?, stage.connect("B")?);
    all_are_there(&[&a, &b])?;
    let before = stage.descriptors();
    for _ in 0..10 {
        let c = stage.connect("C")?;
        all_are_there(&[&a, &b, &c])?;
        // The server finds what A says before the reset, so it writes to a broken connection.
        proc::stop(&stage.server.program);
        stage.happens("the server stands still for a moment");
        let said = a.sends(b"hello");
        c.resets();
        stage.server.program.signal(Signal::CONT);
        said?;
        b.receives(b"hello")?;
    }
    stage.closes(before, "each connection to C", stage.patience)?;
    b.sends(b"good day")?;
    a.receives(b"good day")
}

fn a_peer_that_finishes_is_heard_to_its_end(stage: &Stage) -> Checked {
    let (a, b, c) = (stage.connect("A")?, stage.connect("B")?, stage.connect("C")?);
    all_are_there(&[&a, &b, &c])?;
    a.sends(b"hello")?;
    b.receives(b"hello")?;
    c.sends(b"farewell")?;
    c.finishes();
    for other in [&a, &b] {
        other.receives(b"farewell")?;
    }
    c.receives(b"hello")?;
    c.receives_the_end()?;
    b.sends(b"we go on")?;
    a.receives(b"we go on")
}

fn the_loop_rests_beside_idle_peers(stage: &Stage) -> Checked {
    let (_a, _b) = (stage.connect("A")?, stage.connect("B")?);
    proc::settle(&stage.server.program);
    let before = proc::wake_ups(&stage.server.program);
    std::thread::sleep(Duration::from_millis(500)); // The measured time.
    stage.wakes_up_at_most(0, before)
}
