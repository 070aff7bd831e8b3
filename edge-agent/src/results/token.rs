//! Tokens of loopback HTTP: one for each start of a pod, made of a key that outlives the agent, so
//! that nothing needs to be noted and an adopted pod's token holds.
//!
//! `HMAC-SHA256(key, "hinterland/results/1/" pod "/" start)`: sixteen digits that name the start and
//! the first sixteen bytes of that, all hexadecimal.

use crate::ports::InstanceId;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use shared::io::keys::{KeyError, fresh_seed, read_secret, write_secret};
use shared::model::PodId;
use std::fmt;
use std::path::Path;

/// Digits of the start's name.
const INSTANCE_DIGITS: usize = 16;

/// Bytes of the code that are shown: 128 bits can't be guessed.
const CODE_BYTES: usize = 16;

/// The key of all tokens of a node.
#[derive(Clone)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// The key in `path`; where there is none, or what is there is none, a new one is made.
    ///
    /// # Errors
    /// When it can't be written, or others may read it.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        if path.exists()
            && let Ok(key) = <[u8; 32]>::try_from(read_secret(path)?.as_slice())
        {
            return Ok(Self(key));
        }
        let key = Self::fresh();
        write_secret(path, &key.0)?;
        Ok(key)
    }

    /// A key that nobody had before.
    #[must_use]
    pub fn fresh() -> Self {
        Self(fresh_seed())
    }

    fn code(&self, pod: &PodId, instance: InstanceId) -> Hmac<Sha256> {
        // RFC 2104: a key shorter than a block is filled up with zeros.
        let mut block = [0; 64];
        block.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
        let mut code = Hmac::<Sha256>::new(&block.into());
        code.update(format!("hinterland/results/1/{pod}/{instance}").as_bytes());
        code
    }

    /// The token of one start of a pod.
    #[must_use]
    pub fn token(&self, pod: &PodId, instance: InstanceId) -> String {
        let code = self.code(pod, instance).finalize().into_bytes();
        let digits = code.iter().take(CODE_BYTES).map(|byte| format!("{byte:02x}"));
        format!("{instance}{}", digits.collect::<String>())
    }

    /// Whether `token` is that of this start; takes as long whatever is wrong with it.
    #[must_use]
    pub fn is_of(&self, token: &str, pod: &PodId, instance: InstanceId) -> bool {
        let Some(code) = token.get(INSTANCE_DIGITS..).and_then(bytes_of) else { return false };
        code.len() == CODE_BYTES && self.code(pod, instance).verify_truncated_left(&code).is_ok()
    }
}

/// The start that a token names; nothing of it is believed yet.
pub(super) fn claimed_instance(token: &str) -> Option<InstanceId> {
    let digits = token.get(..INSTANCE_DIGITS)?;
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| hexadecimal).map(InstanceId)
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_start_of_one_pod_under_one_key() {
        let (key, other_key) = (TokenKey([1; 32]), TokenKey([2; 32]));
        let (ocr, other): (PodId, PodId) =
            ("default/ocr-0".parse().unwrap(), "default/ocr-1".parse().unwrap());
        let (instance, later) = (InstanceId(7), InstanceId(8));
        let token = key.token(&ocr, instance);
        assert_eq!(claimed_instance(&token), Some(instance));
        assert!(key.is_of(&token, &ocr, instance));
        assert!(!key.is_of(&token, &other, instance));
        assert!(!key.is_of(&token, &ocr, later));
        assert!(!other_key.is_of(&token, &ocr, instance));
        for cut in 0..token.len() {
            assert!(!key.is_of(&token[..cut], &ocr, instance), "{cut} characters were enough");
        }
        for text in ["", "é", &"é".repeat(24), &"g".repeat(48), &format!("{token}00")] {
            assert!(!key.is_of(text, &ocr, instance), "`{text}` was accepted");
        }
    }

    #[test]
    fn the_key_outlives_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/results.key");
        let pod: PodId = "default/ocr-0".parse().unwrap();
        let token = || TokenKey::load_or_create(&path).unwrap().token(&pod, InstanceId(1));
        let first = token();
        assert_eq!(token(), first);
        std::fs::write(&path, "cut").unwrap();
        assert_ne!(token(), first);
    }
}
