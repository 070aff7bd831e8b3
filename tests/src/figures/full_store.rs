//! Fills a node's store as days or weeks without a link do: records of telemetry that nobody fetched.

use crate::real::agent::Agent;
use anyhow::ensure;
use shared::io::keys::{fresh_seed, load_store_key};
use shared::io::store::{SealedStore, StoreOptions};
use shared::ports::{Store, Tree, WriteBatch};
use shared::sync::{Outbox, OutboxQuota, newest_incarnation};
use shared::wire::Stream;
use std::time::Duration;

/// The store's size on disk that is filled up to.
const STORE_BYTES: u64 = 50 * 1000 * 1000;

/// A batch of a minute was about this large before there was a codec for it: few records fill a store.
const LARGE_RECORD_BYTES: usize = 3 * 1024;

/// A batch of a minute, sealed: a day of 60 series every 10 s is 510 kB (`telemetry_bytes_per_sample_60s`).
const MINUTE_BYTES: usize = 360;

/// Batches of a day.
const MINUTES_PER_DAY: u64 = 24 * 60;

/// Records in one commit.
const COMMIT_RECORDS: u32 = 50;

/// Meta records of a node are few.
const META_MAX: usize = 1024;

/// Fills the store of an agent that does not run up to 50 MB; how many bytes and records it has then.
pub(super) fn fill(agent: &Agent) -> anyhow::Result<(u64, u64)> {
    fill_until(agent, LARGE_RECORD_BYTES, |store, _| store.size_bytes() >= STORE_BYTES)
}

/// Has the store of an agent that does not run hold what so many days without a link leave there: a record for
/// each minute. How many bytes and records it has then.
pub(super) fn fill_days(agent: &Agent, days: u64) -> anyhow::Result<(u64, u64)> {
    fill_until(agent, MINUTE_BYTES, |_, records| records >= days * MINUTES_PER_DAY)
}

fn fill_until(
    agent: &Agent,
    record_bytes: usize,
    is_full: impl Fn(&SealedStore, u64) -> bool,
) -> anyhow::Result<(u64, u64)> {
    let state = agent.state();
    let options = StoreOptions {
        folder: state.join("store"),
        key: load_store_key(&state.join("keys/store.key"))?,
        open_deadline: Duration::from_secs(60),
    };
    let (mut store, _) = SealedStore::open(options)?;
    let meta = store.scan(Tree::Meta, &[], META_MAX)?;
    let incarnation = newest_incarnation(&meta).max(1);
    let quota = OutboxQuota { telemetry_bytes: u64::MAX, ..OutboxQuota::default() };
    let mut outbox = Outbox::restore(incarnation, quota, &meta);
    while !is_full(&store, outbox.totals(Stream::Backfill).records) {
        let mut writes = WriteBatch::new();
        for _ in 0..COMMIT_RECORDS {
            outbox.append(Stream::Backfill, record(record_bytes), &mut writes)?;
        }
        store.commit(&writes)?;
    }
    let records = outbox.totals(Stream::Backfill).records;
    ensure!(store.damaged_records() == 0, "the store was damaged while it was filled");
    Ok((store.size_bytes(), records))
}

/// Bytes that do not compress, as sealed ones would not anyway. The hub counts such a record as
/// undecodable, which costs it what a good one costs.
fn record(bytes: usize) -> Vec<u8> {
    let mut record: Vec<u8> = Vec::with_capacity(bytes);
    while record.len() < bytes {
        record.extend(fresh_seed());
    }
    record.truncate(bytes);
    record
}
