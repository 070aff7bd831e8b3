//! What of the GPUs a person should know though pods go on: clocks that the hardware holds down, and memory that
//! waits for a reset to be taken out of use.
//!
//! Pure. A clock is held down when it was in more looks than not, by a minute; it is free again after five minutes
//! without. So what flickers begins once and ends once. Idle, clocks that somebody set, and the power limit that
//! every busy GPU reaches are no reason. Sets nothing on a device, moves no pod.
//!
//! Source of the bits: `nvmlClocksEventReason…` in NVIDIA's `nvml.h`.

#[cfg(test)]
mod tests;

use super::metrics::{CLOCK_REASONS, REMAP_PENDING, RETIRED_PENDING};
use shared::model::{Condition, ConditionStatus, GpuDevice, MonotonicMs};
use shared::telemetry::{Series, Values};
use std::collections::BTreeMap;

/// The hardware: for one of the two below it, or for another that it does not tell.
const HARDWARE: u64 = 0x08;
const DRIVER_HEAT: u64 = 0x20;
const HARDWARE_HEAT: u64 = 0x40;
const POWER_BRAKE: u64 = 0x80;

/// Held down in more looks than not, by so much.
const BEGINS_MS: u64 = 60_000;

/// Over after so long without.
const ENDS_MS: u64 = 300_000;

/// Between two looks no more is counted: what was not looked at is not known.
const LOOK_MS_MAX: u64 = 30_000;

/// GPUs that a condition names; of the others it says how many.
const NAMED_MAX: usize = 4;

/// What began or ended at a GPU, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuConditionChange {
    /// Its UUID.
    pub gpu: String,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// The GPUs that a person should know of.
#[derive(Debug, Default)]
pub struct GpuConditions(BTreeMap<String, Seen>);

#[derive(Debug, Default)]
struct Seen {
    looked_at: Option<MonotonicMs>,
    /// By how much it was held down for longer than not; at most [`BEGINS_MS`].
    held_ms: u64,
    /// Why, and since when not any more, while it counts as held down.
    held: Option<(u64, MonotonicMs)>,
    /// What waits for a reset.
    waits: Option<&'static str>,
}

impl GpuConditions {
    /// Looks at what a sample says of `gpus`: what began or ended. What is not told is as it was.
    pub fn look(
        &mut self,
        values: &Values,
        gpus: &[GpuDevice],
        now: MonotonicMs,
    ) -> Vec<GpuConditionChange> {
        self.0.retain(|uuid, _| gpus.iter().any(|gpu| gpu.uuid == *uuid));
        let mut changes = Vec::new();
        for gpu in gpus.iter().filter(|gpu| gpu.mig.instance().is_none()) {
            let told = |name| values.get(&Series::new(name).with("UUID", &gpu.uuid));
            let seen = self.0.entry(gpu.uuid.clone()).or_default();
            let mut tell = |(reason, message)| {
                changes.push(GpuConditionChange { gpu: gpu.uuid.clone(), reason, message });
            };
            if let Some(bits) = told(CLOCK_REASONS) {
                seen.note_clocks(reasons(bits), now).into_iter().for_each(&mut tell);
            }
            let waits = (told(RETIRED_PENDING), told(REMAP_PENDING));
            seen.note_waits(waits).into_iter().for_each(&mut tell);
        }
        changes
    }

    /// The node's conditions: each only while it holds.
    pub fn conditions(&self) -> impl Iterator<Item = Condition> {
        let held = self.named(|seen| seen.held.map(|(bits, _)| words(bits)));
        let waits = self.named(|seen| seen.waits.map(|what| format!("{what}: {RESET}")));
        let condition = |kind: &str, reason: &str, message| Condition {
            kind: kind.to_owned(),
            status: ConditionStatus::True,
            reason: reason.to_owned(),
            message,
        };
        let throttled = held.map(|message| condition("GpuThrottled", "ClocksHeldDown", message));
        let reset =
            waits.map(|message| condition("GpuResetNeeded", "MemoryWaitsForReset", message));
        throttled.into_iter().chain(reset)
    }

    fn named(&self, what: impl Fn(&Seen) -> Option<String>) -> Option<String> {
        let of = |(uuid, seen): (&String, &Seen)| Some(format!("{uuid}: {}", what(seen)?));
        let all: Vec<String> = self.0.iter().filter_map(of).collect();
        let more = all.len().saturating_sub(NAMED_MAX);
        let more = (more > 0).then(|| format!("and {more} more"));
        let named = all.into_iter().take(NAMED_MAX).chain(more).collect::<Vec<_>>();
        (!named.is_empty()).then(|| named.join("; "))
    }
}

/// What helps memory that waits.
const RESET: &str = "reset the GPU or restart the machine when that suits; pods go on until then";

type Told = (&'static str, String);

impl Seen {
    fn note_clocks(&mut self, bits: u64, now: MonotonicMs) -> Option<Told> {
        let since_ms = self.looked_at.map_or(0, |at| now.since_ms(at)).min(LOOK_MS_MAX);
        self.looked_at = Some(now);
        self.held_ms = match bits {
            0 => self.held_ms.saturating_sub(since_ms),
            _ => self.held_ms.saturating_add(since_ms).min(BEGINS_MS),
        };
        let Some((known, last)) = &mut self.held else {
            if bits == 0 || self.held_ms < BEGINS_MS {
                return None;
            }
            self.held = Some((bits, now));
            return Some(("GpuThrottled", words(bits)));
        };
        if bits != 0 {
            *last = now;
            // A further reason is told once; one that goes is not.
            let is_new = *known | bits != *known;
            *known |= bits;
            return is_new.then(|| ("GpuThrottled", words(*known)));
        }
        if now.since_ms(*last) < ENDS_MS {
            return None;
        }
        (self.held, self.held_ms) = (None, 0);
        Some(("GpuNotThrottled", "its clocks are free again".to_owned()))
    }

    fn note_waits(&mut self, (pages, rows): (Option<f64>, Option<f64>)) -> Option<Told> {
        if pages.is_none() && rows.is_none() {
            return None;
        }
        let holds = |told: Option<f64>| told.is_some_and(|value| value > 0.0);
        let waits = match (holds(pages), holds(rows)) {
            (_, true) => Some("rows of its memory wait to be remapped"),
            (true, false) => Some("pages of its memory wait for retirement"),
            (false, false) => None,
        };
        if waits == self.waits {
            return None;
        }
        self.waits = waits;
        Some(match waits {
            Some(what) => ("GpuResetNeeded", format!("{what}: {RESET}")),
            None => ("GpuResetDone", "no memory waits for a reset any more".to_owned()),
        })
    }
}

/// The reasons that count, of those that were told.
fn reasons(told: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a set of bits")]
    let bits = told as u64;
    bits & (HARDWARE | DRIVER_HEAT | HARDWARE_HEAT | POWER_BRAKE)
}

fn words(bits: u64) -> String {
    let is_told = bits & (HARDWARE_HEAT | POWER_BRAKE) != 0;
    let of = [
        (HARDWARE_HEAT, "the hardware holds its clocks down since it is too hot"),
        (DRIVER_HEAT, "the driver holds its clocks down since it is too hot"),
        (POWER_BRAKE, "its power supply brakes it from outside"),
        (if is_told { 0 } else { HARDWARE }, "the hardware holds its clocks down"),
    ];
    let said = of.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, said)| said);
    said.collect::<Vec<_>>().join(", ")
}
