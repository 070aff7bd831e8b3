//! A Secret sealed to one node: only who has the node's session key can open it.
//!
//! HPKE (RFC 9180), base mode, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305. Sealed
//! bytes are the encapsulated key (32) and the ciphertext with its tag. What they are of (the node, the
//! Secret, its version) is authenticated beside them. Who sealed is not: that is for the signature over
//! the node's whole desired state to say.
//!
//! **The same seals to the same.** The ephemeral key is not drawn but derived, from a key that the hub alone
//! has, the recipient, the context and the plaintext: every hub with that key, at every start, makes the same
//! bytes, and so a Secret that did not change changes nothing. Another plaintext or context has another
//! ephemeral key, so that none is used twice. What is lost by it: who sees the sealed bytes sees whether a
//! Secret is the one that it was before.

use super::session::{SessionPrivateKey, SessionPublicKey};
use super::signature::SigningKey;
use crate::limits::MAP_ITEM_BYTES_MAX;
use crate::model::{NodeId, ObjectName, SecretData, SecretItem};
use crate::wire::{Digest, decode, encode};
use hmac::{Hmac, Mac};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde_bytes::ByteBuf;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes by which what is sealed is longer than what is in it.
pub const SEALED_OVERHEAD_BYTES: usize = KEY_BYTES + 16;

const KEY_BYTES: usize = 32;

/// Enough that two contents of one Secret do not meet by chance.
const VERSION_BYTES: usize = 8;

/// What the keys of a seal are for, so that they serve nothing else.
const INFO: &[u8] = b"hinterland/secret/1";

/// Why something was not sealed, or does not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// The recipient's key is none.
    #[error("the node's session key is none that can be sealed to")]
    Recipient,
    /// What is in it can't be written.
    #[error("it can't be encoded")]
    Content,
    /// It was changed, or sealed to another node, or for something else.
    #[error("the seal is broken, or is not for this node")]
    Broken,
}

/// A Secret as `node`, whose session key is `to`, is sent it.
///
/// # Errors
/// [`SealError::Recipient`]; [`SealError::Content`], which no content is known to be met by.
pub fn seal_secret(
    by: &SigningKey,
    (node, to): (&NodeId, &SessionPublicKey),
    name: &ObjectName,
    uid: &str,
    data: &SecretData,
) -> Result<SecretItem, SealError> {
    let plaintext = encode("Secret", data).map(Zeroizing::new).map_err(|_| SealError::Content)?;
    // Of the content alone, so that a change of a Secret's labels is none; under a key, so that nobody can
    // try what it may be of.
    let version = derive(by, "hinterland/secret-version/1", &[uid.as_bytes(), &plaintext]);
    let version: Vec<u8> = version.into_iter().take(VERSION_BYTES).collect();
    let sealed = seal(by, to, &context(node, name, uid, &version), &plaintext)?;
    Ok(SecretItem { uid: uid.to_owned(), version: version.into(), sealed: ByteBuf::from(sealed) })
}

/// What is in a Secret that was sealed to `node`, the owner of `key`.
///
/// # Errors
/// [`SealError::Broken`] for one that is another's, of another name, or was changed;
/// [`SealError::Content`] where it opens and is no Secret.
pub fn open_secret(
    key: &SessionPrivateKey,
    node: &NodeId,
    name: &ObjectName,
    item: &SecretItem,
) -> Result<SecretData, SealError> {
    let SecretItem { uid, version, sealed } = item;
    let plaintext = open(key, &context(node, name, uid, version), sealed)?;
    decode("Secret", &plaintext, MAP_ITEM_BYTES_MAX).map_err(|_| SealError::Content)
}

/// What a sealed Secret is bound to.
fn context(node: &NodeId, name: &ObjectName, uid: &str, version: &[u8]) -> Vec<u8> {
    let parts = [node.as_str().as_bytes(), name.map_key().as_bytes(), uid.as_bytes(), version]
        .map(<[u8]>::to_vec);
    let framed = parts.iter().flat_map(|part| {
        let length = part.len() as u64;
        length.to_le_bytes().into_iter().chain(part.iter().copied()).collect::<Vec<u8>>()
    });
    framed.collect()
}

/// Something that the hub alone can derive, by its signing key: another one for each purpose and parts.
#[must_use]
pub fn derive(by: &SigningKey, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(by.to_bytes()) else {
        // An HMAC takes a key of any length.
        return [0; 32];
    };
    for part in [&[purpose.as_bytes()], parts].concat() {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// `plaintext`, sealed to `to`; opens only with the same `context`.
///
/// # Errors
/// [`SealError::Recipient`].
pub fn seal(
    by: &SigningKey,
    to: &SessionPublicKey,
    context: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&to.0)
        .map_err(|_| SealError::Recipient)?;
    let digest = Digest::of(plaintext);
    let seed = derive(by, "hinterland/seal-seed/1", &[&to.0, context, &digest.0]);
    let mut random = Derived(ChaCha20Rng::from_seed(seed));
    let sealed = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256, _>(
        &OpModeS::Base,
        &recipient,
        INFO,
        plaintext,
        context,
        &mut random,
    );
    let (key, ciphertext) = sealed.map_err(|_| SealError::Recipient)?;
    Ok([key.to_bytes().as_slice(), &ciphertext].concat())
}

/// What was sealed to the owner of `key` with this context.
///
/// # Errors
/// [`SealError::Broken`].
pub fn open(
    key: &SessionPrivateKey,
    context: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let broken = |_| SealError::Broken;
    let (encapsulated, ciphertext) = sealed.split_at_checked(KEY_BYTES).ok_or(SealError::Broken)?;
    let own = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(key.to_bytes()).map_err(broken)?;
    let encapsulated =
        <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(broken)?;
    single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &own,
        &encapsulated,
        INFO,
        ciphertext,
        context,
    )
    .map(Zeroizing::new)
    .map_err(broken)
}

/// A generator as `hpke` knows them.
struct Derived(ChaCha20Rng);

impl rand_core_09::RngCore for Derived {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

impl rand_core_09::CryptoRng for Derived {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hub() -> SigningKey {
        SigningKey::generate([1; 32])
    }

    fn node() -> SessionPrivateKey {
        SessionPrivateKey::generate([2; 32])
    }

    #[test]
    fn it_opens_for_its_node_and_its_context_alone() {
        let sealed = seal(&hub(), &node().public(), b"mast-17", b"hunter2").unwrap();
        assert_eq!(sealed.len(), b"hunter2".len() + SEALED_OVERHEAD_BYTES);
        assert_eq!(*open(&node(), b"mast-17", &sealed).unwrap(), b"hunter2");
        assert_eq!(open(&node(), b"mast-18", &sealed), Err(SealError::Broken));
        let other = SessionPrivateKey::generate([3; 32]);
        assert_eq!(open(&other, b"mast-17", &sealed), Err(SealError::Broken));
        assert_eq!(open(&node(), b"mast-17", &sealed[..40]), Err(SealError::Broken));
        let nobody = SessionPublicKey([0; 32]);
        assert_eq!(seal(&hub(), &nobody, b"", b"a"), Err(SealError::Recipient));
    }

    #[test]
    fn the_same_seals_to_the_same_and_anything_else_under_another_key() {
        let sealed = |by: u8, to: u8, context: &[u8], plaintext: &[u8]| {
            let (by, to) = (SigningKey::generate([by; 32]), SessionPrivateKey::generate([to; 32]));
            seal(&by, &to.public(), context, plaintext).unwrap()
        };
        let first = sealed(1, 2, b"ab", b"cd");
        assert_eq!(sealed(1, 2, b"ab", b"cd"), first);
        let others = [
            sealed(3, 2, b"ab", b"cd"),
            sealed(1, 3, b"ab", b"cd"),
            sealed(1, 2, b"a", b"bcd"),
            sealed(1, 2, b"ab", b"ce"),
        ];
        assert!(others.iter().all(|other| other[..KEY_BYTES] != first[..KEY_BYTES]));
    }

    #[test]
    fn a_secret_is_bound_to_its_node_and_its_name_and_the_same_is_the_same() {
        use crate::model::{ObjectKind, SecretBytes};
        let name = |name: &str| ObjectName {
            kind: ObjectKind::Secret,
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        let node_of = |name: &str| NodeId::new(name).unwrap();
        let data = SecretData::from([("a".to_owned(), SecretBytes::new(b"hunter2".to_vec()))]);
        let sealed = |uid: &str, data: &SecretData| {
            let to = node().public();
            seal_secret(&hub(), (&node_of("mast-17"), &to), &name("keys"), uid, data).unwrap()
        };
        let item = sealed("1", &data);
        assert_eq!(item, sealed("1", &data));
        assert_ne!(item.version, sealed("2", &data).version);
        assert_eq!(open_secret(&node(), &node_of("mast-17"), &name("keys"), &item).unwrap(), data);
        for (node_name, name, item) in [
            ("mast-18", name("keys"), item.clone()),
            ("mast-17", name("other"), item.clone()),
            ("mast-17", name("keys"), SecretItem { uid: "2".to_owned(), ..item.clone() }),
            ("mast-17", name("keys"), SecretItem { version: ByteBuf::new(), ..item.clone() }),
        ] {
            let opened = open_secret(&node(), &node_of(node_name), &name, &item);
            assert_eq!(opened, Err(SealError::Broken));
        }
    }

    /// A hub of another version must make the same bytes, or every node would be sent every Secret anew.
    #[test]
    fn what_is_sealed_stays_the_same_from_version_to_version() {
        let sealed = seal(&hub(), &node().public(), b"mast-17", b"hunter2").unwrap();
        assert_eq!(Digest::of(&sealed).to_string(), "974dc4c751a4805b");
    }

    proptest! {
        #[test]
        fn what_was_changed_does_not_open(
            plaintext in proptest::collection::vec(any::<u8>(), 0..64),
            at in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let mut sealed = seal(&hub(), &node().public(), b"a", &plaintext).unwrap();
            prop_assert_eq!(&*open(&node(), b"a", &sealed).unwrap(), &plaintext);
            sealed[at.index(plaintext.len() + SEALED_OVERHEAD_BYTES)] ^= 1 << bit;
            // The highest bit of an X25519 key is not looked at, but it is authenticated.
            prop_assert!(open(&node(), b"a", &sealed).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = open(&node(), b"", &bytes);
        }
    }
}
