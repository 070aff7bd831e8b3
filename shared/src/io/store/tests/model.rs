//! The store against a map in memory, under any sequence of commits and restarts.

use super::*;
use crate::ports::Write;
use proptest::prelude::*;
use std::collections::BTreeMap;

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
