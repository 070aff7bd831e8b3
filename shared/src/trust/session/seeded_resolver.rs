//! Gives the Noise library its ephemeral keys from a seed, and everything else as it comes.
//!
//! With the seed a handshake replays byte for byte, which the simulation relies on.

use crate::trust::key_form::{Purpose, seeded};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

pub(super) struct SeededResolver {
    generator: ChaCha20Rng,
}

struct SeededRandom(ChaCha20Rng);

impl SeededResolver {
    pub(super) fn new(seed: [u8; 32], purpose: Purpose) -> Self {
        Self { generator: seeded(seed, purpose) }
    }
}

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(self.generator.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}
