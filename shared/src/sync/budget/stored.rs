//! What the store keeps of a budget, and how much time has certainly passed since.

use super::window::Window;
use crate::model::{ClockQuality, MonotonicMs, Now, UnixMs};
use crate::wire::{DecodeError, EncodeError, decode, encode};
use serde::{Deserialize, Serialize};

/// A window of 97 slots of two numbers.
const BYTES_MAX: usize = 4096;

/// What the store keeps of a budget. Fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBudget {
    clock_ms: u64,
    since_boot_ms: u64,
    wall: UnixMs,
    quality: ClockQuality,
    /// With the grant that was made with this record.
    pub(super) all: Window,
}

impl StoredBudget {
    pub(super) fn new(clock_ms: u64, now: Now, all: Window) -> Self {
        let Now { monotonic, wall, quality } = now;
        Self { clock_ms, since_boot_ms: monotonic.0, wall, quality, all }
    }

    /// As it is stored.
    ///
    /// # Errors
    /// Never for values of this type; the signature is the codec's.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        encode("link budget", self)
    }

    /// From the store.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no such record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let stored: Self = decode("link budget", bytes, BYTES_MAX)?;
        if stored.all.is_plausible() {
            return Ok(stored);
        }
        Ok(Self { all: Window::default(), ..stored })
    }

    /// The budget's clock now. The monotonic clock counts from the machine's start: where it is
    /// behind, the machine started again, and at least all that it shows has passed. A wall clock
    /// counts only where it was synchronised then and is now.
    pub(super) fn clock_ms(&self, now: Now) -> u64 {
        let then = MonotonicMs(self.since_boot_ms);
        let certain_ms =
            if now.monotonic >= then { now.monotonic.since_ms(then) } else { now.monotonic.0 };
        let synchronised = |quality| quality == ClockQuality::Synchronised;
        let by_wall_ms = if synchronised(self.quality) && synchronised(now.quality) {
            now.wall.0.saturating_sub(self.wall.0)
        } else {
            0
        };
        self.clock_ms.saturating_add(certain_ms.max(by_wall_ms))
    }
}
