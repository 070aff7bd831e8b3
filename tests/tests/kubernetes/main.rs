//! Hub and custom resources in a real API server.

// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod api;
mod hub;

use std::path::Path;
use tests::real::kubernetes::Cluster;

/// An API server with the definitions installed.
fn cluster_with_definitions(folder: &Path) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(folder)?;
    cluster.apply(&::hub::api::crds_yaml()?)?;
    for name in ["crd/inferenceworkloads.hinterland.dev", "crd/edgenodes.hinterland.dev"] {
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", name])?;
    }
    Ok(cluster)
}
