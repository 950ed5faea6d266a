//! Everything at once, against one server, for as long as asked:
//! `MULTICONN_SOAK=60s cargo test --release --test soak -- --ignored --nocapture`; without the variable, 30 s.
//!
//! Verified runs of the client, churn, resets, slow and stuck peers, half-closers, dripping bytes, firehoses and signals
//! are mixed by a seed, which is printed; `MULTICONN_SEED` asks for the same mix again. (The order in which the
//! connections' doings interleave is the system's.) What must hold all the while is checked at each progress line, and
//! after the last connection that the server is as it was at the beginning.
#![cfg(all(feature = "cli", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::dice::Dice;
use common::proc::{cost_of_rest, descriptor_numbers, exact_cpu, rss, settle};
use common::{CLIENT, PATIENCE, SERVER, Server, connect_from, figure, pattern, reset, run};
use multiconn::descriptors::raise_limit;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

const MIB: u64 = 1024 * 1024;

/// Small enough for the stuck peers to reach it.
const TOTAL_BUFFER: u64 = 16 * MIB;

/// More than are ever open at once here.
const MOST_CONNECTIONS: u64 = 2000;

/// What a peer found wrong.
type Fault = String;

/// What all peers share.
struct Field {
    addr: SocketAddr,
    server: rustix::process::Pid,
    opened: AtomicU64,
    verified: AtomicU64,
    faults: Mutex<Vec<Fault>>,
    mood: Mutex<Mood>,
    changed: Condvar,
}

struct Mood {
    now: Order,
    /// Peers that have something under way.
    busy: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Load,
    Rest,
    End,
}

impl Field {
    /// A connection of its own, from one of 200 addresses: none runs out of ports.
    fn connect(&self, dice: &mut Dice) -> TcpStream {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let source = Ipv4Addr::new(127, 0, 0, u8::try_from(2 + dice.below(200)).unwrap());
        connect_from(source, self.addr)
    }

    fn verified(&self, bytes: usize) {
        self.verified.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn fault(&self, fault: Fault) {
        println!("fault: {fault}");
        self.faults.lock().unwrap().push(fault);
    }

    /// Repeats `deed` in times of load, and waits in times of rest.
    fn repeat(&self, name: &str, mut dice: Dice, deed: Deed) {
        let mut mood = self.mood.lock().unwrap();
        loop {
            match mood.now {
                Order::Load => {
                    mood.busy += 1;
                    drop(mood);
                    if let Err(fault) = deed(self, &mut dice) {
                        self.fault(format!("{name}: {fault}"));
                    }
                    mood = self.mood.lock().unwrap();
                    mood.busy -= 1;
                    self.changed.notify_all();
                }
                Order::Rest => mood = self.changed.wait(mood).unwrap(),
                Order::End => return,
            }
        }
    }

    /// Gives an order, and unless it is to go on, waits until all have done what they were doing.
    fn order(&self, order: Order) {
        let mut mood = self.mood.lock().unwrap();
        mood.now = order;
        self.changed.notify_all();
        while order != Order::Load && mood.busy > 0 {
            let (held, wait) = self.changed.wait_timeout(mood, 3 * PATIENCE).unwrap();
            mood = held;
            assert!(!wait.timed_out(), "{} peers do not come to an end", mood.busy);
        }
    }
}

type Deed = fn(&Field, &mut Dice) -> Result<(), Fault>;

/// Who takes part, each in a thread of its own.
const PEERS: [(&str, Deed); 13] = [
    ("client", verified_run),
    ("client", verified_run),
    ("churner", churn),
    ("churner", churn),
    ("resetter", reset_midway),
    ("slow reader", read_slowly),
    ("slow reader", read_slowly),
    ("stuck crowd", get_stuck),
    ("half-closer", finish_first),
    ("half-closer", finish_first),
    ("dripper", drip),
    ("firehose", hose),
    ("signaller", signal),
];

/// The real client, in one of its ways of working.
fn verified_run(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    let connections = [1, 3, 20, 100][dice.below(4)];
    let mut args = vec![field.addr.ip().to_string(), field.addr.port().to_string(), connections.to_string()];
    let mut arg = |text: &str| args.push(text.to_owned());
    arg("--json");
    arg("-q");
    arg("--timeout");
    arg("20s");
    arg("--size");
    arg(dice.pick(&["1", "64", "1000", "16KiB", "100KB"]));
    match dice.below(3) {
        0 => {
            arg("--messages");
            arg(dice.pick(&["1", "10", "50"]));
        }
        1 => {
            arg("--duration");
            arg(dice.pick(&["200ms", "1s", "2s"]));
            arg("--pipeline");
            arg(dice.pick(&["1", "2", "16"]));
        }
        _ => {
            arg("--duration");
            arg(dice.pick(&["200ms", "1s", "2s"]));
            arg("--rate");
            arg(dice.pick(&["10", "500", "2000"]));
        }
    }
    field.opened.fetch_add(connections, Ordering::Relaxed);
    let run = run(Command::new(CLIENT).args(&args));
    let report: Value = serde_json::from_str(&run.stdout).map_err(|error| format!("{error}: {args:?}: {run:?}"))?;
    if run.code != Some(0) || report["connections"]["intact"] != connections {
        return Err(format!("{args:?}: {run:?}"));
    }
    field.verified.fetch_add(report["bytes"]["echoed"].as_u64().unwrap(), Ordering::Relaxed);
    Ok(())
}

/// Expects `message` next.
fn verify(field: &Field, stream: &mut TcpStream, message: &[u8]) -> Result<(), Fault> {
    let mut echo = vec![0; message.len()];
    stream.read_exact(&mut echo).map_err(|error| format!("reading {} bytes: {error}", message.len()))?;
    if echo != message {
        let wrong = echo.iter().zip(message).position(|(got, sent)| got != sent).unwrap();
        return Err(format!("byte {wrong} of {} is not the one sent", message.len()));
    }
    field.verified(message.len());
    Ok(())
}

/// Expects the server's FIN and nothing before it.
fn verify_end(stream: &mut TcpStream) -> Result<(), Fault> {
    match stream.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("more came back than was sent".to_owned()),
        Err(error) => Err(format!("waiting for the end: {error}")),
    }
}

fn sent(result: std::io::Result<()>) -> Result<(), Fault> {
    result.map_err(|error| format!("sending: {error}"))
}

fn churn(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    for _ in 0..100 {
        let mut stream = field.connect(dice);
        let message = pattern(1 + dice.below(2000));
        sent(stream.write_all(&message))?;
        verify(field, &mut stream, &message)?;
    }
    thread::sleep(dice.millis(0, 100)); // Leaves the machine to the others.
    Ok(())
}

fn reset_midway(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    for _ in 0..50 {
        let mut stream = field.connect(dice);
        let message = pattern(1 + dice.below(100_000));
        stream.set_nonblocking(true).unwrap();
        for _ in 0..dice.below(4) {
            let _ = stream.write(&message);
        }
        stream.set_nonblocking(false).unwrap();
        if dice.below(3) == 0 {
            sent(stream.write_all(&message[..1]))?;
            sent(stream.read_exact(&mut [0; 1]))?;
        }
        if dice.below(4) == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        reset(stream);
    }
    thread::sleep(dice.millis(0, 200)); // Leaves the machine to the others.
    Ok(())
}

/// Sends more than all buffers hold and finishes, and reads it back with pauses: the server learns of the end while much
/// still waits.
fn read_slowly(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    let mut stream = field.connect(dice);
    let data = pattern(1_000_000 + dice.below(8_000_000));
    let pause = dice.millis(1, 20);
    thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let data = &data;
        let sending = scope.spawn(move || {
            writer.write_all(data)?;
            writer.shutdown(Shutdown::Write)
        });
        let read = data.chunks(64 * 1024).try_for_each(|chunk| {
            verify(field, &mut stream, chunk)?;
            thread::sleep(pause); // Its slowness.
            Ok(())
        });
        if read.is_err() {
            let _ = stream.shutdown(Shutdown::Both); // Ends the writer as well.
        }
        let written = sending.join().unwrap();
        read.and_then(|()| sent(written))?;
        verify_end(&mut stream)
    })
}

/// Writes until the socket takes no more and reads nothing, on many connections, for a time that is longer or shorter than
/// the server's time to stall.
#[expect(clippy::unnecessary_wraps, reason = "a deed as the others are")]
fn get_stuck(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    let streams: Vec<TcpStream> = (0..=dice.below(200)).map(|_| field.connect(dice)).collect();
    let patience = Instant::now() + dice.millis(500, 4000);
    let bytes = vec![b'x'; 65536];
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
        // Some may be small, for the kernel has no memory for all to be large.
        socket2::SockRef::from(stream).set_send_buffer_size(65536).unwrap();
    }
    while Instant::now() < patience {
        for mut stream in &streams {
            let _ = stream.write(&bytes); // Closed by the server in the end, perhaps.
        }
        thread::sleep(Duration::from_millis(20)); // Its own pace.
    }
    for stream in streams {
        if dice.below(2) == 0 {
            reset(stream);
        }
    }
    Ok(())
}

fn finish_first(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    let mut stream = field.connect(dice);
    // Few enough for the sockets on the way there, even if the server has no memory to spare: so all may be written
    // before the first byte is read.
    let data = pattern(1 + dice.below(60_000));
    sent(stream.write_all(&data))?;
    sent(stream.shutdown(Shutdown::Write))?;
    verify(field, &mut stream, &data)?;
    verify_end(&mut stream)
}

/// A byte now and then on each of many connections.
fn drip(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    let mut streams: Vec<TcpStream> = (0..300).map(|_| field.connect(dice)).collect();
    for _ in 0..=dice.below(5) {
        let byte = [u8::try_from(dice.below(256)).unwrap()];
        for stream in &mut streams {
            sent(stream.write_all(&byte))?;
        }
        for stream in &mut streams {
            verify(field, stream, &byte)?;
        }
        thread::sleep(dice.millis(100, 1000)); // The drip's own pace.
    }
    Ok(())
}

/// Sends as many bytes as the socket takes, for a while; then it finishes first.
fn hose(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    let mut stream = field.connect(dice);
    let end = Instant::now() + dice.millis(200, 1500);
    let message = pattern(256 * 1024);
    let rounds = AtomicU64::new(0);
    thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let (message, rounds) = (&message, &rounds);
        let sending = scope.spawn(move || {
            while Instant::now() < end {
                writer.write_all(message)?;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            writer.shutdown(Shutdown::Write)
        });
        let mut echo = vec![0; message.len()];
        let mut back = 0;
        let read = loop {
            match read_up_to(&mut stream, &mut echo) {
                Ok(0) => break Ok(()),
                Ok(count) if count == echo.len() && echo == *message => {
                    field.verified(count);
                    back += 1;
                }
                Ok(count) => break Err(format!("round {back} is wrong, or only {count} bytes long")),
                Err(error) => break Err(format!("round {back}: {error}")),
            }
        };
        if read.is_err() {
            let _ = stream.shutdown(Shutdown::Both); // Ends the writer as well.
        }
        let written = sending.join().unwrap();
        read.and_then(|()| sent(written))?;
        let rounds = rounds.load(Ordering::Relaxed);
        if rounds == back { Ok(()) } else { Err(format!("{back} rounds of {rounds} came back")) }
    })
}

/// Fills `buffer`, unless the stream ends before.
fn read_up_to(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Asks for the table, or stops the server for a moment.
#[expect(clippy::unnecessary_wraps, reason = "a deed as the others are")]
fn signal(field: &Field, dice: &mut Dice) -> Result<(), Fault> {
    thread::sleep(dice.millis(200, 1500)); // Now and then.
    if dice.below(2) == 0 {
        kill_process(field.server, Signal::USR1).unwrap();
    } else {
        kill_process(field.server, Signal::STOP).unwrap();
        thread::sleep(dice.millis(0, 200));
        kill_process(field.server, Signal::CONT).unwrap();
    }
    Ok(())
}

fn number_from(name: &str, parse: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(parse(&text).unwrap_or_else(|| panic!("{name}={text} is not understood")))
}

#[test]
#[ignore = "takes as long as MULTICONN_SOAK says, 30s if nothing"]
fn a_server_survives_everything_at_once() {
    let millis = |text: &str| Some(u64::try_from(multiconn::cli::duration(text).ok()?.as_millis()).unwrap());
    let time = Duration::from_millis(number_from("MULTICONN_SOAK", millis).unwrap_or(30_000));
    let seed = number_from("MULTICONN_SEED", |text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("MULTICONN_SOAK={}ms MULTICONN_SEED={seed}", time.as_millis());
    raise_limit().unwrap();

    let total = TOTAL_BUFFER.to_string();
    let mut command = Command::new(SERVER);
    command.args(["127.0.0.1", "0", "--total-buffer", &total, "--stall-timeout", "2s", "--idle-timeout", "1m"]);
    common::give_each_buffer_its_own_pages(&mut command);
    let mut server = Server::start_command(command);
    let (descriptors, base) = (descriptor_numbers(&server.program).len(), rss(&server.program));
    let field = Field {
        addr: server.addr,
        server: server.program.pid(),
        opened: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        faults: Mutex::new(Vec::new()),
        mood: Mutex::new(Mood { now: Order::Load, busy: 0 }),
        changed: Condvar::new(),
    };
    let begun = Instant::now();
    let (warm, most) = thread::scope(|scope| {
        for (number, (name, deed)) in PEERS.into_iter().enumerate() {
            let dice = Dice::new(seed.wrapping_add(number as u64 * 1_000_003));
            let field = &field;
            scope.spawn(move || field.repeat(name, dice, deed));
        }
        // The peers must end in any case: the scope waits for them.
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // The memory that stays is compared between two rests, for under load it is another at each moment.
            let mut most = watch(&field, &server, begun, begun + time / 4);
            field.order(Order::Rest);
            let warm = at_rest(&server, descriptors);
            field.order(Order::Load);
            most = most.max(watch(&field, &server, begun, begun + time));
            (warm, most)
        }));
        field.order(Order::End);
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let took = begun.elapsed().as_secs_f64();
    let left = at_rest(&server, descriptors);
    settle(&server.program);
    let (woken, used) = cost_of_rest(&server.program, Duration::from_secs(2));

    let (opened, verified) = (field.opened.load(Ordering::Relaxed), field.verified.load(Ordering::Relaxed));
    let faults = field.faults.into_inner().unwrap();
    let grown = left.saturating_sub(warm);
    figure(
        "soak",
        format_args!("{took:.0} s, {opened} connections, {verified} bytes verified, {} faults", faults.len()),
    );
    figure("most RSS under load", format_args!("{most} bytes, {base} before"));
    figure("RSS at rest", format_args!("{warm} bytes after a quarter of the time, {left} at the end"));
    figure("at rest after it", format_args!("{woken} wake-ups and {used:?} of CPU in 2 s"));
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(verified > 0);
    assert_eq!((woken, used), (0, Duration::ZERO));
    // 20 bytes leaked on each connection would show after 20 seconds, at some 3,000 connections a second.
    assert!(grown <= MIB, "{grown} bytes more than after a quarter of the time");
    server.program.signal(Signal::TERM);
    server.program.ends_with(0);
}

/// Prints lines of progress until `end`. Returns the most memory that the server held.
fn watch(field: &Field, server: &Server, begun: Instant, end: Instant) -> u64 {
    let every = Duration::from_secs(if std::io::stdout().is_terminal() { 1 } else { 10 });
    let base = rss(&server.program);
    let mut most = 0;
    let mut told = Instant::now();
    let mut used = exact_cpu(&server.program);
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(100)); // A look ten times a second.
        server.program.forget_lines();
        let held = rss(&server.program);
        most = most.max(held);
        // The promise: the total cap, and some KiB a connection. The rest is the read buffer and what the allocator keeps.
        let bound = base + TOTAL_BUFFER + 4096 * MOST_CONNECTIONS + 4 * MIB;
        assert!(held <= bound, "{held} bytes of memory");
        if told.elapsed() >= every || Instant::now() >= end {
            let cpu = exact_cpu(&server.program);
            let share = 100.0 * (cpu.checked_sub(used).unwrap()).as_secs_f64() / told.elapsed().as_secs_f64();
            println!(
                "{:4} s: {} connections opened, {} MB verified, {} faults; server: {} KiB, {} descriptors, {share:.0} % CPU",
                begun.elapsed().as_secs(),
                field.opened.load(Ordering::Relaxed),
                field.verified.load(Ordering::Relaxed) / 1_000_000,
                field.faults.lock().unwrap().len(),
                held / 1024,
                descriptor_numbers(&server.program).len(),
            );
            (told, used) = (Instant::now(), cpu);
        }
    }
    most
}

/// Waits until the server has no connection. Returns the memory that it holds then.
fn at_rest(server: &Server, descriptors: usize) -> u64 {
    server.until_connections(0);
    assert_eq!(descriptor_numbers(&server.program).len(), descriptors, "descriptors were left behind");
    assert_eq!(server.total("memory for buffers"), 0);
    rss(&server.program)
}
