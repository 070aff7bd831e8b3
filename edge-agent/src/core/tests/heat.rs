//! Pods rest while their GPU is too hot, as the core sees it.

use super::*;
use crate::heat::GpuLimits;
use shared::model::{GpuDevice, GpuHealth, GpuSource, MemoryQuantity, MigRole, PodStatus};

fn inventory() -> GpuInventory {
    let device = GpuDevice {
        uuid: "GPU-a".to_owned(),
        name: "test".to_owned(),
        memory_bytes: 8 << 30,
        health: GpuHealth::Healthy,
        mig: MigRole::Unsplit,
        shares_main_memory: false,
    };
    GpuInventory { source: GpuSource::Nvml, devices: vec![device] }
}

fn sharing(name: &str, priority: i32) -> Workload {
    let mut workload = workload(name, 1);
    let limits = &mut workload.template.spec.containers[0].resources.limits;
    limits.gpu_memory = Some(MemoryQuantity { bytes: 1 << 30 });
    Workload { priority, ..workload }
}

fn celsius(value: f64) -> Event {
    let values = [(Series::new("DCGM_FI_DEV_GPU_TEMP").with("UUID", "GPU-a"), value)].into();
    Event::Sampled(Sample { values, ..Sample::default() })
}

/// What was to be started runs, and what was to be stopped has ended.
pub(super) fn obey(bench: &mut Bench) {
    for effect in std::mem::take(&mut bench.others) {
        match effect {
            Effect::Start(StartRequest { pod, instance, .. }) => {
                let started_at = UnixMs(7);
                bench.tell(Event::Runtime(RuntimeEvent::Started { pod, instance, started_at }));
            }
            Effect::Stop { pod, instance, .. } => {
                bench.tell(Event::Runtime(RuntimeEvent::Exited { pod, instance, code: 143 }));
            }
            _ => {}
        }
    }
}

pub(super) fn pod(bench: &Bench, name: &str) -> PodStatus {
    let pods = bench.core.status(LinkStatus::default()).pods;
    pods.into_iter().find(|pod| pod.pod.workload.name() == name).unwrap()
}

#[test]
fn the_lowest_priority_rests_with_the_reason_until_the_gpu_has_cooled_down() {
    let mut bench = Bench::new();
    bench.core.limit_gpus(GpuLimits { celsius: Some(85), watts: None }, at(bench.now));
    bench.join();
    bench.tell(Event::Inventory(inventory()));
    bench.desire(&[sharing("high", 5), sharing("low", 0)], version(1, 2));
    obey(&mut bench);
    assert!(pod(&bench, "high").ready && pod(&bench, "low").ready);
    bench.tell(celsius(91.0));
    obey(&mut bench);
    let low = pod(&bench, "low");
    assert!(pod(&bench, "high").ready && !low.ready);
    assert!(low.message.contains("1 at 91 °C, over its limit of 85"), "{}", low.message);
    let told = telemetry::stored(&bench, shared::wire::Stream::Events);
    let told: Vec<u8> = told.into_iter().flat_map(|(_, record)| record).collect();
    assert!(String::from_utf8_lossy(&told).contains("GpuTooHot"));
    bench.wait(40 * SECOND_MS);
    bench.tell(celsius(70.0));
    bench.wait(40 * SECOND_MS);
    bench.tell(celsius(70.0));
    obey(&mut bench);
    assert!(pod(&bench, "low").ready);
    assert_eq!(pod(&bench, "low").restarts, 0, "rest is no failure");
}
