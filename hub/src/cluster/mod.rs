//! The management cluster's API server: what it holds, and what is written back. Decides nothing;
//! `reconcile` does.
//!
//! | file | what it holds |
//! |---|---|
//! | `attached` | watches the ConfigMaps and Secrets that workloads name |
//! | `finalizer` | holds objects until they may go |
//! | `client` | the connection, from a kubeconfig or from within a pod |
//! | `shared` | what every hub that may lead must know |
//! | `source` | watches the custom resources |
//! | `version` | whether the data were put back to an older state |
//! | `writer` | writes statuses, by server-side apply |
//!
//! An API server that can't be reached, throttles, or lacks the definitions is asked again with growing
//! pauses; until it answers, what was read last stays in force.

mod attached;
mod client;
mod finalizer;
mod shared;
mod source;
mod version;
mod writer;

pub(crate) use attached::{is_forbidden, watch_attached, words_of};
pub use client::ClusterError;
pub(crate) use client::{connect, connect_as_person};
pub(crate) use finalizer::write_finalizers;
pub(crate) use shared::{RecordKind, SharedRecord, SharedRecords};
pub(crate) use source::watch;
pub(crate) use version::{DataVersion, watch_version};
pub(crate) use writer::{Told, tell_of, write};

use crate::api::{EdgeCluster, EdgeNode, InferenceWorkload};
use crate::reconcile::Kind;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};

/// Whose fields are the hub's, in server-side apply.
const FIELD_MANAGER: &str = "hinterland-hub";

/// What the API server calls a kind.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::Workload => ApiResource::erase::<InferenceWorkload>(&()),
        Kind::Node => ApiResource::erase::<EdgeNode>(&()),
        Kind::Cluster => ApiResource::erase::<EdgeCluster>(&()),
    }
}

/// All objects of a kind, in every namespace.
fn all(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(kind))
}
