//! On which way a fault happened: there, or back.
//!
//! Owns the judgement, from what the client saw and what the server received. Asks nobody.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a server says that it received of a generated stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes in all.
    pub bytes: u64,
    /// Those from the first one on that were right.
    pub right: u64,
}

/// The part of a path on which a fault happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server: the bytes there were right up to `right`, and `received` came in all.
    There {
        /// The offset of the first byte that was wrong, or did not come.
        right: u64,
        /// How many bytes came.
        received: u64,
    },
    /// From the server to the client: the server had received the byte right.
    Back {
        /// How many bytes the server received right.
        right: u64,
    },
    /// The server keeps no account, or not of this stream any more.
    Unknown,
}

impl Way {
    /// Judges a fault at the byte `at` of what came back, of `sent` bytes, by what the server says that it received.
    #[must_use]
    pub fn of(received: Option<Received>, at: u64, sent: u64) -> Way {
        let Some(Received { bytes: received, right }) = received else { return Way::Unknown };
        if right > at {
            return Way::Back { right };
        }
        // Where everything came back, only an end is missing, of which no account is kept.
        if right == at && at < sent { Way::There { right, received } } else { Way::Unknown }
    }

    /// Its name for programs.
    fn name(self) -> &'static str {
        match self {
            Way::There { .. } => "there",
            Way::Back { .. } => "back",
            Way::Unknown => "unknown",
        }
    }
}

impl Serialize for Way {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::There { right, received } if right == received => {
                write!(f, "on the way there: {received} bytes reached the server")
            }
            Way::There { right, .. } => write!(f, "on the way there: at byte {right} it was wrong at the server"),
            Way::Back { right } => write!(f, "on the way back: {right} bytes reached the server right"),
            Way::Unknown => f.write_str("on which way is unknown: the server has no account of it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_follows_from_what_the_server_received_right() {
        let way = |right: u64, received: u64, at, sent| Way::of(Some(Received { bytes: received, right }), at, sent);
        assert_eq!(way(500, 1000, 500, 1000), Way::There { right: 500, received: 1000 });
        assert_eq!(way(500, 500, 500, 1000), Way::There { right: 500, received: 500 });
        assert_eq!(way(1000, 1000, 500, 1000), Way::Back { right: 1000 });
        assert_eq!(way(501, 501, 500, 1000), Way::Back { right: 501 });
        // All came back, but no FIN; and an account that does not fit what came back.
        assert_eq!(way(1000, 1000, 1000, 1000), Way::Unknown);
        assert_eq!(way(7, 1000, 500, 1000), Way::Unknown);
        assert_eq!(Way::of(None, 500, 1000), Way::Unknown);
    }
}
