//! Shares: what each namespace may take of one node's tables, so that no object of one tenant stops
//! the others (S33).
//!
//! ```text
//! limits    how much of each resource there is, for the node and for one namespace
//! measure   what policies would take, from their text alone
//! account   the policies and pods of one namespace, as far as sizes depend on them
//! trying    policies that are only tried, which give way first
//! service   what Services take, and what stands for one that is set aside
//! aside     what is set aside, and how users are told
//! Shares    which policies and Services are set aside; turns events into those that are compiled
//! ```
//!
//! What is set aside isolates as before and allows nothing (S10); a Service is closed. The decision
//! is a function of the cluster alone: the largest users give up their largest objects, in a fixed
//! order, until everything fits, so that a restart decides the same and a namespace that takes less
//! than its equal share is never touched. It is made from sizes, before anything is compiled and
//! before a target is touched.
//!
//! Not here: how it is reported (the runtime), and ids that run out all the same
//! (`Compiler::usage`).

mod account;
mod aside;
mod limits;
mod measure;
mod service;
mod trying;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_policy::{
    Cluster, Isolation, Mode, ObjectKey, Pod, Policy, Service, Staged, TierKey, TierPolicy,
};

use self::{
    account::Account,
    service::pairs,
    trying::{Form, Trying},
};
pub use self::{
    aside::{Aside, Kind},
    limits::{Limits, RESOURCES, Resource, Room, Usage},
};
use crate::{
    event::{Event, Scope},
    overflow::Diagnostic,
};

/// Why a namespace is set aside as a whole: the ids of its classes or rows, which only the compiler
/// can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blame {
    resource: Resource,
    takes: u64,
    limit: u64,
}

/// Who may have what of the node's tables. Knows the cluster's pods of this node, and sizes.
#[derive(Debug)]
pub struct Shares {
    scope: Scope,
    limits: Limits,
    /// Namespaces with pods of this node: only their policies take anything.
    accounts: BTreeMap<Arc<str>, Account>,
    /// Addresses x ports.
    services: BTreeMap<ObjectKey, u64>,
    policies_aside: BTreeMap<ObjectKey, Aside>,
    services_aside: BTreeMap<ObjectKey, Aside>,
    blamed: BTreeMap<Arc<str>, Blame>,
    trying: Trying,
    /// The policies and Services that were set aside when the last events were handed on.
    handed_on: [BTreeSet<ObjectKey>; 2],
    /// The namespaces whose tried policies were left out then.
    left_out: BTreeSet<Arc<str>>,
    /// The tried ClusterNetworkPolicies that were left out then.
    tiers_left_out: BTreeSet<TierKey>,
}

impl Shares {
    /// Knows nothing yet, and sets nothing aside.
    pub fn new(scope: Scope, limits: Limits) -> Self {
        Self {
            scope,
            limits,
            accounts: BTreeMap::new(),
            services: BTreeMap::new(),
            policies_aside: BTreeMap::new(),
            services_aside: BTreeMap::new(),
            blamed: BTreeMap::new(),
            trying: Trying::default(),
            handed_on: Default::default(),
            left_out: BTreeSet::new(),
            tiers_left_out: BTreeSet::new(),
        }
    }

    /// How much there is.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets namespaces aside whose rows turned out to take more verdicts than they may; they are
    /// [`Compiler::take_excess`](crate::Compiler::take_excess)'s. False: there are none.
    pub fn blame_excess(&mut self, cluster: &Cluster, excess: BTreeMap<Arc<str>, u64>) -> bool {
        let limit = self.limits.cells;
        let blamed = excess.into_iter().map(|(namespace, takes)| {
            self.blame(cluster, Resource::Verdicts, &BTreeMap::from([(namespace, takes)]), limit)
        });
        blamed.fold(false, |any, blamed| any | blamed)
    }

    /// Decides about a whole cluster, which the compiler is to take in by
    /// [`Compiler::load_admitted`](crate::Compiler).
    pub fn load(&mut self, cluster: &Cluster) {
        self.accounts.clear();
        self.services.clear();
        self.trying.clear();
        for pod in cluster.pods.values() {
            if self.is_local(pod) {
                self.account(&pod.key.namespace).set_pod(&pod.key, Some(pod));
            }
        }
        for (key, policy) in &cluster.policies {
            self.trying.set(Form::Audited, key, Some(policy));
            if let Some(account) = self.accounts.get_mut(&key.namespace) {
                account.set_policy(&key.name, enforced(policy));
            }
        }
        for (key, staged) in &cluster.staged {
            self.trying.stage(key, Some(staged));
        }
        for (key, policy) in &cluster.tiers {
            self.trying.set_tier(key, Some(policy));
        }
        self.services =
            cluster.services.iter().map(|(key, service)| (key.clone(), pairs(service))).collect();
        self.decide(cluster);
        self.handed_on = self.keys();
        self.left_out = self.trying.left_out().clone();
        self.tiers_left_out = self.trying.tiers_left_out();
    }

    fn keys(&self) -> [BTreeSet<ObjectKey>; 2] {
        [&self.policies_aside, &self.services_aside].map(|aside| aside.keys().cloned().collect())
    }

    /// The events that lead a compiler to what `cluster` says, as far as it is admitted, after it
    /// had been led to what was admitted before. `cluster` is the one after the events.
    pub fn admit(&mut self, cluster: &Cluster, events: Vec<Event>) -> Vec<Event> {
        let mut looks = false;
        for event in &events {
            looks |= self.note(cluster, event);
        }
        if looks {
            self.decide(cluster);
        }
        let now = self.keys();
        let before = std::mem::replace(&mut self.handed_on, now.clone());
        let (mut policies, mut services) = (BTreeSet::new(), BTreeSet::new());
        let (mut staged_keys, mut tiers) = (BTreeSet::new(), BTreeSet::new());
        let mut admitted: Vec<Event> = events
            .into_iter()
            .map(|event| match event {
                Event::Policy { key, policy } => {
                    policies.insert(key.clone());
                    Event::Policy { policy: policy.map(|policy| self.policy(policy)), key }
                }
                Event::Service { key, service } => {
                    services.insert(key.clone());
                    Event::Service {
                        service: service.map(|service| self.service(&key, service)),
                        key,
                    }
                }
                Event::Staged { key, staged } => {
                    staged_keys.insert(key.clone());
                    Event::Staged { staged: self.trying.staged(&key, staged), key }
                }
                Event::Tier { key, policy } => {
                    tiers.insert(key.clone());
                    Event::Tier { policy: self.trying.tier(policy), key }
                }
                other => other,
            })
            .collect();
        // Those whose standing changed without an event of their own.
        for key in before[0].symmetric_difference(&now[0]).filter(|key| !policies.contains(*key)) {
            let policy = cluster.policies.get(key).map(|policy| self.policy(policy.clone()));
            admitted.push(Event::Policy { key: key.clone(), policy });
        }
        for key in before[1].symmetric_difference(&now[1]).filter(|key| !services.contains(*key)) {
            let service =
                cluster.services.get(key).map(|service| self.service(key, service.clone()));
            admitted.push(Event::Service { key: key.clone(), service });
        }
        let left_out = self.trying.left_out().clone();
        for namespace in self.left_out.symmetric_difference(&left_out) {
            for (form, key) in self.trying.of(namespace) {
                match form {
                    Form::Audited if !policies.contains(&key) => {
                        let policy = cluster.policies.get(&key);
                        let policy = policy.map(|policy| self.policy(policy.clone()));
                        admitted.push(Event::Policy { key, policy });
                    }
                    Form::Staged if !staged_keys.contains(&key) => {
                        let staged = cluster.staged.get(&key).cloned();
                        let staged = self.trying.staged(&key, staged);
                        admitted.push(Event::Staged { key, staged });
                    }
                    Form::Audited | Form::Staged => {}
                }
            }
        }
        self.left_out = left_out;
        let tiers_left_out = self.trying.tiers_left_out();
        for key in self.tiers_left_out.symmetric_difference(&tiers_left_out) {
            if !tiers.contains(key) {
                let policy = self.trying.tier(cluster.tiers.get(key).cloned());
                admitted.push(Event::Tier { key: key.clone(), policy });
            }
        }
        self.tiers_left_out = tiers_left_out;
        admitted
    }

    /// The policy as it is compiled.
    pub fn policy(&self, policy: Policy) -> Policy {
        let policy = self.trying.policy(policy);
        if !self.policies_aside.contains_key(&policy.key) {
            return policy;
        }
        let allow_nothing = |isolation: Isolation| match isolation {
            Isolation::Open => Isolation::Open,
            Isolation::Isolated(_) => Isolation::Isolated(vec![]),
        };
        Policy {
            ingress: allow_nothing(policy.ingress),
            egress: allow_nothing(policy.egress),
            ..policy
        }
    }

    /// The staged policy as it is compiled.
    pub fn staged(&self, key: &ObjectKey, staged: Staged) -> Option<Staged> {
        self.trying.staged(key, Some(staged))
    }

    /// The ClusterNetworkPolicy as it is compiled.
    pub fn tier(&self, policy: TierPolicy) -> Option<TierPolicy> {
        self.trying.tier(Some(policy))
    }

    /// The tried policies with which nothing is compared, for want of room, in order.
    pub fn not_compared(&self) -> impl Iterator<Item = Diagnostic> {
        let policies = self.trying.left_out().iter().flat_map(|here| self.trying.of(here));
        let policies = policies.map(|(form, key)| match form {
            Form::Audited => key.to_string(),
            Form::Staged => format!("StagedKubernetesNetworkPolicy {key}"),
        });
        let tiers = self.trying.tiers_left_out().into_iter().map(|key| key.to_string());
        policies.chain(tiers).map(|policy| Diagnostic::NotCompared { policy: policy.into() })
    }

    /// The Service as it is compiled.
    pub fn service(&self, key: &ObjectKey, service: Service) -> Service {
        if self.services_aside.contains_key(key) { service::closed(service) } else { service }
    }

    /// The cluster as it is compiled.
    pub fn cluster(&self, cluster: Cluster) -> Cluster {
        let mut admitted = cluster;
        for key in self.policies_aside.keys() {
            if let Some(policy) = admitted.policies.get_mut(key) {
                *policy = self.policy(policy.clone());
            }
        }
        for namespace in self.trying.left_out() {
            for (form, key) in self.trying.of(namespace) {
                match form {
                    Form::Audited => {
                        if let Some(policy) = admitted.policies.get_mut(&key) {
                            *policy = self.policy(policy.clone());
                        }
                    }
                    Form::Staged => drop(admitted.staged.remove(&key)),
                }
            }
        }
        for key in self.trying.tiers_left_out() {
            admitted.tiers.remove(&key);
        }
        for key in self.services_aside.keys() {
            if let Some(service) = admitted.services.get_mut(key) {
                *service = self.service(key, service.clone());
            }
        }
        admitted
    }

    /// What is set aside, in order.
    pub fn aside(&self) -> impl Iterator<Item = &Aside> {
        self.policies_aside.values().chain(self.services_aside.values())
    }

    /// Ids ran out although the sizes are within their limits: the namespace that takes most of
    /// them is set aside as a whole until something about it changes. False: nobody is left who
    /// could give any up.
    pub fn blame(
        &mut self,
        cluster: &Cluster,
        resource: Resource,
        usage: &BTreeMap<Arc<str>, u64>,
        limit: u64,
    ) -> bool {
        if self.give_way(cluster) {
            return true;
        }
        let candidates =
            usage.iter().filter(|(namespace, _)| !self.blamed.contains_key(*namespace));
        let heaviest = candidates.max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        let Some((namespace, &takes)) = heaviest.filter(|(_, takes)| **takes > 0) else {
            return false;
        };
        self.blamed.insert(namespace.clone(), Blame { resource, takes, limit });
        self.decide(cluster);
        true
    }

    /// Ids ran out: what is only tried gives way. False: there is nothing that could.
    pub(crate) fn give_way(&mut self, cluster: &Cluster) -> bool {
        let gives = self.trying.give_way();
        if gives {
            self.decide(cluster);
        }
        gives
    }

    fn account(&mut self, namespace: &Arc<str>) -> &mut Account {
        self.accounts.entry(namespace.clone()).or_default()
    }

    fn is_local(&self, pod: &Pod) -> bool {
        self.scope.holds(pod) && pod.is_policed()
    }

    /// True where sizes may have changed.
    fn note(&mut self, cluster: &Cluster, event: &Event) -> bool {
        match event {
            Event::Policy { key, policy } => {
                self.blamed.remove(&key.namespace);
                let tried = self.trying.set(Form::Audited, key, policy.as_ref());
                let Some(account) = self.accounts.get_mut(&key.namespace) else { return tried };
                account.set_policy(&key.name, policy.as_ref().and_then(enforced));
                true
            }
            Event::Staged { key, staged } => self.trying.stage(key, staged.as_ref()),
            Event::Service { key, service } => {
                match service {
                    Some(service) => self.services.insert(key.clone(), pairs(service)),
                    None => self.services.remove(key),
                };
                true
            }
            Event::Pod { key, pod } => {
                let pod = pod.as_ref().filter(|pod| self.is_local(pod));
                let known = self.accounts.contains_key(&key.namespace);
                if !known && pod.is_none() {
                    return false;
                }
                let account = self.account(&key.namespace);
                let changed = account.set_pod(key, pod);
                if !known {
                    let first = ObjectKey::new(key.namespace.clone(), "");
                    let here = cluster
                        .policies
                        .range(first..)
                        .take_while(|(k, _)| k.namespace == key.namespace);
                    here.for_each(|(k, policy)| account.set_policy(&k.name, enforced(policy)));
                }
                if account.is_empty() {
                    self.accounts.remove(&key.namespace);
                }
                if changed {
                    self.blamed.remove(&key.namespace);
                }
                changed
            }
            Event::Tier { key, policy } => self.trying.set_tier(key, policy.as_ref()),
            Event::Namespace { .. }
            | Event::ByDefault(_)
            | Event::SecurityGroup { .. }
            | Event::PrefixList { .. }
            | Event::CloudInterface { .. }
            | Event::SecurityGroupPolicy { .. }
            | Event::Account { .. }
            | Event::Resolvers(_)
            | Event::Enforcement(_)
            | Event::Node { .. }
            | Event::Interface { .. }
            | Event::Wire(_) => false,
        }
    }

    fn decide(&mut self, cluster: &Cluster) {
        self.decide_services();
        let accounts = &self.accounts;
        self.trying.decide(&self.limits, |namespace| {
            accounts.get(namespace).map_or(0, |account| account.pods())
        });
        self.policies_aside.clear();
        let bounds: Vec<Usage> = self.accounts.values().map(Account::bound).collect();
        let fits = RESOURCES.into_iter().all(|r| {
            let each =
                bounds.iter().all(|bound| bound[r as usize] <= self.limits.namespace[r as usize]);
            each && bounds.iter().map(|b| b[r as usize]).sum::<u64>()
                <= self.limits.node[r as usize]
        });
        if !fits {
            self.decide_exactly(cluster);
        }
        for (namespace, blame) in &self.blamed {
            let Some(account) = self.accounts.get(namespace) else { continue };
            for name in account.policies() {
                let object = ObjectKey { namespace: namespace.clone(), name: name.clone() };
                let Blame { resource, takes, limit } = *blame;
                let aside = Aside {
                    kind: Kind::Policy,
                    resource,
                    takes,
                    namespace: takes,
                    limit,
                    object: object.clone(),
                };
                self.policies_aside.entry(object).or_insert(aside);
            }
        }
    }

    fn decide_exactly(&mut self, cluster: &Cluster) {
        let parts = Resource::Parts;
        let limit = self.limit(parts, self.accounts.values().map(|a| a.bound()[parts as usize]));
        for (namespace, account) in &mut self.accounts {
            let (used, gone) =
                (account.bound()[parts as usize], largest(account.parts().collect(), limit));
            account.look(namespace, cluster, gone.iter().map(|(name, _)| name.clone()).collect());
            set_aside(
                &mut self.policies_aside,
                Kind::Policy,
                keys(namespace, gone),
                (parts, used, limit),
            );
        }
        for resource in RESOURCES {
            let limit = self.limit(resource, self.accounts.values().map(|a| a.used(resource)));
            for (namespace, account) in &mut self.accounts {
                let used = account.used(resource);
                if used > limit {
                    let gone = keys(namespace, account.reduce(resource, limit));
                    set_aside(
                        &mut self.policies_aside,
                        Kind::Policy,
                        gone,
                        (resource, used, limit),
                    );
                }
            }
        }
    }

    /// How much of a resource a namespace may take where the namespaces take so much.
    fn limit(&self, resource: Resource, used: impl Iterator<Item = u64>) -> u64 {
        level(used, self.limits.node[resource as usize])
            .min(self.limits.namespace[resource as usize])
    }

    fn decide_services(&mut self) {
        self.services_aside.clear();
        let resource = Resource::Services;
        let mut by_namespace: BTreeMap<Arc<str>, Vec<(ObjectKey, u64)>> = BTreeMap::new();
        let mut used: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for (key, &takes) in &self.services {
            if takes > self.limits.service {
                let (limit, object) = (self.limits.service, key.clone());
                let aside =
                    Aside { kind: Kind::Service, resource, takes, namespace: takes, limit, object };
                self.services_aside.insert(key.clone(), aside);
                continue;
            }
            *used.entry(key.namespace.clone()).or_default() += takes;
            by_namespace.entry(key.namespace.clone()).or_default().push((key.clone(), takes));
        }
        let limit = self.limit(resource, used.values().copied());
        for (namespace, total) in used.into_iter().filter(|(_, used)| *used > limit) {
            let gone = largest(by_namespace.remove(&namespace).unwrap_or_default(), limit);
            set_aside(&mut self.services_aside, Kind::Service, gone, (resource, total, limit));
        }
    }
}

/// One that is only tried takes nothing of what is enforced.
fn enforced(policy: &Policy) -> Option<&Policy> {
    Some(policy).filter(|policy| policy.mode == Mode::Enforced)
}

/// The largest of a list, without which the others take at most `limit`; between equals their names
/// decide.
fn largest<K: Ord>(mut list: Vec<(K, u64)>, limit: u64) -> Vec<(K, u64)> {
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut left: u64 = list.iter().map(|(_, takes)| takes).sum();
    let mut gone = 0;
    while left > limit && gone < list.len() {
        left -= list[gone].1;
        gone += 1;
    }
    list.truncate(gone);
    list
}

/// Names of objects of a namespace as keys.
fn keys(namespace: &Arc<str>, names: Vec<(Arc<str>, u64)>) -> Vec<(ObjectKey, u64)> {
    let key = |name| ObjectKey { namespace: namespace.clone(), name };
    names.into_iter().map(|(name, takes)| (key(name), takes)).collect()
}

/// Notes objects of a namespace, with what each takes by itself; then what all of it take together,
/// and may take.
fn set_aside(
    aside: &mut BTreeMap<ObjectKey, Aside>,
    kind: Kind,
    objects: Vec<(ObjectKey, u64)>,
    (resource, namespace, limit): (Resource, u64, u64),
) {
    aside.extend(objects.into_iter().map(|(object, takes)| {
        (object.clone(), Aside { kind, resource, takes, namespace, limit, object })
    }));
}

/// The most that each may take so that all together fit: whoever takes less keeps what he takes
/// (max-min fairness).
fn level(used: impl Iterator<Item = u64>, mut room: u64) -> u64 {
    let mut used: Vec<u64> = used.collect();
    used.sort_unstable();
    let mut left = used.len() as u64;
    for takes in used {
        let equal = room / left;
        if takes > equal {
            return equal;
        }
        room -= takes;
        left -= 1;
    }
    u64::MAX
}
