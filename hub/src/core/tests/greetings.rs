//! Short greetings: what a session that outlived its link still has to say.

use super::*;
use shared::trust::signature;
use shared::wire::{
    GREETED_INCARNATION, Introduction, MapAck, MapName, Resume, Resumed, ShownContent,
};

const ON_EVERY_NODE: &str = "replicasPerNode: 1";

fn answer_in(steps: &[Step]) -> Option<&Resumed> {
    steps.iter().find_map(|step| match step {
        Step::Sent(Message::Resumed(resumed)) => Some(resumed),
        _ => None,
    })
}

impl World {
    /// A node that has what it should run, and whose link was lost.
    fn away() -> (Self, Version) {
        let mut world = Self::without_manifests();
        let manifests = Event::Manifests(manifests(ON_EVERY_NODE));
        world.handle(manifests);
        let steps = world.greet(None);
        let version = position_in(reply_in(&steps).unwrap()).version;
        let ack = MapAck::Applied { map: MapName::Desired, version };
        world.tell(&Message::MapAck(ack));
        world.leave();
        (world, version)
    }

    fn leave(&mut self) {
        self.handle(Event::Disconnected { node: node() });
        self.handle(Event::Connected { node: node() });
    }

    fn resume(&mut self, desired: Option<Version>) -> Vec<Step> {
        self.tell(&Message::Resume(Resume { desired, awaits_watermarks: true }))
    }
}

#[test]
fn a_node_in_sync_is_answered_without_a_header() {
    let (mut world, version) = World::away();
    world.tell(&events(1, 2));
    let steps = world.resume(Some(version));
    let Resumed { desired, watermarks, .. } = answer_in(&steps).unwrap();
    assert_eq!((desired, watermarks.len()), (&None, 1), "its logs go on where they were");
    assert!(world.hub.node_view(&node()).unwrap().in_sync);
    assert!(!steps.iter().any(|step| matches!(step, Step::Sent(Message::MapChunk(_)))));
}

#[test]
fn what_changed_meanwhile_follows_as_a_delta_from_what_it_had() {
    let (mut world, version) = World::away();
    world.handle(Event::Manifests(manifests("replicasPerNode: 2")));
    let steps = world.resume(Some(version));
    assert!(answer_in(&steps).unwrap().desired.is_some(), "the header that is in force");
    let chunk = steps.iter().find_map(|step| match step {
        Step::Sent(Message::MapChunk(chunk)) => Some(chunk.body.len()),
        _ => None,
    });
    assert!(chunk.unwrap() < 60, "an edit of one number: {chunk:?}");
}

#[test]
fn a_version_that_the_hub_did_not_publish_must_be_shown_by_its_signature() {
    let (mut world, version) = World::away();
    let beyond = Version { term: version.term + 1, generation: 1 };
    assert_eq!(world.resume(Some(beyond)), [Step::Answered], "an unknown session");
    assert!(world.hub.view().term < beyond.term, "an unsigned claim raises no term");
}

#[test]
fn a_node_that_lost_what_it_had_is_sent_everything() {
    let (mut world, _) = World::away();
    let steps = world.resume(None);
    assert!(answer_in(&steps).unwrap().desired.is_some());
    assert!(steps.iter().any(|step| matches!(step, Step::Sent(Message::MapChunk(_)))));
}

#[test]
fn a_short_greeting_means_nothing_before_a_full_one() {
    let mut world = World::new();
    world.session = new_session();
    world.session.handle_link_up();
    let Some(Outgoing::Payload(payload)) =
        world.session.poll_outgoing(world.now.monotonic).unwrap()
    else {
        panic!("the node opens no session");
    };
    world.handle(Event::Payload { node: node(), payload });
    assert_eq!(world.resume(None), [Step::Answered]);
}

#[test]
fn watermarks_are_said_to_a_node_that_awaits_them() {
    let (mut world, version) = World::away();
    world.tell(&events(1, 2));
    let mut said = |awaits_watermarks| {
        let resume = Resume { desired: Some(version), awaits_watermarks };
        let steps = world.tell(&Message::Resume(resume));
        answer_in(&steps).unwrap().watermarks.len()
    };
    assert_eq!((said(false), said(true)), (0, 1));
}

impl World {
    /// What the hub has published for the node.
    fn published(&self) -> MapPosition {
        self.hub.nodes[&node()].desired.position()
    }

    /// The node opens a session anew, and introduces itself with this as its desired state.
    fn introduce(&mut self, desired: Option<MapPosition>) -> Vec<Step> {
        self.open_session();
        self.tell(&introduction(desired))
    }
}

fn introduction(desired: Option<MapPosition>) -> Message {
    let shown = |position: MapPosition| ShownContent {
        version: position.version,
        digest: position.digest.into(),
    };
    Message::Introduction(Introduction {
        desired: desired.map(shown),
        incarnation: 1,
        oldest_incarnation: GREETED_INCARNATION,
        agent_version: "0".to_owned(),
        clock: None,
        earlier_clocks: vec![],
    })
}

/// A hub that has started anew, and what its node has.
fn restarted() -> (World, MapPosition) {
    let (mut world, _) = World::away();
    let before = world.published();
    world.restart();
    world.handle(Event::Manifests(manifests(ON_EVERY_NODE)));
    (world, before)
}

#[test]
fn after_a_restart_of_the_hub_a_node_with_the_content_is_told_the_new_version_and_nothing_else() {
    let (mut world, before) = restarted();
    let steps = world.introduce(Some(before));
    let Resumed { desired, renewed, .. } = answer_in(&steps).unwrap();
    let (renewed, now) = (renewed.as_ref().unwrap(), world.published());
    assert_eq!((desired, renewed.version), (&None, now.version));
    assert!(now.version > before.version && world.hub.node_view(&node()).unwrap().in_sync);
    assert!(!steps.iter().any(|step| matches!(step, Step::Sent(Message::MapChunk(_)))));
    // The node makes the whole header of it, with the digest of what it has.
    let header = MapHeader {
        position: MapPosition { version: now.version, ..before },
        issued_at_ms: renewed.issued_at_ms,
    };
    let header = encode("header", &header).unwrap();
    let signed = signature::join(header, renewed.signature.to_vec()).unwrap();
    let key = SigningKey::generate(SIGNING_SEED).verifying();
    assert!(key.open(&signed, &desired_header_context(&node())).is_ok());
}

#[test]
fn a_node_that_greets_before_the_manifests_are_read_is_sent_nothing_that_it_has() {
    let (mut world, _) = World::away();
    let before = world.published();
    world.restart();
    assert_eq!(world.introduce(Some(before)), [Step::Persisted]);
    let steps = world.handle(Event::Manifests(manifests(ON_EVERY_NODE)));
    let answer = answer_in(&steps).unwrap();
    assert!(answer.renewed.is_some() && answer.desired.is_none(), "{answer:?}");
    assert!(!steps.iter().any(|step| matches!(step, Step::Sent(Message::MapChunk(_)))));
    // What changes then goes as a delta, and what it lacked is not taken for known.
    let steps = world.handle(Event::Manifests(manifests("replicasPerNode: 2")));
    assert!(steps.iter().any(|step| matches!(step, Step::Sent(Message::MapChunk(_)))));
}

#[test]
fn a_node_without_the_content_is_sent_it() {
    let (mut world, before) = restarted();
    for shown in [None, Some(MapPosition { digest: Digest::of(b"another"), ..before })] {
        let steps = world.introduce(shown);
        let answer = answer_in(&steps).unwrap();
        assert!(answer.desired.is_some() && answer.renewed.is_none());
        assert!(steps.iter().any(|step| matches!(step, Step::Sent(Message::MapChunk(_)))));
    }
}

#[test]
fn an_unsigned_claim_of_an_introduction_is_to_be_shown_by_its_signature() {
    let (mut world, _) = restarted();
    let own = world.published();
    let beyond = Version { term: own.version.term + 1, generation: 1 };
    for claim in [
        MapPosition { version: beyond, ..own },
        MapPosition { digest: Digest::of(b"another"), ..own },
    ] {
        assert_eq!(world.introduce(Some(claim)), [Step::Answered], "an unknown session");
        assert_eq!(world.hub.view().term, own.version.term, "it raises no term");
        assert_eq!(world.hub.view().nodes_online, 0);
        world.now.monotonic = world.now.monotonic.plus_ms(1_000);
    }
}

#[test]
fn an_introduction_is_answered_with_the_watermarks() {
    let mut world = World::new();
    world.introduce(None);
    world.tell(&events(1, 2));
    let before = world.published();
    world.restart();
    world.handle(Event::Manifests(Manifests::default()));
    let steps = world.introduce(Some(before));
    // In full: what waits for the disk may be sent to the agent's next start.
    let log = LogId { incarnation: 1, stream: Stream::Events };
    assert_eq!(answer_in(&steps).unwrap().watermarks, [LogAck { log, watermark: 2 }]);
}
