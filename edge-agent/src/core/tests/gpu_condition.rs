//! What is told of GPUs whose pods go on, as the core sees it.

use super::telemetry::stored;
use super::*;
use shared::model::{GpuDevice, GpuHealth, GpuSource, MigRole, NodeEvent};
use shared::wire::{Stream, decode};

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

fn says(name: &str, value: f64) -> Event {
    let values = [(Series::new(name).with("UUID", "GPU-a"), value)].into();
    Event::Sampled(Sample { values, ..Sample::default() })
}

fn kinds(bench: &Bench) -> Vec<String> {
    let of_gpus = |kind: &String| kind.starts_with("Gpu");
    let conditions = bench.core.node_status().conditions.into_iter();
    conditions.map(|condition| condition.kind).filter(of_gpus).collect()
}

#[test]
fn a_gpu_that_is_held_down_or_waits_for_a_reset_is_a_condition_and_one_event_while_pods_go_on() {
    let mut bench = Bench::new();
    bench.join();
    bench.tell(Event::Inventory(inventory()));
    bench.tell(says("DCGM_FI_DEV_ROW_REMAP_PENDING", 1.0));
    for _ in 0..8 {
        bench.tell(says("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 72.0));
        bench.wait(10 * SECOND_MS);
    }
    assert_eq!(kinds(&bench), ["GpuThrottled", "GpuResetNeeded"]);
    bench.tell(says("DCGM_FI_DEV_ROW_REMAP_PENDING", 0.0));
    for _ in 0..31 {
        bench.tell(says("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 4.0));
        bench.wait(10 * SECOND_MS);
    }
    assert_eq!(kinds(&bench), [""; 0]);
    let events = stored(&bench, Stream::Events);
    let events = events.iter().map(|(_, record)| decode("event", record, 4096).unwrap());
    let events = events.filter(|event: &NodeEvent| event.object == "GPU-a");
    let reasons: Vec<String> = events.map(|event| event.reason).collect();
    assert_eq!(reasons, ["GpuResetNeeded", "GpuThrottled", "GpuResetDone", "GpuNotThrottled"]);
}
