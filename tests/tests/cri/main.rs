//! Pods under the CRI runtime, on a real containerd of each test's own. Needs root, as containerd does.
//!
//! | file | what it tests |
//! |---|---|
//! | `scene.rs` | nothing: a node with its containerd, and an agent as far as pods are concerned |
//! | `life.rs` | how a pod starts, what it has, how it ends, its probes and its log |
//! | `adoption.rs` | what is left of it when its agent, containerd or the power went away |
//! | `churn.rs` | what is left of pods after many kills of all of it |
//! | `containers.rs` | pods of several containers |
//! | `health.rs` | probes by gRPC on a whole node |
//! | `hooks.rs` | hooks when something ends before them |
//! | `network.rs` | networks of their own, and ports of the node that lead to them |
//! | `network_node.rs` | the same on a whole node |
//! | `node.rs` | a whole node: adoption, and a power cut with no hub |
//! | `processes.rs` | how many processes it may have |
//! | `pull.rs` | images that are not on the node |
//! | `sidecars.rs` | the same on a whole node |
//! | `site.rs` | a whole node, with hub and agent as processes |
//! | `storm.rs` | a hundred pods and five hundred kills |
//! | `remote.rs` | logs and commands asked for at the hub |
//! | `template.rs` | as whom it runs, and folders that it writes to |
//! | `volumes.rs` | the files that it has of ConfigMaps, Secrets and models |
//!
//! Every test ends with [`scene::Node::assert_clean`]: no sandbox, process, mount or cgroup of a pod is left, and no
//! address, device or rule of its network.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod adoption;
mod churn;
mod containers;
mod health;
mod hooks;
mod life;
mod network;
mod network_node;
mod node;
mod processes;
mod pull;
mod remote;
mod scene;
mod sidecars;
mod site;
mod storm;
mod template;
mod volumes;
