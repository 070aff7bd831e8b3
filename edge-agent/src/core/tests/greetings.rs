//! Short greetings, where the session outlived its link.

use super::*;
use shared::wire::{RenewedHeader, Resumed};

#[test]
fn a_short_greeting_without_an_answer_is_followed_by_a_full_one() {
    let mut bench = Bench::new();
    bench.join();
    bench.tell(Event::LinkDown);
    bench.tell(Event::LinkUp);
    bench.received.clear();
    bench.wait(6 * SECOND_MS);
    assert!(matches!(bench.received.as_slice(), [Message::Hello(_)]), "{:?}", bench.received);
}

#[test]
fn the_answer_to_a_short_greeting_says_what_is_new() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    bench.tell(Event::LinkDown);
    bench.tell(Event::LinkUp);
    let desired = bench.header(bench.core.desired.content(), version(2, 1), &bench.node.clone());
    let (desired, reported) =
        (Some(ByteBuf::from(desired)), Some(bench.core.reported.position().version));
    let (watermarks, renewed) = Default::default();
    bench.hub_sends(&Message::Resumed(Resumed { desired, reported, watermarks, renewed }));
    let status = bench.core.status(LinkStatus::default());
    assert_eq!((status.sync.session.as_str(), status.sync.reported_in_sync), ("established", true));
    assert_eq!(status.node_status.observed_term, 2, "the leader's term is noted");
}

#[test]
fn another_start_of_the_hub_is_told_in_a_hundred_bytes_what_is_here_and_answers_with_a_version() {
    let mut bench = Bench::new();
    bench.join();
    bench.desire(&[workload("ocr", 1)], version(1, 2));
    bench.tell(Event::LinkDown);
    // The handshake is due a second after the last.
    bench.wait(2 * SECOND_MS);
    bench.received.clear();
    let before = bench.sent_bytes.len();
    bench.tell(Event::HubAnew);
    bench.tell(Event::LinkUp);
    let [Message::Introduction(said)] = bench.received.as_slice() else {
        panic!("{:?}", bench.received);
    };
    assert_eq!(said.desired.map(|shown| shown.version), Some(version(1, 2)));
    let sent: Vec<u64> = bench.sent_bytes[before..].iter().map(|(_, bytes)| *bytes).collect();
    assert_eq!(sent.len(), 2, "no question after a session that is gone");
    assert!(sent[1] <= 100, "{sent:?}");

    let signed = bench.header(bench.core.desired.content(), version(2, 1), &bench.node.clone());
    let (_, signature) = shared::trust::signature::split(&signed).unwrap();
    let signature = ByteBuf::from(signature);
    let renewed = RenewedHeader { version: version(2, 1), issued_at_ms: 5, signature };
    let reported = Some(bench.core.reported.position().version);
    let (desired, watermarks) = Default::default();
    bench.received.clear();
    let answer = Resumed { reported, desired, watermarks, renewed: Some(renewed) };
    bench.hub_sends(&Message::Resumed(answer));
    bench.wait(SECOND_MS);
    let status = bench.core.status(LinkStatus::default());
    assert_eq!(status.node_status.observed_term, 2, "the leader's term is noted");
    assert_eq!(status.sync.session, "established");
    let quiet = |message: &Message| !matches!(message, Message::MapAck(_) | Message::MapChunk(_));
    assert!(bench.received.iter().all(quiet), "nothing is new: {:?}", bench.received);
}
