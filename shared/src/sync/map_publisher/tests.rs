//! The publisher alone: what is due, what an answer changes, and what a peer is known to have.

use super::*;
use crate::limits::MAP_UPDATE_BYTES_MAX;
use crate::wire::{MapBody, decode};

const START: MonotonicMs = MonotonicMs(100_000);

/// One item of this size.
fn content(byte: u8, size: usize) -> MapContent {
    MapContent::new(BTreeMap::from([("a".to_owned(), vec![byte; size])]))
}

fn version(generation: u64) -> Version {
    Version { term: 1, generation }
}

fn position(generation: u64, content: &MapContent) -> MapPosition {
    MapPosition { version: version(generation), digest: content.digest() }
}

fn publisher(generation: u64, content: MapContent) -> MapPublisher {
    let position = position(generation, &content);
    MapPublisher::new(MapName::Desired, content, position, vec![])
}

fn publish(hub: &mut MapPublisher, generation: u64, content: MapContent) {
    let position = position(generation, &content);
    hub.publish(content, position, vec![]);
}

/// A publisher of hundred chunks to a peer of which nothing is known.
fn of_many_chunks() -> MapPublisher {
    let mut hub = publisher(1, content(1, 100 * MAP_CHUNK_BYTES_MAX));
    hub.begin(None);
    hub
}

/// A publisher of 300 bytes as its first content, which the peer has.
fn in_sync() -> MapPublisher {
    let mut hub = publisher(1, content(1, 300));
    let has = hub.position();
    hub.begin(Some(has));
    assert!(hub.is_in_sync());
    hub
}

fn next(hub: &mut MapPublisher, now: MonotonicMs) -> Option<MapChunk> {
    let due = hub.has_chunk(now);
    let chunk = hub.poll_chunk(now).unwrap();
    assert_eq!(due, chunk.is_some(), "what is due is sent");
    chunk
}

/// The numbers of all chunks that may go now; more than a window are too many.
fn sent(hub: &mut MapPublisher, now: MonotonicMs) -> Vec<u32> {
    std::iter::from_fn(|| next(hub, now)).map(|chunk| chunk.index).take(9).collect()
}

/// How the next update, of one chunk, is made.
fn made_as(hub: &mut MapPublisher, now: MonotonicMs) -> &'static str {
    let chunk = next(hub, now).unwrap();
    assert_eq!((chunk.index, chunk.count), (0, 1));
    match decode::<MapBody>("body", &chunk.body, MAP_UPDATE_BYTES_MAX).unwrap() {
        MapBody::Snapshot { .. } => "snapshot",
        MapBody::Delta { upserts, .. } if upserts.is_empty() => "edits",
        MapBody::Delta { .. } => "items",
    }
}

fn partial(generation: u64, next: u32, window: Option<u32>) -> MapAck {
    MapAck::Partial { map: MapName::Desired, version: version(generation), next, window }
}

fn applied(generation: u64) -> MapAck {
    MapAck::Applied { map: MapName::Desired, version: version(generation) }
}

fn refusal(generation: u64, reason: RefusalReason) -> MapRefusal {
    MapRefusal { map: MapName::Desired, version: version(generation), reason, accepted: None }
}

#[test]
fn an_answer_within_a_second_lets_one_chunk_more_go_and_a_later_one_half_as_many() {
    let (mut hub, mut now) = (of_many_chunks(), START);
    let mut windows = vec![];
    for answer_ms in [999, 999, 999, 999, 999, 999, 999, 1_000, 1_000, 1_000, 999] {
        let chunks = sent(&mut hub, now);
        windows.push(chunks.len());
        now = now.plus_ms(answer_ms);
        hub.handle_ack(&partial(1, chunks.last().unwrap() + 1, None), now);
    }
    windows.push(sent(&mut hub, now).len());
    assert_eq!(windows, [2, 3, 4, 5, 6, 7, 8, 8, 4, 2, 2, 3]);
}

#[test]
fn what_is_not_answered_is_repeated_from_the_first_missing_chunk_in_the_smallest_window() {
    let mut hub = of_many_chunks();
    assert_eq!(sent(&mut hub, START), [0, 1]);
    hub.handle_ack(&partial(1, 1, None), START);
    assert_eq!(sent(&mut hub, START), [2, 3]);
    let due = START.plus_ms(5_000);
    assert_eq!((hub.poll_timeout(), hub.attempts()), (Some(due), 0));
    hub.handle_timeout(MonotonicMs(due.0 - 1));
    assert_eq!(sent(&mut hub, due), [] as [u32; 0]);
    hub.handle_timeout(due);
    assert_eq!((hub.attempts(), sent(&mut hub, due)), (1, vec![1, 2]));
    hub.handle_timeout(due.plus_ms(10_000));
    assert_eq!(hub.attempts(), 2);
    hub.handle_ack(&partial(1, 2, None), due.plus_ms(10_000));
    assert_eq!(hub.attempts(), 0, "an answer came");
}

#[test]
fn an_answer_that_says_nothing_new_or_cannot_be_changes_nothing() {
    let mut hub = of_many_chunks();
    sent(&mut hub, START);
    hub.handle_ack(&partial(1, 1, None), START);
    let count = next(&mut hub, START).unwrap().count;
    sent(&mut hub, START);
    let (due, later) = (hub.poll_timeout().unwrap(), START.plus_ms(4_000));
    for (what, ack) in [
        ("repeated", partial(1, 1, None)),
        ("overtaken", partial(1, 0, Some(8))),
        ("of another version", partial(2, 3, Some(8))),
        ("beyond the end", partial(1, count, Some(8))),
    ] {
        hub.handle_ack(&ack, later);
        assert_eq!((hub.poll_timeout(), next(&mut hub, later)), (Some(due), None), "{what}");
    }
    hub.handle_timeout(due);
    assert_eq!(sent(&mut hub, due), [1, 2]);
}

#[test]
fn a_peer_that_kept_parts_is_sent_what_follows_them() {
    let mut hub = of_many_chunks();
    assert_eq!(sent(&mut hub, START), [0, 1]);
    hub.handle_ack(&partial(1, 50, None), START);
    assert_eq!(sent(&mut hub, START), [50, 51]);
}

#[test]
fn an_answer_is_awaited_while_something_is_on_its_way_or_may_go() {
    let mut hub = of_many_chunks();
    sent(&mut hub, START);
    let now = START.plus_ms(1);
    let due = Some(now.plus_ms(5_000));
    hub.handle_ack(&partial(1, 1, Some(0)), now);
    assert_eq!((hub.poll_timeout(), next(&mut hub, now)), (due, None), "a chunk is on its way");
    hub.handle_ack(&partial(1, 2, Some(0)), now);
    assert_eq!((hub.poll_timeout(), next(&mut hub, now)), (None, None), "nothing is, nor may go");
    hub.handle_ack(&partial(1, 2, Some(3)), now);
    assert_eq!(hub.poll_timeout(), due, "some may go");
    assert_eq!(sent(&mut hub, now), [2, 3, 4]);
}

#[test]
fn a_transfer_is_finished_though_the_content_changes_and_even_goes_back() {
    let mut hub = in_sync();
    publish(&mut hub, 2, content(2, 4 * MAP_CHUNK_BYTES_MAX));
    assert_eq!(sent(&mut hub, START), [0, 1]);
    publish(&mut hub, 3, content(1, 300));
    assert_eq!(*hub.content(), content(1, 300));
    hub.handle_ack(&partial(2, 2, None), START);
    assert_eq!(sent(&mut hub, START), [2, 3, 4]);
    hub.handle_ack(&applied(2), START);
    assert!(!hub.is_in_sync());
    assert_eq!(made_as(&mut hub, START), "items");
    hub.handle_ack(&applied(3), START);
    assert_eq!((hub.is_in_sync(), hub.poll_timeout()), (true, None));
}

#[test]
fn what_changed_during_a_transfer_follows_as_edits_of_what_was_transferred() {
    let mut hub = publisher(1, content(1, 300));
    hub.begin(None);
    assert_eq!(made_as(&mut hub, START), "snapshot");
    let mut changed = vec![1; 300];
    changed[7] = 2;
    publish(&mut hub, 2, MapContent::new(BTreeMap::from([("a".to_owned(), changed)])));
    hub.handle_ack(&applied(1), START);
    assert_eq!(made_as(&mut hub, START), "edits");
}

#[test]
fn edits_are_of_what_the_peer_has_however_often_the_content_changed_since() {
    let mut hub = in_sync();
    for generation in 2..5_u8 {
        let mut changed = vec![1; 300];
        changed[7] = generation;
        let changed = MapContent::new(BTreeMap::from([("a".to_owned(), changed)]));
        publish(&mut hub, generation.into(), changed);
    }
    assert_eq!(made_as(&mut hub, START), "edits");
}

#[test]
fn a_peer_that_begins_anew_is_sent_the_difference_from_what_it_is_known_to_have() {
    let mut hub = in_sync();
    let had = hub.position();
    publish(&mut hub, 2, content(2, 300));
    hub.pause();
    hub.begin(Some(had));
    assert_eq!(made_as(&mut hub, START), "items");
    hub.begin(Some(position(1, &content(9, 300))));
    assert_eq!(made_as(&mut hub, START), "snapshot", "nobody knows what that is");
    hub.begin(None);
    assert_eq!(made_as(&mut hub, START), "snapshot", "it has nothing");
}

#[test]
fn a_peer_that_no_longer_listens_is_awaited_no_more_and_one_of_which_nothing_is_known_forgotten() {
    let mut hub = of_many_chunks();
    sent(&mut hub, START);
    hub.pause();
    assert_eq!((hub.poll_timeout(), next(&mut hub, START)), (None, None));
    hub.begin(None);
    assert_eq!(sent(&mut hub, START), [0, 1], "from the beginning");
}

#[test]
fn a_version_that_the_peer_may_have_is_told_with_its_digest() {
    let mut hub = in_sync();
    publish(&mut hub, 2, content(2, 300));
    assert_eq!(hub.position_of(version(1)), Some(position(1, &content(1, 300))));
    assert_eq!(hub.position_of(version(2)), Some(position(2, &content(2, 300))));
    assert_eq!(hub.position_of(version(3)), None);
}

#[test]
fn an_acknowledgement_of_what_was_sent_before_the_link_was_lost_counts() {
    let mut hub = publisher(1, content(1, 300));
    hub.begin(None);
    made_as(&mut hub, START);
    hub.begin(None);
    hub.handle_ack(&applied(9), START);
    assert!(!hub.is_in_sync(), "nobody sent that");
    hub.handle_ack(&applied(1), START);
    assert!(hub.is_in_sync());
    assert_eq!(next(&mut hub, START), None);
}

#[test]
fn an_acknowledgement_below_what_the_peer_has_says_nothing_and_one_equal_to_it_does() {
    let mut hub = publisher(3, content(1, 300));
    hub.begin(Some(position(5, &content(2, 300))));
    made_as(&mut hub, START);
    hub.handle_ack(&applied(3), START);
    assert!(!hub.is_in_sync(), "it has a later one");
    hub.begin(Some(position(3, &content(2, 300))));
    made_as(&mut hub, START);
    hub.handle_ack(&applied(3), START);
    assert!(hub.is_in_sync(), "its records were damaged and are whole again");
}

#[test]
fn a_peer_without_the_base_is_sent_a_snapshot_at_once() {
    let mut hub = in_sync();
    publish(&mut hub, 2, content(2, 300));
    assert_eq!(made_as(&mut hub, START), "items");
    hub.handle_refusal(&refusal(1, RefusalReason::BaseMismatch), START);
    assert_eq!(next(&mut hub, START), None, "that is not what was sent");
    hub.handle_refusal(&refusal(2, RefusalReason::BaseMismatch), START);
    assert_eq!(made_as(&mut hub, START), "snapshot");
}

#[test]
fn a_peer_that_cannot_take_an_update_is_sent_it_again_when_a_longer_wait_is_over() {
    let mut hub = publisher(1, content(1, 300));
    hub.begin(None);
    made_as(&mut hub, START);
    hub.handle_refusal(&refusal(1, RefusalReason::Unavailable), START);
    let due = START.plus_ms(10_000);
    assert_eq!((hub.poll_timeout(), hub.attempts()), (Some(due), 1));
    assert_eq!(next(&mut hub, MonotonicMs(due.0 - 1)), None);
    assert_eq!(made_as(&mut hub, due), "snapshot", "though nobody handled the timer");
    hub.handle_refusal(&refusal(1, RefusalReason::Unavailable), due);
    hub.handle_timeout(due.plus_ms(20_000));
    assert_eq!(made_as(&mut hub, due.plus_ms(20_000)), "snapshot", "once it was handled");
}

/// A publisher of much to a peer that pays, to which the first chunk was sent.
fn to_who_pays() -> MapPublisher {
    let mut hub = publisher(1, content(1, 100 * MAP_CHUNK_BYTES_MAX));
    hub.set_chunking(Chunking::Asked);
    hub.begin(None);
    assert_eq!(sent(&mut hub, START), [0]);
    hub
}

#[test]
fn a_peer_that_pays_and_has_nothing_yet_is_sent_again_all_that_it_asked_for() {
    let mut hub = to_who_pays();
    hub.handle_ack(&partial(1, 0, Some(3)), START);
    assert_eq!(sent(&mut hub, START), [0, 1, 2]);
    // All three are lost.
    let due = hub.poll_timeout().unwrap();
    hub.handle_timeout(due);
    assert_eq!(sent(&mut hub, due), [0]);
    hub.handle_ack(&partial(1, 1, Some(3)), due);
    assert_eq!(sent(&mut hub, due), [1, 2, 3]);
}

#[test]
fn a_peer_that_pays_is_asked_again_after_a_minute_and_then_ever_later_up_to_an_hour() {
    let mut hub = to_who_pays();
    let (mut now, mut minutes) = (START, vec![]);
    for _ in 0..8 {
        let due = hub.poll_timeout().unwrap();
        minutes.push((due.0 - now.0) / 60_000);
        now = due;
        hub.handle_timeout(now);
        assert_eq!(sent(&mut hub, now), [0]);
    }
    assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
}

/// Its record of what its link may carry was lost on disk with the rest.
#[test]
fn a_peer_that_does_not_know_that_it_pays_is_sent_what_was_lost_once_it_has_answered() {
    let mut hub = to_who_pays();
    hub.handle_ack(&partial(1, 1, None), START);
    let lost = sent(&mut hub, START);
    assert_eq!(lost.first(), Some(&1));
    hub.handle_ack(&partial(1, 1, None), START);
    assert_eq!(sent(&mut hub, START), [0; 0], "an answer that is repeated says nothing");
    for _ in 0..2 {
        let due = hub.poll_timeout().unwrap();
        hub.handle_timeout(due);
        assert_eq!(sent(&mut hub, due), [0]);
        hub.handle_ack(&partial(1, 1, None), due);
        assert_eq!(sent(&mut hub, due), [1], "and is lost again");
    }
    hub.handle_ack(&partial(1, 2, None), START);
    assert_eq!(sent(&mut hub, START).first(), Some(&2));
}
