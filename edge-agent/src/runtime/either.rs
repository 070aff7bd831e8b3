//! The runtime that the configuration names.

use super::ExecOrder;
use super::cri::CriRuntime;
use super::process::ProcessRuntime;
use crate::gpu::GpuProcess;
use crate::ports::{
    ContainerRequest, InstanceId, NamedImages, Observation, ProbeRequest, Runtime, RuntimeError,
    StartRequest, VolumeContent,
};
use shared::model::PodId;
use shared::telemetry::Series;
use shared::wire::ExecResult;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

/// Pods as processes or as containers.
#[derive(Debug)]
pub enum AnyRuntime {
    /// As processes.
    Process(ProcessRuntime),
    /// As containers.
    Cri(CriRuntime),
}

/// A command that runs: what becomes of it, or a sentence that says why it did not run.
pub type Running = Pin<Box<dyn Future<Output = Result<ExecResult, String>> + Send>>;

impl AnyRuntime {
    /// CPU time and memory of every pod that runs.
    #[must_use]
    pub fn sample(&self) -> BTreeMap<Series, f64> {
        match self {
            Self::Process(runtime) => runtime.sample(),
            Self::Cri(runtime) => runtime.sample(),
        }
    }

    /// Memory of GPUs that each pod uses, as the driver counts it by process.
    #[must_use]
    pub fn gpu_memory(&self, processes: &[GpuProcess]) -> BTreeMap<Series, f64> {
        match self {
            Self::Process(runtime) => runtime.gpu_memory(processes),
            Self::Cri(runtime) => runtime.gpu_memory(processes),
        }
    }

    /// Runs a command in a pod, which is killed at its deadline.
    pub fn exec(&self, order: ExecOrder) -> Running {
        match self {
            Self::Process(runtime) => Box::pin(runtime.exec(order)),
            Self::Cri(runtime) => Box::pin(runtime.exec(order)),
        }
    }

    fn runtime(&mut self) -> &mut dyn Runtime {
        match self {
            Self::Process(runtime) => runtime,
            Self::Cri(runtime) => runtime,
        }
    }
}

impl Runtime for AnyRuntime {
    fn observe(&mut self) -> Result<Vec<Observation>, RuntimeError> {
        self.runtime().observe()
    }

    fn start(&mut self, request: StartRequest) {
        self.runtime().start(request);
    }

    fn start_container(&mut self, request: ContainerRequest) {
        self.runtime().start_container(request);
    }

    fn stop_container(
        &mut self,
        pod: &PodId,
        instance: InstanceId,
        container: &str,
        grace_ms: u64,
    ) {
        self.runtime().stop_container(pod, instance, container, grace_ms);
    }

    fn stop(&mut self, pod: &PodId, instance: InstanceId, grace_ms: u64) {
        self.runtime().stop(pod, instance, grace_ms);
    }

    fn forget(&mut self, pod: &PodId, instance: InstanceId, keep_logs: bool) {
        self.runtime().forget(pod, instance, keep_logs);
    }

    fn attach(&mut self, pod: &PodId, instance: InstanceId, volumes: Vec<VolumeContent>) {
        self.runtime().attach(pod, instance, volumes);
    }

    fn probe(&mut self, request: ProbeRequest) {
        self.runtime().probe(request);
    }

    fn keep_images(&mut self, named: NamedImages) {
        self.runtime().keep_images(named);
    }

    fn remove_image(&mut self) -> bool {
        self.runtime().remove_image()
    }
}
