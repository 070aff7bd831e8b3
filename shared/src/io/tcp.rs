//! What both ends of a link ask of the kernel.

use socket2::SockRef;
use std::os::fd::AsFd;
use tracing::debug;

/// Lets acknowledgements wait up to 40 ms for data that they can travel with: a bare one costs 52 bytes.
///
/// The kernel falls back to its own habit, so this is called at the start and after each read.
pub fn acknowledge_late(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(socket).set_tcp_quickack(false) {
        debug!(%error, "acknowledgements can't be delayed");
    }
}
