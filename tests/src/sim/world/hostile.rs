//! What a hostile broker does, and whoever has stolen a part of the keys.

use super::super::hub::SimHub;
use super::super::scene;
use super::super::thief::{Found, Thief};
use super::{HubEvent, Way, World, chance, key};
use edge_agent::core::read_stored_state;
use rand_core::RngCore;
use shared::trust::session::SessionPrivateKey;
use shared::wire::{CallMethod, Envelope};

impl World {
    /// The broker's owner makes something up.
    pub(super) fn forge(&mut self, index: usize) {
        let mut noise = vec![0; 60];
        self.random.fill_bytes(&mut noise);
        let forged = match self.random.next_u32() % 4 {
            0 => Envelope::UnknownSession,
            1 => Envelope::Accept(noise),
            2 => Envelope::Open(noise),
            _ => Envelope::Sealed { counter: u64::from(self.random.next_u32()), ciphertext: noise },
        };
        let payload = forged.encode();
        let way = if chance(&mut self.random, 500) { Way::Up(index) } else { Way::Down(index) };
        self.note(format!("a forgery goes {way:?}"));
        self.deliver(way, payload);
    }

    /// The broker's owner brings a message of the past: again, or to somebody it was not for.
    pub(super) fn replay(&mut self) {
        let Some((way, payload)) = self.link.any(&mut self.random) else { return };
        let count = u32::try_from(self.agents.len()).unwrap_or(1).max(1);
        let other = usize::try_from(self.random.next_u32() % count).unwrap_or(0);
        let way = match way {
            Way::Up(_) => Way::Up(other),
            Way::Down(_) => Way::Down(other),
        };
        self.note(format!("a message is brought {way:?}"));
        self.deliver(way, payload);
    }

    /// Somebody between the nodes and the hub who has keys of his own: hears what the nodes send, and
    /// what he signs, acknowledges and asks for reaches them. Or he is gone again.
    pub(super) fn toggle_impostor(&mut self) {
        let came = self.impostor.is_none();
        self.note(format!("an impostor is between: {came}"));
        self.impostor = None;
        if came {
            let keys = (key(&mut self.random), key(&mut self.random));
            self.let_in_impostor(keys.0, keys.1);
        }
    }

    /// An impostor with these keys, who wants nobody to run anything.
    pub(in super::super) fn let_in_impostor(&mut self, session: [u8; 32], signing: [u8; 32]) {
        let mut impostor = SimHub::new(session, signing);
        let seed = key(&mut self.random);
        impostor.start(seed, &self.registry, self.present());
        self.impostor = Some(impostor);
        self.step_impostor(HubEvent::Manifests(Default::default()));
    }

    /// Somebody with the hub's own key for sessions takes its place; what he acknowledges is in no
    /// books.
    pub(in super::super) fn steal_session_key(&mut self) {
        let (session, signing) = (self.hub.session_key(), key(&mut self.random));
        self.books_are_closed = true;
        self.let_in_impostor(session, signing);
        (0..self.agents.len()).for_each(|index| self.disconnect(index));
    }

    /// He asks a node for a log; whether it answered.
    pub(in super::super) fn impostor_calls(&mut self, index: usize) -> Result<bool, String> {
        let (ticket, timeout_ms) = (u64::MAX, 60_000);
        let pod = "default/ocr-0".parse().map_err(|error| format!("{error}"))?;
        let (node, method) = (scene::node(index), CallMethod::TailLog { pod, lines: 10 });
        self.impostor_was_answered = 0;
        self.step_impostor(HubEvent::Call { ticket, node, method, timeout_ms });
        self.run_for(u64::from(timeout_ms) / 2)?;
        Ok(self.impostor_was_answered > 0)
    }

    /// Somebody who has the hub's key for sessions and what lies at one node takes the hub's place
    /// towards another, until he is caught.
    pub(in super::super) fn rob(&mut self, from: usize, to: usize) -> Option<()> {
        let (robbed, victim) = (self.agents.get(from)?, self.agents.get(to)?);
        let stored = read_stored_state(&robbed.disk).ok()?;
        let (node, header) = (robbed.identity.node.clone(), stored.desired_header?);
        let found = Found { node, items: stored.desired, header };
        let public = SessionPrivateKey::from_bytes(victim.identity.session_key).public();
        let signer = victim.identity.hub_signing_key;
        let victim = (victim.identity.node.clone(), public);
        let thief = Thief::new(self.hub.session_key(), &signer, found, victim)?;
        self.thief = Some((to, thief));
        Some(())
    }

    /// The thief is caught.
    pub(in super::super) fn catch_thief(&mut self) {
        if let Some((index, _)) = self.thief.take() {
            self.disconnect(index);
        }
    }

    /// Whether a thief hears this in the hub's place. He answers.
    pub(super) fn answers_thief(&mut self, index: usize, payload: &[u8]) -> bool {
        let Some((_, thief)) = self.thief.as_mut().filter(|(victim, _)| *victim == index) else {
            return false;
        };
        let seed = key(&mut self.random);
        for answer in thief.handle(payload, seed, self.now) {
            self.link.send(Way::Down(index), answer, self.now, &mut self.random);
        }
        true
    }

    /// What an impostor makes of `event` reaches the nodes.
    pub(super) fn step_impostor(&mut self, event: HubEvent) {
        let now = self.present();
        let Some(impostor) = &mut self.impostor else { return };
        let mut outcome = impostor.step([event], now, &mut |_| false);
        // He does not wait until what he says is durable.
        if let Some(core) = impostor.core.as_mut() {
            core.handle_timeout(now);
        }
        outcome.sent.extend(impostor.step([], now, &mut |_| false).sent);
        self.impostor_was_answered += outcome.ended_calls.len();
        for (node, payload) in outcome.sent {
            if let Some(index) = scene::index_of(&node) {
                self.link.send(Way::Down(index), payload, now.monotonic, &mut self.random);
            }
        }
    }
}
