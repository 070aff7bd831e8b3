//! The traits by which a core's shell reaches the world, as far as agent and hub share them.
//!
//! Implementations are real (feature `io`) or in memory (the simulation); there are no mocks.

use std::error::Error;
use thiserror::Error as ThisError;

/// A tree of the store. The number is part of the store's format: never reused, only appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tree {
    /// Single values: counters, positions, watermarks.
    Meta = 1,
    /// Items of desired state, by map key. The hub stores none: it can make them again.
    Desired = 2,
    /// What the agent must know of each pod after a restart.
    Pods = 3,
    /// Records of the logs, ordered by (incarnation, stream, sequence).
    Outbox = 4,
    /// On the hub: one record for each node (identity, watermarks, totals).
    Nodes = 5,
    /// On the hub: items of the nodes' reported state, by `node/key`.
    Reported = 6,
    /// On the hub: what it knows of each log of telemetry, by `node/incarnation/stream`.
    Decoders = 7,
    /// On the hub: the templates that each workload's nodes run, by `namespace/name`.
    Templates = 8,
    /// Neighbouring records of a log under the key of the last, ordered as [`Self::Outbox`].
    Packs = 9,
}

impl Tree {
    /// Every tree there is.
    pub const ALL: [Self; 9] = [
        Self::Meta,
        Self::Desired,
        Self::Pods,
        Self::Outbox,
        Self::Nodes,
        Self::Reported,
        Self::Decoders,
        Self::Templates,
        Self::Packs,
    ];

    /// Whether keys are numbers that must keep their order. Keys of all other trees are names,
    /// which the sealed store hides.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Outbox | Self::Packs)
    }
}

/// One change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a value.
    Put {
        /// Where.
        tree: Tree,
        /// Under which key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Removes a value; removing what is not there is no error.
    Delete {
        /// Where.
        tree: Tree,
        /// Which key.
        key: Vec<u8>,
    },
}

/// Changes that become durable together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteBatch {
    /// The changes, in order; a later one wins over an earlier one of the same key.
    pub writes: Vec<Write>,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a change that sets a value.
    pub fn put(&mut self, tree: Tree, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push(Write::Put { tree, key: key.into(), value: value.into() });
    }

    /// Adds a change that removes a value.
    pub fn delete(&mut self, tree: Tree, key: impl Into<Vec<u8>>) {
        self.writes.push(Write::Delete { tree, key: key.into() });
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Puts the changes of `later` behind these.
    pub fn append(&mut self, later: Self) {
        self.writes.extend(later.writes);
    }
}

/// Why the store could not do what was asked.
#[derive(Debug, ThisError)]
#[error("could not {attempted} the store")]
pub struct StoreError {
    /// A verb: `open`, `read`, `commit`.
    pub attempted: &'static str,
    /// What the layer below said.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// A durable map of trees. One owner; commits are durable when they return.
///
/// A record whose seal is broken is not an error: it reads as absent, and `damaged_records` counts
/// it, so that one bad sector does not stop a node.
pub trait Store {
    /// The value under `key`.
    ///
    /// # Errors
    /// When the medium can't be read.
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `count_max` records of `tree` with keys ≥ `from`. In key order for ordered trees; in
    /// no particular order, and only with an empty `from`, for the others.
    ///
    /// # Errors
    /// When the medium can't be read.
    fn scan(&self, tree: Tree, from: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError>;

    /// Makes all changes durable, or none.
    ///
    /// # Errors
    /// When the medium is full or broken; nothing of the batch is then visible.
    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError>;

    /// Records found with a broken seal since the store was opened.
    fn damaged_records(&self) -> u64;
}
