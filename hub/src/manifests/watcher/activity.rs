//! What happens in the directory, as the thread of inotify tells it and the watcher waits for it.

use super::super::directory::is_manifest_name;
use super::absolute;
use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Files that are followed while they are open for writing. Beyond that only quiet counts.
const WRITING_MAX: usize = 1024;

/// Files of which it is remembered when they were heard of last. To forget one costs a delay.
const HEARD_MAX: usize = 4096;

/// What happens in one directory.
#[derive(Debug)]
pub(super) struct Activity {
    pub(super) directory: PathBuf,
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Counts events.
    serial: u64,
    last: Option<Instant>,
    /// Files that were written to and not closed yet.
    writing: BTreeSet<PathBuf>,
    /// When each file was heard of last, by the clock that stamps files.
    heard: BTreeMap<PathBuf, SystemTime>,
    /// The directory itself came, went or was replaced: a watch on it may be on something else now.
    replaced: bool,
}

impl Activity {
    pub(super) fn new(directory: &Path) -> Self {
        let directory = absolute(directory);
        Self { directory, state: Mutex::default(), notify: Notify::new() }
    }

    /// An event, or that events were lost.
    pub(super) fn handle(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.note() };
        let relevant = event.need_rescan() || event.paths.iter().any(|path| self.is_relevant(path));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        // Our own reading opens and closes files.
        if !relevant || (event.kind.is_access() && event.kind != closed) {
            return;
        }
        self.follow(&event);
        self.note();
    }

    /// Something happened.
    pub(super) fn note(&self) {
        let mut state = self.state();
        state.serial = state.serial.wrapping_add(1);
        state.last = Some(Instant::now());
        drop(state);
        self.notify.notify_one();
    }

    /// Waits for the next event; returns at once if one came since the last call.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }

    pub(super) fn serial(&self) -> u64 {
        self.state().serial
    }

    /// Whether the directory itself was replaced since the last call.
    pub(super) fn take_replaced(&self) -> bool {
        std::mem::take(&mut self.state().replaced)
    }

    /// Whether an event of `file` came after its change at that time.
    pub(super) fn has_heard_of(&self, file: &Path, changed_at: SystemTime) -> bool {
        self.state().heard.get(file).is_some_and(|heard| *heard >= changed_at)
    }

    /// Waits until nothing has happened for `quiet` and no file is open for writing; until
    /// `deadline` at the longest.
    pub(super) async fn settle(&self, quiet: Duration, deadline: Instant) {
        loop {
            let now = Instant::now();
            let wake = match self.unsettled_until(now, quiet) {
                Some(wake) if now < deadline => wake.min(deadline),
                Some(_) => return self.state().writing.clear(),
                None => return,
            };
            sleep_until(wake).await;
        }
    }

    fn unsettled_until(&self, now: Instant, quiet: Duration) -> Option<Instant> {
        let state = self.state();
        if !state.writing.is_empty() {
            return Some(now + quiet);
        }
        state.last.map(|last| last + quiet).filter(|settled| *settled > now)
    }

    fn follow(&self, event: &Event) {
        let now = SystemTime::now();
        let mut state = self.state();
        for path in &event.paths {
            if state.heard.len() >= HEARD_MAX {
                state.heard.clear();
            }
            state.heard.insert(path.clone(), now);
            if *path == self.directory {
                state.replaced |= !event.kind.is_access();
            } else if matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))) {
                if state.writing.len() < WRITING_MAX && is_manifest_name(path) {
                    state.writing.insert(path.clone());
                }
            } else {
                // Closed, renamed or removed. That it was created says nothing of its content.
                state.writing.remove(path);
            }
        }
    }

    /// Manifest files, the directory itself, and the `..data` of a mounted ConfigMap.
    fn is_relevant(&self, path: &Path) -> bool {
        let swapped =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        let within = path.parent() == Some(&*self.directory);
        *path == self.directory || (within && (swapped || is_manifest_name(path)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
