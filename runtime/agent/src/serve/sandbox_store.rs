//! Stores what CNI reported about pods' sandboxes, so that it survives a restart of the agent:
//! until the API server reports a pod's addresses, nobody else knows them. The file is JSON in /run
//! beside the record, so a reboot, which ends all sandboxes, removes it.
//!
//! Not here: how the sandboxes are used ([`super::sandboxes`]).

use std::{io, net::IpAddr, path::Path, sync::Arc};

use netpolc_policy::{ObjectKey, Pod};
use serde::{Deserialize, Serialize};

use super::state_dir;
use crate::discovery::Placement;

/// The newest sandbox of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredSandbox {
    /// The UID of the pod.
    pub uid: Option<Arc<str>>,
    /// The container id of the sandbox.
    pub container: String,
    /// The sandbox's namespace and interfaces.
    #[serde(default)]
    pub place: Placement,
    /// The addresses that CNI assigned, or those that the API server has reported since.
    pub addresses: Vec<IpAddr>,
    /// The addresses that the API server reported at that moment: those of an older sandbox, and
    /// most likely none.
    pub before: Vec<IpAddr>,
    /// The addresses that the API server reported last.
    pub reported: Vec<IpAddr>,
    /// The pods that had one of the addresses until then, and may be reported with it for a while.
    #[serde(rename = "losers")]
    pub superseded: Vec<Superseded>,
}

/// A pod whose address CNI has assigned to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    /// The namespace of the pod.
    pub namespace: String,
    /// The name of the pod.
    pub name: String,
    /// The UID of the pod.
    pub uid: Option<Arc<str>>,
}

impl Superseded {
    /// Whether this is the given pod.
    pub fn is(&self, pod: &Pod) -> bool {
        (&*pod.key.namespace, &*pod.key.name, &pod.uid)
            == (&*self.namespace, &*self.name, &self.uid)
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    namespace: String,
    name: String,
    #[serde(flatten)]
    sandbox: StoredSandbox,
}

/// Reads what an earlier agent has stored; empty where there is no file that can be read.
pub fn read(path: &Path) -> Vec<(ObjectKey, StoredSandbox)> {
    let lines =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Vec<Line>>(&bytes).ok());
    let lines = lines.unwrap_or_default().into_iter();
    lines.map(|line| (ObjectKey::new(line.namespace, line.name), line.sandbox)).collect()
}

/// Stores the sandboxes atomically.
///
/// # Errors
/// /run cannot be written.
pub fn write<'a>(
    path: &Path,
    sandbox: impl Iterator<Item = (&'a ObjectKey, &'a StoredSandbox)>,
) -> io::Result<()> {
    let line = |(key, sandbox): (&ObjectKey, &StoredSandbox)| Line {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        sandbox: sandbox.clone(),
    };
    let lines: Vec<Line> = sandbox.map(line).collect();
    state_dir::write(path, &serde_json::to_vec(&lines)?)
}
