//! Pods' actions become effects, their changes become reported state and events.

use super::storage::After;
use super::{AgentCore, Effect};
use crate::placement::NodeResources;
use crate::pods::{PodAction, PodRecord};
use crate::ports::RuntimeEvent;
use shared::model::{BootOffset, NodeEvent, Now, PodId, PodPhase, PodStatus};
use shared::ports::{Tree, WriteBatch};
use shared::telemetry::{Sample, Series};
use shared::wire::{Stream, encode};
use std::collections::{BTreeMap, BTreeSet};
use tracing::{info, warn};

/// The same actions with records before what they are not about, so that ten pods that start cost one commit: a pod's
/// own are left in their order.
fn records_first(actions: Vec<PodAction>) -> Vec<PodAction> {
    let (mut first, mut rest): (Vec<PodAction>, Vec<PodAction>) = (Vec::new(), Vec::new());
    let mut acted = BTreeSet::new();
    for action in actions {
        let pod = action.pod().clone();
        match action {
            PodAction::Record(_) if !acted.contains(&pod) => first.push(action),
            _ => {
                acted.insert(pod);
                rest.push(action);
            }
        }
    }
    first.append(&mut rest);
    first
}

/// What people were last told of a pod.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Its phase, reason and restarts.
    state: String,
    /// The reason of the alarm that was raised since it was last ready.
    alarm: String,
}

impl AgentCore {
    /// What pods may have: the capacity less the reserved share.
    pub(super) fn provide(&mut self, now: Now) {
        let resources = NodeResources {
            cpu_millicores: self
                .capacity
                .cpu_millicores
                .saturating_sub(self.reserved.cpu_millicores),
            memory_bytes: self.capacity.memory_bytes.saturating_sub(self.reserved.memory_bytes),
            gpus: self.capacity.gpus.devices.clone(),
            gpu_taints: BTreeMap::new(),
            bars: self.heat.bars(&self.capacity.gpus.devices),
            evicted: self.pressure.evicted(),
        };
        self.pods.provide(resources, self.gpus_known, now);
    }

    /// The runtime says something of a pod.
    pub(super) fn handle_runtime(&mut self, event: RuntimeEvent, now: Now) {
        if let RuntimeEvent::ImageRemoved { image } = event {
            return self.handle_image_removed(image, now);
        }
        if let RuntimeEvent::NotAttached { pod, message, .. } = &event {
            warn!(node = %self.node, pod = %pod, message, "its files were not replaced");
            self.record_event(&pod.to_string(), "FilesNotReplaced", message, now);
        }
        self.pods.handle_runtime(event, now);
    }

    /// Turns what the pods want done into effects, in order, and tells what changed.
    pub(super) fn collect_pod_actions(&mut self, now: Now) {
        let mut actions: Vec<PodAction> = Vec::new();
        while let Some(action) = self.pods.poll_action() {
            actions.push(action);
        }
        for action in records_first(actions) {
            self.perform_pod_action(action);
        }
        let changed = self.pods.take_changed();
        for pod in &changed {
            self.schedule_report(now.monotonic);
            self.tell_change(pod, now);
        }
        if changed.iter().any(|pod| self.pods.status(pod).is_none()) {
            self.forget_results_of_absent_pods();
        }
    }

    fn perform_pod_action(&mut self, action: PodAction) {
        match action {
            PodAction::Record(record) => self.record_pod(&record),
            PodAction::Forget(pod) => {
                let mut writes = WriteBatch::new();
                writes.delete(Tree::Pods, pod.to_string());
                self.persist(writes, After::Nothing);
            }
            PodAction::Start(mut request) => {
                request.pull.is_metered = self.budget.limits().bytes_per_day.is_some();
                info!(node = %self.node, pod = %request.pod, instance = %request.instance, "starting");
                self.effects.push_back(Effect::Start(request));
            }
            PodAction::Stop { pod, instance, grace_ms } => {
                info!(node = %self.node, pod = %pod, instance = %instance, grace_ms, "stopping");
                self.effects.push_back(Effect::Stop { pod, instance, grace_ms });
            }
            // The end is not recorded: the runtime keeps it until the pod's next start.
            PodAction::Remove { keep_logs: true, .. } if self.is_read_only() => {}
            PodAction::Remove { pod, instance, keep_logs } => {
                self.effects.push_back(Effect::Forget { pod, instance, keep_logs });
            }
            PodAction::Attach { pod, instance, volumes } => {
                info!(node = %self.node, pod = %pod, instance = %instance, "renewing its files");
                self.effects.push_back(Effect::Attach { pod, instance, volumes });
            }
            PodAction::Probe(request) => self.effects.push_back(Effect::Probe(request)),
            PodAction::StartContainer(request) => {
                let (start, attempt) = (&request.start, request.attempt);
                let container = &start.container.name;
                info!(node = %self.node, pod = %start.pod, container, attempt, "starting a container");
                self.effects.push_back(Effect::StartContainer(request));
            }
            PodAction::StopContainer { pod, instance, container, grace_ms } => {
                info!(node = %self.node, pod = %pod, container, grace_ms, "stopping a container");
                let stop = Effect::StopContainer { pod, instance, container, grace_ms };
                self.effects.push_back(stop);
            }
        }
    }

    fn record_pod(&mut self, record: &PodRecord) {
        match encode("pod record", record) {
            Ok(value) => {
                let mut writes = WriteBatch::new();
                writes.put(Tree::Pods, record.pod.to_string(), value);
                self.persist(writes, After::Nothing);
            }
            Err(error) => {
                warn!(node = %self.node, pod = %record.pod, error = %error, "not recorded")
            }
        }
    }

    /// An event when a pod's phase or reason is another than the one told last.
    fn tell_change(&mut self, pod: &PodId, now: Now) {
        let Some(status) = self.pods.status(pod) else {
            if self.told.remove(pod).is_some() {
                self.record_event(&pod.to_string(), "Removed", "no longer wanted here", now);
            }
            return;
        };
        let ready = if status.ready { "Ready" } else { "" };
        let state = format!("{:?}{ready}/{}/{}", status.phase, status.reason, status.restarts);
        let reason = match status.reason.as_str() {
            "" if status.ready => "Ready".to_owned(),
            "" => format!("{:?}", status.phase),
            reason => reason.to_owned(),
        };
        let message = status.message.clone();
        let told = self.told.entry(pod.clone()).or_default();
        if told.state == state {
            return;
        }
        told.state = state;
        if status.ready {
            told.alarm.clear();
        }
        // What fails again and again is one alarm until it was well in between.
        let raises = has_failed(status) && told.alarm != reason;
        if raises {
            told.alarm.clone_from(&reason);
        }
        let stream = if raises { Stream::Alarms } else { Stream::Events };
        info!(node = %self.node, pod = %pod, reason, message, "pod changed");
        self.record(stream, &pod.to_string(), &reason, &message, now);
    }

    /// An alarm when the disk fills up, an event when it has room again.
    pub(super) fn watch_disk(&mut self, sample: &Sample, now: Now) {
        let value = |name| sample.values.get(&Series::new(name));
        let sizes = (value("node_filesystem_avail_bytes"), value("node_filesystem_size_bytes"));
        let (Some(free), Some(size)) = sizes else { return };
        let room = free / size.max(1.0);
        let fills = if self.disk_pressure { room < DISK_ROOM_AGAIN } else { room < DISK_ROOM_MIN };
        if fills == self.disk_pressure {
            return;
        }
        self.disk_pressure = fills;
        self.schedule_report(now.monotonic);
        let (reason, message) = match fills {
            true => ("NodeHasDiskPressure", format!("{free:.0} of {size:.0} bytes are free")),
            false => ("NodeHasNoDiskPressure", "the disk has room again".to_owned()),
        };
        self.record_event("node", reason, &message, now);
    }

    /// Puts an event about the node into its log. While the store can't be written it is only counted.
    pub(super) fn record_event(&mut self, object: &str, reason: &str, message: &str, now: Now) {
        let stream = if ALARMS.contains(&reason) { Stream::Alarms } else { Stream::Events };
        self.record(stream, object, reason, message, now);
    }

    fn record(&mut self, stream: Stream, object: &str, reason: &str, message: &str, now: Now) {
        let event = NodeEvent {
            at: now.wall,
            quality: now.quality,
            object: object.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(EVENT_MESSAGE_CHARACTERS_MAX).collect(),
            boot: BootOffset::needed(self.clocks.stamp(now)),
        };
        match encode("event", &event) {
            Ok(record) => {
                self.append(stream, record, WriteBatch::new());
            }
            Err(error) => warn!(node = %self.node, error = %error, "an event was not recorded"),
        }
    }
}

/// Whether somebody must act on what became of a pod. One that was well and ended is only started again.
fn has_failed(status: &PodStatus) -> bool {
    match status.phase {
        PodPhase::BackingOff => !["Init:Error", "Restarting"].contains(&status.reason.as_str()),
        PodPhase::Failed => true,
        _ => ["CrashLoopBackOff", "InvalidTemplate", "UnhealthyGpus"]
            .contains(&status.reason.trim_start_matches("Init:")),
    }
}

/// What of the node somebody must act on: it goes before everything else, and from bytes that are kept
/// for it.
const ALARMS: [&str; 10] = [
    "BudgetExhausted",
    "DesiredStateDamaged",
    "GpuLost",
    "GpuUnhealthy",
    "LedgerDamaged",
    "NodeHasDiskPressure",
    "NodeHasMemoryPressure",
    "NodeHasPIDPressure",
    "StoreDamaged",
    "StoreQuarantined",
];

/// Parts of the disk that must be free: below the first it fills up, above the second it has room again.
const DISK_ROOM_MIN: f64 = 0.05;
const DISK_ROOM_AGAIN: f64 = 0.08;

/// A sentence; the whole of it is in the node's own log.
const EVENT_MESSAGE_CHARACTERS_MAX: usize = 512;
