//! Writes that become durable together, and the acknowledgements that wait for them.

use super::acknowledgements::Weight;
use shared::model::{MonotonicMs, NodeId};
use shared::ports::{Tree, Write, WriteBatch};
use shared::wire::{LogAck, LogId, Message};
use std::collections::BTreeMap;

/// What arrives within this time shares one commit: a disk's fsync for many nodes instead of each.
const GATHER_MS: u64 = 10;

/// Between two attempts to write to a disk that refused.
const RETRY_INTERVAL_MS: u64 = 2_000;

/// By node, and each node's in the order in which they came: whether one waits for a node is asked
/// with every repeat, also while thousands wait.
type Promises = BTreeMap<NodeId, Vec<Promise>>;

/// What a node may hear once a commit has made it true.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Promise {
    /// This, at once.
    Message(Box<Message>),
    /// That its log is committed up to here, in time.
    Log(LogAck, Weight),
}

/// Writes on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    writes: BTreeMap<(Tree, Vec<u8>), Write>,
    promises: Promises,
    due: Option<MonotonicMs>,
    in_flight: Option<Promises>,
    term_waits: bool,
    term_in_flight: bool,
    templates_wait: bool,
    templates_in_flight: bool,
    error: Option<String>,
}

/// What a commit made true.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// To be kept now.
    pub(super) promises: Promises,
    /// Whether the term has become durable by it.
    pub(super) term: bool,
    /// Whether templates have become durable by it, and none was put since.
    pub(super) templates: bool,
}

impl GroupCommit {
    pub(super) fn put(&mut self, tree: Tree, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        let key = key.into();
        self.writes.insert((tree, key.clone()), Write::Put { tree, key, value });
    }

    pub(super) fn delete(&mut self, tree: Tree, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.writes.insert((tree, key.clone()), Write::Delete { tree, key });
    }

    /// Somebody waits for it: see [`Committed::templates`].
    pub(super) fn put_templates(&mut self, key: String, value: Vec<u8>, now: MonotonicMs) {
        self.put(Tree::Templates, key, value);
        self.templates_wait = true;
        self.due = Some(now);
    }

    /// As [`Self::put_templates`], for what is gone.
    pub(super) fn delete_templates(&mut self, key: String, now: MonotonicMs) {
        self.delete(Tree::Templates, key);
        self.templates_wait = true;
        self.due = Some(now);
    }

    /// Sends `message` once everything put so far is durable.
    pub(super) fn acknowledge(&mut self, node: NodeId, message: Message) {
        self.promise(node, Promise::Message(Box::new(message)));
    }

    /// `ack` is true once everything put so far is durable.
    pub(super) fn acknowledge_log(&mut self, node: NodeId, ack: LogAck, weight: Weight) {
        self.promise(node, Promise::Log(ack, weight));
    }

    fn promise(&mut self, node: NodeId, promise: Promise) {
        self.promises.entry(node).or_default().push(promise);
    }

    /// The sender of `log` waits to hear. Whether it must wait for a commit; else what it can hear is
    /// durable.
    pub(super) fn urge(&mut self, node: &NodeId, log: &LogId) -> bool {
        let sets = self.in_flight.as_mut().into_iter().chain(std::iter::once(&mut self.promises));
        let mut waits = false;
        for promise in sets.filter_map(|promises| promises.get_mut(node)).flatten() {
            if let Promise::Log(ack, weight) = promise
                && ack.log == *log
            {
                weight.urgent = true;
                waits = true;
            }
        }
        waits
    }

    /// Whether an acknowledgement for `node` waits: what it acknowledges is not durable yet.
    pub(super) fn is_pending_for(&self, node: &NodeId) -> bool {
        let in_flight = self.in_flight.as_ref().is_some_and(|sent| sent.contains_key(node));
        in_flight || self.promises.contains_key(node)
    }

    /// There is something to commit soon.
    pub(super) fn schedule(&mut self, now: MonotonicMs) {
        if self.due.is_none() {
            self.due = Some(now.plus_ms(GATHER_MS));
        }
    }

    /// Somebody waits for what is put now: it is committed with the next poll.
    pub(super) fn schedule_at_once(&mut self, now: MonotonicMs) {
        self.due = Some(now);
    }

    /// The term has changed: commit at once.
    pub(super) fn make_term_durable(&mut self, now: MonotonicMs) {
        self.term_waits = true;
        self.due = Some(now);
    }

    /// Whether headers of the present term may be sent.
    pub(super) fn term_is_durable(&self) -> bool {
        !self.term_waits && !self.term_in_flight
    }

    /// Why the disk refused last; `None` when it does not.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) fn due(&self) -> Option<MonotonicMs> {
        if self.in_flight.is_some() { None } else { self.due }
    }

    /// The batch to persist now, if it is time and none is under way.
    pub(super) fn poll(&mut self, now: MonotonicMs) -> Option<WriteBatch> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        self.in_flight = Some(std::mem::take(&mut self.promises));
        self.term_in_flight = std::mem::take(&mut self.term_waits);
        self.templates_in_flight = std::mem::take(&mut self.templates_wait);
        Some(WriteBatch { writes: std::mem::take(&mut self.writes).into_values().collect() })
    }

    pub(super) fn handle_persisted(&mut self) -> Committed {
        self.error = None;
        let term = std::mem::take(&mut self.term_in_flight);
        let templates = std::mem::take(&mut self.templates_in_flight) && !self.templates_wait;
        Committed { promises: self.in_flight.take().unwrap_or_default(), term, templates }
    }

    /// Nothing of the batch is durable: it is tried again with what came since. Its acknowledgements
    /// are kept back with it.
    pub(super) fn handle_failed(&mut self, batch: WriteBatch, error: String, now: MonotonicMs) {
        for write in batch.writes {
            let (Write::Put { tree, key, .. } | Write::Delete { tree, key }) = &write;
            self.writes.entry((*tree, key.clone())).or_insert(write);
        }
        let mut kept = self.in_flight.take().unwrap_or_default();
        for (node, promises) in std::mem::take(&mut self.promises) {
            kept.entry(node).or_default().extend(promises);
        }
        self.promises = kept;
        self.term_waits |= std::mem::take(&mut self.term_in_flight);
        self.templates_wait |= std::mem::take(&mut self.templates_in_flight);
        self.error = Some(error);
        self.due = Some(now.plus_ms(RETRY_INTERVAL_MS));
    }
}
