//! The agent's record: which pods, policies and problems stand behind what is pinned, for `netpolc status`.
//! Ordinary JSON in /run, because a bpffs holds nothing but BPF objects.
//!
//! Enforcement never depends on it: without a record, endpoints just have no names.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where records are kept.
pub const FOLDER: &str = "/run/netpolc";

/// What an agent knows that the kernel does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The node whose pods are enforced.
    pub node: String,
    /// The agent's process, which may have ended since.
    pub pid: u32,
    /// When it was written, in seconds since 1970.
    pub written: u64,
    /// The local pods, in order of their names.
    pub pods: Vec<PodRecord>,
    /// Policies that select a local pod, `namespace/name`, in order.
    pub policies: Vec<String>,
    /// What is wrong with the input, one line each.
    pub problems: Vec<String>,
    /// Why the kernel does not hold the newest policies, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// What NICs, or the kernel's own filters, do; empty where eBPF does everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offload: Vec<OffloadRecord>,
}

/// One interface with flower filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffloadRecord {
    /// Its name.
    pub interface: String,
    /// `representor`, `prefilter` or `software`.
    pub mode: String,
    /// Its driver.
    pub driver: String,
    /// Filters that are installed.
    pub filters: usize,
    /// Filters' worth of work that eBPF does instead, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spilled: BTreeMap<String, u32>,
    /// Filters that the kernel or NIC refused, by its message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u32>,
}

/// A local pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// `namespace/name`
    pub pod: String,
    /// Its endpoint id.
    pub endpoint: u16,
    /// Its host-side interface, where it was found.
    pub ifindex: Option<u32>,
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

impl Record {
    /// Writes it, at once or not at all.
    ///
    /// # Errors
    /// /run cannot be written.
    pub fn write(&self, pin_dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(FOLDER)?;
        let path = path(pin_dir);
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(new, path)
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
    use super::*;

    #[test]
    fn folders_have_records_of_their_own() {
        assert_eq!(path(Path::new("/sys/fs/bpf/netpolc")), Path::new("/run/netpolc/sys_fs_bpf_netpolc.json"));
        assert_ne!(path(Path::new("/sys/fs/bpf/a-1")), path(Path::new("/sys/fs/bpf/a-2")));
    }

    #[test]
    fn a_record_reads_back() {
        let pods = vec![PodRecord { pod: "a/b".into(), endpoint: 3, ifindex: None, adopted: 2 }];
        let record = Record { node: "n".into(), pods, behind: Some("full".into()), ..Record::default() };
        assert_eq!(serde_json::from_slice::<Record>(&serde_json::to_vec(&record).unwrap()).unwrap(), record);
    }
}
