//! What is on its way to sinks: which stream has which sink, and how much may be on its way to each.
//!
//! A sink that is down fills its own share and no other's, so that it blocks nobody. It holds numbers;
//! the records are with the sink's task.

use super::clock::BootClocks;
use super::columns::Columns;
use shared::model::{NodeId, SinkId};
use shared::wire::{LogId, SequenceNumber, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of samples that may wait for Prometheus: those of a minute of 60 series take about 19 KiB, so
/// that a fleet of 10 000 nodes can bring out one each while Prometheus is slow. While it is down they
/// are better with their nodes.
const TELEMETRY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of records that may wait for one sink of results.
const RESULTS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a record takes besides its bytes: numbers, a pointer, the allocator's share.
const RECORD_BYTES: u64 = 64;

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
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Whose.
    pub node: NodeId,
    /// Of which log.
    pub log: LogId,
    /// To which sink.
    pub sink: SinkKey,
    /// What was in them.
    pub content: Content,
    /// Where the node's boots lie, to correct the times of wrong clocks.
    pub clocks: Arc<BootClocks>,
}

/// What is delivered, in order; never empty.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Samples, a record each.
    Samples(Vec<Columns>),
    /// Results as they arrived, with their numbers. The core could decode each.
    Results(Vec<(SequenceNumber, Vec<u8>)>),
}

impl Delivery {
    /// About what it takes of the hub's memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Samples(batches) => batches.iter().map(Columns::bytes).sum(),
            Content::Results(records) => {
                records.iter().map(|(_, record)| RECORD_BYTES + record.len() as u64).sum()
            }
        }
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
    /// Logs that were told to wait, since there was no room.
    left_out: BTreeSet<(SinkKey, NodeId, LogId)>,
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

    /// Whether more may be on its way to `sink`. The share is passed by one delivery at most.
    pub(super) fn has_room(&self, sink: SinkKey) -> bool {
        self.fills_less_than(sink, 1)
    }

    /// Whether `sink` has less than one of so many parts of its share.
    fn fills_less_than(&self, sink: SinkKey, parts: u64) -> bool {
        let share = self.shares.get(&sink).copied().unwrap_or_default();
        let bytes_max = match sink {
            SinkKey::Telemetry => TELEMETRY_BYTES_MAX,
            SinkKey::Results(_) => RESULTS_BYTES_MAX,
        };
        let deliveries = (share.deliveries as u64).saturating_mul(parts);
        deliveries < SINK_DELIVERIES_MAX as u64 && share.bytes.saturating_mul(parts) < bytes_max
    }

    /// A log must wait, since there is no room.
    pub(super) fn leave_out(&mut self, sink: SinkKey, node: &NodeId, log: LogId) {
        self.left_out.insert((sink, node.clone(), log));
    }

    /// Whether a log was told to wait, and not yet to send again.
    pub(super) fn is_left_out(&self, sink: SinkKey, node: &NodeId, log: LogId) -> bool {
        !self.left_out.is_empty() && self.left_out.contains(&(sink, node.clone(), log))
    }

    /// The sender of `log` begins anew.
    pub(super) fn let_in(&mut self, node: &NodeId) {
        self.left_out.retain(|(_, left_out, _)| left_out != node);
    }

    /// Some logs that may be sent again: those of sinks with room for more, of which nothing waits any
    /// more (`is_idle`). They are no longer left out.
    pub(super) fn take_recalled(
        &mut self,
        count_max: usize,
        is_idle: impl Fn(&NodeId, &LogId) -> bool,
    ) -> Vec<(NodeId, LogId)> {
        let may = |(sink, node, log): &&(SinkKey, NodeId, LogId)| {
            self.fills_less_than(*sink, 2) && is_idle(node, log)
        };
        let recalled: Vec<_> = self.left_out.iter().filter(may).take(count_max).cloned().collect();
        for entry in &recalled {
            self.left_out.remove(entry);
        }
        recalled.into_iter().map(|(_, node, log)| (node, log)).collect()
    }

    /// Whether any log is left out.
    pub(super) fn leaves_out(&self) -> bool {
        !self.left_out.is_empty()
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
        let (content, clocks) = (Content::Results(vec![(1, vec![0; bytes])]), Arc::default());
        Delivery { node, log, sink, content, clocks }
    }

    #[test]
    fn a_sink_that_is_down_fills_its_own_share_and_no_others() {
        let mut deliveries = Deliveries::default();
        let (one, other) = (SinkKey::Results(SinkId(1)), SinkKey::Results(SinkId(2)));
        let mib = 1024 * 1024 - 64;
        let tickets: Vec<u64> = (0..16).map(|_| deliveries.begin(&delivery(one, mib))).collect();
        assert!(!deliveries.has_room(one));
        assert!(deliveries.has_room(other) && deliveries.has_room(SinkKey::Telemetry));
        assert!(deliveries.end(tickets[0]).is_some());
        assert!(deliveries.has_room(one));
        assert_eq!(deliveries.end(tickets[0]), None, "a share was given back twice");
    }

    #[test]
    fn what_was_left_out_is_recalled_a_few_at_a_time_once_half_the_share_is_free() {
        let mut deliveries = Deliveries::default();
        let sink = SinkKey::Results(SinkId(1));
        let sent = delivery(sink, 1024 * 1024 - 64);
        let tickets: Vec<u64> = (0..16).map(|_| deliveries.begin(&sent)).collect();
        for incarnation in 1..=3 {
            let log = LogId { incarnation, ..sent.log };
            deliveries.leave_out(sink, &sent.node, log);
            assert!(deliveries.is_left_out(sink, &sent.node, log));
        }
        tickets.iter().take(8).for_each(|ticket| drop(deliveries.end(*ticket)));
        let any = |_: &NodeId, _: &LogId| true;
        assert!(deliveries.take_recalled(2, any).is_empty());
        deliveries.end(tickets[8]);
        assert!(deliveries.take_recalled(2, |_, _| false).is_empty(), "something waits still");
        assert_eq!(deliveries.take_recalled(2, any).len(), 2);
        assert_eq!(deliveries.take_recalled(2, any).len(), 1);
        assert!(!deliveries.leaves_out());
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
