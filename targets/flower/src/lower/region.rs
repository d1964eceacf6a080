//! The answer of a policy set, as prefixes of remote addresses and sets of ports.
//!
//! A set answers per class; here each class is led back to the prefixes that belong to it, and
//! prefixes that say nothing new under the one that covers them are left out. Not here: filters.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use netpolc_table::{
    Class, Entry, Origin, Origins, PortClassId, Program, RowId, SetId, TableId, eval,
    schema::{self, Family, Leaf, PortKey, SetPortClass, verdict_key},
};

use super::ports::PortSet;

/// Protocols that have ports in NetworkPolicy.
pub const PORTED: [u8; 3] = [6, 17, 132];

/// The key in [`Answer::Ports`] that stands for every protocol without ports; IANA reserves the
/// number.
pub const OTHERS: u8 = 255;

/// What a set says about one remote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Everything is permitted: every protocol, every port.
    Permit,
    /// Nothing is permitted.
    Deny,
    /// Some ports of some protocols, and all protocols without ports where [`OTHERS`] is there;
    /// nothing else. Sets that are empty are left out; never all empty, never all full.
    Ports(BTreeMap<u8, PortSet>),
}

impl Answer {
    /// The ports of a protocol that has them ([`PORTED`]).
    pub fn ports(&self, protocol: u8) -> Cow<'_, PortSet> {
        match self {
            Answer::Permit => Cow::Owned(PortSet::all()),
            Answer::Deny => Cow::Owned(PortSet::none()),
            Answer::Ports(ports) => {
                ports.get(&protocol).map_or_else(|| Cow::Owned(PortSet::none()), Cow::Borrowed)
            }
        }
    }

    /// Does it permit a packet? `port` is None for protocols without ports.
    pub fn permits(&self, protocol: u8, port: Option<u16>) -> bool {
        match (self, port) {
            (Answer::Permit, _) => true,
            (Answer::Deny, _) => false,
            (Answer::Ports(ports), None) => {
                ports.contains_key(&OTHERS) && !PORTED.contains(&protocol)
            }
            (Answer::Ports(ports), Some(port)) => {
                ports.get(&protocol).is_some_and(|set| set.holds(port))
            }
        }
    }

    /// Is it everything but some ports?
    pub fn is_inverse(&self) -> bool {
        matches!(self, Answer::Ports(ports) if ports.contains_key(&OTHERS))
    }

    /// The answer that permits what both answers permit.
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Answer::Permit, x) | (x, Answer::Permit) => x.clone(),
            (Answer::Deny, _) | (_, Answer::Deny) => Answer::Deny,
            (Answer::Ports(a), Answer::Ports(b)) => {
                Answer::of(a.iter().filter_map(|(p, set)| Some((*p, set.intersection(b.get(p)?)))))
            }
        }
    }

    fn of(ports: impl Iterator<Item = (u8, PortSet)>) -> Self {
        let ports: BTreeMap<u8, PortSet> = ports.filter(|(_, set)| !set.is_empty()).collect();
        if ports.is_empty() {
            Answer::Deny
        } else if ports.len() == PORTED.len() + 1 && ports.values().all(PortSet::is_all) {
            Answer::Permit
        } else {
            Answer::Ports(ports)
        }
    }
}

/// One prefix with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The remotes; the longest prefix that holds an address decides.
    pub prefix: IpNetwork,
    /// What the set says about them.
    pub answer: Answer,
    /// Policies and rules behind it: of the row or base entry and its verdicts.
    pub origins: Origins,
}

/// All of a set's answers in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The family of all prefixes.
    pub family: Family,
    /// By (address, length). The first is the whole family, so that every address has an answer;
    /// each of the others differs from the one that covers it.
    pub parts: Vec<Part>,
}

impl Region {
    /// Permits everything for one more prefix of this family.
    pub fn permit(&mut self, prefix: IpNetwork, origins: &Origins) {
        if self
            .parts
            .iter()
            .filter(|p| covers(p.prefix, prefix))
            .max_by_key(|p| p.prefix.prefix())
            .is_some_and(|p| p.answer == Answer::Permit)
        {
            return;
        }
        let order = |p: &Part| (p.prefix.network(), p.prefix.prefix());
        let part = Part { prefix, answer: Answer::Permit, origins: origins.clone() };
        match self.parts.binary_search_by_key(&order(&part), order) {
            Ok(at) => self.parts[at] = part,
            Err(at) => self.parts.insert(at, part),
        }
    }

    /// The answer for an address of this family.
    pub fn part(&self, address: IpAddr) -> &Part {
        let covering = self.parts.iter().filter(|p| p.prefix.contains(address));
        covering.max_by_key(|p| p.prefix.prefix()).expect("the first part holds the whole family")
    }
}

/// What a set answers in a family. None as `set` is a direction that is not isolated: everything is
/// permitted.
///
/// The cost is one pass over the remote table.
pub fn region(program: &Program, set: Option<SetId>, family: Family) -> Region {
    let whole = whole(family);
    let Some(set) = set else {
        let part = Part { prefix: whole, answer: Answer::Permit, origins: Origins::default() };
        return Region { family, parts: vec![part] };
    };
    let mut answers = BTreeMap::<Class, (Answer, Origins)>::new();
    // Many classes have one row, and what a row permits takes a look at every port.
    let mut rows = BTreeMap::<RowId, (Answer, Vec<Origin>)>::new();
    let mut of = |class: Class| {
        let make = || answer(program, eval::answer(program, set, class), &mut rows);
        answers.entry(class).or_insert_with(make).clone()
    };
    let mut parts: Vec<Part> = Vec::new();
    // Indices of the parts that cover the current prefix, outermost first.
    let mut open: Vec<usize> = Vec::new();
    // Entries come in order of (address, length), so a prefix follows the prefixes that cover it.
    // One that says what its cover says is left out: longest match gives the same answer without
    // it.
    let mut push = |prefix: IpNetwork, (answer, origins): (Answer, Origins)| {
        while open.last().is_some_and(|&at| !covers(parts[at].prefix, prefix)) {
            open.pop();
        }
        if open.last().is_some_and(|&at| parts[at].answer == answer) {
            return;
        }
        open.push(parts.len());
        parts.push(Part { prefix, answer, origins });
    };
    let mut entries = program.table(TableId::remote(family)).entries.iter().peekable();
    // Addresses that no entry holds have class 0, so there is always a first part for all of them.
    if entries.peek().is_none_or(|(key, _)| key.prefix().1 != 0) {
        push(whole, of(Class::unnamed(family)));
    }
    for (key, entry) in entries {
        let (value, length) = key.prefix();
        push(network(value.get(), length, family), of(Leaf::of(family, entry).class));
    }
    Region { family, parts }
}

/// The prefix that holds every address of a family: 0.0.0.0/0 or ::/0.
pub fn whole(family: Family) -> IpNetwork {
    network(0, 0, family)
}

/// A prefix from a table's key.
pub fn network(value: u128, length: u8, family: Family) -> IpNetwork {
    let address: IpAddr = match family {
        Family::V4 => std::net::Ipv4Addr::from_bits(value as u32).into(),
        Family::V6 => std::net::Ipv6Addr::from_bits(value).into(),
    };
    IpNetwork::new(address, length)
        .expect("a table's prefix is no longer than its family's addresses")
}

/// Does `outer` hold all of `inner`? Both of one family.
pub fn covers(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

/// Closed intervals of ports, by protocol.
type Intervals = BTreeMap<u8, Vec<(u16, u16)>>;

fn answer(
    program: &Program,
    entry: Option<&Entry>,
    rows: &mut BTreeMap<RowId, (Answer, Vec<Origin>)>,
) -> (Answer, Origins) {
    let Some(entry) = entry else { return (Answer::Deny, Origins::default()) };
    match schema::Answer::of(Some(entry)) {
        schema::Answer::Permit => (Answer::Permit, entry.origins.clone()),
        schema::Answer::Row(id) => {
            let (answer, origins) = rows.entry(id).or_insert_with(|| row(program, id));
            (answer.clone(), entry.origins.as_slice().iter().chain(&*origins).cloned().collect())
        }
        schema::Answer::Deny => (Answer::Deny, entry.origins.clone()),
    }
}

/// What a row permits, and why.
fn row(program: &Program, row: RowId) -> (Answer, Vec<Origin>) {
    let permit = |class: PortClassId| program.get(TableId::Verdict, &verdict_key(row, class));
    let (mut listed, mut granted) = (Intervals::new(), Intervals::new());
    let mut origins = Vec::new();
    // What the tables tell apart of protocols without ports, filters do not: they pass all of them,
    // or none.
    let mut others = true;
    for (key, port) in &program.table(TableId::Port).entries {
        let PortKey { protocol, port: range } = PortKey::of(key);
        if !PORTED.contains(&protocol) {
            others &= permit(SetPortClass::of(port).port_class).is_some();
            continue;
        }
        let interval = (range.low as u16, range.high as u16);
        listed.entry(protocol).or_default().push(interval);
        if let Some(verdict) = permit(SetPortClass::of(port).port_class) {
            granted.entry(protocol).or_default().push(interval);
            origins.extend(verdict.origins.as_slice().iter().cloned());
        }
    }
    // Class 0: ports that no entry names, and protocols without.
    if let Some(verdict) = permit(PortClassId::default()) {
        for protocol in PORTED {
            let named = PortSet::of(listed.remove(&protocol).unwrap_or_default());
            granted.entry(protocol).or_default().extend(named.complement().intervals());
        }
        if others {
            granted.insert(OTHERS, vec![(0, u16::MAX)]);
        }
        origins.extend(verdict.origins.as_slice().iter().cloned());
    }
    origins.sort();
    origins.dedup();
    (Answer::of(granted.into_iter().map(|(protocol, list)| (protocol, PortSet::of(list)))), origins)
}
