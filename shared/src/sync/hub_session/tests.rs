//! The hub's session against an agent's, payload by payload.

use super::*;
use crate::sync::{AgentSession, Outgoing};
use crate::wire::{Digest, Hello, MapPosition, Resume, Resumed, Version};

const AGENT_KEY: [u8; 32] = [1; 32];
const HUB_KEY: [u8; 32] = [2; 32];
const NOW: MonotonicMs = MonotonicMs(50_000);

fn key(bytes: [u8; 32]) -> SessionPrivateKey {
    SessionPrivateKey::from_bytes(bytes)
}

fn node() -> NodeId {
    NodeId::new("mast-17").unwrap()
}

fn new_hub() -> HubSession {
    HubSession::new(node(), key(AGENT_KEY).public())
}

fn hello() -> Message {
    let reported = MapPosition { version: Version::default(), digest: Digest::of(b"") };
    Message::Hello(Hello {
        desired: None,
        reported,
        incarnation: 1,
        oldest_incarnation: 1,
        agent_version: "1.0.0".to_owned(),
        clock: None,
        earlier_clocks: vec![],
    })
}

fn resume() -> Message {
    Message::Resume(Resume { desired: None, awaits_watermarks: false })
}

fn answer() -> Message {
    let (reported, desired, watermarks, renewed) = Default::default();
    Message::Resumed(Resumed { reported, desired, watermarks, renewed })
}

fn unknown() -> Opened {
    Opened::Answer(Envelope::UnknownSession.encode())
}

/// An agent with this key and the first message of its handshake.
fn agent_and_first(agent_key: [u8; 32], seed: u8) -> (AgentSession, Vec<u8>) {
    let hub = key(HUB_KEY).public();
    let mut agent = AgentSession::new(node(), key(agent_key), hub, [seed; 32]);
    agent.handle_link_up();
    match agent.poll_outgoing(NOW).unwrap() {
        Some(Outgoing::Payload(first)) => (agent, first),
        other => panic!("{other:?} instead of a handshake"),
    }
}

fn take_at(hub: &mut HubSession, payload: &[u8], now: MonotonicMs) -> Result<Opened, SessionFault> {
    hub.handle_payload(payload, &key(HUB_KEY), [9; 32], now)
}

fn take(hub: &mut HubSession, payload: &[u8]) -> Opened {
    take_at(hub, payload, NOW).unwrap()
}

/// Opens a session with an agent that has not greeted.
fn open(hub: &mut HubSession, seed: u8) -> AgentSession {
    let (mut agent, first) = agent_and_first(AGENT_KEY, seed);
    let Opened::Answer(accept) = take(hub, &first) else { panic!("no answer") };
    agent.handle_payload(&accept).unwrap();
    agent
}

#[test]
fn a_session_is_open_once_the_node_has_spoken_in_it() {
    let mut hub = new_hub();
    assert!(!hub.is_open());
    let mut agent = open(&mut hub, 3);
    assert!(!hub.is_open(), "the first message could be a replay");
    assert!(matches!(hub.seal(&answer()), Err(SessionFault::Unexpected(_))));
    let sealed = agent.seal(&hello()).unwrap();
    assert_eq!(take(&mut hub, &sealed), Opened::Message(hello()));
    assert!(hub.is_open());
    let reply = hub.seal(&answer()).unwrap();
    assert_eq!(agent.handle_payload(&reply).unwrap(), Some(answer()));
}

#[test]
fn a_handshake_with_another_key_than_the_enrolled_one_is_refused() {
    let (mut hub, (_, first)) = (new_hub(), agent_and_first([7; 32], 3));
    assert!(matches!(take_at(&mut hub, &first, NOW), Err(SessionFault::Unexpected(_))));
}

#[test]
fn a_replayed_first_message_does_not_disturb_the_session() {
    let mut hub = new_hub();
    let (mut agent, first) = agent_and_first(AGENT_KEY, 3);
    let Opened::Answer(accept) = take(&mut hub, &first) else { panic!("no answer") };
    agent.handle_payload(&accept).unwrap();
    let sealed = agent.seal(&hello()).unwrap();
    take(&mut hub, &sealed);
    let replayed = hub.handle_payload(&first, &key(HUB_KEY), [8; 32], NOW).unwrap();
    assert!(matches!(replayed, Opened::Answer(_)));
    let sealed = agent.seal(&resume()).unwrap();
    assert_eq!(take(&mut hub, &sealed), Opened::Message(resume()));
    let reply = hub.seal(&answer()).unwrap();
    assert_eq!(agent.handle_payload(&reply).unwrap(), Some(answer()));
}

#[test]
fn a_short_greeting_is_understood_only_after_a_full_one_in_the_same_session() {
    let mut hub = new_hub();
    let mut agent = open(&mut hub, 3);
    let sealed = agent.seal(&resume()).unwrap();
    assert_eq!(take(&mut hub, &sealed), unknown());
    assert!(!hub.is_introduced());
    for message in [hello(), resume(), hello(), resume()] {
        let sealed = agent.seal(&message).unwrap();
        assert_eq!(take(&mut hub, &sealed), Opened::Message(message));
        assert!(hub.is_introduced());
    }
    let mut next = open(&mut hub, 4);
    let sealed = next.seal(&resume()).unwrap();
    assert_eq!(take_at(&mut hub, &sealed, NOW.plus_ms(1_000)).unwrap(), unknown(), "a new session");
}

#[test]
fn a_message_of_a_session_that_the_hub_has_not_is_answered_by_asking_to_greet() {
    let mut gone = open(&mut new_hub(), 3);
    let sealed = gone.seal(&hello()).unwrap();
    let mut without = new_hub();
    assert_eq!(take(&mut without, &sealed), unknown(), "without any session");
    let mut with = new_hub();
    let mut agent = open(&mut with, 4);
    let greeting = agent.seal(&hello()).unwrap();
    take(&mut with, &greeting);
    assert_eq!(take(&mut with, &sealed), unknown(), "with another session");
    assert_eq!(take(&mut with, &greeting), Opened::Nothing, "nor is a replay taken");
}

#[test]
fn a_node_is_asked_to_greet_once_a_second() {
    let mut hub = new_hub();
    assert_eq!(hub.ask_to_greet(NOW), unknown());
    assert_eq!(hub.ask_to_greet(NOW.plus_ms(999)), Opened::Nothing);
    assert_eq!(hub.ask_to_greet(NOW.plus_ms(1_000)), unknown());
    assert_eq!(hub.ask_to_greet(NOW.plus_ms(1_999)), Opened::Nothing);
}

#[test]
fn what_no_node_sends_is_refused() {
    let mut hub = new_hub();
    for envelope in [Envelope::Accept(vec![1]), Envelope::UnknownSession] {
        let refused = take_at(&mut hub, &envelope.encode(), NOW);
        assert!(matches!(refused, Err(SessionFault::Unexpected(_))), "{envelope:?}");
    }
    assert!(matches!(take_at(&mut hub, b"", NOW), Err(SessionFault::Decode(_))));
}
