//! Records of telemetry as they lie in the store: each stream can be decoded in its order.

use super::*;
use shared::telemetry::BatchDecoder;
use shared::wire::{LogAck, LogId, SequenceNumber, Stream};

/// What the core made durable of a stream, in order.
pub(super) fn stored(bench: &Bench, stream: Stream) -> Vec<(SequenceNumber, Vec<u8>)> {
    let key = shared::sync::outbox_key(LogId { incarnation: 1, stream }, 0);
    let prefix = &key[..key.len() - 8];
    let record = |write: &Write| match write {
        Write::Put { tree: Tree::Outbox, key, value } => {
            let number = key.strip_prefix(prefix)?.try_into().ok()?;
            Some((u64::from_be_bytes(number), value.clone()))
        }
        _ => None,
    };
    bench.persisted.iter().flat_map(|batch| &batch.writes).filter_map(record).collect()
}

/// The values of all samples in records that follow each other.
fn values(records: &[(SequenceNumber, Vec<u8>)]) -> Vec<f64> {
    let mut decoder = BatchDecoder::default();
    let batches = records.iter().map(|(number, record)| decoder.decode(*number, record).unwrap());
    let samples: Vec<Sample> = batches.flat_map(|batch| batch.samples).collect();
    samples.iter().flat_map(|sample| sample.values.numbers().to_vec()).collect()
}

fn measured(value: f64) -> Event {
    let values = [(Series::new("node_load1"), value)].into();
    Event::Sampled(Sample { values, ..Sample::default() })
}

#[test]
fn live_and_backfill_are_streams_of_their_own_and_each_can_be_read_alone() {
    let mut bench = Bench::new();
    (0..4).for_each(|n| bench.tell(measured(f64::from(n))));
    bench.join();
    (4..8).for_each(|n| bench.tell(measured(f64::from(n))));
    bench.tell(Event::LinkDown);
    (8..12).for_each(|n| bench.tell(measured(f64::from(n))));
    assert_eq!(values(&stored(&bench, Stream::Telemetry)), [4.0, 5.0, 6.0, 7.0]);
    let backfill = stored(&bench, Stream::Backfill);
    assert_eq!(values(&backfill), [0.0, 1.0, 2.0, 3.0, 8.0, 9.0, 10.0, 11.0]);
}

#[test]
fn after_the_disk_refused_the_next_record_needs_nothing_before_it() {
    let mut bench = Bench::new();
    (0..4).for_each(|n| bench.tell(measured(f64::from(n))));
    bench.full = true;
    (4..8).for_each(|n| bench.tell(measured(f64::from(n))));
    bench.full = false;
    bench.wait(6 * SECOND_MS);
    bench.persisted.clear();
    (8..12).for_each(|n| bench.tell(measured(f64::from(n))));
    assert_eq!(values(&stored(&bench, Stream::Backfill)), [8.0, 9.0, 10.0, 11.0]);
}

#[test]
fn after_the_hub_forgot_what_it_had_or_a_record_was_lost_the_next_one_needs_nothing_before_it() {
    let mut bench = Bench::new();
    bench.join();
    let telemetry = LogId { incarnation: 1, stream: Stream::Telemetry };
    let mut next = 0..;
    let mut record = |bench: &mut Bench| {
        bench.persisted.clear();
        bench.others.clear();
        next.by_ref().take(2).for_each(|n| bench.tell(measured(f64::from(n))));
        let (number, record) = stored(bench, Stream::Telemetry).pop().unwrap();
        BatchDecoder::default().decode(number, &record).is_ok()
    };
    assert!(record(&mut bench));
    let read = bench.others.iter().find_map(|effect| match effect {
        Effect::ReadRecords(read) if read.log == telemetry => Some(*read),
        _ => None,
    });
    assert!(!record(&mut bench));
    bench.hub_sends(&Message::LogAck(LogAck { log: telemetry, watermark: 1 }));
    bench.tell(Event::LinkDown);
    bench.join();
    assert_eq!([record(&mut bench), record(&mut bench)], [true, false], "the hub knew of none");
    bench.tell(Event::RecordsRead { read: read.unwrap(), records: Ok(vec![]) });
    assert_eq!([record(&mut bench), record(&mut bench)], [true, false], "one was not on the disk");
}

#[test]
fn a_batch_that_one_record_can_not_hold_is_parted_and_every_part_is_read() {
    let mut bench = Bench::new();
    let series = |n: usize| Series::new(&format!("m{}_{n}", "x".repeat(n % 50)));
    let values_of = |n: usize| (series(n), n as f64 / 7.0);
    let sample = Sample { values: (0..2000).map(values_of).collect(), ..Sample::default() };
    bench.tell(Event::Sampled(sample.clone()));
    bench.tell(Event::Sampled(sample));
    let records = stored(&bench, Stream::Backfill);
    assert!(records.len() > 2);
    assert_eq!(values(&records).len(), 4000);
}
