//! What the store promises, tried on sled itself; here a place for one, and what is written, read
//! and refused. `damage.rs` damages records, `opening.rs` what a store is opened by, and `model.rs`
//! compares any sequence of commits with a map.

mod damage;
mod model;
mod opening;

use super::database::{Database, RawWrite};
use super::*;
use std::fs;
use std::path::Path;

const DEADLINE: Duration = Duration::from_secs(20);

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn open_with(&self, key: u8) -> Result<(SealedStore, Opening), OpenError> {
        let key = WrappingKey::from_bytes([key; 32]);
        SealedStore::open(StoreOptions { folder: self.path(), key, open_deadline: DEADLINE })
    }

    fn open(&self) -> (SealedStore, Opening) {
        self.open_with(1).unwrap()
    }

    fn existing(&self) -> SealedStore {
        let (store, opening) = self.open();
        assert_eq!(opening, Opening::Existing);
        store
    }

    /// sled without seals, while no store is open.
    fn raw(&self) -> Database {
        super::opening::try_open(&StoreFiles::new(self.path()), DEADLINE).unwrap().unwrap()
    }

    fn beside(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }
}

fn put(store: &mut SealedStore, tree: Tree, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.put(tree, key, value);
    store.commit(&batch).unwrap();
}

fn delete(store: &mut SealedStore, tree: Tree, key: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.delete(tree, key);
    store.commit(&batch).unwrap();
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}

fn is_on_disk(place: &Place, needle: &[u8]) -> bool {
    all_files(place.folder.path())
        .iter()
        .any(|file| fs::read(file).unwrap().windows(needle.len()).any(|window| window == needle))
}

fn pairs(database: &Database, tree: u8) -> Vec<KeyValue> {
    let mut pairs = Vec::new();
    let visited = database.for_each(tree, &[], usize::MAX, |(key, value)| {
        pairs.push((key.to_vec(), value.to_vec()));
        Ok::<_, DatabaseError>(true)
    });
    visited.unwrap();
    pairs
}

fn overwrite(database: &Database, tree: u8, key: &[u8], value: &[u8]) {
    let write = RawWrite { tree, key: key.to_vec(), value: Some(value.to_vec()) };
    database.apply(&[write]).unwrap();
}

#[test]
fn nothing_of_a_record_can_be_read_from_the_disk_but_the_ordered_keys() {
    let place = Place::new();
    let (mut store, opening) = place.open();
    assert_eq!(opening, Opening::Created);
    let value = [&b"the plain value"[..], &[b'.'; 20_000], b"its plain end"].concat();
    for tree in Tree::ALL {
        put(&mut store, tree, format!("plain key {}", tree as u8).as_bytes(), &value);
    }
    drop(store);
    drop(place.existing());
    assert!(!is_on_disk(&place, b"the plain value"));
    assert!(!is_on_disk(&place, b"its plain end"));
    assert!(!is_on_disk(&place, &[b'.'; 8]));
    for tree in Tree::ALL {
        let key = format!("plain key {}", tree as u8);
        assert_eq!(is_on_disk(&place, key.as_bytes()), tree.is_ordered(), "{tree:?}");
    }
    assert!(!is_on_disk(&place, &[1; 32]), "the wrapping key");
}

#[test]
fn large_values_are_cut_so_that_sled_makes_no_file_of_its_own() {
    let place = Place::new();
    let (mut store, _) = place.open();
    let value = |number: u8, bytes: usize| vec![number; bytes];
    let mut batch = WriteBatch::new();
    for number in 0..60_u8 {
        batch.put(Tree::Outbox, [number], value(number, 12 * 1024));
        batch.put(Tree::Reported, vec![number; KEY_BYTES_MAX], value(number, 6 * 1024));
    }
    batch.put(Tree::Desired, "large", value(7, VALUE_BYTES_MAX));
    store.commit(&batch).unwrap();
    assert_eq!(fs::read_dir(place.path().join("blobs")).unwrap().count(), 0);
    drop(store);
    let mut store = place.existing();
    for (number, (key, found)) in store.scan(Tree::Outbox, b"", 100).unwrap().iter().enumerate() {
        let number = u8::try_from(number).unwrap();
        assert_eq!((&key[..], found), (&[number][..], &value(number, 12 * 1024)));
    }
    let large = store.read(Tree::Desired, b"large").unwrap();
    assert_eq!(large, Some(value(7, VALUE_BYTES_MAX)));
    // Replaced and removed values leave no chunk behind.
    put(&mut store, Tree::Desired, b"large", b"small");
    (0..60_u8).for_each(|number| delete(&mut store, Tree::Outbox, &[number]));
    (0..60).for_each(|number| delete(&mut store, Tree::Reported, &[number; KEY_BYTES_MAX]));
    drop(store);
    assert_eq!(pairs(&place.raw(), CHUNKS), []);
}

#[test]
fn what_is_over_a_limit_is_refused_with_its_size() {
    let place = Place::new();
    let (mut store, _) = place.open();
    let refusal = |store: &mut SealedStore, key: usize, value: usize, count: u8| {
        let mut batch = WriteBatch::new();
        (0..count).for_each(|n| batch.put(Tree::Meta, vec![n; key], vec![0; value]));
        crate::in_words(&store.commit(&batch).unwrap_err())
    };
    assert!(refusal(&mut store, KEY_BYTES_MAX + 1, 0, 1).contains("513"));
    assert!(refusal(&mut store, 1, VALUE_BYTES_MAX + 1, 1).contains("8388609"));
    assert!(refusal(&mut store, 1, VALUE_BYTES_MAX, 5).contains("a batch of"));
    assert!(crate::in_words(&store.scan(Tree::Pods, b"a", 1).unwrap_err()).contains("no order"));
    assert_eq!(store.record_count(Tree::Meta), 0);
    assert!(!store.must_restart());
}

#[test]
fn records_are_counted_through_commits_and_restarts() {
    let place = Place::new();
    let (mut store, _) = place.open();
    put(&mut store, Tree::Pods, b"before", b"1");
    assert_eq!(store.record_count(Tree::Pods), 1);
    let mut batch = WriteBatch::new();
    batch.put(Tree::Pods, "a", "1");
    batch.put(Tree::Pods, "a", "2");
    batch.put(Tree::Pods, "b", "1");
    batch.delete(Tree::Pods, "b");
    batch.delete(Tree::Pods, "absent");
    batch.put(Tree::Meta, "m", "1");
    store.commit(&batch).unwrap();
    let counts = |store: &SealedStore| Tree::ALL.map(|tree| store.record_count(tree));
    assert_eq!(counts(&store), [1, 0, 2, 0, 0, 0, 0, 0, 0]);
    drop(store);
    assert_eq!(counts(&place.existing()), [1, 0, 2, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn without_room_a_commit_is_refused_before_it_begins_and_a_later_one_succeeds() {
    let place = Place::new();
    let (mut store, _) = place.open();
    put(&mut store, Tree::Meta, b"k", b"old");
    store.free_bytes_min = u64::MAX / 2;
    let mut batch = WriteBatch::new();
    batch.put(Tree::Meta, "k", "new");
    let refusal = store.commit(&batch).unwrap_err();
    assert!(crate::in_words(&refusal).contains("bytes free, and this needs"), "{refusal:?}");
    assert_eq!(store.read(Tree::Meta, b"k").unwrap().unwrap(), b"old");
    store.free_bytes_min = FREE_BYTES_MIN;
    store.commit(&batch).unwrap();
    assert_eq!(store.read(Tree::Meta, b"k").unwrap().unwrap(), b"new");
}
