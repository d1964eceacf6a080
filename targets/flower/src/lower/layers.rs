//! Openings as filters of a NIC that honours priority: nested prefixes from the inside out, ports
//! inline or in chains that are shared by content.
//!
//! A part of a region differs from the part that covers it; what its filters do not match goes on
//! to that part's. So a part is written by the ports in which it differs, or closed with a filter
//! for its rest, or leads to a chain of its own: whichever takes the fewest filters. Parts that do
//! not hold each other share a prio, since chains and prios are what NICs have few of. Not here:
//! what leads to these filters ([`super::representor`]).

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use netpolc_table::{Origins, TableId};

use super::{
    answers::End,
    budget::{MaskKey, mask},
    chains::{Chains, Role, Rule},
    flat::{blocks, count},
    openings::{Opening, Openings, covering},
    ports::PortSet,
};
use crate::{
    capability::Capabilities,
    filter::{Action, Copies, Match, Pattern, Side},
};

/// Prios of one chain from 1 on: filters of the first are asked first.
pub type Strata = Vec<Vec<Rule>>;

/// How a part is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// These ports pass, these are dropped, the others go on to the part that covers this one.
    Differs(PortSet, PortSet),
    /// These ports meet the action, the others the opposite one.
    Closed(PortSet, Action),
    /// A chain of this number.
    Chain(u32),
}

/// Where filters for openings stand.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// What all of them match.
    pub base: Pattern,
    /// The end that prefixes speak of.
    pub remote: End,
    /// What the NIC can do.
    pub can: &'a Capabilities,
}

impl Place<'_> {
    /// Filters that decide every opening that `base` matches. With `chains`, answers that several
    /// parts have may get chains there. None: a set of ports takes too many filters, or there are
    /// not enough chains.
    pub fn strata(&self, openings: &Openings, chains: Option<&mut Chains>) -> Option<Strata> {
        let parts = openings.parts();
        let prefixes: Vec<IpNetwork> = parts.iter().map(|p| p.prefix).collect();
        let above = covering(&prefixes);
        // How deep other parts are nested in each one. Level 0 holds nothing and is asked first, so
        // a part is always asked before the part that covers it. Parts of one level do not hold
        // each other, so they may share prios.
        let mut level = vec![0; parts.len()];
        for at in (0..parts.len()).rev() {
            if let Some(cover) = above[at] {
                level[cover] = level[cover].max(level[at] + 1);
            }
        }
        let inline = |at: usize| {
            let cover = above[at].map(|c| &parts[c].allowed);
            self.forms(&parts[at].allowed, cover).min_by_key(|(cost, _)| *cost)
        };
        let mut forms: Vec<Option<(usize, Form)>> = (0..parts.len()).map(inline).collect();
        if let Some(chains) = chains {
            self.share(parts, &mut forms, chains);
        }
        let mut strata: Strata = Vec::new();
        for ((part, form), level) in parts.iter().zip(forms).zip(level) {
            // Each level has two strata: ports, and what closes a part behind them.
            let (first, rest) = (2 * level, 2 * level + 1);
            strata.resize_with(strata.len().max(rest + 1), Vec::new);
            let pattern = match self.remote {
                End::Source => self.base.clone().from(part.prefix),
                End::Destination => self.base.clone().to(part.prefix),
            };
            match form?.1 {
                Form::Differs(pass, drop) => {
                    strata[first].extend(self.pieces(
                        &pattern,
                        Role::Remote,
                        &pass,
                        &Action::Pass,
                        &part.origins,
                    )?);
                    strata[first].extend(self.pieces(
                        &pattern,
                        Role::Remote,
                        &drop,
                        &Action::Drop,
                        &part.origins,
                    )?);
                }
                Form::Closed(ports, action) => {
                    let other = if action == Action::Pass { Action::Drop } else { Action::Pass };
                    let pieces =
                        self.pieces(&pattern, Role::Remote, &ports, &action, &part.origins)?;
                    let at = if pieces.is_empty() { first } else { rest };
                    strata[first].extend(pieces);
                    strata[at].push(hardware(
                        Role::Remote,
                        TableId::Row,
                        pattern,
                        other,
                        &part.origins,
                    ));
                }
                Form::Chain(chain) => {
                    strata[first].push(hardware(
                        Role::Remote,
                        TableId::Row,
                        pattern,
                        Action::Goto(chain),
                        &part.origins,
                    ));
                }
            }
        }
        Some(strata)
    }

    /// [`Place::strata`] as a chain of its own. The first part holds the whole family, so that
    /// nothing misses.
    pub fn chain(&self, openings: &Openings, chains: &mut Chains) -> Option<u32> {
        let strata = self.strata(openings, Some(chains))?;
        chains.number(Side::Ingress, number(strata, self.can)).ok()
    }

    /// What a part may be written as, with its number of filters.
    fn forms(
        &self,
        allowed: &PortSet,
        cover: Option<&PortSet>,
    ) -> impl Iterator<Item = (usize, Form)> {
        let denied = allowed.complement();
        let cost = |ports: &PortSet| count(ports, self.can);
        // Filters may say more than they must: what the cover passes may be passed here once more,
        // if the larger set of ports takes fewer filters (64-127 is one key, 80-90 are three).
        let cheapest = |least: PortSet, most: &PortSet| {
            let both = [cost(&least).map(|c| (c, least)), cost(most).map(|c| (c, most.clone()))];
            both.into_iter().flatten().min_by_key(|(c, _)| *c)
        };
        let differs = cover.and_then(|cover| {
            let (pass, passed) = cheapest(allowed.without(cover), allowed)?;
            let (drop, dropped) = cheapest(cover.without(allowed), &denied)?;
            Some((pass + drop, Form::Differs(passed, dropped)))
        });
        let passing = cost(allowed).map(|c| (c + 1, Form::Closed(allowed.clone(), Action::Pass)));
        let dropping = cost(&denied).map(|c| (c + 1, Form::Closed(denied, Action::Drop)));
        // All or nothing is one filter without ports.
        let whole = if allowed.is_all() {
            Some((1, Form::Closed(PortSet::none(), Action::Drop)))
        } else if allowed.is_empty() {
            Some((1, Form::Closed(PortSet::none(), Action::Pass)))
        } else {
            None
        };
        [whole, differs, passing, dropping].into_iter().flatten()
    }

    /// Gives answers chains where that takes fewer filters.
    fn share(&self, parts: &[Opening], forms: &mut [Option<(usize, Form)>], chains: &mut Chains) {
        let mut groups = BTreeMap::<&PortSet, Vec<usize>>::new();
        for (at, part) in parts.iter().enumerate() {
            groups.entry(&part.allowed).or_default().push(at);
        }
        for (allowed, members) in groups {
            let Some((own, form)) = self.forms(allowed, None).min_by_key(|(cost, _)| *cost) else {
                continue;
            };
            // A part that cannot be written inline counts as very many filters.
            let inline: usize =
                members.iter().map(|m| forms[*m].as_ref().map_or(usize::MAX / 4096, |f| f.0)).sum();
            if own + members.len() >= inline {
                continue;
            }
            let Form::Closed(ports, action) = form else { continue };
            let other = if action == Action::Pass { Action::Drop } else { Action::Pass };
            let origins: Origins =
                members.iter().flat_map(|m| parts[*m].origins.as_slice()).cloned().collect();
            let pattern = Pattern { ethertype: self.base.ethertype, ..Pattern::default() };
            let Some(pieces) = self.pieces(&pattern, Role::Port, &ports, &action, &origins) else {
                continue;
            };
            let rest = vec![hardware(Role::Port, TableId::Verdict, pattern, other, &origins)];
            let rules = number(vec![pieces, rest], self.can);
            let Ok(chain) = chains.number(Side::Ingress, rules) else { continue };
            for member in members {
                forms[member] = Some((1, Form::Chain(chain)));
            }
        }
    }

    fn pieces(
        &self,
        pattern: &Pattern,
        role: Role,
        ports: &PortSet,
        action: &Action,
        origins: &Origins,
    ) -> Option<Vec<Rule>> {
        let piece = |ports| {
            let pattern = Pattern { protocol: Some(6), destination_port: ports, ..pattern.clone() };
            hardware(role, TableId::Verdict, pattern, action.clone(), origins)
        };
        Some(blocks(ports, self.can)?.into_iter().map(piece).collect())
    }
}

/// A filter in hardware only; its prio is given later.
pub fn hardware(
    role: Role,
    table: TableId,
    pattern: Pattern,
    action: Action,
    origins: &Origins,
) -> Rule {
    let matches = Match::Flower(pattern);
    let cookie = role.cookie(table, &(&matches, &action));
    Rule { prio: 0, matches, action, copies: Copies::Hardware, cookie, origins: origins.clone() }
}

/// Gives prios from 1 on, each with no more masks than one table of the NIC has.
pub fn number(strata: Strata, can: &Capabilities) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut prio = 0;
    for stratum in strata.into_iter().filter(|s| !s.is_empty()) {
        // Filters of a stratum may be asked in any order, so it can be cut anywhere between masks.
        let mut masks = BTreeMap::<MaskKey, Vec<Rule>>::new();
        for rule in stratum {
            masks.entry(mask(&rule.matches)).or_default().push(rule);
        }
        let mut used = BTreeSet::new();
        prio += 1;
        for (mask, group) in masks {
            if used.len() as u64 >= u64::from(can.masks.max(1)) {
                used.clear();
                prio += 1;
            }
            used.insert(mask);
            rules.extend(group.into_iter().map(|rule| Rule { prio, ..rule }));
        }
    }
    rules
}
