//! Pods rest and come back, one look after the other.

use super::*;
use shared::model::{GpuHealth, MigInstance, MigRole};

fn gpu(uuid: &str, mig: MigRole) -> GpuDevice {
    GpuDevice {
        uuid: uuid.to_owned(),
        name: "test".to_owned(),
        memory_bytes: 8 << 30,
        health: GpuHealth::Healthy,
        mig,
        shares_main_memory: false,
    }
}

fn tenant(name: &str, priority: i32, gpu: &str) -> Tenant {
    let pod = format!("default/{name}-0").parse().unwrap();
    Tenant { pod, priority, gpus: vec![gpu.to_owned()] }
}

fn readings(celsius: f64, watts: f64) -> Values {
    let of = |name: &str| Series::new(name).with("UUID", "GPU-a");
    [(of(TEMPERATURE_CELSIUS), celsius), (of(POWER_WATTS), watts)].into()
}

fn resting(heat: &Heat, gpus: &[GpuDevice], uuid: &str) -> Vec<String> {
    let bars = heat.bars(gpus);
    bars.get(uuid).into_iter().flat_map(|bar| &bar.resting).map(ToString::to_string).collect()
}

const LIMITS: GpuLimits = GpuLimits { celsius: Some(85), watts: Some(200) };

#[test]
fn the_lowest_priority_rests_first_and_comes_back_last() {
    let (mut heat, gpus) = (Heat::new(LIMITS), [gpu("GPU-a", MigRole::Unsplit)]);
    let tenants =
        [tenant("high", 9, "GPU-a"), tenant("low", 0, "GPU-a"), tenant("mid", 5, "GPU-a")];
    let mut look = |celsius: f64, seconds: u64| {
        let now = MonotonicMs(seconds * 1000);
        let rests = resting(&heat, &gpus, "GPU-a");
        let stay = tenants.iter().filter(|tenant| !rests.contains(&tenant.pod.to_string()));
        let stay: Vec<Tenant> = stay.cloned().collect();
        let changes = heat.look(&readings(celsius, 100.0), &gpus, &stay, now);
        (changes.map(|all| all.len()), resting(&heat, &gpus, "GPU-a"))
    };
    assert_eq!(look(85.0, 0), (None, vec![]));
    assert_eq!(look(86.0, 10), (Some(1), vec!["default/low-0".to_owned()]));
    assert_eq!(look(90.0, 20).0, None, "it has no time to follow yet");
    assert_eq!(look(88.0, 40).1.len(), 2);
    assert_eq!(
        look(80.0, 80),
        (None, vec!["default/low-0".to_owned(), "default/mid-0".to_owned()])
    );
    assert_eq!(look(75.0, 110).1, ["default/low-0"]);
    assert_eq!(look(75.0, 120).1, ["default/low-0"]);
    assert_eq!(look(75.0, 140), (Some(0), vec![]));
    assert_eq!(look(75.0, 170), (Some(1), vec![]));
}

#[test]
fn too_much_power_is_as_too_much_heat_and_what_is_not_told_is_not_below() {
    let (mut heat, gpus) = (Heat::new(LIMITS), [gpu("GPU-a", MigRole::Unsplit)]);
    let tenants = [tenant("a", 0, "GPU-a")];
    let changes = heat.look(&readings(50.0, 201.0), &gpus, &tenants, MonotonicMs(0)).unwrap();
    assert!(changes[0].is_hot && changes[0].message.starts_with("at 201 W, over its limit of 200"));
    // The power is well below; nobody says how hot it is.
    let power =
        Values::from(BTreeMap::from([(Series::new(POWER_WATTS).with("UUID", "GPU-a"), 90.0)]));
    assert_eq!(heat.look(&power, &gpus, &[], MonotonicMs(60_000)), None);
    assert_eq!(heat.look(&Values::default(), &gpus, &[], MonotonicMs(90_000)), None);
    assert_eq!(resting(&heat, &gpus, "GPU-a").len(), 1);
    assert_eq!(heat.look(&readings(50.0, 180.0), &gpus, &[], MonotonicMs(120_000)), Some(vec![]));
}

#[test]
fn the_instances_of_a_gpu_are_as_hot_as_it_is_and_a_gpu_that_is_gone_is_forgotten() {
    let instance = |uuid: &str| {
        let (profile, parent) = ("1g.10gb".to_owned(), "GPU-a".to_owned());
        gpu(uuid, MigRole::Instance(MigInstance { profile, parent }))
    };
    let gpus = [gpu("GPU-a", MigRole::Parent), instance("MIG-0"), gpu("GPU-b", MigRole::Unsplit)];
    let mut heat = Heat::new(LIMITS);
    let tenants = [tenant("a", 0, "MIG-0"), tenant("b", 0, "GPU-b")];
    heat.look(&readings(90.0, 100.0), &gpus, &tenants, MonotonicMs(0)).unwrap();
    assert_eq!(resting(&heat, &gpus, "MIG-0"), ["default/a-0"]);
    assert!(heat.bars(&gpus)["MIG-0"].is_closed && !heat.bars(&gpus).contains_key("GPU-b"));
    assert_eq!(
        heat.look(&readings(90.0, 100.0), &gpus[2..], &tenants, MonotonicMs(1)),
        Some(vec![])
    );
    assert!(heat.bars(&gpus).is_empty());
}

#[test]
fn without_limits_nothing_is_too_hot() {
    let (mut heat, gpus) = (Heat::default(), [gpu("GPU-a", MigRole::Unsplit)]);
    assert!(!heat.is_needed());
    assert_eq!(heat.look(&readings(200.0, 1000.0), &gpus, &[], MonotonicMs(0)), None);
}

#[test]
fn the_next_pod_rests_only_when_the_one_before_has_left() {
    let (mut heat, gpus) = (Heat::new(LIMITS), [gpu("GPU-a", MigRole::Unsplit)]);
    let tenants = [tenant("a", 0, "GPU-a"), tenant("b", 0, "GPU-a")];
    let hot = readings(91.0, 100.0);
    heat.look(&hot, &gpus, &tenants, MonotonicMs(0)).unwrap();
    assert_eq!(resting(&heat, &gpus, "GPU-a"), ["default/b-0"]);
    // Its grace period is ten minutes.
    for seconds in (10..600).step_by(10) {
        assert_eq!(heat.look(&hot, &gpus, &tenants, MonotonicMs(seconds * 1000)), None);
    }
    assert!(heat.bars(&gpus)["GPU-a"].tenants.contains(&tenants[0].pod));
    heat.look(&hot, &gpus, &tenants[..1], MonotonicMs(600_000)).unwrap();
    assert_eq!(resting(&heat, &gpus, "GPU-a").len(), 2);
}
