//! What becomes of stores: lost, damaged, replaced by older ones.

use super::super::accounts::HubBooks;
use super::World;
use rand_core::RngCore;
use shared::ports::Tree;

impl World {
    /// The store is quarantined: the agent begins with an empty one, and with the ledger beside it.
    pub(super) fn lose_store(&mut self, index: usize) {
        self.agent_died(index, "and its store is lost");
        if let Some(agent) = self.agents.get_mut(index) {
            agent.disk.wipe();
            self.accounts.node_store_lost(&agent.identity.node);
        }
        if let Some(Some(meter)) = self.meters.get_mut(index) {
            meter.forget();
        }
    }

    /// The hub's store is quarantined: who is enrolled is noted beside it, the rest the nodes know.
    pub(super) fn lose_hub_store(&mut self) {
        self.hub_died("and its store is lost");
        self.accounts.hub_ended(&self.hub.durable());
        self.accounts.put_back_hub_books(&HubBooks::default());
        self.hub.disk.wipe();
    }

    /// A record of a node's store can't be read any more: it is counted when its turn comes, asked for
    /// again, or made anew.
    pub(super) fn damage_a_record(&mut self, index: usize) {
        let place = usize::try_from(self.random.next_u32()).unwrap_or(0);
        let tree = match self.random.next_u32() % 4 {
            0 => Tree::Outbox,
            1 => Tree::Packs,
            2 => Tree::Desired,
            _ => Tree::Pods,
        };
        let Some(agent) = self.agents.get(index) else { return };
        // What is in memory hides it until the next start.
        let Some((key, value)) = agent.disk.damage(tree, place) else { return };
        if matches!(tree, Tree::Outbox | Tree::Packs) {
            self.accounts.disk_lost(&agent.identity.node, tree, &key, &value);
        } else {
            self.agent_died(index, "and a record of its store is damaged");
        }
        self.note(format!("agent {index}: record {place} of {tree:?} can't be read any more"));
    }

    /// Somebody puts an older copy of a node's store in its place, or makes one.
    pub(super) fn put_back_store(&mut self, index: usize) {
        let Some(agent) = self.agents.get(index) else { return };
        let copy = agent.disk.copy();
        let Some(Some(older)) = self.backups.get_mut(index).map(Option::take) else {
            if let Some(backup) = self.backups.get_mut(index) {
                *backup = Some(copy);
            }
            return;
        };
        self.agent_died(index, "and an older copy of its store is put in its place");
        if let Some(agent) = self.agents.get_mut(index) {
            agent.disk.replace_with(&older);
            self.accounts.node_store_lost(&agent.identity.node);
        }
        if let Some(Some(meter)) = self.meters.get_mut(index) {
            meter.forget();
        }
    }

    /// As [`Self::put_back_store`], at the hub.
    pub(super) fn put_back_hub_store(&mut self) {
        let copy = self.hub.disk.copy();
        let Some((older, books)) = self.hub_backup.take() else {
            self.hub_backup = Some((copy, self.accounts.hub_books()));
            return;
        };
        self.hub_died("and an older copy of its store is put in its place");
        self.accounts.hub_ended(&self.hub.durable());
        self.accounts.put_back_hub_books(&books);
        self.hub.disk.replace_with(&older);
    }
}
