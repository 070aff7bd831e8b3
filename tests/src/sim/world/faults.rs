//! What breaks, one thing at a time.

use super::super::hub::RESULT_SINKS;
use super::{AgentEvent, HubEvent, NodeClock, Way, World, chance, scene};
use hub::core::SinkKey;
use rand_core::RngCore;
use shared::model::{GpuHealth, SinkId};

/// How long a pod that crashes goes on doing so.
const CRASHES_FOR_MS: u64 = 60_000;

/// How far a wall clock jumps at most, either way: a node that comes up in 1970 and is set right.
const JUMP_MS_MAX: i64 = 60 * 365 * 24 * 3600 * 1000;

/// How far a wall clock drifts at most, in parts in a million: a bad crystal in the cold.
const DRIFT_PPM_MAX: u32 = 500;

impl World {
    /// One fault, or one change of what the fleet should run.
    pub(super) fn fault(&mut self) {
        let count = self.agents.len().max(1);
        let index = usize::try_from(self.random.next_u32()).unwrap_or(0) % count;
        match self.random.next_u32() % 30 {
            0..=3 => self.change_fleet(),
            4 => self.toggle_cut(index),
            5 => self.disconnect(index),
            6 => self.agent_died(index, "by a fault"),
            7 => self.cut_power(index),
            8 if chance(&mut self.random, 500) => self.hub_died("by a fault"),
            9 => self.toggle_full(index),
            10 => self.end_a_pod(index),
            11 => self.forge(index),
            12 => self.pretend_gone(index),
            13 if chance(&mut self.random, 300) => self.lose_store(index),
            14 => self.break_a_gpu(index),
            15 => self.jump_clock(index),
            16 => self.let_a_pod_crash(index),
            17 => self.toggle_black_hole(index),
            18 if chance(&mut self.random, 300) => self.lose_hub_store(),
            19 if chance(&mut self.random, 300) => self.fail_over(),
            20 => self.toggle_sink(),
            21 => self.restart_broker(),
            22 => self.damage_a_record(index),
            23 if chance(&mut self.random, 500) => self.put_back_store(index),
            24 if chance(&mut self.random, 500) => self.put_back_hub_store(),
            25 => self.call(index),
            26 => self.fail_the_next_start(index),
            27 => self.toggle_impostor(),
            _ => self.replay(),
        }
    }

    fn change_fleet(&mut self) {
        let change = self.fleet.change(&mut self.random);
        self.note(change);
        if self.manifests_at.is_none() {
            self.manifests_at = Some(self.now);
            self.read_manifests();
        }
    }

    fn toggle_cut(&mut self, index: usize) {
        let Some(cut) = self.cut.get_mut(index) else { return };
        *cut = !*cut;
        let now_cut = *cut;
        self.note(format!("the link of agent {index} is cut: {now_cut}"));
        if now_cut {
            self.disconnect(index);
        }
    }

    /// Everything one way disappears, and both ends believe in the link.
    fn toggle_black_hole(&mut self, index: usize) {
        let way = if chance(&mut self.random, 500) { Way::Up(index) } else { Way::Down(index) };
        let opened = self.link.toggle_black_hole(way);
        self.note(format!("everything {way:?} disappears: {opened}"));
    }

    /// The broker starts again: it has forgotten every connection and what was on its way.
    fn restart_broker(&mut self) {
        self.note("the broker starts again".to_owned());
        (0..self.agents.len()).for_each(|index| self.disconnect(index));
    }

    /// What a pod needs is not there when it is started next.
    fn fail_the_next_start(&mut self, index: usize) {
        self.note(format!("agent {index}: the next start of a pod fails"));
        if let Some(agent) = self.agents.get(index) {
            agent.machine.fail_next_start();
        }
    }

    pub(super) fn cut_power(&mut self, index: usize) {
        self.agent_died(index, "by a power cut");
        let now = self.now;
        if let Some(agent) = self.agents.get_mut(index) {
            agent.machine.power_cut();
            agent.boot = (agent.boot.0 + 1, now);
        }
    }

    fn toggle_full(&mut self, index: usize) {
        let full = chance(&mut self.random, 500);
        self.note(format!("the disk of agent {index} is full: {full}"));
        if let Some(agent) = self.agents.get(index) {
            agent.disk.set_full(full);
        }
        let hub_full = chance(&mut self.random, 200);
        self.note(format!("the disk of the hub is full: {hub_full}"));
        self.hub.disk.set_full(hub_full);
    }

    /// A sink takes nothing from now on, or takes again; or it refuses what it is handed next.
    fn toggle_sink(&mut self) {
        let sink = match self.random.next_u32() % 3 {
            0 => SinkKey::Telemetry,
            which => {
                let name = RESULT_SINKS.get(usize::from(which == 1)).copied().unwrap_or_default();
                SinkKey::Results(SinkId::of(name))
            }
        };
        self.hub.refuses_next = chance(&mut self.random, 200);
        let down = !self.hub.sinks_down.remove(&sink);
        if down {
            self.hub.sinks_down.insert(sink);
        }
        let refuses = self.hub.refuses_next;
        self.note(format!("the sink {sink:?} is down: {down}; the next is refused: {refuses}"));
        self.step_hub([]);
    }

    fn end_a_pod(&mut self, index: usize) {
        let Some(agent) = self.agents.get(index) else { return };
        let running = agent.machine.running();
        let Some((pod, _)) = running.first() else { return };
        agent.machine.exit(pod, 1);
        self.note(format!("agent {index}: {pod} ends with status 1"));
        self.step_agent(index, []);
    }

    /// A pod ends soon after each start, for a while.
    fn let_a_pod_crash(&mut self, index: usize) {
        let Some(agent) = self.agents.get(index) else { return };
        let running = agent.machine.running();
        let Some((pod, _)) = running.last() else { return };
        let until = self.now.plus_ms(CRASHES_FOR_MS);
        self.crashing = Some((index, pod.clone(), until));
        self.note(format!("agent {index}: {pod} crashes from now on"));
    }

    /// The pod that crashes does so again.
    pub(super) fn crash_again(&mut self) {
        let Some((index, pod, until)) = self.crashing.take() else { return };
        if self.now >= until {
            return;
        }
        if let Some(agent) = self.agents.get(index)
            && agent.machine.running().iter().any(|(running, ..)| *running == pod)
        {
            agent.machine.exit(&pod, 139);
            self.step_agent(index, []);
        }
        self.crashing = Some((index, pod, until));
    }

    /// A GPU breaks, is gone, or is well again.
    fn break_a_gpu(&mut self, index: usize) {
        let (which, how) = (self.random.next_u32(), self.random.next_u32() % 3);
        let Some(agent) = self.agents.get_mut(index) else { return };
        agent.gpus = scene::gpus(index);
        let count = agent.gpus.devices.len().max(1);
        let at = usize::try_from(which).unwrap_or(0) % count;
        match how {
            0 => drop(agent.gpus.devices.remove(at)),
            1 => {
                if let Some(gpu) = agent.gpus.devices.get_mut(at) {
                    gpu.health = GpuHealth::Unhealthy("XID 79".to_owned());
                }
            }
            _ => {}
        }
        let (gpus, left) = (agent.gpus.clone(), agent.gpus.devices.len());
        self.note(format!("agent {index}: fate {how} of GPU {at}, {left} are listed"));
        self.step_agent(index, [AgentEvent::Inventory(gpus)]);
    }

    /// A wall clock is wrong from now on, or right again.
    fn jump_clock(&mut self, index: usize) {
        let far = i64::from(self.random.next_u32()) * 1000 % JUMP_MS_MAX;
        let offset_ms = match self.random.next_u32() % 3 {
            0 => 0,
            1 => far,
            _ => -far,
        };
        let drift_ppm =
            i64::from(self.random.next_u32() % (2 * DRIFT_PPM_MAX)) - i64::from(DRIFT_PPM_MAX);
        let drift_ppm = if offset_ms == 0 { 0 } else { drift_ppm };
        self.note(format!("agent {index}: its clock is wrong by {offset_ms} ms, {drift_ppm} ppm"));
        if let Some(clock) = self.clocks.get_mut(index) {
            *clock = NodeClock::wrong_by(offset_ms, drift_ppm, self.now);
        }
    }

    /// The hub is told that a node is gone which is not: a forged will, or its own connection to the
    /// broker that was lost. The node notices nothing.
    fn pretend_gone(&mut self, index: usize) {
        let node = scene::node(index);
        self.note(format!("the hub is told that {node} is gone"));
        self.step_hub([HubEvent::Disconnected { node }]);
    }

    /// Another replica takes the lead. The one that led was paused and does not know: what it has to
    /// say still reaches the nodes for a while.
    fn fail_over(&mut self) {
        if self.hub.core.is_none() {
            return;
        }
        self.report.crashes += 1;
        self.note("another hub takes the lead; the one that led goes on".to_owned());
        self.end_stale();
        let stale = self.hub.fail_over();
        self.accounts.hub_died(false);
        self.forget_calls();
        let until = self.now.plus_ms(5_000 + u64::from(self.random.next_u32() % 60_000));
        self.stale = Some((stale, until));
        self.hub_up_at = self.now;
    }
}
