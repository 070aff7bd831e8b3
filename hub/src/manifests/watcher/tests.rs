//! What is sent, and what is not, while files come and go.

use super::*;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Several times the settling time: what must not be read in the meantime would be.
const A_WHILE: Duration = Duration::from_millis(60);

struct Watched {
    directory: PathBuf,
    changes: mpsc::Receiver<ReadManifests>,
    task: JoinHandle<()>,
    _root: TempDir,
}

impl Watched {
    /// A directory with `first` in `a.yaml`, watched and read once. Waits that are not the test's
    /// subject are so long that the test would run out of patience.
    async fn new(first: &str, pace: impl FnOnce(&mut Pace)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("manifests");
        fs::create_dir(&directory).unwrap();
        let mut watched = Self::of(root, directory, first, pace);
        let read = watched.next().await.unwrap();
        assert_eq!(names(&read), declared(first));
        watched
    }

    fn of(root: TempDir, directory: PathBuf, first: &str, pace: impl FnOnce(&mut Pace)) -> Self {
        fs::write(directory.join("a.yaml"), first).unwrap();
        let mut watcher = Watcher::new(&directory);
        let (settle_max, empty, poll) = (PATIENCE * 2, PATIENCE * 2, PATIENCE * 2);
        watcher.pace = Pace { settle_max, empty, poll, ..Pace::default() };
        pace(&mut watcher.pace);
        let (sender, changes) = mpsc::channel(4);
        let task = tokio::spawn(watcher.run(sender));
        Self { directory, changes, task, _root: root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn next(&mut self) -> ReadManifests {
        timeout(PATIENCE, self.changes.recv()).await.expect("nothing was sent").unwrap()
    }

    async fn next_names(&mut self) -> Vec<String> {
        names(&self.next().await.unwrap())
    }
}

fn node(name: &str) -> String {
    format!("apiVersion: hinterland.dev/v1alpha1\nkind: EdgeNode\nmetadata: {{name: {name}}}\n")
}

fn names(manifests: &Manifests) -> Vec<String> {
    manifests.nodes.keys().map(ToString::to_string).collect()
}

fn declared(text: &str) -> Vec<String> {
    names(&crate::manifests::parse_documents("a.yaml", text).unwrap())
}

#[tokio::test]
async fn a_change_is_sent_and_what_changes_nothing_is_not() {
    let mut watched = Watched::new(&node("one"), |_| {}).await;
    watched.write("a.yaml", &format!("# the same\n{}", node("one")));
    sleep(A_WHILE).await;
    watched.write("b.yml", &node("two"));
    assert_eq!(watched.next_names().await, ["one", "two"]);
    fs::remove_file(watched.path("a.yaml")).unwrap();
    assert_eq!(watched.next_names().await, ["two"]);
}

#[tokio::test]
async fn a_mistake_is_sent_as_such_and_its_correction_too() {
    let mut watched = Watched::new(&node("one"), |_| {}).await;
    watched.write("b.yaml", "kind: EdgeNode\n");
    let problems = watched.next().await.unwrap_err().to_string();
    assert!(problems.contains("b.yaml:1: apiVersion: is missing"), "{problems}");
    watched.write("b.yaml", &node("two"));
    assert_eq!(watched.next_names().await, ["one", "two"]);
}

#[tokio::test]
async fn a_file_that_is_renamed_into_place_is_read() {
    let mut watched = Watched::new(&node("one"), |_| {}).await;
    watched.write(".a.yaml.tmp", &node("two"));
    fs::rename(watched.path(".a.yaml.tmp"), watched.path("a.yaml")).unwrap();
    assert_eq!(watched.next_names().await, ["two"]);
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    let mut watched = Watched::new(&node("one"), |_| {}).await;
    let mut file = File::create(watched.path("b.yaml")).unwrap();
    file.write_all(node("two").as_bytes()).unwrap();
    sleep(A_WHILE).await;
    file.write_all(format!("---\n{}", node("three")).as_bytes()).unwrap();
    drop(file);
    assert_eq!(watched.next_names().await, ["one", "three", "two"]);
}

#[tokio::test]
async fn a_file_that_is_never_closed_is_read_in_the_end() {
    let short = |pace: &mut Pace| pace.settle_max = Duration::from_millis(200);
    let mut watched = Watched::new(&node("one"), short).await;
    let mut file = File::create(watched.path("b.yaml")).unwrap();
    file.write_all(node("two").as_bytes()).unwrap();
    assert_eq!(watched.next_names().await, ["one", "two"]);
    drop(file);
}

#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("manifests");
    for (version, name) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir_all(directory.join(version)).unwrap();
        fs::write(directory.join(version).join("m.yaml"), node(name)).unwrap();
    }
    symlink("..v1", directory.join("..data")).unwrap();
    symlink("..data/m.yaml", directory.join("m.yaml")).unwrap();
    let mut watched = Watched::of(root, directory, &node("zero"), |_| {});
    assert_eq!(watched.next_names().await, ["one", "zero"]);
    symlink("..v2", watched.path("..data_tmp")).unwrap();
    fs::rename(watched.path("..data_tmp"), watched.path("..data")).unwrap();
    assert_eq!(watched.next_names().await, ["two", "zero"]);
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_again_is_watched_again() {
    let mut watched = Watched::new(&node("one"), |_| {}).await;
    for name in ["two", "three"] {
        fs::remove_dir_all(&watched.directory).unwrap();
        assert!(watched.next().await.is_err(), "it is not there");
        fs::create_dir(&watched.directory).unwrap();
        watched.write("a.yaml", &node(name));
        assert_eq!(watched.next_names().await, [name]);
        watched.write("b.yaml", &node("more"));
        assert_eq!(watched.next_names().await.len(), 2, "its watch is alive");
    }
}

#[tokio::test]
async fn a_directory_that_is_replaced_by_another_is_watched_in_its_place() {
    let root = tempfile::tempdir().unwrap();
    let release = |name: &str| {
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join("b.yaml"), node(name)).unwrap();
        symlink(name, root.path().join("next")).unwrap();
        fs::rename(root.path().join("next"), root.path().join("manifests")).unwrap();
    };
    release("v1");
    let base = root.path().to_owned();
    let directory = base.join("manifests");
    let another = tempfile::tempdir().unwrap();
    let mut watched = Watched::of(another, directory, &node("zero"), |_| {});
    assert_eq!(watched.next_names().await, ["v1", "zero"]);
    release("v2");
    assert_eq!(watched.next_names().await, ["v2"]);
    watched.write("c.yaml", &node("more"));
    assert_eq!(watched.next_names().await, ["more", "v2"], "its watch is on the new one");
}

#[tokio::test]
async fn a_directory_that_is_empty_for_a_moment_is_not_believed() {
    let mut watched = Watched::new(&node("one"), |_| {}).await;
    fs::remove_file(watched.path("a.yaml")).unwrap();
    sleep(A_WHILE).await;
    watched.write("a.yaml", &node("two"));
    assert_eq!(watched.next_names().await, ["two"]);
}

#[tokio::test]
async fn a_file_that_is_empty_for_a_moment_is_not_believed() {
    let mut watched = Watched::new(&node("one"), |_| {}).await;
    watched.write("b.yaml", &node("two"));
    assert_eq!(watched.next_names().await, ["one", "two"]);
    watched.write("b.yaml", "");
    sleep(A_WHILE).await;
    watched.write("b.yaml", &node("three"));
    assert_eq!(watched.next_names().await, ["one", "three"]);
}

#[tokio::test]
async fn a_file_that_stays_empty_declares_nothing() {
    let short = |pace: &mut Pace| pace.empty = Duration::from_millis(50);
    let mut watched = Watched::new(&node("one"), short).await;
    watched.write("b.yaml", &node("two"));
    assert_eq!(watched.next_names().await, ["one", "two"]);
    watched.write("b.yaml", "");
    assert_eq!(watched.next_names().await, ["one"]);
}

#[tokio::test]
async fn a_directory_that_stays_empty_is_believed() {
    let short = |pace: &mut Pace| pace.empty = Duration::from_millis(50);
    let mut watched = Watched::new(&node("one"), short).await;
    fs::remove_file(watched.path("a.yaml")).unwrap();
    assert!(watched.next_names().await.is_empty());
}

#[tokio::test]
async fn what_inotify_does_not_see_is_found_by_the_poll() {
    let short = |pace: &mut Pace| pace.poll = Duration::from_millis(50);
    let mut watched = Watched::new(&node("one"), short).await;
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    fs::write(&elsewhere, node("two")).unwrap();
    symlink(elsewhere.path(), watched.path("b.yaml")).unwrap();
    assert_eq!(watched.next_names().await, ["one", "two"]);
    fs::write(&elsewhere, node("three")).unwrap();
    assert_eq!(watched.next_names().await, ["one", "three"]);
}

#[tokio::test]
async fn a_watcher_to_which_nobody_listens_ends() {
    let Watched { changes, task, _root, .. } = Watched::new(&node("one"), |_| {}).await;
    drop(changes);
    timeout(PATIENCE, task).await.expect("it goes on").unwrap();
}
