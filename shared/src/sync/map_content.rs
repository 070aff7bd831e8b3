//! One content of a map: its items and their digests.

use super::edit;
use crate::limits::{MAP_ITEM_BYTES_MAX, MAP_ITEMS_MAX, MAP_KEY_BYTES_MAX};
use crate::wire::{Digest, ItemEdit, MapBody, MapItem, RefusalReason, ShortDigest};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// One content of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapContent {
    items: BTreeMap<String, Vec<u8>>,
    digests: BTreeMap<String, Digest>,
    digest: Digest,
}

impl Default for MapContent {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

impl MapContent {
    /// The content of these items.
    #[must_use]
    pub fn new(items: BTreeMap<String, Vec<u8>>) -> Self {
        let digests: BTreeMap<_, _> =
            items.iter().map(|(key, value)| (key.clone(), Digest::of(value))).collect();
        let digest = digest_of(&digests);
        Self { items, digests, digest }
    }

    /// The items by key.
    #[must_use]
    pub fn items(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.items
    }

    /// The digest of each item's value, by key.
    #[must_use]
    pub fn digests(&self) -> &BTreeMap<String, Digest> {
        &self.digests
    }

    /// The digest of the whole.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Everything, as the body of an update.
    #[must_use]
    pub fn snapshot(&self) -> MapBody {
        MapBody::Snapshot { items: self.items.iter().map(item).collect() }
    }

    /// What turns a content with these digests into this one. Items are edited where `values` are the
    /// base's, and sent whole where it is not known.
    #[must_use]
    pub fn delta_from(&self, base: &BTreeMap<String, Digest>, values: Option<&Self>) -> MapBody {
        let (changed, tombstones) = self.changes_from(base);
        let values = values.filter(|values| values.digests == *base);
        let (mut edits, mut upserts) = (Vec::new(), Vec::new());
        for new in changed {
            match values.and_then(|values| values.edit_to(&new)) {
                Some(edit) => edits.push(edit),
                None => upserts.push(new),
            }
        }
        MapBody::Delta { base: digest_of(base).into(), edits, upserts, tombstones }
    }

    /// What turns an item of this content into `new`, where that is shorter than `new`.
    fn edit_to(&self, new: &MapItem) -> Option<ItemEdit> {
        let hunks = edit::hunks(self.items.get(&new.key)?, &new.value)?;
        let place = self.items.keys().take_while(|key| **key < new.key).count();
        Some(ItemEdit { item: u32::try_from(place).ok()?, hunks })
    }

    /// The items that are new or changed, and the keys that are gone, since a content with these
    /// digests.
    #[must_use]
    pub fn changes_from(&self, base: &BTreeMap<String, Digest>) -> (Vec<MapItem>, Vec<String>) {
        let changed = |key: &&String| base.get(*key) != self.digests.get(*key);
        let upserts = self.items.iter().filter(|(key, _)| changed(key)).map(item).collect();
        let gone = |key: &&String| !self.items.contains_key(*key);
        (upserts, base.keys().filter(gone).cloned().collect())
    }

    /// This content after an update.
    ///
    /// # Errors
    /// [`RefusalReason::BaseMismatch`] when the update is a delta from another content,
    /// [`RefusalReason::Malformed`] when an edit in it does not fit.
    pub fn after(&self, body: &MapBody) -> Result<Self, RefusalReason> {
        let items = match body {
            MapBody::Snapshot { items } => keyed(items).collect(),
            MapBody::Delta { base, edits, upserts, tombstones } => {
                if *base != ShortDigest::from(self.digest) {
                    return Err(RefusalReason::BaseMismatch);
                }
                let mut items = self.items.clone();
                edit_each(&mut items, edits).ok_or(RefusalReason::Malformed)?;
                tombstones.iter().for_each(|key| drop(items.remove(key)));
                items.extend(keyed(upserts));
                items
            }
        };
        Ok(Self::new(items))
    }

    /// Whether the number of items, every key and every value keep their limits.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        let small = |(key, value): (&String, &Vec<u8>)| {
            key.len() <= MAP_KEY_BYTES_MAX && value.len() <= MAP_ITEM_BYTES_MAX
        };
        self.items.len() <= MAP_ITEMS_MAX && self.items.iter().all(small)
    }
}

fn item((key, value): (&String, &Vec<u8>)) -> MapItem {
    MapItem { key: key.clone(), value: ByteBuf::from(value.clone()) }
}

fn keyed(items: &[MapItem]) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    items.iter().map(|item| (item.key.clone(), item.value.to_vec()))
}

/// Edits items at their places. Nothing where an edit does not fit, or one comes before another's place:
/// so each item is edited once, whatever an update claims.
fn edit_each(items: &mut BTreeMap<String, Vec<u8>>, edits: &[ItemEdit]) -> Option<()> {
    let mut values = items.values_mut();
    let mut passed = 0;
    for ItemEdit { item, hunks } in edits {
        let place = usize::try_from(*item).ok()?;
        let value = values.nth(place.checked_sub(passed)?)?;
        *value = edit::edited(value, hunks)?;
        passed = place + 1;
    }
    Some(())
}

fn digest_of(digests: &BTreeMap<String, Digest>) -> Digest {
    Digest::of_map(digests.iter().map(|(key, digest)| (key.as_str(), *digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_content() -> impl Strategy<Value = MapContent> {
        let value = proptest::collection::vec(0..2_u8, 0..40);
        proptest::collection::btree_map("[a-d]{1,2}", value, 0..6).prop_map(MapContent::new)
    }

    fn content(items: &[(&str, &[u8])]) -> MapContent {
        MapContent::new(items.iter().map(|(key, v)| ((*key).to_owned(), v.to_vec())).collect())
    }

    #[test]
    fn an_item_of_which_little_changes_is_edited_at_its_place() {
        let mut long = vec![7; 100];
        let base = content(&[("a", b"1"), ("b", &long), ("c", b"1")]);
        long[50] = 8;
        let target = content(&[("a", b"1"), ("b", &long), ("c", b"2")]);
        let delta = target.delta_from(base.digests(), Some(&base));
        let MapBody::Delta { edits, upserts, .. } = &delta else { panic!("not a delta") };
        let edited: Vec<_> = edits.iter().map(|edit| (edit.item, edit.hunks[0].skip)).collect();
        let whole: Vec<_> = upserts.iter().map(|item| item.key.as_str()).collect();
        assert_eq!((edited, whole), (vec![(1, 50)], vec!["c"]));
        assert_eq!(base.after(&delta), Ok(target));
    }

    #[test]
    fn an_edit_that_does_not_fit_is_refused() {
        let base = content(&[("a", b"1"), ("b", b"2")]);
        let after = |items: &[u32]| {
            let edits = items.iter().map(|item| ItemEdit { item: *item, hunks: vec![] }).collect();
            let (upserts, tombstones) = (vec![], vec![]);
            base.after(&MapBody::Delta { base: base.digest.into(), edits, upserts, tombstones })
        };
        assert_eq!(after(&[0, 1]), Ok(base.clone()));
        assert_eq!(after(&[2]), Err(RefusalReason::Malformed), "no such item");
        assert_eq!(after(&[1, 0]), Err(RefusalReason::Malformed), "not in order");
        assert_eq!(after(&[0, 0]), Err(RefusalReason::Malformed), "an item twice");
    }

    #[test]
    fn each_limit_of_a_content_may_be_reached_and_not_passed() {
        let within = |key_bytes: usize, value_bytes: usize| {
            content(&[("a", b"1"), (&"k".repeat(key_bytes), &vec![0; value_bytes])])
                .is_within_limits()
        };
        assert!(within(MAP_KEY_BYTES_MAX, MAP_ITEM_BYTES_MAX));
        assert!(!within(MAP_KEY_BYTES_MAX + 1, 1));
        assert!(!within(1, MAP_ITEM_BYTES_MAX + 1));
        let of = |count: usize| (0..count).map(|number| (number.to_string(), vec![])).collect();
        assert!(MapContent::new(of(MAP_ITEMS_MAX)).is_within_limits());
        assert!(!MapContent::new(of(MAP_ITEMS_MAX + 1)).is_within_limits());
    }

    #[test]
    fn what_changed_is_told_by_item_and_what_is_gone_by_key() {
        let base = content(&[("a", b"1"), ("b", b"1"), ("c", b"1")]);
        let (upserts, gone) =
            content(&[("b", b"1"), ("c", b"2"), ("d", b"1")]).changes_from(base.digests());
        let upserts: Vec<_> =
            upserts.iter().map(|item| (&*item.key, item.value.as_ref())).collect();
        assert_eq!(upserts, [("c", b"2".as_slice()), ("d", b"1")]);
        assert_eq!(gone, ["a"]);
    }

    proptest! {
        #[test]
        fn a_delta_turns_the_base_into_the_target(base in any_content(), target in any_content()) {
            let whole = target.delta_from(base.digests(), None);
            prop_assert_eq!(base.after(&whole), Ok(target.clone()));
            let edited = target.delta_from(base.digests(), Some(&base));
            prop_assert_eq!(base.after(&edited), Ok(target));
        }

        #[test]
        fn values_of_another_base_are_not_edited(
            base in any_content(),
            other in any_content(),
            target in any_content(),
        ) {
            let delta = target.delta_from(base.digests(), Some(&other));
            prop_assert_eq!(base.after(&delta), Ok(target));
        }

        #[test]
        fn a_snapshot_turns_anything_into_the_target(base in any_content(), target in any_content()) {
            prop_assert_eq!(base.after(&target.snapshot()), Ok(target));
        }

        #[test]
        fn equal_digests_mean_equal_items(a in any_content(), b in any_content()) {
            prop_assert_eq!(a.digest() == b.digest(), a.items() == b.items());
        }
    }
}
