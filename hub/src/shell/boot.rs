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
use super::signing::Signer;
use super::sinks::{SinkError, Sinks};
use super::world::World;
use crate::admin::{self, BrokerStatus, ManifestsStatus, Token, TokenError};
use crate::cluster::ClusterError;
use crate::config::{BrokerUrl, Config};
use crate::core::{HubCore, read_stored_state};
use crate::manifests::Watcher;
use shared::io::anew::{AnewError, begin_anew};
use shared::io::clock::SystemClock;
use shared::io::keys::{KeyError, fresh_seed, load_store_key};
use shared::io::store::{OpenError, Opening, SealedStore, StoreOptions};
use shared::ports::StoreError;
use std::net::SocketAddr;
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
    let stop = stop_signal()?;
    let token = config.api_token_file.as_deref().map(Token::read).transpose()?;
    // Before the store: a mistake in the configuration shows while nothing is open.
    let (sinks, delivered) = Sinks::start(config)?;
    let (mut hub, way) = open(config, sinks)?;
    let api = listen(config.api).await?;
    let (broker_events, broker) = mpsc::channel(EVENTS_MAX);
    let (readings, manifests) = mpsc::channel(READINGS_MAX);
    let (queries, questions) = admin::queries();
    // The one that is not used stays open and silent.
    let (_silent, mut changes) = mpsc::channel(1);
    match &config.kubernetes {
        Some(kubernetes) => {
            let earlier = hub.core.accepted_workloads().cloned().collect();
            let (started, seen) = Kubernetes::start(kubernetes, earlier).await?;
            (hub.kubernetes, changes) = (Some(started), seen);
        }
        None => drop(tokio::spawn(Watcher::new(&config.manifests).run(readings.clone()))),
    }
    let is_allowed = hub.world.admissions.question();
    hub.world.broker = Some(way.start(is_allowed, broker_events).await?);
    let served = tokio::spawn(admin::serve(api, admin::router(queries, token)));
    info!(api = %config.api, nodes = hub.broker.address, "the hub runs");
    let mut inputs = Inputs { broker, manifests, changes, queries: questions, delivered };
    let ended = hub.run(&mut inputs, stop).await;
    served.abort();
    if let Some(broker) = hub.world.broker.take() {
        broker.close().await;
    }
    info!("the hub has stopped: nodes go on without it");
    match ended {
        Ended::Stopped => Ok(()),
        Ended::MustRestart => Err(begin_anew("the store was found damaged".to_owned()).into()),
    }
}

/// Keys, store and core, up to the durable term.
fn open(config: &Config, sinks: Sinks) -> Result<(Hub<SealedStore>, Way<'_>), BootError> {
    let (places, clock) = (config.places(), SystemClock::new());
    let now = clock.now();
    let (authority, keys) = keys::open(&places, config.create_keys, now.wall)?;
    let store = open_store(config)?;
    let advertised = advertised(config);
    let signing_authority = keys::open_authority(&places)?;
    let signer = Signer::new(signing_authority, &keys, advertised.clone(), &store)
        .map_err(BootError::ReadStore)?;
    let mut stored = read_stored_state(&store).map_err(BootError::ReadStore)?;
    let registry = Registry::new(places.enrolled);
    registry.restore(&mut stored);
    info!(nodes = stored.nodes.len(), term = stored.term, "read what was stored");
    let core = HubCore::new(keys, fresh_seed(), stored, now).with_sinks(sinks.configured());
    let core = core.acknowledging_within(config.acknowledge_after_ms);
    let world = World::new(store, sinks);
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
    let kubernetes = None;
    let mut hub = Hub { core, world, signer, registry, clock, broker, manifests, kubernetes };
    hub.begin();
    if let Some(error) = hub.core.view().store_error {
        return Err(BootError::Term(error));
    }
    Ok((hub, Way { config, authority, advertised, now: now.wall }))
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
