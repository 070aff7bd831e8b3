//! Bytes of the last 24 hours, by quarter of an hour.
//!
//! Any 24 hours touch 97 quarters; while those together stay below a limit, so does every day that
//! ends now, whenever it began.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Milliseconds of a slot. A day has 96: about one part in a hundred of the limit stays unused.
const SLOT_MS: u64 = 15 * 60 * 1000;

/// Slots that any 24 hours touch.
const SLOTS: u64 = 97;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Window {
    /// (number of the slot, bytes), oldest first; slots without bytes are left out.
    slots: VecDeque<(u64, u64)>,
}

/// The slot that the clock is in.
pub(super) fn slot(clock_ms: u64) -> u64 {
    clock_ms / SLOT_MS
}

impl Window {
    fn forget(&mut self, clock_ms: u64) {
        let current = slot(clock_ms);
        // Slots of the future come from a damaged record: they count as of now.
        for (slot, _) in &mut self.slots {
            *slot = (*slot).min(current);
        }
        while self.slots.front().is_some_and(|(slot, _)| slot + SLOTS <= current) {
            self.slots.pop_front();
        }
    }

    /// Bytes in the window.
    pub(super) fn total(&mut self, clock_ms: u64) -> u64 {
        self.forget(clock_ms);
        self.slots.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    pub(super) fn add(&mut self, bytes: u64, clock_ms: u64) {
        self.forget(clock_ms);
        let current = slot(clock_ms);
        match self.slots.back_mut() {
            Some((slot, held)) if *slot == current => *held = held.saturating_add(bytes),
            _ => self.slots.push_back((current, bytes)),
        }
    }

    /// Takes back what was added in this slot, as far as it is there.
    pub(super) fn give_back(&mut self, bytes: u64, clock_ms: u64) {
        self.forget(clock_ms);
        if let Some((_, held)) = self.slots.back_mut() {
            *held = held.saturating_sub(bytes);
        }
    }

    /// Milliseconds until `bytes` more stay within `limit`; 0 when they do now. What is larger than
    /// the limit never does: the answer is then the window's length.
    pub(super) fn wait_ms(&mut self, limit: u64, bytes: u64, clock_ms: u64) -> u64 {
        let mut total = self.total(clock_ms);
        if total.saturating_add(bytes) <= limit {
            return 0;
        }
        for (slot, held) in &self.slots {
            total = total.saturating_sub(*held);
            if total.saturating_add(bytes) <= limit {
                let room_at_ms = (slot + SLOTS).saturating_mul(SLOT_MS);
                return room_at_ms.saturating_sub(clock_ms).max(1);
            }
        }
        SLOTS * SLOT_MS
    }

    /// Whether it is as this module writes it: no more slots than a window has.
    pub(super) fn is_plausible(&self) -> bool {
        self.slots.len() as u64 <= SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER_MS: u64 = 900_000;

    #[test]
    fn there_is_room_when_enough_of_the_oldest_quarters_have_left() {
        let mut window = Window::default();
        window.add(100, QUARTER_MS);
        window.add(50, 2 * QUARTER_MS - 1);
        window.add(30, 2 * QUARTER_MS);
        let now = 3 * QUARTER_MS + 5;
        assert_eq!(window.wait_ms(200, 20, now), 0, "exactly the limit");
        assert_eq!(window.wait_ms(200, 21, now), 98 * QUARTER_MS - now);
        assert_eq!(window.wait_ms(200, 170, now), 98 * QUARTER_MS - now);
        assert_eq!(window.wait_ms(200, 171, now), 99 * QUARTER_MS - now);
        assert_eq!(window.wait_ms(200, 201, now), 97 * QUARTER_MS, "never");
        assert_eq!(window.total(98 * QUARTER_MS - 1), 180);
        assert_eq!(window.total(98 * QUARTER_MS), 30);
    }

    #[test]
    fn a_quarter_of_an_hour_is_one_number_however_much_is_sent_in_it() {
        let mut window = Window::default();
        (0..1000).for_each(|ms| window.add(1, ms));
        assert_eq!(window.slots, [(0, 1000)]);
    }

    #[test]
    fn quarters_of_a_future_that_a_damaged_record_names_count_as_of_now() {
        let mut window = Window { slots: [(u64::MAX, u64::MAX), (0, 7), (9, 5)].into() };
        assert_eq!(window.total(QUARTER_MS), u64::MAX);
        assert_eq!(window.wait_ms(10, 11, QUARTER_MS), 97 * QUARTER_MS);
        assert_eq!(window.total(98 * QUARTER_MS), 0);
        assert!(window.wait_ms(0, 1, u64::MAX) > 0);
    }
}
