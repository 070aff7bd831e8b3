//! The HTTP API: JSON, and one page of metrics. The commands are thin over it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/hub` | term, broker, manifests and their problems, store, sinks |
//! | `GET /v1/nodes`, `GET /v1/nodes/{node}` | nodes in short; one node in full |
//! | `GET /v1/workloads`, `GET /v1/workloads/{namespace}/{name}` | workloads over the fleet |
//! | `GET /v1/why/{node}/{namespace}/{pod}` | one pod, and why it is as it is |
//! | `GET /v1/nodes/{node}/pods/{namespace}/{pod}/log?tail=&since_ms=&cursor=&wait_ms=&container=` | a page of a log, as text; headers say where the next begins |
//! | `POST /v1/nodes/{node}/pods/{namespace}/{pod}/exec` | a command in, its exit code and outputs out |
//! | `POST /v1/nodes/sign` | a request (PEM) in, an enrolment out |
//! | `POST /v1/nodes/{node}/revoke` | the node is out |
//! | `GET /metrics`, `/healthz`, `/readyz` | for machines |
//!
//! Nothing is decided here: each request is a question to the loop. Every error is
//! `{"error": "…"}`. It refuses who has no token where one is configured, requests of foreign web
//! pages, large bodies, and to wait for ever.

mod calls;
mod guard;
mod query;
mod routes;
mod serve;
mod standby;
#[cfg(test)]
mod tests;

pub(crate) use calls::CALLER_HEADER;
pub use guard::TokenError;
pub(crate) use guard::{TOKEN_HEADER, Token};
pub use query::{
    BrokerStatus, HubStatus, ManifestsStatus, NodeSummary, Query, Reply, Revoked, SinkView,
};
pub(crate) use routes::{queries, router};
pub(crate) use serve::serve;
pub(crate) use standby::Standby;
