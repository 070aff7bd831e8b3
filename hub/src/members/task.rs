//! One member's connection: what it has is watched, what it should have is applied, and both are told.
//!
//! Every request has its time; what goes wrong ends the connection, and another is made after a pause that
//! grows. Until then what runs in the member goes on.

use super::access::{MemberAccess, connect};
use super::applyset::{ApplySet, PARENT_NAMESPACE};
use super::build::{MemberKind, MemberObject, MemberObjectId};
use super::content::Live;
use super::keeper::{Action, Keeper};
use super::request::{
    Ended, Failure, REQUEST_TIMEOUT, api_in, apply_to, ended, request, resource_of, unreachable,
    words_about,
};
use super::scope::{SCOPES_MAX, Scope};
use super::{MemberFacts, MemberReport, MemberShare};
use crate::cluster::{is_forbidden, words_of};
use crate::reconcile::Change;
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// Between connections: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// Between looks at whether the member still answers, and at its nodes.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// What happens within this time is one look at what is due.
const GATHER: Duration = Duration::from_millis(100);

/// Nodes that are counted; one member is a cluster at a site.
const NODES_MAX: u32 = 1000;

/// A member, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The name of its `EdgeCluster`.
    pub(crate) name: String,
    pub(crate) access: MemberAccess,
}

/// The workloads that a member is to have; `None` while nobody knows yet.
pub(crate) type MemberDesired = Option<Arc<Vec<MemberShare>>>;

/// Keeps `member` as it is desired. Ends when nobody listens any more.
pub(crate) async fn keep(
    management: Client,
    member: Member,
    mut desired: watch::Receiver<MemberDesired>,
    changes: mpsc::Sender<Change>,
) {
    let mut pause = PAUSE_MIN;
    loop {
        let begin = Instant::now();
        let (reason, message) = connection(&management, &member, &mut desired, &changes).await;
        warn!(cluster = member.name, reason, message, "a member cluster is not reached");
        let cluster = member.name.clone();
        let facts = Err((reason, message));
        let report = MemberReport { cluster, facts, workloads: BTreeMap::new() };
        if changes.send(Change::Member(Box::new(report))).await.is_err() {
            return;
        }
        // One that held for long enough was no bad one.
        pause = if begin.elapsed() > PAUSE_MAX { PAUSE_MIN } else { pause };
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn connection(
    management: &Client,
    member: &Member,
    desired: &mut watch::Receiver<MemberDesired>,
    changes: &mpsc::Sender<Change>,
) -> Ended {
    let client = match timeout(REQUEST_TIMEOUT, connect(management, &member.access)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return ("NoAccess".to_owned(), shared::in_words(&error)),
        Err(_) => {
            return ("NoAccess".to_owned(), "the Secret could not be read in time".to_owned());
        }
    };
    let set = ApplySet::of_cluster(&member.name);
    let mut connection = Connection {
        missing: BTreeSet::new(),
        watching: BTreeSet::new(),
        gathered: BTreeMap::new(),
        keeper: Keeper::new(set.clone()),
        set,
        taken: None,
        facts: MemberFacts::default(),
        told: None,
        client,
        cluster: member.name.clone(),
    };
    let ended = connection.run(desired, changes).await;
    match ended {
        Ok(()) => ("Ended".to_owned(), "the hub stops".to_owned()),
        Err(ended) => ended,
    }
}

type Watched = (Scope, Result<watcher::Event<DynamicObject>, watcher::Error>);

/// What is watched, all together.
type Watches = SelectAll<BoxStream<'static, Watched>>;

/// One connection that was made.
struct Connection {
    client: Client,
    cluster: String,
    set: ApplySet,
    /// What was not listed yet: until then nobody knows what is missing.
    missing: BTreeSet<Scope>,
    watching: BTreeSet<Scope>,
    gathered: BTreeMap<MemberObjectId, Live>,
    keeper: Keeper,
    /// What the keeper was told last.
    taken: MemberDesired,
    facts: MemberFacts,
    told: Option<MemberReport>,
}

impl Connection {
    async fn run(
        &mut self,
        desired: &mut watch::Receiver<MemberDesired>,
        changes: &mpsc::Sender<Change>,
    ) -> Result<(), Ended> {
        self.look().await?;
        self.remember().await?;
        let mut watches = Watches::new();
        self.watch(&mut watches);
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        let mut due = None;
        desired.mark_changed();
        loop {
            tokio::select! {
                event = watches.next() => {
                    let Some((scope, event)) = event else { return Ok(()) };
                    self.handle(scope, event)?;
                    due = due.or(Some(Instant::now() + GATHER));
                }
                changed = desired.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    due = due.or(Some(Instant::now()));
                }
                () = sleep_until(due) => {
                    due = None;
                    let workloads = desired.borrow_and_update().clone();
                    self.desire(workloads, &mut watches);
                    self.keep().await?;
                    self.tell(changes).await;
                }
                () = tokio::time::sleep_until(next_look) => {
                    next_look = Instant::now() + LOOK_INTERVAL;
                    self.look().await?;
                    self.keeper.try_again();
                    self.watch_again(&mut watches);
                    due = due.or(Some(Instant::now()));
                }
            }
        }
    }

    /// Whether it answers, and what it is.
    async fn look(&mut self) -> Result<(), Ended> {
        let version = request(self.client.apiserver_version()).await.map_err(|e| ended(&e))?;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let listed = request(nodes.list(&ListParams::default().limit(NODES_MAX))).await;
        // A hub that may not list nodes does not know how many there are, and keeps the rest.
        let nodes = match listed {
            Ok(listed) => listed.items,
            Err(Failure::Api(status)) if status.code == 403 => vec![],
            Err(failure) => return Err(ended(&failure)),
        };
        let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let gpus = nodes.iter().map(gpus_of).fold(0, u32::saturating_add);
        self.facts = MemberFacts { version: version.git_version, nodes: count, gpus };
        Ok(())
    }

    /// What the set's parent tells of what there may be. One that may not be read tells nothing.
    async fn remember(&mut self) -> Result<(), Ended> {
        match request(self.parents().get_opt(&self.set.parent)).await {
            Ok(Some(parent)) => self.keeper.remember(&json!(parent)),
            Ok(None) | Err(Failure::Api(_)) => {}
            Err(failure) => return Err(ended(&failure)),
        }
        Ok(())
    }

    /// Watches what has to be watched and is not yet.
    fn watch(&mut self, watches: &mut Watches) {
        let scopes = self.keeper.scopes();
        let unseen = self.keeper.unseen();
        for scope in scopes.into_iter().filter(|scope| !unseen.contains(scope)) {
            if self.watching.contains(&scope) {
                continue;
            }
            // Those of the whole cluster are a few, and nothing works without them.
            if scope.namespace.is_some() && self.watching.len() >= SCOPES_MAX {
                let why = format!("more than {SCOPES_MAX} namespaces and kinds are to be watched");
                self.keeper.forbidden(scope, why);
                continue;
            }
            self.missing.insert(scope.clone());
            self.watch_one(scope, watches);
        }
    }

    /// Rights may have been given since. Nothing waits for the answer.
    fn watch_again(&mut self, watches: &mut Watches) {
        for scope in self.keeper.unseen() {
            if self.watching.len() < SCOPES_MAX && !self.watching.contains(&scope) {
                self.watch_one(scope, watches);
            }
        }
    }

    fn watch_one(&mut self, scope: Scope, watches: &mut Watches) {
        watches.push(watched(&self.client, scope.clone(), &self.set));
        self.watching.insert(scope);
    }

    fn handle(
        &mut self,
        scope: Scope,
        event: Result<watcher::Event<DynamicObject>, watcher::Error>,
    ) -> Result<(), Ended> {
        match event {
            // One right that is missing holds up only who needs it.
            Err(error) if scope.kind.attached().is_some() && is_forbidden(&error) => {
                let why = words_of(&error);
                warn!(cluster = self.cluster, %scope, why, "the hub may not look at them");
                self.missing.remove(&scope);
                self.watching.remove(&scope);
                self.keeper.forbidden(scope, why);
            }
            Err(error) => return Err(unreachable(&error)),
            Ok(watcher::Event::Init) => self.gathered.retain(|id, _| Scope::of(id) != scope),
            Ok(watcher::Event::InitApply(object)) => {
                let (id, live) = live_of(scope.kind, &object);
                self.gathered.insert(id, live);
            }
            Ok(watcher::Event::InitDone) => {
                let gathered = std::mem::take(&mut self.gathered);
                let (listed, rest) =
                    gathered.into_iter().partition(|(id, _)| Scope::of(id) == scope);
                self.gathered = rest;
                self.keeper.listed(&scope, listed);
                self.missing.remove(&scope);
            }
            Ok(watcher::Event::Apply(object)) => {
                let (id, live) = live_of(scope.kind, &object);
                self.keeper.seen(id, live);
            }
            Ok(watcher::Event::Delete(object)) => self.keeper.gone(&id_of(scope.kind, &object)),
        }
        Ok(())
    }

    /// These workloads are to be there, once anybody knows; what they need is watched.
    fn desire(&mut self, workloads: MemberDesired, watches: &mut Watches) {
        let Some(workloads) = workloads else { return };
        if !self.taken.as_ref().is_some_and(|taken| Arc::ptr_eq(taken, &workloads)) {
            self.keeper.desire(&workloads);
            self.taken = Some(workloads);
        }
        self.watch(watches);
    }

    /// Does what is due. An object that the member refuses holds up no other.
    async fn keep(&mut self) -> Result<(), Ended> {
        if self.taken.is_none() || !self.missing.is_empty() {
            return Ok(());
        }
        let actions = self.keeper.actions();
        if actions.is_empty() {
            return Ok(());
        }
        // The set says what it may contain before it does.
        self.ensure_namespaces().await?;
        let parent = self.keeper.parent();
        apply_to(&self.parents(), &parent).await.map_err(|failure| ended(&failure))?;
        for action in actions {
            match action {
                // What was refused a moment ago may be what this needs.
                Action::Apply { object, .. } if self.keeper.awaits(&object.id) => {}
                Action::Prune(id) if self.keeper.is_in_use(&id) => {}
                Action::Apply { object, is_new } => self.apply(object, is_new).await?,
                Action::Prune(id) => self.prune(id).await?,
            }
        }
        Ok(())
    }

    async fn apply(&mut self, object: MemberObject, is_new: bool) -> Result<(), Ended> {
        let api = self.api(&object.id);
        let is_of_others =
            if is_new { self.is_of_others(&api, &object.id).await } else { Ok(false) };
        let answer = match is_of_others {
            Ok(true) => {
                let why = "there is one that is not the hub's: it is left alone";
                self.keeper.refused(object.id, why.to_owned());
                return Ok(());
            }
            Ok(false) => apply_to(&api, &object.sent()).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(answer) => {
                let answer = Live::of(&object.id, answer);
                self.keeper.applied(object, answer);
            }
            Err(Failure::Api(status)) => self.refuse(object.id, &status),
            // Nor are the words of a server in trouble to repeat what it was sent.
            Err(Failure::Transport(_)) if object.id.kind == MemberKind::Secret => {
                let why = format!("no answer when the Secret {} was applied", object.id.name);
                return Err(ended(&Failure::Transport(why)));
            }
            Err(failure) => return Err(ended(&failure)),
        }
        Ok(())
    }

    fn refuse(&mut self, id: MemberObjectId, status: &kube::core::Status) {
        let why = words_about(id.kind, status);
        warn!(cluster = self.cluster, object = ?id, error = why, "refused");
        self.keeper.refused(id, why);
    }

    fn parents(&self) -> Api<DynamicObject> {
        api_in(&self.client, MemberKind::ConfigMap, Some(PARENT_NAMESPACE))
    }

    async fn ensure_namespaces(&self) -> Result<(), Ended> {
        let namespaces = resource_of("v1", "Namespace", "namespaces");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &namespaces);
        let mut names = self.keeper.namespaces();
        names.insert(PARENT_NAMESPACE.to_owned());
        for name in names {
            if request(api.get_opt(&name)).await.map_err(|failure| ended(&failure))?.is_none() {
                let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
                apply_to(&api, &namespace).await.map_err(|failure| ended(&failure))?;
            }
        }
        Ok(())
    }

    async fn is_of_others(
        &self,
        api: &Api<DynamicObject>,
        id: &MemberObjectId,
    ) -> Result<bool, Failure> {
        let found = request(api.get_metadata_opt(&id.name)).await?;
        Ok(found.is_some_and(|found| !self.keeper.is_ours(found.labels())))
    }

    async fn prune(&mut self, id: MemberObjectId) -> Result<(), Ended> {
        info!(cluster = self.cluster, object = ?id, "no workload has it any more");
        match request(self.api(&id).delete(&id.name, &DeleteParams::background())).await {
            Ok(_) => self.keeper.gone(&id),
            Err(Failure::Api(status)) if status.code == 404 => self.keeper.gone(&id),
            Err(Failure::Api(status)) => self.refuse(id, &status),
            Err(failure) => return Err(ended(&failure)),
        }
        Ok(())
    }

    fn api(&self, id: &MemberObjectId) -> Api<DynamicObject> {
        api_in(&self.client, id.kind, id.namespace.as_deref())
    }

    /// Says how it is, where that is news.
    async fn tell(&mut self, changes: &mpsc::Sender<Change>) {
        if !self.missing.is_empty() {
            return;
        }
        let report = MemberReport {
            cluster: self.cluster.clone(),
            facts: Ok(self.facts.clone()),
            workloads: self.keeper.workloads(),
        };
        if self.told.as_ref() != Some(&report) {
            self.told = Some(report.clone());
            // Lost only when the hub stops.
            let _ = changes.send(Change::Member(Box::new(report))).await;
        }
    }
}

/// Ends with the first error.
fn watched(client: &Client, scope: Scope, set: &ApplySet) -> BoxStream<'static, Watched> {
    let api = api_in(client, scope.kind, scope.namespace.as_deref());
    let config = watcher::Config::default().labels(&set.selector());
    let events = watcher(api, config).into_stream().scan(false, |has_failed, event| {
        let next = (!*has_failed).then_some(event);
        *has_failed |= next.as_ref().is_some_and(Result::is_err);
        std::future::ready(next)
    });
    events.map(move |event| (scope.clone(), event)).boxed()
}

fn live_of(kind: MemberKind, object: &DynamicObject) -> (MemberObjectId, Live) {
    let id = id_of(kind, object);
    let live = Live::of(&id, json!(object));
    (id, live)
}

fn id_of(kind: MemberKind, object: &DynamicObject) -> MemberObjectId {
    MemberObjectId { kind, namespace: object.namespace(), name: object.name_any() }
}

fn gpus_of(node: &Node) -> u32 {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let gpus = allocatable.and_then(|all| all.get("nvidia.com/gpu"));
    gpus.and_then(|quantity| quantity.0.parse().ok()).unwrap_or(0)
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
