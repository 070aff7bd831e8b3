//! Somebody in the hub's place who has its key for sessions, and of signed documents only what he found
//! at another node.

use shared::model::{MonotonicMs, NodeId};
use shared::sync::{HubSession, MapContent, MapPublisher, Opened};
use shared::trust::session::{SessionPrivateKey, SessionPublicKey};
use shared::trust::signature::VerifyingKey;
use shared::wire::{HelloReply, MapHeader, MapName, Message, decode, desired_header_context};
use std::collections::BTreeMap;

/// Hands one node the desired state that the hub signed for another.
pub(super) struct Thief {
    key: SessionPrivateKey,
    session: HubSession,
    loot: MapPublisher,
}

/// What lies at a node: its name, its desired state, and the header as the hub signed it.
pub(super) struct Found {
    pub(super) node: NodeId,
    pub(super) items: BTreeMap<String, Vec<u8>>,
    pub(super) header: Vec<u8>,
}

impl Thief {
    /// `None` when what he found is not signed.
    pub(super) fn new(
        key: [u8; 32],
        signer: &VerifyingKey,
        found: Found,
        victim: (NodeId, SessionPublicKey),
    ) -> Option<Self> {
        let signed = signer.open(&found.header, &desired_header_context(&found.node)).ok()?;
        let header: MapHeader = decode("header", &signed, signed.len()).ok()?;
        let content = MapContent::new(found.items);
        let loot = MapPublisher::new(MapName::Desired, content, header.position, found.header);
        let session = HubSession::new(victim.0, victim.1);
        Some(Self { key: SessionPrivateKey::from_bytes(key), session, loot })
    }

    /// What he answers to a payload of the node.
    pub(super) fn handle(
        &mut self,
        payload: &[u8],
        seed: [u8; 32],
        now: MonotonicMs,
    ) -> Vec<Vec<u8>> {
        match self.session.handle_payload(payload, &self.key, seed, now) {
            Ok(Opened::Answer(answer)) => vec![answer],
            Ok(Opened::Message(Message::Hello(_) | Message::Introduction(_))) => self.greet(now),
            _ => vec![],
        }
    }

    fn greet(&mut self, now: MonotonicMs) -> Vec<Vec<u8>> {
        let desired = self.loot.header().to_vec().into();
        let reply = HelloReply { desired, reported: None, watermarks: vec![] };
        let mut said = vec![Message::HelloReply(reply)];
        self.loot.begin(None);
        while let Ok(Some(chunk)) = self.loot.poll_chunk(now) {
            said.push(Message::MapChunk(chunk));
        }
        said.iter().filter_map(|message| self.session.seal(message).ok()).collect()
    }
}
