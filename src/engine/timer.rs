//! A time as one more source of readiness.
//!
//! Owns a timer descriptor, on systems that have one. Decides nothing: the loop sets the time. epoll's own timeout is
//! rounded up to a millisecond, which is too coarse for a client that keeps a schedule of messages. A timer descriptor is
//! exact to some tens of microseconds.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::descriptor::Timer;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use self::missing::Timer;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod descriptor {
    use std::os::fd::{AsRawFd, OwnedFd};

    use mio::Interest;
    use mio::unix::SourceFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };

    use super::{Duration, Registry, Token, io};

    #[derive(Debug)]
    pub(crate) struct Timer {
        /// Made when it is first set: a server never needs it.
        descriptor: Option<OwnedFd>,
        token: Token,
    }

    impl Timer {
        pub(crate) fn new(token: Token) -> Timer {
            Timer { descriptor: None, token }
        }

        /// Lets the timer go off after `wait`, or never.
        pub(crate) fn set(&mut self, registry: &Registry, wait: Option<Duration>) -> io::Result<()> {
            let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = match wait {
                None => nothing,
                // Zero would disarm the timer.
                Some(wait) => {
                    let wait = wait.max(Duration::from_nanos(1));
                    Timespec {
                        tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
                        tv_nsec: wait.subsec_nanos().into(),
                    }
                }
            };
            let timer = Itimerspec { it_interval: nothing, it_value: value };
            let descriptor = if let Some(descriptor) = self.descriptor.take() {
                descriptor
            } else {
                let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
                let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
                registry.register(&mut SourceFd(&descriptor.as_raw_fd()), self.token, Interest::READABLE)?;
                descriptor
            };
            let set = timerfd_settime(&descriptor, TimerfdTimerFlags::empty(), &timer);
            self.descriptor = Some(descriptor);
            set?;
            Ok(())
        }

        /// Lets mio's poll(2) backend report the timer again, after it went off. Without the new registration it would not:
        /// it does not see that the descriptor was read.
        pub(crate) fn rearm(&mut self, registry: &Registry) -> io::Result<()> {
            if let Some(descriptor) = &self.descriptor {
                let _ = rustix::io::read(descriptor, &mut [0; 8]); // An error: the timer was set again meanwhile.
                registry.reregister(&mut SourceFd(&descriptor.as_raw_fd()), self.token, Interest::READABLE)?;
            }
            Ok(())
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod missing {
    use super::{Duration, Registry, Token, io};

    /// Without timer descriptors, a schedule cannot be kept, and none is promised.
    #[derive(Debug)]
    pub(crate) struct Timer;

    impl Timer {
        pub(crate) fn new(_: Token) -> Timer {
            Timer
        }

        pub(crate) fn set(&mut self, _: &Registry, wait: Option<Duration>) -> io::Result<()> {
            match wait {
                None => Ok(()),
                Some(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no timer descriptors")),
            }
        }

        #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "the other one can fail")]
        pub(crate) fn rearm(&mut self, _: &Registry) -> io::Result<()> {
            Ok(())
        }
    }
}
