//! What the hub does with records, as it tells it, held against what was made.
//!
//! The hub says of each record, by number, what became of it; its totals, its watermarks, what it
//! shows to people and what it hands to sinks must all agree with that, and none of it may be what
//! can't be: a number that was counted, one that nobody made, a loss of what is there.

use super::{Accounts, HubSide, LogAccount, Made, NodeAccount, Totals};
use hub::core::{Columns, Content, Delivery, NodeRecord, Settlement};
use shared::model::{NodeEvent, NodeId};
use shared::telemetry::{Series, begins_run};
use shared::wire::{LogBatch, LogId, SequenceNumber, Stream, encode};
use std::collections::BTreeMap;

/// Something that the hub or a sink did, in order.
#[derive(Debug, Clone)]
pub(in super::super) enum Deed {
    /// Records were handed to a sink.
    Handed(u64, Delivery),
    /// The sink will not take it.
    Refused(u64),
    /// The sink has it.
    Took(u64),
    /// Records are done with.
    Settled(NodeId, LogId, Settlement),
    /// All that was settled is durable.
    Stored,
    /// The disk refused it.
    Unstored,
}

/// What is in the books of a hub's store.
#[derive(Debug, Default)]
pub(in super::super) struct HubBooks(BTreeMap<(NodeId, LogId), HubSide>);

/// What a hub's store holds of the nodes' logs.
pub(in super::super) type Durable = BTreeMap<NodeId, NodeRecord>;

impl Accounts {
    /// A hub is no more that had this durably: its store is lost or replaced, or another one leads.
    pub(in super::super) fn hub_ended(&mut self, durable: &Durable) {
        for (node, record) in durable {
            for (id, log) in &mut self.node(node).logs {
                log.elder = log.elder.max(durable_watermark(record, *id).min(log.last));
                log.ever_durable = log.ever_durable.max(log.elder);
            }
        }
    }

    /// What is in the books of the hub's store, to be put back with a copy of it.
    pub(in super::super) fn hub_books(&self) -> HubBooks {
        let logs = self.nodes.iter().flat_map(|(node, account)| {
            account.logs.iter().map(|(id, log)| ((node.clone(), *id), log.hub.clone()))
        });
        let mut books = HubBooks(logs.collect());
        for (node, id, first) in &self.not_durable {
            if let Some(side) = books.0.get_mut(&(node.clone(), *id)) {
                side.undo_from(*first);
            }
        }
        books
    }

    /// Another store takes the place of the one that [`Self::hub_ended`].
    pub(in super::super) fn put_back_hub_books(&mut self, books: &HubBooks) {
        for (node, account) in &mut self.nodes {
            for (id, log) in &mut account.logs {
                log.hub = books.0.get(&(node.clone(), *id)).cloned().unwrap_or_default();
            }
        }
    }

    /// The hub's process is gone, and what it had not made durable; what its disk had refused last may
    /// be there after all.
    pub(in super::super) fn hub_died(&mut self, refused_is_there: bool) {
        let kept = if refused_is_there { self.refused } else { 0 };
        self.refused = 0;
        for (node, id, first) in std::mem::take(&mut self.not_durable).split_off(kept) {
            self.node(&node).logs.entry(id).or_default().hub.undo_from(first);
        }
        self.at_sinks.clear();
        for account in self.nodes.values_mut() {
            account.new_events.clear();
            for log in account.logs.values_mut() {
                log.handed.clear();
                log.sunk.clear();
            }
        }
    }

    /// A hub starts with what its store holds.
    ///
    /// # Errors
    /// Where that is not what is in its books.
    pub(in super::super) fn hub_started(&mut self, durable: &Durable) -> Result<(), String> {
        for (node, account) in &mut self.nodes {
            let record = durable.get(node);
            for (id, log) in &mut account.logs {
                let watermark = record.map_or(0, |record| durable_watermark(record, *id));
                log.forgotten = watermark == SequenceNumber::MAX;
                if !log.forgotten && watermark != log.hub.position {
                    let log = log.summary();
                    return Err(format!(
                        "{node}: {id:?}: the stored watermark is {watermark}: {log}"
                    ));
                }
            }
            account.counted = account.totals();
            account.told = record.map(Totals::of).unwrap_or_default();
            account.compare().map_err(|problem| format!("{node}: at a start {problem}"))?;
        }
        Ok(())
    }

    /// The hub or a sink did something.
    ///
    /// # Errors
    /// What can't be: see the module.
    pub(in super::super) fn enter(&mut self, deed: Deed) -> Result<(), String> {
        match deed {
            Deed::Handed(ticket, delivery) => {
                let Delivery { node, log: id, content, .. } = delivery;
                let log = self.node(&node).logs.entry(id).or_default();
                let numbers = log.handed(&content);
                let numbers = numbers.map_err(|problem| format!("{node}: {id:?}: {problem}"))?;
                self.at_sinks.insert(ticket, (node, id, numbers));
            }
            Deed::Refused(ticket) => self.refused(ticket),
            Deed::Took(ticket) => {
                if let Some((node, id, numbers)) = self.at_sinks.remove(&ticket) {
                    self.node(&node).logs.entry(id).or_default().sunk.extend(numbers);
                }
            }
            Deed::Settled(node, id, settlement) => {
                let settled = self.node(&node).settle(id, &settlement);
                settled.map_err(|problem| format!("{node}: {id:?}: {problem}"))?;
                self.not_durable.push((node, id, settlement.first));
            }
            Deed::Stored => {
                self.not_durable.clear();
                self.refused = 0;
            }
            Deed::Unstored => self.refused = self.not_durable.len(),
        }
        Ok(())
    }

    /// What a sink refused comes again: of telemetry all that waits of its log, else what is behind it.
    fn refused(&mut self, ticket: u64) {
        let Some((node, id, numbers)) = self.at_sinks.remove(&ticket) else { return };
        let is_telemetry = !matches!(id.stream, Stream::Results(_));
        let first = numbers.first().copied().unwrap_or_default();
        let again = |of: &(NodeId, LogId, Vec<SequenceNumber>)| {
            of.0 == node && of.1 == id && (is_telemetry || of.2.iter().all(|n| *n >= first))
        };
        let mut numbers = numbers.clone();
        let behind = self.at_sinks.extract_if(.., |_, of| again(of));
        behind.for_each(|(_, (.., more))| numbers.extend(more));
        let log = self.node(&node).logs.entry(id).or_default();
        log.handed.retain(|number| !numbers.contains(number));
    }

    /// Looks at what the hub counts of `node` now; `newest_events` are those that it has kept, oldest
    /// first.
    ///
    /// # Errors
    /// A count, a watermark or an event that is not as in the books.
    pub(in super::super) fn look(
        &mut self,
        node: &NodeId,
        record: &NodeRecord,
        newest_events: impl FnOnce() -> Vec<NodeEvent>,
    ) -> Result<(), String> {
        let account = self.node(node);
        account.look(record, newest_events).map_err(|problem| format!("{node}: {problem}"))
    }
}

impl NodeAccount {
    fn settle(&mut self, id: LogId, settlement: &Settlement) -> Result<(), String> {
        let log = self.logs.entry(id).or_default();
        let Settlement { first, last, lost, undecodable, .. } = settlement;
        let position = log.hub.position;
        if *first != position + 1 || *last < *first {
            return Err(format!("{first} to {last} are counted, and {position} was the last"));
        }
        if *last > log.last {
            return Err(format!("{last} is counted, and {} were made", log.last));
        }
        for number in *first..=*last {
            let is_in = |ranges: &[std::ops::RangeInclusive<SequenceNumber>]| {
                ranges.iter().any(|range| range.contains(&number))
            };
            if is_in(lost) {
                log.may_be_lost(number)?;
                log.hub.lost.insert(number);
                self.counted.lost += 1;
            } else if is_in(undecodable) {
                log.may_be_undecodable(number)?;
                log.hub.undecodable.insert(number);
                self.counted.undecodable += 1;
            } else {
                let made = log.take(id.stream, number)?;
                self.counted.add(made);
                if let Made::Event(event) = made {
                    self.new_events.push(event.clone());
                }
                log.hub.taken.insert(number);
            }
        }
        log.hub.position = *last;
        Ok(())
    }

    fn look(
        &mut self,
        record: &NodeRecord,
        newest_events: impl FnOnce() -> Vec<NodeEvent>,
    ) -> Result<(), String> {
        let told = Totals::of(record);
        if told == self.told && told == self.counted {
            return Ok(());
        }
        self.told = told;
        for (id, log) in self.logs.iter_mut().filter(|(_, log)| !log.forgotten) {
            let watermark = record.logs.watermark(id);
            let checked = match watermark {
                _ if watermark == log.hub.position => Ok(()),
                0 => log.forget(),
                _ => Err(format!("the watermark is {watermark}: {}", log.summary())),
            };
            checked.map_err(|problem| format!("{id:?}: {problem}"))?;
        }
        self.look_at_events(newest_events)?;
        self.compare()
    }

    /// What was taken since the last look are the newest events, in that order.
    fn look_at_events(
        &mut self,
        newest_events: impl FnOnce() -> Vec<NodeEvent>,
    ) -> Result<(), String> {
        let taken = std::mem::take(&mut self.new_events);
        if taken.is_empty() {
            return Ok(());
        }
        let events = newest_events();
        let pairs = events.iter().rev().zip(taken.iter().rev());
        let other = |(event, taken): &(&NodeEvent, &Vec<u8>)| {
            encode("event", event).ok().as_ref() != Some(taken)
        };
        match pairs.clone().find(other) {
            _ if events.is_empty() => Err("events were taken, and none is shown".to_owned()),
            Some((event, _)) => Err(format!("an event is shown that was not taken: {event:?}")),
            None => Ok(()),
        }
    }

    fn compare(&self) -> Result<(), String> {
        let (told, own) = (self.told, self.counted);
        if own == told {
            return Ok(());
        }
        let log = |(id, log): (&LogId, &LogAccount)| format!("{id:?}: {}", log.summary());
        let logs: Vec<String> = self.logs.iter().map(log).collect();
        Err(format!("the hub counts {told:?}, and the world {own:?}: {logs:?}"))
    }
}

impl HubSide {
    fn undo_from(&mut self, first: SequenceNumber) {
        self.position = self.position.min(first.saturating_sub(1));
        for numbers in [&mut self.taken, &mut self.lost, &mut self.undecodable] {
            drop(numbers.split_off(&first));
        }
    }
}

impl LogAccount {
    /// The numbers of what was handed to a sink, which must be as it was made, in order.
    fn handed(&mut self, content: &Content) -> Result<Vec<SequenceNumber>, String> {
        let mut numbers = Vec::new();
        match content {
            Content::Results(records) => {
                for (number, record) in records {
                    if self.made.get(number).is_none_or(|made| made.bytes() != record) {
                        return Err(format!("result {number} was delivered and not made so"));
                    }
                    numbers.push(*number);
                }
            }
            Content::Samples(batches) => {
                let last = self.handed.last().copied().unwrap_or_default();
                let mut from = last.max(self.hub.position) + 1;
                for columns in batches {
                    let is_it = |made: &Made| match made {
                        Made::Samples(_, Some(own)) => are_same(own, columns),
                        _ => false,
                    };
                    let found = self.made.range(from..).find(|(_, made)| is_it(made));
                    let Some((number, _)) = found else {
                        let at = columns.moments.first();
                        return Err(format!("samples from {at:?} were delivered and not made"));
                    };
                    from = number + 1;
                    numbers.push(*number);
                }
            }
        }
        self.handed.extend(&numbers);
        Ok(numbers)
    }

    /// Record `number` is taken: it was made, and where it goes to a sink, that has it.
    fn take(&mut self, stream: Stream, number: SequenceNumber) -> Result<&Made, String> {
        let is_sunk = !matches!(stream, Stream::Alarms | Stream::Events);
        if is_sunk && !(self.handed.remove(&number) && self.sunk.contains(&number)) {
            return Err(format!("record {number} is done with, and its sink has it not"));
        }
        self.made.get(&number).ok_or_else(|| format!("record {number} is taken, and none was made"))
    }

    /// Only what builds on a record that this hub has not taken can't be read.
    fn may_be_undecodable(&self, number: SequenceNumber) -> Result<(), String> {
        let builds_on_another = match self.made.get(&number) {
            Some(Made::Samples(..)) => !begins_run(number),
            _ => false,
        };
        if builds_on_another && !self.hub.taken.contains(&number.saturating_sub(1)) {
            return Ok(());
        }
        Err(format!("record {number} is said to be undecodable, and is as it was made"))
    }

    /// A record is counted as lost: it must have left the node, and no hub may have had it.
    fn may_be_lost(&self, number: SequenceNumber) -> Result<(), String> {
        if self.present.contains(&number) {
            return Err(format!("record {number} is counted as lost, and is there"));
        }
        let unheard = self.dropped.contains(&number)
            || self.holes.contains(&number)
            || !self.made.contains_key(&number);
        if unheard || number <= self.elder || self.store_was_lost {
            return Ok(());
        }
        Err(format!("record {number} was acknowledged, and is counted as lost"))
    }

    /// The node has said that all of it is delivered, and the hub lets its watermark go.
    fn forget(&mut self) -> Result<(), String> {
        if self.forgotten {
            return Ok(());
        }
        if !self.is_complete() && !self.store_was_lost {
            return Err(format!("it was forgotten, and is not even: {}", self.summary()));
        }
        self.forgotten = true;
        Ok(())
    }
}

/// A series that was not there has no number, which is equal to nothing.
fn are_same(own: &Columns, other: &Columns) -> bool {
    let bits = |columns: &Columns| {
        let of = |(series, values): &(Series, Vec<f64>)| {
            (series.clone(), values.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
        };
        columns.series.iter().map(of).collect::<Vec<_>>()
    };
    own.moments == other.moments && bits(own) == bits(other)
}

/// Up to where a hub has a log durably: all of it, when it has forgotten it, since it was delivered.
pub(in super::super) fn durable_watermark(record: &NodeRecord, log: LogId) -> SequenceNumber {
    let watermark = record.logs.watermark(&log);
    if watermark > 0 {
        return watermark;
    }
    // It takes nothing of a log that it has forgotten.
    let records = vec![vec![0].into()];
    let mut logs = record.logs.clone();
    let takes = logs.receive(LogBatch { log, oldest: 1, first: 1, records }).advanced;
    if takes { 0 } else { SequenceNumber::MAX }
}
