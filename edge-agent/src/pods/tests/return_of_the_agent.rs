//! What an agent that comes back makes of its records and of what it finds.

use super::*;

/// The record of a start that crashed often before.
fn record() -> PodRecord {
    let mut pods = pods_with(&[workload("ocr", 1, container())]);
    let made = actions(&mut pods);
    let [PodAction::Record(record), _] = &made[..] else { panic!("a record and a start") };
    PodRecord { restarts: 4, backoff_level: 3, ..record.clone() }
}

fn found(record: &PodRecord, state: ObservedState) -> Observation {
    Observation {
        pod: record.pod.clone(),
        instance: record.instance,
        revision: record.revision,
        state,
        placement: Placement::default(),
        taken: None,
        parameters_id: record.parameters_id,
        containers: vec![],
        pod_ip: None,
    }
}

fn running(record: &PodRecord) -> Observation {
    found(record, ObservedState::Running { started_at: UnixMs(1) })
}

/// An agent that came back and knows what should run.
fn back(record: PodRecord, observation: Observation, container: Container) -> Pods {
    let mut pods = Pods::new(2);
    pods.restore(vec![record], vec![observation], at(0));
    pods.provide(node(), true, at(0));
    pods.assign(&fleet(&[workload("ocr", 1, container)]), at(0));
    pods
}

#[test]
fn a_crash_while_the_agent_was_away_is_judged_as_any_other() {
    let record = record();
    let crashed = found(&record, ObservedState::Exited { code: 7 });
    let pods = back(record, crashed, container());
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::BackingOff, "CrashLoopBackOff"));
    assert_eq!((status.restarts, status.last_exit_code), (5, Some(7)));
    assert_eq!(pods.poll_timeout(), Some(MonotonicMs(40_000)));
}

#[test]
fn the_end_of_an_older_start_says_nothing_of_the_recorded_one() {
    let record = record();
    let older = Observation {
        instance: InstanceId(record.instance.0 ^ 1),
        ..found(&record, ObservedState::Exited { code: 7 })
    };
    let mut pods = back(record, older, container());
    started(&mut pods);
    assert_eq!((only_status(&pods).restarts, only_status(&pods).last_exit_code), (5, None));
}

#[test]
fn what_had_come_to_its_end_is_not_started_again() {
    let record = PodRecord { completed: Some(true), ..record() };
    let ended = found(&record, ObservedState::Exited { code: 1 });
    let mut pods = back(record, ended, container());
    assert!(actions(&mut pods).is_empty());
    assert_eq!(only_status(&pods).phase, PodPhase::Succeeded);
}

#[test]
fn an_adopted_pod_is_probed_and_has_the_grace_of_its_template() {
    let record = record();
    let probed_container = Container { readiness_probe: Some(probe(3)), ..container() };
    let mut pods = back(record.clone(), running(&record), probed_container.clone());
    assert!(!only_status(&pods).ready);
    assert_eq!(pods.poll_timeout(), Some(at(0).monotonic));
    pods.handle_timeout(at(0));
    let made = actions(&mut pods);
    let [PodAction::Probe(request)] = &made[..] else { panic!("a probe: {made:?}") };
    let (pod, instance) = (request.pod.clone(), request.instance);
    let (kind, result) = (request.kind, Ok(()));
    let container = None;
    pods.handle_runtime(RuntimeEvent::Probed { pod, instance, container, kind, result }, at(1));
    pods.assign(&fleet(&[workload("ocr", 1, probed_container)]), at(2));
    assert!(only_status(&pods).ready, "what was found out is not forgotten");
    pods.assign(&BTreeMap::new(), at(3));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { grace_ms: 5_000, .. }]));
}

#[test]
fn an_adopted_pod_of_another_content_is_replaced_and_nothing_is_held_against_the_new() {
    let record = record();
    let mut pods = Pods::new(2);
    pods.restore(vec![record.clone()], vec![running(&record)], at(0));
    pods.provide(node(), true, at(0));
    pods.assign(&fleet(&[workload("ocr", 2, container())]), at(0));
    assert!(matches!(&actions(&mut pods)[..], [PodAction::Stop { grace_ms: 30_000, .. }]));
    let status = only_status(&pods);
    assert_eq!((status.reason.as_str(), status.revision), ("Replaced", Revision(1)));
    assert_eq!(status.restarts, 0);
}

#[test]
fn a_pod_that_ends_before_it_is_known_what_should_run_is_judged_then() {
    let record = record();
    let mut pods = Pods::new(2);
    pods.restore(vec![record.clone()], vec![running(&record)], at(0));
    let (pod, instance) = (record.pod.clone(), record.instance);
    pods.handle_runtime(RuntimeEvent::Exited { pod, instance, code: 7 }, at(1));
    assert!(actions(&mut pods).is_empty());
    pods.assign(&fleet(&[workload("ocr", 1, container())]), at(2));
    let status = only_status(&pods);
    assert_eq!((status.phase, status.last_exit_code), (PodPhase::BackingOff, Some(7)));
}

#[test]
fn a_pod_that_ends_before_the_inventory_is_known_says_that_it_starts_again() {
    let record = PodRecord { backoff_level: 0, ..record() };
    let mut pods = Pods::new(2);
    pods.restore(vec![record.clone()], vec![running(&record)], at(0));
    pods.assign(&fleet(&[workload("ocr", 1, container())]), at(0));
    let (pod, instance) = (record.pod.clone(), record.instance);
    pods.handle_runtime(RuntimeEvent::Exited { pod, instance, code: 7 }, at(1));
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::BackingOff, "Restarting"));
}

/// What it takes is in its record: the agent that returns no longer knows the template of its start.
#[test]
fn a_pod_that_an_earlier_start_of_the_agent_began_still_takes_what_it_took() {
    let asking = |name, millicores| {
        let mut workload = workload(name, 1, container());
        workload.template.spec.containers[0].resources.requests.cpu =
            Some(shared::model::CpuQuantity { millicores });
        workload
    };
    let mut before = pods_with(&[asking("old", node().cpu_millicores)]);
    let record = actions(&mut before).into_iter().find_map(|action| match action {
        PodAction::Record(record) => Some(record),
        _ => None,
    });
    let record = record.unwrap();
    // Where the record is lost, or an older store was put back, the runtime says it.
    let told = Observation { taken: record.taken, ..running(&record) };
    for (records, observation) in [(vec![record.clone()], running(&record)), (vec![], told.clone())]
    {
        let mut pods = Pods::new(2);
        pods.restore(records, vec![observation], at(2));
        pods.provide(node(), true, at(2));
        pods.assign(&fleet(&[asking("new", 1)]), at(2));
        let made = actions(&mut pods);
        assert!(made.iter().any(|action| matches!(action, PodAction::Stop { .. })), "{made:?}");
        assert!(!made.iter().any(|action| matches!(action, PodAction::Start(_))), "{made:?}");
        let waits = pods.statuses().find(|status| status.pod != record.pod).unwrap();
        assert_eq!(waits.reason, "WaitingForRoom");
    }
}

#[test]
fn a_pod_that_nobody_wants_any_more_is_stopped_when_the_agent_comes_back() {
    let stray = Observation {
        pod: "default/stray-0".parse().unwrap(),
        instance: InstanceId(9),
        revision: Revision(1),
        state: ObservedState::Running { started_at: UnixMs(1) },
        placement: Placement::default(),
        taken: None,
        parameters_id: 0,
        containers: vec![],
        pod_ip: None,
    };
    let mut pods = Pods::new(2);
    pods.restore(vec![], vec![stray], at(0));
    pods.provide(node(), true, at(0));
    pods.assign(&BTreeMap::new(), at(0));
    assert!(actions(&mut pods).iter().any(|action| matches!(action, PodAction::Stop { .. })));
}
