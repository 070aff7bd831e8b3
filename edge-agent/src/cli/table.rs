//! The status as a person reads it in a few seconds.

use crate::core::AgentStatus;
use shared::model::{ConditionStatus, GpuSource, PodStatus};
use std::fmt::Write as _;

/// The status as lines of text.
pub(super) fn status(status: &AgentStatus) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_status(&mut text, status);
    text
}

fn write_status(text: &mut String, status: &AgentStatus) -> std::fmt::Result {
    let node = &status.node_status;
    writeln!(
        text,
        "Node       {} (agent {}, start {})",
        status.node, node.agent_version, status.incarnation
    )?;
    writeln!(text, "Hub        {}", session_words(&status.sync.session))?;
    let version = status.sync.desired_version.as_deref().unwrap_or("none yet");
    writeln!(text, "Desired    {version} (digest {})", status.sync.desired_digest)?;
    writeln!(
        text,
        "Capacity   {} cores, {} MiB, {}",
        node.capacity.cpu_millicores / 1000,
        node.capacity.memory_bytes >> 20,
        gpu_words(status)
    )?;
    writeln!(
        text,
        "To deliver {} events, {} telemetry batches, {} bytes; {} dropped, {} not stored",
        status.outbox.event_records,
        status.outbox.telemetry_records,
        status.outbox.bytes,
        status.outbox.dropped_records,
        status.outbox.unstored_records
    )?;
    writeln!(
        text,
        "Link       {} bytes sent, {} received, {} connections",
        status.link.sent_bytes, status.link.received_bytes, status.link.connects
    )?;
    let wrong = |kind: &str, holds: ConditionStatus| {
        (kind == "GpusSimulated") == (holds == ConditionStatus::True)
    };
    for condition in node.conditions.iter().filter(|c| wrong(&c.kind, c.status)) {
        writeln!(text, "Attention  {}: {}", condition.kind, condition.message)?;
    }
    for scaling in &status.scaling {
        writeln!(
            text,
            "Scaling    {}: {} pods of {} to {}; {}",
            scaling.workload,
            scaling.replicas,
            scaling.min_replicas,
            scaling.max_replicas,
            scaling.seen
        )?;
    }
    writeln!(text)?;
    if status.pods.is_empty() {
        return writeln!(text, "No pods: nothing is assigned to this node.");
    }
    let width = status.pods.iter().map(|pod| pod.pod.to_string().len()).max().unwrap_or(3);
    writeln!(text, "{:width$}  {:10}  READY  RESTARTS  WHY", "POD", "PHASE")?;
    for pod in &status.pods {
        writeln!(
            text,
            "{:width$}  {:10}  {:5}  {:8}  {}",
            pod.pod.to_string(),
            format!("{:?}", pod.phase),
            if pod.ready { "yes" } else { "no" },
            pod.restarts,
            why(pod)
        )?;
    }
    Ok(())
}

fn session_words(state: &str) -> &'static str {
    match state {
        "established" => "in session",
        "opening" | "greeting" => "connected to the broker, waiting for the hub",
        _ => "not connected: pods go on, records are kept",
    }
}

fn gpu_words(status: &AgentStatus) -> String {
    let gpus = &status.node_status.capacity.gpus;
    match gpus.source {
        GpuSource::Absent => "no GPUs (NVML is not installed)".to_owned(),
        GpuSource::Nvml | GpuSource::Simulated => gpus.to_string(),
    }
}

fn why(pod: &PodStatus) -> String {
    match (pod.reason.as_str(), pod.message.as_str()) {
        ("", "") => String::new(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}
