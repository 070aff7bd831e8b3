//! A hub that is one of several: it waits until it leads, takes over what the leader before knew, and
//! shares what the next one must know.

use super::registry::Registry;
use crate::admin::Standby;
use crate::cluster::{RecordKind, SharedRecord, SharedRecords};
use crate::config::KubernetesConfig;
use crate::core::{NodeRecord, SharedTemplates, StoredState, Templates};
use crate::leader::{Candidate, Leadership};
use futures_util::StreamExt as _;
use kube::Client;
use shared::io::clock::SystemClock;
use shared::io::keys::fresh_seed;
use shared::model::{MonotonicMs, NodeId};
use shared::ports::{Store, StoreError, Tree, WriteBatch};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// The Lease and the records of a fleet's hubs.
const LEASE: &str = "hinterland-hub";

/// Between two attempts to read or write a record.
const PAUSE: Duration = Duration::from_secs(1);

/// Records that are written at the same time.
const WRITES_AT_ONCE: usize = 8;

/// Whoever waits for an enrolment or a revocation hears after so long that it is not shared.
const NOTE_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Replica {
    leadership: Leadership,
    records: SharedRecords,
}

/// What the leader before knew.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    records: Vec<SharedRecord>,
}

impl Replica {
    /// Waits until this hub leads.
    pub(super) async fn lead(client: Client, config: &KubernetesConfig, standby: &Standby) -> Self {
        let namespace = config.namespace.as_deref().unwrap_or(client.default_namespace());
        let namespace = namespace.to_owned();
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let [a, b, c, d, ..] = fresh_seed();
        // Another at each start: a process that comes back is not the one that held it.
        let own = format!("{machine}_{:08x}", u32::from_be_bytes([a, b, c, d]));
        standby.begin("");
        let candidate = Candidate::new(client.clone(), &namespace, LEASE, own);
        let leadership = candidate.lead(|leader| standby.begin(leader)).await;
        standby.end();
        Self { leadership, records: SharedRecords::new(client, &namespace) }
    }

    /// Whether this hub still leads.
    pub(super) fn holds(&self, now: MonotonicMs) -> bool {
        self.leadership.holds(now)
    }

    /// Ends when it does not any more.
    pub(super) async fn lost(&mut self) {
        self.leadership.lost().await;
    }

    /// Lets another lead at once.
    pub(super) async fn release(self) {
        self.leadership.release().await;
    }

    /// Reads what the leader before shared. Nothing can begin without it: it is tried for as long as this
    /// hub leads.
    pub(super) async fn inherit(&self) -> Inherited {
        loop {
            match self.records.read_all().await {
                Ok(records) => {
                    info!(records = records.len(), "read what the hubs share");
                    return Inherited { records };
                }
                Err(error) => {
                    let error = shared::in_words(&error);
                    warn!(error, "what the hubs share can't be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Shares what `inherited` did not have: enrolments of the time before there were several hubs.
    pub(super) async fn share_enrolments(&self, inherited: &Inherited, stored: &StoredState) {
        let known: BTreeSet<&str> =
            inherited.of(RecordKind::Node).map(|r| r.key.as_str()).collect();
        let holds = self.leadership.question();
        let missing = stored.nodes.iter().filter(|(node, _)| !known.contains(node.as_str()));
        let missing = missing.map(|(node, record)| node_record(node, record));
        write_all(&self.records, &holds, missing.map(Write::Put)).await;
    }

    /// Begins to share templates: what is sent into the first is shared, and then said by the second.
    pub(super) fn share_templates(&self) -> (mpsc::Sender<SharedTemplates>, mpsc::Receiver<()>) {
        // The core sends no more before it has heard of the last.
        let (sender, mut batches) = mpsc::channel::<SharedTemplates>(1);
        let (done, shared) = mpsc::channel(1);
        let (records, holds) = (self.records.clone(), self.leadership.question());
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                let writes = batch.into_iter().map(|(key, value)| match value {
                    Some(value) => {
                        Write::Put(SharedRecord { kind: RecordKind::Templates, key, value })
                    }
                    None => Write::Delete(RecordKind::Templates, key),
                });
                if !write_all(&records, &holds, writes).await || done.send(()).await.is_err() {
                    return;
                }
            }
        });
        (sender, shared)
    }

    /// Shares who holds a node's name, and whether he is welcome.
    ///
    /// # Errors
    /// A sentence, when it is not known to be shared.
    pub(super) fn note(
        &self,
        node: &NodeId,
        record: &NodeRecord,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (records, record) = (self.records.clone(), node_record(node, record));
        async move {
            match tokio::time::timeout(NOTE_TIMEOUT, records.put(&record)).await {
                Ok(written) => written.map_err(|error| shared::in_words(&error)),
                Err(_) => Err("the API server did not answer in time".to_owned()),
            }
        }
    }
}

impl Inherited {
    fn of(&self, kind: RecordKind) -> impl Iterator<Item = &SharedRecord> {
        self.records.iter().filter(move |record| record.kind == kind)
    }

    /// Puts what was stored right by what was shared since: another hub may have led. Whether templates
    /// were shared; else those of the store are all there is.
    ///
    /// # Errors
    /// When the store can't be written.
    pub(super) fn put_right(
        &self,
        stored: &mut StoredState,
        registry: &Registry,
        store: &mut dyn Store,
    ) -> Result<bool, StoreError> {
        let nodes = self.of(RecordKind::Node);
        registry.restore_from(stored, nodes.map(|record| (&record.key, &record.value)));
        let mut shared = self.of(RecordKind::Templates).peekable();
        if shared.peek().is_none() {
            return Ok(false);
        }
        let mut batch = WriteBatch::new();
        for key in stored.templates.keys() {
            batch.delete(Tree::Templates, key.to_string());
        }
        stored.templates.clear();
        for record in shared {
            match Templates::decode(record.key.as_bytes(), &record.value) {
                Ok((key, templates)) => {
                    batch.put(Tree::Templates, record.key.clone(), record.value.clone());
                    stored.templates.insert(key, templates);
                }
                Err(problem) => warn!(problem, "passed over a workload's shared templates"),
            }
        }
        store.commit(&batch)?;
        Ok(true)
    }
}

fn node_record(node: &NodeId, record: &NodeRecord) -> SharedRecord {
    let (kind, value) = (RecordKind::Node, Registry::entry_of(record));
    SharedRecord { kind, key: node.to_string(), value }
}

enum Write {
    Put(SharedRecord),
    Delete(RecordKind, String),
}

/// Writes all, each for as long as this hub leads; whether it still does.
async fn write_all(
    records: &SharedRecords,
    holds: &(impl Fn(MonotonicMs) -> bool + Sync),
    writes: impl Iterator<Item = Write>,
) -> bool {
    let clock = Arc::new(SystemClock::new());
    let leads = || holds(clock.now().monotonic);
    let one = async |write: Write| {
        while leads() {
            let written = match &write {
                Write::Put(record) => records.put(record).await,
                Write::Delete(kind, key) => records.delete(*kind, key).await,
            };
            let Err(error) = written else { return };
            warn!(error = shared::in_words(&error), "a record was not shared: it is tried again");
            tokio::time::sleep(PAUSE).await;
        }
    };
    futures_util::stream::iter(writes).for_each_concurrent(WRITES_AT_ONCE, one).await;
    leads()
}
