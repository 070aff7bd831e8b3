//! The life of a store as an agent's or a hub's is: what each of its commits writes follows from the
//! commit's number alone, so that what a store must hold after commit `n` can be told by anybody.
//!
//! A life grows, then stays as large as it is, then shrinks by more than comes, and grows again.

use shared::ports::{Tree, Write, WriteBatch};
use std::collections::BTreeMap;

/// Commits up to here only add.
pub(super) const GROWN: u64 = 120;

/// Commits up to here add and remove as much.
pub(super) const STEADY: u64 = 240;

/// Commits up to here remove more than they add.
pub(super) const SHRUNK: u64 = 280;

/// What a check writes beside a life, in the nodes' tree.
pub(super) const CHECK_KEY: &[u8] = b"check";

/// Whose store it is: their trees and the shapes of their keys differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Positions, desired state, pods, and records in order.
    Agent,
    /// A term, nodes, and items of reported state under hidden names.
    Hub,
}

/// What a store holds, by tree and key.
pub(super) type Content = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

impl Layout {
    pub(super) fn parse(word: &str) -> anyhow::Result<Self> {
        match word {
            "agent" => Ok(Self::Agent),
            "hub" => Ok(Self::Hub),
            other => anyhow::bail!("expected agent or hub, not {other}"),
        }
    }

    /// What commit `number` (from 1) writes.
    pub(super) fn batch(self, number: u64) -> WriteBatch {
        let mut batch = WriteBatch::new();
        match self {
            Self::Agent => agent_batch(number, &mut batch),
            Self::Hub => hub_batch(number, &mut batch),
        }
        batch
    }

    /// The oldest record that commit `number` leaves; each commit adds [`Self::records_each`].
    fn oldest(number: u64) -> u64 {
        let window = |number: u64| number.saturating_sub(GROWN - 1).max(1);
        if number <= STEADY {
            window(number)
        } else if number <= SHRUNK {
            (window(STEADY) + 4 * (number - STEADY)).min(number)
        } else {
            window(number).max(SHRUNK)
        }
    }

    /// What a store holds after commit `number`.
    pub(super) fn content(self, number: u64) -> Content {
        let mut content = Content::new();
        for write in (1..=number).flat_map(|number| self.batch(number).writes) {
            match write {
                Write::Put { tree, key, value } => content.insert((tree, key), value),
                Write::Delete { tree, key } => content.remove(&(tree, key)),
            };
        }
        content
    }
}

/// The word for where in its life a store is at commit `number`.
pub(super) fn phase(number: u64) -> &'static str {
    if number <= GROWN {
        "growth"
    } else if number <= STEADY {
        "steady"
    } else if number <= SHRUNK {
        "removal"
    } else {
        "growth again"
    }
}

/// The version of desired state that commit `number` brings, if it brings one.
pub(super) fn accepted_by(number: u64) -> Option<u64> {
    number.is_multiple_of(7).then_some(number)
}

/// Bytes that name their commit everywhere, so that a torn value is seen.
fn filled(number: u64, bytes: u64) -> Vec<u8> {
    let word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    word.into_iter().cycle().take(usize::try_from(bytes).unwrap_or(0)).collect()
}

fn removed_by(number: u64) -> std::ops::Range<u64> {
    Layout::oldest(number.saturating_sub(1))..Layout::oldest(number)
}

fn agent_batch(number: u64, batch: &mut WriteBatch) {
    let key = |number: u64| [&1_u64.to_be_bytes()[..], &[1], &number.to_be_bytes()].concat();
    let bytes = if number.is_multiple_of(40) { 20_000 } else { 100 + number * 37 % 3_000 };
    batch.put(Tree::Outbox, key(number), filled(number, bytes));
    removed_by(number).for_each(|removed| batch.delete(Tree::Outbox, key(removed)));
    batch.put(Tree::Meta, "log/0000000000000001/1", number.to_be_bytes());
    batch.put(Tree::Meta, "last", number.to_be_bytes());
    batch.put(Tree::Pods, format!("default/pod-{}", number % 5), filled(number, 200));
    if accepted_by(number).is_some() {
        batch.put(Tree::Desired, format!("w/item-{}", number % 3), filled(number, 9_000));
        batch.delete(Tree::Desired, format!("w/item-{}", (number + 1) % 3));
    }
}

fn hub_batch(number: u64, batch: &mut WriteBatch) {
    let key = |number: u64, item: u64| format!("node-{}/p/pod-{number}-{item}", number % 12);
    for item in 0..3 {
        batch.put(Tree::Reported, key(number, item), filled(number + item, 300 + number % 500));
        removed_by(number).for_each(|removed| batch.delete(Tree::Reported, key(removed, item)));
    }
    batch.put(Tree::Nodes, format!("node-{}", number % 12), filled(number, 400));
    if number % 50 == 1 {
        batch.put(Tree::Meta, "term", number.to_be_bytes());
    }
    if number.is_multiple_of(30) {
        let large = format!("node-{}/node", number % 12);
        batch.put(Tree::Reported, large, filled(number, 15_000));
    }
    batch.put(Tree::Meta, "last", number.to_be_bytes());
}
