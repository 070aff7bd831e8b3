//! Hub and custom resources in a real API server.

// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod api;
mod chart;
mod hub;
mod members;
mod plugin;
mod rollout;

use std::path::Path;
use std::time::Duration;
use tests::real::kubernetes::Cluster;
use tests::real::process::wait_until;

const KINDS: [&str; 3] = ["inferenceworkloads", "edgenodes", "edgeclusters"];

const PATIENCE: Duration = Duration::from_secs(60);

/// An API server with the definitions installed.
fn cluster_with_definitions(folder: &Path) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(folder)?;
    let definitions = ::hub::api::crds_yaml()?;
    // A server that has just become ready may not know all of its own kinds yet.
    wait_until("the definitions are taken", PATIENCE, || {
        cluster.apply(&definitions).map(|_| true)
    })?;
    for kind in KINDS {
        let name = format!("crd/{kind}.hinterland.dev");
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name])?;
    }
    // What `kubectl explain` and server-side apply read is published later than that.
    for kind in KINDS {
        wait_until("the definitions are published", PATIENCE, || {
            cluster.kubectl(&["explain", kind]).map(|_| true)
        })?;
    }
    Ok(cluster)
}
