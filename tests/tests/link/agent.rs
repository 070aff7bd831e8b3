//! Agents and hubs as processes with the judge between them.

use super::{DEVIATION_PERCENT_MAX, PATIENCE, SLOW};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::real::agent::Agent;
use tests::real::hub::Hub;
use tests::real::process::{signal, wait_until};
use tests::real::proxy::{Proxy, Shape};
use tests::story::{in_session, number};

/// What somebody who waits for an alarm accepts.
const ALARM_TIME_MAX: Duration = Duration::from_secs(2);

/// A pod that is ready at once and does nothing.
const IDLE: &str = "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  \
    name: idle\nspec:\n  template:\n    spec:\n      containers:\n        - name: idle\n          \
    command: [sleep, \"100000\"]\n";

/// Pods that no node has room for: each is reported with the reason.
fn unplaceable(name: &str, replicas: u32, env_bytes: usize) -> String {
    let value = "x".repeat(env_bytes);
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n\
         spec:\n  placement:\n    replicasPerNode: {replicas}\n  template:\n    spec:\n      \
         containers:\n        - name: idle\n          command: [sleep, \"100000\"]\n          \
         env:\n            - {{name: FILLER, value: \"{value}\"}}\n          resources:\n            \
         requests: {{cpu: \"10000\"}}\n"
    )
}

/// A hub behind a link, and a node in session that takes a sample every so many milliseconds.
fn pair(
    folder: &Path,
    shape: Shape,
    manifests: &str,
    sample_ms: u64,
) -> Result<(Hub, Proxy, Agent)> {
    let mut hub = Hub::new(&folder.join("hub"))?;
    let proxy = Proxy::start(hub.mqtt, shape)?;
    hub.advertise(proxy.address())?;
    hub.apply("first.yaml", manifests)?;
    hub.start()?;
    let mut agent = Agent::new(&folder.join("node"), "mast-17")?;
    agent.configure(sample_ms, 10)?;
    agent.enroll(&hub)?;
    agent.start()?;
    agent.wait_until_up()?;
    agent.wait_for("it is in session", PATIENCE, in_session)?;
    Ok((hub, proxy, agent))
}

/// The same behind a slow link, with one pod, when all is told; telemetry is not what is looked at.
fn slow_pair(folder: &Path) -> Result<(Hub, Proxy, Agent)> {
    let (hub, proxy, agent) = pair(folder, SLOW, IDLE, 60_000)?;
    agent.wait_for("the pod runs and all is told", PATIENCE, |status| {
        in_session(status)
            && status["pods"][0]["ready"] == true
            && status["sync"]["reported_in_sync"] == true
            && number(status, "/outbox/event_records") == 0
    })?;
    Ok((hub, proxy, agent))
}

/// Kills the idle pod, and says how long it takes until the hub has heard of it.
fn time_of_an_event(hub: &Hub, agent: &Agent) -> Result<Duration> {
    let before = number(&hub.node(&agent.node)?, "/events_received");
    let comm = |id: &u32| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let pod = agent.processes().into_iter().find(|id| comm(id).trim() == "sleep");
    let begin = Instant::now();
    signal(pod.context("the pod does not run")?, Signal::KILL);
    wait_until("the hub hears of it", PATIENCE, || {
        Ok(number(&hub.node(&agent.node)?, "/events_received") > before)
    })?;
    Ok(begin.elapsed())
}

fn digest(status: &Value) -> String {
    status["sync"]["desired_digest"].to_string()
}

#[test]
fn at_64_kbit_an_event_overtakes_a_snapshot_of_one_mebibyte_on_its_way_down() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, proxy, agent) = slow_pair(folder.path()).unwrap();
    let (before, begun) = (digest(&agent.status().unwrap()), proxy.count().unwrap());
    for number in 0..6 {
        let name = format!("large{number}");
        hub.apply(&format!("{name}.yaml"), &unplaceable(&name, 1, 180_000)).unwrap();
    }
    wait_until("the snapshot flows", PATIENCE, || {
        Ok(proxy.count()?.since(begun).down.payload_bytes > 60_000)
    })
    .unwrap();
    let took = time_of_an_event(&hub, &agent).unwrap();
    eprintln!("an event during a snapshot down: {took:?}");
    assert_eq!(digest(&agent.status().unwrap()), before, "the snapshot was there already");
    assert!(took <= ALARM_TIME_MAX, "{took:?}");
}

// Needs a publisher that has less than 8 chunks of 4 KiB on their way: with those it took 3.9 s.
#[test]
fn at_64_kbit_an_event_overtakes_a_large_report_on_its_way_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, proxy, agent) = slow_pair(folder.path()).unwrap();
    hub.apply("many.yaml", &unplaceable("many", 250, 10)).unwrap();
    agent
        .wait_for("many pods are reported", PATIENCE, |status| {
            let pods = status["pods"].as_array().map_or(0, Vec::len);
            let events = number(status, "/outbox/event_records");
            pods == 251 && status["sync"]["reported_in_sync"] == true && events == 0
        })
        .unwrap();
    // A hub that has lost its store is told everything anew.
    hub.kill();
    fs::remove_dir_all(hub.state().join("store")).unwrap();
    let begun = proxy.count().unwrap();
    hub.start().unwrap();
    wait_until("the report flows", PATIENCE, || {
        Ok(proxy.count()?.since(begun).up.payload_bytes > 6_000)
    })
    .unwrap();
    let took = time_of_an_event(&hub, &agent).unwrap();
    let status = agent.status().unwrap();
    let waited = proxy.count_when_quiet(Duration::from_secs(2)).unwrap().since(begun);
    eprintln!("an event during a report up: {took:?}; {waited:?}");
    assert_eq!(status["sync"]["reported_in_sync"], false, "the report was there already");
    assert!(took <= ALARM_TIME_MAX, "{took:?}");
}

/// What the link of the node may carry.
fn limited(link: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata:\n  name: mast-17\n\
         spec:\n  link: {{{link}}}\n"
    )
}

/// A node whose limits are known to it, and that has far more to say than they allow.
fn limited_pair(folder: &Path, link: &str) -> Result<(Hub, Proxy, Agent)> {
    let (hub, proxy, agent) = pair(folder, Shape::default(), &limited(link), 100)?;
    agent.wait_for("it knows its limits", PATIENCE, |status| {
        let budget = &status["budget"];
        !budget["bytes_per_day"].is_null() || !budget["bytes_per_second"].is_null()
    })?;
    Ok((hub, proxy, agent))
}

/// Whether what the agent counts is what the judge has counted, while more may be on its way;
/// `unmeasured` may count beyond it.
fn agree(agent: &Agent, proxy: &Proxy, unmeasured: u64) -> Result<u64> {
    let before = proxy.count()?.wire_bytes();
    let spent = number(&agent.status()?, "/budget/spent_in_day_bytes");
    let judged = proxy.count()?.wire_bytes();
    eprintln!("judged {before} to {judged}, counted {spent}");
    let least = before - before * DEVIATION_PERCENT_MAX / 100;
    let most = judged + judged * DEVIATION_PERCENT_MAX / 100 + unmeasured;
    ensure!((least..=most).contains(&spent), "judged {before} to {judged}, counted {spent}");
    Ok(judged)
}

#[test]
fn an_agent_never_carries_more_in_a_day_than_it_may_however_often_its_link_and_itself_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, proxy, mut agent) = limited_pair(folder.path(), "bytesPerDay: 20k").unwrap();
    for second in 1..=60 {
        // Each connection costs thousands: these alone would be far over.
        proxy.cut();
        if second % 20 == 0 {
            agent.kill();
            agent.start().unwrap();
        }
        std::thread::sleep(Duration::from_secs(1));
        let judged = proxy.count().unwrap().wire_bytes();
        assert!(judged <= 20_000, "{judged} bytes after {second} s");
    }
    agent.wait_until_up().unwrap();
    // What was granted to each of three starts and not used counts as spent: a KiB, and a connection.
    let judged = agree(&agent, &proxy, 3 * 4_000).unwrap();
    assert!(judged >= 10_000, "{judged} of 20000 bytes: nothing was at stake");
}

#[test]
fn an_agent_never_carries_more_in_a_second_than_it_may() {
    const BYTES_PER_SECOND: u64 = 500;
    const SECONDS: usize = 15;
    let folder = tempfile::tempdir().unwrap();
    let (_hub, proxy, agent) = limited_pair(folder.path(), "bytesPerSecond: 500").unwrap();
    let mut counts = vec![];
    for second in 0..60 {
        if second == 30 {
            proxy.cut();
        }
        counts.push(proxy.count().unwrap().wire_bytes());
        std::thread::sleep(Duration::from_secs(1));
    }
    let worst = counts.windows(SECONDS + 1).map(|of| of[SECONDS] - of[0]).max().unwrap();
    // A bucket of two seconds, full at the beginning, and the sleep that is never a second alone.
    let most = BYTES_PER_SECOND * (SECONDS as u64 + 3);
    eprintln!("at most {worst} bytes in {SECONDS} s, of {most}");
    assert!(worst <= most, "{worst} bytes in {SECONDS} s: {counts:?}");
    assert!(
        worst >= most * 6 / 10,
        "{worst} bytes in {SECONDS} s: nothing was at stake: {counts:?}"
    );
    agree(&agent, &proxy, 0).unwrap();
}
