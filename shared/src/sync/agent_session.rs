//! The agent's side of a session: opens it, greets after each reconnection, seals and opens.
//!
//! A session outlives a reconnection of MQTT: then a short greeting inside it is enough. An introduction
//! follows a handshake; a full greeting goes where either of them had no answer that could be used. Only when the hub says that it does
//! not know the session, or stays silent, is a new one opened. What anybody can forge (an `Accept`, an
//! `UnknownSession`) costs at most one handshake a second.

use super::retry::Retry;
use crate::model::{MonotonicMs, NodeId};
use crate::trust::session::{
    Initiator, SealedSession, SessionError, SessionPrivateKey, SessionPublicKey,
};
use crate::wire::{DecodeError, EncodeError, Envelope, Message, decode, encode};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use thiserror::Error;

/// Greetings without a reply before the session is given up for a new one.
const GREETINGS_MAX: u32 = 2;

/// The shortest time between two handshakes: what a forged envelope can cost.
const HANDSHAKE_INTERVAL_MS: u64 = 1_000;

/// What both sides mix into the handshake, so that a session of one node can't be taken for
/// another's, nor one protocol for another.
pub(super) fn prologue(node: &NodeId) -> Vec<u8> {
    format!("hinterland/1/{node}").into_bytes()
}

/// Why an envelope was not taken, or a message could not be sealed.
#[derive(Debug, Error)]
pub enum SessionFault {
    /// The payload is not an envelope.
    #[error("could not decode an envelope or the message in it")]
    Decode(#[from] DecodeError),
    /// A message could not be encoded.
    #[error("could not encode a message")]
    Encode(#[from] EncodeError),
    /// A handshake or a seal is not genuine, or was seen before.
    #[error("could not open a handshake or a sealed message")]
    Sealed(#[from] SessionError),
    /// An envelope that makes no sense now.
    #[error("an envelope came that is not expected while {0}")]
    Unexpected(&'static str),
}

/// The agent's side of a session.
pub struct AgentSession {
    node: NodeId,
    key: SessionPrivateKey,
    hub: SessionPublicKey,
    random: ChaCha20Rng,
    state: State,
    session: Option<SealedSession>,
    /// The hub has answered a greeting of this session that says who this is, and every greeting since.
    introduced: bool,
    /// The hub did not take an introduction: the next greeting says everything.
    says_all: bool,
    retry: Retry,
    last_handshake: Option<MonotonicMs>,
}

enum State {
    /// No link.
    Offline,
    /// A handshake is due.
    Unopened,
    /// The first message of a handshake is sent.
    Opening(Box<Initiator>),
    /// A session is there; a greeting is due.
    Ungreeted,
    /// A greeting is sent.
    Greeting,
    /// The hub has replied.
    Established,
}

/// What the session wants sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// This payload.
    Payload(Vec<u8>),
    /// A [`crate::wire::Hello`], sealed by [`AgentSession::seal`].
    Hello,
    /// A [`crate::wire::Introduction`], sealed likewise.
    Introduction,
    /// A [`crate::wire::Resume`], sealed likewise.
    Resume,
}

impl AgentSession {
    /// A session of `node` with the hub that has `hub` as its key; not open yet.
    #[must_use]
    pub fn new(
        node: NodeId,
        key: SessionPrivateKey,
        hub: SessionPublicKey,
        seed: [u8; 32],
    ) -> Self {
        Self {
            node,
            key,
            hub,
            random: ChaCha20Rng::from_seed(seed),
            state: State::Offline,
            session: None,
            introduced: false,
            says_all: false,
            retry: Retry::default(),
            last_handshake: None,
        }
    }

    /// Whether the hub has replied to a greeting on this link.
    #[must_use]
    pub fn is_established(&self) -> bool {
        matches!(self.state, State::Established)
    }

    /// A word for status and logs.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Offline => "offline",
            State::Unopened | State::Opening(_) => "opening",
            State::Ungreeted | State::Greeting => "greeting",
            State::Established => "established",
        }
    }

    /// The link is up.
    pub fn handle_link_up(&mut self) {
        self.retry.clear();
        self.state = match &self.session {
            Some(session) if !session.needs_rekey() => State::Ungreeted,
            _ => State::Unopened,
        };
    }

    /// The link is down. The session is kept for when it comes back.
    pub fn handle_link_down(&mut self) {
        self.retry.clear();
        self.state = State::Offline;
    }

    /// The hub has started anew: it does not know this session, so that there is no need to ask.
    pub fn forget(&mut self) {
        self.session = None;
        if !matches!(self.state, State::Offline) {
            self.handle_link_up();
        }
    }

    /// The hub did not acknowledge for long: ask whether it still knows this session.
    pub fn greet_again(&mut self) {
        if self.is_established() {
            self.retry.clear();
            (self.introduced, self.says_all) = (false, true);
            self.state = State::Ungreeted;
        }
    }

    /// Whether [`Self::poll_outgoing`] has something to send.
    #[must_use]
    pub fn has_outgoing(&self, now: MonotonicMs) -> bool {
        match self.state {
            State::Unopened => self.may_handshake(now),
            State::Ungreeted => true,
            _ => false,
        }
    }

    /// What to send next, if anything.
    ///
    /// # Errors
    /// When a handshake can't be begun; it is tried again later.
    pub fn poll_outgoing(&mut self, now: MonotonicMs) -> Result<Option<Outgoing>, SessionFault> {
        match self.state {
            State::Unopened if self.may_handshake(now) => self.open(now).map(Some),
            State::Ungreeted => {
                self.state = State::Greeting;
                self.retry.arm(now);
                Ok(Some(match (self.introduced, self.says_all) {
                    (true, _) => Outgoing::Resume,
                    (false, false) => Outgoing::Introduction,
                    (false, true) => Outgoing::Hello,
                }))
            }
            _ => Ok(None),
        }
    }

    fn may_handshake(&self, now: MonotonicMs) -> bool {
        self.retry.deadline().is_none()
            && self.last_handshake.is_none_or(|last| now.since_ms(last) >= HANDSHAKE_INTERVAL_MS)
    }

    fn open(&mut self, now: MonotonicMs) -> Result<Outgoing, SessionFault> {
        self.retry.arm(now);
        self.last_handshake = Some(now);
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        let prologue = prologue(&self.node);
        let (initiator, first) = Initiator::start(&self.key, &self.hub, &prologue, seed, &[])?;
        self.state = State::Opening(Box::new(initiator));
        Ok(Outgoing::Payload(Envelope::Open(first).encode()))
    }

    /// A payload from the hub's topic; the message in it, if it holds one.
    ///
    /// # Errors
    /// When it is not genuine, not decodable or not expected; nothing has changed then.
    pub fn handle_payload(&mut self, payload: &[u8]) -> Result<Option<Message>, SessionFault> {
        match Envelope::decode(payload)? {
            Envelope::Accept(reply) => self.handle_accept(&reply).map(|()| None),
            Envelope::Sealed { counter, ciphertext } => {
                self.handle_sealed(counter, &ciphertext).map(Some)
            }
            Envelope::UnknownSession => {
                self.handle_unknown();
                Ok(None)
            }
            Envelope::Open(_) => Err(SessionFault::Unexpected("the agent opens sessions itself")),
        }
    }

    fn handle_accept(&mut self, reply: &[u8]) -> Result<(), SessionFault> {
        let State::Opening(initiator) = &mut self.state else {
            return Err(SessionFault::Unexpected("no handshake is under way"));
        };
        let (session, _) = initiator.finish(reply)?;
        self.session = Some(session);
        self.introduced = false;
        self.retry.clear();
        self.state = State::Ungreeted;
        Ok(())
    }

    fn handle_sealed(&mut self, counter: u64, ciphertext: &[u8]) -> Result<Message, SessionFault> {
        let no_session = SessionFault::Unexpected("there is no session");
        let session = self.session.as_mut().ok_or(no_session)?;
        let plaintext = session.open(counter, ciphertext)?;
        let message = decode("message", &plaintext, plaintext.len())?;
        let answers = matches!(message, Message::HelloReply(_) | Message::Resumed(_));
        if answers && matches!(self.state, State::Greeting) {
            self.retry.clear();
            (self.introduced, self.says_all) = (true, false);
            self.state = State::Established;
        }
        Ok(message)
    }

    fn handle_unknown(&mut self) {
        if matches!(self.state, State::Ungreeted | State::Greeting | State::Established) {
            // It knows the session and not what was shown in it.
            self.says_all |= matches!(self.state, State::Greeting) && !self.introduced;
            self.state = State::Unopened;
            self.retry.clear();
        }
    }

    /// The payload that carries `message`.
    ///
    /// # Errors
    /// When no session is open.
    pub fn seal(&mut self, message: &Message) -> Result<Vec<u8>, SessionFault> {
        let no_session = SessionFault::Unexpected("there is no session");
        let session = self.session.as_mut().ok_or(no_session)?;
        let sealed = session.seal(&encode("message", message)?)?;
        let (counter, ciphertext) = (sealed.counter, sealed.ciphertext);
        Ok(Envelope::Sealed { counter, ciphertext }.encode())
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonotonicMs> {
        let pause = |last: MonotonicMs| last.plus_ms(HANDSHAKE_INTERVAL_MS);
        match self.state {
            State::Unopened => self.retry.deadline().or(self.last_handshake.map(pause)),
            _ => self.retry.deadline(),
        }
    }

    /// Repeats a handshake or a greeting that was not answered.
    pub fn handle_timeout(&mut self, now: MonotonicMs) {
        if !self.retry.expire(now) {
            return;
        }
        match self.state {
            State::Opening(_) => self.state = State::Unopened,
            State::Greeting if self.retry.attempts() >= GREETINGS_MAX => {
                self.says_all = true;
                self.state = State::Unopened;
            }
            State::Greeting => {
                (self.introduced, self.says_all) = (false, true);
                self.state = State::Ungreeted;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
