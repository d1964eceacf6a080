//! Finds out whether netpolc was uninstalled from this node. A plugin that stays in a network's
//! configuration after its agent was uninstalled would keep every pod of the node from starting,
//! for ever. But a plugin that lets pods start whenever no agent answers would protect nothing.
//!
//! The evidence comes from kubelet, and needs no API server. Each pod that kubelet has on this
//! node, running or failing, has a folder `NAMESPACE_NAME_UID` in /var/log/pods, which is created
//! before the pod's sandbox and removed when the pod is deleted. While an agent crashes, restarts,
//! or waits for its image, the folder of its pod is there. The plugin is an orphan only under two
//! conditions: the folder of the agent's pod has been missing for [`GRACE`] (between two pods of a
//! rollout it is missing for some seconds), and the folder of the pod that is starting is there,
//! which proves that kubelet uses this folder. Whatever cannot be read is no evidence. A file
//! beside the agent's socket holds since when the folder has been missing, in seconds since the
//! machine booted.
//!
//! Not here: what follows from it ([`crate::run`]).

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

/// How long the agent's pod must be missing for the plugin to be an orphan.
pub const GRACE: Duration = Duration::from_secs(120);

/// How to find the agent's pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// The namespace of the agent's pods.
    pub namespace: String,
    /// The beginning of their names: `netpolc-` for the pods of the DaemonSet netpolc.
    pub name_prefix: String,
    /// The folder in which kubelet keeps the logs of pods.
    #[serde(default = "logs")]
    pub pod_logs: PathBuf,
}

fn logs() -> PathBuf {
    "/var/log/pods".into()
}

/// The pod that is starting, whose folder must be there for the absence of others to mean anything.
#[derive(Clone, Copy, Debug)]
pub struct Witness<'a> {
    /// The namespace of the pod.
    pub namespace: &'a str,
    /// The name of the pod.
    pub name: &'a str,
}

impl Agent {
    /// How long the agent's pod has been missing; None while it is there, or where that is not
    /// known. The beginning is stored in a file in `folder`.
    pub fn missing_for(&self, witness: Witness, folder: &Path) -> Option<Duration> {
        let note = folder.join("agent-missing-since");
        let now = uptime()?;
        match self.is_missing(witness) {
            Ok(true) => {}
            Ok(false) => {
                // Usually there is no such file.
                let _ = fs::remove_file(&note);
                return None;
            }
            Err(_) => return None,
        }
        let since = fs::read_to_string(&note).ok().and_then(|text| text.trim().parse().ok());
        let since = since.map(Duration::from_secs).filter(|since| *since <= now);
        if since.is_none() {
            // If the file cannot be written, the next attempt starts over, and pods still do not
            // start.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            let _ = made.and_then(|()| fs::write(&note, now.as_secs().to_string()));
        }
        Some(now - since.unwrap_or(now))
    }

    fn is_missing(&self, witness: Witness) -> io::Result<bool> {
        let mut witnessed = false;
        for entry in fs::read_dir(&self.pod_logs)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let mut parts = name.split('_');
            let (Some(namespace), Some(name), Some(_)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if namespace == self.namespace && name.starts_with(&self.name_prefix) {
                return Ok(false);
            }
            witnessed |= namespace == witness.namespace && name == witness.name;
        }
        if witnessed { Ok(true) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

/// The time since the machine booted, including suspension.
fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_secs(seconds as u64))
}
