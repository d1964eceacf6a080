//! Keeps the interfaces of local pods, as the agent knows them.
//!
//! A pod that was found stays at its interface until that is gone or a better source names another
//! one; a doubt alone changes nothing. Over a restart the tables themselves keep this: they hold
//! each endpoint's own addresses and its interface. Not here: the search ([`crate::discovery`]),
//! and attaching programs ([`crate`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
};

use netpolc_lower::{Event, Interface};
use netpolc_policy::{ObjectKey, Pod};
use netpolc_table::{
    EndpointId, IfIndex, Program, TableId, eval,
    schema::{Family, InterfaceKey, Mac, OwnKey, SetEndpoint},
};

use super::network::Network;
use crate::discovery::{HostInterface, Placement, PodFacts};

/// On which interface each local pod is, and what is not certain about it.
#[derive(Debug, Default)]
pub struct PodInterfaces {
    found: BTreeMap<ObjectKey, Found>,
    /// Where pods are, according to CNI.
    placements: BTreeMap<ObjectKey, Placement>,
    /// The interfaces in an earlier agent's tables by pod address, until this agent has found its
    /// pods.
    installed: BTreeMap<IpAddr, Interface>,
    /// Why the interfaces of some pods are not certain.
    doubts: BTreeMap<ObjectKey, String>,
}

/// A pod as it was when its interface was found. Another pod of that name may be elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    interface: HostInterface,
    mac: Option<Mac>,
    uid: Option<Arc<str>>,
    addresses: Vec<IpAddr>,
}

impl Found {
    fn interface(&self) -> Interface {
        Interface { ifindex: self.interface.ifindex, mac: self.mac }
    }

    /// Whether this is still the same pod: one that was created again under the same name has
    /// another interface.
    fn is(&self, pod: &Pod) -> bool {
        self.uid == pod.uid && self.addresses.iter().any(|a| pod.addresses.contains(a))
    }
}

impl PodInterfaces {
    /// The interfaces in `program`, as far as they are `attached`.
    pub fn of(program: &Program, attached: &BTreeSet<IfIndex>) -> Self {
        let interfaces = program.table(TableId::Interface).entries.iter();
        let interfaces = interfaces
            .map(|(key, entry)| (SetEndpoint::of(entry).endpoint, InterfaceKey::of(key).ifindex));
        let interfaces: BTreeMap<EndpointId, IfIndex> =
            interfaces.filter(|(_, ifindex)| attached.contains(ifindex)).collect();
        let mut installed = BTreeMap::new();
        for family in Family::BOTH {
            for key in program.table(TableId::own(family)).entries.keys() {
                let OwnKey { endpoint, address } = OwnKey::of(family, key);
                let Some(&ifindex) = interfaces.get(&endpoint) else { continue };
                installed
                    .insert(address, Interface { ifindex, mac: eval::own_mac(program, endpoint) });
            }
        }
        Self { installed, ..Self::default() }
    }

    /// Sets where pods are according to CNI, from the next search on.
    pub fn set_placements(&mut self, placements: BTreeMap<ObjectKey, Placement>) {
        self.placements = placements;
    }

    /// The index of a pod's interface; None where it was not found.
    pub fn interface(&self, pod: &ObjectKey) -> Option<IfIndex> {
        self.found.get(pod).map(|found| found.interface.ifindex)
    }

    /// All pods whose interface was found.
    pub fn all(&self) -> impl Iterator<Item = (&ObjectKey, Interface)> {
        self.found.iter().map(|(pod, found)| (pod, found.interface()))
    }

    /// Why the interfaces of some pods are not certain, one line for each pod.
    pub fn doubts(&self) -> impl Iterator<Item = String> {
        self.doubts.iter().map(|(pod, doubt)| match self.interface(pod) {
            Some(ifindex) => format!("pod {pod}: {doubt}; it stays at interface {ifindex}"),
            None => format!(
                "pod {pod}: {doubt}; until this is resolved it has no interface, and its policies \
                are not enforced"
            ),
        })
    }

    /// Searches for the interfaces of `pods`, which are all local pods, and returns what has
    /// changed.
    ///
    /// # Errors
    /// The network cannot be read. Then nothing has changed.
    pub fn rescan<'a>(
        &mut self,
        pods: impl Iterator<Item = &'a Pod>,
        network: &mut impl Network,
    ) -> io::Result<Vec<Event>> {
        let pods: Vec<&Pod> = pods.collect();
        let wanted = pods.iter().map(|pod| {
            let placement = self.placements.get(&pod.key).cloned();
            let previous = self.previous(pod);
            let mac = previous.and_then(|interface| interface.mac);
            PodFacts {
                addresses: pod.addresses.clone(),
                placement,
                previous: previous.map(|i| i.ifindex),
                mac,
            }
        });
        let answers = network.find_interfaces(&wanted.collect::<Vec<_>>())?;
        let (mut found, mut doubts) = (BTreeMap::new(), BTreeMap::new());
        for (pod, answer) in pods.iter().zip(answers) {
            if let Some(interface) = answer.interface {
                let (uid, addresses) = (pod.uid.clone(), pod.addresses.clone());
                found.insert(pod.key.clone(), Found { interface, mac: answer.mac, uid, addresses });
            }
            if let Some(doubt) = answer.doubt {
                doubts.insert(pod.key.clone(), doubt);
            }
        }
        let events = self.changes(&found);
        self.found = found;
        let said = std::mem::replace(&mut self.doubts, doubts);
        for (pod, doubt) in self.doubts.iter().filter(|(pod, doubt)| said.get(*pod) != Some(doubt))
        {
            tracing::warn!(%pod, interface = self.interface(pod).map(IfIndex::get), "the pod's \
                interface is not certain: {doubt}");
        }
        if !pods.is_empty() {
            self.installed.clear();
        }
        Ok(events)
    }

    fn previous(&self, pod: &Pod) -> Option<Interface> {
        let known = self.found.get(&pod.key).filter(|found| found.is(pod)).map(Found::interface);
        known.or_else(|| pod.addresses.iter().find_map(|a| self.installed.get(a)).copied())
    }

    /// The events that lead from the interfaces so far to `found`. A pod that moves is logged as a
    /// warning.
    fn changes(&self, found: &BTreeMap<ObjectKey, Found>) -> Vec<Event> {
        let mut events = Vec::new();
        for (pod, before) in self.found.iter().filter(|(pod, _)| !found.contains_key(*pod)) {
            tracing::debug!(%pod, interface = before.interface.ifindex.get(), "the pod's interface \
                is gone");
            events.push(Event::Interface { pod: pod.clone(), interface: None });
        }
        for (pod, now) in found {
            let before = self.found.get(pod).map(Found::interface);
            if before == Some(now.interface()) {
                continue;
            }
            if let Some(old) = before.map(|i| i.ifindex).filter(|old| *old != now.interface.ifindex)
            {
                let (old, new, why) =
                    (old.get(), now.interface.ifindex.get(), now.interface.source);
                tracing::warn!(%pod, old, new, %why, "the pod's interface has changed");
            }
            events.push(Event::Interface { pod: pod.clone(), interface: Some(now.interface()) });
        }
        events
    }
}
