//! Short greetings, where the session outlived its link.

use super::*;
use shared::wire::Resumed;

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
    bench.hub_sends(&Message::Resumed(Resumed { desired, reported, watermarks: vec![] }));
    let status = bench.core.status(LinkStatus::default());
    assert_eq!((status.sync.session.as_str(), status.sync.reported_in_sync), ("established", true));
    assert_eq!(status.node_status.observed_term, 2, "the leader's term is noted");
}
