//! Starters of real processes, and what tests ask of them.
//!
//! | file | what it starts or asks |
//! |---|---|
//! | `process.rs` | any process, with its log; what a folder's processes are; memory |
//! | `binaries.rs` | where the programs of this workspace lie |
//! | `hub.rs`, `agent.rs` | a hub, an agent, each with a folder of its own |
//! | `http.rs` | one request and its answer |
//! | `proxy.rs` | the judge of bytes: a link whose packets are counted, slowed, cut and lost |
//! | `mosquitto.rs`, `broker_case` | brokers, and the suite that both run |

pub mod agent;
pub mod binaries;
pub mod broker_case;
pub mod http;
pub mod hub;
pub mod mosquitto;
pub mod process;
pub mod proxy;
