//! Running the programs from a test: start, watch what they print, signal, measure, end.
#![allow(dead_code, reason = "every test file uses another part of it")]

pub mod dice;
#[cfg(target_os = "linux")]
pub mod pairs;
pub mod relay;
#[cfg(feature = "cli")]
pub mod schema;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// How long anything that must happen may take. Only a failing test waits until it is over.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const SERVER: &str = env!("CARGO_BIN_EXE_multiconn-server");
pub const CLIENT: &str = env!("CARGO_BIN_EXE_multiconn-client");
pub const PROBE: &str = env!("CARGO_BIN_EXE_multiconn-probe");

/// An example, which `cargo test` builds beside the tests.
pub fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    Command::new(path)
}

/// Builds what the tests of one file are not built with. Returns the file.
pub fn built(kind: &str, name: &str) -> std::path::PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--locked", "--quiet", kind, name, "--message-format", "json"]);
    let output = build.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let messages = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let artifact = messages.into_iter().find(|message| message["target"]["name"] == name).unwrap();
    artifact["filenames"][0].as_str().unwrap().into()
}

/// A running program whose standard error is collected line by line.
pub struct Program {
    pub child: Child,
    log: Arc<Log>,
    collector: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Program {
    pub fn start(mut command: Command) -> Program {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let collected = Arc::clone(&log);
        let collector = std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                collected.lines.lock().unwrap().push(String::from_utf8(line).expect("the log is text"));
                collected.changed.notify_all();
            }
        });
        Program { child, log, collector: Some(collector) }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Forgets the lines so far, whose number grows for as long as a program runs.
    pub fn forget_lines(&self) {
        self.log.lines.lock().unwrap().clear();
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }

    /// Waits for the program to end with this exit code. Returns everything that it printed.
    #[track_caller]
    pub fn all_lines(&mut self, code: i32) -> Vec<String> {
        self.ends_with(code);
        if let Some(collector) = self.collector.take() {
            collector.join().unwrap(); // What was printed last may not have been read yet.
        }
        self.lines()
    }

    pub fn count(&self, part: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(part)).count()
    }

    /// How many lines with this beginning were printed or, as the log counts them, left out.
    pub fn accounted_for(&self, opening: &str) -> usize {
        let left_out = format!(" more lines \"{opening} …\" left out");
        self.lines()
            .iter()
            .map(|line| match line.strip_suffix(&left_out) {
                Some(count) => count.trim_start_matches("warning: ").parse().unwrap(),
                None => usize::from(line.starts_with(opening)),
            })
            .sum()
    }

    /// Waits for a line with `part` in it, from line `first` on. Returns its index and text.
    #[track_caller]
    pub fn line_from(&self, first: usize, part: &str) -> (usize, String) {
        let begun = Instant::now();
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            let found = lines.iter().enumerate().skip(first).find(|(_, line)| line.contains(part));
            if let Some((index, line)) = found {
                return (index, line.clone());
            }
            let left = PATIENCE.checked_sub(begun.elapsed());
            let Some(left) = left else { panic!("no line with {part:?} in {lines:#?}") };
            lines = self.log.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    #[track_caller]
    pub fn line(&self, part: &str) -> String {
        self.line_from(0, part).1
    }

    /// Waits for the program to end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(PATIENCE)
    }

    #[track_caller]
    pub fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < limit, "the program does not end: {:#?}", self.lines());
            std::thread::sleep(Duration::from_millis(1)); // std cannot wait for a child with a time limit.
        }
    }

    #[track_caller]
    pub fn ends_with(&mut self, code: i32) {
        let status = self.wait();
        assert_eq!(status.code(), Some(code), "{status}: {:#?}", self.lines());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server on a port of its own.
pub struct Server {
    pub program: Program,
    pub addr: SocketAddr,
}

impl Server {
    #[track_caller]
    pub fn start(args: &[&str]) -> Server {
        Server::start_on("127.0.0.1", args)
    }

    #[track_caller]
    pub fn start_on(host: &str, args: &[&str]) -> Server {
        let mut command = Command::new(SERVER);
        command.args([host, "0"]).args(args);
        Server::start_command(command)
    }

    /// A server with this limit of descriptors.
    pub fn start_with_descriptors(limit: u32, args: &[&str]) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), SERVER, "127.0.0.1", "0"]).args(args);
        Server::start_command(command)
    }

    #[track_caller]
    pub fn start_command(mut command: Command) -> Server {
        command.stdout(Stdio::null()).env_remove("RUST_LOG");
        let program = Program::start(command);
        let line = program.line("Listening on ");
        let addr = line.split(' ').nth(2).unwrap().parse().unwrap(); // The listener's name may follow.
        Server { program, addr }
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.addr)
    }

    /// Asks for the table of connections. Returns its lines.
    #[track_caller]
    pub fn table(&self) -> Vec<String> {
        let before = self.program.lines().len();
        self.program.signal(Signal::USR1);
        let (waiting, _) = self.program.line_from(before, "bytes waiting:");
        let (end, _) = self.program.line_from(waiting, "turns ");
        let lines = self.program.lines();
        let first = lines[..waiting].iter().rposition(|line| !line.starts_with(' ')).unwrap();
        let connections: usize = lines[first].split(' ').next().unwrap().parse().unwrap();
        // The table is complete when its count of rows is there, but for a second line that the last one may have.
        let begun = Instant::now();
        while Server::rows(&self.program.lines()[end..]).len() < connections.min(50) {
            assert!(begun.elapsed() < PATIENCE, "{:#?}", self.program.lines());
            std::thread::yield_now();
        }
        self.program.lines()[first..].to_vec()
    }

    /// The rows of a table, those with most waiting first; what has no room in a row's line is left out.
    pub fn rows(table: &[String]) -> Vec<&String> {
        let below = table.iter().skip_while(|line| !line.starts_with("state ")).skip(1);
        below.filter(|line| !line.starts_with(' ')).collect()
    }

    /// The number behind `name` in the table's totals.
    #[track_caller]
    pub fn total(&self, name: &str) -> u64 {
        let totals = self.table().join(" ");
        let rest = &totals[totals.find(name).expect(name) + name.len()..];
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    /// How many connections the table counts.
    #[track_caller]
    pub fn connections(&self) -> usize {
        self.table()[0].split(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until the table counts this number of connections.
    #[track_caller]
    pub fn until_connections(&self, count: usize) {
        let begun = Instant::now();
        while self.connections() != count {
            assert!(begun.elapsed() < PATIENCE, "not {count}: {:#?}", self.table());
        }
    }

    /// Waits until the table has a line with `part` in it.
    #[track_caller]
    pub fn until_table_has(&self, part: &str) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let table = self.table();
            if table.iter().any(|line| line.contains(part)) {
                return table;
            }
            assert!(begun.elapsed() < PATIENCE, "no {part:?} in {table:#?}");
        }
    }
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends `message` and expects it back.
#[track_caller]
pub fn ping(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap();
    expect(stream, message);
}

/// Makes the RSS of a program show what it holds. glibc gives its heap back from the end only: one small block there, even one
/// that it keeps for the next allocation, hides that megabytes before it were freed, and a leak could hide among them. So
/// each large block gets pages of its own, which go back when it is freed.
pub fn give_each_buffer_its_own_pages(command: &mut Command) {
    command.env("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=4096");
}

#[track_caller]
pub fn expect(stream: &mut TcpStream, message: &[u8]) {
    let mut echo = vec![0; message.len()];
    stream.read_exact(&mut echo).unwrap();
    assert!(echo == message, "what came back is not what was sent");
}

/// Expects the peer's FIN, and nothing before it.
#[track_caller]
pub fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"", "more than was sent");
}

/// Connects from an address of this host's own choosing. Each has its own ports, so that a test may open more connections
/// than there are ports, most of them waiting out their end.
pub fn connect_from(source: Ipv4Addr, addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&addr.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Writes, on another thread, for as long as the server takes bytes, and reads nothing.
pub fn flood(stream: &TcpStream) {
    let mut stream = stream.try_clone().unwrap();
    std::thread::spawn(move || while stream.write_all(&vec![b'x'; 65536]).is_ok() {});
}

/// Closes with RST in place of FIN.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Run {
    let output = command.env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a program to its end, which has to come within `limit`.
#[track_caller]
pub fn run_within(limit: Duration, command: &mut Command) -> Run {
    let mut child = command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (done, both_read) = std::sync::mpsc::channel();
    let read = |mut stream: Box<dyn Read + Send>| {
        let done = done.clone();
        std::thread::spawn(move || {
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let _ = done.send(());
            text
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let begun = Instant::now();
    let in_time = (0..2).all(|_| both_read.recv_timeout(limit.saturating_sub(begun.elapsed())).is_ok());
    if !in_time {
        child.kill().unwrap();
    }
    let code = child.wait().unwrap().code();
    let run = Run { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    assert!(in_time, "not done after {limit:?}: {run:#?}");
    run
}

/// A measured figure, for `docs/reliability.md`.
pub fn figure(what: &str, value: impl std::fmt::Display) {
    println!("figure: {what}: {value}");
}

/// Prints that a test does not run because something is missing. Where everything must run, that is a failure.
#[track_caller]
pub fn skipped(needs: &str) {
    assert!(std::env::var_os("MULTICONN_LAB_REQUIRED").is_none(), "this test may not be skipped: it needs {needs}");
    println!("SKIPPED: needs {needs}");
}

/// Whether these programs are there to be run; if not, says that the test is skipped.
#[track_caller]
pub fn have(programs: &[&str]) -> bool {
    let found = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).exists())
    };
    match programs.iter().find(|program| !found(program)) {
        Some(missing) => skipped(missing),
        None => return true,
    }
    false
}

/// Runs the client against `addr`.
pub fn client(addr: SocketAddr, connections: u32, args: &[&str]) -> Run {
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    run(Command::new(CLIENT).args([&host, &port, &connections.to_string()]).args(args))
}

/// Runs the client. Returns its exit code and its JSON report, which has the documented shape.
#[cfg(feature = "cli")]
#[track_caller]
pub fn report(addr: SocketAddr, connections: u32, args: &[&str]) -> (Option<i32>, serde_json::Value) {
    let run = client(addr, connections, &[&["-q", "--json"], args].concat());
    let report = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    schema::check_against("report.schema.json", &report);
    (run.code, report)
}

/// A server that does `serve` with the number of each connection, counted from 1, on a thread for each.
pub fn serving(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in (1..).zip(listener.incoming().map_while(Result::ok)) {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(number, stream));
        }
    });
    addr
}

/// Sends back what comes, up to the peer's FIN or an error.
pub fn echo(mut stream: &TcpStream) {
    let _ = std::io::copy(&mut &*stream, &mut stream);
}

/// Bytes that differ from place to place, so that a byte lost or doubled shows.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 8) ^ (index >> 16)).to_le_bytes()[0]).collect()
}

#[cfg(target_os = "linux")]
pub mod proc {
    use super::{PATIENCE, Program};
    use std::net::SocketAddr;
    use std::process::Child;
    use std::time::{Duration, Instant};

    use rustix::process::Signal;

    /// CPU time that a process has used since it had used `before`, in steps of 10 ms.
    pub fn cpu_since(program: &Program, before: Duration) -> Duration {
        cpu(program).checked_sub(before).unwrap()
    }

    /// CPU time that a process has used, in steps of 10 ms.
    pub fn cpu(program: &Program) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.child.id())).unwrap();
        // utime and stime are the 14th and 15th fields of proc(5); the second may have spaces in it, in parentheses.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// The numbers of its open descriptors.
    pub fn descriptor_numbers(program: &Program) -> Vec<u64> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", program.child.id())).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    }

    /// Waits until a process listens. Returns the address, for programs that do not print it.
    pub fn listening_addr(child: &Child) -> SocketAddr {
        let begun = Instant::now();
        loop {
            let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", child.id()))
                .into_iter()
                .flatten()
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
                .collect();
            // Local address, state (0A: LISTEN) and inode are the 2nd, 4th and 10th field of a line.
            for line in std::fs::read_to_string("/proc/net/tcp").unwrap().lines() {
                let fields: Vec<&str> = line.split_whitespace().collect();
                if fields[3] == "0A" && sockets.contains(&format!("socket:[{}]", fields[9])) {
                    let port = u16::from_str_radix(fields[1].split_once(':').unwrap().1, 16).unwrap();
                    return SocketAddr::from(([127, 0, 0, 1], port));
                }
            }
            assert!(begun.elapsed() < PATIENCE, "it does not listen");
            std::thread::yield_now();
        }
    }

    /// Stops a program, and waits until it stands still.
    pub fn stop(program: &Program) {
        program.signal(Signal::STOP);
        let begun = Instant::now();
        let stat = format!("/proc/{}/stat", program.child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(begun.elapsed() < PATIENCE, "it does not stop");
            std::thread::yield_now();
        }
    }

    /// Threads.
    pub fn threads(program: &Program) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", program.child.id())).unwrap().count()
    }

    /// Resident memory in bytes.
    pub fn rss(program: &Program) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", program.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Memory of its own in bytes: no pages of the program file, which come and go with the code that runs. Exact, where
    /// the kernel lets `rss` lag by some pages a core.
    pub fn private_memory(program: &Program) -> u64 {
        field(program, "smaps_rollup", "Anonymous:") * 1024
    }

    /// How often it went to sleep, and so woke up.
    pub fn wake_ups(program: &Program) -> u64 {
        field(program, "status", "voluntary_ctxt_switches:")
    }

    fn field(program: &Program, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", program.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// CPU time that its one thread has used, to the nanosecond.
    pub fn exact_cpu(program: &Program) -> Duration {
        let schedstat = std::fs::read_to_string(format!("/proc/{}/schedstat", program.child.id())).unwrap();
        Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until it has not woken up for longer than a second: the log's last line, which counts what was left out, may
    /// come a second late.
    #[track_caller]
    pub fn settle(program: &Program) {
        let begun = Instant::now();
        let (mut seen, mut since) = (wake_ups(program), begun);
        while since.elapsed() < Duration::from_millis(1200) {
            assert!(begun.elapsed() < PATIENCE, "it does not come to rest: {:#?}", program.lines());
            std::thread::sleep(Duration::from_millis(20)); // No event says that a process does nothing.
            let now = wake_ups(program);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    }

    /// The wake-ups and the CPU time of a process that is left alone for `time`.
    pub fn cost_of_rest(program: &Program, time: Duration) -> (u64, Duration) {
        let (woken, used) = (wake_ups(program), exact_cpu(program));
        std::thread::sleep(time); // The measured time.
        (wake_ups(program) - woken, exact_cpu(program).checked_sub(used).unwrap())
    }
}
