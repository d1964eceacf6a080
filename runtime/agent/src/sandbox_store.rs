//! What CNI said of pods' sandboxes, kept over a restart of the agent: until the API server reports a pod's addresses, nobody else
//! knows them. JSON in /run beside the record, so a reboot, which ends all sandboxes, ends it too.
//!
//! Not here: what is made of it ([`super::sandboxes`]).

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use netpolc_policy::{ObjectKey, Pod};
use serde::{Deserialize, Serialize};

use super::record;
use crate::ways::Place;

/// A pod's newest sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Of the pod.
    pub uid: Option<Arc<str>>,
    /// The sandbox.
    pub container: String,
    /// Where it is.
    #[serde(default)]
    pub place: Place,
    /// The addresses that CNI gave, or those the API server reported since.
    pub addresses: Vec<IpAddr>,
    /// What the API server reported when CNI gave them: of an older sandbox, most likely nothing.
    pub before: Vec<IpAddr>,
    /// What it reported last.
    pub reported: Vec<IpAddr>,
    /// Pods that had such an address until then, and may be reported with it for a while.
    pub losers: Vec<Loser>,
}

/// A pod whose address CNI gave to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loser {
    /// Of the pod.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// Of the pod.
    pub uid: Option<Arc<str>>,
}

impl Loser {
    /// Is it this one?
    pub fn is(&self, pod: &Pod) -> bool {
        (&*pod.key.namespace, &*pod.key.name, &pod.uid) == (&*self.namespace, &*self.name, &self.uid)
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    namespace: String,
    name: String,
    #[serde(flatten)]
    held: Held,
}

/// Beside the record of `pin_dir`.
pub fn path(pin_dir: &Path) -> PathBuf {
    record::path(pin_dir).with_extension("sandboxes")
}

/// What an earlier agent kept; nothing where there was none, or it is not to be understood.
pub fn read(path: &Path) -> Vec<(ObjectKey, Held)> {
    let lines = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Vec<Line>>(&bytes).ok());
    let lines = lines.unwrap_or_default().into_iter();
    lines.map(|line| (ObjectKey::new(line.namespace, line.name), line.held)).collect()
}

/// Keeps it, at once or not at all.
///
/// # Errors
/// /run cannot be written.
pub fn write<'a>(path: &Path, held: impl Iterator<Item = (&'a ObjectKey, &'a Held)>) -> io::Result<()> {
    let line = |(key, held): (&ObjectKey, &Held)| Line {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        held: held.clone(),
    };
    let lines: Vec<Line> = held.map(line).collect();
    record::write(path, &serde_json::to_vec(&lines)?)
}
