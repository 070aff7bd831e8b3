//! Records of nodes: taken by the hub itself, or delivered to a sink first.
//!
//! A batch whose sink is this hub alone is done with once it is committed. Any other waits, in order,
//! until its sink has it; only then its log's watermark moves, is committed and acknowledged. Results
//! for a sink that this hub does not have stay with their node, which is told not to repeat them.

use super::acknowledgements::Weight;
use super::deliveries::{Delivery, Route, SinkKey};
use super::held::{Gains, HeldBatch};
use super::{Effect, HubCore, NodeState};
use shared::model::{NodeId, Now, SinkId};
use shared::sync::ReceivedRecords;
use shared::wire::{LogAck, LogBatch, LogHold, LogId, Message, SequenceNumber};
use std::sync::Arc;
use tracing::warn;

/// Sinks of one node that are named as missing; more are a mistake, and say no more to a person.
const MISSING_SINKS_MAX: usize = 16;

/// Records with their numbers.
type Numbered = Vec<(SequenceNumber, Vec<u8>)>;

impl HubCore {
    pub(super) fn handle_log_batch(&mut self, node: &NodeId, batch: LogBatch, now: Now) {
        match self.deliveries.route(batch.log.stream) {
            Route::Hub => self.take_batch(node, batch, now),
            Route::Sink(sink) => self.deliver_batch(node, batch, sink, now),
            Route::Missing(sink) => self.leave_batch(node, &batch, sink),
        }
    }

    fn take_batch(&mut self, node: &NodeId, batch: LogBatch, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let received = state.record.logs.handle_batch(batch);
        let Some(ack) = received.ack else { return };
        if !received.advanced {
            return self.acknowledge_again(node, ack);
        }
        let weight = weight_of(&received);
        let (_, gains) = state.look_at(ack.log, received);
        state.record.add(gains);
        self.commit.acknowledge_log(node.clone(), ack, weight);
        self.store_record(node, now);
    }

    /// A batch brought nothing new: its sender waits to hear.
    fn acknowledge_again(&mut self, node: &NodeId, ack: LogAck) {
        if self.commit.urge(node, &ack.log) {
            return;
        }
        if let Some(state) = self.nodes.get_mut(node) {
            state.acknowledgements.told(&ack.log);
        }
        self.send(node, &Message::LogAck(ack));
    }

    fn deliver_batch(&mut self, node: &NodeId, batch: LogBatch, sink: SinkKey, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let (log, records, bytes) = (batch.log, batch.records.len() as u64, bytes_of(&batch));
        let known = last_of(&batch) <= state.record.logs.arrived(&log);
        let room =
            state.held.has_room(&log, records, bytes) && self.deliveries.has_room(sink, bytes);
        if !known && !room {
            // Neither taken nor acknowledged: its sender repeats it later.
            self.crowded_out_batches += 1;
            return;
        }
        let received = state.record.logs.receive(batch);
        let Some(reached) = received.ack else { return };
        if received.advanced {
            self.hold(node, received, reached, sink, now);
            self.settle(node, log, now);
        } else if state.held.holds(&log) {
            state.held.repeated(&log, now.monotonic);
            self.tell_due(node, now);
        } else {
            self.acknowledge_again(node, reached);
        }
    }

    /// Hands new records to their sink.
    fn hold(
        &mut self,
        node: &NodeId,
        received: ReceivedRecords,
        reached: LogAck,
        sink: SinkKey,
        now: Now,
    ) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let (log, weight) = (reached.log, weight_of(&received));
        let (records, gains) = state.look_at(log, received);
        let clocks = Arc::clone(&state.clocks);
        let ticket = (!records.is_empty()).then(|| {
            let delivery = Delivery { node: node.clone(), log, sink, records, clocks };
            let ticket = self.deliveries.begin(&delivery);
            self.effects.push_back(Effect::Deliver { ticket, delivery });
            ticket
        });
        let batch = HeldBatch { ticket, until: reached.watermark, weight, gains };
        state.held.push(log, batch, now.monotonic);
    }

    /// Moves the watermark of `log` over what is done with.
    fn settle(&mut self, node: &NodeId, log: LogId, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let done = state.held.take_done(&log, now.monotonic);
        let Some(last) = done.last() else { return };
        let ack = LogAck { log, watermark: last.until };
        done.iter().for_each(|batch| state.record.add(batch.gains));
        state.record.logs.settle(ack);
        self.commit.acknowledge_log(node.clone(), ack, Weight::of(&done));
        self.store_record(node, now);
    }

    /// Leaves results with their node, since this hub does not have their sink.
    fn leave_batch(&mut self, node: &NodeId, batch: &LogBatch, sink: SinkId) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        if !batch.is_within_limits() {
            return;
        }
        let named = state.missing_sinks.len() < MISSING_SINKS_MAX;
        if named && state.missing_sinks.insert(sink) {
            warn!(node = %node, sink = %format!("{:08x}", sink.0),
                "has results for a sink that this hub does not have: they stay there");
        }
        let hold = LogHold { log: batch.log, received: last_of(batch) };
        self.send(node, &Message::LogHold(hold));
    }

    pub(super) fn handle_delivered(&mut self, ticket: u64, now: Now) {
        let Some(ended) = self.deliveries.end(ticket) else { return };
        if let Some(state) = self.nodes.get_mut(&ended.node) {
            state.held.delivered(&ended.log, ticket);
        }
        self.settle(&ended.node, ended.log, now);
        self.note_deadline(&ended.node);
    }

    pub(super) fn handle_delivery_failed(&mut self, ticket: u64, error: &str) {
        let Some(ended) = self.deliveries.end(ticket) else { return };
        let Some(state) = self.nodes.get_mut(&ended.node) else { return };
        if state.held.failed(&ended.log, ticket) {
            warn!(node = %ended.node, error, "a delivery failed: its records must come again");
            let left = state.held.last(&ended.log).unwrap_or(0);
            state.record.logs.rewind(ended.log, left);
        }
        self.note_deadline(&ended.node);
    }

    /// Tells `node` which of its logs wait for their sinks, and what is committed, as far as it is time.
    pub(super) fn tell_due(&mut self, node: &NodeId, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let holds = state.held.take_due(now.monotonic);
        let acks = state.acknowledgements.take_due(now.monotonic);
        holds.into_iter().for_each(|hold| self.send(node, &Message::LogHold(hold)));
        acks.into_iter().for_each(|ack| self.send(node, &Message::LogAck(ack)));
    }
}

impl NodeState {
    /// Looks at new records: those that can be decoded, and what all of them add.
    fn look_at(&mut self, log: LogId, received: ReceivedRecords) -> (Numbered, Gains) {
        let mut gains = Gains { lost: received.lost_records, ..Gains::default() };
        let mut kept = Numbered::new();
        for (sequence, record) in received.records {
            match self.take(log.stream, &record) {
                Some(more) => {
                    gains = gains.plus(more);
                    kept.push((sequence, record));
                }
                // One bad record must not stand in the way of those behind it.
                None => gains.undecodable += 1,
            }
        }
        (kept, gains)
    }
}

fn weight_of(received: &ReceivedRecords) -> Weight {
    let bytes = received.records.iter().map(|(_, record)| record.len() as u64).sum();
    Weight { records: received.records.len() as u64, bytes, urgent: received.hole }
}

fn bytes_of(batch: &LogBatch) -> u64 {
    batch.records.iter().map(|record| record.len() as u64).sum()
}

/// The last record that a batch speaks of, be it as gone.
fn last_of(batch: &LogBatch) -> SequenceNumber {
    let last = batch.first.saturating_sub(1).saturating_add(batch.records.len() as u64);
    last.max(batch.oldest.saturating_sub(1))
}
