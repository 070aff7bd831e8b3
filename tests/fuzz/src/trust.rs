//! Documents and messages that keys protect. The enemy has no key in the first mode of each target;
//! in the others the target seals or signs for him, so that what lies behind the key is reached.

#![allow(clippy::expect_used, reason = "a failure is what fuzzing looks for")]

use crate::input::Input;
use crate::wire::survives;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use shared::limits::MAP_ITEM_BYTES_MAX;
use shared::model::{
    ConfigItem, MonotonicMs, NodeId, ObjectKind, ObjectName, SecretBytes, SecretData, SecretItem,
    UnixMs,
};
use shared::sync::{AgentSession, HubSession};
use shared::trust::certificate::{
    CertificateAuthority, node_of_certificate, serial_of_certificate, validity_of, verify_issued_by,
};
use shared::trust::enrollment::Enrollment;
use shared::trust::record::{Keyring, RecordPlace, WrappingKey};
use shared::trust::seal::{open_secret, seal_secret};
use shared::trust::session::{Initiator, Responder, SealedSession, SessionPrivateKey};
use shared::trust::signature::SigningKey;
use shared::wire::{MapHeader, Message, decode, desired_header_context, encode};
use std::sync::OnceLock;

/// The node of every target.
///
/// # Panics
/// Never: the name is one.
#[must_use]
pub fn node() -> NodeId {
    NodeId::new("mast-17").expect("a name")
}

/// The hub's key for signatures.
#[must_use]
pub fn signing_key() -> SigningKey {
    SigningKey::generate([1; 32])
}

/// The hub's key for sessions.
#[must_use]
pub fn hub_key() -> SessionPrivateKey {
    SessionPrivateKey::from_bytes([2; 32])
}

/// The node's key for sessions.
#[must_use]
pub fn node_key() -> SessionPrivateKey {
    SessionPrivateKey::from_bytes([3; 32])
}

/// What a handshake of [`node`] covers besides its messages.
#[must_use]
pub fn prologue() -> Vec<u8> {
    format!("hinterland/1/{}", node()).into_bytes()
}

/// Signed documents: as they come, and headers of desired state that the hub signed.
///
/// # Panics
/// When a changed document opens, or a genuine one does not.
pub fn signed(data: &[u8]) {
    let mut input = Input::new(data);
    let (key, context) = (signing_key(), desired_header_context(&node()));
    let mode = input.byte() % 3;
    if mode == 0 {
        let _ = key.verifying().open(input.rest(), &context);
        return;
    }
    let (at, bit) = (input.number(), input.byte() % 8);
    let payload = input.rest();
    let Ok(mut document) = key.sign(payload, &context) else { return };
    if mode == 1 {
        assert_eq!(key.verifying().open(&document, &context).expect("it is genuine"), payload);
        survives::<MapHeader>("map header", payload, 1024);
        return;
    }
    let at = usize::try_from(at).unwrap_or(0) % document.len();
    document.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
    assert!(key.verifying().open(&document, &context).is_err(), "a changed document opened");
}

/// Handshakes and sealed messages.
pub fn session(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 5 {
        0 => {
            let first = Responder::accept(&hub_key(), &prologue(), [5; 32], input.rest());
            let _ = first.map(|(responder, _, _)| responder.reply(&[]));
        }
        1 => {
            let started =
                Initiator::start(&node_key(), &hub_key().public(), &prologue(), [6; 32], &[]);
            let (mut initiator, _) = started.expect("a session can be begun");
            let _ = initiator.finish(input.rest());
        }
        2 => sealed_messages(&mut input),
        3 => {
            let mut agent = AgentSession::new(node(), node_key(), hub_key().public(), [7; 32]);
            agent.handle_link_up();
            let _ = agent.poll_outgoing(MonotonicMs(1));
            while !input.is_empty() {
                let _ = agent.handle_payload(input.chunk());
            }
        }
        _ => {
            let mut hub = HubSession::new(node(), node_key().public());
            while !input.is_empty() {
                let now = MonotonicMs(input.number());
                let _ = hub.handle_payload(input.chunk(), &hub_key(), [8; 32], now);
            }
        }
    }
}

/// Both ends of a session between [`node`] and the hub: the node's, and the hub's.
///
/// # Panics
/// When a genuine handshake fails.
#[must_use]
pub fn open_session() -> (SealedSession, SealedSession) {
    let (node_key, hub_key) = (node_key(), hub_key());
    let (mut initiator, first) =
        Initiator::start(&node_key, &hub_key.public(), &prologue(), [6; 32], &[]).expect("begun");
    let (responder, who, _) =
        Responder::accept(&hub_key, &prologue(), [5; 32], &first).expect("taken");
    assert_eq!(who, node_key.public());
    let (hub, reply) = responder.reply(&[]).expect("answered");
    let (agent, _) = initiator.finish(&reply).expect("finished");
    (agent, hub)
}

/// What was sealed opens once, whatever was tried before; what was not never does.
fn sealed_messages(input: &mut Input<'_>) {
    let (mut from, mut to) = open_session();
    let mut opened = Vec::new();
    while !input.is_empty() {
        match input.byte() % 3 {
            0 => assert!(to.open(input.number(), input.chunk()).is_err(), "a forged one opened"),
            1 => {
                let plaintext = input.chunk();
                let Ok(sealed) = from.seal(plaintext) else { continue };
                let back = to.open(sealed.counter, &sealed.ciphertext).expect("it is genuine");
                assert_eq!(back, plaintext);
                survives::<Message>("message", plaintext, plaintext.len());
                opened.push(sealed);
            }
            _ => {
                let at = usize::from(input.byte());
                if let Some(sealed) = opened.get(at) {
                    let again = to.open(sealed.counter, &sealed.ciphertext);
                    assert!(again.is_err(), "one was opened twice");
                }
            }
        }
    }
}

/// Certificates and requests: as PEM, and as DER that the target wraps.
pub fn certificate(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => sign_request(&String::from_utf8_lossy(input.rest())),
        1 => sign_request(&pem("CERTIFICATE REQUEST", input.rest())),
        2 => {
            let der = input.rest();
            let _ = (node_of_certificate(der), validity_of(der), serial_of_certificate(der));
            let _ = verify_issued_by(der, der);
        }
        _ => {
            let leaf = input.chunk();
            let _ = verify_issued_by(leaf, input.rest());
        }
    }
}

fn sign_request(pem: &str) {
    static AUTHORITY: OnceLock<CertificateAuthority> = OnceLock::new();
    let now = UnixMs(1_800_000_000_000);
    let authority = AUTHORITY
        .get_or_init(|| CertificateAuthority::create("fuzzing", now).expect("an authority"));
    if let Ok(issued) = authority.sign_request(pem, now, 30, 7) {
        let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes());
        let der = der.expect("what was issued is a certificate");
        assert_eq!(node_of_certificate(&der).ok(), Some(issued.node));
        verify_issued_by(&der, authority.certificate_der()).expect("and the authority's");
    }
}

/// `der` as PEM of this label.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, three) in der.chunks(3).enumerate() {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * at) & 63).unwrap_or(0);
            let present = usize::try_from(at).unwrap_or(0) <= three.len();
            let shown = DIGITS.get(digit).copied().filter(|_| present).unwrap_or(b'=');
            text.push(char::from(shown));
        }
        if index % 16 == 15 {
            text.push('\n');
        }
    }
    text + &format!("\n-----END {label}-----\n")
}

/// The DER in a PEM text of a request.
#[must_use]
pub fn request_der(pem: &str) -> Option<Vec<u8>> {
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).ok()?;
    Some(der.to_vec())
}

/// The DER in a PEM text of a certificate.
#[must_use]
pub fn certificate_der(pem: &str) -> Option<Vec<u8>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|der| der.to_vec())
}

/// The hub's answer to an enrolment. A first byte of 1 puts two certificates as DER into a document
/// that is right otherwise.
///
/// # Panics
/// When one does not survive being written.
pub fn enrollment(data: &[u8]) {
    let mut input = Input::new(data);
    let text = match input.byte() {
        1 => {
            let (leaf, root) =
                (pem("CERTIFICATE", input.chunk()), pem("CERTIFICATE", input.chunk()));
            let document = Enrollment {
                version: 1,
                node: node(),
                certificate_pem: leaf,
                authority_pem: root,
                hub_session_key: hub_key().public(),
                hub_signing_key: signing_key().verifying(),
                broker: input.text(),
                broker_name: input.text(),
            };
            document.to_text()
        }
        _ => String::from_utf8_lossy(input.rest()).into_owned(),
    };
    if let Ok(enrollment) = Enrollment::parse(&text) {
        let again = Enrollment::parse(&enrollment.to_text());
        assert_eq!(again.expect("what was read can be read again"), enrollment);
    }
}

/// Sealed records and the keys of a store.
///
/// # Panics
/// When a changed, moved or forged one opens, or a genuine one does not.
pub fn sealed(data: &[u8]) {
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let (keyring, wrapping) = (Keyring::generate(&mut rng), WrappingKey::from_bytes([4; 32]));
    let mut input = Input::new(data);
    let mode = input.byte() % 4;
    let place = RecordPlace { tree: input.byte(), key: input.chunk() };
    match mode {
        0 => assert!(keyring.open(place, input.rest()).is_err(), "a forged record opened"),
        1 => assert!(Keyring::unwrap(&wrapping, input.rest()).is_err(), "forged keys opened"),
        2 => {
            let (at, bit) = (input.number(), input.byte() % 9);
            let content = input.rest();
            let mut record = keyring.seal(place, content, &mut rng);
            flip(&mut record, at, bit);
            let opened = keyring.open(place, &record).ok();
            assert_eq!(opened.as_deref(), (bit == 8).then_some(content));
            let elsewhere = RecordPlace { tree: place.tree ^ 1, key: place.key };
            assert!(keyring.open(elsewhere, &record).is_err(), "a moved record opened");
        }
        _ => {
            let (at, bit) = (input.number(), input.byte() % 9);
            let mut wrapped = keyring.wrap(&wrapping, &mut rng);
            flip(&mut wrapped, at, bit);
            let length = input.number();
            wrapped.truncate(usize::try_from(length).unwrap_or(usize::MAX).max(1));
            let whole = wrapped.len() == Keyring::WRAPPED_BYTES && bit == 8;
            assert_eq!(Keyring::unwrap(&wrapping, &wrapped).is_ok(), whole);
        }
    }
}

/// ConfigMaps and Secrets, as they travel beside workloads.
///
/// # Panics
/// When a changed or forged Secret opens, or a genuine one does not.
pub fn secret(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.byte() % 4;
    let (kind, namespace) = (ObjectKind::Secret, "default".to_owned());
    let name = ObjectName { kind, namespace, name: "keys".to_owned() };
    match mode {
        0 => survives::<ConfigItem>("ConfigMap", input.rest(), MAP_ITEM_BYTES_MAX),
        1 => survives::<SecretData>("Secret's data", input.rest(), MAP_ITEM_BYTES_MAX),
        2 => {
            let bytes = input.rest();
            survives::<SecretItem>("Secret", bytes, MAP_ITEM_BYTES_MAX);
            if let Ok(item) = decode::<SecretItem>("Secret", bytes, MAP_ITEM_BYTES_MAX) {
                let opened = open_secret(&node_key(), &node(), &name, &item);
                assert!(opened.is_err(), "a forged Secret opened");
            }
        }
        _ => {
            let (at, bit) = (input.number(), input.byte() % 9);
            let key = String::from_utf8_lossy(input.chunk()).into_owned();
            let content = SecretData::from([(key, SecretBytes::new(input.rest().to_vec()))]);
            let to = node_key().public();
            let sealed = seal_secret(&signing_key(), (&node(), &to), &name, "1", &content);
            let mut item = sealed.expect("it can be sealed");
            let mut bytes = item.sealed.to_vec();
            flip(&mut bytes, at, bit);
            item.sealed = bytes.into();
            let opened = open_secret(&node_key(), &node(), &name, &item).ok();
            assert_eq!(opened, (bit == 8).then_some(content));
        }
    }
}

/// Flips one bit; bit 8 is none.
fn flip(bytes: &mut [u8], at: u64, bit: u8) {
    let at = usize::try_from(at).unwrap_or(0) % bytes.len().max(1);
    if bit < 8 {
        bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
    }
}

/// A header of desired state that the hub signed.
///
/// # Panics
/// Never: a header is small enough.
#[must_use]
pub fn sign_header(header: &MapHeader) -> Vec<u8> {
    let bytes = encode("desired state header", header).expect("a header can be encoded");
    signing_key().sign(&bytes, &desired_header_context(&node())).expect("and signed")
}
