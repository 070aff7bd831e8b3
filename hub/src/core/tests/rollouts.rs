//! A hub that is killed between any two steps of a rollout, with nodes that do as they are told.

use super::*;
use crate::manifests::parse_documents;
use shared::model::{PodPhase, PodStatus, Revision};
use shared::trust::session::SessionPublicKey;
use std::collections::BTreeSet;

const NODES: usize = 12;

fn id(number: usize) -> NodeId {
    NodeId::new(&format!("mast-{number:02}")).unwrap()
}

fn key_of(number: usize) -> SessionPublicKey {
    SessionPrivateKey::from_bytes([100 + u8::try_from(number).unwrap(); 32]).public()
}

fn manifests(version: u32, rollout: &str) -> Manifests {
    let text = format!(
        "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {{name: ocr}}\n\
         spec:\n  template: {{spec: {{containers: [{{name: c, command: [ocr, v{version}]}}]}}}}\n{rollout}"
    );
    parse_documents("ocr.yaml", &text).unwrap()
}

const WAVES: &str = "  rollout: {waves: [1, 50%], maxUnavailable: 2, minReadySeconds: 5}\n";

fn revision(version: u32) -> Revision {
    manifests(version, "").workloads.values().next().unwrap().revision
}

/// A hub whose nodes have what they are told at once, but for a version that fails.
struct Fleet {
    hub: HubCore,
    store: Memory,
    now: Now,
    manifests: Manifests,
    fails: Option<Revision>,
    offline: BTreeSet<usize>,
    /// What each node was told last.
    told: BTreeMap<NodeId, Revision>,
    /// How often a node was handed what it had before.
    handed_back: u32,
    had: BTreeMap<NodeId, BTreeSet<Revision>>,
    /// What another hub finds, where there are several.
    shared: Option<BTreeMap<String, Vec<u8>>>,
    /// On its way there, and when it arrives.
    on_its_way: Option<(MonotonicMs, SharedTemplates)>,
}

/// How long it takes to share something.
const SHARE_MS: u64 = 130;

impl Fleet {
    fn new() -> Self {
        Self::with_shared(None)
    }

    /// One whose hub is one of several.
    fn of_several() -> Self {
        let mut fleet = Self::with_shared(Some(BTreeMap::new()));
        fleet.pass(1_000);
        fleet
    }

    fn with_shared(shared: Option<BTreeMap<String, Vec<u8>>>) -> Self {
        let (store, now) = (Memory::default(), Now::default());
        let hub = match &shared {
            Some(_) => hub_on(&store, now).sharing_templates(true),
            None => hub_on(&store, now),
        };
        let mut fleet = Self {
            hub,
            store,
            now,
            manifests: manifests(1, WAVES),
            fails: None,
            offline: BTreeSet::new(),
            told: BTreeMap::new(),
            handed_back: 0,
            had: BTreeMap::new(),
            shared,
            on_its_way: None,
        };
        for number in 0..NODES {
            let record = NodeRecord::new(key_of(number), "1".to_owned(), UnixMs(0));
            let record = NodeRecord { last_seen: Some(UnixMs(1)), ..record };
            fleet.hub.handle_event(Event::Enrolled { node: id(number), record }, fleet.now);
        }
        fleet.settle();
        fleet.begin();
        fleet
    }

    /// The hub has started: nodes are in session, and the manifests are read.
    fn begin(&mut self) {
        self.connect();
        self.hub.handle_event(Event::Manifests(self.manifests.clone()), self.now);
        self.settle();
    }

    fn connect(&mut self) {
        for number in 0..NODES {
            if let Some(node) = self.hub.nodes.get_mut(&id(number)) {
                node.greeted = !self.offline.contains(&number);
            }
        }
    }

    fn change(&mut self, manifests: Manifests) {
        self.manifests = manifests;
        self.hub.handle_event(Event::Manifests(self.manifests.clone()), self.now);
        self.settle();
    }

    fn restart(&mut self) {
        self.hub = hub_on(&self.store, self.now);
        self.settle();
        self.begin();
    }

    /// The hub is gone with its store, and what it had not shared yet; another one knows what was shared.
    fn take_over(&mut self) {
        self.on_its_way = None;
        let mut batch = WriteBatch::new();
        for (key, _) in self.store.scan(Tree::Templates, &[], usize::MAX).unwrap() {
            batch.delete(Tree::Templates, key);
        }
        for (key, value) in self.shared.iter().flatten() {
            batch.put(Tree::Templates, key.clone(), value.clone());
        }
        self.store.commit(&batch).unwrap();
        self.hub = hub_on(&self.store, self.now).sharing_templates(false);
        self.settle();
        self.begin();
    }

    /// As [`Self::take_over`], by a hub that knows no more of the nodes than that they are enrolled.
    fn take_over_unheard(&mut self) {
        self.on_its_way = None;
        self.store = Memory::default();
        let mut batch = WriteBatch::new();
        for (key, value) in self.shared.iter().flatten() {
            batch.put(Tree::Templates, key.clone(), value.clone());
        }
        self.store.commit(&batch).unwrap();
        self.hub = hub_on(&self.store, self.now).sharing_templates(false);
        for number in 0..NODES {
            let record = NodeRecord::new(key_of(number), "1".to_owned(), UnixMs(0));
            self.hub.handle_event(Event::Enrolled { node: id(number), record }, self.now);
        }
        // Nobody has greeted yet when the manifests are read.
        self.hub.handle_event(Event::Manifests(self.manifests.clone()), self.now);
        self.settle();
        self.connect();
    }

    fn arrive(&mut self) {
        let due = |(at, _): &mut (MonotonicMs, SharedTemplates)| *at <= self.now.monotonic;
        let Some((_, templates)) = self.on_its_way.take_if(due) else { return };
        let shared = self.shared.as_mut().unwrap();
        for (key, value) in templates {
            match value {
                Some(value) => drop(shared.insert(key, value)),
                None => drop(shared.remove(&key)),
            }
        }
        self.hub.handle_event(Event::Shared, self.now);
        self.settle();
    }

    /// Performs what is due and has the nodes report; nothing is lost, and no time passes.
    fn settle(&mut self) {
        while let Some(effect) = self.hub.poll_effect() {
            match effect {
                Effect::Persist(batch) => {
                    self.store.commit(&batch).unwrap();
                    self.hub.handle_event(Event::Persisted, self.now);
                }
                Effect::Share(templates) => {
                    assert!(self.on_its_way.is_none(), "one after the other");
                    self.on_its_way = Some((self.now.monotonic.plus_ms(SHARE_MS), templates));
                }
                _ => {}
            }
        }
        for number in 0..NODES {
            if !self.offline.contains(&number) {
                self.report(number);
            }
        }
        self.hub.look_at_rollouts(self.now.monotonic);
    }

    fn report(&mut self, number: usize) {
        let (key, id) = (WorkloadKey::new("default", "ocr").unwrap(), id(number));
        let Some(told) = self.hub.assignment.per_node.get(&id).and_then(|node| node.get(&key))
        else {
            return;
        };
        let fails = self.fails == Some(told.revision);
        let status = PodStatus {
            pod: "default/ocr-0".parse().unwrap(),
            revision: told.revision,
            phase: if fails { PodPhase::BackingOff } else { PodPhase::Running },
            ready: !fails,
            reason: if fails { "CrashLoopBackOff".to_owned() } else { String::new() },
            message: String::new(),
            restarts: if fails { 3 } else { 0 },
            started_at: None,
            last_exit_code: None,
            gpus: vec![],
            containers: vec![],
            pod_ip: None,
        };
        let before = self.told.insert(id.clone(), told.revision);
        let had = self.had.entry(id.clone()).or_default();
        let is_back = before.is_some_and(|before| before != told.revision);
        self.handed_back += u32::from(is_back && had.contains(&told.revision));
        had.insert(told.revision);
        self.hub.nodes.get_mut(&id).unwrap().pods.insert("default/ocr-0".to_owned(), status);
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.monotonic.plus_ms(ms);
        loop {
            let arrives = self.on_its_way.as_ref().map(|(at, _)| *at);
            let due = self.hub.poll_timeout().into_iter().chain(arrives).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now.monotonic = due.max(self.now.monotonic);
            self.hub.handle_timeout(self.now);
            self.settle();
            self.arrive();
        }
        self.now.monotonic = end;
    }

    fn with(&self, version: u32) -> usize {
        self.told.values().filter(|told| **told == revision(version)).count()
    }

    fn view(&self) -> WorkloadView {
        self.hub.workload_views().next().unwrap()
    }
}

#[test]
fn the_first_template_goes_to_all_at_once_and_a_new_one_in_waves() {
    let mut fleet = Fleet::new();
    assert_eq!(fleet.with(1), NODES);
    fleet.change(manifests(2, WAVES));
    assert_eq!((fleet.with(1), fleet.view().rollout.map(|r| r.wave)), (NODES, Some(1)));
    fleet.pass(1_000);
    assert_eq!((fleet.with(2), fleet.view().updated), (1, 1));
    fleet.pass(6_000);
    assert_eq!((fleet.with(2), fleet.view().rollout.map(|r| r.wave)), (6, Some(2)));
    fleet.pass(12_000);
    assert_eq!((fleet.with(2), fleet.view().rollout), (NODES, None));
    assert_eq!(fleet.handed_back, 0);
}

#[test]
fn a_hub_that_is_killed_after_any_step_goes_on_where_it_was() {
    for kill_after_ms in (0..22_000).step_by(150) {
        let mut fleet = Fleet::new();
        fleet.change(manifests(2, WAVES));
        fleet.pass(kill_after_ms);
        let before = fleet.with(2);
        fleet.restart();
        assert_eq!(fleet.with(2), before, "killed after {kill_after_ms} ms");
        fleet.pass(40_000);
        assert_eq!((fleet.with(2), fleet.view().rollout), (NODES, None), "{kill_after_ms}");
        assert_eq!(fleet.handed_back, 0, "killed after {kill_after_ms} ms");
    }
}

/// Where a fleet's replicas are is a decision that no manifest repeats: another hub that has heard no report
/// yet leaves them where they are, also at a node that is cordoned.
#[test]
fn another_hub_moves_no_replica_before_it_has_heard_of_anybody() {
    let text = |unschedulable| {
        format!(
            "apiVersion: hinterland.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {{name: ocr}}\n\
             spec:\n  placement: {{replicas: 4}}\n  template: {{spec: {{containers: [{{name: c, command: \
             [ocr, v1]}}]}}}}\n---\napiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {{name: \
             mast-09}}\nspec: {{unschedulable: {unschedulable}}}\n"
        )
    };
    let read = |unschedulable| parse_documents("ocr.yaml", &text(unschedulable)).unwrap();
    let holders =
        |fleet: &Fleet| -> Vec<NodeId> { fleet.hub.assignment.per_node.keys().cloned().collect() };
    let mut fleet = Fleet::of_several();
    // Of those that are there then: the last four.
    fleet.offline = (0..8).collect();
    fleet.connect();
    fleet.change(read(false));
    fleet.pass(1_000);
    let before = holders(&fleet);
    assert_eq!(before, (8..12).map(id).collect::<Vec<_>>());
    fleet.change(read(true));
    fleet.pass(1_000);
    fleet.offline.clear();
    fleet.take_over_unheard();
    assert_eq!(holders(&fleet), before);
    fleet.pass(60_000);
    assert_eq!(holders(&fleet), before);
}

/// What nodes were told was shared before: no node is handed back what it had, and none is passed over.
#[test]
fn another_hub_goes_on_where_the_one_before_was() {
    for killed_after_ms in (0..22_000).step_by(150) {
        let mut fleet = Fleet::of_several();
        assert_eq!(fleet.with(1), NODES);
        fleet.change(manifests(2, WAVES));
        fleet.pass(killed_after_ms);
        let before = fleet.with(2);
        fleet.take_over();
        // A wave that was shared and not told yet is told now.
        assert!((before..=NODES / 2).contains(&fleet.with(2)) || before > 6, "{killed_after_ms}");
        fleet.pass(40_000);
        assert_eq!((fleet.with(2), fleet.view().rollout), (NODES, None), "{killed_after_ms}");
        assert_eq!(fleet.handed_back, 0, "killed after {killed_after_ms} ms");
    }
}

#[test]
fn what_is_not_shared_is_told_to_nobody_and_what_is_gone_is_shared_as_well() {
    let mut fleet = Fleet::of_several();
    fleet.change(manifests(2, WAVES));
    fleet.pass(SHARE_MS);
    assert_eq!(fleet.with(2), 0, "the rollout is known elsewhere, and its first wave is not");
    fleet.pass(1_000);
    assert_eq!(fleet.with(2), 1);
    assert_eq!(fleet.shared.as_ref().unwrap().len(), 1);
    fleet.change(Manifests::default());
    fleet.pass(1_000);
    assert_eq!(fleet.shared.as_ref().unwrap().len(), 0);
}

#[test]
fn a_template_that_changed_while_the_hub_was_away_goes_in_waves_as_well() {
    let mut fleet = Fleet::new();
    fleet.manifests = manifests(2, WAVES);
    fleet.restart();
    assert_eq!(fleet.with(1), NODES);
    fleet.pass(1_000);
    assert_eq!(fleet.with(2), 1);
}

#[test]
fn a_template_that_fails_is_taken_back_and_stays_back_across_a_restart() {
    let mut fleet = Fleet::new();
    fleet.fails = Some(revision(2));
    fleet.change(manifests(2, WAVES));
    fleet.pass(60_000);
    assert_eq!(fleet.with(1), NODES);
    let rollout = fleet.view().rollout.unwrap();
    assert_eq!(rollout.phase, "RolledBack");
    assert!(rollout.message.starts_with("mast-00: pod default/ocr-0: "), "{rollout:?}");
    fleet.restart();
    fleet.pass(60_000);
    assert_eq!((fleet.with(1), fleet.handed_back), (NODES, 1), "the canary, once");
    fleet.change(manifests(3, WAVES));
    fleet.pass(60_000);
    assert_eq!((fleet.with(3), fleet.view().rollout), (NODES, None), "a mended one goes on");
}

#[test]
fn what_is_not_durable_is_told_to_nobody() {
    let mut fleet = Fleet::new();
    fleet.change(manifests(2, WAVES));
    fleet.store.full = true;
    while let Some(due) = fleet.hub.poll_timeout().filter(|due| due.0 < 30_000) {
        fleet.now.monotonic = due.max(fleet.now.monotonic);
        fleet.hub.handle_timeout(fleet.now);
        while let Some(effect) = fleet.hub.poll_effect() {
            if let Effect::Persist(batch) = effect {
                let error = "no space".to_owned();
                fleet.hub.handle_event(Event::PersistFailed { batch, error }, fleet.now);
            }
        }
        (0..NODES).for_each(|number| fleet.report(number));
    }
    assert_eq!(fleet.with(1), NODES);
    fleet.store.full = false;
    fleet.pass(60_000);
    assert_eq!((fleet.with(2), fleet.view().rollout), (NODES, None));
}

#[test]
fn a_node_that_comes_back_late_joins_what_is_current() {
    let mut fleet = Fleet::new();
    fleet.offline = [0, 5, 11].into();
    fleet.connect();
    fleet.change(manifests(2, WAVES));
    fleet.pass(60_000);
    assert_eq!((fleet.with(2), fleet.view().rollout), (NODES - 3, None));
    fleet.offline.clear();
    fleet.connect();
    fleet.settle();
    assert_eq!((fleet.with(2), fleet.handed_back), (NODES, 0));
}

#[test]
fn without_a_policy_and_after_a_revert_everyone_has_it_at_once() {
    let mut fleet = Fleet::new();
    fleet.change(manifests(2, WAVES));
    fleet.pass(1_000);
    fleet.change(manifests(1, WAVES));
    assert_eq!((fleet.with(1), fleet.view().rollout), (NODES, None));
    fleet.change(manifests(3, ""));
    assert_eq!(fleet.with(3), NODES);
}
