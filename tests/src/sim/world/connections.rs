//! Who is connected, and what arrives.

use super::super::agent::SimAgent;
use super::super::scene;
use super::{AgentEvent, HubEvent, Way, World, chance};
use rand_core::RngCore;

impl World {
    pub(super) fn connect(&mut self) {
        for index in 0..self.agents.len() {
            let due = self.connect_at.get(index).is_some_and(|at| self.now >= *at);
            let cut = self.cut.get(index).copied().unwrap_or(true);
            let hub_runs = self.hub.core.is_some();
            let waits = |agent: &SimAgent| agent.core.is_some() && !agent.connected;
            if !due || !self.agents.get(index).is_some_and(waits) || !self.may_connect(index) {
                continue;
            }
            if cut || !hub_runs {
                self.attempt_in_vain(index, !cut);
                continue;
            }
            self.carry_connection(index);
            let Some(agent) = self.agents.get_mut(index) else { continue };
            agent.connected = true;
            let node = agent.identity.node.clone();
            self.note(format!("{node} connects"));
            self.step_hub([HubEvent::Connected { node }]);
            self.step_agent(index, [AgentEvent::LinkUp]);
        }
    }

    pub(super) fn disconnect(&mut self, index: usize) {
        self.link.cut(index);
        let wait = 500 + u64::from(self.random.next_u32() % 5_000);
        if let Some(at) = self.connect_at.get_mut(index) {
            *at = self.now.plus_ms(wait);
        }
        let Some(agent) = self.agents.get_mut(index) else { return };
        let was = std::mem::take(&mut agent.connected);
        let node = agent.identity.node.clone();
        if was {
            self.note(format!("{node} is disconnected"));
            self.step_agent(index, [AgentEvent::LinkDown]);
        }
        // The will may come late or never: the hub must not need it.
        if chance(&mut self.random, 700) {
            self.step_hub([HubEvent::Disconnected { node }]);
        }
    }

    pub(super) fn deliver(&mut self, way: Way, payload: Vec<u8>) {
        match way {
            Way::Up(index) => {
                if self.answers_thief(index, &payload) {
                    return;
                }
                let node = scene::node(index);
                if self.impostor.is_some() {
                    let (node, payload) = (node.clone(), payload.clone());
                    self.step_impostor(HubEvent::Payload { node, payload });
                }
                if !self.books_are_closed {
                    self.step_hub([HubEvent::Payload { node, payload }]);
                }
            }
            Way::Down(index) => {
                if self.agents.get(index).is_some_and(|agent| agent.connected) {
                    self.carry_message(index, payload.len());
                    self.step_agent(index, [AgentEvent::Payload(payload)]);
                }
            }
        }
    }
}
