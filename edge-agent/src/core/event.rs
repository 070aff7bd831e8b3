//! What goes into the core and what comes out.

use crate::devices::NodeDevices;
use crate::models::NodeModels;
use crate::ports::{
    ContainerRequest, InstanceId, NamedImages, ProbeRequest, RuntimeEvent, ScrapeTarget,
    StartRequest, VolumeContent,
};
use crate::results::{Post, PostOutcome};
use shared::model::{BootClock, GpuInventory, PodId, UnixMs};
use shared::ports::WriteBatch;
use shared::sync::LogRead;
use shared::telemetry::Sample;
use shared::wire::{CallMethod, CallOutcome, CallRequest, CallResponse, SequenceNumber, Version};

/// Something that happened outside the core.
#[derive(Debug, Clone)]
pub enum Event {
    /// The hub beside the broker has started anew: it knows no session. Comes before the link is up.
    HubAnew,
    /// MQTT is connected and subscribed.
    LinkUp,
    /// MQTT is not connected.
    LinkDown,
    /// A payload on this node's topic. Nothing of it is believed yet.
    Payload(Vec<u8>),
    /// The runtime says something of a pod.
    Runtime(RuntimeEvent),
    /// The GPUs, as they are now.
    Inventory(GpuInventory),
    /// The models that this node has now.
    Models(NodeModels),
    /// The devices that its configuration names, as they are now.
    Devices(NodeDevices),
    /// Answers [`Effect::Sample`].
    Sampled(Sample),
    /// Answers [`Effect::ReadRecords`].
    RecordsRead {
        /// What was asked for.
        read: LogRead,
        /// The records that the store holds, by number; or why it can't be read.
        records: Result<Vec<(SequenceNumber, Vec<u8>)>, String>,
    },
    /// Answers [`Effect::AnswerCall`].
    CallAnswered(CallResponse),
    /// Somebody on this machine asks; ends as [`Effect::EndLocalCall`].
    LocalCall {
        /// The caller's number.
        ticket: u64,
        /// What is asked.
        method: CallMethod,
    },
    /// Pods handed in results; each post is answered by [`Effect::AnswerPost`].
    Posted {
        /// What they handed in, in the order of its arrival.
        posts: Vec<Post>,
        /// The node's clock as it was taken.
        clock: BootClock,
    },
    /// The oldest [`Effect::Persist`] that was not answered yet is durable.
    Persisted,
    /// The oldest [`Effect::Persist`] that was not answered yet is not durable; nothing of it is.
    PersistFailed {
        /// The batch, as it was.
        batch: WriteBatch,
        /// A sentence for people.
        error: String,
    },
    /// The wire has carried so many bytes since the agent started, both ways, as the link counts them.
    WireBytes(u64),
    /// The agent is about to stop: put what is in memory into the store.
    Flush,
}

/// Something to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make this durable; answered by `Persisted` or `PersistFailed` before the next effect.
    Persist(WriteBatch),
    /// Note this accepted version in the ledger beside the store. Follows the `Persist` of it.
    NoteAccepted(Version),
    /// Note what the link has spent and may spend, beside the store: durable before the next effect,
    /// also on a full disk.
    NoteLinkBudget(Vec<u8>),
    /// Publish on this node's topic. May be lost; nothing answers.
    Send(Vec<u8>),
    /// Begin to start a pod.
    Start(StartRequest),
    /// Begin to stop a pod.
    Stop {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// Let the runtime forget an ended start.
    Forget {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Whether its logs are kept.
        keep_logs: bool,
    },
    /// Begin to replace the files of a running pod's volumes.
    Attach {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// All of them, as they should be.
        volumes: Vec<VolumeContent>,
    },
    /// Begin a probe.
    Probe(ProbeRequest),
    /// Begin to start one of a pod's several containers.
    StartContainer(ContainerRequest),
    /// Begin to stop one of a pod's several containers.
    StopContainer {
        /// Which pod.
        pod: PodId,
        /// Which start of it.
        instance: InstanceId,
        /// Which container.
        container: String,
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// Read records of the outbox; answered by `RecordsRead`.
    ReadRecords(LogRead),
    /// Answer a call; answered by `CallAnswered`, at some time. The number is the core's own.
    AnswerCall(CallRequest),
    /// A call of somebody on this machine came to its end.
    EndLocalCall {
        /// The caller's number.
        ticket: u64,
        /// What came of it.
        outcome: CallOutcome,
    },
    /// Have these images kept, and those that each workload named before.
    KeepImages(NamedImages),
    /// Begin to remove an image that nothing needs; answered by a runtime's `ImageRemoved`.
    RemoveImage,
    /// Take a sample; answered by `Sampled`.
    Sample,
    /// Begin to read the metrics of these pods, for the next sample.
    Scrape(Vec<ScrapeTarget>),
    /// Answer a post.
    AnswerPost {
        /// Its name.
        id: u64,
        /// What became of it.
        outcome: PostOutcome,
    },
    /// The hub has signed that it is at least this late: certificates are judged by it.
    TrustTime(UnixMs),
}
