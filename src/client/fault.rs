//! What can be wrong with a connection, and how it is said.
//!
//! Owns the kinds of fault, their names and their words.

use std::fmt;
use std::net::SocketAddr;

use serde::{Serialize, Serializer};

use crate::client::cause::Cause;
use crate::client::direction::Way;
use crate::client::evidence::Evidence;
use crate::client::foreign_bytes;
use crate::client::pattern::Origin;
use crate::engine::escape::Escaped;

/// The kinds of fault, one a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// No program listens there.
    Refused,
    /// The connect was not answered in time.
    ConnectTimeout,
    /// The connect failed in some other way: no route, no free port, no descriptor.
    ConnectFailed,
    /// Bytes came that were not sent there: other bytes than were sent, or bytes before anything was sent.
    Corrupted,
    /// Bytes are missing: the stream goes on at a later position.
    Lost,
    /// Bytes came again: the stream goes back to an earlier position.
    Duplicated,
    /// Another connection's bytes came.
    Foreign,
    /// The peer finished, and bytes that were sent are missing.
    Truncated,
    /// The peer finished before everything was sent, and what was sent was back.
    ClosedEarly,
    /// Bytes came behind the last byte of the last message. (A load that only time ends has no last message: there, they are
    /// `Corrupted`.)
    Extra,
    /// The peer reset the connection.
    Reset,
    /// Nothing moved for too long, or too little for all messages to be begun in time.
    NoProgress,
    /// Everything was sent and back, but the peer did not finish.
    Unclosed,
    /// Anything else that the system said.
    Failed,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::Refused => "refused",
            FaultKind::ConnectTimeout => "connect timeout",
            FaultKind::ConnectFailed => "connect failed",
            FaultKind::Corrupted => "corrupted",
            FaultKind::Lost => "lost",
            FaultKind::Duplicated => "duplicated",
            FaultKind::Foreign => "foreign",
            FaultKind::Truncated => "truncated",
            FaultKind::ClosedEarly => "closed early",
            FaultKind::Extra => "extra",
            FaultKind::Reset => "reset",
            FaultKind::NoProgress => "no progress",
            FaultKind::Unclosed => "unclosed",
            FaultKind::Failed => "failed",
        })
    }
}

/// What is wrong with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// Where it begins, if it has a place: the byte of the echoed stream, counted from zero.
    pub offset: Option<u64>,
    /// What should have come there, up to 16 bytes; in JSON, in hex.
    #[serde(serialize_with = "hex")]
    pub expected: Vec<u8>,
    /// What came, up to 16 bytes.
    #[serde(serialize_with = "hex")]
    pub got: Vec<u8>,
    /// Where the bytes belong that came, if they show it: in a `Lost`, `Duplicated` or `Foreign`.
    #[serde(skip)]
    pub origin: Option<Origin>,
    /// The bytes that were handed to the system, if the connection was ever established; known when it is over. Bytes that
    /// waited for a full socket are not among them; some may not have left this host.
    pub sent: Option<u64>,
    /// How many of them came back right.
    pub returned: Option<u64>,
    /// Where nothing moves: on whom the connection waits, if the system tells.
    pub cause: Option<Cause>,
    /// Where bytes are wrong or missing: on which way that happened, if a server was asked for it.
    pub way: Option<Way>,
    /// What the system said, where that decides the kind.
    #[serde(skip)]
    pub reason: String,
}

impl Fault {
    /// A fault of which nothing is known but its kind.
    #[must_use]
    pub fn new(kind: FaultKind) -> Fault {
        Fault {
            kind,
            offset: None,
            expected: Vec::new(),
            got: Vec::new(),
            origin: None,
            sent: None,
            returned: None,
            cause: None,
            way: None,
            reason: String::new(),
        }
    }
}

/// What exactly is wrong, for people.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (expected, got) = (Escaped(&self.expected), Escaped(&self.got));
        let offset = self.offset.unwrap_or_default();
        let (position, other) = self.origin.map_or((0, 0), |origin| (origin.position, origin.connection));
        match self.kind {
            FaultKind::Corrupted if self.expected.is_empty() => {
                write!(f, "at byte {offset} {got} came where nothing was sent")?;
            }
            FaultKind::Corrupted => write!(f, "at byte {offset} {got} came back where {expected} was sent")?,
            FaultKind::Lost => {
                let missing = position.saturating_sub(offset);
                write!(f, "{missing} bytes are missing at byte {offset}: {got} came for {expected}")?;
            }
            FaultKind::Duplicated => {
                write!(f, "at byte {offset} the stream goes back to byte {position}: {got} came for {expected}")?;
            }
            FaultKind::Foreign => {
                write!(f, "at byte {offset} come bytes of connection {other}: {got} for {expected}")?;
            }
            FaultKind::Extra => write!(f, "{got} came back beyond the {offset} bytes that were sent")?,
            FaultKind::Truncated => f.write_str("the peer finished")?,
            FaultKind::ClosedEarly => f.write_str("the peer finished before the work was done")?,
            FaultKind::Unclosed => f.write_str("the peer does not finish")?,
            FaultKind::NoProgress if self.reason.is_empty() => f.write_str("nothing moves")?,
            FaultKind::Refused
            | FaultKind::ConnectTimeout
            | FaultKind::ConnectFailed
            | FaultKind::NoProgress
            | FaultKind::Reset
            | FaultKind::Failed => f.write_str(&self.reason)?,
        }
        match self.kind {
            FaultKind::Corrupted | FaultKind::Extra => {
                if let Some(name) = foreign_bytes::recognise(&self.got) {
                    write!(f, "; this looks like {name}")?;
                }
            }
            FaultKind::Truncated
            | FaultKind::ClosedEarly
            | FaultKind::Unclosed
            | FaultKind::NoProgress
            | FaultKind::Reset => {
                if let (Some(returned), Some(sent)) = (self.returned, self.sent) {
                    write!(f, "; {returned} of {sent} bytes sent are back")?;
                }
            }
            _ => {}
        }
        if let Some(cause) = self.cause {
            write!(f, "; {cause}")?;
        }
        match self.way {
            Some(way) if way != Way::Unknown => write!(f, "; {way}"),
            _ => Ok(()), // The report says it once, of all.
        }
    }
}

/// A connection that was not intact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultyConnection {
    /// Its number, counted from 1.
    pub connection: u32,
    /// What was wrong with it.
    #[serde(flatten)]
    pub fault: Fault,
    /// The peer's address.
    pub peer: SocketAddr,
    /// When and where it happened.
    #[serde(flatten)]
    pub evidence: Evidence,
    /// The fault in words.
    pub detail: String,
}

impl FaultyConnection {
    pub(super) fn new(connection: u32, peer: SocketAddr, fault: Fault, evidence: Evidence) -> FaultyConnection {
        let detail = fault.to_string();
        FaultyConnection { connection, fault, peer, evidence, detail }
    }

    /// The first byte that did not come back right, and how many were sent; `None` if all that were sent came back, or
    /// none was.
    #[must_use]
    pub fn broken_at(&self) -> Option<(u64, u64)> {
        let Fault { offset, returned, sent, .. } = self.fault;
        let (at, sent) = (offset.or(returned)?, sent?);
        (at < sent).then_some((at, sent))
    }

    /// Notes on which way it happened.
    pub fn happened_on(&mut self, way: Way) {
        self.fault.way = Some(way);
        self.detail = self.fault.to_string();
    }
}

impl fmt::Display for FaultyConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} to {}", self.connection, self.peer)?;
        if let Some(local) = self.evidence.local {
            write!(f, " from {local}")?;
        }
        write!(f, " {}: {}", self.fault.kind, self.detail)
    }
}

fn hex<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&digits.concat())
}
