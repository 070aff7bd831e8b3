//! One member's connection: what it has is watched, what it should have is applied, and both are told.
//!
//! Every request has its time; what goes wrong ends the connection, and another is made after a pause that
//! grows. Until then what runs in the member goes on.

use super::access::{MemberAccess, connect};
use super::applyset::{ApplySet, PARENT_NAMESPACE};
use super::build::{MemberKind, MemberObjectId};
use super::keeper::{Action, Keeper};
use super::{MemberFacts, MemberReport};
use crate::manifests::InferenceWorkload;
use crate::reconcile::Change;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::runtime::watcher;
use kube::{Api, Client, Error, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// For one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Between connections: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// Between looks at whether the member still answers, and at its nodes.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// What happens within this time is one look at what is due.
const GATHER: Duration = Duration::from_millis(100);

/// Nodes that are counted; one member is a cluster at a site.
const NODES_MAX: u32 = 1000;

/// Whose fields are the hub's.
const FIELD_MANAGER: &str = "hinterland-hub";

/// A member, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The name of its `EdgeCluster`.
    pub(crate) name: String,
    pub(crate) access: MemberAccess,
}

/// The workloads that a member is to have; `None` while nobody knows yet.
pub(crate) type MemberDesired = Option<Arc<Vec<InferenceWorkload>>>;

/// Why a connection has ended: a word and a sentence.
type Ended = (String, String);

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
    let watched = select_all(MemberKind::ALL.map(|kind| watched(&client, kind, &set)));
    let mut connection = Connection {
        missing: MemberKind::ALL.to_vec(),
        gathered: BTreeMap::new(),
        keeper: Keeper::new(set),
        facts: MemberFacts::default(),
        told: None,
        client,
        cluster: member.name.clone(),
    };
    let ended = connection.run(watched, desired, changes).await;
    match ended {
        Ok(()) => ("Ended".to_owned(), "the hub stops".to_owned()),
        Err(ended) => ended,
    }
}

type Watched = (MemberKind, Result<watcher::Event<DynamicObject>, watcher::Error>);

/// One connection that was made.
struct Connection {
    client: Client,
    cluster: String,
    /// Kinds that were not listed yet: until then nobody knows what is missing.
    missing: Vec<MemberKind>,
    gathered: BTreeMap<MemberObjectId, Value>,
    keeper: Keeper,
    facts: MemberFacts,
    told: Option<MemberReport>,
}

impl Connection {
    async fn run(
        &mut self,
        mut watched: SelectAll<BoxStream<'static, Watched>>,
        desired: &mut watch::Receiver<MemberDesired>,
        changes: &mpsc::Sender<Change>,
    ) -> Result<(), Ended> {
        self.look().await?;
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        let mut due = None;
        desired.mark_changed();
        loop {
            tokio::select! {
                event = watched.next() => {
                    let Some((kind, event)) = event else { return Ok(()) };
                    self.handle(kind, event.map_err(|error| unreachable(&error))?);
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
                    self.keep(workloads).await?;
                    self.tell(changes).await;
                }
                () = tokio::time::sleep_until(next_look) => {
                    next_look = Instant::now() + LOOK_INTERVAL;
                    self.look().await?;
                    self.keeper.try_again();
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

    fn handle(&mut self, kind: MemberKind, event: watcher::Event<DynamicObject>) {
        match event {
            watcher::Event::Init => self.gathered.retain(|id, _| id.kind != kind),
            watcher::Event::InitApply(object) => {
                let id = id_of(kind, &object);
                self.gathered.insert(id, json!(object));
            }
            watcher::Event::InitDone => {
                let gathered = std::mem::take(&mut self.gathered);
                let (listed, rest) = gathered.into_iter().partition(|(id, _)| id.kind == kind);
                self.gathered = rest;
                self.keeper.listed(kind, listed);
                self.missing.retain(|missing| *missing != kind);
            }
            watcher::Event::Apply(object) => {
                self.keeper.seen(id_of(kind, &object), json!(object));
            }
            watcher::Event::Delete(object) => self.keeper.gone(&id_of(kind, &object)),
        }
    }

    /// Does what is due. An object that the member refuses holds up no other.
    async fn keep(&mut self, workloads: MemberDesired) -> Result<(), Ended> {
        let Some(workloads) = workloads.filter(|_| self.missing.is_empty()) else { return Ok(()) };
        self.keeper.desire(&workloads);
        let actions = self.keeper.actions();
        if actions.is_empty() {
            return Ok(());
        }
        // The set says what it may contain before it does.
        self.ensure_namespaces().await?;
        let parent = self.keeper.parent();
        let parents = resource_of("v1", "ConfigMap", "configmaps");
        let parents: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), PARENT_NAMESPACE, &parents);
        self.apply_to(&parents, &parent).await.map_err(|failure| ended(&failure))?;
        for action in actions {
            match action {
                Action::Apply { object, is_new } => {
                    let api = self.api(&object.id);
                    if is_new && self.is_of_others(&api, &object.id).await? {
                        let why = "there is one that is not the hub's: it is left alone";
                        self.keeper.refused(object.id, why.to_owned());
                        continue;
                    }
                    match self.apply_to(&api, &object.body).await {
                        Ok(answer) => self.keeper.applied(object, answer),
                        Err(Failure::Api(status)) => {
                            let cluster = &self.cluster;
                            warn!(cluster, object = ?object.id, error = status.message, "not applied");
                            self.keeper.refused(object.id, status.message.clone());
                        }
                        Err(failure) => return Err(ended(&failure)),
                    }
                }
                Action::Prune(id) => self.prune(id).await?,
            }
        }
        Ok(())
    }

    async fn ensure_namespaces(&self) -> Result<(), Ended> {
        let namespaces = resource_of("v1", "Namespace", "namespaces");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &namespaces);
        let mut names = self.keeper.namespaces();
        names.insert(PARENT_NAMESPACE.to_owned());
        for name in names {
            if request(api.get_opt(&name)).await.map_err(|failure| ended(&failure))?.is_none() {
                let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
                self.apply_to(&api, &namespace).await.map_err(|failure| ended(&failure))?;
            }
        }
        Ok(())
    }

    async fn is_of_others(
        &self,
        api: &Api<DynamicObject>,
        id: &MemberObjectId,
    ) -> Result<bool, Ended> {
        let found = request(api.get_metadata_opt(&id.name)).await.map_err(|e| ended(&e))?;
        Ok(found.is_some_and(|found| !self.keeper.is_ours(found.labels())))
    }

    async fn prune(&mut self, id: MemberObjectId) -> Result<(), Ended> {
        info!(cluster = self.cluster, object = ?id, "no workload has it any more");
        match request(self.api(&id).delete(&id.name, &DeleteParams::background())).await {
            Ok(_) => self.keeper.gone(&id),
            Err(Failure::Api(status)) if status.code == 404 => self.keeper.gone(&id),
            Err(Failure::Api(status)) => self.keeper.refused(id, status.message.clone()),
            Err(failure) => return Err(ended(&failure)),
        }
        Ok(())
    }

    fn api(&self, id: &MemberObjectId) -> Api<DynamicObject> {
        let resource = resource(id.kind);
        match &id.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn apply_to(&self, api: &Api<DynamicObject>, body: &Value) -> Result<Value, Failure> {
        let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let answer = request(api.patch(name, &parameters, &Patch::Apply(body))).await?;
        Ok(json!(answer))
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

/// Why a request came to nothing.
enum Failure {
    /// The server says why.
    Api(Box<kube::core::Status>),
    /// It did not get there, or no answer came.
    Transport(String),
}

async fn request<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match timeout(REQUEST_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Error::Api(status))) if !is_passing(status.code) => Err(Failure::Api(status)),
        Ok(Err(error)) => Err(Failure::Transport(shared::in_words(&error))),
        Err(_) => Err(Failure::Transport(format!("no answer within {REQUEST_TIMEOUT:?}"))),
    }
}

/// Of the server, not of the object: throttled, not authenticated, or in trouble.
fn is_passing(code: u16) -> bool {
    code == 401 || code == 429 || code >= 500
}

fn ended(failure: &Failure) -> Ended {
    match failure {
        Failure::Api(status) => ("Refused".to_owned(), status.message.clone()),
        Failure::Transport(why) => ("Unreachable".to_owned(), why.clone()),
    }
}

fn unreachable(error: &watcher::Error) -> Ended {
    ("Unreachable".to_owned(), shared::in_words(error))
}

fn watched(client: &Client, kind: MemberKind, set: &ApplySet) -> BoxStream<'static, Watched> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
    let config = watcher::Config::default().labels(&set.selector());
    let tagged = watcher(api, config).into_stream().map(move |event| (kind, event));
    tagged.boxed()
}

fn resource(kind: MemberKind) -> ApiResource {
    let (version, name, plural) = kind.names();
    resource_of(version, name, plural)
}

fn resource_of(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
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
