//! The corpus: every input once, in an ordinary build, and that it stays small.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FILES_A_TARGET_MAX: usize = 100;
const BYTES_MAX: u64 = 1 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn each_target_has_a_folder_of_inputs_and_each_folder_a_target() {
    let targets: BTreeSet<String> =
        fuzz::TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names_in(&folder()), targets);
}

#[test]
fn the_corpus_stays_small() {
    let mut bytes = 0;
    for (target, _) in fuzz::TARGETS {
        let inputs = names_in(&folder().join(target));
        let count = inputs.len();
        assert!((1..=FILES_A_TARGET_MAX).contains(&count), "{target} has {count} inputs");
        let sizes = inputs.iter().map(|name| folder().join(target).join(name));
        bytes += sizes.map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    }
    assert!(bytes <= BYTES_MAX, "{bytes} bytes in all: run tests/fuzz/fuzz.sh minimise");
}

#[test]
fn no_input_of_the_corpus_makes_its_target_fail() {
    for (target, run) in fuzz::TARGETS {
        for name in names_in(&folder().join(target)) {
            let input = fs::read(folder().join(target).join(&name)).unwrap();
            let outcome = std::panic::catch_unwind(|| run(&input));
            assert!(outcome.is_ok(), "tests/fuzz/corpus/{target}/{name} fails");
        }
    }
}
