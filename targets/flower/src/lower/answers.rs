//! A region as filters of software flower: longest prefixes first, ports inline or in a shared chain, whichever takes
//! fewer filters.
//!
//! Not here: what stands before and after them in a chain ([`super::software`]).

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use netpolc_table::{Origins, TableId, schema::Family};

use super::{
    chains::{Chains, Full, Role, Rule},
    ports::PortSet,
    region::{Answer, PORTED, Part, Region, covers},
};
use crate::filter::{Action, Copies, Masked, Match, Pattern, Ports, Side};

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Where in a packet the remote's address and the policed port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// The remote.
    pub remote: End,
    /// The destination port of whoever opened.
    pub port: End,
}

/// What becomes of a packet that the answer denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It meets this action.
    Meets(Action),
    /// It goes on to the next filters of the same chain.
    GoesOn,
}

/// The priority of the first filters for prefixes of a family, from the first of a whole block of prios: IPv4 takes 100
/// of them, IPv6 the 300 behind.
const fn first_prio(family: Family) -> u16 {
    match family {
        Family::V4 => 0,
        Family::V6 => 100,
    }
}

/// Prios that [`Plan::rules`] uses from its `base` on.
pub const PRIOS: u16 = 400;

/// How a region is best written.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    family: Family,
    view: View,
    items: Vec<Item<'a>>,
    shared: Vec<(&'a Answer, Origins)>,
}

#[derive(Clone, Debug)]
struct Item<'a> {
    part: &'a Part,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One filter passes all.
    Pass,
    /// One filter denies all.
    Deny,
    /// A filter for each piece of the answer; what they do not pass is left to shorter prefixes, which pass no more.
    Inline,
    /// The same, and a filter that denies the rest: a shorter prefix would pass more.
    Closed,
    /// A filter for each piece that is denied, and one that passes the rest.
    Inverse,
    /// One filter leads to this shared chain.
    Chain(usize),
}

/// What one filter can match of an answer: a protocol and, unless all, some of its ports. Of an answer that permits
/// protocols without ports ([`is_inverse`]) what it does not permit, else what it does.
fn pieces(answer: &Answer) -> Vec<(u8, Option<Ports>)> {
    let mut list = Vec::new();
    for protocol in PORTED {
        let mut ports = answer.ports(protocol);
        // Fragments and cut headers read as port 0: permitted with all ports only.
        let zero = PortSet::of([(0, 0)]);
        if is_inverse(answer) {
            ports = if ports.is_all() { PortSet::none() } else { ports.intersection(&zero.complement()).complement() };
        } else if !ports.is_all() {
            ports = ports.intersection(&zero.complement());
        }
        if ports.is_all() {
            list.push((protocol, None));
        } else {
            list.extend(ports.as_ranges().into_iter().map(|p| (protocol, Some(p))));
        }
    }
    list
}

/// What becomes of the pieces of an answer, and of the rest.
fn outcomes(answer: &Answer, denial: &Action) -> (Action, Action) {
    if is_inverse(answer) { (denial.clone(), Action::Pass) } else { (Action::Pass, denial.clone()) }
}

/// Is it everything but some ports?
fn is_inverse(answer: &Answer) -> bool {
    answer.permits(0, None)
}

impl<'a> Plan<'a> {
    /// The cheapest way to write `region`. Where `denied` goes on, that needs a region whose longer prefixes never
    /// deny what shorter ones permit; None where it is not one.
    pub fn new(region: &'a Region, view: View, denied: &Denied) -> Option<Self> {
        let mut items: Vec<Item<'_>> = Vec::with_capacity(region.parts.len());
        let mut open: Vec<&Part> = Vec::new();
        let mut groups: BTreeMap<&Answer, Vec<usize>> = BTreeMap::new();
        for part in &region.parts {
            while open.last().is_some_and(|p| !covers(p.prefix, part.prefix)) {
                open.pop();
            }
            let cover = open.last().map_or(&Answer::Deny, |p| &p.answer);
            open.push(part);
            let wider = cover.and(&part.answer) == *cover;
            let form = match part.answer {
                Answer::Permit => Form::Pass,
                Answer::Deny => Form::Deny,
                Answer::Ports(_) if is_inverse(&part.answer) => Form::Inverse,
                Answer::Ports(_) if wider => Form::Inline,
                Answer::Ports(_) => Form::Closed,
            };
            if form == Form::Deny && wider {
                continue;
            }
            if matches!(form, Form::Inline | Form::Closed | Form::Inverse) {
                groups.entry(&part.answer).or_default().push(items.len());
            }
            items.push(Item { part, form });
        }
        if *denied == Denied::GoesOn
            && items.iter().any(|i| matches!(i.form, Form::Deny | Form::Closed | Form::Inverse))
        {
            return None;
        }
        let mut plan = Plan { family: region.family, view, items, shared: Vec::new() };
        if *denied != Denied::GoesOn {
            plan.share(groups);
        }
        Some(plan)
    }

    fn share(&mut self, groups: BTreeMap<&'a Answer, Vec<usize>>) {
        for (answer, members) in groups {
            let count = pieces(answer).len();
            let closed = members.iter().filter(|m| self.items[**m].form != Form::Inline).count();
            if members.len() + count + 1 >= members.len() * count + closed {
                continue;
            }
            let origins = members.iter().flat_map(|m| self.items[*m].part.origins.as_slice());
            self.shared.push((answer, origins.cloned().collect()));
            for member in members {
                self.items[member].form = Form::Chain(self.shared.len() - 1);
            }
        }
    }

    /// How many filters it takes, shared chains included.
    pub fn cost(&self) -> usize {
        let item = |i: &Item<'_>| match i.form {
            Form::Pass | Form::Deny | Form::Chain(_) => 1,
            Form::Inline => pieces(&i.part.answer).len(),
            Form::Closed | Form::Inverse => pieces(&i.part.answer).len() + 1,
        };
        let shared = self.shared.iter().map(|(answer, _)| pieces(answer).len() + 1);
        self.items.iter().map(item).chain(shared).sum()
    }

    /// The filters, from prio `base` on; shared chains are made in `chains`. Each filter matches `state` too. What the whole
    /// region denies meets none of them.
    ///
    /// # Errors
    /// More chains than numbers.
    pub fn rules(
        &self,
        chains: &mut Chains,
        side: Side,
        base: u16,
        state: Option<Masked>,
        denied: &Denied,
    ) -> Result<Vec<Rule>, Full> {
        let denial = match denied {
            Denied::Meets(action) => action.clone(),
            Denied::GoesOn => Action::Continue,
        };
        let mut numbers = Vec::with_capacity(self.shared.len());
        for (answer, origins) in &self.shared {
            let (action, last) = outcomes(answer, &denial);
            let mut rules = self.pieces(&Pattern::of(self.family), (1, Role::Port), action, answer, origins);
            rules.push(rest(2, last, origins.clone()));
            numbers.push(chains.number(side, rules)?);
        }
        let mut rules = Vec::new();
        for Item { part, form } in &self.items {
            let prio = base + first_prio(self.family) + 2 * u16::from(self.family.bits() - part.prefix.prefix());
            let pattern = Pattern { ct_state: state, ..self.remote(part.prefix) };
            let one = |prio: u16, action: Action| {
                let cookie = Role::Remote.cookie(TableId::Row, &(self.view, part.prefix, &part.answer));
                let matches = Match::Flower(pattern.clone());
                Rule { prio, matches, action, copies: Copies::Software, cookie, origins: part.origins.clone() }
            };
            match form {
                Form::Pass => rules.push(one(prio, Action::Pass)),
                Form::Deny => rules.push(one(prio, denial.clone())),
                Form::Chain(at) => rules.push(one(prio, Action::Goto(numbers[*at]))),
                Form::Inline | Form::Closed | Form::Inverse => {
                    let (action, last) = outcomes(&part.answer, &denial);
                    rules.extend(self.pieces(&pattern, (prio, Role::Remote), action, &part.answer, &part.origins));
                    if *form != Form::Inline {
                        rules.push(one(prio + 1, last));
                    }
                }
            }
        }
        Ok(rules)
    }

    fn pieces(
        &self,
        pattern: &Pattern,
        (prio, role): (u16, Role),
        action: Action,
        answer: &Answer,
        origins: &Origins,
    ) -> Vec<Rule> {
        let piece = |(protocol, ports): (u8, Option<Ports>)| {
            let mut pattern = Pattern { protocol: Some(protocol), ..pattern.clone() };
            match self.view.port {
                End::Source => pattern.source_port = ports,
                End::Destination => pattern.destination_port = ports,
            }
            let matches = Match::Flower(pattern);
            let cookie = role.cookie(TableId::Verdict, &matches);
            let action = action.clone();
            Rule { prio, matches, action, copies: Copies::Software, cookie, origins: origins.clone() }
        };
        pieces(answer).into_iter().map(piece).collect()
    }

    fn remote(&self, prefix: IpNetwork) -> Pattern {
        let pattern = Pattern::of(self.family);
        match self.view.remote {
            End::Source => pattern.from(prefix),
            End::Destination => pattern.to(prefix),
        }
    }
}

/// The filter that ends a chain: a packet that falls off the end of one passes.
pub fn rest(prio: u16, action: Action, origins: Origins) -> Rule {
    let matches = Match::Flower(Pattern::default());
    let cookie = Role::Rest.cookie(TableId::Base, &0u8);
    Rule { prio, matches, action, copies: Copies::Software, cookie, origins }
}
