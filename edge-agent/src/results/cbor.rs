//! Finds where values begin and end in CBOR that a pod wrote, so that each is kept as it was written.
//!
//! Source of the format: RFC 8949, sections 3 and 3.2. Tags and indefinite lengths are taken, since
//! pods write with whatever library they have. Work is bounded by the bytes, depth by [`DEPTH_MAX`].

use std::ops::Range;

/// Levels of containers and tags.
const DEPTH_MAX: usize = 32;

/// The byte that ends a value of indefinite length.
const BREAK: u8 = 0xff;

/// Where CBOR could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end in the middle of a value.
    Truncated,
    /// A reserved form, or a `break` where there is nothing to end.
    Malformed(usize),
    /// Nested too deep.
    TooDeep,
}

/// The head of a value.
struct Head {
    major: u8,
    /// `None` for an indefinite length.
    argument: Option<u64>,
    /// Where what follows the head begins.
    body: usize,
}

/// Whether `bytes` are exactly one value.
pub(super) fn check_whole(bytes: &[u8]) -> Result<(), Fault> {
    let end = end_of(bytes, 0, DEPTH_MAX)?;
    if end == bytes.len() { Ok(()) } else { Err(Fault::Malformed(end)) }
}

/// The values of an array; `None` when `bytes` begin with something else.
pub(super) fn array(bytes: &[u8]) -> Result<Option<Vec<Range<usize>>>, Fault> {
    let head = head(bytes, 0)?;
    if head.major != 4 {
        Ok(None)
    } else {
        items(bytes, &head, 1, DEPTH_MAX).map(|(items, _)| Some(items))
    }
}

/// Keys and values of a map, one after the other; `None` when `bytes` begin with something else.
pub(super) fn map(bytes: &[u8]) -> Result<Option<Vec<Range<usize>>>, Fault> {
    let head = head(bytes, 0)?;
    if head.major != 5 {
        Ok(None)
    } else {
        items(bytes, &head, 2, DEPTH_MAX).map(|(items, _)| Some(items))
    }
}

fn head(bytes: &[u8], at: usize) -> Result<Head, Fault> {
    let first = *bytes.get(at).ok_or(Fault::Truncated)?;
    let (major, low) = (first >> 5, first & 0x1f);
    let width = match low {
        0..=23 => return Ok(Head { major, argument: Some(u64::from(low)), body: at + 1 }),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        31 if (2..=5).contains(&major) => return Ok(Head { major, argument: None, body: at + 1 }),
        _ => return Err(Fault::Malformed(at)),
    };
    let argument = bytes.get(at + 1..at + 1 + width).ok_or(Fault::Truncated)?;
    let argument = argument.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Ok(Head { major, argument: Some(argument), body: at + 1 + width })
}

fn end_of(bytes: &[u8], at: usize, depth: usize) -> Result<usize, Fault> {
    let depth = depth.checked_sub(1).ok_or(Fault::TooDeep)?;
    let head = head(bytes, at)?;
    match head.major {
        0 | 1 | 7 => Ok(head.body),
        2 | 3 => string_end(bytes, &head),
        4 => items(bytes, &head, 1, depth).map(|(_, end)| end),
        5 => items(bytes, &head, 2, depth).map(|(_, end)| end),
        _ => end_of(bytes, head.body, depth),
    }
}

fn string_end(bytes: &[u8], string: &Head) -> Result<usize, Fault> {
    let definite = |head: &Head| {
        let length = usize::try_from(head.argument?).ok()?;
        head.body.checked_add(length).filter(|end| *end <= bytes.len())
    };
    if string.argument.is_some() {
        return definite(string).ok_or(Fault::Truncated);
    }
    let mut at = string.body;
    while *bytes.get(at).ok_or(Fault::Truncated)? != BREAK {
        let chunk = head(bytes, at)?;
        if chunk.major != string.major || chunk.argument.is_none() {
            return Err(Fault::Malformed(at));
        }
        at = definite(&chunk).ok_or(Fault::Truncated)?;
    }
    Ok(at + 1)
}

/// What is in a container, and where it ends; `each` values make one of its entries.
fn items(
    bytes: &[u8],
    container: &Head,
    each: u64,
    depth: usize,
) -> Result<(Vec<Range<usize>>, usize), Fault> {
    let (mut found, mut at) = (Vec::new(), container.body);
    let count = container.argument.map(|count| count.saturating_mul(each));
    loop {
        let so_far = found.len() as u64;
        match count {
            Some(count) if so_far >= count => return Ok((found, at)),
            None if bytes.get(at) == Some(&BREAK) => {
                let whole = so_far.is_multiple_of(each);
                return if whole { Ok((found, at + 1)) } else { Err(Fault::Malformed(at)) };
            }
            _ => {}
        }
        let end = end_of(bytes, at, depth)?;
        found.push(at..end);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_of_every_form_end_where_they_end() {
        // RFC 8949, appendix A.
        for hex in [
            "00",
            "1903e8",
            "3903e7",
            "f97e00",
            "fb3ff199999999999a",
            "f4",
            "f0",
            "f8ff",
            "c074323031332d30332d32315432303a30343a30305a",
            "4401020304",
            "6161",
            "80",
            "8301820203820405",
            "a201020304",
            "5f42010243030405ff",
            "7f657374726561646d696e67ff",
            "9f018202039f0405ffff",
            "bf61610161629f0203ffff",
        ] {
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(check_whole(&bytes), Ok(()), "{hex}");
            assert!(check_whole(&bytes[..bytes.len() - 1]).is_err(), "{hex} cut");
            let longer = [bytes.as_slice(), &[0]].concat();
            assert_eq!(check_whole(&longer), Err(Fault::Malformed(bytes.len())), "{hex} and more");
        }
    }

    #[test]
    fn the_parts_of_a_map_and_of_an_array_are_found() {
        let bytes = [0xa1, 0x61, b'a', 0x82, 1, 2];
        assert_eq!(map(&bytes), Ok(Some(vec![1..3, 3..6])));
        assert_eq!(array(&bytes), Ok(None));
        assert_eq!(array(&bytes[3..]), Ok(Some(vec![1..2, 2..3])));
    }

    #[test]
    fn depth_and_claimed_lengths_cost_nothing() {
        assert_eq!(check_whole(&vec![0x81; 1 << 20]), Err(Fault::TooDeep));
        assert_eq!(check_whole(&vec![0xc1; 1 << 20]), Err(Fault::TooDeep));
        assert_eq!(
            check_whole(&[0x9b, 255, 255, 255, 255, 255, 255, 255, 255, 0]),
            Err(Fault::Truncated)
        );
        assert_eq!(check_whole(&[0xbf, 0, 0xff]), Err(Fault::Malformed(2)));
        assert_eq!(check_whole(&[0x5f, 0x61, 0, 0xff]), Err(Fault::Malformed(1)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = check_whole(&bytes);
            let _ = (map(&bytes), array(&bytes));
        }
    }
}
