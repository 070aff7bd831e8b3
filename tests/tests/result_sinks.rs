//! Results in files, at a webhook's receiver and at a site's own broker: each at least once, with one id,
//! whatever is down, and none waits for another's sink.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use shared::io::tls::install_crypto_provider;
use shared::model::{BootClock, ClockQuality, PodResult, ResultFormat, SinkId, UnixMs};
use shared::wire::{Stream, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::real::hub::Hub;
use tests::real::process::wait_until;
use tests::real::raw_node::{INCARNATION, RawNode};
use tests::real::site::{Mood, PASSWORD, Receiver, SiteBroker, USER, subscribe};

/// A request that hangs is given up after 30 s.
const PATIENCE: Duration = Duration::from_secs(90);

const COUNT: u64 = 40;

const SYNCHRONISED: BootClock =
    BootClock { boot: 1, since_boot_ms: 0, offset_ms: 0, quality: ClockQuality::Synchronised };

fn stream(sink: &str) -> Stream {
    Stream::Results(SinkId::of(sink))
}

fn result(number: u64, body: &str) -> PodResult {
    PodResult {
        pod: "default/ocr-0".parse().unwrap(),
        topic: "plates/gate-3".to_owned(),
        at: UnixMs(1_767_225_600_000 + number),
        clock: SYNCHRONISED,
        format: ResultFormat::Json,
        body: body.as_bytes().to_vec().into(),
        thinned: 0,
    }
}

fn append(node: &mut RawNode, sink: &str, from: u64, to: u64) {
    for number in from..=to {
        let record = encode("result", &result(number, &format!("{{\"n\":{number}}}"))).unwrap();
        node.append(stream(sink), record);
    }
}

/// Each id with its one line.
fn by_id<T: AsRef<str>>(lines: &[T]) -> BTreeMap<String, Value> {
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    for line in lines {
        let value: Value = serde_json::from_str(line.as_ref()).unwrap();
        let id = value["id"].as_str().unwrap().to_owned();
        let before = found.insert(id, value.clone());
        assert!(before.is_none_or(|before| before == value), "one id for two results: {value}");
    }
    found
}

fn ids(sink: &str, numbers: impl Iterator<Item = u64>) -> BTreeSet<String> {
    let sink = SinkId::of(sink).0;
    let start = format!("mast-17/{INCARNATION:016x}");
    numbers.map(|number| format!("{start}/{sink:08x}/{number}")).collect()
}

fn ids_of<T: AsRef<str>>(lines: &[T]) -> BTreeSet<String> {
    by_id(lines).into_keys().collect()
}

fn sink_of(hub: &Hub, name: &str) -> Value {
    let status = hub.ask("/v1/hub").unwrap();
    let sinks = status["sinks"].as_array().unwrap();
    sinks.iter().find(|sink| sink["name"] == name).unwrap().clone()
}

fn lines_in(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn tls_under(authority: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// A hub with a sink of each kind, and the site's broker, which does not run yet.
fn site(folder: &Path, receiver: &Receiver) -> (Hub, SiteBroker) {
    let mut hub = Hub::new(&folder.join("hub")).unwrap();
    hub.start().unwrap();
    let pki = folder.join("pki");
    let output =
        hub.command(&["ca", "server", "127.0.0.1", "--output"]).unwrap().arg(&pki).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (certificate, key) = (pki.join("server.pem"), pki.join("server.key"));
    let broker = SiteBroker::new(&folder.join("broker"), &certificate, &key).unwrap();
    let credentials = folder.join("credentials");
    fs::write(&credentials, format!("{USER}\n{PASSWORD}\n")).unwrap();
    let tables = format!(
        "[[sinks]]\nname = \"archive\"\nkind = \"files\"\nfolder = \"{folder}/archive\"\n\
         [[sinks]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://{hook}/results\"\n\
         [[sinks]]\nname = \"plant\"\nkind = \"mqtt\"\nbroker = \"mqtts://{broker}\"\n\
         topic = \"site/{{node}}/{{topic}}\"\ncredentials_file = \"{credentials}\"\n\
         ca_file = \"{authority}\"\n",
        folder = folder.display(),
        hook = receiver.address,
        broker = broker.address,
        credentials = credentials.display(),
        authority = hub.state().join("ca.pem").display(),
    );
    hub.configure(&tables).unwrap();
    hub.kill();
    hub.start().unwrap();
    (hub, broker)
}

#[tokio::test]
async fn every_result_arrives_with_one_id_whatever_is_down_and_one_sink_stops_no_other() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Mood::Fails).unwrap();
    let (mut hub, mut broker) = site(folder.path(), &receiver);
    let heard = subscribe(broker.address, tls_under(&hub.state().join("ca.pem")));
    let mut node = RawNode::enrol(&hub, "mast-17", 1).unwrap();
    for sink in ["archive", "hook", "plant"] {
        append(&mut node, sink, 1, COUNT);
    }
    // The receiver fails and the broker is away: the files flow.
    node.talk_until("the files are acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("archive"))
    })
    .await
    .unwrap();
    let file = folder.path().join("archive/archive.ndjson");
    assert_eq!(ids_of(&lines_in(&file)), ids("archive", 1..=COUNT));
    node.talk_until("the others are said to hold", PATIENCE, |node| {
        ["hook", "plant"].iter().all(|sink| {
            node.holds.iter().any(|hold| hold.log.stream == stream(sink) && hold.received == COUNT)
        })
    })
    .await
    .unwrap();
    for sink in ["hook", "plant"] {
        assert_eq!(node.watermark(stream(sink)), 0, "acknowledged, and nobody has it");
        let view = sink_of(&hub, sink);
        assert!(view["down_since"].is_u64() && view["last_error"].is_string(), "{view}");
    }
    let shown = hub.command(&["status"]).unwrap().output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("hook (webhook)") && shown.contains("DOWN since"), "{shown}");
    // The hub is killed while it holds, the receiver hangs once, then both take.
    receiver.set_mood(Mood::Hangs);
    hub.kill();
    hub.start().unwrap();
    for sink in ["archive", "hook", "plant"] {
        append(&mut node, sink, COUNT + 1, 2 * COUNT);
    }
    let requests = receiver.requests();
    node.talk_until("the receiver hangs", PATIENCE, |_| receiver.requests() > requests)
        .await
        .unwrap();
    broker.start().unwrap();
    node.talk_until("the broker's are acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("plant")) && node.is_delivered(stream("archive"))
    })
    .await
    .unwrap();
    receiver.set_mood(Mood::Takes);
    node.talk_until("the receiver's are acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("hook"))
    })
    .await
    .unwrap();
    assert_eq!(ids_of(&receiver.lines()), ids("hook", 1..=2 * COUNT));
    assert_eq!(ids_of(&lines_in(&file)), ids("archive", 1..=2 * COUNT));
    wait_until("the site's subscriber has heard all", PATIENCE, || {
        let heard = heard.lock().unwrap().clone();
        assert!(heard.iter().all(|(topic, _)| topic == "site/mast-17/plates/gate-3"), "{heard:?}");
        let lines: Vec<&String> = heard.iter().map(|(_, line)| line).collect();
        Ok(ids_of(&lines) == ids("plant", 1..=2 * COUNT))
    })
    .unwrap();
    let first = &by_id(&receiver.lines())[&ids("hook", 1..=1).pop_first().unwrap()];
    assert_eq!((&first["pod"], &first["body"]["n"]), (&"default/ocr-0".into(), &1.into()));
    assert_eq!(hub.node("mast-17").unwrap()["results_received"], 3 * 2 * COUNT);
}

#[tokio::test]
async fn what_nobody_can_take_stops_nothing_and_costs_no_other_result() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Mood::RefusesPoison).unwrap();
    let (hub, _) = site(folder.path(), &receiver);
    let mut node = RawNode::enrol(&hub, "mast-17", 1).unwrap();
    append(&mut node, "hook", 1, 9);
    node.append(stream("hook"), encode("result", &result(10, "\"poison\"")).unwrap());
    node.append(stream("hook"), b"no result at all".to_vec());
    append(&mut node, "hook", 12, 20);
    node.talk_until("everything is acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("hook"))
    })
    .await
    .unwrap();
    assert_eq!(ids_of(&receiver.lines()), ids("hook", (1..=9).chain(12..=20)));
    let view = sink_of(&hub, "hook");
    assert_eq!((&view["taken"], &view["refused"]), (&18.into(), &1.into()), "{view}");
    assert!(view["last_error"].as_str().unwrap().contains("400"), "{view}");
}

#[tokio::test]
async fn results_for_a_sink_that_is_not_configured_stay_and_arrive_once_it_is() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Mood::Takes).unwrap();
    let (mut hub, _) = site(folder.path(), &receiver);
    let mut node = RawNode::enrol(&hub, "mast-17", 1).unwrap();
    append(&mut node, "later", 1, COUNT);
    append(&mut node, "archive", 1, COUNT);
    node.talk_until("others are acknowledged and these are held", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("archive")) && !node.holds.is_empty()
    })
    .await
    .unwrap();
    assert_eq!(node.watermark(stream("later")), 0);
    let number = format!("{:08x}", SinkId::of("later").0);
    assert_eq!(hub.ask("/v1/hub").unwrap()["missing_sinks"][0]["sink"], number.as_str());
    assert_eq!(hub.node("mast-17").unwrap()["missing_sinks"][0], number.as_str());
    let place = folder.path().join("later");
    let table =
        format!("[[sinks]]\nname = \"later\"\nkind = \"files\"\nfolder = \"{}\"", place.display());
    hub.configure(&table).unwrap();
    hub.kill();
    hub.start().unwrap();
    node.talk_until("these are acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("later"))
    })
    .await
    .unwrap();
    assert_eq!(ids_of(&lines_in(&place.join("later.ndjson"))), ids("later", 1..=COUNT));
    assert_eq!(hub.ask("/v1/hub").unwrap()["missing_sinks"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_result_of_a_wrong_clock_has_its_true_time_also_when_the_hub_was_killed_between() {
    install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Mood::Fails).unwrap();
    let (mut hub, _) = site(folder.path(), &receiver);
    let mut node = RawNode::enrol(&hub, "mast-17", 1).unwrap();
    // A node that came up a minute ago and takes that for the beginning of 1970.
    let wrong = BootClock {
        boot: 7,
        since_boot_ms: 60_000,
        offset_ms: 0,
        quality: ClockQuality::Unsynchronised,
    };
    node.clock = Some(wrong);
    for number in 0..COUNT {
        let result = PodResult { at: UnixMs(1_000 * number), clock: wrong, ..result(number, "1") };
        node.append(stream("archive"), encode("result", &result).unwrap());
        node.append(stream("hook"), encode("result", &result).unwrap());
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let before = now();
    node.talk_until("the files are acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("archive"))
    })
    .await
    .unwrap();
    let after = now();
    hub.kill();
    // Much later, for a hub that would map the boot anew.
    node.talk_for(Duration::from_secs(3)).await.unwrap();
    receiver.set_mood(Mood::Takes);
    hub.start().unwrap();
    node.talk_until("the receiver's are acknowledged", PATIENCE, |node| {
        node.greet_again();
        node.is_delivered(stream("hook"))
    })
    .await
    .unwrap();
    let times = |lines: &[String]| {
        let times = by_id(lines).into_values().map(|line| {
            assert_eq!(line["clock"], "corrected");
            let own = line["node_at_unix_ms"].as_u64().unwrap();
            (own, u128::from(line["at_unix_ms"].as_u64().unwrap()))
        });
        times.collect::<BTreeMap<_, _>>()
    };
    let in_files = times(&lines_in(&folder.path().join("archive/archive.ndjson")));
    assert_eq!(in_files, times(&receiver.lines()), "the same moments, other times");
    for (own, at) in &in_files {
        let boot = at - u128::from(*own);
        assert!((before - 60_000..=after - 60_000).contains(&boot), "{own}: {at}");
    }
}
