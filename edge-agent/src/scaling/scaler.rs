//! How many pods one workload should have.

use super::LOOK_INTERVAL_MS;
use shared::limits::REPLICAS_PER_NODE_MAX;
use shared::model::{Autoscaling, MonotonicMs, ScalingMetric};
use std::collections::VecDeque;

/// A mean this close to the target changes nothing, as in Kubernetes.
const TOLERANCE: f64 = 0.1;

/// What calculating with floats may add to a whole number of pods.
const ROUNDING: f64 = 1e-6;

/// Longer than this between two looks something held them up.
const UNSEEN_MS: u64 = 3 * LOOK_INTERVAL_MS;

/// With one look there are at most so many more pods, or twice as many.
const MORE_PODS_MAX: u32 = 4;

/// What one pod has to do; `None` where it is not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    pub(super) is_ready: bool,
    pub(super) value: Option<f64>,
}

/// One workload.
#[derive(Debug)]
pub(super) struct Scaler {
    said: Autoscaling,
    fewest: u32,
    replicas: u32,
    /// What was recommended, as far back as the longer window reaches.
    recommended: VecDeque<(MonotonicMs, u32)>,
    seen: String,
}

impl Scaler {
    /// `present` pods are there, where an earlier start of the agent has decided it.
    pub(super) fn new(said: &Autoscaling, fewest: u32, present: u32, now: MonotonicMs) -> Self {
        let mut scaler = Self {
            said: said.clone(),
            fewest,
            replicas: present,
            recommended: VecDeque::new(),
            seen: String::new(),
        };
        scaler.want(said, fewest);
        // As though it had been recommended now: a start is no reason to have fewer.
        scaler.recommended.push_back((now, scaler.replicas));
        scaler
    }

    /// Other bounds hold at once.
    pub(super) fn want(&mut self, said: &Autoscaling, fewest: u32) {
        if self.said.metric != said.metric || self.said.metric_name != said.metric_name {
            self.seen.clear();
        }
        self.said = said.clone();
        self.fewest = fewest.min(REPLICAS_PER_NODE_MAX);
        self.replicas = self.bounded(self.replicas);
    }

    pub(super) fn metric(&self) -> ScalingMetric {
        self.said.metric
    }

    pub(super) fn metric_name(&self) -> Option<&str> {
        self.said.metric_name.as_deref()
    }

    pub(super) fn replicas(&self) -> u32 {
        self.replicas
    }

    pub(super) fn min_replicas(&self) -> u32 {
        self.fewest
    }

    pub(super) fn max_replicas(&self) -> u32 {
        self.said.max_replicas.min(REPLICAS_PER_NODE_MAX).max(self.fewest)
    }

    pub(super) fn seen(&self) -> &str {
        &self.seen
    }

    fn bounded(&self, count: u32) -> u32 {
        count.clamp(self.fewest, self.max_replicas())
    }

    /// What the pods have to do; whether there are more or fewer of them now, and why.
    pub(super) fn look(&mut self, loads: &[Load], now: MonotonicMs) -> Option<(bool, String)> {
        let target = f64::from(self.said.target.max(1));
        let recommended = match recommend(self.replicas, loads, target) {
            Some(count) => self.bounded(count),
            // Nothing is known: nothing changes.
            None => {
                self.seen = format!("{}: no pod says it", self.metric_word());
                self.note(self.replicas, now);
                return None;
            }
        };
        // Of a time in which nobody looked nothing is known: there were to be as many as there are.
        if self.recommended.back().is_none_or(|(at, _)| now.since_ms(*at) > UNSEEN_MS) {
            self.note(self.replicas, now);
        }
        self.note(recommended, now);
        self.seen = self.words(loads);
        let settled = self.settled(now);
        let before = self.replicas;
        let most = before.saturating_mul(2).max(before.saturating_add(MORE_PODS_MAX));
        self.replicas = self.bounded(settled.min(most));
        let changed = self.replicas != before;
        changed.then(|| {
            (self.replicas > before, format!("{}: {before} to {} pods", self.seen, self.replicas))
        })
    }

    fn note(&mut self, recommended: u32, now: MonotonicMs) {
        let longest = self.said.scale_up_seconds.max(self.said.scale_down_seconds);
        self.recommended.push_back((now, recommended));
        while self.recommended.front().is_some_and(|(at, _)| !is_within(*at, longest, now)) {
            self.recommended.pop_front();
        }
    }

    /// More only where every recommendation of the one window asked for more, fewer only where every one of
    /// the other asked for fewer.
    fn settled(&self, now: MonotonicMs) -> u32 {
        let of = |seconds: u32| {
            let within =
                self.recommended.iter().filter(move |(at, _)| is_within(*at, seconds, now));
            within.map(|(_, count)| *count)
        };
        let up = of(self.said.scale_up_seconds).min().unwrap_or(self.replicas);
        let down = of(self.said.scale_down_seconds).max().unwrap_or(self.replicas);
        self.replicas.max(up).min(down.max(up))
    }

    fn metric_word(&self) -> String {
        match self.said.metric {
            ScalingMetric::CpuUtilization => "CPUUtilization".to_owned(),
            ScalingMetric::GpuUtilization => "GPUUtilization".to_owned(),
            ScalingMetric::RequestsPerSecond => "RequestsPerSecond".to_owned(),
            ScalingMetric::QueueDepth => "QueueDepth".to_owned(),
            ScalingMetric::LatencyPercentile(percent) => format!("LatencyPercentile {percent}"),
        }
    }

    fn words(&self, loads: &[Load]) -> String {
        let known: Vec<f64> = known(loads).collect();
        let (metric, target) = (self.metric_word(), self.said.target);
        format!("{metric} is {:.1} over {} pods, to be {target}", mean(&known), known.len())
    }
}

fn is_within(at: MonotonicMs, seconds: u32, now: MonotonicMs) -> bool {
    now.since_ms(at) <= u64::from(seconds) * 1000
}

fn known(loads: &[Load]) -> impl Iterator<Item = f64> {
    loads.iter().filter(|load| load.is_ready).filter_map(|load| load.value)
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// How many pods it takes, of `replicas` that there should be now; `None` where nothing is known.
fn recommend(replicas: u32, loads: &[Load], target: f64) -> Option<u32> {
    let mut values: Vec<f64> = known(loads).collect();
    if values.is_empty() {
        return None;
    }
    let ratio = mean(&values) / target;
    if is_near_target(ratio) {
        return Some(replicas);
    }
    let silent = loads.iter().filter(|load| load.is_ready && load.value.is_none()).count();
    let unready = loads.iter().filter(|load| !load.is_ready).count();
    // Those of which nothing is known count so that less happens.
    let assumed = if ratio < 1.0 { target } else { 0.0 };
    values.extend(std::iter::repeat_n(assumed, silent));
    if ratio > 1.0 {
        values.extend(std::iter::repeat_n(0.0, unready));
    }
    let careful = mean(&values) / target;
    if is_near_target(careful) || (careful < 1.0) != (ratio < 1.0) {
        return Some(replicas);
    }
    let count = times(values.len(), careful);
    let contradicts = if careful < 1.0 { count > replicas } else { count < replicas };
    Some(if contradicts { replicas } else { count })
}

fn is_near_target(ratio: f64) -> bool {
    (ratio - 1.0).abs() <= TOLERANCE
}

/// So many, rounded up; what is no number is none.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest number that there is"
)]
fn times(count: usize, ratio: f64) -> u32 {
    (count as f64 * ratio - ROUNDING).ceil() as u32
}
