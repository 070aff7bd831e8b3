//! Hub and custom resources in a real API server.

// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod api;
mod attached;
mod both;
mod chart;
mod faults;
mod going;
mod hub;
mod member_objects;
mod members;
mod plugin;
mod regression;
mod replicas;
mod rollout;

use std::path::Path;
use std::time::Duration;
use tests::real::kubernetes::Cluster;

const PATIENCE: Duration = Duration::from_secs(60);

/// An API server with the definitions installed.
fn cluster_with_definitions(folder: &Path) -> anyhow::Result<Cluster> {
    Cluster::with_definitions(folder)
}
