//! Files: what people write, and what a power cut or an enemy makes of what programs write.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::Input;
use hub::manifests::parse_documents;
use sha2::{Digest, Sha256};
use shared::io::ledger::Ledger;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A file of this name that every execution overwrites; in memory where the system has such a place.
fn scratch(name: &str) -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let in_memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        in_memory.expect("a folder can be made")
    });
    folder.path().join(name)
}

/// The agent's configuration.
pub fn agent_config(data: &[u8]) {
    let path = scratch("agent.toml");
    fs::write(&path, data).expect("a file can be written");
    if let Ok(config) = edge_agent::config::Config::load(Some(&path)) {
        let _ = (config.places(), config.recorder(), config.reserved());
    }
}

/// The hub's configuration.
pub fn hub_config(data: &[u8]) {
    let path = scratch("hub.toml");
    fs::write(&path, data).expect("a file can be written");
    if let Ok(config) = hub::config::Config::load(Some(&path)) {
        let _ = (config.check(), config.places(), config.advertised("machine"));
    }
}

/// Manifests.
pub fn manifests(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match parse_documents("fuzzed.yaml", &text) {
        Ok(manifests) => {
            let workloads = manifests.workloads.values();
            workloads.for_each(|workload| drop(format!("{workload:?}")));
        }
        Err(problems) => drop(problems.to_string()),
    }
}

/// Bytes of a slot of the ledger, and of what is covered by the digest in it.
const SLOT_BYTES: usize = 4096;
const COVERED_BYTES: usize = 48;

/// The ledger: two slots, each as it comes or with a digest that is right.
pub fn ledger(data: &[u8]) {
    let mut input = Input::new(data);
    let mut file = Vec::new();
    for _ in 0..2 {
        let (genuine, mut slot) = (input.byte() % 2 == 1, input.chunk().to_vec());
        if genuine {
            slot.resize(COVERED_BYTES, 0);
            slot.extend(Sha256::digest(&slot));
        }
        slot.resize(SLOT_BYTES, 0);
        file.extend(slot);
    }
    file.truncate(usize::try_from(input.number()).unwrap_or(0).wrapping_sub(1));
    let path = scratch("ledger");
    fs::write(&path, &file).expect("a file can be written");
    let ledger = Ledger::open(&path).expect("a damaged ledger opens all the same");
    let _ = (ledger.state(), ledger.was_damaged());
}

/// An enrolment as the hub notes it beside its store.
#[cfg(fuzzing)]
pub fn registry(data: &[u8]) {
    let _ = hub::hostile::enrolment(data);
}

/// Nothing: see below.
#[cfg(not(fuzzing))]
pub fn registry(_: &[u8]) {}

/// What the container runtime answers, and what it and containers leave on the node.
#[cfg(fuzzing)]
pub fn cri(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    edge_agent::runtime::cri::hostile::decode(*kind, bytes);
}

/// Nothing: in ordinary builds these decoders are private, and `fuzz.sh` builds otherwise.
#[cfg(not(fuzzing))]
pub fn cri(_: &[u8]) {}

/// What shim and agent leave for each other, what a probe is answered, what `/proc` says.
#[cfg(fuzzing)]
pub fn shim(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    edge_agent::runtime::process::hostile::decode(*kind, bytes);
}

/// Nothing: in ordinary builds these decoders are private, and `fuzz.sh` builds otherwise.
#[cfg(not(fuzzing))]
pub fn shim(_: &[u8]) {}
