//! One workload's way from one template to the next: in waves, each of which must prove itself.
//!
//! Nodes are taken in the order of their names, and all that there is to remember is the last one that
//! was taken (*through*): whoever knows it knows who has the new template, across restarts of the hub and
//! absences of nodes. Nodes that are offline are passed over and count for nothing; they get what their
//! place in the order says when they are back.
//!
//! Pure: time comes in, and the next state comes out. Times are not part of the state that is stored: a
//! hub that starts waits for a wave's proof anew.

use serde::{Deserialize, Serialize};
use shared::model::{MonotonicMs, NodeId, Revision};
use std::fmt;

/// A number of nodes, or a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeShare {
    /// So many.
    Nodes(u32),
    /// So many in a hundred, rounded up.
    Percent(u32),
}

impl NodeShare {
    /// Of `total` nodes; at least one, and at most all.
    fn of(self, total: usize) -> usize {
        let count = match self {
            Self::Nodes(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Percent(percent) => {
                let percent = usize::try_from(percent).unwrap_or(100);
                total.saturating_mul(percent).div_ceil(100)
            }
        };
        count.max(1).min(total)
    }
}

/// How a new template reaches the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPolicy {
    /// How many nodes have it after each wave; one of all nodes follows.
    pub waves: Vec<NodeShare>,
    /// How many nodes may be without ready pods of it at a time.
    pub max_unavailable: NodeShare,
    /// No further node is given it.
    pub paused: bool,
    /// Every pod of a wave must be ready for so long.
    pub min_ready_ms: u64,
    /// A pod that was started again more often fails it.
    pub restarts_max: u32,
    /// Without getting further for so long it has failed.
    pub progress_deadline_ms: u64,
    /// Whether nodes get the template before it back when it fails.
    pub rolls_back: bool,
}

impl RolloutPolicy {
    /// How many waves there are, the last one included.
    #[must_use]
    pub fn wave_count(&self) -> u32 {
        u32::try_from(self.waves.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Nodes that have the new template after `wave`, of `total`.
    fn wave_size(&self, wave: u32, total: usize) -> usize {
        let share = usize::try_from(wave).ok().and_then(|wave| self.waves.get(wave));
        share.map_or(total, |share| share.of(total))
    }

    fn is_last(&self, wave: u32) -> bool {
        wave.saturating_add(1) >= self.wave_count()
    }
}

/// What has become of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RolloutPhase {
    /// It goes on.
    #[default]
    Progressing,
    /// It has failed: nodes keep what they have.
    Failed,
    /// It has failed, and no node has the new template any more.
    RolledBack,
}

impl RolloutPhase {
    /// As status names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Progressing => "Progressing",
            Self::Failed => "Failed",
            Self::RolledBack => "RolledBack",
        }
    }
}

/// How far a rollout is: what must be known of it after a restart. Fields are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutState {
    /// The new template.
    pub target: Revision,
    /// Nodes up to this one, in the order of names, have the new template; none when there is none.
    pub through: Option<NodeId>,
    /// The wave that is under way, from 0.
    pub wave: u32,
    /// What has become of it.
    pub phase: RolloutPhase,
    /// What went wrong, for people.
    pub message: String,
}

impl RolloutState {
    /// One that has not begun.
    #[must_use]
    pub fn new(target: Revision) -> Self {
        let (phase, message) = (RolloutPhase::Progressing, String::new());
        Self { target, through: None, wave: 0, phase, message }
    }

    /// Whether `node` has the new template.
    #[must_use]
    pub fn covers(&self, node: &NodeId) -> bool {
        self.phase != RolloutPhase::RolledBack
            && self.through.as_ref().is_some_and(|through| node <= through)
    }
}

/// How the pods of a node that has the new template are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeHealth {
    /// All of them are ready.
    Ready,
    /// Not all of them are ready yet.
    Pending,
    /// One of them has failed: which, and why.
    Failing(String),
}

/// A node that the workload is assigned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutNode<'a> {
    /// Its name.
    pub id: &'a NodeId,
    /// Whether it is in session.
    pub online: bool,
    /// How its pods of the new template are.
    pub health: NodeHealth,
}

/// What a running hub knows of a rollout besides its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutWatch {
    /// When something was last seen to get further.
    progressed_at: MonotonicMs,
    /// The most nodes of the wave that were seen ready together.
    ready_most: usize,
    /// Since when every node of the wave is ready.
    ready_since: Option<MonotonicMs>,
}

impl RolloutWatch {
    /// Of a rollout that begins, or is found, now.
    #[must_use]
    pub fn new(now: MonotonicMs) -> Self {
        Self { progressed_at: now, ready_most: 0, ready_since: None }
    }
}

/// What is to be done about a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutStep {
    /// Nothing before this time, unless a node has something to say.
    Wait(Option<MonotonicMs>),
    /// This is its state now.
    Move(RolloutState),
    /// Every node has the new template, and it has proven itself.
    Complete,
}

/// Why a rollout has failed.
#[derive(Debug, Clone, Copy)]
enum Failure<'a> {
    Node(&'a NodeId, &'a str),
    Deadline { ready: usize, wanted: usize },
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node, why) => write!(f, "{node}: {why}"),
            Self::Deadline { ready, wanted } => {
                write!(f, "{ready} of {wanted} nodes got ready within the progress deadline")
            }
        }
    }
}

/// Looks at a rollout. `nodes` are those that the workload is assigned to, in the order of names.
pub fn step(
    state: &RolloutState,
    policy: &RolloutPolicy,
    watch: &mut RolloutWatch,
    nodes: &[RolloutNode<'_>],
    now: MonotonicMs,
) -> RolloutStep {
    if state.phase != RolloutPhase::Progressing {
        return RolloutStep::Wait(None);
    }
    if nodes.is_empty() {
        return RolloutStep::Complete;
    }
    let online: Vec<_> = nodes.iter().filter(|node| node.online).collect();
    let covered = online.iter().filter(|node| state.covers(node.id));
    let failing = covered.clone().find_map(|node| match &node.health {
        NodeHealth::Failing(why) => Some(Failure::Node(node.id, why)),
        NodeHealth::Ready | NodeHealth::Pending => None,
    });
    if let Some(failure) = failing {
        return RolloutStep::Move(failed(state, policy, failure));
    }
    let ready = covered.clone().filter(|node| node.health == NodeHealth::Ready).count();
    if ready > watch.ready_most {
        (watch.ready_most, watch.progressed_at) = (ready, now);
    }
    let (covered, wanted) = (covered.count(), policy.wave_size(state.wave, online.len()));
    if policy.paused || online.is_empty() {
        // Time that passes meanwhile is not held against it.
        watch.progressed_at = now;
        return RolloutStep::Wait(None);
    }
    if covered < wanted {
        watch.ready_since = None;
        let room = policy.max_unavailable.of(online.len()).saturating_sub(covered - ready);
        let next = (wanted - covered).min(room);
        if next > 0 {
            watch.progressed_at = now;
            return RolloutStep::Move(further(state, &online, next));
        }
    } else if ready == covered {
        let since = *watch.ready_since.get_or_insert(now);
        let proven_at = since.plus_ms(policy.min_ready_ms);
        if now < proven_at {
            return RolloutStep::Wait(Some(proven_at));
        }
        *watch = RolloutWatch::new(now);
        if policy.is_last(state.wave) || covered == online.len() {
            return RolloutStep::Complete;
        }
        return RolloutStep::Move(RolloutState { wave: state.wave + 1, ..state.clone() });
    } else {
        watch.ready_since = None;
    }
    let deadline = watch.progressed_at.plus_ms(policy.progress_deadline_ms);
    if now < deadline {
        return RolloutStep::Wait(Some(deadline));
    }
    RolloutStep::Move(failed(state, policy, Failure::Deadline { ready, wanted }))
}

/// `count` more of those that are online have the new template.
fn further(state: &RolloutState, online: &[&RolloutNode<'_>], count: usize) -> RolloutState {
    let next = online.iter().filter(|node| !state.covers(node.id)).take(count).last();
    let through = next.map(|node| node.id.clone()).or_else(|| state.through.clone());
    RolloutState { through, ..state.clone() }
}

fn failed(state: &RolloutState, policy: &RolloutPolicy, failure: Failure<'_>) -> RolloutState {
    let phase = if policy.rolls_back { RolloutPhase::RolledBack } else { RolloutPhase::Failed };
    RolloutState { phase, message: failure.to_string(), ..state.clone() }
}
