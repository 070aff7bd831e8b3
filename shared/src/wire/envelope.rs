//! The MQTT payload: a version, a kind, and bytes that the broker can't read.
//!
//! `[version, kind, …]` as a CBOR array. Nothing in an envelope is believed before a session's keys
//! or a handshake have vouched for it; [`Envelope::UnknownSession`] is a hint that anybody can forge
//! and that costs the receiver one rate-limited handshake at most.

use super::codec::{DecodeError, EncodeError, decode, encode};
use crate::limits::MQTT_PAYLOAD_BYTES_MAX;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_bytes::{ByteBuf, Bytes};
use std::fmt;

/// The version of the envelope and of everything inside it.
pub const ENVELOPE_VERSION: u64 = 1;

/// One MQTT payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Envelope {
    /// Agent to hub: the first message of a Noise IK handshake.
    Open(Vec<u8>),
    /// Hub to agent: the second message of the handshake.
    Accept(Vec<u8>),
    /// Either way: a [`super::Message`] sealed under the session's keys.
    Sealed {
        /// The nonce; each is used once.
        counter: u64,
        /// The sealed message with its 16-byte tag.
        ciphertext: Vec<u8>,
    },
    /// Hub to agent: the hub holds no session that opens what the agent sent.
    UnknownSession,
}

impl Envelope {
    /// The bytes of the MQTT payload.
    ///
    /// # Errors
    /// Never for values of this type; the signature is the codec's.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let what = "envelope";
        match self {
            Self::Open(bytes) => encode(what, &(ENVELOPE_VERSION, 0_u8, Bytes::new(bytes))),
            Self::Accept(bytes) => encode(what, &(ENVELOPE_VERSION, 1_u8, Bytes::new(bytes))),
            Self::Sealed { counter, ciphertext } => {
                encode(what, &(ENVELOPE_VERSION, 2_u8, *counter, Bytes::new(ciphertext)))
            }
            Self::UnknownSession => encode(what, &(ENVELOPE_VERSION, 3_u8)),
        }
    }

    /// The envelope in an MQTT payload.
    ///
    /// # Errors
    /// [`DecodeError`], among them [`DecodeError::Version`] for a version of the future.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        match decode("envelope", payload, MQTT_PAYLOAD_BYTES_MAX)? {
            Versioned::Known(envelope) => Ok(envelope),
            Versioned::Unknown(found) => {
                Err(DecodeError::Version { found, expected: ENVELOPE_VERSION })
            }
        }
    }
}

enum Versioned {
    Known(Envelope),
    Unknown(u64),
}

impl<'de> Deserialize<'de> for Versioned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EnvelopeVisitor)
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Versioned;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array [version, kind, …]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Versioned, A::Error> {
        let version: u64 = next(&mut parts, "version")?;
        if version != ENVELOPE_VERSION {
            while parts.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            return Ok(Versioned::Unknown(version));
        }
        let kind: u8 = next(&mut parts, "kind")?;
        let envelope = match kind {
            0 => Envelope::Open(next::<ByteBuf, A>(&mut parts, "handshake")?.into_vec()),
            1 => Envelope::Accept(next::<ByteBuf, A>(&mut parts, "handshake")?.into_vec()),
            2 => Envelope::Sealed {
                counter: next(&mut parts, "counter")?,
                ciphertext: next::<ByteBuf, A>(&mut parts, "ciphertext")?.into_vec(),
            },
            3 => Envelope::UnknownSession,
            other => return Err(A::Error::custom(format!("envelope kind {other} is unknown"))),
        };
        Ok(Versioned::Known(envelope))
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    parts: &mut A,
    what: &str,
) -> Result<T, A::Error> {
    parts.next_element()?.ok_or_else(|| A::Error::custom(format!("the {what} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_envelope() -> impl Strategy<Value = Envelope> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            bytes().prop_map(Envelope::Open),
            bytes().prop_map(Envelope::Accept),
            (any::<u64>(), bytes())
                .prop_map(|(counter, ciphertext)| Envelope::Sealed { counter, ciphertext }),
            Just(Envelope::UnknownSession),
        ]
    }

    #[test]
    fn a_sealed_envelope_costs_six_bytes_for_the_first_messages() {
        let sealed = Envelope::Sealed { counter: 9, ciphertext: vec![0; 100] };
        assert_eq!(sealed.encode().unwrap().len() - 100, 6);
    }

    #[test]
    fn a_version_of_the_future_is_named() {
        let payload = encode("envelope", &(2_u8, 0_u8, "what then?")).unwrap();
        let error = Envelope::decode(&payload).unwrap_err();
        assert_eq!(error.to_string(), "envelope version 2 is not supported: expected 1");
    }

    proptest! {
        #[test]
        fn an_envelope_survives_encoding(envelope in any_envelope()) {
            prop_assert_eq!(Envelope::decode(&envelope.encode().unwrap()).unwrap(), envelope);
        }

        #[test]
        fn no_payload_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Envelope::decode(&bytes);
        }
    }
}
