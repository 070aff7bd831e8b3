//! How long the link waits before it tries again: at once after a link that had held, else from
//! one second up to a minute, with jitter, so that a fleet does not come back in step.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::time::Duration;

/// The delay before the second try; the one before the first try after a link that held is zero.
const DELAY_MS_FIRST: u64 = 1_000;

/// The longest delay: a node is back within a minute of its link.
const DELAY_MS_MAX: u64 = 60_000;

/// A link that broke sooner than this did not hold. Without it two clients of one name, or a
/// broker that accepts and then refuses, would make a loop without a pause.
const HELD_FOR_MIN: Duration = Duration::from_secs(10);

/// The delays of one link.
#[derive(Debug)]
pub(super) struct Backoff {
    delay_ms_next: u64,
    jitter: ChaCha8Rng,
}

impl Backoff {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { delay_ms_next: DELAY_MS_FIRST, jitter: ChaCha8Rng::from_seed(seed) }
    }

    /// The delay after an attempt that was up for `held_for`, if it came up at all.
    pub(super) fn delay_after(&mut self, held_for: Option<Duration>) -> Duration {
        if held_for.is_some_and(|held| held >= HELD_FOR_MIN) {
            self.delay_ms_next = DELAY_MS_FIRST;
            return Duration::ZERO;
        }
        let delay_ms = self.with_jitter(self.delay_ms_next);
        self.delay_ms_next = (self.delay_ms_next * 2).min(DELAY_MS_MAX);
        Duration::from_millis(delay_ms)
    }

    /// Between half of `delay_ms` and all of it.
    fn with_jitter(&mut self, delay_ms: u64) -> u64 {
        let half = delay_ms / 2;
        half + self.jitter.next_u64() % (delay_ms - half + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_link_that_held_is_tried_again_at_once_and_starts_the_delays_anew() {
        let mut backoff = Backoff::new([1; 32]);
        for _ in 0..10 {
            backoff.delay_after(None);
        }
        assert_eq!(backoff.delay_after(Some(Duration::from_secs(11))), Duration::ZERO);
        assert!(backoff.delay_after(None) <= Duration::from_secs(1));
    }

    #[test]
    fn a_link_that_breaks_as_soon_as_it_is_up_waits_longer_each_time() {
        let mut backoff = Backoff::new([2; 32]);
        let delays: Vec<_> =
            (0..12).map(|_| backoff.delay_after(Some(Duration::from_millis(5)))).collect();
        assert!(delays[0] >= Duration::from_millis(500));
        assert!(delays[11] >= Duration::from_secs(30));
    }

    proptest! {
        #[test]
        fn delays_stay_between_half_a_second_and_a_minute(seed: [u8; 32], tries in 1..100usize) {
            let mut backoff = Backoff::new(seed);
            for _ in 0..tries {
                let delay = backoff.delay_after(None);
                prop_assert!(delay >= Duration::from_millis(500));
                prop_assert!(delay <= Duration::from_secs(60));
            }
        }
    }

    #[test]
    fn two_seeds_do_not_keep_step() {
        let delays = |seed| {
            let mut backoff = Backoff::new([seed; 32]);
            (0..8).map(|_| backoff.delay_after(None)).collect::<Vec<_>>()
        };
        assert_ne!(delays(3), delays(4));
    }
}
