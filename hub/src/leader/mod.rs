//! One of several hubs leads; the others stand by.
//!
//! Whoever holds the Lease leads. A leader that can't renew it in time stops before another may take it;
//! nothing depends on the clocks of two machines being alike, since each measures by its own how long
//! it has seen no renewal. That a leader was stopped for a while and does not know it yet is not for the
//! Lease to prevent: what it signs has a lower term, and the nodes refuse it.
//!
//! | file | what it holds |
//! |---|---|
//! | `election` | when to take, renew or give up; pure |
//! | `lease` | the Lease in the API server, and the tasks |

mod election;
mod lease;

pub(crate) use lease::{Candidate, Leadership};
