//! Edits of a value: what of it changed, so that a new image's digest does not cost the whole pod.
//!
//! A value is compared with what it was byte by byte. What both begin and end with stays; what lies
//! between is one hunk, or where both are as long as each other one for each stretch that differs.
//! That fits how documents change: a digest, a number, a word. Where several places change their
//! length the hunk spans them all, and a value that saves nothing is sent whole.

use crate::limits::MAP_ITEM_BYTES_MAX;
use crate::wire::Hunk;
use serde_bytes::ByteBuf;

/// Equal bytes between two hunks that are worth a second one: its three numbers and its length.
const GAP_BYTES: usize = 6;

/// What a hunk costs besides its bytes, at most.
const HUNK_BYTES: usize = 10;

/// What turns `old` into `new`; nothing where that is no shorter than `new` itself.
pub(super) fn hunks(old: &[u8], new: &[u8]) -> Option<Vec<Hunk>> {
    let begin = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (old.get(begin..)?, new.get(begin..)?);
    let backwards = old_rest.iter().rev().zip(new_rest.iter().rev());
    let end = backwards.take_while(|(a, b)| a == b).count();
    let old_middle = old_rest.get(..old_rest.len() - end)?;
    let new_middle = new_rest.get(..new_rest.len() - end)?;
    let mut hunks = if old_middle.len() == new_middle.len() {
        stretches(old_middle, new_middle)
    } else {
        vec![hunk(0, old_middle.len(), new_middle)]
    };
    if let Some(first) = hunks.first_mut() {
        first.skip += u32::try_from(begin).ok()?;
    }
    let bytes: usize = hunks.iter().map(|hunk| hunk.insert.len() + HUNK_BYTES).sum();
    (bytes < new.len()).then_some(hunks)
}

/// A hunk for each stretch in which two values of the same length differ.
fn stretches(old: &[u8], new: &[u8]) -> Vec<Hunk> {
    let mut hunks: Vec<(usize, usize)> = Vec::new();
    let differs = old.iter().zip(new).enumerate().filter(|(_, (a, b))| a != b);
    for (at, _) in differs {
        match hunks.last_mut().filter(|(_, end)| at - *end < GAP_BYTES) {
            Some((_, end)) => *end = at + 1,
            None => hunks.push((at, at + 1)),
        }
    }
    let mut before = 0;
    let stretch = |(begin, end): (usize, usize)| {
        let skip = begin - before;
        before = end;
        hunk(skip, end - begin, new.get(begin..end).unwrap_or_default())
    };
    hunks.into_iter().map(stretch).collect()
}

/// Values are at most [`MAP_ITEM_BYTES_MAX`] long; a longer one never turns into another by this.
fn hunk(skip: usize, remove: usize, insert: &[u8]) -> Hunk {
    let number = |length| u32::try_from(length).unwrap_or(u32::MAX);
    Hunk { skip: number(skip), remove: number(remove), insert: ByteBuf::from(insert) }
}

/// `old` with these hunks; nothing where they reach beyond it or it would become too long.
pub(super) fn edited(old: &[u8], hunks: &[Hunk]) -> Option<Vec<u8>> {
    let mut rest = old;
    let mut new = Vec::with_capacity(old.len());
    for hunk in hunks {
        let (kept, after) = rest.split_at_checked(usize::try_from(hunk.skip).ok()?)?;
        rest = after.get(usize::try_from(hunk.remove).ok()?..)?;
        new.extend_from_slice(kept);
        new.extend_from_slice(&hunk.insert);
    }
    new.extend_from_slice(rest);
    (new.len() <= MAP_ITEM_BYTES_MAX).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;
    use proptest::prelude::*;

    fn template(image: char, revision: u8) -> Vec<u8> {
        let digest = image.to_string().repeat(64);
        let mut bytes = vec![revision; 8];
        bytes.extend(
            format!("command sleep image registry.example/a@sha256:{digest} cpu 10").bytes(),
        );
        bytes
    }

    #[test]
    fn what_keeps_its_length_is_edited_where_it_differs() {
        let (old, new) = (template('a', 1), template('b', 2));
        let edit = hunks(&old, &new).unwrap();
        assert_eq!(edit.iter().map(|hunk| hunk.insert.len()).collect::<Vec<_>>(), [8, 64]);
        assert!(encode("hunks", &edit).unwrap().len() < 95);
        assert_eq!(edited(&old, &edit), Some(new));
    }

    #[test]
    fn a_word_that_becomes_longer_is_one_hunk() {
        let edit = hunks(b"phase: Pending, restarts: 0, ", b"phase: Running long, restarts: 0, ");
        let edit = edit.unwrap();
        assert_eq!((edit.len(), edit[0].skip), (1, 7));
        let whole = edited(b"phase: Pending, restarts: 0, ", &edit).unwrap();
        assert_eq!(whole, b"phase: Running long, restarts: 0, ");
    }

    #[test]
    fn what_has_nothing_in_common_is_no_edit() {
        assert_eq!(hunks(&[1; 40], &[2; 40]), None);
        assert_eq!(hunks(b"", b"new"), None);
    }

    #[test]
    fn a_hunk_beyond_the_end_is_refused() {
        assert_eq!(edited(b"abc", &[hunk(4, 0, b"x")]), None);
        assert_eq!(edited(b"abc", &[hunk(2, 2, b"x")]), None);
        assert_eq!(edited(b"abc", &[hunk(3, 0, b"d")]), Some(b"abcd".to_vec()));
    }

    #[test]
    fn a_value_does_not_grow_beyond_what_an_item_may_have() {
        let most = vec![0; MAP_ITEM_BYTES_MAX];
        assert_eq!(edited(b"a", &[hunk(1, 0, &most)]), None);
        assert_eq!(edited(&most, &[hunk(0, 0, b"a")]), None, "what is kept counts too");
        assert_eq!(edited(b"a", &[hunk(0, 1, &most)]).as_ref(), Some(&most));
    }

    #[test]
    fn a_hunk_is_worth_its_ten_bytes_only_where_it_saves_more() {
        let old = [0; 20];
        let differing = |count: usize| [vec![1; count], vec![0; 20 - count]].concat();
        assert_eq!(hunks(&old, &differing(9)), Some(vec![hunk(0, 9, &[1; 9])]));
        assert_eq!(hunks(&old, &differing(10)), None);
    }

    #[test]
    fn places_with_six_equal_bytes_between_them_are_two_hunks_and_with_five_one() {
        let old = [0; 60];
        let differing_at = |places: [usize; 2]| {
            let mut new = old;
            places.into_iter().for_each(|place| new[place] = 1);
            hunks(&old, &new).unwrap()
        };
        assert_eq!(differing_at([20, 26]), [hunk(20, 7, &[1, 0, 0, 0, 0, 0, 1])]);
        assert_eq!(differing_at([20, 27]), [hunk(20, 1, &[1]), hunk(6, 1, &[1])]);
    }

    proptest! {
        #[test]
        fn an_edit_turns_the_old_value_into_the_new(
            old in proptest::collection::vec(0..3_u8, 0..80),
            new in proptest::collection::vec(0..3_u8, 0..80),
        ) {
            if let Some(edit) = hunks(&old, &new) {
                prop_assert_eq!(edited(&old, &edit), Some(new));
            }
        }

        #[test]
        fn an_edit_of_a_few_bytes_is_found(
            old in proptest::collection::vec(any::<u8>(), 60..200),
            places in proptest::collection::btree_map(0..60_usize, any::<u8>(), 0..4),
        ) {
            let mut new = old.clone();
            for (place, value) in &places {
                new[*place] = *value;
            }
            let edit = hunks(&old, &new);
            prop_assert_eq!(edit.and_then(|edit| edited(&old, &edit)), Some(new));
        }

        #[test]
        fn no_hunks_make_it_panic(
            old in proptest::collection::vec(any::<u8>(), 0..20),
            numbers in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..5),
        ) {
            let hunks: Vec<Hunk> = numbers
                .into_iter()
                .map(|(skip, remove)| Hunk { skip, remove, insert: ByteBuf::new() })
                .collect();
            let _ = edited(&old, &hunks);
        }
    }
}
