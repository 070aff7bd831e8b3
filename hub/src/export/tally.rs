//! How a sink is doing: counted by its task, shown by the API, the commands and the metrics.

use serde::{Deserialize, Serialize};
use shared::model::UnixMs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// One sink. What is counted is counted since the hub started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SinkView {
    /// Its name; that of remote write is `remote_write`.
    pub name: String,
    /// `remote_write`, `files`, `webhook` or `mqtt`.
    pub kind: String,
    /// Deliveries that wait for it.
    pub queued_deliveries: u64,
    /// Bytes of their records.
    pub queued_bytes: u64,
    /// Samples or results that it has taken.
    pub taken: u64,
    /// Samples or results that it refused for good, or that no sink can take.
    pub refused: u64,
    /// Of those taken or refused: how many had a time for which nothing vouches.
    pub unsynchronised: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Since when it takes nothing; `None` while it does.
    pub down_since: Option<UnixMs>,
    /// The last failure or refusal, for people.
    pub last_error: Option<String>,
}

/// The tally of one sink.
#[derive(Debug)]
pub(crate) struct Tally {
    name: String,
    kind: &'static str,
    counts: Mutex<SinkView>,
}

impl Tally {
    pub(crate) fn new(name: &str, kind: &'static str) -> Self {
        Self { name: name.to_owned(), kind, counts: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How it is now.
    pub(crate) fn view(&self) -> SinkView {
        SinkView { name: self.name.clone(), kind: self.kind.to_owned(), ..self.counts().clone() }
    }

    pub(crate) fn queued(&self, bytes: u64) {
        let mut counts = self.counts();
        counts.queued_deliveries += 1;
        counts.queued_bytes += bytes;
    }

    pub(crate) fn ended(&self, bytes: u64) {
        let mut counts = self.counts();
        counts.queued_deliveries = counts.queued_deliveries.saturating_sub(1);
        counts.queued_bytes = counts.queued_bytes.saturating_sub(bytes);
    }

    /// Whether it was down until now.
    pub(crate) fn taken(&self, count: u64) -> bool {
        let mut counts = self.counts();
        counts.taken += count;
        counts.down_since.take().is_some()
    }

    /// Whether it was well until now.
    pub(crate) fn failed(&self, reason: &str) -> bool {
        let mut counts = self.counts();
        counts.failed_attempts += 1;
        counts.last_error = Some(reason.to_owned());
        let was_well = counts.down_since.is_none();
        counts.down_since.get_or_insert_with(wall_clock);
        was_well
    }

    /// It answers, and refuses something.
    pub(crate) fn answered(&self, reason: &str) {
        let mut counts = self.counts();
        counts.down_since = None;
        counts.last_error = Some(reason.to_owned());
    }

    /// Whether this refusal has another reason than the last one: each is said once in a row.
    pub(crate) fn refused(&self, count: u64, reason: &str) -> bool {
        let mut counts = self.counts();
        let first = counts.refused == 0 || counts.last_error.as_deref() != Some(reason);
        counts.refused += count;
        counts.down_since = None;
        counts.last_error = Some(reason.to_owned());
        first
    }

    pub(crate) fn unsynchronised(&self, count: u64) {
        self.counts().unsynchronised += count;
    }

    fn counts(&self) -> MutexGuard<'_, SinkView> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wall_clock() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
