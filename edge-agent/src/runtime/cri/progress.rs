//! How far an image is that comes: what containerd says of the content that it takes in. CRI has no word for it, so
//! that another runtime is not asked twice.
//!
//! What is being taken in is known by layer and not by image. Counted are layers that began to come, or went on,
//! since the pull began: with two pulls at a time each may count the other's. How many layers are still to begin is
//! not known, so that the whole grows.

use super::client::{CallError, CriClient, QUESTION_LIMIT};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Between two looks. A pull that ends before the first has no figures.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Figures are reported over the link: a new one only after so long, and when so many per cent more have come.
const TOLD_INTERVAL: Duration = Duration::from_secs(60);
const TOLD_STEP_PERCENT: u64 = 10;

/// What the name of a layer that is taken in begins with (containerd, `remotes.MakeRefKey`).
const LAYER: &str = "layer-";

/// Layers that are remembered: an image has 127 at most.
const LAYERS_MAX: usize = 1024;

/// `ListStatusesRequest` of containerd's `api/services/content/v1/content.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct ListStatusesRequest {}

/// `ListStatusesResponse` of the same.
#[derive(Clone, PartialEq, prost::Message)]
struct ListStatusesResponse {
    #[prost(message, repeated, tag = "1")]
    statuses: Vec<Status>,
}

/// `Status` of the same: something that is being taken in.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "3")]
    name: String,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    total: i64,
}

/// What has come of a layer, and all of it, in bytes.
type Layers = BTreeMap<String, (u64, u64)>;

/// Layers that are being taken in; `None` from a runtime that does not say it.
pub(super) async fn layers(client: &CriClient) -> Option<Layers> {
    let answer: Result<ListStatusesResponse, CallError> =
        client.content("ListStatuses", &ListStatusesRequest {}, QUESTION_LIMIT).await;
    let bytes = |number: i64| u64::try_from(number).unwrap_or_default();
    let layer = |status: Status| {
        let is_layer = status.name.starts_with(LAYER);
        is_layer.then(|| (status.name, (bytes(status.offset), bytes(status.total))))
    };
    Some(answer.ok()?.statuses.into_iter().filter_map(layer).take(LAYERS_MAX).collect())
}

/// Tells how far the pull is that begins now; never ends. `before` is what was taken in before.
pub(super) async fn follow(
    client: &CriClient,
    before: Option<Layers>,
    image: &str,
    says: &watch::Sender<String>,
) -> Infallible {
    let Some(before) = before else { return pending().await };
    let mut progress = Progress { before, ..Progress::default() };
    loop {
        sleep(LOOK_INTERVAL).await;
        // Asked in vain once, it may answer next time.
        let Some(layers) = layers(client).await else { continue };
        if let Some(figures) = progress.look(&layers, Instant::now()) {
            says.send_replace(format!("the image {image} is being pulled: {figures}"));
        }
    }
}

#[derive(Debug, Default)]
struct Progress {
    before: Layers,
    /// Layers of this pull, as they were seen last.
    seen: Layers,
    /// What was told last, in per cent, and when.
    told: Option<(u64, Instant)>,
}

impl Progress {
    /// New figures, as in `12.3 of 80.1 MiB`, where they are due.
    fn look(&mut self, layers: &Layers, now: Instant) -> Option<String> {
        for (name, (came, total)) in &mut self.seen {
            // One that is not taken in any more has come: without it the pull fails.
            *came = layers.get(name).map_or(*total, |(came, _)| *came);
        }
        for (name, layer) in layers {
            let moves = self.before.get(name).is_none_or(|before| layer.0 > before.0);
            if moves && self.seen.len() < LAYERS_MAX {
                self.seen.insert(name.clone(), *layer);
            }
        }
        let sum = |of: fn(&(u64, u64)) -> u64| {
            self.seen.values().map(of).fold(0_u64, |sum, bytes| sum.saturating_add(bytes))
        };
        let (came, whole) = (sum(|layer| layer.0), sum(|layer| layer.1));
        let percent = came.saturating_mul(100).checked_div(whole)?;
        let is_due = self.told.is_none_or(|(told, at)| {
            percent >= told + TOLD_STEP_PERCENT && now.duration_since(at) >= TOLD_INTERVAL
        });
        if !is_due {
            return None;
        }
        self.told = Some((percent, now));
        Some(format!("{} of {} MiB", mebibytes(came), mebibytes(whole)))
    }
}

/// With one digit after the point.
fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn layers(of: &[(&str, u64, u64)]) -> Layers {
        of.iter()
            .map(|(name, came, total)| ((*name).to_owned(), (came * MIB, total * MIB)))
            .collect()
    }

    #[test]
    fn figures_are_of_layers_that_came_since_and_a_layer_that_is_done_stays_counted() {
        let before = layers(&[("other", 7, 9), ("resumed", 2, 10)]);
        let mut progress = Progress { before, ..Progress::default() };
        let (begin, minute) = (Instant::now(), Duration::from_secs(60));
        let nothing = layers(&[("other", 7, 9), ("resumed", 2, 10)]);
        assert_eq!(progress.look(&nothing, begin), None, "nothing has come");
        let first = layers(&[("other", 7, 9), ("resumed", 3, 10), ("a", 1, 10)]);
        assert_eq!(progress.look(&first, begin).as_deref(), Some("4.0 of 20.0 MiB"));
        let second = layers(&[("a", 4, 10), ("b", 0, 5)]);
        let told = progress.look(&second, begin + minute);
        assert_eq!(told.as_deref(), Some("14.0 of 25.0 MiB"));
        assert_eq!(mebibytes(MIB + MIB / 4), "1.2");
    }

    #[test]
    fn figures_are_told_at_steps_of_ten_per_cent_and_at_most_each_minute() {
        let (mut progress, begin) = (Progress::default(), Instant::now());
        let told: Vec<u64> = (0..600)
            .filter(|second| {
                let came = layers(&[("a", *second, 600)]);
                progress.look(&came, begin + Duration::from_secs(*second)).is_some()
            })
            .collect();
        assert_eq!(told, [0, 60, 120, 180, 240, 300, 360, 420, 480, 540]);
        let (mut progress, begin) = (Progress::default(), Instant::now());
        let told = (0..100)
            .filter(|second| {
                let came = layers(&[("a", *second, 100)]);
                progress.look(&came, begin + Duration::from_secs(*second)).is_some()
            })
            .count();
        assert_eq!(told, 2, "the fast one is told each minute");
        assert_eq!(Progress::default().look(&layers(&[("a", 5, 0)]), begin), None);
    }
}
