//! What the link costs, counted by the judge ([`Proxy`]): a reconnection in sync, a changed image.

use super::{Figure, work_folder};
use crate::real::agent::Agent;
use crate::real::hub::Hub;
use crate::real::proxy::{Count, Flow, Proxy, Shape};
use crate::story::{in_session, number};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

/// Nothing crosses for this long: all is said.
const QUIET: Duration = Duration::from_millis(1500);

/// What ends a connection at the node, with time stamps.
const RESET_BYTES: u64 = 52;

/// A hub and a node whose link goes through the judge.
struct Pair {
    hub: Hub,
    agent: Agent,
    proxy: Proxy,
}

impl Pair {
    fn new(folder: &Path, sample_interval_ms: u64, batch: usize) -> anyhow::Result<Self> {
        let mut hub = Hub::new(&folder.join("hub"))?;
        let proxy = Proxy::start(hub.mqtt, Shape::default())?;
        hub.gather_acknowledgements()?;
        hub.advertise(proxy.address())?;
        hub.apply("one.yaml", &manifest('a'))?;
        hub.start()?;
        let mut agent = Agent::new(&folder.join("node"), "mast-17")?;
        agent.configure(sample_interval_ms, batch)?;
        agent.enroll(&hub)?;
        agent.start()?;
        agent.wait_until_up()?;
        let pair = Self { hub, agent, proxy };
        pair.wait_until_in_sync()?;
        Ok(pair)
    }

    fn wait_until_in_sync(&self) -> anyhow::Result<()> {
        self.agent.wait_for("all is in force and told", PATIENCE, |status| {
            let pods = status["pods"].as_array().map_or(0, Vec::len);
            in_session(status)
                && pods == 1
                && status.pointer("/sync/reported_in_sync") == Some(&serde_json::Value::Bool(true))
                && number(status, "/outbox/event_records") == 0
        })
    }

    /// What crosses when the connection is reset and comes again.
    fn reconnect(&self) -> anyhow::Result<Count> {
        let begun = self.proxy.count_when_quiet(QUIET)?;
        let connects = number(&self.agent.status()?, "/link/connects");
        self.proxy.cut();
        self.agent.wait_for("connected again", PATIENCE, |status| {
            number(status, "/link/connects") > connects && in_session(status)
        })?;
        Ok(self.proxy.count_when_quiet(QUIET)?.since(begun))
    }
}

/// A workload of one pod that no node has room for, so that nothing but the change itself crosses.
fn manifest(image: char) -> String {
    let digest = image.to_string().repeat(64);
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: one\nspec:\n  \
         template:\n    spec:\n      containers:\n        - name: server\n          image: \
         registry.example/server@sha256:{digest}\n          command: [sleep, \"100000\"]\n          \
         resources:\n            requests: {{cpu: \"10000\"}}\n"
    )
}

/// Headers, and what TLS carries, each way.
fn words(count: Count) -> String {
    let one = |way: &str, flow: Flow| {
        let Flow { packets, wire_bytes, payload_bytes } = flow;
        format!("{way} {wire_bytes} bytes in {packets} packets, {payload_bytes} of them TLS")
    };
    format!("{}, {}", one("up", count.up), one("down", count.down))
}

/// A connection that comes again with everything in sync: with what both ends remember, and without.
pub(super) fn reconnect() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut pair = Pair::new(folder.path(), 60_000, 60)?;
    // The tickets of a start's first connection are from before the hub told the node the time, and
    // may be held for expired.
    pair.reconnect()?;
    let resumed = pair.reconnect()?;
    pair.agent.kill();
    let begun = pair.proxy.count_when_quiet(QUIET)?;
    pair.agent.start()?;
    pair.agent.wait_until_up()?;
    pair.wait_until_in_sync()?;
    let full = pair.proxy.count_when_quiet(QUIET)?.since(begun);
    let how_resumed = format!(
        "a connection is reset; from the next SYN until all is quiet, with a resumed TLS session and \
         the same session above; the {RESET_BYTES} bytes of the reset, which the figure leaves out, \
         are among these: {}",
        words(resumed)
    );
    let how_full = format!(
        "the agent is killed and started; from its SYN until all is quiet, with certificates, a new \
         session, and the greeting and report of a new start: {}",
        words(full)
    );
    let figure = |name, bytes: u64, how: &str| Figure::new(name, bytes, "bytes", how);
    let resumed = resumed.wire_bytes() - RESET_BYTES;
    Ok(vec![
        figure("reconnect_bytes_in_sync_resumed", resumed, &how_resumed),
        figure("reconnect_bytes_in_sync_full", full.wire_bytes(), &how_full),
    ])
}

/// One image's digest in one workload changes: what is signed and acknowledged, and what the node then
/// tells of its pods.
pub(super) fn image_change() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let pair = Pair::new(folder.path(), 60_000, 60)?;
    let begun = pair.proxy.count_when_quiet(QUIET)?;
    let digest = |status: &serde_json::Value| status.pointer("/sync/desired_digest").cloned();
    let before = digest(&pair.agent.status()?);
    pair.hub.apply("one.yaml", &manifest('b'))?;
    let acknowledged = pair.proxy.count_of_first_answer(QUIET)?.since(begun);
    pair.agent.wait_for("the change is in force", PATIENCE, |status| digest(status) != before)?;
    let all = pair.proxy.count_when_quiet(QUIET)?.since(begun);
    let how = format!(
        "a manifest with another image is applied: the signed change and its acknowledgement, until \
         the node's next word: {}",
        words(acknowledged)
    );
    let how_all = format!(
        "the same and what the node reports of its pods afterwards, until all is quiet; without \
         telemetry: {}",
        words(all)
    );
    Ok(vec![
        Figure::new("image_change_bytes", acknowledged.wire_bytes(), "bytes", &how),
        Figure::new("image_change_reported_bytes", all.wire_bytes(), "bytes", &how_all),
    ])
}
