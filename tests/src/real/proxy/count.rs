//! What crossed a proxy, in packets and bytes.

use shared::wire_cost::SEGMENT_HEADER_BYTES;

/// What crossed one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// Packets, as the kernel counted them.
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub wire_bytes: u64,
    /// The TCP payload that the proxy passed on.
    pub payload_bytes: u64,
}

/// What crossed since the proxy's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// From the node.
    pub up: Flow,
    /// To the node.
    pub down: Flow,
}

impl Flow {
    /// What the packets carried, beyond the headers of an established connection.
    pub(super) fn carried_bytes(self) -> u64 {
        self.wire_bytes.saturating_sub(self.packets * SEGMENT_HEADER_BYTES)
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            wire_bytes: self.wire_bytes - earlier.wire_bytes,
            payload_bytes: self.payload_bytes - earlier.payload_bytes,
        }
    }
}

impl Count {
    /// What crossed after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { up: self.up.since(earlier.up), down: self.down.since(earlier.down) }
    }

    /// IP bytes both ways.
    #[must_use]
    pub fn wire_bytes(self) -> u64 {
        self.up.wire_bytes + self.down.wire_bytes
    }
}
