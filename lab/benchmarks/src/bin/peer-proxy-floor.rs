//! The floor of the proxies: a relay on raw epoll, with nothing that a relay could do without.
//!
//! `peer-proxy-floor PORT BACKEND`. Edge-triggered, each socket registered once, one read buffer for all, a read that
//! came short not repeated, bytes that the other socket does not take kept; the end of a direction is passed on by itself.
//! No limits, no deadlines, no fairness, no counts: what a real proxy costs beyond this is what those cost.

use std::env;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use sys::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Epoll, NO_EVENT, is};

const LISTENER: u64 = u64::MAX;

/// One of the two sockets of a relayed connection.
struct Side {
    socket: OwnedFd,
    /// Where the other one is.
    other: usize,
    /// What this socket has not taken of what came from the other. While there is any, the other is not read.
    unsent: Vec<u8>,
    /// Bytes may be there to read.
    readable: bool,
    /// The peer's FIN or an error is there: read on to the end, however short a read comes.
    ending: bool,
    /// The peer's FIN was read and passed on.
    ended: bool,
}

/// Takes what is there from one side to the other.
fn relay(from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> io::Result<()> {
    if !to.unsent.is_empty() {
        let sent = sys::send_what_fits(&to.socket, &to.unsent)?;
        to.unsent.drain(..sent);
    }
    while from.readable && to.unsent.is_empty() {
        let count = match sys::recv(from.socket.as_fd(), buffer) {
            Ok(0) => {
                (from.readable, from.ended) = (false, true);
                // When both have ended, closing sends the other FIN.
                return if to.ended { Ok(()) } else { sys::shut_down(&to.socket) };
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                from.readable = false;
                break;
            }
            Err(error) => return Err(error),
        };
        if count < buffer.len() && !from.ending {
            from.readable = false;
        }
        let sent = sys::send_what_fits(&to.socket, &buffer[..count])?;
        if sent < count {
            to.unsent = buffer[sent..count].to_vec();
        }
    }
    Ok(())
}

/// Accepts all who wait, and begins to connect for each.
fn accept(listener: &OwnedFd, backend: u16, epoll: &Epoll, sides: &mut Vec<Option<Side>>) -> io::Result<()> {
    loop {
        let client = match sys::accept(listener) {
            Ok(socket) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let server = sys::begin_connect(None, SocketAddrV4::new(Ipv4Addr::LOCALHOST, backend))?;
        let key = |socket: &OwnedFd| usize::try_from(socket.as_raw_fd()).map_err(io::Error::other);
        let (one, two) = (key(&client)?, key(&server)?);
        for (socket, key, other) in [(client, one, two), (server, two, one)] {
            epoll.add(socket.as_raw_fd(), key as u64)?;
            if key >= sides.len() {
                sides.resize_with(key + 1, || None);
            }
            let unsent = Vec::new();
            sides[key] = Some(Side { socket, other, unsent, readable: false, ending: false, ended: false });
        }
    }
}

fn main() -> io::Result<()> {
    let mut ports = env::args().skip(1).map_while(|port| port.parse().ok());
    let (Some(port), Some(backend)) = (ports.next(), ports.next()) else { return Err(ErrorKind::InvalidInput.into()) };
    let listener = sys::listen(port)?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER)?;
    let mut sides: Vec<Option<Side>> = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut events = [NO_EVENT; 1024];
    loop {
        let count = epoll.wait(&mut events, -1)?;
        for &event in &events[..count] {
            if event.u64 == LISTENER {
                accept(&listener, backend, &epoll, &mut sides)?;
                continue;
            }
            // An event that was for a socket closed in this batch finds nothing, or a later owner of its number, to whom
            // it does no harm.
            let key = usize::try_from(event.u64).map_err(io::Error::other)?;
            let Some(other) = sides[key].as_ref().map(|side| side.other) else { continue };
            let Ok([Some(side), Some(peer)]) = sides.get_disjoint_mut([key, other]) else { continue };
            let ending = is(event, EPOLLRDHUP | EPOLLHUP | EPOLLERR);
            side.readable |= ending || is(event, EPOLLIN);
            side.ending |= ending;
            let mut done = Ok(());
            if side.readable {
                done = relay(side, peer, &mut buffer);
            }
            if is(event, EPOLLOUT) && !side.unsent.is_empty() && done.is_ok() {
                done = relay(peer, side, &mut buffer);
            }
            if done.is_err() || (side.ended && peer.ended) {
                (sides[key], sides[other]) = (None, None);
            }
        }
    }
}
