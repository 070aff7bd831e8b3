//! Samples go in, and the number of pods comes out.

use super::*;
use proptest::prelude::*;
use shared::model::{Autoscaling, PodTemplate, Revision, ScalingMetric};
use shared::telemetry::Series;

const KEY: &str = "default/ocr";

fn workload(fewest: u32, said: Autoscaling) -> Workload {
    Workload {
        key: KEY.parse().unwrap(),
        revision: Revision(1),
        replicas: fewest,
        priority: 0,
        tolerations: vec![],
        template: PodTemplate::default(),
        results: vec![],
        parameters: BTreeMap::new(),
        autoscaling: Some(said),
    }
}

fn said(metric: ScalingMetric, target: u32) -> Autoscaling {
    Autoscaling {
        max_replicas: 10,
        metric,
        target,
        metric_name: None,
        scale_up_seconds: 0,
        scale_down_seconds: 300,
    }
}

/// One node with one workload whose pods are all ready.
struct Site {
    scaling: Scaling,
    workload: Workload,
    now: MonotonicMs,
}

impl Site {
    fn new(workload: Workload, present: u32) -> Self {
        let mut site = Self { scaling: Scaling::default(), workload, now: MonotonicMs(0) };
        site.assign(present);
        site
    }

    fn assign(&mut self, present: u32) {
        let workloads = [(self.workload.key.clone(), self.workload.clone())].into();
        self.scaling.assign(&workloads, |_| present, self.now);
    }

    fn replicas(&self) -> u32 {
        self.scaling.replicas(&self.workload)
    }

    fn pod(&self, ordinal: u32) -> ScaledPod {
        ScaledPod {
            pod: PodId { workload: self.workload.key.clone(), ordinal },
            is_ready: true,
            gpus: vec![format!("GPU-{ordinal}")],
            cpu_millicores: 500,
        }
    }

    /// A look, ten seconds later, at what `value` says of each pod.
    fn look(&mut self, value: impl Fn(&PodId) -> Vec<(Series, f64)>) -> Vec<Scaled> {
        let pods: Vec<ScaledPod> = (0..self.replicas()).map(|ordinal| self.pod(ordinal)).collect();
        self.look_at(&pods, value)
    }

    fn look_at(
        &mut self,
        pods: &[ScaledPod],
        value: impl Fn(&PodId) -> Vec<(Series, f64)>,
    ) -> Vec<Scaled> {
        self.now = self.now.plus_ms(LOOK_INTERVAL_MS);
        let values = pods.iter().flat_map(|pod| value(&pod.pod)).collect::<BTreeMap<_, _>>();
        self.scaling.look(&Values::from(values), pods, self.now)
    }
}

fn of_pod(pod: &PodId, name: &str) -> Series {
    Series::new(name).with("namespace", pod.workload.namespace()).with("pod", &pod.name())
}

fn queue(length: f64) -> impl Fn(&PodId) -> Vec<(Series, f64)> {
    move |pod| vec![(of_pod(pod, "queue_depth"), length)]
}

#[test]
fn more_pods_come_at_once_and_go_after_they_were_not_needed_for_a_while() {
    let mut site = Site::new(workload(1, said(ScalingMetric::QueueDepth, 5)), 0);
    assert_eq!(site.replicas(), 1);
    let scaled = site.look(queue(14.0));
    assert_eq!(site.replicas(), 3);
    let message = "QueueDepth is 14.0 over 1 pods, to be 5: 1 to 3 pods";
    assert_eq!((scaled[0].is_up, scaled[0].message.as_str()), (true, message));
    // Within a tenth of the target nothing changes.
    assert!(site.look(queue(5.4)).is_empty());
    // The last recommendation of three pods was 10 s after the one that was acted upon.
    for _ in 0..30 {
        assert!(site.look(queue(1.0)).is_empty());
    }
    let scaled = site.look(queue(1.0));
    assert!(!scaled[0].is_up && site.replicas() == 1, "{scaled:?}");
}

#[test]
fn a_window_holds_more_pods_back_as_well() {
    let mut slow = said(ScalingMetric::QueueDepth, 5);
    slow.scale_up_seconds = 30;
    let mut site = Site::new(workload(1, slow), 0);
    for _ in 0..3 {
        assert!(site.look(queue(50.0)).is_empty());
    }
    assert_eq!(site.look(queue(50.0)).len(), 1);
    assert_eq!(site.replicas(), 5, "twice as many, or four more, with one look");
}

#[test]
fn there_are_never_more_or_fewer_than_is_said_and_other_bounds_hold_at_once() {
    let mut site = Site::new(workload(2, said(ScalingMetric::QueueDepth, 1)), 0);
    for _ in 0..5 {
        site.look(queue(1000.0));
    }
    assert_eq!(site.replicas(), 10);
    site.workload.autoscaling.as_mut().unwrap().max_replicas = 4;
    site.assign(10);
    assert_eq!(site.replicas(), 4);
    site.workload.replicas = 6;
    site.assign(4);
    assert_eq!(site.replicas(), 6, "the fewest hold over the most");
    site.workload.autoscaling = None;
    site.assign(6);
    assert!(!site.scaling.is_needed());
}

#[test]
fn after_a_start_there_are_as_many_as_before_it() {
    let mut site = Site::new(workload(1, said(ScalingMetric::QueueDepth, 5)), 7);
    assert_eq!(site.replicas(), 7);
    assert!(site.look(queue(0.0)).is_empty());
    assert_eq!(site.replicas(), 7);
}

#[test]
fn pods_of_which_nothing_is_known_count_so_that_less_happens() {
    let mut site = Site::new(workload(1, said(ScalingMetric::QueueDepth, 10)), 4);
    let only_the_first = |length: f64| {
        move |pod: &PodId| match pod.ordinal {
            0 => vec![(of_pod(pod, "queue_depth"), length)],
            _ => vec![],
        }
    };
    // 25 over four pods, of which three say nothing: not over the target.
    assert!(site.look(only_the_first(25.0)).is_empty());
    // Nobody says anything: nothing is known.
    assert!(site.look(|_| vec![]).is_empty());
    let status = site.scaling.statuses().next().unwrap();
    assert_eq!(status.seen, "QueueDepth: no pod says it");
    // One that is not ready yet is expected to take its part.
    let pods: Vec<_> = (0..4).map(|n| ScaledPod { is_ready: n < 2, ..site.pod(n) }).collect();
    assert!(site.look_at(&pods, queue(19.0)).is_empty());
    assert_eq!(site.look_at(&pods, queue(40.0)).len(), 1);
    assert_eq!(site.replicas(), 8);
}

#[test]
fn a_time_of_which_nothing_is_known_is_no_reason_for_fewer() {
    let mut site = Site::new(workload(1, said(ScalingMetric::QueueDepth, 10)), 10);
    // All pods load a new model for ten minutes; the first that is ready has nothing to do yet.
    for _ in 0..60 {
        assert!(site.look(|_| vec![]).is_empty());
    }
    assert!(site.look(queue(0.0)).is_empty());
    // Nobody looked for an hour.
    site.now = site.now.plus_ms(3_600_000);
    assert!(site.look(queue(0.0)).is_empty());
    assert_eq!(site.replicas(), 10);
}

#[test]
fn of_several_metrics_that_fit_the_first_counts() {
    let mut site = Site::new(workload(1, said(ScalingMetric::LatencyPercentile(90), 100)), 0);
    let both = |count: f64| {
        move |pod: &PodId| {
            let bucket = |name: &str, le: &str| of_pod(pod, name).with("le", le);
            vec![
                (bucket("http_request_duration_seconds_bucket", "0.1"), count),
                (bucket("http_request_duration_seconds_bucket", "+Inf"), count),
                (bucket("payload_bytes_bucket", "4096"), count),
                (bucket("payload_bytes_bucket", "+Inf"), count),
            ]
        }
    };
    site.look(both(0.0));
    site.look(both(10.0));
    assert!(site.scaling.statuses().next().unwrap().seen.contains("is 90.0 over"));
}

#[test]
fn a_pod_that_speaks_of_gpus_is_not_the_driver() {
    let mut site = Site::new(workload(1, said(ScalingMetric::GpuUtilization, 50)), 0);
    site.look(|pod| {
        let driver = Series::new("DCGM_FI_DEV_GPU_UTIL").with("UUID", "GPU-0");
        let page = of_pod(pod, "DCGM_FI_DEV_GPU_UTIL").with("UUID", "GPU-0");
        vec![(driver, 50.0), (page, 100.0)]
    });
    assert_eq!(site.replicas(), 1);
}

#[test]
fn counters_count_by_how_much_they_rise() {
    let mut site = Site::new(workload(1, said(ScalingMetric::RequestsPerSecond, 10)), 0);
    let served = |count: f64| move |pod: &PodId| vec![(of_pod(pod, "http_requests_total"), count)];
    assert!(site.look(served(1_000_000.0)).is_empty(), "one reading tells no rate");
    site.look(served(1_000_300.0));
    assert_eq!(site.replicas(), 3);
    // One pod began anew: what it counted since is what it served.
    site.look(served(100.0));
    let status = site.scaling.statuses().next().unwrap();
    assert_eq!(status.seen, "RequestsPerSecond is 10.0 over 1 pods, to be 10");
}

#[test]
fn before_the_first_request_the_histogram_of_their_latency_says_that_there_was_none() {
    let mut site = Site::new(workload(1, said(ScalingMetric::RequestsPerSecond, 10)), 3);
    let idle = |pod: &PodId| vec![(of_pod(pod, "http_request_duration_seconds_count"), 0.0)];
    site.look(idle);
    site.look(idle);
    let status = site.scaling.statuses().next().unwrap();
    assert_eq!(status.seen, "RequestsPerSecond is 0.0 over 3 pods, to be 10");
}

#[test]
fn the_utilisation_is_that_of_the_gpus_that_a_pod_holds() {
    let mut site = Site::new(workload(1, said(ScalingMetric::GpuUtilization, 40)), 0);
    let busy = |pod: &PodId| {
        let series = |uuid: &str| Series::new("DCGM_FI_DEV_GPU_UTIL").with("UUID", uuid);
        vec![(series(&format!("GPU-{}", pod.ordinal)), 100.0), (series("GPU-idle"), 0.0)]
    };
    site.look(busy);
    assert_eq!(site.replicas(), 3);
}

#[test]
fn cpu_is_in_per_cent_of_what_is_requested() {
    let mut site = Site::new(workload(1, said(ScalingMetric::CpuUtilization, 100)), 0);
    let used = |seconds: f64| {
        move |pod: &PodId| vec![(of_pod(pod, "container_cpu_usage_seconds_total"), seconds)]
    };
    site.look(used(100.0));
    // A whole core, where half of one is requested.
    site.look(used(110.0));
    assert_eq!(site.replicas(), 2);
}

#[test]
fn a_percentile_is_read_from_the_buckets_as_prometheus_reads_it() {
    let mut site = Site::new(workload(1, said(ScalingMetric::LatencyPercentile(90), 100)), 0);
    let answered = |counts: [f64; 3]| {
        move |pod: &PodId| {
            let bounds = ["0.1", "0.5", "+Inf"].into_iter();
            let series = of_pod(pod, "http_request_duration_seconds_bucket");
            bounds.zip(counts).map(|(le, count)| (series.clone().with("le", le), count)).collect()
        }
    };
    site.look(answered([10.0, 20.0, 20.0]));
    // Of 100 requests 80 within 0.1 s and all within 0.5: the 90th is half way between.
    site.look(answered([90.0, 120.0, 120.0]));
    let status = site.scaling.statuses().next().unwrap();
    assert_eq!(status.seen, "LatencyPercentile 90 is 300.0 over 1 pods, to be 100");
    assert_eq!(site.replicas(), 3);
    // Whatever is beyond the last bound is at least that; where nobody asks nobody waits.
    site.look(answered([90.0, 120.0, 220.0]));
    assert!(site.scaling.statuses().next().unwrap().seen.contains("is 500.0"));
    site.look(answered([90.0, 120.0, 220.0]));
    assert!(site.scaling.statuses().next().unwrap().seen.contains("is 0.0"));
}

proptest! {
    #[test]
    fn whatever_pods_say_the_number_stays_within_its_bounds(
        looks in prop::collection::vec(
            prop::collection::vec(prop::option::of(any::<f64>()), 0..12), 1..20),
        fewest in 0u32..5, most in 0u32..12, up in 0u32..60, down in 0u32..60, target in 0u32..100,
    ) {
        let said = Autoscaling {
            max_replicas: most,
            scale_up_seconds: up,
            scale_down_seconds: down,
            ..said(ScalingMetric::QueueDepth, target)
        };
        let mut site = Site::new(workload(fewest, said), 3);
        for values in looks {
            site.look(|pod| {
                let value = values.get(pod.ordinal as usize).copied().flatten();
                value.map(|value| (of_pod(pod, "queue_depth"), value)).into_iter().collect()
            });
            prop_assert!((fewest..=most.max(fewest)).contains(&site.replicas()));
        }
    }

    #[test]
    fn a_load_that_stays_comes_to_rest(load in 0.0f64..500.0, target in 1u32..50) {
        let mut site = Site::new(workload(1, said(ScalingMetric::QueueDepth, target)), 0);
        let mut last = 0;
        for look in 0..200 {
            // All of the load together is the same, however many share it.
            let each = load / f64::from(site.replicas());
            site.look(queue(each));
            if look == 100 {
                last = site.replicas();
            }
        }
        prop_assert_eq!(site.replicas(), last);
    }
}
