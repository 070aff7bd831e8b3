//! Opens everything in order, runs the loop, and closes in order.
//!
//! Before a node can connect, the new term is durable. The manifests are read meanwhile; the core
//! answers no node before. With manifests that are invalid from the start the hub runs, says so, and
//! waits until they are valid.

use super::brokers::{BrokerError, EVENTS_MAX, Way};
use super::hub::{Ended, Hub, Inputs};
use super::keys::{self, KeysError};
use super::kubernetes::Kubernetes;
use super::registry::Registry;
use super::replica::{Inherited, Replica};
use super::signing::Signer;
use super::sinks::{SinkError, Sinks};
use super::world::World;
use crate::admin::{self, BrokerStatus, ManifestsStatus, Query, Standby, Token, TokenError};
use crate::cluster::{self, ClusterError};
use crate::config::{BrokerUrl, Config};
use crate::core::{HubCore, read_stored_state};
use crate::manifests::Watcher;
use crate::reconcile::SeenState;
use kube::Client;
use shared::io::anew::{AnewError, begin_anew};
use shared::io::clock::SystemClock;
use shared::io::keys::{KeyError, fresh_seed, load_store_key};
use shared::io::store::{OpenError, Opening, SealedStore, StoreOptions};
use shared::ports::StoreError;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// A store of a fleet opens in a second; one that takes this long hangs.
const STORE_OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// Readings of the manifests that wait for the loop.
const READINGS_MAX: usize = 4;

/// Why the hub did not start, or ended by itself.
#[derive(Debug, Error)]
pub enum BootError {
    /// The keys.
    #[error("could not open the hub's keys")]
    Keys(#[from] KeysError),
    /// The store's key.
    #[error("could not read the key of the store")]
    StoreKey(#[source] KeyError),
    /// The store.
    #[error("could not open the store")]
    OpenStore(#[from] OpenError),
    /// The store can't be read.
    #[error("could not read what the hub stored")]
    ReadStore(#[source] StoreError),
    /// The store can't be written; without that nothing may be sent.
    #[error("could not make the new term durable: {0}")]
    Term(String),
    /// The API's token.
    #[error("could not use `api_token_file`")]
    Token(#[from] TokenError),
    /// The API's address is taken, or not ours.
    #[error("could not serve the API on {address}")]
    Api {
        /// The wanted address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The broker.
    #[error("could not start the way to nodes")]
    Broker(#[from] BrokerError),
    /// A sink can't be used as it is configured.
    #[error("could not start the sinks")]
    Sinks(#[from] SinkError),
    /// The API server of the custom resources.
    #[error("could not begin to read custom resources")]
    Cluster(#[from] ClusterError),
    /// What the hub before shared can't be stored.
    #[error("could not store what another hub has shared")]
    Inherit(#[source] StoreError),
    /// Another hub leads.
    #[error("this hub does not lead any more: it begins anew as one that stands by")]
    Deposed,
    /// Signals can't be listened to.
    #[error("could not listen for signals")]
    Signals(#[source] std::io::Error),
    /// The process needed to be executed anew, and could not.
    #[error("the store needs a new process")]
    Restart(#[from] AnewError),
}

/// Runs the hub until a signal asks it to stop.
///
/// # Errors
/// [`BootError`].
pub async fn run(config: &Config) -> Result<(), BootError> {
    let mut stop = pin!(stop_signal()?);
    let token = config.api_token_file.as_deref().map(Token::read).transpose()?;
    let (standby, api) = (Standby::default(), listen(config.api).await?);
    let (queries, questions) = admin::queries();
    let router = admin::router(queries, token, standby.clone());
    // Questions wait until the loop begins.
    let served = tokio::spawn(admin::serve(api, router));
    let client = match &config.kubernetes {
        Some(kubernetes) => Some(cluster::connect(kubernetes.kubeconfig.as_deref()).await?),
        None => None,
    };
    let replica = tokio::select! {
        replica = lead(config, client.as_ref(), &standby) => replica,
        () = &mut stop => return Ok(()),
    };
    let ended = run_alone(config, client, replica, questions, stop).await;
    served.abort();
    match ended? {
        Ended::Stopped => Ok(()),
        Ended::Deposed => Err(BootError::Deposed),
        Ended::MustRestart => Err(begin_anew("the store was found damaged".to_owned()).into()),
    }
}

/// Waits until this hub leads, where there are several, and reads what the one before knew.
async fn lead(
    config: &Config,
    client: Option<&Client>,
    standby: &Standby,
) -> Option<(Replica, Inherited)> {
    let kubernetes = config.kubernetes.as_ref().filter(|kubernetes| kubernetes.replicated)?;
    let replica = Replica::lead(client?.clone(), kubernetes, standby).await;
    let inherited = replica.inherit().await;
    Some((replica, inherited))
}

/// Runs as the only hub that does.
async fn run_alone(
    config: &Config,
    client: Option<Client>,
    replica: Option<(Replica, Inherited)>,
    queries: mpsc::Receiver<Query>,
    stop: impl Future<Output = ()>,
) -> Result<Ended, BootError> {
    // Before the store: a mistake in the configuration shows while nothing is open.
    let (sinks, delivered) = Sinks::start(config)?;
    let (broker_events, broker) = mpsc::channel(EVENTS_MAX);
    let (readings, manifests) = mpsc::channel(READINGS_MAX);
    let Opened { mut hub, way, shared } = open(config, sinks, replica).await?;
    // The one that is not used stays open and silent.
    let (_silent, mut changes) = mpsc::channel(1);
    match client {
        Some(client) => {
            let earlier = hub.core.accepted_workloads().cloned().collect();
            let confirms = config.kubernetes.as_ref().is_some_and(|k| k.confirm_regression);
            let before = if confirms { SeenState::default() } else { hub.core.seen() };
            let (started, seen) = Kubernetes::start(client, earlier, before);
            (hub.kubernetes, changes) = (Some(started), seen);
        }
        None => drop(tokio::spawn(Watcher::new(&config.manifests).run(readings.clone()))),
    }
    let is_allowed = hub.world.admissions.question();
    hub.world.broker = Some(way.start(is_allowed, broker_events).await?);
    info!(api = %config.api, nodes = hub.broker.address, "the hub runs");
    let mut inputs = Inputs { broker, manifests, changes, queries, delivered, shared };
    let ended = hub.run(&mut inputs, stop).await;
    if let Some(broker) = hub.world.broker.take() {
        broker.close().await;
    }
    // Last: whoever leads next finds a broker that this one has left.
    if let Some(replica) = hub.replica.take() {
        replica.release().await;
    }
    info!("the hub has stopped: nodes go on without it");
    Ok(ended)
}

/// What is open before the broker.
struct Opened<'a> {
    hub: Hub<SealedStore>,
    way: Way<'a>,
    /// Templates that the other hubs know.
    shared: mpsc::Receiver<()>,
}

/// Keys, store and core, up to the durable term.
async fn open(
    config: &Config,
    sinks: Sinks,
    replica: Option<(Replica, Inherited)>,
) -> Result<Opened<'_>, BootError> {
    let (places, clock) = (config.places(), SystemClock::new());
    let now = clock.now();
    let (authority, keys) = keys::open(&places, config.create_keys, now.wall)?;
    let mut store = open_store(config)?;
    let advertised = advertised(config);
    let signing_authority = keys::open_authority(&places)?;
    let mut signer = Signer::new(signing_authority, &keys, advertised.clone(), &store)
        .map_err(BootError::ReadStore)?;
    let mut stored = read_stored_state(&store).map_err(BootError::ReadStore)?;
    let registry = Registry::new(places.enrolled);
    registry.restore(&mut stored);
    // Nobody sends into the second one where this is the only hub.
    let (_alone, mut shared) = mpsc::channel(1);
    let (mut sharing, mut was_shared, mut leads) = (None, None, None);
    if let Some((replica, inherited)) = replica {
        let put_right = inherited.put_right(&mut stored, &registry, &mut store);
        was_shared = Some(put_right.map_err(BootError::Inherit)?);
        replica.share_enrolments(&inherited, &stored).await;
        let (sender, receiver) = replica.share_templates();
        (sharing, shared, leads) = (Some(sender), receiver, Some(replica));
    }
    stored.nodes.values().for_each(|record| signer.begin_above(record.serial()));
    info!(nodes = stored.nodes.len(), term = stored.term, "read what was stored");
    let core = HubCore::new(keys, fresh_seed(), stored, now).with_sinks(sinks.configured());
    let mut core = core.acknowledging_within(config.acknowledge_after_ms);
    if let Some(was_shared) = was_shared {
        core = core.sharing_templates(!was_shared);
    }
    let mut world = World::new(store, sinks);
    world.sharing = sharing;
    let broker = BrokerStatus {
        kind: if config.broker.is_some() { "external" } else { "embedded" }.to_owned(),
        address: advertised.to_string(),
        ..BrokerStatus::default()
    };
    let folder = match &config.kubernetes {
        Some(_) => "custom resources of the API server".to_owned(),
        None => config.manifests.display().to_string(),
    };
    let manifests = ManifestsStatus { folder, problems: vec![] };
    let mut hub = Hub {
        core,
        world,
        signer,
        registry,
        clock,
        broker,
        manifests,
        kubernetes: None,
        replica: leads,
        called_out: false,
    };
    hub.begin();
    if let Some(error) = hub.core.view().store_error {
        return Err(BootError::Term(error));
    }
    Ok(Opened { hub, way: Way { config, authority, advertised, now: now.wall }, shared })
}

fn open_store(config: &Config) -> Result<SealedStore, BootError> {
    let places = config.places();
    let key = load_store_key(&places.store_key).map_err(BootError::StoreKey)?;
    let folder = places.store.clone();
    let options = StoreOptions { folder, key, open_deadline: STORE_OPEN_DEADLINE };
    match SealedStore::open(options) {
        Ok((store, opening)) => {
            tell(&opening);
            Ok(store)
        }
        Err(OpenError::Restart { reason }) => Err(begin_anew(reason).into()),
        Err(error) => Err(error.into()),
    }
}

fn tell(opening: &Opening) {
    match opening {
        Opening::Created => info!("made a new store"),
        Opening::Existing => {}
        Opening::Quarantined { folder, reason } => warn!(
            folder = %folder.display(),
            reason,
            "the store could not be used and was put aside: what nodes reported comes back from them"
        ),
    }
}

fn advertised(config: &Config) -> BrokerUrl {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let advertised = config.advertised(&machine);
    if config.advertise.is_none() && config.broker.is_none() {
        warn!(
            advertised = %advertised,
            "`advertise` is not set: nodes that enrol now will connect to this address"
        );
    }
    advertised
}

async fn listen(address: SocketAddr) -> Result<TcpListener, BootError> {
    TcpListener::bind(address).await.map_err(|source| BootError::Api { address, source })
}

/// SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, BootError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(BootError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(BootError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
