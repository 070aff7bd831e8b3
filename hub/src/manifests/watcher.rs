//! Changes of a directory of manifests, without a restart.
//!
//! Woken by inotify and, where that is not to be had, by a slow poll. Reads only once nothing has
//! happened for a moment and no file is still open for writing, and reads again if something
//! happened meanwhile, so that what is sent is what somebody meant. Refuses to believe at once that
//! a directory was emptied: that would stop every pod of the fleet, and a directory that is being
//! replaced is empty for a moment.

mod activity;
#[cfg(test)]
mod tests;
mod watches;

use super::directory::{Stamp, stamps};
use super::{ManifestProblems, Manifests, read_directory};
use activity::Activity;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};
use tracing::error;
use watches::Watches;

/// What one reading gave. After an error the last good state stays in force.
pub type ReadManifests = Result<Manifests, ManifestProblems>;

/// How long an event may be on its way. One that never comes, on a network file system, costs so much
/// of a delay.
const UNHEARD_MAX: Duration = Duration::from_secs(1);

/// Watches one directory.
#[derive(Debug)]
pub struct Watcher {
    directory: PathBuf,
    pace: Pace,
}

/// How long the watcher waits for what.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// From the last event to the reading: what one `cp` or `git checkout` does is less apart.
    settle: Duration,
    /// The longest that a file which someone keeps open, or keeps writing to, is waited for.
    settle_max: Duration,
    /// How long a directory or a file must be empty to be believed.
    empty: Duration,
    /// Between readings that nothing asked for: inotify sees no change behind a symbolic link, nor
    /// on a network file system.
    poll: Duration,
    /// Between attempts to watch a directory that is not there.
    retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(10),
            settle_max: Duration::from_secs(5),
            empty: Duration::from_secs(1),
            poll: Duration::from_secs(30),
            retry: Duration::from_secs(1),
        }
    }
}

impl Watcher {
    /// A watcher of `directory`, which need not be there yet.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), pace: Pace::default() }
    }

    /// Sends what the directory holds, at once and whenever that differs from what was sent last.
    /// Ends when nobody receives any more.
    pub async fn run(self, changes: mpsc::Sender<ReadManifests>) {
        let activity = Arc::new(Activity::new(&self.directory));
        let mut reader = Reader {
            watches: Some(Watches::new(&activity)),
            activity,
            directory: self.directory,
            pace: self.pace,
        };
        let mut sent = None;
        loop {
            let read = match reader.read_settled(sent.as_ref()).await {
                Ok(read) => read,
                Err(error) => {
                    return error!(error = %error, "manifests are not watched any more");
                }
            };
            if sent.as_ref() != Some(&read) {
                if changes.send(read.clone()).await.is_err() {
                    return;
                }
                sent = Some(read);
            }
            let pause = reader.pause();
            tokio::select! {
                () = changes.closed() => return,
                () = reader.activity.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }
}

/// Why what was read may not be what somebody meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Something may have been missed before the watch.
    NewlyWatched,
    /// A file was changed just before or during the reading, or its event is still on its way.
    JustChanged,
    /// A file is empty, as one is that is being rewritten: ext4 shows it so before anything else.
    EmptyFile,
}

/// Reads the directory when it is quiet.
struct Reader {
    directory: PathBuf,
    pace: Pace,
    activity: Arc<Activity>,
    /// `None` only while a blocking task has it.
    watches: Option<Watches>,
}

impl Reader {
    /// What the directory holds once it is quiet.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    async fn read_settled(
        &mut self,
        sent: Option<&ReadManifests>,
    ) -> Result<ReadManifests, JoinError> {
        let deadline = Instant::now() + self.pace.settle_max;
        let mut empty_since = None;
        loop {
            self.activity.settle(self.pace.settle, deadline).await;
            let before = self.activity.serial();
            let (read, doubt) = self.read().await?;
            let passing = doubt.is_some_and(|doubt| doubt != Doubt::EmptyFile);
            let disturbed = passing || self.activity.serial() != before;
            if disturbed && Instant::now() < deadline {
                if doubt == Some(Doubt::JustChanged) {
                    sleep(self.pace.settle).await;
                }
                continue;
            }
            let emptied = doubt == Some(Doubt::EmptyFile) || is_emptied(&read, sent);
            if !emptied || sent == Some(&read) {
                return Ok(read);
            }
            let since: Instant = *empty_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.pace.empty {
                return Ok(read);
            }
            tokio::select! {
                () = self.activity.changed() => {}
                () = sleep(self.pace.empty.saturating_sub(since.elapsed())) => {}
            }
        }
    }

    /// Renews the watches and reads, off the runtime's own threads; says why that may not
    /// be believed.
    async fn read(&mut self) -> Result<(ReadManifests, Option<Doubt>), JoinError> {
        let directory = self.directory.clone();
        let activity = Arc::clone(&self.activity);
        let watches = self.watches.take();
        let settle = self.pace.settle;
        let task = spawn_blocking(move || {
            let mut watches = watches.unwrap_or_else(|| Watches::new(&activity));
            let rewatched = watches.renew(&activity);
            let started = SystemTime::now();
            let read = read_directory(&directory);
            let doubt = match rewatched {
                true => Some(Doubt::NewlyWatched),
                false => doubt_of_files(&watches, &activity, started, settle),
            };
            (watches, read, doubt)
        });
        let (watches, read, doubt) = task.await?;
        self.watches = Some(watches);
        Ok((read, doubt))
    }

    fn pause(&self) -> Duration {
        let missing = self.watches.as_ref().is_some_and(Watches::lacks_directory);
        if missing { self.pace.retry } else { self.pace.poll }
    }
}

/// Whether a file was changed within `settle` before `started` or since then, or a while before that
/// without an event that says so: the thread that is told of it may run later than ours.
fn doubt_of_files(
    watches: &Watches,
    activity: &Activity,
    started: SystemTime,
    settle: Duration,
) -> Option<Doubt> {
    let before = |duration| started.checked_sub(duration).unwrap_or(UNIX_EPOCH);
    let (settled, heard_by_now) = (before(settle), before(UNHEARD_MAX));
    let files = stamps(&activity.directory);
    let now = SystemTime::now();
    let just_changed = |stamp: &Stamp| {
        let changed = stamp.changed_at;
        // Changes behind a symbolic link, and those before the watch, have no events.
        let told = !stamp.linked && watches.since().is_some_and(|since| changed >= since);
        let unheard = || told && !activity.has_heard_of(&stamp.file, changed);
        // A time in the future says only that a clock was set.
        changed <= now && (changed >= settled || (changed >= heard_by_now && unheard()))
    };
    if files.iter().any(just_changed) {
        return Some(Doubt::JustChanged);
    }
    files.iter().any(|stamp| stamp.empty).then_some(Doubt::EmptyFile)
}

fn is_emptied(read: &ReadManifests, sent: Option<&ReadManifests>) -> bool {
    let nothing = |read: &ReadManifests| *read == Ok(Manifests::default());
    nothing(read) && sent.is_some_and(|sent| !nothing(sent))
}

/// `path` from the root, as events name it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
