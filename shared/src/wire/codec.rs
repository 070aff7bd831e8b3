//! Packed CBOR with a limit on size and depth. Refuses trailing bytes.

use super::depth::{DepthError, check_depth};
use super::tree::Item;
use crate::limits::CBOR_DEPTH_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why bytes could not be decoded.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// More bytes than this kind of value may have.
    #[error("{what} of {found_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge {
        /// What was decoded.
        what: &'static str,
        /// Its size in bytes.
        found_bytes: usize,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// Nested too deep, or not CBOR at all.
    #[error("{what} is not acceptable CBOR")]
    Structure {
        /// What was decoded.
        what: &'static str,
        /// Where it broke.
        #[source]
        source: DepthError,
    },
    /// CBOR, but not this value.
    #[error("{what} does not have the expected form")]
    Form {
        /// What was decoded.
        what: &'static str,
        /// Where it broke.
        #[source]
        source: serde_cbor::Error,
    },
    /// Bytes that are no envelope.
    #[error("not an envelope: {0}")]
    Envelope(&'static str),
    /// An envelope of a version that this build does not speak.
    #[error("envelope version {found} is not supported: expected {expected}")]
    Version {
        /// The version found.
        found: u8,
        /// The version that this build speaks.
        expected: u8,
    },
}

/// Why a value could not be encoded.
#[derive(Debug, Error)]
#[error("could not encode {what}")]
pub struct EncodeError {
    /// What was encoded.
    pub what: &'static str,
    /// What the encoder said.
    #[source]
    pub source: serde_cbor::Error,
}

/// `value` as packed CBOR. `what` names it in the error.
///
/// # Errors
/// When the value's own serialization fails; no type of [`crate::wire`] or [`crate::model`] does.
pub fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, EncodeError> {
    serde_cbor::ser::to_vec_packed(value).map_err(|source| EncodeError { what, source })
}

/// The value in `bytes`, which must be the whole of it and at most `limit_bytes` long.
///
/// # Errors
/// [`DecodeError`]; work and memory are bounded by `limit_bytes` whatever the bytes claim.
pub fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit_bytes: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > limit_bytes {
        return Err(DecodeError::TooLarge { what, found_bytes: bytes.len(), limit_bytes });
    }
    check_depth(bytes, CBOR_DEPTH_MAX).map_err(|source| DecodeError::Structure { what, source })?;
    let value = item(bytes).and_then(T::deserialize);
    value.map_err(|source| DecodeError::Form { what, source })
}

/// Compiled once, for all types.
fn item(bytes: &[u8]) -> Result<Item<'_>, serde_cbor::Error> {
    serde_cbor::from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PodStatus, Workload};
    use crate::wire::Message;
    use proptest::prelude::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode("number", &7_u32).unwrap();
        bytes.push(0);
        assert!(decode::<u32>("number", &bytes, 64).is_err());
    }

    #[test]
    fn a_size_over_the_limit_is_refused_before_any_work() {
        let error = decode::<u32>("number", &[0; 65], 64).unwrap_err();
        assert_eq!(error.to_string(), "number of 65 bytes is over the limit of 64");
    }

    #[test]
    fn a_claim_of_many_elements_costs_nothing() {
        // An array that claims 2^40 elements and holds none.
        let bytes = [0x9b, 0, 0, 1, 0, 0, 0, 0, 0];
        assert!(decode::<Vec<u64>>("list", &bytes, 64).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Message>("message", &bytes, 300);
            let _ = decode::<Workload>("workload", &bytes, 300);
            let _ = decode::<PodStatus>("pod status", &bytes, 300);
        }
    }
}
