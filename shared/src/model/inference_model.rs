//! The models that pods need as files: named by their content, so that a node runs the one that is meant or
//! none.
//!
//! Wire format (packed CBOR, fields by position): fields are only ever appended.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteBuf;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A model as a pod has it: one file, read only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelMount {
    /// What people call it, as in `yolo-v8`.
    pub name: String,
    /// Names its content.
    pub digest: ModelDigest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Where the pod finds the file, beginning with `/`, as in `/models/yolo.onnx`. The process runtime shows it
    /// below the pod's own folder, as it does volumes.
    pub path: String,
}

/// SHA-256 of a model's file. In texts `sha256:` and 64 hexadecimal digits, as images are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelDigest(pub [u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no digest: expected `sha256:` and 64 hexadecimal digits")]
pub struct InvalidDigest(String);

const PREFIX: &str = "sha256:";

/// Characters of a wrong text that are shown.
const SHOWN_CHARACTERS: usize = 80;

impl ModelDigest {
    /// The 64 digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl FromStr for ModelDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || InvalidDigest(text.chars().take(SHOWN_CHARACTERS).collect());
        let digits = text.strip_prefix(PREFIX).ok_or_else(refused)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 64 || !digits.bytes().all(is_digit) {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| refused())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        Ok(Self(bytes))
    }
}

/// Bytes on the wire and in the store, a text where people read it.
impl Serialize for ModelDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for ModelDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        let bytes = ByteBuf::deserialize(deserializer)?;
        let found = bytes.len();
        let whole = <[u8; 32]>::try_from(bytes.into_vec());
        whole.map(Self).map_err(|_| D::Error::invalid_length(found, &"32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};

    fn mount() -> ModelMount {
        let digest = ModelDigest([0xab; 32]);
        ModelMount { name: "ocr".into(), digest, size_bytes: 7, path: "/m/ocr.onnx".into() }
    }

    #[test]
    fn a_digest_is_a_text_for_people_and_bytes_on_the_wire() {
        let text = serde_json::to_string(&mount()).unwrap();
        assert!(text.contains(&format!("\"sha256:{}\"", "ab".repeat(32))), "{text}");
        assert_eq!(serde_json::from_str::<ModelMount>(&text).unwrap(), mount());
        let bytes = encode("model", &mount()).unwrap();
        assert!(bytes.len() < 64, "{}", bytes.len());
        assert_eq!(decode::<ModelMount>("model", &bytes, 256).unwrap(), mount());
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let long = format!("sha256:{}", "é".repeat(32));
        for text in ["", "sha256:", "ab", &format!("sha256:{}", "AB".repeat(32)), &long] {
            assert!(text.parse::<ModelDigest>().is_err(), "{text}");
        }
        let short = encode("digest", &ByteBuf::from(vec![1; 31])).unwrap();
        assert!(decode::<ModelDigest>("digest", &short, 256).is_err());
    }
}
