//! Which counters of a session were seen: each is accepted once, and none that is too old.
//!
//! The ring of RFC 6479, as WireGuard uses it: moving ahead clears whole words, never shifts bits.
//! It decides nothing about authenticity: a counter is marked only after its message's tag held.

/// Counters behind the highest one that are still accepted. A hub that reconnects replays at most a
/// few hundred messages out of order; 1024 cost 136 bytes a session.
pub const REPLAY_WINDOW_COUNTERS: u64 = 1024;

const WORD_BITS: u64 = u64::BITS as u64;

/// One word more than the window holds, so that the word being cleared is never one being asked.
const WORDS: usize = (REPLAY_WINDOW_COUNTERS / WORD_BITS) as usize + 1;

/// Why a counter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Seen,
    TooOld,
}

/// The counters seen so far.
#[derive(Debug, Clone)]
pub(super) struct ReplayWindow {
    seen: [u64; WORDS],
    highest: Option<u64>,
}

impl ReplayWindow {
    pub(super) fn new() -> Self {
        Self { seen: [0; WORDS], highest: None }
    }

    pub(super) fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// May a message with this counter be tried?
    pub(super) fn check(&self, counter: u64) -> Result<(), Refused> {
        let Some(highest) = self.highest else { return Ok(()) };
        if counter > highest {
            return Ok(());
        }
        if highest - counter > REPLAY_WINDOW_COUNTERS {
            return Err(Refused::TooOld);
        }
        let (word, bit) = position(counter);
        let seen = self.seen.get(word).is_some_and(|word| word & bit != 0);
        if seen { Err(Refused::Seen) } else { Ok(()) }
    }

    /// A message with this counter was verified; [`Self::check`] allowed it.
    pub(super) fn mark(&mut self, counter: u64) {
        if self.highest.is_none_or(|highest| counter > highest) {
            self.clear_up_to(counter);
            self.highest = Some(counter);
        }
        let (word, bit) = position(counter);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
    }

    /// Clears the words that come into use when `counter` becomes the highest.
    fn clear_up_to(&mut self, counter: u64) {
        let current = self.highest.map_or(0, |highest| highest / WORD_BITS);
        let target = counter / WORD_BITS;
        let fresh = (current + 1..=target).rev().take(WORDS);
        for number in fresh {
            if let Some(word) = self.seen.get_mut(ring_place(number)) {
                *word = 0;
            }
        }
    }
}

fn position(counter: u64) -> (usize, u64) {
    (ring_place(counter / WORD_BITS), 1 << (counter % WORD_BITS))
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below WORDS")]
fn ring_place(word_number: u64) -> usize {
    (word_number % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the ring must equal: a set of all counters ever seen.
    #[derive(Default)]
    struct Model(BTreeSet<u64>);

    impl Model {
        fn check(&self, counter: u64) -> Result<(), Refused> {
            let highest = self.0.last().copied().unwrap_or(0);
            if highest.saturating_sub(counter) > REPLAY_WINDOW_COUNTERS {
                return Err(Refused::TooOld);
            }
            if self.0.contains(&counter) { Err(Refused::Seen) } else { Ok(()) }
        }
    }

    fn agrees_with_model(counters: impl IntoIterator<Item = u64>) {
        let (mut window, mut model) = (ReplayWindow::new(), Model::default());
        for counter in counters {
            let verdict = window.check(counter);
            assert_eq!(verdict, model.check(counter), "counter {counter}");
            if verdict.is_ok() {
                window.mark(counter);
                model.0.insert(counter);
            }
        }
    }

    #[test]
    fn the_edge_of_the_window_is_accepted_and_the_one_behind_it_is_not() {
        let mut window = ReplayWindow::new();
        window.mark(5000);
        assert_eq!(window.check(5000 - REPLAY_WINDOW_COUNTERS), Ok(()));
        assert_eq!(window.check(5000 - REPLAY_WINDOW_COUNTERS - 1), Err(Refused::TooOld));
    }

    #[test]
    fn a_leap_to_the_end_of_the_counters_forgets_nothing_it_must_know() {
        agrees_with_model([0, 1, u64::MAX - 1, u64::MAX - 1, u64::MAX - 1025, u64::MAX - 1026, 1]);
    }

    proptest! {
        #[test]
        fn the_ring_answers_as_a_set_of_all_counters_would(
            steps in proptest::collection::vec((0u64..3, 0u64..3000), 1..400)
        ) {
            let mut base = 0u64;
            let counters = steps.into_iter().map(|(kind, distance)| {
                match kind {
                    0 => base += distance,
                    1 => base += distance % 3,
                    _ => return base.saturating_sub(distance / 2),
                }
                base
            });
            agrees_with_model(counters.collect::<Vec<_>>());
        }
    }
}
