//! The adapters that agent and hub share: everything in this crate that touches a socket, a file,
//! the clock or the system's entropy.

pub mod anew;
pub mod clock;
pub mod keys;
pub mod ledger;
pub mod mqtt;
pub mod remote;
pub mod store;
pub mod tcp;
pub mod tls;
