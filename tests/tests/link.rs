//! The link as the wire sees it: what it costs, by the judge; what it may do; what overtakes what.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
// The figures of a run must be seen when it fails.
#![allow(clippy::print_stderr)]

use anyhow::{Result, ensure};
use shared::io::mqtt::WireBytes;
use shared::wire_cost::{FULL_CONNECTION_BYTES, RESUMED_CONNECTION_BYTES, message_bytes};
use std::time::Duration;
use tests::real::broker_case::{BrokerCase, Kind, NodeClient};
use tests::real::proxy::{Count, Proxy, Shape};

/// What the estimate may be off by.
const DEVIATION_PERCENT_MAX: u64 = 5;

/// Longer than any delayed acknowledgement.
const QUIET: Duration = Duration::from_millis(500);

/// A broker, a proxy before it, and a node that is up.
async fn scene(kind: Kind, shape: Shape) -> Result<(BrokerCase, Proxy, NodeClient)> {
    let case = BrokerCase::start(kind).await?;
    let proxy = Proxy::start(case.address, shape)?;
    let mut node = case.node_through("mast-17", proxy.address())?;
    node.until_up().await?;
    Ok((case, proxy, node))
}

async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// What crossed by both counts, when all is quiet.
fn counts(proxy: &Proxy, node: &NodeClient) -> Result<(Count, WireBytes)> {
    let judged = tokio::task::block_in_place(|| proxy.count_when_quiet(QUIET))?;
    Ok((judged, node.client.wire_bytes()))
}

fn agree(what: &str, (judged, estimate): (Count, WireBytes)) -> Result<()> {
    let ways = [
        ("up", judged.up.wire_bytes, estimate.sent),
        ("down", judged.down.wire_bytes, estimate.received),
        ("both ways", judged.wire_bytes(), estimate.total()),
    ];
    for (way, judged, estimate) in ways {
        eprintln!("{what}, {way}: judged {judged}, estimated {estimate}");
    }
    eprintln!("{what}: {judged:?}");
    let [.., (_, judged, estimate)] = ways;
    let off = judged.abs_diff(estimate) * 100;
    ensure!(off <= judged * DEVIATION_PERCENT_MAX, "{what}: judged {judged}, estimated {estimate}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_are_told() {
    for kind in [Kind::Embedded, Kind::Mosquitto] {
        let (_case, proxy, mut node) = scene(kind, Shape::default()).await.unwrap();
        let full = counts(&proxy, &node).unwrap();
        eprintln!("{kind:?} full {full:?}");
        agree("full", full).unwrap();
        proxy.cut();
        node.until_down().await.unwrap();
        sleep(Duration::from_millis(300)).await;
        eprintln!("{kind:?} cut {:?}", counts(&proxy, &node).unwrap().0.since(full.0));
        node.until_up().await.unwrap();
        let again = counts(&proxy, &node).unwrap();
        eprintln!("{kind:?} resumed {:?}", again.0.since(full.0));
        agree("resumed", again).unwrap();
    }
}
