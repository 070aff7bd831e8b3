//! The words of the domain, as Kubernetes and the field use them.
//!
//! Plain values without behaviour that reaches outside: nothing here encodes, sends or stores.

mod attached;
mod containers;
mod event;
mod gpu;
mod ids;
mod inference_model;
mod lifecycle;
mod mig;
mod network;
mod pod;
mod pod_ports;
mod policy;
mod port;
mod quantity;
mod resource_list;
mod result;
mod scaling;
mod security;
mod status;
mod time;
mod volume;
mod volume_check;
mod workload;

pub use attached::{
    ConfigItem, DOCKER_CONFIG_KEY, ObjectKind, ObjectName, Reference, SecretBytes, SecretData,
    SecretItem, check_object_key, check_object_name,
};
pub use containers::{ContainerRole, PlacedContainer};
pub use event::{BootOffset, NodeEvent};
pub use gpu::{GpuDevice, GpuHealth, GpuInventory, GpuSource, JETSON_GPU_PREFIX, visible_gpu_name};
pub use ids::{IdError, NodeId, PodId, Revision, WorkloadKey};
pub use inference_model::{InvalidDigest, ModelDigest, ModelMount};
pub use lifecycle::{Lifecycle, LifecycleHandler, SleepAction, TerminationMessagePolicy};
pub use mig::{MigInstance, MigProfile, MigProfileError, MigRole};
pub use network::DnsPolicy;
pub use pod::{
    Container, ContainerPort, ContainerRestartPolicy, EnvVar, ExecAction, GrpcAction,
    HttpGetAction, HttpHeader, ImagePullPolicy, LocalObjectReference, PodMetadata, PodSpec,
    PodTemplate, PortProtocol, Probe, ResourceRequirements, RestartPolicy, TcpSocketAction,
    UriScheme,
};
pub use pod_ports::PORT_OFFSET;
pub use policy::{LinkBudget, NODE_POLICY_KEY, NodePolicy};
pub use port::Port;
pub use quantity::{CpuQuantity, MemoryQuantity, QuantityError};
pub use resource_list::{ResourceList, check_device_name, device_resource};
pub use result::{
    DEFAULT_SINK, InvalidRoute, InvalidTopic, PodResult, ResultFormat, ResultRoute, SinkId,
    Thinning, check_topic, route,
};
pub use scaling::{Autoscaling, ScalingMetric};
pub use security::{
    Capabilities, PodSecurityContext, SeccompProfile, SeccompProfileType, SecurityContext,
};
pub use status::{
    Condition, ConditionStatus, ContainerStatus, NodeCapacity, NodeStatus, PodPhase, PodStatus,
    RemoteAccess, ReservedResources,
};
pub use time::{BootClock, ClockQuality, ClockStamp, MonotonicMs, Now, UnixMs};
pub use volume::{
    ConfigMapKeySelector, ConfigMapRef, ConfigMapVolume, EmptyDirMedium, EmptyDirVolume,
    EnvFromSource, EnvVarSource, FilesOnly, HostPathType, HostPathVolume, KeyToPath,
    ObjectFieldSelector, PersistentVolumeClaimVolume, PodField, SecretVolume, Volume, VolumeMount,
};
pub use workload::{
    GpuRequest, InvalidWorkload, PodResources, Taint, TaintEffect, Toleration, TolerationOperator,
    Workload,
};
