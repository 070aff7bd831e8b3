//! Which start of the hub a broker belongs to.

/// The user property of a CONNACK by which a broker within a hub tells its clients which start of the hub
/// they have reached: one that had a session with another one does not ask for it.
pub const HUB_START_PROPERTY: &str = "s";

/// Characters of what it says; more is no start of a hub.
pub(super) const HUB_START_CHARACTERS_MAX: usize = 16;

/// Notices that the hub beside the broker has started anew.
#[derive(Debug, Default)]
pub struct HubStarts {
    last: Option<String>,
}

impl HubStarts {
    /// Whether `said` is another start than the last that was said. A broker that says nothing says nothing
    /// of it.
    pub fn is_another(&mut self, said: Option<String>) -> bool {
        let Some(said) = said else { return false };
        self.last.replace(said.clone()).is_some_and(|last| last != said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_start_of_the_hub_is_noticed_and_silence_is_none() {
        let mut starts = HubStarts::default();
        let said = ["a", "a", "", "b", "", "b"]
            .map(|start| starts.is_another((!start.is_empty()).then(|| start.to_owned())));
        assert_eq!(said, [false, false, false, true, false, false]);
    }
}
