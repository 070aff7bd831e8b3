//! Reads what a certificate says: whose it is, how long it holds, who issued it.
//!
//! It never asks what time it is: whether a certificate holds *now* is decided by TLS, at the time
//! that the caller gave it.

use super::CertificateError;
use crate::model::{NodeId, UnixMs};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// From when until when a certificate holds; whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: UnixMs,
    /// The last moment.
    pub not_after: UnixMs,
}

/// The node that a certificate names.
///
/// # Errors
/// [`CertificateError`] when `der` is no certificate, or its common name is not a node's name.
pub fn node_of_certificate(der: &[u8]) -> Result<NodeId, CertificateError> {
    let what = "a certificate";
    node_of_name(&parse(der, what)?.subject, what)
}

/// How long a certificate holds.
///
/// # Errors
/// [`CertificateError`] when `der` is no certificate.
pub fn validity_of(der: &[u8]) -> Result<Validity, CertificateError> {
    let certificate = parse(der, "a certificate")?;
    let validity = certificate.validity();
    Ok(Validity {
        not_before: unix_ms(validity.not_before),
        not_after: unix_ms(validity.not_after),
    })
}

/// A certificate's serial number in hexadecimal: lower case, without separators or leading zeros.
///
/// # Errors
/// [`CertificateError`] when `der` is no certificate.
pub fn serial_of_certificate(der: &[u8]) -> Result<String, CertificateError> {
    Ok(format!("{:x}", parse(der, "a certificate")?.serial))
}

/// Checks that the authority with the certificate `authority` issued the client certificate `leaf`.
///
/// It judges signatures, names and purposes, and no times.
///
/// # Errors
/// [`CertificateError`] that says which of them does not hold.
pub fn verify_issued_by(leaf: &[u8], authority: &[u8]) -> Result<(), CertificateError> {
    let what = "the node's certificate";
    let refused = |reason| CertificateError::Refused { what, reason };
    let unreadable = |source| CertificateError::Unreadable { what, source };
    let authority = parse(authority, "the authority's certificate")?;
    check_authority(&authority)?;
    let leaf = parse(leaf, what)?;
    if leaf.issuer != authority.subject {
        return Err(refused("another authority issued it"));
    }
    let verified = leaf.verify_signature(Some(authority.public_key()));
    verified.map_err(|source| CertificateError::Forged { what, source })?;
    if leaf.is_ca() {
        return Err(refused("it is an authority's"));
    }
    let usage = leaf.extended_key_usage().map_err(unreadable)?;
    if usage.is_some_and(|usage| usage.value.client_auth) {
        return Ok(());
    }
    Err(refused("it is not for TLS clients"))
}

/// One certificate out of a PEM file.
pub(super) struct CertificateFile {
    der: CertificateDer<'static>,
    what: &'static str,
}

impl CertificateFile {
    pub(super) fn from_pem(pem: &str, what: &'static str) -> Result<Self, CertificateError> {
        let der = certificate_from_pem(pem, what)?;
        Ok(Self { der, what })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) fn into_der(self) -> CertificateDer<'static> {
        self.der
    }

    pub(super) fn parsed(&self) -> Result<X509Certificate<'_>, CertificateError> {
        parse(&self.der, self.what)
    }

    pub(super) fn check_authority(&self) -> Result<(), CertificateError> {
        check_authority(&self.parsed()?)
    }
}

pub(in crate::trust) fn certificate_from_pem(
    pem: &str,
    what: &'static str,
) -> Result<CertificateDer<'static>, CertificateError> {
    super::request::check_size(pem, what)?;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|source| CertificateError::Pem { what, source })
}

pub(super) fn public_key_of(certificate: &X509Certificate<'_>) -> Vec<u8> {
    certificate.public_key().subject_public_key.data.to_vec()
}

/// The one common name of a subject, as a node's name.
pub(super) fn node_of_name(
    name: &X509Name<'_>,
    what: &'static str,
) -> Result<NodeId, CertificateError> {
    let refused = |reason| CertificateError::Refused { what, reason };
    let mut names = name.iter_common_name();
    let (Some(first), None) = (names.next(), names.next()) else {
        return Err(refused("it has not exactly one common name"));
    };
    let text = first.as_str().map_err(|source| CertificateError::Unreadable { what, source })?;
    NodeId::new(text).map_err(|source| CertificateError::NotANode { what, source })
}

pub(super) fn parse<'a>(
    der: &'a [u8],
    what: &'static str,
) -> Result<X509Certificate<'a>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { what, source };
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| unreadable(X509Error::from(error)))?;
    if rest.is_empty() { Ok(certificate) } else { Err(unreadable(X509Error::InvalidCertificate)) }
}

fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let what = "the authority's certificate";
    if !certificate.is_ca() {
        let reason = "it is not an authority's";
        return Err(CertificateError::Refused { what, reason });
    }
    let verified = certificate.verify_signature(None);
    verified.map_err(|source| CertificateError::Forged { what, source })
}

fn unix_ms(time: ASN1Time) -> UnixMs {
    UnixMs(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}
