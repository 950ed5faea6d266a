//! What a partner saw of a conversation: asked for until it is known.
//!
//! Owns the times of asking. Judges nothing.

use std::time::Duration;

use crate::partner::question::{Answer, Question};
use crate::probe::conversation::{Plan, Seen};

/// How long to wait before each time of asking. A connection may end at the partner a moment after it ended here, or
/// seconds later, if the path has a timeout for that.
const WAITS: [u64; 6] = [0, 50, 150, 300, 1_000, 2_500];

/// How long is asked in all.
pub(super) const ALL: Duration = Duration::from_secs(4);

/// What a row says where no answer came that tells of the conversation.
pub(super) const ELSEWHERE: &str = "the question for its end reached another server, or none";

/// An inquiry after one conversation.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    asked: usize,
    answer: Option<Answer>,
}

impl Inquiry {
    /// The next conversation in which to ask for the one that got `answer`; `None` when all is known or it was asked for
    /// long enough.
    pub(super) fn next(&mut self, answer: Option<&Answer>) -> Option<Plan> {
        let answer = answer?;
        let connection = Question::End(answer.hex("server")?, answer.number("connection")?);
        if self.state().is_some_and(|state| state != "open") {
            return None;
        }
        let wait = WAITS.get(self.asked)?;
        self.asked += 1;
        Some(Plan { delay: Duration::from_millis(*wait), ask: Some(connection), ..Plan::default() })
    }

    /// What that conversation saw.
    pub(super) fn hear(&mut self, seen: Seen) {
        self.answer = seen.answer.or(self.answer.take());
    }

    /// How the connection ended at the partner: "fin", "reset", "other", "open" or "unknown".
    pub(super) fn state(&self) -> Option<&str> {
        self.answer.as_ref()?.text("state")
    }

    /// How many bytes the partner received.
    pub(super) fn received(&self) -> Option<u64> {
        self.answer.as_ref()?.number("received")
    }

    /// How many bytes waited in the partner's socket when it had read nothing for a while.
    pub(super) fn unread(&self) -> Option<u64> {
        self.answer.as_ref()?.number("unread")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partner::question::answer;
    use crate::probe::conversation::Ending;

    #[test]
    fn it_is_asked_until_the_end_is_known_or_for_long_enough() {
        let about = answer("server=ff connection=7");
        let ask = |states: &[&str]| {
            let mut inquiry = Inquiry::default();
            let mut asked = 0;
            let mut waited = Duration::ZERO;
            while let Some(plan) = inquiry.next(Some(&about)) {
                assert_eq!(plan.ask, Some(Question::End(255, 7)));
                waited += plan.delay;
                let state = format!("state={} received=9", states.get(asked).unwrap_or(&"open"));
                inquiry.hear(Seen { answer: Some(answer(&state)), ..Seen::example(Ending::Done) });
                asked += 1;
            }
            (asked, inquiry.state().map(str::to_owned), waited)
        };
        assert_eq!(ask(&["reset"]), (1, Some("reset".to_owned()), Duration::ZERO));
        assert_eq!(ask(&["open", "open", "fin"]).0, 3);
        assert_eq!(ask(&[]), (WAITS.len(), Some("open".to_owned()), ALL));
        assert!(Inquiry::default().next(None).is_none());
    }
}
