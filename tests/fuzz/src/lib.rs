//! Coverage-guided fuzzing of every decoder that meets the wire, the store or a file.
//!
//! A target is a function of bytes that must not panic, whatever they are, nor take more memory than
//! [`memory::BYTES_MAX`]. Most decode; where a key stands between an enemy and the decoder, the target
//! holds the key and seals or signs for him. Some drive a machine by steps read from the bytes and
//! check its invariants. `fuzz.sh` builds, runs and replays; the corpus of a target lies in
//! `corpus/<target>`.
//!
//! | file | targets |
//! |---|---|
//! | `wire` | envelope, message, map, telemetry, names |
//! | `mqtt` | packets of MQTT, at both ends |
//! | `records` | what the store holds, each kind of record |
//! | `trust` | signed documents, sessions, certificates, enrolments, sealed records,
//! | | ConfigMaps and Secrets as they travel |
//! | `machines` | log receiver, map receiver, outbox |
//! | `budget` | the link's budget |
//! | `agent`, `hub` | the cores on a hostile store and against a hostile peer |
//! | `files` | configurations, manifests, the ledger, the registry, what agent and shim leave
//! | | for each other, what a container runtime answers |
//! | `pods` | results that pods post, as the agent takes and the hub shows them; pages of metrics |
//! | `planted` | faults that must be found: the proof that fuzzing works here |

pub mod agent;
pub mod budget;
pub mod files;
pub mod hub;
pub mod input;
pub mod machines;
pub mod memory;
pub mod mqtt;
pub mod planted;
pub mod pods;
pub mod records;
pub mod seeds;
mod stack;
pub mod store;
pub mod trust;
pub mod wire;

use std::sync::OnceLock;

/// A name and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target. Each has a folder of its name in `corpus/`.
pub const TARGETS: &[Target] = &[
    ("agent_config", files::agent_config),
    ("agent_link", agent::link),
    ("agent_store", agent::store),
    ("budget", budget::budget),
    ("certificate", trust::certificate),
    ("cri", files::cri),
    ("enrollment", trust::enrollment),
    ("envelope", wire::envelope),
    ("hub_config", files::hub_config),
    ("hub_link", hub::link),
    ("hub_store", hub::store),
    ("ledger", files::ledger),
    ("log_receiver", machines::log_receiver),
    ("manifests", files::manifests),
    ("map", wire::map),
    ("map_receiver", machines::map_receiver),
    ("message", wire::message),
    ("metrics_page", pods::metrics_page),
    ("mqtt", mqtt::mqtt),
    ("names", wire::names),
    ("outbox", machines::outbox),
    ("post", pods::post),
    ("records", records::records),
    ("registry", files::registry),
    ("result_body", pods::result_body),
    ("sealed", trust::sealed),
    ("secret", trust::secret),
    ("session", trust::session),
    ("shim", files::shim),
    ("signed", trust::signed),
    ("telemetry", wire::telemetry),
];

/// Targets with a fault in them.
pub const PLANTED: &[Target] = &[
    ("planted_memory", planted::memory),
    ("planted_panic", planted::panic),
    ("planted_recursion", planted::recursion),
];

/// What is done once, before the first execution.
///
/// With `FUZZ_SEEDS` seeds are written below the folder that it names, and that is all.
pub fn prepare() {
    stack::give_signals_a_stack();
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        seeds::write(folder.as_ref());
        std::process::exit(0);
    }
    chosen();
}

/// The target that `FUZZ_TARGET` names.
///
/// # Panics
/// When it names none: there is nothing to fuzz.
pub fn chosen() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let target = TARGETS.iter().chain(PLANTED).find(|(known, _)| *known == name);
        let names: Vec<_> = TARGETS.iter().map(|(known, _)| *known).collect();
        target.unwrap_or_else(|| panic!("FUZZ_TARGET is `{name}`: expected one of {names:?}")).1
    })
}
