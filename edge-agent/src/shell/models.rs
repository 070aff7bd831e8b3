//! The models on this node when the agent starts.

use crate::models::{ModelFolder, NodeModels};
use shared::in_words;
use tracing::warn;

/// The models that there are at boot. A folder that can't be read keeps no pod from starting that needs none.
pub(super) fn at_boot(folder: &ModelFolder) -> NodeModels {
    folder.list().unwrap_or_else(|error| {
        warn!(error = in_words(&error), "it is not known which models this node has");
        NodeModels::new()
    })
}
