//! Runs of many worlds, and of one that failed.

use super::setup::Options;
use super::world::{Report, World};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A world that broke an invariant, panicked or did not come to rest.
#[derive(Debug)]
pub struct Failure {
    /// Run this seed again to see the same.
    pub seed: u64,
    /// What was broken.
    pub problem: String,
    /// Where its whole event log lies, if it could be kept.
    pub log: Option<PathBuf>,
}

/// Runs one world to its end.
///
/// # Errors
/// The first invariant that was broken; its event log is kept in a file.
pub fn run_seed(seed: u64, options: Options) -> Result<Report, Box<Failure>> {
    let (outcome, log) = run_seed_with_log(seed, options);
    outcome.map_err(|problem| {
        let log = keep_log(seed, &problem, &log).ok();
        Box::new(Failure { seed, problem, log })
    })
}

/// Runs one world and returns its event log as well. A panic of a core is a failure of the world that
/// it happened in.
pub fn run_seed_with_log(seed: u64, options: Options) -> (Result<Report, String>, Vec<String>) {
    let mut world = World::new(seed, options);
    let run = catch_unwind(AssertUnwindSafe(|| world.run()));
    let outcome =
        run.unwrap_or_else(|panic| Err(format!("a core panicked: {}", words_of(&*panic))));
    (outcome, world.take_log())
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

/// Runs every seed, on as many threads as there are cores; the failures, by seed.
#[must_use]
pub fn run_seeds(seeds: std::ops::Range<u64>, options: Options) -> Vec<Failure> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let turns = std::iter::from_fn(|| {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            (seed < seeds.end).then_some(seed)
        });
        turns.filter_map(|seed| run_seed(seed, options).err()).map(|failure| *failure).collect()
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut failures: Vec<Failure> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join());
        done.flat_map(|found: std::thread::Result<Vec<Failure>>| match found {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        })
        .collect()
    });
    failures.sort_by_key(|failure| failure.seed);
    failures
}

/// Keeps the event log of a failed seed in the workspace's target folder; the file.
fn keep_log(seed: u64, problem: &str, log: &[String]) -> std::io::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sim");
    std::fs::create_dir_all(&folder)?;
    let path = folder.canonicalize()?.join(format!("seed-{seed}.log"));
    let text = format!("{}\nseed {seed}: {problem}\n", log.join("\n"));
    std::fs::write(&path, text)?;
    Ok(path)
}
