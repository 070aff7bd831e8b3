//! The static Curve25519 keys of a session's two ends.
//!
//! A private key is wiped from memory when it is dropped and is never printed.

use crate::trust::key_form::{self, KEY_BYTES, NotAKey, Purpose, seeded};
use rand_core::RngCore;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// The secret half: stays on the machine that made it.
#[derive(Clone)]
pub struct SessionPrivateKey(Zeroizing<[u8; KEY_BYTES]>);

/// The public half, by which the other end knows this one. Hexadecimal in text, bytes elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionPublicKey(pub [u8; KEY_BYTES]);

impl SessionPrivateKey {
    /// The key that [`Self::to_bytes`] gave. Any 32 bytes are a key (RFC 7748 clamps them).
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for a file that only its owner reads.
    #[must_use]
    pub fn to_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// A new key; the same seed makes the same key.
    #[must_use]
    pub fn generate(seed: [u8; 32]) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        seeded(seed, Purpose::SessionKey).fill_bytes(bytes.as_mut());
        Self(bytes)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> SessionPublicKey {
        let secret = StaticSecret::from(*self.0);
        SessionPublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

impl fmt::Debug for SessionPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionPrivateKey(of {})", self.public())
    }
}

impl fmt::Display for SessionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        key_form::write_hex(&self.0, f)
    }
}

impl fmt::Debug for SessionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionPublicKey({self})")
    }
}

impl FromStr for SessionPublicKey {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<Self, NotAKey> {
        key_form::parse_hex(text).map(Self)
    }
}

impl Serialize for SessionPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        key_form::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for SessionPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        key_form::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_survives_text_json_and_cbor() {
        let key = SessionPrivateKey::generate([1; 32]).public();
        assert_eq!(key.to_string().parse::<SessionPublicKey>().unwrap(), key);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"{key}\""));
        assert_eq!(serde_json::from_str::<SessionPublicKey>(&json).unwrap(), key);
        let cbor = serde_cbor::to_vec(&key).unwrap();
        assert_eq!(cbor.len(), 2 + 32);
        assert_eq!(serde_cbor::from_slice::<SessionPublicKey>(&cbor).unwrap(), key);
        assert!(serde_cbor::from_slice::<SessionPublicKey>(&[0x43, 1, 2, 3]).is_err());
    }

    /// RFC 7748, section 5.2: the first iteration, whose scalar and point are both 9.
    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        let mut nine = [0; 32];
        nine[0] = 9;
        let expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
        assert_eq!(SessionPrivateKey::from_bytes(nine).public().to_string(), expected);
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let key = SessionPrivateKey::from_bytes([0xab; 32]);
        assert_eq!(format!("{key:?}"), format!("SessionPrivateKey(of {})", key.public()));
    }
}
