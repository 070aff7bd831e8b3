//! The bounded way from a broker to the hub. Messages are refused when it is nearly full, so that
//! what is told about connections always finds room soon.

use super::{BrokerEvent, Tally};
use shared::model::NodeId;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One in this many places is kept for events about connections.
const RESERVED_SHARE: usize = 8;

#[derive(Debug, Clone)]
pub(super) struct EventSink {
    events: mpsc::Sender<BrokerEvent>,
    tally: Arc<Tally>,
}

impl EventSink {
    pub(super) fn new(events: mpsc::Sender<BrokerEvent>, tally: Arc<Tally>) -> Self {
        Self { events, tally }
    }

    /// Hands over a message if there is room; says whether there was.
    pub(super) fn offer(&self, node: NodeId, payload: Vec<u8>) -> bool {
        let payload_bytes = payload.len();
        let reserved = self.events.max_capacity() / RESERVED_SHARE;
        let place = self.events.try_reserve().ok();
        let Some(place) = place.filter(|_| self.events.capacity() + 1 > reserved) else {
            Tally::add(&self.tally.refused_queue_full, 1);
            return false;
        };
        // Counted first: whoever takes the message finds it counted.
        Tally::add(&self.tally.messages_received, 1);
        Tally::add(&self.tally.payload_bytes_received, payload_bytes);
        place.send(BrokerEvent::Received { node, payload });
        true
    }

    /// Hands over what must not be lost; waits for room. Says whether the hub still listens.
    pub(super) async fn tell(&self, event: BrokerEvent) -> bool {
        self.events.send(event).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_refused_while_there_is_still_room_for_news_of_connections() {
        let (events, mut received) = mpsc::channel(8);
        let tally = Arc::new(Tally::default());
        let sink = EventSink::new(events, Arc::clone(&tally));
        let node = NodeId::new("mast-17").unwrap();
        let accepted = (0..20).filter(|_| sink.offer(node.clone(), vec![0; 3])).count();
        assert_eq!(accepted, 7);
        assert!(sink.tell(BrokerEvent::Disconnected { node }).await);
        assert_eq!(tally.read().refused_queue_full, 13);
        assert_eq!(tally.read().payload_bytes_received, 21);
        let mut last = None;
        while let Ok(event) = received.try_recv() {
            last = Some(event);
        }
        assert!(matches!(last, Some(BrokerEvent::Disconnected { .. })));
    }
}
