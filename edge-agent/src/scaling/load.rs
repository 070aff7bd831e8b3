//! What samples say of what each pod has to do.
//!
//! Counters count by how much they rise between two looks, as in Prometheus: one that fell has begun anew.
//! A percentile is read from the buckets of a histogram as `histogram_quantile` reads it.

use super::ScaledPod;
use crate::gpu::metrics::UTILIZATION_PERCENT;
use shared::model::{MonotonicMs, PodId, ScalingMetric};
use shared::telemetry::{Series, Values};
use std::collections::BTreeMap;

/// The usual name of the gauge of requests that wait.
pub const QUEUE_DEPTH: &str = "queue_depth";

const CPU_SECONDS: &str = "container_cpu_usage_seconds_total";

/// What was read of one pod.
#[derive(Debug, Clone, Default)]
struct Reading {
    at: MonotonicMs,
    values: BTreeMap<Series, f64>,
}

/// The last two readings of each pod.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The earlier one, where there is one, and the later.
    pods: BTreeMap<PodId, (Option<Reading>, Reading)>,
    /// When samples were taken last.
    at: MonotonicMs,
    /// GPUs' utilisation in per cent, by UUID.
    gpus: BTreeMap<String, f64>,
}

impl Meter {
    /// Takes what a sample says of these pods; others are forgotten.
    pub(super) fn take(&mut self, values: &Values, pods: &[ScaledPod], now: MonotonicMs) {
        let names: BTreeMap<(&str, String), &PodId> = pods
            .iter()
            .map(|pod| ((pod.pod.workload.namespace(), pod.pod.name()), &pod.pod))
            .collect();
        let mut seen: BTreeMap<&PodId, Reading> = BTreeMap::new();
        self.gpus.clear();
        self.at = now;
        for (series, value) in values.iter() {
            if &*series.name == UTILIZATION_PERCENT && !series.labels.contains_key("pod") {
                let uuid = series.labels.get("UUID").cloned().unwrap_or_default();
                self.gpus.insert(uuid, value);
                continue;
            }
            let label = |name: &str| series.labels.get(name).map(String::as_str);
            let (Some(namespace), Some(pod)) = (label("namespace"), label("pod")) else { continue };
            if let Some(pod) = names.get(&(namespace, pod.to_owned())) {
                let reading = seen.entry(pod).or_default();
                reading.at = now;
                reading.values.insert(series.clone(), value);
            }
        }
        self.pods.retain(|pod, _| names.values().any(|known| *known == pod));
        for (pod, reading) in seen {
            let earlier = self.pods.remove(pod).map(|(_, latest)| latest);
            self.pods.insert(pod.clone(), (earlier, reading));
        }
    }

    /// What `pod` has to do, in the metric's unit; `None` where that is not known.
    pub(super) fn load(
        &self,
        pod: &ScaledPod,
        metric: ScalingMetric,
        name: Option<&str>,
    ) -> Option<f64> {
        match metric {
            ScalingMetric::GpuUtilization => self.gpu_utilization(pod),
            ScalingMetric::CpuUtilization => {
                let cores = self.pair(&pod.pod)?.rate(|series| series == CPU_SECONDS)?;
                (pod.cpu_millicores > 0).then(|| cores * 100_000.0 / millicores(pod.cpu_millicores))
            }
            ScalingMetric::RequestsPerSecond => {
                let pair = self.pair(&pod.pod)?;
                match name {
                    Some(name) => pair
                        .rate(|series| series == name)
                        .or_else(|| pair.rate(|series| is_part(series, name, "_count"))),
                    // A counter by status is not there before the first request; a histogram is.
                    None => pair
                        .rate(|series| series.ends_with("requests_total"))
                        .or_else(|| pair.rate(|series| series.ends_with("_count"))),
                }
            }
            ScalingMetric::QueueDepth => {
                let name = name.unwrap_or(QUEUE_DEPTH);
                let (_, latest) = self.readings(&pod.pod)?;
                sum(latest.values.iter().filter(|(series, _)| &*series.name == name))
            }
            ScalingMetric::LatencyPercentile(percent) => {
                self.pair(&pod.pod)?.percentile_ms(percent, name)
            }
        }
    }

    /// The mean over the GPUs that the pod holds.
    fn gpu_utilization(&self, pod: &ScaledPod) -> Option<f64> {
        let held: Option<Vec<f64>> =
            pod.gpus.iter().map(|uuid| self.gpus.get(uuid).copied()).collect();
        let held = held.filter(|held| !held.is_empty())?;
        let count = u32::try_from(held.len()).ok()?;
        Some(held.iter().sum::<f64>() / f64::from(count))
    }

    fn pair(&self, pod: &PodId) -> Option<Pair<'_>> {
        let (earlier, later) = self.readings(pod)?;
        Some(Pair { earlier: earlier.as_ref()?, later })
    }

    /// What the last sample said of a pod, and one before it; none where that sample said nothing.
    fn readings(&self, pod: &PodId) -> Option<&(Option<Reading>, Reading)> {
        self.pods.get(pod).filter(|(_, latest)| latest.at == self.at)
    }
}

/// Two readings of a pod.
struct Pair<'a> {
    earlier: &'a Reading,
    later: &'a Reading,
}

impl Pair<'_> {
    /// By how much a counter rose.
    fn rise(&self, series: &Series) -> Option<f64> {
        let (before, after) = (self.earlier.values.get(series)?, self.later.values.get(series)?);
        Some(if after < before { *after } else { after - before })
    }

    fn of_name(&self, name: &str) -> impl Iterator<Item = (&Series, f64)> {
        let rises = self.later.values.keys().filter(move |series| &*series.name == name);
        rises.filter_map(|series| Some((series, self.rise(series)?)))
    }

    /// The first name that fits.
    fn name(&self, is_it: impl Fn(&str) -> bool) -> Option<&str> {
        self.later.values.keys().map(|series| &*series.name).find(|name| is_it(name))
    }

    /// What all series of the first name that fits rose by in a second.
    fn rate(&self, is_it: impl Fn(&str) -> bool) -> Option<f64> {
        let name = self.name(is_it)?;
        let mut rises = self.of_name(name).map(|(_, rise)| rise).peekable();
        rises.peek()?;
        let ms =
            u32::try_from(self.later.at.since_ms(self.earlier.at)).ok().filter(|ms| *ms > 0)?;
        Some(rises.sum::<f64>() * 1000.0 / f64::from(ms))
    }

    /// Milliseconds within which `percent` of the requests between the readings were answered; 0 where there
    /// were none.
    fn percentile_ms(&self, percent: u8, name: Option<&str>) -> Option<f64> {
        let is_bucket = |series: &str| match name {
            Some(name) => is_part(series, name, "_bucket"),
            None => series.ends_with("_bucket"),
        };
        let mut buckets: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        let mut unit_ms = 1000.0;
        for (series, rise) in self.of_name(self.name(is_bucket)?) {
            let Some(bound) = series.labels.get("le").and_then(|le| le.parse::<f64>().ok()) else {
                continue;
            };
            if bound.is_nan() || bound < 0.0 {
                continue;
            }
            if series.name.contains("milliseconds") {
                unit_ms = 1.0;
            }
            // Of numbers that are not negative the bits are in their order.
            buckets.entry(bound.to_bits()).or_insert((bound, 0.0)).1 += rise;
        }
        let buckets: Vec<(f64, f64)> = buckets.into_values().collect();
        quantile(&buckets, f64::from(percent) / 100.0).map(|bound| bound * unit_ms)
    }
}

/// The value below which the part `wanted` of all observations lies, from cumulative counts by ascending
/// bounds.
fn quantile(buckets: &[(f64, f64)], wanted: f64) -> Option<f64> {
    let (_, all) = buckets.last()?;
    if *all <= 0.0 {
        return Some(0.0);
    }
    let rank = wanted * all;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            // Beyond the last bound nothing is known but that it is beyond.
            if bound.is_infinite() {
                return Some(lower);
            }
            let within = count - below;
            let part = if within > 0.0 { (rank - below) / within } else { 1.0 };
            return Some(lower + (bound - lower) * part);
        }
        (lower, below) = (*bound, *count);
    }
    Some(lower)
}

fn is_part(series: &str, name: &str, part: &str) -> bool {
    series.strip_prefix(name) == Some(part)
}

fn sum<'a>(values: impl Iterator<Item = (&'a Series, &'a f64)>) -> Option<f64> {
    let mut values = values.map(|(_, value)| *value).peekable();
    values.peek()?;
    Some(values.sum())
}

#[expect(clippy::cast_precision_loss, reason = "no pod requests 2^53 thousandths of a core")]
fn millicores(count: u64) -> f64 {
    count as f64
}
