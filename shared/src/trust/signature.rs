//! Signed documents: COSE_Sign1 (RFC 9052) with Ed25519 and the payload inside.
//!
//! One form only, the smallest: protected header `{1: -8}` (EdDSA), no unprotected header, the
//! shortest CBOR. Whatever is not byte for byte of that form is refused, so that a document has one
//! encoding. What the document is *for* (the node, the purpose) is the caller's external data: it is
//! signed and not sent.

use super::key_form::{self, KEY_BYTES, NotAKey, Purpose, seeded};
use coset::{
    CborSerializable, CoseError, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, iana,
};
use ed25519_dalek::{Signature, Signer};
use rand_core::RngCore;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;
use zeroize::Zeroizing;

/// One signed document. The largest we sign is a header of some 60 bytes; what it covers is named
/// by a digest. Refused before it is parsed.
pub const SIGNED_BYTES_MAX: usize = 4 * 1024;

/// Why something was not signed, or a signature not believed.
#[derive(Debug, Error)]
pub enum SignatureError {
    /// Larger than any signed document.
    #[error("a signed document of {bytes} bytes: at most {SIGNED_BYTES_MAX} are taken")]
    TooLarge {
        /// Its size, signed.
        bytes: usize,
    },
    /// The document could not be written.
    #[error("could not encode a signed document")]
    Encode(#[source] CoseError),
    /// Not a COSE_Sign1.
    #[error("not a signed document (COSE_Sign1)")]
    Decode(#[source] CoseError),
    /// A COSE_Sign1 of another form than ours.
    #[error("a signed document of another form: {0}")]
    Form(&'static str),
    /// The signature is not that of this key over this payload and this external data.
    #[error("the signature does not hold for this key, payload and purpose")]
    Forged(#[source] ed25519_dalek::SignatureError),
    /// Bytes that are no Ed25519 public key, or one under which anything verifies.
    #[error("not a usable Ed25519 public key")]
    BadKey,
    /// Text that is no key.
    #[error("could not read a verifying key")]
    NotAKey(#[from] NotAKey),
}

/// The secret half; wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The public half. Hexadecimal in text, bytes elsewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl SigningKey {
    /// A new key; the same seed makes the same key.
    #[must_use]
    pub fn generate(seed: [u8; 32]) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        seeded(seed, Purpose::SigningKey).fill_bytes(bytes.as_mut());
        Self::from_bytes(&bytes)
    }

    /// The key that [`Self::to_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(bytes))
    }

    /// The bytes, for a file that only its owner reads.
    #[must_use]
    pub fn to_bytes(&self) -> &[u8; KEY_BYTES] {
        self.0.as_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs `payload` for the purpose that `external` names: the bytes of a COSE_Sign1 that holds
    /// the payload, about 72 bytes longer than it.
    ///
    /// # Errors
    /// [`SignatureError::TooLarge`].
    pub fn sign(&self, payload: &[u8], external: &[u8]) -> Result<Vec<u8>, SignatureError> {
        check_size(payload.len())?;
        let document = CoseSign1Builder::new()
            .protected(header())
            .payload(payload.to_vec())
            .create_signature(external, |covered| self.0.sign(covered).to_vec())
            .build();
        let signed = document.to_vec().map_err(SignatureError::Encode)?;
        check_size(signed.len())?;
        Ok(signed)
    }
}

impl VerifyingKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// [`SignatureError::BadKey`].
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, SignatureError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes);
        key.ok().filter(|key| !key.is_weak()).map(Self).ok_or(SignatureError::BadKey)
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> &[u8; KEY_BYTES] {
        self.0.as_bytes()
    }

    /// The payload of `signed`, if this key signed it for the purpose that `external` names.
    ///
    /// # Errors
    /// [`SignatureError`]: too large, of another form, or not this key's.
    pub fn open(&self, signed: &[u8], external: &[u8]) -> Result<Vec<u8>, SignatureError> {
        check_size(signed.len())?;
        let document = CoseSign1::from_slice(signed).map_err(SignatureError::Decode)?;
        check_form(&document, signed)?;
        document.verify_signature(external, |signature, covered| {
            let signature = Signature::from_slice(signature).map_err(SignatureError::Forged)?;
            self.0.verify_strict(covered, &signature).map_err(SignatureError::Forged)
        })?;
        document.payload.ok_or(SignatureError::Form("the payload is not inside"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.verifying())
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        key_form::write_hex(self.to_bytes(), f)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = SignatureError;
    fn from_str(text: &str) -> Result<Self, SignatureError> {
        Self::from_bytes(&key_form::parse_hex(text)?)
    }
}

impl Serialize for VerifyingKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        key_form::serialize(self.to_bytes(), serializer)
    }
}

impl<'de> Deserialize<'de> for VerifyingKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_bytes(&key_form::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The payload and the signature of a signed document; nothing of it is believed.
///
/// # Errors
/// [`SignatureError`]: too large, or no signed document.
pub fn split(signed: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SignatureError> {
    check_size(signed.len())?;
    let document = CoseSign1::from_slice(signed).map_err(SignatureError::Decode)?;
    let payload = document.payload.ok_or(SignatureError::Form("the payload is not inside"))?;
    Ok((payload, document.signature))
}

/// The signed document of these parts, as [`SigningKey::sign`] made it; nothing of it is believed.
///
/// # Errors
/// [`SignatureError::TooLarge`].
pub fn join(payload: Vec<u8>, signature: Vec<u8>) -> Result<Vec<u8>, SignatureError> {
    check_size(payload.len().saturating_add(signature.len()))?;
    let document =
        CoseSign1Builder::new().protected(header()).payload(payload).signature(signature).build();
    let signed = document.to_vec().map_err(SignatureError::Encode)?;
    check_size(signed.len())?;
    Ok(signed)
}

fn header() -> Header {
    HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).build()
}

fn check_size(bytes: usize) -> Result<(), SignatureError> {
    let fits = bytes <= SIGNED_BYTES_MAX;
    if fits { Ok(()) } else { Err(SignatureError::TooLarge { bytes }) }
}

/// Refuses what could be said in our form and is said in another.
fn check_form(document: &CoseSign1, signed: &[u8]) -> Result<(), SignatureError> {
    if document.protected.header != header() {
        return Err(SignatureError::Form("the protected header is not EdDSA alone"));
    }
    if !document.unprotected.is_empty() {
        return Err(SignatureError::Form("it has an unprotected header"));
    }
    let payload = document.payload.clone();
    let payload = payload.ok_or(SignatureError::Form("the payload is not inside"))?;
    let ours = join(payload, document.signature.clone())?;
    if ours == signed { Ok(()) } else { Err(SignatureError::Form("its CBOR is not the shortest")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coset::CoseSign1Builder;
    use proptest::prelude::*;

    const PURPOSE: &[u8] = b"hinterland/desired/1/node-1";

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_was_signed_for_a_purpose_opens_for_that_purpose_alone() {
        let signed = key().sign(b"state", PURPOSE).unwrap();
        assert_eq!(key().verifying().open(&signed, PURPOSE).unwrap(), b"state");
        let (payload, signature) = split(&signed).unwrap();
        assert_eq!((payload.as_slice(), signature.len()), (b"state".as_slice(), 64));
        assert_eq!(join(payload, signature).unwrap(), signed);
        let elsewhere = key().verifying().open(&signed, b"hinterland/desired/1/node-2");
        assert!(matches!(elsewhere, Err(SignatureError::Forged(_))));
        let stranger = SigningKey::generate([8; 32]).verifying();
        assert!(matches!(stranger.open(&signed, PURPOSE), Err(SignatureError::Forged(_))));
    }

    #[test]
    fn the_released_encoding_is_made_byte_for_byte() {
        let signed = concat!(
            "84",           // an array of four:
            "43a10127",     // the protected header {1: -8},
            "a0",           // no unprotected header,
            "457374617465", // the payload `state`,
            "5840",         // and 64 bytes of signature over the Sig_structure of RFC 9052
            "f2a3105fd9edb74d3bdd18ed59e68298acdf74eb2c89ec1fab9321d4017941b1",
            "a3031c8528b9f9011167928f42a7adc785789c0007b65f2802f6d27ed9f7180d",
        );
        assert_eq!(hex(&key().sign(b"state", PURPOSE).unwrap()), signed);
    }

    #[test]
    fn another_algorithm_an_unprotected_header_and_a_detached_payload_are_refused() {
        let sign = |protected: Header, unprotected: Header, payload: Option<Vec<u8>>| {
            let mut document = CoseSign1Builder::new()
                .protected(protected)
                .unprotected(unprotected)
                .payload(b"state".to_vec())
                .create_signature(PURPOSE, |covered| key().0.sign(covered).to_vec())
                .build();
            document.payload = payload;
            document.to_vec().unwrap()
        };
        let inside = || Some(b"state".to_vec());
        let es256 = HeaderBuilder::new().algorithm(iana::Algorithm::ES256).build();
        let named = HeaderBuilder::new().key_id(vec![1]).build();
        let mut named_too = header();
        named_too.key_id = vec![1];
        let open = |signed: &[u8]| key().verifying().open(signed, PURPOSE);
        assert!(open(&sign(header(), Header::default(), inside())).is_ok());
        for refused in [
            sign(es256, Header::default(), inside()),
            sign(Header::default(), Header::default(), inside()),
            sign(header(), named, inside()),
            sign(named_too, Header::default(), inside()),
            sign(header(), Header::default(), None),
        ] {
            assert!(matches!(open(&refused), Err(SignatureError::Form(_))), "{}", hex(&refused));
        }
    }

    #[test]
    fn trailing_bytes_longer_encodings_and_oversize_are_refused() {
        let signed = key().sign(b"state", PURPOSE).unwrap();
        let open = |signed: &[u8]| key().verifying().open(signed, PURPOSE);
        let trailing = [signed.as_slice(), &[0]].concat();
        assert!(matches!(open(&trailing), Err(SignatureError::Decode(_))));
        // An array of four with its length in a byte of its own: the same value, said longer.
        let longer = [&[0x98, 4], &signed[1..]].concat();
        assert!(matches!(open(&longer), Err(SignatureError::Form(_))));
        let large = vec![0x84; SIGNED_BYTES_MAX + 1];
        assert!(matches!(open(&large), Err(SignatureError::TooLarge { .. })));
        assert!(key().sign(&[0; SIGNED_BYTES_MAX], PURPOSE).is_err());
    }

    #[test]
    fn a_key_survives_text_and_cbor_and_a_weak_one_is_refused() {
        let key = SigningKey::generate([1; 32]).verifying();
        assert_eq!(key.to_string().parse::<VerifyingKey>().unwrap(), key);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<VerifyingKey>(&json).unwrap(), key);
        let cbor = serde_cbor::to_vec(&key).unwrap();
        assert_eq!(serde_cbor::from_slice::<VerifyingKey>(&cbor).unwrap(), key);
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(matches!(VerifyingKey::from_bytes(&neutral), Err(SignatureError::BadKey)));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_refused(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut signed = key().sign(&payload, PURPOSE).unwrap();
            prop_assert_eq!(key().verifying().open(&signed, PURPOSE).unwrap(), payload);
            let at = at.index(signed.len());
            signed[at] ^= 1 << bit;
            prop_assert!(key().verifying().open(&signed, PURPOSE).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(key().verifying().open(&bytes, PURPOSE).is_err());
        }
    }
}
