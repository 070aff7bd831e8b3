//! The status as a person reads it in a few seconds.

use crate::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::core::AgentStatus;
use shared::model::{ClockQuality, ConditionStatus, GpuSource, PodStatus, UnixMs};
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
    let address = |pod: &PodStatus| pod.pod_ip.map_or("-".to_owned(), |ip| ip.to_string());
    let ip_width = status.pods.iter().map(|pod| address(pod).len()).max().unwrap_or(1).max(2);
    writeln!(text, "{:width$}  {:10}  READY  RESTARTS  {:ip_width$}  WHY", "POD", "PHASE", "IP")?;
    for pod in &status.pods {
        writeln!(
            text,
            "{:width$}  {:10}  {:5}  {:8}  {:ip_width$}  {}",
            pod.pod.to_string(),
            format!("{:?}", pod.phase),
            if pod.ready { "yes" } else { "no" },
            pod.restarts,
            address(pod),
            why(pod)
        )?;
    }
    Ok(())
}

/// Records as a table, the oldest first.
pub(super) fn audit(records: &[AuditRecord]) -> String {
    let mut text = String::new();
    for record in records {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", printable(&audit_line(record)));
    }
    if records.is_empty() {
        text.push_str("Nobody has read a log or run a command.\n");
    }
    text
}

fn audit_line(record: &AuditRecord) -> String {
    let AuditRecord { number, at, clock, caller, pod, container, action, outcome } = record;
    let doubt = if *clock == ClockQuality::Synchronised { "" } else { "?" };
    let action = match action {
        AuditAction::ReadLog => "read the log".to_owned(),
        AuditAction::Exec { command } => format!("ran {command:?}"),
    };
    let outcome = match outcome {
        AuditOutcome::Began => "how it ended is not known".to_owned(),
        AuditOutcome::Refused { why } => format!("refused: {why}"),
        AuditOutcome::Failed { why } => format!("failed: {why}"),
        AuditOutcome::Done { exit_code: Some(code) } => format!("exit code {code}"),
        AuditOutcome::Done { exit_code: None } if action.starts_with("ran") => {
            "killed at its deadline".to_owned()
        }
        AuditOutcome::Done { exit_code: None } => "done".to_owned(),
    };
    let container = container.as_ref().map_or(String::new(), |name| format!(" ({name})"));
    format!("{number}  {}{doubt}  {caller}  {pod}{container}  {action}  {outcome}", time(*at))
}

/// As in `2026-11-24 18:40:10Z`. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn time(at: UnixMs) -> String {
    let seconds = at.0 / 1000;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on.
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// What others chose must not move the terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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
        GpuSource::Nvml | GpuSource::Sysfs | GpuSource::Simulated => gpus.to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_that_says_who_did_what_when_and_how_it_ended() {
        let mut record = AuditRecord {
            number: 7,
            at: UnixMs(1_764_009_610_250),
            clock: ClockQuality::Unsynchronised,
            caller: "hub: alice\u{1b}[2J".to_owned(),
            pod: "default/ocr-0".parse().unwrap(),
            container: Some("main".to_owned()),
            action: AuditAction::Exec { command: vec!["ls".to_owned(), "a b".to_owned()] },
            outcome: AuditOutcome::Done { exit_code: Some(3) },
        };
        assert_eq!(
            audit(&[record.clone()]),
            "7  2025-11-24 18:40:10Z?  hub: alice\u{fffd}[2J  default/ocr-0 (main)  \
             ran [\"ls\", \"a b\"]  exit code 3\n"
        );
        record.outcome = AuditOutcome::Done { exit_code: None };
        assert!(audit(&[record.clone()]).contains("killed at its deadline"));
        record.action = AuditAction::ReadLog;
        assert!(audit(&[record]).contains("read the log  done"));
        assert!(audit(&[]).contains("Nobody"));
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds: u64| time(UnixMs(seconds * 1000));
        assert_eq!(at(0), "1970-01-01 00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(at(951_868_799), "2000-02-29 23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00Z");
    }
}
