//! Certificates of every kind that a broker must tell apart.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::io::tls;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// The broker's name in its certificate.
pub const SERVER_NAME: &str = "broker.test";

/// A CA and what it signs.
pub struct Pki {
    ca: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A signed certificate with its key, PEM.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// When a client's certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now.
    Current,
    /// Until 1990.
    Expired,
}

impl Pki {
    /// A new CA.
    ///
    /// # Errors
    /// When the library can't make keys.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?;
        Ok(Self { ca, issuer: Issuer::new(params, key) })
    }

    /// Writes `ca.pem`, `server.pem` and `server.key` into `folder`.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write_server_files(&self, folder: &Path) -> Result<()> {
        let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
        let purpose = ExtendedKeyUsagePurpose::ServerAuth;
        let server = self.sign(SERVER_NAME, names, purpose, Validity::Current)?;
        fs::write(folder.join("ca.pem"), self.ca.pem())?;
        fs::write(folder.join("server.pem"), server.certificate)?;
        fs::write(folder.join("server.key"), server.key)?;
        Ok(())
    }

    /// A client's certificate for `common_name`.
    ///
    /// # Errors
    /// When the library can't make keys.
    pub fn client(&self, common_name: &str, validity: Validity) -> Result<Signed> {
        self.sign(common_name, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    /// The TLS side that agents have, with the certificate that is `shown`.
    ///
    /// # Errors
    /// When the certificate and the key don't fit.
    pub fn agent_config(&self, shown: &Signed) -> Result<Arc<ClientConfig>> {
        let time = Arc::new(DefaultTimeProvider);
        Ok(tls::client_config(&self.ca.pem(), &shown.certificate, &shown.key, time)?)
    }

    /// The TLS side of a client that trusts this CA and shows `shown`, if anything.
    ///
    /// # Errors
    /// When the certificate and the key don't fit.
    pub fn client_config(&self, shown: Option<&Signed>) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(Signed { certificate, key }) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
                    .context("certificate")?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("key")?;
                builder.with_client_auth_cert(vec![certificate], key)?
            }
        };
        Ok(Arc::new(config))
    }

    fn sign(
        &self,
        common_name: &str,
        alternative_names: Vec<String>,
        purpose: ExtendedKeyUsagePurpose,
        validity: Validity,
    ) -> Result<Signed> {
        let mut params = CertificateParams::new(alternative_names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(1980, 1, 1);
            params.not_after = date_time_ymd(1990, 1, 1);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Signed { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
