//! What pods make: results, and the sinks of the hub that take them.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use super::ids::PodId;
use super::time::{BootClock, UnixMs};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

/// A sink as it stands on the wire and in keys of the store: the first four bytes of the SHA-256 of
/// its name. A hub refuses two sinks whose numbers are the same.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SinkId(pub u32);

impl SinkId {
    /// The number of the sink called `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(name.as_bytes()));
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

/// How a result's body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultFormat {
    /// RFC 8259.
    Json,
    /// RFC 8949.
    Cbor,
}

/// One result: a record of a results log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodResult {
    /// The pod that made it.
    pub pod: PodId,
    /// What it is about, as in `detections/gate-3`.
    pub topic: String,
    /// When it was made: as the pod says, else when the agent took it.
    pub at: UnixMs,
    /// The node's clock when the agent took it.
    pub clock: BootClock,
    /// How `body` is written.
    pub format: ResultFormat,
    /// The result itself, as the pod wrote it.
    pub body: ByteBuf,
    /// Results of this topic that the node's thinning left out since the one before.
    #[serde(default)]
    pub thinned: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sinks_number_is_the_beginning_of_its_names_sha256() {
        // printf default | sha256sum
        assert_eq!(SinkId::of("default"), SinkId(0x37a8_eec1));
    }
}
