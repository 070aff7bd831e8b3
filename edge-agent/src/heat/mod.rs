//! Which pods rest while a GPU is too hot or takes too much power.
//!
//! Pure. Over a limit one pod after the other leaves the GPU, the lowest priority first, and nobody new comes;
//! well below it they come back one after the other, the highest first. Between two steps there is time for
//! the GPU to follow. A pod that leaves goes to another GPU where there is room, and waits with the reason where
//! there is none. Sets nothing on a device.

#[cfg(test)]
mod tests;

use crate::gpu::metrics::{POWER_WATTS, TEMPERATURE_CELSIUS};
use crate::placement::Bar;
use shared::model::{GpuDevice, MonotonicMs, PodId};
use shared::telemetry::{Series, Values};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Between two steps at one GPU: a heat sink follows within half a minute.
const STEP_MS: u64 = 30_000;

/// What is well below a limit: so many degrees less, and so many per cent of the power.
const COOLER_CELSIUS: u32 = 10;
const WEAKER_PERCENT: u32 = 90;

/// What GPUs of this node may not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuLimits {
    /// Degrees Celsius.
    pub celsius: Option<u32>,
    /// Watts of one GPU.
    pub watts: Option<u32>,
}

impl GpuLimits {
    /// Whether there is any.
    #[must_use]
    pub fn are_set(&self) -> bool {
        self.celsius.is_some() || self.watts.is_some()
    }
}

/// A pod that runs on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Which pod.
    pub pod: PodId,
    /// Its priority.
    pub priority: i32,
    /// UUIDs of the GPUs or of the MIG instance that it holds.
    pub gpus: Vec<String>,
}

/// What began or ended at a GPU, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeatChange {
    /// Its UUID.
    pub gpu: String,
    /// Whether pods rest from now on; else none do any more.
    pub is_hot: bool,
    /// Why, in words.
    pub message: String,
}

/// The GPUs that are too hot.
#[derive(Debug, Default)]
pub struct Heat {
    limits: GpuLimits,
    hot: BTreeMap<String, HotGpu>,
}

#[derive(Debug)]
struct HotGpu {
    bar: Bar,
    /// Pods that rest, with their priorities.
    resting: BTreeMap<PodId, i32>,
    stepped_at: MonotonicMs,
}

/// How a GPU stands to the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reading {
    Over(String),
    /// Neither over a limit nor well below all of them.
    Near,
    Below,
    /// It says nothing.
    Unknown,
}

impl Heat {
    /// Nothing is too hot yet.
    #[must_use]
    pub fn new(limits: GpuLimits) -> Self {
        Self { limits, hot: BTreeMap::new() }
    }

    /// Whether GPUs are to be looked at.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        self.limits.are_set()
    }

    /// What may not be placed where, by the UUIDs of GPUs and of the instances of GPUs.
    #[must_use]
    pub fn bars(&self, gpus: &[GpuDevice]) -> BTreeMap<String, Bar> {
        let of_device = |gpu: &GpuDevice| {
            let hot = self.hot.get(whole_gpu(gpu))?;
            Some((gpu.uuid.clone(), hot.bar.clone()))
        };
        gpus.iter().filter_map(of_device).collect()
    }

    /// Looks at what a sample says of `gpus`, on which `tenants` run. What began or ended; `None` where nothing of
    /// the bars is another.
    pub fn look(
        &mut self,
        values: &Values,
        gpus: &[GpuDevice],
        tenants: &[Tenant],
        now: MonotonicMs,
    ) -> Option<Vec<HeatChange>> {
        if !self.is_needed() {
            return None;
        }
        let before: Vec<Bar> = self.hot.values().map(|hot| hot.bar.clone()).collect();
        let mut changes = Vec::new();
        for gpu in gpus.iter().filter(|gpu| gpu.mig.instance().is_none()) {
            let parts: Vec<&str> = gpus
                .iter()
                .filter(|part| whole_gpu(part) == gpu.uuid)
                .map(|part| part.uuid.as_str())
                .collect();
            let on_it =
                |tenant: &&Tenant| tenant.gpus.iter().any(|held| parts.contains(&held.as_str()));
            let tenants: Vec<&Tenant> = tenants.iter().filter(on_it).collect();
            let reading = self.reading(values, &gpu.uuid);
            changes.extend(self.step(&gpu.uuid, &reading, &tenants, now));
        }
        self.hot.retain(|uuid, _| gpus.iter().any(|gpu| gpu.uuid == *uuid));
        let same = before.iter().eq(self.hot.values().map(|hot| &hot.bar));
        (!same || !changes.is_empty()).then_some(changes)
    }

    fn step(
        &mut self,
        uuid: &str,
        reading: &Reading,
        tenants: &[&Tenant],
        now: MonotonicMs,
    ) -> Option<HeatChange> {
        let change =
            |is_hot, message: String| Some(HeatChange { gpu: uuid.to_owned(), is_hot, message });
        let Some(hot) = self.hot.get_mut(uuid) else {
            let Reading::Over(why) = reading else { return None };
            let mut hot = HotGpu {
                bar: Bar { why: why.clone(), ..Bar::default() },
                resting: BTreeMap::new(),
                stepped_at: now,
            };
            hot.close(why, tenants);
            self.hot.insert(uuid.to_owned(), hot);
            return change(true, format!("{why}: pods of the lowest priority rest"));
        };
        // One that is still on its way out still computes: it is waited for.
        let leaves = tenants.iter().any(|tenant| hot.resting.contains_key(&tenant.pod));
        let is_time = now.since_ms(hot.stepped_at) >= STEP_MS && !leaves;
        match reading {
            Reading::Over(why) => {
                if is_time || (!hot.bar.is_closed && !leaves) {
                    hot.stepped_at = now;
                    hot.close(why, tenants);
                }
                None
            }
            Reading::Below if is_time => {
                hot.stepped_at = now;
                hot.bar.is_closed = false;
                let highest =
                    hot.resting.iter().max_by_key(|(pod, priority)| (**priority, Reverse(*pod)));
                match highest.map(|(pod, _)| pod.clone()) {
                    Some(pod) => {
                        hot.resting.remove(&pod);
                        hot.bar.resting.remove(&pod);
                        hot.bar.tenants.insert(pod);
                        None
                    }
                    None => {
                        self.hot.remove(uuid);
                        change(false, "it is well below its limits again: no pod rests".to_owned())
                    }
                }
            }
            Reading::Below | Reading::Near | Reading::Unknown => None,
        }
    }

    fn reading(&self, values: &Values, uuid: &str) -> Reading {
        let value = |name: &str| values.get(&Series::new(name).with("UUID", uuid));
        let held = [
            (self.limits.celsius, value(TEMPERATURE_CELSIUS), "°C"),
            (self.limits.watts, value(POWER_WATTS), "W"),
        ];
        let mut known =
            held.iter().filter_map(|(limit, value, unit)| Some(((*limit)?, (*value)?, *unit)));
        if let Some((limit, value, unit)) =
            known.clone().find(|(limit, value, _)| *value > f64::from(*limit))
        {
            return Reading::Over(format!("at {value:.0} {unit}, over its limit of {limit}"));
        }
        let well_below = |(limit, value, unit): (u32, f64, &str)| {
            let again = match unit {
                "W" => f64::from(limit) * f64::from(WEAKER_PERCENT) / 100.0,
                _ => f64::from(limit.saturating_sub(COOLER_CELSIUS)),
            };
            value <= again
        };
        // Each limit must be known to be kept.
        let set = held.iter().filter(|(limit, _, _)| limit.is_some()).count();
        match known.clone().count() {
            0 => Reading::Unknown,
            count if count == set && known.all(well_below) => Reading::Below,
            _ => Reading::Near,
        }
    }
}

impl HotGpu {
    /// Nobody new comes, and one more pod rests: the lowest priority, and of equal ones the last by name.
    fn close(&mut self, why: &str, tenants: &[&Tenant]) {
        why.clone_into(&mut self.bar.why);
        self.bar.is_closed = true;
        self.bar.tenants.extend(tenants.iter().map(|tenant| tenant.pod.clone()));
        let stays = tenants.iter().filter(|tenant| !self.resting.contains_key(&tenant.pod));
        if let Some(lowest) = stays.min_by_key(|tenant| (tenant.priority, Reverse(&tenant.pod))) {
            self.resting.insert(lowest.pod.clone(), lowest.priority);
            self.bar.tenants.remove(&lowest.pod);
            self.bar.resting.insert(lowest.pod.clone());
        }
    }
}

/// The GPU that a device is or is a part of.
fn whole_gpu(gpu: &GpuDevice) -> &str {
    gpu.mig.instance().map_or(&gpu.uuid, |instance| &instance.parent)
}
