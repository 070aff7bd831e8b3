//! The processes of the world: how they start, what they are told, how they die.

use super::super::accounts::{Deed, durable_watermark};
use super::super::hub::SimHub;
use super::super::scene;
use super::{AgentEvent, HubEvent, NodeRecord, Now, SessionPrivateKey, Way, World, chance, key};
use rand_core::RngCore;
use shared::wire::LogId;

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
            let is_due = due.is_some_and(|due| self.now >= due);
            let Some(agent) = self.agents.get_mut(index) else { continue };
            if agent.core.is_none() && is_due {
                agent.start(seed, now);
                self.note(format!("agent {index} starts"));
                self.step_agent(index, []);
            }
        }
    }

    pub(super) fn start_hub(&mut self) {
        let (seed, now) = (key(&mut self.random), self.present());
        let checked = self.accounts.hub_started(&self.hub.durable());
        self.complain(checked);
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
        let connected = agent.connected;
        let outcome =
            agent.step(events, now, &mut |_| faults && random.next_u32().is_multiple_of(1_500));
        let at = self.now;
        self.keep_to_limit_in_force(index);
        for payload in outcome.sent.into_iter().filter(|_| connected) {
            self.carry_message(index, payload.len());
            self.link.send(Way::Up(index), payload, at, &mut self.random);
        }
        if let Some(touched) = self.touched.get_mut(index) {
            *touched = true;
        }
        self.account_for_commits(index);
        self.check_answers(outcome.posts);
        if outcome.endless {
            self.complain(Err(format!("agent {index} is busy for ever at one moment")));
        }
        if outcome.crashed {
            self.agent_died(index, "between two effects");
        } else {
            self.keep_to_budget(index);
        }
    }

    /// Enters in the books what the agent's store has taken.
    fn account_for_commits(&mut self, index: usize) {
        let Some(agent) = self.agents.get(index) else { return };
        let node = agent.identity.node.clone();
        let journal = agent.disk.take_journal();
        if self.books_are_closed {
            return;
        }
        for batch in journal {
            let (hub, stale) = (&self.hub, &self.stale);
            let watermark = |hub: &SimHub, log: &LogId| {
                hub.durable().get(&node).map_or(0, |record| durable_watermark(record, *log))
            };
            let durable = |log: &LogId| {
                let at_the_stale = stale.as_ref().map_or(0, |(stale, _)| watermark(stale, log));
                (watermark(hub, log), at_the_stale)
            };
            let checked = self.accounts.node_committed(&node, &batch, durable);
            self.complain(checked);
        }
    }

    /// Enters in the books what the hub has done with records.
    fn account_for_records(&mut self, deeds: Vec<Deed>) {
        for deed in deeds {
            let checked = self.accounts.enter(deed);
            self.complain(checked);
        }
        let Some(core) = self.hub.core.as_ref() else { return };
        let mut checked = Ok(());
        for agent in &self.agents {
            let node = &agent.identity.node;
            let Some(record) = core.record(node) else { continue };
            let newest = || core.events(node).cloned().collect();
            checked = checked.and_then(|()| self.accounts.look(node, record, newest));
        }
        self.complain(checked);
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
        self.account_for_records(outcome.deeds);
        self.end_calls(outcome.ended_calls);
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
        let refused_is_there = chance(&mut self.random, 500);
        if let Some(agent) = self.agents.get_mut(index) {
            agent.kill();
            if agent.disk.process_died(refused_is_there) {
                self.note(format!("agent {index}: what its disk refused last is there after all"));
            }
        }
        self.account_for_commits(index);
        self.forget_posts(index);
        self.disconnect(index);
    }

    pub(super) fn hub_died(&mut self, how: &str) {
        self.report.crashes += 1;
        self.note(format!("the hub is killed {how}"));
        self.hub_up_at = self.now.plus_ms(u64::from(self.random.next_u32() % 30_000));
        self.hub.kill();
        self.forget_calls();
        let refused_is_there = chance(&mut self.random, 500);
        let is_there = self.hub.disk.process_died(refused_is_there);
        self.accounts.hub_died(is_there);
        if is_there {
            self.note("what the hub's disk refused last is there after all".to_owned());
        }
        for index in 0..self.agents.len() {
            self.disconnect(index);
        }
    }

    /// The hub that no longer leads does what is due, until it finds out.
    fn stale_goes_on(&mut self) {
        let now = self.present();
        let Some((hub, until)) = &mut self.stale else { return };
        if now.monotonic >= *until {
            self.end_stale();
            return;
        }
        if let Some(core) = hub.core.as_mut()
            && core.poll_timeout().is_some_and(|at| at <= now.monotonic)
        {
            core.handle_timeout(now);
            self.step_stale([]);
        }
    }

    /// The hub that no longer leads finds out.
    pub(super) fn end_stale(&mut self) {
        if let Some((stale, _)) = self.stale.take() {
            self.accounts.hub_ended(&stale.durable());
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
