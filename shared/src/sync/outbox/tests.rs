//! Outbox and receiver together, over a link that loses, repeats and reorders.

mod packing;
mod quota;
mod reading;
mod sending;

use super::*;
use crate::model::SinkId;
use crate::ports::Write;
use crate::sync::LogReceiver;
use proptest::prelude::*;

/// The trees of a store, as far as the outbox uses them.
#[derive(Default)]
struct Records {
    outbox: BTreeMap<Vec<u8>, Vec<u8>>,
    packs: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Records {
    fn commit(&mut self, writes: WriteBatch) {
        for write in writes.writes {
            match write {
                Write::Put { tree, key, value } => drop(self.tree(tree).insert(key, value)),
                Write::Delete { tree, key } => drop(self.tree(tree).remove(&key)),
            }
        }
    }

    fn tree(&mut self, tree: Tree) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        match tree {
            Tree::Outbox => &mut self.outbox,
            Tree::Packs => &mut self.packs,
            _ => &mut self.meta,
        }
    }

    fn read(&self, read: &LogRead) -> Vec<(SequenceNumber, Vec<u8>)> {
        read_log(self, read).unwrap()
    }

    fn meta(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.meta.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

const NOW: MonotonicMs = MonotonicMs(0);

fn next_read(outbox: &Outbox) -> Option<LogRead> {
    outbox.poll_read(usize::MAX, false, |_, _| true)
}

const STREAMS: [Stream; 6] = [
    Stream::Events,
    Stream::Telemetry,
    Stream::Backfill,
    Stream::Alarms,
    Stream::Results(SinkId(1)),
    Stream::Results(SinkId(2)),
];

fn append(outbox: &mut Outbox, store: &mut Records, stream: Stream, record: &[u8]) {
    let mut writes = WriteBatch::new();
    outbox.append(stream, record.to_vec(), &mut writes).unwrap();
    store.commit(writes);
}

/// Delivers everything over a good link; the records that arrived.
fn drain(outbox: &mut Outbox, store: &mut Records, hub: &mut LogReceiver) -> Vec<Vec<u8>> {
    let mut arrived = vec![];
    while let Some(read) = next_read(outbox) {
        let records = store.read(&read);
        let batch = outbox.handle_read(&read, records, NOW).unwrap();
        let received = hub.handle_batch(batch);
        arrived.extend(received.records.into_iter().map(|(_, record)| record));
        let mut writes = WriteBatch::new();
        outbox.handle_ack(received.ack.unwrap(), NOW, &mut writes);
        store.commit(writes);
    }
    arrived
}

#[test]
fn a_sink_that_holds_stops_nothing_and_nothing_is_repeated_for_it() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    let slow = LogId { incarnation: 1, stream: Stream::Results(SinkId(1)) };
    append(&mut outbox, &mut store, slow.stream, b"slow");
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let read = next_read(&outbox).unwrap();
    outbox.handle_read(&read, vec![(1, b"slow".to_vec())], NOW).unwrap();
    outbox.handle_hold(LogHold { log: slow, received: 1 }, NOW);
    assert_eq!(outbox.poll_timeout(), Some(NOW.plus_ms(3_600_000)), "nothing is overdue for long");
    append(&mut outbox, &mut store, Stream::Results(SinkId(2)), b"quick");
    assert_eq!(next_read(&outbox).unwrap().log.stream, Stream::Results(SinkId(2)));
    outbox.handle_ack(LogAck { log: slow, watermark: 1 }, NOW, &mut WriteBatch::new());
    assert_eq!(outbox.totals(slow.stream).records, 0);
}

#[test]
fn events_go_before_telemetry_and_telemetry_before_backfill() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    append(&mut outbox, &mut store, Stream::Backfill, b"old");
    append(&mut outbox, &mut store, Stream::Telemetry, b"live");
    append(&mut outbox, &mut store, Stream::Events, b"alarm");
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let arrived = drain(&mut outbox, &mut store, &mut LogReceiver::default());
    assert_eq!(arrived, [b"alarm".to_vec(), b"live".to_vec(), b"old".to_vec()]);
    assert!(store.outbox.is_empty(), "what is acknowledged is freed");
}

#[test]
fn a_stream_that_may_not_send_lets_the_next_one_go() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    append(&mut outbox, &mut store, Stream::Results(SinkId(1)), &[1; 100]);
    append(&mut outbox, &mut store, Stream::Telemetry, &[2; 50]);
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let mut asked = vec![];
    let read = outbox.poll_read(usize::MAX, false, |stream, bytes| {
        asked.push((stream, bytes));
        stream == Stream::Telemetry
    });
    assert_eq!(read.unwrap().log.stream, Stream::Telemetry);
    assert_eq!(asked, [(Stream::Results(SinkId(1)), 100), (Stream::Telemetry, 50)]);
    let first = outbox.poll_read(usize::MAX, true, |_, _| true).unwrap();
    assert_eq!(first.log.stream, Stream::Telemetry, "results have had their share");
}

#[test]
fn a_watermark_that_is_repeated_has_what_follows_sent_again_and_only_once() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    let log = LogId { incarnation: 1, stream: Stream::Telemetry };
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    for record in 1..=3 {
        append(&mut outbox, &mut store, Stream::Telemetry, &[record]);
        let read = next_read(&outbox).unwrap();
        outbox.handle_read(&read, vec![(u64::from(record), vec![record])], NOW).unwrap();
    }
    assert_eq!(next_read(&outbox), None, "all are on their way");
    let ack = |watermark| LogAck { log, watermark };
    outbox.handle_ack(ack(1), NOW, &mut WriteBatch::new());
    assert_eq!(next_read(&outbox), None, "news");
    outbox.handle_ack(ack(1), NOW, &mut WriteBatch::new());
    let again = next_read(&outbox).unwrap();
    assert_eq!(again.first, 2, "2 was lost");
    outbox.handle_read(&again, vec![(2, vec![2]), (3, vec![3])], NOW).unwrap();
    outbox.handle_ack(ack(1), NOW, &mut WriteBatch::new());
    assert_eq!(next_read(&outbox), None, "told once more by 3, which was on its way");
}

#[test]
fn nothing_is_read_while_nobody_listens() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    append(&mut outbox, &mut store, Stream::Events, b"alarm");
    assert_eq!(next_read(&outbox), None);
}

#[test]
fn a_restart_delivers_what_the_start_before_left() {
    let (mut store, mut hub) = (Records::default(), LogReceiver::default());
    let mut first = Outbox::restore(1, OutboxQuota::default(), &[]);
    append(&mut first, &mut store, Stream::Events, b"before");
    let mut second = Outbox::restore(2, OutboxQuota::default(), &store.meta());
    append(&mut second, &mut store, Stream::Events, b"after");
    assert_eq!(second.oldest_incarnation(), 1);
    second.begin(&[], NOW, &mut WriteBatch::new());
    assert_eq!(drain(&mut second, &mut store, &mut hub), [b"before".to_vec(), b"after".to_vec()]);
    assert_eq!(second.oldest_incarnation(), 2, "the first start's log has ended");
    assert_eq!(store.meta.len(), 1);
}

#[test]
fn a_full_quota_takes_whole_runs_of_the_oldest_and_the_receiver_counts_them() {
    let quota = OutboxQuota { telemetry_bytes: 3000, ..OutboxQuota::default() };
    let (mut outbox, mut store) = (Outbox::restore(1, quota, &[]), Records::default());
    for _ in 0..700 {
        append(&mut outbox, &mut store, Stream::Backfill, &[7; 10]);
    }
    let left = outbox.totals(Stream::Backfill);
    assert!(left.bytes <= 3000 && left.records > 0);
    assert_eq!(outbox.dropped_records() % RUN_RECORDS_MAX, 0);
    assert_eq!(outbox.dropped_records() + left.records, 700);
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let mut hub = LogReceiver::default();
    let read = next_read(&outbox).unwrap();
    let records = store.read(&read);
    let received = hub.handle_batch(outbox.handle_read(&read, records, NOW).unwrap());
    assert_eq!(received.lost_records(), outbox.dropped_records());
}

#[test]
fn an_acknowledgement_of_what_was_never_made_frees_nothing() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    append(&mut outbox, &mut store, Stream::Events, b"alarm");
    let log = LogId { incarnation: 1, stream: Stream::Events };
    let mut writes = WriteBatch::new();
    outbox.handle_ack(LogAck { log, watermark: 99 }, NOW, &mut writes);
    assert!(writes.is_empty());
    assert_eq!(outbox.totals(Stream::Events).records, 1);
}

#[test]
fn a_record_that_the_store_lost_is_counted_and_the_rest_arrives() {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    for record in [b"1", b"2", b"3"] {
        append(&mut outbox, &mut store, Stream::Events, record);
    }
    store.outbox.remove(&outbox_key(LogId { incarnation: 1, stream: Stream::Events }, 2));
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let read = next_read(&outbox).unwrap();
    let records = store.read(&read);
    let batch = outbox.handle_read(&read, records, NOW).unwrap();
    let received = LogReceiver::default().handle_batch(batch);
    assert_eq!(received.records, [(1, b"1".to_vec()), (3, b"3".to_vec())]);
    assert_eq!(received.lost_records(), 1);
}

/// Found by fuzzing: the number after the last was asked for.
#[test]
fn a_record_with_the_last_number_there_is_does_no_harm() {
    let mut outbox = Outbox::restore(1, OutboxQuota::default(), &[]);
    let mut writes = WriteBatch::new();
    outbox.append(Stream::Events, vec![1], &mut writes).unwrap();
    outbox.begin(&[], NOW, &mut writes);
    let read = next_read(&outbox).unwrap();
    let batch = outbox.handle_read(&read, vec![(u64::MAX, vec![1])], NOW).unwrap();
    assert_eq!((batch.first, batch.records.len()), (1, 1), "what the store lacks goes as a hole");
}

/// Found by fuzzing: such positions panicked, or freed more records than there is memory to name.
#[test]
fn positions_that_no_log_can_have_are_no_logs() {
    let meta = |oldest, next, bytes| {
        let value = encode("log position", &LogMeta { oldest, next, bytes }).unwrap();
        (b"log/0000000000000001/0".to_vec(), value)
    };
    let impossible = [
        meta(2, 1, 0),
        meta(0, 1, 0),
        meta(u64::MAX, u64::MAX, 0),
        meta(1, 1 << 40, 0),
        meta(1, 2, u64::MAX),
    ];
    for position in impossible {
        let mut outbox = Outbox::restore(1, OutboxQuota::default(), &[position]);
        let mut writes = WriteBatch::new();
        let log = LogId { incarnation: 1, stream: Stream::Events };
        outbox.handle_ack(LogAck { log, watermark: u64::MAX }, NOW, &mut writes);
        assert!(writes.is_empty());
        assert_eq!(outbox.append(Stream::Events, vec![1], &mut writes), Ok(1));
    }
    let possible = Outbox::restore(2, OutboxQuota::default(), &[meta(5, 9, 100)]);
    assert_eq!(possible.totals(Stream::Events), StreamTotals { records: 4, bytes: 100 });
}

proptest! {
    /// Appends, deliveries, losses, repeats, timeouts, restarts of the sender and of the receiver
    /// in any order; in the end the link is good.
    #[test]
    fn every_record_arrives_once_and_in_order_or_is_counted(
        steps in proptest::collection::vec((0_u8..10, any::<u8>()), 1..240),
        quota in prop_oneof![200_u64..5000, 10_000_u64..200_000],
    ) {
        let quota = OutboxQuota {
            alarms_bytes: quota,
            events_bytes: quota,
            results_bytes: quota,
            telemetry_bytes: quota,
        };
        let (mut store, mut hub) = (Records::default(), LogReceiver::default());
        let mut outbox = Outbox::restore(1, quota, &[]);
        let (mut incarnation, mut now) = (1, NOW);
        let mut made = BTreeMap::new();
        let mut link: Vec<LogBatch> = vec![];
        let mut acks: Vec<LogAck> = vec![];
        let mut arrived: Vec<((LogId, SequenceNumber), Vec<u8>)> = vec![];
        let mut lost = 0;
        let mut deliver = |hub: &mut LogReceiver, batch: LogBatch, acks: &mut Vec<LogAck>| {
            let log = batch.log;
            let received = hub.handle_batch(batch);
            lost += received.lost_records();
            arrived.extend(received.records.into_iter().map(|(n, record)| ((log, n), record)));
            acks.extend(received.ack);
        };
        for (kind, byte) in steps {
            let mut writes = WriteBatch::new();
            match kind {
                0..=2 => {
                    let stream = STREAMS[usize::from(byte % 6)];
                    // Some fit a pack by the dozen, some once, some not at all.
                    let record = vec![byte; 40 + usize::from(byte % 7) * 1100];
                    let number = outbox.append(stream, record.clone(), &mut writes).unwrap();
                    made.insert((LogId { incarnation, stream }, number), record);
                }
                3 => outbox.begin(&hub.newest_watermarks(), now, &mut writes),
                4 => {
                    if let Some(read) = next_read(&outbox) {
                        let records = store.read(&read);
                        link.extend(outbox.handle_read(&read, records, now));
                    }
                }
                5 if !link.is_empty() => {
                    let at = usize::from(byte) % link.len();
                    let batch = if byte % 3 == 0 { link[at].clone() } else { link.swap_remove(at) };
                    deliver(&mut hub, batch, &mut acks);
                }
                6 if !acks.is_empty() => {
                    let ack = acks.swap_remove(usize::from(byte) % acks.len());
                    outbox.handle_ack(ack, now, &mut writes);
                }
                7 if byte % 4 == 0 => {
                    incarnation += 1;
                    outbox = Outbox::restore(incarnation, quota, &store.meta());
                }
                8 => outbox.pause(),
                _ => {
                    now = now.plus_ms(70_000);
                    outbox.handle_timeout(now);
                    link.pop();
                }
            }
            store.commit(writes);
        }
        let mut writes = WriteBatch::new();
        outbox.begin(&hub.newest_watermarks(), now, &mut writes);
        store.commit(writes);
        let mut rounds = 0;
        while let Some(read) = next_read(&outbox) {
            let records = store.read(&read);
            let batch = outbox.handle_read(&read, records, now).unwrap();
            deliver(&mut hub, batch, &mut acks);
            let mut writes = WriteBatch::new();
            acks.drain(..).for_each(|ack| outbox.handle_ack(ack, now, &mut writes));
            store.commit(writes);
            rounds += 1;
            prop_assert!(rounds < 1000, "the outbox does not drain");
        }
        prop_assert_eq!(arrived.len() as u64 + lost, made.len() as u64, "not all are here or counted");
        for (place, record) in arrived {
            prop_assert_eq!(made.remove(&place), Some(record), "it arrived twice, or another");
        }
        for stream in STREAMS {
            prop_assert_eq!(outbox.totals(stream).records, 0);
        }
        prop_assert!(store.outbox.is_empty() && store.packs.is_empty(), "something is never freed");
    }
}
