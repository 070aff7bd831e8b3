//! The store that can't be written, and what waits for it.
//!
//! A batch that failed is kept and tried again every few seconds, with what came since; until then
//! the core is read-only.

use super::{AgentCore, Effect};
use crate::results::PostOutcome;
use shared::model::{MonotonicMs, Now};
use shared::ports::{Tree, Write, WriteBatch};
use shared::sync::PreparedUpdate;
use std::collections::{BTreeMap, VecDeque};

/// Between two attempts to write: soon enough for a person who has just freed space.
const RETRY_INTERVAL_MS: u64 = 5_000;

/// Writes of batches that are made durable together: a commit costs a disk the same, whatever is in it.
const WRITES_TOGETHER_MAX: usize = 256;

/// What follows once a batch is durable.
#[derive(Debug)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// This desired state comes into force and is acknowledged.
    Accept(Box<PreparedUpdate>),
    /// The store can be written again.
    Recover,
    /// These posts are answered: what they held is durable.
    AnswerPosts(Vec<(u64, PostOutcome)>),
    /// This call is handed out: its record is durable.
    HandOut(u64),
}

/// Batches that wait for their answer, and the batch that failed.
#[derive(Debug, Default)]
pub(super) struct Storage {
    waiting: VecDeque<After>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    writes: BTreeMap<(Tree, Vec<u8>), Write>,
    error: String,
    retry_at: MonotonicMs,
}

impl Storage {
    /// Why the store can't be written; `None` when it can.
    pub(super) fn error(&self) -> Option<&str> {
        self.failed.as_ref().map(|failed| failed.error.as_str())
    }

    pub(super) fn retry_at(&self) -> Option<MonotonicMs> {
        self.failed.as_ref().map(|failed| failed.retry_at)
    }
}

impl Failed {
    /// A batch that failed again: what came since is newer; within it the later of two is.
    fn add_older(&mut self, batch: WriteBatch) {
        for write in batch.writes.into_iter().rev() {
            let (Write::Put { tree, key, .. } | Write::Delete { tree, key }) = &write;
            self.writes.entry((*tree, key.clone())).or_insert(write);
        }
    }

    /// A later write of the same key replaces an earlier one, so that this does not grow.
    fn add(&mut self, batch: WriteBatch) {
        for write in batch.writes {
            let (Write::Put { tree, key, .. } | Write::Delete { tree, key }) = &write;
            self.writes.insert((*tree, key.clone()), write);
        }
    }
}

impl AgentCore {
    pub(super) fn is_read_only(&self) -> bool {
        self.storage.failed.is_some()
    }

    /// Has `batch` made durable, and then `after` done. While the store can't be written the batch
    /// joins the one that failed, and an update is not accepted.
    pub(super) fn persist(&mut self, batch: WriteBatch, after: After) {
        match &mut self.storage.failed {
            Some(failed) => {
                if !matches!(after, After::Accept(_)) {
                    failed.add(batch);
                }
            }
            None => {
                let Some(batch) = self.join_last(batch, &after) else { return };
                self.storage.waiting.push_back(after);
                self.effects.push_back(Effect::Persist(batch));
            }
        }
    }

    /// Puts `batch` to the one before it, when nothing is to happen between them or after either; else it comes back.
    fn join_last(&mut self, mut batch: WriteBatch, after: &After) -> Option<WriteBatch> {
        let (Some(After::Nothing), After::Nothing) = (self.storage.waiting.back(), after) else {
            return Some(batch);
        };
        match self.effects.back_mut() {
            Some(Effect::Persist(last))
                if last.writes.len() + batch.writes.len() <= WRITES_TOGETHER_MAX =>
            {
                last.writes.append(&mut batch.writes);
                None
            }
            _ => Some(batch),
        }
    }

    pub(super) fn handle_persisted(&mut self, now: Now) {
        match self.storage.waiting.pop_front() {
            Some(After::Accept(update)) => self.accept_desired(*update, now),
            Some(After::Recover) => {
                self.recover(now);
                self.schedule_report(now.monotonic);
                // A greeting that was answered meanwhile freed nothing: it is answered again.
                if !self.outbox.is_listening() {
                    self.ask_for_session();
                }
                self.record_event("node", "StoreWritable", "the store can be written again", now);
            }
            Some(After::AnswerPosts(posts)) => self.answer_posts(posts),
            Some(After::HandOut(id)) => self.hand_out(id),
            Some(After::Nothing) | None => {}
        }
    }

    /// The store can be written again: what came during the attempt is made durable as well, and the
    /// desired state takes effect.
    fn recover(&mut self, now: Now) {
        let gathered = self.storage.failed.take().map(|failed| failed.writes).unwrap_or_default();
        if !gathered.is_empty() {
            let writes = gathered.into_values().collect();
            self.persist(WriteBatch { writes }, After::Nothing);
        }
        self.assign(now);
    }

    pub(super) fn handle_persist_failed(&mut self, batch: WriteBatch, error: String, now: Now) {
        let after = self.storage.waiting.pop_front();
        self.refuse_posts(after.as_ref(), &error);
        let retry_at = now.monotonic.plus_ms(RETRY_INTERVAL_MS);
        let first = self.storage.failed.is_none();
        let failed = self.storage.failed.get_or_insert_with(|| Failed {
            writes: BTreeMap::new(),
            error: String::new(),
            retry_at,
        });
        (failed.error, failed.retry_at) = (error, retry_at);
        // An update that did not become durable was never received: the hub sends it again.
        if !matches!(after, Some(After::Accept(_))) {
            failed.add_older(batch);
        }
        self.go_on_unrecorded(after.as_ref(), now);
        self.recorder.begin_runs();
        if first {
            self.drop_unsafe_effects(now);
            self.pods.hold(true);
            self.schedule_report(now.monotonic);
        }
    }

    /// What was to follow a write that failed: sends are lost packets, later batches join it, and the
    /// runtime keeps the ends of pods that are not recorded. An accepted version is durable already.
    fn drop_unsafe_effects(&mut self, now: Now) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Send(_) | Effect::Forget { keep_logs: true, .. } => {}
                Effect::Persist(batch) => {
                    let after = self.storage.waiting.pop_front();
                    if let Some(failed) = &mut self.storage.failed
                        && !matches!(after, Some(After::Accept(_)))
                    {
                        failed.add(batch);
                    }
                    let error = self.storage.error().unwrap_or_default().to_owned();
                    self.refuse_posts(after.as_ref(), &error);
                    self.go_on_unrecorded(after.as_ref(), now);
                }
                other => self.effects.push_back(other),
            }
        }
    }

    /// A call's record is not durable.
    fn go_on_unrecorded(&mut self, after: Option<&After>, now: Now) {
        if let Some(After::HandOut(id)) = after {
            let error = self.storage.error().unwrap_or_default().to_owned();
            self.begin_unrecorded(*id, &error, now);
        }
    }

    pub(super) fn retry_storage(&mut self, now: MonotonicMs) {
        let Some(failed) = &mut self.storage.failed else { return };
        if failed.retry_at > now {
            return;
        }
        failed.retry_at = now.plus_ms(RETRY_INTERVAL_MS);
        let writes = std::mem::take(&mut failed.writes).into_values().collect();
        self.storage.waiting.push_back(After::Recover);
        self.effects.push_back(Effect::Persist(WriteBatch { writes }));
    }
}
