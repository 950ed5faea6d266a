//! Do the tests notice bugs? Bugs of the kinds that such a loop has are planted, one at a time, in a copy of the sources;
//! for each, the tests named beside it must fail.
//!
//! Takes some minutes, most of them compiling: `cargo test --test planted -- --ignored --nocapture`. With
//! `MULTICONN_BUGS='pair|timer'`, only the bugs with one of these words in their names are planted; with
//! `MULTICONN_PART=1/3`, the first of every three.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::figure;

/// A change of the sources that is a bug, and the tests that must notice it.
struct Bug {
    name: &'static str,
    file: &'static str,
    /// Must be in the file exactly once.
    right: &'static str,
    wrong: &'static str,
    /// The targets of cargo whose tests must notice, and what the names of these tests have in common.
    tests: (&'static [&'static str], &'static str),
}

const SIMULATION: (&[&str], &str) = (&["--test", "simulation"], "");

const BUGS: &[Bug] = &[
    Bug {
        name: "a partner's question counts as a part of the stream",
        file: "src/partner/mod.rs",
        right: "self.record.borrow_mut().account = Account::default();",
        wrong: "",
        tests: (&["--test", "partner"], "account"),
    },
    Bug {
        name: "a partner holds back for no time at all",
        file: "src/partner/mod.rs",
        right: "Question::Hold(time) => hold(time, None),",
        wrong: "Question::Hold(_) => hold(Duration::ZERO, None),",
        tests: (&["--test", "partner"], "hold"),
    },
    Bug {
        name: "a partner sees a reset as an end in order",
        file: "src/partner/mod.rs",
        right: "End::Failed(error) if verdict::is_reset(error) => \"reset\",",
        wrong: "End::Failed(error) if verdict::is_reset(error) => \"fin\",",
        tests: (&["--test", "partner"], "told_as_the_server_saw_it"),
    },
    Bug {
        name: "the byte that was wrong at the server is blamed on the way back",
        file: "src/client/direction.rs",
        right: "if right > at {",
        wrong: "if right >= at {",
        tests: (&["--lib"], "direction"),
    },
    Bug {
        name: "an edge is forgotten when the next one comes",
        file: "src/engine/wire.rs",
        right: "self.ready.readable |= event.readable;",
        wrong: "self.ready.readable = event.readable;",
        tests: SIMULATION,
    },
    Bug {
        name: "the end is missed behind a short read",
        file: "src/engine/wire.rs",
        right: "short_read_is_last && !self.ready.read_closed &&",
        wrong: "short_read_is_last &&",
        tests: SIMULATION,
    },
    Bug {
        name: "bytes behind an urgent mark are missed",
        file: "src/engine/wire.rs",
        right: " && !self.ready.urgent {",
        wrong: " {",
        tests: SIMULATION,
    },
    Bug {
        name: "queued bytes are dropped at the peer's end",
        file: "src/engine/connection/service.rs",
        right: "if self.writing == Writing::ShuttingDown && self.outbound.is_empty() {",
        wrong: "if self.writing == Writing::ShuttingDown {",
        tests: SIMULATION,
    },
    Bug {
        name: "a short write is taken for a full socket",
        file: "src/engine/wire.rs",
        right: "                    taken += count;\n",
        wrong: "                    taken += count;\n                    self.ready.writable = taken == bytes.len();\n",
        tests: SIMULATION,
    },
    Bug {
        name: "no budget for one connection",
        file: "src/engine/connection/service.rs",
        right: "if moved >= SERVICE_BUDGET {",
        wrong: "if moved >= usize::MAX {",
        tests: SIMULATION,
    },
    Bug {
        name: "no backpressure",
        file: "src/engine/connection/service.rs",
        right: "if queued > room_now / 2 { 0 }",
        wrong: "if queued > usize::MAX / 2 { 0 }",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "a client whose own queue is full does not read",
        file: "src/client/exchange.rs",
        right: "fn answers(&self) -> bool {\n        false",
        wrong: "fn answers(&self) -> bool {\n        true",
        tests: SIMULATION,
    },
    Bug {
        name: "what waits in our own queue passes for missing",
        file: "src/client/exchange.rs",
        right: "self.sending.bytes.saturating_sub(out.queue.len() as u64);",
        wrong: "self.sending.bytes;",
        tests: (&["--lib"], "our_own_queue"),
    },
    Bug {
        name: "foreign bytes are called by the time they came",
        file: "src/client/exchange.rs",
        right: "if all_begun && self.sending.within == 0 {",
        wrong: "if all_begun || self.sending.within == 0 {",
        tests: (&["--lib"], "whatever_the_timing"),
    },
    Bug {
        name: "what is unread is reset by a bare close",
        file: "src/engine/connection.rs",
        right: "self.reading = Reading::Discarding;",
        wrong: "self.reading = Reading::Ended;",
        tests: SIMULATION,
    },
    Bug {
        name: "a connection that has spent its budget is not served again",
        file: "src/engine/event_loop/turn.rs",
        right: "if matches!(outcome, Outcome::Runnable) {",
        wrong: "if matches!(outcome, Outcome::Runnable) && false {",
        tests: SIMULATION,
    },
    Bug {
        name: "no retry of accepting after a time",
        file: "src/engine/event_loop/turn.rs",
        right: "            self.deadlines.set(Due::Accept, self.now.plus(ACCEPT_RETRY));\n",
        wrong: "",
        tests: SIMULATION,
    },
    Bug {
        name: "accepting is not resumed when a connection ends",
        file: "src/engine/event_loop/turn.rs",
        right: "partner,\n        });\n        self.resume_accepting();",
        wrong: "partner,\n        });",
        tests: SIMULATION,
    },
    Bug {
        name: "a connection that was gone ends a burst of accepts",
        file: "src/engine/event_loop/turn.rs",
        right: "AcceptError::Gone => debug!(\"a connection was gone before it was accepted: {error}\"),",
        wrong: "AcceptError::Gone => return,",
        tests: SIMULATION,
    },
    Bug {
        name: "after exhaustion, accepting is tried again at once",
        file: "src/engine/event_loop/turn.rs",
        right: "AcceptError::Exhausted => return self.rest_from_accepting(listener, &error),",
        wrong: "AcceptError::Exhausted => return self.resume_accepting(),",
        tests: SIMULATION,
    },
    Bug {
        name: "an event for a token that does not exist is believed",
        file: "src/engine/event_loop/turn.rs",
        right: "if let Some(connection) = self.connections.get_mut(token.0) {\n                        connection.note(readiness);",
        wrong: "if let Some(connection) = Some(self.connections.get_mut(token.0).unwrap()) {\n                        connection.note(readiness);",
        tests: SIMULATION,
    },
    Bug {
        name: "an interrupted wait ends the loop",
        file: "src/engine/event_loop/turn.rs",
        right: "Err(error) if error.kind() == io::ErrorKind::Interrupted => true,",
        wrong: "Err(error) if error.kind() == io::ErrorKind::NotFound => true,",
        tests: SIMULATION,
    },
    Bug {
        name: "the memory of connections that ended is never given back",
        file: "src/engine/event_loop/turn.rs",
        right: "        self.memory.changed(connection.memory(), 0);\n",
        wrong: "",
        tests: SIMULATION,
    },
    Bug {
        name: "the limit of all memory limits nothing",
        file: "src/engine/memory.rs",
        right: "self.limits.total_buffer.saturating_sub(self.held);",
        wrong: "self.limits.total_buffer;",
        tests: SIMULATION,
    },
    Bug {
        name: "the limit of connections limits nothing",
        file: "src/engine/event_loop/turn.rs",
        right: "if open >= self.memory.limits().connections || !entry.may_accept() {",
        wrong: "if !entry.may_accept() {",
        tests: SIMULATION,
    },
    Bug {
        name: "an unregistered connection is kept",
        file: "src/engine/event_loop.rs",
        right: "            self.never_opened(token, connection.addr(), connection.into_protocol(), end);\n            return false;\n",
        wrong: "            let _ = end;\n",
        tests: SIMULATION,
    },
    Bug {
        name: "a drain forgets the connections in the backlog",
        file: "src/engine/event_loop.rs",
        right: "        for accepting in self.listeners.iter_mut() {\n            accepting.ready = true;\n        }\n        self.resume_accepting();",
        wrong: "        self.stop_listening();",
        tests: SIMULATION,
    },
    Bug {
        name: "idle connections are judged by the clock alone",
        file: "src/engine/silence.rs",
        right: "let known_until = self.all_returned_since(wait);",
        wrong: "let known_until = self.all_returned_since(wait).map(|_| wait.ended);",
        tests: SIMULATION,
    },
    Bug {
        name: "a round is judged by its last wait",
        file: "src/engine/silence.rs",
        right: "            return Some(began);\n        }\n        self.round",
        wrong: "            return Some(wait.began);\n        }\n        self.round",
        tests: SIMULATION,
    },
    Bug {
        name: "a full wait counts as a look at everything",
        file: "src/engine/silence.rs",
        right: "if returned < wait.most {",
        wrong: "if returned <= wait.most {",
        tests: SIMULATION,
    },
    Bug {
        name: "a loop that was stopped gives its peers no time to answer",
        file: "src/engine/silence.rs",
        right: "self.judged_from = wait.ended.plus(GRACE);",
        wrong: "self.judged_from = wait.ended;",
        tests: SIMULATION,
    },
    Bug {
        name: "only what the socket takes is progress",
        file: "src/engine/connection/deadline.rs",
        right: "        if !worth_a_look {",
        wrong: "        if worth_a_look || !worth_a_look {",
        tests: SIMULATION,
    },
    Bug {
        name: "a peer that reads nothing is kept for ever",
        file: "src/engine/progress.rs",
        right: "let again = self.looks + 1 < LOOKS;",
        wrong: "let again = true;",
        tests: SIMULATION,
    },
    Bug {
        name: "our FIN follows the peer's in any case",
        file: "src/engine/connection/service.rs",
        right: "if self.ending == Ending::Draining {\n                    self.shut_down();",
        wrong: "if self.reading == Reading::Ended {\n                    self.shut_down();",
        tests: SIMULATION,
    },
    Bug {
        name: "a half-open connection waits for the end that it has read",
        file: "src/engine/connection/service.rs",
        right: "if self.reading == Reading::Open && self.wire.end_is_near() {",
        wrong: "if self.wire.end_is_near() {",
        tests: SIMULATION,
    },
    Bug {
        name: "held input is read on",
        file: "src/engine/connection/service.rs",
        right: "Reading::Held | Reading::Paused | Reading::EndUnheard | Reading::EndHeld | Reading::Ended => 0,",
        wrong: "Reading::Held => context.room_now,\n            Reading::Paused | Reading::EndUnheard | Reading::EndHeld | Reading::Ended => 0,",
        tests: SIMULATION,
    },
    Bug {
        name: "a half-open connection does not notice a reset",
        file: "src/engine/connection/service.rs",
        right: "self.wire.look_for_error().map_err(End::Failed)",
        wrong: "self.wire.look_for_error().or(Ok(())).map_err(End::Failed)",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "a connection that was taken out of the queue stays there",
        file: "src/engine/run_queue.rs",
        right: "            self.now.retain(|&other| other != token);\n",
        wrong: "",
        tests: (&["--lib"], "run_queue"),
    },
    Bug {
        name: "input that was kept is shown whatever the room",
        file: "src/engine/connection/service.rs",
        right: "&input[..input.len().min(room_now.saturating_sub(queued))]",
        wrong: "&input[..input.len().min(room_now.max(input.len()).saturating_sub(queued / 9))]",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "what comes back is not compared",
        file: "src/client/exchange.rs",
        right: "_ if !self.run.load.verify => input.len(),",
        wrong: "_ if self.run.connections > 0 => input.len(),",
        tests: SIMULATION,
    },
    Bug {
        name: "one of a pair is not woken when the other has room",
        file: "src/engine/event_loop/turn.rs",
        right: "let goes_on = made_room && connection.has_more_to_read();",
        wrong: "let goes_on = made_room && connection.has_more_to_read() && false;",
        tests: SIMULATION,
    },
    Bug {
        name: "the reset of one of a pair passes for an end in order",
        file: "src/engine/connection.rs",
        right: "        if !in_order {\n            return self.end_as",
        wrong: "        if !in_order && self.is_connecting() {\n            return self.end_as",
        tests: SIMULATION,
    },
    Bug {
        name: "one of a pair that times out sends a FIN",
        file: "src/engine/connection/service.rs",
        right: "let is_cut_short = self.marks.has(Marks::JOINED) || !self.outbound.is_empty();",
        wrong: "let is_cut_short = !self.outbound.is_empty();",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "the FIN of a pair overtakes what waits",
        file: "src/engine/connection/service.rs",
        right: "if self.writing == Writing::ShuttingDown && self.outbound.is_empty() {",
        wrong: "if self.writing == Writing::ShuttingDown && (self.outbound.is_empty() || self.was_joined()) {",
        tests: SIMULATION,
    },
    Bug {
        name: "the FIN of a pair waits for an event that never comes",
        file: "src/engine/connection.rs",
        right: "self.outbound.is_empty() && (self.writing == Writing::ShuttingDown || self.marks.has(Marks::WANTS_ROOM))",
        wrong: "self.outbound.is_empty() && self.marks.has(Marks::WANTS_ROOM)",
        tests: SIMULATION,
    },
    Bug {
        name: "one of a pair that connects forgets to shut down",
        file: "src/engine/connection.rs",
        right: "Writing::Connecting => Writing::ConnectingToShutDown,",
        wrong: "Writing::Connecting => Writing::Connecting,",
        tests: SIMULATION,
    },
    Bug {
        name: "one of a pair that connects is written to",
        file: "src/engine/connection/service.rs",
        right: "        if !self.is_connecting() {\n            if !self.outbound.is_empty() {",
        wrong: "        {\n            if !self.outbound.is_empty() {",
        tests: SIMULATION,
    },
    Bug {
        name: "a drain cuts each pair at once",
        file: "src/engine/connection.rs",
        right: "        if self.marks.has(Marks::JOINED) {\n            return;\n        }\n",
        wrong: "",
        tests: SIMULATION,
    },
    Bug {
        name: "what is left of a pair echoes to itself",
        file: "src/engine/connection.rs",
        right: "        self.inbound = Vec::new();\n        self.stop_answering(now);\n",
        wrong: "        self.inbound = Vec::new();\n",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "what is left of a pair keeps its input",
        file: "src/engine/connection.rs",
        right: "        self.inbound = Vec::new();\n        self.stop_answering(now);\n",
        wrong: "        self.stop_answering(now);\n",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "each of a pair is idle by itself",
        file: "src/engine/event_loop/turn.rs",
        right: "connection.shares_activity(partner, &self.timeouts, self.now);",
        wrong: "let _ = partner;",
        tests: SIMULATION,
    },
    Bug {
        name: "a pair is idle while the far end takes what the kernel holds",
        file: "src/engine/connection/deadline.rs",
        right: "if !bytes_wait(partner) && !partner.is_connecting() {",
        wrong: "if false {",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "two of a pair that take nothing keep each other",
        file: "src/engine/connection/deadline.rs",
        right: "if !bytes_wait(partner) && !partner.is_connecting() {",
        wrong: "if !partner.is_connecting() {",
        tests: SIMULATION,
    },
    Bug {
        name: "one of a pair keeps input up to the room of the other",
        file: "src/engine/connection/service.rs",
        right: "partner.room_now.min(context.room_now)),",
        wrong: "partner.room_now),",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "one of a pair does not notice a reset while the other has no room",
        file: "src/engine/connection/service.rs",
        right: "            Reading::Open if context.partner.is_some() => {}\n",
        wrong: "",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "the memory of the other one of a pair is not counted",
        file: "src/engine/event_loop/turn.rs",
        right: "        self.memory.changed(memory_before, connection.memory());\n        if let Some(end) = end {",
        wrong: "        let _ = memory_before;\n        if let Some(end) = end {",
        tests: SIMULATION,
    },
    Bug {
        name: "the linger timeout counts from long ago",
        file: "src/engine/connection.rs",
        right: "                self.progress.waiting_since = now;\n            }\n",
        wrong: "                let _ = now;\n            }\n",
        tests: (&["--lib"], "connection"),
    },
    Bug {
        name: "a token is given away before the role heard that it is free",
        file: "src/engine/slots.rs",
        right: "        self.values -= usize::from(value.is_some());\n",
        wrong: "        self.values -= usize::from(value.is_some());\n        if value.is_some() {\n            self.free.push(place);\n        }\n",
        tests: SIMULATION,
    },
    Bug {
        name: "a connection that ended counts for its listener",
        file: "src/engine/listeners.rs",
        right: "            entry.open -= 1;\n",
        wrong: "            entry.open -= 0;\n",
        tests: SIMULATION,
    },
    Bug {
        name: "a full listener keeps the others from accepting",
        file: "src/engine/event_loop/turn.rs",
        right: "            for id in self.listeners.ids() {\n                self.accept(id);\n            }\n        }\n        let mut moved",
        wrong: "            for id in self.listeners.ids() {\n                if self.listeners.get_mut(id).is_some_and(|entry| entry.accepting.ready && !entry.may_accept()) {\n                    break;\n                }\n                self.accept(id);\n            }\n        }\n        let mut moved",
        tests: (&["--test", "simulation"], "promises"),
    },
    Bug {
        name: "an event of the timer is believed although its time has not come",
        file: "src/engine/event_loop/turn.rs",
        right: "if when.is_some_and(|when| when <= self.now) {",
        wrong: "if when.is_some() {",
        tests: (&["--test", "simulation"], "promises"),
    },
];

#[test]
fn every_planted_bug_finds_its_place() {
    for Bug { name, file, right, .. } in BUGS {
        let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert_eq!(source.matches(right).count(), 1, "{name}: {file} has changed where this bug is planted");
    }
}

#[test]
#[ignore = "compiles the library once for each planted bug: some minutes"]
fn planted_bugs_are_caught() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted");
    copy_sources(root, &copy);
    for (targets, filter) in [(SIMULATION.0, ""), (&["--lib"], ""), (&["--test", "server"], "stopped")] {
        assert!(passes(&copy, (targets, filter)), "{targets:?} fail without any planted bug");
    }
    let wanted = std::env::var("MULTICONN_BUGS").unwrap_or_default();
    let is_wanted = |bug: &&Bug| wanted.split('|').any(|words| bug.name.contains(words));
    let (part, parts) = part();
    let bugs: Vec<&Bug> = BUGS.iter().filter(is_wanted).skip(part).step_by(parts).collect();
    let mut missed = Vec::new();
    for Bug { name, file, right, wrong, tests } in &bugs {
        let path = copy.join(file);
        let source = fs::read_to_string(&path).unwrap();
        assert_eq!(source.matches(right).count(), 1, "{name}: what is to be changed in {file} has changed itself");
        fs::write(&path, source.replace(right, wrong)).unwrap();
        let begun = Instant::now();
        let caught = !passes(&copy, *tests);
        println!("{}: {name} ({:.0?})", if caught { "caught" } else { "MISSED" }, begun.elapsed());
        if !caught {
            missed.push(name);
        }
        fs::write(&path, source).unwrap();
    }
    figure("planted bugs caught", format_args!("{} of {}", bugs.len() - missed.len(), bugs.len()));
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

/// The part of the bugs that is planted, counted from 0, and how many parts there are.
fn part() -> (usize, usize) {
    let Ok(part) = std::env::var("MULTICONN_PART") else { return (0, 1) };
    let (number, parts) = part.split_once('/').expect("MULTICONN_PART is written like 1/3");
    let (number, parts): (usize, usize) = (number.parse().unwrap(), parts.parse().unwrap());
    assert!((1..=parts).contains(&number), "there is no part {part}");
    (number - 1, parts)
}

/// Copies what git knows of, as it is now.
fn copy_sources(root: &Path, copy: &Path) {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().unwrap();
    assert!(listed.status.success(), "git knows what belongs to the sources");
    for name in listed.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name).unwrap();
        let (from, to) = (root.join(name), copy.join(name));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        // An unchanged file keeps its time, so that nothing is compiled again for it.
        if fs::read(&from).ok() != fs::read(&to).ok() {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Whether these tests pass. They must compile.
fn passes(copy: &Path, (targets, filter): (&[&str], &str)) -> bool {
    let cargo = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(copy).env("CARGO_TARGET_DIR", copy.join("target")).env("RUST_BACKTRACE", "0");
        command.env("MULTICONN_WORLDS", "6000"); // Some bugs show in few of them; the first ends the test.
        // A little optimized, the worlds take a twentieth of the time, and compiling hardly longer.
        command.env("CARGO_PROFILE_TEST_OPT_LEVEL", "1");
        command.args(["test", "--locked", "--quiet"]).args(targets).args(more).output().unwrap()
    };
    let built = cargo(&["--no-run"]);
    assert!(built.status.success(), "{targets:?} do not compile: {}", String::from_utf8_lossy(&built.stderr));
    cargo(&[filter]).status.success()
}
