//! Endpoints: the local pods, their words, own addresses and interfaces.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use netpolc_policy::{Direction, Isolation, ObjectKey, Pod, Protocol};
use netpolc_table::{
    ActionId, EndpointId, Origin, SetId, TableId,
    schema::{
        self, Family, Named, Word, directory_key, endpoint_key, fingerprint, interface_key, own_key, own_mac_key,
        set_endpoint, set_mac, set_policy,
    },
};

use crate::{
    Overflow,
    compiler::Compiler,
    event::Interface,
    sets::{PolicySlot, SetKey},
};

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    uid: Option<Arc<str>>,
    label: Arc<str>,
    node: Option<Arc<str>>,
    addresses: BTreeSet<IpAddr>,
    /// By direction; None: not isolated.
    sets: [Option<SetId>; 2],
}

fn pod_origin(label: &Arc<str>) -> [Origin; 1] {
    [Origin::Pod { pod: label.clone() }]
}

impl Compiler {
    /// A local pod is there, or changed. Its sets follow in [`Compiler::choose_sets`]. Where no id is left the others
    /// go on, and this pod has to wait.
    pub(crate) fn put_endpoint(&mut self, pod: &Pod) {
        let key = &pod.key;
        if self.endpoints.get(key).is_some_and(|e| e.uid != pod.uid || e.node != pod.node) {
            self.drop_endpoint(key);
        }
        if !self.endpoints.contains_key(key) {
            let meaning = crate::fingerprint(&(key, &pod.uid));
            let Ok(id) = self.endpoint_ids.take(Some(meaning)) else {
                self.unplaced.insert(key.clone());
                return;
            };
            let endpoint = Endpoint {
                id,
                uid: pod.uid.clone(),
                label: key.to_string().into(),
                node: pod.node.clone(),
                addresses: BTreeSet::new(),
                sets: [None, None],
            };
            let line = fingerprint(meaning).from(pod_origin(&endpoint.label));
            self.put(TableId::Directory, directory_key(Named::Endpoint(id)), line);
            self.endpoints.insert(key.clone(), endpoint);
            if let Some(interface) = self.interfaces.get(key).copied() {
                self.put_interface(key, interface);
            }
        }
        let endpoint = self.endpoints.get_mut(key).expect("just made");
        let (id, label) = (endpoint.id, endpoint.label.clone());
        let before = std::mem::replace(&mut endpoint.addresses, pod.addresses.iter().copied().collect());
        let now = endpoint.addresses.clone();
        for address in before.difference(&now) {
            self.take(TableId::own(Family::of(*address)), own_key(id, *address));
        }
        for address in now.difference(&before) {
            let own = schema::plain(ActionId::Own).from(pod_origin(&label));
            self.put(TableId::own(Family::of(*address)), own_key(id, *address), own);
        }
        self.stale.insert(key.clone());
    }

    pub(crate) fn drop_endpoint(&mut self, key: &ObjectKey) {
        self.unplaced.remove(key);
        let Some(endpoint) = self.endpoints.remove(key) else { return };
        self.stale.remove(key);
        if let Some(interface) = self.interfaces.get(key).copied() {
            self.take_interface(Some(endpoint.id), interface);
        }
        for address in &endpoint.addresses {
            self.take(TableId::own(Family::of(*address)), own_key(endpoint.id, *address));
        }
        self.take(TableId::Endpoint, endpoint_key(endpoint.id));
        self.take(TableId::Directory, directory_key(Named::Endpoint(endpoint.id)));
        self.released.extend(endpoint.sets.into_iter().flatten());
        self.endpoint_ids.give_back(endpoint.id);
    }

    /// Where a pod's host-side interface is; the newest word on an interface counts.
    pub(crate) fn set_interface(&mut self, pod: ObjectKey, interface: Option<Interface>) {
        self.reworded.insert(pod.clone());
        self.leave_interface(&pod);
        let Some(interface) = interface else { return };
        let mut others = self.interfaces.iter();
        let holder = others.find(|(_, i)| i.ifindex == interface.ifindex).map(|(k, _)| k.clone());
        if let Some(holder) = holder {
            self.leave_interface(&holder);
        }
        self.put_interface(&pod, interface);
        self.interfaces.insert(pod, interface);
    }

    fn leave_interface(&mut self, pod: &ObjectKey) {
        let Some(before) = self.interfaces.remove(pod) else { return };
        self.take_interface(self.endpoints.get(pod).map(|e| e.id), before);
    }

    fn take_interface(&mut self, endpoint: Option<EndpointId>, interface: Interface) {
        self.take(TableId::Interface, interface_key(interface.ifindex));
        if let (Some(id), Some(_)) = (endpoint, interface.mac) {
            self.take(TableId::OwnMac, own_mac_key(id));
        }
    }

    fn put_interface(&mut self, pod: &ObjectKey, interface: Interface) {
        let key = interface_key(interface.ifindex);
        let Some(endpoint) = self.endpoints.get(pod) else {
            self.take(TableId::Interface, key);
            return;
        };
        let (id, label) = (endpoint.id, endpoint.label.clone());
        self.put(TableId::Interface, key, set_endpoint(id).from(pod_origin(&label)));
        if let Some(mac) = interface.mac {
            self.put(TableId::OwnMac, own_mac_key(id), set_mac(mac).from(pod_origin(&label)));
        }
    }

    /// Finds the policies that isolate an endpoint and gives it their sets. Those it had are
    /// released at the end of the update, so that what both need is not made twice.
    pub(crate) fn choose_sets(&mut self, key: &ObjectKey) -> Result<(), Overflow> {
        let Some(pod) = self.pods.find(key).map(|id| self.pods.slot(id).pod.clone()) else { return Ok(()) };
        let mut sets = [None, None];
        for direction in Direction::BOTH {
            let isolating: Vec<PolicySlot> = self.isolating(&pod, direction);
            if !isolating.is_empty() {
                let set = self.set_key(&pod, direction, &isolating);
                sets[direction as usize] = Some(self.acquire_set(set, &isolating)?);
            }
        }
        let endpoint = self.endpoints.get_mut(key).expect("a stale endpoint exists");
        let before = std::mem::replace(&mut endpoint.sets, sets);
        self.released.extend(before.into_iter().flatten());
        self.reworded.insert(key.clone());
        Ok(())
    }

    /// Does some policy isolate this pod? Also for pods that are no endpoints, having no address yet.
    pub fn isolates(&self, pod: &Pod) -> bool {
        Direction::BOTH.into_iter().any(|direction| !self.isolating(pod, direction).is_empty())
    }

    fn isolating(&self, pod: &Pod, direction: Direction) -> Vec<PolicySlot> {
        let Some(namespace) = self.namespaces.get(&pod.key.namespace) else { return Vec::new() };
        let selecting = namespace.policies.values().filter(|slot| {
            matches!(slot.policy.isolation(direction), Isolation::Isolated(_)) && slot.selects(&pod.labels)
        });
        selecting.cloned().collect()
    }

    fn set_key(&self, pod: &Pod, direction: Direction, isolating: &[PolicySlot]) -> SetKey {
        let policies = isolating.iter().map(|p| p.version).collect();
        match direction {
            Direction::Ingress => {
                let mut names: BTreeSet<(Protocol, Arc<str>)> = BTreeSet::new();
                for slot in isolating {
                    names.extend(slot.ingress_names.iter().cloned());
                }
                let resolve = |(protocol, name): (Protocol, Arc<str>)| {
                    let numbers = pod.resolve_port(protocol, &name);
                    (protocol, name, numbers)
                };
                let resolved = names.into_iter().map(resolve).collect();
                SetKey { direction, policies, resolved, node: None, health_checks: Vec::new() }
            }
            Direction::Egress => {
                let (node, health_checks) = (pod.node.clone(), self.services.health_checks());
                SetKey { direction, policies, resolved: Vec::new(), node, health_checks }
            }
        }
    }

    /// Writes an endpoint's word.
    pub(crate) fn put_word(&mut self, key: &ObjectKey) {
        let Some(endpoint) = self.endpoints.get(key) else { return };
        let [ingress, egress] = endpoint.sets;
        let bridged = self.interfaces.get(key).is_some_and(|i| self.wire.bridged.contains(&i.ifindex));
        let flag = |set, bit| if set { bit } else { 0 };
        let word = Word {
            ingress_set: ingress.unwrap_or_default(),
            egress_set: egress.unwrap_or_default(),
            // Policies of other nodes trust a pod's source, whether it is isolated itself or not (S55).
            flags: flag(ingress.is_some(), Word::INGRESS)
                | flag(egress.is_some(), Word::EGRESS)
                | flag(bridged, Word::BRIDGED)
                | Word::GUARD,
        };
        let entry = set_policy(word).from(pod_origin(&endpoint.label));
        self.put(TableId::Endpoint, endpoint_key(endpoint.id), entry);
    }
}
