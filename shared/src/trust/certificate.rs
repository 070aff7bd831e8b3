//! The fleet's own certificate authority, and the certificates by which MQTT's mutual TLS knows who
//! is who.
//!
//! A node makes its key itself and sends a request; the authority takes from it the name, the public
//! key and the session key, and nothing else. ECDSA P-256 throughout: every MQTT broker's TLS takes
//! it. It refuses to keep files, to ask the time, and to decide whether a node *should* have a
//! certificate: the caller did, before it called.
//!
//! Key generation and ECDSA draw on the provider's own entropy, the one exception in `trust`; nothing
//! here is on the simulated path.

mod read;
mod request;
#[cfg(test)]
mod tests;

pub use read::{
    Validity, node_of_certificate, serial_of_certificate, validity_of, verify_issued_by,
};
pub use request::{NodeKey, REQUEST_BYTES_MAX};

use super::session::SessionPublicKey;
use crate::model::{IdError, NodeId, UnixMs};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
pub(in crate::trust) use read::certificate_from_pem;
use read::{CertificateFile, public_key_of};
use rustls_pki_types::CertificateDer;
use std::fmt;
use thiserror::Error;
use x509_parser::error::X509Error;
use x509_parser::time::ASN1Time;

/// How long a node's certificate holds: 10 years. A node may be offline for years and must not be
/// locked out on its return; who is no longer welcome is said by the hub's record, by a kick and by
/// the broker's ACL, not by expiry.
pub const NODE_VALIDITY_DAYS: u32 = 10 * 365;

/// How long the authority holds: 30 years, so that it outlives each certificate that it issues over
/// a deployment's life. Replacing it means enrolling every node anew.
pub const AUTHORITY_VALIDITY_DAYS: u32 = 30 * 365;

/// How much earlier than now a certificate begins: a day, for clocks that are a little wrong.
const BACKDATED_MS: u64 = DAY_MS;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Names in one server certificate: a hub has a few addresses, and each costs bytes in a handshake.
const SERVER_NAMES_MAX: usize = 32;

/// Why a certificate or a request was not made, not read or not believed.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// Larger than any of ours; refused before it is parsed.
    #[error("{what} of {bytes} bytes: at most {REQUEST_BYTES_MAX} are taken")]
    TooLarge {
        /// What was given.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// Not PEM with a section of the kind that was expected.
    #[error("could not read {what} as PEM")]
    Pem {
        /// What was given.
        what: &'static str,
        /// What the PEM reader says.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// PEM, but its content is not what its label says.
    #[error("could not read {what}")]
    Unreadable {
        /// What was given.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: X509Error,
    },
    /// A signature does not hold.
    #[error("the signature of {what} does not hold")]
    Forged {
        /// What was given.
        what: &'static str,
        /// What the verifier says.
        #[source]
        source: X509Error,
    },
    /// Readable, and not acceptable.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// What was given.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The common name is not a node's name.
    #[error("the common name of {what} is not a node's name")]
    NotANode {
        /// What was given.
        what: &'static str,
        /// Why.
        #[source]
        source: IdError,
    },
    /// A time outside what a certificate can say (year 9999).
    #[error("{unix_ms} ms since 1970 is no time for a certificate")]
    Time {
        /// The time.
        unix_ms: u64,
        /// What the encoder says.
        #[source]
        source: X509Error,
    },
    /// A key or a certificate could not be made or read.
    #[error("could not {attempted}")]
    Make {
        /// What was attempted.
        attempted: &'static str,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
}

/// The fleet's root: its certificate and its key.
pub struct CertificateAuthority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

/// A node's certificate, and what the hub records of the request that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The common name.
    pub node: NodeId,
    /// The key by which the node opens sessions, vouched for by the request's signature.
    pub session_key: SessionPublicKey,
    /// For the node's TLS.
    pub certificate_pem: String,
    /// Hexadecimal, as [`serial_of_certificate`] gives it.
    pub serial: String,
    /// When it ends.
    pub not_after: UnixMs,
}

/// A certificate for a TLS server, and its key.
#[derive(Clone)]
pub struct ServerCertificate {
    /// One certificate.
    pub certificate_pem: String,
    /// PKCS #8; for a file that only its owner reads.
    pub key_pem: String,
}

/// A certificate for a TLS client that is not a node, and its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// One certificate.
    pub certificate_pem: String,
    /// PKCS #8; for a file that only its owner reads.
    pub key_pem: String,
}

impl CertificateAuthority {
    /// A new authority, valid for [`AUTHORITY_VALIDITY_DAYS`].
    ///
    /// # Errors
    /// [`CertificateError::Make`], [`CertificateError::Time`].
    pub fn create(name: &str, now: UnixMs) -> Result<Self, CertificateError> {
        let key = generate_key()?;
        let mut params = params_for(name, &validity_from(now, AUTHORITY_VALIDITY_DAYS))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key);
        let certificate = certificate.map_err(making("sign the authority's certificate"))?;
        Self::from_parts(certificate.pem(), key)
    }

    /// The authority that [`Self::certificate_pem`] and [`Self::key_pem`] gave.
    ///
    /// # Errors
    /// [`CertificateError`], among others when the key is not that of the certificate.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        Self::from_parts(certificate_pem.to_owned(), read_key(key_pem)?)
    }

    fn from_parts(certificate_pem: String, key: KeyPair) -> Result<Self, CertificateError> {
        let what = "the authority's certificate";
        let file = CertificateFile::from_pem(&certificate_pem, what)?;
        file.check_authority()?;
        let refused = |reason| CertificateError::Refused { what, reason };
        if public_key_of(&file.parsed()?) != key.public_key_raw() {
            return Err(refused("the key given with it is another certificate's"));
        }
        let validity = validity_of(file.der())?;
        let certificate = file.into_der();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(making("read it"))?;
        Ok(Self { certificate_pem, certificate, validity, issuer })
    }

    /// The root that every node and every hub trusts.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The root as DER.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// PKCS #8; for a file that only its owner reads.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a node's request, for TLS client authentication alone. It ends with the authority at
    /// the latest.
    ///
    /// `serial` names the certificate among this authority's: 1 or more, never used twice.
    ///
    /// # Errors
    /// [`CertificateError`]: too large, not a request, forged, not a node's name, another kind of
    /// key, or asking for more than a node may have.
    pub fn sign_request(
        &self,
        csr_pem: &str,
        now: UnixMs,
        validity_days: u32,
        serial: u64,
    ) -> Result<IssuedCertificate, CertificateError> {
        if serial == 0 {
            let reason = "serial numbers begin with 1 (RFC 5280)";
            return Err(CertificateError::Refused { what: "a serial number", reason });
        }
        let request = request::read(csr_pem)?;
        let validity = self.within_own(validity_from(now, validity_days));
        let mut params = leaf_params(request.node.as_str(), &validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&request.public_key, &self.issuer);
        let certificate = certificate.map_err(making("sign a node's certificate"))?;
        Ok(IssuedCertificate {
            node: request.node,
            session_key: request.session_key,
            serial: serial_of_certificate(certificate.der())?,
            not_after: validity_of(certificate.der())?.not_after,
            certificate_pem: certificate.pem(),
        })
    }

    /// A certificate for the embedded broker's TLS port, for these DNS names and IP addresses.
    ///
    /// It begins with the authority, not now: a node judges it at a time that it can trust, which
    /// may be as old as its enrolment, and must not find it "not yet valid".
    ///
    /// # Errors
    /// [`CertificateError::Refused`] for no names or too many, [`CertificateError::Make`] for one
    /// that is neither a DNS name nor an address, [`CertificateError::Time`].
    pub fn issue_server(
        &self,
        names: &[String],
        now: UnixMs,
        validity_days: u32,
    ) -> Result<ServerCertificate, CertificateError> {
        let refused = |reason| CertificateError::Refused { what: "a server certificate", reason };
        let first = names.first().ok_or(refused("it needs a name or an address"))?;
        if names.len() > SERVER_NAMES_MAX {
            return Err(refused("more than 32 names"));
        }
        let mut validity = self.within_own(validity_from(now, validity_days));
        validity.not_before = self.validity.not_before;
        let mut params = leaf_params(first, &validity)?;
        let named = CertificateParams::new(names).map_err(making("read a server's names"))?;
        params.subject_alt_names = named.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate_pem, key_pem) = self.issue_with_new_key(&params)?;
        Ok(ServerCertificate { certificate_pem, key_pem })
    }

    /// A certificate by which a hub connects to an external broker.
    ///
    /// `name` must be one that no node can have (`_hub`), or a node could ask for a certificate
    /// that the broker takes for the hub's.
    ///
    /// # Errors
    /// [`CertificateError::Refused`] for the name of a node, [`CertificateError::Make`],
    /// [`CertificateError::Time`].
    pub fn issue_hub_client(
        &self,
        name: &str,
        now: UnixMs,
        validity_days: u32,
    ) -> Result<ClientCertificate, CertificateError> {
        if name.is_empty() || NodeId::new(name).is_ok() {
            let reason = "its name could be a node's: choose one that could not, as `_hub`";
            return Err(CertificateError::Refused { what: "a hub's certificate", reason });
        }
        let validity = self.within_own(validity_from(now, validity_days));
        let mut params = leaf_params(name, &validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate_pem, key_pem) = self.issue_with_new_key(&params)?;
        Ok(ClientCertificate { certificate_pem, key_pem })
    }

    fn issue_with_new_key(
        &self,
        params: &CertificateParams,
    ) -> Result<(String, String), CertificateError> {
        let key = generate_key()?;
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.map_err(making("sign a certificate"))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// A certificate that outlives its issuer is refused all the same: it says so itself.
    fn within_own(&self, validity: Validity) -> Validity {
        Validity { not_after: validity.not_after.min(self.validity.not_after), ..validity }
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

fn making(attempted: &'static str) -> impl Fn(rcgen::Error) -> CertificateError {
    move |source| CertificateError::Make { attempted, source }
}

fn generate_key() -> Result<KeyPair, CertificateError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(making("generate a key"))
}

fn read_key(key_pem: &str) -> Result<KeyPair, CertificateError> {
    let key = KeyPair::from_pem(key_pem).map_err(making("read a private key"))?;
    if key.algorithm() == &PKCS_ECDSA_P256_SHA256 {
        return Ok(key);
    }
    Err(CertificateError::Refused { what: "a private key", reason: "it is not ECDSA P-256" })
}

fn validity_from(now: UnixMs, days: u32) -> Validity {
    Validity {
        not_before: UnixMs(now.0.saturating_sub(BACKDATED_MS)),
        not_after: UnixMs(now.0.saturating_add(u64::from(days).saturating_mul(DAY_MS))),
    }
}

fn params_for(name: &str, validity: &Validity) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = asn1_time(validity.not_before)?.to_datetime();
    params.not_after = asn1_time(validity.not_after)?.to_datetime();
    Ok(params)
}

fn leaf_params(name: &str, validity: &Validity) -> Result<CertificateParams, CertificateError> {
    let mut params = params_for(name, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn asn1_time(time: UnixMs) -> Result<ASN1Time, CertificateError> {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    let failed = |source| CertificateError::Time { unix_ms: time.0, source };
    ASN1Time::from_timestamp(seconds).map_err(failed)
}
