//! Records of telemetry that build on each other, across losses and restarts of the hub.

use super::*;
use shared::telemetry::{Batch, BatchEncoder, Sample, Series};
use shared::wire::GREETED_INCARNATION;

/// The records of the first `count` batches of a node's telemetry.
fn records(count: u64) -> Vec<Vec<u8>> {
    let mut encoder = BatchEncoder::default();
    let record = |sequence: u64| {
        let values = [(Series::new("node_load1"), sequence as f64)].into();
        let sample = Sample { at: UnixMs(sequence), values, ..Sample::default() };
        let staged = encoder.encode(&Batch { samples: vec![sample] }, sequence).unwrap();
        let record = staged.record().to_vec();
        encoder.commit(staged);
        record
    };
    (1..=count).map(record).collect()
}

fn telemetry(incarnation: u64, first: u64, records: &[Vec<u8>]) -> Message {
    let log = LogId { incarnation, stream: Stream::Telemetry };
    let records = records.iter().map(|record| record.clone().into()).collect();
    Message::LogBatch(LogBatch { log, oldest: 1, first, records })
}

fn decoders(world: &World) -> usize {
    world.store.scan(Tree::Decoders, &[], usize::MAX).unwrap().len()
}

fn counts(world: &World) -> (u64, u64, u64) {
    let record = world.hub.record(&node()).unwrap();
    (record.samples_received, record.records_undecodable, record.records_lost)
}

#[test]
fn a_hub_that_was_killed_goes_on_where_its_last_commit_was() {
    let records = records(4);
    let mut world = World::new();
    world.greet(None);
    world.tell(&telemetry(1, 1, &records[..2]));
    world.restart();
    world.handle(Event::Manifests(Manifests::default()));
    world.greet(None);
    world.tell(&telemetry(1, 3, &records[2..]));
    assert_eq!(counts(&world), (4, 0, 0));
    let (_, latest) = world.hub.latest_samples().next().unwrap();
    assert_eq!(latest.values, [(Series::new("node_load1"), 4.0)].into());
}

#[test]
fn what_builds_on_a_lost_record_is_counted_until_the_next_keyframe() {
    let mut records = records(242);
    records[10].clear();
    let mut world = World::new();
    world.greet(None);
    for (number, some) in (0..).zip(records.chunks(20)) {
        world.tell(&telemetry(1, number * 20 + 1, some));
    }
    assert_eq!(counts(&world), (12, 229, 1), "1 to 10, 241 and 242; 12 to 240; 11");
    let runs: Vec<(u64, u64)> = world.settled.iter().map(|of| (of.first, of.last)).collect();
    let batches = (1..=241).step_by(20).map(|first| (first, 242.min(first + 19)));
    assert_eq!(runs, batches.collect::<Vec<_>>());
    let first = &world.settled[0];
    assert_eq!((&first.lost[..], &first.undecodable[..]), (&[11..=11][..], &[12..=20][..]));
}

#[test]
fn decoders_of_delivered_incarnations_and_of_earlier_holders_of_a_name_are_forgotten() {
    let mut world = World::new();
    world.greet(None);
    world.tell(&telemetry(1, 1, &records(1)));
    assert_eq!(decoders(&world), 1);
    let Message::Hello(mut later) = hello(None) else { unreachable!() };
    (later.incarnation, later.oldest_incarnation) = (2, 2);
    world.tell(&Message::Hello(later));
    assert_eq!(decoders(&world), 0);
    world.tell(&telemetry(2, 1, &records(1)));
    assert_eq!(decoders(&world), 1);
    let mut other = record("2");
    other.session_key = SessionPrivateKey::generate([8; 32]).public();
    world.handle(Event::Enrolled { node: node(), record: other });
    assert_eq!(decoders(&world), 0);
}

#[test]
fn a_node_that_claims_many_incarnations_does_not_fill_the_hub() {
    let mut world = World::new();
    world.greet(None);
    for incarnation in 1..40 {
        world.tell(&telemetry(incarnation, 1, &records(1)));
    }
    assert_eq!(decoders(&world), 16);
}

#[test]
fn a_batch_that_names_no_start_is_of_the_one_that_greeted() {
    let mut world = World::new();
    world.greet(None);
    let mut message = telemetry(1, 1, &records(1));
    if let Message::LogBatch(batch) = &mut message {
        batch.log.incarnation = GREETED_INCARNATION;
    }
    world.tell(&message);
    let log = LogId { incarnation: 1, stream: Stream::Telemetry };
    assert_eq!(world.hub.record(&node()).unwrap().logs.watermark(&log), 1);
}
