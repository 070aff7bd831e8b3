//! What is told at once, as an alarm, and what in its turn; and when pods are asked for their metrics.

use super::telemetry::stored;
use super::*;
use shared::model::{
    BootOffset, GpuDevice, GpuHealth, GpuInventory, GpuSource, MigInstance, MigRole, NodeEvent,
};
use shared::wire::{Stream, decode};

fn told(bench: &Bench, stream: Stream) -> Vec<NodeEvent> {
    let records = stored(bench, stream);
    records.iter().map(|(_, record)| decode("event", record, 4096).unwrap()).collect()
}

fn reasons(bench: &Bench, stream: Stream) -> Vec<String> {
    told(bench, stream).into_iter().map(|event| event.reason).collect()
}

/// The next start of the only pod fails.
fn fail_to_start(bench: &mut Bench) {
    while bench.started().is_empty() {
        bench.wait(SECOND_MS);
    }
    let StartRequest { pod, instance, .. } = bench.the_only_start();
    bench.others.clear();
    let (reason, message) = ("ProgramNotFound".to_owned(), "no server".to_owned());
    bench.tell(Event::Runtime(RuntimeEvent::StartFailed { pod, instance, reason, message }));
}

#[test]
fn a_pod_that_cannot_start_is_one_alarm_until_it_was_ready() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    let times = |bench: &Bench, stream| {
        reasons(bench, stream).iter().filter(|reason| *reason == "ProgramNotFound").count()
    };
    for tries in 1..=3 {
        fail_to_start(&mut bench);
        assert_eq!((times(&bench, Stream::Alarms), times(&bench, Stream::Events)), (1, tries - 1));
    }
    while bench.started().is_empty() {
        bench.wait(SECOND_MS);
    }
    let StartRequest { pod, instance, .. } = bench.the_only_start();
    bench.run_the_only_pod();
    bench.others.clear();
    bench.tell(Event::Runtime(RuntimeEvent::Exited { pod, instance, code: 1 }));
    fail_to_start(&mut bench);
    assert_eq!(times(&bench, Stream::Alarms), 2, "{:?}", told(&bench, Stream::Alarms));
}

fn gpus(listed: &[(&str, GpuHealth)]) -> GpuInventory {
    let device = |(uuid, health): &(&str, GpuHealth)| GpuDevice {
        uuid: (*uuid).to_owned(),
        name: String::new(),
        memory_bytes: 8 << 30,
        health: health.clone(),
        mig: match uuid.strip_prefix("MIG-") {
            Some(parent) => MigRole::Instance(MigInstance {
                profile: "1g.10gb".to_owned(),
                parent: parent.trim_end_matches(char::is_numeric).to_owned(),
            }),
            None => MigRole::Unsplit,
        },
        shares_main_memory: false,
    };
    GpuInventory { source: GpuSource::Nvml, devices: listed.iter().map(device).collect() }
}

#[test]
fn what_becomes_of_instances_together_with_their_gpu_is_said_of_the_gpu() {
    let mut bench = Bench::new();
    let healthy = |uuid| (uuid, GpuHealth::Healthy);
    let sick = |uuid| (uuid, GpuHealth::Unhealthy("XID 79".to_owned()));
    bench.tell(Event::Inventory(gpus(&[healthy("a"), healthy("MIG-a0"), healthy("MIG-a1")])));
    bench.tell(Event::Inventory(gpus(&[sick("a"), sick("MIG-a0"), sick("MIG-a1")])));
    assert_eq!(reasons(&bench, Stream::Alarms), ["GpuUnhealthy"]);
    bench.tell(Event::Inventory(gpus(&[healthy("a"), healthy("MIG-a0"), healthy("MIG-a1")])));
    // Instances do not outlive a reboot of the machine, though the mode does.
    bench.tell(Event::Inventory(gpus(&[healthy("a")])));
    assert_eq!(reasons(&bench, Stream::Alarms)[1..], ["GpuLost", "GpuLost"]);
    let lost = told(&bench, Stream::Alarms).pop().unwrap();
    assert!(lost.message.starts_with("a/MIG-a1: the driver no longer lists it"), "{lost:?}");
}

#[test]
fn a_gpu_that_is_lost_or_sick_is_an_alarm_whether_or_not_the_agent_saw_it_go() {
    let mut bench = Bench::new();
    let healthy = |uuid| (uuid, GpuHealth::Healthy);
    let sick = |uuid| (uuid, GpuHealth::Unhealthy("XID 79".to_owned()));
    bench.tell(Event::Inventory(gpus(&[healthy("a"), healthy("b"), sick("c")])));
    assert_eq!(reasons(&bench, Stream::Alarms), ["GpuUnhealthy"]);
    bench.tell(Event::Inventory(gpus(&[healthy("a"), healthy("c")])));
    assert_eq!(reasons(&bench, Stream::Alarms)[1..], ["GpuLost"]);
    let events = reasons(&bench, Stream::Events);
    assert_eq!(events[events.len() - 3..], ["GpuFound", "GpuFound", "GpuHealthy"]);

    // The start after it finds no GPU at all.
    let again = bench.restarted(vec![]);
    let alarms = told(&again, Stream::Alarms);
    let lost: Vec<&str> = alarms.iter().map(|event| event.message.as_str()).collect();
    let message = |uuid| format!("{uuid}: the driver no longer lists it");
    assert_eq!(lost[lost.len() - 2..], [message("a"), message("c")], "{alarms:?}");
    // And the one after that has nothing to add.
    let third = again.restarted(vec![]);
    assert_eq!(told(&third, Stream::Alarms), alarms);
}

#[test]
fn a_disk_that_fills_up_is_an_alarm_and_a_condition_until_it_has_room_again() {
    let mut bench = Bench::new();
    let free = |percent: f64| {
        let values =
            [("node_filesystem_avail_bytes", percent), ("node_filesystem_size_bytes", 100.0)];
        let values = values.map(|(name, value)| (Series::new(name), value)).into();
        Event::Sampled(Sample { values, ..Sample::default() })
    };
    let has_condition = |bench: &Bench| {
        bench.core.node_status().conditions.iter().any(|c| c.kind == "DiskPressure")
    };
    bench.tell(free(5.0));
    assert!(reasons(&bench, Stream::Alarms).is_empty() && !has_condition(&bench));
    bench.tell(free(4.9));
    bench.tell(free(3.0));
    bench.tell(free(7.9));
    assert_eq!(reasons(&bench, Stream::Alarms), ["NodeHasDiskPressure"]);
    assert!(has_condition(&bench));
    bench.tell(free(8.0));
    assert!(!has_condition(&bench));
    assert_eq!(reasons(&bench, Stream::Events).last().unwrap(), "NodeHasNoDiskPressure");
}

#[test]
fn what_happened_while_nothing_vouched_for_the_clock_names_its_boot() {
    let mut bench = Bench::new();
    bench.core.record_event("node", "Tried", "", at(MonotonicMs(70)));
    let vouched = Now { quality: shared::model::ClockQuality::Synchronised, ..at(MonotonicMs(80)) };
    bench.core.record_event("node", "Tried", "", vouched);
    bench.settle();
    let boots: Vec<_> = told(&bench, Stream::Events).iter().map(|event| event.boot).collect();
    assert_eq!(boots[boots.len() - 2..], [Some(BootOffset { boot: 1, offset_ms: 0 }), None]);
}

#[test]
fn pods_are_asked_for_their_metrics_just_before_the_sample_that_these_stand_in() {
    let mut bench = Bench::new();
    bench.join();
    let mut served = workload("ocr", 1);
    let annotations = [("prometheus.io/scrape", "true"), ("prometheus.io/port", "80")];
    let owned = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
    served.template.metadata.annotations = owned.into();
    bench.desire(&[served], version(1, 2));
    bench.run_the_only_pod();
    bench.others.clear();
    let asked = |bench: &Bench| {
        let of = |effect: &Effect| match effect {
            Effect::Scrape(_) => Some("pods"),
            Effect::Sample => Some("sample"),
            _ => None,
        };
        bench.others.iter().filter_map(of).collect::<Vec<_>>()
    };
    let begin = bench.now;
    bench.wait(7_999 - begin.0);
    assert_eq!(asked(&bench), [""; 0]);
    bench.wait(2);
    assert_eq!(asked(&bench), ["pods"]);
    bench.wait(2_000);
    assert_eq!(asked(&bench), ["pods", "sample"]);
    bench.wait(10_000);
    assert_eq!(asked(&bench), ["pods", "sample", "pods", "sample"]);
}
