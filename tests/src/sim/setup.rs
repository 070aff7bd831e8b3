//! What a world begins with.

use super::world::Posting;
use edge_agent::core::RecorderOptions;
use shared::model::LinkBudget;

/// How a world is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many nodes.
    pub agents: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { agents: 2 }
    }
}

/// What a world begins with.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) agents: usize,
    /// Bytes of records that each outbox keeps of each class.
    pub(super) quota_bytes: u64,
    pub(super) recorder: RecorderOptions,
    /// What the links of the first nodes may carry; of the others anything.
    pub(super) budgets: Vec<LinkBudget>,
    /// Milliseconds that the hub keeps an acknowledgement back at most.
    pub(super) acknowledge_within_ms: u64,
    pub(super) posting: Option<Posting>,
    /// Series of each sample, besides those of pods.
    pub(super) series: usize,
}

impl Setup {
    /// What a seed's world begins with.
    pub(super) fn of_seed(seed: u64, options: Options) -> Self {
        Self {
            agents: options.agents,
            // Every fourth world has outboxes that overflow within minutes.
            quota_bytes: if seed.is_multiple_of(4) { 2 << 10 } else { 256 << 10 },
            recorder: RecorderOptions { sample_interval_ms: 10_000, samples_per_batch: 3 },
            budgets: budgets_of_seed(seed),
            // At once: a world is at rest when nothing waits for an acknowledgement.
            acknowledge_within_ms: 0,
            posting: Some(Posting { every_ms: 6_000, bytes_max: 500 }),
            series: 1,
        }
    }
}

/// In every eighth world the first node's link has a budget, which now and then is spent.
fn budgets_of_seed(seed: u64) -> Vec<LinkBudget> {
    if seed % 8 != 5 {
        return vec![];
    }
    let bytes_per_day = Some(match seed / 8 % 4 {
        0 => 150_000,
        1 => 300_000,
        2 => 600_000,
        _ => 2_000_000,
    });
    let narrow = if (seed / 8).is_multiple_of(2) { 500 } else { 2_000 };
    let bytes_per_second = seed.is_multiple_of(3).then_some(narrow);
    vec![LinkBudget { bytes_per_day, bytes_per_second }]
}
