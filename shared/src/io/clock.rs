//! The clocks: the system's for people and durations, and the one by which certificates are judged.
//!
//! The latter never reads the system's wall clock, which may say 1970 or 2100: it is the latest time
//! that the hub signed, or the release's date, plus the time that has passed since.

use crate::model::{ClockQuality, ClockStamp, MonotonicMs, Now, UnixMs};
use rustix::time::{ClockId, clock_gettime};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// systemd-timesyncd makes this file when it has set the clock from a server.
const SYNCHRONISED_SIGN: &str = "/run/systemd/timesync/synchronized";

/// How long the sign is believed before it is looked for again: `now` is asked many times a second.
const SIGN_AGE_MS_MAX: u64 = 10_000;

/// 2026-11-01T00:00:00Z: no certificate of a fleet of this release is older than the release, and no clock
/// that is right says less.
pub const RELEASE: UnixMs = UnixMs(1_793_491_200_000);

/// The kernel's name of the present boot: a UUID in text (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Two clocks that are read one after the other, in whole milliseconds, differ by a little each time.
/// An offset that moves by no more is the same, and then costs nothing to tell.
const OFFSET_NOISE_MS: u64 = 20;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// One signed time moves the clock by a year and a day at most, so that a hub whose own clock is wrong
/// by decades does not expire every certificate at a stroke.
const RAISE_MS_MAX: u64 = 366 * DAY_MS;

/// The system's clocks. All instances in a process agree: the monotonic zero is the machine's start,
/// and the time in which it sleeps counts.
#[derive(Debug)]
pub struct SystemClock {
    sign: PathBuf,
    seen: Mutex<Seen>,
    boot: u64,
    /// As it was last told.
    offset_ms: AtomicI64,
}

#[derive(Debug)]
struct Seen {
    at: MonotonicMs,
    quality: ClockQuality,
}

impl SystemClock {
    /// The system's clocks.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it looks at the system: not a default value")]
    pub fn new() -> Self {
        Self::with_sign(Path::new(SYNCHRONISED_SIGN))
    }

    fn with_sign(sign: &Path) -> Self {
        let seen = Seen { at: since_boot(), quality: quality(sign) };
        let boot = std::fs::read_to_string(BOOT_ID).map_or(0, |text| first_8_bytes(&text));
        Self { sign: sign.to_owned(), seen: Mutex::new(seen), boot, offset_ms: AtomicI64::new(0) }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Now {
        let monotonic = since_boot();
        Now { monotonic, wall: wall(), quality: self.quality_at(monotonic) }
    }

    /// What is known of the clock that told `now`.
    pub fn stamp(&self, now: Now) -> ClockStamp {
        let stamp = ClockStamp::of(now, self.boot);
        let told = self.offset_ms.load(Ordering::Relaxed);
        if told.abs_diff(stamp.offset_ms) <= OFFSET_NOISE_MS {
            return ClockStamp { offset_ms: told, ..stamp };
        }
        self.offset_ms.store(stamp.offset_ms, Ordering::Relaxed);
        stamp
    }

    fn quality_at(&self, now: MonotonicMs) -> ClockQuality {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since_ms(seen.at) > SIGN_AGE_MS_MAX {
            *seen = Seen { at: now, quality: quality(&self.sign) };
        }
        seen.quality
    }
}

/// The time at which certificates are judged.
#[derive(Debug)]
pub struct TrustedTime(Mutex<Floor>);

#[derive(Debug)]
struct Floor {
    time: UnixMs,
    at: MonotonicMs,
    /// The time when the last `true` was returned: what the ledger knows.
    noted: UnixMs,
    /// Where the clock began, and when.
    began: (UnixMs, MonotonicMs),
}

impl Floor {
    fn time_at(&self, now: MonotonicMs) -> UnixMs {
        UnixMs(self.time.0.saturating_add(now.since_ms(self.at)))
    }

    fn raise(&mut self, time: UnixMs, now: MonotonicMs) -> bool {
        let present = self.time_at(now);
        // One step a start of the program, whatever comes how often.
        let elapsed = now.since_ms(self.began.1);
        let highest = self.began.0.0.saturating_add(elapsed).saturating_add(RAISE_MS_MAX);
        let time = time.min(UnixMs(highest));
        if time > present {
            (self.time, self.at) = (time, now);
        }
        let is_noteworthy = self.time_at(now).0 > self.noted.0.saturating_add(DAY_MS);
        if is_noteworthy {
            self.noted = self.time_at(now);
        }
        is_noteworthy
    }
}

impl TrustedTime {
    /// A clock that begins at `floor`, or at the release's date if that is later.
    #[must_use]
    pub fn new(floor: UnixMs) -> Arc<Self> {
        let time = floor.max(RELEASE);
        let at = since_boot();
        Arc::new(Self(Mutex::new(Floor { time, at, noted: time, began: (time, at) })))
    }

    /// Takes a time that the hub signed; an earlier one than the present changes nothing, a later one
    /// moves the clock, by a year at most beyond where it would be by itself since its start. True when the clock is more than a day past the start or
    /// the last `true`: worth noting in the ledger.
    pub fn raise(&self, time: UnixMs) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).raise(time, since_boot())
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).time_at(since_boot())
    }
}

impl TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}

/// The first 8 bytes of a UUID; 0 when it is none.
fn first_8_bytes(uuid: &str) -> u64 {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

fn since_boot() -> MonotonicMs {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    MonotonicMs(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000))
}

fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn quality(sign: &Path) -> ClockQuality {
    if sign.exists() { ClockQuality::Synchronised } else { ClockQuality::Unsynchronised }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_keeps_its_offset_until_the_wall_clock_is_set() {
        let clock = SystemClock::new();
        let at = |monotonic, wall| Now {
            monotonic: MonotonicMs(monotonic),
            wall: UnixMs(wall),
            quality: ClockQuality::Synchronised,
        };
        let first = clock.stamp(at(1_000, 501_000));
        assert_eq!((first.quality, first.offset_ms), (ClockQuality::Synchronised, 500_000));
        assert_ne!(first.boot, 0);
        assert_eq!(clock.stamp(at(2_000, 502_003)), first, "3 ms of noise");
        assert_eq!(clock.stamp(at(3_000, 103_000)).offset_ms, 100_000);
        assert_eq!(
            clock.stamp(at(900_000, 10)).offset_ms,
            -899_990,
            "a wall clock before the boot"
        );
        assert_eq!(first_8_bytes("0123abcd-4567-89ef-0000-000000000000"), 0x0123_abcd_4567_89ef);
    }

    #[test]
    fn the_monotonic_clock_never_goes_back_and_instances_agree() {
        let (one, two) = (SystemClock::new(), SystemClock::new());
        let mut last = one.now().monotonic;
        for _ in 0..1000 {
            for clock in [&one, &two] {
                let now = clock.now().monotonic;
                assert!(now >= last);
                last = now;
            }
        }
        assert!(one.now().wall > UnixMs(0));
    }

    #[test]
    fn the_wall_clock_is_believed_only_where_the_system_vouches_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let sign = folder.path().join("synchronized");
        let clock = SystemClock::with_sign(&sign);
        assert_eq!(clock.now().quality, ClockQuality::Unsynchronised);
        std::fs::write(&sign, "").unwrap();
        assert_eq!(SystemClock::with_sign(&sign).now().quality, ClockQuality::Synchronised);
        let later = clock.now().monotonic.plus_ms(SIGN_AGE_MS_MAX + 1000);
        assert_eq!(clock.quality_at(later), ClockQuality::Synchronised);
    }

    #[test]
    fn certificates_are_never_judged_before_the_release() {
        assert!(TrustedTime::new(UnixMs(0)).now() >= RELEASE);
        let later = UnixMs(RELEASE.0 + 400 * DAY_MS);
        let time = TrustedTime::new(later);
        assert!(time.now() >= later && time.now() < UnixMs(later.0 + DAY_MS));
        let seen = time.current_time().unwrap().as_secs();
        assert!(seen >= later.0 / 1000);
    }

    #[test]
    fn a_signed_time_raises_the_clock_and_never_lowers_it() {
        let time = TrustedTime::new(RELEASE);
        let hour = UnixMs(RELEASE.0 + DAY_MS / 24);
        assert!(!time.raise(hour));
        assert!(time.now() >= hour);
        assert!(!time.raise(UnixMs(0)));
        assert!(time.now() >= hour);
        let week = UnixMs(RELEASE.0 + 7 * DAY_MS);
        assert!(time.raise(week));
        assert!(!time.raise(UnixMs(week.0 + DAY_MS / 2)));
        assert!(time.raise(UnixMs(week.0 + 2 * DAY_MS)));
    }

    #[test]
    fn a_clock_that_only_runs_is_noted_once_a_day() {
        let began = (RELEASE, MonotonicMs(0));
        let mut floor = Floor { time: RELEASE, at: MonotonicMs(0), noted: RELEASE, began };
        let raised = |floor: &mut Floor, at| floor.raise(UnixMs(0), MonotonicMs(at));
        assert!(!raised(&mut floor, DAY_MS));
        assert!(raised(&mut floor, DAY_MS + 1));
        assert!(!raised(&mut floor, 2 * DAY_MS));
        assert!(raised(&mut floor, 2 * DAY_MS + 2));
    }

    #[test]
    fn a_hub_that_says_2100_moves_the_clock_by_a_year_at_most() {
        let time = TrustedTime::new(RELEASE);
        assert!(time.raise(UnixMs(4_102_444_800_000)));
        for _ in 0..100 {
            time.raise(UnixMs(4_102_444_800_000));
        }
        assert!(time.now() < UnixMs(RELEASE.0 + 367 * DAY_MS));
    }
}
