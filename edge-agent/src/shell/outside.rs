//! The ports of `perform` on real things: store, ledger, runtime, GPUs, link, clocks.

use super::calls::Answerer;
use super::link::Link;
use super::perform::AgentPorts;
use super::scrape::Scraper;
use super::system;
use crate::gpu::Gpus;
use crate::ports::{Runtime, ScrapeTarget};
use crate::results::{Desk, PostOutcome};
use crate::runtime::AnyRuntime;
use shared::io::clock::{SystemClock, TrustedTime};
use shared::io::ledger::{Ledger, LedgerError};
use shared::io::store::SealedStore;
use shared::model::{BootClock, Now, UnixMs};
use shared::ports::{Store, StoreError, WriteBatch};
use shared::sync::{LogRead, read_log};
use shared::telemetry::Sample;
use shared::wire::{CallOutcome, CallRequest, SequenceNumber, Version};
use std::path::PathBuf;
use std::sync::Arc;
use tracing::{debug, warn};

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
    pub(super) calls: Answerer,
    pub(super) scraper: Scraper,
    /// Which pods wait for which answers.
    pub(super) desk: Desk,
    /// Names the machine's present boot.
    pub(super) boot: u64,
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
        self.calls.answer(request, &self.runtime);
    }

    fn end_local_call(&mut self, ticket: u64, outcome: CallOutcome) {
        self.calls.end_local(ticket, outcome);
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
