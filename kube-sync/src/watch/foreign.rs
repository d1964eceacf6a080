//! Finds policies in the cluster that netpolc does not enforce: whoever wrote them for another
//! engine should not believe that they hold.
//!
//! A look costs little, so that every agent may take it every ten minutes: one request for the API
//! groups, and for each kind whose group is there one for a single object's metadata, with which
//! the server says how many remain. It is taken whichever families are watched: what it warns of
//! does not depend on them.
//!
//! Not here: what files contain ([`crate::load`]).

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use kube::core::{Request, params::ListParams};
use serde::Deserialize;
use tokio::{sync::mpsc, time::sleep};

use super::{
    backoff::jitter,
    collect::Message,
    count::{self, Count},
    link::{Joined, Link},
    stream::{self, Trouble},
};
use crate::kind::not_enforced;

/// The random time before the first look, since the agents of a DaemonSet start together.
const START_JITTER: Duration = Duration::from_secs(5);
/// The time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// The time until the next look after one that has failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How long each answer may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A kind of policy that others enforce.
struct Kind {
    group: &'static str,
    /// The versions in which it is looked for, the first one that there is.
    versions: &'static [&'static str],
    plural: &'static str,
    kind: &'static str,
    /// A group that has the same objects, and is asked in place of this one where it is there.
    instead: Option<&'static str>,
}

const fn kind(
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
    kind: &'static str,
) -> Kind {
    Kind { group, versions, plural, kind, instead: None }
}

/// The same objects as in `crd.projectcalico.org`, by Calico's own API server, which adds every
/// NetworkPolicy of Kubernetes to them.
const fn calico(plural: &'static str, name: &'static str) -> Kind {
    Kind {
        instead: Some("crd.projectcalico.org"),
        ..kind("projectcalico.org", &["v3"], plural, name)
    }
}

const KINDS: [Kind; 13] = [
    kind("policy.networking.k8s.io", &["v1alpha1"], "adminnetworkpolicies", "AdminNetworkPolicy"),
    kind(
        "policy.networking.k8s.io",
        &["v1alpha1"],
        "baselineadminnetworkpolicies",
        "BaselineAdminNetworkPolicy",
    ),
    kind("cilium.io", &["v2"], "ciliumnetworkpolicies", "CiliumNetworkPolicy"),
    kind(
        "cilium.io",
        &["v2"],
        "ciliumclusterwidenetworkpolicies",
        "CiliumClusterwideNetworkPolicy",
    ),
    kind("crd.projectcalico.org", &["v1"], "networkpolicies", "NetworkPolicy"),
    kind("crd.projectcalico.org", &["v1"], "globalnetworkpolicies", "GlobalNetworkPolicy"),
    calico("networkpolicies", "NetworkPolicy"),
    calico("globalnetworkpolicies", "GlobalNetworkPolicy"),
    kind("crd.antrea.io", &["v1beta1"], "networkpolicies", "NetworkPolicy"),
    kind("crd.antrea.io", &["v1beta1"], "clusternetworkpolicies", "ClusterNetworkPolicy"),
    kind("k8s.cni.cncf.io", &["v1beta2", "v1beta1"], "multi-networkpolicies", "MultiNetworkPolicy"),
    kind("k8s.ovn.org", &["v1"], "egressfirewalls", "EgressFirewall"),
    kind(
        "networking.k8s.aws",
        &["v1alpha1"],
        "applicationnetworkpolicies",
        "ApplicationNetworkPolicy",
    ),
];

/// Policies of one kind that netpolc does not enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    kind: &'static str,
    version: String,
    count: Count,
}

impl Foreign {
    /// The API group and the plural of each kind that is looked for, which RBAC has to name.
    pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
        KINDS.iter().map(|kind| (kind.group, kind.plural))
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&not_enforced(self.count, self.kind, &self.version))
    }
}

/// Looks for ever, and passes on what is there.
pub(crate) async fn look(messages: mpsc::Sender<Message>, link: Arc<Link>) {
    let mut uncounted = BTreeSet::new();
    sleep(jitter(START_JITTER)).await;
    loop {
        let pause = match once(&link, &mut uncounted).await {
            Ok(found) => {
                if messages.send(Message::Foreign(found)).await.is_err() {
                    return;
                }
                LOOK_INTERVAL
            }
            Err(trouble) => {
                tracing::debug!(%trouble, "policies of other engines could not be looked for");
                RETRY_INTERVAL
            }
        };
        sleep(pause + jitter(pause / 5)).await;
    }
}

/// Takes one look. `uncounted` has the kinds that were named because they may not be listed.
async fn once(link: &Link, uncounted: &mut BTreeSet<String>) -> Result<Vec<Foreign>, Trouble> {
    let joined = link.join().await?;
    let groups = Groups::ask(&joined).await?;
    let mut found = Vec::new();
    for kind in &KINDS {
        if kind.instead.is_some_and(|group| groups.has(group)) {
            continue;
        }
        let version = kind.versions.iter().find(|version| groups.serves(kind.group, version));
        let Some(version) = version.map(|version| format!("{}/{version}", kind.group)) else {
            continue;
        };
        match count(&joined, &version, kind.plural).await {
            Ok(Count::Exactly(0)) => {}
            Ok(count) => found.push(Foreign { kind: kind.kind, version, count }),
            Err(Trouble::Status(status)) if status.code == 404 => {}
            Err(Trouble::Status(status)) if status.code == 403 => {
                let name = format!("{} ({version})", kind.kind);
                if uncounted.insert(name.clone()) {
                    tracing::info!(
                        "{name} could not be counted, because RBAC denies it: {}; netpolc enforces \
                        none of them",
                        status.message
                    );
                }
            }
            // A group whose own API server is away says nothing about the others.
            Err(trouble @ (Trouble::Status(_) | Trouble::Nonsense(_))) => {
                tracing::debug!(version, %trouble, "a kind could not be counted");
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(found)
}

/// The API groups that the server has.
#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

impl Groups {
    async fn ask(joined: &Joined) -> Result<Self, Trouble> {
        let request = http::Request::get("/apis").body(vec![])?;
        let (_, text) = stream::get(&joined.client, request, REQUEST_TIMEOUT).await?;
        Ok(serde_json::from_slice(&text)?)
    }

    fn has(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known.name == group)
    }

    fn serves(&self, group: &str, version: &str) -> bool {
        let mut known = self.groups.iter().filter(|known| known.name == group);
        known.any(|known| known.versions.iter().any(|v| v.version == version))
    }
}

/// How many objects of a kind there are.
async fn count(joined: &Joined, version: &str, plural: &str) -> Result<Count, Trouble> {
    let request = Request::new(format!("/apis/{version}/{plural}"));
    let request = request.list_metadata(&ListParams::default().limit(1));
    let request = request.map_err(|error| Trouble::from(kube::Error::BuildRequest(error)))?;
    let (_, part) = count::ask(&joined.client, request, REQUEST_TIMEOUT).await?;
    Ok(part.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Kind as Treatment, classify};

    /// What is counted in a cluster is what is counted in files.
    #[test]
    fn every_kind_is_another_engines_in_files_too() {
        for kind in &KINDS {
            for version in kind.versions {
                let version = format!("{}/{version}", kind.group);
                let found = classify(kind.kind, Some(&version));
                assert_eq!(found, (Treatment::Foreign, None), "{} ({version})", kind.kind);
            }
        }
    }
}
