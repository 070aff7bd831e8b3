//! Records that are swapped, flipped, cut, gone or old: they are noticed, counted and cost no other.

use super::*;

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
fn an_earlier_record_that_came_back_is_counted_though_there_are_as_many() {
    let place = Place::new();
    let (mut store, _) = place.open();
    for tree in [Tree::Meta, Tree::Outbox] {
        put(&mut store, tree, b"one", b"1");
        put(&mut store, tree, b"two", b"2");
    }
    drop(store);
    let raw = place.raw();
    let earlier = [Tree::Meta, Tree::Outbox].map(|tree| (tree, pairs(&raw, tree as u8)[0].clone()));
    drop(raw);
    let mut store = place.existing();
    for (tree, key) in [(Tree::Meta, b"one"), (Tree::Meta, b"two"), (Tree::Outbox, b"one")] {
        put(&mut store, tree, key, b"later");
    }
    assert_eq!(store.verify().unwrap(), 0);
    drop(store);
    let raw = place.raw();
    for (tree, (key, sealed)) in &earlier {
        overwrite(&raw, *tree as u8, key, sealed);
    }
    drop(raw);
    let mut store = place.existing();
    assert_eq!(store.damaged_records(), 1, "Meta is compared at once");
    assert_eq!(store.verify().unwrap(), 2);
    put(&mut store, Tree::Meta, b"three", b"3");
    drop(store);
    assert_eq!(place.existing().verify().unwrap(), 0, "told once");
}
