//! Workloads in member k3s clusters: what they are there, and who keeps them so.
//!
//! Each member has a task of its own, with its own connection, pauses and patience: one that hangs holds up
//! no other. What a task is to keep is worked out without it (`build`), and what it finds is told to
//! [`crate::reconcile`], which makes statuses of it.
//!
//! | file | what it holds |
//! |---|---|
//! | `share` | what one member is to have of a workload; pure |
//! | `build`, `environment` | a workload as objects of a cluster; pure |
//! | `content` | what is in a ConfigMap or a Secret, and what is kept of it; pure |
//! | `scope` | what is listed and watched together; pure |
//! | `applyset` | the marks by which the objects of a hub are found and pruned; pure |
//! | `drift` | whether an object is still as it was applied; pure |
//! | `access` | a member's kubeconfig, from its Secret |
//! | `keeper` | one member's objects: applied, repaired, pruned |
//! | `request` | one request, and what is said where it comes to nothing |
//! | `task` | one member's connection, and what is told of it |
//!
//! Refuses to run programs that a kubeconfig names, and to read files: it comes from a Secret that others
//! write.

mod access;
mod applyset;
mod build;
mod content;
mod drift;
mod environment;
mod keeper;
mod request;
mod scope;
mod share;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use access::member_access;
pub(crate) use share::MemberShare;
pub(crate) use task::{Member, MemberDesired, keep};

use shared::model::WorkloadKey;
use std::collections::BTreeMap;

/// What is known of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberReport {
    /// The name of its `EdgeCluster`.
    pub(crate) cluster: String,
    /// What its API server says of it, or why it does not answer: a word and a sentence.
    pub(crate) facts: Result<MemberFacts, (String, String)>,
    /// Each workload that is to be there.
    pub(crate) workloads: BTreeMap<WorkloadKey, MemberWorkload>,
}

/// What a member's API server says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MemberFacts {
    /// As in `v1.36.3+k3s1`.
    pub(crate) version: String,
    /// Its nodes.
    pub(crate) nodes: u32,
    /// GPUs that its nodes have for pods.
    pub(crate) gpus: u32,
}

/// One workload in one member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MemberWorkload {
    /// Pods that are asked for there.
    pub(crate) wanted: u32,
    /// Pods that are ready.
    pub(crate) ready: u32,
    /// Pods of the present template.
    pub(crate) updated: u32,
    /// Why it is not there as it is written; `None` when it is.
    pub(crate) problem: Option<String>,
}

impl MemberWorkload {
    /// Whether it is there as it is written, with all of its pods ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.problem.is_none() && self.ready >= self.wanted && self.updated >= self.wanted
    }
}
