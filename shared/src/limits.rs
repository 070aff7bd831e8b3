//! Every limit that the agent and the hub share: named, with its unit and its reason.
//!
//! A limit that only one module knows stands in that module.

/// An RFC 1123 label, as Kubernetes names and MQTT topic levels need it.
pub const NAME_BYTES_MAX: usize = 63;

/// One MQTT payload. Brokers default to more; ours and the clients are set to this plus headers, so
/// that a hostile size is refused before it is buffered.
pub const MQTT_PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// One MQTT packet: the payload, the topic and the headers.
pub const MQTT_PACKET_BYTES_MAX: u32 = 20 * 1024;

/// CBOR nesting. Our deepest message (a pod template inside a map item) nests 9 deep.
pub const CBOR_DEPTH_MAX: usize = 16;

/// One chunk of a map update. Small enough that an alarm waits for at most one chunk (at 64 kbit/s
/// 4 KiB take half a second).
pub const MAP_CHUNK_BYTES_MAX: usize = 4 * 1024;

/// A whole map update, assembled. A hundred workloads with large environments are about 1 MiB.
pub const MAP_UPDATE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Items of one map: pods or workloads of one node.
pub const MAP_ITEMS_MAX: usize = 4096;

/// One item of a map.
pub const MAP_ITEM_BYTES_MAX: usize = 256 * 1024;

/// A key of a map: a pod's name with its namespace and a prefix.
pub const MAP_KEY_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 16;

/// One record of a log; a telemetry batch of a minute is about 2 KiB in CBOR.
pub const LOG_RECORD_BYTES_MAX: usize = 12 * 1024;

/// Records in one log batch on the wire.
pub const LOG_BATCH_RECORDS_MAX: usize = 256;

/// The body of one result of a pod: with its names it fits one record of a log.
pub const RESULT_BODY_BYTES_MAX: usize = 8 * 1024;

/// A result's topic: some levels deep, and short on the wire.
pub const RESULT_TOPIC_BYTES_MAX: usize = 128;

/// Routes of the results of one workload; each result is held against them in their order.
pub const RESULT_ROUTES_MAX: usize = 64;

/// One response to a call: the tail of a log, as much as fits one MQTT payload.
pub const CALL_BODY_BYTES_MAX: usize = 12 * 1024;

/// Text of one page of a log: an alarm waits for at most one (a second at 64 kbit/s).
pub const LOG_PAGE_BYTES_MAX: u32 = 8 * 1024;

/// Lines of a log that are asked for at once, over all pages.
pub const LOG_LINES_MAX: u32 = 10_000;

/// For how long a node may keep the question for a page until there is more of the log.
pub const LOG_WAIT_MS_MAX: u32 = 60_000;

/// Who asks a node for a log or to run a command, in words.
pub const CALLER_BYTES_MAX: usize = 128;

/// All words of a command that a node is asked to run: each one is recorded.
pub const EXEC_COMMAND_BYTES_MAX: usize = 2 * 1024;

/// What one command's outputs may have together; with what stands around them it fits an answer.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 11 * 1024;

/// A command that is asked for from afar is to look at something, not to do the pod's work.
pub const EXEC_TIMEOUT_MS_MAX: u32 = 600_000;

/// Pods of one workload on one node.
pub const REPLICAS_PER_NODE_MAX: u32 = 256;

/// Volumes of one template; also mounts of it, ConfigMaps that it takes environment variables from, and
/// ConfigMaps by which the parameters of one workload are found. Each is an item of a node's map.
pub const VOLUMES_MAX: usize = 16;

/// Containers of one template, and init containers of it: as many as a pod of sidecars ever has.
pub const CONTAINERS_MAX: usize = 16;

/// Devices of its node that one container has.
pub const DEVICES_MAX: usize = 16;

/// Capabilities that one container adds, or drops: the kernel has 41.
pub const CAPABILITIES_MAX: usize = 64;

/// Further groups of a pod's processes.
pub const SUPPLEMENTAL_GROUPS_MAX: usize = 32;

/// Models of one template: a detector, a reader and what they need.
pub const MODELS_MAX: usize = 16;

/// Keys of a ConfigMap or Secret that one volume picks out.
pub const VOLUME_ITEMS_MAX: usize = 256;

/// A path within a volume, or of a mount.
pub const VOLUME_PATH_BYTES_MAX: usize = 255;

/// A key of a ConfigMap or Secret, as in Kubernetes: it is a file's name.
pub const OBJECT_KEY_BYTES_MAX: usize = 253;

/// A grace period of an hour is more than any inference server needs to drain.
pub const GRACE_PERIOD_SECONDS_MAX: u32 = 3600;

/// A value in the store larger than this is split by the store itself: sled keeps larger values in
/// files of their own, which its `flush` does not make durable.
pub const STORE_VALUE_CHUNK_BYTES: usize = 8 * 1024;

/// The store's size on disk past which the agent sheds its backlog; about 42 bytes of memory a
/// record can't be capped otherwise.
pub const STORE_BYTES_MAX: u64 = 90 * 1024 * 1024;
