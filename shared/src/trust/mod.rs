//! Who may say what, and how it is shown: signatures, sealed sessions, sealed records,
//! Secrets sealed to a node, certificates.
//!
//! No sockets and no files. Entropy is handed in as a seed, so that the simulation replays.

pub mod certificate;
pub mod enrollment;
mod key_form;
pub mod record;
pub mod seal;
pub mod session;
pub mod signature;
