//! The world's own books: each record that a node made, and what became of it at the hub.
//!
//! What a node made is read off the commits of its store. What became of it the hub says, by number,
//! and its totals, its watermarks, its events and what it hands to sinks must agree with that at any
//! time. So it is known record by record, by node, start of the agent and stream:
//!
//! - a record reaches the hub byte for byte as it was made, and counts once;
//! - a watermark never goes beyond what was made;
//! - a record leaves a node because a hub has it durably, or because the quota took it, and then the
//!   hub counts it as lost, once;
//! - a log that is forgotten was delivered whole.
//!
//! Where a store is lost, equality can't be asked for, and this says for what:
//!
//! - **A node's store, lost or replaced by an older one.** What it held and had not delivered is gone,
//!   and nobody knows how many records that were: the next start has logs of its own. What the hub
//!   has of the old logs is counted once and never more than was made; no more is asked.
//! - **The hub's store, lost, or a fail-over to a replica without the last commits.** What an earlier
//!   hub took and its nodes have let go, the later one counts as lost: it can't know better. Nothing
//!   is counted twice, and each number is either taken or counted as lost.

mod hub_side;
mod node_side;

pub(super) use hub_side::{Deed, Durable, HubBooks, durable_watermark};

use hub::core::{Columns, NodeRecord};
use shared::model::NodeId;
use shared::telemetry::BatchDecoder;
use shared::wire::{LogId, SequenceNumber, Stream};
use std::collections::{BTreeMap, BTreeSet};

/// The books of all nodes.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    nodes: BTreeMap<NodeId, NodeAccount>,
    /// What waits at sinks, by ticket.
    at_sinks: BTreeMap<u64, (NodeId, LogId, Vec<SequenceNumber>)>,
    /// What the hub has counted and not made durable, in order: whose, of which log, from where.
    not_durable: Vec<(NodeId, LogId, SequenceNumber)>,
    /// How many of these were in what its disk refused last.
    refused: usize,
}

#[derive(Debug, Default)]
struct NodeAccount {
    logs: BTreeMap<LogId, LogAccount>,
    /// What the hub said at the last look.
    told: Totals,
    /// What it should have said: the sum over all logs.
    counted: Totals,
    /// Events that were taken since the last look, as encoded.
    new_events: Vec<Vec<u8>>,
    /// Bodies of the results that were ever durable.
    result_bodies: BTreeSet<Vec<u8>>,
}

/// One log: a stream of one start of the agent.
#[derive(Debug, Default)]
struct LogAccount {
    made: BTreeMap<SequenceNumber, Made>,
    decoder: BatchDecoder,
    /// The greatest number that was ever given away.
    last: SequenceNumber,
    /// Records that the node's store holds.
    present: BTreeSet<SequenceNumber>,
    /// Records that left the node while no hub had them.
    dropped: BTreeSet<SequenceNumber>,
    /// Records that the node's disk lost.
    holes: BTreeSet<SequenceNumber>,
    /// The store that held it was lost, or is an older one.
    store_was_lost: bool,
    /// The greatest watermark that any hub is known to have had durably.
    ever_durable: SequenceNumber,
    /// The greatest one that a hub had durably whose memory the one that leads does not have.
    elder: SequenceNumber,
    /// As the hub that leads has it.
    hub: HubSide,
    forgotten: bool,
    /// Handed to a sink since the hub started.
    handed: BTreeSet<SequenceNumber>,
    /// Taken by the sink since the hub started.
    sunk: BTreeSet<SequenceNumber>,
}

/// What a hub has counted of one log.
#[derive(Debug, Clone, Default)]
struct HubSide {
    /// The last record that it is done with.
    position: SequenceNumber,
    taken: BTreeSet<SequenceNumber>,
    lost: BTreeSet<SequenceNumber>,
    undecodable: BTreeSet<SequenceNumber>,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq)]
enum Made {
    /// An event or an alarm, as encoded.
    Event(Vec<u8>),
    /// A result, as encoded.
    Result(Vec<u8>),
    /// A batch of samples, as encoded and decoded.
    Samples(Vec<u8>, Option<Columns>),
}

impl Made {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Event(bytes) | Self::Result(bytes) | Self::Samples(bytes, _) => bytes,
        }
    }

    fn samples(&self) -> u64 {
        match self {
            Self::Samples(_, Some(columns)) => columns.moments.len() as u64,
            _ => 0,
        }
    }
}

/// What a hub counts of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Totals {
    samples: u64,
    events: u64,
    results: u64,
    lost: u64,
    undecodable: u64,
}

impl Totals {
    /// One more record that was taken.
    fn add(&mut self, made: &Made) {
        match made {
            Made::Event(_) => self.events += 1,
            Made::Result(_) => self.results += 1,
            Made::Samples(..) => self.samples += made.samples(),
        }
    }

    fn of(record: &NodeRecord) -> Self {
        Self {
            samples: record.samples_received,
            events: record.events_received,
            results: record.results_received,
            lost: record.records_lost,
            undecodable: record.records_undecodable,
        }
    }
}

impl NodeAccount {
    /// What the hub should count, from the beginning.
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for log in self.logs.values() {
            let taken = log.hub.taken.iter().filter_map(|number| log.made.get(number));
            taken.for_each(|made| totals.add(made));
            totals.lost += log.hub.lost.len() as u64;
            totals.undecodable += log.hub.undecodable.len() as u64;
        }
        totals
    }
}

impl Accounts {
    fn node(&mut self, node: &NodeId) -> &mut NodeAccount {
        self.nodes.entry(node.clone()).or_default()
    }

    /// Records of some streams that `node` has and has not been told to let go.
    pub(super) fn waiting(&self, node: &NodeId, counts: impl Fn(Stream) -> bool) -> usize {
        let logs = self.nodes.get(node).into_iter().flat_map(|account| &account.logs);
        logs.filter(|(id, _)| counts(id.stream)).map(|(_, log)| log.present.len()).sum()
    }

    /// Whether a result with this body was ever durable at `node`.
    pub(super) fn has_result(&self, node: &NodeId, body: &[u8]) -> bool {
        self.nodes.get(node).is_some_and(|account| account.result_bodies.contains(body))
    }

    /// Records that the quota took of `node` and no hub had, over all its logs.
    pub(super) fn dropped(&self, node: &NodeId) -> u64 {
        let logs = self.nodes.get(node).into_iter().flat_map(|account| account.logs.values());
        logs.map(|log| log.dropped.len() as u64).sum()
    }

    /// What must hold once all is at rest: every record of every log is accounted for.
    ///
    /// # Errors
    /// The first log that is not even.
    pub(super) fn at_rest(&self) -> Result<(), String> {
        for (node, account) in &self.nodes {
            for (id, log) in account.logs.iter().filter(|(_, log)| !log.store_was_lost) {
                if !log.is_complete() {
                    return Err(format!("{node}: {id:?} is not even at rest: {}", log.summary()));
                }
            }
            let (own, told) = (account.totals(), account.told);
            if own != told {
                return Err(format!(
                    "{node}: at rest the hub counts {told:?} and the world {own:?}"
                ));
            }
        }
        Ok(())
    }
}

impl LogAccount {
    /// Whether each record that was made is accounted for at the hub, or was at an earlier one.
    fn is_complete(&self) -> bool {
        let counted = |number: &SequenceNumber| {
            let sets = [&self.hub.taken, &self.hub.lost, &self.hub.undecodable];
            sets.iter().any(|numbers| numbers.contains(number))
        };
        (self.elder + 1..=self.last).all(|number| counted(&number))
    }

    fn summary(&self) -> String {
        format!(
            "{} made, counted up to {} (ever durable {}, at an earlier hub {}), {} taken, {} lost, {} undecodable; \
             {} left the node unheard, {} were lost on disk, {} are there",
            self.last,
            self.hub.position,
            self.ever_durable,
            self.elder,
            self.hub.taken.len(),
            self.hub.lost.len(),
            self.hub.undecodable.len(),
            self.dropped.len(),
            self.holes.len(),
            self.present.len(),
        )
    }
}
