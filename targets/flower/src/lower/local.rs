//! The node's pods as hardware lowering sees them: their addresses, what their sets answer, and the
//! openings that are denied on each port.
//!
//! Not here: filters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use netpolc_table::{
    ActionId, EndpointId, Origin, Origins, Program, SetId, TableId,
    eval::{self, Pipeline},
    schema::{Family, OwnKey, ServiceKey, Word},
};

use super::{
    common::{implied, index},
    openings::{Opening, Openings},
    region::{Region, covers, region},
};
use crate::{
    filter::host,
    topology::{PodPort, Port, Topology},
};

/// The node's pods that have ports.
#[derive(Clone, Debug)]
pub struct Local<'a> {
    /// The node's ports and addresses.
    pub topology: &'a Topology,
    /// The pods by endpoint.
    pub pods: BTreeMap<EndpointId, Pod>,
    /// Who has an address: of all endpoints of the program, also those without a port here.
    owners: BTreeMap<IpAddr, BTreeSet<EndpointId>>,
    /// Addresses of Services: what policy denies there goes on, and is judged after translation
    /// (S48).
    services: BTreeSet<IpAddr>,
}

/// A pod that has a port.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `namespace/name`, else its port's name.
    pub name: String,
    /// The interface on the host's side.
    pub port: Port,
    /// The pod's own hardware address; None where it is not known.
    pub mac: Option<[u8; 6]>,
    /// Must its packets have its own source (S55)?
    pub guard: Guard,
    /// The pod's own addresses by family (see [`index`]).
    pub own: [Vec<IpAddr>; 2],
    /// What its sets answer, by family; all is permitted where it is not isolated.
    egress: [Arc<Side>; 2],
    ingress: [Arc<Side>; 2],
}

/// What a pod may open, in one family.
#[derive(Clone, Debug)]
pub struct FromPod {
    /// What its own egress set allows, to all but the addresses of this node's pods.
    pub egress: Openings,
    /// Addresses of this node's pods where that is not what its set and theirs allow, with what
    /// both allow.
    pub local: Vec<Opening>,
    /// Prefixes that are never decided in hardware although the egress set denies something there.
    /// No local address is in one.
    pub exempt: Vec<(IpNetwork, Origins)>,
}

impl FromPod {
    /// What the egress policy opens, what is exempt from it, and the node's pods, in one list.
    pub fn openings(&self) -> Openings {
        let mut all = self.egress.clone();
        for (prefix, origins) in &self.exempt {
            all.pass(*prefix, origins.clone());
        }
        all.set(self.local.iter().cloned());
        all
    }
}

/// Are sources that are not the pod's own dropped in software?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Software drops such packets.
    Own,
    /// Such packets may pass.
    Any,
}

/// What one policy set answers in one family.
#[derive(Clone, Debug)]
pub struct Side {
    /// The answer for all protocols.
    pub region: Region,
    /// The answer for TCP openings.
    pub openings: Openings,
}

impl<'a> Local<'a> {
    /// The pods of a program that have a port in this topology.
    pub fn new(program: &Program, topology: &'a Topology) -> Self {
        let mut sides = BTreeMap::<(Option<SetId>, Family), Arc<Side>>::new();
        let mut side = |set: Option<SetId>| {
            Family::BOTH.map(|family| {
                let make = || {
                    let region = region(program, set, family);
                    Arc::new(Side { openings: Openings::of(&region), region })
                };
                sides.entry((set, family)).or_insert_with(make).clone()
            })
        };
        let mut owners = BTreeMap::<IpAddr, BTreeSet<EndpointId>>::new();
        let mut names = BTreeMap::<EndpointId, String>::new();
        for family in Family::BOTH {
            let entries = program.table(TableId::own(family)).entries.iter();
            for (key, entry) in entries.filter(|(_, e)| e.action == ActionId::Own) {
                let OwnKey { endpoint, address } = OwnKey::of(family, key);
                owners.entry(address).or_default().insert(endpoint);
                let pod = entry.origins.as_slice().iter().find_map(|o| match o {
                    Origin::Pod { pod } => Some(pod.to_string()),
                    _ => None,
                });
                if let Some(pod) = pod {
                    names.entry(endpoint).or_insert(pod);
                }
            }
        }
        let pod = |(&endpoint, PodPort { port, mac }): (&EndpointId, &PodPort)| {
            let word = eval::word(program, endpoint);
            let own = |family: Family| {
                let mine = owners
                    .iter()
                    .filter(|(a, of)| Family::of(**a) == family && of.contains(&endpoint));
                mine.map(|(a, _)| *a).collect()
            };
            let guarded = word.flags & (Word::GUARD | Word::EGRESS) != 0;
            let pod = Pod {
                name: names.get(&endpoint).unwrap_or(&port.name).clone(),
                port: port.clone(),
                mac: *mac,
                guard: if guarded { Guard::Own } else { Guard::Any },
                own: Family::BOTH.map(own),
                egress: side(Pipeline::FromPod.set(word)),
                ingress: side(Pipeline::ToPod.set(word)),
            };
            (endpoint, pod)
        };
        let pods = topology.pods.iter().map(pod).collect();
        let services = Family::BOTH.into_iter().flat_map(|family| {
            let keys = program.table(TableId::service(family)).entries.keys();
            keys.map(move |key| ServiceKey::of(family, key).address)
        });
        Self { topology, pods, services: services.collect(), owners }
    }

    /// The openings that a pod's own egress set and the ingress sets of this node's pods allow it.
    pub fn opened_by(&self, pod: &Pod, family: Family) -> FromPod {
        let set = &pod.egress[index(family)].openings;
        let own = &pod.own[index(family)];
        // The egress set's own word on addresses of this node's pods is replaced: what both sets
        // allow stands in `local`, one part for each address, and what is equal to the surroundings
        // is left out again below.
        let here = |a: &IpAddr| {
            self.owners.get(a).is_some_and(|o| o.iter().any(|e| self.pods.contains_key(e)))
        };
        let mut egress = set.clone();
        egress.forget(|prefix| prefix.prefix() == family.bits() && here(&prefix.network()));
        let others =
            self.owners.keys().filter(|a| Family::of(**a) == family && here(a) && !own.contains(a));
        let mut local: Vec<Opening> = others
            .filter_map(|address| {
                let from = set.at(*address);
                // The ingress sets judge the source, which nothing but the guard ties to the pod.
                let judging = (pod.guard == Guard::Own)
                    .then(|| self.towards(&self.owners[address], own, family))
                    .flatten();
                let (allowed, origins) = match judging {
                    None => (from.allowed.clone(), from.origins.clone()),
                    Some(towards) => {
                        let both = from.origins.as_slice().iter().chain(towards.origins.as_slice());
                        (from.allowed.intersection(&towards.allowed), both.cloned().collect())
                    }
                };
                let judged = Opening { prefix: host(*address), allowed, origins };
                (judged.allowed != egress.at(*address).allowed).then_some(judged)
            })
            .collect();
        let addresses =
            self.topology.node_addresses.iter().map(|a| (host(*a), implied("own node (S45)")));
        let own = own.iter().map(|a| (host(*a), implied("own address (S47)")));
        let services =
            self.services.iter().map(|a| host(*a)).chain(self.topology.translated.iter().copied());
        let services = services.map(|p| (p, implied("judged after translation (S48)")));
        let mut exempt: Vec<(IpNetwork, Origins)> = addresses.chain(own).chain(services).collect();
        exempt.retain(|(prefix, _)| prefix.is_ipv4() == (family == Family::V4));
        // Who is exempt needs no drops, and where the egress set denies nothing there is nothing to
        // exempt from. Of nested exemptions the widest is enough.
        local.retain(|p| !exempt.iter().any(|(e, _)| covers(*e, p.prefix)));
        exempt.retain(|(prefix, _)| egress.denies_within(*prefix));
        exempt.sort_by_key(|(prefix, _)| (prefix.prefix(), prefix.network()));
        let mut kept: Vec<(IpNetwork, Origins)> = Vec::new();
        for (prefix, origins) in exempt {
            if !kept.iter().any(|(wide, _)| covers(*wide, prefix)) {
                kept.push((prefix, origins));
            }
        }
        FromPod { egress, local, exempt: kept }
    }

    /// What the owners of an address, all with ports here, allow from one of `sources`. None:
    /// someone allows everything.
    fn towards(
        &self,
        owners: &BTreeSet<EndpointId>,
        sources: &[IpAddr],
        family: Family,
    ) -> Option<Opening> {
        let mut found: Option<Opening> = None;
        for owner in owners {
            let ingress = &self.pods.get(owner)?.ingress[index(family)].openings;
            let of = |source: &IpAddr| ingress.at(*source).clone();
            // Without an address of this family every source is somebody else's, and the guard
            // drops them all.
            for part in sources.iter().map(of) {
                found = Some(match found {
                    None => part,
                    Some(f) => Opening { allowed: f.allowed.union(&part.allowed), ..f },
                });
            }
        }
        found.filter(|f| !f.allowed.is_all())
    }

    /// Addresses of pods here whose ingress sets deny something, each with the openings that may
    /// come from outside.
    pub fn guarded(&self, family: Family) -> Vec<(IpAddr, &Pod, &Openings)> {
        let decided = |(address, owners): (&IpAddr, &BTreeSet<EndpointId>)| {
            // Of an address that two pods claim it is not known who gets the packet.
            let pod = self.pods.get(owners.first().filter(|_| owners.len() == 1)?)?;
            let openings = &pod.ingress[index(family)].openings;
            let translated = self.topology.translated.iter().any(|p| p.contains(*address));
            let node =
                self.topology.node_addresses.contains(address) || self.services.contains(address);
            (!openings.allows_all() && !translated && !node).then_some((*address, pod, openings))
        };
        self.owners.iter().filter(|(a, _)| Family::of(**a) == family).filter_map(decided).collect()
    }
}

impl Pod {
    /// What its egress set answers.
    pub fn egress(&self, family: Family) -> &Region {
        &self.egress[index(family)].region
    }

    /// What its ingress set answers.
    pub fn ingress(&self, family: Family) -> &Region {
        &self.ingress[index(family)].region
    }
}
