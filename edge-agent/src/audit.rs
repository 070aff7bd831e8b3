//! Who read logs of pods and ran commands in them: the newest records, in the store. Pure.
//!
//! A record is durable before what it tells of begins, and is completed when that has ended. Numbers go up; a record
//! takes the place of the one [`RECORDS_MAX`] before it.

use serde::{Deserialize, Serialize};
use shared::model::{ClockQuality, PodId, UnixMs};
use shared::ports::{Store, StoreError, Tree, WriteBatch};
use shared::wire::{EncodeError, decode, encode};

/// Records that are kept.
pub const RECORDS_MAX: u64 = 1_000;

/// Under this and a number of two bytes each lies in [`Tree::Meta`].
const KEY: &[u8] = b"audit/";

/// A record: a command, names and a sentence.
const RECORD_BYTES_MAX: usize = 8 * 1024;

/// A sentence in a record.
const SENTENCE_CHARACTERS_MAX: usize = 300;

/// What somebody did, or wanted to. Fields and variants are only appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Numbers the records from 1.
    pub number: u64,
    /// When it was asked for, by the node's clock.
    pub at: UnixMs,
    /// How far that clock can be believed.
    pub clock: ClockQuality,
    /// Who asked, in words; begins with `hub: ` where the hub did.
    pub caller: String,
    /// Which pod.
    pub pod: PodId,
    /// Which of its containers, where one was named.
    pub container: Option<String>,
    /// What was asked for.
    pub action: AuditAction,
    /// What came of it.
    pub outcome: AuditOutcome,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditAction {
    /// To read the log; who follows it is recorded once.
    ReadLog,
    /// To run this command.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditOutcome {
    /// It began. Where an earlier start of the agent did, nobody knows how it ended.
    Began,
    /// It was not done, for this reason.
    Refused {
        /// A sentence.
        why: String,
    },
    /// It was tried, and this is why it failed.
    Failed {
        /// A sentence.
        why: String,
    },
    /// It was done; a command's exit code.
    Done {
        /// Absent for a log, and for a command that was killed at its deadline.
        exit_code: Option<i32>,
    },
}

impl AuditOutcome {
    /// Not done, for this reason.
    pub(crate) fn refused(why: &str) -> Self {
        Self::Refused { why: short(why) }
    }

    /// Tried, and failed for this reason.
    pub(crate) fn failed(why: &str) -> Self {
        Self::Failed { why: short(why) }
    }
}

fn short(sentence: &str) -> String {
    sentence.chars().take(SENTENCE_CHARACTERS_MAX).collect()
}

impl AuditRecord {
    /// Puts it into a batch.
    ///
    /// # Errors
    /// None that is known.
    pub fn put(&self, batch: &mut WriteBatch) -> Result<(), EncodeError> {
        batch.put(Tree::Meta, key(self.number), encode("audit record", self)?);
        Ok(())
    }
}

fn key(number: u64) -> Vec<u8> {
    let place = u16::try_from(number % RECORDS_MAX).unwrap_or_default();
    [KEY, &place.to_be_bytes()].concat()
}

fn decoded(bytes: &[u8]) -> Option<AuditRecord> {
    decode("audit record", bytes, RECORD_BYTES_MAX).ok()
}

/// The number of the newest record among records of [`Tree::Meta`]; 0 where there is none.
#[must_use]
pub fn newest(meta: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let records = meta.iter().filter(|(key, _)| key.starts_with(KEY));
    let numbers = records.filter_map(|(_, value)| decoded(value)).map(|record| record.number);
    numbers.max().unwrap_or_default()
}

/// The records up to `newest`, the oldest first. One that can't be read is left out.
///
/// # Errors
/// When the medium can't be read.
pub fn read_all(store: &dyn Store, newest: u64) -> Result<Vec<AuditRecord>, StoreError> {
    let mut records = Vec::new();
    for number in newest.saturating_sub(RECORDS_MAX) + 1..=newest {
        let bytes = store.read(Tree::Meta, &key(number))?;
        records.extend(bytes.and_then(|bytes| decoded(&bytes)).filter(|r| r.number == number));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::ports::Write;
    use std::collections::BTreeMap;

    fn record(number: u64) -> AuditRecord {
        AuditRecord {
            number,
            at: UnixMs(number),
            clock: ClockQuality::Synchronised,
            caller: "alice".to_owned(),
            pod: "default/ocr-0".parse().unwrap(),
            container: None,
            action: AuditAction::Exec { command: vec!["ls".to_owned()] },
            outcome: AuditOutcome::Done { exit_code: Some(3) },
        }
    }

    #[derive(Default)]
    struct Memory(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Store for Memory {
        fn read(&self, _: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(
            &self,
            _: Tree,
            _: &[u8],
            _: usize,
        ) -> Result<Vec<shared::ports::KeyValue>, StoreError> {
            Ok(self.0.clone().into_iter().collect())
        }

        fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
            for write in batch.writes.clone() {
                if let Write::Put { key, value, .. } = write {
                    self.0.insert(key, value);
                }
            }
            Ok(())
        }

        fn damaged_records(&self) -> u64 {
            0
        }
    }

    #[test]
    fn the_newest_thousand_are_kept_in_their_order() {
        let mut store = Memory::default();
        assert_eq!(read_all(&store, 0).unwrap(), []);
        for number in 1..=1_500 {
            let mut batch = WriteBatch::new();
            record(number).put(&mut batch).unwrap();
            store.commit(&batch).unwrap();
        }
        let meta = store.scan(Tree::Meta, &[], usize::MAX).unwrap();
        assert_eq!((meta.len(), newest(&meta)), (1_000, 1_500));
        let kept = read_all(&store, 1_500).unwrap();
        assert_eq!(kept, (501..=1_500).map(record).collect::<Vec<_>>());
    }

    #[test]
    fn what_can_t_be_read_is_left_out() {
        let mut store = Memory::default();
        let mut batch = WriteBatch::new();
        record(1).put(&mut batch).unwrap();
        record(2).put(&mut batch).unwrap();
        batch.put(Tree::Meta, key(1), vec![0xff; 9]);
        store.commit(&batch).unwrap();
        assert_eq!(read_all(&store, 2).unwrap(), [record(2)]);
        assert_eq!(newest(&store.scan(Tree::Meta, &[], 9).unwrap()), 2);
    }
}
