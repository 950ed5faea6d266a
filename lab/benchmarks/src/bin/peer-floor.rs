//! The floor: an echo on raw epoll, with nothing that an echo could do without.
//!
//! `peer-floor PORT [spin]`. Edge-triggered, each connection registered once, one read buffer for all, a read that came
//! short not repeated, bytes that the socket does not take kept. No limits, no deadlines, no fairness, no counts: what
//! a real server costs beyond this is what those cost. With `spin` it polls without ever sleeping.

use std::env;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use sys::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Epoll, NO_EVENT, is};

const LISTENER: u64 = u64::MAX;

struct Connection {
    socket: OwnedFd,
    /// What the socket has not taken. While there is any, nothing is read.
    unsent: Vec<u8>,
    /// Bytes may be there to read.
    readable: bool,
    /// The peer's FIN or an error is there: read on to the end, however short a read comes.
    ending: bool,
}

impl Connection {
    /// Echoes what is there. Whether the connection lives on.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            let sent = sys::send_what_fits(&self.socket, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        while self.readable && self.unsent.is_empty() {
            let count = match sys::recv(self.socket.as_fd(), buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(error) => return Err(error),
            };
            if count < buffer.len() && !self.ending {
                self.readable = false;
            }
            let sent = sys::send_what_fits(&self.socket, &buffer[..count])?;
            if sent < count {
                self.unsent = buffer[sent..count].to_vec();
            }
        }
        Ok(true)
    }
}

/// Accepts all who wait.
fn accept(listener: &OwnedFd, epoll: &Epoll, connections: &mut Vec<Option<Connection>>) -> io::Result<()> {
    loop {
        match sys::accept(listener) {
            Ok(socket) => {
                let fd = socket.as_raw_fd();
                let key = usize::try_from(fd).map_err(io::Error::other)?;
                epoll.add(fd, key as u64)?;
                if key >= connections.len() {
                    connections.resize_with(key + 1, || None);
                }
                connections[key] = Some(Connection { socket, unsent: Vec::new(), readable: false, ending: false });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn main() -> io::Result<()> {
    let mut args = env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok()).ok_or(ErrorKind::InvalidInput)?;
    let timeout = if args.next().as_deref() == Some("spin") { 0 } else { -1 };
    let listener = sys::listen(port)?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut events = [NO_EVENT; 1024];
    loop {
        let count = epoll.wait(&mut events, timeout)?;
        for &event in &events[..count] {
            if event.u64 == LISTENER {
                accept(&listener, &epoll, &mut connections)?;
                continue;
            }
            // A connection ends only in its own event, so no event of this batch can mean a later owner of the number.
            let Some(slot) = usize::try_from(event.u64).ok().and_then(|key| connections.get_mut(key)) else { continue };
            let Some(connection) = slot else { continue };
            let ending = is(event, EPOLLRDHUP | EPOLLHUP | EPOLLERR);
            connection.readable |= ending || is(event, EPOLLIN);
            connection.ending |= ending;
            if !(connection.readable || is(event, EPOLLOUT)) {
                continue;
            }
            if !connection.serve(&mut buffer).unwrap_or(false) {
                *slot = None;
            }
        }
    }
}
