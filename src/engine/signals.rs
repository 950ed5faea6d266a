//! Signals as one more source of readiness.
//!
//! Owns the handlers and the pipe that they write to. Decides nothing: the loop hands each signal to the role, as an event.

use std::fmt;
use std::io;

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0 as pipe;

/// A signal that the programs act on.
///
/// The kernel keeps no count: a signal that is sent again before the loop has looked is one signal (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: what kill(1) and service managers send.
    Terminate,
    /// SIGUSR1: print what the program is doing.
    Status,
}

impl Signal {
    const ALL: [Signal; 3] = [Signal::Interrupt, Signal::Terminate, Signal::Status];

    /// The signal's number on this system.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Signal::Interrupt => SIGINT,
            Signal::Terminate => SIGTERM,
            Signal::Status => SIGUSR1,
        }
    }

    /// The signal's name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "interrupt",
            Signal::Terminate => "SIGTERM",
            Signal::Status => "SIGUSR1",
        }
    }
}

/// The signals of this process, caught from now on until it ends.
pub(crate) struct Signals {
    pipe: pipe::Signals,
    token: Token,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Signals {
    /// Sets up the handlers and registers the pipe under `token`.
    pub(crate) fn catch(registry: &Registry, token: Token) -> io::Result<Signals> {
        let mut pipe = pipe::Signals::new(Signal::ALL.map(Signal::number))?;
        registry.register(&mut pipe, token, Interest::READABLE)?;
        Ok(Signals { pipe, token })
    }

    /// The signals that came since this was last called, each once.
    pub(crate) fn take(&mut self, registry: &Registry) -> io::Result<Vec<Signal>> {
        let numbers: Vec<i32> = self.pipe.pending().collect();
        // signal-hook reads the pipe, and mio does not see that. mio's poll(2) backend reports a source again only after a
        // read of mio's own: without the new registration, the second signal would never arrive.
        registry.reregister(&mut self.pipe, self.token, Interest::READABLE)?;
        Ok(Signal::ALL.into_iter().filter(|signal| numbers.contains(&signal.number())).collect())
    }
}
