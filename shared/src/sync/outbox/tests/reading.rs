//! What is read of a store for a batch.

use super::*;
use crate::ports::{KeyValue, Store, StoreError};
use crate::sync::outbox::keys::log_prefix;

impl Store for Records {
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.scan(tree, key, 1)?.pop().filter(|(found, _)| found == key).map(|(_, value)| value))
    }

    fn scan(&self, tree: Tree, from: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let records = if tree == Tree::Packs { &self.packs } else { &self.outbox };
        let records = records.range(from.to_vec()..).take(count_max);
        Ok(records.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.commit(batch.clone());
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}

const EVENTS: LogId = LogId { incarnation: 1, stream: Stream::Events };

/// A store with these events of 1000 bytes, and one record of each of two other logs around them.
fn store_with(numbers: impl IntoIterator<Item = SequenceNumber>) -> Records {
    let mut store = Records::default();
    for log in [LogId { incarnation: 0, ..EVENTS }, LogId { incarnation: 2, ..EVENTS }] {
        store.outbox.insert(outbox_key(log, 5), vec![0; 1000]);
    }
    store.outbox.extend(numbers.into_iter().map(|n| (outbox_key(EVENTS, n), vec![1; 1000])));
    store
}

fn numbers(store: &Records, first: u64, count_max: usize, bytes_max: usize) -> Vec<u64> {
    let read = LogRead { log: EVENTS, first, count_max, bytes_max };
    let records = read_log(store, &read).unwrap();
    assert!(records.iter().all(|(_, record)| *record == [1; 1000]));
    records.into_iter().map(|(number, _)| number).collect()
}

#[test]
fn as_many_records_of_the_log_are_read_as_were_asked_for() {
    let mut store = store_with(1..=40);
    assert_eq!(numbers(&store, 3, 30, usize::MAX), (3..=32).collect::<Vec<_>>());
    assert_eq!(numbers(&store, 3, 100, usize::MAX), (3..=40).collect::<Vec<_>>());
    store.outbox.retain(|key, _| key.starts_with(&log_prefix(EVENTS)));
    assert_eq!(numbers(&store, 1, 100, usize::MAX), (1..=40).collect::<Vec<_>>());
    assert!(numbers(&store, 41, 100, usize::MAX).is_empty());
    assert!(numbers(&store, 1, 0, usize::MAX).is_empty());
}

#[test]
fn what_lies_behind_a_hole_is_read_as_far_as_it_was_asked_for() {
    let store = store_with([1, 2, 9, 11, 12]);
    assert_eq!(numbers(&store, 1, 5, usize::MAX), [1, 2]);
    assert_eq!(numbers(&store, 1, 10, usize::MAX), [1, 2, 9]);
    assert_eq!(numbers(&store, 2, 10, usize::MAX), [2, 9, 11]);
}

#[test]
fn the_bytes_of_a_batch_bound_what_is_read() {
    let store = store_with(1..=100);
    assert_eq!(numbers(&store, 1, 100, 20_000).len(), 32, "in steps of sixteen");
    assert_eq!(numbers(&store, 1, 100, 16_000).len(), 32, "there may be room for one more");
    assert_eq!(numbers(&store, 1, 100, 15_999).len(), 16);
}

/// A store whose medium is gone.
struct Unreadable;

impl Store for Unreadable {
    fn read(&self, _: Tree, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Err(StoreError { attempted: "read", source: "gone".into() })
    }

    fn scan(&self, _: Tree, _: &[u8], _: usize) -> Result<Vec<KeyValue>, StoreError> {
        Err(StoreError { attempted: "read", source: "gone".into() })
    }

    fn commit(&mut self, _: &WriteBatch) -> Result<(), StoreError> {
        Err(StoreError { attempted: "commit", source: "gone".into() })
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}

#[test]
fn what_is_only_announced_needs_nothing_of_the_store() {
    let read = |count_max| LogRead { log: EVENTS, first: 1, count_max, bytes_max: 1000 };
    assert!(read_log(&Unreadable, &read(0)).unwrap().is_empty());
    assert!(read_log(&Unreadable, &read(1)).is_err());
}

#[test]
fn the_newest_start_is_told_by_the_positions_of_its_logs() {
    let mut store = Records::default();
    assert_eq!(newest_incarnation(&store.meta()), 0);
    for incarnation in [3, 7] {
        let mut outbox = Outbox::restore(incarnation, OutboxQuota::default(), &store.meta());
        append(&mut outbox, &mut store, Stream::Events, b"up");
    }
    store.meta.insert(b"something else".to_vec(), vec![]);
    assert_eq!(newest_incarnation(&store.meta()), 7);
}

#[test]
fn where_the_store_has_nothing_any_more_everything_that_was_asked_for_is_a_hole() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    (0..3).for_each(|_| append(&mut outbox, &mut store, Stream::Events, b"lost"));
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let read = next_read(&outbox).unwrap();
    let batch = outbox.handle_read(&read, vec![], NOW).unwrap();
    assert_eq!(LogReceiver::default().handle_batch(batch).lost_records(), 3);
    assert_eq!(next_read(&outbox), None);
}

#[test]
fn a_store_that_cannot_be_read_loses_nothing_and_is_asked_again_later() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    append(&mut outbox, &mut store, Stream::Events, b"1");
    append(&mut outbox, &mut store, Stream::Events, b"2");
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let read = next_read(&outbox).unwrap();
    outbox.handle_unreadable(&read, NOW);
    assert_eq!(next_read(&outbox), None);
    outbox.handle_ack(LogAck { log: EVENTS, watermark: 1 }, NOW, &mut WriteBatch::new());
    assert_eq!(next_read(&outbox), None, "an answer makes no store readable");
    let due = outbox.poll_timeout().unwrap();
    outbox.handle_timeout(due);
    assert_eq!(next_read(&outbox).unwrap().first, 2);
}
