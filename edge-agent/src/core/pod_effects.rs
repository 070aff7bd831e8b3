//! Pods' actions become effects, their changes become reported state and events.

use super::storage::After;
use super::{AgentCore, Effect};
use crate::placement::NodeResources;
use crate::pods::{PodAction, PodRecord};
use shared::model::{NodeEvent, Now, PodId};
use shared::ports::{Tree, WriteBatch};
use shared::wire::{Stream, encode};
use std::collections::BTreeMap;
use tracing::{info, warn};

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
        };
        self.pods.provide(resources, self.gpus_known, now);
    }

    /// Turns what the pods want done into effects, in order, and tells what changed.
    pub(super) fn collect_pod_actions(&mut self, now: Now) {
        while let Some(action) = self.pods.poll_action() {
            self.perform_pod_action(action);
        }
        for pod in self.pods.take_changed() {
            self.schedule_report(now.monotonic);
            self.tell_change(&pod, now);
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
            PodAction::Start(request) => {
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
            PodAction::Probe(request) => self.effects.push_back(Effect::Probe(request)),
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
        let told = format!("{:?}{ready}/{}/{}", status.phase, status.reason, status.restarts);
        let reason = match status.reason.as_str() {
            "" if status.ready => "Ready".to_owned(),
            "" => format!("{:?}", status.phase),
            reason => reason.to_owned(),
        };
        let message = status.message.clone();
        if self.told.get(pod) != Some(&told) {
            self.told.insert(pod.clone(), told);
            info!(node = %self.node, pod = %pod, reason, message, "pod changed");
            self.record_event(&pod.to_string(), &reason, &message, now);
        }
    }

    /// Puts an event into its log. While the store can't be written it is only counted.
    pub(super) fn record_event(&mut self, object: &str, reason: &str, message: &str, now: Now) {
        let event = NodeEvent {
            at: now.wall,
            quality: now.quality,
            object: object.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(EVENT_MESSAGE_CHARACTERS_MAX).collect(),
        };
        match encode("event", &event) {
            Ok(record) => drop(self.append(Stream::Events, record, WriteBatch::new())),
            Err(error) => warn!(node = %self.node, error = %error, "an event was not recorded"),
        }
    }
}

/// A sentence; the whole of it is in the node's own log.
const EVENT_MESSAGE_CHARACTERS_MAX: usize = 512;
