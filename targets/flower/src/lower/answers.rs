//! A region as filters of software flower, whichever way takes fewest: nested (longest prefixes
//! first, ports inline or in a shared chain), or as a union of grants ([`super::union`]).
//!
//! Not here: what stands before and after them in a chain ([`super::software`]).

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use netpolc_table::{Origins, TableId, schema::Family};

use super::{
    chains::{Chains, Full, Role, Rule},
    ports::PortSet,
    region::{Answer, PORTED, Part, Region, covers},
    union::{Cut, Grant, joined, union},
};
use crate::filter::{Action, Copies, Masked, Match, Pattern, Ports, Side};

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The source of the packet.
    Source,
    /// The destination of the packet.
    Destination,
}

/// Where in a packet the remote's address and the policed port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// The end at which the remote's address is.
    pub remote: End,
    /// The end at which the port is that the opener sent to.
    pub port: End,
}

/// What becomes of a packet that the answer denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The packet meets this action.
    Meets(Action),
    /// The packet goes on to the next filters of the same chain.
    GoesOn,
}

/// The priority of the first filters for prefixes of a family, from the first of a whole block of
/// prios: IPv4 takes 100 of them, IPv6 the 300 behind.
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
    body: Body<'a>,
}

#[derive(Clone, Debug)]
enum Body<'a> {
    Nested(Nested<'a>),
    /// Grants, behind the filters of parts that permit everything but some ports.
    Union(Nested<'a>, Vec<Grant>),
}

/// Filters in which the longest prefix decides, by its prio.
#[derive(Clone, Debug)]
struct Nested<'a> {
    items: Vec<Item<'a>>,
    shared: Vec<(&'a Answer, Origins)>,
}

/// A protocol and, unless all, some of its ports.
type Piece = (u8, Option<Ports>);

#[derive(Clone, Debug)]
struct Item<'a> {
    part: &'a Part,
    form: Form,
    /// The pieces that get a filter of their own; empty where `form` needs none.
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One filter passes all.
    Pass,
    /// One filter denies all.
    Deny,
    /// A filter for each piece that the shorter prefix does not pass; the rest is left to that,
    /// which passes no more.
    Inline,
    /// The same, and a filter that denies the rest: a shorter prefix would pass more.
    Closed,
    /// A filter for each piece that is denied, and one that passes the rest.
    Inverse,
    /// One filter leads to this shared chain.
    Chain(usize),
}

/// What one filter can match of an answer: a protocol and, unless all, some of its ports. Of an
/// answer that permits protocols without ports ([`Answer::is_inverse`]) what it does not permit,
/// else what it does.
fn pieces(answer: &Answer) -> Vec<Piece> {
    let mut list = Vec::new();
    for protocol in PORTED {
        let mut ports = answer.ports(protocol).into_owned();
        // Fragments and cut headers read as port 0, so that port is permitted only together with
        // all others: a rule for ports 0-80 must not let later fragments through.
        let zero = PortSet::of([(0, 0)]);
        if answer.is_inverse() {
            ports = if ports.is_all() {
                PortSet::none()
            } else {
                ports.intersection(&zero.complement()).complement()
            };
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
    if answer.is_inverse() {
        (denial.clone(), Action::Pass)
    } else {
        (Action::Pass, denial.clone())
    }
}

impl<'a> Plan<'a> {
    /// The cheapest way to write `region`, in `most` filters at most. Where `denied` goes on,
    /// filters may only pass; None where that cannot be.
    pub fn new(region: &'a Region, view: View, denied: &Denied, most: usize) -> Option<Self> {
        // Three candidates: nested, and a union of grants with ranges of ports cut in either way.
        let mut best =
            Nested::new(region, denied).map(Body::Nested).filter(|body| body.cost() <= most);
        for cut in [Cut::Longest, Cut::Elementary] {
            let Some(inverse) = Nested::inverse(region, denied) else { break };
            // The first of equal ones counts. A search that finds more than the best way so far is
            // broken off, since there may be many more grants than filters of another kind.
            let less = best.as_ref().map_or(Some(most), |body| body.cost().checked_sub(1));
            let Some(limit) = less.and_then(|less| less.checked_sub(inverse.cost())) else { break };
            best = union(region, cut, limit).map(|grants| Body::Union(inverse, grants)).or(best);
        }
        Some(Plan { family: region.family, view, body: best? })
    }

    /// How many filters it takes, shared chains included.
    pub fn cost(&self) -> usize {
        self.body.cost()
    }

    /// The filters, from prio `base` on; shared chains are made in `chains`. Each filter matches
    /// `state` too. What the whole region denies meets none of them.
    ///
    /// # Errors
    /// There are more different chains than `chains` has numbers.
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
            // No filter denies then ([`Plan::new`] has seen to it); this action is never used.
            Denied::GoesOn => Action::Continue,
        };
        let (nested, grants) = match &self.body {
            Body::Nested(nested) => (nested, &[][..]),
            Body::Union(inverse, grants) => (inverse, grants.as_slice()),
        };
        let mut numbers = Vec::with_capacity(nested.shared.len());
        // Shared chains first: the filters that lead to them need their numbers.
        for (answer, origins) in &nested.shared {
            let (action, last) = outcomes(answer, &denial);
            let all = pieces(answer);
            let mut rules =
                self.pieces(&Pattern::of(self.family), (1, Role::Port), &action, &all, origins);
            rules.push(rest(2, last, origins.clone()));
            numbers.push(chains.number(side, rules)?);
        }
        let mut rules: Vec<Rule> = grants.iter().map(|g| self.grant(base, state, g)).collect();
        for Item { part, form, pieces } in &nested.items {
            let prio = self.prio(base, part.prefix);
            let pattern = Pattern { ct_state: state, ..self.remote(part.prefix) };
            let one = |prio: u16, action: Action| {
                let cookie =
                    Role::Remote.cookie(TableId::Row, &(self.view, part.prefix, &part.answer));
                let matches = Match::Flower(pattern.clone());
                Rule {
                    prio,
                    matches,
                    action,
                    copies: Copies::Software,
                    cookie,
                    origins: part.origins.clone(),
                }
            };
            match form {
                Form::Pass => rules.push(one(prio, Action::Pass)),
                Form::Deny => rules.push(one(prio, denial.clone())),
                Form::Chain(at) => rules.push(one(prio, Action::Goto(numbers[*at]))),
                Form::Inline | Form::Closed | Form::Inverse => {
                    let (action, last) = outcomes(&part.answer, &denial);
                    rules.extend(self.pieces(
                        &pattern,
                        (prio, Role::Remote),
                        &action,
                        pieces,
                        &part.origins,
                    ));
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
        action: &Action,
        pieces: &[Piece],
        origins: &Origins,
    ) -> Vec<Rule> {
        let piece = |piece: &Piece| {
            let pattern = self.piece(pattern.clone(), *piece);
            rule(prio, role, TableId::Verdict, pattern, action, origins)
        };
        pieces.iter().map(piece).collect()
    }

    fn grant(&self, base: u16, state: Option<Masked>, grant: &Grant) -> Rule {
        let mut pattern = Pattern { ct_state: state, ..self.remote(grant.prefix) };
        if let Some((protocol, ports)) = grant.what {
            let ports =
                ports.map(
                    |(low, high)| {
                        if low == high { Ports::one(low) } else { Ports::Range { low, high } }
                    },
                );
            pattern = self.piece(pattern, (protocol, ports));
        }
        let prio = self.prio(base, grant.prefix);
        rule(prio, Role::Remote, TableId::Row, pattern, &Action::Pass, &grant.origins)
    }

    fn piece(&self, pattern: Pattern, (protocol, ports): Piece) -> Pattern {
        let pattern = Pattern { protocol: Some(protocol), ..pattern };
        match self.view.port {
            End::Source => Pattern { source_port: ports, ..pattern },
            End::Destination => Pattern { destination_port: ports, ..pattern },
        }
    }

    /// The prio for filters of a prefix: the longer it is, the earlier they are asked. Each length
    /// has two prios, one for pieces and one for the rest of the prefix.
    fn prio(&self, base: u16, prefix: IpNetwork) -> u16 {
        base + first_prio(self.family) + 2 * u16::from(self.family.bits() - prefix.prefix())
    }

    fn remote(&self, prefix: IpNetwork) -> Pattern {
        let pattern = Pattern::of(self.family);
        match self.view.remote {
            End::Source => pattern.from(prefix),
            End::Destination => pattern.to(prefix),
        }
    }
}

impl Body<'_> {
    fn cost(&self) -> usize {
        match self {
            Body::Nested(nested) => nested.cost(),
            Body::Union(inverse, grants) => inverse.cost() + grants.len(),
        }
    }
}

impl<'a> Nested<'a> {
    /// The nested form of a region; None where something would have to be denied and must not be.
    ///
    /// Parts are sorted by (address, length), so the parts that cover the current one are a stack.
    /// A part that its filters do not match goes on to the filters of the part that covers it.
    fn new(region: &'a Region, denied: &Denied) -> Option<Self> {
        let mut items: Vec<Item<'_>> = Vec::with_capacity(region.parts.len());
        let mut open: Vec<&Part> = Vec::new();
        let mut groups: BTreeMap<&Answer, Vec<usize>> = BTreeMap::new();
        for part in &region.parts {
            while open.last().is_some_and(|p| !covers(p.prefix, part.prefix)) {
                open.pop();
            }
            let cover = open.last().map_or(&Answer::Deny, |p| &p.answer);
            open.push(part);
            // The cover permits nothing that this part does not: then what this part leaves over
            // may go on to the cover's filters without being permitted more than it should.
            let wider = cover.and(&part.answer) == *cover;
            let form = match part.answer {
                Answer::Permit => Form::Pass,
                Answer::Deny => Form::Deny,
                Answer::Ports(_) if part.answer.is_inverse() => Form::Inverse,
                Answer::Ports(_) if wider => Form::Inline,
                Answer::Ports(_) => Form::Closed,
            };
            // The cover permits nothing either.
            if form == Form::Deny && wider {
                continue;
            }
            let mut pieces =
                if let Answer::Ports(_) = part.answer { pieces(&part.answer) } else { vec![] };
            // The cover's filters pass these.
            if form == Form::Inline {
                pieces.retain(|piece| !grants(cover, *piece));
            }
            if let Answer::Ports(_) = part.answer {
                groups.entry(&part.answer).or_default().push(items.len());
            }
            items.push(Item { part, form, pieces });
        }
        let denies = |i: &Item<'_>| matches!(i.form, Form::Deny | Form::Closed | Form::Inverse);
        if *denied == Denied::GoesOn && items.iter().any(denies) {
            return None;
        }
        let mut nested = Nested { items, shared: Vec::new() };
        if *denied != Denied::GoesOn {
            nested.share(groups);
        }
        Some(nested)
    }

    /// Of the parts that are everything but some ports; None where nothing may be denied and there
    /// are some.
    fn inverse(region: &'a Region, denied: &Denied) -> Option<Self> {
        let parts = region.parts.iter().filter(|p| p.answer.is_inverse());
        let item =
            |part: &'a Part| Item { part, form: Form::Inverse, pieces: pieces(&part.answer) };
        let mut nested = Nested { items: parts.map(item).collect(), shared: Vec::new() };
        let mut groups: BTreeMap<&Answer, Vec<usize>> = BTreeMap::new();
        for (at, item) in nested.items.iter().enumerate() {
            groups.entry(&item.part.answer).or_default().push(at);
        }
        if *denied == Denied::GoesOn {
            return nested.items.is_empty().then_some(nested);
        }
        nested.share(groups);
        Some(nested)
    }

    /// Moves an answer that several parts have into a chain of its own, where the chain with one
    /// filter for each part takes fewer filters than writing the answer out for each.
    fn share(&mut self, groups: BTreeMap<&'a Answer, Vec<usize>>) {
        for (answer, members) in groups {
            let inline: usize = members.iter().map(|m| self.items[*m].cost()).sum();
            if members.len() + pieces(answer).len() + 1 >= inline {
                continue;
            }
            let origins = joined(members.iter().map(|m| &self.items[*m].part.origins));
            self.shared.push((answer, origins));
            for member in members {
                self.items[member].form = Form::Chain(self.shared.len() - 1);
            }
        }
    }

    fn cost(&self) -> usize {
        let shared = self.shared.iter().map(|(answer, _)| pieces(answer).len() + 1);
        self.items.iter().map(Item::cost).chain(shared).sum()
    }
}

impl Item<'_> {
    fn cost(&self) -> usize {
        match self.form {
            Form::Pass | Form::Deny | Form::Chain(_) => 1,
            Form::Inline => self.pieces.len(),
            Form::Closed | Form::Inverse => self.pieces.len() + 1,
        }
    }
}

/// Does an answer permit all of a piece?
fn grants(answer: &Answer, (protocol, ports): Piece) -> bool {
    let permitted = answer.ports(protocol);
    match ports {
        None => permitted.is_all(),
        Some(Ports::Masked(m)) => permitted.holds(m.value),
        Some(Ports::Range { low, high }) => permitted.holds_all((low, high)),
    }
}

/// A filter of packets. What it is for is told by what it matches.
pub fn rule(
    prio: u16,
    role: Role,
    table: TableId,
    pattern: Pattern,
    action: &Action,
    origins: &Origins,
) -> Rule {
    let matches = Match::Flower(pattern);
    let cookie = role.cookie(table, &matches);
    Rule {
        prio,
        matches,
        action: action.clone(),
        copies: Copies::Software,
        cookie,
        origins: origins.clone(),
    }
}

/// The filter that ends a chain: a packet that falls off the end of one passes.
pub fn rest(prio: u16, action: Action, origins: Origins) -> Rule {
    let matches = Match::Flower(Pattern::default());
    let cookie = Role::Rest.cookie(TableId::Base, &0u8);
    Rule { prio, matches, action, copies: Copies::Software, cookie, origins }
}
