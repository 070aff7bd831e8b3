//! The agent's session against a hub's, payload by payload.

use super::*;
use crate::sync::{HubSession, Opened};
use crate::trust::session::REKEY_AFTER_MESSAGES;
use crate::wire::{MapAck, MapName, Resume, Resumed, Version};

const AGENT_KEY: [u8; 32] = [1; 32];
const HUB_KEY: [u8; 32] = [2; 32];
const NOW: MonotonicMs = MonotonicMs(50_000);

fn node() -> NodeId {
    NodeId::new("mast-17").unwrap()
}

fn agent_key() -> SessionPrivateKey {
    SessionPrivateKey::from_bytes(AGENT_KEY)
}

fn hub_key() -> SessionPrivateKey {
    SessionPrivateKey::from_bytes(HUB_KEY)
}

fn new_agent() -> AgentSession {
    AgentSession::new(node(), agent_key(), hub_key().public(), [3; 32])
}

fn greeting() -> Message {
    Message::Resume(Resume { desired: None, awaits_watermarks: false })
}

fn answer() -> Message {
    let (reported, desired, watermarks, renewed) = Default::default();
    Message::Resumed(Resumed { reported, desired, watermarks, renewed })
}

/// A message that greets nobody and answers no greeting.
fn other() -> Message {
    Message::MapAck(MapAck::Applied { map: MapName::Desired, version: Version::default() })
}

/// The handshake's first message, where one is due.
fn first_message(agent: &mut AgentSession, now: MonotonicMs) -> Vec<u8> {
    assert!(agent.has_outgoing(now));
    match agent.poll_outgoing(now).unwrap() {
        Some(Outgoing::Payload(payload)) => payload,
        other => panic!("{other:?} instead of a handshake"),
    }
}

/// What the hub says to a payload.
fn reply(hub: &mut HubSession, payload: &[u8]) -> Opened {
    hub.handle_payload(payload, &hub_key(), [4; 32], NOW).unwrap()
}

/// An agent with a session, whose greeting is due, and its hub.
fn opened() -> (AgentSession, HubSession) {
    let (mut agent, mut hub) = (new_agent(), HubSession::new(node(), agent_key().public()));
    agent.handle_link_up();
    let first = first_message(&mut agent, NOW);
    let Opened::Answer(accept) = reply(&mut hub, &first) else { panic!("no answer") };
    assert_eq!(agent.handle_payload(&accept).unwrap(), None);
    (agent, hub)
}

/// The agent greets; what it chose to say.
fn greet(agent: &mut AgentSession, now: MonotonicMs) -> Option<Outgoing> {
    let due = agent.has_outgoing(now);
    let outgoing = agent.poll_outgoing(now).unwrap();
    assert_eq!(due, outgoing.is_some());
    outgoing
}

/// The hub confirms the session by the greeting and answers it.
fn answered(agent: &mut AgentSession, hub: &mut HubSession) {
    let sealed = agent.seal(&greeting()).unwrap();
    reply(hub, &sealed);
    let answer = hub.seal(&answer()).unwrap();
    agent.handle_payload(&answer).unwrap();
}

fn established() -> (AgentSession, HubSession) {
    let (mut agent, mut hub) = opened();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Introduction));
    answered(&mut agent, &mut hub);
    assert!(agent.is_established());
    (agent, hub)
}

#[test]
fn without_a_link_nothing_is_sent_and_with_one_a_session_is_opened_greeted_and_established() {
    let (mut agent, mut hub) = (new_agent(), HubSession::new(node(), agent_key().public()));
    assert_eq!((agent.state_name(), greet(&mut agent, NOW)), ("offline", None));
    agent.handle_link_up();
    assert_eq!(agent.state_name(), "opening");
    let first = first_message(&mut agent, NOW);
    assert_eq!((agent.state_name(), greet(&mut agent, NOW)), ("opening", None), "once");
    let Opened::Answer(accept) = reply(&mut hub, &first) else { panic!("no answer") };
    agent.handle_payload(&accept).unwrap();
    assert_eq!((agent.state_name(), agent.poll_timeout()), ("greeting", None));
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Introduction));
    assert_eq!((agent.state_name(), greet(&mut agent, NOW)), ("greeting", None), "once");
    assert!(!agent.is_established());
    answered(&mut agent, &mut hub);
    assert_eq!((agent.state_name(), agent.is_established()), ("established", true));
    assert_eq!((greet(&mut agent, NOW), agent.poll_timeout()), (None, None));
}

#[test]
fn messages_go_both_ways_in_a_session_and_without_one_neither() {
    let (mut agent, mut hub) = established();
    let up = agent.seal(&other()).unwrap();
    assert_eq!(reply(&mut hub, &up), Opened::Message(other()));
    let down = hub.seal(&other()).unwrap();
    assert_eq!(agent.handle_payload(&down).unwrap(), Some(other()));
    assert!(matches!(agent.handle_payload(&down), Err(SessionFault::Sealed(_))), "a replay");
    let mut without = new_agent();
    assert!(matches!(without.seal(&other()), Err(SessionFault::Unexpected(_))));
    assert!(matches!(without.handle_payload(&down), Err(SessionFault::Unexpected(_))));
}

#[test]
fn after_a_reconnection_the_session_goes_on_with_a_short_greeting() {
    let (mut agent, mut hub) = established();
    agent.handle_link_down();
    assert_eq!((agent.state_name(), greet(&mut agent, NOW)), ("offline", None));
    agent.handle_link_up();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Resume));
    answered(&mut agent, &mut hub);
    assert!(agent.is_established());
}

#[test]
fn a_session_without_an_introduction_is_introduced_after_a_reconnection() {
    let (mut agent, _) = opened();
    agent.handle_link_down();
    agent.handle_link_up();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Introduction));
}

#[test]
fn a_session_that_has_carried_its_number_of_messages_is_replaced_at_the_next_reconnection() {
    let (mut agent, _) = established();
    agent.session.as_mut().unwrap().skip_to(REKEY_AFTER_MESSAGES);
    agent.handle_link_down();
    agent.handle_link_up();
    first_message(&mut agent, NOW.plus_ms(HANDSHAKE_INTERVAL_MS));
}

#[test]
fn a_link_that_is_lost_takes_what_was_awaited_with_it() {
    let mut agent = new_agent();
    agent.handle_link_up();
    first_message(&mut agent, NOW);
    assert_eq!(agent.poll_timeout(), Some(NOW.plus_ms(5_000)));
    agent.handle_link_down();
    assert_eq!(agent.poll_timeout(), None);
    agent.handle_link_up();
    first_message(&mut agent, NOW.plus_ms(HANDSHAKE_INTERVAL_MS));
}

#[test]
fn a_handshake_without_an_answer_is_begun_again_and_each_time_later() {
    let mut agent = new_agent();
    agent.handle_link_up();
    let (mut now, mut earlier) = (NOW, vec![]);
    for wait_ms in [5_000, 10_000, 20_000] {
        let first = first_message(&mut agent, now);
        assert_ne!(first, earlier, "each with its own entropy");
        earlier = first;
        let due = now.plus_ms(wait_ms);
        assert_eq!(agent.poll_timeout(), Some(due));
        agent.handle_timeout(MonotonicMs(due.0 - 1));
        assert_eq!(greet(&mut agent, due), None, "not yet");
        now = due;
        agent.handle_timeout(now);
    }
    first_message(&mut agent, now);
}

#[test]
fn a_greeting_without_an_answer_is_repeated_in_full_once_and_then_the_session_is_given_up() {
    let (mut agent, _) = established();
    agent.handle_link_down();
    agent.handle_link_up();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Resume));
    let due = NOW.plus_ms(5_000);
    assert_eq!(agent.poll_timeout(), Some(due));
    agent.handle_timeout(due);
    assert_eq!(greet(&mut agent, due), Some(Outgoing::Hello));
    let later = due.plus_ms(10_000);
    assert_eq!(agent.poll_timeout(), Some(later));
    agent.handle_timeout(later);
    first_message(&mut agent, later);
}

#[test]
fn an_established_session_awaits_nothing() {
    let (mut agent, _) = established();
    agent.handle_timeout(NOW.plus_ms(1_000_000));
    assert!(agent.is_established());
}

#[test]
fn whoever_says_that_the_session_is_unknown_costs_one_handshake_a_second() {
    let unknown = Envelope::UnknownSession.encode();
    let (mut agent, _) = established();
    assert_eq!(agent.handle_payload(&unknown).unwrap(), None);
    assert_eq!(agent.state_name(), "opening");
    let next = NOW.plus_ms(HANDSHAKE_INTERVAL_MS);
    assert_eq!(agent.poll_timeout(), Some(next));
    assert_eq!(greet(&mut agent, MonotonicMs(next.0 - 1)), None);
    first_message(&mut agent, next);
    agent.handle_payload(&unknown).unwrap();
    assert_eq!(greet(&mut agent, next.plus_ms(1)), None, "a handshake is under way");
}

#[test]
fn a_hub_that_does_not_know_the_session_ends_a_greeting_too() {
    let (mut due, _) = opened();
    let (mut sent, _) = opened();
    greet(&mut sent, NOW);
    for agent in [&mut due, &mut sent] {
        agent.handle_payload(&Envelope::UnknownSession.encode()).unwrap();
        first_message(agent, NOW.plus_ms(HANDSHAKE_INTERVAL_MS));
    }
}

#[test]
fn a_hub_that_does_not_take_an_introduction_is_told_everything_in_the_next_session() {
    let (mut agent, mut hub) = opened();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Introduction));
    agent.handle_payload(&Envelope::UnknownSession.encode()).unwrap();
    let first = first_message(&mut agent, NOW.plus_ms(HANDSHAKE_INTERVAL_MS));
    let Opened::Answer(accept) = reply(&mut hub, &first) else { panic!("no answer") };
    agent.handle_payload(&accept).unwrap();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Hello));
    answered(&mut agent, &mut hub);
    // That was said: a later session begins as the first did.
    agent.forget();
    let first = first_message(&mut agent, NOW.plus_ms(2 * HANDSHAKE_INTERVAL_MS));
    let Opened::Answer(accept) = reply(&mut hub, &first) else { panic!("no answer") };
    agent.handle_payload(&accept).unwrap();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Introduction));
}

#[test]
fn a_session_that_is_forgotten_while_offline_is_opened_anew_with_the_link() {
    let (mut agent, _) = established();
    agent.handle_link_down();
    agent.forget();
    assert_eq!(agent.state_name(), "offline");
    agent.handle_link_up();
    first_message(&mut agent, NOW.plus_ms(HANDSHAKE_INTERVAL_MS));
}

#[test]
fn without_a_link_an_unknown_session_is_no_reason_to_open_one() {
    let mut agent = new_agent();
    agent.handle_payload(&Envelope::UnknownSession.encode()).unwrap();
    assert_eq!((agent.state_name(), greet(&mut agent, NOW)), ("offline", None));
}

#[test]
fn what_no_hub_sends_now_is_refused_and_changes_nothing() {
    let (mut agent, _) = established();
    for envelope in [Envelope::Open(vec![1]), Envelope::Accept(vec![1])] {
        let refused = agent.handle_payload(&envelope.encode());
        assert!(matches!(refused, Err(SessionFault::Unexpected(_))), "{envelope:?}");
    }
    assert!(matches!(agent.handle_payload(b""), Err(SessionFault::Decode(_))));
    assert!(agent.is_established());
}

#[test]
fn a_forged_reply_to_a_handshake_is_refused_and_the_true_one_taken_after_it() {
    let (mut agent, mut hub) = (new_agent(), HubSession::new(node(), agent_key().public()));
    agent.handle_link_up();
    let first = first_message(&mut agent, NOW);
    let forged = Envelope::Accept(vec![7; 48]).encode();
    assert!(matches!(agent.handle_payload(&forged), Err(SessionFault::Sealed(_))));
    let Opened::Answer(accept) = reply(&mut hub, &first) else { panic!("no answer") };
    agent.handle_payload(&accept).unwrap();
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Introduction));
}

#[test]
fn only_an_answer_to_a_greeting_that_was_sent_establishes_a_session() {
    let (mut agent, mut hub) = established();
    agent.handle_link_down();
    agent.handle_link_up();
    let late = hub.seal(&answer()).unwrap();
    agent.handle_payload(&late).unwrap();
    assert!(!agent.is_established(), "it answers a greeting of the earlier link");
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Resume));
    let message = hub.seal(&other()).unwrap();
    agent.handle_payload(&message).unwrap();
    assert!(!agent.is_established(), "it answers nothing");
    answered(&mut agent, &mut hub);
    assert!(agent.is_established());
}

#[test]
fn an_established_session_is_greeted_again_in_full_when_asked_to_and_another_is_not() {
    let (mut agent, _) = established();
    agent.greet_again();
    assert!(!agent.is_established());
    assert_eq!(greet(&mut agent, NOW), Some(Outgoing::Hello));
    agent.greet_again();
    assert_eq!(greet(&mut agent, NOW), None, "a greeting is under way");
}

#[test]
fn a_handshake_of_one_node_is_not_taken_for_anothers() {
    let mut agent = new_agent();
    agent.handle_link_up();
    let first = first_message(&mut agent, NOW);
    let mut other = HubSession::new(NodeId::new("mast-18").unwrap(), agent_key().public());
    let refused = other.handle_payload(&first, &hub_key(), [4; 32], NOW);
    assert!(matches!(refused, Err(SessionFault::Sealed(_))));
}
