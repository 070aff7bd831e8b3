//! What stays where it is, and what does not wait.

use super::*;

#[test]
fn a_restart_without_valid_manifests_leaves_a_nodes_workloads_as_they_are() {
    let mut world = World::new();
    world.handle(Event::Manifests(manifests("replicasPerNode: 1")));
    let before = position_in(reply_in(&world.greet(None)).unwrap()).digest;
    assert_ne!(before, MapContent::default().digest());
    world.restart();
    let steps = world.greet(None);
    assert!(!steps.iter().any(|step| matches!(step, Step::Sent(_))), "{steps:?}");
    let steps = world.handle(Event::Manifests(manifests("replicasPerNode: 1")));
    assert_eq!(position_in(reply_in(&steps).unwrap()).digest, before);
}

#[test]
fn replicas_do_not_wait_at_a_node_that_never_came() {
    let mut world = World::new();
    // First by name, so that it is given the replica while nobody is online.
    let absent = NodeId::new("aaa").unwrap();
    world.handle(Event::Enrolled { node: absent.clone(), record: record("2") });
    world.handle(Event::Manifests(manifests("replicas: 1")));
    let workloads = |world: &World, node: &NodeId| world.hub.node_view(node).unwrap().workloads;
    assert_eq!(workloads(&world, &absent), ["default/ocr"]);
    world.greet(None);
    assert_eq!(workloads(&world, &node()), ["default/ocr"]);
    assert!(workloads(&world, &absent).is_empty());
}
