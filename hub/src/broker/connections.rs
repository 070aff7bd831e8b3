//! Who is connected to the embedded broker, and how much waits for whom. Pure bookkeeping, generic
//! over what names a session (`S`) and over the way into it (`W`).
//!
//! A replaced session ends after the new one has begun; only the session that is current counts here.

use shared::model::NodeId;
use std::collections::HashMap;

/// Messages that wait for one node.
pub(super) const WAITING_MESSAGES_MAX: usize = 256;

/// Payload bytes that wait for one node: a map update of the largest size and some more.
pub(super) const WAITING_BYTES_MAX: usize = 5 * 1024 * 1024;

/// The connections by node.
#[derive(Debug)]
pub(super) struct Connections<S, W> {
    by_node: HashMap<NodeId, Connection<S, W>>,
}

#[derive(Debug)]
struct Connection<S, W> {
    session: S,
    way: W,
    phase: Phase,
    /// The hub was told of this session, so it must be told of its end.
    announced: bool,
    /// What the node said before the broker had noted its subscription: its greeting.
    first_words: Option<Vec<u8>>,
    waiting_messages: usize,
    waiting_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Connected, not subscribed yet.
    Joining,
    /// Subscribed to its topic.
    Reachable,
    /// Kicked: nothing is accepted any more, the end of the session is still to come.
    Cut,
}

/// A session whose node has begun another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replaced<W> {
    pub(super) way: W,
    /// The hub was told of it.
    pub(super) announced: bool,
}

/// Why nothing can be sent to a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoWay {
    NotConnected,
    Full,
}

impl<S, W> Default for Connections<S, W> {
    fn default() -> Self {
        Self { by_node: HashMap::new() }
    }
}

impl<S: PartialEq, W: Clone> Connections<S, W> {
    /// A session began; the one that it replaces.
    pub(super) fn begin(&mut self, node: NodeId, session: S, way: W) -> Option<Replaced<W>> {
        let connection = Connection {
            session,
            way,
            phase: Phase::Joining,
            announced: false,
            first_words: None,
            waiting_messages: 0,
            waiting_bytes: 0,
        };
        let replaced = self.by_node.insert(node, connection)?;
        Some(Replaced { way: replaced.way, announced: replaced.announced })
    }

    /// Keeps the first thing that a session's node says before it is reachable. False when it is
    /// reachable, or has spoken already.
    pub(super) fn keep_first_words(&mut self, node: &NodeId, session: &S, words: &[u8]) -> bool {
        let joining = self.joining(node, session).filter(|joined| joined.first_words.is_none());
        let Some(connection) = joining else { return false };
        connection.first_words = Some(words.to_vec());
        true
    }

    /// The session's node subscribed. If that is news: what it said before.
    pub(super) fn make_reachable(&mut self, node: &NodeId, session: &S) -> Option<Option<Vec<u8>>> {
        let connection = self.joining(node, session)?;
        connection.phase = Phase::Reachable;
        connection.announced = true;
        Some(connection.first_words.take())
    }

    fn joining(&mut self, node: &NodeId, session: &S) -> Option<&mut Connection<S, W>> {
        self.current(node, session).filter(|connection| connection.phase == Phase::Joining)
    }

    /// Whether messages of this session are accepted.
    pub(super) fn accepts(&mut self, node: &NodeId, session: &S) -> bool {
        self.current(node, session).is_some_and(|connection| connection.is_reachable())
    }

    /// A session ended. Says whether the hub was told of it.
    pub(super) fn end(&mut self, node: &NodeId, session: &S) -> bool {
        if self.current(node, session).is_none() {
            return false;
        }
        self.by_node.remove(node).is_some_and(|ended| ended.announced)
    }

    /// Reserves room for a message to the node and says which way it goes.
    pub(super) fn reserve(&mut self, node: &NodeId, payload_bytes: usize) -> Result<W, NoWay> {
        let connection = self.by_node.get_mut(node).filter(|connection| connection.is_reachable());
        let connection = connection.ok_or(NoWay::NotConnected)?;
        let waiting_bytes = connection.waiting_bytes.saturating_add(payload_bytes);
        if connection.waiting_messages >= WAITING_MESSAGES_MAX || waiting_bytes > WAITING_BYTES_MAX
        {
            return Err(NoWay::Full);
        }
        connection.waiting_messages += 1;
        connection.waiting_bytes = waiting_bytes;
        Ok(connection.way.clone())
    }

    /// A message to the node was written, or dropped by the broker.
    pub(super) fn release(&mut self, node: &NodeId, session: &S, payload_bytes: usize) {
        if let Some(connection) = self.current(node, session) {
            connection.waiting_messages = connection.waiting_messages.saturating_sub(1);
            connection.waiting_bytes = connection.waiting_bytes.saturating_sub(payload_bytes);
        }
    }

    /// Accepts nothing more from the node, nor for it; gives the way to tell its session.
    pub(super) fn cut(&mut self, node: &NodeId) -> Option<W> {
        let connection = self.by_node.get_mut(node)?;
        connection.phase = Phase::Cut;
        Some(connection.way.clone())
    }

    /// The ways to all sessions.
    pub(super) fn ways(&self) -> Vec<W> {
        self.by_node.values().map(|connection| connection.way.clone()).collect()
    }

    /// How many sessions there are.
    pub(super) fn count(&self) -> usize {
        self.by_node.len()
    }

    fn current(&mut self, node: &NodeId, session: &S) -> Option<&mut Connection<S, W>> {
        self.by_node.get_mut(node).filter(|connection| connection.session == *session)
    }
}

impl<S, W> Connection<S, W> {
    fn is_reachable(&self) -> bool {
        self.phase == Phase::Reachable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::new("mast-17").unwrap()
    }

    fn reachable() -> Connections<u32, ()> {
        let mut connections = Connections::default();
        assert_eq!(connections.begin(node(), 1, ()), None);
        assert_eq!(connections.make_reachable(&node(), &1), Some(None));
        connections
    }

    #[test]
    fn a_node_is_reachable_from_its_subscription_to_the_end_of_its_session() {
        let mut connections = reachable();
        assert_eq!(connections.make_reachable(&node(), &1), None, "no news the second time");
        assert_eq!(connections.reserve(&node(), 10), Ok(()));
        assert!(connections.end(&node(), &1));
        assert_eq!(connections.reserve(&node(), 10), Err(NoWay::NotConnected));
    }

    #[test]
    fn the_late_end_of_a_replaced_session_does_not_end_the_new_one() {
        let mut connections = reachable();
        let replaced = connections.begin(node(), 2, ());
        assert_eq!(replaced, Some(Replaced { way: (), announced: true }), "it was reachable");
        assert!(!connections.accepts(&node(), &1));
        assert_eq!(connections.make_reachable(&node(), &2), Some(None));
        assert!(!connections.end(&node(), &1));
        assert!(connections.accepts(&node(), &2));
    }

    #[test]
    fn a_kicked_session_is_deaf_and_dumb_at_once_and_its_end_is_still_told() {
        let mut connections = reachable();
        assert!(connections.cut(&node()).is_some());
        assert!(!connections.accepts(&node(), &1));
        assert_eq!(connections.make_reachable(&node(), &1), None, "nor back by subscribing");
        assert_eq!(connections.reserve(&node(), 1), Err(NoWay::NotConnected));
        assert!(connections.end(&node(), &1));
    }

    #[test]
    fn a_session_that_is_kicked_before_it_subscribed_stays_unreachable_and_ends_unheard() {
        let mut connections = Connections::default();
        connections.begin(node(), 1, ());
        assert!(connections.cut(&node()).is_some());
        assert_eq!(connections.make_reachable(&node(), &1), None);
        assert!(!connections.end(&node(), &1));
    }

    #[test]
    fn the_first_words_of_a_node_wait_for_its_subscription() {
        let mut connections: Connections<u32, ()> = Connections::default();
        connections.begin(node(), 1, ());
        assert!(connections.keep_first_words(&node(), &1, b"hello"));
        assert!(!connections.keep_first_words(&node(), &1, b"more"), "one message and no more");
        assert_eq!(connections.make_reachable(&node(), &1), Some(Some(b"hello".to_vec())));
        assert!(!connections.keep_first_words(&node(), &1, b"later"), "it is heard by now");
    }

    #[test]
    fn what_waits_for_a_node_is_bounded_in_messages_and_in_bytes() {
        let mut connections = reachable();
        for _ in 0..WAITING_MESSAGES_MAX {
            assert_eq!(connections.reserve(&node(), 1), Ok(()));
        }
        assert_eq!(connections.reserve(&node(), 1), Err(NoWay::Full));
        connections.release(&node(), &1, 1);
        assert_eq!(connections.reserve(&node(), WAITING_BYTES_MAX), Err(NoWay::Full));
        assert_eq!(connections.reserve(&node(), 1), Ok(()));
    }
}
