//! The slots of a run: which of them has a connection, and when one that has none gets the next.
//!
//! Owns what a slot keeps when its connection is over: its place in the schedule, and since when it is out. A slot outlives
//! its connections.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mio::Token;

use super::back_off::BackOff;
use crate::engine::time::Moment;

/// The token of no connection. The loop knows none of this name, and does nothing for it.
const NOBODY: Token = Token(usize::MAX);

/// Slots, counted from 0.
#[derive(Debug)]
pub(super) struct Slots {
    /// Of the slots that had a connection so far, the one that each has, or [`NOBODY`].
    tokens: Vec<Token>,
    /// How many there are to be.
    count: usize,
    /// Empty where nothing is refilled: a run may have a million slots.
    histories: Vec<History>,
    /// Slots that lost their connection and are to get another, by the time from which they may.
    free: BinaryHeap<Reverse<(Moment, u32)>>,
    back_off: BackOff,
}

/// What the connections of a slot have left behind.
#[derive(Clone, Copy, Debug)]
struct History {
    /// The index of the slot's next message.
    next_message: u64,
    /// When the last connect was begun.
    begun: Moment,
    /// When the first connection failed since the last one that brought a good byte; `None`: the slot is not out.
    out_since: Option<Moment>,
}

impl History {
    const NONE: History = History { next_message: 0, begun: Moment::START, out_since: None };
}

impl Slots {
    /// `count` slots that had no connection yet.
    pub(super) fn new(count: u32, is_refilled: bool) -> Slots {
        let count = count as usize;
        Slots {
            tokens: Vec::new(),
            count,
            histories: if is_refilled { vec![History::NONE; count] } else { Vec::new() },
            free: BinaryHeap::new(),
            back_off: BackOff::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether there are slots that never had a connection.
    pub(super) fn has_unused(&self) -> bool {
        self.tokens.len() < self.count
    }

    /// Whether slots wait for their next connection.
    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// From when on there is a slot to be filled, if there is one.
    pub(super) fn next_free(&self) -> Option<Moment> {
        if self.has_unused() { Some(Moment::START) } else { self.free.peek().map(|Reverse((when, _))| *when) }
    }

    /// Takes the slot that is to be filled next: one that was never used, or the one that may be filled first.
    pub(super) fn take_free(&mut self) -> Option<u32> {
        if self.has_unused() {
            self.tokens.push(NOBODY);
            return u32::try_from(self.tokens.len() - 1).ok();
        }
        self.free.pop().map(|Reverse((_, slot))| slot)
    }

    /// A connect was begun for a slot.
    pub(super) fn fill(&mut self, slot: u32, token: Token, now: Moment) {
        self.tokens[slot as usize] = token;
        if let Some(history) = self.histories.get_mut(slot as usize) {
            history.begun = now;
        }
    }

    /// A slot's connection is over. The slot goes on at its message `next_message`.
    pub(super) fn leave(&mut self, slot: u32, next_message: u64) {
        self.tokens[slot as usize] = NOBODY;
        if let Some(history) = self.histories.get_mut(slot as usize) {
            history.next_message = next_message;
        }
    }

    /// A slot's connection brought a good byte: the slot is not out, whatever was before.
    pub(super) fn recover(&mut self, slot: u32) {
        self.histories[slot as usize].out_since = None;
    }

    /// A slot's connection failed. Returns from when on the slot may have another.
    pub(super) fn fail(&mut self, slot: u32, now: Moment) -> Moment {
        let History { begun, out_since, .. } = &mut self.histories[slot as usize];
        self.back_off.next_try(*begun, *out_since.get_or_insert(now), now)
    }

    /// Whether no connection of the slot brought a good byte since one failed.
    pub(super) fn is_out(&self, slot: u32) -> bool {
        self.histories.get(slot as usize).is_some_and(|history| history.out_since.is_some())
    }

    /// The slot is to get another connection, from `when` on.
    pub(super) fn free(&mut self, slot: u32, when: Moment) {
        self.free.push(Reverse((when, slot)));
    }

    /// Of the slots that wait, only those get another connection for which `is_wanted` holds, by their next message.
    pub(super) fn keep_free(&mut self, is_wanted: impl Fn(u32, u64) -> bool) {
        let histories = &self.histories;
        self.free.retain(|&Reverse((_, slot))| is_wanted(slot, histories[slot as usize].next_message));
    }

    /// Gives up the slots without a connection. The others move up.
    pub(super) fn keep_filled(&mut self) {
        self.tokens.retain(|&token| token != NOBODY);
        self.count = self.tokens.len();
    }

    /// The slots that lost their connection, each with the index of its next message.
    pub(super) fn vacant(&self) -> impl Iterator<Item = (u32, u64)> {
        let slots = (0..).zip(&self.tokens).filter(|(_, token)| **token == NOBODY);
        slots.filter_map(|(slot, _)| Some((slot, self.histories.get(slot as usize)?.next_message)))
    }

    /// The index of the slot's next message.
    pub(super) fn next_message(&self, slot: u32) -> u64 {
        self.histories.get(slot as usize).map_or(0, |history| history.next_message)
    }

    /// Each slot's connection, or a token that the loop does not know.
    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    #[test]
    fn unused_slots_are_filled_first_and_then_those_that_are_free_for_longest() {
        let mut slots = Slots::new(3, true);
        for slot in 0..3 {
            assert_eq!((slots.next_free(), slots.take_free()), (Some(Moment::START), Some(slot)));
            slots.fill(slot, Token(slot as usize), at(1));
        }
        assert_eq!((slots.next_free(), slots.take_free()), (None, None));
        slots.leave(2, 7);
        slots.free(2, at(5));
        slots.leave(0, 9);
        slots.free(0, at(4));
        assert_eq!(slots.tokens(), [NOBODY, Token(1), NOBODY]);
        assert_eq!((slots.next_free(), slots.take_free(), slots.next_message(0)), (Some(at(4)), Some(0), 9));
        slots.keep_free(|slot, next| slot != 2 || next != 7);
        assert!(!slots.has_free());
    }

    #[test]
    fn a_slot_is_out_until_a_good_byte_comes_however_many_connections_stood() {
        let mut slots = Slots::new(1, true);
        let slot = slots.take_free().unwrap();
        slots.fill(slot, Token(0), at(0));
        assert_eq!(slots.fail(slot, at(1000)), at(1000));
        slots.fill(slot, Token(1), at(1000));
        assert_eq!(slots.fail(slot, at(1320)), at(1340), "a sixteenth of 320 ms");
        assert!(slots.is_out(slot));
        slots.recover(slot);
        assert!(!slots.is_out(slot));
    }

    #[test]
    fn where_nothing_is_refilled_the_slots_without_a_connection_are_given_up() {
        let mut slots = Slots::new(3, false);
        for _ in 0..3 {
            let slot = slots.take_free().unwrap();
            slots.fill(slot, Token(10 + slot as usize), at(0));
        }
        slots.leave(1, 0);
        slots.keep_filled();
        assert_eq!((slots.len(), slots.tokens()), (2, &[Token(10), Token(12)][..]));
        assert!(!slots.has_unused());
    }
}
