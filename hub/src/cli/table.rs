//! Answers as a person reads them in a few seconds. What nodes say is printed without control
//! characters: it must not steer a terminal.

use crate::admin::{HubStatus, NodeSummary, SinkView};
use crate::core::{MissingSink, NodeView, PodView, WaitingLog, WorkloadView};
use shared::model::{ConditionStatus, PodStatus, UnixMs};
use std::fmt::Write as _;

/// Events of a node that are printed.
const EVENTS_SHOWN: usize = 10;

pub(super) fn status(status: &HubStatus, now: UnixMs) -> String {
    let hub = &status.hub;
    let mut lines = vec![
        ("Version", status.version.clone()),
        ("Term", hub.term.to_string()),
        ("Nodes", format!("{} enrolled, {} online", hub.nodes, hub.nodes_online)),
        ("Workloads", format!("{} in {}", hub.workloads, status.manifests.folder)),
        ("Broker", broker_words(status)),
    ];
    if let Some(error) = &hub.store_error {
        lines.push(("Attention", format!("the store can't be written: {error}")));
    }
    if !hub.has_manifests {
        let words =
            "no valid manifests since the start: nodes keep what they run and are not answered";
        lines.push(("Attention", words.to_owned()));
    } else if !status.manifests.problems.is_empty() {
        let words = "the manifests are refused; what was read last stays in force";
        lines.push(("Attention", words.to_owned()));
    }
    lines.extend(status.manifests.problems.iter().map(|problem| ("Problem", problem.clone())));
    lines.extend(status.sinks.iter().map(|sink| ("Sink", sink_words(sink, now))));
    let missing = |missing: &MissingSink| {
        let MissingSink { sink, nodes } = missing;
        let words = format!(
            "{nodes} nodes have results for a sink with the number {sink}, which is not configured: \
             they stay there"
        );
        ("Attention", words)
    };
    lines.extend(hub.missing_sinks.iter().map(missing));
    fields(&lines)
}

fn sink_words(sink: &SinkView, now: UnixMs) -> String {
    let state = match (sink.down_since, &sink.last_error) {
        (Some(since), error) => {
            let error = error.as_deref().unwrap_or("no reason is known");
            format!("DOWN since {}: {error}", age(Some(since), now))
        }
        (None, Some(error)) if sink.refused > 0 => format!("up; refused last: {error}"),
        (None, _) => "up".to_owned(),
    };
    format!(
        "{} ({}): {} taken, {} refused, {} deliveries of {} KiB wait; {state}",
        sink.name,
        sink.kind,
        sink.taken,
        sink.refused,
        sink.queued_deliveries,
        sink.queued_bytes.div_ceil(1024),
    )
}

fn broker_words(status: &HubStatus) -> String {
    let broker = &status.broker;
    let state = match (&broker.problem, broker.up) {
        (_, true) => "up".to_owned(),
        (Some(problem), false) => format!("DOWN: {problem}"),
        (None, false) => "not up yet".to_owned(),
    };
    format!("{} at {}, {state}", broker.kind, broker.address)
}

pub(super) fn nodes(nodes: &[NodeSummary], now: UnixMs) -> String {
    if nodes.is_empty() {
        return "No nodes: sign the request of one with `hub node sign`.\n".to_owned();
    }
    let row = |node: &NodeSummary| {
        vec![
            node.node.clone(),
            with_scheduling(&node.state, &node.scheduling),
            age(node.last_seen, now),
            node.agent_version.clone(),
            if node.in_sync { "yes" } else { "no" }.to_owned(),
            node.workloads.to_string(),
            format!("{}/{}", node.pods_ready, node.pods),
        ]
    };
    let header = ["NODE", "STATE", "LAST SEEN", "AGENT", "IN SYNC", "WORKLOADS", "PODS READY"];
    columns(&header, nodes.iter().map(row))
}

/// As in `Online,Cordoned`.
pub(super) fn with_scheduling(state: &str, scheduling: &str) -> String {
    if scheduling.is_empty() { state.to_owned() } else { format!("{state},{scheduling}") }
}

pub(super) fn workloads(workloads: &[WorkloadView]) -> String {
    if workloads.is_empty() {
        return "No workloads: the manifests have none.\n".to_owned();
    }
    let row = |workload: &WorkloadView| {
        vec![
            workload.workload.clone(),
            workload.desired.to_string(),
            workload.assigned.to_string(),
            workload.ready.to_string(),
            workload.nodes.to_string(),
            workload.nodes_offline.to_string(),
        ]
    };
    let header = ["WORKLOAD", "DESIRED", "ASSIGNED", "READY", "NODES", "OFFLINE"];
    columns(&header, workloads.iter().map(row))
}

pub(super) fn workload(view: &WorkloadView) -> String {
    let mut text = fields(&[
        ("Workload", view.workload.clone()),
        (
            "Pods",
            format!("{} desired, {} assigned, {} ready", view.desired, view.assigned, view.ready),
        ),
        ("Nodes", format!("{}, of which {} offline", view.nodes, view.nodes_offline)),
    ]);
    if !view.reasons.is_empty() {
        text.push_str("\nNodes that were not chosen:\n");
        let row = |(why, count): &(String, u32)| vec![count.to_string(), why.clone()];
        text.push_str(&columns(&["NODES", "WHY"], view.reasons.iter().map(row)));
    }
    text
}

pub(super) fn node(view: &NodeView, now: UnixMs) -> String {
    let mut lines = vec![
        ("Node", view.node.clone()),
        ("State", with_scheduling(&view.state, &view.scheduling)),
        ("Last seen", age(view.last_seen, now)),
        ("Agent", view.agent_version.clone()),
        ("Desired", format!("{}, {}", view.desired_version, sync_words(view.in_sync))),
        (
            "Received",
            format!(
                "{} samples, {} events, {} results; {} records lost",
                view.samples_received,
                view.events_received,
                view.results_received,
                view.records_lost
            ),
        ),
    ];
    lines.extend(access_words(view).map(|words| ("From afar", words)));
    lines.extend(capacity_words(view).map(|words| ("Capacity", words)));
    lines.extend(attention(view).map(|words| ("Attention", words)));
    lines.extend(view.missing_sinks.iter().map(|sink| {
        let words = format!("has results for sink {sink}, which this hub does not have");
        ("Attention", words)
    }));
    lines.extend(view.waiting.iter().map(|log| {
        let WaitingLog { stream, records, bytes } = log;
        ("Waiting", format!("{stream}: {records} records of {bytes} bytes, for their sink"))
    }));
    lines.extend(view.workloads.iter().map(|workload| ("Workload", workload.clone())));
    let mut text = fields(&lines);
    text.push('\n');
    text.push_str(&pods(&view.pods));
    if !view.events.is_empty() {
        text.push_str("\nNewest events:\n");
        let newest = view.events.iter().rev().take(EVENTS_SHOWN);
        // Writing to a String does not fail.
        for event in newest {
            let _ = writeln!(text, "  {}", printable(&event_words(event, now)));
        }
    }
    text
}

fn sync_words(in_sync: bool) -> &'static str {
    if in_sync { "and the node has it" } else { "and the node is not known to have it" }
}

fn event_words(event: &shared::model::NodeEvent, now: UnixMs) -> String {
    let (at, object) = (age(Some(event.at), now), &event.object);
    format!("{at}, {object}: {}: {}", event.reason, event.message)
}

fn capacity_words(view: &NodeView) -> Option<String> {
    let capacity = &view.status.as_ref()?.capacity;
    let gpus = &capacity.gpus;
    let (cores, mib) = (capacity.cpu_millicores / 1000, capacity.memory_bytes >> 20);
    Some(format!("{cores} cores, {mib} MiB, {gpus}"))
}

/// What the node lets others do.
fn access_words(view: &NodeView) -> Option<String> {
    let access = view.status.as_ref()?.remote_access?;
    let allowed = |is_allowed: bool| if is_allowed { "allowed" } else { "not allowed" };
    Some(format!("logs {}, exec {}", allowed(access.logs), allowed(access.exec)))
}

/// Conditions that are not as they should be.
fn attention(view: &NodeView) -> impl Iterator<Item = String> + '_ {
    let conditions = view.status.iter().flat_map(|status| &status.conditions);
    let wrong = |kind: &str, holds: ConditionStatus| {
        (kind == "GpusSimulated") == (holds == ConditionStatus::True)
    };
    conditions
        .filter(move |condition| wrong(&condition.kind, condition.status))
        .map(|condition| format!("{}: {}", condition.kind, condition.message))
}

fn pods(pods: &[PodStatus]) -> String {
    if pods.is_empty() {
        return "No pods are reported.\n".to_owned();
    }
    let row = |pod: &PodStatus| {
        vec![
            pod.pod.to_string(),
            format!("{:?}", pod.phase),
            if pod.ready { "yes" } else { "no" }.to_owned(),
            pod.restarts.to_string(),
            pod.pod_ip.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            why(pod),
        ]
    };
    columns(&["POD", "PHASE", "READY", "RESTARTS", "IP", "WHY"], pods.iter().map(row))
}

pub(super) fn pod(view: &PodView) -> String {
    let status = &view.status;
    let mut lines = vec![
        ("Pod", status.pod.to_string()),
        ("Node", view.node.clone()),
        ("Phase", format!("{:?}", status.phase)),
        ("Ready", if status.ready { "yes" } else { "no" }.to_owned()),
        ("Revision", status.revision.to_string()),
        ("Restarts", status.restarts.to_string()),
        ("Why", why(status)),
    ];
    lines.extend(status.pod_ip.map(|address| ("IP", address.to_string())));
    lines.extend(status.last_exit_code.map(|code| ("Last exit", code.to_string())));
    lines.extend(status.gpus.iter().map(|gpu| ("GPU", gpu.clone())));
    lines.extend(view.remarks.iter().map(|remark| ("Note", remark.clone())));
    fields(&lines)
}

fn why(pod: &PodStatus) -> String {
    match (pod.reason.as_str(), pod.message.as_str()) {
        ("", "") => "-".to_owned(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// How long ago, roughly.
pub(super) fn age(at: Option<UnixMs>, now: UnixMs) -> String {
    let Some(at) = at else { return "never".to_owned() };
    let seconds = now.0.saturating_sub(at.0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

pub(super) fn fields(lines: &[(&str, String)]) -> String {
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:11}{}", printable(value));
        text
    })
}

pub(super) fn columns(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header)
        .chain(rows.map(|row| row.iter().map(|cell| printable(cell)).collect()))
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
        text
    })
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(node: &str, state: &str) -> NodeSummary {
        NodeSummary {
            node: node.to_owned(),
            state: state.to_owned(),
            last_seen: Some(UnixMs(0)),
            agent_version: "0.1.0\u{1b}[2J".to_owned(),
            desired_version: "3.1".to_owned(),
            in_sync: true,
            workloads: 1,
            pods: 2,
            pods_ready: 1,
            scheduling: String::new(),
        }
    }

    #[test]
    fn columns_stand_under_each_other_and_nothing_steers_the_terminal() {
        let cordoned =
            NodeSummary { scheduling: "Cordoned".to_owned(), ..summary("mast-17", "Online") };
        let text = nodes(&[cordoned, summary("m", "Offline")], UnixMs(65_000));
        let expected = "\
NODE     STATE            LAST SEEN  AGENT      IN SYNC  WORKLOADS  PODS READY
mast-17  Online,Cordoned  65 s ago   0.1.0 [2J  yes      1          1/2
m        Offline          65 s ago   0.1.0 [2J  yes      1          1/2
";
        assert_eq!(text, expected);
    }

    #[test]
    fn ages_are_told_in_the_unit_that_says_most() {
        let told = |seconds: u64| age(Some(UnixMs(0)), UnixMs(seconds * 1000));
        assert_eq!(told(119), "119 s ago");
        assert_eq!(told(7_199), "119 min ago");
        assert_eq!(told(172_799), "47 h ago");
        assert_eq!(told(172_800), "2 days ago");
        assert_eq!(age(None, UnixMs(0)), "never");
        assert_eq!(age(Some(UnixMs(5)), UnixMs(0)), "0 s ago", "a clock that went back");
    }

    #[test]
    fn a_hub_that_holds_back_says_so_first() {
        let json = r#"{"version":"0","term":1,"nodes":0,"nodes_online":0,"workloads":0,
            "has_manifests":false,"refused_payloads":0,"store_error":null,
            "broker":{"kind":"embedded","address":"mqtts://a:1","up":true,"problem":null},
            "manifests":{"folder":"/m","problems":["a.yaml:3: spec: wrong"]},"damaged_records":0}"#;
        let text = status(&serde_json::from_str(json).unwrap(), UnixMs(0));
        assert!(text.contains("Attention  no valid manifests"), "{text}");
        assert!(text.contains("Problem    a.yaml:3: spec: wrong"), "{text}");
    }

    #[test]
    fn a_sink_that_is_down_says_since_when_and_why() {
        let sink = SinkView {
            name: "plant".to_owned(),
            kind: "mqtt".to_owned(),
            queued_deliveries: 2,
            queued_bytes: 1_500,
            down_since: Some(UnixMs(0)),
            last_error: Some("mqtt://b:1883: refused".to_owned()),
            ..SinkView::default()
        };
        let expected = "plant (mqtt): 0 taken, 0 refused, 2 deliveries of 2 KiB wait; \
                        DOWN since 65 s ago: mqtt://b:1883: refused";
        assert_eq!(sink_words(&sink, UnixMs(65_000)), expected);
    }
}
