//! The keys of one store: one that seals its records, one that hides its names; wrapped, they lie
//! beside what they protect.
//!
//! Refuses to tell a wrong wrapping key from damage by guessing: the wrapped form carries a digest of
//! itself, so a form that is whole and does not open was wrapped by another key.

use super::{
    BrokenSeal, HEADER_BYTES, HIDDEN_NAME_BYTES, NONCE_BYTES, RecordPlace, SEAL_BYTES, WrappingKey,
};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};
use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

/// The version of a sealed record and of a wrapped keyring. Older ones are read for ever.
const VERSION: u8 = 1;

/// What a wrapped keyring begins with.
const MAGIC: &[u8; 8] = b"hl-keys\0";

/// The tree's number that a wrapped keyring is bound to; no tree has it.
const KEYRING_TREE: u8 = 0;

const KEY_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;
const WRAPPED_BYTES: usize = MAGIC.len() + SEAL_BYTES + 4 + 2 * KEY_BYTES + DIGEST_BYTES;

/// Why a wrapped keyring did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// It is whole, and was wrapped by another key.
    #[error("the store's keys were wrapped by another key")]
    WrongKey,
    /// It is not what was written.
    #[error("the store's keys are damaged")]
    Damaged,
}

/// The keys of one store.
#[derive(Clone)]
pub struct Keyring {
    id: u32,
    record_key: Zeroizing<[u8; KEY_BYTES]>,
    name_key: Zeroizing<[u8; KEY_BYTES]>,
}

impl Keyring {
    /// Length of the wrapped form in bytes.
    pub const WRAPPED_BYTES: usize = WRAPPED_BYTES;

    /// New keys.
    pub fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Self {
        let (mut record_key, mut name_key) = (Zeroizing::default(), Zeroizing::default());
        fill(rng, &mut record_key);
        fill(rng, &mut name_key);
        Self { id: rng.next_u32(), record_key, name_key }
    }

    /// The number of these keys: it differs from store to store.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The keys under a wrapping key, [`Self::WRAPPED_BYTES`] long.
    pub fn wrap(&self, by: &WrappingKey, rng: &mut (impl RngCore + CryptoRng)) -> Vec<u8> {
        let keys = Zeroizing::new(
            [&self.id.to_be_bytes()[..], &self.record_key[..], &self.name_key[..]].concat(),
        );
        let place = RecordPlace { tree: KEYRING_TREE, key: MAGIC };
        let mut wrapped = MAGIC.to_vec();
        wrapped.extend(seal(by.bytes(), 0, place, &keys, rng));
        let digest = Sha256::digest(&wrapped);
        wrapped.extend(digest);
        wrapped
    }

    /// The keys that [`Self::wrap`] wrapped.
    ///
    /// # Errors
    /// [`KeyringError`], which tells another wrapping key from damage.
    pub fn unwrap(by: &WrappingKey, wrapped: &[u8]) -> Result<Self, KeyringError> {
        let (body, digest) = wrapped
            .split_at_checked(WRAPPED_BYTES - DIGEST_BYTES)
            .filter(|(body, digest)| Sha256::digest(body).as_slice() == *digest)
            .ok_or(KeyringError::Damaged)?;
        debug_assert_eq!(digest.len(), DIGEST_BYTES);
        let sealed = body.strip_prefix(MAGIC).ok_or(KeyringError::Damaged)?;
        let place = RecordPlace { tree: KEYRING_TREE, key: MAGIC };
        let keys = open(by.bytes(), 0, place, sealed).map_err(|_| KeyringError::WrongKey)?;
        Self::from_parts(&Zeroizing::new(keys)).ok_or(KeyringError::Damaged)
    }

    fn from_parts(keys: &[u8]) -> Option<Self> {
        let (id, keys) = keys.split_first_chunk::<4>()?;
        let (record_key, keys) = keys.split_first_chunk::<KEY_BYTES>()?;
        let name_key: &[u8; KEY_BYTES] = keys.try_into().ok()?;
        Some(Self {
            id: u32::from_be_bytes(*id),
            record_key: Zeroizing::new(*record_key),
            name_key: Zeroizing::new(*name_key),
        })
    }

    /// Seals `content` for one place.
    pub fn seal(
        &self,
        place: RecordPlace<'_>,
        content: &[u8],
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Vec<u8> {
        seal(&self.record_key, self.id, place, content, rng)
    }

    /// What [`Self::seal`] sealed for this place.
    ///
    /// # Errors
    /// [`BrokenSeal`] when it was changed, moved, or sealed by another store.
    pub fn open(&self, place: RecordPlace<'_>, sealed: &[u8]) -> Result<Vec<u8>, BrokenSeal> {
        open(&self.record_key, self.id, place, sealed)
    }

    /// What stands on disk for a name: the same for the same name, and nothing can be learnt from it.
    #[must_use]
    pub fn hidden_name(&self, tree: u8, name: &[u8]) -> [u8; HIDDEN_NAME_BYTES] {
        let mut hidden = [0; HIDDEN_NAME_BYTES];
        // HMAC takes a key of any length: there is nothing that can fail.
        if let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(&self.name_key[..]) {
            mac.update(&[tree]);
            mac.update(name);
            let full = mac.finalize().into_bytes();
            hidden.iter_mut().zip(full).for_each(|(to, from)| *to = from);
        }
        hidden
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({:08x})", self.id)
    }
}

fn fill(rng: &mut (impl RngCore + CryptoRng), key: &mut [u8; KEY_BYTES]) {
    rng.fill_bytes(key);
}

fn seal(
    key: &[u8; KEY_BYTES],
    id: u32,
    place: RecordPlace<'_>,
    content: &[u8],
    rng: &mut (impl RngCore + CryptoRng),
) -> Vec<u8> {
    let mut nonce = [0; NONCE_BYTES];
    rng.fill_bytes(&mut nonce);
    let aad = additional_data(place, id);
    let payload = Payload { msg: content, aad: &aad };
    let cipher = XChaCha20Poly1305::new(key.into());
    // Fails only past 256 GiB, which no record is; an empty ciphertext would not open.
    let sealed = cipher.encrypt(XNonce::from_slice(&nonce), payload).unwrap_or_default();
    [&[VERSION][..], &id.to_be_bytes(), &nonce, &sealed].concat()
}

fn open(
    key: &[u8; KEY_BYTES],
    id: u32,
    place: RecordPlace<'_>,
    sealed: &[u8],
) -> Result<Vec<u8>, BrokenSeal> {
    let (header, rest) = sealed.split_first_chunk::<HEADER_BYTES>().ok_or(BrokenSeal)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(BrokenSeal)?;
    let [version, found_id @ ..] = *header;
    if version != VERSION || u32::from_be_bytes(found_id) != id {
        return Err(BrokenSeal);
    }
    let aad = additional_data(place, id);
    let payload = Payload { msg: ciphertext, aad: &aad };
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| BrokenSeal)
}

fn additional_data(place: RecordPlace<'_>, id: u32) -> Vec<u8> {
    [&[place.tree][..], place.key, &[VERSION], &id.to_be_bytes()].concat()
}
