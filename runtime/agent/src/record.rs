//! The agent's record: which pods, policies and problems stand behind what is pinned, for `netpolc status`.
//! Ordinary JSON in /run, because a bpffs holds nothing but BPF objects.
//!
//! Enforcement never depends on it: without a record, endpoints just have no names.

use netpolc_table::{EndpointId, IfIndex};
use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use netpolc_host::{
    files::{self, Lasting},
    private::{self, FOLDER, Lock},
};
use netpolc_kube_sync::PolicyState;
use netpolc_target::OffloadRecord;
use serde::{Deserialize, Serialize};

/// Of files there.
const MODE: u32 = 0o600;
/// A lock that somebody else has is waited for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an agent knows that the kernel does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The node whose pods are enforced.
    pub node: String,
    /// The agent's process, as its own container counts them; it may have ended since ([`Alive`]).
    pub pid: u32,
    /// When it was written, in seconds since 1970.
    pub written: u64,
    /// The local pods, in order of their names.
    pub pods: Vec<PodRecord>,
    /// Policies that select a local pod, in order of their names.
    pub policies: Vec<PolicyState>,
    /// What is wrong with the input, one line each.
    pub problems: Vec<String>,
    /// Objects that stay enforced although the input does not show them any more, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// The files that the enforced objects came from. None: an API server, or an agent that did not note them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeSet<String>>,
    /// Why the kernel does not hold the newest policies, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Why the cluster's changes are not seen at the moment, where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind: Option<String>,
    /// Pods that a policy selects and that have no interface here: they are not enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfound: Vec<String>,
    /// What NICs, or the kernel's own filters, do; empty where eBPF does everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offload: Vec<OffloadRecord>,
}

/// A local pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// `namespace/name`
    pub pod: String,
    /// Its endpoint id.
    pub endpoint: EndpointId,
    /// Its host-side interface, where it was found.
    pub ifindex: Option<IfIndex>,
    /// Connections adopted when it was isolated first.
    #[serde(default)]
    pub adopted: usize,
}

/// The record's path for tables that are pinned in `pin_dir`.
pub fn path(pin_dir: &Path) -> PathBuf {
    let name: String = pin_dir
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .collect();
    Path::new(FOLDER).join(format!("{name}.json"))
}

/// A sign that a process lives, which means the same in every process namespace: a lock on a file beside the record.
#[derive(Debug)]
pub struct Alive(#[allow(dead_code, reason = "open means locked")] File);

impl Alive {
    /// Gives the sign until dropped, or until the process ends however it does.
    ///
    /// # Errors
    /// /run cannot be written.
    pub fn show(pin_dir: &Path) -> io::Result<Self> {
        private::folder(Path::new(FOLDER))?;
        let path = path(pin_dir).with_extension("lock");
        if std::fs::symlink_metadata(&path).is_ok_and(|facts| !private::is_mine(&facts)) {
            // Others could open it, and so may have it locked.
            std::fs::remove_file(&path)?;
        }
        let file = File::options().create(true).write(true).truncate(false).mode(MODE).open(path)?;
        // Shared, and so never in the way of another agent; whoever looks holds it for a moment only.
        private::lock(&file, Lock::Shared, PATIENCE)?;
        Ok(Self(file))
    }

    /// Does an agent show it? A lock on a file that others could open proves nothing.
    pub fn is_shown(pin_dir: &Path) -> bool {
        let Ok(file) = File::open(path(pin_dir).with_extension("lock")) else { return false };
        file.metadata().is_ok_and(|facts| private::is_mine(&facts))
            && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    }
}

/// Writes a file that its owner alone may read, at once or not at all. What it says of pods and
/// policies is nobody else's business.
///
/// # Errors
/// The folder or file cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        private::folder(folder)?;
    }
    files::write(path, bytes, MODE, Lasting::UntilReboot)
}

impl Record {
    /// Is everything enforced that the cluster says, as far as it is known?
    pub fn is_in_step(&self) -> bool {
        self.behind.is_none() && self.blind.is_none() && self.unfound.is_empty()
    }

    /// Writes it, at once or not at all.
    ///
    /// # Errors
    /// /run cannot be written.
    pub fn write(&self, pin_dir: &Path) -> io::Result<()> {
        write(&path(pin_dir), &serde_json::to_vec_pretty(self)?)
    }

    /// The one for `pin_dir`; None where there is none, or none that can be read.
    pub fn read(pin_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path(pin_dir)).ok()?).ok()
    }

    /// Removes it.
    ///
    /// # Errors
    /// It is there and stays.
    pub fn remove(pin_dir: &Path) -> io::Result<()> {
        // Nobody holds it: enforcement is gone.
        let _ = std::fs::remove_file(path(pin_dir).with_extension("lock"));
        let _ = std::fs::remove_file(super::sandbox_store::path(pin_dir));
        match std::fs::remove_file(path(pin_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                // Others' records may still be there: then the folder stays.
                let _ = std::fs::remove_dir(FOLDER);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn folders_have_records_of_their_own() {
        assert_eq!(path(Path::new("/sys/fs/bpf/netpolc")), Path::new("/run/netpolc/sys_fs_bpf_netpolc.json"));
        assert_ne!(path(Path::new("/sys/fs/bpf/a-1")), path(Path::new("/sys/fs/bpf/a-2")));
    }

    /// A number of a process means nothing in another process namespace.
    #[test]
    fn life_is_told_by_a_lock() {
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpolc-unit-{}", std::process::id()));
        assert!(!Alive::is_shown(&pin_dir));
        let (first, second) = (Alive::show(&pin_dir).unwrap(), Alive::show(&pin_dir).unwrap());
        drop(first);
        assert!(Alive::is_shown(&pin_dir));
        drop(second);
        assert!(!Alive::is_shown(&pin_dir));
        Record::remove(&pin_dir).unwrap();
    }

    /// A lock file that others may open is replaced by one that they may not, whoever has the old one locked.
    #[test]
    fn a_lock_of_somebody_else_neither_blocks_nor_fools() {
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpolc-unit-else-{}", std::process::id()));
        let path = path(&pin_dir).with_extension("lock");
        private::folder(Path::new(FOLDER)).unwrap();
        std::fs::write(&path, "").unwrap();
        let theirs = File::open(&path).unwrap();
        theirs.lock().unwrap();
        assert!(!Alive::is_shown(&pin_dir), "the file is open to others");
        let alive = Alive::show(&pin_dir).unwrap();
        let facts = std::fs::metadata(&path).unwrap();
        assert_eq!((facts.mode() & 0o777, Alive::is_shown(&pin_dir)), (0o600, true));
        drop(alive);
        assert!(!Alive::is_shown(&pin_dir));
        // One that root itself holds is waited for, but not for ever.
        File::open(&path).unwrap().lock().unwrap();
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        let error = Alive::show(&pin_dir).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} ", std::process::id())), "{error}");
        Record { node: "n".into(), ..Record::default() }.write(&pin_dir).unwrap();
        let facts = std::fs::metadata(super::path(&pin_dir)).unwrap();
        assert_eq!(facts.mode() & 0o777, 0o600);
        Record::remove(&pin_dir).unwrap();
    }

    #[test]
    fn a_record_reads_back() {
        let pods = vec![PodRecord { pod: "a/b".into(), endpoint: EndpointId::new(3), ifindex: None, adopted: 2 }];
        let policies = vec![PolicyState { policy: "a/p".into(), generation: Some(3), pods: 1, entries: 9, errors: 0 }];
        let record = Record { node: "n".into(), pods, policies, behind: Some("full".into()), ..Record::default() };
        assert_eq!(serde_json::from_slice::<Record>(&serde_json::to_vec(&record).unwrap()).unwrap(), record);
    }
}
