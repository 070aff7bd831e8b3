//! The inotify watches on the directory, and on its parent: there one sees that it is replaced.

use super::activity::Activity;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _, recommended_watcher};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tracing::warn;

/// Device and inode: another one at the same path is another directory.
type Identity = (u64, u64);

/// The watches on one directory and its parent.
pub(super) struct Watches {
    /// `None` where inotify is not to be had.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Identity>,
    /// Since when the directory is watched.
    since: Option<SystemTime>,
    lacks_directory: bool,
}

impl Watches {
    /// Watches nothing yet.
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        let handler = Arc::clone(activity);
        let watcher = recommended_watcher(move |event| handler.handle(event));
        let watcher = watcher.inspect_err(|error| {
            warn!(error = %error, "changes of manifests are seen by a slow poll only");
        });
        let watched = BTreeMap::new();
        Self { watcher: watcher.ok(), watched, since: None, lacks_directory: true }
    }

    /// Watches what is at the paths now. Says whether that is new, so that something may have
    /// happened there unseen.
    pub(super) fn renew(&mut self, activity: &Activity) -> bool {
        let directory = &activity.directory;
        if activity.take_replaced() {
            self.forget(directory);
        }
        if let Some(parent) = directory.parent() {
            self.renew_one(parent);
        }
        let renewed = self.renew_one(directory);
        if renewed || !self.watched.contains_key(directory) {
            self.since = renewed.then(SystemTime::now);
        }
        self.lacks_directory = self.watcher.is_some() && identity(directory).is_none();
        renewed
    }

    /// Since when all events of the directory are told; `None` when they are not.
    pub(super) fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// Whether the directory was not there to be watched.
    pub(super) fn lacks_directory(&self) -> bool {
        self.lacks_directory
    }

    fn renew_one(&mut self, path: &Path) -> bool {
        let found = identity(path);
        if self.watched.get(path).copied() == found {
            return false;
        }
        self.forget(path);
        let Some((watcher, found)) = self.watcher.as_mut().zip(found) else { return false };
        if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
            warn!(path = %path.display(), error = %error, "changes here are seen by a slow poll only");
            return false;
        }
        self.watched.insert(path.to_owned(), found);
        true
    }

    fn forget(&mut self, path: &Path) {
        if let (Some(_), Some(watcher)) = (self.watched.remove(path), &mut self.watcher) {
            // It is gone by itself when what it was on is gone.
            let _ = watcher.unwatch(path);
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}
