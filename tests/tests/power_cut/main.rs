//! Power cuts: a store's life is recorded, operation by operation, and cut at random moments; what a
//! disk may then hold is rebuilt in a folder and opened as agent and hub open it.
//!
//! | file | what it holds |
//! |---|---|
//! | `disk.rs` | what a power cut may leave of that |
//! | `judge.rs` | what must be left, and whether it is |

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
// How many states there were, and of which kind, belongs to what a run says.
#![allow(clippy::print_stderr, reason = "tests")]

mod disk;
mod judge;

use disk::{Cut, Disk};
use judge::{Found, Promised, run};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use rustix::fs::{IFlags, ioctl_getflags};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::real::binaries::binary_folder;
use tests::real::recording::{Operation, Recorder};

pub(crate) const WRITER: &str = env!("CARGO_BIN_EXE_store_writer");

/// Cuts of a recorded life, for each of the two layouts.
const STATES: u64 = 170;

/// Of those, how many are cut again while the store recovers from the first cut.
const SECOND_CUTS: u64 = 20;

/// States that are opened at the same time.
const THREADS: usize = 3;

/// Where the lives of a recording end: by themselves, or by kill -9 (true).
const LIVES: [(u64, bool); 6] =
    [(60, false), (140, true), (200, false), (270, true), (310, false), (314, false)];

pub(crate) struct Random(ChaCha20Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit.max(1)
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}

/// `SEED=n` takes other states; a run says its seed.
fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Records a store's lives up to the last of [`LIVES`].
fn record(folder: &Path, layout: &str) -> Vec<Operation> {
    let root = folder.join("recorded");
    fs::create_dir_all(&root).unwrap();
    let recorder = Recorder::new(folder, &root).unwrap();
    for (until, is_killed) in LIVES {
        let mut command = Command::new(WRITER);
        command.arg("live").arg(&root).args([layout, &until.to_string()]).arg(recorder.promises());
        command.envs(recorder.environment());
        if is_killed {
            command.env("RECORDER_KILL", format!("commit {}", until - 3));
        }
        let ended = command.stdin(Stdio::null()).status().unwrap();
        assert_eq!(ended.success(), !is_killed, "{ended}");
    }
    assert_names_are_synced(&root.join("store"));
    let operations = recorder.operations().unwrap();
    assert_same_as_recorded(&operations, &root, &folder.join("replayed"));
    operations
}

/// The store asks the file system to make names in its folder durable as they change; the recorder
/// does not see the call.
fn assert_names_are_synced(store: &Path) {
    let flags = ioctl_getflags(fs::File::open(store).unwrap());
    let is_asked = flags.is_ok_and(|flags| flags.contains(IFlags::DIRSYNC));
    assert!(is_asked, "{}: needs a file system with chattr +D, as ext4", store.display());
}

/// Whatever bypassed the recorder would be missing here.
fn assert_same_as_recorded(operations: &[Operation], recorded: &Path, replayed: &Path) {
    let mut disk = Disk::default();
    operations.iter().for_each(|operation| disk.perform(operation));
    disk.all_into(replayed);
    let (mut found, mut expected) = (files(replayed), files(recorded));
    // Reserved by a call that the recorder does not see; nothing reads it.
    for files in [&mut found, &mut expected] {
        assert!(files.remove("store.ballast").is_some());
    }
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (name, content) in expected {
        assert!(found[&name] == content, "{name} was changed by what the recorder does not see");
    }
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Where in a life each operation stands.
fn by_phase(operations: &[Operation]) -> BTreeMap<String, Vec<usize>> {
    let mut phases = BTreeMap::<String, Vec<usize>>::new();
    let (mut phase, mut opens) = ("open".to_owned(), 0);
    for (index, operation) in operations.iter().enumerate() {
        if let Operation::Promise(line) = operation
            && let Some(word) = line.strip_prefix("phase ")
        {
            opens += u64::from(word == "open");
            phase = word.to_owned();
        }
        let name = if phase == "open" && opens < 2 { "creation" } else { &phase };
        phases.entry(name.to_owned()).or_default().push(index);
    }
    phases
}

/// One state: what is left of a life that was cut, and what it must hold.
struct State {
    number: u64,
    phase: String,
    at: usize,
    cut: Cut,
    promised: Promised,
}

impl State {
    fn new(number: u64, operations: &[Operation], phases: &[(String, Vec<usize>)]) -> Self {
        let mut random = Random::new(seed().wrapping_mul(1_000_003).wrapping_add(number));
        let (phase, indexes) = &phases[usize::try_from(number).unwrap() % phases.len()];
        let at = indexes[random.index(indexes.len())] + 1;
        let cut =
            [Cut::Mixes, Cut::Mixes, Cut::Mixes, Cut::LosesAll, Cut::KeepsAll][random.index(5)];
        let promised = Promised::of(&operations[..at]);
        Self { number, phase: phase.clone(), at, cut, promised }
    }

    fn words(&self, layout: &str) -> String {
        let Self { number, phase, at, cut, promised } = self;
        format!(
            "SEED={} {layout} state {number}: {phase}, {at} operations, {cut:?}, {promised:?}",
            seed()
        )
    }

    fn build(&self, operations: &[Operation], root: &Path) {
        let mut disk = Disk::default().sync_names_of("store");
        operations[..self.at].iter().for_each(|operation| disk.perform(operation));
        let mut random = Random::new(seed().wrapping_mul(7_919).wrapping_add(self.number));
        disk.cut_into(root, self.cut, &mut random);
    }
}

/// Recovers under the recorder, cuts that as well, and recovers.
fn cut_again(state: &State, layout: &str, root: &Path, folder: &Path) -> Result<Found, String> {
    let disk = Disk::read(root).sync_names_of("store");
    let recorder = Recorder::new(folder, root).unwrap();
    let mut command = Command::new(WRITER);
    run(command.arg("recover").arg(root).arg(layout).envs(recorder.environment()))?;
    let operations = recorder.operations().unwrap();
    let mut random = Random::new(seed().wrapping_mul(31).wrapping_add(state.number));
    let at = random.index(operations.len()) + 1;
    let mut disk = disk;
    operations[..at].iter().for_each(|operation| disk.perform(operation));
    let again = folder.join("again");
    disk.cut_into(&again, Cut::Mixes, &mut random);
    // It went on by a few commits that it promised to nobody.
    let promised = Promised { tried: state.promised.tried + 3, ..state.promised };
    recover(&again, layout, &promised).map_err(|wrong| format!("cut again at {at}: {wrong}"))
}

fn recover(root: &Path, layout: &str, promised: &Promised) -> Result<Found, String> {
    let found = run(Command::new(WRITER).arg("recover").arg(root).arg(layout))?;
    promised.check(&found).map(|()| found)
}

fn every_cut_keeps_what_was_promised(layout: &str) {
    // Beside the programs: /tmp may be memory.
    let folder = tempfile::tempdir_in(binary_folder().unwrap()).unwrap();
    let operations = record(folder.path(), layout);
    let phases: Vec<_> = by_phase(&operations).into_iter().collect();
    assert_eq!(phases.len(), 7, "{:?}", phases.iter().map(|(name, _)| name).collect::<Vec<_>>());
    let next = AtomicU64::new(0);
    let (outcomes, failures) = (Mutex::new(BTreeMap::<String, u64>::new()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= STATES || failures.lock().unwrap().len() > 5 {
                return;
            }
            let state = State::new(number, &operations, &phases);
            let place = folder.path().join(format!("state-{number}"));
            let root = place.join("root");
            state.build(&operations, &root);
            let is_twice = number < SECOND_CUTS;
            let found = if is_twice {
                cut_again(&state, layout, &root, &place)
            } else {
                recover(&root, layout, &state.promised)
            };
            match found {
                Ok(found) => {
                    let outcome = format!("{}: {}", state.phase, found.outcome());
                    *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
                }
                Err(wrong) => {
                    failures.lock().unwrap().push(format!("{}: {wrong}", state.words(layout)));
                }
            }
            fs::remove_dir_all(place).unwrap();
        }
    };
    std::thread::scope(|scope| {
        (0..THREADS).for_each(|_| drop(scope.spawn(work)));
    });
    let (outcomes, failures) = (outcomes.into_inner().unwrap(), failures.into_inner().unwrap());
    eprintln!("{layout}: {} operations, {STATES} states: {outcomes:#?}", operations.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_agents_store_and_ledger_keep_what_they_promised_through_every_cut() {
    every_cut_keeps_what_was_promised("agent");
}

#[test]
fn the_hubs_store_keeps_what_it_promised_through_every_cut() {
    every_cut_keeps_what_was_promised("hub");
}
