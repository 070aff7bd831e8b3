//! What is on its way to sinks: which stream has which sink, and how much may be on its way to each.
//!
//! A sink that is down fills its own share and no other's, so that it blocks nobody. It holds numbers;
//! the records are with the sink's task.

use super::clock::BootClocks;
use shared::model::{NodeId, SinkId};
use shared::wire::{LogId, SequenceNumber, Stream};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of records that may wait for Prometheus: a batch of a minute has about 300, so that a fleet of
/// 10 000 nodes fits with all that each may have on its way.
const TELEMETRY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of records that may wait for one sink of results.
const RESULTS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Deliveries that may wait for one sink, whatever their size: about 200 bytes each besides the records.
pub(crate) const SINK_DELIVERIES_MAX: usize = 65_536;

/// The sinks that this hub was configured with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfiguredSinks {
    /// Whether samples must reach Prometheus before they are acknowledged.
    pub telemetry: bool,
    /// The sinks of results.
    pub results: Vec<SinkId>,
}

/// One sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SinkKey {
    /// Prometheus.
    Telemetry,
    /// A sink of results.
    Results(SinkId),
}

/// Where the records of a stream go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Nowhere: they are done with once they are committed.
    Hub,
    /// To a sink, and are done with once it has them.
    Sink(SinkKey),
    /// To a sink that this hub does not have: they stay with the node.
    Missing(SinkId),
}

/// Records that a sink must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whose.
    pub node: NodeId,
    /// Of which log.
    pub log: LogId,
    /// To which sink.
    pub sink: SinkKey,
    /// The records with their numbers, in order; at least one. The core could decode each.
    pub records: Vec<(SequenceNumber, Vec<u8>)>,
    /// Where the node's boots lie, to correct the times of wrong clocks.
    pub clocks: Arc<BootClocks>,
}

impl Delivery {
    /// Bytes of its records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.records.iter().map(|(_, record)| record.len() as u64).sum()
    }
}

/// A delivery on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) node: NodeId,
    pub(super) log: LogId,
    sink: SinkKey,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    deliveries: usize,
    bytes: u64,
}

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    configured: ConfiguredSinks,
    tickets: BTreeMap<u64, Ticket>,
    shares: BTreeMap<SinkKey, Share>,
    next_ticket: u64,
}

impl Deliveries {
    pub(super) fn new(configured: ConfiguredSinks) -> Self {
        Self { configured, ..Self::default() }
    }

    pub(super) fn route(&self, stream: Stream) -> Route {
        match stream {
            Stream::Alarms | Stream::Events => Route::Hub,
            Stream::Telemetry | Stream::Backfill if !self.configured.telemetry => Route::Hub,
            Stream::Telemetry | Stream::Backfill => Route::Sink(SinkKey::Telemetry),
            Stream::Results(sink) if self.configured.results.contains(&sink) => {
                Route::Sink(SinkKey::Results(sink))
            }
            Stream::Results(sink) => Route::Missing(sink),
        }
    }

    /// Whether `bytes` more may be on their way to `sink`.
    pub(super) fn has_room(&self, sink: SinkKey, bytes: u64) -> bool {
        let share = self.shares.get(&sink).copied().unwrap_or_default();
        let bytes_max = match sink {
            SinkKey::Telemetry => TELEMETRY_BYTES_MAX,
            SinkKey::Results(_) => RESULTS_BYTES_MAX,
        };
        share.deliveries < SINK_DELIVERIES_MAX && share.bytes.saturating_add(bytes) <= bytes_max
    }

    /// The number of `delivery`, which is on its way from now on.
    pub(super) fn begin(&mut self, delivery: &Delivery) -> u64 {
        let (sink, bytes) = (delivery.sink, delivery.bytes());
        let share = self.shares.entry(sink).or_default();
        share.deliveries = share.deliveries.saturating_add(1);
        share.bytes = share.bytes.saturating_add(bytes);
        self.next_ticket = self.next_ticket.saturating_add(1);
        let ticket = Ticket { node: delivery.node.clone(), log: delivery.log, sink, bytes };
        self.tickets.insert(self.next_ticket, ticket);
        self.next_ticket
    }

    /// A delivery ended, well or not; what it was.
    pub(super) fn end(&mut self, ticket: u64) -> Option<Ticket> {
        let ended = self.tickets.remove(&ticket)?;
        if let Some(share) = self.shares.get_mut(&ended.sink) {
            share.deliveries = share.deliveries.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(ended.bytes);
        }
        Some(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(sink: SinkKey, bytes: usize) -> Delivery {
        let log = LogId { incarnation: 1, stream: Stream::Telemetry };
        let node = NodeId::new("mast-17").unwrap();
        let clocks = Arc::default();
        Delivery { node, log, sink, records: vec![(1, vec![0; bytes])], clocks }
    }

    #[test]
    fn a_sink_that_is_down_fills_its_own_share_and_no_others() {
        let mut deliveries = Deliveries::default();
        let (one, other) = (SinkKey::Results(SinkId(1)), SinkKey::Results(SinkId(2)));
        let mib = 1024 * 1024;
        let tickets: Vec<u64> = (0..16).map(|_| deliveries.begin(&delivery(one, mib))).collect();
        assert!(!deliveries.has_room(one, 1));
        assert!(deliveries.has_room(other, 1) && deliveries.has_room(SinkKey::Telemetry, 1));
        assert!(deliveries.end(tickets[0]).is_some());
        assert!(deliveries.has_room(one, 1));
        assert_eq!(deliveries.end(tickets[0]), None, "a share was given back twice");
    }

    #[test]
    fn a_stream_goes_to_its_sink_and_without_one_telemetry_ends_here_and_results_stay_away() {
        let configured = ConfiguredSinks { telemetry: true, results: vec![SinkId(7)] };
        let with = Deliveries::new(configured);
        let without = Deliveries::default();
        for stream in [Stream::Telemetry, Stream::Backfill] {
            assert_eq!(with.route(stream), Route::Sink(SinkKey::Telemetry));
            assert_eq!(without.route(stream), Route::Hub);
        }
        let results = Stream::Results(SinkId(7));
        assert_eq!(with.route(results), Route::Sink(SinkKey::Results(SinkId(7))));
        assert_eq!(without.route(results), Route::Missing(SinkId(7)));
        assert_eq!(with.route(Stream::Alarms), Route::Hub);
    }
}
