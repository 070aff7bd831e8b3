//! The outbox on its store: how fast records become durable, and how fast a backlog of them is read,
//! acknowledged and removed. Without a link: what the store allows is what is measured.

use super::{Figure, percentile, work_folder};
use anyhow::{Context, ensure};
use shared::io::keys::fresh_seed;
use shared::io::store::{SealedStore, StoreOptions};
use shared::model::MonotonicMs;
use shared::ports::{Store, WriteBatch};
use shared::sync::{Outbox, OutboxQuota, read_log};
use shared::trust::record::WrappingKey;
use shared::wire::{LogAck, Stream};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Records that are appended, and then drained: a few days of a node's.
const RECORDS: usize = 40_000;

/// Records in one commit.
const COMMIT_RECORDS: usize = 50;

const RECORD_BYTES: usize = 200;

/// Syncs of which the median is told.
const SYNCS: usize = 200;

/// Appends a backlog with synced commits, then drains it.
pub(super) fn outbox() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let sync_us = sync_latency_us(folder.path())?;
    let options = StoreOptions {
        folder: folder.path().join("store"),
        key: WrappingKey::from_bytes(fresh_seed()),
        open_deadline: Duration::from_secs(60),
    };
    let (mut store, _) = SealedStore::open(options)?;
    let mut outbox = Outbox::restore(1, OutboxQuota::default(), &[]);
    let appended = append(&mut store, &mut outbox)?;
    let (drained, acknowledgements) = drain(&mut store, &mut outbox)?;
    ensure!(store.damaged_records() == 0, "the store was damaged");
    let append_how = format!(
        "{RECORDS} records of {RECORD_BYTES} bytes, {COMMIT_RECORDS} in a commit, each commit durable \
         before the next; the disk's own sync is the figure below"
    );
    let drain_how = format!(
        "those records read in batches as the link takes them, acknowledged and removed durably: \
         {acknowledgements} commits"
    );
    let sync_how = format!("median of {SYNCS}: 4 KiB overwritten in place, then fdatasync");
    Ok(vec![
        Figure::new("outbox_append_records_per_s", rate(appended), "records/s", &append_how),
        Figure::new("outbox_drain_records_per_s", rate(drained), "records/s", &drain_how),
        Figure::new("disk_sync_us", sync_us, "us", &sync_how),
    ])
}

fn rate(took: Duration) -> u128 {
    RECORDS as u128 * 1_000_000 / took.as_micros().max(1)
}

/// What one durable write costs on this disk, with nothing of ours in between.
fn sync_latency_us(folder: &Path) -> anyhow::Result<u128> {
    let file = File::create(folder.join("sync"))?;
    file.write_all_at(&[7; 4096], 0)?;
    file.sync_all()?;
    let mut took = Vec::new();
    for number in 0..SYNCS {
        let begin = Instant::now();
        file.write_all_at(&[u8::try_from(number % 251)?; 4096], 0)?;
        file.sync_data()?;
        took.push(begin.elapsed().as_micros());
    }
    Ok(percentile(&mut took, 50))
}

fn append(store: &mut SealedStore, outbox: &mut Outbox) -> anyhow::Result<Duration> {
    let record: Vec<u8> = fresh_seed().into_iter().cycle().take(RECORD_BYTES).collect();
    let begin = Instant::now();
    for _ in 0..RECORDS / COMMIT_RECORDS {
        let mut writes = WriteBatch::new();
        for _ in 0..COMMIT_RECORDS {
            outbox.append(Stream::Backfill, record.clone(), &mut writes)?;
        }
        store.commit(&writes)?;
    }
    Ok(begin.elapsed())
}

/// As agent and link do it: batches as long as the window has room, then one acknowledgement of all.
fn drain(store: &mut SealedStore, outbox: &mut Outbox) -> anyhow::Result<(Duration, usize)> {
    let now = MonotonicMs(1);
    let (mut acknowledgements, mut received) = (0, 0);
    let begin = Instant::now();
    outbox.begin(&[], now, &mut WriteBatch::new());
    while outbox.totals(Stream::Backfill).records > 0 {
        let mut last = None;
        while let Some(read) = outbox.poll_read(usize::MAX, false, |_, _| true) {
            let records = read_log(store, &read)?;
            let batch = outbox.handle_read(&read, records, now).context("nothing to send")?;
            ensure!(batch.records.iter().all(|record| record.len() == RECORD_BYTES), "a hole");
            received += batch.records.len();
            last = Some((batch.log, batch.first + batch.records.len() as u64 - 1));
        }
        let (log, watermark) = last.context("the outbox sends nothing")?;
        let mut writes = WriteBatch::new();
        outbox.handle_ack(LogAck { log, watermark }, now, &mut writes);
        store.commit(&writes)?;
        acknowledgements += 1;
    }
    ensure!(received == RECORDS, "{received} records were drained");
    Ok((begin.elapsed(), acknowledgements))
}
