//! What the client sends on each connection: which messages, when, how many, for how long.
//!
//! Owns the description alone. What becomes of it in a run is in [`schedule`](super::schedule).

use std::time::Duration;

use crate::client::rate::Rate;

/// What each connection sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// What is sent.
    pub content: Content,
    /// When the next message is sent.
    pub pacing: Pacing,
    /// How many measured messages each connection sends; `None`: until `duration` is over. Texts are sent once each.
    pub messages: Option<u64>,
    /// How long measured messages are begun, or fall due if they are scheduled, from the first one on.
    pub duration: Option<Duration>,
    /// How many messages a connection exchanges before it finishes and another takes its place; `None`: it stays.
    pub churn: Option<u64>,
    /// How long messages are sent before they are measured.
    pub warmup: Duration,
    /// Whether what comes back is compared with what was sent. If not, it is only counted.
    pub verify: bool,
}

/// What a connection sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These messages, in this order; none of them empty.
    Texts(Vec<Vec<u8>>),
    /// Messages of `size` bytes, at least 1, of the connection's own [`Pattern`](crate::client::pattern::Pattern).
    Generated {
        /// The key of this run's patterns.
        run: u64,
        /// Bytes a message.
        size: u64,
    },
}

/// When a connection sends its next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// When the last one is out, as the tutorial does.
    Streamed,
    /// When fewer than this number are in flight: a closed loop.
    InFlight(u32),
    /// When its time has come, whether or not echoes are back: an open loop. The rate is that of all connections together;
    /// they send in turn.
    Rate(Rate),
}

impl Load {
    /// A load without an end, whose echo is compared.
    #[must_use]
    pub fn new(content: Content, pacing: Pacing) -> Load {
        Load { content, pacing, messages: None, duration: None, churn: None, warmup: Duration::ZERO, verify: true }
    }

    /// These messages, one after the other as the tutorial sends its own. Empty ones are left out: on a byte stream they
    /// are nothing.
    ///
    /// # Panics
    /// If no text is left: an echo ends when its last byte is back, and none would ever come.
    #[must_use]
    pub fn texts(texts: impl IntoIterator<Item = Vec<u8>>) -> Load {
        let texts: Vec<_> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        assert!(!texts.is_empty(), "there has to be something to send");
        Load::new(Content::Texts(texts), Pacing::Streamed)
    }

    /// The tutorial's two messages.
    #[must_use]
    pub fn tutorial() -> Load {
        Load::texts([b"Message 1 from client.".to_vec(), b"Message 2 from client.".to_vec()])
    }

    /// The length of a connection's message `index`; `None` if there is no such message.
    pub(super) fn message_len(&self, index: u64) -> Option<u64> {
        match &self.content {
            Content::Texts(texts) => Some(texts.get(usize::try_from(index).ok()?)?.len() as u64),
            Content::Generated { size, .. } => Some(*size),
        }
    }

    /// How many measured messages each connection sends, if a count decides it.
    pub(super) fn messages_each(&self) -> Option<u64> {
        let texts = match &self.content {
            Content::Texts(texts) => Some(texts.len() as u64),
            Content::Generated { .. } => None,
        };
        [self.messages, texts].into_iter().flatten().min()
    }
}
