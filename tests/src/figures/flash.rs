//! What an idle node writes to its flash.
//!
//! Telemetry runs a hundred times as fast as by default, so that a few minutes show the work of hours;
//! what is told is the cost of a batch, times the batches of a day. Pages are counted from a recording
//! of the agent's own calls, because Linux was seen to count more than was written, perhaps whole
//! folios, in `/proc/PID/io`: a page of 4 KiB counts each time it is handed to the disk, or each time it
//! is written where nobody hands it over. The file system's own journal is not in it.

use super::marks::Marks;
use super::{Figure, work_folder};
use crate::real::process::wait_until;
use crate::real::recording::{Operation, Recorder};
use crate::story::{Story, in_session, number};
use anyhow::{Context, ensure};
use std::collections::{BTreeMap, BTreeSet};
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

/// Batches before the count begins: the store has its size by then.
const WARM_UP_BATCHES: u64 = 50;

/// Batches that are counted: more than one segment of sled's.
const BATCHES: u64 = 250;

/// What a disk writes at least.
const PAGE_BYTES: usize = 4096;

/// Pages that the agent hands to the disk, for each batch of telemetry that is recorded, delivered and
/// removed.
pub(super) fn idle() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut story = Story::new(folder.path(), "mast-17")?;
    let marks = Marks::new(&folder.path().join("marks"))?;
    story.hub.apply("five.yaml", &marks.manifest("five", PODS))?;
    story.agent.configure(SAMPLE_INTERVAL_MS, SAMPLES_PER_BATCH)?;
    story.hub.gather_acknowledgements()?;
    story.hub.start()?;
    story.agent.enroll(&story.hub)?;
    let recorder = Recorder::new(folder.path(), &story.agent.state())?;
    for (name, value) in recorder.environment() {
        let value = value.to_str().context("a path that is no text")?;
        story.agent.set_environment(name, value);
    }
    story.agent.start()?;
    story.agent.wait_until_up()?;
    until(&story, WARM_UP_BATCHES)?;
    let (first, before) = (batches(&story)?, recorder.operations()?.len());
    until(&story, first + BATCHES)?;
    let (last, operations) = (batches(&story)?, recorder.operations()?);
    let counted = Counted::of(&operations, before);
    let batches = (last - first).max(1);
    let per_batch = counted.pages * PAGE_BYTES as u64 / batches;
    let per_day = per_batch * BATCHES_PER_DAY;
    let how = format!(
        "{batches} batches of {SAMPLES_PER_BATCH} samples recorded, delivered and removed, {PODS} idle pods, \
         telemetry at 100 times its pace: {per_batch} bytes a batch in whole pages of 4 KiB ({} syncs and \
         {} bytes a batch as they were written), times {BATCHES_PER_DAY} batches a day; without the \
         file system's journal",
        counted.syncs / batches,
        counted.bytes / batches,
    );
    let megabytes = format!("{}.{:02}", per_day / 1_000_000, per_day % 1_000_000 / 10_000);
    Ok(vec![Figure::new("agent_flash_mb_per_day_idle", megabytes, "MB", &how)])
}

fn batches(story: &Story) -> anyhow::Result<u64> {
    let status = story.agent.status()?;
    ensure!(in_session(&status), "there is no session: {status}");
    Ok(number(&status, "/outbox/samples_recorded") / SAMPLES_PER_BATCH as u64)
}

fn until(story: &Story, count: u64) -> anyhow::Result<()> {
    let timeout = Duration::from_millis(count * SAMPLE_INTERVAL_MS * 12) + PATIENCE;
    wait_until("so many batches were recorded", timeout, || {
        std::thread::sleep(Duration::from_millis(200));
        Ok(batches(story)? >= count)
    })
}

/// What reached the disk.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    pages: u64,
    bytes: u64,
    syncs: u64,
}

impl Counted {
    /// Of `operations` from number `from` on.
    fn of(operations: &[Operation], from: usize) -> Self {
        let handed = |operation: &Operation| match operation {
            Operation::Flush { file, .. } | Operation::SyncFile { file } => Some(*file),
            _ => None,
        };
        let handed: BTreeSet<u64> = operations.iter().filter_map(handed).collect();
        let mut dirty = BTreeMap::<u64, BTreeSet<usize>>::new();
        let mut counted = Self::default();
        for (index, operation) in operations.iter().enumerate() {
            let pages = match operation {
                Operation::Write { file, at, bytes } => {
                    let pages = pages(*at, bytes.len());
                    counted.bytes += if index < from { 0 } else { bytes.len() as u64 };
                    if handed.contains(file) {
                        dirty.entry(*file).or_default().extend(pages);
                        0
                    } else {
                        pages.len()
                    }
                }
                Operation::Flush { file, at, length } => {
                    let dirty = dirty.entry(*file).or_default();
                    pages(*at, *length).filter(|page| dirty.remove(page)).count()
                }
                Operation::SyncFile { file } => {
                    counted.syncs += u64::from(index >= from);
                    dirty.remove(file).unwrap_or_default().len()
                }
                _ => 0,
            };
            counted.pages += if index < from { 0 } else { pages as u64 };
        }
        counted
    }
}

fn pages(at: usize, length: usize) -> std::ops::Range<usize> {
    at / PAGE_BYTES..(at + length).div_ceil(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_counts_each_time_it_is_handed_to_the_disk_and_once_between() {
        let write = |file, at, length| Operation::Write { file, at, bytes: vec![0; length] };
        let operations = [
            write(1, 0, 10),
            write(1, 4000, 200),
            Operation::Flush { file: 1, at: 4000, length: 200 },
            Operation::SyncFile { file: 1 },
            write(1, 0, 1),
            Operation::SyncFile { file: 1 },
            write(2, 0, 24),
            write(2, 0, 24),
        ];
        let expected = Counted { pages: 2 + 1 + 2, bytes: 10 + 200 + 1 + 48, syncs: 2 };
        assert_eq!(Counted::of(&operations, 0), expected);
        assert_eq!(Counted::of(&operations, 6), Counted { pages: 2, bytes: 48, syncs: 0 });
    }
}
