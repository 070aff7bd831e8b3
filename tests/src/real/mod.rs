//! Starters of real processes, and what tests ask of them.
//!
//! | file | what it starts or asks |
//! |---|---|
//! | `process.rs` | any process, with its log; what a folder's processes are; memory |
//! | `binaries.rs` | where the programs of this workspace lie |
//! | `hub.rs`, `agent.rs` | a hub, an agent, each with a folder of its own |
//! | `kubernetes.rs`, `kubernetes_proxy.rs`, `api_writes.rs` | a Kubernetes API server on its etcd, and kubectl; what was written to it |
//! | `replicas.rs` | hubs that take turns, on a broker and an API server |
//! | `kills.rs` | kill -9 of an agent, again and again, and what must hold after each |
//! | `fault_proxy.rs` | an HTTP server in trouble |
//! | `health.rs` | a gRPC server that says how it is |
//! | `http.rs` | one request and its answer |
//! | `search.rs` | what lies in the files of a folder |
//! | `recording.rs` | what processes do to their files, operation by operation |
//! | `proxy.rs` | the judge of bytes: a link whose packets are counted, slowed, cut and lost |
//! | `mosquitto.rs`, `broker_case` | brokers, and the suite that both run |
//! | `containerd.rs`, `oci.rs` | a containerd, and images for it |
//! | `cni.rs` | a network for its pods |
//! | `registry.rs` | a registry of images |
//! | `cri_proxy.rs` | what a container runtime is called to do, noted and given again |
//! | `raw_node.rs` | a node without an agent, whose every record is the test's |
//! | `fleet` | thousands of nodes in one process: real cores and links, pods that are only said to run |
//! | `prometheus.rs`, `site.rs` | where samples and results go: a Prometheus, a webhook's receiver, a broker |

pub mod agent;
pub mod api_writes;
pub mod binaries;
pub mod broker_case;
pub mod cni;
pub mod containerd;
pub mod cri_proxy;
pub mod fault_proxy;
pub mod fleet;
pub mod health;
pub mod http;
pub mod hub;
pub mod kills;
pub mod kubernetes;
pub mod kubernetes_proxy;
pub mod mosquitto;
pub mod oci;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod raw_node;
pub mod recording;
pub mod registry;
pub mod replicas;
pub mod search;
pub mod site;
