//! What nodes make, read off the commits of their stores.

use super::{Accounts, LogAccount, Made};
use hub::core::Columns;
use shared::limits::LOG_RECORD_BYTES_MAX;
use shared::model::{NodeId, PodResult, SinkId};
use shared::ports::{Tree, Write, WriteBatch};
use shared::sync::{LogMeta, read_pack};
use shared::wire::{LogId, SequenceNumber, Stream, decode};
use std::collections::BTreeSet;

/// The log and number of a key of [`Tree::Outbox`]: incarnation, stream, sink if it has one, number.
fn parse_outbox_key(key: &[u8]) -> Option<(LogId, SequenceNumber)> {
    let (incarnation, rest) = key.split_first_chunk::<8>()?;
    let (rest, number) = rest.split_last_chunk::<8>()?;
    let stream = match rest {
        [0] => Stream::Events,
        [1] => Stream::Telemetry,
        [2] => Stream::Backfill,
        [3] => Stream::Alarms,
        [4, sink @ ..] => Stream::Results(SinkId(u32::from_be_bytes(sink.try_into().ok()?))),
        _ => return None,
    };
    let log = LogId { incarnation: u64::from_be_bytes(*incarnation), stream };
    Some((log, u64::from_be_bytes(*number)))
}

/// The records in a pack, each with its log and number, by the pack's key and value in [`Tree::Packs`].
fn parse_pack(key: &[u8], value: &[u8]) -> Option<Vec<(LogId, SequenceNumber, Vec<u8>)>> {
    let (log, last) = parse_outbox_key(key)?;
    let records = read_pack(value);
    let first = (last + 1).checked_sub(records.len() as u64).filter(|first| *first <= last)?;
    Some((first..).zip(records).map(|(number, record)| (log, number, record)).collect())
}

/// The log of a key of [`Tree::Meta`], if it is the position of one.
fn parse_meta_key(key: &[u8]) -> Option<LogId> {
    let mut parts = std::str::from_utf8(key).ok()?.strip_prefix("log/")?.split('/');
    let incarnation = u64::from_str_radix(parts.next()?, 16).ok()?;
    let stream = match (parts.next()?, parts.next()) {
        ("0", None) => Stream::Events,
        ("1", None) => Stream::Telemetry,
        ("2", None) => Stream::Backfill,
        ("3", None) => Stream::Alarms,
        ("4", Some(sink)) => Stream::Results(SinkId(u32::from_str_radix(sink, 16).ok()?)),
        _ => return None,
    };
    Some(LogId { incarnation, stream })
}

/// Streams that share a quota have the same number.
fn class(stream: Stream) -> u8 {
    match stream {
        Stream::Alarms => 0,
        Stream::Events => 1,
        Stream::Results(_) => 2,
        Stream::Telemetry | Stream::Backfill => 3,
    }
}

impl Accounts {
    /// A node's store has taken `batch`; `durable` tells the watermark of a log that the hub has
    /// durably, and the one of the hub that led before and still sends.
    ///
    /// # Errors
    /// A number that is used twice, or a record that left for no reason.
    pub(in super::super) fn node_committed(
        &mut self,
        node: &NodeId,
        batch: &WriteBatch,
        durable: impl Fn(&LogId) -> (SequenceNumber, SequenceNumber),
    ) -> Result<(), String> {
        let of_logs = |write: &Write| match write {
            Write::Put { tree: Tree::Outbox | Tree::Packs, key, .. } => parse_outbox_key(key),
            _ => None,
        };
        let appended: Vec<u8> =
            batch.writes.iter().filter_map(of_logs).map(|(log, _)| class(log.stream)).collect();
        let mut packed =
            self.put_packs(node, batch).map_err(|problem| format!("{node}: {problem}"))?;
        for write in &batch.writes {
            match write {
                Write::Put { tree: Tree::Outbox, key, value } => {
                    let (id, number) =
                        parse_outbox_key(key).ok_or("a key of the outbox is none")?;
                    self.put(node, id, number, value)
                        .map_err(|problem| format!("{node}: {problem}"))?;
                }
                Write::Put { tree: Tree::Meta, key, value } => self.put_position(node, key, value),
                Write::Delete { tree: Tree::Outbox, key } => {
                    let Some((id, number)) = parse_outbox_key(key) else { continue };
                    // The first time it moves into its pack, the second it is released.
                    if packed.remove(&(id, number)) {
                        continue;
                    }
                    let log = self.node(node).logs.entry(id).or_default();
                    let by_quota = appended.contains(&class(id.stream));
                    log.removed(number, by_quota, || durable(&id))
                        .map_err(|problem| format!("{node}: {id:?}: {problem}"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The records of the packs that `batch` leaves: each is as it was made, and there again if the disk had
    /// lost it, because it was packed from memory.
    fn put_packs(
        &mut self,
        node: &NodeId,
        batch: &WriteBatch,
    ) -> Result<BTreeSet<(LogId, SequenceNumber)>, String> {
        let mut packed = BTreeSet::new();
        for write in &batch.writes {
            let Write::Put { tree: Tree::Packs, key, value } = write else { continue };
            let records = parse_pack(key, value).ok_or("a pack is none")?;
            for (id, number, record) in records {
                self.put(node, id, number, &record)?;
                let log = self.node(node).logs.entry(id).or_default();
                if log.holes.remove(&number) {
                    log.present.insert(number);
                }
                packed.insert((id, number));
            }
        }
        Ok(packed)
    }

    fn put(
        &mut self,
        node: &NodeId,
        id: LogId,
        number: SequenceNumber,
        value: &[u8],
    ) -> Result<(), String> {
        let account = self.node(node);
        if let Stream::Results(_) = id.stream {
            let result = decode::<PodResult>("result", value, LOG_RECORD_BYTES_MAX);
            let result = result.map_err(|error| format!("a result can't be read: {error}"))?;
            account.result_bodies.insert(result.body.into_vec());
        }
        let log = account.logs.entry(id).or_default();
        if let Some(before) = log.made.get(&number) {
            if before.bytes() != value {
                return Err(format!("{id:?}: number {number} was used twice"));
            }
            return Ok(());
        }
        let made = log.read(id.stream, number, value);
        log.made.insert(number, made);
        log.present.insert(number);
        log.last = log.last.max(number);
        Ok(())
    }

    fn put_position(&mut self, node: &NodeId, key: &[u8], value: &[u8]) {
        let Some(id) = parse_meta_key(key) else { return };
        if let Ok(meta) = decode::<LogMeta>("log position", value, 256) {
            let log = self.node(node).logs.entry(id).or_default();
            log.last = log.last.max(meta.next.saturating_sub(1));
        }
    }

    /// A record of the outbox can't be read any more, or a pack of them.
    pub(in super::super) fn disk_lost(
        &mut self,
        node: &NodeId,
        tree: Tree,
        key: &[u8],
        value: &[u8],
    ) {
        let single = |(id, number)| vec![(id, number, value.to_vec())];
        let lost = match tree {
            Tree::Packs => parse_pack(key, value),
            _ => parse_outbox_key(key).map(single),
        };
        for (id, number, _) in lost.unwrap_or_default() {
            let log = self.node(node).logs.entry(id).or_default();
            if log.present.remove(&number) {
                log.holes.insert(number);
            }
        }
    }

    /// The store of `node` is gone, or is an older one: what it held then is no longer known.
    pub(in super::super) fn node_store_lost(&mut self, node: &NodeId) {
        for log in self.node(node).logs.values_mut() {
            log.present.clear();
            log.store_was_lost = true;
        }
    }
}

impl LogAccount {
    fn read(&mut self, stream: Stream, number: SequenceNumber, value: &[u8]) -> Made {
        match stream {
            Stream::Alarms | Stream::Events => Made::Event(value.to_vec()),
            Stream::Results(_) => Made::Result(value.to_vec()),
            Stream::Telemetry | Stream::Backfill => {
                let batch = self.decoder.decode(number, value).ok();
                Made::Samples(value.to_vec(), batch.as_ref().map(Columns::of))
            }
        }
    }

    /// A record left the node's store: a hub has it, or the quota took it.
    fn removed(
        &mut self,
        number: SequenceNumber,
        by_quota: bool,
        durable: impl FnOnce() -> (SequenceNumber, SequenceNumber),
    ) -> Result<(), String> {
        self.last = self.last.max(number);
        // What was refused with the record itself never was there.
        if !self.present.remove(&number) {
            return Ok(());
        }
        if number > self.ever_durable {
            let (at_the_hub, at_the_stale) = durable();
            self.elder = self.elder.max(at_the_stale.min(self.last));
            self.ever_durable = self.ever_durable.max(at_the_hub).max(at_the_stale);
        }
        if number <= self.ever_durable {
            return Ok(());
        }
        if !by_quota {
            return Err(format!("record {number} left, and no hub has it"));
        }
        self.dropped.insert(number);
        Ok(())
    }
}
