//! Real pods, most of them hostile, under the process runtime: they fork away, flood, refuse to end,
//! lose their shim, their agent and their power.
//!
//! | file | what it tests |
//! |---|---|
//! | `scene.rs` | nothing: a node and an agent, as far as pods are concerned |
//! | `life.rs` | how a pod starts, writes its log and ends |
//! | `adoption.rs` | what is left of it when its agent, its shim or the power went away |
//! | `limits.rs` | what it may use, and what it used |
//! | `probes.rs` | whether it answers |
//! | `volumes.rs` | the files that it has of ConfigMaps and Secrets |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests"
)]

mod adoption;
mod life;
mod limits;
mod probes;
mod scene;
mod volumes;
