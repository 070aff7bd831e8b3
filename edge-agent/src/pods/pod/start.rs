//! A start of a pod: what is asked of the runtime, what is recorded, and what follows when it has started.

use super::{Containers, Live, Planned, Pod, PodAction, Probes, START_DEADLINE_MS, State};
use crate::placement::{MainShare, Placement};
use crate::pods::record::PodRecord;
use crate::pods::wanted::Wanted;
use crate::ports::{ContainerPlan, InstanceId, PullTerms, StartRequest};
use shared::model::{MonotonicMs, UnixMs};
use std::collections::VecDeque;

impl Pod {
    /// Begins a start, which takes so much. Its record comes first.
    pub(in crate::pods) fn start(
        &mut self,
        instance: InstanceId,
        placement: Placement,
        taken: MainShare,
        now: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        let Some(wanted) = &self.wanted else { return };
        let grace_seconds = wanted.grace_seconds();
        let live = Live {
            instance,
            revision: wanted.revision,
            parameters_id: wanted.parameters_id,
            placement,
            taken: Some(taken),
            grace_ms: u64::from(grace_seconds) * 1000,
            volumes_version: Some(wanted.volumes_version),
            host_ports: wanted.network(self.id.ordinal).host_ports,
            pod_ip: None,
        };
        let mut request = self.request_of(wanted, &live);
        self.planned = wanted.planned(&request);
        request.containers = self.planned.iter().map(plan_of).collect();
        self.started = Some((wanted.revision, wanted.parameters_id));
        self.live = Some(live);
        self.state = State::Starting {
            deadline: now.plus_ms(START_DEADLINE_MS),
            doing: (String::new(), String::new()),
        };
        actions.extend(self.record(None).map(PodAction::Record));
        actions.push_back(PodAction::Start(request));
    }

    pub(in crate::pods) fn record(&self, completed: Option<bool>) -> Option<PodRecord> {
        let live = self.live.as_ref()?;
        Some(PodRecord {
            pod: self.id.clone(),
            revision: live.revision,
            instance: live.instance,
            placement: live.placement.clone(),
            restarts: self.restarts,
            backoff_level: self.backoff.level,
            last_exit_code: self.last_exit_code,
            completed,
            taken: live.taken,
            parameters_id: live.parameters_id,
        })
    }

    /// Whether it is being started, and its images are to be asked for as somebody else.
    pub(super) fn pulls_otherwise(&self, wanted: Option<&Wanted>) -> bool {
        let (State::Starting { .. }, Some(present), Some(wanted)) =
            (&self.state, &self.wanted, wanted)
        else {
            return false;
        };
        present.pull_secrets() != wanted.pull_secrets()
    }

    /// What the runtime is asked for by a start with these.
    pub(super) fn request_of(&self, wanted: &Wanted, live: &Live) -> StartRequest {
        StartRequest {
            pod: self.id.clone(),
            instance: live.instance,
            revision: wanted.revision,
            container: wanted.container(self.id.ordinal),
            containers: vec![],
            gpus: live.placement.gpus.clone(),
            gpu_memory_bytes: live.placement.gpu_memory_bytes,
            taken: live.taken.unwrap_or_default(),
            grace_seconds: wanted.grace_seconds(),
            parameters_id: wanted.parameters_id,
            volumes: wanted.volumes().to_vec(),
            security: wanted.template.spec.security_context.clone().unwrap_or_default(),
            pull: PullTerms { is_metered: false, secrets: wanted.pull_secrets().to_vec() },
            network: wanted.network(self.id.ordinal),
        }
    }

    pub(super) fn started(
        &mut self,
        started_at: UnixMs,
        since: MonotonicMs,
        actions: &mut VecDeque<PodAction>,
    ) {
        if let (State::Starting { .. }, Some(wanted)) = (&self.state, &self.wanted) {
            let planned = std::mem::take(&mut self.planned);
            self.state = match planned.is_empty() {
                true => {
                    let probes = Probes::new(&wanted.container(self.id.ordinal), since);
                    State::Running { since, started_at, probes }
                }
                false => {
                    let containers = Containers::new(planned, wanted.template.spec.restart_policy);
                    State::Several { since, started_at, containers }
                }
            };
        }
        self.renew_volumes(actions);
        self.drive(since, actions);
    }
}

fn plan_of((role, start): &Planned) -> ContainerPlan {
    let container = &start.container;
    let (name, image, pulls) =
        (container.name.clone(), container.image.clone(), container.image_pull_policy);
    let hooks = container.lifecycle.as_ref();
    let pre_stop = hooks.and_then(|hooks| hooks.pre_stop.clone());
    let post_start = hooks.and_then(|hooks| hooks.post_start.clone());
    let security = container.security_context.as_ref();
    let is_privileged = security.is_some_and(|own| own.privileged == Some(true));
    ContainerPlan { name, role: *role, image, pulls, is_privileged, pre_stop, post_start }
}
