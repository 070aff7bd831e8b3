//! What the hub takes, read off its totals, its watermarks and what it hands to sinks.

use super::{Accounts, LogAccount, Made, NodeAccount, Totals};
use hub::core::{Columns, Content, Delivery, NodeRecord};
use shared::model::{NodeEvent, NodeId};
use shared::telemetry::{Series, begins_run};
use shared::wire::{LogBatch, LogId, SequenceNumber, Stream, encode};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// What happened at the hub's sinks, in order.
#[derive(Debug, Clone)]
pub(in super::super) enum SinkEvent {
    /// Records were handed to a sink.
    Handed(u64, Delivery),
    /// The sink will not take it.
    Refused(u64),
    /// The sink has it.
    Took(u64),
}

/// What is in the books of a hub.
#[derive(Debug)]
pub(in super::super) struct HubBooks(BTreeMap<NodeId, BTreeMap<LogId, HubSide>>);

#[derive(Debug, Clone, Default)]
struct HubSide {
    watermark: SequenceNumber,
    taken: BTreeSet<SequenceNumber>,
    lost: BTreeSet<SequenceNumber>,
    undecodable: BTreeSet<SequenceNumber>,
}

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

    /// What is in the books of the hub, to be put back with an older copy of its store.
    pub(in super::super) fn hub_books(&self) -> HubBooks {
        let of = |(node, account): (&NodeId, &NodeAccount)| {
            let logs = account.logs.iter().map(|(id, log)| (*id, log.hub_side()));
            (node.clone(), logs.collect())
        };
        HubBooks(self.nodes.iter().map(of).collect())
    }

    /// An older copy of the hub's store takes the place of the one that [`Self::hub_ended`].
    pub(in super::super) fn put_back_hub_books(&mut self, books: &HubBooks) {
        for (node, account) in &mut self.nodes {
            for (id, log) in &mut account.logs {
                let older = books.0.get(node).and_then(|logs| logs.get(id));
                log.set_hub_side(older.cloned().unwrap_or_default());
            }
        }
    }

    /// A hub starts with what its store holds: what was not durable is undone.
    ///
    /// # Errors
    /// Where its totals and its watermarks contradict each other.
    pub(in super::super) fn hub_started(&mut self, durable: &Durable) -> Result<(), String> {
        self.at_sinks.clear();
        for (node, account) in &mut self.nodes {
            let record = durable.get(node).cloned();
            for (id, log) in &mut account.logs {
                log.handed.clear();
                log.sunk.clear();
                let watermark = record.as_ref().map_or(0, |record| durable_watermark(record, *id));
                log.forgotten = watermark == SequenceNumber::MAX;
                if !log.forgotten {
                    log.undo_after(watermark);
                }
            }
            account.told = record.as_ref().map(Totals::of).unwrap_or_default();
            account.undo_in_limbo();
            if account.counted != account.told {
                let (told, own) = (account.told, account.counted);
                return Err(format!("{node}: stored totals {told:?} are not {own:?}"));
            }
        }
        Ok(())
    }

    /// Something happened at a sink.
    ///
    /// # Errors
    /// A delivery of what was never made.
    pub(in super::super) fn sink_event(&mut self, event: SinkEvent) -> Result<(), String> {
        match event {
            SinkEvent::Handed(ticket, delivery) => {
                let Delivery { node, log: id, content, .. } = delivery;
                let log = self.node(&node).logs.entry(id).or_default();
                let numbers = log.handed(&content);
                let numbers = numbers.map_err(|problem| format!("{node}: {id:?}: {problem}"))?;
                self.at_sinks.insert(ticket, (node, id, numbers));
            }
            SinkEvent::Refused(ticket) => self.refused(ticket),
            SinkEvent::Took(ticket) => {
                if let Some((node, id, numbers)) = self.at_sinks.remove(&ticket) {
                    self.node(&node).logs.entry(id).or_default().sunk.extend(numbers);
                }
            }
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
    /// A count or a record that is not as it was made.
    pub(in super::super) fn look(
        &mut self,
        node: &NodeId,
        record: &NodeRecord,
        newest_events: impl FnOnce() -> Vec<NodeEvent>,
    ) -> Result<(), String> {
        let account = self.nodes.entry(node.clone()).or_default();
        let told = Totals::of(record);
        if told == account.told {
            return Ok(());
        }
        account.look(record, told, newest_events).map_err(|problem| format!("{node}: {problem}"))
    }
}

/// What a look at the hub has shown and is yet to be explained.
struct Seen {
    /// Events that were taken, as far as the hub keeps them for people; oldest first.
    events: Vec<NodeEvent>,
    /// Events before these.
    unseen_events: usize,
    undecodable: u64,
    lost: u64,
    /// What is explained.
    counted: Totals,
}

impl Seen {
    fn between(
        counted: Totals,
        told: Totals,
        newest_events: impl FnOnce() -> Vec<NodeEvent>,
    ) -> Self {
        let count = usize::try_from(told.events.saturating_sub(counted.events)).unwrap_or(0);
        let mut events = if count > 0 { newest_events() } else { vec![] };
        let known = events.len().saturating_sub(count);
        events.drain(..known);
        let unseen_events = count - events.len();
        let undecodable = told.undecodable.saturating_sub(counted.undecodable);
        let lost = told.lost.saturating_sub(counted.lost);
        Self { events, unseen_events, undecodable, lost, counted }
    }
}

impl NodeAccount {
    /// Undoes what was counted last of forgotten logs, as far as the hub's store does not have it.
    fn undo_in_limbo(&mut self) {
        self.counted = self.totals();
        while self.counted != self.told {
            let Some((id, numbers)) = self.in_limbo.pop() else { return };
            let log = self.logs.entry(id).or_default();
            log.taken.retain(|number| !numbers.contains(number));
            log.lost.retain(|number| !numbers.contains(number));
            self.counted = self.totals();
        }
        self.in_limbo.clear();
    }

    fn look(
        &mut self,
        record: &NodeRecord,
        told: Totals,
        newest_events: impl FnOnce() -> Vec<NodeEvent>,
    ) -> Result<(), String> {
        self.told = told;
        let mut seen = Seen::between(self.counted, told, newest_events);
        for (id, log) in self.logs.iter_mut().filter(|(_, log)| log.can_change()) {
            let watermark = record.logs.watermark(id);
            let checked = match watermark.cmp(&log.watermark) {
                Ordering::Less => log.forget(),
                Ordering::Equal => Ok(()),
                Ordering::Greater => log.advance(id.stream, watermark, &mut seen),
            };
            checked.map_err(|problem| format!("{id:?}: {problem}"))?;
            let settled = log.settle_in_limbo(record, *id, &mut seen);
            self.in_limbo.extend(settled.into_iter().map(|numbers| (*id, numbers)));
        }
        for log in self.logs.values_mut().filter(|log| log.forgotten) {
            log.count_before_forgetting(&mut seen);
        }
        if !seen.events.is_empty() {
            return Err(format!("events were counted that were not made: {:?}", seen.events));
        }
        self.counted = seen.counted;
        if self.counted != told {
            let log = |(id, log): (&LogId, &LogAccount)| format!("{id:?}: {}", log.summary());
            let logs: Vec<String> = self.logs.iter().map(log).collect();
            let own = self.counted;
            return Err(format!("the hub counts {told:?}, and the world {own:?}: {logs:?}"));
        }
        Ok(())
    }
}

impl LogAccount {
    fn hub_side(&self) -> HubSide {
        HubSide {
            watermark: self.watermark,
            taken: self.taken.clone(),
            lost: self.lost.clone(),
            undecodable: self.undecodable.clone(),
        }
    }

    fn set_hub_side(&mut self, side: HubSide) {
        let HubSide { watermark, taken, lost, undecodable } = side;
        (self.watermark, self.taken, self.lost) = (watermark, taken, lost);
        self.undecodable = undecodable;
    }

    /// Whether the hub may still count anything of it.
    fn can_change(&self) -> bool {
        !self.forgotten || !self.handed.is_empty()
    }

    fn undo_after(&mut self, watermark: SequenceNumber) {
        self.watermark = watermark;
        for numbers in [&mut self.taken, &mut self.lost, &mut self.undecodable] {
            drop(numbers.split_off(&(watermark + 1)));
        }
    }

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
                let mut from = last.max(self.watermark) + 1;
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

    /// The hub's watermark has moved: what became of each record up to there.
    fn advance(
        &mut self,
        stream: Stream,
        watermark: SequenceNumber,
        seen: &mut Seen,
    ) -> Result<(), String> {
        if watermark > self.last {
            return Err(format!("the watermark is {watermark}, and {} were made", self.last));
        }
        match stream {
            Stream::Alarms | Stream::Events => self.advance_events(watermark, seen),
            _ => self.advance_sunk(watermark, seen),
        }
    }

    /// The hub's watermark of a log of events has moved: each record up to there was taken or counted
    /// as lost. Newest first, since the newest events are known.
    fn advance_events(&mut self, watermark: SequenceNumber, seen: &mut Seen) -> Result<(), String> {
        for number in (self.watermark + 1..=watermark).rev() {
            if self.takes_event(number, seen) {
                self.count_taken(number, seen);
            } else {
                self.count_lost(number, seen)?;
            }
        }
        self.watermark = watermark;
        Ok(())
    }

    /// As [`Self::advance_events`], for what goes to sinks. A batch of samples that builds on one that
    /// this hub does not have can't be read.
    fn advance_sunk(&mut self, watermark: SequenceNumber, seen: &mut Seen) -> Result<(), String> {
        for number in self.watermark + 1..=watermark {
            if self.handed.remove(&number) {
                if !self.sunk.contains(&number) {
                    return Err(format!("record {number} is done with, and its sink has it not"));
                }
                self.count_taken(number, seen);
            } else if seen.undecodable > 0
                && !self.can_be_read(number)
                && (seen.lost == 0 || self.present.contains(&number))
            {
                seen.undecodable -= 1;
                seen.counted.undecodable += 1;
                self.undecodable.insert(number);
            } else {
                self.count_lost(number, seen)?;
            }
        }
        self.watermark = watermark;
        Ok(())
    }

    /// A node that lost its store says that nothing is left of its old logs, and the hub forgets them.
    /// What of them waits at a sink is taken all the same.
    fn settle_in_limbo(
        &mut self,
        record: &NodeRecord,
        id: LogId,
        seen: &mut Seen,
    ) -> Vec<Vec<SequenceNumber>> {
        let mut settled = Vec::new();
        let in_limbo = !self.handed.is_empty()
            && self.store_was_lost
            && durable_watermark(record, id) == SequenceNumber::MAX;
        if !in_limbo {
            return settled;
        }
        let of_samples = !matches!(id.stream, Stream::Results(_));
        if of_samples && !self.handed.is_subset(&self.sunk) {
            return settled;
        }
        while let Some(number) = self.handed.first().copied().filter(|n| self.sunk.contains(n)) {
            // What the quota had taken before it was counted with it.
            let lost = (self.watermark + 1..number).filter(|n| !self.present.contains(n)).count();
            let lost = (lost as u64).min(seen.lost);
            seen.lost -= lost;
            seen.counted.lost += lost;
            let count = usize::try_from(lost).unwrap_or(usize::MAX);
            let mut counted: Vec<SequenceNumber> =
                (self.watermark + 1..number).rev().take(count).collect();
            self.lost.extend(&counted);
            self.watermark = number;
            self.handed.remove(&number);
            self.count_taken(number, seen);
            counted.push(number);
            settled.push(counted);
        }
        settled
    }

    /// What the node's disk has lost at the end of a log is counted in the moment in which the log is
    /// forgotten: its watermark never shows it.
    fn count_before_forgetting(&mut self, seen: &mut Seen) {
        let end: Vec<SequenceNumber> = self.holes.range(self.watermark + 1..).copied().collect();
        for number in end.into_iter().filter(|number| !self.present.contains(number)) {
            if seen.lost > 0 && self.lost.insert(number) {
                seen.lost -= 1;
                seen.counted.lost += 1;
                self.watermark = number;
            }
        }
    }

    fn count_taken(&mut self, number: SequenceNumber, seen: &mut Seen) {
        self.made.get(&number).into_iter().for_each(|made| seen.counted.add(made));
        self.taken.insert(number);
    }

    fn count_lost(&mut self, number: SequenceNumber, seen: &mut Seen) -> Result<(), String> {
        self.may_be_lost(number)?;
        seen.lost = seen.lost.saturating_sub(1);
        seen.counted.lost += 1;
        self.lost.insert(number);
        Ok(())
    }

    /// Whether record `number` is the last of the events, which it then leaves. Events beyond those
    /// that a hub keeps for people are not seen: each record that is there is taken for one.
    fn takes_event(&self, number: SequenceNumber, seen: &mut Seen) -> bool {
        let Some(made) = self.made.get(&number) else { return false };
        match seen.events.last() {
            Some(event) => {
                let is_it =
                    |event: &NodeEvent| encode("event", event).is_ok_and(|b| b == made.bytes());
                let same = is_it(event)
                    && !self.is_one_of_its_like(number, || {
                        seen.events.iter().filter(|event| is_it(event)).count()
                    });
                same && seen.events.pop().is_some()
            }
            None => {
                let is_one = seen.unseen_events > 0;
                seen.unseen_events = seen.unseen_events.saturating_sub(1);
                is_one
            }
        }
    }

    /// Whether an event that looks like record `number`, which is not at its node any more, is an earlier
    /// record that looks the same and is there: two that were made at one moment do.
    fn is_one_of_its_like(&self, number: SequenceNumber, events: impl Fn() -> usize) -> bool {
        let bytes = self.made.get(&number).map(Made::bytes);
        let earlier = || self.made.range(self.watermark + 1..number);
        let alike = || {
            earlier().filter(|(n, made)| self.present.contains(n) && Some(made.bytes()) == bytes)
        };
        !self.present.contains(&number) && alike().count() >= events()
    }

    /// Whether a hub that has what this one took can read a record.
    fn can_be_read(&self, number: SequenceNumber) -> bool {
        match self.made.get(&number) {
            Some(Made::Samples(..)) => {
                begins_run(number) || self.taken.contains(&number.saturating_sub(1))
            }
            _ => true,
        }
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
