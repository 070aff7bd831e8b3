//! The running hub: one task that owns core, store and broker, and handles one thing at a time.
//!
//! Decides nothing of nodes or workloads; the core does. Answers questions between two events.

use super::kubernetes::Kubernetes;
use super::registry::Registry;
use super::replica::Replica;
use super::signing::{SignError, Signer};
use super::witness::witnessed;
use super::world::{HubStore, World};
use crate::admin::{BrokerStatus, HubStatus, ManifestsStatus, Query, Reply, Revoked};
use crate::broker::BrokerEvent;
use crate::core::{Event, HubCore, NodeRecord};
use crate::export;
use crate::manifests::{ManifestProblems, Manifests, ReadManifests};
use crate::ports::perform;
use crate::reconcile::{Change, SeenState};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::io::clock::SystemClock;
use shared::model::{NodeId, Now};
use shared::sync::CallEnded;
use shared::trust::enrollment::Enrollment;
use shared::trust::session::SessionPublicKey;
use shared::wire::{CallMethod, Envelope};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// What the hub listens to.
pub(super) struct Inputs {
    pub(super) broker: mpsc::Receiver<BrokerEvent>,
    pub(super) manifests: mpsc::Receiver<ReadManifests>,
    /// What an API server's objects do; nothing without one.
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) queries: mpsc::Receiver<Query>,
    /// Deliveries that have ended.
    pub(super) delivered: mpsc::Receiver<u64>,
    /// Templates that are where other hubs find them; nothing where there are none.
    pub(super) shared: mpsc::Receiver<()>,
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to stop.
    Stopped,
    /// The store needs a new process.
    MustRestart,
    /// Another hub leads, or may.
    Deposed,
}

/// The running hub.
pub(super) struct Hub<S> {
    pub(super) core: HubCore,
    pub(super) world: World<S>,
    pub(super) signer: Signer,
    pub(super) registry: Registry,
    pub(super) clock: SystemClock,
    pub(super) broker: BrokerStatus,
    pub(super) manifests: ManifestsStatus,
    /// Where desired state comes from, if it is an API server.
    pub(super) kubernetes: Option<Kubernetes>,
    /// Where there are several hubs: that this one leads.
    pub(super) replica: Option<Replica>,
    /// Whether the nodes behind an external broker were told since the start that this hub is there.
    pub(super) called_out: bool,
}

impl<S: HubStore> Hub<S> {
    /// Runs until `stop` is there. Leaves the broker to the caller to close.
    pub(super) async fn run(
        &mut self,
        inputs: &mut Inputs,
        stop: impl Future<Output = ()>,
    ) -> Ended {
        let mut stop = pin!(stop);
        loop {
            // A process that was stopped for a while finds out before it does anything.
            if !self.leads() {
                return Ended::Deposed;
            }
            self.settle();
            if self.world.store.must_restart() {
                return Ended::MustRestart;
            }
            let timer = self.timer();
            let statuses = self.statuses_due();
            let deposed = async {
                match &mut self.replica {
                    Some(replica) => replica.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut stop => return Ended::Stopped,
                () = deposed => return Ended::Deposed,
                () = timer => {
                    let now = self.clock.now();
                    self.core.handle_timeout(now);
                    self.kubernetes.iter_mut().for_each(Kubernetes::schedule);
                }
                () = statuses => self.write_statuses(),
                Some(change) = inputs.changes.recv() => self.handle_change(change),
                Some(event) = inputs.broker.recv() => self.handle_broker(event),
                Some(reading) = inputs.manifests.recv() => self.handle_reading(reading),
                Some(query) = inputs.queries.recv() => self.answer(query),
                Some(()) = inputs.shared.recv() => drop(self.handle(Event::Shared)),
                Some(ticket) = inputs.delivered.recv() => {
                    self.handle(Event::Delivered { ticket });
                }
            }
        }
    }

    fn leads(&self) -> bool {
        let now = self.clock.now().monotonic;
        self.replica.as_ref().is_none_or(|replica| replica.holds(now))
    }

    /// Performs what the core wants done, in order, until there is nothing left.
    pub(super) fn settle(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            if let Some(event) = perform(effect, &mut self.world) {
                if let Event::PersistFailed { error, .. } = &event {
                    error!(error, "the store can't be written: nothing is acknowledged meanwhile");
                }
                let now = self.clock.now();
                self.core.handle_event(event, now);
            }
        }
    }

    /// Starts the core's clockwork: makes what is due durable.
    pub(super) fn begin(&mut self) {
        self.core.handle_timeout(self.clock.now());
        self.settle();
    }

    fn timer(&self) -> impl Future<Output = ()> + use<S> {
        let now = self.clock.now().monotonic;
        let wait_ms = self.core.poll_timeout().map(|due| due.since_ms(now));
        async move {
            match wait_ms {
                Some(wait_ms) => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
                None => std::future::pending().await,
            }
        }
    }

    fn statuses_due(&self) -> impl Future<Output = ()> + use<S> {
        let due = self.kubernetes.as_ref().and_then(Kubernetes::due);
        async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }

    fn write_statuses(&mut self) {
        let Some(kubernetes) = &mut self.kubernetes else { return };
        let problems = kubernetes.write_statuses(&self.core, self.clock.now().wall);
        if problems != self.manifests.problems {
            problems.iter().for_each(|problem| error!(problem, "a custom resource is refused"));
            self.manifests.problems = problems;
        }
    }

    fn handle_change(&mut self, change: Change) {
        let Some(kubernetes) = &mut self.kubernetes else { return };
        let taken_over = kubernetes.handle(change, &self.core);
        if let Some(seen) = kubernetes.take_put_back() {
            self.core.note_seen(seen, self.clock.now());
        }
        self.take_over(taken_over);
    }

    fn take_over(&mut self, taken_over: Option<(Manifests, SeenState)>) {
        if let Some((manifests, seen)) = taken_over {
            self.core.note_seen(seen, self.clock.now());
            self.handle(Event::Manifests(manifests));
        }
    }

    /// Whether there was an older state of the API server to be confirmed.
    fn confirm_regression(&mut self) -> bool {
        let confirmed = self.kubernetes.as_mut().and_then(Kubernetes::confirm_regression);
        let was_found = confirmed.is_some();
        if was_found {
            warn!("an older state of the API server was confirmed: it is taken over");
        }
        self.take_over(confirmed.flatten());
        was_found
    }

    fn handle(&mut self, event: Event) -> Now {
        let now = self.clock.now();
        self.kubernetes.iter_mut().for_each(|kubernetes| kubernetes.note(&event));
        self.core.handle_event(event, now);
        now
    }

    fn handle_broker(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::Connected { node } => drop(self.handle(Event::Connected { node })),
            BrokerEvent::Disconnected { node } => drop(self.handle(Event::Disconnected { node })),
            BrokerEvent::Received { node, payload } => {
                self.handle(Event::Payload { node, payload });
            }
            BrokerEvent::BrokerUp => {
                info!(address = self.broker.address, "the broker can be reached");
                self.broker.up = true;
                self.broker.problem = None;
                self.call_out();
            }
            BrokerEvent::BrokerDown { reason } => self.handle_broker_down(reason),
        }
    }

    /// Has nodes greet that may not have noticed that another hub is there: this one, since its start.
    fn call_out(&mut self) {
        if std::mem::replace(&mut self.called_out, true) {
            return;
        }
        let payload = Envelope::UnknownSession.encode();
        let nodes = self.core.admitted().cloned().collect();
        if let Some(broker) = &self.world.broker {
            broker.call_out(nodes, &payload);
        }
    }

    fn handle_broker_down(&mut self, reason: String) {
        warn!(reason, "the broker can't be reached: every node counts as offline");
        self.broker.up = false;
        self.broker.problem = Some(reason);
        let online: Vec<NodeId> = self.core.nodes_online().cloned().collect();
        for node in online {
            self.handle(Event::Disconnected { node });
        }
    }

    /// Takes what was read of the manifests; what is invalid is shown and changes nothing.
    fn handle_reading(&mut self, reading: ReadManifests) {
        match reading {
            Ok(manifests) => {
                self.manifests.problems.clear();
                self.handle(Event::Manifests(manifests));
            }
            Err(refused) => {
                let problems = in_words(&refused);
                for problem in &problems {
                    error!(problem, "the manifests are refused");
                }
                if self.core.view().has_manifests {
                    warn!("what was read last stays in force");
                } else {
                    error!(
                        "no valid manifests since the start: nodes keep what they run, and are \
                         answered once the manifests are valid"
                    );
                }
                self.manifests.problems = problems;
            }
        }
    }

    fn answer(&mut self, query: Query) {
        // Whoever asked may have gone away: an answer that nobody takes is no failure.
        match query {
            Query::Hub(reply) => drop(reply.send(self.status())),
            Query::Nodes(reply) => {
                drop(reply.send(self.core.node_summaries().collect()));
            }
            Query::Node(node, reply) => {
                drop(reply.send(self.core.node_view(&node).map(Box::new)));
            }
            Query::Workloads(reply) => drop(reply.send(self.core.workload_views().collect())),
            Query::Workload(key, reply) => {
                let name = key.to_string();
                let found = self.core.workload_views().find(|view| view.workload == name);
                drop(reply.send(found));
            }
            Query::Why(node, pod, reply) => {
                drop(reply.send(self.core.why(&node, &pod).map(Box::new)));
            }
            Query::Reach(node, pod, reply) => drop(reply.send(self.core.reach(&node, &pod))),
            Query::Call { node, method, timeout_ms, reply } => {
                self.begin_call(node, *method, timeout_ms, reply);
            }
            Query::Sign(request, reply) => self.answer_sign(&request, reply),
            Query::Revoke(node, reply) => self.answer_revoke(node, reply),
            Query::ConfirmRegression(reply) => drop(reply.send(self.confirm_regression())),
            Query::Metrics(reply) => drop(reply.send(self.metrics())),
        }
    }

    fn begin_call(
        &mut self,
        node: NodeId,
        method: CallMethod,
        timeout_ms: u32,
        reply: Reply<CallEnded>,
    ) {
        let told = |of: &NodeId| self.kubernetes.as_ref().and_then(|k| k.teller(of));
        let reply = witnessed(&node, &method, told(&node), reply);
        let ticket = self.world.begin_call(reply);
        self.handle(Event::Call { ticket, node, method, timeout_ms });
    }

    /// The answer waits until the other hubs know it, where there are any.
    fn answer_sign(&mut self, request: &str, reply: Reply<Result<Box<Enrollment>, SignError>>) {
        let signed = self.sign(request).map(Box::new);
        let node = signed.as_ref().ok().map(|enrollment| enrollment.node.clone());
        let Some(shared) = node.and_then(|node| self.share_node(&node)) else {
            return drop(reply.send(signed));
        };
        tokio::spawn(async move {
            let shared = shared.await.map_err(SignError::Shared);
            drop(reply.send(shared.and(signed)));
        });
    }

    fn answer_revoke(&mut self, node: NodeId, reply: Reply<Revoked>) {
        let revoked = self.revoke(node.clone());
        let Some(shared) = self.share_node(&node) else { return drop(reply.send(revoked)) };
        tokio::spawn(async move {
            let revoked = match (revoked, shared.await) {
                (Revoked::Durably, Err(error)) => {
                    Revoked::ForNow(format!("the other hubs do not know it: {error}"))
                }
                (revoked, _) => revoked,
            };
            drop(reply.send(revoked));
        });
    }

    /// Shares what is known of a node, where there are other hubs.
    fn share_node(&self, node: &NodeId) -> Option<BoxFuture<'static, Result<(), String>>> {
        Some(self.replica.as_ref()?.note(node, self.core.record(node)?).boxed())
    }

    /// Signs; the answer leaves when the node's record is durable.
    fn sign(&mut self, request: &str) -> Result<Enrollment, SignError> {
        let (core, now) = (&self.core, self.clock.now());
        let known = |node: &NodeId| core.record(node).cloned();
        let kept_out = |node: &NodeId, key: &SessionPublicKey| core.why_kept_out(node, key);
        let store = &mut self.world.store;
        let signed = self.signer.sign(request, known, kept_out, store, now.wall);
        let (enrollment, record) = signed?;
        // A name that is enrolled already keeps its record, and its file.
        if core.record(&enrollment.node).is_none_or(|held| held.revoked) {
            self.registry.note(&enrollment.node, &record).map_err(SignError::Registry)?;
        }
        self.handle(Event::Enrolled { node: enrollment.node.clone(), record });
        self.settle();
        match self.core.view().store_error {
            Some(error) => Err(SignError::NotDurable(error)),
            None => Ok(enrollment),
        }
    }

    fn revoke(&mut self, node: NodeId) -> Revoked {
        let Some(record) = self.core.record(&node) else { return Revoked::Unknown };
        let noted = self.registry.note(&node, &NodeRecord { revoked: true, ..record.clone() });
        self.handle(Event::Revoked { node });
        self.settle();
        let Err(registry) = noted else { return Revoked::Durably };
        let registry = shared::in_words(&registry);
        match self.core.view().store_error {
            Some(store) => Revoked::ForNow(format!("{store}; {registry}")),
            // Either suffices at the next start, which then notes it beside the store.
            None => {
                warn!(registry, "a revocation was not noted beside the store, only in it");
                Revoked::Durably
            }
        }
    }

    fn status(&self) -> HubStatus {
        HubStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hub: self.core.view(),
            broker: self.broker.clone(),
            manifests: self.manifests.clone(),
            damaged_records: self.world.store.damaged_records(),
            sinks: self.world.sinks.views(),
        }
    }

    fn metrics(&self) -> String {
        let counters = self.world.broker.as_ref().map(|broker| broker.counters());
        let nodes = self.core.node_summaries().collect::<Vec<_>>();
        let samples = self.core.latest_samples();
        export::exposition(&self.status(), &nodes, counters.unwrap_or_default(), samples)
    }
}

fn in_words(refused: &ManifestProblems) -> Vec<String> {
    let omitted = (refused.omitted > 0).then(|| format!("… and {} more", refused.omitted));
    refused.problems.iter().map(ToString::to_string).chain(omitted).collect()
}
