//! Pods leave while the node runs out of memory, as the core sees it.

use super::heat::{obey, pod};
use super::*;
use crate::pressure::{EvictionLimits, PidAmount};
use shared::model::PodPhase;

fn available(mib: u32) -> Event {
    let bytes = f64::from(mib) * f64::from(1 << 20);
    let values = [(Series::new("node_memory_MemAvailable_bytes"), bytes)].into();
    Event::Sampled(Sample { values, ..Sample::default() })
}

fn has(bench: &Bench, kind: &str) -> bool {
    bench.core.node_status().conditions.iter().any(|one| one.kind == kind)
}

fn has_pressure(bench: &Bench) -> bool {
    has(bench, "MemoryPressure")
}

#[test]
fn the_lowest_priority_leaves_with_the_reason_and_comes_back_when_there_is_room() {
    let mut bench = Bench::new();
    bench.core.evict_at(
        EvictionLimits { memory_available_bytes: 100 << 20, ..EvictionLimits::default() },
        at(bench.now),
    );
    bench.join();
    bench.desire(
        &[Workload { priority: 5, ..workload("high", 1) }, workload("low", 1)],
        version(1, 2),
    );
    obey(&mut bench);
    assert!(pod(&bench, "high").ready && pod(&bench, "low").ready);
    bench.tell(available(50));
    assert!(has_pressure(&bench));
    obey(&mut bench);
    let low = pod(&bench, "low");
    assert_eq!((low.phase, low.reason.as_str()), (PodPhase::Pending, "Evicted"));
    assert!(low.message.contains("runs out of main memory"), "{}", low.message);
    assert!(pod(&bench, "high").ready);
    bench.wait(100 * SECOND_MS);
    bench.tell(available(800));
    assert!(!has_pressure(&bench));
    obey(&mut bench);
    assert!(pod(&bench, "low").ready);
}

#[test]
fn a_pod_with_many_processes_leaves_while_they_run_out_and_an_alarm_says_so() {
    let mut bench = Bench::new();
    let pids_available = PidAmount::Percent(10);
    let limits = EvictionLimits { pids_available, ..EvictionLimits::default() };
    bench.core.evict_at(limits, at(bench.now));
    bench.join();
    bench.desire(
        &[Workload { priority: 5, ..workload("quiet", 1) }, workload("bomb", 1)],
        version(1, 2),
    );
    obey(&mut bench);
    let threads = Series::new("container_threads").with("namespace", "default");
    let sample = |taken: f64| {
        let values = [
            (Series::new("node_processes_max_processes"), 32_768.0),
            (Series::new("node_processes_threads"), taken),
            (Series::new("node_memory_MemAvailable_bytes"), 1e9),
            (threads.clone().with("pod", "bomb-0"), 20_000.0),
            (threads.clone().with("pod", "quiet-0"), 3.0),
        ];
        Event::Sampled(Sample { values: values.into_iter().collect(), ..Sample::default() })
    };
    bench.tell(sample(31_000.0));
    assert!(has(&bench, "PIDPressure") && !has_pressure(&bench));
    obey(&mut bench);
    let bomb = pod(&bench, "bomb");
    assert_eq!((bomb.phase, bomb.reason.as_str()), (PodPhase::Pending, "Evicted"));
    assert!(pod(&bench, "quiet").ready);
    let alarms = telemetry::stored(&bench, shared::wire::Stream::Alarms);
    let alarms: Vec<u8> = alarms.into_iter().flat_map(|(_, record)| record).collect();
    assert!(String::from_utf8_lossy(&alarms).contains("NodeHasPIDPressure"));
    bench.wait(100 * SECOND_MS);
    bench.tell(sample(300.0));
    assert!(!has(&bench, "PIDPressure"));
    obey(&mut bench);
    assert!(pod(&bench, "bomb").ready);
}

#[test]
fn images_go_before_pods_while_the_disk_fills_up() {
    let mut bench = Bench::new();
    bench.core.evict_at(EvictionLimits::default(), at(bench.now));
    bench.join();
    let of_image = |revision: u64, image: &str| {
        let mut workload = workload("ocr", revision);
        workload.template.spec.containers[0].image = Some(image.to_owned());
        workload
    };
    bench.desire(&[of_image(1, "ocr:1")], version(1, 2));
    let named = |image: &str| {
        let key = "default/ocr".parse().unwrap();
        Effect::KeepImages([(key, [image.to_owned()].into())].into())
    };
    assert!(bench.others.contains(&named("ocr:1")));
    obey(&mut bench);
    let sample = |bench: &mut Bench, free: f64| {
        let written = Series::new("container_fs_usage_bytes").with("namespace", "default");
        let values = [
            (Series::new("node_filesystem_avail_bytes"), free),
            (Series::new("node_filesystem_size_bytes"), 100.0),
            (written.with("pod", "ocr-0"), f64::from(64 << 20)),
        ];
        bench.wait(30 * SECOND_MS);
        bench.others.clear();
        bench.tell(Event::Sampled(Sample { values: values.into(), ..Sample::default() }));
        bench.others.contains(&Effect::RemoveImage)
    };
    let removed = |bench: &mut Bench, image: Option<&str>| {
        let image = Ok(image.map(str::to_owned));
        bench.tell(Event::Runtime(RuntimeEvent::ImageRemoved { image }));
    };
    assert!(!sample(&mut bench, 50.0));
    assert!(sample(&mut bench, 1.0));
    assert!(!sample(&mut bench, 1.0), "it is under way");
    removed(&mut bench, Some("old:1"));
    assert!(sample(&mut bench, 1.0), "one may not do");
    let image = Err("not answered".to_owned());
    bench.tell(Event::Runtime(RuntimeEvent::ImageRemoved { image }));
    assert!(sample(&mut bench, 1.0), "it is asked again while no pod leaves");
    removed(&mut bench, None);
    assert!(pod(&bench, "ocr").ready);
    assert!(!sample(&mut bench, 1.0));
    obey(&mut bench);
    assert_eq!(pod(&bench, "ocr").reason, "Evicted");
    bench.desire(&[of_image(2, "ocr:2")], version(1, 3));
    assert!(bench.others.contains(&named("ocr:2")));
    assert!(sample(&mut bench, 1.0), "others are named now");
    removed(&mut bench, None);
    assert!(!sample(&mut bench, 50.0));
    assert!(sample(&mut bench, 1.0), "it is asked anew");
}
