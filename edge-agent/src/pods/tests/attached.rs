//! Pods that name ConfigMaps, and what is their node's own.

use super::*;
use serde_bytes::ByteBuf;
use serde_json::json;
use shared::model::{ConfigItem, ObjectKind, ObjectName};
use std::sync::Arc;

fn naming(revision: u64) -> Workload {
    let template = json!({ "spec": {
        "volumes": [{ "name": "settings", "configMap": { "name": "ocr" } }],
        "containers": [{ "name": "main", "command": ["ocr"],
            "volumeMounts": [{ "name": "settings", "mountPath": "/etc/ocr" }] }] } });
    let template = serde_json::from_value(template).unwrap();
    Workload { template, ..workload("ocr", revision, container()) }
}

fn config(text: &str) -> NodeObjects {
    let (kind, namespace) = (ObjectKind::ConfigMap, "default".to_owned());
    let name = ObjectName { kind, namespace, name: "ocr".to_owned() };
    let data = [("ocr.toml".to_owned(), ByteBuf::from(text.as_bytes()))];
    let item = Arc::new(ConfigItem { data: data.into() });
    NodeObjects { config_maps: [(name, item)].into(), ..NodeObjects::default() }
}

/// An agent without anything to do yet.
fn idle() -> Pods {
    let mut pods = Pods::new(1);
    pods.provide(node(), true, at(0));
    pods
}

fn attached(pods: &mut Pods) -> usize {
    actions(pods).iter().filter(|action| matches!(action, PodAction::Attach { .. })).count()
}

#[test]
fn a_pod_waits_for_what_it_names_and_starts_when_it_is_there() {
    let mut pods = idle();
    pods.assign(&fleet(&[naming(1)]), at(0));
    assert!(actions(&mut pods).is_empty());
    let status = only_status(&pods);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::Pending, "MissingObjects"));
    assert_eq!(status.message, "the hub has sent no ConfigMap default/ocr");
    pods.attach(config("a = 1"));
    pods.assign(&fleet(&[naming(1)]), at(1));
    assert_eq!(started(&mut pods).volumes.len(), 1);
}

#[test]
fn files_are_replaced_without_a_restart_and_only_where_they_are_others() {
    let mut pods = idle();
    pods.attach(config("a = 1"));
    pods.assign(&fleet(&[naming(1)]), at(0));
    let request = started(&mut pods);
    // While it starts it may be too early: its start lays them down.
    pods.attach(config("a = 2"));
    pods.assign(&fleet(&[naming(1)]), at(1));
    assert_eq!(attached(&mut pods), 0);
    runs(&mut pods, &request, at(2));
    assert_eq!(attached(&mut pods), 1);
    pods.assign(&fleet(&[naming(1)]), at(3));
    assert_eq!(attached(&mut pods), 0);
    pods.attach(config("a = 3"));
    pods.assign(&fleet(&[naming(1)]), at(4));
    let made = actions(&mut pods);
    assert!(matches!(&made[..], [PodAction::Attach { .. }]), "{made:?}");
    // What could not be written is tried again.
    let (pod, instance) = (request.pod.clone(), request.instance);
    let failed = RuntimeEvent::NotAttached { pod, instance, message: "full".to_owned() };
    pods.handle_runtime(failed, at(5));
    pods.assign(&fleet(&[naming(1)]), at(6));
    assert_eq!(attached(&mut pods), 1);
}

#[test]
fn what_is_missing_stops_nothing_that_runs() {
    let mut pods = idle();
    pods.attach(config("a = 1"));
    pods.assign(&fleet(&[naming(1)]), at(0));
    let request = started(&mut pods);
    runs(&mut pods, &request, at(1));
    pods.attach(NodeObjects::default());
    for revision in [1, 2] {
        pods.assign(&fleet(&[naming(revision)]), at(2));
        assert!(actions(&mut pods).is_empty(), "revision {revision}");
        assert_eq!(only_status(&pods).phase, PodPhase::Running);
    }
    pods.attach(config("a = 1"));
    pods.assign(&fleet(&[naming(2)]), at(3));
    assert!(actions(&mut pods).iter().any(|action| matches!(action, PodAction::Stop { .. })));
}

#[test]
fn an_adopted_pod_is_told_its_files_once() {
    let mut first = idle();
    first.attach(config("a = 1"));
    first.assign(&fleet(&[naming(1)]), at(0));
    let made = actions(&mut first);
    let [PodAction::Record(record), PodAction::Start(request)] = &made[..] else { panic!() };
    let running = found_running(request);
    let mut pods = Pods::new(2);
    pods.restore(vec![record.clone()], vec![running], at(0));
    pods.provide(node(), true, at(0));
    pods.attach(config("a = 1"));
    pods.assign(&fleet(&[naming(1)]), at(0));
    assert_eq!(attached(&mut pods), 1);
    pods.assign(&fleet(&[naming(1)]), at(1));
    assert_eq!(attached(&mut pods), 0);
}

#[test]
fn parameters_that_are_others_restart_the_pod_and_its_revision_is_the_template_s() {
    let with = |camera: &str| Workload {
        parameters: [("CAMERA".to_owned(), camera.to_owned())].into(),
        ..workload("ocr", 7, container())
    };
    let mut pods = pods_with(&[with("10.0.0.7")]);
    let request = started(&mut pods);
    assert_eq!(request.container.env[0].value, "10.0.0.7");
    assert_ne!(request.parameters_id, 0);
    runs(&mut pods, &request, at(1));
    pods.assign(&fleet(&[with("10.0.0.7")]), at(2));
    assert!(actions(&mut pods).is_empty());
    pods.assign(&fleet(&[with("10.0.0.8")]), at(3));
    let made = actions(&mut pods);
    assert!(matches!(&made[..], [PodAction::Stop { .. }]), "{made:?}");
    exits(&mut pods, &request, 143, at(4));
    let again = started(&mut pods);
    assert_eq!(again.container.env[0].value, "10.0.0.8");
    assert_eq!((again.revision, only_status(&pods).restarts), (Revision(7), 0));
    assert_eq!(only_status(&pods).revision, Revision(7));
}
