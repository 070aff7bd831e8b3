//! What the quota takes, of which log, and who is told.

use super::*;

#[test]
fn what_the_quota_takes_off_its_way_is_announced_at_once() {
    let quota = OutboxQuota { results_bytes: 100, ..OutboxQuota::default() };
    let (mut outbox, mut store) = (Outbox::restore(1, quota, &[]), Records::default());
    let (slow, other) = (Stream::Results(SinkId(1)), Stream::Results(SinkId(2)));
    append(&mut outbox, &mut store, slow, &[7; 90]);
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let read = next_read(&outbox).unwrap();
    outbox.handle_read(&read, store.read(&read), NOW).unwrap();
    outbox.handle_hold(LogHold { log: read.log, received: 1 }, NOW);
    append(&mut outbox, &mut store, other, &[7; 50]);
    let read = next_read(&outbox).unwrap();
    assert_eq!((read.log.stream, read.first, read.count_max), (slow, 2, 0));
}

/// Every class may keep so many bytes.
fn quota_of(bytes: u64) -> OutboxQuota {
    OutboxQuota {
        alarms_bytes: bytes,
        events_bytes: bytes,
        results_bytes: bytes,
        telemetry_bytes: bytes,
    }
}

/// Adds `count` records of ten bytes.
fn append_many(outbox: &mut Outbox, store: &mut Records, stream: Stream, count: u64) {
    (0..count).for_each(|_| append(outbox, store, stream, &[7; 10]));
}

fn has(store: &Records, incarnation: Incarnation, stream: Stream, sequence: u64) -> bool {
    store.outbox.contains_key(&outbox_key(LogId { incarnation, stream }, sequence))
}

#[test]
fn a_class_that_is_full_takes_nothing_from_another() {
    let (mut outbox, mut store) = (Outbox::restore(1, quota_of(1000), &[]), Records::default());
    for stream in STREAMS {
        append_many(&mut outbox, &mut store, stream, 50);
    }
    assert_eq!(outbox.dropped_records(), 0, "each is within its own");
    append_many(&mut outbox, &mut store, Stream::Alarms, 51);
    assert_eq!(outbox.dropped_records(), 60);
    for stream in STREAMS {
        let left = if stream == Stream::Alarms { 41 } else { 50 };
        let expected = StreamTotals { records: left, bytes: 10 * left };
        assert_eq!(outbox.totals(stream), expected, "{stream:?}");
    }
    assert_eq!(outbox.results_totals(), StreamTotals { records: 100, bytes: 1000 });
}

#[test]
fn as_many_runs_go_as_a_large_record_needs() {
    let (mut outbox, mut store) = (Outbox::restore(1, quota_of(1000), &[]), Records::default());
    (0..180).for_each(|_| append(&mut outbox, &mut store, Stream::Events, &[7; 5]));
    append(&mut outbox, &mut store, Stream::Events, &[7; 600]);
    assert_eq!(outbox.totals(Stream::Events), StreamTotals { records: 61, bytes: 900 });
}

#[test]
fn the_sink_with_the_most_bytes_loses_first() {
    let (mut outbox, mut store) = (Outbox::restore(1, quota_of(1000), &[]), Records::default());
    append_many(&mut outbox, &mut store, Stream::Results(SinkId(1)), 70);
    append_many(&mut outbox, &mut store, Stream::Results(SinkId(2)), 31);
    assert_eq!(outbox.totals(Stream::Results(SinkId(1))).records, 10);
    assert_eq!(outbox.totals(Stream::Results(SinkId(2))).records, 31);
}

#[test]
fn backfill_is_lost_before_telemetry_and_older_starts_before_newer_ones() {
    let mut store = Records::default();
    let mut first = Outbox::restore(1, quota_of(1000), &[]);
    append_many(&mut first, &mut store, Stream::Telemetry, 30);
    append_many(&mut first, &mut store, Stream::Backfill, 30);
    let mut second = Outbox::restore(2, quota_of(1000), &store.meta());
    append_many(&mut second, &mut store, Stream::Telemetry, 40);
    append_many(&mut second, &mut store, Stream::Telemetry, 1);
    assert!(!has(&store, 1, Stream::Backfill, 30) && has(&store, 1, Stream::Telemetry, 1));
    append_many(&mut second, &mut store, Stream::Telemetry, 30);
    assert!(!has(&store, 1, Stream::Telemetry, 30) && has(&store, 2, Stream::Telemetry, 1));
    assert_eq!(second.totals(Stream::Telemetry).records, 71);
}

#[test]
fn what_is_left_begins_with_a_run_of_telemetry() {
    let (mut outbox, mut store) = (Outbox::restore(1, quota_of(3000), &[]), Records::default());
    append_many(&mut outbox, &mut store, Stream::Telemetry, 300);
    let log = LogId { incarnation: 1, stream: Stream::Telemetry };
    let oldest_after = |outbox: &mut Outbox, store: &mut Records, watermark, count| {
        let mut writes = WriteBatch::new();
        outbox.handle_ack(LogAck { log, watermark }, NOW, &mut writes);
        store.commit(writes);
        append_many(outbox, store, Stream::Telemetry, count);
        outbox.begin(&[], NOW, &mut WriteBatch::new());
        next_read(outbox).unwrap().first
    };
    assert_eq!(oldest_after(&mut outbox, &mut store, 30, 31), 241);
    assert_eq!(oldest_after(&mut outbox, &mut store, 300, 270), 481);
    assert_eq!(outbox.dropped_records(), 210 + 180);
}

#[test]
fn a_record_of_the_largest_size_is_taken_and_a_larger_one_is_not() {
    let mut outbox = Outbox::restore(1, OutboxQuota::default(), &[]);
    let mut append = |bytes| outbox.append(Stream::Events, vec![1; bytes], &mut WriteBatch::new());
    assert_eq!(append(LOG_RECORD_BYTES_MAX), Ok(1));
    let found_bytes = LOG_RECORD_BYTES_MAX + 1;
    assert_eq!(append(found_bytes), Err(RecordTooLarge { found_bytes }));
    assert_eq!(append(1), Ok(2));
}

#[test]
fn the_receiver_hears_what_the_quota_took_of_a_start_that_has_ended() {
    let (mut store, mut hub) = (Records::default(), LogReceiver::default());
    let mut first = Outbox::restore(1, quota_of(100), &[]);
    append_many(&mut first, &mut store, Stream::Events, 10);
    let mut second = Outbox::restore(2, quota_of(100), &store.meta());
    append_many(&mut second, &mut store, Stream::Events, 1);
    assert_eq!((second.dropped_records(), second.oldest_incarnation()), (10, 1));
    let mut third = Outbox::restore(3, quota_of(100), &store.meta());
    third.begin(&[], NOW, &mut WriteBatch::new());
    let read = next_read(&third).unwrap();
    assert_eq!((read.log.incarnation, read.first, read.count_max), (1, 11, 0));
    let received = hub.handle_batch(third.handle_read(&read, vec![], NOW).unwrap());
    assert_eq!(received.lost_records(), 10);
    let mut writes = WriteBatch::new();
    third.handle_ack(received.ack.unwrap(), NOW, &mut writes);
    store.commit(writes);
    assert_eq!(third.oldest_incarnation(), 2, "it has ended");
    assert_eq!(store.meta.len(), 1);
    assert_eq!(drain(&mut third, &mut store, &mut hub), [vec![7; 10]]);
}

#[test]
fn what_the_quota_takes_now_is_announced_even_when_nothing_is_left_to_send() {
    let (mut outbox, mut store) = (Outbox::restore(1, quota_of(100), &[]), Records::default());
    append_many(&mut outbox, &mut store, Stream::Results(SinkId(1)), 10);
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    append_many(&mut outbox, &mut store, Stream::Results(SinkId(2)), 1);
    let read = next_read(&outbox).unwrap();
    assert_eq!((read.log.stream, read.first, read.count_max), (Stream::Results(SinkId(1)), 11, 0));
    outbox.handle_read(&read, vec![], NOW).unwrap();
    let ack = LogAck { log: read.log, watermark: 10 };
    outbox.handle_ack(ack, NOW, &mut WriteBatch::new());
    let next = next_read(&outbox).unwrap();
    assert_eq!(next.log.stream, Stream::Results(SinkId(2)), "it is announced once");
}
