//! TLS towards sinks: the site's own servers, under the CA that the site names or the system's.
//!
//! Not the fleet's TLS: these servers know nothing of nodes, and the hub shows them no certificate.

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Why TLS towards a sink could not be prepared.
#[derive(Debug, Error)]
pub enum SinkTlsError {
    /// The file of the CA can't be read as PEM.
    #[error("could not read certificates from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// There is no usable certificate.
    #[error("found no certificate of a CA in {place}")]
    None {
        /// Where it was looked for.
        place: String,
    },
    /// The library refuses its own defaults.
    #[error("could not offer TLS")]
    Configure(#[from] rustls::Error),
}

/// The configuration for servers under the CA in `ca_file`, or under those that the system trusts.
///
/// # Errors
/// [`SinkTlsError`], which says where nothing was found.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, SinkTlsError> {
    let (certificates, place) = match ca_file {
        Some(path) => (read(path)?, path.display().to_string()),
        None => (rustls_native_certs::load_native_certs().certs, "the system's store".to_owned()),
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(SinkTlsError::None { place });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, SinkTlsError> {
    let refused = |source| SinkTlsError::Read { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path).map_err(refused)?;
    certificates.collect::<Result<_, _>>().map_err(refused)
}
