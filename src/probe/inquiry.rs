//! A conversation, and what the partner saw of it: asked for until it is known.
//!
//! Owns what was seen at both ends, and the times of asking. Judges nothing.

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

/// One conversation with a partner, and the inquiry after it.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    seen: Option<Seen>,
    asked: usize,
    answer: Option<Answer>,
}

impl Inquiry {
    /// The conversation itself, and then one after the other in which to ask for it. None, when all is known or it was asked
    /// for long enough.
    pub(super) fn next_round(&mut self, conversation: Plan) -> Vec<Plan> {
        match self.seen {
            None => vec![conversation],
            Some(_) => self.ask().into_iter().collect(),
        }
    }

    fn ask(&mut self) -> Option<Plan> {
        let answer = self.seen.as_ref()?.answer.as_ref()?;
        let connection = Question::End(answer.hex("server")?, answer.number("connection")?);
        if self.state().is_some_and(|state| state != "open") {
            return None;
        }
        let wait = WAITS.get(self.asked)?;
        self.asked += 1;
        Some(Plan { delay: Duration::from_millis(*wait), ask: Some(connection), ..Plan::default() })
    }

    /// What the conversation saw, or one that asked for it. Where no answer comes, none is waited for again.
    pub(super) fn hear(&mut self, seen: Seen) {
        if self.seen.is_none() {
            self.seen = Some(seen);
        } else if seen.answer.is_some() {
            self.answer = seen.answer;
        } else {
            self.asked = WAITS.len();
        }
    }

    /// What the conversation saw.
    pub(super) fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
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
        let heard = |answer| Seen { answer, ..Seen::example(Ending::Done) };
        let ask = |states: &[&str]| {
            let mut inquiry = Inquiry::default();
            let conversation = Plan { ask: Some(Question::Who), ..Plan::default() };
            assert_eq!(inquiry.next_round(conversation.clone()), [conversation]);
            inquiry.hear(heard(Some(answer("server=ff connection=7"))));
            let mut asked = 0;
            let mut waited = Duration::ZERO;
            while let [plan] = &inquiry.next_round(Plan::default())[..] {
                assert_eq!(plan.ask, Some(Question::End(255, 7)));
                waited += plan.delay;
                let state = *states.get(asked).unwrap_or(&"open");
                inquiry.hear(heard((!state.is_empty()).then(|| answer(&format!("state={state} received=9")))));
                asked += 1;
            }
            (asked, inquiry.state().map(str::to_owned), waited)
        };
        assert_eq!(ask(&["reset"]), (1, Some("reset".to_owned()), Duration::ZERO));
        assert_eq!(ask(&["open", "open", "fin"]).0, 3);
        assert_eq!(ask(&[]), (WAITS.len(), Some("open".to_owned()), ALL));
        // Where no answer comes, each question more would take the whole patience.
        assert_eq!(ask(&["open", ""]).0, 2);
        let mut unanswered = Inquiry::default();
        unanswered.hear(heard(None));
        assert_eq!(unanswered.next_round(Plan::default()), []);
    }
}
