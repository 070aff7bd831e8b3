//! A member's kubeconfig, from its Secret.

use crate::api::EdgeClusterSpec;
use crate::manifests::Invalid;
use k8s_openapi::api::core::v1::Secret;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use std::time::Duration;
use thiserror::Error;

/// Until an API server that does not answer counts as one that can't be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a member's kubeconfig lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberAccess {
    /// The Secret's name.
    secret: String,
    /// Its namespace; the hub's own when there is none.
    namespace: Option<String>,
    /// The key of its data.
    key: String,
}

/// Why there is no connection to a member.
#[derive(Debug, Error)]
pub(super) enum AccessError {
    #[error("could not read the Secret {namespace}/{secret}")]
    Secret {
        namespace: String,
        secret: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the Secret {secret} has no `{key}`")]
    NoKubeconfig { secret: String, key: String },
    #[error("the Secret {secret} holds no kubeconfig")]
    Kubeconfig {
        secret: String,
        #[source]
        source: Box<KubeconfigError>,
    },
    #[error("the kubeconfig in the Secret {secret} is refused: {problem}")]
    Refused { secret: String, problem: String },
    #[error("could not set up the connection")]
    Client(#[source] Box<kube::Error>),
}

/// Where the kubeconfig lies that an `EdgeCluster` names.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn member_access(spec: EdgeClusterSpec) -> Result<MemberAccess, Invalid> {
    let named = |path: &str, name: &str| match name.is_empty() {
        true => Err((format!("spec.{path}"), "expected a name".to_owned())),
        false => Ok(name.to_owned()),
    };
    match (spec.kubeconfig_secret_ref, spec.cluster_ref) {
        (Some(secret), None) => Ok(MemberAccess {
            secret: named("kubeconfigSecretRef.name", &secret.name)?,
            namespace: None,
            key: named("kubeconfigSecretRef.key", &secret.key)?,
        }),
        // As Cluster API lays it down.
        (None, Some(cluster)) => Ok(MemberAccess {
            secret: format!("{}-kubeconfig", named("clusterRef.name", &cluster.name)?),
            namespace: Some(named("clusterRef.namespace", &cluster.namespace)?),
            key: "value".to_owned(),
        }),
        _ => {
            let problem = "expected exactly one of kubeconfigSecretRef and clusterRef";
            Err(("spec".to_owned(), problem.to_owned()))
        }
    }
}

/// A connection to the member, by what its Secret holds now.
pub(super) async fn connect(
    management: &Client,
    access: &MemberAccess,
) -> Result<Client, AccessError> {
    let namespace = access.namespace.as_deref().unwrap_or(management.default_namespace());
    let secrets: Api<Secret> = Api::namespaced(management.clone(), namespace);
    let MemberAccess { secret, key, .. } = access;
    let found = secrets.get(secret).await.map_err(|source| AccessError::Secret {
        namespace: namespace.to_owned(),
        secret: secret.clone(),
        source: Box::new(source),
    })?;
    let text =
        found.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| {
            AccessError::NoKubeconfig { secret: secret.clone(), key: key.clone() }
        })?;
    let wrong =
        |source| AccessError::Kubeconfig { secret: secret.clone(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::from_yaml(&String::from_utf8_lossy(&text.0)).map_err(wrong)?;
    check(&kubeconfig)
        .map_err(|problem| AccessError::Refused { secret: secret.clone(), problem })?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).map_err(|error| AccessError::Client(Box::new(error)))
}

/// What a kubeconfig from elsewhere must not do on the hub's machine.
pub(super) fn check(kubeconfig: &Kubeconfig) -> Result<(), String> {
    for named in &kubeconfig.clusters {
        named.cluster.as_ref().map_or(Ok(()), check_cluster)?;
    }
    for named in &kubeconfig.auth_infos {
        named.auth_info.as_ref().map_or(Ok(()), check_user)?;
    }
    Ok(())
}

fn check_cluster(cluster: &Cluster) -> Result<(), String> {
    if cluster.certificate_authority.is_some() {
        return Err(
            "certificate-authority names a file: expected certificate-authority-data".to_owned()
        );
    }
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err("insecure-skip-tls-verify: a member must show who it is".to_owned());
    }
    let server = cluster.server.as_deref().unwrap_or_default();
    if !server.starts_with("https://") {
        return Err(format!("server `{server}`: expected https://"));
    }
    Ok(())
}

fn check_user(user: &AuthInfo) -> Result<(), String> {
    let named = [
        ("exec", user.exec.is_some(), "a token or a client certificate"),
        ("auth-provider", user.auth_provider.is_some(), "a token or a client certificate"),
        ("tokenFile", user.token_file.is_some(), "token"),
        ("client-certificate", user.client_certificate.is_some(), "client-certificate-data"),
        ("client-key", user.client_key.is_some(), "client-key-data"),
    ];
    let wrong = named.iter().find(|(_, is_there, _)| *is_there);
    wrong.map_or(Ok(()), |(field, _, expected)| {
        Err(format!("{field} would run a program or read a file of the hub: expected {expected}"))
    })
}
