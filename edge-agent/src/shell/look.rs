//! Looks again and again at what may change behind the agent's back, and tells the loop when it has.

use std::time::Duration;
use tokio::sync::mpsc;

/// How often is looked: one small folder is read, or a few links are followed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Looks until nobody listens any more; says what is there when it is other than `known`. A look that fails says
/// nothing: what can't be read is not gone.
pub(super) async fn watch<T: PartialEq + Clone + Send + 'static>(
    look: impl Fn() -> Option<T> + Clone + Send + 'static,
    mut known: T,
    changes: mpsc::UnboundedSender<T>,
) {
    while !changes.is_closed() {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Ok(Some(found)) = tokio::task::spawn_blocking(look.clone()).await else { continue };
        if found != known {
            known.clone_from(&found);
            // The loop that no longer listens is about to end.
            let _ = changes.send(found);
        }
    }
}
