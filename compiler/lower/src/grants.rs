//! What a set grants a class: nothing, everything, or some ports. Pure: rules and members in,
//! grants and their origins out.
//!
//! Here: sets whose rules have no order, and what all sets share. Not here: the order of tiers
//! ([`crate::order`]), entries and ids ([`crate::rows`]).

use std::{collections::BTreeSet, sync::Arc};

use netpolc_policy::{Direction, ObjectKey};
use netpolc_table::{Class, Origin, schema::Family};

use crate::{
    index::AtomId,
    interval::{self, Edge, Lane, Piece, PortRange, PortSet, Stretch, without},
    membership::{Atom, Atoms},
    prefix::Prefix,
    rules::{Allowed, Rule, What},
    set::Set,
};

/// One interval that a rule grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Grant {
    pub(crate) lane: Lane,
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// Index into the set's sources.
    pub(crate) source: u32,
    /// Index of the port in the API object.
    pub(crate) port: Option<u32>,
}

impl Grant {
    /// None: it is about what has no ports.
    pub(crate) fn range(&self) -> Option<PortRange> {
        match self.lane {
            Lane::Ports(protocol) => Some((protocol, self.first, self.last)),
            Lane::Others | Lane::Apart(_) => None,
        }
    }

    /// As the table `port` has it. None: it is about all protocols without ports.
    pub(crate) fn stretch(&self) -> Option<Stretch> {
        Some((self.lane.number()?, self.first, self.last))
    }

    /// A grant of these ports by a source.
    pub(crate) fn by(source: u32, (lane, first, last): Piece) -> Self {
        Self { lane, first, last, source, port: None }
    }

    /// The same on these ports.
    pub(crate) fn on(self, (lane, first, last): Piece) -> Self {
        Self { lane, first, last, ..self }
    }

    /// As a part of a set of ports.
    pub(crate) fn piece(&self) -> Piece {
        (self.lane, self.first, self.last)
    }

    /// The ports at which it begins and has just ended, where that is within a protocol's ports.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Edge> {
        self.range().into_iter().flat_map(interval::edges)
    }

    fn of((protocol, first, last): PortRange, source: u32, port: Option<u32>) -> Self {
        Self { lane: Lane::Ports(protocol), first, last, source, port }
    }

    /// What is left of it without these ranges.
    fn without(self, ports: &BTreeSet<PortRange>) -> Vec<Grant> {
        let Lane::Ports(protocol) = self.lane else { return vec![self] };
        let cut = ports.iter().filter(|(p, ..)| *p == protocol);
        let left = without((self.first, self.last), cut.map(|(_, first, last)| (*first, *last)));
        left.map(|(first, last)| Grant { first, last, ..self }).collect()
    }
}

/// Sorted grants, each once. Those with the same ports by other rules differ: an entry's origins
/// are exact.
pub(crate) type Grants = Vec<Grant>;

/// Whether an outcome may say that everything is granted, or has to list the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Short,
    Listed,
}

/// Where a set uses a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// For addresses of a family that no peer of the set names.
    Base(Family),
    Class(Class),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Granted {
    #[default]
    Nothing,
    Everything,
    Ports(Grants),
}

/// What a set says about addresses, and because of which rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) grant: Granted,
    pub(crate) origins: Vec<Origin>,
    /// Rules of one priority that answer differently.
    pub(crate) conflict: Option<Conflict>,
    /// Where what is only tried would answer otherwise (S85).
    pub(crate) differs: Vec<Difference>,
}

/// Ports that a policy which is only tried would turn from permitted to denied, or the reverse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Difference {
    pub(crate) piece: Piece,
    /// The policy as users name it.
    pub(crate) policy: Arc<str>,
}

impl Difference {
    /// None: it is about what has no ports.
    pub(crate) fn range(&self) -> Option<PortRange> {
        match self.piece {
            (Lane::Ports(protocol), first, last) => Some((protocol, first, last)),
            (Lane::Others | Lane::Apart(_), ..) => None,
        }
    }

    /// As the table `port` has it. None: it is about all protocols without ports.
    pub(crate) fn stretch(&self) -> Option<Stretch> {
        let (lane, first, last) = self.piece;
        Some((lane.number()?, first, last))
    }

    /// The ports at which it begins and has just ended, where that is within a protocol's ports.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Edge> {
        self.range().into_iter().flat_map(interval::edges)
    }
}

/// Two policies of one tier and priority that answer differently for some ports (S64).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The policy whose answer counts.
    pub(crate) wins: Arc<str>,
    pub(crate) loses: Arc<str>,
    pub(crate) direction: Direction,
    /// The first of the ports.
    pub(crate) piece: Piece,
}

impl Conflict {
    /// A packet that both answer, of this pod with this remote; None: with anybody.
    pub(crate) fn packet(&self, pod: &ObjectKey, remote: Option<Prefix>) -> String {
        let remote =
            remote.map_or_else(|| "anybody".to_owned(), |prefix| prefix.to_ip().to_string());
        let (source, destination) = match self.direction {
            Direction::Ingress => (remote, pod.to_string()),
            Direction::Egress => (pod.to_string(), remote),
        };
        let (lane, port, _) = self.piece;
        match lane {
            Lane::Ports(protocol) => format!("{source} to {destination}, {protocol} port {port}"),
            Lane::Others | Lane::Apart(_) => {
                format!("{source} to {destination}, a protocol without ports")
            }
        }
    }
}

/// Adds up what all matching rules of a set without order grant addresses of a family that are
/// members of these atoms.
pub(crate) fn sum(
    set: &Set,
    family: Family,
    members: &[AtomId],
    atoms: &Atoms,
    form: Form,
) -> Outcome {
    let closed = service_ports(set, members, atoms);
    let (mut grants, mut origins, mut unlimited) = (Vec::new(), Vec::new(), Vec::new());
    for rule in set.rules_for(family, members) {
        origins.push(set.origin(rule));
        match &*rule.ports {
            // Only where ports have to be left out is it written out which ones it allows.
            Allowed::Any if closed.is_empty() && form == Form::Short => {
                unlimited.push(set.origin(rule))
            }
            Allowed::Any => {
                unlimited.push(set.origin(rule));
                grants.extend(parts(set, rule, members, atoms));
            }
            Allowed::Listed(_) => grants.extend(parts(set, rule, members, atoms)),
        }
    }
    if !unlimited.is_empty() && closed.is_empty() && form == Form::Short {
        // One entry answers for all ports, so it names only rules that allow every one of them.
        let (grant, origins) = (Granted::Everything, unlimited);
        return Outcome { grant, origins, ..Outcome::default() };
    }
    let grants = cut(set, grants, &closed);
    let grant = if grants.is_empty() { Granted::Nothing } else { Granted::Ports(grants) };
    Outcome { grant, origins, ..Outcome::default() }
}

/// The ports that a rule is about, for addresses that are members of these atoms, one by one as the
/// rule lists them.
pub(crate) fn parts(set: &Set, rule: &Rule, members: &[AtomId], atoms: &Atoms) -> Vec<Grant> {
    let Allowed::Listed(ports) = &*rule.ports else {
        let all = PortSet::everything(&set.apart);
        return all.pieces().map(|piece| Grant::by(rule.source, piece)).collect();
    };
    let mut parts = Vec::with_capacity(ports.len());
    for (port, what) in ports {
        match what {
            What::Range(range) => parts.push(Grant::of(*range, rule.source, *port)),
            What::Apart((number, first, last)) => {
                let grant = Grant::by(rule.source, (Lane::Apart(*number), *first, *last));
                parts.push(Grant { port: *port, ..grant });
            }
            What::Portless => {
                let all = interval::portless(&set.apart);
                let grants = all.map(|piece| Grant::by(rule.source, piece));
                parts.extend(grants.map(|grant| Grant { port: *port, ..grant }));
            }
            What::Named(name) => {
                // The numbers that it has on the pods of this class (S29).
                let numbers = members.iter().filter_map(|atom| match atoms.get(*atom) {
                    Atom::Port { name: n, number } if n == name => Some(*number),
                    _ => None,
                });
                let ranges = numbers.map(|number| (name.protocol, number, number));
                parts.extend(ranges.map(|range| Grant::of(range, rule.source, *port)));
            }
        }
    }
    parts
}

/// What is left of grants without ports that no set grants whatever its rules say. Sorted.
pub(crate) fn cut(set: &Set, mut grants: Vec<Grant>, closed: &BTreeSet<PortRange>) -> Grants {
    // A Service's ports are denied here, whatever covers its address, so that a packet comes to the
    // entry that defers it to its backend (S48).
    if !closed.is_empty() {
        grants = grants.into_iter().flat_map(|grant| grant.without(closed)).collect();
    }
    // A row's bit for a tunnel's port says that a rule names it (S45): what allows all ports does
    // not open a way around the policies.
    if !set.key.tunnels.is_empty() {
        let cut = |grant: Grant| match grant.port {
            None => grant.without(&set.key.tunnels),
            Some(_) => vec![grant],
        };
        grants = grants.into_iter().flat_map(cut).collect();
    }
    grants.sort();
    grants.dedup();
    grants
}

/// Ports of Services on a class's addresses that are deferred for the pods of this egress set: for
/// everybody's, or for the pods of one node whose address it is (S48).
pub(crate) fn service_ports(set: &Set, members: &[AtomId], atoms: &Atoms) -> BTreeSet<PortRange> {
    if set.key.direction == Direction::Ingress {
        return BTreeSet::new();
    }
    let lists = members.iter().filter_map(|atom| match atoms.get(*atom) {
        Atom::Service { node, ports } if node.is_none() || *node == set.key.node => Some(ports),
        _ => None,
    });
    lists.flatten().copied().collect()
}
