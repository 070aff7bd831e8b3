//! A timer that waits longer each time: 5 s, 10 s, … 60 s.
//!
//! No jitter: what is retried is one node's own message, and the link below spreads reconnections.

use crate::model::MonotonicMs;

/// The first wait. A satellite's round trip is below 2 s; twice that and a margin.
const FIRST_WAIT_MS: u64 = 5_000;
/// The longest wait: a link that comes back is used within a minute.
const LONGEST_WAIT_MS: u64 = 60_000;

/// When to try again, and how often it was tried without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retry {
    deadline: Option<MonotonicMs>,
    attempts: u32,
}

impl Retry {
    /// Something was sent: an answer is due.
    pub fn arm(&mut self, now: MonotonicMs) {
        let doublings = self.attempts.min(8);
        let wait_ms = (FIRST_WAIT_MS << doublings).min(LONGEST_WAIT_MS);
        self.deadline = Some(now.plus_ms(wait_ms));
    }

    /// Something was sent, and the answer may take up to `wait_ms`.
    pub fn arm_for(&mut self, wait_ms: u64, now: MonotonicMs) {
        self.deadline = Some(now.plus_ms(wait_ms));
    }

    /// An answer came: nothing is due.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the answer is overdue; then counts the attempt and disarms.
    pub fn expire(&mut self, now: MonotonicMs) -> bool {
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        if due {
            self.deadline = None;
            self.attempts = self.attempts.saturating_add(1);
        }
        due
    }

    /// When the answer is due.
    #[must_use]
    pub fn deadline(&self) -> Option<MonotonicMs> {
        self.deadline
    }

    /// How often an answer was overdue since the last one came.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let mut retry = Retry::default();
        let mut now = MonotonicMs(0);
        let mut waits = vec![];
        for _ in 0..6 {
            retry.arm(now);
            let deadline = retry.deadline().unwrap();
            waits.push(deadline.since_ms(now));
            assert!(!retry.expire(MonotonicMs(deadline.0 - 1)));
            assert!(retry.expire(deadline));
            now = deadline;
        }
        assert_eq!(waits, [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
    }

    #[test]
    fn an_answer_disarms_and_the_next_wait_is_short_again() {
        let mut retry = Retry::default();
        retry.arm(MonotonicMs(0));
        retry.expire(MonotonicMs(5_000));
        retry.arm_for(900_000, MonotonicMs(5_000));
        assert_eq!((retry.deadline(), retry.attempts()), (Some(MonotonicMs(905_000)), 1));
        retry.clear();
        assert_eq!((retry.deadline(), retry.attempts()), (None, 0));
        retry.arm(MonotonicMs(0));
        assert_eq!(retry.deadline(), Some(MonotonicMs(5_000)));
    }
}
