//! A program whose store the tests break: by kill -9, by damaged files, by a full disk, by power cuts.
//! What it finds it says in lines of `word: value`.
//!
//! It judges what a store must hold by itself: batch `n` always writes the same.
//!
//! | file | what it holds |
//! |---|---|
//! | `lives.rs` | what the commits of an agent's and a hub's store write |
//! | `cuts.rs` | a life that says what it was promised, and the judge of what a power cut left |

#![allow(clippy::print_stdout, reason = "its output is what the tests read")]

mod cuts;
mod lives;

use anyhow::{Context, bail, ensure};
use lives::Layout;
use rustix::fs::{FallocateFlags, fallocate};
use shared::io::anew::{begin_anew, end_on_panic, restarts};
use shared::io::store::{OpenError, Opening, SealedStore, StoreOptions, probe_if_asked};
use shared::ports::{Store, StoreError, Tree, WriteBatch};
use shared::trust::record::WrappingKey;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const OPEN_DEADLINE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = probe_if_asked(&args) {
        return Ok(code.into());
    }
    let words: Vec<&str> = args.iter().skip(1).filter_map(|word| word.to_str()).collect();
    match words.as_slice() {
        ["write", folder, layout, count] => {
            write(Path::new(folder), Layout::parse(layout)?, count.parse()?)?;
        }
        ["check", folder, layout] => check(Path::new(folder), Layout::parse(layout)?)?,
        ["check-as-agent", folder, layout] => {
            end_on_panic();
            check(Path::new(folder), Layout::parse(layout)?)?;
        }
        ["panic"] => panic_elsewhere()?,
        ["fill", disk] => fill(Path::new(disk))?,
        ["measure", folder, count, bytes] => measure(folder, count.parse()?, bytes.parse()?)?,
        ["live", folder, layout, until, promises] => {
            let layout = Layout::parse(layout)?;
            cuts::live(Path::new(folder), layout, until.parse()?, Path::new(promises))?;
        }
        ["recover", folder, layout] => {
            let layout = Layout::parse(layout)?;
            cuts::recover(Path::new(folder), layout)?;
        }
        _ => {
            bail!(
                "expected write FOLDER LAYOUT COUNT, check[-as-agent] FOLDER LAYOUT, panic, fill DISK, measure FOLDER N \
                 BYTES, live FOLDER LAYOUT UNTIL PROMISES or recover FOLDER LAYOUT"
            )
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn open(folder: &Path) -> anyhow::Result<(SealedStore, Opening)> {
    let key = WrappingKey::from_bytes([7; 32]);
    let options = StoreOptions { folder: folder.to_owned(), key, open_deadline: OPEN_DEADLINE };
    match SealedStore::open(options) {
        Err(OpenError::Restart { reason }) => Err(start_anew(&reason)),
        result => result.context("could not open the store"),
    }
}

fn start_anew(reason: &str) -> anyhow::Error {
    println!("restart: {reason}");
    begin_anew(reason.to_owned()).into()
}

fn last(store: &SealedStore) -> Result<u64, StoreError> {
    let last = store.read(Tree::Meta, b"last")?;
    Ok(last.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Commits `count` batches and says each one's number when it is durable.
fn write(folder: &Path, layout: Layout, count: u64) -> anyhow::Result<()> {
    let (mut store, _) = open(folder)?;
    let first = last(&store)? + 1;
    let mut out = std::io::stdout();
    for number in first..first + count {
        store.commit(&layout.batch(number))?;
        writeln!(out, "{number}")?;
        out.flush()?;
    }
    Ok(())
}

/// Opens the store and says what is in it, and whether it works.
fn check(folder: &Path, layout: Layout) -> anyhow::Result<()> {
    let (mut store, opening) = open(folder)?;
    println!("opening: {}", cuts::words(&opening));
    let found = cuts::judge(&store, layout).and_then(|(_, found)| {
        // A store works when it takes what it is given.
        let mut batch = WriteBatch::new();
        batch.put(Tree::Nodes, lives::CHECK_KEY, found.as_bytes());
        store.commit(&batch)?;
        let read = store.read(Tree::Nodes, lives::CHECK_KEY)?;
        Ok(if read.as_deref() == Some(found.as_bytes()) { found } else { "useless".to_owned() })
    });
    match found {
        Ok(found) => println!("content: {found}"),
        Err(error) if store.must_restart() => {
            drop(store);
            return Err(start_anew(&shared::in_words(&error)));
        }
        Err(error) => return Err(error.into()),
    }
    println!("last: {}", last(&store)?);
    println!("damaged: {}", store.damaged_records());
    println!("lost: {}", store.lost_commits());
    println!("restarts: {}", restarts());
    Ok(())
}

/// Panics in a thread that nobody waits for, as an agent would.
#[allow(clippy::panic, reason = "that is what it is for")]
fn panic_elsewhere() -> anyhow::Result<()> {
    end_on_panic();
    std::thread::spawn(|| panic!("planted"));
    std::thread::sleep(OPEN_DEADLINE);
    bail!("the panic ended nothing")
}

/// What became of commits on a disk that is full now and then.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    refused: u64,
    inside: u64,
}

/// On a small disk of its own: commits while another thread takes and gives back all its room.
fn fill(disk: &Path) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let begin = Instant::now();
    for round in 1.. {
        ensure!(begin.elapsed() < Duration::from_secs(30), "too few failures: {tally:?}");
        let folder = disk.join(format!("store-{round}"));
        let committed = commit_beside_a_hog(disk, &folder, &mut tally)?;
        reopen_without_room(disk, &folder, committed)?;
        std::fs::remove_dir_all(folder)?;
        if tally.inside >= 3 && tally.refused >= 3 {
            println!("full: {tally:?} in {round} rounds");
            return Ok(());
        }
    }
    Ok(())
}

/// How many commits were acknowledged; after each attempt the store holds exactly those.
fn commit_beside_a_hog(disk: &Path, folder: &Path, tally: &mut Tally) -> anyhow::Result<u64> {
    let (mut store, _) = open(folder)?;
    let hog = Hog::start(disk.join("hog"));
    let mut committed = 0;
    let begin = Instant::now();
    while committed < 20 && begin.elapsed() < Duration::from_secs(2) {
        match store.commit(&growing(committed + 1)) {
            Ok(()) => {
                committed += 1;
                tally.acknowledged += 1;
            }
            Err(error) if shared::in_words(&error).contains("bytes free, and this needs") => {
                tally.refused += 1;
            }
            Err(_) => tally.inside += 1,
        }
        match holds(&store) {
            Ok(number) => ensure!(number == Some(committed), "{number:?}, not {committed}"),
            // Without any room it may not even open; the next access tries again.
            Err(error) => ensure!(!store.must_restart(), "{error:?}"),
        }
    }
    hog.stop();
    store.commit(&growing(committed + 1)).context("the disk has room again")?;
    ensure!(holds(&store)? == Some(committed + 1));
    Ok(committed + 1)
}

/// As an agent's start on a disk that something else filled.
fn reopen_without_room(disk: &Path, folder: &Path, committed: u64) -> anyhow::Result<()> {
    let hog = disk.join("hog");
    take_all(&hog)?;
    let (mut store, opening) = open(folder)?;
    ensure!(opening == Opening::Existing, "{opening:?}");
    ensure!(holds(&store)? == Some(committed));
    ensure!(store.commit(&growing(committed + 1)).is_err());
    std::fs::remove_file(hog)?;
    store.commit(&growing(committed + 1))?;
    ensure!(holds(&store)? == Some(committed + 1) && store.lost_commits() == 0);
    Ok(())
}

/// Forty records more.
fn growing(number: u64) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for item in 0..40_u8 {
        let key = [&number.to_be_bytes()[..], &[item]].concat();
        batch.put(Tree::Outbox, key, [item; 5_000]);
    }
    batch.put(Tree::Meta, "last", number.to_be_bytes());
    batch
}

/// The number of the last batch, if the store holds all of the batches up to it and nothing else.
fn holds(store: &SealedStore) -> Result<Option<u64>, StoreError> {
    let number = last(store)?;
    let records = store.scan(Tree::Outbox, b"", usize::MAX)?;
    let keys = (1..=number).flat_map(|n| (0..40_u8).map(move |i| (n, i)));
    let same = records
        .iter()
        .map(|(key, _)| key.clone())
        .eq(keys.map(|(n, i)| [&n.to_be_bytes()[..], &[i]].concat()));
    Ok(same.then_some(number))
}

/// Takes all room of a disk and gives it back, at changing moments.
struct Hog {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Hog {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut pause_us = 50;
            while !stopped.load(Ordering::Relaxed) {
                let _ = take_all(&path);
                std::thread::sleep(Duration::from_micros(pause_us));
                let _ = std::fs::remove_file(&path);
                std::thread::sleep(Duration::from_micros(pause_us));
                pause_us = 50 + (pause_us * 7) % 4_001;
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

fn take_all(path: &Path) -> anyhow::Result<()> {
    let file = File::create(path)?;
    let mut offset = 0;
    for step in [1 << 20, 64 << 10, 4 << 10] {
        while fallocate(&file, FallocateFlags::empty(), offset, step).is_ok() {
            offset += step;
        }
    }
    Ok(())
}

/// Fills a store, or opens a full one, and says what it costs.
fn measure(folder: &str, count: u64, bytes: usize) -> anyhow::Result<()> {
    let begin = Instant::now();
    let (mut store, opening) = open(Path::new(folder))?;
    println!("open_ms: {}", begin.elapsed().as_millis());
    for tree in [Tree::Meta, Tree::Desired, Tree::Pods] {
        store.scan(tree, b"", usize::MAX)?;
    }
    println!("open_and_read_ms: {}", begin.elapsed().as_millis());
    println!("pss_kib: {}", pss_kib()?);
    if opening == Opening::Created {
        let content = |n: u64| n.to_be_bytes().into_iter().cycle().take(bytes).collect::<Vec<_>>();
        for first in (0..count).step_by(4) {
            let mut batch = WriteBatch::new();
            (first..first + 4).for_each(|n| batch.put(Tree::Outbox, n.to_be_bytes(), content(n)));
            batch.put(Tree::Meta, "last", first.to_be_bytes());
            store.commit(&batch)?;
        }
        println!("fill_ms: {}", begin.elapsed().as_millis());
        println!("pss_kib: {}", pss_kib()?);
    }
    let begin = Instant::now();
    println!("records: {}", store.record_count(Tree::Outbox));
    store.verify()?;
    println!("verify_ms: {}", begin.elapsed().as_millis());
    println!("pss_kib: {}", pss_kib()?);
    let mut from = Vec::new();
    loop {
        let some = store.scan(Tree::Outbox, &from, 16)?;
        let Some((key, _)) = some.last() else { break };
        from = [&key[..], &[0]].concat();
    }
    println!("read_all_ms: {}", begin.elapsed().as_millis());
    println!("pss_kib: {}", pss_kib()?);
    println!("size_mib: {}", store.size_bytes() >> 20);
    Ok(())
}

fn pss_kib() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    Ok(line.context("no Pss")?.trim().trim_end_matches(" kB").trim().parse()?)
}
