//! A node's request for a certificate (PKCS #10), made on the node and read by the hub.
//!
//! The request carries the node's name, its TLS public key and its session public key, all under the
//! request's own signature: who has the request can't put another session key into it.

use super::read::{CertificateFile, node_of_name, public_key_of};
use super::{CertificateError, generate_key, making, read_key};
use crate::model::NodeId;
use crate::trust::session::SessionPublicKey;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::error::X509Error;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;

/// A request or a certificate as PEM. Ours have about 700 bytes; refused before it is parsed.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// The extension that holds the session key: an OCTET STRING of 32 bytes, not critical.
///
/// 1.3.6.1.4.1.32473 is the arc that RFC 5612 leaves to everybody for examples, so that it can never
/// be another's; nobody but this module writes or reads the number, and no certificate carries it.
const SESSION_KEY_OID: [u64; 9] = [1, 3, 6, 1, 4, 1, 32473, 8883, 1];

/// DER: OCTET STRING, 32 bytes.
const OCTET_STRING_OF_32: [u8; 2] = [0x04, 0x20];

const WHAT: &str = "the certificate request";

/// A node's TLS key. Made on the node, and never leaves it.
pub struct NodeKey(KeyPair);

/// What a request says, after its signature was verified.
pub(super) struct Request {
    pub(super) node: NodeId,
    pub(super) session_key: SessionPublicKey,
    pub(super) public_key: SubjectPublicKeyInfo,
}

impl NodeKey {
    /// A new key, from the provider's own entropy.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn generate() -> Result<Self, CertificateError> {
        generate_key().map(Self)
    }

    /// The key that [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// [`CertificateError::Make`], [`CertificateError::Refused`] for another kind of key.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        read_key(pem).map(Self)
    }

    /// PKCS #8; for a file that only its owner reads.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The request, as PEM, that a hub signs. It holds no secret.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn request(
        &self,
        node: &NodeId,
        session_key: &SessionPublicKey,
    ) -> Result<String, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.is_ca = IsCa::NoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let content = [&OCTET_STRING_OF_32[..], &session_key.0].concat();
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&SESSION_KEY_OID, content)];
        let attempted = "make a certificate request";
        let request = params.serialize_request(&self.0).map_err(making(attempted))?;
        request.pem().map_err(making(attempted))
    }

    /// Whether a certificate is for this key.
    ///
    /// # Errors
    /// [`CertificateError`] when it is no certificate.
    pub fn belongs_to(&self, certificate_pem: &str) -> Result<bool, CertificateError> {
        let file = CertificateFile::from_pem(certificate_pem, "the node's certificate")?;
        Ok(public_key_of(&file.parsed()?) == self.0.public_key_raw())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").finish_non_exhaustive()
    }
}

/// Reads a request, verifies it, and leaves behind all of it that is not ours to grant.
pub(super) fn read(csr_pem: &str) -> Result<Request, CertificateError> {
    check_size(csr_pem, WHAT)?;
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|source| CertificateError::Pem { what: WHAT, source })?;
    let (rest, request) = X509CertificationRequest::from_der(&der)
        .map_err(|error| unreadable(X509Error::from(error)))?;
    if !rest.is_empty() {
        return Err(refused("bytes follow it"));
    }
    let public_key = public_key(&request)?;
    let verified = request.verify_signature();
    verified.map_err(|source| CertificateError::Forged { what: WHAT, source })?;
    check_extensions(&request)?;
    let node = node_of_name(&request.certification_request_info.subject, WHAT)?;
    Ok(Request { node, session_key: session_key(&request)?, public_key })
}

pub(super) fn check_size(pem: &str, what: &'static str) -> Result<(), CertificateError> {
    let bytes = pem.len();
    let fits = bytes <= REQUEST_BYTES_MAX;
    if fits { Ok(()) } else { Err(CertificateError::TooLarge { what, bytes }) }
}

fn refused(reason: &'static str) -> CertificateError {
    CertificateError::Refused { what: WHAT, reason }
}

fn unreadable(source: X509Error) -> CertificateError {
    CertificateError::Unreadable { what: WHAT, source }
}

fn public_key(
    request: &X509CertificationRequest<'_>,
) -> Result<SubjectPublicKeyInfo, CertificateError> {
    let other = || refused("its key is not ECDSA P-256");
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| other())?;
    if key.algorithm() == &PKCS_ECDSA_P256_SHA256 { Ok(key) } else { Err(other()) }
}

fn extensions<'a>(
    request: &'a X509CertificationRequest<'a>,
) -> impl Iterator<Item = &'a X509Extension<'a>> {
    let attributes = request.certification_request_info.iter_attributes();
    attributes.flat_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => requested.extensions.as_slice(),
        _ => &[],
    })
}

/// Nothing of these is taken over in any case; who asks for more than a node's certificate is told
/// so, instead of being given less than he asked for.
fn check_extensions(request: &X509CertificationRequest<'_>) -> Result<(), CertificateError> {
    for extension in extensions(request) {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(refused("it asks to be an authority"));
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let more = usage.any
                    || usage.server_auth
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing
                    || !usage.other.is_empty();
                if more || !usage.client_auth {
                    return Err(refused("it asks for another purpose than TLS clients"));
                }
            }
            ParsedExtension::SubjectAlternativeName(_) => {
                return Err(refused("it asks for names besides the common name"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn session_key(
    request: &X509CertificationRequest<'_>,
) -> Result<SessionPublicKey, CertificateError> {
    let ours = |extension: &&X509Extension<'_>| {
        extension.oid.iter().is_some_and(|oid| oid.eq(SESSION_KEY_OID))
    };
    let mut found = extensions(request).filter(ours);
    let (Some(extension), None) = (found.next(), found.next()) else {
        return Err(refused("it has not exactly one session key"));
    };
    let key = extension.value.strip_prefix(&OCTET_STRING_OF_32);
    let key = key.and_then(|key| key.try_into().ok()).map(SessionPublicKey);
    key.ok_or_else(|| refused("its session key is not 32 bytes"))
}
