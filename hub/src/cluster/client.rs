//! The connection to the API server, from a kubeconfig or from within a pod.

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no connection to an API server; whether it answers shows later.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The file can't be used.
    #[error("could not use the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// This is no pod of a cluster.
    #[error("there is no service account of a pod here: expected a kubeconfig")]
    InCluster(#[source] Box<InClusterError>),
    /// The connection can't be set up.
    #[error("could not set up the connection to the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A client by the kubeconfig, or by the service account of the pod that this is.
///
/// # Errors
/// [`ClusterError`].
pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClusterError> {
    let config = match kubeconfig {
        Some(path) => from_file(path).await.map_err(|source| {
            let (path, source) = (path.to_owned(), Box::new(source));
            ClusterError::Kubeconfig { path, source }
        })?,
        None => Config::incluster().map_err(|error| ClusterError::InCluster(Box::new(error)))?,
    };
    Client::try_from(config).map_err(|error| ClusterError::Client(Box::new(error)))
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}
