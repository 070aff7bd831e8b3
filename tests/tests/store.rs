//! The store under what breaks stores: kill -9 at random moments, damaged files, a full disk. Each in
//! processes of its own, because a panic or a hang of sled would stay in this one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::real::process::lines_of;

const WRITER: &str = env!("CARGO_BIN_EXE_store_writer");

/// Far longer than anything here takes; what reaches it hangs.
const DEADLINE: Duration = Duration::from_secs(40);

const KILLS: u64 = 60;

/// For each of the two layouts.
const DAMAGES: u64 = 108;

struct Random(ChaCha20Rng);

impl Random {
    fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit.max(1)
    }
}

/// Runs the writer to its end: its lines by their first word, or what went wrong.
fn run(command: &mut Command) -> Result<BTreeMap<String, String>, String> {
    lines_of(command, DEADLINE)
}

fn check(folder: &Path, layout: &str) -> Result<BTreeMap<String, String>, String> {
    check_as("check", folder, layout)
}

fn check_as(who: &str, folder: &Path, layout: &str) -> Result<BTreeMap<String, String>, String> {
    run(Command::new(WRITER).arg(who).arg(folder).arg(layout))
}

/// Writes until `lines` batches were acknowledged and a moment more, then kills with signal 9. The
/// last number that was acknowledged.
fn write_and_kill(folder: &Path, lines: u64, moment: Duration) -> u64 {
    let mut command = Command::new(WRITER);
    command.args(["write", folder.to_str().unwrap(), "agent", "1000000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    for _ in 0..lines {
        assert!(reader.read_line(&mut text).unwrap() > 0, "the writer ended by itself");
    }
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.read_to_string(&mut text).unwrap();
    // A line that the kill cut was not acknowledged.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().next_back().map_or(0, |line| line.parse().unwrap())
}

#[test]
fn what_was_acknowledged_is_there_after_every_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut random = Random::new(1);
    let mut acknowledged = 0;
    for round in 0..KILLS {
        // Every third kill meets the open; the others the writing.
        let lines = if round % 3 == 0 { 0 } else { 1 + random.below(25) };
        let moment = Duration::from_micros(random.below(30_000));
        acknowledged = acknowledged.max(write_and_kill(&store, lines, moment));
        let found = check(&store, "agent").unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(found["last"].parse::<u64>().unwrap() >= acknowledged, "{round}: {found:?}");
        assert_eq!(found["content"], "whole", "round {round}: {found:?}");
        assert_eq!((&found["lost"][..], &found["damaged"][..]), ("0", "0"), "{round}: {found:?}");
        let is_kept = found["opening"] == "existing" || acknowledged == 0;
        assert!(is_kept, "round {round}: {found:?}");
    }
    assert!(acknowledged > 100, "only {acknowledged} batches were written");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Damages one file of the store. What was done, in words.
fn damage(store: &Path, kind: u64, random: &mut Random) -> String {
    let mut files: Vec<PathBuf> = fs::read_dir(store).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    // Half of all damage meets the database, by far the largest file.
    files.extend(vec![store.join("db"); files.len()]);
    let file = &files[usize::try_from(random.below(files.len() as u64)).unwrap()];
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let mut bytes = fs::read(file).unwrap();
    let length = bytes.len() as u64;
    let at = usize::try_from(random.below(length)).unwrap();
    let magnitude = 1 + random.below(17);
    let span = usize::try_from(1 + random.below(1 << magnitude)).unwrap();
    let end = bytes.len().min(at + span);
    match kind {
        0 => bytes.truncate(at),
        1 => bytes[at..end].fill(0),
        2 => bytes[at] ^= 1 << random.below(8),
        3 => random.0.fill_bytes(&mut bytes[at..end]),
        4 => {
            // A page that the disk put in another's place.
            let from = usize::try_from(random.below(length)).unwrap() / 4096 * 4096;
            let page = bytes[from..bytes.len().min(from + 4096)].to_vec();
            let to = at / 4096 * 4096;
            let end = bytes.len().min(to + page.len());
            bytes[to..end].copy_from_slice(&page[..end - to]);
        }
        _ => {
            fs::remove_file(file).unwrap();
            return format!("{name} removed");
        }
    }
    fs::write(file, bytes).unwrap();
    format!("{name} of {length} bytes, kind {kind} at {at} to {end}")
}

#[test]
fn a_damaged_store_of_an_agent_opens_works_and_says_what_it_lost() {
    damaged_stores_open_work_and_say_what_they_lost("agent");
}

#[test]
fn a_damaged_store_of_a_hub_opens_works_and_says_what_it_lost() {
    damaged_stores_open_work_and_say_what_they_lost("hub");
}

fn damaged_stores_open_work_and_say_what_they_lost(layout: &str) {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole/store");
    // Two runs, so that there is a snapshot and a log behind it.
    for count in ["400", "200"] {
        let whole = whole.to_str().unwrap();
        run(Command::new(WRITER).args(["write", whole, layout, count])).unwrap();
    }
    let mut outcomes = BTreeMap::<String, u64>::new();
    for case in 0..DAMAGES {
        let mut random = Random::new(case);
        let place = folder.path().join(format!("case-{case}"));
        copy_folder(whole.parent().unwrap(), &place);
        let store = place.join("store");
        let what = damage(&store, case % 6, &mut random);
        // A panic of sled becomes an error in a hub, and ends an agent at once.
        let who = if case / 6 % 2 == 0 { "check-as-agent" } else { "check" };
        let found =
            check_as(who, &store, layout).unwrap_or_else(|error| panic!("{case}: {what}: {error}"));
        let is_untouched = found["content"] == "whole" && found["last"] == "600";
        let is_reported = found["opening"].starts_with("quarantined")
            || found["damaged"] != "0"
            || found["lost"] != "0";
        assert!(is_untouched || is_reported, "{case}: {what}: silence: {found:?}");
        assert!(found["content"] != "useless", "{case}: {what}: {found:?}");
        let outcome = (&found["opening"][..8], is_untouched, &found["restarts"]);
        *outcomes.entry(format!("{outcome:?}")).or_default() += 1;
        // What is left of a damaged file may open once and not again (seen: 1 in 216). That is said as
        // well, and the start after it finds a store that works and nothing more to report.
        let again = check(&store, layout).unwrap_or_else(|error| panic!("{case}: {what}: {error}"));
        let is_aside = again["opening"].starts_with("quarantined");
        assert!(!is_untouched || again["opening"] == "existing", "{case}: {what}: {again:?}");
        assert!(!is_aside || found["opening"] == "existing", "{case}: {what}: {again:?}");
        let last = check(&store, layout).unwrap_or_else(|error| panic!("{case}: {what}: {error}"));
        assert_eq!(last["opening"], "existing", "{case}: {what}: {found:?}, {again:?}, {last:?}");
        assert_eq!((&last["lost"][..], &last["restarts"][..]), ("0", "0"), "{case}: {what}");
        fs::remove_dir_all(&place).unwrap();
    }
    let quarantined = outcomes.iter().filter(|(outcome, _)| outcome.contains("quaranti"));
    assert!(quarantined.map(|(_, count)| count).sum::<u64>() > 5, "{outcomes:?}");
    // Seen in three to fourteen.
    let anew = outcomes.keys().any(|outcome| outcome.contains("\"1\""));
    assert!(anew || layout == "agent", "no panic: {outcomes:?}");
}

#[test]
fn a_panic_that_is_not_of_the_store_ends_an_agent_without_a_core_dump() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        format!("ulimit -c unlimited; cd {}; exec {WRITER} panic", folder.path().display());
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.signal() == Some(6) && said.contains("planted"), "{output:?}");
    assert!(!output.status.core_dumped() && fs::read_dir(folder.path()).unwrap().count() == 0);
}

#[test]
fn a_full_disk_fails_commits_and_freed_room_heals_them() {
    let folder = tempfile::tempdir().unwrap();
    // A disk of its own that vanishes with the process, in a mount namespace.
    let script = format!(
        "mount -t tmpfs -o size=24m none {disk} && exec {WRITER} fill {disk}",
        disk = folder.path().display()
    );
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let found = run(command.args(["--mount", "sh", "-c", &script]));
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    assert!(found["full"].contains("acknowledged"), "{found:?}");
}
