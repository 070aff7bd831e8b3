//! A hub for tests: the production loop and API on a store in memory, without a broker.

use super::hub::{Ended, Hub, Inputs};
use super::registry::Registry;
use super::signing::Signer;
use super::sinks::Sinks;
use super::world::{HubStore, World};
use crate::admin::{self, BrokerStatus, ManifestsStatus, Token};
use crate::broker::BrokerEvent;
use crate::config::BrokerUrl;
use crate::core::{HubCore, HubKeys, read_stored_state};
use crate::manifests::{ManifestProblem, ManifestProblems, Manifests, ReadManifests};
use shared::io::clock::SystemClock;
use shared::ports::{KeyValue, Store, StoreError, Tree, Write, WriteBatch};
use shared::trust::certificate::CertificateAuthority;
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// A store in memory that can be told to be full, and outlives its hub.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    values: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
    full: bool,
}

impl Memory {
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }
}

impl Store for Memory {
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().unwrap().values.get(&(tree, key.to_vec())).cloned())
    }

    fn scan(&self, tree: Tree, _: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let held = self.0.lock().unwrap();
        let of_tree = held.values.iter().filter(|((of, _), _)| *of == tree);
        let pairs = of_tree.map(|((_, key), value)| (key.clone(), value.clone()));
        Ok(pairs.take(count_max).collect())
    }

    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        let mut held = self.0.lock().unwrap();
        if held.full {
            return Err(StoreError { attempted: "commit", source: "no space left".into() });
        }
        for write in &batch.writes {
            match write.clone() {
                Write::Put { tree, key, value } => drop(held.values.insert((tree, key), value)),
                Write::Delete { tree, key } => drop(held.values.remove(&(tree, key))),
            }
        }
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}

impl HubStore for Memory {
    fn must_restart(&self) -> bool {
        false
    }
}

/// A running hub. Stops when it is dropped.
pub(crate) struct TestHub {
    /// Where its API is.
    pub(crate) api: SocketAddr,
    broker: mpsc::Sender<BrokerEvent>,
    manifests: mpsc::Sender<ReadManifests>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Ended>,
    served: JoinHandle<()>,
    /// Of the enrolments.
    folder: Arc<tempfile::TempDir>,
}

impl TestHub {
    /// A hub on `store`, with one set of keys for all of a process's hubs and no enrolments.
    pub(crate) async fn start(store: Memory, token: Option<Token>) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), store, token).await
    }

    /// Stops, and starts again on `store` with the same enrolments.
    pub(crate) async fn restart(self, store: Memory) -> Self {
        let folder = Arc::clone(&self.folder);
        self.stop().await;
        Self::start_in(folder, store, None).await
    }

    async fn start_in(folder: Arc<tempfile::TempDir>, store: Memory, token: Option<Token>) -> Self {
        let clock = SystemClock::new();
        let keys = HubKeys {
            session: SessionPrivateKey::generate([1; 32]),
            signing: SigningKey::generate([2; 32]),
        };
        let now = clock.now();
        let authority = CertificateAuthority::create("test", now.wall).unwrap();
        let url: BrokerUrl = "mqtts://hub.example:8883".parse().unwrap();
        let signer = Signer::new(authority, &keys, url, &store).unwrap();
        let mut stored = read_stored_state(&store).unwrap();
        let registry = Registry::new(folder.path().join("enrolled"));
        registry.restore(&mut stored);
        let core = HubCore::new(keys, [3; 32], stored, now);
        let (sinks, delivered) = Sinks::none();
        let (world, status) = (World::new(store, sinks), BrokerStatus::default());
        let manifests = ManifestsStatus::default();
        let mut hub = Hub {
            core,
            world,
            signer,
            registry,
            clock,
            broker: status,
            manifests,
            kubernetes: None,
            replica: None,
            called_out: false,
        };
        hub.begin();
        let (broker, broker_events) = mpsc::channel(16);
        let (readings, manifests) = mpsc::channel(16);
        let (queries, questions) = admin::queries();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap();
        let served = tokio::spawn(admin::serve(
            listener,
            admin::router(queries, token, admin::Standby::default()),
        ));
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let (_silent, changes) = mpsc::channel(1);
            let broker = broker_events;
            let (_alone, shared) = mpsc::channel(1);
            let queries = questions;
            let mut inputs = Inputs { broker, manifests, changes, queries, delivered, shared };
            hub.run(&mut inputs, async { drop(stopped.await) }).await
        });
        Self { api, broker, manifests: readings, stop: Some(stop), running, served, folder }
    }

    /// Valid manifests without anything in them, and a broker that is up.
    pub(crate) async fn make_ready(&self) {
        self.manifests.send(Ok(Manifests::default())).await.unwrap();
        self.broker.send(BrokerEvent::BrokerUp).await.unwrap();
    }

    /// Enrolments can't be written any more, until [`Self::mend_registry`].
    pub(crate) fn break_registry(&self) {
        // A file where the folder should be: also root can't write into that.
        let enrolled = self.folder.path().join("enrolled");
        std::fs::rename(&enrolled, self.folder.path().join("aside")).unwrap();
        std::fs::write(enrolled, "").unwrap();
    }

    /// Enrolments are what they were when they broke, and can be written again.
    pub(crate) fn mend_registry(&self) {
        let enrolled = self.folder.path().join("enrolled");
        std::fs::remove_file(&enrolled).unwrap();
        std::fs::rename(self.folder.path().join("aside"), enrolled).unwrap();
    }

    /// Manifests with a problem.
    pub(crate) async fn send_problem(&self) {
        let problem = ManifestProblem {
            file: "a.yaml".to_owned(),
            line: 3,
            path: "spec".to_owned(),
            problem: "wrong".to_owned(),
        };
        let refused = ManifestProblems { problems: vec![problem], omitted: 0 };
        self.manifests.send(Err(refused)).await.unwrap();
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.served.abort();
        assert_eq!((&mut self.running).await.unwrap(), Ended::Stopped);
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.served.abort();
        self.running.abort();
    }
}
