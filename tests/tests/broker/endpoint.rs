//! What only the embedded broker promises: it kicks, bounds what waits, and refuses what no node says.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_refuses_other_user_names_and_older_protocols() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let own = Introduction { username: Some("mast-17".into()), ..introduction("mast-17") };
    assert_eq!(case.raw("mast-17").unwrap().connect(&own).unwrap(), 0);
    let other = Introduction { username: Some("victim".into()), ..introduction("mast-17") };
    assert_eq!(case.raw("mast-17").unwrap().connect(&other).unwrap(), NOT_AUTHORIZED);
    let old = Introduction { is_version_3: true, ..introduction("mast-17") };
    assert_ne!(case.raw("mast-17").unwrap().connect(&old).ok(), Some(0));
    let nobody = case.raw("not a node").unwrap().connect(&introduction("not a node")).unwrap();
    assert_eq!(nobody, NOT_AUTHORIZED);
    assert_eq!(case.events_until_silence().await, []);
    assert_eq!(case.link().unwrap().counters().refused_connects, 3);
}

/// A node that was offline for longer than its certificate holds comes back; who was thrown out does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ran_out_strands_no_node_and_lets_nobody_in_who_is_not_allowed() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let expired = case.pki.client("mast-17", Validity::Expired).unwrap();
    let tls = case.pki.client_config(Some(&expired)).unwrap();
    let mut mast = case.node_with("mast-17", Arc::clone(&tls));
    mast.until_up().await.unwrap();
    case.expect(&connected("mast-17")).await.unwrap();
    drop(mast);
    case.deny(&node_id("mast-17"));
    let mut raw = RawClient::open(case.address, SERVER_NAME, tls).unwrap();
    assert_eq!(raw.connect(&introduction("mast-17")).unwrap(), NOT_AUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kicked_node_is_not_heard_any_more_even_while_it_floods() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let mut raw = case.raw_connected("mallory", None).unwrap();
    assert!(raw.subscribe("e/mallory/d").unwrap() < 0x80);
    case.expect(&connected("mallory")).await.unwrap();
    for _ in 0..50 {
        raw.publish("e/mallory/u", b"flood").unwrap();
    }
    case.deny(&node_id("mallory"));
    case.link().unwrap().kick(&node_id("mallory"));
    let heard_at_kick = case.link().unwrap().counters().messages_received;
    for _ in 0..50 {
        if raw.publish("e/mallory/u", b"flood").is_err() {
            break;
        }
    }
    assert!(raw.is_closed_within(Duration::from_secs(5)));
    let heard = case.link().unwrap().counters().messages_received;
    // One message may have been past the check when the kick came.
    assert!(heard <= heard_at_kick + 1, "{heard_at_kick} then {heard}");
    case.expect(&disconnected("mallory")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_known_by_its_alias_and_an_alias_that_names_none_ends_the_connection() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let connect = |case: &BrokerCase| {
        let mut raw = case.raw_connected("mast-17", None).unwrap();
        assert!(raw.subscribe("e/mast-17/d").unwrap() < 0x80);
        raw
    };
    let mut raw = connect(&case);
    raw.publish_by_alias("e/mast-17/u", 2, b"named").unwrap();
    raw.publish_by_alias("", 2, b"by its alias").unwrap();
    raw.publish_by_alias("e/victim/u", 1, b"forged").unwrap();
    raw.publish_by_alias("", 1, b"forged as well").unwrap();
    raw.publish_by_alias("", 2, b"still").unwrap();
    for payload in [&b"named"[..], b"by its alias", b"still"] {
        case.expect(&received("mast-17", payload)).await.unwrap();
    }
    for (topic, alias) in [("", 1), ("e/mast-17/u", 3), ("e/mast-17/u", 0)] {
        let mut raw = connect(&case);
        raw.publish_by_alias(topic, alias, b"nobody hears it").unwrap();
        assert!(raw.is_closed_within(Duration::from_secs(5)), "{topic:?} as {alias}");
    }
    let events = case.events_until_silence().await;
    assert!(
        !events.iter().any(|event| matches!(event, BrokerEvent::Received { .. })),
        "{events:?}"
    );
    assert_eq!(case.link().unwrap().counters().refused_topics, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_refused_when_the_hub_does_not_keep_up() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let mut raw = case.raw_connected("mallory", None).unwrap();
    assert!(raw.subscribe("e/mallory/d").unwrap() < 0x80);
    for _ in 0..1000 {
        raw.publish("e/mallory/u", b"flood").unwrap();
    }
    let code = raw.publish_acknowledged("e/mallory/u", b"flood").unwrap();
    assert_eq!(code, NOT_AUTHORIZED, "the answer came at once and was no");
    assert!(case.link().unwrap().counters().refused_queue_full > 700);
    // News of connections still find room.
    drop(raw);
    case.expect(&disconnected("mallory")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_read_fills_its_own_queue_only() {
    let case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let mut deaf = case.raw_connected("deaf", None).unwrap();
    assert!(deaf.subscribe("e/deaf/d").unwrap() < 0x80);
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    let link = case.link().unwrap();
    let mut sent = 0;
    while link.try_publish(&node_id("deaf"), vec![0; 16 * 1024]).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "16 KiB each, without end");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert_eq!(link.try_publish(&node_id("deaf"), vec![0; 16]), Err(SendError::QueueFull));
    case.send(mast.node(), b"others go on").await.unwrap();
    mast.until_received(b"others go on").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_every_message_that_was_accepted_for_it() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let mut raw = case.raw_connected("slow", None).unwrap();
    assert!(raw.subscribe("e/slow/d").unwrap() < 0x80);
    case.expect(&connected("slow")).await.unwrap();
    let mut accepted = Vec::new();
    for number in 0..3000_u32 {
        let payload = number.to_be_bytes().to_vec();
        if case.link().unwrap().try_publish(&node_id("slow"), payload.clone()).is_ok() {
            accepted.push(payload);
        }
    }
    assert!(accepted.len() >= 200);
    let mut got = Vec::new();
    while got.len() < accepted.len() {
        let messages = raw.messages_within(Duration::from_millis(300)).unwrap();
        assert!(!messages.is_empty(), "{} of {}", got.len(), accepted.len());
        got.extend(messages.into_iter().map(|(_, payload)| payload));
    }
    assert_eq!(got, accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_embedded_broker_frees_its_port_and_ends_connections() {
    let mut case = BrokerCase::start(Kind::Embedded).await.unwrap();
    let mut mast = case.node("mast-17").unwrap();
    mast.until_up().await.unwrap();
    let started = Instant::now();
    case.close().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    std::net::TcpListener::bind(case.address).unwrap();
    mast.until_down().await.unwrap();
}
