//! The processes of the world: how they start, what they are told, how they die.

use super::super::scene;
use super::{AgentEvent, HubEvent, NodeRecord, Now, SessionPrivateKey, Way, World, chance, key};
use rand_core::RngCore;

impl World {
    /// The hub signs every node, as after enrolment.
    pub(super) fn begin(&mut self) {
        self.start_hub();
        let now = self.present();
        for index in 0..self.agents.len() {
            let Some(identity) = self.agents.get(index).map(|agent| agent.identity.clone()) else {
                continue;
            };
            let public = SessionPrivateKey::from_bytes(identity.session_key).public();
            let record = NodeRecord::new(public, format!("{index}"), now.wall);
            self.registry.push((identity.node.clone(), record.clone()));
            // The signing is answered when it is durable: no crash in between.
            self.step_hub_safely([HubEvent::Enrolled { node: identity.node, record }]);
        }
        self.now = self.now.plus_ms(100);
        if let Some(core) = self.hub.core.as_mut() {
            core.handle_timeout(Now { monotonic: self.now, ..now });
        }
        self.step_hub_safely([]);
    }

    pub(super) fn bring_up(&mut self) {
        if self.hub.core.is_none() && self.now >= self.hub_up_at {
            self.start_hub();
        }
        for index in 0..self.agents.len() {
            let seed = key(&mut self.random);
            let (now, due) = (self.present_at(index), self.agent_up_at.get(index).copied());
            let Some(agent) = self.agents.get_mut(index) else { continue };
            if agent.core.is_none() && due.is_some_and(|due| now.monotonic >= due) {
                agent.start(seed, now);
                self.note(format!("agent {index} starts"));
                self.step_agent(index, []);
            }
        }
    }

    pub(super) fn start_hub(&mut self) {
        let (seed, now) = (key(&mut self.random), self.present());
        self.hub.start(seed, &self.registry, now);
        self.note("the hub starts".to_owned());
        // Sometimes they can't be read at first: nobody must be told to run nothing.
        let late = self.faults && chance(&mut self.random, 250);
        let wait = if late { u64::from(self.random.next_u32() % 20_000) } else { 0 };
        self.manifests_at = Some(self.now.plus_ms(wait));
        self.read_manifests();
    }

    /// Hands the manifests to the hub when their time has come.
    pub(super) fn read_manifests(&mut self) {
        if self.manifests_at.is_some_and(|at| at <= self.now) {
            self.manifests_at = None;
            let manifests = self.fleet.manifests();
            self.step_stale([HubEvent::Manifests(manifests.clone())]);
            self.step_hub([HubEvent::Manifests(manifests)]);
        }
    }

    pub(super) fn time_out(&mut self) {
        let now = self.present();
        if let Some(core) = self.hub.core.as_mut()
            && core.poll_timeout().is_some_and(|at| at <= now.monotonic)
        {
            core.handle_timeout(now);
            self.step_hub([]);
        }
        self.stale_goes_on();
        for index in 0..self.agents.len() {
            let now = self.present_at(index);
            let Some(core) = self.agents.get_mut(index).and_then(|a| a.core.as_mut()) else {
                continue;
            };
            if core.poll_timeout().is_some_and(|at| at <= now.monotonic) {
                core.handle_timeout(now);
                self.step_agent(index, []);
            }
        }
    }

    pub(super) fn step_agent<const N: usize>(&mut self, index: usize, events: [AgentEvent; N]) {
        let now = self.present_at(index);
        let (random, faults) = (&mut self.random, self.faults);
        let Some(agent) = self.agents.get_mut(index) else { return };
        let outcome =
            agent.step(events, now, &mut |_| faults && random.next_u32().is_multiple_of(1_500));
        for payload in outcome.sent {
            self.link.send(Way::Up(index), payload, now.monotonic, &mut self.random);
        }
        if outcome.crashed {
            self.agent_died(index, "between two effects");
        }
    }

    pub(super) fn step_hub<const N: usize>(&mut self, events: [HubEvent; N]) {
        let faults = self.faults;
        self.step_hub_with(events, faults);
    }

    pub(super) fn step_hub_safely<const N: usize>(&mut self, events: [HubEvent; N]) {
        self.step_hub_with(events, false);
    }

    pub(super) fn step_hub_with<const N: usize>(&mut self, events: [HubEvent; N], faults: bool) {
        let now = self.present();
        let random = &mut self.random;
        let outcome =
            self.hub.step(events, now, &mut |_| faults && random.next_u32().is_multiple_of(2_000));
        for (node, payload) in outcome.sent {
            if let Some(index) = scene::index_of(&node) {
                self.link.send(Way::Down(index), payload, now.monotonic, &mut self.random);
            }
        }
        if outcome.crashed {
            self.hub_died("between two effects");
        }
    }

    pub(super) fn agent_died(&mut self, index: usize, how: &str) {
        self.report.crashes += 1;
        self.note(format!("agent {index} is killed {how}"));
        let down = u64::from(self.random.next_u32() % 30_000);
        if let Some(at) = self.agent_up_at.get_mut(index) {
            *at = self.now.plus_ms(down);
        }
        if let Some(agent) = self.agents.get_mut(index) {
            agent.kill();
        }
        self.disconnect(index);
    }

    pub(super) fn hub_died(&mut self, how: &str) {
        self.report.crashes += 1;
        self.note(format!("the hub is killed {how}"));
        self.hub_up_at = self.now.plus_ms(u64::from(self.random.next_u32() % 30_000));
        self.hub.kill();
        for index in 0..self.agents.len() {
            self.disconnect(index);
        }
    }

    /// The hub that no longer leads does what is due, until it finds out.
    fn stale_goes_on(&mut self) {
        let now = self.present();
        let Some((hub, until)) = &mut self.stale else { return };
        if now.monotonic >= *until {
            self.stale = None;
            return;
        }
        if let Some(core) = hub.core.as_mut()
            && core.poll_timeout().is_some_and(|at| at <= now.monotonic)
        {
            core.handle_timeout(now);
            self.step_stale([]);
        }
    }

    /// What the hub that no longer leads sends reaches the nodes; what they send does not reach it.
    fn step_stale<const N: usize>(&mut self, events: [HubEvent; N]) {
        let now = self.present();
        let Some((hub, _)) = &mut self.stale else { return };
        let outcome = hub.step(events, now, &mut |_| false);
        for (node, payload) in outcome.sent {
            if let Some(index) = scene::index_of(&node) {
                self.link.send(Way::Down(index), payload, now.monotonic, &mut self.random);
            }
        }
    }
}
