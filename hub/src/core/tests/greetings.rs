//! Short greetings: what a session that outlived its link still has to say.

use super::*;
use shared::wire::{MapAck, MapName, Resume, Resumed};

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
