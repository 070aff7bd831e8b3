//! When each node's first timer is due, by time: thousands of nodes are asked with every event, and
//! few of them have a timer that runs.
//!
//! Decides nothing, and does not know what a timer is for.

use shared::model::{MonotonicMs, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// At most one deadline a node.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_time: BTreeSet<(MonotonicMs, NodeId)>,
    by_node: BTreeMap<NodeId, MonotonicMs>,
}

impl Deadlines {
    /// `node` has this deadline from now on, or none.
    pub(super) fn set(&mut self, node: &NodeId, deadline: Option<MonotonicMs>) {
        if self.by_node.get(node).copied() == deadline {
            return;
        }
        if let Some(before) = self.by_node.remove(node) {
            self.by_time.remove(&(before, node.clone()));
        }
        if let Some(deadline) = deadline {
            self.by_node.insert(node.clone(), deadline);
            self.by_time.insert((deadline, node.clone()));
        }
    }

    /// The first deadline of all.
    pub(super) fn earliest(&self) -> Option<MonotonicMs> {
        self.by_time.first().map(|(deadline, _)| *deadline)
    }

    /// Nodes whose deadline is `now` or earlier, the first one first.
    pub(super) fn due(&self, now: MonotonicMs) -> Vec<NodeId> {
        let due = self.by_time.iter().take_while(|(deadline, _)| *deadline <= now);
        due.map(|(_, node)| node.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_earliest_and_the_due_are_what_a_look_at_every_node_finds(
            changes in proptest::collection::vec((0..5_u8, proptest::option::of(0..9_u64)), 0..40),
            now in 0..9_u64,
        ) {
            let (mut deadlines, mut model) = (Deadlines::default(), BTreeMap::new());
            for (number, deadline) in changes {
                let node = NodeId::new(&format!("n{number}")).unwrap();
                let deadline = deadline.map(MonotonicMs);
                deadlines.set(&node, deadline);
                model.insert(node, deadline);
                prop_assert_eq!(deadlines.earliest(), model.values().copied().flatten().min());
                prop_assert_eq!(deadlines.by_node.len(), deadlines.by_time.len());
            }
            let now = MonotonicMs(now);
            let is_due = |(_, at): &(&NodeId, &Option<MonotonicMs>)| at.is_some_and(|at| at <= now);
            let expected: BTreeSet<_> = model.iter().filter(is_due).map(|(n, _)| n.clone()).collect();
            prop_assert_eq!(deadlines.due(now).into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}
