//! The ports of `perform` on real things: store, ledger, runtime, GPUs, link, clocks.

use super::link::Link;
use super::perform::AgentPorts;
use super::scrape::Scraper;
use super::system;
use crate::gpu::Gpus;
use crate::ports::{Runtime, ScrapeTarget};
use crate::results::{Desk, PostOutcome};
use crate::runtime::{AnyRuntime, tail_log};
use shared::io::clock::{SystemClock, TrustedTime};
use shared::io::ledger::{Ledger, LedgerError};
use shared::io::store::SealedStore;
use shared::limits::CALL_BODY_BYTES_MAX;
use shared::model::{BootClock, Now, PodId, UnixMs};
use shared::ports::{Store, StoreError, WriteBatch};
use shared::sync::{LogRead, read_log};
use shared::telemetry::Sample;
use shared::wire::{CallMethod, CallOutcome, CallRequest, CallResponse, SequenceNumber, Version};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

/// Tails of logs that are read at once; each holds a file's end in memory for a moment.
const TAILS_MAX: usize = 4;

/// Bytes of a log's tail for a command on this machine.
const LOCAL_TAIL_BYTES_MAX: usize = 4 << 20;

/// What the agent's effects reach.
pub(super) struct Outside {
    pub(super) clock: SystemClock,
    pub(super) store: SealedStore,
    pub(super) ledger: Ledger,
    pub(super) runtime: AnyRuntime,
    pub(super) gpus: Gpus,
    pub(super) trusted_time: Arc<TrustedTime>,
    /// Absent until pods were started.
    pub(super) link: Option<Link>,
    pub(super) state_dir: PathBuf,
    pub(super) pods_dir: PathBuf,
    pub(super) tails: Arc<Semaphore>,
    pub(super) scraper: Scraper,
    /// Which pods wait for which answers.
    pub(super) desk: Desk,
    /// Names the machine's present boot.
    pub(super) boot: u64,
    /// Where answers to calls go.
    pub(super) answers: mpsc::UnboundedSender<CallResponse>,
}

/// How many tails may be read at once.
pub(super) fn tails() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(TAILS_MAX))
}

impl Outside {
    /// The node's clock at this moment.
    pub(super) fn boot_clock(&self, now: Now) -> BootClock {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        BootClock {
            boot: self.boot,
            since_boot_ms: now.monotonic.0,
            offset_ms: signed(now.wall.0).saturating_sub(signed(now.monotonic.0)),
            quality: now.quality,
        }
    }

    /// Reads a pod's log for a command on this machine.
    pub(super) fn tail_for_query(
        &self,
        of: (PodId, Option<String>),
        lines: u32,
        reply: oneshot::Sender<Result<Vec<u8>, String>>,
    ) {
        self.tail(of, lines, LOCAL_TAIL_BYTES_MAX, |outcome| {
            // Whoever asked may be gone.
            let _ = reply.send(outcome);
        });
    }

    /// Reads the log of a pod, or of one of its containers, on a thread of its own, since a disk may be slow, and
    /// hands it to `done`.
    fn tail(
        &self,
        (pod, container): (PodId, Option<String>),
        lines: u32,
        bytes_max: usize,
        done: impl FnOnce(Result<Vec<u8>, String>) + Send + 'static,
    ) {
        let (folder, tails) = (self.pods_dir.clone(), Arc::clone(&self.tails));
        tokio::spawn(async move {
            let Ok(_turn) = tails.acquire().await else { return };
            let read = move || tail_log(&folder, &pod, container.as_deref(), lines, bytes_max);
            let outcome = tokio::task::spawn_blocking(read).await;
            done(outcome.unwrap_or_else(|error| Err(format!("could not read the log: {error}"))));
        });
    }
}

fn note(outcome: Result<(), LedgerError>) {
    if let Err(error) = outcome {
        warn!(error = shared::in_words(&error), "the ledger was not written; the store has it too");
    }
}

impl AgentPorts for Outside {
    fn persist(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.store.commit(batch)
    }

    fn note_accepted(&mut self, version: Version) {
        note(self.ledger.note_accepted(version));
    }

    fn note_link_budget(&mut self, record: Vec<u8>) {
        if let Err(error) = self.ledger.note_link_budget(record) {
            let error = shared::in_words(&error);
            warn!(error, "what the link spends was not noted: a restart now would forget it");
        }
    }

    fn send(&mut self, payload: Vec<u8>) {
        match &self.link {
            Some(link) => link.send(payload),
            None => debug!("a payload was not sent: the link is not open yet"),
        }
    }

    fn runtime(&mut self) -> &mut dyn Runtime {
        &mut self.runtime
    }

    fn read_records(
        &mut self,
        read: &LogRead,
    ) -> Result<Vec<(SequenceNumber, Vec<u8>)>, StoreError> {
        read_log(&self.store, read)
    }

    fn answer_call(&mut self, request: CallRequest) {
        let (id, answers) = (request.id, self.answers.clone());
        let CallMethod::TailLog { pod, lines } = request.method;
        self.tail((pod, None), lines, CALL_BODY_BYTES_MAX, move |outcome| {
            let outcome = match outcome {
                Ok(body) => CallOutcome::done(body),
                Err(message) => CallOutcome::Failed { message },
            };
            // Lost only when the agent stops.
            let _ = answers.send(CallResponse { id, outcome });
        });
    }

    fn sample(&mut self) -> Sample {
        let now = self.clock.now();
        let mut values = system::sample(&self.state_dir);
        values.extend(self.gpus.sample());
        values.extend(self.runtime.sample());
        values.extend(self.runtime.gpu_memory(&self.gpus.processes()));
        values.extend(self.scraper.take());
        Sample { at: now.wall, clock: self.clock.stamp(now), values: values.into() }
    }

    fn scrape(&mut self, targets: Vec<ScrapeTarget>) {
        self.scraper.begin(targets);
    }

    fn answer_post(&mut self, id: u64, outcome: PostOutcome) {
        self.desk.answer(id, outcome);
    }

    fn trust_time(&mut self, time: UnixMs) {
        if self.trusted_time.raise(time) {
            note(self.ledger.note_time(self.trusted_time.now()));
        }
    }
}
