//! How often is sampled and how many samples travel together, so that telemetry keeps to its part of
//! the link's day.
//!
//! A ladder: from what the configuration says down to a sample in a quarter of an hour, three hours
//! of them in a batch; below the last rung most series are left out, which the status says. What a
//! value costs is learnt from the batches that were made. Steps down are taken at once, steps up only
//! an hour apart and with a margin, so that a node does not swing between two.

use super::RecorderOptions;
use shared::model::MonotonicMs;
use shared::sync::message_bytes;

/// Milliseconds between samples, and samples in a batch; each rung costs less than the one above.
const RUNGS: [(u64, usize); 8] = [
    (10_000, 6),
    (10_000, 30),
    (20_000, 45),
    (30_000, 30),
    (60_000, 15),
    (60_000, 60),
    (300_000, 12),
    (900_000, 12),
];

/// Of a batch besides its values: numbers of the log, the seal, the envelope, times.
const BATCH_OVERHEAD_BYTES: usize = 70;

/// Batches that share one acknowledgement, at least.
const BATCHES_PER_ACK: u64 = 8;

/// Per cent of the bulk's bytes that telemetry may take while nothing else waits.
const SHARE_ALONE_PERCENT: u64 = 92;

/// And while a backlog or results wait: what is left drains them.
const SHARE_WITH_OTHERS_PERCENT: u64 = 60;

/// A step up needs this margin, in per cent of what it costs.
const MARGIN_PERCENT: u64 = 120;

/// Between two steps up.
const STEP_UP_MS: u64 = 60 * 60 * 1000;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What is assumed of a value before the first batch: six tenths of a byte.
const MILLIBYTES_PER_VALUE: u64 = 600;

/// What is assumed of a sample before the first batch.
const VALUES_PER_SAMPLE: u64 = 60;

/// Where a node is on the ladder.
#[derive(Debug)]
pub(super) struct Ladder {
    rungs: Vec<RecorderOptions>,
    at: usize,
    sheds_series: bool,
    millibytes_per_value: u64,
    values_per_sample: u64,
    stepped_at: Option<MonotonicMs>,
}

impl Ladder {
    /// On the highest rung, which is what the configuration says.
    pub(super) fn new(configured: RecorderOptions) -> Self {
        let span = |rung: &RecorderOptions| {
            rung.sample_interval_ms.saturating_mul(rung.samples_per_batch as u64)
        };
        let lower = RUNGS.map(|(sample_interval_ms, samples_per_batch)| RecorderOptions {
            sample_interval_ms,
            samples_per_batch,
        });
        let lower = lower.into_iter().filter(|rung| {
            rung.sample_interval_ms >= configured.sample_interval_ms
                && span(rung) >= span(&configured)
                && *rung != configured
        });
        Self {
            rungs: std::iter::once(configured).chain(lower).collect(),
            at: 0,
            sheds_series: false,
            millibytes_per_value: MILLIBYTES_PER_VALUE,
            values_per_sample: VALUES_PER_SAMPLE,
            stepped_at: None,
        }
    }

    /// A batch was made: `samples` of `values` values together, in `bytes`.
    pub(super) fn learn(&mut self, bytes: usize, values: u64, samples: u64) {
        if values == 0 || samples == 0 {
            return;
        }
        let mean = |before: u64, seen: u64| (before * 7 + seen) / 8;
        let seen = (bytes as u64).saturating_mul(1000) / values;
        self.millibytes_per_value = mean(self.millibytes_per_value, seen).max(1);
        if !self.sheds_series {
            self.values_per_sample = mean(self.values_per_sample, values / samples).max(1);
        }
    }

    /// Bytes of a day on the wire at `rung`.
    fn bytes_per_day(&self, rung: RecorderOptions) -> u64 {
        let samples = DAY_MS / rung.sample_interval_ms.max(1);
        let batches = samples / rung.samples_per_batch.max(1) as u64;
        let values = samples.saturating_mul(self.values_per_sample);
        let content = values.saturating_mul(self.millibytes_per_value) / 1000;
        let headers = batches.saturating_mul(message_bytes(BATCH_OVERHEAD_BYTES));
        let answers =
            (batches / BATCHES_PER_ACK).saturating_mul(message_bytes(BATCH_OVERHEAD_BYTES));
        content.saturating_add(headers).saturating_add(answers)
    }

    /// Goes where the budget allows: `bulk_bytes_per_day` is what results, telemetry and backfill may
    /// have together, `None` without a limit; `others_wait` when some of the others wait.
    pub(super) fn decide(
        &mut self,
        bulk_bytes_per_day: Option<u64>,
        others_wait: bool,
        now: MonotonicMs,
    ) {
        let Some(bulk) = bulk_bytes_per_day else {
            (self.at, self.sheds_series) = (0, false);
            return;
        };
        let percent = if others_wait { SHARE_WITH_OTHERS_PERCENT } else { SHARE_ALONE_PERCENT };
        let allowed = bulk.saturating_mul(percent) / 100;
        let fits = |rung: &RecorderOptions, margin: u64| {
            self.bytes_per_day(*rung).saturating_mul(margin) / 100 <= allowed
        };
        let lowest = self.rungs.len().saturating_sub(1);
        let affordable = self.rungs.iter().position(|rung| fits(rung, 100)).unwrap_or(lowest);
        let comfortable = self.rungs.iter().position(|rung| fits(rung, MARGIN_PERCENT));
        let nothing_fits = !self.rungs.last().is_some_and(|rung| fits(rung, 100));
        if affordable > self.at {
            (self.at, self.stepped_at) = (affordable, Some(now));
        } else if comfortable.unwrap_or(lowest) < self.at && self.may_step_up(now) {
            (self.at, self.stepped_at) = (self.at - 1, Some(now));
        }
        self.sheds_series = nothing_fits;
    }

    fn may_step_up(&self, now: MonotonicMs) -> bool {
        self.stepped_at.is_none_or(|at| now.since_ms(at) >= STEP_UP_MS)
    }

    /// Where it is.
    pub(super) fn rung(&self) -> RecorderOptions {
        self.rungs.get(self.at).copied().unwrap_or_default()
    }

    /// Steps below the highest.
    pub(super) fn steps_down(&self) -> usize {
        self.at
    }

    /// Whether only the most important series are sent.
    pub(super) fn sheds_series(&self) -> bool {
        self.sheds_series
    }
}

/// Whether a series is kept when most are left out: what tells a node that works from one that does
/// not.
pub(super) fn is_essential(name: &str) -> bool {
    const ESSENTIAL: [&str; 10] = [
        "DCGM_FI_DEV_FB_USED",
        "DCGM_FI_DEV_GPU_TEMP",
        "DCGM_FI_DEV_GPU_UTIL",
        "container_memory_working_set_bytes",
        "kube_pod_container_status_restarts_total",
        "node_filesystem_avail_bytes",
        "node_hwmon_temp_celsius",
        "node_load1",
        "node_memory_MemAvailable_bytes",
        "node_thermal_zone_temp",
    ];
    ESSENTIAL.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_budget(bytes_per_day: u64, others_wait: bool) -> (RecorderOptions, bool) {
        let mut ladder = Ladder::new(RecorderOptions::default());
        // Half a byte a value, sixty values a sample.
        for _ in 0..100 {
            ladder.learn(180, 360, 6);
        }
        ladder.decide(Some(bytes_per_day * 92 / 100), others_wait, MonotonicMs(0));
        (ladder.rung(), ladder.sheds_series())
    }

    fn rung(sample_interval_ms: u64, samples_per_batch: usize) -> RecorderOptions {
        RecorderOptions { sample_interval_ms, samples_per_batch }
    }

    #[test]
    fn each_budget_has_its_rung() {
        assert_eq!(at_budget(10_000_000, true), (rung(10_000, 6), false));
        assert_eq!(at_budget(1_000_000, false), (rung(10_000, 6), false));
        assert_eq!(at_budget(250_000, false), (rung(20_000, 45), false));
        assert_eq!(at_budget(60_000, false), (rung(60_000, 60), false));
        assert!(at_budget(20_000, true).0.sample_interval_ms >= 300_000);
    }

    #[test]
    fn below_the_lowest_rung_series_are_left_out_and_come_back() {
        let mut ladder = Ladder::new(RecorderOptions::default());
        for _ in 0..100 {
            ladder.learn(20_000, 6_000, 6);
        }
        ladder.decide(Some(18_000), false, MonotonicMs(0));
        assert!(ladder.sheds_series());
        assert_eq!(ladder.rung(), rung(900_000, 12));
        ladder.decide(None, false, MonotonicMs(1));
        assert_eq!((ladder.rung(), ladder.sheds_series()), (rung(10_000, 6), false));
    }

    #[test]
    fn steps_up_are_an_hour_apart() {
        let mut ladder = Ladder::new(RecorderOptions::default());
        ladder.decide(Some(55_000), false, MonotonicMs(0));
        let low = ladder.steps_down();
        assert!(low >= 4, "{low}");
        ladder.decide(Some(10_000_000), false, MonotonicMs(STEP_UP_MS - 1));
        assert_eq!(ladder.steps_down(), low);
        ladder.decide(Some(10_000_000), false, MonotonicMs(STEP_UP_MS));
        ladder.decide(Some(10_000_000), false, MonotonicMs(STEP_UP_MS + 1));
        assert_eq!(ladder.steps_down(), low - 1);
    }

    #[test]
    fn each_rung_costs_less_than_the_one_above() {
        let ladder = Ladder::new(RecorderOptions::default());
        let costs: Vec<u64> = ladder.rungs.iter().map(|rung| ladder.bytes_per_day(*rung)).collect();
        assert!(costs.is_sorted_by(|above, below| above > below), "{costs:?}");
        assert_eq!(costs.len(), RUNGS.len(), "the configured one is the first of them");
    }

    #[test]
    fn a_quick_configuration_is_the_highest_rung() {
        let ladder = Ladder::new(rung(100, 2));
        assert_eq!(ladder.rung(), rung(100, 2));
        assert_eq!(ladder.rungs.len(), RUNGS.len() + 1);
    }
}
