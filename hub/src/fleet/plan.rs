//! One workload over all nodes: who keeps what it holds, and who is given the rest.

use super::affinity::preference;
use super::eligibility::{Eligibility, Reason, judge};
use super::parameters::{Parameters, bytes_of, parameters_of};
use super::room::{Room, Share};
use super::{OlderTemplate, Site, WorkloadSummary};
use crate::manifests::{AttachedObjects, InferenceWorkload, Replicas, autoscaling_of};
use shared::limits::{MAP_ITEM_BYTES_MAX, REPLICAS_PER_NODE_MAX};
use shared::model::{NodeId, PodTemplate, Workload, WorkloadKey};
use shared::wire::encode;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// Reasons of one summary: what a person reads, and never an entry a node.
pub const REASONS_MAX: usize = 6;

/// Between two looks for a node that takes what an absent one has.
const LOOK_FOR_ROOM_MS: u64 = 30_000;

/// One workload over all nodes.
pub(super) struct Plan<'a> {
    pub(super) workload: &'a InferenceWorkload,
    /// What some of the nodes still run.
    older: Option<&'a OlderTemplate>,
    objects: &'a AttachedObjects,
    candidates: Vec<Candidate>,
    reasons: BTreeMap<Reason<'a>, u32>,
    desired: u32,
    /// The workload's size as a node is sent it, without what that node has of its own.
    bytes: usize,
    /// What it names besides.
    named: Share,
}

/// A node that may hold pods of the workload.
struct Candidate {
    /// Its place in the list of nodes.
    site: usize,
    online: bool,
    /// Pods that it may have at most.
    most: u32,
    given: u32,
    /// Whether it has them only because it had them before.
    keeps_only: bool,
    /// How much the workload would rather have it than others.
    preference: u32,
    /// Milliseconds until what it has may go elsewhere, since it is offline; 0 where it may now.
    leaves_in_ms: Option<u64>,
    /// What its pods have of its own.
    parameters: Parameters,
    /// What the workload takes of it.
    share: Share,
}

impl<'a> Plan<'a> {
    /// Every node keeps what it holds, as far as it may. With so many replicas a node that is all
    /// there is to decide.
    pub(super) fn of_what_is_held(
        workload: &'a InferenceWorkload,
        older: Option<&'a OlderTemplate>,
        objects: &'a AttachedObjects,
        sites: &[Site<'a>],
        rooms: &mut [Room],
    ) -> Self {
        let bytes = encoded_bytes(&as_told(workload, REPLICAS_PER_NODE_MAX));
        let older_bytes = older.map(|older| encoded_bytes(&as_told_before(workload, older, 1)));
        let bytes = bytes.max(older_bytes.unwrap_or(0));
        let named = named_by(workload, older, objects);
        let (candidates, reasons, desired) = (Vec::new(), BTreeMap::new(), 0);
        let mut plan =
            Self { workload, older, objects, candidates, reasons, desired, bytes, named };
        for (index, site) in sites.iter().enumerate() {
            plan.consider(index, site);
        }
        if let Replicas::Fleet(wanted) = workload.replicas {
            plan.desired = wanted;
            plan.take_surplus_back(wanted, rooms);
        }
        plan.take_room(rooms);
        plan
    }

    /// Gives out the replicas that no node holds: to nodes in session as long as there are any with
    /// room, always to the one that has the fewest.
    pub(super) fn give_out(&mut self, rooms: &mut [Room]) {
        let Replicas::Fleet(wanted) = self.workload.replicas else { return };
        let missing = wanted.saturating_sub(self.assigned());
        let missing = self.give_to(true, missing, rooms);
        self.give_to(false, missing, rooms);
        self.move_from_the_absent(rooms);
        let idle = |candidate: &&Candidate| candidate.given == 0 && candidate.most > 0;
        let not_needed = self.candidates.iter().filter(idle).count();
        self.count(Reason::NotNeeded, u32::try_from(not_needed).unwrap_or(u32::MAX));
    }

    /// Adds to each node's workloads what this plan gives it.
    pub(super) fn write(
        &self,
        sites: &[Site<'_>],
        per_site: &mut [BTreeMap<WorkloadKey, Arc<Workload>>],
    ) {
        let mut same: BTreeMap<(u32, bool, &Parameters), Arc<Workload>> = BTreeMap::new();
        for candidate in self.candidates.iter().filter(|candidate| candidate.given > 0) {
            let id = sites.get(candidate.site).map(|site| site.id);
            let older = self.older.filter(|older| id.is_some_and(|id| older.is_for(id)));
            let told = || {
                let told = match older {
                    Some(older) => as_told_before(self.workload, older, candidate.given),
                    None => as_told(self.workload, candidate.given),
                };
                Arc::new(Workload { parameters: candidate.parameters.clone(), ..told })
            };
            let alike = (candidate.given, older.is_some(), &candidate.parameters);
            let workload = same.entry(alike).or_insert_with(told);
            if let Some(site) = per_site.get_mut(candidate.site) {
                site.insert(self.workload.key.clone(), Arc::clone(workload));
            }
        }
    }

    /// What nodes hold that can't be concluded from the manifests: which of them have the replicas of a fleet,
    /// and what those have that would be given nothing.
    pub(super) fn kept(&self, sites: &[Site<'_>]) -> BTreeMap<NodeId, u32> {
        let of_fleet = matches!(self.workload.replicas, Replicas::Fleet(_));
        let kept =
            |candidate: &&Candidate| candidate.given > 0 && (of_fleet || candidate.keeps_only);
        let entry =
            |candidate: &Candidate| Some((sites.get(candidate.site)?.id.clone(), candidate.given));
        self.candidates.iter().filter(kept).filter_map(entry).collect()
    }

    pub(super) fn summary(&self) -> WorkloadSummary {
        let mut counted: Vec<_> = self.reasons.iter().collect();
        counted.sort_by_key(|(_, nodes)| Reverse(**nodes));
        let shown = if counted.len() > REASONS_MAX { REASONS_MAX - 1 } else { REASONS_MAX };
        let others: u32 = counted.iter().skip(shown).map(|(_, nodes)| **nodes).sum();
        let words = counted.iter().take(shown).map(|(reason, nodes)| (reason.to_string(), **nodes));
        let mut reasons: Vec<_> = words.collect();
        if others > 0 {
            reasons.push(("other reasons".to_owned(), others));
        }
        WorkloadSummary { desired: self.desired, assigned: self.assigned(), reasons }
    }

    fn consider(&mut self, index: usize, site: &Site<'a>) {
        let held = site.node.previous.get(&self.workload.key).copied().unwrap_or(0);
        let (most, keeps_only) = match judge(self.workload, site, held) {
            Err(reason) => return self.count(reason, 1),
            Ok(Eligibility::Schedulable) => (REPLICAS_PER_NODE_MAX, false),
            Ok(Eligibility::KeepsOnly) => (held.min(REPLICAS_PER_NODE_MAX), true),
        };
        let parameters = match parameters_of(self.workload, site, self.objects) {
            Ok(parameters) => parameters,
            Err(reason) => return self.count(reason, 1),
        };
        let bytes = self.bytes.saturating_add(bytes_of(&parameters));
        if bytes > MAP_ITEM_BYTES_MAX {
            return self.count(Reason::Full, 1);
        }
        let Share { bytes: named, items } = self.named;
        let share = Share { bytes: bytes.saturating_add(named), items: items + 1 };
        let given = match self.workload.replicas {
            Replicas::PerNode(wanted) => wanted.min(most),
            Replicas::Fleet(_) => held.min(most),
        };
        self.desired = self.desired.saturating_add(given);
        let candidate = Candidate {
            site: index,
            online: site.node.online,
            most,
            given,
            keeps_only,
            preference: preference(self.workload, site),
            leaves_in_ms: self.leaves_in_ms(site),
            parameters,
            share,
        };
        self.candidates.push(candidate);
    }

    /// Takes replicas over `wanted` back, always from a node that has the most of them; from one
    /// that is offline among equals, so that those that serve for certain go on.
    fn take_surplus_back(&mut self, wanted: u32, rooms: &[Room]) {
        let mut surplus = self.assigned().saturating_sub(wanted);
        let loaded = |site: usize| rooms.get(site).map_or(0, Room::pods);
        let rank = |(index, candidate): (usize, &Candidate)| {
            let unloved = Reverse(candidate.preference);
            (candidate.given, !candidate.online, unloved, loaded(candidate.site), index)
        };
        let holders = self.candidates.iter().enumerate().filter(|(_, held)| held.given > 0);
        let mut fullest: BinaryHeap<_> = holders.map(rank).collect();
        while surplus > 0 {
            let Some((given, offline, unloved, load, index)) = fullest.pop() else { return };
            surplus -= 1;
            if let Some(candidate) = self.candidates.get_mut(index) {
                candidate.given = given.saturating_sub(1);
                fullest.push((candidate.given, offline, unloved, load, index));
            }
        }
    }

    /// Takes room on each node for what it keeps; what does not fit is not kept.
    fn take_room(&mut self, rooms: &mut [Room]) {
        let mut full = 0;
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.given > 0) {
            let taken = rooms.get_mut(candidate.site);
            // What scales may come to have more; what is short of that is still as many as it asks for.
            let most = self.workload.autoscaling.as_ref().map_or(0, |said| said.max_replicas);
            let wanted = candidate.given.max(most);
            let taken = taken.map(|room| room.take(wanted, candidate.share));
            let taken = taken.unwrap_or(0).min(candidate.given);
            if taken < candidate.given {
                // Nor is there room for more of it.
                (candidate.given, candidate.most) = (taken, taken);
                full += 1;
            }
        }
        self.count(Reason::Full, full);
    }

    /// Gives up to `missing` replicas to nodes that are `online` or not; says how many are left.
    fn give_to(&mut self, online: bool, missing: u32, rooms: &mut [Room]) -> u32 {
        let mut missing = missing;
        let mut full = 0;
        let of_these = |(_, candidate): &(usize, &Candidate)| candidate.online == online;
        let pods = |rooms: &[Room], site: usize| rooms.get(site).map_or(0, Room::pods);
        let rank = |(index, candidate): (usize, &Candidate)| {
            let unloved = Reverse(candidate.preference);
            Reverse((candidate.given, unloved, pods(rooms, candidate.site), index))
        };
        let candidates = self.candidates.iter().enumerate().filter(of_these);
        let with_room = candidates.filter(|(_, candidate)| candidate.given < candidate.most);
        let mut emptiest: BinaryHeap<_> = with_room.map(rank).collect();
        while missing > 0 {
            let Some(Reverse((_, _, _, index))) = emptiest.pop() else { break };
            let Some(candidate) = self.candidates.get_mut(index) else { break };
            let Some(room) = rooms.get_mut(candidate.site) else { break };
            let taken = match candidate.given {
                0 => room.take(1, candidate.share) == 1,
                _ => room.take_one_more(),
            };
            if !taken {
                candidate.most = candidate.given;
                full += 1;
                continue;
            }
            missing -= 1;
            candidate.given += 1;
            if candidate.given < candidate.most {
                let unloved = Reverse(candidate.preference);
                emptiest.push(Reverse((candidate.given, unloved, room.pods(), index)));
            }
        }
        self.count(Reason::Full, full);
        missing
    }

    /// Milliseconds until what a node has may go elsewhere, where it ever may.
    fn leaves_in_ms(&self, site: &Site<'_>) -> Option<u64> {
        let after_ms = self.workload.offline.reschedule_after_ms.filter(|_| !site.node.online)?;
        Some(after_ms.saturating_sub(site.node.offline_ms))
    }

    /// What nodes have that stayed offline goes to nodes in session, as far as these may have it. Nothing is
    /// taken from an absent node that nobody else takes.
    fn move_from_the_absent(&mut self, rooms: &mut [Room]) {
        let is_absent = |candidate: &Candidate| candidate.leaves_in_ms == Some(0);
        let absent = self.candidates.iter().filter(|candidate| is_absent(candidate));
        let theirs = absent.fold(0, |sum: u32, candidate| sum.saturating_add(candidate.given));
        let mut moved = theirs - self.give_to(true, theirs, rooms);
        for candidate in self.candidates.iter_mut().filter(|candidate| is_absent(candidate)) {
            let leaving = candidate.given.min(moved);
            candidate.given -= leaving;
            moved -= leaving;
        }
    }

    /// In so many milliseconds it may come out otherwise: a node is offline for long enough then, or one is
    /// there that takes what an absent one has.
    pub(super) fn look_again_in_ms(&self) -> Option<u64> {
        let holders = self.candidates.iter().filter(|candidate| candidate.given > 0);
        let leaving = holders.filter_map(|candidate| candidate.leaves_in_ms);
        leaving.map(|ms| if ms == 0 { LOOK_FOR_ROOM_MS } else { ms }).min()
    }

    fn count(&mut self, reason: Reason<'a>, nodes: u32) {
        if nodes > 0 {
            let counted = self.reasons.entry(reason).or_default();
            *counted = counted.saturating_add(nodes);
        }
    }

    fn assigned(&self) -> u32 {
        self.candidates.iter().fold(0, |sum, held| sum.saturating_add(held.given))
    }
}

/// A workload as a node is told it.
fn as_told(workload: &InferenceWorkload, replicas: u32) -> Workload {
    Workload {
        key: workload.key.clone(),
        revision: workload.revision,
        replicas,
        priority: workload.priority,
        tolerations: workload.tolerations.clone(),
        template: workload.template.clone(),
        results: workload.results.clone(),
        parameters: Parameters::new(),
        autoscaling: workload.autoscaling.as_ref().map(autoscaling_of),
    }
}

/// As [`as_told`], with the template that it had before.
fn as_told_before(workload: &InferenceWorkload, older: &OlderTemplate, replicas: u32) -> Workload {
    let (revision, template) = (older.revision, older.template.clone());
    Workload { revision, template, ..as_told(workload, replicas) }
}

/// What a workload names, and what some of its nodes still run: the larger of the two, in each respect.
fn named_by(
    workload: &InferenceWorkload,
    older: Option<&OlderTemplate>,
    objects: &AttachedObjects,
) -> Share {
    let of = |template: &PodTemplate| {
        let namespace = workload.key.namespace();
        let names: BTreeSet<_> = template.references().map(|one| one.object(namespace)).collect();
        let bytes = |name| objects.get(name).map_or(0, |object| object.item_bytes());
        Share { bytes: names.iter().map(bytes).sum(), items: names.len() }
    };
    let (now, before) =
        (of(&workload.template), older.map(|older| of(&older.template)).unwrap_or_default());
    Share { bytes: now.bytes.max(before.bytes), items: now.items.max(before.items) }
}

/// What can't be encoded fits nowhere.
fn encoded_bytes(told: &Workload) -> usize {
    encode("workload", told).map_or(usize::MAX, |bytes| bytes.len())
}
