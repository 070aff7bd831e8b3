//! Custom resources as tables. Objects are read leniently: one that this program does not know in full is
//! shown as far as it does.

use super::super::table::{age, columns, fields, with_scheduling};
use super::super::{Output, print, query};
use super::cluster::Cluster;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::Value;
use shared::model::{NodeId, UnixMs, WorkloadKey};

pub(super) fn nodes(cluster: &Cluster, output: Output) -> anyhow::Result<()> {
    let now = query::wall_clock();
    show(&cluster.nodes()?, output, |nodes| node_table(nodes, now))
}

pub(super) fn workloads(
    cluster: &Cluster,
    namespace: Option<&str>,
    output: Output,
) -> anyhow::Result<()> {
    let now = query::wall_clock();
    show(&cluster.workloads(namespace)?, output, |workloads| workload_table(workloads, now))
}

pub(super) fn node(cluster: &Cluster, node: &NodeId) -> anyhow::Result<()> {
    let object = cluster.node(node)?;
    let taints = object.data.pointer("/spec/taints").and_then(Value::as_array);
    let mut lines = header("EdgeNode", &object);
    lines.extend(taints.into_iter().flatten().map(|taint| ("Taint", taint_words(taint))));
    print((fields(&lines) + "\n" + &conditions(&object, query::wall_clock())).as_bytes())
}

pub(super) fn workload(cluster: &Cluster, key: &WorkloadKey) -> anyhow::Result<()> {
    let object = cluster.workload(key)?;
    let lines = header("InferenceWorkload", &object);
    print((fields(&lines) + "\n" + &conditions(&object, query::wall_clock())).as_bytes())
}

/// A condition of an object's status.
pub(super) fn condition<'a>(object: &'a DynamicObject, kind: &str) -> Option<&'a Value> {
    all_conditions(object).find(|condition| word(condition, "type") == kind)
}

fn all_conditions(object: &DynamicObject) -> impl Iterator<Item = &Value> {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten()
}

fn word<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn header(kind: &'static str, object: &DynamicObject) -> Vec<(&'static str, String)> {
    let name = object
        .namespace()
        .map_or(object.name_any(), |namespace| format!("{namespace}/{}", object.name_any()));
    let labels = object.labels().iter().map(|(key, value)| ("Label", format!("{key}={value}")));
    [("Object", format!("{kind} {name}"))].into_iter().chain(labels).collect()
}

fn taint_words(taint: &Value) -> String {
    let value = word(taint, "value");
    let equals = if value.is_empty() { "" } else { "=" };
    format!("{}{equals}{value}:{}", word(taint, "key"), word(taint, "effect"))
}

fn conditions(object: &DynamicObject, now: UnixMs) -> String {
    let row = |condition: &Value| {
        let since = word(condition, "lastTransitionTime").parse().ok().map(unix_ms);
        let words = ["type", "status", "reason"].map(|field| word(condition, field).to_owned());
        let rest = [age(since, now), word(condition, "message").to_owned()];
        words.into_iter().chain(rest).collect()
    };
    let header = ["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"];
    columns(&header, all_conditions(object).map(row))
}

fn node_table(nodes: &[DynamicObject], now: UnixMs) -> String {
    let row = |object: &DynamicObject| {
        let reason = |kind| condition(object, kind).map_or("", |c| word(c, "reason"));
        let is_cordoned = object.data.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
        // The hub may not have seen it yet.
        let scheduling = match (reason("SchedulingDisabled"), is_cordoned) {
            ("", true) => "Cordoned",
            (reason, _) => reason,
        };
        let version = object.data.pointer("/status/agentVersion").and_then(Value::as_str);
        let ready = Some(reason("Ready")).filter(|reason| !reason.is_empty());
        vec![
            object.name_any(),
            with_scheduling(ready.unwrap_or("Unknown"), scheduling),
            format!("{}/{}", number(object, "pods/ready"), number(object, "pods/total")),
            number(object, "capacity/gpus"),
            version.unwrap_or_default().to_owned(),
            created(object, now),
        ]
    };
    let header = ["NAME", "STATUS", "PODS READY", "GPUS", "VERSION", "CREATED"];
    columns(&header, nodes.iter().map(row))
}

fn workload_table(workloads: &[DynamicObject], now: UnixMs) -> String {
    let row = |object: &DynamicObject| {
        let numbers = ["desired", "assigned", "ready", "updated"].map(|at| number(object, at));
        let reason = condition(object, "Ready").map_or("Unknown", |c| word(c, "reason"));
        let names = [object.namespace().unwrap_or_default(), object.name_any()];
        let rest = [reason.to_owned(), created(object, now)];
        names.into_iter().chain(numbers).chain(rest).collect()
    };
    let header =
        ["NAMESPACE", "NAME", "DESIRED", "ASSIGNED", "READY", "UPDATED", "STATUS", "CREATED"];
    columns(&header, workloads.iter().map(row))
}

/// A number of an object's status; 0 where the hub has not said it.
fn number(object: &DynamicObject, at: &str) -> String {
    let number = object.data.pointer(&format!("/status/{at}")).and_then(Value::as_u64);
    number.unwrap_or_default().to_string()
}

fn created(object: &DynamicObject, now: UnixMs) -> String {
    let at = object.creation_timestamp().map(|time| unix_ms(time.0));
    age(at, now)
}

fn unix_ms(time: k8s_openapi::jiff::Timestamp) -> UnixMs {
    UnixMs(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

/// As a table, or as the API server has them.
fn show<T: Serialize>(
    objects: &[T],
    output: Output,
    table: impl FnOnce(&[T]) -> String,
) -> anyhow::Result<()> {
    match output {
        Output::Json => print((serde_json::to_string_pretty(objects)? + "\n").as_bytes()),
        Output::Table => print(table(objects).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: &str, name: &str, spec: &Value, status: &Value) -> DynamicObject {
        let metadata = json!({ "name": name, "creationTimestamp": "1970-01-01T00:00:05Z" });
        let object = json!({ "apiVersion": "hinterland.dev/v1alpha1", "kind": kind,
            "metadata": metadata, "spec": spec, "status": status });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_list_of_nodes_says_which_are_cordoned_before_and_after_the_hub_has_seen_it() {
        let ready = json!({ "type": "Ready", "status": "True", "reason": "Online" });
        let drained =
            json!({ "type": "SchedulingDisabled", "status": "True", "reason": "Drained" });
        let cordoned = json!({ "unschedulable": true });
        let status = |conditions: Value| {
            json!({ "conditions": conditions, "agentVersion": "0.1.0",
                "pods": { "total": 2, "ready": 1 }, "capacity": { "gpus": 4 } })
        };
        let nodes = [
            object("EdgeNode", "a", &json!({}), &status(json!([ready]))),
            object("EdgeNode", "b", &cordoned, &status(json!([ready]))),
            object("EdgeNode", "c", &cordoned, &status(json!([ready, drained]))),
            object("EdgeNode", "d", &json!({ "unknown": 1 }), &Value::Null),
        ];
        let expected = "\
NAME  STATUS           PODS READY  GPUS  VERSION  CREATED
a     Online           1/2         4     0.1.0    65 s ago
b     Online,Cordoned  1/2         4     0.1.0    65 s ago
c     Online,Drained   1/2         4     0.1.0    65 s ago
d     Unknown          0/0         0              65 s ago
";
        assert_eq!(node_table(&nodes, UnixMs(70_000)), expected);
    }

    #[test]
    fn conditions_are_told_with_their_time_and_steer_no_terminal() {
        let ready = json!({ "type": "Ready", "status": "False", "reason": "Unschedulable",
            "lastTransitionTime": "1970-01-01T00:00:10Z", "message": "no\u{1b}[2J node" });
        let conditions_of = |told: Value| {
            let status = json!({ "conditions": told });
            conditions(&object("InferenceWorkload", "ocr", &json!({}), &status), UnixMs(70_000))
        };
        let expected = "\
CONDITION  STATUS  REASON         SINCE     MESSAGE
Ready      False   Unschedulable  60 s ago  no [2J node
";
        assert_eq!(conditions_of(json!([ready])), expected);
        assert_eq!(conditions_of(Value::Null).lines().count(), 1);
    }
}
