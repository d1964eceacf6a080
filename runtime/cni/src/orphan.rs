//! Has netpolc left this node? A plugin that stays in a network's configuration when its agent was
//! uninstalled would keep every pod of the node from starting, for ever; one that lets pods start
//! whenever no agent answers would be no gate.
//!
//! The evidence is kubelet's own, and needs no API server: each pod that kubelet has on this node,
//! running or failing, has a folder `NAMESPACE_NAME_UID` in /var/log/pods, which is made before the
//! pod's sandbox and removed when the pod is deleted. While an agent crashes, restarts, or waits
//! for its image, the folder of its pod is there. Only where it was missing for [`GRACE`] (between
//! two pods of a rollout it is missing for some seconds), and the folder of the pod that starts is
//! there, so that this is the folder which kubelet uses, is the plugin an orphan. Whatever cannot
//! be read is no evidence. Since when it is missing stands in a file beside the agent's socket, in
//! seconds since the machine booted.
//! Not here: what follows ([`crate::run`]).

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

/// The agent's pod must be missing for so long.
pub const GRACE: Duration = Duration::from_secs(120);

/// Where to look for the agent's pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Namespace of its pods.
    pub namespace: String,
    /// What their names begin with: `netpolc-` for those of the DaemonSet netpolc.
    pub name_prefix: String,
    /// kubelet's folder of logs.
    #[serde(default = "logs")]
    pub pod_logs: PathBuf,
}

fn logs() -> PathBuf {
    "/var/log/pods".into()
}

/// The pod whose folder must be there for the others to mean anything.
#[derive(Clone, Copy, Debug)]
pub struct Witness<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl Agent {
    /// How long the agent's pod has been missing; None while it is there, or nobody knows.
    /// Remembers it in `folder`.
    pub fn missing_for(&self, witness: Witness, folder: &Path) -> Option<Duration> {
        let note = folder.join("agent-missing-since");
        let now = uptime()?;
        match self.is_missing(witness) {
            Ok(true) => {}
            Ok(false) => {
                // It is not there as a rule.
                let _ = fs::remove_file(&note);
                return None;
            }
            Err(_) => return None,
        }
        let since = fs::read_to_string(&note).ok().and_then(|text| text.trim().parse().ok());
        let since = since.map(Duration::from_secs).filter(|since| *since <= now);
        if since.is_none() {
            // Where it cannot be kept the next try finds nothing either, and the node stays closed.
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
            let (Some(namespace), Some(name), Some(_)) = (parts.next(), parts.next(), parts.next()) else { continue };
            if namespace == self.namespace && name.starts_with(&self.name_prefix) {
                return Ok(false);
            }
            witnessed |= namespace == witness.namespace && name == witness.name;
        }
        if witnessed { Ok(true) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

/// Since the machine booted, suspension included.
fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(Duration::from_secs(seconds as u64))
}
