//! What the core knows of pods and samples should say, and whose own metrics are read.
//!
//! Annotations are those that Prometheus' own examples made customary (`prometheus.io/…`), and
//! `hinterland.dev/metrics` names what is wanted of a page. What is not as it should be is passed
//! over: a pod is worth more than its figures.

use super::{AgentCore, Effect};
use crate::ports::ScrapeTarget;
use crate::scaling::QUEUE_DEPTH;
use shared::limits::REPLICAS_PER_NODE_MAX;
use shared::model::{Autoscaling, PodId, PodPhase, PodTemplate, ScalingMetric};
use shared::telemetry::{Sample, Series};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Pods whose metrics are read: each costs a connection a sample and about twenty series.
const TARGETS_MAX: usize = 64;

/// Pods whose metrics are read since their number depends on them: as many as one workload may have.
const SCALED_TARGETS_MAX: usize = REPLICAS_PER_NODE_MAX as usize;

/// Metrics that a pod may name.
const METRICS_MAX: usize = 8;

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const METRICS: &str = "hinterland.dev/metrics";

impl AgentCore {
    /// The sample with how often each pod was started again, named as kube-state-metrics names it.
    pub(super) fn with_pods(&self, mut sample: Sample) -> Sample {
        let restarts = self.pods.statuses().map(|status| {
            let series = Series::new("kube_pod_container_status_restarts_total")
                .with("namespace", status.pod.workload.namespace())
                .with("pod", &status.pod.name());
            (series, f64::from(status.restarts))
        });
        sample.values.extend(restarts);
        sample
    }

    /// Has the metrics of the pods that run read, if any are to be.
    pub(super) fn scrape(&mut self) {
        let running = self.pods.statuses().filter(|status| status.phase == PodPhase::Running);
        let targets = running.filter_map(|status| {
            let workload = self.workloads.get(&status.pod.workload)?;
            let besides = workload.autoscaling.as_ref().and_then(metric_besides);
            let target = target_of(&status.pod, &workload.template)?;
            let host = status.pod_ip.unwrap_or(target.host);
            Some(ScrapeTarget { host, besides, ..target })
        });
        // What decides the number of pods goes before what is only told.
        let (scaled, others): (Vec<_>, Vec<_>) =
            targets.partition(|target| self.scaling.decides(&target.pod.workload));
        let scaled = scaled.into_iter().take(SCALED_TARGETS_MAX);
        let targets: Vec<ScrapeTarget> =
            scaled.chain(others.into_iter().take(TARGETS_MAX)).collect();
        if !targets.is_empty() {
            self.effects.push_back(Effect::Scrape(targets));
        }
    }
}

fn target_of(pod: &PodId, template: &PodTemplate) -> Option<ScrapeTarget> {
    let annotations: &BTreeMap<String, String> = &template.metadata.annotations;
    if annotations.get(SCRAPE).map(String::as_str) != Some("true") {
        return None;
    }
    let first_port = || template.spec.containers.first()?.ports.first().map(|p| p.container_port);
    let port = match annotations.get(PORT) {
        Some(port) => port.parse().ok()?,
        None => first_port()?,
    };
    let path = annotations.get(PATH).map_or("/metrics", String::as_str);
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    let named = annotations.get(METRICS).map_or("", String::as_str).split(',').map(str::trim);
    let metrics = named.filter(|name| !name.is_empty()).take(METRICS_MAX).map(str::to_owned);
    (port != 0 && path.starts_with('/') && printable).then(|| ScrapeTarget {
        pod: pod.clone(),
        host: Ipv4Addr::LOCALHOST.into(),
        port: template.port_of_replica(port, pod.ordinal),
        path: path.to_owned(),
        metrics: metrics.collect(),
        besides: None,
    })
}

/// What the number of a workload's pods depends on, where its page may have it under a name of its own.
fn metric_besides(said: &Autoscaling) -> Option<String> {
    let usual = (said.metric == ScalingMetric::QueueDepth).then_some(QUEUE_DEPTH);
    let name = said.metric_name.as_deref().or(usual);
    name.filter(|_| said.metric.is_of_page()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::model::{Container, ContainerPort, PodMetadata, PodSpec};

    fn target(annotations: &[(&str, &str)], ports: &[u16]) -> Option<(u16, String, Vec<String>)> {
        let port = |port: &u16| ContainerPort { container_port: *port, ..ContainerPort::default() };
        let container =
            Container { ports: ports.iter().map(port).collect(), ..Container::default() };
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let template = PodTemplate {
            metadata: PodMetadata {
                annotations: annotations.iter().map(pair).collect(),
                ..PodMetadata::default()
            },
            spec: PodSpec { containers: vec![container], ..PodSpec::default() },
        };
        let target = target_of(&"default/ocr-0".parse().unwrap(), &template)?;
        Some((target.port, target.path, target.metrics))
    }

    #[test]
    fn a_pod_is_read_where_its_annotations_say() {
        let on = (SCRAPE, "true");
        let whole = [on, (PORT, "99"), (PATH, "/m"), (METRICS, "a_total, b_seconds,")];
        let names = vec!["a_total".to_owned(), "b_seconds".to_owned()];
        assert_eq!(target(&whole, &[80]), Some((99, "/m".to_owned(), names)));
        assert_eq!(target(&[on], &[80, 81]), Some((80, "/metrics".to_owned(), vec![])));
    }

    #[test]
    fn a_pod_that_does_not_ask_for_it_or_says_nonsense_is_not_read() {
        let on = (SCRAPE, "true");
        assert_eq!(target(&[], &[80]), None);
        assert_eq!(target(&[(SCRAPE, "false")], &[80]), None);
        assert_eq!(target(&[on], &[]), None);
        for bad in [(PORT, "http"), (PORT, "0"), (PORT, "65536"), (PATH, "m"), (PATH, "/a b")] {
            assert_eq!(target(&[on, bad], &[80]), None, "{bad:?}");
        }
        assert_eq!(target(&[on, (PATH, "/a\r\nX: y")], &[80]), None);
    }
}
