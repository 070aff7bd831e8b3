//! Reads steps and values from the bytes of an input. Never fails: past the end all is zero, so that
//! every input means something and a short one is not wasted.

/// The bytes that were not read yet.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    /// Yes or no: a byte that is even or not.
    pub fn yes(&mut self) -> bool {
        self.byte().is_multiple_of(2)
    }

    /// A number: small ones as they are, some that are known to hurt, or any in eight more bytes.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=0xef => u64::from(small),
            0xf0 => u64::MAX,
            0xf1 => u64::MAX - 1,
            0xf2 => 1 << 63,
            0xf3 => (1 << 63) - 1,
            0xf4 => 1 << 32,
            0xf5 => u64::from(u32::MAX),
            0xf6 => 0x1_0000,
            0xf7 => 1024,
            _ => {
                let mut bytes = [0; 8];
                bytes.iter_mut().for_each(|byte| *byte = self.byte());
                u64::from_le_bytes(bytes)
            }
        }
    }

    /// A number of 32 bits: the low ones of [`Self::number`].
    pub fn small(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.number().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Bytes after their length: one byte below 240, else two.
    pub fn chunk(&mut self) -> &'a [u8] {
        let length = match self.byte() {
            short @ 0..=0xef => usize::from(short),
            long => usize::from(long - 0xf0) << 8 | usize::from(self.byte()),
        };
        let (chunk, rest) = self.bytes.split_at(length.min(self.bytes.len()));
        self.bytes = rest;
        chunk
    }

    /// A chunk as text, what is not UTF-8 replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.chunk()).into_owned()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }
}

/// Writes what [`Input`] reads; seeds are made with it.
#[derive(Debug, Clone, Default)]
pub struct Output {
    bytes: Vec<u8>,
}

impl Output {
    /// Adds a byte.
    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.bytes.push(byte);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        match u8::try_from(number) {
            Ok(small @ 0..=0xef) => self.bytes.push(small),
            _ => {
                self.bytes.push(0xff);
                self.bytes.extend(number.to_le_bytes());
            }
        }
        self
    }

    /// Adds bytes after their length; what is over 4095 is cut off.
    #[must_use]
    pub fn chunk(mut self, chunk: &[u8]) -> Self {
        let chunk = chunk.get(..4095).unwrap_or(chunk);
        let [low, high, ..] = chunk.len().to_le_bytes();
        if chunk.len() < 0xf0 {
            self.bytes.push(low);
        } else {
            self.bytes.extend([0xf0 | high, low]);
        }
        self.bytes.extend(chunk);
        self
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}
