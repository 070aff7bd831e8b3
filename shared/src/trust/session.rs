//! Sealed sessions between agent and hub, end to end through a broker that is not trusted.
//!
//! `Noise_IK_25519_ChaChaPoly_SHA256` (noiseprotocol.org, revision 34): one message each way, both
//! static keys known from enrolment. Afterwards every message travels under an explicit counter, so
//! that it may be lost, repeated and reordered.
//!
//! It refuses to send anything, to ask for entropy or time, and to decide who may have a session:
//! [`Responder::accept`] says whose key it was, and the caller compares.
//!
//! Two limits of the pattern that a caller must know: the payload of the first message can be
//! replayed, and is not forward secret. A replayed first message makes a session that its sender
//! can't use; so a responder keeps its old session until the new one [is confirmed].
//!
//! [is confirmed]: SealedSession::is_confirmed

mod keys;
mod seeded_resolver;
#[cfg(test)]
mod tests;
mod window;

pub use super::key_form::NotAKey;
pub use keys::{SessionPrivateKey, SessionPublicKey};
pub use window::REPLAY_WINDOW_COUNTERS;

use super::key_form::Purpose;
use crate::limits::MQTT_PAYLOAD_BYTES_MAX;
use seeded_resolver::SeededResolver;
use snow::{Builder, HandshakeState, StatelessTransportState};
use std::fmt;
use thiserror::Error;
use window::{Refused, ReplayWindow};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_SHA256";

/// What sealing adds to a message: the tag of ChaCha20-Poly1305.
pub const SEAL_OVERHEAD_BYTES: usize = 16;

/// What the first message adds to its payload: a key, a sealed key, a tag.
pub const FIRST_MESSAGE_OVERHEAD_BYTES: usize = 32 + 32 + 16 + 16;

/// What the reply adds to its payload: a key and a tag.
pub const REPLY_OVERHEAD_BYTES: usize = 32 + 16;

/// One sealed message or handshake message: what fits one MQTT payload. Larger ones are refused
/// before any cryptography is done for them.
pub const SESSION_MESSAGE_BYTES_MAX: usize = MQTT_PAYLOAD_BYTES_MAX;

/// Messages in one direction after which a session should be replaced. ChaCha20-Poly1305 bears far
/// more; the bound is so that a key's exposure has an end, and is not met in years of traffic.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 32;

/// Why a session could not be opened, or a message not sealed or opened.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A handshake message was forged, damaged, for another key or another prologue; or made here
    /// with a key that is none.
    #[error("could not {attempted}")]
    Handshake {
        /// What was attempted.
        attempted: &'static str,
        /// What the Noise library says.
        #[source]
        source: snow::Error,
    },
    /// The handshake has brought its session forth already.
    #[error("this handshake is finished: the session comes from its first true reply")]
    Finished,
    /// A message could not be sealed.
    #[error("could not seal message {counter}")]
    Seal {
        /// The counter that it would have had.
        counter: u64,
        /// What the Noise library says.
        #[source]
        source: snow::Error,
    },
    /// A message is forged, damaged or of another session.
    #[error("message {counter} is not of this session, or was changed on its way")]
    Forged {
        /// Its counter.
        counter: u64,
        /// What the Noise library says.
        #[source]
        source: snow::Error,
    },
    /// A message with this counter was opened before.
    #[error("message {counter} was opened before")]
    Replayed {
        /// Its counter.
        counter: u64,
    },
    /// A message is so far behind the newest that it is no longer known whether it was opened.
    #[error(
        "message {counter} is more than {REPLAY_WINDOW_COUNTERS} behind the newest, {highest:?}"
    )]
    TooOld {
        /// Its counter.
        counter: u64,
        /// The highest counter that was opened.
        highest: Option<u64>,
    },
    /// A message is larger than any that is sent.
    #[error("a message of {bytes} bytes: at most {SESSION_MESSAGE_BYTES_MAX} are taken")]
    TooLarge {
        /// Its size, sealed.
        bytes: usize,
    },
}

/// The agent's side of a handshake that waits for its reply.
pub struct Initiator {
    handshake: Option<HandshakeState>,
}

/// The hub's side of a handshake, between the first message and the reply to it.
pub struct Responder {
    handshake: HandshakeState,
}

/// A message under the keys of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Names the message within its direction: 0, 1, 2 …
    pub counter: u64,
    /// The plaintext's length and [`SEAL_OVERHEAD_BYTES`] more.
    pub ciphertext: Vec<u8>,
}

/// An open session: seals what goes, opens what comes.
pub struct SealedSession {
    transport: StatelessTransportState,
    next_counter: u64,
    received: ReplayWindow,
}

impl Initiator {
    /// Begins a handshake: its state, and the first message with `payload` sealed to `remote`.
    ///
    /// Both ends must give the same `prologue`. The same seed makes the same message, so a seed is
    /// used once.
    ///
    /// # Errors
    /// [`SessionError::TooLarge`], or [`SessionError::Handshake`] when `remote` is no usable key.
    pub fn start(
        local: &SessionPrivateKey,
        remote: &SessionPublicKey,
        prologue: &[u8],
        seed: [u8; 32],
        payload: &[u8],
    ) -> Result<(Self, Vec<u8>), SessionError> {
        let attempted = "begin a session";
        let failed = |source| SessionError::Handshake { attempted, source };
        let mut handshake = builder(local, prologue, seed, Purpose::Initiator)
            .and_then(|builder| builder.remote_public_key(&remote.0)?.build_initiator())
            .map_err(failed)?;
        let first = write(&mut handshake, payload, FIRST_MESSAGE_OVERHEAD_BYTES, attempted)?;
        Ok((Self { handshake: Some(handshake) }, first))
    }

    /// Takes the reply: the session, and the reply's payload.
    ///
    /// A refused reply changes nothing: the handshake still finishes with the true one.
    ///
    /// # Errors
    /// [`SessionError::Handshake`] for a reply that is not the remote's to this handshake,
    /// [`SessionError::TooLarge`], [`SessionError::Finished`] after a reply was taken.
    pub fn finish(&mut self, reply: &[u8]) -> Result<(SealedSession, Vec<u8>), SessionError> {
        let handshake = self.handshake.as_mut().ok_or(SessionError::Finished)?;
        let payload = read(handshake, reply, "take the reply to a session's first message")?;
        let handshake = self.handshake.take().ok_or(SessionError::Finished)?;
        Ok((SealedSession::new(handshake)?, payload))
    }
}

impl Responder {
    /// Takes a first message: the handshake, whose key sent it, and its payload.
    ///
    /// # Errors
    /// [`SessionError::Handshake`] for a message that was not made for `local` with this prologue,
    /// [`SessionError::TooLarge`].
    pub fn accept(
        local: &SessionPrivateKey,
        prologue: &[u8],
        seed: [u8; 32],
        first_message: &[u8],
    ) -> Result<(Self, SessionPublicKey, Vec<u8>), SessionError> {
        let attempted = "take a session's first message";
        let failed = |source| SessionError::Handshake { attempted, source };
        let mut handshake = builder(local, prologue, seed, Purpose::Responder)
            .and_then(Builder::build_responder)
            .map_err(failed)?;
        let payload = read(&mut handshake, first_message, attempted)?;
        let remote = handshake.get_remote_static().and_then(|key| key.try_into().ok());
        let remote = remote.map(SessionPublicKey).ok_or_else(|| failed(snow::Error::Input))?;
        Ok((Self { handshake }, remote, payload))
    }

    /// Answers: the session, and the reply with `payload` sealed to the initiator.
    ///
    /// # Errors
    /// [`SessionError::TooLarge`], [`SessionError::Handshake`].
    pub fn reply(mut self, payload: &[u8]) -> Result<(SealedSession, Vec<u8>), SessionError> {
        let attempted = "answer a session's first message";
        let reply = write(&mut self.handshake, payload, REPLY_OVERHEAD_BYTES, attempted)?;
        Ok((SealedSession::new(self.handshake)?, reply))
    }
}

impl SealedSession {
    fn new(handshake: HandshakeState) -> Result<Self, SessionError> {
        let failed = |source| SessionError::Handshake { attempted: "open a session", source };
        let transport = handshake.into_stateless_transport_mode().map_err(failed)?;
        Ok(Self { transport, next_counter: 0, received: ReplayWindow::new() })
    }

    /// Seals one message under the next counter.
    ///
    /// # Errors
    /// [`SessionError::TooLarge`]; [`SessionError::Seal`] when all counters are used up.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<Sealed, SessionError> {
        let counter = self.next_counter;
        let mut ciphertext = buffer_for(plaintext, SEAL_OVERHEAD_BYTES)?;
        let written = self.transport.write_message(counter, plaintext, &mut ciphertext);
        ciphertext.truncate(written.map_err(|source| SessionError::Seal { counter, source })?);
        self.next_counter += 1;
        Ok(Sealed { counter, ciphertext })
    }

    /// Opens one message of the other end. Each counter opens once; the window moves only after
    /// the tag was verified, so a forged counter shuts nobody out.
    ///
    /// # Errors
    /// [`SessionError::Replayed`], [`SessionError::TooOld`], [`SessionError::Forged`],
    /// [`SessionError::TooLarge`]. None of them changes the session.
    pub fn open(&mut self, counter: u64, ciphertext: &[u8]) -> Result<Vec<u8>, SessionError> {
        check_size(ciphertext.len())?;
        self.received.check(counter).map_err(|refused| match refused {
            Refused::Seen => SessionError::Replayed { counter },
            Refused::TooOld => SessionError::TooOld { counter, highest: self.received.highest() },
        })?;
        let mut plaintext = vec![0; ciphertext.len()];
        let read = self.transport.read_message(counter, ciphertext, &mut plaintext);
        plaintext.truncate(read.map_err(|source| SessionError::Forged { counter, source })?);
        self.received.mark(counter);
        Ok(plaintext)
    }

    /// As if this many messages had been sealed.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, counter: u64) {
        self.next_counter = counter;
    }

    /// Whether a new session should replace this one ([`REKEY_AFTER_MESSAGES`] in a direction).
    #[must_use]
    pub fn needs_rekey(&self) -> bool {
        let received = self.received.highest().map_or(0, |highest| highest.saturating_add(1));
        self.next_counter.max(received) >= REKEY_AFTER_MESSAGES
    }

    /// Whether a message of the other end was opened: on the responder's side the first proof that
    /// the first message was no replay.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.received.highest().is_some()
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").field("waits", &self.handshake.is_some()).finish()
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}

impl fmt::Debug for SealedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSession")
            .field("next_counter", &self.next_counter)
            .field("highest_received", &self.received.highest())
            .finish_non_exhaustive()
    }
}

fn builder<'a>(
    local: &'a SessionPrivateKey,
    prologue: &'a [u8],
    seed: [u8; 32],
    purpose: Purpose,
) -> Result<Builder<'a>, snow::Error> {
    let resolver = Box::new(SeededResolver::new(seed, purpose));
    Builder::with_resolver(PATTERN.parse()?, resolver)
        .local_private_key(local.to_bytes())?
        .prologue(prologue)
}

fn check_size(bytes: usize) -> Result<(), SessionError> {
    let fits = bytes <= SESSION_MESSAGE_BYTES_MAX;
    if fits { Ok(()) } else { Err(SessionError::TooLarge { bytes }) }
}

fn buffer_for(payload: &[u8], overhead_bytes: usize) -> Result<Vec<u8>, SessionError> {
    let bytes = payload.len().saturating_add(overhead_bytes);
    check_size(bytes)?;
    Ok(vec![0; bytes])
}

fn write(
    handshake: &mut HandshakeState,
    payload: &[u8],
    overhead_bytes: usize,
    attempted: &'static str,
) -> Result<Vec<u8>, SessionError> {
    let mut message = buffer_for(payload, overhead_bytes)?;
    let written = handshake.write_message(payload, &mut message);
    message.truncate(written.map_err(|source| SessionError::Handshake { attempted, source })?);
    Ok(message)
}

fn read(
    handshake: &mut HandshakeState,
    message: &[u8],
    attempted: &'static str,
) -> Result<Vec<u8>, SessionError> {
    check_size(message.len())?;
    let mut payload = vec![0; message.len()];
    let read = handshake.read_message(message, &mut payload);
    payload.truncate(read.map_err(|source| SessionError::Handshake { attempted, source })?);
    Ok(payload)
}
