//! From a manifest to a started pod: hub, broker, TLS, session, two stores and the runtime between.

use super::marks::Marks;
use super::{Figure, percentile, work_folder};
use crate::real::process::wait_until;
use crate::story::Story;
use anyhow::Context;
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(60);

/// Changes that are measured.
const CHANGES: usize = 100;

/// From the manifest's rename into the folder until the pod's own program runs.
pub(super) fn change_to_start() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut story = Story::new(folder.path(), "mast-17")?;
    story.join()?;
    let marks = Marks::new(&folder.path().join("marks"))?;
    let mut took = Vec::new();
    for number in 0..CHANGES {
        let name = format!("change{number}");
        let file = format!("{name}.yaml");
        let begin = SystemTime::now();
        story.hub.apply(&file, &marks.manifest(&name, 1))?;
        wait_until("the pod has started", PATIENCE, || Ok(!marks.starts(&name)?.is_empty()))?;
        let starts = marks.starts(&name)?;
        let start = starts.first().context("no mark")?;
        // A mark has the time of the last clock tick, up to 4 ms before.
        took.push(start.duration_since(begin).unwrap_or_default().as_millis());
        // The next change begins from rest, with about as many pods as this one.
        story.hub.withdraw(&file)?;
        let pod = format!("default/{name}-0");
        story.agent.wait_for("the pod is gone", PATIENCE, |status| {
            let pods = status.pointer("/pods").and_then(serde_json::Value::as_array);
            pods.is_some_and(|pods| pods.iter().all(|p| p["pod"] != pod.as_str()))
        })?;
    }
    let how = format!(
        "{CHANGES} changes on one machine: manifest written until the pod's own program ran (its \
         mark's time, to a clock tick of 4 ms), so the runtime was asked to start it earlier"
    );
    Ok(vec![
        Figure::new("change_to_start_ms_p50", percentile(&mut took, 50), "ms", &how),
        Figure::new("change_to_start_ms_p99", percentile(&mut took, 99), "ms", "of the same"),
    ])
}
