//! The machines that take hostile messages in sequence, and what must hold after each step.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::Input;
use crate::store::Memory;
use crate::wire::survives;
use serde_bytes::ByteBuf;
use shared::limits::{LOG_RECORD_BYTES_MAX, MQTT_PAYLOAD_BYTES_MAX};
use shared::model::{MonotonicMs, SinkId};
use shared::ports::{Store, WriteBatch};
use shared::sync::{
    LogMeta, LogReceiver, MapContent, MapReceiver, Outbox, OutboxQuota, Received, read_log,
};
use shared::wire::{
    Digest, Hunk, ItemEdit, LogAck, LogBatch, LogId, MapBody, MapChunk, MapHeader, MapItem,
    MapName, MapPosition, SequenceNumber, Stream, Version, decode, encode,
};
use std::collections::BTreeMap;

/// A log: an incarnation and a stream.
pub fn log_id(input: &mut Input<'_>) -> LogId {
    let incarnation = input.number();
    let stream = match input.byte() % 6 {
        0 => Stream::Events,
        1 => Stream::Telemetry,
        2 => Stream::Backfill,
        3 => Stream::Alarms,
        kind => Stream::Results(SinkId(u32::from(kind))),
    };
    LogId { incarnation, stream }
}

/// A batch: its log, the oldest, the first, how many records, one record.
pub fn log_batch(input: &mut Input<'_>) -> LogBatch {
    let (log, oldest, first) = (log_id(input), input.number(), input.number());
    let count = usize::try_from(input.number()).unwrap_or(0) % 300;
    let record = input.chunk().to_vec();
    LogBatch { log, oldest, first, records: vec![ByteBuf::from(record); count] }
}

/// Watermarks never fall, each record is taken once and in order, and what is kept can be read again.
///
/// # Panics
/// When one of that does not hold.
pub fn log_receiver(data: &[u8]) {
    let mut input = Input::new(data);
    let mut receiver = LogReceiver::default();
    while !input.is_empty() {
        if input.byte() % 8 == 7 {
            receiver.forget_before(input.number());
            continue;
        }
        let batch = log_batch(&mut input);
        let (log, before) = (batch.log, receiver.watermark(&batch.log));
        let received = receiver.handle_batch(batch);
        let after = receiver.watermark(&log);
        assert!(after >= before, "a watermark fell from {before} to {after}");
        assert_eq!(received.advanced, after > before);
        let mut last = before;
        for (sequence, _) in &received.records {
            assert!(*sequence > last && *sequence <= after, "record {sequence} after {last}");
            last = *sequence;
        }
        let moved = received.lost_records().checked_add(received.records.len() as u64);
        assert_eq!(moved, Some(after - before), "every record is taken or counted as lost");
    }
    let stored = encode("watermarks", &receiver).expect("they can be stored");
    survives::<LogReceiver>("watermarks", &stored, usize::MAX);
    let back: LogReceiver = decode("watermarks", &stored, usize::MAX).expect("read");
    assert_eq!(back, receiver);
}

/// Items of a map: how many, then key and value of each.
pub fn map_items(input: &mut Input<'_>) -> BTreeMap<String, Vec<u8>> {
    let count = input.byte() % 8;
    (0..count).map(|_| (input.text(), input.chunk().to_vec())).collect()
}

fn items_of(content: &BTreeMap<String, Vec<u8>>) -> Vec<MapItem> {
    let item = |(key, value): (&String, &Vec<u8>)| MapItem {
        key: key.clone(),
        value: ByteBuf::from(value.clone()),
    };
    content.iter().map(item).collect()
}

/// An update that its publisher may have meant: its body, and the digest of the content after it.
pub fn map_update(input: &mut Input<'_>, present: &MapContent) -> (MapBody, Digest) {
    let (kind, items) = (input.byte(), map_items(input));
    let body = if kind.is_multiple_of(2) {
        MapBody::Snapshot { items: items_of(&items) }
    } else {
        let tombstones = (0..input.byte() % 4).map(|_| input.text()).collect();
        let edits = (0..input.byte() % 4).map(|_| item_edit(input)).collect();
        let base = if kind < 0x80 { present.digest() } else { Digest::of(&[kind]) };
        MapBody::Delta { base: base.into(), edits, upserts: items_of(&items), tombstones }
    };
    let digest = present.after(&body).map_or(Digest::default(), |content| content.digest());
    (body, digest)
}

fn item_edit(input: &mut Input<'_>) -> ItemEdit {
    let item = u32::from(input.byte() % 8);
    let hunk = |input: &mut Input<'_>| {
        let (skip, remove) = (input.small(), input.small());
        Hunk { skip, remove, insert: ByteBuf::from(input.chunk()) }
    };
    ItemEdit { item, hunks: (0..input.byte() % 4).map(|_| hunk(input)).collect() }
}

/// The parts of an encoded body, `part_bytes` each.
#[must_use]
pub fn map_chunks(map: MapName, header: &[u8], body: &[u8], part_bytes: usize) -> Vec<MapChunk> {
    let parts: Vec<&[u8]> = body.chunks(part_bytes.max(1)).collect();
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let chunk = |(index, body): (u32, &&[u8])| MapChunk {
        map,
        header: ByteBuf::from(header.to_vec()),
        index,
        count,
        body: ByteBuf::from(body.to_vec()),
    };
    (0..).zip(&parts).map(chunk).collect()
}

/// A header of this version.
pub fn header(input: &mut Input<'_>, digest: Digest) -> MapHeader {
    let version = Version { term: input.number(), generation: input.number() };
    MapHeader { position: MapPosition { version, digest }, issued_at_ms: input.number() }
}

/// The accepted version never falls, one version has one content, and the content has the digest that
/// was accepted.
///
/// # Panics
/// When one of that does not hold.
pub fn map_receiver(data: &[u8]) {
    let mut input = Input::new(data);
    let fence = Version { term: u64::from(input.byte() & 3), generation: 0 };
    let mut receiver = MapReceiver::restore(MapName::Reported, map_items(&mut input), None, fence);
    while !input.is_empty() {
        match input.byte() % 4 {
            0 => raw_chunk(&mut receiver, &mut input),
            1 => {
                let digest = receiver.content().digest();
                let header = header(&mut input, digest);
                if let Ok(Some(update)) = receiver.handle_header(&header, b"header") {
                    receiver.accept(update);
                }
            }
            2 => receiver.forget_assembly(),
            _ => whole_update(&mut receiver, &mut input),
        }
    }
}

fn raw_chunk(receiver: &mut MapReceiver, input: &mut Input<'_>) {
    let digest = Digest::of(input.chunk());
    let header = header(input, digest);
    let (index, count) = (input.small(), input.small());
    let body = ByteBuf::from(input.chunk().to_vec());
    let chunk = MapChunk { map: MapName::Reported, header: ByteBuf::new(), index, count, body };
    hand_in(receiver, &chunk, &header);
}

/// An update in small parts, one of them perhaps left out, changed or given twice.
fn whole_update(receiver: &mut MapReceiver, input: &mut Input<'_>) {
    let (body, digest) = map_update(input, receiver.content());
    let header = header(input, digest);
    let body = encode("map update", &body).expect("it can be encoded");
    let mut chunks = map_chunks(MapName::Reported, b"header", &body, usize::from(input.byte()));
    let (fault, at) = (input.byte() % 8, usize::from(input.byte()) % chunks.len().max(1));
    match (fault, chunks.get_mut(at)) {
        (0, Some(chunk)) => chunk.count = input.small(),
        (1, Some(chunk)) => chunk.index = input.small(),
        (2, Some(chunk)) => chunk.body = ByteBuf::from(input.chunk().to_vec()),
        (3, Some(_)) => chunks.reverse(),
        (4, Some(_)) => drop(chunks.remove(at)),
        _ => {}
    }
    chunks.iter().take(64).for_each(|chunk| hand_in(receiver, chunk, &header));
}

fn hand_in(receiver: &mut MapReceiver, chunk: &MapChunk, header: &MapHeader) {
    let before = receiver.position();
    if let Received::Complete(update) = receiver.handle_chunk(chunk, header) {
        assert_eq!(update.position(), header.position);
        receiver.accept(*update);
        assert_eq!(receiver.content().digest(), header.position.digest);
        let whole = before.is_none_or(|before| before.version < header.position.version);
        let again = before == Some(header.position);
        assert!(whole || again, "from {before:?} to {:?}", header.position);
    }
}

/// Records of a log here: to name each when it is freed takes memory and time, but is no fault.
const RECORDS_MAX: u64 = 10_000;

/// The outbox on positions that an enemy wrote: it numbers, drops, reads and frees without a fault.
///
/// # Panics
/// When a batch breaks a limit.
pub fn outbox(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut store, mut meta) = (Memory::default(), Vec::new());
    for _ in 0..input.byte() % 8 {
        let (log, raw) = (log_id(&mut input), input.byte());
        let stream = match log.stream {
            Stream::Events => "0".to_owned(),
            Stream::Telemetry => "1".to_owned(),
            Stream::Backfill => "2".to_owned(),
            Stream::Alarms => "3".to_owned(),
            Stream::Results(sink) => format!("4/{:08x}", sink.0),
        };
        let key = format!("log/{:016x}/{stream}", log.incarnation).into_bytes();
        let value = if raw == 0 {
            input.chunk().to_vec()
        } else {
            let (oldest, next, bytes) = (input.number(), input.number(), input.number());
            encode("log position", &LogMeta { oldest, next, bytes }).expect("it can be encoded")
        };
        let large = |meta: LogMeta| meta.is_possible() && meta.records() > RECORDS_MAX;
        if !decode("log position", &value, 256).is_ok_and(large) {
            meta.push((key, value));
        }
    }
    let quota = OutboxQuota {
        alarms_bytes: 2048,
        events_bytes: 2048,
        results_bytes: 2048,
        telemetry_bytes: input.number(),
    };
    let mut outbox = Outbox::restore(input.number(), quota, &meta);
    let mut now = MonotonicMs(1);
    while !input.is_empty() {
        now = now.plus_ms(u64::from(input.byte()) * 100);
        outbox.handle_timeout(now);
        let mut writes = WriteBatch::new();
        step_outbox(&mut outbox, &store, &mut input, now, &mut writes);
        store.commit(&writes).expect("memory takes it");
        let _ = (outbox.oldest_incarnation(), outbox.attempts(), outbox.poll_timeout());
        let _ = (outbox.totals(Stream::Events), outbox.totals(Stream::Telemetry));
    }
}

fn step_outbox(
    outbox: &mut Outbox,
    store: &Memory,
    input: &mut Input<'_>,
    now: MonotonicMs,
    writes: &mut WriteBatch,
) {
    match input.byte() % 6 {
        0 => {
            let stream = log_id(input).stream;
            let _ = outbox.append(stream, input.chunk().to_vec(), writes);
        }
        1 => {
            let acks: Vec<LogAck> = (0..input.byte() % 4).map(|_| ack(input)).collect();
            outbox.begin(&acks, now, writes);
        }
        2 => outbox.handle_ack(ack(input), now, writes),
        3 => outbox.pause(),
        4 => {
            let Some(read) = outbox.poll_read(usize::MAX, false, |_, _| true) else { return };
            let records = read_log(store, &read).expect("memory can be read");
            check_batch(outbox.handle_read(&read, records, now));
        }
        _ => {
            let Some(read) = outbox.poll_read(usize::MAX, false, |_, _| true) else { return };
            let records = (0..input.byte() % 4).map(|_| record(input)).collect();
            let _ = outbox.handle_read(&read, records, now);
        }
    }
    assert!(writes.writes.len() <= 1 << 16, "one step makes {} writes", writes.writes.len());
}

fn ack(input: &mut Input<'_>) -> LogAck {
    LogAck { log: log_id(input), watermark: input.number() }
}

fn record(input: &mut Input<'_>) -> (SequenceNumber, Vec<u8>) {
    (input.number(), input.chunk().to_vec())
}

fn check_batch(batch: Option<LogBatch>) {
    let Some(batch) = batch else { return };
    assert!(batch.is_within_limits(), "{batch:?}");
    let bytes: usize = batch.records.iter().map(|record| record.len()).sum();
    assert!(bytes <= LOG_RECORD_BYTES_MAX + MQTT_PAYLOAD_BYTES_MAX, "{bytes} bytes in a batch");
}
