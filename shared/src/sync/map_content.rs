//! One content of a map: its items and their digests.

use crate::limits::{MAP_ITEM_BYTES_MAX, MAP_ITEMS_MAX, MAP_KEY_BYTES_MAX};
use crate::wire::{Digest, MapBody, MapItem};
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

    /// What turns a content with these digests into this one.
    #[must_use]
    pub fn delta_from(&self, base: &BTreeMap<String, Digest>) -> MapBody {
        let (upserts, tombstones) = self.changes_from(base);
        MapBody::Delta { base: digest_of(base), upserts, tombstones }
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

    /// This content after an update; `None` when the update is a delta from another content.
    #[must_use]
    pub fn after(&self, body: &MapBody) -> Option<Self> {
        let items = match body {
            MapBody::Snapshot { items } => keyed(items).collect(),
            MapBody::Delta { base, upserts, tombstones } => {
                if *base != self.digest {
                    return None;
                }
                let mut items = self.items.clone();
                tombstones.iter().for_each(|key| drop(items.remove(key)));
                items.extend(keyed(upserts));
                items
            }
        };
        Some(Self::new(items))
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

fn digest_of(digests: &BTreeMap<String, Digest>) -> Digest {
    Digest::of_map(digests.iter().map(|(key, digest)| (key.as_str(), *digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_content() -> impl Strategy<Value = MapContent> {
        let value = proptest::collection::vec(any::<u8>(), 0..3);
        proptest::collection::btree_map("[a-d]{1,2}", value, 0..6).prop_map(MapContent::new)
    }

    proptest! {
        #[test]
        fn a_delta_turns_the_base_into_the_target(base in any_content(), target in any_content()) {
            let delta = target.delta_from(base.digests());
            prop_assert_eq!(base.after(&delta), Some(target));
        }

        #[test]
        fn a_snapshot_turns_anything_into_the_target(base in any_content(), target in any_content()) {
            prop_assert_eq!(base.after(&target.snapshot()), Some(target));
        }

        #[test]
        fn equal_digests_mean_equal_items(a in any_content(), b in any_content()) {
            prop_assert_eq!(a.digest() == b.digest(), a.items() == b.items());
        }
    }
}
