//! Pods in memory. They outlive the agent's crashes; a power cut ends them.

use edge_agent::placement::{MainShare, Placement};
use edge_agent::ports::{
    InstanceId, Observation, ObservedState, ProbeRequest, Runtime, RuntimeError, RuntimeEvent,
    StartRequest, VolumeContent,
};
use shared::model::{PodId, Revision, UnixMs};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

/// What runs on a machine, shared by the starts of its agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<PodId, Running>,
    /// Events that the agent has yet to hear; lost when it crashes.
    events: Vec<RuntimeEvent>,
    starts: u64,
    doubled: Option<PodId>,
    /// What the next start needs is not there.
    fails_next_start: bool,
    /// Stops that the agent asked for, not yet looked at.
    stops: Vec<Stopped>,
    wall: UnixMs,
}

/// A running pod that the agent stopped.
#[derive(Debug, Clone)]
pub(super) struct Stopped {
    pub(super) pod: PodId,
    pub(super) revision: Revision,
    pub(super) gpus: Vec<String>,
}

/// A start of a pod.
#[derive(Debug, Clone)]
pub(super) struct Running {
    instance: InstanceId,
    pub(super) revision: Revision,
    pub(super) gpus: Vec<String>,
    /// Its share of a shared GPU's memory.
    pub(super) gpu_memory_bytes: Option<u64>,
    taken: MainShare,
    parameters_id: u64,
    /// Its address, where it has a network of its own.
    pod_ip: Option<IpAddr>,
    state: ObservedState,
}

impl Machine {
    /// What the agent has to hear, in order.
    pub(super) fn take_events(&self) -> Vec<RuntimeEvent> {
        std::mem::take(&mut self.inner.borrow_mut().events)
    }

    /// The time that new processes note as their start.
    pub(super) fn set_wall(&self, wall: UnixMs) {
        self.inner.borrow_mut().wall = wall;
    }

    /// How many pods were ever started.
    pub(super) fn starts(&self) -> u64 {
        self.inner.borrow().starts
    }

    /// What the next start needs is not there.
    pub(super) fn fail_next_start(&self) {
        self.inner.borrow_mut().fails_next_start = true;
    }

    /// A pod that was started beside itself; must never be.
    pub(super) fn doubled(&self) -> Option<PodId> {
        self.inner.borrow().doubled.clone()
    }

    /// The stops of running pods that the agent asked for since the last call.
    pub(super) fn take_stops(&self) -> Vec<Stopped> {
        std::mem::take(&mut self.inner.borrow_mut().stops)
    }

    /// What runs.
    pub(super) fn running(&self) -> Vec<(PodId, Running)> {
        let inner = self.inner.borrow();
        let runs = |running: &Running| matches!(running.state, ObservedState::Running { .. });
        let running = inner.pods.iter().filter(|(_, running)| runs(running));
        running.map(|(pod, running)| (pod.clone(), running.clone())).collect()
    }

    /// A pod ends by itself.
    pub(super) fn exit(&self, pod: &PodId, code: i32) {
        let mut inner = self.inner.borrow_mut();
        let Some(running) = inner.pods.get_mut(pod) else { return };
        if matches!(running.state, ObservedState::Running { .. }) {
            running.state = ObservedState::Exited { code };
            let instance = running.instance;
            inner.events.push(RuntimeEvent::Exited { pod: pod.clone(), instance, code });
        }
    }

    /// The agent is gone: nobody hears what happens until it comes back.
    pub(super) fn agent_died(&self) {
        self.inner.borrow_mut().events.clear();
    }

    /// The power is cut: nothing runs any more, and nothing says how it ended.
    pub(super) fn power_cut(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.events.clear();
        for running in inner.pods.values_mut() {
            if matches!(running.state, ObservedState::Running { .. }) {
                running.state = ObservedState::Lost;
            }
        }
    }
}

impl Runtime for Machine {
    fn observe(&mut self) -> Result<Vec<Observation>, RuntimeError> {
        let inner = self.inner.borrow();
        let observation = |(pod, running): (&PodId, &Running)| Observation {
            pod: pod.clone(),
            instance: running.instance,
            revision: running.revision,
            state: running.state,
            placement: Placement {
                gpus: running.gpus.clone(),
                gpu_memory_bytes: running.gpu_memory_bytes,
            },
            taken: Some(running.taken),
            parameters_id: running.parameters_id,
            containers: vec![],
            pod_ip: running
                .pod_ip
                .filter(|_| matches!(running.state, ObservedState::Running { .. })),
        };
        Ok(inner.pods.iter().map(observation).collect())
    }

    fn start(&mut self, request: StartRequest) {
        let mut inner = self.inner.borrow_mut();
        let live = inner.pods.get(&request.pod);
        let live = live.filter(|r| matches!(r.state, ObservedState::Running { .. }));
        if live.is_some_and(|running| running.instance != request.instance) {
            inner.doubled = Some(request.pod.clone());
        }
        if std::mem::take(&mut inner.fails_next_start) {
            let (pod, instance) = (request.pod, request.instance);
            let (reason, message) = ("ImagePull".to_owned(), "the registry is away".to_owned());
            inner.events.push(RuntimeEvent::StartFailed { pod, instance, reason, message });
            return;
        }
        inner.starts += 1;
        let started_at = inner.wall;
        // Another at each start, as a network gives them.
        let number = u32::try_from(inner.starts % 250).unwrap_or(0);
        let pod_ip = IpAddr::from(Ipv4Addr::from(0x0a58_0002 + number));
        let pod_ip = Some(pod_ip).filter(|_| request.network.is_host == Some(false));
        let running = Running {
            instance: request.instance,
            revision: request.revision,
            gpus: request.gpus,
            gpu_memory_bytes: request.gpu_memory_bytes,
            taken: request.taken,
            parameters_id: request.parameters_id,
            pod_ip,
            state: ObservedState::Running { started_at },
        };
        inner.pods.insert(request.pod.clone(), running);
        let (pod, instance) = (request.pod, request.instance);
        let addressed =
            pod_ip.map(|pod_ip| RuntimeEvent::Addressed { pod: pod.clone(), instance, pod_ip });
        inner.events.extend(addressed);
        inner.events.push(RuntimeEvent::Started { pod, instance, started_at });
    }

    fn stop(&mut self, pod: &PodId, instance: InstanceId, _grace_ms: u64) {
        let mut inner = self.inner.borrow_mut();
        let code = 143;
        let mut stopped = None;
        let pod_id = pod.clone();
        if let Some(running) = inner.pods.get_mut(pod).filter(|r| r.instance == instance) {
            stopped = matches!(running.state, ObservedState::Running { .. }).then(|| Stopped {
                pod: pod_id,
                revision: running.revision,
                gpus: running.gpus.clone(),
            });
            running.state = ObservedState::Exited { code };
        }
        inner.stops.extend(stopped);
        inner.events.push(RuntimeEvent::Exited { pod: pod.clone(), instance, code });
    }

    fn forget(&mut self, pod: &PodId, instance: InstanceId, _keep_logs: bool) {
        let mut inner = self.inner.borrow_mut();
        let ended = |r: &Running| {
            r.instance == instance && !matches!(r.state, ObservedState::Running { .. })
        };
        if inner.pods.get(pod).is_some_and(ended) {
            inner.pods.remove(pod);
        }
    }

    fn attach(&mut self, _: &PodId, _: InstanceId, _: Vec<VolumeContent>) {}

    fn probe(&mut self, request: ProbeRequest) {
        let ProbeRequest { pod, instance, container, kind, .. } = request;
        let event = RuntimeEvent::Probed { pod, instance, container, kind, result: Ok(()) };
        self.inner.borrow_mut().events.push(event);
    }
}
