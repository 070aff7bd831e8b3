//! The MQTT payload: a version, a kind, and bytes that the broker can't read.
//!
//! One byte, the version in its upper half and the kind in its lower; then, of a sealed message, its
//! counter, seven bits a byte from the lowest on, each byte but the last with its highest bit set; then
//! the rest. Nothing in an envelope is believed before a session's keys or a handshake have vouched for
//! it; [`Envelope::UnknownSession`] is a hint that anybody can forge and that costs the receiver one
//! rate-limited handshake at most.

use super::codec::DecodeError;
use crate::limits::MQTT_PAYLOAD_BYTES_MAX;

/// The version of the envelope and of everything inside it; at most 15.
pub const ENVELOPE_VERSION: u8 = 1;

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
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let begun = |kind: u8| vec![ENVELOPE_VERSION << 4 | kind];
        match self {
            Self::Open(bytes) => [begun(0).as_slice(), bytes].concat(),
            Self::Accept(bytes) => [begun(1).as_slice(), bytes].concat(),
            Self::Sealed { counter, ciphertext } => {
                let mut payload = begun(2);
                write_counter(&mut payload, *counter);
                payload.extend_from_slice(ciphertext);
                payload
            }
            Self::UnknownSession => begun(3),
        }
    }

    /// The envelope in an MQTT payload.
    ///
    /// # Errors
    /// [`DecodeError`], among them [`DecodeError::Version`] for a version of the future.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let (what, found_bytes, limit_bytes) = ("envelope", payload.len(), MQTT_PAYLOAD_BYTES_MAX);
        if found_bytes > limit_bytes {
            return Err(DecodeError::TooLarge { what, found_bytes, limit_bytes });
        }
        let (first, rest) = payload.split_first().ok_or(DecodeError::Envelope("it is empty"))?;
        let version = first >> 4;
        if version != ENVELOPE_VERSION {
            return Err(DecodeError::Version { found: version, expected: ENVELOPE_VERSION });
        }
        match first & 0x0f {
            0 => Ok(Self::Open(rest.to_vec())),
            1 => Ok(Self::Accept(rest.to_vec())),
            2 => {
                let (counter, ciphertext) = read_counter(rest)?;
                Ok(Self::Sealed { counter, ciphertext: ciphertext.to_vec() })
            }
            3 if rest.is_empty() => Ok(Self::UnknownSession),
            3 => Err(DecodeError::Envelope("bytes follow where nothing should")),
            _ => Err(DecodeError::Envelope("its kind is unknown")),
        }
    }
}

fn write_counter(payload: &mut Vec<u8>, mut counter: u64) {
    while counter > 0x7f {
        // The lowest seven bits.
        payload.push(counter.to_le_bytes()[0] | 0x80);
        counter >>= 7;
    }
    payload.push(counter.to_le_bytes()[0]);
}

/// The counter at the front, and what follows it. A number has one form: the shortest.
fn read_counter(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    let mut counter = 0_u64;
    for (index, byte) in bytes.iter().enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index;
        if shift > 63 || bits << shift >> shift != bits || (*byte == 0 && index > 0) {
            return Err(DecodeError::Envelope("its counter is no number in its shortest form"));
        }
        counter |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok((counter, bytes.get(index + 1..).unwrap_or_default()));
        }
    }
    Err(DecodeError::Envelope("it ends in its counter"))
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
    fn a_sealed_envelope_costs_two_bytes_and_later_three() {
        for (counter, bytes) in [(9, 2), (127, 2), (128, 3), (16_383, 3), (u64::MAX, 11)] {
            let sealed = Envelope::Sealed { counter, ciphertext: vec![0; 100] };
            assert_eq!(sealed.encode().len() - 100, bytes, "{counter}");
        }
    }

    #[test]
    fn the_bytes_are_those_that_version_1_writes() {
        let sealed = Envelope::Sealed { counter: 300, ciphertext: vec![7, 8] };
        assert_eq!(sealed.encode(), [0x12, 0xac, 0x02, 7, 8]);
        assert_eq!(Envelope::Open(vec![9]).encode(), [0x10, 9]);
        assert_eq!(Envelope::Accept(vec![9]).encode(), [0x11, 9]);
        assert_eq!(Envelope::UnknownSession.encode(), [0x13]);
    }

    #[test]
    fn what_is_no_envelope_is_refused_with_the_reason() {
        let reason = |bytes: &[u8]| Envelope::decode(bytes).unwrap_err().to_string();
        assert_eq!(reason(&[]), "not an envelope: it is empty");
        assert_eq!(reason(&[0x14]), "not an envelope: its kind is unknown");
        assert_eq!(reason(&[0x13, 0]), "not an envelope: bytes follow where nothing should");
        assert_eq!(reason(&[0x12, 0x80]), "not an envelope: it ends in its counter");
        let long = "not an envelope: its counter is no number in its shortest form";
        assert_eq!(reason(&[0x12, 0x80, 0]), long);
        assert_eq!(reason(&[&[0x12][..], &[0xff; 9], &[2]].concat()), long, "more than 64 bits");
    }

    #[test]
    fn a_version_of_the_future_is_named() {
        let error = Envelope::decode(&[0x20, 1, 2, 3]).unwrap_err();
        assert_eq!(error.to_string(), "envelope version 2 is not supported: expected 1");
    }

    proptest! {
        #[test]
        fn an_envelope_survives_encoding(envelope in any_envelope()) {
            prop_assert_eq!(Envelope::decode(&envelope.encode()).unwrap(), envelope);
        }

        #[test]
        fn no_payload_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Envelope::decode(&bytes);
        }
    }
}
