//! The state files of an agent in /run: what they are called, and how they are written.
//!
//! Not here: what is in them ([`super::record`], `sandbox_store`).

use std::{
    io,
    path::{Path, PathBuf},
};

use netpolc_host::{
    files::{self, Lasting},
    private::{self, FOLDER},
};

/// Only the owner reads and writes state files: what they say of pods and policies is not public.
pub const FILE_MODE: u32 = 0o600;

/// The path of the record for the tables that are pinned in `pin_dir`.
pub fn record(pin_dir: &Path) -> PathBuf {
    let name: String = pin_dir
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .collect();
    Path::new(FOLDER).join(format!("{name}.json"))
}

/// The path of the lock that a running agent holds, beside the record.
pub fn lock(pin_dir: &Path) -> PathBuf {
    record(pin_dir).with_extension("lock")
}

/// The path of what CNI reported about sandboxes, beside the record.
pub fn sandboxes(pin_dir: &Path) -> PathBuf {
    record(pin_dir).with_extension("sandboxes")
}

/// The path of the socket on which flows are served, beside the record.
pub fn flows(pin_dir: &Path) -> PathBuf {
    record(pin_dir).with_extension("flows")
}

/// Writes a file atomically. Only its owner may read it, since its contents about pods and policies
/// are not public.
///
/// # Errors
/// The folder or file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        private::folder(folder)?;
    }
    files::write(path, bytes, FILE_MODE, Lasting::UntilReboot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_records_of_their_own() {
        assert_eq!(
            record(Path::new("/sys/fs/bpf/netpolc")),
            Path::new("/run/netpolc/sys_fs_bpf_netpolc.json")
        );
        assert_ne!(record(Path::new("/sys/fs/bpf/a-1")), record(Path::new("/sys/fs/bpf/a-2")));
    }
}
