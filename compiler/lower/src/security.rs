//! Security groups as they are known, which of them a pod has (S75-S79), and which of its packets
//! they judge (S82).
//!
//! Not here: who is a member of a group ([`crate::membership`]), and what groups permit together
//! ([`crate::order`]).

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::overflow::Diagnostic;
use ipnetwork::IpNetwork;
use netpolc_policy::{
    Enforcement, GroupPeer, InterfaceId, Labels, NetworkInterface, ObjectKey, Pod, PrefixListId,
    SecurityGroup, SecurityGroupId, SecurityGroupPolicy, SecurityGroups, group::RESOLVERS,
};

/// A security group with all that its rules name.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupSlot {
    pub(crate) id: SecurityGroupId,
    /// Nothing where the group is not known (S79).
    pub(crate) group: SecurityGroup,
    /// The prefix lists that its rules name, as far as they are known.
    pub(crate) lists: BTreeMap<PrefixListId, Arc<[IpNetwork]>>,
}

/// The groups that a pod has, by id and in order; None where groups say nothing about it.
pub(crate) type Grouped = Option<Box<[SecurityGroupId]>>;

/// What is known of groups and of who has them.
#[derive(Debug, Default)]
pub(crate) struct Security {
    known: SecurityGroups,
    /// Of groups that were asked for since something about groups changed.
    slots: BTreeMap<SecurityGroupId, Arc<GroupSlot>>,
}

/// What a change leaves to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Groups whose members among network interfaces may be others.
    pub(crate) members: BTreeSet<SecurityGroupId>,
    /// Pods may have other groups.
    pub(crate) pods: bool,
    /// Groups may say something else.
    pub(crate) rules: bool,
}

impl Security {
    /// Knows this, and nothing else.
    pub(crate) fn load(&mut self, known: SecurityGroups) {
        *self = Self { known, ..Self::default() };
    }

    /// Replaces one group; None: it is gone.
    pub(crate) fn set_group(
        &mut self,
        id: SecurityGroupId,
        group: Option<SecurityGroup>,
    ) -> Touched {
        let rules = set(&mut self.known.groups, id, group);
        self.slots.clear();
        Touched { rules, ..Touched::default() }
    }

    /// Replaces the entries of a prefix list.
    pub(crate) fn set_list(
        &mut self,
        id: PrefixListId,
        entries: Option<Vec<IpNetwork>>,
    ) -> Touched {
        let rules = set(&mut self.known.prefix_lists, id, entries);
        self.slots.clear();
        Touched { rules, ..Touched::default() }
    }

    /// Replaces a network interface.
    pub(crate) fn set_interface(
        &mut self,
        id: InterfaceId,
        interface: Option<NetworkInterface>,
    ) -> Touched {
        let groups = |interface: Option<&NetworkInterface>| {
            interface.map(|interface| interface.groups.clone()).unwrap_or_default()
        };
        let mut members: BTreeSet<SecurityGroupId> =
            groups(self.known.interfaces.get(&id)).into_iter().collect();
        members.extend(groups(interface.as_ref()));
        let pods = set(&mut self.known.interfaces, id, interface);
        Touched { members, pods, rules: false }
    }

    /// Replaces a SecurityGroupPolicy.
    pub(crate) fn set_policy(
        &mut self,
        key: ObjectKey,
        policy: Option<SecurityGroupPolicy>,
    ) -> Touched {
        let pods = set(&mut self.known.policies, key, policy);
        Touched { pods, ..Touched::default() }
    }

    /// Replaces the labels of a ServiceAccount.
    pub(crate) fn set_account(&mut self, key: ObjectKey, labels: Option<Labels>) -> Touched {
        let pods = set(&mut self.known.accounts, key, labels);
        Touched { pods: pods && !self.known.policies.is_empty(), ..Touched::default() }
    }

    /// Replaces the addresses of the network's resolver.
    pub(crate) fn set_resolvers(&mut self, resolvers: BTreeSet<IpAddr>) -> Touched {
        let rules = self.known.resolvers != resolvers;
        self.known.resolvers = resolvers;
        Touched { rules, ..Touched::default() }
    }

    /// Replaces the packets that groups judge.
    pub(crate) fn set_enforcement(&mut self, enforcement: Enforcement) -> Touched {
        let rules = self.known.enforcement != enforcement;
        self.known.enforcement = enforcement;
        Touched { rules, ..Touched::default() }
    }

    /// The groups of a pod (S75). An interface that is not known leaves a pod that names it with
    /// no group, and closed.
    pub(crate) fn of(&self, pod: &Pod) -> Grouped {
        let grouping = &pod.grouping;
        let mut groups = BTreeSet::new();
        if !grouping.interfaces.is_empty() {
            let known = grouping.interfaces.iter().filter_map(|i| self.known.interfaces.get(i));
            groups.extend(known.flat_map(|interface| &interface.groups));
            return Some(groups.into_iter().cloned().collect());
        }
        if !grouping.fargate.is_empty() {
            groups.extend(&grouping.fargate);
            return Some(groups.into_iter().cloned().collect());
        }
        self.by_policies(pod)
    }

    /// The groups that SecurityGroupPolicies give a pod.
    fn by_policies(&self, pod: &Pod) -> Grouped {
        if self.known.policies.is_empty() {
            return None;
        }
        let grouping = &pod.grouping;
        let mut groups = BTreeSet::new();
        let nothing = Labels::default();
        // Few policies ask for it, and each pod of the cluster comes by here.
        let account = LazyCell::new(|| {
            let key = ObjectKey::new(pod.key.namespace.clone(), grouping.account.clone());
            self.known.accounts.get(&key).unwrap_or(&nothing)
        });
        let first = ObjectKey::new(pod.key.namespace.clone(), "");
        let here = self.known.policies.range(first..);
        for (_, policy) in here.take_while(|(key, _)| key.namespace == pod.key.namespace) {
            let is_empty = policy.pods.is_none() && policy.accounts.is_none();
            let matches = policy.pods.as_ref().is_none_or(|pods| pods.matches(&pod.labels))
                && policy.accounts.as_ref().is_none_or(|accounts| accounts.matches(&account));
            if matches && !is_empty {
                groups.extend(&policy.groups);
            }
        }
        (!groups.is_empty()).then(|| groups.into_iter().cloned().collect())
    }

    /// What users should know about the groups of a pod of the node.
    pub(crate) fn diagnostics(&self, pod: &Pod) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let by_pod: Arc<str> = format!("pod {}", pod.key).into();
        let unknown = |what: String, named_by: &Arc<str>| Diagnostic::Unknown {
            what: what.into(),
            named_by: named_by.clone(),
        };
        let interfaces = pod.grouping.interfaces.iter();
        let interfaces = interfaces.filter(|id| !self.known.interfaces.contains_key(id));
        found.extend(interfaces.map(|id| unknown(format!("the interface {id}"), &by_pod)));
        let Some(groups) = self.of(pod) else { return found };
        for id in &groups {
            let Some(group) = self.known.groups.get(id) else {
                found.push(unknown(format!("the security group {id}"), &by_pod));
                continue;
            };
            let by_group: Arc<str> = format!("security group {id}").into();
            for peer in group.ingress.iter().chain(&group.egress).flat_map(|rule| &rule.peers) {
                match peer {
                    GroupPeer::PrefixList(list) if !self.known.prefix_lists.contains_key(list) => {
                        found.push(unknown(format!("the prefix list {list}"), &by_group));
                    }
                    GroupPeer::Group(peer) if !self.known.groups.contains_key(peer) => {
                        found.push(unknown(format!("the security group {peer}"), &by_group));
                    }
                    GroupPeer::PrefixList(_) | GroupPeer::Group(_) | GroupPeer::Network(_) => {}
                }
            }
        }
        let given = self.by_policies(pod).unwrap_or_default();
        if !pod.grouping.interfaces.is_empty() && !given.is_empty() && given != groups {
            let ids =
                |groups: &[SecurityGroupId]| groups.iter().map(|id| id.as_str().into()).collect();
            let pod = pod.key.to_string().into();
            found.push(Diagnostic::GroupsDisagree { pod, has: ids(&groups), given: ids(&given) });
        }
        found
    }

    /// The groups with these ids, in order; one that is not known has no rules (S79).
    pub(crate) fn slots(&mut self, ids: &[SecurityGroupId]) -> Vec<Arc<GroupSlot>> {
        ids.iter().map(|id| self.slot(id)).collect()
    }

    fn slot(&mut self, id: &SecurityGroupId) -> Arc<GroupSlot> {
        if let Some(slot) = self.slots.get(id) {
            return slot.clone();
        }
        let group = self.known.groups.get(id).cloned().unwrap_or_default();
        let peers = group.ingress.iter().chain(&group.egress).flat_map(|rule| &rule.peers);
        let lists = peers.filter_map(|peer| match peer {
            GroupPeer::PrefixList(list) => {
                Some((list.clone(), self.known.prefix_lists.get(list)?.as_slice().into()))
            }
            GroupPeer::Network(_) | GroupPeer::Group(_) => None,
        });
        let slot = Arc::new(GroupSlot { id: id.clone(), lists: lists.collect(), group });
        self.slots.insert(id.clone(), slot.clone());
        slot
    }

    /// The addresses of the network interfaces that have a group (S78), in order.
    pub(crate) fn networks(&self, group: &SecurityGroupId) -> Vec<IpNetwork> {
        let with = self.known.interfaces.values().filter(|i| i.groups.contains(group));
        let networks: BTreeSet<IpNetwork> =
            with.flat_map(|interface| interface.addresses.iter().copied()).collect();
        networks.into_iter().collect()
    }

    /// The groups that network interfaces have, each once.
    pub(crate) fn of_interfaces(&self) -> BTreeSet<SecurityGroupId> {
        self.known.interfaces.values().flat_map(|i| i.groups.iter().cloned()).collect()
    }

    /// The node within which groups do not judge the packets of a pod (S82); None: they judge all.
    pub(crate) fn exempt_node(&self, pod: &Pod) -> Option<Arc<str>> {
        match self.known.enforcement {
            Enforcement::Strict => None,
            Enforcement::Standard => pod.node.clone(),
        }
    }

    /// Do groups judge what a pod's node itself sends to it (S82)?
    pub(crate) fn judges_node(&self) -> bool {
        self.known.enforcement == Enforcement::Strict
    }

    /// The addresses of resolvers, which groups never block (S81).
    pub(crate) fn resolvers(&self) -> Arc<[IpNetwork]> {
        let all: BTreeSet<IpAddr> =
            RESOLVERS.iter().chain(&self.known.resolvers).copied().collect();
        all.into_iter().map(IpNetwork::from).collect()
    }
}

/// True where it differs from what was there.
fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    if map.get(&key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
    true
}
