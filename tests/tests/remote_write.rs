//! Samples of nodes in a real Prometheus: exactly those that were taken, at the times at which they
//! were taken, whatever was down meanwhile.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use shared::io::tls::install_crypto_provider;
use shared::model::{BootClock, ClockQuality, ClockStamp, UnixMs};
use shared::telemetry::{Batch, BatchEncoder, Sample, Series};
use shared::wire::Stream;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::real::hub::Hub;
use tests::real::process::wait_until;
use tests::real::prometheus::Prometheus;
use tests::real::raw_node::RawNode;

const PATIENCE: Duration = Duration::from_secs(60);

/// Samples are taken every 10 s, six to a record.
const INTERVAL_MS: u64 = 10_000;
const SAMPLES_PER_RECORD: usize = 6;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A clock that begins in the nineties.
const BEHIND_MS: i64 = 30 * 365 * 24 * 60 * 60_000;

type Samples = BTreeMap<String, Vec<(u64, f64)>>;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A hub that writes to `prometheus`, and runs.
fn hub_for(folder: &std::path::Path, prometheus: &Prometheus) -> Hub {
    let mut hub = Hub::new(folder).unwrap();
    let url = prometheus.write_url();
    hub.configure(&format!("[remote_write]\nurl = \"{url}\"\n")).unwrap();
    hub.start().unwrap();
    hub
}

/// A Prometheus, and a hub that writes to it.
fn scene() -> (tempfile::TempDir, Prometheus, Hub) {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let mut prometheus = Prometheus::new(&folder.path().join("prometheus")).unwrap();
    prometheus.start().unwrap();
    let hub = hub_for(&folder.path().join("hub"), &prometheus);
    (folder, prometheus, hub)
}

/// Series in each sample.
const SERIES: usize = 7;

/// What a node measures at a moment: a gauge without a declared resolution, a counter, one of two GPUs,
/// a pod's histogram.
fn sample(at: u64) -> Sample {
    let step = at / INTERVAL_MS;
    let requests = f64::from(u32::try_from(step % 100_000).unwrap());
    let histogram = |part: &str| Series::new(&format!("app_request_duration_seconds_{part}"));
    let values = [
        (Series::new("site_level_meters"), f64::from(u32::try_from(step % 97).unwrap()) / 8.0),
        (
            Series::new("node_network_receive_bytes_total"),
            // At its declared resolution: a KiB.
            f64::from(u32::try_from(step % 100_000).unwrap() * 1024),
        ),
        (
            Series::new("DCGM_FI_DEV_GPU_TEMP").with("gpu", "0"),
            f64::from(u32::try_from(step % 40).unwrap()),
        ),
        (histogram("bucket").with("le", "0.1"), requests * 2.0),
        (histogram("bucket").with("le", "+Inf"), requests * 3.0),
        (histogram("sum"), requests / 8.0),
        (histogram("count"), requests * 3.0),
    ];
    let clock = ClockStamp { quality: ClockQuality::Synchronised, ..ClockStamp::default() };
    Sample { at: UnixMs(at), clock, values: values.into() }
}

/// The moments of `[from, to)`.
fn moments(from: u64, to: u64) -> Vec<u64> {
    (from / INTERVAL_MS..to / INTERVAL_MS).map(|step| step * INTERVAL_MS).collect()
}

/// As an agent does after a start: a keyframe, and what builds on it.
fn append(node: &mut RawNode, stream: Stream, moments: &[u64]) {
    let mut encoder = BatchEncoder::default();
    for run in moments.chunks(SAMPLES_PER_RECORD) {
        let batch = Batch { samples: run.iter().map(|at| sample(*at)).collect() };
        let staged = encoder.encode(&batch, node.next_number(stream)).unwrap();
        node.append(stream, staged.record().to_vec());
        encoder.commit(staged);
    }
}

/// A record that builds on none before it.
fn record(batch: &Batch) -> Vec<u8> {
    BatchEncoder::default().encode(batch, 1).unwrap().record().to_vec()
}

/// What Prometheus must hold of a node.
fn expected(node: &str, moments: &[u64]) -> Samples {
    let mut expected = Samples::new();
    for at in moments {
        for (series, value) in sample(*at).values.iter() {
            let mut labels = BTreeMap::clone(&series.labels);
            labels.insert("node".to_owned(), node.to_owned());
            let labels: Vec<String> =
                labels.iter().map(|(name, of)| format!("{name}={of}")).collect();
            let name = format!("{}{{{}}}", series.name, labels.join(","));
            expected.entry(name).or_default().push((*at, value));
        }
    }
    expected
}

fn assert_holds(prometheus: &Prometheus, node: &str, moments: &[u64]) {
    let found = prometheus.samples(&format!("{{node=\"{node}\"}}"), 47).unwrap();
    let expected = expected(node, moments);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (series, samples) in &expected {
        let found = &found[series];
        let differs = found.iter().zip(samples).find(|(found, expected)| found != expected);
        assert_eq!(differs, None, "{series}");
        assert_eq!(found.len(), samples.len(), "{series}: gaps or duplicates");
    }
}

fn remote_write_of(hub: &Hub) -> serde_json::Value {
    hub.ask("/v1/hub").unwrap()["sinks"][0].clone()
}

#[tokio::test]
async fn a_day_offline_leaves_no_gap_and_no_duplicate() {
    let (_folder, prometheus, hub) = scene();
    let now = now_ms();
    let (day, live) = (moments(now - DAY_MS, now - 600_000), moments(now - 600_000, now));
    let mut node = RawNode::enrol(&hub, "mast-17", 1).unwrap();
    // The live stream goes first, as from an agent: all of the backlog is out of order then.
    append(&mut node, Stream::Telemetry, &live);
    node.talk_until("the live stream arrived", PATIENCE, |_| {
        remote_write_of(&hub)["taken"] == live.len() * SERIES
    })
    .await
    .unwrap();
    append(&mut node, Stream::Backfill, &day);
    let all = (day.len() + live.len()) * SERIES;
    node.talk_until("the backlog arrived", PATIENCE, |_| remote_write_of(&hub)["taken"] == all)
        .await
        .unwrap();
    assert_holds(&prometheus, "mast-17", &[day, live].concat());
    assert_eq!(remote_write_of(&hub)["refused"], 0);
    // A greeting has the watermarks that were not told yet; most were told in few messages.
    node.greet_again();
    node.talk_until("all is acknowledged", PATIENCE, |node| {
        node.is_delivered(Stream::Telemetry) && node.is_delivered(Stream::Backfill)
    })
    .await
    .unwrap();
    let records = day_records();
    assert!(node.acks.len() < records / 16 + 2, "{} acknowledgements", node.acks.len());
}

fn day_records() -> usize {
    usize::try_from(DAY_MS / INTERVAL_MS).unwrap() / SAMPLES_PER_RECORD
}

#[tokio::test]
async fn a_prometheus_that_is_down_holds_and_a_hub_that_is_killed_meanwhile_loses_nothing() {
    let (_folder, mut prometheus, mut hub) = scene();
    let now = now_ms();
    let hours = moments(now - 4 * 60 * 60_000, now);
    let (before, rest) = hours.split_at(600);
    let (during, after) = rest.split_at(600);
    let mut nodes =
        [RawNode::enrol(&hub, "mast-17", 1).unwrap(), RawNode::enrol(&hub, "mast-18", 2).unwrap()];
    for node in &mut nodes {
        append(node, Stream::Backfill, before);
        node.talk_until("what was before is acknowledged", PATIENCE, |node| {
            node.greet_again();
            node.is_delivered(Stream::Backfill)
        })
        .await
        .unwrap();
    }
    prometheus.kill();
    for node in &mut nodes {
        append(node, Stream::Backfill, during);
        let watermark = node.watermark(Stream::Backfill);
        node.talk_until("it hears that its records wait", PATIENCE, |node| !node.holds.is_empty())
            .await
            .unwrap();
        node.talk_for(Duration::from_secs(3)).await.unwrap();
        assert_eq!(node.watermark(Stream::Backfill), watermark, "acknowledged, and nobody has it");
    }
    let sink = remote_write_of(&hub);
    assert!(sink["down_since"].is_u64() && sink["queued_deliveries"].as_u64() > Some(0), "{sink}");
    hub.kill();
    hub.start().unwrap();
    for node in &mut nodes {
        append(node, Stream::Backfill, after);
        let holds = node.holds.len();
        node.talk_until("it is held again", PATIENCE, |node| node.holds.len() > holds)
            .await
            .unwrap();
    }
    prometheus.start().unwrap();
    for node in &mut nodes {
        node.talk_until("everything is acknowledged", PATIENCE, |node| {
            node.greet_again();
            node.is_delivered(Stream::Backfill)
        })
        .await
        .unwrap();
        assert_holds(&prometheus, node.node.as_str(), &hours);
    }
    let taken = hub.node("mast-17").unwrap()["samples_received"].clone();
    assert_eq!(taken, hours.len(), "counted twice or not at all");
}

#[tokio::test]
async fn samples_of_a_clock_that_was_wrong_stand_where_they_were_taken() {
    let (_folder, prometheus, hub) = scene();
    let now = now_ms();
    let hours = moments(now - 6 * 60 * 60_000, now);
    let (wrong, right) = hours.split_at(hours.len() / 2);
    // Booted without a battery, decades back; set right half way.
    let (boot, booted) = (0xb007, i64::try_from(now - 7 * 60 * 60_000).unwrap());
    let stamp = |quality, offset_ms| ClockStamp { quality, boot, offset_ms };
    let mut node = RawNode::enrol(&hub, "mast-17", 1).unwrap();
    for run in wrong.chunks(SAMPLES_PER_RECORD) {
        let clock = stamp(ClockQuality::Unsynchronised, booted - BEHIND_MS);
        let told = |at: u64| UnixMs(at.checked_add_signed(-BEHIND_MS).unwrap());
        let samples = run.iter().map(|at| Sample { at: told(*at), clock, ..sample(*at) });
        node.append(Stream::Backfill, record(&Batch { samples: samples.collect() }));
    }
    for run in right.chunks(SAMPLES_PER_RECORD) {
        let clock = stamp(ClockQuality::Synchronised, booted);
        let samples = run.iter().map(|at| Sample { clock, ..sample(*at) });
        node.append(Stream::Backfill, record(&Batch { samples: samples.collect() }));
    }
    let (quality, since_boot_ms) = (ClockQuality::Synchronised, 7 * 60 * 60_000);
    node.clock = Some(BootClock { boot, since_boot_ms, offset_ms: booted, quality });
    node.greet_again();
    node.talk_until("all of it arrived", PATIENCE, |_| {
        remote_write_of(&hub)["taken"] == hours.len() * SERIES
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {}", remote_write_of(&hub)));
    assert_holds(&prometheus, "mast-17", &hours);
}

#[tokio::test]
async fn samples_that_prometheus_will_never_take_stop_nothing_and_take_no_other_with_them() {
    let (_folder, prometheus, hub) = scene();
    let now = now_ms();
    let (good, ancient) =
        (moments(now - 600_000, now), moments(now - 30 * DAY_MS, now - 29 * DAY_MS));
    // A clock that is a year ahead, and says so in good faith.
    let future = moments(now + 365 * DAY_MS, now + 365 * DAY_MS + 600_000);
    let mut node = RawNode::enrol(&hub, "mast-17", 1).unwrap();
    append(&mut node, Stream::Telemetry, &good[..12]);
    node.talk_until("the first arrived", PATIENCE, |_| {
        remote_write_of(&hub)["taken"] == 12 * SERIES
    })
    .await
    .unwrap();
    append(&mut node, Stream::Backfill, &ancient);
    append(&mut node, Stream::Telemetry, &future);
    append(&mut node, Stream::Telemetry, &good[12..]);
    let refused = (ancient.len() + future.len()) * SERIES;
    node.talk_until("all others are passed over", PATIENCE, |_| {
        let sink = remote_write_of(&hub);
        sink["refused"] == refused && sink["taken"] == good.len() * SERIES
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {}", remote_write_of(&hub)));
    assert_holds(&prometheus, "mast-17", &good);
    node.talk_until("everything is acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(Stream::Backfill) && node.is_delivered(Stream::Telemetry)
    })
    .await
    .unwrap();
    wait_until("the metrics say so", PATIENCE, || {
        let page = tests::real::http::request(hub.api, "GET", "/metrics", &[], PATIENCE)?;
        let line = format!(
            "hinterland_hub_sink_refused_total{{sink=\"remote_write\",kind=\"remote_write\"}} {refused}\n"
        );
        Ok(String::from_utf8(page.body)?.contains(&line))
    })
    .unwrap();
}
