//! Judges what nodes show: a certificate that the fleet's authority signed, however old.
//!
//! A certificate that ran out while its node was offline must not strand it, nor must a hub whose own clock
//! is wrong. Whether a node may come in says the ledger, which knows from which serial on the node's
//! certificates count (the gate asks it); the date adds nothing to that.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use shared::trust::certificate::validity_of;
use std::sync::Arc;
use std::time::Duration;

/// A verifier that judges each certificate at a time at which it holds.
#[derive(Debug)]
pub(super) struct Ageless(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Ageless {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let unreadable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let validity = validity_of(end_entity).map_err(unreadable)?;
        let (first, last) = (validity.not_before.0.div_ceil(1_000), validity.not_after.0 / 1_000);
        let at = now.as_secs().min(last).max(first);
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        self.0.verify_client_cert(end_entity, intermediates, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
