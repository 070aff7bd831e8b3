//! Where this library lies, and so its recording.

#![expect(unsafe_code, reason = "only the C library's dladdr says where a loaded library lies")]

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `recording.json` in the folder of this library.
pub(crate) fn recording() -> Option<PathBuf> {
    let own = recording as *const libc::c_void;
    // SAFETY: integers and pointers may be zero.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr fills in what it was given, or returns 0.
    if unsafe { libc::dladdr(own, &raw mut found) } == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr's name ends with NUL and lives as long as the library.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    let folder = Path::new(OsStr::from_bytes(name.to_bytes())).parent()?;
    Some(folder.join("recording.json"))
}
