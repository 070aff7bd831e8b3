//! What a scenario does to a world, and what it asks of it.

use super::{AgentEvent, MonotonicMs, NodeClock, Setup, World, at_rest, scene};
use edge_agent::core::{AgentStatus, LinkStatus};
use hub::core::NodeView;
use shared::wire::Stream;
use std::collections::BTreeMap;

impl World {
    /// A world in which nothing breaks by itself.
    pub(in super::super) fn quiet(seed: u64, setup: &Setup) -> Self {
        let mut world = Self::with_setup(seed, setup);
        (world.faults, world.events_max) = (false, u64::MAX);
        world.begin();
        world
    }

    /// Lets `ms` milliseconds pass.
    pub(in super::super) fn run_for(&mut self, ms: u64) -> Result<(), String> {
        let end = self.now.plus_ms(ms);
        self.alarm_clock = Some(end);
        while self.now < end {
            self.step()?;
        }
        self.alarm_clock = None;
        Ok(())
    }

    /// Lets time pass until all is at rest; how many milliseconds that took.
    ///
    /// # Errors
    /// What was in the way most often within `ms_max`.
    pub(in super::super) fn run_until_rest(&mut self, ms_max: u64) -> Result<u64, String> {
        let begin = self.now;
        // What was in the way most often, since the last thing may be a record just sent.
        let mut unrest: BTreeMap<String, u64> = BTreeMap::new();
        while let Err(why) = self.rests() {
            *unrest.entry(why).or_default() += 1;
            if self.now.since_ms(begin) >= ms_max {
                return Err(format!("not at rest {ms_max} ms after healing: {unrest:?}"));
            }
            self.step()?;
        }
        Ok(self.now.since_ms(begin))
    }

    /// Whether nothing is left to do and the books are even: what was dropped last is told last.
    fn rests(&self) -> Result<(), String> {
        at_rest(&self.agents, &self.hub)?;
        self.accounts.at_rest()
    }

    /// The books, which must be even now.
    pub(in super::super) fn check_books(&self) -> Result<(), String> {
        self.accounts.at_rest()
    }

    pub(in super::super) fn now(&self) -> MonotonicMs {
        self.now
    }

    /// The fleet wants a pod a node of this workload, anew.
    pub(in super::super) fn want(&mut self, name: &str, sink: &'static str) {
        self.fleet.want(name, sink);
        self.manifests_at = Some(self.now);
        self.read_manifests();
    }

    pub(in super::super) fn post(&mut self, posting: Option<super::results::Posting>) {
        (self.posting, self.next_post) = (posting, self.now);
    }

    pub(in super::super) fn set_cut(&mut self, index: usize, cut: bool) {
        if let Some(state) = self.cut.get_mut(index)
            && *state != cut
        {
            *state = cut;
            if cut {
                self.disconnect(index);
            }
        }
    }

    /// The power goes and comes back, and the wall clock says something else.
    pub(in super::super) fn reboot(&mut self, index: usize, clock: NodeClock) {
        self.cut_power(index);
        if let (Some(up), Some(own)) = (self.agent_up_at.get_mut(index), self.clocks.get_mut(index))
        {
            *up = self.now.plus_ms(30_000);
            *own = clock;
        }
    }

    pub(in super::super) fn restart_hub(&mut self) {
        self.hub_died("to be started again");
    }

    /// A GPU of this node is lost, or all are there again.
    pub(in super::super) fn set_gpu_lost(&mut self, index: usize, lost: bool) {
        let mut gpus = scene::gpus(index);
        if lost {
            gpus.devices.pop();
        }
        if let Some(agent) = self.agents.get_mut(index) {
            agent.gpus = gpus.clone();
        }
        self.step_agent(index, [AgentEvent::Inventory(gpus)]);
    }

    /// Names of the workloads of which a pod runs, with their revisions.
    pub(in super::super) fn running(&self, index: usize) -> Vec<(String, u64)> {
        let running = self.agents.get(index).map(|agent| agent.machine.running());
        let name = |(pod, run): (shared::model::PodId, super::super::runtime::Running)| {
            (pod.workload.name().to_owned(), run.revision.0)
        };
        running.unwrap_or_default().into_iter().map(name).collect()
    }

    pub(in super::super) fn status(&self, index: usize) -> Option<AgentStatus> {
        let core = self.agents.get(index)?.core.as_ref()?;
        Some(core.status(LinkStatus::default()))
    }

    pub(in super::super) fn view(&self, index: usize) -> Option<NodeView> {
        self.hub.core.as_ref()?.node_view(&scene::node(index))
    }

    /// Bytes that the link has carried, and the most of any 24 hours.
    pub(in super::super) fn carried(&self, index: usize) -> (u64, u64) {
        let meter = self.meters.get(index).and_then(Option::as_ref);
        meter.map_or((0, 0), |meter| (meter.total, meter.day_max))
    }

    /// Alarms of this node that the hub does not have.
    pub(in super::super) fn alarms_waiting(&self, index: usize) -> usize {
        self.accounts.waiting(&scene::node(index), |stream| stream == Stream::Alarms)
    }

    /// Results of this node that the hub does not have.
    pub(in super::super) fn results_waiting(&self, index: usize) -> usize {
        self.accounts.waiting(&scene::node(index), |stream| matches!(stream, Stream::Results(_)))
    }

    /// Records of this node that left it while no hub had them, and so must be counted as lost.
    pub(in super::super) fn dropped(&self, index: usize) -> u64 {
        self.accounts.dropped(&scene::node(index))
    }
}
