//! MIG: GPUs that the driver splits into instances, each with memory and multiprocessors of its own.
//!
//! What an instance is called is the driver's word; what a workload asks for is parsed. Splits nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A profile as a workload asks for it, as in `1g.10gb`: so many slices of the GPU with so much memory.
///
/// Source of the form: NVIDIA, "Multi-Instance GPU User Guide", "MIG Device Names". Profiles with media
/// extensions (`1g.10gb+me`) and compute instances (`1c.3g.40gb`) can't be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigProfile {
    /// Slices of the GPU, at least 1.
    pub slices: u32,
    /// Memory in the profile's GB, at least 1.
    pub memory_gb: u32,
}

/// Not a profile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no MIG profile: expected one as in `1g.10gb`")]
pub struct MigProfileError(String);

impl FromStr for MigProfile {
    type Err = MigProfileError;
    fn from_str(text: &str) -> Result<Self, MigProfileError> {
        let refused = || MigProfileError(text.chars().take(40).collect());
        // One way to write each profile: it is compared with the driver's word for it.
        let number = |digits: &str| {
            let number = digits.parse::<u32>().ok().filter(|number| *number > 0);
            number.filter(|number| number.to_string() == digits).ok_or_else(refused)
        };
        let parts = text.strip_suffix("gb").and_then(|text| text.split_once("g."));
        let (slices, memory_gb) = parts.ok_or_else(refused)?;
        Ok(Self { slices: number(slices)?, memory_gb: number(memory_gb)? })
    }
}

impl fmt::Display for MigProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}g.{}gb", self.slices, self.memory_gb)
    }
}

impl Serialize for MigProfile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MigProfile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a device stands to MIG.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MigRole {
    /// A GPU that is not split: given out whole or by shares of its memory.
    #[default]
    Unsplit,
    /// A GPU in MIG mode: pods get its instances, which are devices of their own, and never the GPU.
    Parent,
    /// One instance.
    Instance(MigInstance),
}

/// One instance of a GPU in MIG mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigInstance {
    /// Its profile in the driver's word, as in `1g.10gb`.
    pub profile: String,
    /// UUID of the GPU that it is a part of.
    pub parent: String,
}

impl MigRole {
    /// Whether it is a GPU that is not split.
    pub(super) fn is_unsplit(&self) -> bool {
        *self == Self::Unsplit
    }

    /// The instance, where it is one.
    #[must_use]
    pub fn instance(&self) -> Option<&MigInstance> {
        match self {
            Self::Instance(instance) => Some(instance),
            Self::Unsplit | Self::Parent => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_profile_is_read_as_it_is_written() {
        let profile: MigProfile = "3g.40gb".parse().unwrap();
        assert_eq!(profile, MigProfile { slices: 3, memory_gb: 40 });
        assert_eq!(profile.to_string(), "3g.40gb");
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        let texts =
            ["", "large", "1g", "g.gb", "0g.10gb", "1g.0gb", "01g.10gb", "+1g.10gb", "1g.10GB"];
        for text in texts.into_iter().chain(["1g.10gb+me", "1c.3g.40gb", "1g.99999999999gb"]) {
            let error = text.parse::<MigProfile>().unwrap_err().to_string();
            assert!(error.contains("expected one as in `1g.10gb`"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,20}") {
            if let Ok(profile) = text.parse::<MigProfile>() {
                prop_assert_eq!(profile.to_string(), text);
            }
        }
    }
}
