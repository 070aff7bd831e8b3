//! Custom resources to desired state, and what became of it to their statuses. Pure; the connection to
//! the API server is [`crate::cluster`]'s.
//!
//! fetch → validate → build → apply → status: changes of objects go in; the desired state of the fleet
//! comes out, what each member cluster should have, and statuses that differ from those that are stored.
//!
//! | file | what it holds |
//! |---|---|
//! | `deletion` | a workload that is deleted is held until its pods are gone |
//! | `objects` | objects as the API server has them, and the desired state that they make |
//! | `attached` | ConfigMaps and Secrets that workloads name: which are watched, and what is known of them |
//! | `reconciler` | what is due: desired state, statuses |
//! | `pace` | when a status is looked at, and what is on its way |
//! | `regression` | whether the API server was put back to an older state |
//! | `status` | what the hub says of a workload or a node |
//! | `scheduling` | whether a node takes new pods, and how far it is drained |
//! | `events` | what a person should hear of |
//! | `cluster_status` | what it says of member clusters, and of workloads there |
//!
//! Each object stands for itself: one that is refused says so in its status, and the others go on. A
//! change that is refused leaves in force what was accepted before it; so does one that names a ConfigMap or
//! Secret that is not there, until it is.

mod attached;
mod cluster_status;
mod deletion;
mod events;
mod objects;
mod pace;
mod reconciler;
mod regression;
mod scheduling;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use attached::{Contents, Filter, Interest, Sight, Source};
pub(crate) use deletion::{FinalizerPatch, PODS_FINALIZER};
pub(crate) use events::ObjectEvent;
pub(crate) use objects::{Kind, Object, ObjectKey};
pub(crate) use reconciler::{Change, Reconciler, StatusPatch};
pub(crate) use regression::SeenState;
