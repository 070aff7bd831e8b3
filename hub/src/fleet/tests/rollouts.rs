//! Waves, their proof, and what becomes of nodes that are away or fail.

use super::super::rollout::*;
use proptest::prelude::*;
use shared::model::{MonotonicMs, NodeId, Revision};
use std::collections::BTreeSet;

const MINUTE_MS: u64 = 60_000;

fn policy(waves: &[NodeShare]) -> RolloutPolicy {
    RolloutPolicy {
        waves: waves.to_vec(),
        max_unavailable: NodeShare::Percent(100),
        paused: false,
        min_ready_ms: 10_000,
        restarts_max: 2,
        progress_deadline_ms: 10 * MINUTE_MS,
        rolls_back: true,
    }
}

/// A fleet whose nodes have their pods ready a while after they were given the new template.
struct Fleet {
    ids: Vec<NodeId>,
    offline: BTreeSet<usize>,
    failing: BTreeSet<usize>,
    given_at: Vec<Option<u64>>,
    ready_after_ms: u64,
    policy: RolloutPolicy,
    state: RolloutState,
    watch: RolloutWatch,
    now: u64,
    /// Each state that was moved to.
    states: Vec<RolloutState>,
    unavailable_most: usize,
    complete: bool,
}

impl Fleet {
    fn new(count: usize, policy: RolloutPolicy) -> Self {
        let id = |number| NodeId::new(&format!("n{number:04}")).unwrap();
        Self {
            ids: (0..count).map(id).collect(),
            offline: BTreeSet::new(),
            failing: BTreeSet::new(),
            given_at: vec![None; count],
            ready_after_ms: 5_000,
            policy,
            state: RolloutState::new(Revision(2)),
            watch: RolloutWatch::new(MonotonicMs(0)),
            now: 0,
            states: vec![],
            unavailable_most: 0,
            complete: false,
        }
    }

    fn is_ready(&self, index: usize) -> bool {
        self.given_at[index].is_some_and(|at| self.now >= at + self.ready_after_ms)
    }

    fn health(&self, index: usize) -> NodeHealth {
        if self.failing.contains(&index) && self.is_ready(index) {
            return NodeHealth::Failing("pod x: Failed".to_owned());
        }
        if self.is_ready(index) { NodeHealth::Ready } else { NodeHealth::Pending }
    }

    /// Looks once; whether the state has changed.
    fn look(&mut self) -> bool {
        for index in 0..self.ids.len() {
            // A node that is away hears of it when it is back.
            let has = self.state.covers(&self.ids[index]);
            let hears = has && !self.offline.contains(&index);
            match self.given_at[index] {
                None if hears => self.given_at[index] = Some(self.now),
                Some(_) if !has => self.given_at[index] = None,
                _ => {}
            }
        }
        let online = (0..self.ids.len()).filter(|index| !self.offline.contains(index));
        let unavailable =
            online.filter(|index| self.state.covers(&self.ids[*index]) && !self.is_ready(*index));
        self.unavailable_most = self.unavailable_most.max(unavailable.count());
        let node = |index: usize| RolloutNode {
            id: &self.ids[index],
            online: !self.offline.contains(&index),
            health: self.health(index),
        };
        let nodes: Vec<_> = (0..self.ids.len()).map(node).collect();
        let now = MonotonicMs(self.now);
        let mut watch = self.watch;
        let next = step(&self.state, &self.policy, &mut watch, &nodes, now);
        self.watch = watch;
        match next {
            RolloutStep::Wait(_) => false,
            RolloutStep::Move(state) => {
                assert_ne!(state, self.state, "moves to where it is");
                self.states.push(state.clone());
                self.state = state;
                true
            }
            RolloutStep::Complete => {
                self.complete = true;
                false
            }
        }
    }

    fn run(&mut self, minutes: u64) {
        let end = self.now + minutes * MINUTE_MS;
        while self.now < end && !self.complete {
            if !self.look() {
                self.now += 1_000;
            }
        }
    }

    fn covered(&self) -> usize {
        self.ids.iter().filter(|id| self.state.covers(id)).count()
    }

    /// Nodes that had it when each wave began.
    fn wave_sizes(&self) -> Vec<usize> {
        let through = |state: &RolloutState| self.ids.iter().filter(|id| state.covers(id)).count();
        let last_of = |wave| self.states.iter().rfind(|state| state.wave == wave);
        (0..self.policy.wave_count()).filter_map(last_of).map(through).collect()
    }
}

#[test]
fn waves_grow_as_they_are_written_and_the_last_is_everyone() {
    let waves = [NodeShare::Nodes(1), NodeShare::Percent(11), NodeShare::Percent(50)];
    let mut fleet = Fleet::new(100, policy(&waves));
    fleet.run(5);
    assert!(fleet.complete);
    assert_eq!(fleet.wave_sizes(), [1, 11, 50, 100]);
    // Four waves, each of which gets ready and proves itself for ten seconds.
    assert!((60_000..70_000).contains(&fleet.now), "{}", fleet.now);
}

#[test]
fn no_more_nodes_are_without_ready_pods_than_may_be() {
    let slowly = RolloutPolicy { max_unavailable: NodeShare::Nodes(3), ..policy(&[]) };
    let mut fleet = Fleet::new(20, slowly);
    fleet.run(5);
    assert!(fleet.complete);
    assert_eq!(fleet.unavailable_most, 3);
}

#[test]
fn a_node_that_is_away_is_passed_over_and_has_the_template_when_it_is_back() {
    let mut fleet = Fleet::new(4, policy(&[NodeShare::Nodes(1), NodeShare::Nodes(2)]));
    fleet.offline = [0, 2].into();
    fleet.run(1);
    assert!(fleet.complete, "{:?}", fleet.states);
    assert_eq!(fleet.states[0].through, Some(fleet.ids[1].clone()), "the first that is online");
    fleet.offline.clear();
    assert!(fleet.state.covers(&fleet.ids[0]) && fleet.state.covers(&fleet.ids[2]));
}

#[test]
fn while_all_nodes_are_away_nothing_is_decided() {
    let mut fleet = Fleet::new(2, policy(&[]));
    fleet.offline = [0, 1].into();
    fleet.run(60);
    assert_eq!((fleet.complete, fleet.states.len()), (false, 0));
    fleet.offline.clear();
    fleet.run(1);
    assert!(fleet.complete);
}

#[test]
fn a_pod_that_fails_takes_the_template_back_from_all_or_stops_it_where_it_is() {
    for rolls_back in [true, false] {
        let waves = [NodeShare::Nodes(1), NodeShare::Nodes(3)];
        let mut fleet = Fleet::new(10, RolloutPolicy { rolls_back, ..policy(&waves) });
        fleet.failing = [1].into();
        fleet.run(30);
        assert!(!fleet.complete);
        assert_eq!(fleet.state.message, "n0001: pod x: Failed");
        let phase = if rolls_back { RolloutPhase::RolledBack } else { RolloutPhase::Failed };
        assert_eq!((fleet.state.phase, fleet.state.wave), (phase, 1));
        assert_eq!(fleet.covered(), if rolls_back { 0 } else { 3 });
    }
}

#[test]
fn one_that_gets_no_further_fails_at_its_deadline_and_not_while_it_gets_further() {
    let slow = RolloutPolicy { max_unavailable: NodeShare::Nodes(1), ..policy(&[]) };
    let mut fleet = Fleet::new(5, slow.clone());
    fleet.ready_after_ms = 9 * MINUTE_MS;
    fleet.run(50);
    assert!(fleet.complete, "45 minutes, and never ten without another node");
    let mut fleet = Fleet::new(5, slow);
    fleet.ready_after_ms = 11 * MINUTE_MS;
    fleet.run(12);
    assert_eq!(fleet.state.phase, RolloutPhase::RolledBack);
    assert_eq!(fleet.state.message, "0 of 5 nodes got ready within the progress deadline");
}

#[test]
fn a_pause_keeps_it_where_it_is_and_costs_it_no_time() {
    let mut fleet = Fleet::new(5, policy(&[NodeShare::Nodes(2)]));
    fleet.look();
    fleet.policy.paused = true;
    fleet.run(60);
    assert_eq!((fleet.covered(), fleet.states.len()), (2, 1));
    fleet.policy.paused = false;
    fleet.run(2);
    assert!(fleet.complete);
}

#[test]
fn a_wave_proves_itself_anew_when_a_pod_was_not_ready_meanwhile() {
    let mut fleet = Fleet::new(2, policy(&[NodeShare::Nodes(1)]));
    fleet.look();
    fleet.now = 5_000;
    assert!(!fleet.look());
    fleet.now = 14_999;
    assert!(!fleet.look(), "ready for almost ten seconds");
    fleet.given_at[0] = Some(14_999);
    assert!(!fleet.look());
    fleet.now = 19_999;
    assert!(!fleet.look());
    fleet.now = 29_998;
    assert!(!fleet.look());
    fleet.now = 29_999;
    assert!(fleet.look());
    assert_eq!(fleet.state.wave, 1);
}

#[test]
fn without_any_node_there_is_nothing_to_roll_out() {
    let mut fleet = Fleet::new(0, policy(&[NodeShare::Nodes(1)]));
    fleet.look();
    assert!(fleet.complete);
}

proptest! {
    #[test]
    fn a_hub_that_starts_again_at_any_moment_goes_on_where_it_was(
        count in 1..40_usize,
        waves in proptest::collection::vec(1..60_u32, 0..4),
        restarts in proptest::collection::vec(1..40_usize, 0..20),
        changes in proptest::collection::vec((1..60_usize, 0..40_usize), 0..20),
    ) {
        let waves: BTreeSet<u32> = waves.into_iter().collect();
        let waves: Vec<_> = waves.into_iter().map(NodeShare::Percent).collect();
        let mut fleet = Fleet::new(count, policy(&waves));
        let mut most = 0;
        for looks in 0..2_000 {
            if fleet.complete {
                break;
            }
            if restarts.contains(&(looks % 40)) && looks < 400 {
                fleet.watch = RolloutWatch::new(MonotonicMs(fleet.now));
            }
            for (_, node) in changes.iter().filter(|(at, _)| *at == looks) {
                if *node < count && !fleet.offline.remove(node) {
                    fleet.offline.insert(*node);
                }
            }
            if looks == 100 {
                fleet.offline.clear();
            }
            if !fleet.look() {
                fleet.now += 1_000;
            }
            prop_assert!(fleet.covered() >= most, "no node is handed the one before back");
            most = fleet.covered();
        }
        prop_assert!(fleet.complete, "{:?}", fleet.state);
    }
}
