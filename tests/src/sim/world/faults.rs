//! What breaks, one thing at a time.

use super::{HubEvent, Way, World, chance, scene};
use rand_core::RngCore;
use shared::wire::Envelope;

impl World {
    /// One fault, or one change of what the fleet should run.
    pub(super) fn fault(&mut self) {
        let count = self.agents.len().max(1);
        let index = usize::try_from(self.random.next_u32()).unwrap_or(0) % count;
        match self.random.next_u32() % 14 {
            0..=2 => self.change_fleet(),
            3 => self.toggle_cut(index),
            4 => self.disconnect(index),
            5 => self.agent_died(index, "by a fault"),
            6 => self.cut_power(index),
            7 if chance(&mut self.random, 500) => self.hub_died("by a fault"),
            8 => self.toggle_full(index),
            9 => self.end_a_pod(index),
            10 => self.forge(index),
            11 => self.pretend_gone(index),
            12 if chance(&mut self.random, 300) => self.lose_store(index),
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

    fn cut_power(&mut self, index: usize) {
        if let Some(agent) = self.agents.get(index) {
            agent.machine.power_cut();
        }
        self.agent_died(index, "by a power cut");
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
        self.hub.sink_is_down = chance(&mut self.random, 300);
        self.note(format!("the sink of telemetry is down: {}", self.hub.sink_is_down));
        self.step_hub([]);
    }

    fn end_a_pod(&mut self, index: usize) {
        let Some(agent) = self.agents.get(index) else { return };
        let running = agent.machine.running();
        let Some((pod, ..)) = running.first() else { return };
        agent.machine.exit(pod, 1);
        self.note(format!("agent {index}: {pod} ends with status 1"));
        self.step_agent(index, []);
    }

    /// The hub is told that a node is gone which is not: a forged will, or its own connection to the
    /// broker that was lost. The node notices nothing.
    fn pretend_gone(&mut self, index: usize) {
        let node = scene::node(index);
        self.note(format!("the hub is told that {node} is gone"));
        self.step_hub([HubEvent::Disconnected { node }]);
    }

    /// The store is quarantined: the agent begins with an empty one, and with the ledger beside it.
    fn lose_store(&mut self, index: usize) {
        self.agent_died(index, "and its store is lost");
        if let Some(agent) = self.agents.get_mut(index) {
            agent.disk.wipe();
            agent.store_was_lost = true;
        }
    }

    /// The broker's owner makes something up.
    fn forge(&mut self, index: usize) {
        let mut noise = vec![0; 60];
        self.random.fill_bytes(&mut noise);
        let forged = match self.random.next_u32() % 4 {
            0 => Envelope::UnknownSession,
            1 => Envelope::Accept(noise),
            2 => Envelope::Open(noise),
            _ => Envelope::Sealed { counter: u64::from(self.random.next_u32()), ciphertext: noise },
        };
        let payload = forged.encode().unwrap_or_default();
        let way = if chance(&mut self.random, 500) { Way::Up(index) } else { Way::Down(index) };
        self.note(format!("a forgery goes {way:?}"));
        self.deliver(way, payload);
    }

    /// The broker's owner brings a message to somebody it was not for.
    fn replay(&mut self) {
        let Some((way, payload)) = self.link.any(&mut self.random) else { return };
        let count = u32::try_from(self.agents.len()).unwrap_or(1).max(1);
        let other = usize::try_from(self.random.next_u32() % count).unwrap_or(0);
        let way = match way {
            Way::Up(_) => Way::Up(other),
            Way::Down(_) => Way::Down(other),
        };
        self.note(format!("a message is brought {way:?}"));
        self.deliver(way, payload);
    }
}
