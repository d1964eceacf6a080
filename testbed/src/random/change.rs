//! What may happen to a cluster, one event at a time.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use netpolc_policy::{
    ByDefault, Cluster, Enforcement, InterfaceId, Labels, Namespace, NetworkInterface, Node,
    ObjectKey, Phase, Pod, Policy, PrefixListId, SecurityGroup, SecurityGroupId,
    SecurityGroupPolicy, Service, Staged, TierKey, TierPolicy,
};

use super::{Rng, Shape, groups, objects, tiers};

/// An event, as a watch would bring it: the object as it is from now on, None where it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A namespace comes, changes or goes.
    Namespace {
        /// The object's name.
        name: Arc<str>,
        /// The namespace as it is now; None removes it.
        namespace: Option<Namespace>,
    },
    /// Another default holds for pods that no policy isolates. No watch brings this; an agent that
    /// starts with other options does.
    ByDefault(ByDefault),
    /// A pod comes, changes or goes.
    Pod {
        /// The object's namespace and name.
        key: ObjectKey,
        /// The pod as it is now; None removes it.
        pod: Option<Pod>,
    },
    /// A policy comes, changes or goes.
    Policy {
        /// The object's namespace and name.
        key: ObjectKey,
        /// The policy as it is now; None removes it.
        policy: Option<Policy>,
    },
    /// A Service comes, changes or goes.
    Service {
        /// The object's namespace and name.
        key: ObjectKey,
        /// The Service as it is now; None removes it.
        service: Option<Service>,
    },
    /// A ClusterNetworkPolicy comes, changes or goes.
    Tier {
        /// The object's group and name.
        key: TierKey,
        /// The policy as it is now; None removes it.
        policy: Option<TierPolicy>,
    },
    /// A StagedKubernetesNetworkPolicy comes, changes or goes.
    Staged {
        /// The object's namespace and name.
        key: ObjectKey,
        /// What it would do; None removes it.
        staged: Option<Staged>,
    },
    /// A security group comes, changes or goes.
    SecurityGroup {
        /// Its id.
        id: SecurityGroupId,
        /// The group as it is now; None removes it.
        group: Option<SecurityGroup>,
    },
    /// A prefix list comes, changes or goes.
    PrefixList {
        /// Its id.
        id: PrefixListId,
        /// Its entries; None removes it.
        entries: Option<Vec<IpNetwork>>,
    },
    /// A network interface of the cloud comes, changes or goes.
    CloudInterface {
        /// Its id.
        id: InterfaceId,
        /// The interface as it is now; None removes it.
        interface: Option<NetworkInterface>,
    },
    /// A SecurityGroupPolicy comes, changes or goes.
    SecurityGroupPolicy {
        /// The object's namespace and name.
        key: ObjectKey,
        /// The policy as it is now; None removes it.
        policy: Option<SecurityGroupPolicy>,
    },
    /// A ServiceAccount comes, changes or goes.
    Account {
        /// The object's namespace and name.
        key: ObjectKey,
        /// Its labels; None removes it.
        labels: Option<Labels>,
    },
    /// Security groups judge other packets from now on.
    Enforcement(Enforcement),
    /// A node comes, changes or goes.
    Node {
        /// The object's name.
        name: Arc<str>,
        /// The node as it is now; None removes it.
        node: Option<Node>,
    },
}

impl Change {
    /// What it does to the model.
    pub fn apply(&self, cluster: &mut Cluster) {
        match self.clone() {
            Change::Namespace { name, namespace } => set(&mut cluster.namespaces, name, namespace),
            Change::ByDefault(by_default) => cluster.by_default = by_default,
            Change::Pod { key, pod } => set(&mut cluster.pods, key, pod),
            Change::Policy { key, policy } => set(&mut cluster.policies, key, policy),
            Change::Service { key, service } => set(&mut cluster.services, key, service),
            Change::Tier { key, policy } => set(&mut cluster.tiers, key, policy),
            Change::Staged { key, staged } => set(&mut cluster.staged, key, staged),
            Change::SecurityGroup { id, group } => set(&mut cluster.security.groups, id, group),
            Change::PrefixList { id, entries } => {
                set(&mut cluster.security.prefix_lists, id, entries)
            }
            Change::CloudInterface { id, interface } => {
                set(&mut cluster.security.interfaces, id, interface)
            }
            Change::SecurityGroupPolicy { key, policy } => {
                set(&mut cluster.security.policies, key, policy)
            }
            Change::Enforcement(enforcement) => cluster.security.enforcement = enforcement,
            Change::Account { key, labels } => set(&mut cluster.security.accounts, key, labels),
            Change::Node { name, node } => set(&mut cluster.nodes, name, node),
        }
    }
}

fn set<K: Ord, V>(map: &mut std::collections::BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// Something that may happen to `cluster` next. It is for the caller to apply.
pub fn change(rng: &mut Rng, shape: &Shape, cluster: &Cluster) -> Change {
    match rng.below(120) {
        116..118 => staged(rng, cluster),
        118..120 => Change::ByDefault(objects::by_default(rng)),
        0..8 => namespace(rng, shape),
        8..14 => node(rng, shape),
        14..22 => service(rng, cluster),
        // A cluster without them gets some now and then, and few lose their last one.
        108..116 if !cluster.security.policies.is_empty() || rng.chance(5) => groups::change(rng),
        100..108 if !cluster.tiers.is_empty() || rng.chance(10) => tier(rng, shape, cluster),
        22..40 | 100..118 => policy(rng, shape, cluster),
        40..55 => new_pod(rng, shape, cluster),
        _ => {
            let keys: Vec<&ObjectKey> = cluster.pods.keys().collect();
            if keys.is_empty() {
                return new_pod(rng, shape, cluster);
            }
            let key = (*rng.pick(&keys)).clone();
            pod(rng, shape, cluster, &cluster.pods[&key])
        }
    }
}

fn namespace(rng: &mut Rng, shape: &Shape) -> Change {
    let name = format!("n{}", rng.below(shape.namespaces)).into();
    let namespace = (!rng.chance(15)).then(|| objects::namespace(rng));
    Change::Namespace { name, namespace }
}

fn service(rng: &mut Rng, cluster: &Cluster) -> Change {
    let key = objects::service_key(rng);
    let service = (!rng.chance(25)).then(|| objects::service(rng, cluster));
    Change::Service { key, service }
}

fn tier(rng: &mut Rng, shape: &Shape, cluster: &Cluster) -> Change {
    let keys: Vec<&TierKey> = cluster.tiers.keys().collect();
    let crowded = keys.len() > shape.tiers;
    if !keys.is_empty() && rng.chance(if crowded { 50 } else { 20 }) {
        return Change::Tier { key: (*rng.pick(&keys)).clone(), policy: None };
    }
    let known = (!keys.is_empty() && rng.chance(50)).then(|| (*rng.pick(&keys)).clone());
    let key = known.unwrap_or_else(|| tiers::key(rng));
    let mut policy = tiers::policy(rng, key.clone());
    // The same rules for other pods or at another place, or something new.
    if let Some(old) = cluster.tiers.get(&key).filter(|_| rng.chance(40)) {
        policy.ingress = old.ingress.clone();
        policy.egress = old.egress.clone();
    }
    Change::Tier { key, policy: Some(policy) }
}

fn staged(rng: &mut Rng, cluster: &Cluster) -> Change {
    let staged: Vec<&ObjectKey> = cluster.staged.keys().collect();
    if !staged.is_empty() && rng.chance(if staged.len() > 2 { 60 } else { 30 }) {
        return Change::Staged { key: (*rng.pick(&staged)).clone(), staged: None };
    }
    let mut keys: Vec<ObjectKey> = cluster.policies.keys().cloned().collect();
    keys.push(ObjectKey::new("n0", "staged"));
    let key = rng.pick(&keys).clone();
    let staged = match rng.chance(30) {
        true => Staged::Delete,
        false => Staged::Set(groups::enforced(objects::policy(rng, key.clone()))),
    };
    Change::Staged { key, staged: Some(staged) }
}

fn node(rng: &mut Rng, shape: &Shape) -> Change {
    let n = rng.below(shape.nodes);
    let node = (!rng.chance(15)).then(|| objects::node(rng, n));
    Change::Node { name: format!("node{n}").into(), node }
}

fn policy(rng: &mut Rng, shape: &Shape, cluster: &Cluster) -> Change {
    let keys: Vec<&ObjectKey> = cluster.policies.keys().collect();
    let fresh = || ObjectKey::new("n0", "policy0");
    // Many policies: more often one goes; few: more often one comes.
    let crowded = keys.len() > shape.policies;
    if !keys.is_empty() && rng.chance(if crowded { 50 } else { 20 }) {
        return Change::Policy { key: (*rng.pick(&keys)).clone(), policy: None };
    }
    let key = if !keys.is_empty() && rng.chance(50) {
        (*rng.pick(&keys)).clone()
    } else {
        let free = (0..)
            .map(|i| ObjectKey::new(format!("n{}", i % shape.namespaces), format!("policy{i}")));
        free.into_iter().find(|k| !cluster.policies.contains_key(k)).unwrap_or_else(fresh)
    };
    // The same rules for other pods, or something new.
    let mut policy = objects::policy(rng, key.clone());
    if let Some(old) = cluster.policies.get(&key).filter(|_| rng.chance(40)) {
        policy.ingress = old.ingress.clone();
        policy.egress = old.egress.clone();
    }
    Change::Policy { key, policy: Some(policy) }
}

fn new_pod(rng: &mut Rng, shape: &Shape, cluster: &Cluster) -> Change {
    if cluster.pods.len() > shape.pods * 3 / 2 {
        let keys: Vec<&ObjectKey> = cluster.pods.keys().collect();
        return Change::Pod { key: (*rng.pick(&keys)).clone(), pod: None };
    }
    let namespace = format!("n{}", rng.below(shape.namespaces));
    let free = (0..).map(|i| ObjectKey::new(namespace.as_str(), format!("pod{i}")));
    let key =
        free.into_iter().find(|k| !cluster.pods.contains_key(k)).expect("names do not run out");
    let pod = objects::pod(rng, shape, key.clone(), cluster);
    Change::Pod { key, pod: Some(pod) }
}

/// Something happens to a pod that is there.
fn pod(rng: &mut Rng, shape: &Shape, cluster: &Cluster, old: &Pod) -> Change {
    let key = old.key.clone();
    let other = objects::pod(rng, shape, key.clone(), cluster);
    let old = old.clone();
    let pod = match rng.below(100) {
        0..20 => None,
        20..45 => Some(Pod { labels: other.labels, ..old }),
        45..60 => Some(Pod { addresses: other.addresses, ..old }),
        60..70 => Some(Pod { phase: Phase::Finished, ..old }),
        70..80 => Some(Pod { ports: other.ports, ..old }),
        // Another pod of the same name, all at once or (below) at the old one's addresses (S43).
        80..88 => Some(other),
        88..95 => Some(Pod { uid: other.uid, ..old }),
        // The same again, as after a watch was restarted.
        _ => Some(old),
    };
    Change::Pod { key, pod }
}
