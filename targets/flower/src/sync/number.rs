//! Which number each wanted chain gets on an interface.
//!
//! Lowering numbers chains by their content, so mostly a chain keeps its number and the same number
//! is the same chain. Where a NIC has few numbers, or two contents meet in one, the wanted number
//! may be in use by something else: then another one is taken, and the filters that lead there are
//! written to suit.

use std::collections::{BTreeMap, BTreeSet};

use super::{Books, Place, leads_to, offloaded, our};
use crate::{
    filter::{Action, Cookie, Copies, Filter, Match, Pattern, Side},
    netlink::Found,
};

/// What a chain does: prio, match, action, copies, in order. A cookie is changed in place, by a
/// replacement that does the same; only a filter with both copies might be lost to hardware by
/// that, so there it is a part.
type Content<'a> = Vec<(u16, &'a Match, Action, Copies, Option<Cookie>)>;

fn content(filter: &Filter, action: Action) -> (u16, &Match, Action, Copies, Option<Cookie>) {
    let cookie = (filter.copies == Copies::Both).then_some(filter.cookie);
    (filter.prio, &filter.matches, action, filter.copies, cookie)
}

/// The chains that are installed.
pub struct Chains<'a> {
    /// Chains with netpolc's filters alone that are as they should be, in hardware too, by what
    /// they do.
    whole: BTreeMap<(Side, Content<'a>), Vec<u32>>,
    /// Numbers under which there is at least one filter, anybody's.
    filled: BTreeSet<(Side, u32)>,
    /// Numbers that must not be written to: packets may come there, or others have filters there.
    closed: BTreeSet<(Side, u32)>,
    installed: &'a Books,
}

impl<'a> Chains<'a> {
    /// Sorts what is installed into chains.
    pub fn new(installed: &'a Books) -> Self {
        let mut does = BTreeMap::<(Side, u32), Option<Content<'a>>>::new();
        let mut others = BTreeSet::new();
        for (place, decoded) in installed.iter().filter(|(p, _)| p.chain != 0) {
            let chain = does.entry((place.side, place.chain)).or_insert_with(|| Some(vec![]));
            match &decoded.found {
                Found::Ours(f) if offloaded(decoded, f) => {
                    if let Some(chain) = chain {
                        chain.push(content(f, f.action.clone()));
                    }
                }
                found => {
                    *chain = None;
                    if *found == Found::Foreign {
                        others.insert((place.side, place.chain));
                    }
                }
            }
        }
        let filled: BTreeSet<(Side, u32)> = does.keys().copied().collect();
        let reached = reached(installed);
        // Something may lead to a chain without filters.
        does.extend(reached.difference(&filled).map(|at| (*at, Some(vec![]))));
        let mut whole = BTreeMap::<_, Vec<u32>>::new();
        for ((side, chain), does) in does {
            if let Some(mut does) = does {
                does.sort();
                whole.entry((side, does)).or_default().push(chain);
            }
        }
        Self { whole, closed: &reached | &others, filled, installed }
    }

    /// May the chain become what is wanted while packets come there? See [`Loose`].
    fn is_loose(&self, side: Side, chain: u32, wanted: &[&Filter]) -> bool {
        let all = Place { side, chain, prio: 0, handle: 0 }..=Place {
            side,
            chain,
            prio: u16::MAX,
            handle: u32::MAX,
        };
        let mut there = Vec::new();
        for (_, decoded) in self.installed.range(all) {
            let Found::Ours(filter) = &decoded.found else { return false };
            there.push(filter);
        }
        !there.is_empty()
            && Loose::of(there.iter().copied()).zip(Loose::of(wanted.iter().copied())).is_some_and(
                |(there, wanted)| {
                    there.redirects_end.max(wanted.redirects_end) < there.rest.min(wanted.rest)
                },
            )
    }

    /// Is there anything under this number, or does something lead there?
    fn used(&self, at: (Side, u32)) -> bool {
        self.filled.contains(&at) || self.closed.contains(&at)
    }
}

/// A chain for hardware that redirects by destination, every other packet being the host's. Each
/// address is redirected to one port only, and nothing is redirected behind what passes, so
/// whatever part of such a chain is there, a packet goes where the whole chain sends it, or to the
/// host. So what it has and what is wanted have in common can stay while everything in front of it
/// changes; the rest goes before that, and comes after it.
struct Loose {
    /// The last prio that redirects; 0: none does.
    redirects_end: u16,
    /// The first prio that passes.
    rest: u16,
}

impl Loose {
    /// What matters of such a chain; None where this is another kind of chain.
    fn of<'a>(filters: impl Iterator<Item = &'a Filter>) -> Option<Self> {
        let mut this = Self { redirects_end: 0, rest: u16::MAX };
        let mut ports = BTreeMap::new();
        for filter in filters {
            match (&filter.action, &filter.matches) {
                _ if filter.copies == Copies::Software => return None,
                (Action::Pass, _) => this.rest = this.rest.min(filter.prio),
                (Action::Redirect(port), Match::Flower(Pattern { destination: Some(to), .. })) => {
                    let whole = to.prefix() == if to.is_ipv4() { 32 } else { 128 };
                    if !whole || *ports.entry(*to).or_insert(*port) != *port {
                        return None;
                    }
                    this.redirects_end = this.redirects_end.max(filter.prio);
                }
                _ => return None,
            }
        }
        (this.redirects_end < this.rest).then_some(this)
    }
}

/// Numbers above 0 that packets can come to from chain 0. A filter that was changed by somebody may
/// lead to any of its side.
pub fn reached(installed: &Books) -> BTreeSet<(Side, u32)> {
    let mut next = BTreeMap::<(Side, u32), Vec<u32>>::new();
    let mut found = BTreeSet::new();
    let mut queue: Vec<(Side, u32)> = vec![(Side::Ingress, 0), (Side::Egress, 0)];
    for (place, decoded) in installed.iter().filter(|(_, d)| our(d)) {
        let leads = next.entry((place.side, place.chain)).or_default();
        match &decoded.found {
            Found::Ours(filter) => leads.extend(leads_to(filter)),
            _ => leads.extend(installed.keys().filter(|p| p.side == place.side).map(|p| p.chain)),
        }
    }
    while let Some(at) = queue.pop() {
        if found.insert(at) {
            queue.extend(next.get(&at).into_iter().flatten().map(|&chain| (at.0, chain)));
        }
    }
    found.retain(|(_, chain)| *chain != 0);
    found
}

/// How a wanted chain comes to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// It is installed under this number and stays as it is.
    Keep(u32),
    /// It is to be made, or completed, under this number, to which nothing leads yet.
    Make(u32),
    /// Packets come to it under this number, and it changes there, filter by filter.
    Change(u32),
}

impl Number {
    /// The number under which the chain will be found.
    pub fn get(self) -> u32 {
        match self {
            Number::Keep(number) | Number::Make(number) | Number::Change(number) => number,
        }
    }
}

/// Gives numbers, one chain after the other.
pub struct Numbering<'a> {
    installed: &'a Chains<'a>,
    wanted: &'a BTreeMap<(Side, u32), Vec<&'a Filter>>,
    limit: u32,
    given: BTreeMap<(Side, u32), Number>,
    taken: BTreeSet<(Side, u32)>,
}

impl<'a> Numbering<'a> {
    /// Numbers for wanted filters, which are grouped by their chains; no number above `limit` is
    /// invented.
    pub fn new(
        installed: &'a Chains<'a>,
        wanted: &'a BTreeMap<(Side, u32), Vec<&'a Filter>>,
        limit: u32,
    ) -> Self {
        Self { installed, wanted, limit, given: BTreeMap::new(), taken: BTreeSet::new() }
    }

    /// The number of a wanted chain, once its own targets have theirs. None: there is none left for
    /// it.
    pub fn number(&mut self, side: Side, chain: u32) -> Option<Number> {
        if let Some(&number) = self.given.get(&(side, chain)) {
            return Some(number);
        }
        let Some(filters) = self.wanted.get(&(side, chain)).filter(|_| chain != 0) else {
            // Chain 0 is where packets begin, and what leads to an empty chain leads nowhere.
            return Some(Number::Make(chain));
        };
        // Chains never lead in a circle; if they did, this entry would end the recursion.
        self.given.insert((side, chain), Number::Make(chain));
        let mut does: Content<'a> = Vec::with_capacity(filters.len());
        for filter in filters {
            does.push(content(filter, self.action(filter)?));
        }
        does.sort();
        let number = self.choose(side, chain, does)?;
        self.taken.insert((side, number.get()));
        self.given.insert((side, chain), number);
        Some(number)
    }

    /// A wanted filter's action with the number that its target has.
    pub fn action(&mut self, filter: &Filter) -> Option<Action> {
        Some(match filter.action {
            Action::Goto(to) => Action::Goto(self.number(filter.side, to)?.get()),
            Action::Track(to) => Action::Track(self.number(filter.side, to)?.get()),
            ref other => other.clone(),
        })
    }

    /// The number for a chain that does `does`. In order of preference: an installed chain that
    /// does the same, the wanted number where nothing leads to it, the wanted number in place where
    /// any part of the chain is sound, and the lowest number that nobody uses or wants.
    fn choose(&self, side: Side, chain: u32, does: Content<'a>) -> Option<Number> {
        let open = |number: u32| !self.taken.contains(&(side, number));
        let same = self.installed.whole.get(&(side, does)).map_or(&[][..], |n| &n[..]);
        let same = || same.iter().copied().filter(|&n| open(n));
        if let Some(number) = same().find(|&n| n == chain).or_else(|| same().next()) {
            return Some(Number::Keep(number));
        }
        if open(chain) && !self.installed.closed.contains(&(side, chain)) {
            return Some(Number::Make(chain));
        }
        if open(chain) && self.installed.is_loose(side, chain, &self.wanted[&(side, chain)]) {
            return Some(Number::Change(chain));
        }
        let free = |&n: &u32| {
            let at = (side, n);
            open(n) && !self.wanted.contains_key(&at) && !self.installed.used(at)
        };
        (1..=self.limit).find(free).map(Number::Make)
    }
}
