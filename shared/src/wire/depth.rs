//! Walks CBOR without building anything, to bound its depth before a decoder recurses.
//!
//! Source of the format: RFC 8949, section 3. Tags are refused: no format of ours uses them.

use thiserror::Error;

/// Where CBOR broke a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DepthError {
    /// Nested deeper than allowed.
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// The bytes end in the middle of a value.
    #[error("ends in the middle of a value at byte {0}")]
    Truncated(usize),
    /// A form that our formats do not use: a tag, an indefinite length, a reserved number.
    #[error("byte {0} begins a form that is not used here")]
    Unexpected(usize),
    /// Bytes follow the value.
    #[error("bytes follow the value at byte {0}")]
    Trailing(usize),
}

/// Checks that `bytes` are one CBOR value, nested at most `depth_max` deep.
pub(super) fn check_depth(bytes: &[u8], depth_max: usize) -> Result<(), DepthError> {
    // How many values are still to come at each open level.
    let mut open: Vec<u64> = vec![1];
    let mut at = 0;
    while let Some(remaining) = open.last_mut() {
        if *remaining == 0 {
            open.pop();
            continue;
        }
        *remaining -= 1;
        let (major, argument, body) = header(bytes, at)?;
        at = body;
        match major {
            0 | 1 | 7 => {}
            2 | 3 => at = skip(bytes, body, argument)?,
            4 => open.push(argument),
            5 => open.push(argument.saturating_mul(2)),
            _ => return Err(DepthError::Unexpected(body)),
        }
        if open.len() > depth_max {
            return Err(DepthError::TooDeep(depth_max));
        }
    }
    if at == bytes.len() { Ok(()) } else { Err(DepthError::Trailing(at)) }
}

/// The major type, the argument and where the body begins.
fn header(bytes: &[u8], at: usize) -> Result<(u8, u64, usize), DepthError> {
    let first = *bytes.get(at).ok_or(DepthError::Truncated(at))?;
    let (major, low) = (first >> 5, first & 0x1f);
    let width = match low {
        0..=23 => return Ok((major, u64::from(low), at + 1)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return Err(DepthError::Unexpected(at)),
    };
    let argument = bytes.get(at + 1..at + 1 + width).ok_or(DepthError::Truncated(at))?;
    let argument = argument.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Ok((major, argument, at + 1 + width))
}

fn skip(bytes: &[u8], body: usize, length: u64) -> Result<usize, DepthError> {
    let remaining = bytes.len().saturating_sub(body);
    match usize::try_from(length) {
        Ok(length) if length <= remaining => Ok(body + length),
        _ => Err(DepthError::Truncated(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn depth_is_counted_as_levels_of_containers() {
        let nested = |levels: usize| [vec![0x81; levels], vec![0x00]].concat();
        assert_eq!(check_depth(&nested(3), 4), Ok(()));
        assert_eq!(check_depth(&nested(4), 4), Err(DepthError::TooDeep(4)));
    }

    #[test]
    fn a_million_open_arrays_are_refused_at_once() {
        assert_eq!(check_depth(&vec![0x81; 1 << 20], 16), Err(DepthError::TooDeep(16)));
    }

    proptest! {
        #[test]
        fn whatever_the_codec_writes_is_accepted(value in proptest::collection::btree_map(
            ".{0,8}", proptest::collection::vec(any::<i64>(), 0..5), 0..5)) {
            let bytes = serde_cbor::ser::to_vec_packed(&value).unwrap();
            prop_assert_eq!(check_depth(&bytes, 16), Ok(()));
        }

        #[test]
        fn a_cut_value_is_refused(value in proptest::collection::vec(".{0,8}", 1..8), cut in 1_usize..8) {
            let bytes = serde_cbor::ser::to_vec_packed(&value).unwrap();
            let kept = bytes.len().saturating_sub(cut);
            prop_assert!(check_depth(bytes.get(..kept).unwrap(), 16).is_err());
        }
    }
}
