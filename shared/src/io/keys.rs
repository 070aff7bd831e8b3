//! Secrets in files: written whole or not at all, read only where nobody else can read them.
//!
//! It refuses a secret whose file others may read, and never logs or shows what it read.

use crate::trust::record::WrappingKey;
use rand_core::{OsRng, RngCore};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// The largest secret: keys and certificates are a few KiB, and a wrong path must not fill memory.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The name of the store's wrapping key among the system's credentials (`LoadCredential=` of systemd).
pub const STORE_KEY_CREDENTIAL: &str = "hinterland-store-key";

const STORE_KEY_BYTES: usize = 32;

/// Permission bits that let others in.
const GROUP_AND_OTHERS: u32 = 0o077;

/// Why a secret could not be read or written.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file system said no.
    #[error("could not {attempted} {path}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Others may read or write the file.
    #[error(
        "the secret {path} has mode {mode:04o}, which lets others read or change it: expected 0600 or less (chmod 600)"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any secret.
    #[error("the secret {path} is larger than {SECRET_BYTES_MAX} bytes")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// Not the form of a store's key.
    #[error("{path} is not a store's key: expected {} hexadecimal digits", 2 * STORE_KEY_BYTES)]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },
}

/// Replaces the file `path` by `bytes`, with mode 0600: after a crash it holds the old content or the
/// new one. Its folder is made with mode 0700 if need be.
///
/// # Errors
/// When the file can't be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let folder = folder_of(path);
    create_private_folder(folder).map_err(failed("create the folder", folder))?;
    let beside = sibling(path);
    let written = write_new(&beside, bytes).map_err(failed("write", &beside));
    let replaced = written
        .and_then(|()| std::fs::rename(&beside, path).map_err(failed("replace the secret", path)));
    if replaced.is_err() {
        // Best effort: the secret must not lie about under another name.
        let _ = std::fs::remove_file(&beside);
    }
    replaced?;
    sync_folder(folder).map_err(failed("make durable the folder", folder))
}

/// The bytes of the secret in `path`.
///
/// # Errors
/// When it can't be read, when others may read it, and when it is over [`SECRET_BYTES_MAX`].
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    read_at_most_for(path, GROUP_AND_OTHERS)
}

/// Makes a store's wrapping key of fresh entropy and writes it to `path` as hexadecimal digits.
/// Refuses to replace a file: the store made with the old key would be lost.
///
/// # Errors
/// When the file exists or can't be written.
pub fn create_store_key(path: &Path) -> Result<(), KeyError> {
    if path.symlink_metadata().is_ok() {
        let exists = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(failed("create the store's key", path)(exists));
    }
    let key = Zeroizing::new(fresh_seed());
    let mut text = Zeroizing::new(String::with_capacity(2 * STORE_KEY_BYTES + 1));
    for byte in key.iter() {
        text.extend([byte >> 4, byte & 15].map(|d| char::from_digit(d.into(), 16).unwrap_or('0')));
    }
    text.push('\n');
    write_secret(path, text.as_bytes())
}

/// The store's wrapping key: `$CREDENTIALS_DIRECTORY/hinterland-store-key` if there is one, else `path`.
///
/// # Errors
/// When it can't be read, when others may read it, and when it is not a key.
pub fn load_store_key(path: &Path) -> Result<WrappingKey, KeyError> {
    store_key_from(std::env::var_os("CREDENTIALS_DIRECTORY").as_deref(), path)
}

/// 32 bytes of the system's entropy.
#[must_use]
pub fn fresh_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    OsRng.fill_bytes(&mut seed);
    seed
}

/// Makes durable that a folder's entries were added, removed or renamed.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn create_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The folder of a path; a bare name lies in the working folder.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn store_key_from(credentials: Option<&OsStr>, path: &Path) -> Result<WrappingKey, KeyError> {
    let credential = credentials.map(|folder| Path::new(folder).join(STORE_KEY_CREDENTIAL));
    match credential.filter(|path| path.exists()) {
        // systemd gives credentials mode 0440 in a folder that only the service can enter.
        Some(path) => parse_store_key(&path, &read_at_most_for(&path, 0o007)?),
        None => parse_store_key(path, &read_secret(path)?),
    }
}

fn parse_store_key(path: &Path, text: &[u8]) -> Result<WrappingKey, KeyError> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut key = Zeroizing::new([0; STORE_KEY_BYTES]);
    let text = text.trim_ascii_end();
    let whole = text.len() == 2 * STORE_KEY_BYTES
        && key.iter_mut().zip(text.chunks_exact(2)).all(|(byte, pair)| match pair {
            [high, low] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    *byte = high << 4 | low;
                    true
                }
                _ => false,
            },
            _ => false,
        });
    if !whole {
        return Err(KeyError::NotAKey { path: path.to_owned() });
    }
    Ok(WrappingKey::from_bytes(*key))
}

fn read_at_most_for(path: &Path, forbidden_bits: u32) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let file = File::open(path).map_err(failed("open the secret", path))?;
    let metadata = file.metadata().map_err(failed("look at the secret", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & forbidden_bits != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read the secret", path))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(KeyError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A leftover of a crash has the same name only if the process number came again.
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sibling(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    PathBuf::from(name)
}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    move |source| KeyError::Io { attempted, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_secret_is_replaced_whole_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/inner/secret");
        write_secret(&path, b"one").unwrap();
        write_secret(&path, b"two").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_slice(), b"two");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_secret(&path, b"s").unwrap();
        for exposed in [0o640, 0o604, 0o660, 0o610] {
            std::fs::set_permissions(&path, Permissions::from_mode(exposed)).unwrap();
            let error = read_secret(&path).unwrap_err();
            assert!(error.to_string().contains(&format!("{exposed:04o}")), "{error}");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(read_secret(&path).is_ok());
    }

    #[test]
    fn a_secret_over_64_kib_and_one_that_is_missing_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let limit = usize::try_from(SECRET_BYTES_MAX).unwrap();
        write_secret(&path, &vec![7; limit]).unwrap();
        assert_eq!(read_secret(&path).unwrap().len(), limit);
        write_secret(&path, &vec![7; limit + 1]).unwrap();
        assert!(matches!(read_secret(&path), Err(KeyError::TooLarge { .. })));
        let missing = folder.path().join("none");
        assert!(matches!(read_secret(&missing), Err(KeyError::Io { .. })));
    }

    #[test]
    fn a_store_key_is_made_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.key");
        create_store_key(&path).unwrap();
        let text = std::fs::read(&path).unwrap();
        assert_eq!(text.len(), 65);
        assert!(store_key_from(None, &path).is_ok());
        assert!(matches!(create_store_key(&path), Err(KeyError::Io { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), text);
    }

    #[test]
    fn a_credential_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none");
        let credential = folder.path().join(STORE_KEY_CREDENTIAL);
        let from = || store_key_from(Some(folder.path().as_os_str()), &path);
        assert!(from().is_err());
        create_store_key(&credential).unwrap();
        std::fs::set_permissions(&credential, Permissions::from_mode(0o440)).unwrap();
        assert!(from().is_ok());
    }

    #[test]
    fn only_64_hexadecimal_digits_are_a_store_key() {
        let parse = |text: &str| parse_store_key(Path::new("k"), text.as_bytes()).is_ok();
        assert!(parse(&"0a".repeat(32)) && parse(&format!("{}\n", "F9".repeat(32))));
        for text in ["", "0a", &"0a".repeat(33), &"+f".repeat(32), &"é".repeat(32)] {
            assert!(!parse(text), "`{text}` was accepted");
        }
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(fresh_seed(), fresh_seed());
    }
}
