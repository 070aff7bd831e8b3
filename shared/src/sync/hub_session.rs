//! The hub's side of a session with one node.
//!
//! A short greeting is understood only after a full one, or an introduction, in the same session. A first message can be a
//! replay, so it changes nothing: the new session waits beside the old one until a message under its
//! keys shows that the node is there. What can't be opened is answered by an `UnknownSession`, at most
//! once a second.

use super::agent_session::{SessionFault, prologue};
use crate::model::{MonotonicMs, NodeId};
use crate::trust::session::{Responder, SealedSession, SessionPrivateKey, SessionPublicKey};
use crate::wire::{Envelope, Message, decode, encode};

/// The shortest time between two `UnknownSession`: the answer to a flood is a trickle.
const UNKNOWN_INTERVAL_MS: u64 = 1_000;

/// The hub's side of a session with one node.
pub struct HubSession {
    node: NodeId,
    key: SessionPublicKey,
    current: Option<SealedSession>,
    /// Answered, not yet confirmed.
    pending: Option<SealedSession>,
    /// The node has said who it is under the current session.
    introduced: bool,
    last_unknown: Option<MonotonicMs>,
}

/// What came of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// Send this payload.
    Answer(Vec<u8>),
    /// A genuine message of the node.
    Message(Message),
    /// Nothing to do.
    Nothing,
}

impl HubSession {
    /// No session yet with `node`, which enrolled with `key`.
    #[must_use]
    pub fn new(node: NodeId, key: SessionPublicKey) -> Self {
        Self { node, key, current: None, pending: None, introduced: false, last_unknown: None }
    }

    /// A payload from the node's topic. `hub_key` is the hub's own; `seed` is fresh entropy.
    ///
    /// # Errors
    /// When it is not genuine, which changes nothing, or not decodable; one that is genuine and not
    /// decodable still shows that the node has its session.
    pub fn handle_payload(
        &mut self,
        payload: &[u8],
        hub_key: &SessionPrivateKey,
        seed: [u8; 32],
        now: MonotonicMs,
    ) -> Result<Opened, SessionFault> {
        match Envelope::decode(payload)? {
            Envelope::Open(first) => self.handle_open(&first, hub_key, seed),
            Envelope::Sealed { counter, ciphertext } => {
                self.handle_sealed(counter, &ciphertext, now)
            }
            Envelope::Accept(_) | Envelope::UnknownSession => {
                Err(SessionFault::Unexpected("the hub does not open sessions"))
            }
        }
    }

    fn handle_open(
        &mut self,
        first: &[u8],
        hub_key: &SessionPrivateKey,
        seed: [u8; 32],
    ) -> Result<Opened, SessionFault> {
        let (responder, who, _) = Responder::accept(hub_key, &prologue(&self.node), seed, first)?;
        if who != self.key {
            return Err(SessionFault::Unexpected("another key is enrolled for this node"));
        }
        let (session, reply) = responder.reply(&[])?;
        self.pending = Some(session);
        Ok(Opened::Answer(Envelope::Accept(reply).encode()))
    }

    fn handle_sealed(
        &mut self,
        counter: u64,
        ciphertext: &[u8],
        now: MonotonicMs,
    ) -> Result<Opened, SessionFault> {
        let by_pending =
            self.pending.as_mut().and_then(|session| session.open(counter, ciphertext).ok());
        if let Some(plaintext) = by_pending {
            self.current = self.pending.take();
            self.introduced = false;
            return self.message(&plaintext, now);
        }
        match &mut self.current {
            Some(session) => match session.open(counter, ciphertext) {
                Ok(plaintext) => self.message(&plaintext, now),
                // A message of a session that the node has and this hub has not.
                Err(_) => Ok(self.ask_to_greet(now)),
            },
            None => Ok(self.ask_to_greet(now)),
        }
    }

    fn message(&mut self, plaintext: &[u8], now: MonotonicMs) -> Result<Opened, SessionFault> {
        let message = decode("message", plaintext, plaintext.len())?;
        self.introduced |= matches!(message, Message::Hello(_) | Message::Introduction(_));
        match message {
            Message::Resume(_) if !self.introduced => Ok(self.ask_to_greet(now)),
            message => Ok(Opened::Message(message)),
        }
    }

    /// Whether the node has greeted in full in this session: what it leaves out since is known.
    #[must_use]
    pub fn is_introduced(&self) -> bool {
        self.introduced
    }

    /// Asks the node to greet anew: it speaks, and this hub took it for gone.
    pub fn ask_to_greet(&mut self, now: MonotonicMs) -> Opened {
        if self.last_unknown.is_some_and(|last| now.since_ms(last) < UNKNOWN_INTERVAL_MS) {
            return Opened::Nothing;
        }
        self.last_unknown = Some(now);
        Opened::Answer(Envelope::UnknownSession.encode())
    }

    /// The payload that carries `message`.
    ///
    /// # Errors
    /// When no session is open.
    pub fn seal(&mut self, message: &Message) -> Result<Vec<u8>, SessionFault> {
        let no_session = SessionFault::Unexpected("there is no session");
        let session = self.current.as_mut().ok_or(no_session)?;
        let sealed = session.seal(&encode("message", message)?)?;
        let (counter, ciphertext) = (sealed.counter, sealed.ciphertext);
        Ok(Envelope::Sealed { counter, ciphertext }.encode())
    }

    /// Whether messages can be sealed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.current.is_some()
    }
}

#[cfg(test)]
mod tests;
