//! The proxy example between plain blocking sockets: the far ends share no code with it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use socket2::SockRef;

use super::{PATIENCE, Server, client, pattern, proc};

/// What is sent and how long the reader waits before its first read: a message, more than one read brings, more than all
/// buffers on the way hold, and the same for a reader that lets them fill up.
pub const TABLE: [(usize, Duration); 4] = [
    (22, Duration::ZERO),
    (100_000, Duration::ZERO),
    (4_000_000, Duration::ZERO),
    (4_000_000, Duration::from_millis(800)),
];

/// A sender that has had no room for this long is blocked. Too short a time would only make the test easier.
const STILL: Duration = Duration::from_millis(300);

/// When a far end sends back what it reads.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    AsItComes,
    AfterTheEnd,
}

/// The two ends of a forwarded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Backend,
}

pub const ENDS: [End; 2] = [End::Client, End::Backend];

/// How a far end saw the connection end.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    Fin,
    Reset,
}

/// A proxy whose backend is the test.
pub struct Proxy {
    pub server: Server,
    pub backend: TcpListener,
}

impl Proxy {
    /// `command` is the proxy's, without its arguments.
    pub fn start(command: Command) -> Proxy {
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = start_proxy(command, backend.local_addr().unwrap());
        Proxy { server, backend }
    }

    /// A forwarded connection: its client's and its backend's end.
    #[track_caller]
    pub fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.server.connect();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        (client, self.accept())
    }

    /// The same, the given end first.
    #[track_caller]
    pub fn pair_from(&self, first: End) -> (TcpStream, TcpStream) {
        let (client, backend) = self.pair();
        match first {
            End::Client => (client, backend),
            End::Backend => (backend, client),
        }
    }

    /// The backend's end of the next connection.
    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        let event = wait_for(&self.backend, PollFlags::IN, PATIENCE);
        assert!(!event.is_empty(), "the proxy does not connect: {:#?}", self.server.program.lines());
        let (stream, _) = self.backend.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub fn descriptors(&self) -> usize {
        proc::descriptor_numbers(&self.server.program).len()
    }

    /// Waits until the proxy holds this number of descriptors.
    #[track_caller]
    pub fn until_descriptors(&self, count: usize) {
        let begun = Instant::now();
        while self.descriptors() != count {
            let lines = self.server.program.lines();
            assert!(begun.elapsed() < PATIENCE, "{} descriptors, not {count}: {lines:#?}", self.descriptors());
            thread::yield_now();
        }
    }
}

/// The proxy before this backend.
#[track_caller]
pub fn start_proxy(mut command: Command, backend: SocketAddr) -> Server {
    command.args(["127.0.0.1", "0", &backend.ip().to_string(), &backend.port().to_string()]);
    Server::start_command(command)
}

/// Sends `length` bytes and the FIN at once, begins to read after `pause`, and expects the same bytes and an orderly end.
#[track_caller]
pub fn finish_first(stream: &TcpStream, length: usize, pause: Duration) {
    let sent = pattern(length);
    stream.set_write_timeout(Some(PATIENCE)).unwrap(); // The writer ends even if the reader fails.
    let (received, ending) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        thread::sleep(pause); // The reader's pause, which is what the case is about.
        read_to_end(stream)
    });
    assert_eq!((received.len(), ending), (length, Ending::Fin));
    assert!(received == sent, "what came back is not what was sent");
}

/// Sends back everything that it reads, and then closes.
pub fn answer(mut stream: TcpStream, when: Answer) {
    match when {
        Answer::AsItComes => {
            let mut buffer = vec![0; 65536];
            loop {
                let count = stream.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                stream.write_all(&buffer[..count]).unwrap();
            }
        }
        Answer::AfterTheEnd => {
            let (received, ending) = read_to_end(&stream);
            assert_eq!(ending, Ending::Fin);
            stream.write_all(&received).unwrap();
        }
    }
}

/// The half-close table between two plain ends, one of which finishes first.
pub fn half_closes(proxy: &Proxy, first: End, when: Answer) {
    let descriptors = proxy.descriptors();
    for (length, pause) in TABLE {
        println!("{length} bytes, {pause:?}, {first:?} first, answered {when:?}");
        let (first, second) = proxy.pair_from(first);
        let answering = thread::spawn(move || answer(second, when));
        finish_first(&first, length, pause);
        answering.join().unwrap();
        drop(first);
        proxy.until_descriptors(descriptors);
    }
}

/// The half-close table before a server that serves each connection at once.
pub fn half_closes_before_a_server(proxy: &Server) {
    for (length, pause) in TABLE {
        println!("{length} bytes, {pause:?}");
        finish_first(&proxy.connect(), length, pause);
    }
}

/// Our client with 200 connections through the proxy to an echo, with messages of each of four sizes.
#[track_caller]
pub fn two_hundred_are_intact(proxy: &Server) {
    for size in [1, 64, 1500, 65536] {
        let run = client(proxy.addr, 200, &["--size", &size.to_string(), "--messages", "5", "--json", "-q"]);
        assert_eq!(run.code, Some(0), "{size}: {run:?}");
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(report["connections"]["intact"], 200, "{size}: {report}");
        assert_eq!(report["bytes"]["echoed"], 200 * 5 * size, "{size}: {report}");
    }
}

/// Reads until the peer ends. Returns what came and how it ended.
#[track_caller]
pub fn read_to_end(mut stream: &TcpStream) -> (Vec<u8>, Ending) {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => (received, Ending::Fin),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (received, Ending::Reset),
        Err(error) => panic!("after {} bytes: {error}", received.len()),
    }
}

/// Waits for one of these events, or an error. Returns those that came in time.
pub fn wait_for(socket: &impl AsFd, events: PollFlags, limit: Duration) -> PollFlags {
    let mut sockets = [PollFd::new(socket, events)];
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut sockets, Some(&limit)).unwrap();
    sockets[0].revents()
}

/// Waits for a reset without reading: what was sent before it may never be read.
#[track_caller]
pub fn until_reset(stream: &TcpStream) {
    let events = wait_for(stream, PollFlags::empty(), PATIENCE);
    assert!(events.contains(PollFlags::ERR), "no reset came, but {events:?}");
    let error = SockRef::from(stream).take_error().unwrap().map(|error| error.kind());
    // After the peer's FIN the kernel calls its reset a broken pipe.
    assert!(matches!(error, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{error:?}");
}

/// More than all buffers on a way hold.
pub fn plenty() -> &'static [u8] {
    static PLENTY: OnceLock<Vec<u8>> = OnceLock::new();
    PLENTY.get_or_init(|| pattern(32 * 1024 * 1024))
}

/// Writes the beginning of [`plenty`] until the way is full. Returns how many bytes it took.
#[track_caller]
pub fn fill(mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut taken = 0;
    while !wait_for(stream, PollFlags::OUT, STILL).is_empty() {
        assert!(taken < plenty().len(), "nothing stops the sender");
        match stream.write(&plenty()[taken..]) {
            Ok(count) => taken += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error} after {taken} bytes"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    taken
}

/// Fills the way between two ends from the first to the second with little in the kernel's buffers there.
#[track_caller]
pub fn fill_between(from: &TcpStream, to: &TcpStream) -> usize {
    SockRef::from(from).set_send_buffer_size(65536).unwrap();
    SockRef::from(to).set_recv_buffer_size(65536).unwrap();
    fill(from)
}

/// Waits until this number of connects to `addr` is under way.
#[track_caller]
pub fn until_connecting(addr: SocketAddr, count: usize) {
    let begun = Instant::now();
    while sockets(SYN_SENT, REMOTE, addr) != count {
        assert!(begun.elapsed() < PATIENCE, "{} connects, not {count}", sockets(SYN_SENT, REMOTE, addr));
        thread::yield_now();
    }
}

/// Waits until nobody listens at `addr`, which is how a drain begins.
#[track_caller]
pub fn until_closed(addr: SocketAddr) {
    let begun = Instant::now();
    while sockets(LISTEN, LOCAL, addr) > 0 {
        assert!(begun.elapsed() < PATIENCE, "it still listens");
        thread::yield_now();
    }
}

// The states of sockets in /proc/net/tcp, and the fields of a line that have the two addresses.
const SYN_SENT: &str = "02";
const LISTEN: &str = "0A";
const LOCAL: usize = 1;
const REMOTE: usize = 2;

/// How many sockets are in this state and have the port of `addr` in this field.
fn sockets(state: &str, field: usize, addr: SocketAddr) -> usize {
    let port = format!(":{:04X}", addr.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields[3] == state && fields[field].ends_with(&port)).count()
}
