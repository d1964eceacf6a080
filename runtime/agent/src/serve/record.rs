//! The agent's record, a state file that `netpolc status` reads: the pods, policies and problems
//! that belong to the pinned tables. It is JSON in /run, because a bpffs holds nothing but BPF
//! objects.
//!
//! Enforcement never depends on it: without a record, endpoints only have no names. Not here: what
//! `netpolc status` shows.

use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use netpolc_host::private::{self, FOLDER, Lock};
use netpolc_kube_sync::PolicyState;
use netpolc_table::{EndpointId, IfIndex};
use netpolc_target::{NodeTarget, OffloadRecord};
use serde::{Deserialize, Serialize};

use super::state_dir::{self, FILE_MODE};
use crate::{Agent, network::Network};

/// How long a lock that another process holds is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the agent knows and the kernel does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The name of the node for whose pods policies are enforced.
    pub node: String,
    /// The agent's process id, in the process namespace of its own container. The process may have
    /// ended since ([`Alive`]).
    pub pid: u32,
    /// When the record was written, in seconds since 1970.
    pub written: u64,
    /// The local pods, in order of their names.
    pub pods: Vec<PodRecord>,
    /// Policies that select a local pod, in order of their names.
    pub policies: Vec<PolicyState>,
    /// Policies that are only tried, for which packets were counted since the agent started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<TriedRecord>,
    /// What is wrong with the input, one line each.
    pub problems: Vec<String>,
    /// The objects that stay enforced although the input no longer shows them, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// The files from which the enforced objects came; None where they came from an API server, or
    /// where an older agent did not record them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeSet<String>>,
    /// Why the kernel does not enforce the newest policies; None where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// Why the cluster's changes are not seen at the moment; None where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind: Option<String>,
    /// The pods that a policy selects and that have no interface here, so that nothing is enforced
    /// for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfound: Vec<String>,
    /// What NICs, or the kernel's own flower filters, enforce; empty where eBPF does everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offload: Vec<OffloadRecord>,
}

/// What the record says about a policy that is only tried: connections that it would have opened or
/// kept from opening on this node (S85).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TriedRecord {
    /// The policy as users name it.
    pub policy: String,
    /// Opening packets that are permitted and that it would deny.
    pub would_deny: u64,
    /// Opening packets that are denied and that it would permit.
    pub would_permit: u64,
}

/// What the record says about a local pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// The pod's endpoint id.
    pub endpoint: EndpointId,
    /// The index of the pod's host-side interface; None where it was not found.
    pub ifindex: Option<IfIndex>,
    /// How many connections were adopted when the pod was first isolated.
    #[serde(default)]
    pub adopted: usize,
}

impl<H: NodeTarget, N: Network> Agent<H, N> {
    /// The endpoints with their interfaces and adopted connections, for the record.
    pub fn pods(&self) -> Vec<PodRecord> {
        let endpoints = self.compiler.endpoints();
        let pods = endpoints.map(|(key, endpoint)| PodRecord {
            pod: key.to_string(),
            endpoint,
            ifindex: self.interfaces.interface(key),
            adopted: self.adopted.get(key).copied().unwrap_or(0),
        });
        pods.collect()
    }
}

/// A lock on a file beside the record, which shows that the agent is alive. Unlike a process id, it
/// means the same in every process namespace.
#[derive(Debug)]
pub struct Alive(#[allow(dead_code, reason = "open means locked")] File);

impl Alive {
    /// Takes the lock. It is held until this is dropped, or until the process ends in whatever way.
    ///
    /// # Errors
    /// /run cannot be written, or the lock is not free in time.
    pub fn show(pin_dir: &Path) -> io::Result<Self> {
        private::folder(Path::new(FOLDER))?;
        let path = state_dir::lock(pin_dir);
        if std::fs::symlink_metadata(&path).is_ok_and(|facts| !private::is_mine(&facts)) {
            // Other users could open this file, and so may hold a lock on it.
            std::fs::remove_file(&path)?;
        }
        let file =
            File::options().create(true).write(true).truncate(false).mode(FILE_MODE).open(path)?;
        // The lock is shared, so it never blocks another agent. Whoever tests it takes it for a
        // moment only.
        private::lock(&file, Lock::Shared, LOCK_TIMEOUT)?;
        Ok(Self(file))
    }

    /// Whether an agent holds the lock. A lock on a file that other users could open proves
    /// nothing.
    pub fn is_shown(pin_dir: &Path) -> bool {
        let Ok(file) = File::open(state_dir::lock(pin_dir)) else { return false };
        file.metadata().is_ok_and(|facts| private::is_mine(&facts))
            && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    }
}

impl Record {
    /// Whether all current policies of the cluster are enforced, as far as the agent knows.
    pub fn is_in_step(&self) -> bool {
        self.behind.is_none() && self.blind.is_none() && self.unfound.is_empty()
    }

    /// Writes the record for `pin_dir` atomically.
    ///
    /// # Errors
    /// /run cannot be written.
    pub fn write(&self, pin_dir: &Path) -> io::Result<()> {
        state_dir::write(&state_dir::record(pin_dir), &serde_json::to_vec_pretty(self)?)
    }

    /// Reads the record for `pin_dir`; None where there is none that can be read.
    pub fn read(pin_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state_dir::record(pin_dir)).ok()?).ok()
    }

    /// Removes the record for `pin_dir`, with the other state files.
    ///
    /// # Errors
    /// The record exists and cannot be removed.
    pub fn remove(pin_dir: &Path) -> io::Result<()> {
        // Enforcement is gone, so nobody needs these any more.
        let _ = std::fs::remove_file(state_dir::lock(pin_dir));
        let _ = std::fs::remove_file(state_dir::sandboxes(pin_dir));
        let _ = std::fs::remove_file(state_dir::flows(pin_dir));
        match std::fs::remove_file(state_dir::record(pin_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                // The folder stays where it holds the records of other pin folders.
                let _ = std::fs::remove_dir(FOLDER);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt as _, path::PathBuf};

    use netpolc_kube_sync::PolicyKind;

    use super::*;

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

    /// A lock file that others may open is replaced by one that they may not, whoever has the old
    /// one locked.
    #[test]
    fn a_lock_of_somebody_else_neither_blocks_nor_fools() {
        let pin_dir =
            PathBuf::from(format!("/sys/fs/bpf/netpolc-unit-else-{}", std::process::id()));
        let path = state_dir::lock(&pin_dir);
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
        let facts = std::fs::metadata(state_dir::record(&pin_dir)).unwrap();
        assert_eq!(facts.mode() & 0o777, 0o600);
        Record::remove(&pin_dir).unwrap();
    }

    #[test]
    fn a_record_reads_back() {
        let pods = vec![PodRecord {
            pod: "a/b".into(),
            endpoint: EndpointId::new(3),
            ifindex: None,
            adopted: 2,
        }];
        let policies = vec![PolicyState {
            policy: "a/p".into(),
            kind: PolicyKind::NetworkPolicy,
            generation: Some(3),
            pods: 1,
            entries: 9,
            errors: 0,
        }];
        let record = Record {
            node: "n".into(),
            pods,
            policies,
            behind: Some("full".into()),
            ..Record::default()
        };
        assert_eq!(
            serde_json::from_slice::<Record>(&serde_json::to_vec(&record).unwrap()).unwrap(),
            record
        );
    }
}
