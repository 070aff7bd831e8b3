//! Publisher and receiver together, over a link that loses, repeats and reorders.

mod receiving;

use super::*;
use crate::model::MonotonicMs;
use crate::sync::{Chunking, FRUGAL_CHUNK_BYTES, MapPublisher, UNASKED_CHUNK_BYTES};
use crate::wire::{Version, encode};
use proptest::prelude::*;

fn content(items: &[(&str, &[u8])]) -> MapContent {
    MapContent::new(items.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect())
}

fn at(generation: u64, content: &MapContent) -> MapHeader {
    let version = Version { term: 1, generation };
    MapHeader { position: MapPosition { version, digest: content.digest() }, issued_at_ms: 0 }
}

fn publisher(generation: u64, content: MapContent) -> MapPublisher {
    let header = at(generation, &content);
    let bytes = encode("header", &header).unwrap();
    MapPublisher::new(MapName::Desired, content, header.position, bytes)
}

fn publish(publisher: &mut MapPublisher, generation: u64, content: MapContent) {
    let header = at(generation, &content);
    publisher.publish(content, header.position, encode("header", &header).unwrap());
}

fn header_of(chunk: &MapChunk) -> MapHeader {
    decode("header", &chunk.header, 4096).unwrap()
}

/// Runs chunks and acknowledgements to and fro without loss; the bytes of all bodies.
fn run(publisher: &mut MapPublisher, receiver: &mut MapReceiver) -> usize {
    let now = MonotonicMs(0);
    let mut bytes = 0;
    while let Some(chunk) = publisher.poll_chunk(now).unwrap() {
        bytes += chunk.body.len();
        match receiver.handle_chunk(&chunk, &header_of(&chunk)) {
            Received::Ack(ack) => publisher.handle_ack(&ack, now),
            Received::Complete(update) => publisher.handle_ack(&receiver.accept(*update), now),
            Received::Refused(refusal) => publisher.handle_refusal(&refusal, now),
        }
    }
    bytes
}

#[test]
fn a_change_of_one_item_crosses_as_one_item() {
    let big = vec![7; 3000];
    let first = content(&[("a", &big), ("b", b"1")]);
    let second = content(&[("a", &big), ("b", b"2")]);
    let (mut hub, mut node) = (publisher(1, first), MapReceiver::new(MapName::Desired));
    hub.begin(None);
    assert!(run(&mut hub, &mut node) > 3000);
    publish(&mut hub, 2, second.clone());
    assert!(run(&mut hub, &mut node) < 100);
    assert_eq!(*node.content(), second);
    assert!(hub.is_in_sync());
}

#[test]
fn a_peer_that_shows_the_same_digest_is_sent_nothing() {
    let items = content(&[("a", b"1")]);
    let mut hub = publisher(4, items.clone());
    hub.begin(Some(at(1, &items).position));
    assert_eq!(hub.poll_chunk(MonotonicMs(0)).unwrap(), None);
}

#[test]
fn a_lower_version_is_refused_with_the_accepted_header() {
    let (old, new) = (content(&[("a", b"1")]), content(&[("a", b"2")]));
    let mut node = MapReceiver::new(MapName::Desired);
    let mut leader = publisher(9, new.clone());
    leader.begin(None);
    run(&mut leader, &mut node);
    let mut stale = publisher(3, old);
    stale.begin(None);
    let chunk = stale.poll_chunk(MonotonicMs(0)).unwrap().unwrap();
    let Received::Refused(refusal) = node.handle_chunk(&chunk, &header_of(&chunk)) else {
        panic!("a stale update was not refused")
    };
    assert_eq!(refusal.reason, RefusalReason::Stale);
    assert_eq!(refusal.accepted.unwrap().as_slice(), leader.header());
    assert_eq!(*node.content(), new);
}

#[test]
fn the_same_version_with_another_content_is_a_conflict() {
    let mut node = MapReceiver::new(MapName::Desired);
    let mut one = publisher(2, content(&[("a", b"1")]));
    one.begin(None);
    run(&mut one, &mut node);
    let mut other = publisher(2, content(&[("a", b"2")]));
    other.begin(None);
    let chunk = other.poll_chunk(MonotonicMs(0)).unwrap().unwrap();
    let Received::Refused(refusal) = node.handle_chunk(&chunk, &header_of(&chunk)) else {
        panic!("a conflict was not refused")
    };
    assert_eq!(refusal.reason, RefusalReason::Conflict);
}

#[test]
fn a_content_without_the_headers_digest_is_refused_whole() {
    let mut node = MapReceiver::new(MapName::Desired);
    let mut hub = publisher(2, content(&[("a", b"1")]));
    hub.begin(None);
    let chunk = hub.poll_chunk(MonotonicMs(0)).unwrap().unwrap();
    let lie = at(2, &content(&[("a", b"other")]));
    let Received::Refused(refusal) = node.handle_chunk(&chunk, &lie) else {
        panic!("a lie was not refused")
    };
    assert_eq!(refusal.reason, RefusalReason::Malformed);
    assert_eq!(node.position(), None);
    assert!(node.content().items().is_empty());
}

#[test]
fn a_delta_from_a_base_that_the_receiver_lost_becomes_a_snapshot() {
    let (first, second) =
        (content(&[("a", b"1"), ("b", b"1")]), content(&[("a", b"2"), ("b", b"1")]));
    let mut hub = publisher(1, first);
    hub.begin(None);
    run(&mut hub, &mut MapReceiver::new(MapName::Desired));
    publish(&mut hub, 2, second.clone());
    let mut emptied = MapReceiver::new(MapName::Desired);
    run(&mut hub, &mut emptied);
    assert_eq!(*emptied.content(), second);
}

#[test]
fn items_that_were_damaged_in_the_store_are_sent_again() {
    let whole = content(&[("a", b"1"), ("b", b"1")]);
    let mut hub = publisher(1, whole.clone());
    let header = hub.header().to_vec();
    let damaged = content(&[("a", b"1")]).items().clone();
    let accepted = Some((hub.position(), header));
    let mut node = MapReceiver::restore(MapName::Desired, damaged, accepted, Version::default());
    assert!(!node.is_whole());
    let position = MapPosition { digest: node.content().digest(), ..hub.position() };
    hub.begin(Some(position));
    run(&mut hub, &mut node);
    assert_eq!(*node.content(), whole);
}

#[test]
fn a_fence_refuses_what_an_emptied_store_would_take() {
    let fence = Version { term: 1, generation: 5 };
    let mut node = MapReceiver::restore(MapName::Desired, BTreeMap::new(), None, fence);
    assert!(!node.is_whole());
    let mut stale = publisher(4, content(&[("a", b"1")]));
    stale.begin(None);
    let chunk = stale.poll_chunk(MonotonicMs(0)).unwrap().unwrap();
    let received = node.handle_chunk(&chunk, &header_of(&chunk));
    assert!(matches!(received, Received::Refused(r) if r.reason == RefusalReason::Stale));
    let mut hub = publisher(5, content(&[("a", b"1")]));
    hub.begin(None);
    run(&mut hub, &mut node);
    assert!(node.is_whole());
}

proptest! {
    /// Each step publishes, delivers, drops, repeats or times out; in the end the link is good.
    #[test]
    fn any_order_of_losses_and_changes_ends_in_the_same_content(
        steps in proptest::collection::vec((0_u8..6, any::<u8>(), 0_usize..9000), 1..60)
    ) {
        let mut hub = publisher(1, MapContent::default());
        let mut node = MapReceiver::new(MapName::Desired);
        hub.begin(None);
        let (mut now, mut generation) = (MonotonicMs(0), 1);
        let mut down: Vec<MapChunk> = vec![];
        let mut up: Vec<MapAck> = vec![];
        let mut highest = Version::default();
        for (kind, byte, size) in steps {
            match kind {
                0 => {
                    generation += 1;
                    let mut items = hub.content().items().clone();
                    items.insert(format!("k{}", byte % 5), vec![byte; size]);
                    publish(&mut hub, generation, MapContent::new(items));
                }
                1 => down.extend(hub.poll_chunk(now).unwrap()),
                2 if !down.is_empty() => {
                    let at = usize::from(byte) % down.len();
                    let chunk = if byte % 3 == 0 { down[at].clone() } else { down.swap_remove(at) };
                    match node.handle_chunk(&chunk, &header_of(&chunk)) {
                        Received::Ack(ack) => up.push(ack),
                        Received::Complete(update) => up.push(node.accept(*update)),
                        Received::Refused(refusal) => hub.handle_refusal(&refusal, now),
                    }
                    let version = node.position().map(|p| p.version).unwrap_or_default();
                    prop_assert!(version >= highest, "the accepted version fell");
                    highest = version;
                }
                3 if !up.is_empty() => {
                    let at = usize::from(byte) % up.len();
                    hub.handle_ack(&up.swap_remove(at), now);
                }
                4 => { down.pop(); up.pop(); }
                _ => {
                    now = now.plus_ms(70_000);
                    hub.handle_timeout(now);
                }
            }
        }
        hub.begin(node.position());
        run(&mut hub, &mut node);
        prop_assert_eq!(node.content(), hub.content());
        prop_assert!(hub.is_in_sync());
    }
}

#[test]
fn an_update_goes_on_where_the_link_was_lost() {
    let big: Vec<u8> = (0..60_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = content(&[("a", &big)]);
    let (mut hub, mut node) = (publisher(1, whole.clone()), MapReceiver::new(MapName::Desired));
    let now = MonotonicMs(0);
    hub.begin(None);
    let mut arrived = 0;
    for _ in 0..30 {
        let chunk = hub.poll_chunk(now).unwrap().unwrap();
        arrived += chunk.body.len();
        let Received::Ack(ack) = node.handle_chunk(&chunk, &header_of(&chunk)) else { panic!() };
        hub.handle_ack(&ack, now);
    }
    hub.begin(None);
    let rest = run(&mut hub, &mut node);
    assert!(rest < 240_000 - arrived + 3 * 4096, "{rest} after {arrived}");
    assert_eq!(*node.content(), whole);
}

/// A publisher of 20 kB to a node that pays for what comes, and the node.
fn to_who_pays() -> (MapPublisher, MapReceiver) {
    let mut hub = publisher(1, content(&[("a", &[7; 20_000])]));
    hub.set_chunking(Chunking::Asked);
    hub.begin(None);
    (hub, MapReceiver::new(MapName::Desired))
}

fn partial(node: &mut MapReceiver, chunk: &MapChunk) -> impl Fn(u32) -> MapAck + use<> {
    let received = node.handle_chunk(chunk, &header_of(chunk));
    let Received::Ack(MapAck::Partial { map, version, next, .. }) = received else { panic!() };
    move |window| MapAck::Partial { map, version, next, window: Some(window) }
}

#[test]
fn a_peer_that_pays_is_sent_little_unasked_and_then_what_it_asks_for() {
    let (mut hub, mut node) = to_who_pays();
    let now = MonotonicMs(0);
    let first = hub.poll_chunk(now).unwrap().unwrap();
    assert_eq!(first.body.len(), UNASKED_CHUNK_BYTES);
    assert_eq!(hub.poll_chunk(now).unwrap(), None, "one at a time");
    let ack = partial(&mut node, &first);
    hub.handle_ack(&ack(0), now);
    assert_eq!((hub.poll_chunk(now).unwrap(), hub.poll_timeout()), (None, None), "nor repeated");
    hub.handle_ack(&ack(3), now);
    let sent: Vec<_> = std::iter::from_fn(|| hub.poll_chunk(now).unwrap()).collect();
    assert_eq!(sent.iter().map(|chunk| chunk.index).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(sent.iter().all(|chunk| chunk.body.len() == FRUGAL_CHUNK_BYTES));
}

#[test]
fn a_peer_that_asks_again_is_sent_it_again() {
    let (mut hub, mut node) = to_who_pays();
    let now = MonotonicMs(0);
    let ack = partial(&mut node, &hub.poll_chunk(now).unwrap().unwrap());
    hub.handle_ack(&ack(1), now);
    let lost = hub.poll_chunk(now).unwrap().unwrap();
    assert_eq!(hub.poll_chunk(now).unwrap(), None);
    hub.handle_ack(&ack(1), now.plus_ms(59_000));
    assert_eq!(hub.poll_chunk(now.plus_ms(59_000)).unwrap(), Some(lost));
}

#[test]
fn a_peer_that_asks_and_falls_silent_is_asked_with_the_first_chunk_ever_more_rarely() {
    let (mut hub, mut node) = to_who_pays();
    let mut now = MonotonicMs(0);
    let first = hub.poll_chunk(now).unwrap().unwrap();
    let ack = partial(&mut node, &first);
    hub.handle_ack(&ack(1), now);
    let second = hub.poll_chunk(now).unwrap().unwrap();
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        now = now.plus_ms(minutes * 60_000);
        assert_eq!(hub.poll_timeout(), Some(now));
        hub.handle_timeout(now);
        assert!(hub.has_chunk(now));
        assert_eq!(hub.poll_chunk(now).unwrap(), Some(first.clone()));
        assert_eq!(hub.poll_chunk(now).unwrap(), None);
        assert!(!hub.has_chunk(now));
    }
    // It has heard all but the second: its answer to the first says so.
    let ack = partial(&mut node, &first);
    hub.handle_ack(&ack(1), now);
    assert_eq!(hub.poll_chunk(now).unwrap(), Some(second));
}

#[test]
fn a_slow_link_has_two_chunks_on_their_way_and_a_quick_one_more() {
    let big = vec![7; 400_000];
    for (round_trip_ms, expected) in [(100, 8), (1_500, 2)] {
        let (mut hub, mut node) =
            (publisher(1, content(&[("a", &big)])), MapReceiver::new(MapName::Desired));
        hub.begin(None);
        let (mut now, mut on_their_way) = (MonotonicMs(0), 0);
        for _ in 0..8 {
            let sent: Vec<_> = std::iter::from_fn(|| hub.poll_chunk(now).unwrap()).collect();
            on_their_way = sent.len();
            now = now.plus_ms(round_trip_ms);
            for chunk in sent {
                if let Received::Ack(ack) = node.handle_chunk(&chunk, &header_of(&chunk)) {
                    hub.handle_ack(&ack, now);
                }
            }
        }
        assert_eq!(on_their_way, expected, "at {round_trip_ms} ms");
    }
}
