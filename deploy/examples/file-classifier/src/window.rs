//! The part of a body that the model looks at: its first and its last block.
//!
//! Bodies are taken chunk by chunk and everything between the two blocks is dropped as it passes, so
//! a request costs some kilobytes of memory whatever its size. It does not judge what it holds.

/// Bytes of the first and of the last block: `block_size` of the model `standard_v3_3`.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// The first and the last [`BLOCK_BYTES`] of a stream of bytes, overlapping where it is short.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    first: Vec<u8>,
    last: Vec<u8>,
    total_bytes: u64,
}

impl Window {
    /// Takes the next bytes of the stream.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        let missing = BLOCK_BYTES.saturating_sub(self.first.len());
        self.first.extend(chunk.iter().take(missing));
        let newest = chunk.iter().skip(chunk.len().saturating_sub(BLOCK_BYTES));
        self.last.extend(newest);
        self.last.drain(..self.last.len().saturating_sub(BLOCK_BYTES));
        self.total_bytes = self.total_bytes.saturating_add(chunk.len() as u64);
    }

    pub(crate) fn first(&self) -> &[u8] {
        &self.first
    }

    pub(crate) fn last(&self) -> &[u8] {
        &self.last
    }

    /// Bytes that have passed, kept or not.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

impl From<&[u8]> for Window {
    fn from(whole: &[u8]) -> Self {
        let mut window = Self::default();
        window.push(whole);
        window
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_stream_is_both_the_first_and_the_last_block() {
        let window = Window::from(&b"abc"[..]);
        assert_eq!(window.first(), b"abc");
        assert_eq!(window.last(), b"abc");
        assert_eq!(window.total_bytes(), 3);
    }

    proptest! {
        #[test]
        fn how_a_stream_is_cut_into_chunks_changes_nothing(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6000), 0..6)
        ) {
            let whole = chunks.concat();
            let mut window = Window::default();
            chunks.iter().for_each(|chunk| window.push(chunk));
            prop_assert_eq!(window.first(), &whole[..whole.len().min(BLOCK_BYTES)]);
            prop_assert_eq!(window.last(), &whole[whole.len().saturating_sub(BLOCK_BYTES)..]);
            prop_assert_eq!(window.total_bytes(), whole.len() as u64);
        }
    }
}
