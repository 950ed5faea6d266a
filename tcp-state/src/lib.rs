//! What the kernel knows of a TCP connection.
//!
//! Owns two system calls that the standard library, rustix, nix and socket2 do not have, and all `unsafe` code that the
//! product needs for them. Decides nothing: it reports what Linux says. On other systems, every call is an error.

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

/// How long ago the peer's last acknowledgement arrived, exact to a timer tick of the kernel, some milliseconds. Every
/// segment of the peer carries one, also an answer to a probe of its closed window (tcp(7), `TCP_INFO`).
///
/// # Errors
/// The descriptor is no TCP socket, or the system is not Linux.
pub fn last_acknowledgement(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    system::last_acknowledgement(socket)
}

#[cfg(target_os = "linux")]
mod system {
    use std::mem;
    use std::os::fd::AsRawFd;

    use super::{BorrowedFd, Duration, io};

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

    pub fn last_acknowledgement(socket: BorrowedFd<'_>) -> io::Result<Duration> {
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
        Ok(Duration::from_millis(info.tcpi_last_ack_recv.into()))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{BorrowedFd, Duration, io};

    pub fn unacknowledged(_: BorrowedFd<'_>) -> io::Result<u32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn last_acknowledgement(_: BorrowedFd<'_>) -> io::Result<Duration> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
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
        assert!(last_acknowledgement(near.as_fd()).unwrap() < Duration::from_secs(10));
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unacknowledged(file.as_fd()).is_err());
        assert!(last_acknowledgement(file.as_fd()).is_err());
    }
}
