//! What one node can be told and can report.
//!
//! Not its capacity: only that its desired state and its reported state fit their maps, so that one
//! workload too many is refused by name here rather than all of them by the receiver.

use shared::limits::{MAP_ITEMS_MAX, MAP_KEY_BYTES_MAX, MAP_UPDATE_BYTES_MAX};

/// Pods of one node. Kubernetes recommends at most 110; each is an item of reported state, of which
/// there are at most `MAP_ITEMS_MAX`.
pub const NODE_PODS_MAX: u32 = 1024;

/// Items of one node's desired state; what it is told of itself is one more.
const NODE_ITEMS_MAX: usize = MAP_ITEMS_MAX - 1;

/// Bytes of one node's workloads as they are sent, with the ConfigMaps and Secrets that they name; the rest of `MAP_UPDATE_BYTES_MAX` is for the
/// removals that the same update may carry.
pub const NODE_BYTES_MAX: usize = MAP_UPDATE_BYTES_MAX / 4 * 3;

/// What frames an item beside its key and value.
const ITEM_FRAME_BYTES: usize = 16;

/// What a workload takes of a node, however many pods there are of it. What it names is counted with it, also
/// where another workload of the node names the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Share {
    pub(super) bytes: usize,
    pub(super) items: usize,
}

/// What of one node is taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    pods: u32,
    bytes: usize,
    items: usize,
}

impl Room {
    /// Pods that were given to the node so far.
    pub(super) fn pods(&self) -> u32 {
        self.pods
    }

    /// Takes room for a workload that the node does not have yet, with as many of `wanted` pods as there is
    /// room for; says how many.
    pub(super) fn take(&mut self, wanted: u32, share: Share) -> u32 {
        let pods = wanted.min(NODE_PODS_MAX.saturating_sub(self.pods));
        let frames = share.items.saturating_mul(MAP_KEY_BYTES_MAX + ITEM_FRAME_BYTES);
        let bytes = self.bytes.saturating_add(share.bytes).saturating_add(frames);
        let items = self.items.saturating_add(share.items);
        if pods == 0 || bytes > NODE_BYTES_MAX || items > NODE_ITEMS_MAX {
            return 0;
        }
        (self.bytes, self.items) = (bytes, items);
        self.pods = self.pods.saturating_add(pods);
        pods
    }

    /// Takes room for one more pod of a workload that the node has; says whether there was any.
    pub(super) fn take_one_more(&mut self) -> bool {
        let room = self.pods < NODE_PODS_MAX;
        self.pods = self.pods.saturating_add(u32::from(room));
        room
    }
}
