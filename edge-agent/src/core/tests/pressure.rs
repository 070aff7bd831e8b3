//! Pods leave while the node runs out of memory, as the core sees it.

use super::heat::{obey, pod};
use super::*;
use crate::pressure::EvictionLimits;
use shared::model::PodPhase;

fn available(mib: u32) -> Event {
    let bytes = f64::from(mib) * f64::from(1 << 20);
    let values = [(Series::new("node_memory_MemAvailable_bytes"), bytes)].into();
    Event::Sampled(Sample { values, ..Sample::default() })
}

fn has_pressure(bench: &Bench) -> bool {
    bench.core.node_status().conditions.iter().any(|one| one.kind == "MemoryPressure")
}

#[test]
fn the_lowest_priority_leaves_with_the_reason_and_comes_back_when_there_is_room() {
    let mut bench = Bench::new();
    bench.core.evict_at(EvictionLimits { memory_available_bytes: 100 << 20 }, at(bench.now));
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
