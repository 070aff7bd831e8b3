//! What the API asks the loop, and what comes back.

pub use crate::core::NodeSummary;
use crate::core::{HubView, NodeView, PodView, Reach, WorkloadView};
pub use crate::export::tally::SinkView;
use crate::shell::SignError;
use serde::{Deserialize, Serialize};
use shared::model::{NodeId, PodId, WorkloadKey};
use shared::sync::CallEnded;
use shared::trust::enrollment::Enrollment;
use shared::wire::CallMethod;
use tokio::sync::oneshot;

/// Where the answer goes. Whoever asked may have gone away.
pub type Reply<T> = oneshot::Sender<T>;

/// A question to the running hub, answered between two events.
#[derive(Debug)]
pub enum Query {
    /// How the hub is.
    Hub(Reply<HubStatus>),
    /// Every node in short.
    Nodes(Reply<Vec<NodeSummary>>),
    /// One node.
    Node(NodeId, Reply<Option<Box<NodeView>>>),
    /// Every workload.
    Workloads(Reply<Vec<WorkloadView>>),
    /// One workload.
    Workload(WorkloadKey, Reply<Option<WorkloadView>>),
    /// Why a pod is as it is; a sentence where there is none.
    Why(NodeId, PodId, Reply<Result<Box<PodView>, String>>),
    /// What is known of a pod before its node is asked.
    Reach(NodeId, PodId, Reply<Reach>),
    /// Ask a node.
    Call {
        /// Which node.
        node: NodeId,
        /// What is asked.
        method: Box<CallMethod>,
        /// Milliseconds within which the answer is of use.
        timeout_ms: u32,
        /// The answer, or why there is none.
        reply: Reply<CallEnded>,
    },
    /// Sign a node's request (PEM).
    Sign(String, Reply<Result<Box<Enrollment>, SignError>>),
    /// Trust a node no more.
    Revoke(NodeId, Reply<Revoked>),
    /// An older state of the API server counts; whether there was one that did not.
    ConfirmRegression(Reply<bool>),
    /// The metrics in the Prometheus text format.
    Metrics(Reply<String>),
}

/// What became of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// The node is out, also after a restart.
    Durably,
    /// The node is out now; the store can't be written, for this reason.
    ForNow(String),
    /// There is no such node.
    Unknown,
}

/// How the hub is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubStatus {
    /// The program's version.
    pub version: String,
    /// What the core says.
    #[serde(flatten)]
    pub hub: HubView,
    /// The way to nodes.
    pub broker: BrokerStatus,
    /// What should run.
    pub manifests: ManifestsStatus,
    /// Records of the store whose seal is broken.
    pub damaged_records: u64,
    /// Where samples and results go.
    #[serde(default)]
    pub sinks: Vec<SinkView>,
}

/// The way to nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// `embedded` or `external`.
    pub kind: String,
    /// Where nodes are told to connect.
    pub address: String,
    /// Whether it can be reached.
    pub up: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// What was read of the manifests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ManifestsStatus {
    /// The folder.
    pub folder: String,
    /// What is wrong with the newest reading; the last valid one stays in force.
    pub problems: Vec<String>,
}
