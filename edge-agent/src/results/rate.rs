//! How fast one pod may post: a bucket of results and one of bytes that fill up again with time.

/// Results a second: thirty frames of sixteen cameras, all of them written to the disk.
const RESULTS_PER_SECOND: u64 = 500;

/// Bytes a second: what an SD card writes while it does other things as well.
const BYTES_PER_SECOND: u64 = 1 << 20;

/// What may be saved up, in seconds.
const BURST_SECONDS: u64 = 4;

/// What one pod may still post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Thousandths of results.
    milliresults: u64,
    /// Thousandths of bytes.
    millibytes: u64,
    filled_at_ms: u64,
}

impl Rate {
    /// Full buckets.
    pub(super) fn new(now_ms: u64) -> Self {
        let full = |per_second: u64| per_second * BURST_SECONDS * 1000;
        Self {
            milliresults: full(RESULTS_PER_SECOND),
            millibytes: full(BYTES_PER_SECOND),
            filled_at_ms: now_ms,
        }
    }

    /// Takes so much out.
    ///
    /// # Errors
    /// Whole seconds until there will be enough; nothing was taken then.
    pub(super) fn take(&mut self, results: u64, bytes: u64, now_ms: u64) -> Result<(), u64> {
        let passed = now_ms.saturating_sub(self.filled_at_ms);
        let fill = |held: u64, per_second: u64| {
            held.saturating_add(passed.saturating_mul(per_second))
                .min(per_second * BURST_SECONDS * 1000)
        };
        self.milliresults = fill(self.milliresults, RESULTS_PER_SECOND);
        self.millibytes = fill(self.millibytes, BYTES_PER_SECOND);
        self.filled_at_ms = now_ms;
        let (results, bytes) = (results.saturating_mul(1000), bytes.saturating_mul(1000));
        match (self.milliresults.checked_sub(results), self.millibytes.checked_sub(bytes)) {
            (Some(left), Some(left_bytes)) => {
                (self.milliresults, self.millibytes) = (left, left_bytes);
                Ok(())
            }
            _ => {
                let wait = |wanted: u64, held: u64, per_second: u64| {
                    wanted.saturating_sub(held).div_ceil(per_second * 1000)
                };
                let for_results = wait(results, self.milliresults, RESULTS_PER_SECOND);
                Err(for_results.max(wait(bytes, self.millibytes, BYTES_PER_SECOND)).max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_as_many_as_the_rate_allows() {
        let mut rate = Rate::new(0);
        assert_eq!(rate.take(2000, 0, 0), Ok(()));
        assert_eq!(rate.take(1, 0, 0), Err(1));
        assert_eq!(rate.take(1000, 0, 0), Err(2));
        assert_eq!(rate.take(500, 0, 1000), Ok(()));
        assert_eq!(rate.take(1, 0, 1001), Err(1));
        // A refusal takes nothing, and what is saved up has an end.
        assert_eq!(rate.take(2000, 0, 1_000_000), Ok(()));
        assert_eq!(rate.take(1, 0, 1_000_000), Err(1));
    }

    #[test]
    fn bytes_count_as_well() {
        let mut rate = Rate::new(0);
        assert_eq!(rate.take(1, 4 << 20, 0), Ok(()));
        assert_eq!(rate.take(1, 2 << 20, 0), Err(2));
        assert_eq!(rate.take(1, 2 << 20, 2000), Ok(()));
    }
}
