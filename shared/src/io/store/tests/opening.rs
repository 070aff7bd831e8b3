//! Another key, a lock, a damaged keyring, a deadline: what an open refuses, puts aside or mends.

use super::*;

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
