//! What the store holds of agent and hub, and what items of maps hold, one kind of record a target
//! byte.

use crate::wire::survives;
use edge_agent::audit::{AuditAction, AuditOutcome, AuditRecord};
use edge_agent::pods::PodRecord;
use hub::core::{NodeRecord, Templates};
use shared::limits::MAP_ITEM_BYTES_MAX;
use shared::model::{ClockQuality, NodeEvent, NodeStatus, PodId, PodStatus, UnixMs, Workload};
use shared::sync::{LogMeta, LogReceiver};

/// A kind of record, and a record.
pub fn records(data: &[u8]) {
    let Some((kind, record)) = data.split_first() else { return };
    let limit = MAP_ITEM_BYTES_MAX;
    match kind % 10 {
        0 => workload(record),
        1 => survives::<NodeStatus>("node status", record, limit),
        2 => survives::<PodStatus>("pod status", record, limit),
        3 => survives::<NodeEvent>("event", record, limit),
        4 => survives::<PodRecord>("pod record", record, limit),
        5 => survives::<NodeRecord>("node record", record, limit),
        6 => survives::<LogMeta>("log position", record, limit),
        7 => survives::<LogReceiver>("watermarks", record, limit),
        8 => survives::<Templates>("templates", record, limit),
        _ => survives::<AuditRecord>("audit record", record, limit),
    }
}

/// A record of a command in a pod.
#[must_use]
pub fn audit_record(pod: PodId) -> AuditRecord {
    AuditRecord {
        number: 7,
        at: UnixMs(1_700_000_000_000),
        clock: ClockQuality::Synchronised,
        caller: "hub: alice".to_owned(),
        pod,
        container: Some("main".to_owned()),
        action: AuditAction::Exec { command: vec!["ls".to_owned()] },
        outcome: AuditOutcome::Done { exit_code: Some(3) },
    }
}

/// A workload that decodes can also be judged.
fn workload(record: &[u8]) {
    survives::<Workload>("workload", record, MAP_ITEM_BYTES_MAX);
    if let Ok(workload) = shared::wire::decode::<Workload>("workload", record, MAP_ITEM_BYTES_MAX) {
        let _ = (workload.template.validate(), workload.template.resources());
    }
}
