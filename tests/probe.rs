//! `multiconn-probe` against our server, against paths that do one thing wrong, and against servers that are no echo.
#![cfg(feature = "cli")]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::relay::Relay;
use common::schema::check_against;
use common::{PATIENCE, PROBE, Program, Run, Server, run_within};
use multiconn::probe::behaviour::Verdict;
use multiconn::probe::{BEHAVIOURS, Known, Settings, probe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use serde_json::Value;

const BYTES: usize = 64 * 1024;

/// The probe with these options, which are separated by spaces.
fn command(addr: SocketAddr, options: &str) -> Command {
    let mut command = Command::new(PROBE);
    command.args([addr.ip().to_string(), addr.port().to_string()]).args(options.split_whitespace());
    command
}

#[track_caller]
fn run(addr: SocketAddr, options: &str) -> Run {
    run_within(2 * PATIENCE, &mut command(addr, options))
}

/// The rows of a run with `--json`, by name: the verdict, and what was seen.
struct Rows(Vec<(String, String, String)>);

impl Rows {
    #[track_caller]
    fn of(run: &Run) -> Rows {
        let object: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
        check_against("probe.schema.json", &object);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rows = object["rows"].as_array().unwrap();
        Rows(rows.iter().map(|row| (text(&row["name"]), text(&row["verdict"]), text(&row["seen"]))).collect())
    }

    /// What was seen in the row `name`, whose verdict is this one.
    #[track_caller]
    fn seen(&self, name: &str, verdict: &str) -> &str {
        let row = self.0.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("no {name} in {:?}", self.0));
        assert_eq!(row.1, verdict, "{row:?}");
        &row.2
    }

    /// Expects that all rows but those in `others` are carried, or not tried where no partner is there.
    #[track_caller]
    fn carried_but(&self, others: &[&str]) {
        let partner = self.seen("echo", "carried").contains("--probes");
        for row in self.0.iter().filter(|row| !others.contains(&row.0.as_str())) {
            let needs_partner = BEHAVIOURS.iter().any(|known| known.name == row.0 && known.needs_partner);
            assert_eq!(row.1, if needs_partner && !partner { "not tried" } else { "carried" }, "{row:?}");
        }
    }
}

/// Accepts connections for as long as the test runs, and serves each on a thread of its own.
fn path(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// Waits until there is something to read, for `time` at the most. Returns whether there is. (The kernel keeps a socket's
/// read timeout to an eighth of it; poll(2) is exact.)
fn readable_within(stream: &TcpStream, time: Duration) -> bool {
    let time = Timespec::try_from(time).unwrap();
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&time)).unwrap() > 0
}

/// Echoes until the end of input, or until `time` has passed without a byte. Returns whether it was the time.
fn echo(stream: &mut TcpStream, time: Duration) -> bool {
    let mut buffer = vec![0; BYTES];
    while readable_within(stream, time) {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) if stream.write_all(&buffer[..count]).is_ok() => {}
            _ => return false,
        }
    }
    true
}

/// Reads whatever comes, and says nothing.
fn swallow(stream: &mut TcpStream) {
    let mut buffer = vec![0; BYTES];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

/// Tests that measure the machine's own speed, or spoil it, one at a time.
static MACHINE: Mutex<()> = Mutex::new(());

/// How long it takes is for `tests/lab/boxes.rs` to say, where no other test runs.
#[test]
fn the_way_to_our_own_server_is_carried() {
    let server = Server::start(&["--probes"]);
    let run = run(server.addr, "--idle-max 2s");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert!(
        run.stdout.starts_with(&format!("The path to {}:\n\necho               carried    22 B", server.addr)),
        "{run:?}"
    );
    assert!(run.stdout.ends_with("\n\nAll carried.\n"), "{run:?}");
    assert_eq!(run.stdout.matches(" carried ").count(), BEHAVIOURS.len(), "{run:?}");
}

#[test]
fn a_busy_machine_is_not_taken_for_a_broken_path() {
    let _alone = MACHINE.lock();
    let server = Server::start(&["--probes"]);
    let stop = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().unwrap().get();
    let hogs: Vec<_> = (0..2 * cores)
        .map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        })
        .collect();
    let run = run(server.addr, "--idle-max 2s --json");
    stop.store(true, Ordering::Relaxed);
    for hog in hogs {
        hog.join().unwrap();
    }
    Rows::of(&run).carried_but(&[]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn only_skip_and_list_name_behaviours() {
    let server = Server::start(&[]);
    let names = |options: &str| -> Vec<String> {
        let run = run(server.addr, &format!("{options} --json"));
        Rows::of(&run).0.into_iter().map(|row| row.0).collect()
    };
    // The echo is always tried.
    assert_eq!(names("--only half-close,sizes"), ["echo", "sizes", "half-close"]);
    let skipped = ["idle", "long", "slow-reader", "together"];
    assert_eq!(
        names(&format!("--skip {} --skip {}", skipped[..3].join(","), skipped[3])),
        BEHAVIOURS.map(|known| known.name).into_iter().filter(|name| !skipped.contains(name)).collect::<Vec<_>>()
    );
    let list = common::run(Command::new(PROBE).arg("--list"));
    assert_eq!((list.code, list.stdout.lines().count()), (Some(0), BEHAVIOURS.len() + 2), "{list:?}");
    for (line, Known { name, what, needs_partner, .. }) in list.stdout.lines().zip(BEHAVIOURS) {
        let end = if needs_partner { format!("{what} *") } else { what.to_owned() };
        assert!(line.starts_with(name) && line.ends_with(&end), "{line}");
    }
}

#[test]
fn wrong_names_are_answered_with_those_that_exist() {
    let all = BEHAVIOURS.map(|known| known.name).join(", ");
    let verdicts = "carried, changed, cut, silent, refused";
    for (options, answer) in [
        ("--only half-closed", all.as_str()),
        ("--skip x", all.as_str()),
        ("--expect x=cut", all.as_str()),
        ("--expect idle=dead", verdicts),
        ("--expect idle", "write it like half-close=cut"),
        ("--only idle --skip long", "cannot be used with"),
        ("--idle-max 0s", "--idle-max"),
        ("--size-max 0", "--size-max"),
        ("--timeout 0s", "--timeout"),
    ] {
        let run = run(([127, 0, 0, 1], 7).into(), options);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{options}: {run:?}");
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(answer), "{options}: {run:?}");
    }
}

#[test]
fn what_is_expected_decides_the_exit_code() {
    let addr = path(|mut stream| {
        echo(&mut stream, Duration::from_millis(600));
    });
    for (expect, code, verdict) in [
        ("", 1, "1 of 2 is not as expected."),
        ("--expect idle=cut", 0, "All as expected."),
        ("--expect idle=silent", 1, "1 of 2 is not as expected."),
        ("--expect idle=silent --expect idle=cut", 0, "All as expected."),
        ("--expect idle=cut --expect echo=cut", 1, "1 of 2 is not as expected."),
    ] {
        let run = run(addr, &format!("--only idle --idle-max 1s {expect}"));
        assert_eq!(run.code, Some(code), "{expect}: {run:?}");
        assert!(run.stdout.ends_with(&format!("\n\n{verdict}\n")), "{expect}: {run:?}");
        assert_eq!(run.stdout.contains("\nidle: A pooled"), code == 1 && !expect.contains("echo"), "{expect}: {run:?}");
    }
}

#[test]
fn ctrl_c_shows_what_is_known() {
    // One for the echo and three to look for a partner, 70 connects, 35 sizes, 4 half-closes, a slow reader, and 1 and 2 s
    // of idleness. 4, 8, 16, 32 and 60 s of it go on then, once more with keepalive, and a long life.
    const ENDED: usize = 4 + 70 + 35 + 4 + 1 + 2;
    let server = Server::start(&[]);
    for (json, ended) in [(false, ENDED), (true, 2 * ENDED + 7)] {
        let options = format!("--idle-max 60s {}", if json { "--json" } else { "" });
        let mut command = command(server.addr, &options);
        let running = Program::start({
            command.stdout(Stdio::piped());
            command
        });
        let begun = Instant::now();
        while server.program.accounted_for("Closing connection") < ended {
            assert!(begun.elapsed() < PATIENCE, "{:#?}", server.program.lines());
            std::thread::sleep(Duration::from_millis(10)); // For a line of the server's.
        }
        running.signal(Signal::INT);
        let mut running = running;
        let mut stdout = String::new();
        running.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        running.ends_with(130);
        let run = Run { code: Some(130), stdout, stderr: running.all_lines(130).join("\n") };
        if json {
            let rows = Rows::of(&run);
            rows.carried_but(&["idle", "long", "together"]);
            for name in ["idle", "long", "together"] {
                assert_eq!(rows.seen(name, "not known"), "ended before it was known");
            }
        } else {
            assert!(run.stdout.contains("\nslow-reader        carried    16 MB of 16 MB back"), "{run:?}");
            assert!(
                run.stdout.contains("\ntogether           not known  ended before it was known\n\nNot tried: "),
                "{run:?}"
            );
        }
    }
}

#[test]
fn ctrl_c_before_anything_is_known_is_told_as_well() {
    let addr = path(|mut stream| swallow(&mut stream));
    let begun = Instant::now();
    let mut command = command(addr, "--only half-close --timeout 60s");
    command.stdout(Stdio::piped());
    let mut running = Program::start(command);
    std::thread::sleep(Duration::from_millis(500)); // It has started then, and waits for the echo.
    running.signal(Signal::INT);
    running.ends_with(130);
    assert!(begun.elapsed() < PATIENCE);
    let mut stdout = String::new();
    running.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert!(stdout.contains("\necho               not known  ended before it was known\n"), "{stdout}");
    assert!(stdout.contains("\nhalf-close         not known  "), "{stdout}");
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    let server = Server::start(&[]);
    let mut child =
        command(server.addr, "--only half-close").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

/// The behaviours that begin with a question.
const ASKING: &str =
    "first-byte,half-close-server,reset-client,reset-server,unread-close,backpressure,urgent,address,backends";

/// A partner answers the first question, and `serve` gets the later connections.
fn partner_once(answer: &'static str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let accepted = AtomicUsize::new(0);
    path(move |mut stream| match accepted.fetch_add(1, Ordering::SeqCst) {
        0 => _ = echo(&mut stream, PATIENCE),
        1 => {
            stream.read_exact(&mut [0; 23]).unwrap();
            let _ = stream.write_all(format!("multiconn-probe/1 who\n{answer}\n\n").as_bytes());
            swallow(&mut stream);
        }
        _ => serve(stream),
    })
}

const ANSWER: &str = "multiconn-probe/1 ok server=00000000000000ff connection=2 stream=0102030405060708 \
                      peer=127.0.0.1:9 local=127.0.0.1:7 proxy=none";

#[test]
fn a_question_that_reaches_a_server_that_is_no_partner_shows_nothing_of_the_path() {
    let plain = |mut stream: TcpStream| _ = echo(&mut stream, PATIENCE);
    let garbage = |mut stream: TcpStream| {
        let _ = stream.write_all(&[0; 1000]);
        swallow(&mut stream);
    };
    for addr in [partner_once(ANSWER, plain), partner_once(ANSWER, garbage)] {
        let begun = Instant::now();
        let run = run(addr, &format!("--only {ASKING} --json"));
        let rows = Rows::of(&run);
        for name in ASKING.split(',').filter(|&name| name != "backends") {
            let seen = rows.seen(name, "not known");
            assert!(seen.ends_with("its question reached a server that is no partner"), "{name}: {seen}");
        }
        assert_eq!(rows.seen("backends", "changed"), "20 of 20 reached a server that is no partner");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_connection_that_ends_before_the_answer_is_not_carried() {
    let ends = |mut stream: TcpStream| drop(stream.read(&mut [0; 200]));
    let ends_in_mid_answer = |mut stream: TcpStream| {
        let mut question = [0; 200];
        let count = stream.read(&mut question).unwrap();
        let _ = stream.write_all(&[&question[..count - 1], b"multiconn-probe/1 ok ser"].concat());
    };
    for addr in [partner_once(ANSWER, ends), partner_once(ANSWER, ends_in_mid_answer)] {
        let run = run(addr, &format!("--only {ASKING} --json"));
        let rows = Rows::of(&run);
        for name in ASKING.split(',').filter(|&name| name != "backends") {
            let seen = rows.seen(name, "cut");
            let ended = match name {
                "reset-server" | "unread-close" => seen == "0 of the server's last 1000 B, then an orderly end",
                _ => seen.contains("ended by a FIN after "),
            };
            assert!(ended, "{run:?}");
        }
        assert!(rows.seen("backends", "refused").starts_with("20 of 20 were not answered; "), "{run:?}");
    }
}

#[test]
fn an_answer_without_the_name_of_its_server_is_none() {
    for answer in
        ["multiconn-probe/1 ok state=open", "multiconn-probe/1 error no", "multiconn-probe/1 ok server=\x1b[2J"]
    {
        let run = run(partner_once(answer, drop), "--only address --json");
        Rows::of(&run).seen("address", "not tried");
    }
}

/// Leads bytes both ways, and each end on.
fn relay(near: TcpStream, to: SocketAddr) {
    let pump = |mut from: TcpStream, mut to: TcpStream| {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let far = TcpStream::connect(to).unwrap();
    let ends = (far.try_clone().unwrap(), near.try_clone().unwrap());
    std::thread::spawn(move || pump(near, far));
    pump(ends.0, ends.1);
}

#[test]
fn a_path_that_dials_on_at_the_first_byte_changes_who_may_speak_first() {
    let server = Server::start(&["--probes"]);
    let to = server.addr;
    let addr = path(move |near| {
        let _ = near.peek(&mut [0]);
        relay(near, to);
    });
    let run = run(addr, "--only first-byte --json");
    let seen = "no greeting within 1.5 s; our bytes came back afterwards";
    assert_eq!(Rows::of(&run).seen("first-byte", "changed"), seen, "{run:?}");
}

#[test]
fn a_greeting_that_another_server_was_asked_for_is_not_missed() {
    let servers = [Server::start(&["--probes"]), Server::start(&["--probes"])];
    let to = servers.each_ref().map(|server| server.addr);
    let turn = AtomicUsize::new(0);
    let addr = path(move |near| relay(near, to[turn.fetch_add(1, Ordering::SeqCst) % 2]));
    let run = run(addr, "--only first-byte --json");
    Rows::of(&run).seen("first-byte", "not known");
}

/// What a server that is no echo makes of a probe, which must not take longer than its patience of 1 s and a little.
#[track_caller]
fn no_echo(addr: SocketAddr, verdict: &str, seen: &str) {
    let begun = Instant::now();
    let run = run(addr, "--timeout 1s --json");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}: {run:?}", begun.elapsed());
    let rows = Rows::of(&run);
    assert_eq!((run.code, rows.0.len()), (Some(1), 1), "nothing else is tried: {run:?}");
    let row = rows.seen("echo", verdict).to_lowercase();
    assert!(row.contains(&seen.to_lowercase()), "{seen:?} is not in {row:?}");
}

#[test]
fn a_server_that_is_no_echo_is_described() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    no_echo(closed, "refused", "connect failed: Connection refused");
    let http = path(|mut stream| {
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    // One first byte in 256 is by chance the one that was sent.
    no_echo(http, "cut", "it looks like an HTTP/1.1 response");
    let ssh = path(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n");
        swallow(&mut stream);
    });
    no_echo(ssh, "cut", "it looks like an SSH banner");
    // Too short to wait for more of it.
    let short = path(|mut stream| {
        let _ = stream.write_all(b"hello");
        swallow(&mut stream);
    });
    no_echo(short, "cut", "ello\"");
    let endless = path(|mut stream| while stream.write_all(b"x").is_ok() {});
    no_echo(endless, "cut", ": b\"xxx");
    no_echo(path(|mut stream| swallow(&mut stream)), "silent", "0 of 22 B back; silent, given up after 1.");
    no_echo(
        path(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.read(&mut [0; 100]);
        }),
        "refused",
        "0 of 22 B back; ended by a FIN after ",
    );
    // The reset comes before the connect is noticed, or after it.
    no_echo(path(common::reset), "refused", "reset");
}

#[test]
fn what_comes_in_the_moment_of_the_connect_is_seen() {
    let settings = Settings {
        idle_max: Duration::from_secs(1),
        size_max: 1,
        timeout: Duration::from_secs(5),
        chosen: vec!["echo"],
        run: 7,
    };
    for (banner, seen) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "0 of 22 B back; a wrong byte at offset 0: b\"SSH"),
        (b"", "0 of 22 B back; "),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        // On the thread that accepts: no server answers sooner.
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.write_all(banner);
                open.push((!banner.is_empty()).then_some(stream));
            }
        });
        for _ in 0..50 {
            let probed = probe(&[addr], &settings).unwrap();
            assert!(probed.rows[0].seen.starts_with(seen), "{probed:?}");
        }
    }
}

#[test]
fn the_table_of_a_server_that_is_no_echo_says_what_to_look_at() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let run = run(closed, "");
    let expected = format!(
        "The path to {closed}:\n\necho               refused    connect failed: Connection refused (os error 111)\n\n\
         echo: Without an echo nothing else can be found out, and nothing else was tried.\n  Is the server running, is \
         the port right, and is it an echo server\n  (multiconn-server, socat EXEC:cat, xinetd's echo)?\n\n\
         1 of 1 is not as expected.\n"
    );
    assert_eq!((run.code, run.stdout), (Some(1), expected));
}

#[test]
fn a_name_that_is_not_known_is_an_error() {
    let run = common::run(Command::new(PROBE).args(["no.such.host.invalid", "7"]));
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.lines().count()), (Some(1), "", 1), "{run:?}");
    assert!(run.stderr.starts_with("error: cannot find the address of \"no.such.host.invalid\""), "{run:?}");
}

#[test]
fn the_first_address_that_answers_is_probed() {
    let server = Server::start(&[]);
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let settings = Settings {
        idle_max: Duration::from_secs(1),
        size_max: 1_000,
        timeout: Duration::from_secs(5),
        chosen: vec!["echo", "sizes"],
        run: 7,
    };
    let probed = probe(&[closed, server.addr, closed], &settings).unwrap();
    assert_eq!((probed.addr, probed.is_as_expected(&[])), (server.addr, true), "{probed:?}");
    let probed = probe(&[closed, closed], &settings).unwrap();
    assert_eq!((probed.rows.len(), probed.rows[0].verdict), (1, Verdict::Refused), "{probed:?}");
}

/// Between two of the times that are tried.
const FORGETS: Duration = Duration::from_millis(1_600);

#[test]
fn a_path_that_forgets_idle_connections_is_silent_from_then_on() {
    let addr = path(|mut stream| {
        if echo(&mut stream, FORGETS) {
            swallow(&mut stream);
        }
    });
    let run = run(addr, "--idle-max 4s --timeout 2s --skip together --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["idle"]);
    let seen = rows.seen("idle", "silent");
    assert_eq!(seen, "silent, between 1.5 s and 2.0 s; TCP keepalive every second does not help", "{run:?}");
}

#[test]
fn a_path_that_ends_idle_connections_is_timed() {
    let addr = path(|mut stream| {
        echo(&mut stream, FORGETS);
    });
    let run = run(addr, "--idle-max 4s --skip together --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["idle"]);
    assert!(rows.seen("idle", "cut").starts_with("ended by a FIN at 1.6 s; "), "{run:?}");
}

#[test]
fn a_path_that_resets_at_the_next_byte_is_narrowed() {
    let addr = path(|mut stream| {
        if echo(&mut stream, FORGETS) {
            let _ = stream.read(&mut [0; 1]);
            common::reset(stream);
        }
    });
    let run = run(addr, "--only idle --idle-max 4s --json");
    assert!(Rows::of(&run).seen("idle", "cut").starts_with("reset at the next byte, between 1."), "{run:?}");
}

#[test]
fn a_path_that_ends_both_directions_at_a_fin_cuts_half_closes() {
    let addr = path(|mut stream| {
        let mut buffer = vec![0; BYTES];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            // What comes right before a FIN is lost.
            let more = readable_within(&stream, Duration::from_millis(50));
            if more && stream.peek(&mut [0]).is_ok_and(|count| count == 0)
                || stream.write_all(&buffer[..count]).is_err()
            {
                return;
            }
        }
    });
    let run = run(addr, "--only connect,sizes,half-close --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["half-close"]);
    assert!(rows.seen("half-close", "cut").starts_with("back: 0 B of 22 B, "), "{run:?}");
}

#[test]
fn a_path_that_answers_no_fin_is_silent_in_one_row_alone() {
    let addr = path(|mut stream| {
        echo(&mut stream, PATIENCE);
        std::thread::sleep(PATIENCE); // The FIN is never answered.
    });
    let begun = Instant::now();
    // (200 connects at once overflow the backlog of std's listener, and a SYN is sent again after a second.)
    let run = run(addr, "--idle-max 2s --timeout 1s --skip together --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["half-close"]);
    let seen = rows.seen("half-close", "silent");
    assert!(seen.contains("back: all of 22 B, all of 100 kB") && seen.contains("silent, given up after"), "{seen}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn a_path_that_ends_half_closes_by_a_reset_changes_them() {
    let addr = path(|mut stream| {
        if !echo(&mut stream, PATIENCE) {
            common::reset(stream);
        }
    });
    let run = run(addr, "--only half-close,sizes --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["half-close"]);
    // A reset may overtake the last bytes of the large ones; those of 22 B are there long before it.
    assert!(rows.seen("half-close", "changed").starts_with("back: all of 22 B"), "{run:?}");
}

#[test]
fn a_path_that_swallows_long_messages_is_narrowed() {
    let addr = path(|mut stream| {
        let mut buffer = vec![0; BYTES];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if count <= 3_000 && stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    let run = run(addr, "--only sizes --timeout 1s --json");
    let seen = Rows::of(&run).seen("sizes", "silent").to_owned();
    let numbers: Vec<u64> = seen.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[0] <= 3_000 && 3_000 < numbers[1] && numbers[1] - numbers[0] <= 8, "{seen}");
}

#[test]
fn a_path_that_flips_a_byte_is_caught_at_its_offset() {
    let addr = path(|mut stream| {
        let mut buffer = vec![0; BYTES];
        let mut place = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if (place..place + count).contains(&1_000) {
                buffer[1_000 - place] ^= 1;
            }
            place += count;
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    let run = run(addr, "--only sizes,half-close,slow-reader --json");
    let rows = Rows::of(&run);
    let seen = rows.seen("sizes", "cut");
    assert!(seen.contains("1000 B come back, 100") && seen.contains(": a wrong byte at offset 1000: b\""), "{seen}");
    for name in ["half-close", "slow-reader"] {
        assert!(rows.seen(name, "cut").contains("a wrong byte at offset 1000"), "{run:?}");
    }
}

#[test]
fn what_a_relay_changes_is_seen_with_a_partner_behind_it() {
    let _alone = MACHINE.lock();
    let server = Server::start(&["--probes"]);
    let relay = Relay::default().start(&[server.addr]);
    let run = run(relay, "--idle-max 2s --skip together --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["reset-client", "reset-server", "unread-close", "urgent", "address"]);
    assert_eq!(rows.seen("reset-client", "changed"), "the server saw an orderly end");
    for name in ["reset-server", "unread-close"] {
        assert_eq!(rows.seen(name, "changed"), "1000 of the server's last 1000 B, then an orderly end");
    }
    assert_eq!(rows.seen("urgent", "cut"), "the urgent byte is lost; those around it came back");
    assert!(rows.seen("address", "changed").starts_with("the server sees our address, and port "), "{run:?}");
    assert!(rows.seen("backpressure", "carried").starts_with("32 MB arrived; "), "{run:?}");
    assert!(rows.seen("first-byte", "carried").starts_with("the server's greeting came after "), "{run:?}");
}

#[test]
fn a_relay_that_waits_for_the_first_byte_swallows_greetings() {
    let server = Server::start(&["--probes"]);
    let relay = Relay { waits: true, ..Relay::default() }.start(&[server.addr]);
    let run = run(relay, "--only first-byte,backends --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["first-byte"]);
    assert_eq!(rows.seen("first-byte", "changed"), "no greeting within 1.5 s; our bytes came back afterwards");
}

#[test]
fn servers_that_take_turns_are_counted() {
    let servers = [Server::start(&["--probes"]), Server::start(&["--probes"])];
    let relay = Relay::default().start(&[servers[0].addr, servers[1].addr]);
    let run = run(relay, "--only backends,sizes --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["backends"]);
    // (Other behaviours' connections are among theirs.)
    assert!(rows.seen("backends", "changed").starts_with("2 servers answered "), "{run:?}");
}

#[test]
fn a_partner_says_on_which_way_an_echo_was_broken() {
    let server = Server::start(&["--probes"]);
    let there = Relay { flips_there: Some(50_000), ..Relay::default() };
    let back = Relay { flips_back: Some(50_000), ..Relay::default() };
    for (relay, way) in [(there, "; on the way there: at byte 50000 it was wrong"), (back, "; on the way back: ")] {
        let run = run(relay.start(&[server.addr]), "--only sizes,half-close,slow-reader --json");
        let rows = Rows::of(&run);
        for name in ["sizes", "half-close", "slow-reader"] {
            let seen = rows.seen(name, "cut");
            assert!(seen.contains("a wrong byte at offset 50000: ") && seen.contains(way), "{seen}");
        }
    }
}

#[test]
fn what_needs_a_partner_is_not_tried_without_one_unless_it_is_named() {
    let server = Server::start(&[]);
    for (options, code) in
        [("--only sizes", 0), ("--only sizes,urgent", 1), ("--skip idle,long,together,slow-reader,half-close", 0)]
    {
        let run = run(server.addr, options);
        assert_eq!(run.code, Some(code), "{run:?}");
        let said = "\n\nNot tried: ";
        assert_eq!(run.stdout.contains(said), options != "--only sizes", "{run:?}");
    }
}

#[test]
fn a_path_that_limits_the_life_of_connections_is_timed() {
    /// How long the connections lived that it ended, in seconds: on a busy machine, a thread may be late.
    static LIVES: Mutex<Vec<f64>> = Mutex::new(Vec::new());
    let addr = path(|mut stream| {
        let begun = Instant::now();
        let end = begun + Duration::from_secs(3);
        let mut buffer = vec![0; BYTES];
        loop {
            if !readable_within(&stream, end.saturating_duration_since(Instant::now())) {
                LIVES.lock().unwrap().push(begun.elapsed().as_secs_f64());
                return;
            }
            match stream.read(&mut buffer) {
                Ok(count @ 1..) if stream.write_all(&buffer[..count]).is_ok() => {}
                _ => return,
            }
        }
    });
    let run = run(addr, "--only connect,sizes,half-close,idle,long --idle-max 5s --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["idle", "long"]);
    let long = rows.seen("long", "cut").strip_prefix("a byte every 250 ms: ended by a FIN after ");
    let idle = rows.seen("idle", "cut").strip_prefix("ended by a FIN at ");
    let idle = idle.and_then(|seen| seen.strip_suffix("; TCP keepalive every second does not help"));
    for seen in [long, idle] {
        let seen = seen.and_then(|seen| seen.strip_suffix(" s")).unwrap_or_else(|| panic!("{run:?}"));
        let time: f64 = seen.parse().unwrap();
        let lives = LIVES.lock().unwrap();
        assert!(time >= 3.0 && lives.iter().any(|life| (life - time).abs() < 0.1), "{time}, {lives:?}: {run:?}");
    }
}

/// Has room for 100 connections: those above it are ended at once or, if they may `wait`, accepted later.
fn room_for_100(wait: bool) -> SocketAddr {
    static OPEN: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let open = &OPEN[usize::from(wait)];
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            while wait && open.load(Ordering::SeqCst) >= 100 {
                std::thread::sleep(Duration::from_millis(1)); // For an end, on another thread.
            }
            if open.load(Ordering::SeqCst) < 100 {
                open.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    echo(&mut stream, PATIENCE);
                    drop(stream);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }
    });
    addr
}

#[test]
fn a_path_with_room_for_100_connections_makes_the_others_wait() {
    let run = run(room_for_100(true), "--only connect,together --timeout 10s --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["together"]);
    let seen = rows.seen("together", "changed");
    assert!(seen.starts_with("250 of 250 whole (200 at once, 50 that came and went); "), "{seen}");
    assert!(seen.contains(" waited for a place, the longest "), "{seen}");
}

#[test]
fn a_path_with_room_for_100_connections_refuses_the_others() {
    let run = run(room_for_100(false), "--only connect,together --json");
    let rows = Rows::of(&run);
    rows.carried_but(&["together"]);
    let seen = rows.seen("together", "refused");
    assert!(seen.starts_with("100 of 250 whole") && seen.contains("; 150 refused; "), "{seen}");
}
