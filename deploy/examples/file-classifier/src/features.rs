//! Turns the two blocks of a file into what the model takes, or answers by rule where the file is too
//! small for it.
//!
//! The numbers and the order of the steps are those of Magika's model `standard_v3_3`: its
//! `config.min.json` in the PyPI package and `src/model.rs` in the crate, whose digest build.rs pins.
//! Pure: no model, no IO.

use crate::labels::{ContentType, EMPTY, TEXT, UNKNOWN};
use crate::window::Window;

/// Tokens taken from the beginning (`beg_size`).
const BEGINNING_TOKENS: usize = 1024;

/// Tokens taken from the end (`end_size`).
const END_TOKENS: usize = 1024;

/// Length of the model's input.
pub(crate) const FEATURE_TOKENS: usize = BEGINNING_TOKENS + END_TOKENS;

/// Stands where the file has no byte: one past the greatest byte (`padding_token`).
const PADDING: i32 = 256;

/// With fewer bytes than this, leading white space aside, the model has nothing to go by
/// (`min_file_size_for_dl`).
const MODEL_INPUT_BYTES_MIN: usize = 8;

/// What is to be done with a file.
#[derive(Debug, PartialEq)]
pub(crate) enum Features {
    /// Ask the model about these [`FEATURE_TOKENS`] tokens, each a byte's value or the padding.
    ForModel(Vec<i32>),
    /// The answer is certain without it.
    Ruled(&'static ContentType),
}

impl Features {
    /// Extracts them from the first and the last block of a file.
    pub(crate) fn extract(window: &Window) -> Self {
        if window.total_bytes() == 0 {
            return Self::Ruled(&EMPTY);
        }
        let beginning = without_leading_space(window.first());
        if beginning.len() < MODEL_INPUT_BYTES_MIN {
            let is_text = std::str::from_utf8(window.first()).is_ok();
            return Self::Ruled(if is_text { &TEXT } else { &UNKNOWN });
        }
        let end = without_trailing_space(window.last());
        let end = end.split_at(end.len().saturating_sub(END_TOKENS)).1;
        let mut tokens = Vec::with_capacity(FEATURE_TOKENS);
        tokens.extend(beginning.iter().take(BEGINNING_TOKENS).map(|byte| i32::from(*byte)));
        // The beginning is padded behind it, the end before it.
        tokens.resize(FEATURE_TOKENS - end.len(), PADDING);
        tokens.extend(end.iter().map(|byte| i32::from(*byte)));
        Self::ForModel(tokens)
    }
}

fn without_leading_space(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !is_space(*byte)).unwrap_or(bytes.len());
    bytes.split_at(start).1
}

fn without_trailing_space(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    bytes.split_at(end).0
}

/// White space as Python's `bytes.strip` sees it, which has the vertical tab that Rust leaves out.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extract(bytes: &[u8]) -> Features {
        Features::extract(&Window::from(bytes))
    }

    fn tokens(bytes: &[u8]) -> Vec<i32> {
        match extract(bytes) {
            Features::ForModel(tokens) => tokens,
            Features::Ruled(content_type) => panic!("ruled to be {}", content_type.label),
        }
    }

    #[test]
    fn an_empty_file_is_ruled_empty() {
        assert_eq!(extract(b""), Features::Ruled(&EMPTY));
    }

    #[test]
    fn fewer_than_eight_bytes_are_text_if_they_are_utf_8_and_unknown_if_not() {
        assert_eq!(extract("grün".as_bytes()), Features::Ruled(&TEXT));
        assert_eq!(extract(b"\xff\xfe\x00"), Features::Ruled(&UNKNOWN));
    }

    #[test]
    fn leading_space_does_not_count_towards_the_eight_bytes() {
        assert_eq!(extract(b" \t\r\n\x0b\x0c    1234567"), Features::Ruled(&TEXT));
        assert_eq!(tokens(b"    12345678")[..8], [49, 50, 51, 52, 53, 54, 55, 56]);
    }

    #[test]
    fn the_beginning_is_padded_behind_and_the_end_before() {
        let tokens = tokens(b"  8 bytes \n");
        assert_eq!(tokens[..11], [56, 32, 98, 121, 116, 101, 115, 32, 10, PADDING, PADDING]);
        assert_eq!(
            tokens[FEATURE_TOKENS - 10..],
            [PADDING, 32, 32, 56, 32, 98, 121, 116, 101, 115]
        );
    }

    #[test]
    fn a_long_file_shows_its_first_and_its_last_1024_bytes() {
        let file: Vec<u8> = (0..20_000_u32).map(|at| if at < 10_000 { 1 } else { 2 }).collect();
        let tokens = tokens(&file);
        assert!(tokens[..BEGINNING_TOKENS].iter().all(|token| *token == 1));
        assert!(tokens[BEGINNING_TOKENS..].iter().all(|token| *token == 2));
    }

    proptest! {
        #[test]
        fn the_model_always_gets_its_length_of_bytes_and_padding(
            file in prop::collection::vec(any::<u8>(), 0..9000)
        ) {
            if let Features::ForModel(tokens) = extract(&file) {
                prop_assert_eq!(tokens.len(), FEATURE_TOKENS);
                prop_assert!(tokens.iter().all(|token| (0..=PADDING).contains(token)));
            }
        }
    }
}
