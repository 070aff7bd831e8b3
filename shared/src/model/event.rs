//! What happened on a node: the records of the events log.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::time::{ClockQuality, ClockStamp, UnixMs};
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// When, by the node's clock.
    pub at: UnixMs,
    /// How far that clock can be believed.
    pub quality: ClockQuality,
    /// What it happened to: a pod as `namespace/name-ordinal`, or `node`.
    pub object: String,
    /// A word for programs, as in `BackOff`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Which clock said `at`, where nothing vouches for it: then the time is put right later.
    #[serde(default)]
    pub boot: Option<BootOffset>,
}

/// A boot of the node's machine, and where its wall clock put it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOffset {
    /// The first 8 bytes of the kernel's boot id, big endian; 0 where nobody knows.
    pub boot: u64,
    /// Milliseconds from 1970 to the boot, by that clock.
    pub offset_ms: i64,
}

impl BootOffset {
    /// What a record needs of its stamp: nothing, where the clock was vouched for.
    #[must_use]
    pub fn needed(stamp: ClockStamp) -> Option<Self> {
        let ClockStamp { quality, boot, offset_ms } = stamp;
        (quality == ClockQuality::Unsynchronised).then_some(Self { boot, offset_ms })
    }
}

impl NodeEvent {
    /// The clock that said when it was; `None` where an agent did not tell.
    #[must_use]
    pub fn stamp(&self) -> Option<ClockStamp> {
        match (self.quality, self.boot) {
            (quality @ ClockQuality::Synchronised, _) => {
                Some(ClockStamp { quality, ..ClockStamp::default() })
            }
            (quality, Some(BootOffset { boot, offset_ms })) => {
                Some(ClockStamp { quality, boot, offset_ms })
            }
            (ClockQuality::Unsynchronised, None) => None,
        }
    }
}
