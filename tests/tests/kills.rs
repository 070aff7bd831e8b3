//! kill -9 of a real agent under load, two hundred times.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
// The seed must be seen when a run fails.
#![allow(clippy::print_stderr, reason = "tests")]

use std::time::Instant;
use tests::real::binaries::binary_folder;
use tests::real::kills::kill_again_and_again;

const KILLS: u64 = 200;

/// There are several hundred, and fewer beside other work: an agent that takes longer to come up makes fewer.
const SAMPLES_MIN: u64 = KILLS / 4;

#[test]
fn an_agent_that_is_killed_two_hundred_times_loses_and_doubles_nothing() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        u64::from_le_bytes(shared::io::keys::fresh_seed()[..8].try_into().unwrap())
    });
    eprintln!("SEED={seed} repeats this run");
    let folder = tempfile::tempdir_in(binary_folder().unwrap()).unwrap();
    let begin = Instant::now();
    let killed = kill_again_and_again(folder.path(), KILLS, seed).unwrap();
    eprintln!("{killed:?} in {:?}", begin.elapsed());
    assert_eq!(killed.kills, KILLS);
    assert!(killed.failures.is_empty(), "{}", killed.failures.join("\n"));
    assert!(killed.samples > SAMPLES_MIN, "only {} samples", killed.samples);
}
