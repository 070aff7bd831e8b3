//! The two ends of a power cut: a life that says what it was promised, and the judge of what is left.
//!
//! `live` says each promise in one write to a file of its own, after the promise was made: `commit N`,
//! `accepted N`, `incarnation N`, and what it is about to do as `phase WORD` and `tries N`. `recover` opens what a
//! cut left as agent and hub do, says what it finds, works with it, and opens it once more.

use super::lives::{self, CHECK_KEY, Layout};
use super::{last, open, restarts, start_anew};
use anyhow::Context;
use shared::io::ledger::Ledger;
use shared::io::store::{Opening, SealedStore};
use shared::ports::{Store, StoreError, Tree};
use shared::wire::Version;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Lives from the store's last commit to commit `until`.
pub(super) fn live(
    folder: &Path,
    layout: Layout,
    until: u64,
    promises: &Path,
) -> anyhow::Result<()> {
    let mut promises = OpenOptions::new().append(true).create(true).open(promises)?;
    promise(&mut promises, "phase open")?;
    let (mut store, _) = open(&folder.join("store"))?;
    let mut ledger = Ledger::open(&folder.join("ledger"))?;
    let incarnation = ledger.begin_incarnation(0)?;
    promise(&mut promises, &format!("incarnation {incarnation}"))?;
    for number in last(&store)? + 1..=until {
        let phase = lives::phase(number);
        promise(&mut promises, &format!("phase {phase}\ntries {number}"))?;
        store.commit(&layout.batch(number))?;
        promise(&mut promises, &format!("commit {number}"))?;
        if let Some(generation) = lives::accepted_by(number) {
            ledger.note_accepted(Version { term: 1, generation })?;
            promise(&mut promises, &format!("accepted {generation}"))?;
        }
    }
    promise(&mut promises, "phase close")
}

fn promise(file: &mut File, line: &str) -> anyhow::Result<()> {
    Ok(file.write_all(format!("{line}\n").as_bytes())?)
}

/// Opens what is in `folder`, says what is left, goes on with it, and opens it again.
pub(super) fn recover(folder: &Path, layout: Layout) -> anyhow::Result<()> {
    let (mut store, opening) = open(&folder.join("store"))?;
    println!("opening: {}", words(&opening));
    let ledger = Ledger::open(&folder.join("ledger"))?;
    println!("incarnation: {}", ledger.state().incarnation);
    println!("accepted: {}", ledger.state().accepted.generation);
    let found = match judge(&store, layout) {
        Err(error) if store.must_restart() => {
            drop(store);
            return Err(start_anew(&shared::in_words(&error)));
        }
        found => found?,
    };
    println!("last: {}", found.0);
    println!("content: {}", found.1);
    println!("damaged: {}", store.damaged_records());
    println!("lost: {}", store.lost_commits());
    go_on(&mut store, layout, found.0)?;
    drop(store);
    let (store, opening) = open(&folder.join("store"))?;
    println!("opening again: {}", words(&opening));
    println!("content again: {}", judge(&store, layout)?.1);
    println!("restarts: {}", restarts());
    Ok(())
}

/// A store works when it takes what comes next.
fn go_on(store: &mut SealedStore, layout: Layout, from: u64) -> anyhow::Result<()> {
    for number in from + 1..from + 4 {
        store.commit(&layout.batch(number)).context("the store takes nothing")?;
    }
    let (last, content) = judge(store, layout)?;
    anyhow::ensure!(last == from + 3 && content == "whole", "after going on: {last}, {content}");
    Ok(())
}

pub(super) fn words(opening: &Opening) -> String {
    match opening {
        Opening::Created => "created".to_owned(),
        Opening::Existing => "existing".to_owned(),
        Opening::Quarantined { reason, .. } => format!("quarantined ({reason})"),
    }
}

/// The last commit, and `whole` when the store holds what it left, that and nothing else.
pub(super) fn judge(store: &SealedStore, layout: Layout) -> Result<(u64, String), StoreError> {
    store.verify()?;
    let last = last(store)?;
    let mut expected = layout.content(last);
    if let Some(value) = store.read(Tree::Nodes, CHECK_KEY)? {
        expected.insert((Tree::Nodes, CHECK_KEY.to_vec()), value);
    }
    for tree in Tree::ALL {
        for (key, value) in store.scan(tree, b"", usize::MAX)? {
            let name = format!("{tree:?}/{}", String::from_utf8_lossy(&key));
            match expected.remove(&(tree, key)) {
                None => return Ok((last, format!("torn: {name} should be gone after {last}"))),
                Some(right) if right != value => {
                    return Ok((last, format!("torn: {name} has another value after {last}")));
                }
                Some(_) => {}
            }
        }
    }
    let missing = expected.len();
    let whole = if missing == 0 { "whole".to_owned() } else { format!("torn: {missing} missing") };
    Ok((last, whole))
}
