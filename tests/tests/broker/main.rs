//! One suite for both brokers: the hub's own and a real mosquitto with the shipped configuration.
//! Each test that names no broker runs on both.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod endpoint;

use hub::broker::{BrokerEvent, SendError};
use shared::io::mqtt::{LinkEvent, PublishError};
use shared::limits::MQTT_PAYLOAD_BYTES_MAX;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::real::broker_case::{
    BrokerCase, Introduction, Kind, NOT_AUTHORIZED, Pki, RawClient, SERVER_NAME, SILENCE, Validity,
    node_id,
};

macro_rules! on_both_brokers {
    ($($test:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Kind::Embedded).await;
            })*
        }
        mod mosquitto {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Kind::Mosquitto).await;
            })*
        }
    };
}

on_both_brokers! {
    a_node_and_the_hub_exchange_messages
    a_node_that_leaves_or_dies_is_told_to_the_hub
    after_a_lost_session_the_client_comes_back_and_is_subscribed
    after_a_restart_of_the_broker_the_client_comes_back_and_is_subscribed
    a_publish_to_any_topic_but_its_own_reaches_nobody
    a_subscription_to_any_topic_but_its_own_brings_nothing
    a_will_for_the_topic_of_another_node_reaches_nobody
    foreign_and_missing_certificates_are_refused
    silent_connections_do_not_hold_up_others
    an_oversize_message_is_refused_by_our_client_before_it_is_sent
    an_oversize_message_of_a_raw_client_ends_its_connection
    a_client_id_that_is_not_the_certificates_name_gives_no_rights
    of_two_clients_with_one_name_the_later_one_stays
    a_node_that_the_hub_does_not_allow_is_not_heard
    nothing_is_kept_for_a_node_that_is_away
}

fn received(name: &str, payload: &[u8]) -> BrokerEvent {
    BrokerEvent::Received { node: node_id(name), payload: payload.to_vec() }
}

fn connected(name: &str) -> BrokerEvent {
    BrokerEvent::Connected { node: node_id(name) }
}

fn disconnected(name: &str) -> BrokerEvent {
    BrokerEvent::Disconnected { node: node_id(name) }
}

fn introduction(client_id: &str) -> Introduction {
    Introduction { client_id: client_id.to_owned(), ..Introduction::default() }
}

async fn a_node_and_the_hub_exchange_messages(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    mast.publish(b"up").unwrap();
    case.expect(&connected("mast-17")).await.unwrap();
    case.expect(&received("mast-17", b"up")).await.unwrap();
    let largest = vec![7; MQTT_PAYLOAD_BYTES_MAX];
    case.send(mast.node(), &largest).await.unwrap();
    mast.until_received(&largest).await.unwrap();
    mast.publish(&largest).unwrap();
    case.expect(&received("mast-17", &largest)).await.unwrap();
    let counters = mast.client.counters();
    assert_eq!((counters.connects, counters.publishes, counters.messages), (1, 2, 1));
    assert_eq!(counters.payload_bytes_received, largest.len() as u64);
    let counters = case.link().unwrap().counters();
    assert_eq!((counters.messages_received, counters.messages_sent), (2, 1));
    assert_eq!(counters.payload_bytes_received, 2 + largest.len() as u64);
}

async fn a_node_that_leaves_or_dies_is_told_to_the_hub(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    for leaves in [true, false] {
        let mast = case.node_heard("mast-17").await.unwrap();
        if leaves {
            mast.client.close().await;
        } else {
            drop(mast);
        }
        case.expect(&disconnected("mast-17")).await.unwrap();
        let refused = case.link().unwrap().try_publish(&node_id("mast-17"), vec![1]);
        assert_eq!(refused, Err(SendError::NotConnected));
    }
}

async fn after_a_lost_session_the_client_comes_back_and_is_subscribed(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    // Takes the session over, and ends it with a clean start.
    let raw = case.raw_connected("mast-17", None).unwrap();
    mast.until_down().await.unwrap();
    drop(raw);
    mast.until_up().await.unwrap();
    mast.publish(b"back").unwrap();
    case.expect(&received("mast-17", b"back")).await.unwrap();
    case.send(mast.node(), b"welcome").await.unwrap();
    mast.until_received(b"welcome").await.unwrap();
    assert_eq!(mast.client.counters().connects, 2);
}

async fn after_a_restart_of_the_broker_the_client_comes_back_and_is_subscribed(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    case.restart_broker().await.unwrap();
    mast.until_down().await.unwrap();
    mast.until_up().await.unwrap();
    mast.publish(b"back").unwrap();
    case.expect(&received("mast-17", b"back")).await.unwrap();
    case.send(mast.node(), b"welcome").await.unwrap();
    mast.until_received(b"welcome").await.unwrap();
}

async fn a_publish_to_any_topic_but_its_own_reaches_nobody(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut victim = case.node_heard("victim").await.unwrap();
    let mut raw = case.raw_connected("mallory", None).unwrap();
    assert!(raw.subscribe("e/mallory/d").unwrap() < 0x80);
    let topics =
        ["e/victim/u", "e/victim/d", "e/victim/w", "e/mallory/d", "e/mallory/u/x", "$SYS/x", "x"];
    for topic in topics {
        raw.publish(topic, b"forged").unwrap();
        let code = raw.publish_acknowledged(topic, b"forged").unwrap();
        assert_eq!(code, NOT_AUTHORIZED, "{topic}");
    }
    let code = raw.publish_acknowledged("e/mallory/u", b"own").unwrap();
    assert!(code < 0x80, "{code:#x}");
    case.expect(&received("mallory", b"own")).await.unwrap();
    assert_eq!(case.events_until_silence().await, []);
    assert_eq!(victim.events_until_silence().await, []);
    assert_eq!(raw.messages_within(SILENCE).unwrap(), []);
}

async fn a_subscription_to_any_topic_but_its_own_brings_nothing(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut victim = case.node_heard("victim").await.unwrap();
    let filters = [
        "e/victim/d",
        "e/victim/u",
        "e/+/d",
        "e/+/u",
        "e/#",
        "#",
        "+/+/+",
        "$SYS/#",
        "$share/all/e/victim/d",
        "$share/all/#",
    ];
    let mut eavesdroppers = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        let mut raw = case.raw_connected(&format!("mallory-{index}"), None).unwrap();
        let code = raw.subscribe(filter);
        if kind == Kind::Embedded {
            assert!(code.unwrap() >= 0x80, "{filter}");
        }
        eavesdroppers.push(raw);
    }
    victim.publish(b"secret up").unwrap();
    case.expect(&received("victim", b"secret up")).await.unwrap();
    case.send(victim.node(), b"secret down").await.unwrap();
    victim.until_received(b"secret down").await.unwrap();
    for (mut raw, filter) in eavesdroppers.into_iter().zip(filters) {
        assert_eq!(raw.messages_within(Duration::from_millis(100)).unwrap(), [], "{filter}");
    }
}

async fn a_will_for_the_topic_of_another_node_reaches_nobody(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut victim = case.node_heard("victim").await.unwrap();
    for topic in ["e/victim/w", "e/victim/u", "e/victim/d"] {
        let connected = case.raw_connected("mallory", Some(topic));
        assert_eq!(connected.is_err(), kind == Kind::Embedded, "{topic}");
    }
    let events = case.events_until_silence().await;
    assert!(!events.contains(&disconnected("victim")), "{events:?}");
    assert_eq!(victim.events_until_silence().await, []);
}

async fn foreign_and_missing_certificates_are_refused(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let stranger = Pki::new("test CA").unwrap();
    let foreign = stranger.client("mast-17", Validity::Current).unwrap();
    let old = stranger.client("mast-17", Validity::Expired).unwrap();
    for shown in [Some(&foreign), Some(&old), None] {
        let tls = case.pki.client_config(shown).unwrap();
        let answer = RawClient::open(case.address, SERVER_NAME, Arc::clone(&tls))
            .and_then(|mut raw| raw.connect(&introduction("mast-17")));
        assert!(answer.is_err(), "{answer:?} with {shown:?}");
        let mut mast = case.node_with("mast-17", tls);
        mast.until_down().await.unwrap();
        assert_eq!(mast.client.counters().connects, 0);
    }
    assert_eq!(case.events_until_silence().await, []);
    // And the other way round: our client does not talk to a broker of a foreign CA.
    let stranger = Pki::new("another CA").unwrap();
    let own = case.pki.client("mast-17", Validity::Current).unwrap();
    let mut mast = case.node_with("mast-17", stranger.client_config(Some(&own)).unwrap());
    mast.until_down().await.unwrap();
    assert_eq!(mast.client.counters().connects, 0);
}

async fn silent_connections_do_not_hold_up_others(kind: Kind) {
    let case = BrokerCase::start(kind).await.unwrap();
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(case.address).unwrap()).collect();
    // Some go as far as the end of the TLS handshake.
    let after_tls: Vec<_> = (0..3).map(|_| case.raw("mute").unwrap()).collect();
    let tls = case.tls("mast-17").unwrap();
    let started = Instant::now();
    let mut mast = case.node_with("mast-17", tls);
    mast.until_up().await.unwrap();
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(1), "connected after {waited:?}");
    drop((silent, after_tls));
}

async fn an_oversize_message_is_refused_by_our_client_before_it_is_sent(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    let refused = mast.client.try_publish("e/mast-17/u", vec![0; MQTT_PAYLOAD_BYTES_MAX + 1]);
    assert!(matches!(refused, Err(PublishError::Oversize { .. })), "{refused:?}");
    mast.publish(b"still up").unwrap();
    case.expect(&received("mast-17", b"still up")).await.unwrap();
    let link = case.link().unwrap();
    let refused = link.try_publish(mast.node(), vec![0; MQTT_PAYLOAD_BYTES_MAX + 1]);
    assert_eq!(refused, Err(SendError::Oversize));
    assert_eq!((mast.client.counters().refused, mast.client.counters().connects), (1, 1));
}

async fn an_oversize_message_of_a_raw_client_ends_its_connection(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    let mut raw = case.raw_connected("mallory", None).unwrap();
    let _the_broker_may_close_meanwhile = raw.publish("e/mallory/u", &vec![0; 64 * 1024]);
    assert!(raw.is_closed_within(Duration::from_secs(5)));
    // A CONNECT of that size is no better.
    let mut raw = case.raw("mallory").unwrap();
    let huge = "x".repeat(60_000);
    assert!(!matches!(raw.connect(&introduction(&huge)), Ok(0)));
    mast.publish(b"others go on").unwrap();
    case.expect(&received("mast-17", b"others go on")).await.unwrap();
    let events = case.events_until_silence().await;
    assert!(!events.iter().any(|event| matches!(event, BrokerEvent::Received { .. })));
}

async fn a_client_id_that_is_not_the_certificates_name_gives_no_rights(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut victim = case.node_heard("victim").await.unwrap();
    let mut raw = case.raw("mallory").unwrap();
    let code = raw.connect(&introduction("victim")).unwrap();
    if kind == Kind::Embedded {
        assert_eq!(code, NOT_AUTHORIZED);
    } else {
        // mosquitto lets it in under its certificate's name.
        assert_eq!(code, 0);
        assert_eq!(raw.publish_acknowledged("e/victim/u", b"forged").unwrap(), NOT_AUTHORIZED);
        raw.subscribe("e/victim/d").unwrap();
    }
    case.send(victim.node(), b"secret").await.unwrap();
    victim.until_received(b"secret").await.unwrap();
    assert_eq!(raw.messages_within(SILENCE).unwrap(), []);
    assert_eq!(case.events_until_silence().await, []);
    assert_eq!(victim.client.counters().connects, 1, "the victim was not thrown out");
}

async fn of_two_clients_with_one_name_the_later_one_stays(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut earlier = case.raw_connected("mast-17", Some("e/mast-17/w")).unwrap();
    assert!(earlier.subscribe("e/mast-17/d").unwrap() < 0x80);
    earlier.publish("e/mast-17/u", b"earlier").unwrap();
    case.expect(&received("mast-17", b"earlier")).await.unwrap();
    let mut later = case.raw_connected("mast-17", Some("e/mast-17/w")).unwrap();
    assert!(earlier.is_closed_within(Duration::from_secs(5)));
    assert!(later.subscribe("e/mast-17/d").unwrap() < 0x80);
    case.expect(&disconnected("mast-17")).await.unwrap();
    later.publish("e/mast-17/u", b"later").unwrap();
    case.expect(&connected("mast-17")).await.unwrap();
    case.expect(&received("mast-17", b"later")).await.unwrap();
    case.send(&node_id("mast-17"), b"down").await.unwrap();
    let message = ("e/mast-17/d".to_owned(), b"down".to_vec());
    assert_eq!(later.messages_within(SILENCE).unwrap(), [message]);
    assert_eq!(case.events_until_silence().await, [], "the earlier one's end is not told late");
}

async fn a_node_that_the_hub_does_not_allow_is_not_heard(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut mast = case.node_heard("mast-17").await.unwrap();
    case.deny(mast.node());
    case.link().unwrap().kick(mast.node());
    case.expect(&disconnected("mast-17")).await.unwrap();
    assert!(case.link().unwrap().try_publish(mast.node(), vec![1]).is_err());
    if kind == Kind::Embedded {
        mast.until_down().await.unwrap();
        mast.until_down().await.unwrap();
        assert_eq!(mast.client.counters().connects, 1, "it may not come back");
    } else {
        mast.publish(b"still there").unwrap();
    }
    assert_eq!(case.events_until_silence().await, []);
    assert!(case.link().unwrap().try_publish(mast.node(), vec![1]).is_err());
}

async fn nothing_is_kept_for_a_node_that_is_away(kind: Kind) {
    let mut case = BrokerCase::start(kind).await.unwrap();
    let mut raw = case.raw_connected("mast-17", None).unwrap();
    assert!(raw.subscribe("e/mast-17/d").unwrap() < 0x80);
    raw.publish("e/mast-17/u", b"here").unwrap();
    case.expect(&received("mast-17", b"here")).await.unwrap();
    drop(raw);
    tokio::time::sleep(SILENCE).await;
    // Without a will an external broker tells nobody that the node is gone.
    let _accepted_or_not = case.link().unwrap().try_publish(&node_id("mast-17"), vec![1]);
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    assert_eq!(mast.events_until_silence().await, []);
}

#[tokio::test(flavor = "current_thread")]
async fn the_client_lives_on_a_single_threaded_runtime_and_waits_between_attempts() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let tls = case.tls("mast-17").unwrap();
    case.close().await;
    let mut mast = case.node_with("mast-17", tls);
    mast.until_down().await.unwrap();
    let refused = mast.client.try_publish("e/mast-17/u", vec![1]);
    assert_eq!(refused, Err(PublishError::LinkDown));
    let soon = mast.events_until_silence().await;
    assert_eq!(soon, [], "at least half a second passes before the second attempt");
    mast.until_down().await.unwrap();
    case.restart_broker().await.unwrap();
    mast.until_up().await.unwrap();
    let later = mast.events_until_silence().await;
    assert!(!later.iter().any(|event| matches!(event, LinkEvent::Down { .. })), "{later:?}");
}
