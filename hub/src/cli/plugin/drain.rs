//! Cordon, uncordon and drain: what they change of an `EdgeNode`, and the wait until a node is drained.
//!
//! A drain is `spec.unschedulable` and the taint `hinterland.dev/drain:NoExecute`: what can't bear that stops
//! on the node, and the hub gives replicas over the fleet to other nodes. Merge patches, so that a name that is
//! mistyped makes no object. The taint is put in by read and write of the list as it was read: a patch that
//! another writer has overtaken is made anew.
//!
//! Knows nothing of pods: what is left is what the hub says in the condition `SchedulingDisabled`.

use super::super::print;
use super::cluster::Cluster;
use super::show::condition;
use crate::manifests::DRAIN_TAINT;
use anyhow::bail;
use kube::api::DynamicObject;
use serde_json::{Map, Value, json};
use shared::model::NodeId;
use std::time::{Duration, Instant};

/// Between two looks at a node that drains.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Others write statuses into the same object; so many times in a row is no chance.
const ATTEMPTS_MAX: usize = 10;

/// What a node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Schedulable,
    Cordoned,
    Drained,
}

pub(super) fn cordon(cluster: &Cluster, node: &NodeId) -> anyhow::Result<()> {
    let (_, changed) = make(cluster, node, Wanted::Cordoned)?;
    say(node, if changed { "cordoned" } else { "already cordoned" })
}

pub(super) fn uncordon(cluster: &Cluster, node: &NodeId) -> anyhow::Result<()> {
    let (_, changed) = make(cluster, node, Wanted::Schedulable)?;
    say(node, if changed { "uncordoned" } else { "already uncordoned" })
}

pub(super) fn drain(cluster: &Cluster, node: &NodeId, timeout: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (object, _) = make(cluster, node, Wanted::Drained)?;
    say(node, "cordoned, and is to drain")?;
    let generation = object.metadata.generation.unwrap_or_default();
    let mut said = String::new();
    while begin.elapsed() < timeout {
        // An API server that is away for a moment ends no wait.
        let progress = match cluster.node(node) {
            Ok(object) => progress(&object, generation),
            Err(error) => Progress::Underway(format!("{error:#}")),
        };
        match progress {
            Progress::Ended(words) => return say(node, &format!("drained: {words}")),
            Progress::Refused(words) => bail!("the hub refuses the EdgeNode {node}: {words}"),
            Progress::Underway(words) if words != said => {
                say(node, &format!("is draining: {words}"))?;
                said = words;
            }
            Progress::Underway(_) => {}
        }
        std::thread::sleep(LOOK_INTERVAL.min(timeout));
    }
    if timeout.is_zero() {
        return Ok(());
    }
    bail!(
        "{node} is not drained after {} s: {said}. It drains all the same; `kubectl hinterland uncordon \
         {node}` takes that back",
        timeout.as_secs()
    )
}

fn say(node: &NodeId, words: &str) -> anyhow::Result<()> {
    print(format!("edgenode/{node} {words}\n").as_bytes())
}

/// The node as it is then, and whether it was something else.
fn make(cluster: &Cluster, node: &NodeId, wanted: Wanted) -> anyhow::Result<(DynamicObject, bool)> {
    for _ in 0..ATTEMPTS_MAX {
        let object = cluster.node(node)?;
        let Some(patch) = patch(&object, wanted) else { return Ok((object, false)) };
        if let Some(patched) = cluster.patch_node(node, &patch)? {
            return Ok((patched, true));
        }
    }
    bail!("the EdgeNode {node} is changed by others all the time: try again")
}

/// What makes a node what is wanted; nothing where it is.
fn patch(object: &DynamicObject, wanted: Wanted) -> Option<Value> {
    let is_cordoned = object.data.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
    let taints = object.data.pointer("/spec/taints").and_then(Value::as_array);
    let taints = taints.map(Vec::as_slice).unwrap_or_default();
    let is_drained = taints.iter().any(drains);
    let mut spec = Map::new();
    match wanted {
        Wanted::Cordoned | Wanted::Drained if !is_cordoned => {
            spec.insert("unschedulable".to_owned(), json!(true));
        }
        Wanted::Schedulable if is_cordoned => {
            spec.insert("unschedulable".to_owned(), Value::Null);
        }
        _ => {}
    }
    let others = taints.iter().filter(|taint| !drains(taint)).cloned();
    match wanted {
        Wanted::Drained if !is_drained => {
            let drain = json!({ "key": DRAIN_TAINT, "effect": "NoExecute" });
            spec.insert("taints".to_owned(), others.chain([drain]).collect());
        }
        Wanted::Schedulable if is_drained => {
            let others: Vec<Value> = others.collect();
            let others = if others.is_empty() { Value::Null } else { Value::Array(others) };
            spec.insert("taints".to_owned(), others);
        }
        _ => {}
    }
    // A list is replaced as a whole: only as it was read.
    let version = object.metadata.resource_version.as_ref();
    let version = version.filter(|_| spec.contains_key("taints"));
    let metadata = version.map(|version| json!({ "resourceVersion": version }));
    (!spec.is_empty()).then(|| json!({ "metadata": metadata.unwrap_or(json!({})), "spec": spec }))
}

fn drains(taint: &Value) -> bool {
    taint.get("key").is_some_and(|key| key == DRAIN_TAINT)
        && taint.get("effect").is_some_and(|effect| effect == "NoExecute")
}

/// How far a drain is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Underway(String),
    Refused(String),
    Ended(String),
}

/// Of a node whose spec of this generation asks for it.
fn progress(object: &DynamicObject, generation: i64) -> Progress {
    let seen = object.data.pointer("/status/observedGeneration").and_then(Value::as_i64);
    if seen.is_none_or(|seen| seen < generation) {
        return Progress::Underway("the hub has not seen it yet".to_owned());
    }
    let word = |kind: &str, field: &str| {
        condition(object, kind).and_then(|c| c.get(field)).and_then(Value::as_str)
    };
    if word("Accepted", "status") == Some("False") {
        return Progress::Refused(word("Accepted", "message").unwrap_or_default().to_owned());
    }
    let message = word("SchedulingDisabled", "message").unwrap_or_default().to_owned();
    match word("SchedulingDisabled", "reason") {
        Some("Drained") => Progress::Ended(message),
        Some("Draining") => Progress::Underway(message),
        _ => Progress::Underway("somebody else has uncordoned it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> DynamicObject {
        let mut object = json!({ "apiVersion": "hinterland.dev/v1alpha1", "kind": "EdgeNode",
            "metadata": { "name": "mast-17", "resourceVersion": "7", "generation": 3 } });
        let fields = value.as_object().unwrap().clone();
        object.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_cordon_says_no_more_than_that_and_is_said_once() {
        let patched = patch(&node(json!({})), Wanted::Cordoned).unwrap();
        assert_eq!(patched, json!({ "metadata": {}, "spec": { "unschedulable": true } }));
        let cordoned = node(json!({ "spec": { "unschedulable": true } }));
        assert_eq!(patch(&cordoned, Wanted::Cordoned), None);
        let patched = patch(&cordoned, Wanted::Schedulable).unwrap();
        assert_eq!(patched, json!({ "metadata": {}, "spec": { "unschedulable": null } }));
        assert_eq!(patch(&node(json!({})), Wanted::Schedulable), None);
    }

    #[test]
    fn a_drain_adds_its_taint_to_those_that_were_read_and_an_uncordon_takes_no_other_away() {
        let own = json!({ "key": "site", "value": "a", "effect": "NoSchedule" });
        let drain = json!({ "key": "hinterland.dev/drain", "effect": "NoExecute" });
        let tainted = node(json!({ "spec": { "taints": [own] } }));
        let expected = json!({ "metadata": { "resourceVersion": "7" },
            "spec": { "unschedulable": true, "taints": [own, drain] } });
        assert_eq!(patch(&tainted, Wanted::Drained).unwrap(), expected);
        let drained = node(json!({ "spec": { "unschedulable": true, "taints": [own, drain] } }));
        assert_eq!(patch(&drained, Wanted::Drained), None);
        assert_eq!(patch(&drained, Wanted::Cordoned), None, "it is cordoned, and more");
        let patched = patch(&drained, Wanted::Schedulable).unwrap();
        assert_eq!(patched["spec"], json!({ "unschedulable": null, "taints": [own] }));
        let alone = node(json!({ "spec": { "taints": [drain] } }));
        let patched = patch(&alone, Wanted::Schedulable).unwrap();
        assert_eq!(patched["spec"], json!({ "taints": null }));
    }

    #[test]
    fn a_drain_is_over_when_the_hub_says_so_of_this_spec() {
        let with = |generation: i64, accepted: &str, reason: &str| {
            let conditions = json!([
                { "type": "Accepted", "status": accepted, "message": "spec.taints: no" },
                { "type": "SchedulingDisabled", "reason": reason, "message": "words" },
            ]);
            let status = json!({ "observedGeneration": generation, "conditions": conditions });
            progress(&node(json!({ "status": status })), 3)
        };
        assert!(matches!(with(2, "True", "Drained"), Progress::Underway(_)), "of an earlier spec");
        assert_eq!(with(3, "True", "Draining"), Progress::Underway("words".to_owned()));
        assert_eq!(with(3, "True", "Drained"), Progress::Ended("words".to_owned()));
        let refused = with(3, "False", "Drained");
        assert_eq!(refused, Progress::Refused("spec.taints: no".to_owned()));
        assert!(matches!(progress(&node(json!({})), 3), Progress::Underway(_)));
    }
}
