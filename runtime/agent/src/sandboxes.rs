//! What CNI says of pods' sandboxes, set against what the API server says of the pods: which pod a request means, which
//! addresses it has until the API server reports them, and when the plugin may be told that its policies hold.
//!
//! A request names a pod by its UID, since a pod that was made anew under the same name may have other labels. Where the
//! watch has not shown that pod yet it is fetched; from then on, until the watch has caught up, what the watch says of older pods
//! under that name does not count.
//! And a request is confirmed only by a view that is at least as new as the request: an agent that was cut off from the API server
//! may not know of a policy that was made before the pod.
//! No clock, no socket, no kernel: the loop ([`super::cluster_loop`]) brings them.

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

use super::{
    Standing,
    sandbox_store::{Held, Loser},
};
use crate::ways::Place;

/// Pause before a pod is asked for again that could not be.
const RETRY: Duration = Duration::from_millis(300);
/// What is said until it is known how new the view is.
const NOT_CURRENT: &str = "the API server has not said yet whether this node knows its newest policies";
/// Requests that wait at once; a node starts some tens of pods at a time.
const MAX_PENDING: usize = 1_024;

/// What CNI said, and who waits for an answer.
#[derive(Debug)]
pub struct Sandboxes {
    node: Arc<str>,
    held: BTreeMap<ObjectKey, Held>,
    /// Pods that were fetched before the watch showed them, with their UIDs.
    ahead: BTreeMap<ObjectKey, Option<Arc<str>>>,
    fetches: BTreeMap<ObjectKey, Fetch>,
    pending: Vec<Pending>,
    /// What fetches found out.
    found: BTreeMap<ObjectKey, Option<Pod>>,
    /// Sandboxes that are gone.
    gone: Vec<String>,
    /// What is held was changed since it was last kept.
    stale: bool,
    /// Not taken yet.
    answered: Vec<(Answer, Duration)>,
    /// What is known of the cluster is all that the API server had at this moment.
    current: Option<Instant>,
    /// When that was asked for last.
    asked: Option<Instant>,
    /// Why it is not known.
    not_current: Option<String>,
}

#[derive(Debug)]
struct Pending {
    sandbox: Sandbox,
    key: ObjectKey,
    kind: Kind,
    since: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Reply>,
    /// Its pod was found and has its addresses.
    met: bool,
    /// Why it waits, or must not start.
    why: String,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The pod's policies hold.
    Enforced,
    /// They do not.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Add,
    Check,
}

#[derive(Clone, Copy, Debug)]
struct Fetch {
    /// When it was sent; None: to be sent when `due`.
    sent: Option<Instant>,
    due: Instant,
}

/// What is to be done before anything can be answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes of pods, as if the watch had told of them.
    pub changes: Vec<Change>,
    /// Interfaces are to be looked for again, since sandboxes are new.
    pub look: bool,
    /// Pods to ask the API server for.
    pub fetch: Vec<ObjectKey>,
    /// A view as new as the API server's state is to be asked for, until this moment.
    pub freshen: Option<Instant>,
}

impl Sandboxes {
    /// Of this node; none yet.
    pub fn new(node: Arc<str>) -> Self {
        let (held, ahead, fetches) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            node,
            held,
            ahead,
            fetches,
            pending: vec![],
            found: BTreeMap::new(),
            gone: vec![],
            stale: false,
            answered: vec![],
            current: None,
            asked: None,
            not_current: None,
        }
    }

    /// With what an earlier agent kept.
    pub fn restore(&mut self, held: impl IntoIterator<Item = (ObjectKey, Held)>) {
        self.held.extend(held);
    }

    /// What is to be kept for a later agent, before anything that depends on it is confirmed; None where nothing has changed.
    pub fn take_held(&mut self) -> Option<impl Iterator<Item = (&ObjectKey, &Held)>> {
        std::mem::take(&mut self.stale).then(|| self.held.iter())
    }

    /// Where CNI says that pods are.
    pub fn places(&self) -> BTreeMap<ObjectKey, Place> {
        self.held.iter().map(|(key, held)| (key.clone(), held.place.clone())).collect()
    }

    /// Takes a request.
    pub fn ask(&mut self, waiting: Waiting, now: Instant) {
        let Waiting { request, patience, reply } = waiting;
        let (sandbox, kind) = match request {
            Request::Add(sandbox) => (sandbox, Kind::Add),
            Request::Check(sandbox) => (sandbox, Kind::Check),
            Request::Del { container } => {
                let of_it: Vec<Pending> = self.pending.extract_if(.., |p| p.sandbox.container == container).collect();
                of_it.into_iter().for_each(|pending| self.refuse(pending, "its sandbox was deleted meanwhile", now));
                self.gone.push(container);
                // Nothing depends on it: a plugin does not wait until the tables have forgotten a sandbox.
                let _ = reply.send(Reply::Enforced);
                return;
            }
        };
        let key = ObjectKey::new(sandbox.namespace.as_str(), sandbox.name.as_str());
        let why = String::from("the agent is busy");
        let deadline = now + patience;
        let pending = Pending { sandbox, key, kind, since: now, deadline, reply, met: false, why };
        match self.pending.len() < MAX_PENDING {
            true => self.pending.push(pending),
            false => self.refuse(pending, "too many pods start at once on this node", now),
        }
    }

    /// The cluster's first view, with what CNI knows better.
    pub fn first(&mut self, cluster: &mut Cluster) {
        // Of an earlier agent's pods some are gone.
        self.held.retain(|key, held| cluster.pods.get(key).is_some_and(|pod| pod.uid == held.uid));
        self.stale = true;
        let losers = self.held.values().flat_map(|held| &held.losers);
        let losers = losers.map(|loser| ObjectKey::new(loser.namespace.as_str(), loser.name.as_str()));
        for key in self.held.keys().cloned().chain(losers).collect::<BTreeSet<_>>() {
            if let Some(pod) = cluster.pods.get_mut(&key) {
                self.amend(pod);
            }
        }
    }

    /// What the watch tells, without what is older than what was fetched, and with the addresses that CNI gave where the API
    /// server reports none yet.
    pub fn watched(&mut self, changes: Vec<Change>, now: Instant) -> Vec<Change> {
        let keep = |mut change: Change| {
            if change.resource != Resource::Pod {
                return Some(change);
            }
            let pod = match &mut change.object {
                Some(Object::Pod(pod)) => Some(pod),
                _ => None,
            };
            if let Some(uid) = self.ahead.get(&change.key) {
                if pod.as_ref().is_none_or(|pod| pod.uid != *uid) {
                    // Older than what was fetched, or newer: the API server knows.
                    self.fetches.entry(change.key.clone()).or_insert(Fetch { sent: None, due: now });
                    return None;
                }
                self.ahead.remove(&change.key);
            }
            match pod {
                Some(pod) => self.amend(pod),
                None => self.stale |= self.held.remove(&change.key).is_some(),
            }
            Some(change)
        };
        changes.into_iter().filter_map(keep).collect()
    }

    /// Everything that the API server had at `moment` is known.
    pub fn current(&mut self, moment: Instant) {
        self.current = self.current.max(Some(moment));
        self.not_current = None;
    }

    /// That could not be found out.
    pub fn not_current(&mut self, why: String) {
        self.not_current = Some(why);
    }

    /// What the API server said of a pod that was asked for. `known` is the cluster.
    pub fn fetched(&mut self, fetched: Fetched, known: &Cluster, now: Instant) {
        let Fetched { key, found } = fetched;
        let Some(Fetch { sent: Some(sent), .. }) = self.fetches.remove(&key) else { return };
        let (uid, pod) = match found {
            Found::Failed(why) => {
                let why = format!("the API server was asked for it: {why}");
                self.pending.iter_mut().filter(|p| p.key == key).for_each(|p| p.why.clone_from(&why));
                self.fetches.insert(key, Fetch { sent: None, due: now + RETRY });
                return;
            }
            Found::Pod(pod) => (Some(pod.uid.clone()), Some(pod)),
            Found::Nothing => (None, None),
        };
        // What was asked before the fetch is older than its answer.
        let older = |p: &mut Pending| p.key == key && !p.met && p.since <= sent;
        match &pod {
            Some(pod) => {
                let others = |p: &mut Pending| older(p) && !means(&p.sandbox, pod);
                for pending in self.pending.extract_if(.., others).collect::<Vec<_>>() {
                    let (asked, there) = (pending.sandbox.uid.clone(), pod.uid.clone().unwrap_or_default());
                    let why = format!("the pod of that name is another one (UID {there}, not {asked})");
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
            // The watch was as fast, and may know more by now.
            return;
        }
        match uid {
            Some(uid) => drop(self.ahead.insert(key.clone(), uid)),
            None => {
                self.ahead.remove(&key);
                self.stale |= self.held.remove(&key).is_some();
            }
        }
        self.found.insert(key, pod);
    }

    /// Matches requests with pods, of which `local` are this node's.
    pub fn plan(&mut self, known: &Cluster, local: &BTreeSet<ObjectKey>, now: Instant) -> Plan {
        let mut changed = std::mem::take(&mut self.found);
        for pod in changed.values_mut().flatten() {
            self.amend(pod);
        }
        self.forget(known, &mut changed);
        let mut plan = Plan::default();
        let mut all = std::mem::take(&mut self.pending);
        all.retain(|p| !p.reply.is_closed());
        for pending in &mut all {
            let pod = match changed.get(&pending.key) {
                Some(changed) => changed.as_ref(),
                None => known.pods.get(&pending.key),
            };
            let Some(pod) = pod.filter(|pod| means(&pending.sandbox, pod)) else {
                pending.met = false;
                // An answer that is under way may be older than this request; then another one follows it.
                self.fetches.entry(pending.key.clone()).or_insert_with(|| {
                    "the API server was asked for it and has not answered yet".clone_into(&mut pending.why);
                    Fetch { sent: None, due: now }
                });
                continue;
            };
            if std::mem::replace(&mut pending.met, true) {
                continue;
            }
            plan.look = true;
            if pending.kind == Kind::Add && !pending.sandbox.addresses.is_empty() && pod.is_policed() {
                let pod = pod.clone();
                self.hold(&pending.sandbox, pod, known, local, &mut changed);
            }
        }
        plan.freshen = self.freshen(&all, now);
        self.pending = all;
        let changes = changed.into_iter();
        let changes = changes.map(|(key, pod)| Change { resource: Resource::Pod, key, object: pod.map(Object::Pod) });
        plan.changes = changes.filter(|change| !change.is_known(known)).collect();
        for (key, fetch) in self.fetches.iter_mut().filter(|(_, f)| f.sent.is_none() && f.due <= now) {
            fetch.sent = Some(now);
            plan.fetch.push(key.clone());
        }
        plan
    }

    /// Until when a newer view is to be asked for, where some request needs one that is not under way yet.
    fn freshen(&mut self, pending: &[Pending], now: Instant) -> Option<Instant> {
        let waits = pending.iter().filter(|p| !self.is_current(p));
        let (newest, deadline) = waits.map(|p| (p.since, p.deadline)).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))?;
        if self.asked.is_some_and(|asked| asked >= newest) {
            return None;
        }
        self.asked = Some(now);
        Some(deadline)
    }

    /// Is what is known at least as new as the request? A pod that runs already is judged by what there is.
    fn is_current(&self, pending: &Pending) -> bool {
        pending.kind == Kind::Check || self.current.is_some_and(|current| current >= pending.since)
    }

    /// Forgets sandboxes that are gone, and the addresses that only they gave.
    fn forget(&mut self, known: &Cluster, changed: &mut BTreeMap<ObjectKey, Option<Pod>>) {
        for container in std::mem::take(&mut self.gone) {
            let held = self.held.iter().find(|(_, held)| held.container == container);
            let Some(key) = held.map(|(key, _)| key.clone()) else { continue };
            let Some(held) = self.held.remove(&key) else { continue };
            self.stale = true;
            if let Some(pod) = known.pods.get(&key).filter(|pod| pod.uid == held.uid) {
                let pod = Pod { addresses: held.reported, ..pod.clone() };
                changed.entry(key).or_insert(Some(pod));
            }
        }
    }

    /// `pod` has its sandbox's addresses from now on, and no other pod of this node has them, whatever the API server still says.
    fn hold(
        &mut self,
        sandbox: &Sandbox,
        pod: Pod,
        known: &Cluster,
        local: &BTreeSet<ObjectKey>,
        changed: &mut BTreeMap<ObjectKey, Option<Pod>>,
    ) {
        let addresses = &sandbox.addresses;
        for held in self.held.iter_mut().filter(|(key, _)| **key != pod.key).map(|(_, held)| held) {
            held.addresses.retain(|a| !addresses.contains(a));
        }
        let mut losers = Vec::new();
        for key in local.iter().filter(|key| **key != pod.key) {
            let there = changed.get(key).map_or_else(|| known.pods.get(key), Option::as_ref);
            let Some(there) = there.filter(|there| there.addresses.iter().any(|a| addresses.contains(a))) else {
                continue;
            };
            let mut there = there.clone();
            there.addresses.retain(|a| !addresses.contains(a));
            let (namespace, name) = (key.namespace.to_string(), key.name.to_string());
            losers.push(Loser { namespace, name, uid: there.uid.clone() });
            changed.insert(key.clone(), Some(there));
        }
        let same = self.held.get(&pod.key).filter(|held| held.uid == pod.uid);
        let reported = same.map_or_else(|| pod.addresses.clone(), |held| held.reported.clone());
        let held = Held {
            uid: pod.uid.clone(),
            container: sandbox.container.clone(),
            place: Place { netns: sandbox.netns.clone(), host_interfaces: sandbox.host_interfaces.clone() },
            addresses: addresses.clone(),
            before: reported.clone(),
            reported,
            losers,
        };
        self.held.insert(pod.key.clone(), held);
        self.stale = true;
        changed.insert(pod.key.clone(), Some(Pod { addresses: addresses.clone(), ..pod }));
    }

    /// A newer view could not even be asked for; the next turn does.
    pub fn not_freshened(&mut self) {
        self.asked = None;
    }

    /// Could not even be asked for; tried again.
    pub fn not_asked(&mut self, key: &ObjectKey, now: Instant) {
        self.fetches.insert(key.clone(), Fetch { sent: None, due: now + RETRY });
    }

    /// Answers what can be answered. `behind` says why nothing holds at the moment,
    /// `standing` how a pod of this node stands.
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
                    tracing::debug!(pod = %pending.key, took = ?(now - pending.since), "CNI: its policies hold");
                    // A plugin that is gone has stopped waiting.
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
        // Fetches serve requests, and pods that are ahead of the watch.
        let wanted = |key: &ObjectKey| self.ahead.contains_key(key) || self.pending.iter().any(|p| p.key == *key);
        self.fetches.retain(|key, fetch| fetch.sent.is_some() || wanted(key));
    }

    /// How requests of pods' starts ended since the last call, and after what time.
    pub fn take_answered(&mut self) -> Vec<(Answer, Duration)> {
        std::mem::take(&mut self.answered)
    }

    /// When there is something to do without anything happening.
    pub fn due(&self) -> Option<Instant> {
        let fetches = self.fetches.values().filter(|f| f.sent.is_none()).map(|f| f.due);
        self.pending.iter().map(|p| p.deadline).chain(fetches).min()
    }

    /// Is there a request that was not answered, or something to do for one?
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
        // The reason is that of the fetch under way.
        let Some(pod) = known.pods.get(&pending.key).filter(|pod| means(&pending.sandbox, pod)) else {
            return Verdict::Wait(None);
        };
        if pod.node.as_ref() != Some(&self.node) {
            let there = pod.node.as_deref().unwrap_or("none");
            let why = format!("its node is {there}, and this agent enforces for {}; is --node right?", self.node);
            return Verdict::Never(why);
        }
        match (pod.network, pod.phase) {
            // It shares the node's network, where policy does not apply (S15).
            (PodNetwork::Host, _) => return Verdict::Enforced,
            (_, Phase::Finished) => return Verdict::Never("the API server says that it has ended".into()),
            (PodNetwork::Own, Phase::Active) => {}
        }
        if !self.is_current(pending) {
            return wait(self.not_current.as_deref().unwrap_or(NOT_CURRENT));
        }
        let addresses = &pending.sandbox.addresses;
        if !addresses.is_empty() && !addresses.iter().any(|a| pod.addresses.contains(a)) {
            return wait("the API server reports other addresses for it than CNI gave");
        }
        match standing(&pending.key) {
            Standing::Open | Standing::Enforced => Verdict::Enforced,
            Standing::Unfound if pod.addresses.is_empty() => {
                wait("a policy selects it, and the plugins before netpolc gave it no address")
            }
            Standing::Unfound => wait("a policy selects it, and no interface on the host leads to its addresses"),
            Standing::Unknown => wait("it is not in the tables yet"),
        }
    }

    fn refuse(&mut self, pending: Pending, why: &str, now: Instant) {
        tracing::warn!(pod = %pending.key, container = pending.sandbox.container, "CNI: not confirmed: {why}");
        // A plugin that is gone has stopped waiting.
        let _ = pending.reply.send(Reply::Refused { why: why.to_owned() });
        self.answered.push((Answer::Refused, now - pending.since));
    }

    /// Makes what the API server says of a pod what is known of it.
    fn amend(&mut self, pod: &mut Pod) {
        if let Some(held) = self.held.get_mut(&pod.key) {
            if held.uid != pod.uid || !pod.is_policed() {
                self.held.remove(&pod.key);
                self.stale = true;
            } else {
                self.stale |= held.reported != pod.addresses;
                held.reported.clone_from(&pod.addresses);
                match pod.addresses.is_empty() || pod.addresses == held.before {
                    true => pod.addresses.clone_from(&held.addresses),
                    false => held.addresses.clone_from(&pod.addresses),
                }
            }
        }
        for held in self.held.values() {
            if held.losers.iter().any(|loser| loser.is(pod)) {
                pod.addresses.retain(|a| !held.addresses.contains(a));
            }
        }
    }
}

enum Verdict {
    Enforced,
    Never(String),
    /// With the reason, where it is another one than before.
    Wait(Option<String>),
}

/// Is this the pod that a sandbox is for? A runtime that does not tell the UID means whatever has the name.
fn means(sandbox: &Sandbox, pod: &Pod) -> bool {
    sandbox.uid.is_empty() || pod.uid.as_deref() == Some(&*sandbox.uid)
}
