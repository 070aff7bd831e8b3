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
        let current = clock_ms / SLOT_MS;
        while self.slots.front().is_some_and(|(slot, _)| slot + SLOTS <= current) {
            self.slots.pop_front();
        }
        // Slots of the future come from a damaged record: they count as of now.
        for (slot, _) in &mut self.slots {
            *slot = (*slot).min(current);
        }
    }

    /// Bytes in the window.
    pub(super) fn total(&mut self, clock_ms: u64) -> u64 {
        self.forget(clock_ms);
        self.slots.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    pub(super) fn add(&mut self, bytes: u64, clock_ms: u64) {
        self.forget(clock_ms);
        let current = clock_ms / SLOT_MS;
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
            total -= held;
            if total.saturating_add(bytes) <= limit {
                return ((slot + SLOTS) * SLOT_MS).saturating_sub(clock_ms).max(1);
            }
        }
        SLOTS * SLOT_MS
    }

    /// Whether it is as this module writes it: no more slots than a window has.
    pub(super) fn is_plausible(&self) -> bool {
        self.slots.len() as u64 <= SLOTS
    }
}
