//! The receiver alone: headers without content, and parts in any order and of any size.

use super::*;
use crate::limits::MAP_KEY_BYTES_MAX;

const HEADER: &[u8] = b"signed";

/// A receiver that has accepted this content.
fn that_accepted(generation: u64, whole: &MapContent) -> MapReceiver {
    let accepted = Some((at(generation, whole).position, HEADER.to_vec()));
    MapReceiver::restore(MapName::Desired, whole.items().clone(), accepted, Version::default())
}

fn part(index: u32, count: u32, body: &[u8]) -> MapChunk {
    let (header, body) = (ByteBuf::from(HEADER), ByteBuf::from(body));
    MapChunk { map: MapName::Desired, header, index, count, body }
}

/// The first part that a receiver lacks after it was given one.
fn next_after(node: &mut MapReceiver, header: &MapHeader, chunk: &MapChunk) -> u32 {
    match node.handle_chunk(chunk, header) {
        Received::Ack(MapAck::Partial { next, .. }) => next,
        other => panic!("{other:?} of part {}", chunk.index),
    }
}

fn reason(received: Received) -> RefusalReason {
    match received {
        Received::Refused(refusal) => refusal.reason,
        other => panic!("{other:?} was not refused"),
    }
}

#[test]
fn a_greater_header_of_the_content_that_is_here_is_accepted_as_it_came() {
    let items = content(&[("a", b"1")]);
    let (mut node, header) = (that_accepted(2, &items), at(3, &items));
    let prepared = node.handle_header(&header, b"newer").unwrap().unwrap();
    assert_eq!((prepared.header(), prepared.position()), (b"newer".as_slice(), header.position));
    assert!(prepared.upserts.is_empty() && prepared.tombstones.is_empty());
    let version = header.position.version;
    assert_eq!(node.accept(prepared), MapAck::Applied { map: MapName::Desired, version });
    assert_eq!(node.header(), Some(b"newer".as_slice()));
    assert_eq!(node.position(), Some(header.position));
    assert_eq!(*node.content(), items);
}

#[test]
fn a_header_that_is_accepted_already_or_names_another_content_prepares_nothing() {
    let items = content(&[("a", b"1")]);
    let node = that_accepted(2, &items);
    assert_eq!(node.handle_header(&at(2, &items), HEADER), Ok(None));
    assert_eq!(node.handle_header(&at(3, &content(&[("a", b"2")])), HEADER), Ok(None));
}

#[test]
fn a_refusal_names_the_version_and_shows_the_accepted_header() {
    let (items, other) = (content(&[("a", b"1")]), content(&[("a", b"2")]));
    let node = that_accepted(2, &items);
    let refusal = |header: MapHeader, reason| {
        let (version, accepted) = (header.position.version, Some(ByteBuf::from(HEADER)));
        MapRefusal { map: MapName::Desired, version, reason, accepted }
    };
    let (stale, conflict, full) = (at(1, &items), at(2, &other), at(3, &other));
    assert_eq!(node.handle_header(&stale, HEADER), Err(refusal(stale, RefusalReason::Stale)));
    let refused = Err(refusal(conflict, RefusalReason::Conflict));
    assert_eq!(node.handle_header(&conflict, HEADER), refused);
    assert_eq!(node.unavailable(&full), refusal(full, RefusalReason::Unavailable));
}

#[test]
fn an_update_that_is_in_force_is_acknowledged_again_and_not_applied_again() {
    let items = content(&[("a", b"1")]);
    let (mut node, header) = (that_accepted(2, &items), at(2, &items));
    let body = encode("body", &items.snapshot()).unwrap();
    let applied = MapAck::Applied { map: MapName::Desired, version: header.position.version };
    assert_eq!(node.handle_chunk(&part(0, 1, &body), &header), Received::Ack(applied));
}

#[test]
fn a_whole_update_says_what_to_persist_and_is_in_force_only_when_it_is_accepted() {
    let before = content(&[("a", b"1"), ("b", b"1")]);
    let after = content(&[("b", b"2"), ("c", b"1")]);
    let (mut node, header) = (that_accepted(2, &before), at(3, &after));
    let body = encode("body", &after.snapshot()).unwrap();
    let Received::Complete(update) = node.handle_chunk(&part(0, 1, &body), &header) else {
        panic!("not whole")
    };
    let changed: Vec<_> = update.upserts.iter().map(|item| item.key.as_str()).collect();
    assert_eq!((changed, update.tombstones.as_slice()), (vec!["b", "c"], &["a".to_owned()][..]));
    assert_eq!((update.header(), update.position()), (HEADER, header.position));
    assert_eq!(*node.content(), before);
    node.accept(*update);
    assert_eq!((node.content(), node.position()), (&after, Some(header.position)));
}

#[test]
fn parts_may_come_in_any_order_and_the_first_that_lacks_is_asked_for() {
    let whole = content(&[("a", b"1")]);
    let (mut node, header) = (MapReceiver::new(MapName::Desired), at(1, &whole));
    let body = encode("body", &whole.snapshot()).unwrap();
    let (one, rest) = body.split_at(1);
    let (two, three) = rest.split_at(1);
    assert_eq!(next_after(&mut node, &header, &part(1, 3, two)), 0);
    assert_eq!(next_after(&mut node, &header, &part(0, 3, one)), 2);
    let received = node.handle_chunk(&part(2, 3, three), &header);
    assert!(matches!(received, Received::Complete(_)));
}

#[test]
fn a_half_that_is_forgotten_begins_anew() {
    let (mut node, header) = (MapReceiver::new(MapName::Desired), at(1, &MapContent::default()));
    assert_eq!(next_after(&mut node, &header, &part(0, 3, b"x")), 1);
    node.forget_assembly();
    assert_eq!(next_after(&mut node, &header, &part(1, 3, b"x")), 0);
}

#[test]
fn a_part_of_another_update_or_of_another_number_of_parts_begins_anew() {
    let mut node = MapReceiver::new(MapName::Desired);
    let (first, second) = (at(1, &MapContent::default()), at(2, &MapContent::default()));
    assert_eq!(next_after(&mut node, &first, &part(0, 3, b"x")), 1);
    assert_eq!(next_after(&mut node, &second, &part(1, 3, b"x")), 0, "another update");
    assert_eq!(next_after(&mut node, &second, &part(0, 4, b"x")), 1, "another number");
}

#[test]
fn parts_beyond_their_limits_are_refused_and_those_at_them_are_taken() {
    let mut node = MapReceiver::new(MapName::Desired);
    let header = at(1, &MapContent::default());
    let most = u32::try_from(MAP_UPDATE_BYTES_MAX / 1024).unwrap();
    let largest = vec![0; MAP_CHUNK_BYTES_MAX];
    let larger = vec![0; MAP_CHUNK_BYTES_MAX + 1];
    assert_eq!(next_after(&mut node, &header, &part(0, most, &largest)), 1);
    assert_eq!(next_after(&mut node, &header, &part(most - 1, most, b"x")), 1);
    for (what, beyond) in [
        ("too many", part(0, most + 1, b"x")),
        ("too large", part(0, 2, &larger)),
        ("after the last", part(2, 2, b"x")),
        ("one of none", part(0, 0, b"x")),
    ] {
        let received = node.handle_chunk(&beyond, &header);
        assert_eq!(reason(received), RefusalReason::Malformed, "{what}");
    }
    assert_eq!(next_after(&mut node, &header, &part(1, most, b"x")), 0, "the rest is forgotten");
}

#[test]
fn an_update_may_have_four_mebibytes_and_a_part_that_is_repeated_counts_once() {
    let mut node = MapReceiver::new(MapName::Desired);
    let header = at(1, &MapContent::default());
    let largest = vec![0; MAP_CHUNK_BYTES_MAX];
    let full = u32::try_from(MAP_UPDATE_BYTES_MAX / MAP_CHUNK_BYTES_MAX).unwrap();
    for index in (0..full).chain(0..full) {
        next_after(&mut node, &header, &part(index, full + 2, &largest));
    }
    let received = node.handle_chunk(&part(full, full + 2, b"x"), &header);
    assert_eq!(reason(received), RefusalReason::Malformed);
}

#[test]
fn a_body_that_is_no_update_and_a_content_beyond_its_limits_are_refused() {
    let mut node = MapReceiver::new(MapName::Desired);
    let large = content(&[(&"k".repeat(MAP_KEY_BYTES_MAX + 1), b"1")]);
    let body = encode("body", &large.snapshot()).unwrap();
    for (header, body) in [(at(1, &MapContent::default()), vec![0xff]), (at(1, &large), body)] {
        let received = node.handle_chunk(&part(0, 1, &body), &header);
        assert_eq!(reason(received), RefusalReason::Malformed);
    }
}
