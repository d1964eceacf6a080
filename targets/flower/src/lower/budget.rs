//! What a NIC has room for: filters, chains times prios, masks. What does not fit stays in
//! software.
//!
//! A [`Unit`] is what is sound to leave out alone. Units are taken in a fixed order, the most
//! valuable first; one that does not fit is left out, and smaller ones behind it may still fit. Not
//! here: what units are made of.

use std::collections::{BTreeMap, BTreeSet};

use netpolc_table::Origins;

use super::chains::{Chains, Rule};
use crate::{
    capability::Capabilities,
    filter::{Action, Filter, Match, Ports, Side},
    lowered::{Placed, Reason, Spilled},
    topology::Port,
};

/// Filters that are in hardware together or not at all.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The port they are on.
    pub port: Port,
    /// What they do, for users.
    pub what: String,
    /// What kind of good they do.
    pub value: Value,
    /// Filters of chain 0 on the ingress hook; the chains they lead to belong to the unit.
    pub rules: Vec<Rule>,
    /// The policies and rules behind it.
    pub origins: Origins,
}

/// Lower is better; of units that are alike first those that take fewer filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Drops openings: what an attacker sends. First what drops more, by the bits of remote and
    /// port that are fixed; 0 for all of a port's openings.
    Drop(u32),
    /// Forwards established connections, which saves the host work.
    Forward,
}

/// Which keys a filter has, and how many bits of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MaskKey([u16; 11]);

/// The mask of a filter.
pub fn mask(matches: &Match) -> MaskKey {
    let Match::Flower(p) = matches else { return MaskKey::default() };
    let ports = |ports: Option<Ports>| match ports {
        None => 0,
        Some(Ports::Masked(m)) => m.mask,
        Some(Ports::Range { .. }) => 1,
    };
    let prefix = |prefix: Option<ipnetwork::IpNetwork>| prefix.map_or(0, |p| p.prefix().into());
    MaskKey([
        p.ethertype as u16,
        p.protocol.is_some().into(),
        prefix(p.source),
        prefix(p.destination),
        ports(p.source_port),
        ports(p.destination_port),
        p.tcp_flags.map_or(0, |m| m.mask),
        p.icmp_type.is_some().into(),
        p.hop_limit.is_some().into(),
        p.destination_mac.is_some().into(),
        p.ct_state.map_or(0, |m| m.mask),
    ])
}

/// What fits on each port, sorted; and what does not. `chains` has what the rules of units lead to.
pub fn fit(
    mut units: Vec<Unit>,
    chains: BTreeMap<Port, Chains>,
    can: &Capabilities,
) -> (BTreeMap<Port, Vec<Placed>>, Vec<Spilled>) {
    let chains: BTreeMap<Port, BTreeMap<u32, Vec<Placed>>> =
        chains.into_iter().map(|(p, c)| (p, by_number(c))).collect();
    let none = BTreeMap::new();
    // The whole key is made of content, so the same units are taken whatever order they came in.
    units.sort_by_cached_key(|unit| {
        let chains = chains.get(&unit.port).unwrap_or(&none);
        let chained = lead_to(&unit.rules, chains, &BTreeSet::new())
            .into_iter()
            .filter_map(|n| chains.get(&n));
        let filters = unit.rules.len() + chained.map(Vec::len).sum::<usize>();
        let rules: Vec<(u16, Match, Action)> =
            unit.rules.iter().map(|r| (r.prio, r.matches.clone(), r.action.clone())).collect();
        (unit.value, filters, unit.port.clone(), unit.what.clone(), rules)
    });
    let mut nic = Nic { can, filters: 0, tables: BTreeMap::new() };
    let mut ports = BTreeMap::<Port, (BTreeSet<u32>, Vec<Placed>)>::new();
    let mut spilled = Vec::new();
    for unit in units {
        // A chain that an earlier unit leads to is there already and costs nothing more.
        let (reached, placed) = ports.entry(unit.port.clone()).or_default();
        let chains = chains.get(&unit.port).unwrap_or(&none);
        let new = lead_to(&unit.rules, chains, reached);
        let mut wanted: Vec<Placed> = unit.rules.iter().map(|r| place(0, r)).collect();
        wanted.extend(new.iter().filter_map(|n| chains.get(n)).flatten().cloned());
        match nic.take(&wanted) {
            Ok(()) => {
                reached.extend(new);
                placed.extend(wanted);
            }
            Err(reason) => spilled.push(Spilled {
                port: unit.port,
                what: unit.what,
                reason,
                filters: wanted.len() as u32,
                origins: unit.origins,
            }),
        }
    }
    let sorted = |(port, (_, mut placed)): (Port, (BTreeSet<u32>, Vec<Placed>))| {
        placed.sort_by(|a, b| a.filter.cmp(&b.filter));
        placed.dedup_by(|a, b| a.filter == b.filter);
        (port, placed)
    };
    let ports = ports.into_iter().map(sorted).filter(|(_, placed)| !placed.is_empty()).collect();
    (ports, gather(spilled))
}

/// One line for each port, thing and reason, in order.
pub fn gather(spilled: Vec<Spilled>) -> Vec<Spilled> {
    let mut all = BTreeMap::<(Port, String, Reason), (u32, Vec<netpolc_table::Origin>)>::new();
    for Spilled { port, what, reason, filters, origins } in spilled {
        let (count, list) = all.entry((port, what, reason)).or_default();
        *count += filters;
        list.extend(origins.as_slice().iter().cloned());
    }
    let line = |((port, what, reason), (filters, origins)): (_, (u32, Vec<_>))| Spilled {
        port,
        what,
        reason,
        filters,
        origins: origins.into_iter().collect(),
    };
    all.into_iter().map(line).collect()
}

fn place(chain: u32, rule: &Rule) -> Placed {
    let Rule { prio, matches, action, copies, cookie, origins } = rule.clone();
    Placed {
        filter: Filter { side: Side::Ingress, chain, prio, matches, action, copies, cookie },
        origins,
    }
}

fn by_number(chains: Chains) -> BTreeMap<u32, Vec<Placed>> {
    let mut of = BTreeMap::<u32, Vec<Placed>>::new();
    for placed in chains.into_filters() {
        of.entry(placed.filter.chain).or_default().push(placed);
    }
    of
}

/// The chains that rules lead to, but for those that are reached already.
fn lead_to(
    rules: &[Rule],
    chains: &BTreeMap<u32, Vec<Placed>>,
    reached: &BTreeSet<u32>,
) -> BTreeSet<u32> {
    let target = |action: &Action| match *action {
        Action::Goto(chain) | Action::Track(chain) => Some(chain),
        _ => None,
    };
    let mut new = BTreeSet::new();
    let mut open: Vec<u32> = rules.iter().filter_map(|r| target(&r.action)).collect();
    while let Some(chain) = open.pop() {
        if !reached.contains(&chain) && new.insert(chain) {
            open.extend(
                chains.get(&chain).into_iter().flatten().filter_map(|p| target(&p.filter.action)),
            );
        }
    }
    new
}

/// What is used of a NIC. Tables are those of all ports together, as in a switch whose ports share
/// them.
struct Nic<'a> {
    can: &'a Capabilities,
    filters: u64,
    tables: BTreeMap<(u32, u16), BTreeSet<MaskKey>>,
}

impl Nic<'_> {
    /// Takes room for all of these filters, or says what there is too little of and takes none.
    fn take(&mut self, wanted: &[Placed]) -> Result<(), Reason> {
        if self.filters + wanted.len() as u64 > self.can.filters.into() {
            return Err(Reason::Filters);
        }
        let mut new = BTreeMap::<(u32, u16), BTreeSet<MaskKey>>::new();
        for placed in wanted {
            let at = (placed.filter.chain, placed.filter.prio);
            let mask = mask(&placed.filter.matches);
            if !self.tables.get(&at).is_some_and(|masks| masks.contains(&mask)) {
                new.entry(at).or_default().insert(mask);
            }
        }
        let tables = new.keys().filter(|at| !self.tables.contains_key(at)).count();
        if (self.tables.len() + tables) as u64 > self.can.tables.into() {
            return Err(Reason::Tables);
        }
        let masks = |(at, new): (&(u32, u16), &BTreeSet<MaskKey>)| {
            self.tables.get(at).map_or(0, BTreeSet::len) + new.len()
        };
        if new.iter().any(|t| masks(t) as u64 > self.can.masks.into()) {
            return Err(Reason::Masks);
        }
        self.filters += wanted.len() as u64;
        for (at, masks) in new {
            self.tables.entry(at).or_default().extend(masks);
        }
        Ok(())
    }
}
