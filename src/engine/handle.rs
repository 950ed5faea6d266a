//! A loop's handle for other threads.
//!
//! Owns what was asked for and not done yet. Never touches the loop: it leaves the request and wakes the poller, and the
//! loop's own thread does the rest.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::{Registry, Token, Waker};

/// Stops, drains or wakes a loop from another thread. Every clone reaches the same loop.
///
/// However often it is called, the loop finds one request: requests are not counted, and nothing piles up. With a queue
/// beside it, say a channel, it brings a worker's answer back to the loop's thread.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: Arc<Mutex<Requests>>,
    waker: Arc<Waker>,
}

/// What other threads asked for since the loop last looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// [`Handle::wake`] was called.
    pub wake: bool,
    /// [`Handle::stop`] was called.
    pub stop: bool,
    /// [`Handle::drain`] was called, last with this time.
    pub drain: Option<Duration>,
}

impl Handle {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Handle> {
        Ok(Handle { requests: Arc::default(), waker: Arc::new(Waker::new(registry, token)?) })
    }

    /// Wakes the loop: its role is handed [`Event::Woken`](crate::Event::Woken).
    ///
    /// An error is one of the system's, which cannot wake the loop; what was asked for is done when something else does.
    pub fn wake(&self) -> io::Result<()> {
        self.ask(|requests| requests.wake = true)
    }

    /// Ends the loop before its next turn, as [`EventLoop::stop`](crate::EventLoop::stop) does. Errors are those of
    /// [`wake`](Handle::wake).
    pub fn stop(&self) -> io::Result<()> {
        self.ask(|requests| requests.stop = true)
    }

    /// Drains the loop, as [`EventLoop::drain`](crate::EventLoop::drain) does. Errors are those of
    /// [`wake`](Handle::wake).
    pub fn drain(&self, timeout: Duration) -> io::Result<()> {
        self.ask(|requests| requests.drain = Some(timeout))
    }

    fn ask(&self, request: impl FnOnce(&mut Requests)) -> io::Result<()> {
        request(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner));
        self.waker.wake()
    }

    /// Wakes the poller again if a request has not been taken yet. mio's poll(2) backend forgets a wake-up when a socket is
    /// registered or closed behind it (<https://github.com/tokio-rs/mio/issues/1874>).
    pub(crate) fn remind(&self) -> io::Result<()> {
        let requests = *self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests == Requests::default() { Ok(()) } else { self.waker.wake() }
    }

    pub(crate) fn take_requests(&self) -> Requests {
        std::mem::take(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
