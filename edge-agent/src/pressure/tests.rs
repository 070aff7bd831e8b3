//! Who leaves, who stays, who comes back.

use super::*;

const MIB: u64 = 1 << 20;

fn at(seconds: u64) -> MonotonicMs {
    MonotonicMs(seconds * 1000)
}

fn tenant(name: &str, priority: i32, request_mib: u64) -> Tenant {
    Tenant {
        pod: format!("default/{name}-0").parse().unwrap(),
        priority,
        memory_request_bytes: request_mib * MIB,
        is_leaving: false,
    }
}

/// So much is available, and so much is used by each.
#[expect(clippy::cast_precision_loss)]
fn node(available_mib: u64, name: &str, used: &[(&str, u64)]) -> Values {
    let available = Series::new("node_memory_MemAvailable_bytes");
    let of_pods = used.iter().map(|(pod, mib)| {
        let series = Series::new(name).with("namespace", "default");
        (series.with("pod", &format!("{pod}-0")), (mib * MIB) as f64)
    });
    of_pods.chain([(available, (available_mib * MIB) as f64)]).collect()
}

fn memory(available_mib: u64, used: &[(&str, u64)]) -> Values {
    node(available_mib, "container_memory_working_set_bytes", used)
}

fn pressure() -> Pressure {
    Pressure::new(EvictionLimits {
        memory_available_bytes: 100 * MIB,
        pids_available: PidAmount::Percent(10),
    })
}

fn evicted(changes: &[PressureChange]) -> Vec<String> {
    let names = changes.iter().filter_map(|change| match change {
        PressureChange::Evicted { pod, .. } => Some(pod.workload.name().to_owned()),
        _ => None,
    });
    names.collect()
}

#[test]
fn who_uses_more_than_it_asked_for_goes_before_a_lower_priority_that_does_not() {
    let tenants = [tenant("modest", 0, 200), tenant("greedy", 5, 50), tenant("more", 5, 10)];
    let values = memory(99, &[("modest", 200), ("greedy", 60), ("more", 40)]);
    let mut pressure = pressure();
    let changes = pressure.look(&values, false, &tenants, at(0));
    assert!(matches!(changes[0], PressureChange::Memory { holds: true, .. }), "{changes:?}");
    assert_eq!(evicted(&changes), ["more"], "of equal priorities the one that is most over");
    let why = &pressure.evicted()[&tenants[2].pod];
    assert!(why.contains("used 41943040 bytes and asked for 10485760"), "{why}");
}

#[test]
fn one_leaves_at_a_time_the_lowest_priority_first_and_never_a_critical_one() {
    let all = [tenant("low", 0, 64), tenant("high", 9, 64), tenant("vital", CRITICAL_PRIORITY, 1)];
    let values = memory(50, &[("low", 10), ("high", 10), ("vital", 900)]);
    let mut pressure = pressure();
    assert_eq!(evicted(&pressure.look(&values, false, &all, at(0))), ["low"]);
    assert!(pressure.look(&values, false, &all, at(30)).is_empty(), "it has not ended yet");
    assert!(pressure.look(&values, false, &all[1..], at(19)).is_empty(), "too early");
    assert_eq!(evicted(&pressure.look(&values, false, &all[1..], at(40))), ["high"]);
    assert!(pressure.look(&values, false, &all[2..], at(80)).is_empty());
    assert!(pressure.of_memory());
}

#[test]
fn they_come_back_when_there_is_room_the_highest_first_and_each_time_later() {
    let (low, high) = (tenant("low", 0, 64), tenant("high", 9, 64));
    let mut pressure = pressure();
    pressure.look(&memory(50, &[]), false, &[low.clone(), high.clone()], at(0));
    pressure.look(&memory(50, &[]), false, std::slice::from_ref(&high), at(20));
    assert_eq!(pressure.evicted().len(), 2);
    assert!(pressure.look(&memory(149, &[]), false, &[], at(90)).is_empty(), "still too little");
    let changes = pressure.look(&memory(200, &[]), false, &[], at(100));
    assert!(matches!(&changes[..], [PressureChange::Memory { holds: false, .. }]), "{changes:?}");
    assert!(pressure.look(&memory(213, &[]), false, &[], at(110)).is_empty(), "no room for 64");
    let changes = pressure.look(&memory(214, &[]), false, &[], at(120));
    assert_eq!(changes, [PressureChange::Back(high.pod.clone())]);
    assert!(pressure.look(&memory(900, &[]), false, &[], at(130)).is_empty(), "one at a time");
    assert_eq!(
        pressure.look(&memory(900, &[]), false, &[], at(140)),
        [PressureChange::Back(low.pod.clone())]
    );
    // The second time it waits for twice as long.
    pressure.look(&memory(50, &[]), false, std::slice::from_ref(&low), at(200));
    assert!(
        pressure
            .look(&memory(900, &[]), false, &[], at(319))
            .iter()
            .all(|c| !matches!(c, PressureChange::Back(_)))
    );
    assert_eq!(
        pressure.look(&memory(900, &[]), false, &[], at(320)),
        [PressureChange::Back(low.pod)]
    );
}

#[test]
fn for_the_disk_only_those_leave_that_use_it() {
    let tenants = [tenant("low", 0, 64), tenant("writer", 5, 64)];
    let mut pressure = pressure();
    let nobody = node(900, "container_fs_usage_bytes", &[]);
    assert!(pressure.look(&nobody, true, &tenants, at(0)).is_empty());
    let values = node(900, "container_fs_usage_bytes", &[("writer", 70)]);
    assert_eq!(evicted(&pressure.look(&values, true, &tenants, at(10))), ["writer"]);
    assert!(!pressure.of_memory());
}

#[test]
fn without_a_threshold_or_a_figure_nobody_leaves_and_who_is_not_wanted_is_forgotten() {
    let tenants = [tenant("low", 0, 64)];
    let mut never = Pressure::new(EvictionLimits::default());
    assert!(never.look(&memory(0, &[]), false, &tenants, at(0)).is_empty());
    let mut pressure = pressure();
    assert!(pressure.look(&Values::default(), false, &tenants, at(0)).is_empty());
    pressure.look(&memory(50, &[]), false, &tenants, at(10));
    assert!(!pressure.keep(|_| Some(1)));
    assert_eq!(pressure.evicted().len(), 1);
    assert!(pressure.keep(|_| None));
    assert!(pressure.evicted().is_empty());
}

#[test]
fn one_that_does_not_leave_holds_the_others_up_for_a_minute_only() {
    let all = [tenant("low", 0, 64), tenant("high", 9, 64)];
    let values = memory(50, &[("low", 10), ("high", 10)]);
    let mut pressure = pressure();
    assert_eq!(evicted(&pressure.look(&values, false, &all, at(0))), ["low"]);
    assert!(pressure.look(&values, false, &all, at(59)).is_empty());
    assert_eq!(evicted(&pressure.look(&values, false, &all, at(60))), ["high"]);
    assert!(pressure.look(&values, false, &all, at(120)).is_empty(), "nobody is left to go");
}

#[test]
fn one_that_stops_anyway_is_waited_for_and_what_is_asked_for_anew_counts() {
    let stops = Tenant { is_leaving: true, ..tenant("stops", 0, 64) };
    let stays = tenant("stays", 9, 64);
    let mut pressure = pressure();
    assert_eq!(
        evicted(&pressure.look(&memory(50, &[]), false, &[stops.clone(), stays.clone()], at(0))),
        ["stays"]
    );
    pressure.keep(|_| Some(900 * MIB));
    let back =
        |changes: Vec<PressureChange>| changes.contains(&PressureChange::Back(stays.pod.clone()));
    assert!(!back(pressure.look(&memory(900, &[]), false, &[], at(100))));
    pressure.keep(|_| Some(MIB));
    assert!(back(pressure.look(&memory(900, &[]), false, &[], at(130))));
}

/// A node with so many process ids left of 1000, of which pods have so many.
fn pids(left: u32, used: &[(&str, u32)]) -> Values {
    let of_pods = used.iter().map(|(pod, count)| {
        let series = Series::new("container_threads").with("namespace", "default");
        (series.with("pod", &format!("{pod}-0")), f64::from(*count))
    });
    let of_node = [
        (Series::new("node_processes_max_processes"), 1000.0),
        (Series::new("node_processes_threads"), f64::from(1000 - left)),
        (Series::new("node_memory_MemAvailable_bytes"), 1e12),
    ];
    of_pods.chain(of_node).collect()
}

#[test]
fn who_has_many_processes_leaves_while_they_run_out_the_lowest_priority_first() {
    let all = [
        tenant("low", 0, 1),
        tenant("many", 5, 1),
        tenant("few", -5, 1),
        tenant("vital", CRITICAL_PRIORITY, 1),
    ];
    let used = [("low", 200), ("many", 500), ("few", 31), ("vital", 100)];
    let mut pressure = pressure();
    let changes = pressure.look(&pids(99, &used), false, &all, at(0));
    let words = "99 of 1000 process ids are left".to_owned();
    assert_eq!(changes[0], PressureChange::Pids { holds: true, message: words });
    assert_eq!(evicted(&changes), ["low"]);
    let why = &pressure.evicted()[&all[0].pod];
    assert!(why.ends_with("process ids: it had 200 processes and threads"), "{why}");
    assert!(pressure.of_pids() && !pressure.of_memory());
    assert_eq!(evicted(&pressure.look(&pids(99, &used), false, &all[1..], at(20))), ["many"]);
    // Neither who has a few nor who is critical, whatever there is.
    assert!(pressure.look(&pids(0, &used), false, &all[2..], at(40)).is_empty());
    assert!(pressure.look(&pids(149, &used), false, &all[2..], at(60)).is_empty(), "still too few");
    let changes = pressure.look(&pids(150, &used), false, &all[2..], at(70));
    assert!(matches!(&changes[..], [PressureChange::Pids { holds: false, .. }, ..]), "{changes:?}");
    assert_eq!(
        pressure.look(&pids(900, &used), false, &all[2..], at(100)),
        [PressureChange::Back(all[1].pod.clone())]
    );
}

#[test]
fn process_ids_that_are_not_told_or_need_not_be_left_are_no_pressure() {
    let tenants = [tenant("many", 0, 1)];
    let mut never = Pressure::new(EvictionLimits::default());
    assert!(never.look(&pids(0, &[("many", 900)]), false, &tenants, at(0)).is_empty());
    let mut pressure = pressure();
    assert!(pressure.look(&memory(900, &[]), false, &tenants, at(0)).is_empty());
    let limits =
        EvictionLimits { pids_available: PidAmount::Count(300), ..EvictionLimits::default() };
    let mut counted = Pressure::new(limits);
    assert!(counted.look(&pids(300, &[]), false, &tenants, at(0)).is_empty());
    assert_eq!(
        evicted(&counted.look(&pids(299, &[("many", 600)]), false, &tenants, at(10))),
        ["many"]
    );
}

proptest::proptest! {
    /// Whatever is left, and whoever has how many: never a critical pod, none that has a few, one at a time, and no
    /// condition that begins and ends within less than half the threshold.
    #[test]
    fn of_process_ids_nobody_leaves_in_vain(
        lefts in proptest::collection::vec(0_u32..400, 1..60),
        counts in proptest::collection::vec(0_u32..400, 3),
    ) {
        let all = [tenant("a", 0, 1), tenant("b", 5, 1), tenant("vital", CRITICAL_PRIORITY, 1)];
        let used: Vec<_> = ["a", "b", "vital"].into_iter().zip(counts).collect();
        let mut pressure = pressure();
        let mut held = false;
        for (number, left) in lefts.into_iter().enumerate() {
            let out = pressure.evicted();
            let here: Vec<Tenant> =
                all.iter().filter(|one| !out.contains_key(&one.pod)).cloned().collect();
            let now = at(20 * u64::try_from(number).unwrap());
            let changes = pressure.look(&pids(left, &used), false, &here, now);
            let expected = if held { left < 150 } else { left < 100 };
            proptest::prop_assert_eq!(pressure.of_pids(), expected);
            held = expected;
            let gone = evicted(&changes);
            proptest::prop_assert!(gone.len() <= 1 && (held || gone.is_empty()));
            for name in gone {
                let (_, count) = used.iter().find(|(one, _)| *one == name).unwrap();
                proptest::prop_assert!(name != "vital" && u64::from(*count) >= PID_USE_LEAST);
            }
        }
    }
}
