//! Which interface is which local pod's, as the agent goes by it, and how it keeps that.
//!
//! A pod that was found stays where it is until its interface is gone or something better says where it is: doubt takes nothing away.
//! Over a restart the tables themselves remember: an endpoint's own addresses and its interface.
//! Not here: where answers come from ([`crate::ways`]), attaching.

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
use crate::ways::{Place, Wanted, Way};

/// Interfaces of local pods.
#[derive(Debug, Default)]
pub struct Whereabouts {
    found: BTreeMap<ObjectKey, Found>,
    /// What CNI said.
    places: BTreeMap<ObjectKey, Place>,
    /// What an earlier agent's tables say, until this one has found its pods.
    installed: BTreeMap<IpAddr, Interface>,
    doubts: BTreeMap<ObjectKey, String>,
}

/// A pod as it was when it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    way: Way,
    mac: Option<Mac>,
    uid: Option<Arc<str>>,
    addresses: Vec<IpAddr>,
}

impl Found {
    fn interface(&self) -> Interface {
        Interface { ifindex: self.way.ifindex, mac: self.mac }
    }

    /// Is it still the same pod? One that was made anew under the same name has another interface.
    fn is(&self, pod: &Pod) -> bool {
        self.uid == pod.uid && self.addresses.iter().any(|a| pod.addresses.contains(a))
    }
}

impl Whereabouts {
    /// What `program` says, of interfaces that are `attached`.
    pub fn of(program: &Program, attached: &BTreeSet<IfIndex>) -> Self {
        let interfaces = program.table(TableId::Interface).entries.iter();
        let interfaces =
            interfaces.map(|(key, entry)| (SetEndpoint::of(entry).endpoint, InterfaceKey::of(key).ifindex));
        let interfaces: BTreeMap<EndpointId, IfIndex> =
            interfaces.filter(|(_, ifindex)| attached.contains(ifindex)).collect();
        let mut installed = BTreeMap::new();
        for family in Family::BOTH {
            for key in program.table(TableId::own(family)).entries.keys() {
                let OwnKey { endpoint, address } = OwnKey::of(family, key);
                let Some(&ifindex) = interfaces.get(&endpoint) else { continue };
                installed.insert(address, Interface { ifindex, mac: eval::own_mac(program, endpoint) });
            }
        }
        Self { installed, ..Self::default() }
    }

    /// What CNI says from now on.
    pub fn set_places(&mut self, places: BTreeMap<ObjectKey, Place>) {
        self.places = places;
    }

    /// A pod's interface, where it was found.
    pub fn interface(&self, pod: &ObjectKey) -> Option<IfIndex> {
        self.found.get(pod).map(|found| found.way.ifindex)
    }

    /// All that were found.
    pub fn all(&self) -> impl Iterator<Item = (&ObjectKey, Interface)> {
        self.found.iter().map(|(pod, found)| (pod, found.interface()))
    }

    /// What is not certain, a line for each pod.
    pub fn doubts(&self) -> impl Iterator<Item = String> {
        self.doubts.iter().map(|(pod, doubt)| match self.interface(pod) {
            Some(ifindex) => format!("pod {pod}: {doubt}; it stays at interface {ifindex}"),
            None => format!("pod {pod}: {doubt}; it is at none until that is clear, and not enforced"),
        })
    }

    /// Looks for the interfaces of `pods`, which are all, and says what has changed.
    ///
    /// # Errors
    /// The network's; then nothing has changed.
    pub fn look<'a>(
        &mut self,
        pods: impl Iterator<Item = &'a Pod>,
        network: &mut impl Network,
    ) -> io::Result<Vec<Event>> {
        let pods: Vec<&Pod> = pods.collect();
        let wanted = pods.iter().map(|pod| {
            let place = self.places.get(&pod.key).cloned();
            let before = self.before(pod);
            let mac = before.and_then(|interface| interface.mac);
            Wanted { addresses: pod.addresses.clone(), place, before: before.map(|i| i.ifindex), mac }
        });
        let answers = network.ways(&wanted.collect::<Vec<_>>())?;
        let (mut found, mut doubts) = (BTreeMap::new(), BTreeMap::new());
        for (pod, answer) in pods.iter().zip(answers) {
            if let Some(way) = answer.way {
                let (uid, addresses) = (pod.uid.clone(), pod.addresses.clone());
                found.insert(pod.key.clone(), Found { way, mac: answer.mac, uid, addresses });
            }
            if let Some(doubt) = answer.doubt {
                doubts.insert(pod.key.clone(), doubt);
            }
        }
        let events = self.changes(&found);
        self.found = found;
        let said = std::mem::replace(&mut self.doubts, doubts);
        for (pod, doubt) in self.doubts.iter().filter(|(pod, doubt)| said.get(*pod) != Some(doubt)) {
            tracing::warn!(%pod, interface = self.interface(pod).map(IfIndex::get), "which interface is its own is not certain: {doubt}");
        }
        if !pods.is_empty() {
            self.installed.clear();
        }
        Ok(events)
    }

    fn before(&self, pod: &Pod) -> Option<Interface> {
        let known = self.found.get(&pod.key).filter(|found| found.is(pod)).map(Found::interface);
        known.or_else(|| pod.addresses.iter().find_map(|a| self.installed.get(a)).copied())
    }

    /// The events that lead from what was found to `found`; what moves is said loudly.
    fn changes(&self, found: &BTreeMap<ObjectKey, Found>) -> Vec<Event> {
        let mut events = Vec::new();
        for (pod, before) in self.found.iter().filter(|(pod, _)| !found.contains_key(*pod)) {
            tracing::debug!(%pod, interface = before.way.ifindex.get(), "its interface is gone");
            events.push(Event::Interface { pod: pod.clone(), interface: None });
        }
        for (pod, now) in found {
            let before = self.found.get(pod).map(Found::interface);
            if before == Some(now.interface()) {
                continue;
            }
            if let Some(old) = before.map(|i| i.ifindex).filter(|old| *old != now.way.ifindex) {
                let (old, new, why) = (old.get(), now.way.ifindex.get(), now.way.by);
                tracing::warn!(%pod, old, new, %why, "its interface is another one now");
            }
            events.push(Event::Interface { pod: pod.clone(), interface: Some(now.interface()) });
        }
        events
    }
}
