//! An offline restart after kill -9, with a store of 50 MB.

use super::full_store::fill;
use super::marks::Marks;
use super::{Figure, percentile, work_folder};
use crate::real::process::wait_until;
use crate::story::{Story, in_session};
use anyhow::Context;
use std::time::{Duration, SystemTime};

const PATIENCE: Duration = Duration::from_secs(60);

/// Restarts of which the median is told.
const RESTARTS: usize = 5;

/// Pods of the second measurement.
const PODS: u32 = 10;

/// From the agent's start to the first correct answer of the model.
pub(super) fn inference() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut story = Story::new(folder.path(), "mast-17")?;
    story.join()?;
    story.deploy()?;
    story.hub.kill();
    story.agent.cut_power();
    let (bytes, records) = fill(&story.agent)?;
    let (mut totals, mut loads) = (Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        let recovered = story.lose_everything()?;
        totals.push(recovered.first_answer.saturating_sub(recovered.model_load).as_millis());
        loads.push(recovered.model_load.as_millis());
    }
    let how = format!(
        "median of {RESTARTS}: hub dead, agent, shim and pod killed with -9, store of {bytes} bytes \
         with {records} records; from the agent's exec to the first correct answer, less the model's \
         own load, which is the figure below"
    );
    let median = percentile(&mut totals, 50);
    let load = percentile(&mut loads, 50);
    Ok(vec![
        Figure::new("offline_restart_to_first_inference_ms", median, "ms", &how),
        Figure::new("model_load_ms", load, "ms", "as the server says it, in the same runs"),
    ])
}

/// From the agent's start to the first of ten pods' start, and until all are ready.
pub(super) fn ten_pods() -> anyhow::Result<Vec<Figure>> {
    let folder = work_folder()?;
    let mut story = Story::new(folder.path(), "mast-17")?;
    let marks = Marks::new(&folder.path().join("marks"))?;
    story.hub.apply("ten.yaml", &marks.manifest("ten", PODS))?;
    story.join()?;
    story.agent.wait_for("ten pods are ready", PATIENCE, all_ready)?;
    story.hub.kill();
    story.agent.cut_power();
    let (bytes, records) = fill(&story.agent)?;
    let (mut first, mut all) = (Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        story.agent.cut_power();
        marks.clear()?;
        let wall = SystemTime::now();
        let begin = story.agent.start()?;
        let offline = |status: &serde_json::Value| all_ready(status) && !in_session(status);
        story.agent.wait_for("ten pods are ready again", PATIENCE, offline)?;
        all.push(begin.elapsed().as_millis());
        wait_until("ten pods have marked their start", PATIENCE, || {
            Ok(marks.starts("ten")?.len() == PODS as usize)
        })?;
        let starts = marks.starts("ten")?;
        let earliest = starts.first().context("no pod has marked its start")?;
        first.push(earliest.duration_since(wall).context("a mark before the start")?.as_millis());
    }
    let how = format!(
        "median of {RESTARTS}: all killed with -9, store of {bytes} bytes with {records} records; from \
         the agent's exec until the first of {PODS} pods' own program ran (its mark's time, to a \
         clock tick of 4 ms)"
    );
    let ready = format!("the same runs, until status shows all {PODS} ready");
    Ok(vec![
        Figure::new("offline_restart_to_first_start_ms", percentile(&mut first, 50), "ms", &how),
        Figure::new("offline_restart_to_all_ready_ms", percentile(&mut all, 50), "ms", &ready),
    ])
}

fn all_ready(status: &serde_json::Value) -> bool {
    let pods = status.pointer("/pods").and_then(serde_json::Value::as_array);
    pods.is_some_and(|pods| {
        pods.len() == PODS as usize && pods.iter().all(|pod| pod["ready"] == true)
    })
}
