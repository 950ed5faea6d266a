//! When and where a connection failed: what it takes to find it in the log of a box, or in a capture.
//!
//! Owns the shape of that evidence. Looks at no socket: the exchange knows what was looked up.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use tcp_state::TcpState;

use crate::client::exchange::Exchange;
use crate::engine::time::Moment;

/// The circumstances of a fault, at the moment when the client knew of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The connection's address at this end; `None` if its connect failed before it could be looked up.
    pub local: Option<SocketAddr>,
    /// That moment, by the wall clock.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The same moment, from the run's first connect on.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub at: Duration,
    /// How long ago its connect was begun.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    pub age: Duration,
    /// How long ago anything moved on it: a byte came, or a full socket took more.
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    pub idle: Duration,
    /// Messages that were begun and not wholly back.
    pub in_flight: u64,
    /// Whether a part of a message was back.
    #[serde(skip)]
    pub within_message: bool,
    /// Whether everything was sent and back.
    #[serde(skip)]
    pub finished: bool,
    /// What the kernel knew of it, if the system tells.
    pub kernel: Option<LastLook>,
}

/// What the kernel knew of a connection when it was over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastLook {
    /// Segments that were sent again.
    pub retransmitted: u32,
    /// Segments that were sent and not acknowledged.
    pub unacknowledged: u32,
    /// The connection's state, by the name that `ss` gives it.
    pub state: &'static str,
}

impl From<&TcpState> for LastLook {
    fn from(state: &TcpState) -> LastLook {
        LastLook {
            retransmitted: state.segments_retransmitted,
            unacknowledged: state.segments_unacknowledged,
            state: state.name,
        }
    }
}

/// What the loop knows of the times of a connection that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    /// When its connect was begun.
    pub(super) opened: Moment,
    /// When anything last moved on it.
    pub(super) last_active: Moment,
}

impl Evidence {
    /// The evidence of a fault that is known `now`, in a run that `began` then.
    pub(super) fn of(exchange: &Exchange, lifetime: Lifetime, began: Moment, now: Moment) -> Evidence {
        Evidence {
            local: exchange.local(),
            time: SystemTime::now(),
            at: now.since(began),
            age: now.since(lifetime.opened),
            idle: now.since(lifetime.last_active),
            in_flight: exchange.in_flight(),
            within_message: exchange.is_within_message(),
            finished: exchange.is_finished(),
            kernel: exchange.kernel().map(LastLook::from),
        }
    }
}

/// A wall-clock time as programs read it: RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// A time in seconds, with a fraction.
pub(super) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
