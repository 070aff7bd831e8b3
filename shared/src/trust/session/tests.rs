//! A session under a broker that forges, replays, reorders and damages.

use super::*;
use proptest::prelude::*;

const PROLOGUE: &[u8] = b"hinterland/1/node-1";

fn agent_key() -> SessionPrivateKey {
    SessionPrivateKey::generate([1; 32])
}

fn hub_key() -> SessionPrivateKey {
    SessionPrivateKey::generate([2; 32])
}

fn start() -> (Initiator, Vec<u8>) {
    Initiator::start(&agent_key(), &hub_key().public(), PROLOGUE, [3; 32], b"hello").unwrap()
}

fn answer(first: &[u8], seed: u8) -> (SealedSession, Vec<u8>) {
    let (responder, who, payload) =
        Responder::accept(&hub_key(), PROLOGUE, [seed; 32], first).unwrap();
    assert_eq!(who, agent_key().public());
    assert_eq!(payload, b"hello");
    responder.reply(b"welcome").unwrap()
}

fn open_sessions() -> (SealedSession, SealedSession) {
    let (mut initiator, first) = start();
    let (hub, reply) = answer(&first, 4);
    let (agent, payload) = initiator.finish(&reply).unwrap();
    assert_eq!(payload, b"welcome");
    (agent, hub)
}

#[test]
fn messages_pass_both_ways_and_cost_sixteen_bytes() {
    let (mut agent, mut hub) = open_sessions();
    let up = agent.seal(b"up").unwrap();
    let down = hub.seal(b"down").unwrap();
    assert_eq!((up.counter, up.ciphertext.len()), (0, 2 + SEAL_OVERHEAD_BYTES));
    assert!(!hub.is_confirmed());
    assert_eq!(hub.open(up.counter, &up.ciphertext).unwrap(), b"up");
    assert!(hub.is_confirmed());
    assert_eq!(agent.open(down.counter, &down.ciphertext).unwrap(), b"down");
    assert_eq!(agent.seal(b"").unwrap().counter, 1);
}

#[test]
fn the_handshake_messages_cost_what_is_said() {
    let (_, first) = start();
    let (_, reply) = answer(&first, 4);
    assert_eq!(first.len(), b"hello".len() + FIRST_MESSAGE_OVERHEAD_BYTES);
    assert_eq!(reply.len(), b"welcome".len() + REPLY_OVERHEAD_BYTES);
}

#[test]
fn the_same_seeds_make_the_same_bytes_and_other_seeds_do_not() {
    let (_, first) = start();
    assert_eq!(start().1, first);
    let with = |seed| answer(&first, seed).1;
    assert_eq!(with(4), with(4));
    assert_ne!(with(4), with(5));
    let (other_agent, _) = open_sessions();
    let (mut one, mut two) = (open_sessions().0, other_agent);
    assert_eq!(one.seal(b"x").unwrap(), two.seal(b"x").unwrap());
}

#[test]
fn one_seed_for_both_ends_still_makes_two_ephemeral_keys() {
    let (_, first) = start();
    let (_, reply) = answer(&first, 3);
    assert_ne!(first[..32], reply[..32]);
}

#[test]
fn another_prologue_or_another_hub_is_refused() {
    let (_, first) = start();
    let elsewhere = Responder::accept(&hub_key(), b"hinterland/1/node-2", [4; 32], &first);
    assert!(matches!(elsewhere, Err(SessionError::Handshake { .. })));
    let enemy = SessionPrivateKey::generate([9; 32]);
    assert!(Responder::accept(&enemy, PROLOGUE, [4; 32], &first).is_err());
}

#[test]
fn a_stranger_is_named_by_his_own_key_and_never_by_the_agents() {
    let stranger = SessionPrivateKey::generate([9; 32]);
    let (_, first) =
        Initiator::start(&stranger, &hub_key().public(), PROLOGUE, [3; 32], b"hello").unwrap();
    let (_, who, _) = Responder::accept(&hub_key(), PROLOGUE, [4; 32], &first).unwrap();
    assert_eq!(who, stranger.public());
}

#[test]
fn forged_replies_leave_the_handshake_able_to_finish_with_the_true_one() {
    let (mut initiator, first) = start();
    let (mut hub, reply) = answer(&first, 4);
    for at in 0..reply.len() {
        let mut forged = reply.clone();
        forged[at] ^= 1;
        assert!(initiator.finish(&forged).is_err(), "byte {at}");
    }
    let (_, other_first) =
        Initiator::start(&agent_key(), &hub_key().public(), PROLOGUE, [8; 32], b"hello").unwrap();
    assert!(initiator.finish(&answer(&other_first, 4).1).is_err(), "a reply to another handshake");
    assert!(initiator.finish(&[]).is_err());
    let (mut agent, payload) = initiator.finish(&reply).unwrap();
    assert_eq!(payload, b"welcome");
    let sealed = agent.seal(b"up").unwrap();
    assert_eq!(hub.open(sealed.counter, &sealed.ciphertext).unwrap(), b"up");
    assert!(matches!(initiator.finish(&reply), Err(SessionError::Finished)));
}

#[test]
fn a_replayed_first_message_makes_a_session_that_nothing_old_opens() {
    let (mut initiator, first) = start();
    let (mut hub, reply) = answer(&first, 4);
    let (mut agent, _) = initiator.finish(&reply).unwrap();
    let (mut replayed, _) = answer(&first, 5);
    let sealed = agent.seal(b"up").unwrap();
    assert!(replayed.open(sealed.counter, &sealed.ciphertext).is_err());
    assert!(!replayed.is_confirmed());
    assert_eq!(hub.open(sealed.counter, &sealed.ciphertext).unwrap(), b"up");
}

#[test]
fn a_message_is_not_taken_back_by_its_own_sender() {
    let (mut agent, _) = open_sessions();
    let sealed = agent.seal(b"up").unwrap();
    assert!(matches!(
        agent.open(sealed.counter, &sealed.ciphertext),
        Err(SessionError::Forged { .. })
    ));
}

#[test]
fn a_forged_counter_far_ahead_shuts_nobody_out() {
    let (mut agent, mut hub) = open_sessions();
    let sealed = agent.seal(b"up").unwrap();
    for counter in [1, 5000, u64::MAX - 1, u64::MAX] {
        assert!(matches!(hub.open(counter, &sealed.ciphertext), Err(SessionError::Forged { .. })));
    }
    assert_eq!(hub.open(sealed.counter, &sealed.ciphertext).unwrap(), b"up");
}

#[test]
fn a_message_behind_the_window_is_refused_as_too_old() {
    let (mut agent, mut hub) = open_sessions();
    let sealed: Vec<Sealed> =
        (0..=REPLAY_WINDOW_COUNTERS + 1).map(|_| agent.seal(b"x").unwrap()).collect();
    let newest = sealed.last().unwrap();
    hub.open(newest.counter, &newest.ciphertext).unwrap();
    let refused = hub.open(0, &sealed[0].ciphertext);
    assert!(matches!(refused, Err(SessionError::TooOld { counter: 0, .. })));
    assert!(hub.open(1, &sealed[1].ciphertext).is_ok());
}

#[test]
fn sizes_are_refused_before_they_are_allocated_for() {
    let (mut agent, mut hub) = open_sessions();
    let large = vec![0; SESSION_MESSAGE_BYTES_MAX + 1];
    assert!(matches!(hub.open(0, &large), Err(SessionError::TooLarge { .. })));
    let most = vec![0; SESSION_MESSAGE_BYTES_MAX - SEAL_OVERHEAD_BYTES];
    assert!(matches!(agent.seal(&large), Err(SessionError::TooLarge { .. })));
    let sealed = agent.seal(&most).unwrap();
    assert_eq!(hub.open(sealed.counter, &sealed.ciphertext).unwrap(), most);
    assert!(Responder::accept(&hub_key(), PROLOGUE, [4; 32], &large).is_err());
}

#[test]
fn a_session_asks_to_be_replaced_after_its_number_of_messages() {
    let (mut agent, mut hub) = open_sessions();
    agent.next_counter = REKEY_AFTER_MESSAGES - 1;
    assert!(!agent.needs_rekey());
    let sealed = agent.seal(b"x").unwrap();
    assert!(agent.needs_rekey());
    assert!(!hub.needs_rekey());
    hub.open(sealed.counter, &sealed.ciphertext).unwrap();
    assert!(hub.needs_rekey());
    agent.next_counter = u64::MAX;
    assert!(matches!(agent.seal(b"x"), Err(SessionError::Seal { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn under_loss_reorder_and_repetition_each_message_opens_once_and_whole(
        lengths in proptest::collection::vec(0usize..200, 1..60),
        arrivals in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let (mut agent, mut hub) = open_sessions();
        let messages: Vec<Vec<u8>> = lengths.iter().map(|n| vec![7; *n]).collect();
        let sealed: Vec<Sealed> = messages.iter().map(|m| agent.seal(m).unwrap()).collect();
        let mut opened = vec![false; messages.len()];
        for arrival in arrivals {
            let at = arrival.index(messages.len());
            match hub.open(sealed[at].counter, &sealed[at].ciphertext) {
                Ok(plaintext) => {
                    prop_assert!(!opened[at]);
                    prop_assert_eq!(&plaintext, &messages[at]);
                    opened[at] = true;
                }
                Err(SessionError::Replayed { .. }) => prop_assert!(opened[at]),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    #[test]
    fn a_changed_message_is_refused_and_the_true_one_still_opens(
        message in proptest::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<bool>(),
    ) {
        let (mut agent, mut hub) = open_sessions();
        let sealed = agent.seal(&message).unwrap();
        let mut changed = sealed.ciphertext.clone();
        let at = at.index(changed.len());
        if cut { changed.truncate(at) } else { changed[at] ^= 1 << bit }
        prop_assert!(hub.open(sealed.counter, &changed).is_err());
        prop_assert_eq!(hub.open(sealed.counter, &sealed.ciphertext).unwrap(), message);
    }

    #[test]
    fn a_changed_first_message_is_refused(at in 0usize..101, bit in 0u8..8) {
        let (_, mut first) = start();
        first[at] ^= 1 << bit;
        // The top bit of a Curve25519 key is ignored by its arithmetic (RFC 7748), yet hashed.
        prop_assert!(Responder::accept(&hub_key(), PROLOGUE, [4; 32], &first).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_neither_a_first_message_nor_a_reply(
        bytes in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        prop_assert!(Responder::accept(&hub_key(), PROLOGUE, [4; 32], &bytes).is_err());
        prop_assert!(start().0.finish(&bytes).is_err());
    }
}
