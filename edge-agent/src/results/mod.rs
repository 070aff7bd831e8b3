//! Results: what pods hand to the agent for the hub's sinks.
//!
//! A pod posts to its own Unix socket or, with its token, to a port of loopback. What it says is
//! believed; who it is, is not asked of it: the socket or the token says so. An answer of 202 means
//! that the result is durable.
//!
//! | part | file |
//! |---|---|
//! | a request's body to results (pure) | `request.rs`, `cbor.rs`, `time.rs` |
//! | what of them is left out (pure) | `thinning.rs` |
//! | how fast a pod may post (pure) | `rate.rs` |
//! | tokens | `token.rs` |
//! | a pod's door: its socket, its token, its limits | `door.rs` |
//! | connections and answers | `server.rs` |
//! | what arrives together shares a commit | `desk.rs` |

mod cbor;
mod desk;
mod door;
mod rate;
mod request;
mod server;
mod thinning;
mod time;
mod token;

pub use desk::{Desk, Waiting, gather};
pub use door::{Door, Doors, Membership};
pub use request::{NewResult, Refusal, Request, parse};
pub use server::serve_loopback;
pub use thinning::{Offer, Thinner, TopicKey};
pub(crate) use time::parse_rfc3339;
pub use token::TokenKey;

use shared::model::PodId;

/// Results of one request: taken whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Names the request until it is answered.
    pub id: u64,
    /// Whose they are.
    pub pod: PodId,
    /// In the order in which the pod wrote them.
    pub results: Vec<NewResult>,
}

/// What became of a [`Post`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostOutcome {
    /// All of it is durable: delivered in time, or left out because thinning says so.
    Taken {
        /// How many results.
        results: u64,
        /// How many of these thinning left out so far.
        thinned: u64,
    },
    /// Nothing of it was taken: no route of the workload takes this topic.
    NoRoute {
        /// The first such topic.
        topic: String,
    },
    /// Nothing of it was taken: more topics than the agent keeps account of.
    TooManyTopics,
    /// It can't be made durable now, or not be said where it belongs; a sentence for people.
    Unavailable(String),
}
