//! What was written to an API server, by its own count: its metric `apiserver_request_total`, of all who
//! write.
//!
//! Of the hub's kinds, Events and ConfigMaps: what the server writes by itself is none of these, and neither is
//! a Lease. Attempts count, also those that were refused.

use super::kubernetes::Cluster;
use anyhow::Context;
use std::collections::BTreeMap;
use std::fmt;

/// What somebody writes who is not the API server.
const RESOURCES: [&str; 5] =
    ["inferenceworkloads", "edgenodes", "edgeclusters", "events", "configmaps"];

/// Verbs that write; a server-side apply is one of its own.
const VERBS: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

const METRIC: &str = "apiserver_request_total{";

/// Writes by resource, with the subresource where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiWrites(BTreeMap<String, u64>);

impl ApiWrites {
    /// All since the server started.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        parse(&cluster.kubectl(&["get", "--raw", "/metrics"])?)
    }

    /// Those after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |name: &String| earlier.0.get(name).copied().unwrap_or(0);
        let more = self.0.iter().map(|(name, n)| (name.clone(), n.saturating_sub(before(name))));
        Self(more.filter(|(_, writes)| *writes > 0).collect())
    }

    /// Without so many of a resource: the caller's own.
    pub fn forget(&mut self, resource: &str, writes: u64) {
        if let Some(counted) = self.0.get_mut(resource) {
            *counted = counted.saturating_sub(writes);
        }
        self.0.retain(|_, counted| *counted > 0);
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for ApiWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let words = self.0.iter().map(|(name, writes)| format!("{writes} of {name}"));
        f.write_str(&words.collect::<Vec<_>>().join(", "))
    }
}

fn parse(page: &str) -> anyhow::Result<ApiWrites> {
    let mut writes = ApiWrites::default();
    for line in page.lines().filter_map(|line| line.strip_prefix(METRIC)) {
        let (labels, number) = line.rsplit_once("} ").context("a metric has no value")?;
        let label = |name: &str| label_of(labels, name).unwrap_or_default();
        let (resource, subresource) = (label("resource"), label("subresource"));
        if !RESOURCES.contains(&resource) || !VERBS.contains(&label("verb")) {
            continue;
        }
        let slash = if subresource.is_empty() { "" } else { "/" };
        let number: f64 = number.trim().parse()?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let number = number as u64;
        *writes.0.entry(format!("{resource}{slash}{subresource}")).or_default() += number;
    }
    Ok(writes)
}

/// Values of these labels have no quotes in them.
fn label_of<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    values.next().map(|value| value.trim_matches('"'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const PAGE: &str = r#"# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="hinterland.dev",resource="edgenodes",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 2000
apiserver_request_total{code="409",component="apiserver",dry_run="",group="hinterland.dev",resource="edgenodes",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="",group="hinterland.dev",resource="edgenodes",scope="cluster",subresource="",verb="LIST",version="v1alpha1"} 7
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="events",scope="resource",subresource="",verb="POST",version="v1"} 1.2e+03
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 99
"#;

    #[test]
    fn writes_are_counted_by_resource_and_reads_and_leases_are_not() {
        let writes = parse(PAGE).unwrap();
        assert_eq!(writes.to_string(), "2002 of edgenodes/status, 1200 of events");
        assert_eq!(writes.total(), 3202);
        assert_eq!(writes.since(&writes).to_string(), "none");
    }
}
