//! Records sealed, opened, and refused when anything about them is another.

use super::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([3; 32])
}

fn place(tree: u8, key: &[u8]) -> RecordPlace<'_> {
    RecordPlace { tree, key }
}

#[test]
fn a_record_opens_at_its_own_place_alone() {
    let mut rng = rng();
    let keys = Keyring::generate(&mut rng);
    let sealed = keys.seal(place(1, b"key"), b"content", &mut rng);
    assert_eq!(sealed.len(), 7 + SEAL_BYTES);
    assert_eq!(keys.open(place(1, b"key"), &sealed).unwrap(), b"content");
    assert_eq!(keys.open(place(2, b"key"), &sealed), Err(BrokenSeal));
    assert_eq!(keys.open(place(1, b"kex"), &sealed), Err(BrokenSeal));
    assert_eq!(Keyring::generate(&mut rng).open(place(1, b"key"), &sealed), Err(BrokenSeal));
}

#[test]
fn every_flipped_bit_and_every_truncation_breaks_the_seal() {
    let mut rng = rng();
    let keys = Keyring::generate(&mut rng);
    let sealed = keys.seal(place(1, b"k"), b"a few bytes", &mut rng);
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(keys.open(place(1, b"k"), &flipped), Err(BrokenSeal), "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert_eq!(keys.open(place(1, b"k"), &sealed[..length]), Err(BrokenSeal));
    }
}

#[test]
fn the_same_content_never_looks_the_same_twice() {
    let mut rng = rng();
    let keys = Keyring::generate(&mut rng);
    let (one, two) = (
        keys.seal(place(1, b"k"), b"content", &mut rng),
        keys.seal(place(1, b"k"), b"content", &mut rng),
    );
    assert_ne!(one, two);
    assert!(!one.windows(4).any(|w| w == b"cont"));
}

#[test]
fn a_wrapped_keyring_tells_another_key_from_damage() {
    let mut rng = rng();
    let (ours, theirs) = (WrappingKey::from_bytes([1; 32]), WrappingKey::from_bytes([2; 32]));
    let keys = Keyring::generate(&mut rng);
    let wrapped = keys.wrap(&ours, &mut rng);
    assert_eq!(wrapped.len(), Keyring::WRAPPED_BYTES);
    let opened = Keyring::unwrap(&ours, &wrapped).unwrap();
    assert_eq!(opened.hidden_name(1, b"name"), keys.hidden_name(1, b"name"));
    assert_eq!(opened.id(), keys.id());
    assert_eq!(Keyring::unwrap(&theirs, &wrapped).unwrap_err(), KeyringError::WrongKey);
    for bit in 0..wrapped.len() * 8 {
        let mut flipped = wrapped.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Keyring::unwrap(&ours, &flipped).unwrap_err(), KeyringError::Damaged);
    }
    for length in 0..wrapped.len() {
        let short = Keyring::unwrap(&ours, &wrapped[..length]);
        assert_eq!(short.unwrap_err(), KeyringError::Damaged);
    }
}

#[test]
fn a_hidden_name_depends_on_the_tree_the_name_and_the_keys() {
    let mut rng = rng();
    let (one, two) = (Keyring::generate(&mut rng), Keyring::generate(&mut rng));
    let hidden = one.hidden_name(1, b"default/ocr-0");
    assert_eq!(hidden, one.hidden_name(1, b"default/ocr-0"));
    assert_ne!(hidden, one.hidden_name(2, b"default/ocr-0"));
    assert_ne!(hidden, one.hidden_name(1, b"default/ocr-1"));
    assert_ne!(hidden, two.hidden_name(1, b"default/ocr-0"));
}

#[test]
fn keys_are_never_printed() {
    let key = WrappingKey::from_bytes([0xab; 32]);
    let keys = Keyring::generate(&mut rng());
    let printed = format!("{key:?} {keys:?}");
    assert!(!printed.contains("ab, ") && !printed.contains("171"), "{printed}");
    assert!(printed.len() < 60, "{printed}");
}
