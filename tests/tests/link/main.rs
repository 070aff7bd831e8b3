//! The link as the wire sees it: what it costs, by the judge; when it may connect; what overtakes what;
//! whether an agent keeps to its budget.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
// The figures of a run must be seen when it fails.
#![allow(clippy::print_stderr)]

mod agent;

use anyhow::{Context, Result, ensure};
use shared::io::mqtt::WireBytes;
use shared::wire_cost::{FULL_CONNECTION_BYTES, RESUMED_CONNECTION_BYTES, message_bytes};
use std::time::Duration;
use tests::real::broker_case::{BrokerCase, Kind, NodeClient};
use tests::real::proxy::{Count, Proxy, Shape};

/// What the estimate may be off by.
const DEVIATION_PERCENT_MAX: u64 = 5;

/// Longer than any delayed acknowledgement.
const QUIET: Duration = Duration::from_millis(300);

const PATIENCE: Duration = Duration::from_secs(90);

/// A radio.
const SLOW: Shape = Shape { bytes_per_second: Some(8_000), delay: Duration::from_millis(50) };

const KINDS: [Kind; 2] = [Kind::Embedded, Kind::Mosquitto];

const TOPIC: &str = "e/mast-17/u";

/// A broker, a proxy before it, and a node that is up.
struct Scene {
    broker: BrokerCase,
    proxy: Proxy,
    node: NodeClient,
}

impl Scene {
    async fn new(kind: Kind) -> Result<Self> {
        Self::shaped(kind, Shape::default()).await
    }

    async fn shaped(kind: Kind, shape: Shape) -> Result<Self> {
        let broker = BrokerCase::start(kind).await?;
        let proxy = tokio::task::block_in_place(|| Proxy::start(broker.address, shape))?;
        let mut node = broker.node_through("mast-17", proxy.address())?;
        node.until_up().await?;
        Ok(Self { broker, proxy, node })
    }

    /// Payloads of these sizes up, one after the other; what the queue does not take is left out.
    async fn publish(&self, payload_bytes: &[usize], pause: Duration) {
        for bytes in payload_bytes {
            let _ = self.node.publish(&vec![7; *bytes]);
            tokio::time::sleep(pause).await;
        }
    }

    /// What crossed by both counts, when all is quiet.
    fn counts(&self) -> Result<(Count, WireBytes)> {
        let judged = tokio::task::block_in_place(|| self.proxy.count_when_quiet(QUIET))?;
        Ok((judged, self.node.client.wire_bytes()))
    }

    /// Whether the estimate is near enough to what the judge says.
    fn agree(&self, what: &str) -> Result<()> {
        let (judged, estimate) = self.counts()?;
        let (true_bytes, estimated) = (judged.wire_bytes(), estimate.total());
        let Count { up, down } = judged;
        eprintln!(
            "{what}: up {} of {}, down {} of {}, {} packets",
            estimate.sent,
            up.wire_bytes,
            estimate.received,
            down.wire_bytes,
            up.packets + down.packets
        );
        let off = true_bytes.abs_diff(estimated) * 100;
        let near = off <= true_bytes * DEVIATION_PERCENT_MAX;
        ensure!(near, "{what}: judged {judged:?}, estimated {estimate:?}");
        Ok(())
    }

    /// The connection ends with a reset and comes again.
    async fn reconnect(&mut self) -> Result<()> {
        self.proxy.cut();
        self.node.until_down().await?;
        self.node.until_up().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_telemetry_costs_what_the_judge_says() {
    for kind in KINDS {
        let scene = Scene::new(kind).await.unwrap();
        for round in 0..100 {
            scene.publish(&[400 + round], Duration::from_millis(15)).await;
            scene.broker.send(scene.node.node(), &[1; 60]).await.unwrap();
        }
        scene.agree(&format!("{kind:?}, steady")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_a_backlog_cost_what_the_judge_says() {
    for kind in KINDS {
        let scene = Scene::new(kind).await.unwrap();
        for _ in 0..10 {
            scene.publish(&[4096; 24], Duration::ZERO).await;
            scene.publish(&[12_000; 8], Duration::ZERO).await;
            for _ in 0..8 {
                scene.broker.send(scene.node.node(), &[2; 4096]).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        scene.agree(&format!("{kind:?}, bursts")).unwrap();
    }
}

/// One way to lose a connection, with traffic before and into the loss.
async fn lose_connection(scene: &mut Scene, number: usize) -> Result<()> {
    let traffic = [200, 600, 1500];
    let tick = Duration::from_millis(20);
    scene.publish(&traffic, tick).await;
    // Up lost, down lost, both lost, none: the node repeats what nobody acknowledges.
    let (up, down) = [(true, false), (false, true), (true, true), (false, false)][number % 4];
    scene.proxy.lose_packets(up, down)?;
    scene.publish(&traffic, tick).await;
    if up || down {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    scene.proxy.cut();
    scene.proxy.lose_packets(false, false)?;
    if number % 5 == 4 {
        tokio::task::block_in_place(|| scene.proxy.refuse());
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene.proxy.accept_again()?;
    }
    // What was sent into the void is repeated into a connection that is no more.
    scene.node.until_down().await?;
    scene.node.until_up().await
}

async fn lose_ten_connections(kind: Kind) {
    let mut scene = Scene::new(kind).await.unwrap();
    for number in 0..10 {
        if number % 3 == 2 {
            // A connection that has held brings the pauses between attempts back to their first.
            scene.publish(&[300; 51], Duration::from_millis(200)).await;
        }
        let lost = lose_connection(&mut scene, number).await;
        lost.with_context(|| format!("{kind:?}, loss {number}")).unwrap();
    }
    scene.agree(&format!("{kind:?}, ten losses")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_lost_connections_to_the_hubs_broker_cost_what_the_judge_says() {
    lose_ten_connections(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_lost_connections_to_mosquitto_cost_what_the_judge_says() {
    lose_ten_connections(Kind::Mosquitto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_nobody_answers_are_paid_for() {
    let mut scene = Scene::new(Kind::Embedded).await.unwrap();
    // The last acknowledgement of the connection is not to be lost.
    scene.agree("a connection").unwrap();
    scene.proxy.lose_packets(true, true).unwrap();
    scene.proxy.cut();
    // The node learns of it by what it sends after the proxy has forgotten the connection.
    tokio::time::sleep(Duration::from_millis(100)).await;
    scene.proxy.lose_packets(false, false).unwrap();
    scene.publish(&[100], Duration::ZERO).await;
    scene.node.until_down().await.unwrap();
    scene.proxy.lose_packets(true, true).unwrap();
    // Attempts of 6 s with pauses between them: SYNs after 0, 1 and 3 s.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let judged = scene.proxy.count().unwrap();
    let estimate = scene.node.client.wire_bytes();
    eprintln!("unanswered: {judged:?}, {estimate:?}");
    let off = judged.wire_bytes().abs_diff(estimate.total()) * 100;
    assert!(off <= judged.wire_bytes() * DEVIATION_PERCENT_MAX, "{judged:?}, {estimate:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_is_withdrawn_closes_the_link_and_keeps_it_closed() {
    let mut scene = Scene::new(Kind::Embedded).await.unwrap();
    scene.publish(&[100], Duration::ZERO).await;
    scene.node.permit.send_replace(false);
    scene.node.until_down().await.unwrap();
    let (closed, _) = scene.counts().unwrap();
    // The first attempt after a loss would come within a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.proxy.count().unwrap(), closed, "something was sent without a permit");
    scene.node.permit.send_replace(true);
    scene.node.until_up().await.unwrap();
    scene.agree("permitted again").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_and_a_connection_cost_what_the_model_says() {
    let mut scene = Scene::new(Kind::Embedded).await.unwrap();
    let off_at_most = |percent: u64, what: &str, judged: u64, model: u64| {
        eprintln!("{what}: judged {judged}, model {model}");
        assert!(judged.abs_diff(model) * 100 <= judged * percent, "{what}");
    };
    let near = |what: &str, judged, model| off_at_most(DEVIATION_PERCENT_MAX, what, judged, model);
    // How many acknowledgements travel alone depends on how busy the machine is.
    let nearly = |what: &str, judged, model| off_at_most(10, what, judged, model);
    let (full, _) = scene.counts().unwrap();
    nearly("a full connection", full.wire_bytes(), FULL_CONNECTION_BYTES);
    for bytes in [50, 600, 1390, 1500, 4096, 12_000, 16_384] {
        let (before, _) = scene.counts().unwrap();
        // Each is acknowledged before the next.
        scene.publish(&[bytes; 5], Duration::from_millis(80)).await;
        let crossed = scene.counts().unwrap().0.since(before);
        let model = 5 * message_bytes(TOPIC.len(), bytes);
        near(&format!("five messages of {bytes}"), crossed.wire_bytes(), model);
    }
    let (before, _) = scene.counts().unwrap();
    scene.reconnect().await.unwrap();
    let crossed = scene.counts().unwrap().0.since(before);
    // (with the reset that ended the last one)
    nearly("a resumed connection", crossed.wire_bytes() - 52, RESUMED_CONNECTION_BYTES);
}

/// What the kernel and the proxy hold in advance: unsent 2 KiB, a message, a window of 4 KiB.
const AHEAD_BYTES_MAX: u64 = 12_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_slow_link_is_known_and_little_is_ahead_of_it() {
    let scene = Scene::shaped(Kind::Embedded, SLOW).await.unwrap();
    let begun = scene.proxy.count().unwrap();
    let mut waiting = scene.node.client.waiting_bytes();
    assert_eq!(*waiting.borrow(), 0);
    scene.publish(&[4096; 8], Duration::ZERO).await;
    let behind = *waiting.borrow();
    assert!(behind >= 4 * 4096, "{behind}");
    tokio::time::timeout(PATIENCE, waiting.wait_for(|waiting| *waiting == 0))
        .await
        .unwrap()
        .unwrap();
    let passed = scene.proxy.count().unwrap().since(begun).up.payload_bytes;
    assert!(passed + AHEAD_BYTES_MAX >= 8 * 4096, "{passed} bytes have passed");
    scene.agree("slow").unwrap();
}
