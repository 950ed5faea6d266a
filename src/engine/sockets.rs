//! Sockets: names to addresses, listeners, connects, and what their errors mean.
//!
//! Owns every socket option that the product sets, and the meaning of errors of accept(2) and connect(2). Keeps no
//! socket and never waits, except in [`resolve`] and [`listen`], where the system's resolver may.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tcp_state::TcpState;

use crate::engine::connection::{Transport, Unacknowledged};

/// How a listener is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// How many connections may wait to be accepted. The kernel clips the number (listen(2): `net.core.somaxconn`).
    ///
    /// A connect that finds the backlog full is not refused but dropped, and the client's kernel tries again after a
    /// whole second. So the backlog has to hold the largest burst that is expected.
    pub backlog: u32,
    /// Lets several processes listen on the same port; the kernel shares the connections out (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

impl Default for ListenOptions {
    /// A backlog of 4,096 and a port of its own.
    fn default() -> ListenOptions {
        ListenOptions { backlog: 4096, reuse_port: false }
    }
}

/// All addresses of `host`: an IPv4 address, an IPv6 address with or without brackets, or a name.
///
/// An IPv4 address that is mapped into IPv6 (`::ffff:127.0.0.1`) is the IPv4 address: it names the same host, and an
/// IPv6 socket takes it only if it is not for IPv6 alone.
///
/// The list is never empty. Blocks while the system resolves a name.
///
/// # Errors
/// The name is unknown or has no address.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in (without_brackets(host).unwrap_or(host), port).to_socket_addrs()? {
        let addr = canonical(addr);
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addrs)
}

/// What stands in the brackets, if `host` is in brackets.
pub(crate) fn without_brackets(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

/// The IPv4 address that is mapped into an IPv6 one; any other address unchanged.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
        IpAddr::V6(_) => addr, // With its scope, which says on which link it is.
    }
}

/// Listens on `host` and `port`, non-blocking; port 0 takes a free one.
///
/// An empty `host` means all interfaces: one socket for IPv6 and IPv4 where there is IPv6, else IPv4 alone. `::` is
/// taken the same way, whatever `net.ipv6.bindv6only` says, and `0.0.0.0` is IPv4 alone. Of a name with several
/// addresses, the first that can be bound is used.
///
/// mio's own `TcpListener::bind` fixes the backlog at 128 on some systems, hence socket2. Blocks while the system
/// resolves a name.
///
/// # Errors
/// The name is unknown, or no address can be bound: [`listen_advice`] says what to do.
pub fn listen(host: &str, port: u16, options: ListenOptions) -> io::Result<TcpListener> {
    let addrs = if host.is_empty() {
        vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]
    } else {
        resolve(host, port)?
    };
    let mut result = Err(io::Error::from(ErrorKind::AddrNotAvailable));
    for addr in addrs {
        result = listen_on(addr, options);
        // The next address is tried only if this host does not have this one. A port that is taken is reported.
        match &result {
            Err(error) if is_foreign_address(error) => {}
            _ => break,
        }
    }
    result
}

fn is_foreign_address(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
        || error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error())
}

fn listen_on(addr: SocketAddr, options: ListenOptions) -> io::Result<TcpListener> {
    let socket = new_socket(addr)?;
    if addr.is_ipv6() {
        socket.set_only_v6(addr.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    // Connections of an earlier run that are in TIME_WAIT do not keep the next run from the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    // On Linux an accepted socket inherits these, which makes accepting two system calls and not five.
    set_stream_options(&SockRef::from(&socket))?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Begins to connect to `addr`, non-blocking, from the local address `source` if there is one.
///
/// Whether the connect succeeded is found out later ([`Transport::finish_connect`]), once the socket is writable.
///
/// # Errors
/// Those that need no answer from the network: no route, no free local port (`EADDRNOTAVAIL`), no descriptor.
pub fn connect(source: Option<IpAddr>, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(addr)?;
    set_stream_options(&SockRef::from(&socket))?;
    if let Some(source) = source {
        bind_late(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// A non-blocking TCP socket that is closed on exec.
fn new_socket(addr: SocketAddr) -> io::Result<Socket> {
    // On Linux, socket(2) makes it so: two system calls fewer.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Lets the connect choose the port, and not the bind. Otherwise bind(2) has to find a port that is free for any
/// destination, and there are at most some 28,000 connections from one address; with the option, there are as many to
/// each destination (ip(7), `IP_BIND_ADDRESS_NO_PORT`). socket2 and rustix do not have the option.
#[cfg(target_os = "linux")]
fn bind_late(socket: &Socket) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
    Ok(setsockopt(socket, IpBindAddressNoPort, &true)?)
}

#[cfg(not(target_os = "linux"))]
fn bind_late(_: &Socket) -> io::Result<()> {
    Ok(())
}

fn set_stream_options(socket: &SockRef<'_>) -> io::Result<()> {
    // The kernel sends a small answer without waiting until the last one is acknowledged.
    socket.set_tcp_nodelay(true)?;
    // An urgent byte stays in its place in the stream, and is echoed like any other.
    socket.set_out_of_band_inline(true)?;
    // The kernel finds out a peer that vanished.
    socket.set_keepalive(true)
}

/// Sends a keepalive probe whenever nothing has moved for `every`, in place of the system's two hours (tcp(7),
/// `TCP_KEEPIDLE` and `TCP_KEEPINTVL`). Best effort: a system without these options keeps its own times.
pub fn keep_alive(stream: &TcpStream, every: Duration) {
    let times = TcpKeepalive::new().with_time(every).with_interval(every);
    let _ = SockRef::from(stream).set_tcp_keepalive(&times);
}

/// Sends a byte as urgent (send(2), `MSG_OOB`). Best effort: a full or failed socket does not take it.
pub fn send_urgent(stream: &TcpStream, byte: [u8; 1]) {
    let _ = SockRef::from(stream).send_out_of_band(&byte);
}

/// Accepts the peer at the front of the backlog, non-blocking.
///
/// # Errors
/// [`AcceptError`] says what they mean.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, addr) = listener.accept()?;
    // On Linux the options are inherited from the listener. If a socket takes none, its peer is gone.
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        set_stream_options(&SockRef::from(&stream)).map_err(|_| io::Error::from(Errno::CONNABORTED))?;
    }
    Ok((stream, canonical(addr)))
}

impl Transport for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        // A socket that has a peer is connected; what happens to it later, a read will find. One system call fewer than
        // looking for an error first.
        match self.peer_addr() {
            // For a connect to an unused port of this host, the kernel may choose the same port for our end. Then TCP's
            // simultaneous open joins the socket to itself. There is no server, which is what "refused" means.
            Ok(peer) if self.local_addr()? == peer => Err(Errno::CONNREFUSED.into()),
            Ok(_) => Ok(true),
            Err(error) => match TcpStream::take_error(self)? {
                Some(why) => Err(why),
                None if error.kind() == ErrorKind::NotConnected
                    || error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) =>
                {
                    Ok(false)
                }
                None => Err(error),
            },
        }
    }

    fn reset_on_close(&mut self) {
        // It fails for no open socket, and at the worst the peer sees an end in order.
        let _ = SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }

    fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        TcpStream::take_error(self)
    }

    fn unacknowledged(&self) -> Option<Unacknowledged> {
        let bytes = tcp_state::unacknowledged(self.as_fd()).ok()?;
        let last_acknowledgement = self.tcp_state()?.since_acknowledgement;
        Some(Unacknowledged { bytes, last_acknowledgement })
    }

    fn tcp_state(&self) -> Option<TcpState> {
        tcp_state::look(self.as_fd()).ok()
    }
}

/// Checks that connections can come from this address of this host.
///
/// # Errors
/// The address cannot be bound.
pub fn check_source(source: IpAddr) -> io::Result<()> {
    let addr = SocketAddr::new(source, 0);
    new_socket(addr)?.bind(&addr.into())
}

/// How many local ports the system has for connections to one destination; `None` if it does not say.
#[must_use]
pub fn ephemeral_ports() -> Option<u32> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (last + 1).checked_sub(first)
}

/// How long Linux keeps a connection in `TIME_WAIT`. It is fixed (`TCP_TIMEWAIT_LEN`); `net.ipv4.tcp_fin_timeout` is for other
/// states.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// How long a local port is taken behind a connection to `addr` that this end closed first; `None` if the system does not
/// say. The port is in `TIME_WAIT` then. A new connection may have it earlier if `net.ipv4.tcp_tw_reuse` is 1, or if that is
/// 2 (the default) and the peer is on the loopback. It needs timestamps, which tell the new connection from the old one, and
/// waits for `net.ipv4.tcp_tw_reuse_delay` milliseconds; before Linux 6.14, for a second.
#[must_use]
pub fn time_wait(addr: SocketAddr) -> Option<Duration> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let setting = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?.trim().parse().ok()
    };
    let stamped = setting("tcp_timestamps")? > 0;
    let reused = match setting("tcp_tw_reuse")? {
        1 => stamped,
        2 => stamped && addr.ip().is_loopback(),
        _ => false,
    };
    Some(if reused { Duration::from_millis(setting("tcp_tw_reuse_delay").unwrap_or(1000)) } else { TIME_WAIT })
}

/// What an error of accept(2) means for the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// No peer waits.
    Empty,
    /// The connection that was to be accepted is gone, or its network is. accept(2) says to try the next one.
    Gone,
    /// The process or the system has run out of descriptors or memory. Trying again at once does not help.
    Exhausted,
}

impl AcceptError {
    /// Classifies an error that accept(2) returned. An unknown error counts as `Exhausted`, so that the loop never
    /// spins.
    #[must_use]
    pub fn of(error: &io::Error) -> AcceptError {
        const GONE: [Errno; 10] = [
            Errno::CONNABORTED,
            Errno::INTR,
            Errno::PROTO,
            Errno::PERM, // A firewall forbids it.
            Errno::NETDOWN,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::OPNOTSUPP,
            Errno::NETUNREACH,
        ];
        #[cfg(target_os = "linux")]
        const GONE_ON_LINUX: Errno = Errno::NONET;
        #[cfg(not(target_os = "linux"))]
        const GONE_ON_LINUX: Errno = Errno::NETDOWN;
        match Errno::from_io_error(error) {
            Some(Errno::WOULDBLOCK) => AcceptError::Empty,
            Some(errno) if GONE.contains(&errno) || errno == GONE_ON_LINUX => AcceptError::Gone,
            _ => AcceptError::Exhausted,
        }
    }
}

/// What to check when a connect failed with `error`. `others_stand`: other connections stand.
#[must_use]
pub fn connect_advice(error: &io::Error, others_stand: bool) -> &'static str {
    match error.kind() {
        // The way is open then. A listener whose backlog is full drops a SYN, and so does a limit on connections.
        ErrorKind::TimedOut if others_stand => {
            "others stand: most likely the server's accept queue is full (its backlog is too small, or it accepts too \
             slowly), or a limit on connections is reached"
        }
        ErrorKind::ConnectionRefused => "is the server running, and is the port right? A firewall may refuse, too",
        ErrorKind::TimedOut => "is the host up, and does every firewall on the way let this TCP port through?",
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            "is the address right, and is there a route to it?"
        }
        ErrorKind::AddrNotAvailable => {
            "there is no free local port for this destination, as old connections are in TIME_WAIT for a minute: wait, give \
             more addresses with --source, widen net.ipv4.ip_local_port_range, or set net.ipv4.tcp_tw_reuse to 1"
        }
        ErrorKind::PermissionDenied => "does a local firewall rule forbid it?",
        ErrorKind::ConnectionReset => "the server, or something between, ended it at once: its log may say why",
        ErrorKind::UnexpectedEof => "is it an echo server?",
        _ if Errno::from_io_error(error) == Some(Errno::MFILE) => "raise the limit of open files (ulimit -n)",
        _ if error.raw_os_error().is_none() => "is the host name right?",
        _ => "see connect(2) for what the system means by it",
    }
}

/// What to do when a listener could not be bound.
#[must_use]
pub fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "another program listens there (`ss -ltnp` names it): end it or choose another port",
        ErrorKind::PermissionDenied => "ports below 1024 need a special right: choose a higher one",
        ErrorKind::AddrNotAvailable => "no interface of this host has that address: `ip addr` shows those there are",
        _ => "is the host name right?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd};

    #[test]
    fn brackets_around_an_ipv6_address_are_accepted() {
        assert_eq!(resolve("[::1]", 7).unwrap(), resolve("::1", 7).unwrap());
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert_eq!(resolve("::ffff:127.0.0.1", 7).unwrap(), resolve("127.0.0.1", 7).unwrap());
        assert_eq!(resolve("[::ffff:0.0.0.0]", 7).unwrap(), resolve("0.0.0.0", 7).unwrap());
        assert_eq!(resolve("fe80::1%1", 7).unwrap()[0].to_string(), "[fe80::1%1]:7", "a scope is kept");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_is_taken_for_no_longer_than_a_minute_and_on_the_loopback_for_no_longer_than_elsewhere() {
        let of = |addr: &str| time_wait(addr.parse().unwrap()).unwrap();
        let (near, far) = (of("127.0.0.1:7"), of("192.0.2.1:7"));
        assert!(near <= far && far <= TIME_WAIT, "{near:?} {far:?}");
        assert_eq!(of("[::1]:7"), near);
    }

    #[test]
    fn accept_errors_are_classified() {
        let of = |errno: Errno| AcceptError::of(&errno.into());
        assert_eq!(of(Errno::AGAIN), AcceptError::Empty);
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::NETUNREACH, Errno::PERM] {
            assert_eq!(of(errno), AcceptError::Gone);
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::BADF] {
            assert_eq!(of(errno), AcceptError::Exhausted);
        }
        assert_eq!(AcceptError::of(&io::Error::other("no errno at all")), AcceptError::Exhausted);
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let listener = listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = accept(&listener).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.out_of_band_inline().unwrap());
        assert!(socket.keepalive().unwrap());
    }

    #[test]
    fn descriptors_are_closed_on_exec() {
        let listener = listen("127.0.0.1", 0, ListenOptions::default()).unwrap();
        let stream = connect(None, listener.local_addr().unwrap()).unwrap();
        let accepted = loop {
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        };
        assert!(fcntl_getfd(&listener).unwrap().contains(FdFlags::CLOEXEC));
        assert!(fcntl_getfd(&stream).unwrap().contains(FdFlags::CLOEXEC));
        assert!(fcntl_getfd(&accepted).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn a_socket_joined_to_itself_is_refused() {
        // Bound to the port that it connects to, the socket meets itself at once.
        let socket = new_socket("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        let own = socket.local_addr().unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.connect(&own).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(socket.into());
        let refused = stream.finish_connect().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_wildcard_listens_on_both_families_and_0_0_0_0_on_ipv4_alone() {
        for host in ["", "::", "[::]"] {
            let Ok(listener) = listen(host, 0, ListenOptions::default()) else { continue };
            let port = listener.local_addr().unwrap().port();
            std::net::TcpStream::connect(("127.0.0.1", port)).expect(host);
        }
        let listener = listen("0.0.0.0", 0, ListenOptions::default()).unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4());
    }

    #[test]
    fn finish_connect_returns_the_error_of_a_refused_connect() {
        let closed = listen("127.0.0.1", 0, ListenOptions::default()).unwrap().local_addr().unwrap();
        let mut stream = connect(None, closed).unwrap();
        // On loopback the answer is there when connect(2) returns.
        let error = stream.finish_connect().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(connect_advice(&error, false).contains("server running"));
    }
}
