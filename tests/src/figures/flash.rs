//! What an idle node writes to its flash.
//!
//! Telemetry runs a hundred times as fast as by default, so that a few minutes show the work of hours,
//! and the file system is synced a hundred times as often as the kernel writes back what nobody synced.
//! What is told is the cost of a batch, times the batches of a day. The file system's own journal is not
//! in it.

use super::marks::Marks;
use super::{Figure, work_folder};
use crate::real::process::wait_until;
use crate::story::{Story, in_session, number};
use anyhow::{Context, ensure};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Pods that do nothing.
const PODS: u32 = 5;

/// A hundredth of the default.
const SAMPLE_INTERVAL_MS: u64 = 100;

/// The default.
const SAMPLES_PER_BATCH: usize = 6;

/// A sample every 10 s, six in a batch.
const BATCHES_PER_DAY: u64 = 24 * 60;

/// A hundredth of the age at which Linux writes back a page that nobody synced.
const WRITE_BACK: Duration = Duration::from_millis(300);

/// Batches before the count begins: the store has its size by then.
const WARM_UP_BATCHES: u64 = 50;

/// Batches that are counted.
const BATCHES: u64 = 250;

/// Bytes that the agent hands to the block layer, for each batch of telemetry that is recorded,
/// delivered and removed.
pub(super) fn idle() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut story = Story::new(folder.path(), "mast-17")?;
    let marks = Marks::new(&folder.path().join("marks"))?;
    story.hub.apply("five.yaml", &marks.manifest("five", PODS))?;
    story.agent.configure(SAMPLE_INTERVAL_MS, SAMPLES_PER_BATCH)?;
    story.join()?;
    let batches = |story: &Story| -> anyhow::Result<u64> {
        let status = story.agent.status()?;
        ensure!(in_session(&status), "the session was lost");
        Ok(number(&status, "/outbox/samples_recorded") / SAMPLES_PER_BATCH as u64)
    };
    let until = |story: &Story, count: u64| {
        let timeout = Duration::from_millis(count * SAMPLE_INTERVAL_MS * 12) + PATIENCE;
        wait_until("so many batches were recorded", timeout, || {
            std::thread::sleep(WRITE_BACK);
            rustix::fs::syncfs(std::fs::File::open(story.agent.state())?)?;
            Ok(batches(story)? >= count)
        })
    };
    until(&story, WARM_UP_BATCHES)?;
    let agent = story.agent.id().context("the agent does not run")?;
    let (first, before) = (batches(&story)?, written_bytes(agent)?);
    until(&story, first + BATCHES)?;
    let (last, after) = (batches(&story)?, written_bytes(agent)?);
    let per_batch = (after - before) / (last - first).max(1);
    let per_day = per_batch * BATCHES_PER_DAY;
    let how = format!(
        "{} batches of {SAMPLES_PER_BATCH} samples recorded, delivered and removed, {PODS} idle pods, \
         telemetry at 100 times its pace: {per_batch} bytes a batch (`write_bytes` less \
         `cancelled_write_bytes` of /proc/PID/io: whole pages that reach the block layer), times \
         {BATCHES_PER_DAY} batches a day",
        last - first
    );
    let megabytes = format!("{}.{:02}", per_day / 1_000_000, per_day % 1_000_000 / 10_000);
    Ok(vec![Figure::new("agent_flash_mb_per_day_idle", megabytes, "MB", &how)])
}

fn written_bytes(process: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/io"))?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("/proc/PID/io lacks a line")?.trim().parse()?)
    };
    Ok(field("write_bytes:")?.saturating_sub(field("cancelled_write_bytes:")?))
}
