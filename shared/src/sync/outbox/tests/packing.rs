//! Records that nobody fetches, several under one key.

use super::*;
use crate::sync::outbox::pack::PACK_BYTES_MAX;
use crate::sync::read_pack;

const BACKFILL: LogId = LogId { incarnation: 1, stream: Stream::Backfill };

/// So large that six are a pack.
const BYTES: usize = 1000;

/// Records of which each is another, while nobody listens.
fn kept(count: u64) -> (Outbox, Records) {
    let (mut outbox, mut store) =
        (Outbox::restore(1, OutboxQuota::default(), &[]), Records::default());
    (1..=count)
        .for_each(|number| append(&mut outbox, &mut store, BACKFILL.stream, &record(number)));
    (outbox, store)
}

fn record(number: u64) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().take(BYTES).collect()
}

/// The numbers of the records that lie by themselves, and of the last of each pack.
fn numbers(store: &Records) -> (Vec<u64>, Vec<u64>) {
    let of = |tree: &BTreeMap<Vec<u8>, Vec<u8>>| {
        tree.keys().map(|key| u64::from_be_bytes(*key.last_chunk().unwrap())).collect()
    };
    (of(&store.outbox), of(&store.packs))
}

fn read(store: &Records, first: u64, count_max: usize, bytes_max: usize) -> Vec<u64> {
    let found = store.read(&LogRead { log: BACKFILL, first, count_max, bytes_max });
    assert!(found.iter().all(|(number, found)| *found == record(*number)));
    found.into_iter().map(|(number, _)| number).collect()
}

#[test]
fn what_nobody_fetches_lies_in_packs_and_is_read_as_before() {
    let (_, store) = kept(20);
    assert_eq!(numbers(&store), ((19..=20).collect(), vec![6, 12, 18]));
    for value in store.packs.values() {
        assert!(value.len() <= PACK_BYTES_MAX && value.len() + BYTES > PACK_BYTES_MAX);
        assert_eq!(read_pack(value).len(), 6);
    }
    assert_eq!(read(&store, 1, 100, usize::MAX), (1..=20).collect::<Vec<_>>());
    assert_eq!(read(&store, 4, 10, usize::MAX), (4..=13).collect::<Vec<_>>());
    assert_eq!(read(&store, 18, 2, usize::MAX), [18, 19]);
    assert_eq!(read(&store, 20, 9, usize::MAX), [20]);
    assert_eq!(read(&store, 1, 100, 5999), (1..=6).collect::<Vec<_>>(), "a pack at a time");
}

#[test]
fn a_pack_is_there_until_its_last_record_is_acknowledged() {
    let (mut outbox, mut store) = kept(20);
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    for (watermark, left) in [(5, vec![6, 12, 18]), (6, vec![12, 18]), (17, vec![18]), (19, vec![])]
    {
        let mut writes = WriteBatch::new();
        outbox.handle_ack(LogAck { log: BACKFILL, watermark }, NOW, &mut writes);
        store.commit(writes);
        assert_eq!(numbers(&store).1, left, "{watermark}");
        assert_eq!(read(&store, watermark + 1, 100, usize::MAX).len() as u64, 20 - watermark);
    }
    assert_eq!(numbers(&store), (vec![20], vec![]));
}

#[test]
fn the_start_after_finds_the_packs_of_the_one_before() {
    let (_, mut store) = kept(14);
    let mut outbox = Outbox::restore(2, OutboxQuota::default(), &store.meta());
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    let arrived = drain(&mut outbox, &mut store, &mut LogReceiver::default());
    assert_eq!(arrived, (1..=14).map(record).collect::<Vec<_>>());
    assert_eq!(numbers(&store), (vec![], vec![]));
}

#[test]
fn nothing_is_packed_while_somebody_listens_and_nothing_across_that_time() {
    let (mut outbox, mut store) = kept(4);
    outbox.begin(&[], NOW, &mut WriteBatch::new());
    (5..=30).for_each(|number| append(&mut outbox, &mut store, BACKFILL.stream, &record(number)));
    outbox.pause();
    (31..=37).for_each(|number| append(&mut outbox, &mut store, BACKFILL.stream, &record(number)));
    assert_eq!(numbers(&store), ((1..=30).chain([37]).collect(), vec![36]));
    assert_eq!(read(&store, 1, 100, usize::MAX), (1..=37).collect::<Vec<_>>());
}

#[test]
fn a_record_too_large_for_a_pack_lies_by_itself_between_them() {
    let (mut outbox, mut store) = kept(3);
    append(&mut outbox, &mut store, BACKFILL.stream, &[7; PACK_BYTES_MAX - 5]);
    (5..=11).for_each(|number| append(&mut outbox, &mut store, BACKFILL.stream, &record(number)));
    assert_eq!(numbers(&store), (vec![4, 11], vec![3, 10]));
    let found = store.read(&LogRead { log: BACKFILL, first: 1, count_max: 50, bytes_max: 1 << 20 });
    assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), Vec::from_iter(1..=11));
    assert_eq!(found[3].1.len(), PACK_BYTES_MAX - 5);
    // The largest that fits: alone it is no pack.
    let (mut outbox, mut store) = kept(0);
    (0..3).for_each(|_| {
        append(&mut outbox, &mut store, BACKFILL.stream, &[7; PACK_BYTES_MAX - 6]);
    });
    assert_eq!(numbers(&store), (vec![1, 2, 3], vec![]));
}

#[test]
fn a_pack_that_is_gone_or_cannot_be_read_is_a_hole_of_its_records() {
    let (_, mut store) = kept(20);
    let (second, third) = (outbox_key(BACKFILL, 12), outbox_key(BACKFILL, 18));
    store.packs.remove(&second);
    let expected: Vec<u64> = (1..=6).chain(13..=20).collect();
    assert_eq!(read(&store, 1, 100, usize::MAX), expected);
    assert_eq!(read(&store, 8, 100, usize::MAX), (13..=20).collect::<Vec<_>>());
    for damaged in [&b""[..], b"\x60", b"\x81\x01", b"\xff"] {
        store.packs.insert(third.clone(), damaged.to_vec());
        assert_eq!(read(&store, 3, 100, usize::MAX), [3, 4, 5, 6, 19, 20]);
    }
    // One that claims more than there is room for before it.
    let many = encode("pack", &vec![ByteBuf::from(record(1)); 4]).unwrap();
    store.packs.insert(outbox_key(BACKFILL, 2), many);
    assert_eq!(read(&store, 19, 100, usize::MAX), [19, 20]);
    assert!(
        store.read(&LogRead { log: BACKFILL, first: 1, count_max: 2, bytes_max: 9 }).len() <= 2
    );
}

#[test]
fn the_quota_takes_packs_as_it_takes_records() {
    let quota = OutboxQuota { events_bytes: 70 * BYTES as u64, ..OutboxQuota::default() };
    let (mut outbox, mut store) = (Outbox::restore(1, quota, &[]), Records::default());
    (1..=71).for_each(|number| append(&mut outbox, &mut store, Stream::Events, &record(number)));
    assert_eq!(outbox.dropped_records(), 60);
    assert_eq!(numbers(&store), ((67..=71).collect(), vec![66]));
    // It takes more than there is in packs.
    append(&mut outbox, &mut store, Stream::Events, &[7; 12_000]);
    (73..=160).for_each(|number| append(&mut outbox, &mut store, Stream::Events, &record(number)));
    let (single, packs) = numbers(&store);
    let left = outbox.totals(Stream::Events).records;
    assert_eq!((single.len() + 6 * packs.len()) as u64, left, "{single:?} {packs:?}");
}
