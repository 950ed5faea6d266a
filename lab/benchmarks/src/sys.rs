//! The system calls of the bench and of its floor.
//!
//! Owns all of the bench's `unsafe`: each function here is one call, or the few that always go together. Decides nothing
//! about load or servers.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// How many connections may wait to be accepted, at every peer.
pub const BACKLOG: c_int = 4096;

/// The result of a call that says -1 for an error.
fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for a call that counts bytes.
fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Binds the calling thread, and whatever it starts, to one core.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is an array of integers, for which zero is a value.
    let mut cores: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set is valid and the macro ignores a core beyond its end.
    unsafe { libc::CPU_SET(core, &mut cores) };
    // SAFETY: the pointer and the size are those of a live cpu_set_t; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores) })?;
    Ok(())
}

/// Raises the limit of open files as far as it may be raised. Returns how far that is.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// The time that a process has spent on a core, all its threads together, up to this moment.
///
/// The process's CPU clock is read and not `/proc/PID/stat`, whose ticks are 10 ms, nor `schedstat`, which lags behind
/// by as much as a tick while the process runs.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock = 0;
    // SAFETY: the pointer is to a live clockid_t.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => read_clock(clock),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The time that the calling thread has spent on a core.
pub fn own_cpu_time() -> io::Result<Duration> {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The time that all children have spent on a core that have ended and were waited for.
pub fn children_cpu_time() -> io::Result<Duration> {
    // SAFETY: an rusage is integers alone, for which zero is a value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live rusage.
    check(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) })?;
    [usage.ru_utime, usage.ru_stime]
        .into_iter()
        .map(|time| {
            let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
            let micros = u32::try_from(time.tv_usec).map_err(io::Error::other)?;
            Ok(Duration::new(seconds, micros * 1000))
        })
        .sum()
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanos = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanos))
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill touches no memory of ours.
    check(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// What an event is about, in the words of epoll(7).
pub use libc::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, epoll_event as Event};

/// An event with nothing in it: room for one.
pub const NO_EVENT: Event = Event { events: 0, u64: 0 };

/// Whether an event is about any of `flags`.
#[must_use]
pub fn is(event: Event, flags: c_int) -> bool {
    event.events & flags.cast_unsigned() != 0
}

/// One epoll instance; everything in it is edge-triggered.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// An empty one.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: the call takes no pointer, and the descriptor it returns is nobody else's.
        unsafe { Ok(Epoll { fd: OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) }) }
    }

    /// Watches a descriptor, for both directions and for good. `key` comes back with its events.
    pub fn add(&self, fd: RawFd, key: u64) -> io::Result<()> {
        let flags = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = Event { events: flags.cast_unsigned(), u64: key };
        // SAFETY: the pointer is to a live event, which the kernel copies.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits for events, at most `timeout` milliseconds; -1 waits for ever, 0 not at all.
    pub fn wait(&self, events: &mut [Event], timeout: c_int) -> io::Result<usize> {
        let room = c_int::try_from(events.len()).unwrap_or(c_int::MAX);
        // SAFETY: the kernel writes at most `room` events, and there is room for as many.
        match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), room, timeout) }) {
            Ok(count) => usize::try_from(count).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// recv(2).
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most as many bytes as the buffer has.
    check_size(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

/// send(2); a peer that is gone is an error and no signal.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads as many bytes as there are.
    check_size(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// Sends until the socket takes no more. Returns how much it took.
pub fn send_what_fits(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send(socket.as_fd(), &bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Sends FIN: the end of what is sent.
pub fn shut_down(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) })?;
    Ok(())
}

/// A listener on 127.0.0.1, non-blocking. What it accepts inherits `TCP_NODELAY`.
pub fn listen(port: u16) -> io::Result<OwnedFd> {
    let socket = new_socket(libc::SOCK_NONBLOCK)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
    bind(&socket, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    // SAFETY: no pointer is passed.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

/// Accepts one connection, non-blocking.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: accept4 may be told that the address is not wanted, and the descriptor it returns is nobody else's.
    unsafe {
        let fd = check(libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Connects from `source` to 127.0.0.1, waiting until it stands; the socket is non-blocking after that.
pub fn connect(source: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let socket = outgoing_socket(Some(source), 0)?;
    connect_to(&socket, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    // SAFETY: no pointer is passed; the flags of a fresh socket are the access mode alone.
    check(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) })?;
    Ok(socket)
}

/// Begins to connect, from `source` or from any address, without waiting.
pub fn begin_connect(source: Option<Ipv4Addr>, server: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = outgoing_socket(source, libc::SOCK_NONBLOCK)?;
    match connect_to(&socket, server) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Lets closing send RST and leave nothing behind: thousands of connections in `TIME_WAIT` would burden the next peer.
pub fn reset_when_closed(socket: &OwnedFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set(socket, libc::SOL_SOCKET, libc::SO_LINGER, linger)
}

fn new_socket(flags: c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: no pointer is passed, and the descriptor it returns is nobody else's.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0))?)) }
}

/// A socket whose local address may be chosen and whose port is not before the connect: so the ports of one address are
/// enough for each destination and not for all together.
fn outgoing_socket(source: Option<Ipv4Addr>, flags: c_int) -> io::Result<OwnedFd> {
    let socket = new_socket(flags)?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if let Some(source) = source {
        set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        bind(&socket, SocketAddrV4::new(source, 0))?;
    }
    Ok(socket)
}

fn set<T: Copy>(socket: &OwnedFd, level: c_int, option: c_int, value: T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the size are those of a live value; the kernel checks that the size fits the option.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) })?;
    Ok(())
}

fn bind(socket: &OwnedFd, addr: SocketAddrV4) -> io::Result<()> {
    let (addr, size) = raw(addr)?;
    // SAFETY: the pointer and the size are those of a live sockaddr_in.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), size) })?;
    Ok(())
}

fn connect_to(socket: &OwnedFd, server: SocketAddrV4) -> io::Result<()> {
    let (addr, size) = raw(server)?;
    // SAFETY: the pointer and the size are those of a live sockaddr_in.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const addr).cast(), size) })?;
    Ok(())
}

/// An address as the kernel wants it.
fn raw(addr: SocketAddrV4) -> io::Result<(libc::sockaddr_in, libc::socklen_t)> {
    let raw = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).map_err(io::Error::other)?,
        sin_port: addr.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
        sin_zero: [0; 8],
    };
    Ok((raw, libc::socklen_t::try_from(size_of_val(&raw)).map_err(io::Error::other)?))
}
