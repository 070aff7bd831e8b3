//! What leaves the hub: its metrics as a page, samples by remote write, results to their sinks.
//!
//! | part | file |
//! |---|---|
//! | the page of metrics | here, `format.rs` |
//! | the task of a sink, and its tally | `outlet.rs`, `tally.rs` |
//! | samples to Prometheus | `remote_write/` |
//! | results to files, webhooks, MQTT | `results/` |
//! | HTTP and TLS towards sinks | `http.rs`, `tls.rs` |
//!
//! **The page.** What the fleet is doing, in the Prometheus text format.
//!
//! Two sorts of figures: the hub's own, all named `hinterland_hub_…`, and each online node's newest
//! telemetry under the names that the node gave, with the label `node`. A node can't pass off a
//! figure as another node's or as the hub's, nor break the format: names are checked, values of
//! labels are escaped. Figures of a node that is offline are left out, so that Prometheus sees them
//! end.

mod format;
pub(crate) mod http;
pub(crate) mod outlet;
pub(crate) mod remote_write;
pub(crate) mod results;
pub(crate) mod tally;
pub(crate) mod tls;

use crate::admin::{HubStatus, NodeSummary};
use crate::broker::BrokerCounters;
use format::{Exposition, Kind};
use shared::model::NodeId;
use shared::telemetry::{Sample, Series};
use std::collections::{BTreeMap, HashSet};

/// Names that begin with this are the hub's own.
const OWN_PREFIX: &str = "hinterland_hub_";

/// A node's own label of the name `node` is kept under this name, as Prometheus does.
const RENAMED_NODE_LABEL: &str = "exported_node";

/// The page.
pub(crate) fn exposition<'a>(
    status: &HubStatus,
    nodes: &[NodeSummary],
    broker: BrokerCounters,
    samples: impl Iterator<Item = (&'a NodeId, &'a Sample)>,
) -> String {
    let mut page = Exposition::default();
    write_hub(&mut page, status);
    write_broker(&mut page, broker);
    write_sinks(&mut page, status);
    write_nodes(&mut page, nodes);
    let online = nodes.iter().filter(|node| node.state == "Online");
    let online: HashSet<&str> = online.map(|node| node.node.as_str()).collect();
    write_telemetry(&mut page, samples.filter(|(node, _)| online.contains(node.as_str())));
    page.into_text()
}

fn write_hub(page: &mut Exposition, status: &HubStatus) {
    use Kind::{Counter, Gauge};
    let hub = &status.hub;
    let figures = [
        ("term", Gauge, "The term that the hub leads with.", hub.term),
        ("nodes", Gauge, "Nodes that are enrolled.", hub.nodes),
        ("nodes_online", Gauge, "Nodes that are in session.", hub.nodes_online),
        ("workloads", Gauge, "Workloads in the manifests.", hub.workloads),
        (
            "manifests_in_force",
            Gauge,
            "Whether valid manifests were read since the start; until then nodes are told nothing.",
            u64::from(hub.has_manifests),
        ),
        (
            "manifest_problems",
            Gauge,
            "Problems in the newest reading of the manifests; the last valid one stays in force.",
            status.manifests.problems.len() as u64,
        ),
        (
            "store_writable",
            Gauge,
            "Whether the last commit succeeded.",
            u64::from(hub.store_error.is_none()),
        ),
        (
            "store_damaged_records",
            Gauge,
            "Records of the store whose seal is broken.",
            status.damaged_records,
        ),
        (
            "refused_payloads_total",
            Counter,
            "Payloads that were not genuine or not decodable.",
            hub.refused_payloads,
        ),
        ("broker_up", Gauge, "Whether the broker can be reached.", u64::from(status.broker.up)),
        (
            "crowded_out_batches_total",
            Counter,
            "Batches that were not taken, since too much waited for their sink; they come again.",
            hub.crowded_out_batches,
        ),
    ];
    for (name, kind, help, value) in figures {
        page.number(&format!("{OWN_PREFIX}{name}"), kind, help, &[], value);
    }
}

fn write_broker(page: &mut Exposition, counters: BrokerCounters) {
    let figures = [
        ("connects", "Connections of nodes.", counters.connects),
        ("messages_received", "Messages received from nodes.", counters.messages_received),
        ("received_bytes", "Payload bytes received.", counters.payload_bytes_received),
        ("messages_sent", "Messages accepted for sending.", counters.messages_sent),
        ("sent_bytes", "Payload bytes accepted for sending.", counters.payload_bytes_sent),
        ("refused_connects", "Connections refused for who they are.", counters.refused_connects),
        ("refused_topics", "Messages and subscriptions refused.", counters.refused_topics),
        (
            "refused_queue_full",
            "Messages refused because the hub did not keep up.",
            counters.refused_queue_full,
        ),
    ];
    for (name, help, value) in figures {
        let name = format!("{OWN_PREFIX}broker_{name}_total");
        page.number(&name, Kind::Counter, help, &[], value);
    }
}

fn write_sinks(page: &mut Exposition, status: &HubStatus) {
    use Kind::{Counter, Gauge};
    for sink in &status.sinks {
        let labels = [("sink", sink.name.as_str()), ("kind", sink.kind.as_str())];
        let figures = [
            ("up", Gauge, "Whether the sink takes.", u64::from(sink.down_since.is_none())),
            ("queued_deliveries", Gauge, "Deliveries that wait for it.", sink.queued_deliveries),
            ("queued_bytes", Gauge, "Bytes of records that wait for it.", sink.queued_bytes),
            ("taken_total", Counter, "Samples or results that it has taken.", sink.taken),
            ("refused_total", Counter, "Samples or results refused for good.", sink.refused),
            ("failed_attempts_total", Counter, "Attempts that failed.", sink.failed_attempts),
            (
                "unsynchronised_total",
                Counter,
                "Samples or results with a time for which nothing vouches.",
                sink.unsynchronised,
            ),
        ];
        for (name, kind, help, value) in figures {
            page.number(&format!("{OWN_PREFIX}sink_{name}"), kind, help, &labels, value);
        }
    }
    for missing in &status.hub.missing_sinks {
        let (name, labels) = ("missing_sink_nodes", [("sink", missing.sink.as_str())]);
        let help = "Nodes that have results for a sink that is not configured, by its number.";
        page.number(&format!("{OWN_PREFIX}{name}"), Gauge, help, &labels, missing.nodes);
    }
}

fn write_nodes(page: &mut Exposition, nodes: &[NodeSummary]) {
    for node in nodes {
        let label = [("node", node.node.as_str())];
        let mut gauge = |name: &str, help: &str, value: u64| {
            page.number(&format!("{OWN_PREFIX}node_{name}"), Kind::Gauge, help, &label, value);
        };
        gauge("online", "Whether the node is in session.", u64::from(node.state == "Online"));
        gauge(
            "in_sync",
            "Whether the node is known to have what it should run.",
            u64::from(node.in_sync),
        );
        gauge("workloads", "Workloads that are assigned to the node.", node.workloads);
        gauge("pods", "Pods that the node reports.", node.pods);
        gauge("pods_ready", "Pods that the node reports as ready.", node.pods_ready);
        if let Some(seen) = node.last_seen {
            gauge(
                "last_seen_timestamp_seconds",
                "When something genuine was last heard of the node.",
                seen.0 / 1000,
            );
        }
    }
}

fn write_telemetry<'a>(
    page: &mut Exposition,
    samples: impl Iterator<Item = (&'a NodeId, &'a Sample)>,
) {
    for (node, sample) in samples {
        for (series, value) in sample.values.iter() {
            if let Some(labels) = labels(node, series) {
                let kind =
                    if series.name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
                let help = "As the node reports it.";
                let labels: Vec<(&str, &str)> =
                    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                page.float(&series.name, kind, help, &labels, value);
            }
        }
    }
}

/// The labels of a node's series, if it may have its name.
fn labels(node: &NodeId, series: &Series) -> Option<BTreeMap<String, String>> {
    let names = series.labels.keys();
    let valid = format::is_metric_name(&series.name)
        && !series.name.starts_with(OWN_PREFIX)
        && names.clone().all(|name| format::is_label_name(name) && name != RENAMED_NODE_LABEL);
    if !valid {
        return None;
    }
    let renamed = |(name, value): (&String, &String)| {
        let name = if name == "node" { RENAMED_NODE_LABEL } else { name.as_str() };
        (name.to_owned(), value.clone())
    };
    let mut labels: BTreeMap<String, String> = series.labels.iter().map(renamed).collect();
    labels.insert("node".to_owned(), node.to_string());
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::tally::SinkView;
    use super::*;
    use crate::core::{HubView, MissingSink};
    use shared::model::UnixMs;

    fn status() -> HubStatus {
        let hub = HubView {
            term: 3,
            nodes: 2,
            nodes_online: 1,
            workloads: 1,
            has_manifests: true,
            refused_payloads: 0,
            store_error: None,
            missing_sinks: vec![MissingSink { sink: "37a8eec1".to_owned(), nodes: 3 }],
            crowded_out_batches: 0,
        };
        let (broker, manifests) = Default::default();
        let sink =
            SinkView { name: "plant".to_owned(), kind: "mqtt".to_owned(), ..SinkView::default() };
        let sinks = vec![SinkView { down_since: Some(UnixMs(1)), queued_bytes: 7, ..sink }];
        HubStatus { version: "0".to_owned(), hub, broker, manifests, damaged_records: 0, sinks }
    }

    fn summary(node: &str, state: &str) -> NodeSummary {
        NodeSummary {
            node: node.to_owned(),
            state: state.to_owned(),
            last_seen: Some(UnixMs(1_800_000_000_000)),
            agent_version: String::new(),
            desired_version: String::new(),
            in_sync: true,
            workloads: 1,
            pods: 1,
            scheduling: String::new(),
            pods_ready: 1,
        }
    }

    fn page(series: Series, value: f64) -> String {
        let (on, off) = (NodeId::new("mast-17").unwrap(), NodeId::new("mast-18").unwrap());
        let sample = Sample { values: [(series, value)].into(), ..Sample::default() };
        let nodes = [summary("mast-17", "Online"), summary("mast-18", "Offline")];
        let samples = [(&on, &sample), (&off, &sample)];
        exposition(&status(), &nodes, BrokerCounters::default(), samples.into_iter())
    }

    #[test]
    fn a_nodes_telemetry_carries_its_name_and_ends_when_it_is_offline() {
        let page = page(Series::new("node_power_watts").with("gpu", "GPU-1"), 17.5);
        let lines: Vec<&str> = page.lines().filter(|l| l.contains("node_power_watts")).collect();
        assert_eq!(
            lines,
            [
                "# HELP node_power_watts As the node reports it.",
                "# TYPE node_power_watts gauge",
                "node_power_watts{gpu=\"GPU-1\",node=\"mast-17\"} 17.5",
            ]
        );
        assert!(page.contains("hinterland_hub_node_online{node=\"mast-18\"} 0\n"), "{page}");
        assert!(page.contains("# TYPE hinterland_hub_broker_connects_total counter\n"), "{page}");
    }

    #[test]
    fn a_sink_that_is_down_and_one_that_is_missing_are_on_the_page() {
        let page = page(Series::new("x"), 1.0);
        for line in [
            "hinterland_hub_sink_up{sink=\"plant\",kind=\"mqtt\"} 0\n",
            "hinterland_hub_sink_queued_bytes{sink=\"plant\",kind=\"mqtt\"} 7\n",
            "hinterland_hub_missing_sink_nodes{sink=\"37a8eec1\"} 3\n",
        ] {
            assert!(page.contains(line), "{line}: {page}");
        }
    }

    #[test]
    fn a_node_can_not_break_the_page_nor_speak_for_another() {
        let odd = "a\"b\\c\nd";
        let text = page(Series::new("x").with("l", odd).with("node", "mast-99"), 1.0);
        let line = "x{exported_node=\"mast-99\",l=\"a\\\"b\\\\c\\nd\",node=\"mast-17\"} 1\n";
        assert!(text.contains(line), "{text}");
        for series in [
            Series::new("hinterland_hub_term"),
            Series::new("a b"),
            Series::new(""),
            Series::new("1x"),
            Series::new("evil").with("a-b", "1"),
            Series::new("evil").with("node", "a").with("exported_node", "b"),
        ] {
            assert!(!page(series.clone(), 666.0).contains("666"), "{series:?}");
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_written_as_prometheus_reads_them() {
        assert!(page(Series::new("x"), f64::INFINITY).contains("} +Inf\n"));
        assert!(page(Series::new("x"), f64::NEG_INFINITY).contains("} -Inf\n"));
        assert!(page(Series::new("x"), f64::NAN).contains("} NaN\n"));
    }
}
