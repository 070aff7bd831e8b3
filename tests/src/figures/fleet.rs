//! A hub process with a fleet: 2 000 nodes in session, 500 workloads, a real Kubernetes API server.
//!
//! Nodes are those of [`crate::real::fleet`]: their pods are only said to run. What the hub wrote is counted by
//! the API server, and what crossed by the hub's broker and by the nodes.

use super::{Figure, work_folder};
use crate::real::api_writes::ApiWrites;
use crate::real::fleet::{Fleet, allow_open_files, name_of};
use crate::real::http::request;
use crate::real::hub::Hub;
use crate::real::kubernetes::Cluster;
use crate::real::process::{resident_kib, wait_until};
use anyhow::{Context, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// Nodes, unless [`NODES_VARIABLE`] says another number for a trial.
const NODES: usize = 2_000;
const NODES_VARIABLE: &str = "FLEET_NODES";

/// Workloads: one on every node, and the others on a few nodes each, so that a node runs two.
const WORKLOADS: usize = 500;
const PODS_PER_NODE: usize = 2;

/// The one on every node, and how its new templates reach them.
const EVERYWHERE: &str = "everywhere";
const ROLLOUT: &str = "{waves: [1, 10%]}";

/// Objects that are applied at once.
const OBJECTS_AT_ONCE: usize = 250;

/// Of a process with a connection for each node, besides those: files of its own.
const OTHER_FILES: usize = 1_000;

/// 2 000 of anything, on a machine of two cores that others use as well.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Nothing is written for so long: all is said.
const QUIET: Duration = Duration::from_secs(15);

/// Between two looks at the API server's count.
const LOOK: Duration = Duration::from_secs(5);

/// How long a fleet at rest is watched.
const REST: Duration = Duration::from_secs(120);

struct Scene {
    cluster: Cluster,
    hub: Hub,
    fleet: Fleet,
    nodes: usize,
    /// From the first enrolment until nothing more was written.
    begun_in: Duration,
}

/// Memory, writes and bytes of one hub with its fleet.
pub(super) fn fleet() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut scene = Scene::new(folder.path())?;
    let measured = scene.measure();
    measured.with_context(|| format!("the hub's log ends with\n{}", scene.hub.log()))
}

impl Scene {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let nodes = match std::env::var(NODES_VARIABLE) {
            Ok(number) => number.parse().with_context(|| format!("{NODES_VARIABLE}={number}"))?,
            Err(_) => NODES,
        };
        allow_open_files(u64::try_from(nodes + OTHER_FILES)?)?;
        let cluster = Cluster::with_definitions(&folder.join("cluster"))?;
        apply_all(&cluster, nodes)?;
        let mut hub = Hub::new(&folder.join("hub"))?;
        hub.gather_acknowledgements()?;
        cluster.let_in(&hub)?;
        hub.start()?;
        let fleet = Fleet::new()?;
        Ok(Self { cluster, hub, fleet, nodes, begun_in: Duration::ZERO })
    }

    fn measure(&mut self) -> anyhow::Result<Vec<Figure>> {
        let begin = Instant::now();
        for number in 0..self.nodes {
            self.fleet.enrol(&self.hub, number)?;
        }
        self.wait_until_in_sync()?;
        let writes = self.writes_once_quiet()?;
        self.begun_in = begin.elapsed();
        let mut figures = self.rest(&writes)?;
        figures.extend(self.roll_out()?);
        figures.extend(self.restart()?);
        Ok(figures)
    }

    /// Every node runs what it should and has told so, and the hub knows it.
    fn wait_until_in_sync(&self) -> anyhow::Result<()> {
        wait_until("every node is settled", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(100));
            let (settled, nodes) = (self.fleet.settled(PODS_PER_NODE), self.nodes);
            let in_session = self.fleet.in_session();
            ensure!(settled == nodes, "{settled} of {nodes} are, {in_session} are in session");
            Ok(true)
        })?;
        wait_until("the hub knows that they are in sync", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(100));
            let nodes = self.hub.ask("/v1/nodes")?;
            let nodes = nodes.as_array().context("no list of nodes")?;
            let in_sync = nodes.iter().filter(|n| n["state"] == "Online" && n["in_sync"] == true);
            Ok(in_sync.count() == self.nodes)
        })
    }

    fn writes_once_quiet(&self) -> anyhow::Result<ApiWrites> {
        let begin = Instant::now();
        let (mut writes, mut since) = (ApiWrites::of(&self.cluster)?, Instant::now());
        while since.elapsed() < QUIET {
            ensure!(begin.elapsed() < PATIENCE, "statuses do not come to rest: {writes}");
            std::thread::sleep(LOOK);
            let now = ApiWrites::of(&self.cluster)?;
            if now != writes {
                (writes, since) = (now, Instant::now());
            }
        }
        Ok(writes)
    }

    /// Nothing changes for a while.
    fn rest(&self, begun: &ApiWrites) -> anyhow::Result<Vec<Figure>> {
        let (before, begin) = (ApiWrites::of(&self.cluster)?, Instant::now());
        std::thread::sleep(REST);
        let writes = ApiWrites::of(&self.cluster)?.since(&before);
        let took = begin.elapsed();
        let (resident, peak) = resident_kib(self.hub.id().context("the hub does not run")?)?;
        let (nodes, in_session) = (self.nodes, self.fleet.in_session());
        ensure!(in_session == nodes, "{in_session} of {nodes} nodes are in session");
        let how = format!(
            "VmRSS of the hub's process: {nodes} EdgeNodes and {WORKLOADS} InferenceWorkloads in an API \
             server, {nodes} nodes with {PODS_PER_NODE} pods each in session over mutual TLS, {took:.0?} \
             after nothing more was written; VmHWM is {} MiB. Enrolment of all and their first statuses took \
             {:.0?} and, with those of before, these writes: {begun}",
            mib(peak),
            self.begun_in,
        );
        let how_idle = format!(
            "by apiserver_request_total, leases aside, in {took:.0?} in which nothing was changed and all \
             {nodes} nodes were in session: {writes}"
        );
        #[allow(clippy::cast_precision_loss, reason = "a few writes")]
        let per_minute = writes.total() as f64 * 60.0 / took.as_secs_f64();
        Ok(vec![
            Figure::new("hub_rss_mib_2000_nodes", mib(resident), "MiB", &how),
            Figure::new("hub_idle_api_writes_per_min", rounded(per_minute), "1/min", &how_idle),
        ])
    }

    /// A new template of the workload that every node has.
    fn roll_out(&self) -> anyhow::Result<Vec<Figure>> {
        let before = ApiWrites::of(&self.cluster)?;
        let begin = Instant::now();
        self.cluster.apply(&everywhere("second"))?;
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let object = format!("iw/{EVERYWHERE}");
        self.cluster.kubectl(&["wait", "--for=condition=Ready", &timeout, &object])?;
        let took = begin.elapsed();
        let workload = self.cluster.get(&[&object])?;
        let count = |field| workload.pointer(field).and_then(serde_json::Value::as_u64);
        let counts = ["/status/updated", "/status/ready"].map(count);
        let all = Some(self.nodes as u64);
        ensure!(counts == [all, all], "it is not on every node: {workload}");
        self.wait_until_in_sync()?;
        let mut writes = self.writes_once_quiet()?.since(&before);
        writes.forget("inferenceworkloads", 1);
        let nodes = self.nodes;
        let how = format!(
            "a new template of a workload on all {nodes} nodes, with the rollout {ROLLOUT} and otherwise \
             defaults (25 % of the nodes at a time; each of the three waves must hold for 10 s, so 30 s of it \
             are waiting); from `kubectl apply` until `kubectl wait` sees all of them updated and ready"
        );
        let how_writes = format!(
            "of that rollout, by apiserver_request_total until nothing more was written, without the apply \
             itself: {writes}"
        );
        #[allow(clippy::cast_precision_loss, reason = "a few thousand writes")]
        let per_node = writes.total() as f64 / nodes as f64;
        let took = format!("{:.1}", took.as_secs_f64());
        Ok(vec![
            Figure::new("rollout_2000_nodes_s", took, "s", &how),
            Figure::new("rollout_api_writes_per_node", rounded(per_node), "1", &how_writes),
        ])
    }

    /// The hub starts anew, and nothing has changed.
    fn restart(&mut self) -> anyhow::Result<Vec<Figure>> {
        let (before, crossed) = (ApiWrites::of(&self.cluster)?, self.fleet.payload_bytes());
        self.hub.terminate()?;
        wait_until("every node sees that the hub is gone", PATIENCE, || {
            Ok(self.fleet.in_session() == 0)
        })?;
        let begin = Instant::now();
        self.hub.start()?;
        self.wait_until_in_sync()?;
        let took = begin.elapsed();
        let ((up, down), (sent_up, sent_down)) = self.broker_counters()?;
        let crossed = self.fleet.payload_bytes().since(crossed);
        let writes = self.writes_once_quiet()?.since(&before);
        let (resident, peak) = resident_kib(self.hub.id().context("the hub does not run")?)?;
        let nodes = self.nodes as u64;
        let how = format!(
            "payloads of MQTT both ways by the counters of the restarted hub's broker, from its start until all \
             {nodes} nodes were in sync {took:.0?} later, over their number: {up} bytes up in {sent_up} messages and {down} down in {sent_down} (the \
             nodes count {} and {}, telemetry among them). The restart made these writes: {writes}; the hub then \
             has {} MiB, {} at most",
            crossed.up,
            crossed.down,
            mib(resident),
            mib(peak),
        );
        let per_node = (up + down).div_ceil(nodes);
        Ok(vec![Figure::new("hub_restart_app_bytes_per_node", per_node, "bytes", &how)])
    }

    /// What the hub's broker has received and sent: payload bytes, and messages.
    fn broker_counters(&self) -> anyhow::Result<((u64, u64), (u64, u64))> {
        let answer = request(self.hub.api, "GET", "/metrics", &[], Duration::from_secs(60))?;
        let page = String::from_utf8(answer.body)?;
        let number = |name: &str| -> anyhow::Result<u64> {
            let name = format!("hinterland_hub_broker_{name}_total ");
            let value = page.lines().find_map(|line| line.strip_prefix(&name));
            Ok(value.with_context(|| format!("the page has no {name}"))?.trim().parse()?)
        };
        let bytes = (number("received_bytes")?, number("sent_bytes")?);
        Ok((bytes, (number("messages_received")?, number("messages_sent")?)))
    }
}

/// The objects that say what the fleet should run.
fn apply_all(cluster: &Cluster, nodes: usize) -> anyhow::Result<()> {
    let groups = WORKLOADS - 1;
    let nodes = (0..nodes).map(|number| {
        format!(
            "apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata:\n  name: {}\n  labels: \
             {{group: group-{}}}\n",
            name_of(number),
            number % groups
        )
    });
    let of_groups = (0..groups).map(|group| {
        let name = format!("group-{group}");
        workload(&name, &format!("{{nodeSelector: {{group: {name}}}}}"), "", "first")
    });
    let all: Vec<String> = nodes.chain(of_groups).chain([everywhere("first")]).collect();
    for objects in all.chunks(OBJECTS_AT_ONCE) {
        cluster.apply(&objects.join("---\n"))?;
    }
    Ok(())
}

fn everywhere(command: &str) -> String {
    workload(EVERYWHERE, "{}", &format!("  rollout: {ROLLOUT}\n"), command)
}

fn workload(name: &str, placement: &str, rollout: &str, command: &str) -> String {
    format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata:\n  name: {name}\n  namespace: \
         default\nspec:\n  placement: {placement}\n{rollout}  template:\n    spec:\n      containers:\n      - \
         name: server\n        command: [server, {command}]\n"
    )
}

fn mib(kib: u64) -> String {
    format!("{}.{:02}", kib / 1024, kib % 1024 * 100 / 1024)
}

/// With two decimals, unless it is whole.
fn rounded(number: f64) -> String {
    let text = format!("{number:.2}");
    text.strip_suffix(".00").map_or(text.clone(), str::to_owned)
}
