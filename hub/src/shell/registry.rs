//! Who is enrolled, beside the store: one small file a node.
//!
//! A store that is lost or was rolled back comes back from the nodes themselves, all but this: without
//! it every node would be locked out, and a revoked one let in again. Where file and store differ on
//! who holds a name, the file is believed. Of the same enrolment a revocation is believed wherever
//! it is written: either may have been unwritable when it was made. It holds no secret.

use crate::core::{NodeRecord, StoredState};
use serde::{Deserialize, Serialize};
use shared::in_words;
use shared::io::keys::{KeyError, write_secret};
use shared::model::{NodeId, UnixMs};
use shared::trust::session::SessionPublicKey;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::{error, warn};

/// Our files have about 200 bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// The folder of the files.
#[derive(Debug)]
pub(super) struct Registry {
    folder: PathBuf,
}

/// What a file says. Fields are only added, with a default.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    session_key: SessionPublicKey,
    certificate_serial: String,
    enrolled_at: UnixMs,
    revoked: bool,
}

impl Registry {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Makes durable who holds `node`'s name from now on, and whether he is welcome.
    ///
    /// # Errors
    /// When the file can't be written; the old one is still there.
    pub(super) fn note(&self, node: &NodeId, record: &NodeRecord) -> Result<(), KeyError> {
        write_secret(&self.file(node), &Self::entry_of(record))
    }

    /// What a file says.
    pub(super) fn entry_of(record: &NodeRecord) -> Vec<u8> {
        let entry = Entry {
            session_key: record.session_key,
            certificate_serial: record.certificate_serial.clone(),
            enrolled_at: record.enrolled_at,
            revoked: record.revoked,
        };
        // Strings, a number and a truth value: there is nothing in it that JSON can't say.
        serde_json::to_vec_pretty(&entry).unwrap_or_default()
    }

    /// Puts right what `stored` does not know, by entries that lay elsewhere, and notes it here as well.
    pub(super) fn restore_from<'a>(
        &self,
        stored: &mut StoredState,
        entries: impl Iterator<Item = (&'a String, &'a Vec<u8>)>,
    ) {
        let mut read = Vec::new();
        for (name, text) in entries {
            match (NodeId::new(name), serde_json::from_slice::<Entry>(text)) {
                (Ok(node), Ok(entry)) => read.push((node, entry)),
                (_, entry) => {
                    let error = entry.err().map(|error| error.to_string());
                    error!(node = name, error, "a shared enrolment can't be read");
                }
            }
        }
        let before: BTreeMap<NodeId, Vec<u8>> = read
            .iter()
            .filter_map(|(node, _)| Some((node.clone(), Self::entry_of(stored.nodes.get(node)?))))
            .collect();
        let nodes: Vec<NodeId> = read.iter().map(|(node, _)| node.clone()).collect();
        self.restore_all(stored, read);
        for node in nodes {
            let Some(record) = stored.nodes.get(&node) else { continue };
            if before.get(&node) == Some(&Self::entry_of(record)) {
                continue;
            }
            if let Err(error) = self.note(&node, record) {
                let error = in_words(&error);
                error!(node = %node, error, "an enrolment can't be noted beside the store");
            }
        }
    }

    /// Puts right what `stored` does not know. A file that can't be read is passed over, loudly.
    pub(super) fn restore(&self, stored: &mut StoredState) {
        let restored = self.restore_all(stored, self.entries());
        if restored > 0 {
            warn!(restored, "enrolments that the store did not have were taken from their files");
        }
    }

    fn restore_all(&self, stored: &mut StoredState, entries: Vec<(NodeId, Entry)>) -> u64 {
        let mut restored = 0_u64;
        for (node, entry) in entries {
            let known = stored.nodes.get_mut(&node);
            match known.filter(|record| record.session_key == entry.session_key) {
                Some(record) => {
                    restored += u64::from(entry.put_right(record));
                    self.make_up_for(&node, record, &entry);
                }
                None => {
                    stored.reported.remove(&node);
                    stored.nodes.insert(node, entry.into_record());
                    restored += 1;
                }
            }
        }
        restored
    }

    /// A revocation that only the store has is written here as well, lest it be lost with the store.
    fn make_up_for(&self, node: &NodeId, record: &NodeRecord, entry: &Entry) {
        if record.revoked == entry.revoked {
            return;
        }
        if let Err(error) = self.note(node, record) {
            let error = in_words(&error);
            error!(node = %node, error, "a revocation can't be noted beside the store");
        }
    }

    fn entries(&self) -> Vec<(NodeId, Entry)> {
        let files = match fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                error!(folder = %self.folder.display(), error = %error, "no enrolments can be read");
                return Vec::new();
            }
        };
        files.filter_map(|file| entry_in(&file.ok()?.path())).collect()
    }

    fn file(&self, node: &NodeId) -> PathBuf {
        self.folder.join(format!("{node}.json"))
    }
}

impl Entry {
    fn into_record(self) -> NodeRecord {
        let Self { session_key, certificate_serial, enrolled_at, revoked } = self;
        NodeRecord { revoked, ..NodeRecord::new(session_key, certificate_serial, enrolled_at) }
    }

    /// Puts right the stored `record` of the same key; whether there was need to. Only an enrolment
    /// that the store missed lets a revoked node in again.
    fn put_right(&self, record: &mut NodeRecord) -> bool {
        let newer = self.is_newer_than(record);
        let revoked = if newer { self.revoked } else { record.revoked || self.revoked };
        let changed = newer || revoked != record.revoked;
        record.revoked = revoked;
        if newer {
            record.certificate_serial.clone_from(&self.certificate_serial);
            record.enrolled_at = self.enrolled_at;
        }
        changed
    }

    /// Serial numbers rise with every enrolment.
    fn is_newer_than(&self, record: &NodeRecord) -> bool {
        let number = |serial: &str| u64::from_str_radix(serial, 16).ok();
        number(&self.certificate_serial) > number(&record.certificate_serial)
    }
}

/// A file of another name is not ours: what a write that was interrupted left.
fn entry_in(path: &Path) -> Option<(NodeId, Entry)> {
    let node = NodeId::new(path.file_name()?.to_str()?.strip_suffix(".json")?).ok()?;
    match read_entry(path) {
        Ok(entry) => Some((node, entry)),
        Err(error) => {
            let error = in_words(&error);
            error!(path = %path.display(), error, "an enrolment can't be read");
            None
        }
    }
}

fn read_entry(path: &Path) -> io::Result<Entry> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than any of ours"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Whether `bytes` are a file of it.
#[cfg(fuzzing)]
pub(super) fn is_entry(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Entry>(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::trust::session::SessionPrivateKey;

    fn node() -> NodeId {
        NodeId::new("mast-17").unwrap()
    }

    fn record(key: u8) -> NodeRecord {
        let key = SessionPrivateKey::generate([key; 32]).public();
        NodeRecord::new(key, "1f".to_owned(), UnixMs(5))
    }

    fn restored(registry: &Registry, known: Option<NodeRecord>) -> Option<NodeRecord> {
        let mut stored = StoredState::default();
        stored.nodes.extend(known.map(|record| (node(), record)));
        registry.restore(&mut stored);
        stored.nodes.remove(&node())
    }

    #[test]
    fn a_lost_or_older_store_neither_forgets_nor_readmits_a_node() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().join("enrolled"));
        assert_eq!(restored(&registry, None), None);
        registry.note(&node(), &record(1)).unwrap();
        assert_eq!(restored(&registry, None), Some(record(1)));
        let revoked = NodeRecord { revoked: true, ..record(1) };
        registry.note(&node(), &revoked).unwrap();
        assert_eq!(restored(&registry, Some(record(1))), Some(revoked), "readmitted");
        registry.note(&node(), &record(2)).unwrap();
        assert_eq!(restored(&registry, Some(record(1))), Some(record(2)), "the earlier holder");
    }

    #[test]
    fn a_revocation_that_only_the_store_has_holds_and_is_made_up_for() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().join("enrolled"));
        registry.note(&node(), &record(1)).unwrap();
        let revoked = NodeRecord { revoked: true, ..record(1) };
        assert_eq!(restored(&registry, Some(revoked.clone())), Some(revoked.clone()), "let in");
        assert_eq!(restored(&registry, None), Some(revoked), "lost with the store");
    }

    #[test]
    fn an_enrolment_that_the_store_missed_lets_a_revoked_node_in_with_its_new_certificate_only() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().join("enrolled"));
        // As numbers "ff" < "100"; as text it is the other way round.
        let enrolled = |serial: &str, revoked| {
            let certificate_serial = serial.to_owned();
            NodeRecord { certificate_serial, revoked, ..record(1) }
        };
        registry.note(&node(), &enrolled("100", false)).unwrap();
        let after = |known| restored(&registry, Some(known)).unwrap();
        assert_eq!(after(enrolled("ff", true)), enrolled("100", false));
        assert_eq!(after(enrolled("101", true)), enrolled("101", true), "an older file let it in");
    }

    #[test]
    fn what_the_store_knows_of_a_node_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().join("enrolled"));
        registry.note(&node(), &record(1)).unwrap();
        let known = NodeRecord { samples_received: 77, ..record(1) };
        assert_eq!(restored(&registry, Some(known.clone())), Some(known));
    }

    #[test]
    fn files_that_are_not_ours_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path().to_owned());
        fs::write(folder.path().join("mast-17.json"), "{").unwrap();
        fs::write(folder.path().join("mast-18.json"), vec![b' '; 5000]).unwrap();
        fs::write(folder.path().join("..json"), "{}").unwrap();
        assert!(registry.entries().is_empty());
    }
}
