//! The main job as a story: what the demo tells and what the end-to-end tests repeat.
//!
//! Each step does one thing to real processes and returns the figures that belong to it; an error
//! says which promise was broken. The demo prints the figures, the tests only need them to come.

mod inference;

pub use inference::{Answers, Question, questions};

use crate::real::agent::Agent;
use crate::real::binaries::binary;
use crate::real::containerd::Containerd;
use crate::real::hub::Hub;
use crate::real::oci::import_program;
use crate::real::process::{free_port, wait_until};
use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The manifest that the story deploys.
const MANIFEST: &str = include_str!("../../../deploy/examples/classifier.yaml");

/// The port in that manifest; each story has one of its own instead.
const MANIFEST_PORT: &str = "8080";

/// The line of the manifest before which the image stands, where there is one.
const MANIFEST_COMMAND: &str = "          command: [\"file-classifier\"]\n";

/// The server's image, which is built here.
const IMAGE: &str = "docker.io/hinterland/file-classifier:1";

/// The pod that the manifest makes.
pub const POD: &str = "default/file-classifier-0";

/// Patience with a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// One hub, one node, and the model's server on it.
#[derive(Debug)]
pub struct Story {
    /// The hub.
    pub hub: Hub,
    /// The node.
    pub agent: Agent,
    /// Where the model answers.
    pub server: SocketAddr,
    /// What runs its pods, where these are containers.
    containerd: Option<Containerd>,
    grace_seconds: u32,
}

/// How long it took until the node was in session.
#[derive(Debug, Clone, Copy)]
pub struct Joined {
    /// From the agent's start to its greeting answered.
    pub in_session: Duration,
}

/// How long it took until the model answered.
#[derive(Debug)]
pub struct Deployed {
    /// From the manifest's writing to the pod's being ready.
    pub ready: Duration,
    /// What the model said.
    pub answers: Answers,
}

/// What a power cut without a network cost.
#[derive(Debug)]
pub struct Recovered {
    /// Processes that were killed.
    pub killed: usize,
    /// From the agent's start to the first correct answer.
    pub first_answer: Duration,
    /// Of that, the model's own load.
    pub model_load: Duration,
    /// What the model said.
    pub answers: Answers,
}

/// What came of the reunion.
#[derive(Debug, Clone, Copy)]
pub struct Reunited {
    /// From the hub's start to everything's being delivered and in force.
    pub settled: Duration,
    /// Samples that waited in the outbox when the hub came back.
    pub backfilled_samples: u64,
    /// Samples that the node ever put into its outbox.
    pub samples_recorded: u64,
    /// Samples that the hub took.
    pub samples_received: u64,
    /// Payload bytes that the node sent and received since its start.
    pub link_bytes: u64,
    /// Payloads in both directions.
    pub link_messages: u64,
}

impl Story {
    /// A hub and a node in `folder`, neither running.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(folder: &Path, node: &str) -> anyhow::Result<Self> {
        let hub = Hub::new(&folder.join("hub"))?;
        let agent = Agent::new(&folder.join("node"), node)?;
        let server = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        Ok(Self { hub, agent, server, containerd: None, grace_seconds: 5 })
    }

    /// The same, with pods as containers of a containerd that runs. Needs root.
    ///
    /// # Errors
    /// When the folder can't be written, or containerd does not start.
    pub fn in_containers(folder: &Path, node: &str) -> anyhow::Result<Self> {
        let containerd = Containerd::start()?;
        import_program(&containerd, IMAGE, &binary("file-classifier")?)?;
        let story = Self::new(folder, node)?;
        story.agent.use_cri(&containerd.socket(), &containerd.cgroup)?;
        Ok(Self { containerd: Some(containerd), ..story })
    }

    /// Withdraws the workload and ends everything.
    ///
    /// # Errors
    /// When anything of its containers is left.
    pub fn end(self) -> anyhow::Result<()> {
        let Some(containerd) = &self.containerd else { return Ok(()) };
        self.hub.withdraw("classifier.yaml")?;
        wait_until("nothing is left of the containers", PATIENCE, || {
            let leaks = containerd.leaks()?;
            ensure!(leaks.is_empty(), "{leaks:?}");
            Ok(true)
        })
    }

    /// The hub starts; the node makes its keys, has them signed, and connects.
    ///
    /// # Errors
    /// When they don't come into session.
    pub fn join(&mut self) -> anyhow::Result<Joined> {
        self.hub.start().context("the hub did not start")?;
        self.agent.enroll(&self.hub).context("the node could not enrol")?;
        let begin = self.agent.start()?;
        self.agent.wait_until_up()?;
        self.agent.wait_for("agent and hub are in session", PATIENCE, in_session)?;
        Ok(Joined { in_session: begin.elapsed() })
    }

    /// The workload, with this story's port and grace period.
    fn manifest(&self) -> String {
        let port = self.server.port().to_string();
        let grace = format!("terminationGracePeriodSeconds: {}", self.grace_seconds);
        let manifest = MANIFEST
            .replace(MANIFEST_PORT, &port)
            .replace("terminationGracePeriodSeconds: 5", &grace);
        match self.containerd {
            None => manifest,
            Some(_) => {
                let image = format!("          image: {IMAGE}\n{MANIFEST_COMMAND}");
                manifest.replace(MANIFEST_COMMAND, &image)
            }
        }
    }

    /// The workload is written; the pod starts, and the model answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn deploy(&mut self) -> anyhow::Result<Deployed> {
        let begin = Instant::now();
        self.hub.apply("classifier.yaml", &self.manifest())?;
        self.agent.wait_for("the pod is ready", PATIENCE, pod_is_ready)?;
        let ready = begin.elapsed();
        let answers = Answers::ask(self.server)?;
        let node = self.agent.node.clone();
        self.hub.wait_for_node(
            &node,
            "the hub knows that the pod is ready",
            PATIENCE,
            pod_is_ready,
        )?;
        Ok(Deployed { ready, answers })
    }

    /// The hub is killed, then the power fails; the agent starts with no hub to reach.
    ///
    /// # Errors
    /// When the model does not answer again as before.
    pub fn lose_everything(&mut self) -> anyhow::Result<Recovered> {
        self.hub.kill();
        let mut killed = self.agent.processes().len();
        self.agent.cut_power();
        if let Some(containerd) = &mut self.containerd {
            killed += containerd.processes().len() + 1;
            containerd.cut_power()?;
        }
        ensure!(
            Answers::first(self.server).is_err(),
            "something still answers after the power cut"
        );
        // On a node that boots, both come up at once; the agent waits for it.
        let begin = self.agent.start()?;
        if let Some(containerd) = &mut self.containerd {
            containerd.resume()?;
        }
        let server = self.server;
        wait_until("the model answers again", PATIENCE, || Ok(Answers::first(server).is_ok()))?;
        let first_answer = begin.elapsed();
        let model_load = inference::model_load(self.server)?;
        let answers = Answers::ask(self.server)?;
        let offline = self.agent.status()?;
        ensure!(!in_session(&offline), "the agent claims a session with a dead hub");
        Ok(Recovered { killed, first_answer, model_load, answers })
    }

    /// What should run is changed; the revision that runs now, as the agent says.
    ///
    /// # Errors
    /// When the manifest can't be written or the agent does not answer.
    pub fn change(&mut self) -> anyhow::Result<Option<u64>> {
        let before = revision(&self.agent.status()?);
        self.grace_seconds += 1;
        self.hub.apply("classifier.yaml", &self.manifest())?;
        Ok(before)
    }

    /// Waits until another revision than `before` is ready, the model answers, and nothing is left to
    /// deliver.
    ///
    /// # Errors
    /// When that does not come.
    pub fn settle(&self, before: Option<u64>) -> anyhow::Result<()> {
        self.agent.wait_for("the changed pod is ready", PATIENCE, |status| {
            in_session(status) && pod_is_ready(status) && revision(status) != before
        })?;
        let server = self.server;
        wait_until("the model answers", PATIENCE, || Answers::first(server).map(|()| true))?;
        self.agent.wait_for("everything is delivered", PATIENCE, is_drained)
    }

    /// While the hub is away, what should run is changed, and samples are taken.
    ///
    /// # Errors
    /// When no samples pile up, or the pod does not go on.
    pub fn wait_offline(&mut self, batches: u64) -> anyhow::Result<u64> {
        self.grace_seconds += 1;
        self.hub.apply("classifier.yaml", &self.manifest())?;
        self.agent.wait_for("telemetry piles up", PATIENCE, |status| {
            number(status, "/outbox/telemetry_records") >= batches
        })?;
        let status = self.agent.status()?;
        ensure!(pod_is_ready(&status), "the pod stopped without a hub: {status}");
        Ok(number(&status, "/outbox/telemetry_records"))
    }

    /// The hub comes back: the change arrives, what was recorded is delivered, counts agree.
    ///
    /// # Errors
    /// When anything is lost, doubled or late.
    pub fn reunite(&mut self) -> anyhow::Result<Reunited> {
        let before = self.agent.status()?;
        let old_revision = revision(&before);
        let begin = Instant::now();
        self.hub.start()?;
        let taken = number(&self.hub.node(&self.agent.node)?, "/samples_received");
        self.agent.wait_for("the changed pod is ready", PATIENCE, |status| {
            in_session(status) && pod_is_ready(status) && revision(status) != old_revision
        })?;
        self.agent.wait_for("everything recorded is delivered", PATIENCE, is_drained)?;
        let settled = begin.elapsed();
        let (recorded, received) = self.compare_accounts()?;
        let status = self.agent.status()?;
        let link = |name: &str| number(&status, &format!("/link/{name}"));
        Ok(Reunited {
            settled,
            backfilled_samples: number(&before, "/outbox/samples_recorded").saturating_sub(taken),
            samples_recorded: recorded,
            samples_received: received,
            link_bytes: link("sent_bytes") + link("received_bytes"),
            link_messages: link("sent_messages") + link("received_messages"),
        })
    }

    /// Samples recorded by the node and taken by the hub, when nothing is under way.
    ///
    /// # Errors
    /// When they differ, or the hub counted losses.
    pub fn compare_accounts(&self) -> anyhow::Result<(u64, u64)> {
        let mut counts = (0, 0);
        wait_until("both sides have counted the same samples", PATIENCE, || {
            let status = self.agent.status()?;
            let view = self.hub.node(&self.agent.node)?;
            ensure!(number(&view, "/records_lost") == 0, "the hub counted lost records: {view}");
            counts =
                (number(&status, "/outbox/samples_recorded"), number(&view, "/samples_received"));
            ensure!(counts.0 == counts.1, "recorded {}, received {}", counts.0, counts.1);
            Ok(counts.0 > 0)
        })?;
        Ok(counts)
    }
}

/// A number somewhere in a status.
#[must_use]
pub fn number(value: &serde_json::Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0)
}

/// Whether agent and hub are in session.
#[must_use]
pub fn in_session(status: &serde_json::Value) -> bool {
    status.pointer("/sync/session").and_then(serde_json::Value::as_str) == Some("established")
}

/// Whether the model's pod is ready, in the status of the agent or the view of the hub.
#[must_use]
pub fn pod_is_ready(status: &serde_json::Value) -> bool {
    let pods = status.pointer("/pods").and_then(serde_json::Value::as_array);
    let ready = |pod: &serde_json::Value| {
        pod["pod"] == POD && pod["ready"] == true && pod["phase"] == "Running"
    };
    pods.is_some_and(|pods| pods.iter().any(ready))
}

fn revision(status: &serde_json::Value) -> Option<u64> {
    let pods = status.pointer("/pods").and_then(serde_json::Value::as_array)?;
    pods.iter().find(|pod| pod["pod"] == POD)?.get("revision")?.as_u64()
}

fn is_drained(status: &serde_json::Value) -> bool {
    let waiting = |name: &str| number(status, &format!("/outbox/{name}"));
    waiting("event_records") + waiting("telemetry_records") == 0
}
