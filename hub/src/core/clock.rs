//! Times of nodes whose clock was wrong.
//!
//! A record carries the clock by which it was taken: the boot, and where the wall clock put that boot.
//! Once it is known where the boot truly lies, the record is shifted by the difference. Two sources
//! are believed: the node itself, where the operating system vouched for its clock in that boot, and
//! else, for the boot that greets, the hub's own clock.
//!
//! What a boot was mapped to once stays: it is stored before the node is answered, so that a record
//! that is delivered again has the same time, and the spacing of a boot's records never changes,
//! however often its wall clock was set. What can't be mapped keeps its own time.

use serde::{Deserialize, Serialize};
use shared::model::{BootClock, ClockQuality, ClockStamp, UnixMs};
use std::collections::VecDeque;

/// Boots of one node that are remembered: twice what a greeting can name. The longest known goes first.
const BOOTS_MAX: usize = 2 * shared::wire::BOOT_CLOCKS_MAX;

/// Where the boots of one node lie. Stored; fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BootClocks {
    /// (boot, milliseconds from 1970 to it), the longest known first.
    known: VecDeque<(u64, i64)>,
}

/// A time, and whether anything vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorrectedTime {
    /// When.
    pub at: UnixMs,
    /// What it rests on.
    pub basis: TimeBasis,
}

/// What a time rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeBasis {
    /// The node's clock, for which its operating system vouched.
    Synchronised,
    /// The node's clock, which was wrong, and the true place of its boot.
    Corrected,
    /// The node's clock, for which nothing vouches.
    Unsynchronised,
}

impl BootClocks {
    /// A node greets: learns where its boots lie, as far as that is not known yet. `now` is the hub's
    /// own time. Whether anything was learned.
    pub(super) fn learn(
        &mut self,
        present: Option<&BootClock>,
        earlier: &[BootClock],
        now: UnixMs,
    ) -> bool {
        let vouched = |clock: &&BootClock| clock.quality == ClockQuality::Synchronised;
        let earlier = earlier.iter().take(shared::wire::BOOT_CLOCKS_MAX).filter(vouched);
        let mut learned = false;
        for clock in earlier {
            learned |= self.fix(clock.boot, clock.offset_ms);
        }
        if let Some(clock) = present {
            let offset_ms = match clock.quality {
                ClockQuality::Synchronised => clock.offset_ms,
                ClockQuality::Unsynchronised => boot_by(now, clock.since_boot_ms),
            };
            learned |= self.fix(clock.boot, offset_ms);
        }
        learned
    }

    fn fix(&mut self, boot: u64, offset_ms: i64) -> bool {
        if self.offset_ms(boot).is_some() {
            return false;
        }
        if self.known.len() >= BOOTS_MAX {
            self.known.pop_front();
        }
        self.known.push_back((boot, offset_ms));
        true
    }

    /// With one boot, for tests.
    #[cfg(test)]
    pub(crate) fn of(boot: u64, offset_ms: i64) -> Self {
        Self { known: [(boot, offset_ms)].into() }
    }

    /// Milliseconds from 1970 to `boot`, where that is known.
    #[must_use]
    pub fn offset_ms(&self, boot: u64) -> Option<i64> {
        self.known.iter().find(|(known, _)| *known == boot).map(|(_, offset_ms)| *offset_ms)
    }
}

fn boot_by(now: UnixMs, since_boot_ms: u64) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(now.0).saturating_sub(signed(since_boot_ms))
}

/// The true time of what was taken at `at` by the clock of `stamp`.
#[must_use]
pub fn corrected_time(at: UnixMs, stamp: Option<ClockStamp>, known: &BootClocks) -> CorrectedTime {
    let own = |basis| CorrectedTime { at, basis };
    let Some(stamp) = stamp else { return own(TimeBasis::Unsynchronised) };
    if stamp.quality == ClockQuality::Synchronised {
        return own(TimeBasis::Synchronised);
    }
    let Some(offset_ms) = known.offset_ms(stamp.boot) else {
        return own(TimeBasis::Unsynchronised);
    };
    let shift_ms = offset_ms.saturating_sub(stamp.offset_ms);
    CorrectedTime { at: UnixMs(at.0.saturating_add_signed(shift_ms)), basis: TimeBasis::Corrected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ClockQuality::{Synchronised, Unsynchronised};
    use proptest::prelude::*;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const TRUE_BOOT_MS: i64 = 1_799_999_000_000;

    fn clock(boot: u64, since_boot_ms: u64, offset_ms: i64, quality: ClockQuality) -> BootClock {
        BootClock { boot, since_boot_ms, offset_ms, quality }
    }

    fn stamp(boot: u64, offset_ms: i64, quality: ClockQuality) -> Option<ClockStamp> {
        Some(ClockStamp { boot, offset_ms, quality })
    }

    #[test]
    fn a_clock_that_began_in_1970_is_shifted_by_the_hubs_own() {
        let mut known = BootClocks::default();
        // A thousand seconds after its boot, which it takes for the beginning of 1970.
        assert!(known.learn(Some(&clock(7, 1_000_000, 0, Unsynchronised)), &[], NOW));
        let found = corrected_time(UnixMs(40_000), stamp(7, 0, Unsynchronised), &known);
        assert_eq!(found.at, UnixMs(1_799_999_040_000));
        assert_eq!(found.basis, TimeBasis::Corrected);
    }

    #[test]
    fn a_clock_that_the_system_vouched_for_is_believed_before_the_hubs() {
        let mut known = BootClocks::default();
        known.learn(Some(&clock(7, 5, TRUE_BOOT_MS, Synchronised)), &[], NOW);
        assert_eq!(known.offset_ms(7), Some(TRUE_BOOT_MS));
        let own = corrected_time(UnixMs(9), stamp(7, 0, Synchronised), &known);
        assert_eq!(own, CorrectedTime { at: UnixMs(9), basis: TimeBasis::Synchronised });
    }

    #[test]
    fn an_earlier_boot_is_known_only_where_it_was_synchronised_at_its_end() {
        let mut known = BootClocks::default();
        let earlier =
            [clock(1, 5, TRUE_BOOT_MS, Synchronised), clock(2, 5, TRUE_BOOT_MS, Unsynchronised)];
        known.learn(Some(&clock(3, 5, 0, Unsynchronised)), &earlier, NOW);
        assert_eq!(known.offset_ms(1), Some(TRUE_BOOT_MS));
        let own = corrected_time(UnixMs(9), stamp(2, 0, Unsynchronised), &known);
        assert_eq!(own, CorrectedTime { at: UnixMs(9), basis: TimeBasis::Unsynchronised });
    }

    #[test]
    fn what_a_boot_was_mapped_to_stays() {
        let mut known = BootClocks::default();
        let greeting = clock(7, 1_000, 0, Unsynchronised);
        assert!(known.learn(Some(&greeting), &[], NOW));
        let first = known.offset_ms(7);
        assert!(!known.learn(Some(&greeting), &[], UnixMs(NOW.0 + 60_000)));
        assert!(!known.learn(Some(&clock(7, 1_000, 5, Synchronised)), &[], NOW));
        assert_eq!(known.offset_ms(7), first);
    }

    #[test]
    fn a_node_that_boots_for_ever_does_not_fill_the_hub() {
        let mut known = BootClocks::default();
        for boot in 0..1_000 {
            known.learn(Some(&clock(boot, 0, 0, Synchronised)), &[], NOW);
        }
        assert_eq!(known.known.len(), BOOTS_MAX);
        assert!(known.offset_ms(999).is_some() && known.offset_ms(0).is_none());
    }

    proptest! {
        #[test]
        fn records_of_one_boot_keep_their_spacing_however_its_clock_was_set(
            since_boot_ms in proptest::collection::vec(0_u64..1 << 40, 2..20),
            // Whole years to either side: what the wall clock said of the boot at each record.
            offsets in proptest::collection::vec(0_i64..4_000_000_000_000, 20),
            greeted_ms in 0_u64..1 << 40,
        ) {
            let mut known = BootClocks::default();
            known.learn(Some(&clock(7, greeted_ms, 0, Unsynchronised)), &[], UnixMs(1 << 41));
            let times = since_boot_ms.iter().zip(&offsets).map(|(since, offset_ms)| {
                let at = UnixMs(since.saturating_add_signed(*offset_ms));
                corrected_time(at, stamp(7, *offset_ms, Unsynchronised), &known).at
            });
            let times: Vec<UnixMs> = times.collect();
            for (time, since) in times.iter().zip(&since_boot_ms) {
                prop_assert_eq!(time.0, (1 << 41) - greeted_ms + since);
            }
        }
    }
}
