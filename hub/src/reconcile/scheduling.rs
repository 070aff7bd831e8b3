//! Whether a node takes new pods, and how far it is drained: the condition `SchedulingDisabled`, which a node
//! that takes them does not have.
//!
//! A node is drained once it is known to have been told and reports no pod that it should no longer run. It
//! stays so while it is cordoned, since nothing new comes to it: also when it is switched off and the hub
//! starts anew.

use crate::core::NodeView;
use crate::manifests::{DRAIN_TAINT, EdgeNode};
use serde_json::Value;
use shared::model::PodStatus;

/// The condition's type.
pub(super) const KIND: &str = "SchedulingDisabled";

/// Pods that a message names.
const PODS_NAMED: usize = 5;

/// The condition's reason and message: `view` is what the hub knows of the node, `before` its status as it is
/// stored.
pub(super) fn scheduling(
    said: &EdgeNode,
    view: Option<&NodeView>,
    before: &Value,
) -> Option<(&'static str, String)> {
    match said.scheduling_word() {
        "" => None,
        "Cordoned" => {
            let message = "nothing new comes to it; what it has stays and is updated";
            Some(("Cordoned", message.to_owned()))
        }
        _ => Some(drain(view, said.unschedulable && was_drained(before))),
    }
}

/// How far it is drained, in a word and in a sentence.
fn drain(view: Option<&NodeView>, was_drained: bool) -> (&'static str, String) {
    let Some(view) = view else {
        return ("Drained", "no node of this name is enrolled".to_owned());
    };
    let stays = |pod: &&PodStatus| view.workloads.contains(&pod.pod.workload.to_string());
    let (staying, left): (Vec<_>, Vec<_>) = view.pods.iter().partition(stays);
    if left.is_empty() && (view.in_sync || was_drained) {
        let message = match staying.as_slice() {
            [] => "it has no pods".to_owned(),
            pods => format!("what is left bears `{DRAIN_TAINT}`: {}", named(pods)),
        };
        return ("Drained", message);
    }
    let left = match left.as_slice() {
        [] => "it is not known to have been told".to_owned(),
        pods => format!("left: {}", named(pods)),
    };
    let message = match view.state.as_str() {
        "Offline" => format!("it is offline, and drains when it returns; {left}"),
        // A hub that lost its store has never seen nodes that run a lot.
        "NeverSeen" => "this hub has never seen it: it drains when it comes".to_owned(),
        "Denied" => format!("it is not let in, and can't be told to stop anything; {left}"),
        "Revoked" => format!("it was revoked, and can't be told to stop anything; {left}"),
        _ => left,
    };
    ("Draining", message)
}

fn was_drained(before: &Value) -> bool {
    let conditions = before.get("conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| {
        let is = |field: &str, word: &str| condition.get(field).is_some_and(|value| value == word);
        is("type", KIND) && is("reason", "Drained")
    })
}

fn named(pods: &[&PodStatus]) -> String {
    let names: Vec<String> =
        pods.iter().take(PODS_NAMED).map(|status| status.pod.to_string()).collect();
    let further = match pods.len().saturating_sub(PODS_NAMED) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    format!("{} pods: {}{further}", pods.len(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared::model::{Taint, TaintEffect};

    fn drained() -> EdgeNode {
        let (key, effect) = (DRAIN_TAINT.to_owned(), TaintEffect::NoExecute);
        let taints = vec![Taint { key, value: String::new(), effect }];
        EdgeNode { taints, unschedulable: true, ..EdgeNode::default() }
    }

    /// A node with these pods, of which those of `workloads` may stay.
    fn view(state: &str, in_sync: bool, pods: &[&str], workloads: &[&str]) -> NodeView {
        let pods = pods.iter().map(|pod| {
            json!({ "pod": pod, "revision": 1, "phase": "Running", "ready": true, "reason": "",
                "message": "", "restarts": 0, "started_at": null, "last_exit_code": null, "gpus": [] })
        });
        let view = json!({ "node": "mast-17", "state": state, "last_seen": 1, "agent_version": "1",
            "status": null, "desired_version": "1.1", "in_sync": in_sync,
            "pods": pods.collect::<Vec<_>>(), "workloads": workloads, "events": [],
            "samples_received": 0, "events_received": 0, "records_lost": 0 });
        serde_json::from_value(view).unwrap()
    }

    fn told(said: &EdgeNode, view: Option<&NodeView>, before: &Value) -> (&'static str, String) {
        scheduling(said, view, before).unwrap()
    }

    #[test]
    fn a_node_that_takes_new_pods_has_no_such_condition_and_a_cordoned_one_says_so() {
        assert!(scheduling(&EdgeNode::default(), None, &Value::Null).is_none());
        let cordoned = EdgeNode { unschedulable: true, ..EdgeNode::default() };
        assert_eq!(told(&cordoned, None, &Value::Null).0, "Cordoned");
    }

    #[test]
    fn a_drain_names_what_is_left_and_ends_when_the_node_was_told_and_reports_nothing() {
        let pods = ["default/ocr-0", "default/ocr-1"];
        let (reason, message) =
            told(&drained(), Some(&view("Online", false, &pods, &[])), &Value::Null);
        assert_eq!((reason, &*message), ("Draining", "left: 2 pods: default/ocr-0, default/ocr-1"));
        let not_told = told(&drained(), Some(&view("Online", false, &[], &[])), &Value::Null);
        assert_eq!(not_told.0, "Draining");
        let ended = told(&drained(), Some(&view("Online", true, &[], &[])), &Value::Null);
        assert_eq!(ended, ("Drained", "it has no pods".to_owned()));
    }

    #[test]
    fn what_bears_the_drain_stays_and_is_named() {
        let view = view("Online", true, &["default/log-0"], &["default/log"]);
        let (reason, message) = told(&drained(), Some(&view), &Value::Null);
        assert_eq!(reason, "Drained");
        assert!(message.ends_with("1 pods: default/log-0"), "{message}");
    }

    #[test]
    fn an_offline_node_drains_when_it_returns_and_one_that_was_drained_stays_so() {
        let away = view("Offline", false, &["default/ocr-0"], &[]);
        let (reason, message) = told(&drained(), Some(&away), &Value::Null);
        assert_eq!(reason, "Draining");
        assert!(message.contains("drains when it returns"), "{message}");
        let before = json!({ "conditions": [{ "type": KIND, "reason": "Drained" }] });
        let empty = view("Offline", false, &[], &[]);
        assert_eq!(told(&drained(), Some(&empty), &Value::Null).0, "Draining");
        assert_eq!(told(&drained(), Some(&empty), &before).0, "Drained");
        let unseen = told(&drained(), Some(&view("NeverSeen", false, &[], &[])), &Value::Null);
        assert_eq!(unseen.0, "Draining", "nobody knows what it runs");
        assert_eq!(told(&drained(), None, &Value::Null).0, "Drained", "nothing is enrolled");
    }
}
