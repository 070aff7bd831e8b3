//! The hub's keys and its certificate authority, in files.
//!
//! Private keys lie under `keys/` with mode 0600. Nothing is ever overwritten: with a new CA or a
//! new signing key every node would have to enrol anew, and that is never what a start should do.

use crate::config::Places;
use crate::core::HubKeys;
use shared::io::keys::{KeyError, create_store_key, fresh_seed, read_secret, write_secret};
use shared::model::UnixMs;
use shared::trust::certificate::{CertificateAuthority, CertificateError};
use shared::trust::session::SessionPrivateKey;
use shared::trust::signature::SigningKey;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use tracing::info;
use zeroize::Zeroizing;

/// The authority's name, unless it is given one.
pub(crate) const DEFAULT_AUTHORITY_NAME: &str = "Hinterland fleet CA";

/// Permission bits that let everybody in.
const OTHERS: u32 = 0o007;

/// Far above any private key.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Why keys could not be made or read.
#[derive(Debug, Error)]
pub enum KeysError {
    /// There are none, and `run` was told not to make them.
    #[error(
        "there is no CA in {state_dir}, and `create_keys` is false: make it with `hub ca init`"
    )]
    Missing {
        /// The state folder.
        state_dir: PathBuf,
    },
    /// `ca init` where there is one.
    #[error("{path} exists: a new CA would lock out every node; nothing was changed")]
    Exists {
        /// The file that is there.
        path: PathBuf,
    },
    /// Some of the files are there and some are not.
    #[error(
        "{path} is missing while other keys of this hub are there: restore it from a backup \
         (a new one would lock out every node)"
    )]
    Partial {
        /// The file that is missing.
        path: PathBuf,
    },
    /// `keys_dir` lacks one.
    #[error(
        "{path} is missing: expected ca.pem, ca.key, signing.key and session.key in `keys_dir`, as \
         `hub ca init` makes them"
    )]
    NotGiven {
        /// The file that is missing.
        path: PathBuf,
    },
    /// Anybody may read a private key.
    #[error("{path} can be read by everybody: expected at most its owner and one group")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// A file can't be read or written.
    #[error("could not {attempted} {path}")]
    File {
        /// What was attempted.
        attempted: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A secret can't be read or written.
    #[error("could not use a key of the hub")]
    Key(#[from] KeyError),
    /// A key has another form than was written.
    #[error("{path} is damaged: expected {expected}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// The authority can't be made or read.
    #[error("could not use the certificate authority")]
    Authority(#[from] CertificateError),
}

/// Makes the authority and all keys.
///
/// # Errors
/// [`KeysError`], among others when any of them is there.
pub(crate) fn create(places: &Places, name: &str, now: UnixMs) -> Result<(), KeysError> {
    if places.authority.exists() {
        return Err(KeysError::Exists { path: places.authority.clone() });
    }
    if places.store.exists() {
        return Err(KeysError::Partial { path: places.authority.clone() });
    }
    // What is there now is left from a making that was interrupted: nothing was signed with it.
    make_state_dir(places)?;
    let authority = CertificateAuthority::create(name, now)?;
    write_secret(&places.session_key, SessionPrivateKey::generate(fresh_seed()).to_bytes())?;
    write_secret(&places.signing_key, SigningKey::generate(fresh_seed()).to_bytes())?;
    if !has_store_credential() && !places.store_key.exists() {
        create_store_key(&places.store_key)?;
    }
    write_secret(&places.authority_key, authority.key_pem().as_bytes())?;
    // Last: where this file is, everything is.
    write_public(&places.authority, authority.certificate_pem())
}

/// The authority and the keys; made first where there are none and `create_missing`.
///
/// # Errors
/// [`KeysError`].
pub(crate) fn open(
    places: &Places,
    create_missing: bool,
    now: UnixMs,
) -> Result<(CertificateAuthority, HubKeys), KeysError> {
    let is_new = !places.authority.exists() && !places.store.exists();
    if places.keys_are_given {
        make_state_dir(places)?;
        if !has_store_credential() && !places.store_key.exists() && !places.store.exists() {
            create_store_key(&places.store_key)?;
        }
    } else if is_new && !create_missing {
        return Err(KeysError::Missing { state_dir: places.state_dir.clone() });
    }
    if is_new && !places.keys_are_given {
        create(places, DEFAULT_AUTHORITY_NAME, now)?;
        info!(
            state_dir = %places.state_dir.display(),
            "made a certificate authority and keys: keep a backup of this folder, without it every \
             node must enrol anew"
        );
    }
    if let Some(path) = files(places).into_iter().find(|path| !path.exists()) {
        let path = path.to_owned();
        return Err(match places.keys_are_given {
            true => KeysError::NotGiven { path },
            false => KeysError::Partial { path },
        });
    }
    let session = SessionPrivateKey::from_bytes(key_bytes(places, &places.session_key)?);
    let signing = SigningKey::from_bytes(&key_bytes(places, &places.signing_key)?);
    Ok((open_authority(places)?, HubKeys { session, signing }))
}

/// The authority alone.
///
/// # Errors
/// [`KeysError`].
pub(crate) fn open_authority(places: &Places) -> Result<CertificateAuthority, KeysError> {
    let certificate =
        std::fs::read_to_string(&places.authority).map_err(failed("read", &places.authority))?;
    let key = read_key(places, &places.authority_key)?;
    let key = std::str::from_utf8(&key).map_err(|_| KeysError::Damaged {
        path: places.authority_key.clone(),
        expected: "a private key in PEM",
    })?;
    Ok(CertificateAuthority::from_pem(&certificate, key)?)
}

/// Replaces a file that everybody may read.
///
/// # Errors
/// [`KeysError::File`].
pub(crate) fn write_public(path: &Path, text: &str) -> Result<(), KeysError> {
    let new = path.with_extension("new");
    std::fs::write(&new, text).map_err(failed("write", &new))?;
    let readable = Permissions::from_mode(0o644);
    std::fs::set_permissions(&new, readable).map_err(failed("write", &new))?;
    std::fs::File::open(&new).and_then(|file| file.sync_all()).map_err(failed("write", &new))?;
    std::fs::rename(&new, path).map_err(failed("write", path))
}

/// What makes the hub this hub. The store's key is not among them: a service manager may hand it in.
fn files(places: &Places) -> [&Path; 4] {
    [&places.authority, &places.authority_key, &places.signing_key, &places.session_key]
}

/// Whether the service manager hands in credentials (systemd's `LoadCredential=`).
fn has_store_credential() -> bool {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    folder.is_some_and(|folder| folder.join("hinterland-store-key").exists())
}

fn make_state_dir(places: &Places) -> Result<(), KeysError> {
    let folder = &places.state_dir;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(failed("make the folder", folder))
}

/// A private key. Kubernetes lets the pod's group read a mounted Secret, and none but that pod has the
/// folder.
fn read_key(places: &Places, path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    if !places.keys_are_given {
        return Ok(read_secret(path)?);
    }
    let metadata = std::fs::metadata(path).map_err(failed("read", path))?;
    if metadata.permissions().mode() & OTHERS != 0 {
        return Err(KeysError::Open { path: path.to_owned() });
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(KeysError::Damaged {
            path: path.to_owned(),
            expected: "a key of some kilobytes",
        });
    }
    Ok(Zeroizing::new(std::fs::read(path).map_err(failed("read", path))?))
}

fn key_bytes(places: &Places, path: &Path) -> Result<[u8; 32], KeysError> {
    let bytes = read_key(places, path)?;
    let damaged = || KeysError::Damaged { path: path.to_owned(), expected: "32 bytes" };
    bytes.as_slice().try_into().map_err(|_| damaged())
}

fn failed<'a>(attempted: &'static str, path: &'a Path) -> impl Fn(io::Error) -> KeysError + 'a {
    move |source| KeysError::File { attempted, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::fs;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);

    fn places(folder: &Path) -> Places {
        Config { state_dir: folder.join("state"), ..Config::default() }.places()
    }

    #[test]
    fn keys_are_made_once_read_back_and_readable_by_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let (authority, keys) = open(&places, true, NOW).unwrap();
        let (again, same) = open(&places, true, NOW).unwrap();
        assert_eq!(authority.certificate_pem(), again.certificate_pem());
        assert_eq!(keys.session.public(), same.session.public());
        assert_eq!(keys.signing.to_bytes(), same.signing.to_bytes());
        for entry in fs::read_dir(places.state_dir.join("keys")).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{:?}", entry.path());
        }
        assert!(places.store_key.exists());
    }

    #[test]
    fn an_authority_that_is_there_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        create(&places, "one", NOW).unwrap();
        let before = fs::read(&places.authority).unwrap();
        assert!(matches!(create(&places, "two", NOW), Err(KeysError::Exists { .. })));
        assert_eq!(fs::read(&places.authority).unwrap(), before);
    }

    #[test]
    fn a_start_without_keys_makes_them_only_where_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        assert!(matches!(open(&places, false, NOW), Err(KeysError::Missing { .. })));
        assert!(!places.state_dir.exists());
    }

    #[test]
    fn a_making_that_was_interrupted_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        create(&places, "one", NOW).unwrap();
        fs::remove_file(&places.authority).unwrap();
        assert!(open(&places, true, NOW).is_ok());
    }

    #[test]
    fn a_lost_key_of_a_hub_that_ran_is_named_and_not_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        create(&places, "one", NOW).unwrap();
        fs::create_dir(&places.store).unwrap();
        for lost in [&places.signing_key, &places.authority] {
            let bytes = fs::read(lost).unwrap();
            fs::remove_file(lost).unwrap();
            let words = open(&places, true, NOW).err().unwrap().to_string();
            assert!(words.contains(&lost.display().to_string()), "{words}");
            assert!(!lost.exists());
            fs::write(lost, bytes).unwrap();
            fs::set_permissions(lost, Permissions::from_mode(0o600)).unwrap();
        }
        assert!(open(&places, true, NOW).is_ok());
    }
}
