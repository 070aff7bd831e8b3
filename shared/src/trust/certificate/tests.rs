//! Certificates as nodes, hubs and enemies ask for them. Whether TLS takes them is tested in
//! `io::tls`.

use super::*;
use crate::trust::session::SessionPrivateKey;
use proptest::prelude::*;
use rcgen::CustomExtension;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const NOW: UnixMs = UnixMs(1_800_000_000_000);

fn authority() -> CertificateAuthority {
    CertificateAuthority::create("hinterland test", NOW).unwrap()
}

fn node() -> NodeId {
    NodeId::new("node-1").unwrap()
}

fn session_key() -> SessionPublicKey {
    SessionPrivateKey::generate([1; 32]).public()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn issue(authority: &CertificateAuthority, key: &NodeKey) -> IssuedCertificate {
    let request = key.request(&node(), &session_key()).unwrap();
    authority.sign_request(&request, NOW, NODE_VALIDITY_DAYS, 0xbeef).unwrap()
}

/// A request as somebody else's program would make it.
fn request_with(change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "node-1");
    params.custom_extensions = vec![session_extension(&session_key().0)];
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn session_extension(key: &[u8]) -> CustomExtension {
    let length = u8::try_from(key.len()).unwrap();
    let content = [&[0x04, length], key].concat();
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 8883, 1], content)
}

fn refusal(request: &str) -> String {
    authority().sign_request(request, NOW, 1, 1).unwrap_err().to_string()
}

#[test]
fn a_node_gets_what_it_asked_for_and_nothing_else() {
    let (authority, key) = (authority(), NodeKey::generate().unwrap());
    let issued = issue(&authority, &key);
    assert_eq!(issued.node, node());
    assert_eq!(issued.session_key, session_key());
    assert_eq!(issued.serial, "beef");
    assert_eq!(issued.not_after.0, NOW.0 + 3650 * DAY_MS);
    let der = der(&issued.certificate_pem);
    assert_eq!(node_of_certificate(&der).unwrap(), node());
    assert_eq!(serial_of_certificate(&der).unwrap(), issued.serial);
    assert_eq!(validity_of(&der).unwrap().not_before.0, NOW.0 - DAY_MS);
    verify_issued_by(&der, authority.certificate_der()).unwrap();

    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!certificate.is_ca());
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let oids: Vec<String> = certificate.extensions().iter().map(|e| e.oid.to_string()).collect();
    assert!(oids.iter().all(|oid| oid.starts_with("2.5.29.")), "{oids:?}");
}

#[test]
fn a_certificate_belongs_to_the_key_that_asked_for_it() {
    let key = NodeKey::generate().unwrap();
    let issued = issue(&authority(), &key);
    let again = NodeKey::from_pem(&key.to_pem()).unwrap();
    assert!(again.belongs_to(&issued.certificate_pem).unwrap());
    assert!(!NodeKey::generate().unwrap().belongs_to(&issued.certificate_pem).unwrap());
}

#[test]
fn an_authority_survives_its_files_and_refuses_anothers_key() {
    let (one, two) = (authority(), authority());
    let again = CertificateAuthority::from_pem(one.certificate_pem(), &one.key_pem()).unwrap();
    let issued = issue(&again, &NodeKey::generate().unwrap());
    verify_issued_by(&der(&issued.certificate_pem), one.certificate_der()).unwrap();
    let mixed = CertificateAuthority::from_pem(one.certificate_pem(), &two.key_pem());
    assert!(matches!(mixed, Err(CertificateError::Refused { .. })));
    let leaf = CertificateAuthority::from_pem(&issued.certificate_pem, &one.key_pem());
    assert!(matches!(leaf, Err(CertificateError::Refused { .. })));
}

#[test]
fn an_authority_of_the_same_name_issued_nothing_of_ours() {
    let issued = issue(&authority(), &NodeKey::generate().unwrap());
    let namesake = authority();
    assert!(matches!(
        verify_issued_by(&der(&issued.certificate_pem), namesake.certificate_der()),
        Err(CertificateError::Forged { .. })
    ));
}

#[test]
fn a_server_certificate_is_not_a_nodes_and_begins_with_its_authority() {
    let authority = authority();
    let later = UnixMs(NOW.0 + 400 * DAY_MS);
    let names = ["hub.example".to_owned(), "192.0.2.1".to_owned()];
    let server = authority.issue_server(&names, later, 365).unwrap();
    let der = der(&server.certificate_pem);
    assert!(verify_issued_by(&der, authority.certificate_der()).is_err());
    let own = validity_of(authority.certificate_der()).unwrap();
    assert_eq!(validity_of(&der).unwrap().not_before, own.not_before);
    assert_eq!(validity_of(&der).unwrap().not_after.0, later.0 + 365 * DAY_MS);
    assert!(authority.issue_server(&[], NOW, 1).is_err());
    assert!(authority.issue_server(&vec!["a.example".to_owned(); 33], NOW, 1).is_err());
    assert!(!format!("{server:?}").contains("PRIVATE"));
}

#[test]
fn no_certificate_outlives_its_authority() {
    let authority = authority();
    let request = NodeKey::generate().unwrap().request(&node(), &session_key()).unwrap();
    let issued = authority.sign_request(&request, NOW, 100_000, 1).unwrap();
    assert_eq!(issued.not_after, validity_of(authority.certificate_der()).unwrap().not_after);
}

#[test]
fn a_hub_is_not_given_a_name_that_a_node_could_have() {
    let authority = authority();
    let hub = authority.issue_hub_client("_hub", NOW, 365).unwrap();
    verify_issued_by(&der(&hub.certificate_pem), authority.certificate_der()).unwrap();
    assert!(node_of_certificate(&der(&hub.certificate_pem)).is_err());
    for name in ["hub", "node-1", ""] {
        assert!(authority.issue_hub_client(name, NOW, 365).is_err(), "`{name}`");
    }
}

#[test]
fn a_request_that_asks_for_more_is_refused_and_says_why() {
    let key = generate_key().unwrap();
    assert!(authority().sign_request(&request_with(|_| (), &key), NOW, 1, 1).is_ok());
    let asked = |change: fn(&mut CertificateParams)| refusal(&request_with(change, &key));
    let ca = asked(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(ca.contains("authority"), "{ca}");
    let server =
        asked(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(server.contains("another purpose"), "{server}");
    let names = asked(|params| {
        params.subject_alt_names =
            CertificateParams::new(vec!["hub.example".to_owned()]).unwrap().subject_alt_names;
    });
    assert!(names.contains("names besides"), "{names}");
}

#[test]
fn a_request_without_one_good_name_and_session_key_is_refused() {
    let key = generate_key().unwrap();
    let asked = |change: fn(&mut CertificateParams)| refusal(&request_with(change, &key));
    for (change, expected) in [
        ((|params| params.custom_extensions.clear()) as fn(&mut CertificateParams), "one session"),
        (|params| params.custom_extensions.push(session_extension(&[2; 32])), "one session"),
        (|params| params.custom_extensions = vec![session_extension(&[2; 31])], "not 32 bytes"),
        (|params| params.distinguished_name = DistinguishedName::new(), "one common name"),
        (|params| params.distinguished_name.push(DnType::CommonName, "../x"), "a node's name"),
        (|params| params.distinguished_name.push(DnType::CommonName, "_hub"), "a node's name"),
    ] {
        let refusal = asked(change);
        assert!(refusal.contains(expected), "`{refusal}`, expected `{expected}`");
    }
}

#[test]
fn keys_of_another_kind_oversize_and_serial_zero_are_refused() {
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(refusal(&request_with(|_| (), &other)).contains("P-256"));
    assert!(NodeKey::from_pem(&other.serialize_pem()).is_err());
    let large = "x".repeat(REQUEST_BYTES_MAX + 1);
    let refused = authority().sign_request(&large, NOW, 1, 1);
    assert!(matches!(refused, Err(CertificateError::TooLarge { .. })));
    let request = request_with(|_| (), &generate_key().unwrap());
    assert!(authority().sign_request(&request, NOW, 1, 0).is_err());
    assert!(matches!(
        authority().sign_request(&authority().certificate_pem, NOW, 1, 1),
        Err(CertificateError::Pem { .. })
    ));
}

#[test]
fn a_clock_of_1970_or_of_the_far_future_makes_no_panic() {
    assert!(CertificateAuthority::create("early", UnixMs(0)).is_ok());
    let never = CertificateAuthority::create("never", UnixMs(u64::MAX));
    assert!(matches!(never, Err(CertificateError::Time { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every byte of a request is signed, or is the signature, or is the form of one of them. Forms
    /// have a few bits that mean nothing (RFC 2986, section 4.2); they change nothing either.
    #[test]
    fn a_changed_request_yields_no_other_name_or_key(
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let key = NodeKey::generate().unwrap();
        let request = key.request(&node(), &session_key()).unwrap();
        let mut der = request_der(&request);
        prop_assert!(authority().sign_request(&request_pem(&der), NOW, 1, 1).is_ok());
        let at = at.index(der.len());
        der[at] ^= 1 << bit;
        let changed = request_pem(&der);
        if let Ok(issued) = authority().sign_request(&changed, NOW, 1, 1) {
            prop_assert_eq!((issued.node, issued.session_key), (node(), session_key()));
            prop_assert!(key.belongs_to(&issued.certificate_pem).unwrap());
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(node_of_certificate(&bytes).is_err());
        prop_assert!(validity_of(&bytes).is_err());
    }
}

fn request_der(pem: &str) -> Vec<u8> {
    let (_, section) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    section.contents
}

fn request_pem(der: &[u8]) -> String {
    let base64 = base64_of(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{base64}\n-----END CERTIFICATE REQUEST-----\n")
}

fn base64_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS[(bits & 63) as usize]);
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        let digits = [digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), digit(bits)];
        let used = digits.iter().take(chunk.len() + 1).collect::<String>();
        format!("{used:=<4}")
    };
    bytes.chunks(3).map(group).collect()
}
