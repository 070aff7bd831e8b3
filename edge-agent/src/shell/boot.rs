//! From files to a core: keys, ledger, store, runtime. No network, no clock that must be right.
//!
//! What is missing or damaged is said in words; what can be done without is done without.

use super::calls::Answerer;
use super::models;
use super::outside::Outside;
use super::scrape::Scraper;
use super::system;
use crate::config::{Config, Places, RuntimeKind};
use crate::core::{AgentCore, Capacity, CoreOptions, Restored, read_stored_state};
use crate::devices::look_for;
use crate::gpu::{Gpus, SimulationError};
use crate::models::ModelFolder;
use crate::ports::{Runtime, RuntimeError, RuntimeEvent};
use crate::results::{Desk, Doors, TokenKey, Waiting};
use crate::runtime::cri::{CriOptions, CriRuntime};
use crate::runtime::process::{ProcessOptions, ProcessRuntime};
use crate::runtime::{AnyRuntime, Secrets};
use shared::io::clock::{RELEASE, SystemClock, TrustedTime};
use shared::io::keys::{KeyError, fresh_seed, load_store_key, read_secret};
use shared::io::ledger::{Ledger, LedgerError};
use shared::io::store::{OpenError, Opening, SealedStore, StoreOptions};
use shared::io::tls::{TlsError, client_config};
use shared::model::{GpuInventory, UnixMs};
use shared::ports::{Store as _, StoreError};
use shared::sync::{OutboxQuota, newest_incarnation};
use shared::trust::certificate::{CertificateError, validity_of};
use shared::trust::enrollment::{Enrollment, EnrollmentError};
use shared::trust::session::SessionPrivateKey;
use shared::wire::Version;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// sled opens the largest store that we allow in a fraction of a second; a worn SD card may be a
/// hundred times slower.
const STORE_OPEN_DEADLINE: Duration = Duration::from_secs(60);

/// How long pods wait for a driver at boot. Without one nothing waits; one that is slower is waited
/// for by the pods that need a GPU, while the others run.
const GPU_PATIENCE: Duration = Duration::from_millis(500);

/// Why the agent did not start.
#[derive(Debug, Error)]
pub enum BootError {
    /// There is no enrolment.
    #[error(
        "this node is not enrolled: {0} is missing; run `edge-agent enroll --node NAME`, have the hub sign, then `edge-agent enroll --accept ANSWER`"
    )]
    NotEnrolled(PathBuf),
    /// The enrolment is damaged.
    #[error("could not use the enrolment {path}")]
    Enrollment {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: EnrollmentError,
    },
    /// A certificate in the enrolment can't be read.
    #[error("could not read a certificate of the enrolment")]
    Certificate(#[from] CertificateError),
    /// A key can't be read.
    #[error("could not read a key")]
    Key(#[from] KeyError),
    /// A key file holds something else.
    #[error("{0} does not hold a key of 32 bytes")]
    NotAKey(PathBuf),
    /// Keys and certificates do not fit together.
    #[error("could not set up TLS")]
    Tls(#[from] TlsError),
    /// The ledger can't be used.
    #[error("could not use the ledger")]
    Ledger(#[from] LedgerError),
    /// The store can't be opened.
    #[error("could not open the store")]
    Open(#[from] OpenError),
    /// The store can't be read.
    #[error("could not read the store")]
    Store(#[from] StoreError),
    /// The runtime can't say what runs.
    #[error("could not take over the pods")]
    Runtime(#[from] RuntimeError),
    /// The simulated GPUs are not what was expected.
    #[error("could not make up GPUs")]
    Gpus(#[from] SimulationError),
}

/// An agent that has not begun to run.
pub(super) struct Booted {
    pub(super) core: AgentCore,
    pub(super) outside: Outside,
    pub(super) enrollment: Enrollment,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) runtime_events: mpsc::UnboundedReceiver<RuntimeEvent>,
    pub(super) gpu_changes: mpsc::UnboundedReceiver<GpuInventory>,
    pub(super) answers: mpsc::UnboundedReceiver<shared::wire::CallResponse>,
    pub(super) doors: Doors,
    pub(super) posts: mpsc::Receiver<Waiting>,
}

/// The key of sessions.
///
/// # Errors
/// When the file can't be read or holds something else.
pub fn read_session_key(places: &Places) -> Result<SessionPrivateKey, BootError> {
    let bytes = read_secret(&places.session_key)?;
    let bytes: Result<[u8; 32], _> = bytes.as_slice().try_into();
    bytes
        .map(SessionPrivateKey::from_bytes)
        .map_err(|_| BootError::NotAKey(places.session_key.clone()))
}

/// The store of an agent that does not run.
///
/// # Errors
/// When an agent runs, or the store can't be opened.
pub fn open_store_to_verify(config: &Config) -> Result<SealedStore, BootError> {
    Ok(open_store(&config.places())?.0)
}

fn open_store(places: &Places) -> Result<(SealedStore, Opening), BootError> {
    let options = StoreOptions {
        folder: places.store.clone(),
        key: load_store_key(&places.store_key)?,
        open_deadline: STORE_OPEN_DEADLINE,
    };
    Ok(SealedStore::open(options)?)
}

fn read_enrollment(places: &Places) -> Result<Enrollment, BootError> {
    let path = || places.enrollment.clone();
    let text =
        std::fs::read_to_string(&places.enrollment).map_err(|_| BootError::NotEnrolled(path()))?;
    Enrollment::parse(&text).map_err(|source| BootError::Enrollment { path: path(), source })
}

/// A time that is surely past: the ledger's, or that at which the node's certificate was made.
fn time_floor(ledger: &Ledger, enrollment: &Enrollment) -> Result<UnixMs, BootError> {
    let certificate = shared::io::tls::certificate_from_pem(&enrollment.certificate_pem)?;
    Ok(ledger.state().time_floor.max(validity_of(&certificate)?.not_before))
}

fn tls_config(
    places: &Places,
    enrollment: &Enrollment,
    time: Arc<TrustedTime>,
) -> Result<Arc<rustls::ClientConfig>, BootError> {
    let key = read_secret(&places.tls_key)?;
    let key = String::from_utf8_lossy(&key);
    Ok(client_config(&enrollment.authority_pem, &enrollment.certificate_pem, &key, time)?)
}

/// Seconds since 1970, unless the clock can't be right. An incarnation is at least that: whoever puts the
/// whole state back to an older copy brings back no number that was used since.
fn seconds_now(clock: &SystemClock) -> u64 {
    let seconds = clock.now().wall.0 / 1_000;
    let can_be_right = RELEASE.0 / 1_000..=u64::from(u32::MAX);
    if can_be_right.contains(&seconds) { seconds } else { 0 }
}

/// Everything up to the first effect. Pods are not started yet, and nothing was sent.
pub(super) fn boot(config: &Config) -> Result<Booted, BootError> {
    let (places, clock) = (config.places(), SystemClock::new());
    let enrollment = read_enrollment(&places)?;
    // A driver that is there answers while the store is opened.
    let (changes, gpu_changes) = mpsc::unbounded_channel();
    let sample_interval = Duration::from_millis(config.telemetry.sample_interval_ms);
    let (simulate, library) = (config.simulate_gpus.as_deref(), config.nvml_library.as_deref());
    let gpus = Gpus::open(simulate, library, sample_interval, changes)?;
    let (store, opening) = open_store(&places)?;
    // Under the store's lock: no other agent writes the ledger.
    let mut ledger = Ledger::open(&places.ledger)?;
    let trusted_time = TrustedTime::new(time_floor(&ledger, &enrollment)?);
    let tls = tls_config(&places, &enrollment, Arc::clone(&trusted_time))?;
    let stored = read_stored_state(&store)?;
    let newest = newest_incarnation(&stored.meta);
    let notices = notices(&opening, &ledger, &store, newest);
    let incarnation =
        ledger.begin_incarnation(newest.saturating_add(1).max(seconds_now(&clock)))?;
    let (events, runtime_events) = mpsc::unbounded_channel();
    let (doors, posts) = Doors::new(token_key(&places), config.results);
    let secrets = secrets(&places, &enrollment)?;
    let mut runtime = open_runtime(config, events, doors.clone(), secrets)?;
    let observations = runtime.observe()?;
    let fence = ledger.state().accepted;
    let link_budget = ledger.link_budget().to_vec();
    let models = models::at_boot(&ModelFolder::new(places.models.clone()));
    let devices = look_for(&config.allowed().devices);
    let restored = Restored { stored, fence, link_budget, models, devices, observations, notices };
    let capacity = Capacity {
        cpu_millicores: system::cpu_millicores(),
        memory_bytes: system::memory_bytes(),
        gpus: gpus.first_inventory(GPU_PATIENCE),
    };
    let boot = clock.stamp(clock.now()).boot;
    let options = core_options(config, &enrollment, (incarnation, boot), capacity)?;
    let mut core = AgentCore::new(options, restored, clock.now());
    core.limit_gpus(config.gpu_limits(), clock.now());
    core.evict_at(config.eviction_limits(), clock.now());
    core.set_remote_policy(config.remote_policy(), clock.now());
    let (answers_sender, answers) = mpsc::unbounded_channel();
    let outside = Outside {
        clock,
        store,
        ledger,
        runtime,
        gpus,
        trusted_time,
        link: None,
        state_dir: places.state_dir,
        calls: Answerer::new(places.pods, answers_sender),
        scraper: Scraper::new(),
        desk: Desk::default(),
        boot: system::boot(),
    };
    Ok(Booted {
        core,
        outside,
        enrollment,
        tls,
        runtime_events,
        gpu_changes,
        answers,
        doors,
        posts,
    })
}

/// A disk that is full, or a file that others can read, keeps no pod from starting: then tokens hold
/// for as long as the agent runs, and sockets as ever.
fn token_key(places: &Places) -> TokenKey {
    TokenKey::load_or_create(&places.results_key).unwrap_or_else(|error| {
        let error = shared::in_words(&error);
        warn!(error, "the key of tokens is of no use: tokens end with this start of the agent");
        TokenKey::fresh()
    })
}

/// What opens the Secrets that were sealed to this node.
fn secrets(places: &Places, enrollment: &Enrollment) -> Result<Secrets, BootError> {
    let key = read_session_key(places)?;
    Ok(Secrets::new(key, enrollment.node.clone(), Secrets::usual_candidates(), &places.pods))
}

fn open_runtime(
    config: &Config,
    events: mpsc::UnboundedSender<RuntimeEvent>,
    doors: Doors,
    secrets: Secrets,
) -> Result<AnyRuntime, RuntimeError> {
    Ok(match config.runtime {
        RuntimeKind::Process => {
            let runtime = ProcessRuntime::new(process_options(config), events)?;
            AnyRuntime::Process(runtime.with_doors(doors).with_secrets(secrets))
        }
        RuntimeKind::Cri => {
            let runtime = CriRuntime::new(cri_options(config), events)?;
            AnyRuntime::Cri(runtime.with_doors(doors).with_secrets(secrets))
        }
    })
}

fn cri_options(config: &Config) -> CriOptions {
    CriOptions {
        socket: config.cri.socket.clone(),
        folder: config.places().pods,
        log_max_bytes: config.pod_logs.max_size.bytes,
        log_max_files: config.pod_logs.max_files,
        cgroup_parent: config.cri.cgroup_parent.clone(),
        cdi: config.cri.cdi,
        gpu_runtime_handler: config.cri.gpu_runtime_handler.clone(),
        pulls: config.images.pull,
        allowed: config.allowed(),
        pids_max: config.pods.pid_limit,
        network: config.cri.network,
    }
}

fn process_options(config: &Config) -> ProcessOptions {
    ProcessOptions {
        folder: config.places().pods,
        log_max_bytes: config.pod_logs.max_size.bytes,
        log_max_files: config.pod_logs.max_files,
        pids_max: config.pods.pid_limit,
        // Not by its path: after an update another program lies there.
        shim_program: PathBuf::from("/proc/self/exe"),
    }
}

fn core_options(
    config: &Config,
    enrollment: &Enrollment,
    (incarnation, boot): (u64, u64),
    capacity: Capacity,
) -> Result<CoreOptions, BootError> {
    Ok(CoreOptions {
        node: enrollment.node.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation,
        boot,
        seed: fresh_seed(),
        session_key: read_session_key(&config.places())?,
        hub_session_key: enrollment.hub_session_key,
        hub_signing_key: enrollment.hub_signing_key,
        capacity,
        reserved: config.reserved(),
        recorder: config.recorder(),
        quota: OutboxQuota::default(),
        several_containers: config.runtime == RuntimeKind::Cri,
    })
}

/// What the hub and the people behind it must hear of how this start went.
/// `newest` is the newest start that the store knows.
fn notices(
    opening: &Opening,
    ledger: &Ledger,
    store: &SealedStore,
    newest: u64,
) -> Vec<(String, String)> {
    let mut notices = Vec::new();
    match opening {
        // The ledger is written after the store.
        Opening::Created if ledger.state().accepted > Version::default() => {
            let message = "there was a store, and it is gone: a new one was made; records that were not delivered are lost, desired state is asked for again".to_owned();
            warn!(message);
            notices.push(("StoreDamaged".to_owned(), message));
        }
        Opening::Created => info!("made a new store"),
        Opening::Existing => {}
        Opening::Quarantined { folder, reason } => {
            let message = format!(
                "the store could not be used and was put aside as {}: {reason}; records that were not delivered are lost, desired state is asked for again",
                folder.display()
            );
            warn!(message, "the store was quarantined");
            notices.push(("StoreQuarantined".to_owned(), message));
        }
    }
    if store.lost_commits() > 0 || store.damaged_records() > 0 {
        let (commits, records) = (store.lost_commits(), store.damaged_records());
        let message = format!("the disk lost {commits} commits and {records} records of the store");
        warn!(message);
        notices.push(("StoreDamaged".to_owned(), message));
    }
    if ledger.was_damaged() {
        let message = "a part of the ledger beside the store was damaged".to_owned();
        warn!(message);
        notices.push(("LedgerDamaged".to_owned(), message));
    } else if ledger.state().incarnation < newest {
        let message = "the ledger is older than the store: it was lost or replaced".to_owned();
        warn!(message);
        notices.push(("LedgerDamaged".to_owned(), message));
    }
    notices
}
