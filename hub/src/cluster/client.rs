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
    /// The person's own kubeconfig can't be used.
    #[error("could not use the kubeconfig of $KUBECONFIG, or of ~/.kube/config")]
    OwnKubeconfig(#[source] Box<KubeconfigError>),
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
        Some(path) => from_file(path, &KubeConfigOptions::default()).await?,
        None => Config::incluster().map_err(|error| ClusterError::InCluster(Box::new(error)))?,
    };
    Client::try_from(config).map_err(|error| ClusterError::Client(Box::new(error)))
}

/// A client as a person's `kubectl` has it: by `kubeconfig`, else by `$KUBECONFIG`, else by the file in the home
/// folder; of the context of this name, else of the current one.
///
/// # Errors
/// [`ClusterError`].
pub(crate) async fn connect_as_person(
    kubeconfig: Option<&Path>,
    context: Option<&str>,
) -> Result<Client, ClusterError> {
    let options =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = match kubeconfig {
        Some(path) => from_file(path, &options).await?,
        None => Config::from_kubeconfig(&options)
            .await
            .map_err(|source| ClusterError::OwnKubeconfig(Box::new(source)))?,
    };
    Client::try_from(config).map_err(|error| ClusterError::Client(Box::new(error)))
}

async fn from_file(path: &Path, options: &KubeConfigOptions) -> Result<Config, ClusterError> {
    let wrong =
        |source| ClusterError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, options).await.map_err(wrong)
}
