//! What `status` shows: the core as a person or a program wants to see it.

use super::AgentCore;
use crate::scaling::ScalingStatus;
use serde::{Deserialize, Serialize};
use shared::model::{NodeStatus, PodStatus, Workload, WorkloadKey};
use shared::sync::{LinkClass, StreamTotals};
use shared::wire::Stream;
use std::collections::BTreeMap;

/// Everything that `edge-agent status --output json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The node's name.
    pub node: String,
    /// Counts the starts of the agent.
    pub incarnation: u64,
    /// As it is reported to the hub.
    pub node_status: NodeStatus,
    /// Every pod that should be here or still is.
    pub pods: Vec<PodStatus>,
    /// How far agent and hub agree.
    pub sync: SyncStatus,
    /// What waits to be delivered.
    pub outbox: OutboxStatus,
    /// What crossed the link.
    pub link: LinkStatus,
    /// What it may carry, what that was spent on, and how often is sampled for it.
    pub budget: BudgetStatus,
    /// How many pods there are of the workloads whose number this node decides.
    #[serde(default)]
    pub scaling: Vec<ScalingStatus>,
}

/// How far agent and hub agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// `offline`, `opening`, `greeting` or `established`.
    pub session: String,
    /// The (term, generation) of desired state in force, as `term.generation`.
    pub desired_version: Option<String>,
    /// The first bytes of its digest.
    pub desired_digest: String,
    /// Whether the hub has this node's reported state.
    pub reported_in_sync: bool,
    /// Updates of desired state that were refused since the agent started.
    pub refused_updates: u64,
    /// Payloads that were not genuine or not decodable since the agent started.
    pub refused_payloads: u64,
}

/// What waits to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Events not yet acknowledged, alarms among them.
    pub event_records: u64,
    /// Telemetry batches not yet acknowledged.
    pub telemetry_records: u64,
    /// Results not yet acknowledged, for all sinks.
    #[serde(default)]
    pub result_records: u64,
    /// Bytes of all these.
    pub bytes: u64,
    /// Samples ever put into the outbox on this node.
    pub samples_recorded: u64,
    /// Samples in memory that make the next batch.
    pub samples_pending: u64,
    /// Results that pods handed in since the agent started.
    #[serde(default)]
    pub results_taken: u64,
    /// How many of these thinning left out.
    #[serde(default)]
    pub results_thinned: u64,
    /// Records that the quota took since the agent started.
    pub dropped_records: u64,
    /// Samples and events that the store did not take since the agent started.
    pub unstored_records: u64,
}

/// What the link may carry and has carried, as it is on the wire, both ways.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// The limit of any 24 hours, if there is one.
    pub bytes_per_day: Option<u64>,
    /// The limit of a second, if there is one.
    pub bytes_per_second: Option<u64>,
    /// Bytes of the last 24 hours, also of earlier starts of the agent where there is a limit.
    pub spent_in_day_bytes: u64,
    /// Bytes since the agent started, by what they were spent on.
    pub spent_bytes: BTreeMap<String, u64>,
    /// Milliseconds between samples now.
    pub sample_interval_ms: u64,
    /// Samples in a batch now.
    pub samples_per_batch: u64,
    /// Steps below what the configuration says.
    pub steps_down: u64,
    /// Whether most series are left out, since not even the lowest step fits.
    pub sheds_series: bool,
}

/// What crossed the link since the agent started. Payloads only; MQTT, TLS and TCP add to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Times that MQTT was connected.
    pub connects: u64,
    /// Bytes of payloads that were published.
    pub sent_bytes: u64,
    /// Bytes of payloads that arrived.
    pub received_bytes: u64,
    /// Payloads that were published.
    pub sent_messages: u64,
    /// Payloads that arrived.
    pub received_messages: u64,
}

impl AgentCore {
    /// The present state, with what the shell knows of the link.
    #[must_use]
    pub fn status(&self, link: LinkStatus) -> AgentStatus {
        AgentStatus {
            node: self.node.to_string(),
            incarnation: self.incarnation,
            node_status: self.node_status(),
            pods: self.pods.statuses().cloned().collect(),
            sync: self.sync_status(),
            outbox: self.outbox_status(),
            link,
            budget: self.budget_status(),
            scaling: self.scaling.statuses().collect(),
        }
    }

    /// The workloads of the desired state that is in force, as far as this agent can read them.
    #[must_use]
    pub fn workloads(&self) -> &BTreeMap<WorkloadKey, Workload> {
        &self.workloads
    }

    fn sync_status(&self) -> SyncStatus {
        let position = self.desired.position();
        SyncStatus {
            session: self.session.state_name().to_owned(),
            desired_version: position.map(|position| position.version.to_string()),
            desired_digest: self.desired.content().digest().to_string(),
            reported_in_sync: self.reported.is_in_sync(),
            refused_updates: self.refused_updates,
            refused_payloads: self.refused_payloads,
        }
    }

    fn budget_status(&self) -> BudgetStatus {
        let (limits, spent) = (self.budget.limits(), self.budget.spent());
        let by_class =
            LinkClass::ALL.iter().map(|class| (class.name().to_owned(), spent.of(*class)));
        let ladder = &self.recorder.ladder;
        BudgetStatus {
            bytes_per_day: limits.bytes_per_day,
            bytes_per_second: limits.bytes_per_second,
            spent_in_day_bytes: self.spent_in_day,
            spent_bytes: by_class.collect(),
            sample_interval_ms: ladder.rung().sample_interval_ms,
            samples_per_batch: ladder.rung().samples_per_batch as u64,
            steps_down: ladder.steps_down() as u64,
            sheds_series: ladder.sheds_series(),
        }
    }

    fn outbox_status(&self) -> OutboxStatus {
        let add = |a: StreamTotals, b: StreamTotals| StreamTotals {
            records: a.records + b.records,
            bytes: a.bytes + b.bytes,
        };
        let events = add(self.outbox.totals(Stream::Alarms), self.outbox.totals(Stream::Events));
        let live = self.outbox.totals(Stream::Telemetry);
        let telemetry = add(live, self.outbox.totals(Stream::Backfill));
        let results = self.outbox.results_totals();
        OutboxStatus {
            event_records: events.records,
            telemetry_records: telemetry.records,
            result_records: results.records,
            bytes: events.bytes + telemetry.bytes + results.bytes,
            samples_recorded: self.recorder.samples_recorded,
            samples_pending: self.recorder.pending_samples() as u64,
            results_taken: self.results.taken,
            results_thinned: self.results.thinned,
            dropped_records: self.outbox.dropped_records(),
            unstored_records: self.recorder.unstored_records,
        }
    }
}
