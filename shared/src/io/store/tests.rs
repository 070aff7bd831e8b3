use super::database::{Database, RawWrite};
use super::*;
use crate::ports::Write;
use proptest::prelude::*;
use std::collections::BTreeMap;
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
        opening::try_open(&StoreFiles::new(self.path()), DEADLINE).unwrap().unwrap()
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
fn records_swapped_between_keys_and_trees_read_as_absent_and_are_counted() {
    let place = Place::new();
    let (mut store, _) = place.open();
    for tree in [Tree::Meta, Tree::Pods, Tree::Outbox] {
        put(&mut store, tree, b"one", b"1");
        put(&mut store, tree, b"two", b"2");
    }
    drop(store);
    let raw = place.raw();
    // Two keys of one tree change their values.
    for tree in [Tree::Meta as u8, Tree::Outbox as u8] {
        let records = pairs(&raw, tree);
        overwrite(&raw, tree, &records[0].0, &records[1].1);
        overwrite(&raw, tree, &records[1].0, &records[0].1);
    }
    // A record of another tree is put under a key of this one.
    let (foreign, own) = (pairs(&raw, Tree::Meta as u8), pairs(&raw, Tree::Pods as u8));
    overwrite(&raw, Tree::Pods as u8, &own[0].0, &foreign[0].1);
    overwrite(&raw, Tree::Pods as u8, &foreign[0].0, &foreign[0].1);
    drop(raw);
    let store = place.existing();
    for tree in [Tree::Meta, Tree::Outbox] {
        assert_eq!(store.read(tree, b"one").unwrap(), None);
        assert_eq!(store.scan(tree, b"", 10).unwrap(), []);
    }
    // And one more, because Pods has a record that nobody committed.
    assert_eq!(store.damaged_records(), 5);
    assert_eq!(store.scan(Tree::Pods, b"", 10).unwrap().len(), 1);
    assert_eq!(store.damaged_records(), 7);
    // Seen again, they are the same.
    assert_eq!(store.scan(Tree::Pods, b"", 10).unwrap().len(), 1);
    assert_eq!(store.damaged_records(), 7);
}

#[test]
fn a_flipped_bit_costs_its_record_alone() {
    let place = Place::new();
    let (mut store, _) = place.open();
    for number in 0..20_u8 {
        put(&mut store, Tree::Outbox, &[number], &[number; 100]);
    }
    drop(store);
    let raw = place.raw();
    for number in [3, 4, 9_u8] {
        let (key, mut value) = pairs(&raw, Tree::Outbox as u8)[usize::from(number)].clone();
        let bit = usize::from(number) * 97 % (value.len() * 8);
        value[bit / 8] ^= 1 << (bit % 8);
        overwrite(&raw, Tree::Outbox as u8, &key, &value);
    }
    drop(raw);
    let mut store = place.existing();
    let found = store.scan(Tree::Outbox, &[2], 4).unwrap();
    let numbers: Vec<u8> = found.iter().map(|(key, _)| key[0]).collect();
    assert_eq!((numbers, store.damaged_records()), (vec![2, 5, 6, 7], 2));
    assert_eq!(store.read(Tree::Outbox, &[9]).unwrap(), None);
    assert_eq!(store.damaged_records(), 3);
    put(&mut store, Tree::Outbox, &[9], b"new");
    assert_eq!(store.read(Tree::Outbox, &[9]).unwrap().as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_chunk_of_an_older_value_a_missing_one_and_one_at_another_number_are_refused() {
    let place = Place::new();
    let value = |fill: u8| vec![fill; 3 * sealer::CHUNK_BYTES];
    let damage = |change: fn(&Database, &[KeyValue])| {
        let (mut store, _) = place.open();
        put(&mut store, Tree::Desired, b"item", &value(1));
        drop(store);
        let old = pairs(&place.raw(), CHUNKS);
        assert_eq!(old.len(), 2);
        let mut store = place.existing();
        put(&mut store, Tree::Desired, b"item", &value(2));
        assert_eq!(store.read(Tree::Desired, b"item").unwrap(), Some(value(2)));
        drop(store);
        change(&place.raw(), &old);
        let store = place.existing();
        assert_eq!(store.read(Tree::Desired, b"item").unwrap(), None);
        assert_eq!(store.damaged_records(), 1);
    };
    damage(|raw, old| overwrite(raw, CHUNKS, &old[0].0, &old[0].1));
    damage(|raw, _| {
        let chunks = pairs(raw, CHUNKS);
        overwrite(raw, CHUNKS, &chunks[0].0, &chunks[1].1);
    });
    damage(|raw, _| {
        let key = pairs(raw, CHUNKS)[1].0.clone();
        raw.apply(&[RawWrite { tree: CHUNKS, key, value: None }]).unwrap();
    });
}

#[test]
fn another_key_is_refused_and_nothing_is_put_aside() {
    let place = Place::new();
    put(&mut place.open().0, Tree::Meta, b"k", b"v");
    let before = fs::read(place.path().join("db")).unwrap();
    let refused = place.open_with(2);
    assert!(matches!(refused, Err(OpenError::Key { .. })), "{refused:?}");
    assert!(!place.beside("store.quarantined-1") && !place.beside("store.opening"));
    assert_eq!(fs::read(place.path().join("db")).unwrap(), before);
    assert_eq!(place.existing().read(Tree::Meta, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn a_store_that_is_open_elsewhere_is_locked_and_not_put_aside() {
    let place = Place::new();
    let (store, _) = place.open();
    let refused = place.open_with(1);
    assert!(matches!(refused, Err(OpenError::Locked { .. })), "{refused:?}");
    drop(store);
    // Another program that has only sled's file.
    let raw = place.raw();
    let refused = place.open_with(1);
    assert!(matches!(refused, Err(OpenError::Locked { .. })), "{refused:?}");
    drop(raw);
    place.existing();
    assert!(!place.beside("store.quarantined-1"));
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
    assert_eq!(counts(&store), [1, 0, 2, 0, 0, 0]);
    drop(store);
    assert_eq!(counts(&place.existing()), [1, 0, 2, 0, 0, 0]);
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

#[test]
fn a_store_without_its_keyring_or_with_a_foreign_format_is_put_aside_and_the_newest_two_are_kept() {
    let place = Place::new();
    put(&mut place.open().0, Tree::Meta, b"k", b"v");
    let damages: [fn(&Path); 4] = [
        |folder| fs::remove_file(folder.join("keyring")).unwrap(),
        |folder| fs::write(folder.join("keyring"), [0; 8192]).unwrap(),
        |folder| fs::write(folder.join("conf"), "segment_size: nonsense\nxxxx").unwrap(),
        |folder| fs::write(folder.join("conf"), [0xff; 40]).unwrap(),
    ];
    for (number, damage) in (1..).zip(damages) {
        damage(&place.path());
        let (mut store, opening) = place.open();
        let Opening::Quarantined { folder, reason } = opening else {
            panic!("{number}: {opening:?}")
        };
        assert!(folder.ends_with(format!("store.quarantined-{number}")) && folder.is_dir());
        assert!(!reason.is_empty());
        assert_eq!(store.read(Tree::Meta, b"k").unwrap(), None);
        put(&mut store, Tree::Meta, b"k", b"v");
    }
    let kept = (1..=4).map(|n| place.beside(&format!("store.quarantined-{n}")));
    assert_eq!(kept.collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(place.existing().read(Tree::Meta, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn one_damaged_copy_of_the_keyring_costs_nothing() {
    let place = Place::new();
    put(&mut place.open().0, Tree::Meta, b"k", b"v");
    let keyring = place.path().join("keyring");
    let whole = fs::read(&keyring).unwrap();
    for damaged in [0..4096, 4096..8192] {
        let mut bytes = whole.clone();
        bytes[damaged].fill(0);
        fs::write(&keyring, bytes).unwrap();
        assert_eq!(place.existing().read(Tree::Meta, b"k").unwrap().unwrap(), b"v");
    }
    fs::write(&keyring, &whole[..4096]).unwrap();
    assert_eq!(place.existing().read(Tree::Meta, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn a_store_that_comes_back_shorter_says_how_many_commits_it_lost() {
    let place = Place::new();
    let (mut store, _) = place.open();
    put(&mut store, Tree::Meta, b"k", b"1");
    drop(store);
    let before = fs::read(place.path().join("db")).unwrap();
    let mut store = place.existing();
    assert_eq!(store.lost_commits(), 0);
    (0..5).for_each(|_| put(&mut store, Tree::Meta, b"k", b"2"));
    drop(store);
    for entry in fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::write(place.path().join("db"), before).unwrap();
    let mut store = place.existing();
    assert_eq!(store.read(Tree::Meta, b"k").unwrap().unwrap(), b"1");
    assert_eq!(store.lost_commits(), 5);
    put(&mut store, Tree::Meta, b"k", b"3");
    drop(store);
    assert_eq!(place.existing().lost_commits(), 0);
}

#[test]
fn records_that_vanished_or_came_back_are_counted() {
    let place = Place::new();
    let (mut store, _) = place.open();
    for tree in [Tree::Meta, Tree::Outbox] {
        (0..300_u16).for_each(|n| put(&mut store, tree, &n.to_be_bytes(), b"v"));
    }
    assert_eq!(store.verify().unwrap(), 0);
    drop(store);
    let raw = place.raw();
    for tree in [Tree::Meta as u8, Tree::Outbox as u8] {
        let (key, _) = pairs(&raw, tree)[150].clone();
        raw.apply(&[RawWrite { tree, key, value: None }]).unwrap();
    }
    drop(raw);
    let mut store = place.existing();
    assert_eq!(store.damaged_records(), 1, "Meta is compared at once");
    assert_eq!(store.verify().unwrap(), 2);
    assert_eq!(store.record_count(Tree::Outbox), 299);
    put(&mut store, Tree::Outbox, b"new", b"v");
    drop(store);
    // Told once; from now on this is what there is.
    let store = place.existing();
    assert_eq!((store.damaged_records(), store.verify().unwrap()), (0, 0));
    drop(store);
    let raw = place.raw();
    overwrite(&raw, Tree::Pods as u8, b"a removed one", b"sealed");
    drop(raw);
    assert_eq!(place.existing().damaged_records(), 1);
}

#[test]
fn an_open_past_its_deadline_asks_for_a_new_process_and_leaves_its_marker() {
    let place = Place::new();
    put(&mut place.open().0, Tree::Meta, b"k", b"v");
    let options = StoreOptions {
        folder: place.path(),
        key: WrappingKey::from_bytes([1; 32]),
        open_deadline: Duration::ZERO,
    };
    let refused = SealedStore::open(options);
    assert!(matches!(refused, Err(OpenError::Restart { .. })), "{refused:?}");
    assert!(place.beside("store.opening") && !place.beside("store.quarantined-1"));
    // The thread that was given up has the database until it ends; a new process would not wait.
    let begin = std::time::Instant::now();
    let store = loop {
        match place.open_with(1) {
            Err(OpenError::Locked { .. }) if begin.elapsed() < DEADLINE => std::thread::yield_now(),
            result => break result.unwrap().0,
        }
    };
    assert_eq!(store.read(Tree::Meta, b"k").unwrap().unwrap(), b"v");
    assert!(!place.beside("store.opening"));
}

#[test]
fn an_unfinished_snapshot_is_removed_before_sled_sees_it() {
    let place = Place::new();
    put(&mut place.open().0, Tree::Meta, b"k", b"v");
    let unfinished = place.path().join("snap.FFFFFFFFFFFFFFF0.generating");
    fs::write(&unfinished, "half").unwrap();
    assert_eq!(place.existing().read(Tree::Meta, b"k").unwrap().unwrap(), b"v");
    assert!(!unfinished.exists());
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Write>),
    Reopen,
}

fn any_write() -> impl Strategy<Value = Write> {
    let tree = prop::sample::select(&Tree::ALL[..]);
    let key = prop::collection::vec(0_u8..3, 0..3);
    let length = prop_oneof![6 => 0..200_usize, 1 => 5_000..40_000_usize];
    let value = (length, any::<u8>()).prop_map(|(length, fill)| vec![fill; length]);
    (tree, key, prop::option::weighted(0.7, value)).prop_map(|(tree, key, value)| match value {
        Some(value) => Write::Put { tree, key, value },
        None => Write::Delete { tree, key },
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let commit = prop::collection::vec(any_write(), 1..12).prop_map(Step::Commit);
    prop_oneof![5 => commit, 1 => Just(Step::Reopen)]
}

type Model = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

fn assert_same(store: &SealedStore, model: &Model) {
    for tree in Tree::ALL {
        let of_tree = model.iter().filter(|((found, _), _)| *found == tree);
        let expected: Vec<_> =
            of_tree.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        let mut found = store.scan(tree, b"", usize::MAX).unwrap();
        if !tree.is_ordered() {
            found.sort();
        }
        assert_eq!(found, expected);
        assert_eq!(store.record_count(tree), expected.len() as u64);
        for (key, value) in &expected {
            assert_eq!(store.read(tree, key).unwrap().as_ref(), Some(value));
        }
    }
    let from = &[1_u8, 1][..];
    let behind = model.range((Tree::Outbox, from.to_vec())..);
    let behind = behind.take_while(|((tree, _), _)| *tree == Tree::Outbox).take(2);
    let expected: Vec<_> = behind.map(|((_, key), value)| (key.clone(), value.clone())).collect();
    assert_eq!(store.scan(Tree::Outbox, from, 2).unwrap(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn the_store_is_a_durable_map(steps in prop::collection::vec(any_step(), 1..20)) {
        let place = Place::new();
        let (mut store, _) = place.open();
        store.cold_bytes_max = 50_000;
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    store.commit(&WriteBatch { writes: writes.clone() }).unwrap();
                    for write in writes {
                        match write {
                            Write::Put { tree, key, value } => model.insert((tree, key), value),
                            Write::Delete { tree, key } => model.remove(&(tree, key)),
                        };
                    }
                }
                Step::Reopen => {
                    drop(store);
                    store = place.existing();
                }
            }
            assert_same(&store, &model);
        }
        prop_assert_eq!((store.damaged_records(), store.lost_commits()), (0, 0));
    }
}
