//! TLS as a client of the fleet's broker: TLS 1.3 only, mutual, under the fleet's own root alone.
//!
//! It opens no connection. It never asks the system's clock: certificates are judged at the time that
//! the caller's [`TimeProvider`] gives, because a node's own clock may say 1970 or 2100. It trusts no
//! root but the one it is given: the system's are not read.

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SignatureVerificationAlgorithm};
use std::sync::{Arc, LazyLock};
use thiserror::Error;

/// Servers whose sessions are kept for resumption. A node knows one broker; a hub one. A few, for
/// the time in which an address changes.
const RESUMPTION_SERVERS_MAX: usize = 4;

/// Why a TLS configuration could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A PEM text does not hold what it should.
    #[error("could not read {what} as PEM")]
    Pem {
        /// What was given.
        what: &'static str,
        /// What the PEM reader says.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The pieces are readable and do not fit: no usable root, or a key of another certificate.
    #[error("could not {attempted}")]
    Configure {
        /// What was attempted.
        attempted: &'static str,
        /// What the TLS library says.
        #[source]
        source: rustls::Error,
    },
}

/// The configuration by which a node (or a hub, towards an external broker) connects.
///
/// Make it once and share the `Arc`: sessions resume only within one configuration, and a resumed
/// connect costs about a quarter of the bytes of a full one.
///
/// # Errors
/// [`TlsError`], which says which of the three texts is at fault.
pub fn client_config(
    authority_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = roots(authority_pem)?;
    let certificate = certificate(certificate_pem, "the client's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|source| TlsError::Pem { what: "the client's private key", source })?;
    let mut config = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&TLS13])
        .map_err(configuring("offer TLS 1.3"))?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(configuring("use the client's certificate with its key"))?;
    config.resumption = Resumption::in_memory_sessions(RESUMPTION_SERVERS_MAX);
    Ok(Arc::new(config))
}

/// The certificate in a PEM text, as DER.
///
/// # Errors
/// [`TlsError::Pem`].
pub fn certificate_from_pem(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    certificate(pem, "a certificate")
}

/// Makes aws-lc-rs the process's one provider of TLS cryptography. Called first thing in `main`;
/// a second call, or another's before it, changes nothing.
pub fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none() {
        // Lost only to a thread that installs one at this very moment; then there is one.
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

/// Elliptic curves alone: the exchange with ML-KEM would make every connect longer by 1216 bytes up
/// and 1088 down. What must stay secret for longer than a connection is sealed by the session above,
/// with X25519 as well, so TLS alone would gain nothing by it. A suite with SHA-256 is asked for first:
/// each proof in a handshake is 16 bytes shorter than with SHA-384.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    provider.signature_verification_algorithms = fleet_signatures();
    Arc::new(provider)
}

/// Signatures that a certificate of the fleet can carry: its authority and all whom it signs have keys on
/// elliptic curves. RSA and ML-DSA would only make each greeting longer.
fn fleet_signatures() -> WebPkiSupportedAlgorithms {
    static MAPPING: LazyLock<Vec<Scheme>> = LazyLock::new(|| {
        let all = aws_lc_rs::default_provider().signature_verification_algorithms;
        let of_fleet = |(scheme, _): &&Scheme| FLEET_SCHEMES.contains(scheme);
        all.mapping.iter().filter(of_fleet).copied().collect()
    });
    let all = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    WebPkiSupportedAlgorithms { all, mapping: MAPPING.as_slice() }
}

/// A scheme and what verifies it.
type Scheme = (SignatureScheme, &'static [&'static dyn SignatureVerificationAlgorithm]);

const FLEET_SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
];

fn roots(authority_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let authority = certificate(authority_pem, "the authority's certificate")?;
    roots.add(authority).map_err(configuring("trust the authority's certificate"))?;
    Ok(roots)
}

fn certificate(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|source| TlsError::Pem { what, source })
}

fn configuring(attempted: &'static str) -> impl Fn(rustls::Error) -> TlsError {
    move |source| TlsError::Configure { attempted, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeId, UnixMs};
    use crate::trust::certificate::{CertificateAuthority, NodeKey};
    use crate::trust::session::SessionPublicKey;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{
        CertificateError, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, version,
    };
    use rustls_pki_types::UnixTime;
    use std::time::Duration;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    #[derive(Debug)]
    struct At(UnixMs);

    impl TimeProvider for At {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.0)))
        }
    }

    struct Fleet {
        authority: CertificateAuthority,
        server: Arc<ServerConfig>,
    }

    impl Fleet {
        fn new() -> Self {
            Self::speaking(&[&TLS13])
        }

        fn speaking(versions: &[&'static rustls::SupportedProtocolVersion]) -> Self {
            let authority = CertificateAuthority::create("hinterland test", NOW).unwrap();
            let names = ["hub.example".to_owned(), "127.0.0.1".to_owned()];
            let issued = authority.issue_server(&names, NOW, 365).unwrap();
            let provider = Arc::new(aws_lc_rs::default_provider());
            let roots = Arc::new(roots(authority.certificate_pem()).unwrap());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            let server = ServerConfig::builder_with_details(provider, Arc::new(At(NOW)))
                .with_protocol_versions(versions)
                .unwrap()
                .with_client_cert_verifier(verifier.build().unwrap())
                .with_single_cert(
                    vec![certificate(&issued.certificate_pem, "server").unwrap()],
                    PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
                );
            Self { authority, server: Arc::new(server.unwrap()) }
        }

        /// The configuration of a node of this fleet that trusts the root of `trusted`.
        fn node(&self, trusted: &Self, at: UnixMs) -> Arc<ClientConfig> {
            let key = NodeKey::generate().unwrap();
            let node = NodeId::new("node-1").unwrap();
            let request = key.request(&node, &SessionPublicKey([1; 32])).unwrap();
            let issued = self.authority.sign_request(&request, NOW, 365, 1).unwrap();
            let root = trusted.authority.certificate_pem();
            client_config(root, &issued.certificate_pem, &key.to_pem(), Arc::new(At(at))).unwrap()
        }

        fn connect(
            &self,
            config: &Arc<ClientConfig>,
            name: &'static str,
        ) -> Result<HandshakeKind, rustls::Error> {
            let mut client = ClientConnection::new(config.clone(), name.try_into().unwrap())?;
            let mut server = ServerConnection::new(self.server.clone())?;
            // Two flights each way, and once more for the tickets by which a session resumes.
            for _ in 0..4 {
                let mut flight = Vec::new();
                client.write_tls(&mut flight).unwrap();
                server.read_tls(&mut flight.as_slice()).unwrap();
                server.process_new_packets()?;
                let mut flight = Vec::new();
                while server.wants_write() {
                    server.write_tls(&mut flight).unwrap();
                }
                client.read_tls(&mut flight.as_slice()).unwrap();
                client.process_new_packets()?;
            }
            assert!(!client.is_handshaking() && !server.is_handshaking());
            assert!(server.peer_certificates().is_some_and(|chain| chain.len() == 1));
            Ok(client.handshake_kind().unwrap())
        }
    }

    #[test]
    fn a_node_and_a_hub_of_one_fleet_connect_by_name_and_by_address_and_resume() {
        let fleet = Fleet::new();
        let config = fleet.node(&fleet, NOW);
        assert_eq!(fleet.connect(&config, "hub.example").unwrap(), HandshakeKind::Full);
        assert_eq!(fleet.connect(&config, "hub.example").unwrap(), HandshakeKind::Resumed);
        assert_eq!(fleet.connect(&config, "127.0.0.1").unwrap(), HandshakeKind::Full);
    }

    #[test]
    fn certificates_are_judged_at_the_time_that_was_given() {
        let fleet = Fleet::new();
        let refused = |at| fleet.connect(&fleet.node(&fleet, at), "hub.example").unwrap_err();
        let expired = refused(UnixMs(NOW.0 + 366 * DAY_MS));
        let early = refused(UnixMs(NOW.0 - 2 * DAY_MS));
        let is = |error: &rustls::Error, expected: fn(&CertificateError) -> bool| matches!(error, rustls::Error::InvalidCertificate(why) if expected(why));
        assert!(is(&expired, |why| matches!(why, CertificateError::ExpiredContext { .. })));
        assert!(is(&early, |why| matches!(why, CertificateError::NotValidYetContext { .. })));
        let in_time = fleet.node(&fleet, UnixMs(NOW.0 + 300 * DAY_MS));
        assert!(fleet.connect(&in_time, "hub.example").is_ok());
    }

    #[test]
    fn a_foreign_broker_a_foreign_node_and_another_name_are_refused() {
        let (ours, theirs) = (Fleet::new(), Fleet::new());
        let invalid = |result: Result<HandshakeKind, rustls::Error>| {
            matches!(result, Err(rustls::Error::InvalidCertificate(_)))
        };
        assert!(invalid(theirs.connect(&ours.node(&ours, NOW), "hub.example")));
        assert!(invalid(ours.connect(&theirs.node(&ours, NOW), "hub.example")));
        assert!(invalid(ours.connect(&ours.node(&ours, NOW), "other.example")));
    }

    #[test]
    fn a_broker_that_speaks_only_tls_1_2_is_refused() {
        let fleet = Fleet::speaking(&[&version::TLS12]);
        assert!(fleet.connect(&fleet.node(&fleet, NOW), "hub.example").is_err());
    }

    #[test]
    fn a_text_that_does_not_fit_is_named() {
        let fleet = Fleet::new();
        let root = fleet.authority.certificate_pem();
        let key = NodeKey::generate().unwrap().to_pem();
        let refusal = |root: &str, certificate: &str, key: &str| {
            let at = Arc::new(At(NOW));
            client_config(root, certificate, key, at).unwrap_err().to_string()
        };
        assert!(refusal("", root, &key).contains("authority's certificate"));
        assert!(refusal(root, "", &key).contains("client's certificate"));
        assert!(refusal(root, root, "").contains("private key"));
        assert!(refusal(root, root, &key).contains("with its key"));
    }

    #[test]
    fn the_provider_may_be_installed_twice() {
        install_crypto_provider();
        install_crypto_provider();
        assert!(CryptoProvider::get_default().is_some());
    }
}
