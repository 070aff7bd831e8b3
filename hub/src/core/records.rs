//! Records of nodes: taken by the hub itself, or delivered to a sink first.
//!
//! A batch whose sink is this hub alone is done with once it is committed. Any other waits, in order,
//! until its sink has it; only then its log's watermark moves, is committed and acknowledged. Results
//! for a sink that this hub does not have stay with their node, which is told not to repeat them; so
//! does what has no room while a sink is down, until there is room and the node is told to send again.

use super::acknowledgements::Weight;
use super::deliveries::{Content, Delivery, Route, SinkKey};
use super::held::HeldBatch;
use super::settlement::Settlement;
use super::uplink::is_result;
use super::{Effect, HubCore, NodeState};
use shared::model::{NodeId, Now, SinkId};
use shared::sync::{ReceivedRecords, push_number};
use shared::wire::{
    GREETED_INCARNATION, LogAck, LogBatch, LogHold, LogId, Message, SequenceNumber, Stream,
};
use std::sync::Arc;
use tracing::warn;

/// Sinks of one node that are named as missing; more are a mistake, and say no more to a person.
const MISSING_SINKS_MAX: usize = 16;

/// Between two times that senders are told to send again what had no room.
const RECALL_INTERVAL_MS: u64 = 1_000;

/// Logs that are recalled at once: each brings up to 48 KiB, and the hub has a second for them.
const RECALLS_MAX: usize = 50;

impl HubCore {
    pub(super) fn handle_log_batch(&mut self, node: &NodeId, mut batch: LogBatch, now: Now) {
        if batch.log.incarnation == GREETED_INCARNATION {
            let Some(state) = self.nodes.get(node) else { return };
            if !state.session.is_introduced() {
                return;
            }
            batch.log.incarnation = state.record.incarnation;
        }
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
        let (_, settlement) = state.look_at(ack, received);
        if is_telemetry(ack.log) {
            state.decoders.put(ack.log, node, &mut self.commit);
        }
        state.record.add(&settlement);
        self.effects.push_back(settled(node, ack.log, settlement));
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
        let crowded_out = self.deliveries.is_left_out(sink, node, log)
            || !state.held.has_room(&log, records, bytes)
            || !self.deliveries.has_room(sink);
        if !known && crowded_out {
            return self.leave_out(node, &batch, sink, now);
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
        if is_telemetry(log) {
            state.decoders.hold(log);
        }
        let (content, settlement) = state.look_at(reached, received);
        let clocks = Arc::clone(&state.clocks);
        let ticket = content.map(|content| {
            let delivery = Delivery { node: node.clone(), log, sink, content, clocks };
            let ticket = self.deliveries.begin(&delivery);
            self.effects.push_back(Effect::Deliver { ticket, delivery });
            ticket
        });
        let batch = HeldBatch { ticket, weight, settlement };
        state.held.push(log, batch, now.monotonic);
    }

    /// Moves the watermark of `log` over what is done with.
    fn settle(&mut self, node: &NodeId, log: LogId, now: Now) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        // What a record of telemetry builds on is known for the newest record alone.
        let done = match is_telemetry(log) {
            true => state.held.take_all_done(&log, now.monotonic),
            false => state.held.take_done(&log, now.monotonic),
        };
        let Some(last) = done.last() else { return };
        if is_telemetry(log) {
            state.decoders.put(log, node, &mut self.commit);
        }
        let ack = LogAck { log, watermark: last.settlement.last };
        self.commit.acknowledge_log(node.clone(), ack, Weight::of(&done));
        for HeldBatch { settlement, .. } in done {
            state.record.add(&settlement);
            self.effects.push_back(settled(node, log, settlement));
        }
        state.record.logs.settle(ack);
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

    /// Leaves records with their node, since there is no room for them: it is told not to repeat them.
    fn leave_out(&mut self, node: &NodeId, batch: &LogBatch, sink: SinkKey, now: Now) {
        if !batch.is_within_limits() {
            return;
        }
        self.crowded_out_batches += 1;
        self.deliveries.leave_out(sink, node, batch.log);
        self.recall_due.get_or_insert(now.monotonic.plus_ms(RECALL_INTERVAL_MS));
        let hold = LogHold { log: batch.log, received: last_of(batch) };
        self.send(node, &Message::LogHold(hold));
    }

    /// There may be room again: some of those that had none are told where to go on. An acknowledgement
    /// of what they know already makes them count the time until they repeat what is behind it.
    pub(super) fn recall(&mut self, now: Now) {
        let nodes = &self.nodes;
        let is_idle =
            |node: &NodeId, log: &LogId| nodes.get(node).is_none_or(|state| !state.held.holds(log));
        for (node, log) in self.deliveries.take_recalled(RECALLS_MAX, is_idle) {
            let Some(state) = self.nodes.get_mut(&node) else { continue };
            state.acknowledgements.told(&log);
            let ack = LogAck { log, watermark: state.record.logs.watermark(&log) };
            if !self.commit.urge(&node, &log) {
                self.send(&node, &Message::LogAck(ack));
            }
        }
        if self.deliveries.leaves_out() {
            self.recall_due = Some(now.monotonic.plus_ms(RECALL_INTERVAL_MS));
        }
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
        if is_telemetry(ended.log) {
            if state.held.fail_all(&ended.log, ticket) {
                warn!(node = %ended.node, error, "a delivery failed: its records must come again");
                state.record.logs.rewind(ended.log, 0);
                state.decoders.revert(ended.log);
            }
        } else if state.held.failed(&ended.log, ticket) {
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
    /// Looks at new records: what a sink must have of them, and what all of them add. One bad record
    /// must not stand in the way of those behind it.
    fn look_at(
        &mut self,
        reached: LogAck,
        mut received: ReceivedRecords,
    ) -> (Option<Content>, Settlement) {
        let mut settlement = Settlement::begin(&mut received, reached.watermark);
        let log = reached.log;
        let (mut samples, mut results) = (Vec::new(), Vec::new());
        for (sequence, record) in received.records {
            let taken = match log.stream {
                Stream::Alarms | Stream::Events => {
                    self.take_event(&record).map(|()| settlement.events += 1)
                }
                Stream::Telemetry | Stream::Backfill => {
                    self.take_telemetry(log, sequence, &record).map(|columns| {
                        settlement.samples += columns.moments.len() as u64;
                        samples.push(columns);
                    })
                }
                Stream::Results(_) => is_result(&record).then(|| {
                    settlement.results += 1;
                    results.push((sequence, record));
                }),
            };
            if taken.is_none() {
                push_number(&mut settlement.undecodable, sequence);
            }
        }
        let content = match (samples.is_empty(), results.is_empty()) {
            (false, _) => Some(Content::Samples(samples)),
            (_, false) => Some(Content::Results(results)),
            _ => None,
        };
        (content, settlement)
    }
}

fn settled(node: &NodeId, log: LogId, settlement: Settlement) -> Effect {
    Effect::Settled { node: node.clone(), log, settlement }
}

fn is_telemetry(log: LogId) -> bool {
    matches!(log.stream, Stream::Telemetry | Stream::Backfill)
}

fn weight_of(received: &ReceivedRecords) -> Weight {
    let bytes = received.records.iter().map(|(_, record)| record.len() as u64).sum();
    Weight {
        records: received.records.len() as u64,
        bytes,
        urgent: received.hole || received.repeated,
    }
}

fn bytes_of(batch: &LogBatch) -> u64 {
    batch.records.iter().map(|record| record.len() as u64).sum()
}

/// The last record that a batch speaks of, be it as gone.
fn last_of(batch: &LogBatch) -> SequenceNumber {
    let last = batch.first.saturating_sub(1).saturating_add(batch.records.len() as u64);
    last.max(batch.oldest.saturating_sub(1))
}
