//! What the agent finds when it comes up: its own records, and what the runtime says.
//!
//! What runs is adopted. What ended is judged by its status, what was lost (a power cut) starts again
//! at once. What runs and should not is stopped as soon as it is known what should.

use super::Pods;
use super::pod::{DEFAULT_GRACE_MS, Live, Pod};
use super::record::{PodAction, PodRecord};
use crate::ports::{Observation, ObservedState};
use shared::model::Now;
use std::collections::BTreeMap;

impl Pods {
    /// Takes over what an earlier start of the agent left. Called once, before anything else.
    pub fn restore(&mut self, records: Vec<PodRecord>, observations: Vec<Observation>, now: Now) {
        let mut records: BTreeMap<_, _> =
            records.into_iter().map(|record| (record.pod.clone(), record)).collect();
        for observation in observations {
            let record = records.remove(&observation.pod);
            self.adopt(observation, record, now);
        }
        // The runtime knows nothing of these: a start that was recorded and never begun.
        for (id, record) in records {
            self.pods.insert(id, Pod::of_record(&record));
        }
    }

    fn adopt(&mut self, observation: Observation, record: Option<PodRecord>, now: Now) {
        let Observation { pod: id, instance, revision, state, placement: told, .. } = observation;
        let (told_taken, parameters_id) = (observation.taken, observation.parameters_id);
        let (containers, pod_ip) = (observation.containers, observation.pod_ip);
        let own = record.as_ref().filter(|record| record.instance == instance);
        let placement = own.map_or(told, |record| record.placement.clone());
        let (known, taken) = (own.is_some(), own.and_then(|record| record.taken).or(told_taken));
        let record = record.unwrap_or_else(|| PodRecord {
            pod: id.clone(),
            revision,
            instance,
            placement: placement.clone(),
            restarts: 0,
            backoff_level: 0,
            last_exit_code: None,
            completed: None,
            taken: None,
            parameters_id,
        });
        let mut pod = Pod::of_record(&record);
        match state {
            ObservedState::Running { started_at } => {
                let live = Live {
                    instance,
                    revision,
                    parameters_id,
                    placement,
                    taken,
                    grace_ms: DEFAULT_GRACE_MS,
                    volumes_version: None,
                    host_ports: vec![],
                    pod_ip,
                };
                pod.adopt_running(live, started_at, containers, now.monotonic);
                if !known {
                    self.actions.extend(pod.record(None).map(PodAction::Record));
                }
            }
            // The end of an older start than the recorded one says nothing of that one.
            ObservedState::Exited { code } if known => pod.adopt_ended(Some(code)),
            ObservedState::Exited { .. } | ObservedState::Lost => pod.adopt_ended(None),
        }
        self.pods.insert(id, pod);
    }
}
