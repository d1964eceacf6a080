//! How much lowering takes: filters for each port, chain and mask, and what of a NIC's budget that
//! is.
//!
//! Not here: deciding what to leave out ([`crate::lower`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    capability::Capabilities,
    filter::{Copies, Filter, Match, Side},
    lowered::Lowered,
    names,
};

/// Counts over all ports, and for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// The counts over all ports.
    pub all: Counts,
    /// The counts of each port, by its name.
    pub ports: BTreeMap<String, PortTotals>,
    /// How many things are left to software: lines of [`Lowered::spilled`].
    pub spilled: usize,
    /// How many filters these would have taken.
    pub spilled_filters: u64,
}

/// How many filters, chains, tables and masks there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All filters, wherever their copies are.
    pub filters: usize,
    /// Filters with a copy in hardware only.
    pub hardware: usize,
    /// Filters with a copy in software only.
    pub software: usize,
    /// Filters with both copies.
    pub both: usize,
    /// Chains of all ports' hooks.
    pub chains: usize,
    /// Pairs of chain and prio: tables in NICs that keep one for each.
    pub tables: usize,
    /// Distinct masks, for each hook of each port.
    pub masks: usize,
}

/// The counts of one port, and what makes them up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortTotals {
    /// The counts of this port alone.
    pub counts: Counts,
    /// Filters of each chain, as `ingress 0`.
    pub chains: BTreeMap<String, usize>,
    /// Filters of each mask, as `ip_proto dst_ip/32 dst_port/0xffff`.
    pub masks: BTreeMap<String, usize>,
}

/// What of a NIC's room is used: filters with a copy in hardware count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Filters of all ports.
    pub filters: Use,
    /// Chains times prios, of all ports.
    pub tables: Use,
    /// Masks of the table that has most.
    pub masks: Use,
}

/// How much of a limited number is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// How many are taken.
    pub used: usize,
    /// How many there are.
    pub of: u32,
}

impl Totals {
    /// Counts what was lowered.
    pub fn of(lowered: &Lowered) -> Self {
        let mut totals = Totals {
            spilled: lowered.spilled.len(),
            spilled_filters: lowered.spilled.iter().map(|s| u64::from(s.filters)).sum(),
            ..Totals::default()
        };
        for (port, placed) in &lowered.ports {
            let mut of_port = PortTotals::default();
            let mut tables = BTreeSet::<(Side, u32, u16)>::new();
            let mut masks = BTreeSet::<(Side, String)>::new();
            for placed in placed {
                let filter = &placed.filter;
                of_port.counts.count(filter);
                *of_port
                    .chains
                    .entry(format!("{} {}", names::side(filter.side), filter.chain))
                    .or_default() += 1;
                *of_port.masks.entry(mask(filter)).or_default() += 1;
                tables.insert((filter.side, filter.chain, filter.prio));
                masks.insert((filter.side, mask(filter)));
            }
            of_port.counts.chains = of_port.chains.len();
            of_port.counts.tables = tables.len();
            of_port.counts.masks = masks.len();
            totals.all.add(of_port.counts);
            totals.ports.insert(port.name.clone(), of_port);
        }
        totals
    }
}

impl Counts {
    fn count(&mut self, filter: &Filter) {
        self.filters += 1;
        match filter.copies {
            Copies::Hardware => self.hardware += 1,
            Copies::Software => self.software += 1,
            Copies::Both => self.both += 1,
        }
    }

    fn add(&mut self, other: Counts) {
        self.filters += other.filters;
        self.hardware += other.hardware;
        self.software += other.software;
        self.both += other.both;
        self.chains += other.chains;
        self.tables += other.tables;
        self.masks += other.masks;
    }
}

impl Budget {
    /// What `lowered` takes of what `can` has.
    pub fn of(lowered: &Lowered, can: &Capabilities) -> Self {
        let mut filters = 0;
        let mut tables = BTreeMap::<_, BTreeSet<String>>::new();
        for (port, placed) in &lowered.ports {
            for filter in placed.iter().map(|p| &p.filter).filter(|f| f.copies != Copies::Software)
            {
                filters += 1;
                tables.entry((port, filter.chain, filter.prio)).or_default().insert(mask(filter));
            }
        }
        Budget {
            filters: Use { used: filters, of: can.filters },
            tables: Use { used: tables.len(), of: can.tables },
            masks: Use {
                used: tables.values().map(BTreeSet::len).max().unwrap_or(0),
                of: can.masks,
            },
        }
    }
}

/// The mask of a filter, in words: which keys, and how many bits of each.
pub fn mask(filter: &Filter) -> String {
    match &filter.matches {
        Match::Local => "sk_family".into(),
        Match::Flower(pattern) => {
            let mut words = vec![];
            for (name, value) in names::keys(pattern) {
                let bits = value.split_once('/').map(|(_, bits)| bits);
                words.push(match (name, bits) {
                    ("ct_state", _) => {
                        format!("{name}/{:#x}", pattern.ct_state.map_or(0, |m| m.mask))
                    }
                    ("src_ip" | "dst_ip" | "tcp_flags", Some(bits)) => format!("{name}/{bits}"),
                    ("src_port" | "dst_port", bits) => match bits {
                        Some(bits) => format!("{name}/{bits}"),
                        None if value.contains('-') => format!("{name}/range"),
                        None => format!("{name}/0xffff"),
                    },
                    _ => name.into(),
                });
            }
            if words.is_empty() { "any".into() } else { words.join(" ") }
        }
    }
}
