//! The API server, as a person: custom resources, the token of the hub's API, and the way to that API.
//!
//! Writes nothing but what a patch of an `EdgeNode` says, under a field manager of its own.

use super::super::client::{Client, Way, runtime};
use crate::admin::Token;
use crate::cluster::{connect_as_person, resource};
use crate::reconcile::Kind;
use anyhow::{Context, anyhow, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::Value;
use shared::model::{NodeId, WorkloadKey};
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Whose fields the plugin's are.
const FIELD_MANAGER: &str = "kubectl-hinterland";

/// The key of a Secret that has the API's token.
const TOKEN_KEY: &str = "token";

/// An API server answers at once; ten thousand objects take longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The status of an answer: somebody else was first.
const CONFLICT: u16 = 409;

/// See the module.
pub(super) struct Cluster {
    runtime: Rc<Runtime>,
    client: kube::Client,
}

impl Cluster {
    pub(super) fn connect(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
    ) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let client = runtime.block_on(connect_as_person(kubeconfig, context))?;
        Ok(Self { runtime, client })
    }

    /// The context's namespace.
    pub(super) fn namespace(&self) -> String {
        self.client.default_namespace().to_owned()
    }

    /// Asks the hub below a path of the API server.
    pub(super) fn hub(&self, base: String, token: Token) -> Client {
        let way = Way::Proxy(self.client.clone(), base);
        Client::by(Rc::clone(&self.runtime), way, Some(token))
    }

    /// The token of the hub's API.
    pub(super) fn token(&self, namespace: &str, secret: &str) -> anyhow::Result<Token> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = self.wait(secrets.get(secret)).with_context(|| {
            format!(
                "could not read the hub's token from the Secret {namespace}/{secret}: expected \
                 the right to get it, or --token-file, or --api"
            )
        })?;
        let text = found.data.as_ref().and_then(|data| data.get(TOKEN_KEY));
        let text = text.map(|bytes| String::from_utf8_lossy(&bytes.0));
        let token = text.and_then(|text| Token::parse(&text));
        token.ok_or_else(|| {
            anyhow!("the Secret {namespace}/{secret} has no token in its key `{TOKEN_KEY}`")
        })
    }

    /// Every `EdgeNode`.
    pub(super) fn nodes(&self) -> anyhow::Result<Vec<DynamicObject>> {
        let listed = self.wait(self.node_api().list(&ListParams::default()));
        Ok(listed.context("could not list the EdgeNodes")?.items)
    }

    /// One `EdgeNode`.
    pub(super) fn node(&self, node: &NodeId) -> anyhow::Result<DynamicObject> {
        let found = self.wait(self.node_api().get_opt(node.as_str()));
        let found = found.with_context(|| format!("could not read the EdgeNode {node}"))?;
        found.ok_or_else(|| {
            anyhow!("there is no EdgeNode {node}: apply one for a node that has none")
        })
    }

    /// Patches an `EdgeNode`; `None` when somebody else has changed it meanwhile, where the patch names the
    /// version that it is for.
    pub(super) fn patch_node(
        &self,
        node: &NodeId,
        patch: &Value,
    ) -> anyhow::Result<Option<DynamicObject>> {
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api = self.node_api();
        let patched = self
            .wait(async { Ok(api.patch(node.as_str(), &parameters, &Patch::Merge(patch)).await) });
        let what = || format!("could not patch the EdgeNode {node}");
        match patched.with_context(what)? {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == CONFLICT => Ok(None),
            Err(error) => Err(in_words(error)).with_context(what),
        }
    }

    /// Every `InferenceWorkload` of a namespace, or of all.
    pub(super) fn workloads(&self, namespace: Option<&str>) -> anyhow::Result<Vec<DynamicObject>> {
        let listed = self.wait(self.workload_api(namespace).list(&ListParams::default()));
        Ok(listed.context("could not list the InferenceWorkloads")?.items)
    }

    /// One `InferenceWorkload`.
    pub(super) fn workload(&self, key: &WorkloadKey) -> anyhow::Result<DynamicObject> {
        let api = self.workload_api(Some(key.namespace()));
        let found = self.wait(api.get_opt(key.name()));
        let found = found.with_context(|| format!("could not read the InferenceWorkload {key}"))?;
        found.ok_or_else(|| anyhow!("there is no InferenceWorkload {key}"))
    }

    fn node_api(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource(Kind::Node))
    }

    fn workload_api(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = resource(Kind::Workload);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    fn wait<T>(&self, asked: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
                Ok(answered) => answered.map_err(in_words),
                Err(_) => bail!("the API server does not answer"),
            }
        })
    }
}

/// What the API server says, without what it says it in.
fn in_words(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => anyhow!(status.message.clone()),
        other => other.into(),
    }
}
