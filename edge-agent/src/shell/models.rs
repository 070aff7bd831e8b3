//! Tells the loop when other models are on this node.

use crate::models::{ModelFolder, NodeModels};
use shared::in_words;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// How often the folder is looked at: one small folder is read.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The models that there are at boot. A folder that can't be read keeps no pod from starting that needs none.
pub(super) fn at_boot(folder: &ModelFolder) -> NodeModels {
    folder.list().unwrap_or_else(|error| {
        warn!(error = in_words(&error), "it is not known which models this node has");
        NodeModels::new()
    })
}

/// Looks at the folder until nobody listens any more; says what is there when it is another than `known`.
pub(super) async fn watch(
    folder: ModelFolder,
    mut known: NodeModels,
    changes: mpsc::UnboundedSender<NodeModels>,
) {
    while !changes.is_closed() {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let looked_at = folder.clone();
        let Ok(Ok(models)) = tokio::task::spawn_blocking(move || looked_at.list()).await else {
            // What can't be read is not gone.
            continue;
        };
        if models != known {
            known.clone_from(&models);
            // The loop that no longer listens is about to end.
            let _ = changes.send(models);
        }
    }
}
