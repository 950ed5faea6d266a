//! What the kernel knows of a TCP connection.
//!
//! Owns two system calls that the standard library, rustix, nix and socket2 do not have, and all `unsafe` code that the
//! product needs for them. Decides nothing: it reports what Linux says, for IPv4 and IPv6 alike. On other systems, every
//! call is an error.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How many bytes the kernel has taken for the peer and the peer's kernel has not acknowledged: what `ss` shows as
/// Send-Q. A FIN that is not acknowledged counts as one byte (tcp(7), `SIOCOUTQ`).
///
/// # Errors
/// The descriptor is no socket, or the system is not Linux.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
    system::unacknowledged(socket)
}

/// What the kernel knows of one connection at one moment (tcp(7), `TCP_INFO`). What stays `None` is not known: the kernel
/// is older than the field, or has measured nothing yet.
///
/// The counts belong to the socket: they stay when the connection is over, until the socket is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpState {
    /// The state of the connection, by the name that `ss` gives it: `ESTAB`, `SYN-SENT`, `CLOSE-WAIT`. After a reset it is
    /// `UNCONN`.
    pub name: &'static str,
    /// Segments sent in all, of any kind: SYN, FIN and bare acknowledgements are among them, and those that were sent
    /// again. (From Linux 4.2 on.)
    pub segments_sent: Option<u32>,
    /// Segments sent again in all; a SYN or a FIN may be one of them.
    pub segments_retransmitted: u32,
    /// Segments that are sent and not acknowledged; a SYN or a FIN may be one of them.
    pub segments_unacknowledged: u32,
    /// How often in a row the retransmission timer ran out for the oldest of them. Begins anew when the peer acknowledges
    /// something new.
    pub timeouts: u8,
    /// Bytes that the peer acknowledged. Our SYN and our FIN count as one each. (From Linux 4.1 on.)
    pub bytes_acknowledged: Option<u64>,
    /// Bytes that the kernel has taken and not sent for the first time yet. (From Linux 4.6 on.)
    pub bytes_unsent: Option<u32>,
    /// How many bytes the peer had room for, by its last word. (From Linux 5.4 on.)
    pub peer_window: Option<u32>,
    /// Probes, of a closed window or of an idle connection (keepalive), since the peer last acknowledged anything.
    pub probes_unanswered: u8,
    /// The shortest round trip of the last five minutes, to the microsecond. (From Linux 4.6 on.)
    pub shortest_rtt: Option<Duration>,
    /// The smoothed round-trip time (RFC 6298, SRTT), to the microsecond.
    pub smoothed_rtt: Option<Duration>,
    /// The most bytes that the kernel puts into one segment now. Before the peer has answered the SYN, a guess.
    pub mss: u32,
    /// How long ago the peer's last acknowledgement arrived, exact to a timer tick of the kernel, some milliseconds. Every
    /// segment of the peer carries one, also one that acknowledges nothing new, and an answer to a probe of its closed
    /// window.
    pub since_acknowledgement: Duration,
}

/// Looks at a connection, by one system call.
///
/// # Errors
/// The descriptor is no TCP socket, or the system is not Linux.
pub fn look(socket: BorrowedFd<'_>) -> io::Result<TcpState> {
    system::look(socket)
}

#[cfg(target_os = "linux")]
mod system {
    use std::mem;
    use std::os::fd::AsRawFd;

    use super::{BorrowedFd, Duration, TcpState, io};

    pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as it is borrowed. For a socket, the request number of TIOCOUTQ is
        // SIOCOUTQ, which writes one int to where the argument points (linux/sockios.h); `bytes` is one and outlives
        // the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(u32::try_from(bytes).unwrap_or(0))
    }

    pub fn look(socket: BorrowedFd<'_>) -> io::Result<TcpState> {
        // SAFETY: the structure consists of integers alone, for which all zeroes are a valid value.
        let mut info: libc::tcp_info = unsafe { mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).expect("some hundred bytes");
        // SAFETY: the descriptor is open for as long as it is borrowed; getsockopt(2) writes at most `length` bytes to
        // `info`, which has that many, and the number written to `length`. Both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(state(&info, usize::try_from(length).unwrap_or(0)))
    }

    /// The names of the states, each in the place that is its number (`linux/tcp_states.h`), as `ss` has them.
    const NAMES: [&str; 12] = [
        "UNKNOWN",
        "ESTAB",
        "SYN-SENT",
        "SYN-RECV",
        "FIN-WAIT-1",
        "FIN-WAIT-2",
        "TIME-WAIT",
        "UNCONN",
        "CLOSE-WAIT",
        "LAST-ACK",
        "LISTEN",
        "CLOSING",
    ];

    /// What the first `written` bytes of `info` say. A kernel writes no more fields than it knows.
    pub fn state(info: &libc::tcp_info, written: usize) -> TcpState {
        macro_rules! known {
            ($field:ident) => {
                (mem::offset_of!(libc::tcp_info, $field) + size_of_val(&info.$field) <= written).then_some(info.$field)
            };
        }
        TcpState {
            name: NAMES.get(usize::from(info.tcpi_state)).copied().unwrap_or(NAMES[0]),
            segments_sent: known!(tcpi_segs_out),
            segments_retransmitted: info.tcpi_total_retrans,
            segments_unacknowledged: info.tcpi_unacked,
            timeouts: info.tcpi_retransmits,
            bytes_acknowledged: known!(tcpi_bytes_acked),
            bytes_unsent: known!(tcpi_notsent_bytes),
            peer_window: known!(tcpi_snd_wnd),
            probes_unanswered: info.tcpi_probes,
            shortest_rtt: known!(tcpi_min_rtt).and_then(rtt),
            smoothed_rtt: rtt(info.tcpi_rtt),
            mss: info.tcpi_snd_mss,
            since_acknowledgement: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        }
    }

    /// A round trip in microseconds. As long as none was measured, the kernel says 0 or the highest number.
    fn rtt(micros: u32) -> Option<Duration> {
        (micros != 0 && micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{BorrowedFd, TcpState, io};

    pub fn unacknowledged(_: BorrowedFd<'_>) -> io::Result<u32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn look(_: BorrowedFd<'_>) -> io::Result<TcpState> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::mem;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn what_the_peer_does_not_read_stays_unacknowledged_and_shrinks_as_it_reads() {
        let (mut near, mut far) = pair();
        assert_eq!(unacknowledged(near.as_fd()).unwrap(), 0);
        near.set_nonblocking(true).unwrap();
        let block = vec![0; 1 << 20];
        let mut sent = 0;
        while let Ok(count) = near.write(&block) {
            sent += count;
        }
        let full = unacknowledged(near.as_fd()).unwrap();
        assert!(full > 0, "{sent} bytes were taken, and nothing waits for a peer that reads nothing");
        far.read_exact(&mut vec![0; sent - full as usize]).unwrap();
        let begun = Instant::now();
        // The acknowledgement of what was read comes by itself, on the loopback within the read or soon after.
        while unacknowledged(near.as_fd()).unwrap() == full {
            assert!(begun.elapsed() < Duration::from_secs(10), "reading acknowledges nothing");
            std::thread::yield_now();
        }
        assert!(look(near.as_fd()).unwrap().since_acknowledgement < Duration::from_secs(10));
    }

    /// Looks until `is_so`: acknowledgements come by themselves, on the loopback at once or soon.
    #[track_caller]
    fn look_until(socket: &TcpStream, is_so: impl Fn(&TcpState) -> bool) -> TcpState {
        let begun = Instant::now();
        loop {
            let state = look(socket.as_fd()).unwrap();
            if is_so(&state) {
                return state;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{state:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_look_counts_what_was_sent_and_acknowledged() {
        let (mut near, _far) = pair();
        near.write_all(b"hello").unwrap();
        // The SYN counts as a byte.
        let state = look_until(&near, |state| state.bytes_acknowledged == Some(6));
        assert_eq!((state.segments_unacknowledged, state.bytes_unsent), (0, Some(0)), "{state:?}");
        assert_eq!((state.timeouts, state.probes_unanswered), (0, 0), "{state:?}");
        assert!(state.segments_sent.unwrap() >= 3, "SYN, acknowledgement, bytes: {state:?}");
        assert!(state.shortest_rtt.unwrap() <= Duration::from_secs(1), "{state:?}");
        assert!(state.smoothed_rtt.unwrap() <= Duration::from_secs(1), "{state:?}");
        assert!(state.mss >= 536 && state.peer_window.unwrap() > 0, "{state:?}");
    }

    #[test]
    fn a_peer_that_reads_nothing_closes_its_window() {
        let (mut near, _far) = pair();
        near.set_nonblocking(true).unwrap();
        let block = vec![0; 1 << 20];
        while near.write(&block).is_ok() {}
        let state = look_until(&near, |state| state.peer_window == Some(0) && state.segments_unacknowledged == 0);
        assert!(state.bytes_unsent.unwrap() > 0, "{state:?}");
    }

    #[test]
    fn the_counts_stay_when_the_connection_is_over() {
        let (near, far) = pair();
        let before = look(near.as_fd()).unwrap();
        drop(far);
        near.shutdown(Shutdown::Both).unwrap();
        // Our FIN counts as a byte.
        let after = look_until(&near, |state| state.bytes_acknowledged == Some(2));
        assert!(after.segments_sent > before.segments_sent && after.mss > 0, "{before:?} {after:?}");
    }

    #[test]
    fn a_state_has_the_name_that_ss_gives_it() {
        let (near, far) = pair();
        assert_eq!(look(near.as_fd()).unwrap().name, "ESTAB");
        near.shutdown(Shutdown::Write).unwrap();
        look_until(&near, |state| state.name == "FIN-WAIT-2");
        look_until(&far, |state| state.name == "CLOSE-WAIT");
        // SAFETY: integers alone, for which all zeroes are a valid value.
        let mut info: libc::tcp_info = unsafe { mem::zeroed() };
        for (number, name) in [(0, "UNKNOWN"), (2, "SYN-SENT"), (7, "UNCONN"), (11, "CLOSING"), (12, "UNKNOWN")] {
            info.tcpi_state = number;
            assert_eq!(system::state(&info, size_of::<libc::tcp_info>()).name, name);
        }
    }

    #[test]
    fn what_an_older_kernel_does_not_write_is_not_known() {
        // SAFETY: integers alone, for which all zeroes are a valid value.
        let mut info: libc::tcp_info = unsafe { mem::zeroed() };
        (info.tcpi_segs_out, info.tcpi_min_rtt, info.tcpi_snd_wnd, info.tcpi_total_retrans) = (7, 21, 99, 3);
        let state = |written| system::state(&info, written);
        let all = state(size_of::<libc::tcp_info>());
        assert_eq!((all.segments_sent, all.peer_window), (Some(7), Some(99)));
        assert_eq!((all.shortest_rtt, all.smoothed_rtt), (Some(Duration::from_micros(21)), None), "0 is not measured");
        // Linux 4.2 ends behind `tcpi_segs_in`, Linux 2.6 behind `tcpi_total_retrans`.
        let older = state(mem::offset_of!(libc::tcp_info, tcpi_notsent_bytes));
        assert_eq!((older.segments_sent, older.bytes_acknowledged), (Some(7), Some(0)));
        assert_eq!((older.shortest_rtt, older.bytes_unsent, older.peer_window), (None, None, None));
        let oldest = state(mem::offset_of!(libc::tcp_info, tcpi_pacing_rate));
        assert_eq!((oldest.segments_sent, oldest.segments_retransmitted), (None, 3));
        // Half a field is none.
        let half = mem::offset_of!(libc::tcp_info, tcpi_snd_wnd) + 2;
        assert_eq!(state(half).peer_window, None);
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unacknowledged(file.as_fd()).is_err());
        assert!(look(file.as_fd()).is_err());
    }
}
