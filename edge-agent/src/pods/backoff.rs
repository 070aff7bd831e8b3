//! How long a pod that ended waits before it is started again, as the kubelet does it: 10 s, doubling
//! to 5 minutes, from the beginning again after 10 minutes of running.

use shared::model::MonotonicMs;

const FIRST_MS: u64 = 10_000;
const LONGEST_MS: u64 = 300_000;
/// A pod that ran this long is not in a crash loop.
const RESET_AFTER_MS: u64 = 600_000;

/// The state of a pod's backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Backoff {
    pub(super) level: u32,
}

impl Backoff {
    /// The pod ended after running from `since` on; how long to wait. The first end in a while is
    /// forgiven: the pod starts again at once.
    pub(super) fn ended(&mut self, since: Option<MonotonicMs>, now: MonotonicMs) -> u64 {
        if since.is_some_and(|since| now.since_ms(since) >= RESET_AFTER_MS) {
            self.level = 0;
        }
        let wait = match self.level {
            0 => 0,
            level => (FIRST_MS << (level - 1).min(8)).min(LONGEST_MS),
        };
        self.level = self.level.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_waits_longer_each_time_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8).map(|_| backoff.ended(None, MonotonicMs(0)) / 1000).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_are_forgiven() {
        let mut backoff = Backoff { level: 6 };
        assert_eq!(backoff.ended(Some(MonotonicMs(0)), MonotonicMs(599_999)), 300_000);
        assert_eq!(backoff.ended(Some(MonotonicMs(0)), MonotonicMs(600_000)), 0);
    }
}
