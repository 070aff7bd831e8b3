//! kill -9 of a real agent under load, a thousand times.

use super::{Figure, work_folder};
use crate::real::kills::kill_again_and_again;

const KILLS: u64 = 1_000;

/// Any seed; a run with it is as random as another.
const SEED: u64 = 20;

/// Kills, and how many of them left something that must not be.
pub(super) fn agent() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let killed = kill_again_and_again(folder.path(), KILLS, SEED)?;
    let how = format!(
        "real hub and agent, a sample every 100 ms, {} changes of desired state, {} kills before the \
         agent had answered; {} samples recorded, all of them received, none twice",
        killed.changes, killed.at_boot, killed.samples
    );
    let failures = killed.failures.len();
    let failed_how = match killed.failures.first() {
        None => {
            "after each: it came up, store in place, ledger not fallen, pods the same processes"
        }
        Some(first) => first.as_str(),
    };
    Ok(vec![
        Figure::new("agent_kills", killed.kills, "kills", &how),
        Figure::new("agent_kill_failures", failures, "failures", failed_how),
    ])
}
