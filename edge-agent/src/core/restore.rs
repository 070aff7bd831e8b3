//! What the core is at boot, from the local store alone.

use super::attempts::Attempts;
use super::calls::Calls;
use super::clocks::Clocks;
use super::downlink::{DESIRED_HEADER_KEY, open_header};
use super::gpu_health::KnownGpus;
use super::images::Images;
use super::recorder::{Recorder, RecorderOptions, SAMPLES_KEY};
use super::results::Results;
use super::storage::Storage;
use super::uplink::empty_report;
use super::{AgentCore, Effect};
use crate::audit;
use crate::devices::NodeDevices;
use crate::gpu::GpuConditions;
use crate::heat::Heat;
use crate::models::NodeModels;
use crate::pods::{PodRecord, Pods};
use crate::ports::Observation;
use crate::pressure::Pressure;
use crate::scaling::Scaling;
use shared::limits::{MAP_ITEM_BYTES_MAX, MAP_ITEMS_MAX};
use shared::model::{GpuInventory, NodeCapacity, NodeId, Now};
use shared::ports::{Store, StoreError, Tree};
use shared::sync::{
    AgentSession, Budget, MapContent, MapPublisher, MapReceiver, Outbox, OutboxQuota, StoredBudget,
};
use shared::trust::session::{SessionPrivateKey, SessionPublicKey};
use shared::trust::signature::VerifyingKey;
use shared::wire::{Incarnation, MapName, MapPosition, Version, decode};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tracing::{info, warn};

/// Records of [`Tree::Meta`]: a few positions, and one for each start whose logs are not delivered.
const META_RECORDS_MAX: usize = 65_536;

/// A pod's record: a few names and numbers.
const POD_RECORD_BYTES_MAX: usize = 64 * 1024;

/// What a core is told once.
pub struct CoreOptions {
    /// This node.
    pub node: NodeId,
    /// This build, for people.
    pub agent_version: String,
    /// This start; greater than every one before.
    pub incarnation: Incarnation,
    /// This boot of the machine: the first 8 bytes of the kernel's boot id; 0 where nobody knows.
    pub boot: u64,
    /// Fresh entropy, for handshakes.
    pub seed: [u8; 32],
    /// This node's key for sessions.
    pub session_key: SessionPrivateKey,
    /// The hub's key for sessions.
    pub hub_session_key: SessionPublicKey,
    /// The hub's key for signatures.
    pub hub_signing_key: VerifyingKey,
    /// What the node has to give.
    pub capacity: Capacity,
    /// What of it pods may not have.
    pub reserved: Reserved,
    /// How often is sampled.
    pub recorder: RecorderOptions,
    /// Bytes of records that are kept.
    pub quota: OutboxQuota,
    /// Whether the runtime runs pods of several containers.
    pub several_containers: bool,
}

/// What a node has to give.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// GPUs; `None` while the driver has not answered. Until then no pod is stopped or moved.
    pub gpus: Option<GpuInventory>,
}

/// What the operating system and the agent keep for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// Thousandths of a core.
    pub cpu_millicores: u64,
    /// Bytes of main memory.
    pub memory_bytes: u64,
}

/// What the store held at boot.
#[derive(Debug, Clone, Default)]
pub struct StoredState {
    /// Items of desired state by key.
    pub desired: BTreeMap<String, Vec<u8>>,
    /// The accepted header, signed as it came.
    pub desired_header: Option<Vec<u8>>,
    /// What must be known of each pod.
    pub pods: Vec<PodRecord>,
    /// Records of [`Tree::Meta`].
    pub meta: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Everything that is there at boot.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// From the store.
    pub stored: StoredState,
    /// From the ledger beside the store: the greatest version that was ever accepted.
    pub fence: Version,
    /// From the ledger: what [`Effect::NoteLinkBudget`] noted last; empty before the first.
    pub link_budget: Vec<u8>,
    /// The models that this node has.
    pub models: NodeModels,
    /// The devices that the configuration names.
    pub devices: NodeDevices,
    /// From the runtime.
    pub observations: Vec<Observation>,
    /// What went wrong on the way here: reason and sentence of events of the node.
    pub notices: Vec<(String, String)>,
}

/// Reads what a core needs from the store. A record that can't be decoded is passed over with a
/// warning: one bad record does not keep a node from starting.
///
/// # Errors
/// When the medium can't be read.
pub fn read_stored_state(store: &dyn Store) -> Result<StoredState, StoreError> {
    let desired = store.scan(Tree::Desired, &[], MAP_ITEMS_MAX)?;
    let named = |(key, value): (Vec<u8>, Vec<u8>)| Some((String::from_utf8(key).ok()?, value));
    let pods = store.scan(Tree::Pods, &[], MAP_ITEMS_MAX)?;
    Ok(StoredState {
        desired: desired.into_iter().filter_map(named).collect(),
        desired_header: store.read(Tree::Meta, DESIRED_HEADER_KEY)?,
        pods: pods.iter().filter_map(|(key, value)| decode_pod(key, value)).collect(),
        meta: store.scan(Tree::Meta, &[], META_RECORDS_MAX)?,
    })
}

fn decode_pod(key: &[u8], value: &[u8]) -> Option<PodRecord> {
    match decode::<PodRecord>("pod record", value, POD_RECORD_BYTES_MAX) {
        Ok(record) => Some(record),
        Err(error) => {
            warn!(key = %String::from_utf8_lossy(key), error = %error, "passed over a pod's record");
            None
        }
    }
}

impl AgentCore {
    /// The core of this start of the agent. Pods that should run are due to be started at once; the
    /// link is not needed.
    #[must_use]
    pub fn new(options: CoreOptions, restored: Restored, now: Now) -> Self {
        let desired = restore_desired(&options, &restored);
        let clocks = Clocks::restore(options.boot, &restored.stored.meta);
        let budget = restore_budget(&restored.link_budget);
        let mut pods = Pods::new(options.incarnation);
        if !options.several_containers {
            pods.refuse_several_containers();
        }
        pods.restore(restored.stored.pods, restored.observations, now);
        let samples = restored.stored.meta.iter().find(|(key, _)| key == SAMPLES_KEY);
        let samples = samples.and_then(|(_, value)| decode("samples", value, 16).ok());
        let (position, header) = empty_report(options.incarnation);
        let content = MapContent::default();
        let mut core = Self {
            session: AgentSession::new(
                options.node.clone(),
                options.session_key,
                options.hub_session_key,
                options.seed,
            ),
            outbox: Outbox::restore(options.incarnation, options.quota, &restored.stored.meta),
            reported: MapPublisher::new(MapName::Reported, content, position, header),
            results: Results::restore(&restored.stored.meta, now.monotonic),
            recorder: Recorder::new(options.recorder, samples.unwrap_or(0), now.monotonic),
            node: options.node,
            agent_version: options.agent_version,
            incarnation: options.incarnation,
            hub_signing_key: options.hub_signing_key,
            content_version: desired.position().map(|p| p.version).unwrap_or_default(),
            desired,
            introduces: false,
            workloads: BTreeMap::new(),
            undecodable: BTreeMap::new(),
            report_due: Some(now.monotonic),
            reading: None,
            pods,
            scaling: Scaling::default(),
            heat: Heat::default(),
            pressure: Pressure::default(),
            evicts: false,
            models: Arc::new(restored.models),
            devices: Arc::new(restored.devices),
            told: BTreeMap::new(),
            gpus_known: options.capacity.gpus.is_some(),
            gpu_conditions: GpuConditions::default(),
            known_gpus: KnownGpus::restore(&restored.stored.meta),
            capacity: NodeCapacity {
                cpu_millicores: options.capacity.cpu_millicores,
                memory_bytes: options.capacity.memory_bytes,
                gpus: options.capacity.gpus.unwrap_or_default(),
            },
            reserved: options.reserved,
            storage: Storage::default(),
            clocks,
            budget: Budget::restore(budget.as_ref(), now),
            attempts: Attempts::default(),
            calls: Calls::new(audit::newest(&restored.stored.meta)),
            session_waits: false,
            budget_exhausted: false,
            disk_pressure: false,
            images: Images::default(),
            spent_in_day: 0,
            desired_pace: None,
            desired_stalled_told: false,
            answers: VecDeque::new(),
            effects: VecDeque::new(),
            refused_updates: 0,
            refused_payloads: 0,
        };
        core.begin(&restored.notices, now);
        core
    }

    fn begin(&mut self, notices: &[(String, String)], now: Now) {
        self.pods.hold(self.must_hold());
        self.provide(now);
        self.assign(now);
        self.forget_results_of_absent_pods();
        let version = self.desired.position().map(|position| position.version);
        // The agent may have been killed before the ledger was told.
        self.effects.extend(version.map(Effect::NoteAccepted));
        info!(node = %self.node, incarnation = self.incarnation,
            generation = version.map(|version| version.to_string()),
            workloads = self.workloads.len(), "restored from the local store");
        for (reason, message) in notices {
            self.record_event("node", reason, message, now);
        }
        if self.gpus_known {
            self.tell_gpu_changes(&self.capacity.gpus.clone(), now);
        }
        if !self.desired.is_whole() {
            let message = "part of the desired state was lost on disk; pods are kept as they are";
            self.record_event("node", "DesiredStateDamaged", message, now);
        }
        self.advance(now);
    }
}

/// What was spent, as far as the ledger knows.
fn restore_budget(record: &[u8]) -> Option<StoredBudget> {
    if record.is_empty() {
        return None;
    }
    let read = StoredBudget::decode(record);
    read.map_err(|error| warn!(error = %error, "what the link has spent is not known any more"))
        .ok()
}

/// The desired state as it was accepted. A header that the hub did not sign is as good as none.
fn restore_desired(options: &CoreOptions, restored: &Restored) -> MapReceiver {
    let open = |signed: &Vec<u8>| {
        let header = open_header(&options.hub_signing_key, &options.node, signed);
        header.map_err(|error| warn!(error, "the stored header of desired state is damaged")).ok()
    };
    let header = restored.stored.desired_header.as_ref();
    let accepted = header.and_then(|signed| {
        let position: MapPosition = open(signed)?.position;
        Some((position, signed.clone()))
    });
    let small = |(_, value): &(&String, &Vec<u8>)| value.len() <= MAP_ITEM_BYTES_MAX;
    let items = restored.stored.desired.iter().filter(small);
    let items = items.map(|(key, value)| (key.clone(), value.clone())).collect();
    MapReceiver::restore(MapName::Desired, items, accepted, restored.fence)
}
