//! The number of pods follows what they have to do, as the core sees it.

use super::*;
use shared::model::{Autoscaling, NodeEvent, PodId, ScalingMetric};
use shared::wire::{Stream, decode};

const LOOK_MS: u64 = crate::scaling::LOOK_INTERVAL_MS;

fn scaled() -> Workload {
    let mut workload = workload("ocr", 1);
    let annotations = &mut workload.template.metadata.annotations;
    annotations.insert("prometheus.io/scrape".to_owned(), "true".to_owned());
    annotations.insert("prometheus.io/port".to_owned(), "8000".to_owned());
    Workload {
        autoscaling: Some(Autoscaling {
            max_replicas: 3,
            metric: ScalingMetric::QueueDepth,
            target: 5,
            metric_name: None,
            scale_up_seconds: 0,
            scale_down_seconds: 0,
        }),
        ..workload
    }
}

/// A sample in which each of these pods says how many requests wait in it.
fn queues(lengths: &[f64]) -> Event {
    let series = |ordinal: usize| {
        let pod = PodId {
            workload: "default/ocr".parse().unwrap(),
            ordinal: u32::try_from(ordinal).unwrap(),
        };
        Series::new("queue_depth").with("namespace", "default").with("pod", &pod.name())
    };
    let values: BTreeMap<_, _> =
        lengths.iter().enumerate().map(|(n, length)| (series(n), *length)).collect();
    Event::Sampled(Sample { values: values.into(), ..Sample::default() })
}

/// Everything that was to be started runs.
fn run_all(bench: &mut Bench) {
    let started = bench.others.iter().filter_map(|effect| match effect {
        Effect::Start(request) => Some((request.pod.clone(), request.instance)),
        _ => None,
    });
    for (pod, instance) in started.collect::<Vec<_>>() {
        bench.tell(Event::Runtime(RuntimeEvent::Started { pod, instance, started_at: UnixMs(1) }));
    }
}

fn running(bench: &Bench) -> usize {
    bench.core.status(LinkStatus::default()).pods.iter().filter(|pod| pod.ready).count()
}

fn bench_with_one() -> Bench {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[scaled()], version(1, 2));
    run_all(&mut bench);
    assert_eq!(running(&bench), 1);
    bench.wait(LOOK_MS);
    bench
}

#[test]
fn more_pods_are_started_and_fewer_again_and_it_is_told_why() {
    let mut bench = bench_with_one();
    bench.tell(queues(&[12.0]));
    run_all(&mut bench);
    assert_eq!(running(&bench), 3);
    let events: Vec<NodeEvent> = telemetry::stored(&bench, Stream::Events)
        .iter()
        .map(|(_, record)| decode("event", record, 4096).unwrap())
        .collect();
    let told = events.iter().find(|event| event.reason == "ScaledUp").unwrap();
    assert_eq!(told.object, "default/ocr");
    assert_eq!(told.message, "QueueDepth is 12.0 over 1 pods, to be 5: 1 to 3 pods");
    let status = bench.core.status(LinkStatus::default());
    assert_eq!((status.scaling[0].replicas, status.scaling[0].max_replicas), (3, 3));
    bench.wait(LOOK_MS);
    bench.tell(queues(&[0.0, 0.0, 0.0]));
    let stopped = |effect: &Effect| matches!(effect, Effect::Stop { pod, .. } if pod.ordinal > 0);
    assert_eq!(bench.others.iter().filter(|effect| stopped(effect)).count(), 2);
}

#[test]
fn a_desired_state_that_says_nothing_new_of_it_leaves_the_number_as_it_is() {
    let mut bench = bench_with_one();
    bench.tell(queues(&[12.0]));
    run_all(&mut bench);
    bench.desire(&[scaled(), workload("other", 1)], version(1, 3));
    run_all(&mut bench);
    assert_eq!(running(&bench), 4);
    bench.desire(&[Workload { autoscaling: None, ..scaled() }], version(1, 4));
    assert_eq!(bench.stopped(), 3, "two of them and the other workload");
}

#[test]
fn where_samples_are_rare_the_pods_are_looked_at_all_the_same_and_no_more_is_kept() {
    let mut bench = bench_with_one();
    let scrapes = |bench: &Bench| {
        bench.others.iter().filter(|effect| matches!(effect, Effect::Scrape(_))).count()
    };
    let samples = |bench: &Bench| {
        bench.others.iter().filter(|effect| matches!(effect, Effect::Sample)).count()
    };
    bench.core.recorder.ladder.decide(Some(10_000), false, bench.now);
    assert!(bench.core.recorder.ladder.rung().sample_interval_ms >= 300_000);
    bench.wait(20_000);
    let (scraped, sampled) = (scrapes(&bench), samples(&bench));
    bench.wait(LOOK_MS * 6);
    assert_eq!((scrapes(&bench) - scraped, samples(&bench) - sampled), (6, 6));
    let pending = bench.core.status(LinkStatus::default()).outbox.samples_pending;
    // Nothing was known for a minute: the first look after it changes nothing.
    bench.tell(queues(&[12.0]));
    assert_eq!(bench.core.status(LinkStatus::default()).scaling[0].replicas, 1);
    bench.wait(LOOK_MS);
    bench.tell(queues(&[12.0]));
    let status = bench.core.status(LinkStatus::default());
    assert_eq!((status.scaling[0].replicas, status.outbox.samples_pending), (3, pending));
    bench.desire(&[workload("ocr", 1)], version(1, 3));
    let sampled = samples(&bench);
    bench.wait(LOOK_MS * 6);
    assert_eq!(samples(&bench), sampled, "nobody looks any more");
}
