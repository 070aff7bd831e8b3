//! A fleet in one process: each node is the agent's own core on a store in memory, with keys of its own
//! and a link of its own to the hub's broker, over mutual TLS, as an agent opens it.
//!
//! Only what pods run on is made up (`machine.rs`): a pod that is started runs and is ready at once.
//! Nodes measure little and seldom, so that what crosses is what the hub makes cross.

mod machine;
mod node;

use super::hub::Hub;
use anyhow::{Context, ensure};
use node::{Keys, Node, Seen};
use rustix::process::{Resource, getrlimit, setrlimit};
use shared::io::mqtt::MqttClient;
use shared::model::NodeId;
use shared::trust::certificate::NodeKey;
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPrivateKey;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// All nodes together: their work is a handshake now and then.
const THREADS: usize = 2;

/// A node as it is seen from outside.
struct Member {
    client: Arc<MqttClient>,
    seen: Arc<Seen>,
}

/// Nodes that run until it is dropped.
pub struct Fleet {
    members: Vec<Member>,
    runtime: Runtime,
}

/// Payload bytes that crossed, as the nodes counted them: what is within MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayloadBytes {
    /// From nodes to the hub.
    pub up: u64,
    /// From the hub to nodes.
    pub down: u64,
}

impl PayloadBytes {
    /// What crossed since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            up: self.up.saturating_sub(earlier.up),
            down: self.down.saturating_sub(earlier.down),
        }
    }

    /// Both ways.
    #[must_use]
    pub fn total(self) -> u64 {
        self.up + self.down
    }
}

impl Fleet {
    /// No nodes yet.
    ///
    /// # Errors
    /// When there are no threads.
    pub fn new() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("fleet")
            .enable_all()
            .build()?;
        Ok(Self { members: vec![], runtime })
    }

    /// Enrols the node of this number with a hub that runs, and starts it.
    ///
    /// # Errors
    /// When the hub does not sign.
    pub fn enrol(&mut self, hub: &Hub, number: usize) -> anyhow::Result<()> {
        let node = NodeId::new(&name_of(number))?;
        let key = NodeKey::generate()?;
        let session_key = SessionPrivateKey::generate(shared::io::keys::fresh_seed());
        let request = key.request(&node, &session_key.public())?;
        let answer = hub.tell("/v1/nodes/sign", request.as_bytes())?;
        let text = String::from_utf8(answer.body)?;
        ensure!(answer.status == 200, "the hub did not sign: {text}");
        let keys = Keys { tls: key, session: session_key, enrollment: Enrollment::parse(&text)? };
        // A link begins on the runtime that it is made on.
        let _entered = self.runtime.enter();
        let node = Node::start(keys).with_context(|| format!("{node} does not start"))?;
        self.members.push(Member { client: node.client(), seen: node.seen() });
        drop(self.runtime.spawn(node.run()));
        Ok(())
    }

    /// Nodes that are in session, have told all that they have to tell, and run so many pods.
    #[must_use]
    pub fn settled(&self, pods: usize) -> usize {
        self.members.iter().filter(|member| member.seen.is_settled(pods)).count()
    }

    /// Nodes that are in session.
    #[must_use]
    pub fn in_session(&self) -> usize {
        self.members.iter().filter(|member| member.seen.is_in_session()).count()
    }

    /// What crossed since the nodes started.
    #[must_use]
    pub fn payload_bytes(&self) -> PayloadBytes {
        let counters = self.members.iter().map(|member| member.client.counters());
        counters.fold(PayloadBytes::default(), |sum, counters| PayloadBytes {
            up: sum.up + counters.payload_bytes_sent,
            down: sum.down + counters.payload_bytes_received,
        })
    }
}

/// The name of a node; the order of names is that of numbers.
#[must_use]
pub fn name_of(number: usize) -> String {
    format!("node-{number:05}")
}

/// Lets this process, and those that it starts from now on, have so many files and connections open.
///
/// # Errors
/// When the system does not let it have them.
pub fn allow_open_files(count: u64) -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    limit.current = Some(limit.maximum.map_or(count, |most| most.min(count)));
    setrlimit(Resource::Nofile, limit)?;
    let most = limit.current.unwrap_or(count);
    ensure!(most >= count, "{count} files must be open at once, and the system allows {most}");
    Ok(())
}
