//! What a node of the fleet stands on: a store in memory, and pods that are only said to run.
//!
//! The pods are the one thing in this fleet that is made up: a start succeeds at once, a probe succeeds,
//! a stop ends a pod at once. Does not survive the process.

use edge_agent::ports::{
    InstanceId, Observation, ProbeRequest, Runtime, RuntimeError, RuntimeEvent, StartRequest,
    VolumeContent,
};
use shared::model::{PodId, UnixMs};
use shared::ports::{KeyValue, Store, StoreError, Tree, Write, WriteBatch};
use std::collections::BTreeMap;

/// 128 and the number of SIGTERM.
const TERMINATED: i32 = 143;

/// A store in memory.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    records: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
}

impl Store for MemoryStore {
    fn read(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.records.get(&(tree, key.to_vec())).cloned())
    }

    fn scan(&self, tree: Tree, from: &[u8], count_max: usize) -> Result<Vec<KeyValue>, StoreError> {
        let records = self.records.range((tree, from.to_vec())..);
        let of_tree = records.take_while(|((found, _), _)| *found == tree).take(count_max);
        Ok(of_tree.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        for write in batch.writes.iter().cloned() {
            match write {
                Write::Put { tree, key, value } => drop(self.records.insert((tree, key), value)),
                Write::Delete { tree, key } => drop(self.records.remove(&(tree, key))),
            }
        }
        Ok(())
    }

    fn damaged_records(&self) -> u64 {
        0
    }
}

/// Pods that are said to run.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// What the agent has to hear, in order.
    events: Vec<RuntimeEvent>,
    wall: UnixMs,
}

impl Machine {
    /// The time that pods note as their start.
    pub(super) fn set_wall(&mut self, wall: UnixMs) {
        self.wall = wall;
    }

    pub(super) fn take_events(&mut self) -> Vec<RuntimeEvent> {
        std::mem::take(&mut self.events)
    }
}

impl Runtime for Machine {
    fn observe(&mut self) -> Result<Vec<Observation>, RuntimeError> {
        Ok(vec![])
    }

    fn start(&mut self, request: StartRequest) {
        let StartRequest { pod, instance, .. } = request;
        self.events.push(RuntimeEvent::Started { pod, instance, started_at: self.wall });
    }

    fn stop(&mut self, pod: &PodId, instance: InstanceId, _grace_ms: u64) {
        let pod = pod.clone();
        self.events.push(RuntimeEvent::Exited { pod, instance, code: TERMINATED });
    }

    fn forget(&mut self, _pod: &PodId, _instance: InstanceId, _keep_logs: bool) {}

    fn attach(&mut self, _: &PodId, _: InstanceId, _: Vec<VolumeContent>) {}

    fn probe(&mut self, request: ProbeRequest) {
        let ProbeRequest { pod, instance, container, kind, .. } = request;
        self.events.push(RuntimeEvent::Probed { pod, instance, container, kind, result: Ok(()) });
    }
}
