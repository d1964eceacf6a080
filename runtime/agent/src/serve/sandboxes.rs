//! Combines what CNI reports about sandboxes with what the API server reports about pods: which pod
//! a request matches_pod, which addresses that pod has until the API server reports them, and when
//! the plugin may be told that the pod's policies are enforced.
//!
//! A request names a pod by its UID, since a pod that was created again under the same name may
//! have other labels. A pod that the watch has not shown yet is fetched. From then on, until the
//! watch has caught up, its events about older pods of that name do not count.
//!
//! A request is confirmed only by a view that is at least as new as the request: an agent that was
//! cut off from the API server may not know a policy that was created before the pod.
//!
//! Not here: a clock, a socket and a kernel, which the loop provides ([`super::cluster_loop`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use netpolc_cni::{
    protocol::{Reply, Request, Sandbox},
    server::Waiting,
};
use netpolc_kube_sync::{
    Change, Object, Resource,
    watch::{Fetched, Found},
};
use netpolc_policy::{Cluster, ObjectKey, Phase, Pod, PodNetwork};
use tokio::sync::oneshot;

use super::sandbox_store::{StoredSandbox, Superseded};
use crate::{Standing, discovery::Placement};

/// The pause before a pod whose request has failed is requested again.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// The reason for waiting until it is known how recent the view is.
const NOT_CURRENT: &str = "the API server has not confirmed yet that this node knows its newest \
    policies";
/// How many requests may wait at a time. A node starts some tens of pods at a time.
const MAX_PENDING: usize = 1_024;

/// The sandboxes that CNI has reported, and the requests that wait for an answer.
#[derive(Debug)]
pub struct Sandboxes {
    node: Arc<str>,
    /// The newest sandbox of each pod.
    stored: BTreeMap<ObjectKey, StoredSandbox>,
    /// The pods that were fetched and that the watch has not shown yet, with their UIDs.
    ahead: BTreeMap<ObjectKey, Option<Arc<str>>>,
    /// The pods that are being fetched, or that are to be.
    fetches: BTreeMap<ObjectKey, Fetch>,
    pending: Vec<Pending>,
    /// The results of fetches that no plan has taken yet; None where there is no such pod.
    found: BTreeMap<ObjectKey, Option<Pod>>,
    /// The container ids of sandboxes that were deleted.
    gone: Vec<String>,
    /// Whether the sandboxes have changed since they were last saved.
    unsaved: bool,
    /// The answers since the last [`Sandboxes::take_answered`], with the time that each took.
    answered: Vec<(Answer, Duration)>,
    /// The latest moment whose state of the API server is known to be in the view.
    current: Option<Instant>,
    /// When a current view was last requested.
    asked: Option<Instant>,
    /// Why the last such request failed.
    not_current: Option<String>,
}

#[derive(Debug)]
/// A request that waits for its answer.
struct Pending {
    sandbox: Sandbox,
    key: ObjectKey,
    kind: Kind,
    since: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Reply>,
    /// Whether the request's pod was found and has its addresses.
    matched: bool,
    /// Why the request waits.
    why: String,
}

/// How a request ended, as monitoring counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The pod's policies are enforced.
    Enforced,
    /// The plugin was told why they are not, and the sandbox does not start.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Add,
    Check,
}

#[derive(Clone, Copy, Debug)]
struct Fetch {
    /// When the fetch was sent; None where it is to be sent once it is due.
    sent: Option<Instant>,
    due: Instant,
}

/// What has to be done before requests can be answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes of pods, to be treated as if the watch had reported them.
    pub changes: Vec<Change>,
    /// Whether interfaces have to be searched for again, since there are new sandboxes.
    pub rescan: bool,
    /// Pods to request from the API server.
    pub fetch: Vec<ObjectKey>,
    /// The deadline of a request for a current view; None where none is needed.
    pub freshen: Option<Instant>,
}

impl Sandboxes {
    /// No sandboxes yet, for the given node.
    pub fn new(node: Arc<str>) -> Self {
        let (stored, ahead, fetches) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            node,
            stored,
            ahead,
            fetches,
            pending: vec![],
            found: BTreeMap::new(),
            gone: vec![],
            unsaved: false,
            answered: vec![],
            current: None,
            asked: None,
            not_current: None,
        }
    }

    /// Adds the sandboxes that an earlier agent has stored.
    pub fn restore(&mut self, stored: impl IntoIterator<Item = (ObjectKey, StoredSandbox)>) {
        self.stored.extend(stored);
    }

    /// The sandboxes to store for a later agent; None where they have not changed since the last
    /// call. Store them before anything that depends on them is confirmed.
    pub fn take_unsaved(&mut self) -> Option<impl Iterator<Item = (&ObjectKey, &StoredSandbox)>> {
        std::mem::take(&mut self.unsaved).then(|| self.stored.iter())
    }

    /// Where pods are, according to CNI.
    pub fn placements(&self) -> BTreeMap<ObjectKey, Placement> {
        self.stored.iter().map(|(key, stored)| (key.clone(), stored.place.clone())).collect()
    }

    /// Takes in a request.
    pub fn ask(&mut self, waiting: Waiting, now: Instant) {
        let Waiting { request, patience, reply } = waiting;
        let (sandbox, kind) = match request {
            Request::Add(sandbox) => (sandbox, Kind::Add),
            Request::Check(sandbox) => (sandbox, Kind::Check),
            Request::Del { container } => {
                let of_it: Vec<Pending> =
                    self.pending.extract_if(.., |p| p.sandbox.container == container).collect();
                of_it.into_iter().for_each(|pending| {
                    self.refuse(pending, "its sandbox has been deleted meanwhile", now)
                });
                self.gone.push(container);
                // The plugin need not wait until the tables have forgotten the sandbox, since
                // nothing depends on that.
                let _ = reply.send(Reply::Enforced);
                return;
            }
        };
        let key = ObjectKey::new(sandbox.namespace.as_str(), sandbox.name.as_str());
        let why = String::from("the agent is busy");
        let deadline = now + patience;
        let pending =
            Pending { sandbox, key, kind, since: now, deadline, reply, matched: false, why };
        match self.pending.len() < MAX_PENDING {
            true => self.pending.push(pending),
            false => self.refuse(pending, "too many pods are starting on this node at once", now),
        }
    }

    /// Adds what CNI knows to the first view of the cluster.
    pub fn first(&mut self, cluster: &mut Cluster) {
        // Some pods of the sandboxes that an earlier agent has stored no longer exist.
        self.stored
            .retain(|key, stored| cluster.pods.get(key).is_some_and(|pod| pod.uid == stored.uid));
        self.unsaved = true;
        let superseded = self.stored.values().flat_map(|stored| &stored.superseded);
        let superseded = superseded.map(|pod_before| {
            ObjectKey::new(pod_before.namespace.as_str(), pod_before.name.as_str())
        });
        for key in self.stored.keys().cloned().chain(superseded).collect::<BTreeSet<_>>() {
            if let Some(pod) = cluster.pods.get_mut(&key) {
                self.amend(pod);
            }
        }
    }

    /// Corrects changes from the watch: drops those that are older than a fetched pod, and adds the
    /// addresses that CNI has assigned where the API server reports none yet.
    pub fn watched(&mut self, changes: Vec<Change>, now: Instant) -> Vec<Change> {
        let correct = |mut change: Change| {
            if change.resource != Resource::Pod {
                return Some(change);
            }
            let pod = match &mut change.object {
                Some(Object::Pod(pod)) => Some(pod),
                _ => None,
            };
            if let Some(uid) = self.ahead.get(&change.key) {
                if pod.as_ref().is_none_or(|pod| pod.uid != *uid) {
                    // This event may be older than the fetched pod, or newer. Only the API server
                    // can tell, so the pod is fetched again.
                    self.fetches
                        .entry(change.key.clone())
                        .or_insert(Fetch { sent: None, due: now });
                    return None;
                }
                self.ahead.remove(&change.key);
            }
            match pod {
                Some(pod) => self.amend(pod),
                None => self.unsaved |= self.stored.remove(&change.key).is_some(),
            }
            Some(change)
        };
        changes.into_iter().filter_map(correct).collect()
    }

    /// Records that the view reflects at least the API server's state at `moment`.
    pub fn current(&mut self, moment: Instant) {
        self.current = self.current.max(Some(moment));
        self.not_current = None;
    }

    /// Records why it could not be found out whether the view is current.
    pub fn not_current(&mut self, why: String) {
        self.not_current = Some(why);
    }

    /// Takes in the answer of a fetch. `known` is the cluster as the agent knows it.
    pub fn fetched(&mut self, fetched: Fetched, known: &Cluster, now: Instant) {
        let Fetched { key, found } = fetched;
        let Some(Fetch { sent: Some(sent), .. }) = self.fetches.remove(&key) else { return };
        let (uid, pod) = match found {
            Found::Failed(why) => {
                let why = format!("requesting the pod from the API server has failed: {why}");
                self.pending
                    .iter_mut()
                    .filter(|p| p.key == key)
                    .for_each(|p| p.why.clone_from(&why));
                self.fetches.insert(key, Fetch { sent: None, due: now + RETRY_INTERVAL });
                return;
            }
            Found::Pod(pod) => (Some(pod.uid.clone()), Some(pod)),
            Found::Nothing => (None, None),
        };
        // The answer is newer than every request that came before the fetch was sent, so it decides
        // about these.
        let older = |p: &mut Pending| p.key == key && !p.matched && p.since <= sent;
        match &pod {
            Some(pod) => {
                let others = |p: &mut Pending| older(p) && !matches_pod(&p.sandbox, pod);
                for pending in self.pending.extract_if(.., others).collect::<Vec<_>>() {
                    let (asked, there) =
                        (pending.sandbox.uid.clone(), pod.uid.clone().unwrap_or_default());
                    let why = format!(
                        "the pod of that name is another one (its UID is {there}, not {asked})"
                    );
                    self.refuse(pending, &why, now);
                }
            }
            None => {
                for pending in self.pending.extract_if(.., older).collect::<Vec<_>>() {
                    self.refuse(pending, "the API server has no such pod", now);
                }
            }
        }
        let there = known.pods.get(&key).map(|pod| pod.uid.clone());
        if there == uid {
            // The watch has shown the same pod meanwhile, and may be ahead of the fetch by now.
            return;
        }
        // The fetch is ahead of the watch, whose older events must not count until it has caught
        // up.
        match uid {
            Some(uid) => drop(self.ahead.insert(key.clone(), uid)),
            None => {
                self.ahead.remove(&key);
                self.unsaved |= self.stored.remove(&key).is_some();
            }
        }
        self.found.insert(key, pod);
    }

    /// Matches requests with pods, and says what has to be done. `local` are the pods of this node.
    pub fn plan(&mut self, known: &Cluster, local: &BTreeSet<ObjectKey>, now: Instant) -> Plan {
        let mut changed = std::mem::take(&mut self.found);
        for pod in changed.values_mut().flatten() {
            self.amend(pod);
        }
        self.forget(known, &mut changed);
        let mut plan = Plan::default();
        let mut all = std::mem::take(&mut self.pending);
        // A plugin that has hung up no longer waits.
        all.retain(|p| !p.reply.is_closed());
        for pending in &mut all {
            let pod = match changed.get(&pending.key) {
                Some(changed) => changed.as_ref(),
                None => known.pods.get(&pending.key),
            };
            let Some(pod) = pod.filter(|pod| matches_pod(&pending.sandbox, pod)) else {
                pending.matched = false;
                // A fetch that is in flight may have been sent before this request; then another
                // one follows it.
                self.fetches.entry(pending.key.clone()).or_insert_with(|| {
                    "the pod was requested from the API server, which has not answered yet"
                        .clone_into(&mut pending.why);
                    Fetch { sent: None, due: now }
                });
                continue;
            };
            if std::mem::replace(&mut pending.matched, true) {
                continue;
            }
            plan.rescan = true;
            if pending.kind == Kind::Add
                && !pending.sandbox.addresses.is_empty()
                && pod.is_policed()
            {
                let pod = pod.clone();
                self.assign(&pending.sandbox, pod, known, local, &mut changed);
            }
        }
        plan.freshen = self.freshen(&all, now);
        self.pending = all;
        let changes = changed.into_iter();
        let changes = changes.map(|(key, pod)| Change {
            resource: Resource::Pod,
            key,
            object: pod.map(Object::Pod),
        });
        plan.changes = changes.filter(|change| !change.is_known(known)).collect();
        for (key, fetch) in
            self.fetches.iter_mut().filter(|(_, f)| f.sent.is_none() && f.due <= now)
        {
            fetch.sent = Some(now);
            plan.fetch.push(key.clone());
        }
        plan
    }

    /// The deadline of a request for a current view; None where no pending request needs one beyond
    /// those already made.
    fn freshen(&mut self, pending: &[Pending], now: Instant) -> Option<Instant> {
        let waits = pending.iter().filter(|p| !self.is_current(p));
        let (newest, deadline) =
            waits.map(|p| (p.since, p.deadline)).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))?;
        if self.asked.is_some_and(|asked| asked >= newest) {
            return None;
        }
        self.asked = Some(now);
        Some(deadline)
    }

    /// Whether the view is at least as new as the request. For CHECK any view will do, since the
    /// pod is running already.
    fn is_current(&self, pending: &Pending) -> bool {
        pending.kind == Kind::Check || self.current.is_some_and(|current| current >= pending.since)
    }

    /// Forgets deleted sandboxes, and the addresses that are known from them alone.
    fn forget(&mut self, known: &Cluster, changed: &mut BTreeMap<ObjectKey, Option<Pod>>) {
        for container in std::mem::take(&mut self.gone) {
            let stored = self.stored.iter().find(|(_, stored)| stored.container == container);
            let Some(key) = stored.map(|(key, _)| key.clone()) else { continue };
            let Some(stored) = self.stored.remove(&key) else { continue };
            self.unsaved = true;
            if let Some(pod) = known.pods.get(&key).filter(|pod| pod.uid == stored.uid) {
                let pod = Pod { addresses: stored.reported, ..pod.clone() };
                changed.entry(key).or_insert(Some(pod));
            }
        }
    }

    /// Assigns the sandbox's addresses to `pod`, and takes them from all other pods of this node,
    /// whatever the API server still reports.
    fn assign(
        &mut self,
        sandbox: &Sandbox,
        pod: Pod,
        known: &Cluster,
        local: &BTreeSet<ObjectKey>,
        changed: &mut BTreeMap<ObjectKey, Option<Pod>>,
    ) {
        let addresses = &sandbox.addresses;
        for stored in
            self.stored.iter_mut().filter(|(key, _)| **key != pod.key).map(|(_, stored)| stored)
        {
            stored.addresses.retain(|a| !addresses.contains(a));
        }
        let mut superseded = Vec::new();
        for key in local.iter().filter(|key| **key != pod.key) {
            let there = changed.get(key).map_or_else(|| known.pods.get(key), Option::as_ref);
            let Some(there) =
                there.filter(|there| there.addresses.iter().any(|a| addresses.contains(a)))
            else {
                continue;
            };
            let mut there = there.clone();
            there.addresses.retain(|a| !addresses.contains(a));
            let (namespace, name) = (key.namespace.to_string(), key.name.to_string());
            superseded.push(Superseded { namespace, name, uid: there.uid.clone() });
            changed.insert(key.clone(), Some(there));
        }
        let same = self.stored.get(&pod.key).filter(|stored| stored.uid == pod.uid);
        let reported = same.map_or_else(|| pod.addresses.clone(), |stored| stored.reported.clone());
        let stored = StoredSandbox {
            uid: pod.uid.clone(),
            container: sandbox.container.clone(),
            place: Placement {
                netns: sandbox.netns.clone(),
                host_interfaces: sandbox.host_interfaces.clone(),
            },
            addresses: addresses.clone(),
            before: reported.clone(),
            reported,
            superseded,
        };
        self.stored.insert(pod.key.clone(), stored);
        self.unsaved = true;
        changed.insert(pod.key.clone(), Some(Pod { addresses: addresses.clone(), ..pod }));
    }

    /// Records that a current view could not be requested; the next plan requests it again.
    pub fn not_freshened(&mut self) {
        self.asked = None;
    }

    /// Records that the pod could not be requested; it is requested again later.
    pub fn not_asked(&mut self, key: &ObjectKey, now: Instant) {
        self.fetches.insert(key.clone(), Fetch { sent: None, due: now + RETRY_INTERVAL });
    }

    /// Answers the requests that can be answered. `behind` is the reason why the kernel is not in
    /// step at the moment, and `standing` whether a pod's policies are enforced.
    pub fn answer(
        &mut self,
        known: &Cluster,
        behind: Option<&str>,
        standing: impl Fn(&ObjectKey) -> Standing,
        now: Instant,
    ) {
        for mut pending in std::mem::take(&mut self.pending) {
            match self.judge(&pending, known, behind, &standing) {
                Verdict::Enforced => {
                    tracing::debug!(pod = %pending.key, took = ?(now - pending.since), "CNI: the \
                        pod was confirmed, since its policies are enforced");
                    // Sending fails where the plugin no longer waits.
                    let _ = pending.reply.send(Reply::Enforced);
                    self.answered.push((Answer::Enforced, now - pending.since));
                    continue;
                }
                Verdict::Never(why) => {
                    self.refuse(pending, &why, now);
                    continue;
                }
                Verdict::Wait(Some(why)) => pending.why = why,
                Verdict::Wait(None) => {}
            }
            if pending.deadline <= now {
                let why = pending.why.clone();
                self.refuse(pending, &why, now);
            } else {
                self.pending.push(pending);
            }
        }
        // Only pending requests and pods that are ahead of the watch need fetches.
        let wanted = |key: &ObjectKey| {
            self.ahead.contains_key(key) || self.pending.iter().any(|p| p.key == *key)
        };
        self.fetches.retain(|key, fetch| fetch.sent.is_some() || wanted(key));
    }

    /// The outcomes of requests since the last call, with the time that each took.
    pub fn take_answered(&mut self) -> Vec<(Answer, Duration)> {
        std::mem::take(&mut self.answered)
    }

    /// When something has to be done next even if nothing happens; None where nothing has to.
    pub fn due(&self) -> Option<Instant> {
        let fetches = self.fetches.values().filter(|f| f.sent.is_none()).map(|f| f.due);
        self.pending.iter().map(|p| p.deadline).chain(fetches).min()
    }

    /// Whether no request waits and nothing has to be done.
    pub fn is_idle(&self) -> bool {
        let nothing = self.pending.is_empty() && self.found.is_empty() && self.gone.is_empty();
        nothing && self.fetches.values().all(|f| f.sent.is_some())
    }

    fn judge(
        &self,
        pending: &Pending,
        known: &Cluster,
        behind: Option<&str>,
        standing: &impl Fn(&ObjectKey) -> Standing,
    ) -> Verdict {
        let wait = |why: &str| Verdict::Wait(Some(why.to_owned()));
        if let Some(behind) = behind {
            return wait(behind);
        }
        // The reason was set when the fetch was begun.
        let Some(pod) =
            known.pods.get(&pending.key).filter(|pod| matches_pod(&pending.sandbox, pod))
        else {
            return Verdict::Wait(None);
        };
        if pod.node.as_ref() != Some(&self.node) {
            let there = pod.node.as_deref().unwrap_or("none");
            let why = format!(
                "its node is {there}, but this agent enforces policies for {}; check --node",
                self.node
            );
            return Verdict::Never(why);
        }
        match (pod.network, pod.phase) {
            // The pod shares the node's network, where policy does not apply (S15).
            (PodNetwork::Host, _) => return Verdict::Enforced,
            (_, Phase::Finished) => {
                return Verdict::Never("the API server reports that the pod has ended".into());
            }
            (PodNetwork::Own, Phase::Active) => {}
        }
        if !self.is_current(pending) {
            return wait(self.not_current.as_deref().unwrap_or(NOT_CURRENT));
        }
        let addresses = &pending.sandbox.addresses;
        if !addresses.is_empty() && !addresses.iter().any(|a| pod.addresses.contains(a)) {
            return wait(
                "the API server reports other addresses for the pod than CNI has assigned",
            );
        }
        match standing(&pending.key) {
            Standing::Open | Standing::Enforced => Verdict::Enforced,
            Standing::Unfound if pod.addresses.is_empty() => wait(
                "a policy selects the pod, but the plugins before netpolc assigned it no address",
            ),
            Standing::Unfound => wait(
                "a policy selects the pod, but no interface on the host leads to its addresses",
            ),
            Standing::Unknown => wait("the pod is not in the tables yet"),
        }
    }

    fn refuse(&mut self, pending: Pending, why: &str, now: Instant) {
        tracing::warn!(pod = %pending.key, container = pending.sandbox.container, "CNI: the pod \
            was not confirmed: {why}");
        // Sending fails where the plugin no longer waits.
        let _ = pending.reply.send(Reply::Refused { why: why.to_owned() });
        self.answered.push((Answer::Refused, now - pending.since));
    }

    /// Corrects a pod that the API server reports by what CNI knows about it.
    fn amend(&mut self, pod: &mut Pod) {
        if let Some(stored) = self.stored.get_mut(&pod.key) {
            if stored.uid != pod.uid || !pod.is_policed() {
                self.stored.remove(&pod.key);
                self.unsaved = true;
            } else {
                self.unsaved |= stored.reported != pod.addresses;
                stored.reported.clone_from(&pod.addresses);
                // As long as the API server reports nothing new since the sandbox was created,
                // CNI's addresses count.
                match pod.addresses.is_empty() || pod.addresses == stored.before {
                    true => pod.addresses.clone_from(&stored.addresses),
                    false => stored.addresses.clone_from(&pod.addresses),
                }
            }
        }
        for stored in self.stored.values() {
            if stored.superseded.iter().any(|pod_before| pod_before.is(pod)) {
                pod.addresses.retain(|a| !stored.addresses.contains(a));
            }
        }
    }
}

enum Verdict {
    Enforced,
    Never(String),
    /// The request has to wait; the reason is None where it is the same as before.
    Wait(Option<String>),
}

/// Whether this is the pod that a sandbox is for. Where the runtime does not pass the UID, the name
/// decides.
fn matches_pod(sandbox: &Sandbox, pod: &Pod) -> bool {
    sandbox.uid.is_empty() || pod.uid.as_deref() == Some(&*sandbox.uid)
}
