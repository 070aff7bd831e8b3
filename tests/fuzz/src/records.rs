//! What the store holds of agent and hub, and what items of maps hold, one kind of record a target
//! byte.

use crate::wire::survives;
use edge_agent::pods::PodRecord;
use hub::core::{NodeRecord, Templates};
use shared::limits::MAP_ITEM_BYTES_MAX;
use shared::model::{NodeEvent, NodeStatus, PodStatus, Workload};
use shared::sync::{LogMeta, LogReceiver};

/// A kind of record, and a record.
pub fn records(data: &[u8]) {
    let Some((kind, record)) = data.split_first() else { return };
    let limit = MAP_ITEM_BYTES_MAX;
    match kind % 9 {
        0 => workload(record),
        1 => survives::<NodeStatus>("node status", record, limit),
        2 => survives::<PodStatus>("pod status", record, limit),
        3 => survives::<NodeEvent>("event", record, limit),
        4 => survives::<PodRecord>("pod record", record, limit),
        5 => survives::<NodeRecord>("node record", record, limit),
        6 => survives::<LogMeta>("log position", record, limit),
        7 => survives::<LogReceiver>("watermarks", record, limit),
        _ => survives::<Templates>("templates", record, limit),
    }
}

/// A workload that decodes can also be judged.
fn workload(record: &[u8]) {
    survives::<Workload>("workload", record, MAP_ITEM_BYTES_MAX);
    if let Ok(workload) = shared::wire::decode::<Workload>("workload", record, MAP_ITEM_BYTES_MAX) {
        let _ = (workload.template.validate(), workload.template.resources());
    }
}
