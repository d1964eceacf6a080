//! From what is installed to what is wanted: which filters change, and in which order.
//!
//! A chain above 0 never changes while something leads to it: lowering gives other content another number. So new chains
//! come first, while nothing reaches them; then chain 0 follows, lowest prio first, each filter that only changes what it
//! does by one replacement; what is not wanted any more goes last, chain 0 first and from its end.
//! A crash at any step leaves filters that this order finds again. Not here: sending.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    filter::{Action, Copies, Filter, Side},
    netlink::{Decoded, Found, Way},
};

/// One change on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub way: Way,
    /// The filter; of a removal only its place counts.
    pub filter: Filter,
    /// In its place.
    pub handle: u32,
}

/// The way of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Chains that nothing reaches yet; in any order.
    pub prepare: Vec<Step>,
    /// Chain 0 and chains that are in use, in this order.
    pub switch: Vec<Step>,
    /// What nothing wants any more, in this order.
    pub remove: Vec<Step>,
    /// Filters that stay as they are.
    pub kept: usize,
}

impl Plan {
    /// Nothing to do?
    pub fn is_empty(&self) -> bool {
        self.prepare.is_empty() && self.switch.is_empty() && self.remove.is_empty()
    }
}

type Place = (Side, u32, u16);

/// Plans one interface. `installed` is everything that a dump gave, others' filters included: their handles are kept
/// clear of, and they are not touched.
pub fn plan(installed: &[Decoded], wanted: &[Filter]) -> Plan {
    let place = |f: &Filter| (f.side, f.chain, f.prio);
    let mut taken = BTreeMap::<Place, BTreeSet<u32>>::new();
    // By place and match: the kernel knows no two filters of one prio with the same match.
    let mut ours = BTreeMap::new();
    let mut changed = Vec::new();
    let mut used_chains = BTreeSet::new();
    for decoded in installed {
        taken.entry((decoded.side, decoded.chain, decoded.prio)).or_default().insert(decoded.handle);
        match &decoded.found {
            Found::Ours(filter) => {
                used_chains.insert((filter.side, filter.chain));
                let key = (place(filter), filter.matches.clone());
                if let Some((twice, handle)) = ours.insert(key, (filter.clone(), decoded.handle)) {
                    changed.push(Step { way: Way::Remove, filter: twice, handle });
                }
            }
            Found::Changed => changed.push(Step { way: Way::Remove, filter: at(decoded), handle: decoded.handle }),
            Found::Foreign => {}
        }
    }
    let mut plan = Plan::default();
    let mut wanted: Vec<&Filter> = wanted.iter().collect();
    wanted.sort();
    wanted.dedup();
    for filter in wanted {
        let old = ours.remove(&(place(filter), filter.matches.clone()));
        let step = match old {
            Some((old, _)) if old == *filter => {
                plan.kept += 1;
                continue;
            }
            Some((_, handle)) => Step { way: Way::Replace, filter: filter.clone(), handle },
            None => {
                let taken = taken.entry(place(filter)).or_default();
                let handle = free(taken);
                taken.insert(handle);
                Step { way: Way::Add, filter: filter.clone(), handle }
            }
        };
        if filter.chain != 0 && !used_chains.contains(&(filter.side, filter.chain)) {
            plan.prepare.push(step);
        } else {
            plan.switch.push(step);
        }
    }
    let gone = ours.into_values().map(|(filter, handle)| Step { way: Way::Remove, filter, handle });
    plan.remove = gone.chain(changed).collect();
    // Chain 0 from its end: while it goes, packets are judged as before or not at all, never by half a chain.
    plan.remove.sort_by_key(|s| {
        (s.filter.chain != 0, s.filter.side, s.filter.chain, std::cmp::Reverse(s.filter.prio), s.handle)
    });
    plan
}

/// A filter that stands for a place only.
fn at(decoded: &Decoded) -> Filter {
    use crate::filter::{Cookie, Match, Pattern};
    let (side, chain, prio) = (decoded.side, decoded.chain, decoded.prio);
    let matches = Match::Flower(Pattern::default());
    Filter { side, chain, prio, matches, action: Action::Pass, copies: Copies::Software, cookie: Cookie::new(0, 0, 0) }
}

/// The lowest number from 1 that is not taken; mostly one above the highest.
fn free(taken: &BTreeSet<u32>) -> u32 {
    match taken.last() {
        None => 1,
        Some(&last) if last < u32::MAX >> 1 => last + 1,
        Some(_) => (1..).zip(taken).find(|(free, taken)| free != *taken).map_or(1, |(free, _)| free),
    }
}

/// What may still be done of the switch once steps were refused. Refusals of `prepare` spoil their chains, and those
/// that lead there.
pub fn spoilt(prepare: &[Step], refused: &[usize]) -> BTreeSet<(Side, u32)> {
    let mut bad: BTreeSet<(Side, u32)> =
        refused.iter().map(|&i| (prepare[i].filter.side, prepare[i].filter.chain)).collect();
    loop {
        let more: Vec<(Side, u32)> = prepare
            .iter()
            .filter(|s| leads_to(&s.filter).is_some_and(|c| bad.contains(&(s.filter.side, c))))
            .map(|s| (s.filter.side, s.filter.chain))
            .filter(|c| !bad.contains(c))
            .collect();
        if more.is_empty() {
            return bad;
        }
        bad.extend(more);
    }
}

/// The chain a filter leads to.
pub fn leads_to(filter: &Filter) -> Option<u32> {
    match filter.action {
        Action::Goto(chain) | Action::Track(chain) => Some(chain),
        _ => None,
    }
}

/// The removal of each filter of ours.
pub fn all_of(installed: &[Decoded]) -> impl Iterator<Item = Step> + '_ {
    installed.iter().filter_map(|d| match &d.found {
        Found::Ours(filter) => Some(Step { way: Way::Remove, filter: filter.clone(), handle: d.handle }),
        Found::Changed | Found::Foreign => None,
    })
}

/// What must leave a NIC's chain 0 where not all of it came through: filters that are not wanted, and, on sides where a filter
/// was refused that others depend on, those behind its prio that drop, forward or lead on. Software copies stay.
pub fn stale(installed: &[Decoded], wanted: &[Filter], behind: &BTreeMap<Side, u16>) -> Vec<Step> {
    let wanted: BTreeSet<&Filter> = wanted.iter().collect();
    let leaves = |s: &Step| {
        let f = &s.filter;
        let rests = behind.get(&f.side).is_some_and(|prio| f.prio >= *prio);
        let passes = matches!(f.action, Action::Pass | Action::Continue);
        f.chain == 0 && f.copies != Copies::Software && (!wanted.contains(f) || (rests && !passes))
    };
    let mut list: Vec<Step> = all_of(installed).filter(leaves).collect();
    // From the end, as any removal of chain 0.
    list.sort_by_key(|s| (s.filter.side, std::cmp::Reverse(s.filter.prio), s.handle));
    list
}

/// May filters behind a refused one of chain 0 come in all the same? A drop or redirect that is missing leaves the packet
/// to eBPF; a pass that is missing would let a later drop have what it was to spare. Software decides
/// alone, so there nothing may be missing.
pub fn spares(refused: &Filter) -> bool {
    refused.copies != Copies::Software
        && matches!(refused.action, Action::Drop | Action::Redirect(_) | Action::Track(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Cookie, Match, Pattern, Ports};

    fn filter(chain: u32, prio: u16, port: u16, action: Action) -> Filter {
        let pattern = Pattern { protocol: Some(6), destination_port: Some(Ports::one(port)), ..Pattern::default() };
        let matches = Match::Flower(pattern);
        let cookie = Cookie::new(1, 2, port.into());
        Filter { side: Side::Ingress, chain, prio, matches, action, copies: Copies::Hardware, cookie }
    }

    fn installed(filters: &[Filter]) -> Vec<Decoded> {
        let one = |(i, f): (usize, &Filter)| Decoded {
            ifindex: 3,
            side: f.side,
            chain: f.chain,
            prio: f.prio,
            handle: i as u32 + 1,
            in_hardware: 1,
            found: Found::Ours(f.clone()),
        };
        filters.iter().enumerate().map(one).collect()
    }

    #[test]
    fn what_is_there_is_not_touched() {
        let filters = [filter(0, 1, 80, Action::Goto(7)), filter(7, 1, 80, Action::Drop)];
        let plan = plan(&installed(&filters), &filters);
        assert!(plan.is_empty());
        assert_eq!(plan.kept, 2);
    }

    #[test]
    fn a_new_chain_is_made_before_the_filter_that_leads_to_it_is_replaced() {
        let old = [filter(0, 1, 80, Action::Goto(7)), filter(7, 1, 80, Action::Drop)];
        let new = [filter(0, 1, 80, Action::Goto(8)), filter(8, 1, 81, Action::Drop)];
        let plan = plan(&installed(&old), &new);
        assert_eq!(plan.prepare, [Step { way: Way::Add, filter: new[1].clone(), handle: 1 }]);
        assert_eq!(plan.switch, [Step { way: Way::Replace, filter: new[0].clone(), handle: 1 }]);
        assert_eq!(plan.remove, [Step { way: Way::Remove, filter: old[1].clone(), handle: 2 }]);
    }

    #[test]
    fn others_keep_their_filters_and_handles() {
        let mut there = installed(&[filter(0, 1, 80, Action::Drop)]);
        there[0].found = Found::Foreign;
        let new = [filter(0, 1, 81, Action::Drop)];
        let planned = plan(&there, &new);
        assert_eq!(planned.switch, [Step { way: Way::Add, filter: new[0].clone(), handle: 2 }]);
        assert!(plan(&there, &[]).is_empty());
        there[0].found = Found::Changed;
        assert_eq!(plan(&there, &[]).remove.len(), 1);
    }

    #[test]
    fn a_refusal_spoils_the_chains_that_lead_to_it() {
        let steps = [filter(7, 1, 80, Action::Drop), filter(8, 1, 80, Action::Goto(7)), filter(9, 1, 80, Action::Pass)];
        let steps: Vec<Step> = steps.into_iter().map(|filter| Step { way: Way::Add, filter, handle: 1 }).collect();
        assert_eq!(spoilt(&steps, &[0]), BTreeSet::from([(Side::Ingress, 7), (Side::Ingress, 8)]));
    }

    #[test]
    fn a_nic_does_not_go_on_behind_a_refused_exception_or_with_what_is_not_wanted() {
        let there = [filter(0, 1, 79, Action::Pass), filter(0, 2, 80, Action::Drop), filter(0, 9, 81, Action::Drop)];
        let wanted = [there[1].clone(), there[0].clone()];
        let ports = |steps: Vec<Step>| steps.into_iter().map(|s| s.handle).collect::<Vec<_>>();
        assert_eq!(ports(stale(&installed(&there), &wanted, &BTreeMap::new())), [3]);
        assert_eq!(ports(stale(&installed(&there), &wanted, &BTreeMap::from([(Side::Ingress, 1)]))), [3, 2]);
        let software: Vec<Filter> = there.into_iter().map(|f| Filter { copies: Copies::Software, ..f }).collect();
        assert!(stale(&installed(&software), &[], &BTreeMap::new()).is_empty());
    }

    #[test]
    fn handles_are_found_above_the_highest_or_in_gaps() {
        assert_eq!(free(&BTreeSet::new()), 1);
        assert_eq!(free(&BTreeSet::from([1, 4])), 5);
        assert_eq!(free(&BTreeSet::from([1, u32::MAX])), 2);
    }
}
