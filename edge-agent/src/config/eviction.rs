//! When pods leave since the node runs out of something.

use crate::pressure::{EvictionLimits, PidAmount};
use serde::{Deserialize, Deserializer, de};
use shared::model::MemoryQuantity;

/// When pods leave since the node runs out of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvictionConfig {
    /// Below so much available main memory; 0 for never.
    pub memory_available: MemoryQuantity,
    /// Below so many process ids that are left, as a number or as in `5%` of those that there are; 0 for never.
    #[serde(deserialize_with = "pid_amount")]
    pub pid_available: PidAmount,
}

impl Default for EvictionConfig {
    /// Memory as the kubelet, which has no default for process ids: a node that has a twentieth of them left is as
    /// badly off as one with a twentieth of its disk.
    fn default() -> Self {
        let memory_available = MemoryQuantity { bytes: 100 << 20 };
        Self { memory_available, pid_available: PidAmount::Percent(5) }
    }
}

impl EvictionConfig {
    /// When pods leave.
    #[must_use]
    pub fn limits(&self) -> EvictionLimits {
        EvictionLimits {
            memory_available_bytes: self.memory_available.bytes,
            pids_available: self.pid_available,
        }
    }
}

fn pid_amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PidAmount, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }
    let refused = |written: &str| {
        let expected = "expected a number, or 0% to 99% as in \"5%\"";
        de::Error::custom(format!("`{written}` is no amount of process ids: {expected}"))
    };
    match Written::deserialize(deserializer)? {
        Written::Number(count) => Ok(PidAmount::Count(count)),
        Written::Text(text) => {
            let percent = text.strip_suffix('%').and_then(|percent| percent.parse().ok());
            let percent = percent.filter(|percent: &u8| *percent < 100);
            let count = || text.parse().ok().map(PidAmount::Count);
            percent.map(PidAmount::Percent).or_else(count).ok_or_else(|| refused(&text))
        }
    }
}
