//! Time as it is given to the pure cores. Nothing here asks for it.

use serde::{Deserialize, Serialize};

/// Milliseconds on a clock that never goes back; its zero is arbitrary (the start of the process).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonotonicMs(pub u64);

impl MonotonicMs {
    /// The moment `ms` milliseconds later; saturates at the end of time.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` until this moment; 0 when `earlier` is later.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z by the node's wall clock, which may be wrong.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

/// How far a wall-clock time can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ClockQuality {
    /// Nothing vouches for the wall clock.
    #[default]
    Unsynchronised,
    /// The operating system says that its clock is disciplined (NTP, PTP or GNSS).
    Synchronised,
}

/// What is known of the clock that stamped a moment, so that stamps can be put right later: two
/// stamps of one boot differ by the same time on the wall and since the boot, unless the wall clock
/// was set in between, which shows as another offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockStamp {
    /// How far the wall clock can be believed.
    pub quality: ClockQuality,
    /// The machine's boot: the first 8 bytes of the kernel's boot id, big endian; 0 where nobody knows.
    pub boot: u64,
    /// Milliseconds from the machine's boot to the moment, taken from the wall-clock time: the boot's
    /// own time by this clock. Steady to 20 ms as long as the clock is not set.
    pub offset_ms: i64,
}

impl ClockStamp {
    /// The stamp of a clock whose monotonic zero is the machine's boot.
    #[must_use]
    pub fn of(now: Now, boot: u64) -> Self {
        let offset = i128::from(now.wall.0) - i128::from(now.monotonic.0);
        let offset_ms = i64::try_from(offset).unwrap_or(i64::MAX);
        Self { quality: now.quality, boot, offset_ms }
    }
}

impl From<BootClock> for ClockStamp {
    fn from(clock: BootClock) -> Self {
        Self { boot: clock.boot, offset_ms: clock.offset_ms, quality: clock.quality }
    }
}

/// The present moment, as the shell hands it to a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For every duration, timeout and order of events.
    pub monotonic: MonotonicMs,
    /// For what people read and for time stamps; never for a decision about a pod.
    pub wall: UnixMs,
    /// How far `wall` can be believed.
    pub quality: ClockQuality,
}

/// One boot of a node and its wall clock: what turns a time since the boot into a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootClock {
    /// The boot: the first 8 bytes of the kernel's boot id.
    pub boot: u64,
    /// Milliseconds from the boot until now, sleep included.
    pub since_boot_ms: u64,
    /// Milliseconds from 1970 to the boot, by the wall clock as it stands now.
    pub offset_ms: i64,
    /// How far `offset_ms` can be believed.
    pub quality: ClockQuality,
}
