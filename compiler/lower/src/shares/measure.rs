//! Sizes: what a policy takes of each resource, from its text; and what those of one namespace take
//! together.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use netpolc_policy::{
    Direction, Index, Isolation, Namespaces, Peer, Peers, Pod, Policy, Port, Ports, Protocol, Rule,
    Selector,
};
use netpolc_table::schema::Family;

use super::limits::{RESOURCES, Resource, Usage, work};
use crate::{
    content::{distinct, fingerprint},
    interval::{Edge, edges, pieces},
    prefix::Prefix,
};

/// Steps of the IPv6 trie below its root that a whole address takes.
const STEPS_V6: u64 = 14;

/// What can be added up without looking at the policies together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    /// Exactly: it is a sum.
    pub(super) parts: u64,
    edges: u64,
    prefixes: [u64; 2],
    blocks: u64,
    selectors: u64,
    rules: u64,
    /// Single ports of all rules.
    singles: u64,
    /// Rules with a range of several ports.
    wide: u64,
}

impl Bound {
    pub(super) fn of(policy: &Policy) -> Self {
        let mut bound = Self { parts: 1, ..Self::default() };
        for rule in Direction::BOTH.into_iter().flat_map(|direction| rules(policy, direction)) {
            bound.rules += 1;
            bound.parts += 1 + peers(rule).len() as u64;
            if let Ports::Listed(ports) = &rule.ports {
                bound.parts += ports.len() as u64;
                bound.edges += 2 * ports.len() as u64;
                bound.singles += ports.len() as u64;
                bound.wide += u64::from(ports.iter().any(|port| match port {
                    Port::Every(_) => true,
                    Port::Range { first, last, .. } => first < last,
                    Port::Named { .. } | Port::Name(_) | Port::Nothing => false,
                }));
            }
            bound.blocks += u64::from(rule.peers == Peers::Any);
            for peer in peers(rule) {
                match peer {
                    Peer::Block(block) => {
                        bound.parts += block.except.len() as u64;
                        bound.prefixes[Family::of(block.cidr.ip()) as usize] +=
                            1 + block.except.len() as u64;
                        bound.blocks += 1;
                    }
                    Peer::Pods { .. } => bound.selectors += 1,
                    Peer::Nothing => {}
                }
            }
        }
        bound
    }

    fn fields(&mut self) -> [&mut u64; 9] {
        let [v4, v6] = &mut self.prefixes;
        [
            &mut self.parts,
            &mut self.edges,
            v4,
            v6,
            &mut self.blocks,
            &mut self.selectors,
            &mut self.rules,
            &mut self.singles,
            &mut self.wide,
        ]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        self.fields().into_iter().zip(other.fields()).for_each(|(a, b)| *a += *b);
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        let mut other = other.clone();
        self.fields().into_iter().zip(other.fields()).for_each(|(a, b)| *a -= *b);
    }

    /// At least what policies of these sizes take on a node with so many pods of theirs.
    pub(super) fn usage(&self, pods: u64) -> Usage {
        let [v4, v6] = self.prefixes;
        let mut usage = [0; RESOURCES.len()];
        usage[Resource::Ports as usize] = self.edges;
        usage[Resource::BlocksV4 as usize] = v4;
        usage[Resource::BlocksV6 as usize] = v6;
        usage[Resource::TrieV6 as usize] = v6 * STEPS_V6;
        usage[Resource::Members as usize] = (v4 + v6).saturating_mul(self.blocks);
        usage[Resource::Selectors as usize] = self.selectors;
        usage[Resource::Rows as usize] = self.rules.saturating_mul(pods);
        let cells = self.singles.saturating_add(self.wide.saturating_mul(self.edges + 3));
        usage[Resource::Verdicts as usize] = cells.saturating_mul(pods);
        usage[Resource::Parts as usize] = self.parts;
        usage[Resource::Work as usize] = work(&usage);
        usage
    }
}

fn rules(policy: &Policy, direction: Direction) -> &[Rule] {
    match policy.isolation(direction) {
        Isolation::Open => &[],
        Isolation::Isolated(rules) => rules,
    }
}

fn peers(rule: &Rule) -> &[Peer] {
    match &rule.peers {
        Peers::Any => &[],
        Peers::Listed(peers) => peers,
    }
}

/// What counts of one policy.
#[derive(Debug)]
struct Item {
    name: Arc<str>,
    edges: Vec<Edge>,
    prefixes: Vec<Prefix>,
    /// Where the blocks of its rules begin, each as often as rules name it.
    blocks: Vec<Prefix>,
    selectors: Vec<u64>,
    /// By direction: the ranges of each rule.
    rules: [Vec<Vec<(Protocol, u16, u16)>>; 2],
}

/// What the policies of one namespace take together, and what is left when the largest are set
/// aside.
#[derive(Debug)]
pub(super) struct Ledger {
    items: Vec<Item>,
    /// Of each item by direction: in how many of the distinct sets that isolate pods of this node
    /// it is.
    counts: Vec<[u64; 2]>,
    all: Usage,
    /// What the last decision did, in its order: asked for again, it is not computed again.
    steps: Vec<Step>,
    done: usize,
}

#[derive(Debug)]
struct Step {
    resource: Resource,
    limit: u64,
    aside: Vec<usize>,
    takes: Vec<u64>,
    left: Usage,
}

impl Ledger {
    pub(super) fn new<'a>(policies: impl Iterator<Item = &'a Policy>, pods: &[&Pod]) -> Self {
        let policies: Vec<(&Policy, Index)> =
            policies.map(|p| (p, Index::new(&p.selector))).collect();
        let mut sets = BTreeSet::new();
        let mut live: Vec<Vec<&Pod>> = vec![vec![]; policies.len()];
        for pod in pods {
            let selecting = policies
                .iter()
                .enumerate()
                .filter(|(_, (p, index))| index.matches(&p.selector, &pod.labels));
            let selecting: Vec<usize> = selecting.map(|(i, _)| i).collect();
            selecting.iter().for_each(|i| live[*i].push(pod));
            for direction in Direction::BOTH {
                let isolates = |i: &&usize| {
                    matches!(policies[**i].0.isolation(direction), Isolation::Isolated(_))
                };
                let set: Vec<usize> = selecting.iter().filter(isolates).copied().collect();
                // Port names make sets of their own; that they are rare is good enough for a size.
                sets.insert((direction, set));
            }
        }
        let items =
            policies.iter().zip(&live).map(|((policy, _), pods)| Item::of(policy, pods)).collect();
        let mut counts = vec![[0; 2]; policies.len()];
        for (direction, set) in sets {
            set.into_iter().for_each(|i| counts[i][direction as usize] += 1);
        }
        let mut ledger = Self { items, counts, all: [0; RESOURCES.len()], steps: vec![], done: 0 };
        let live: Vec<usize> =
            (0..ledger.items.len()).filter(|i| ledger.counts[*i] != [0, 0]).collect();
        ledger.all = ledger.usage(&live);
        ledger
    }

    /// A new decision begins.
    pub(super) fn rewind(&mut self) {
        self.done = 0;
    }

    pub(super) fn used(&self, resource: Resource) -> u64 {
        let usage = self.done.checked_sub(1).map_or(&self.all, |last| &self.steps[last].left);
        usage[resource as usize]
    }

    /// Sets the largest policies aside until the others take at most `limit` of `resource`; their
    /// names, and what each of them takes alone.
    pub(super) fn reduce(&mut self, resource: Resource, limit: u64) -> Vec<(Arc<str>, u64)> {
        let known = self
            .steps
            .get(self.done)
            .is_some_and(|step| (step.resource, step.limit) == (resource, limit));
        if !known {
            self.steps.truncate(self.done);
            let step = self.step(resource, limit);
            self.steps.push(step);
        }
        let step = &self.steps[self.done];
        self.done += 1;
        step.aside
            .iter()
            .zip(&step.takes)
            .map(|(i, takes)| (self.items[*i].name.clone(), *takes))
            .collect()
    }

    fn step(&self, resource: Resource, limit: u64) -> Step {
        let gone: HashSet<usize> =
            self.steps.iter().flat_map(|step| &step.aside).copied().collect();
        let live = (0..self.items.len()).filter(|i| !gone.contains(i) && self.counts[*i] != [0, 0]);
        let mut order: Vec<(u64, usize)> =
            live.map(|i| (self.usage(&[i])[resource as usize], i)).collect();
        // Items are in the order of their names, which decides between equals.
        order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let without = |count: usize| {
            let left: Vec<usize> = order[count..].iter().map(|(_, i)| *i).collect();
            self.usage(&left)
        };
        // What is left never grows with what goes.
        let (mut few, mut many) = (0, order.len());
        while few < many {
            let middle = few.midpoint(many);
            if without(middle)[resource as usize] <= limit {
                many = middle
            } else {
                few = middle + 1
            }
        }
        let (takes, aside) = order[..many].iter().copied().unzip();
        Step { resource, limit, aside, takes, left: without(many) }
    }

    /// What these items take together; their parts were counted before ([`Bound`]).
    fn usage(&self, kept: &[usize]) -> Usage {
        let items = || kept.iter().map(|i| &self.items[*i]);
        let edges = distinct(items().flat_map(|item| item.edges.iter().copied()));
        let prefixes = distinct(items().flat_map(|item| item.prefixes.iter().copied()));
        let of = |family: Family| prefixes.iter().filter(|p| p.family == family).count() as u64;
        let mut usage = [0; RESOURCES.len()];
        usage[Resource::Ports as usize] = edges.len() as u64;
        usage[Resource::BlocksV4 as usize] = of(Family::V4);
        usage[Resource::BlocksV6 as usize] = of(Family::V6);
        usage[Resource::TrieV6 as usize] = steps(&prefixes);
        usage[Resource::Members as usize] =
            members(&prefixes, items().flat_map(|item| item.blocks.iter().copied()));
        usage[Resource::Selectors as usize] =
            distinct(items().flat_map(|item| item.selectors.iter().copied())).len() as u64;
        for &i in kept {
            for direction in Direction::BOTH {
                let (rules, sets) =
                    (&self.items[i].rules[direction as usize], self.counts[i][direction as usize]);
                let cells: u64 = rules.iter().flatten().map(|range| pieces(&edges, *range)).sum();
                usage[Resource::Rows as usize] += rules.len() as u64 * sets;
                usage[Resource::Verdicts as usize] += cells * sets;
            }
        }
        usage[Resource::Work as usize] = work(&usage);
        usage
    }
}

impl Item {
    /// Nothing that is named on other nodes' pods is counted: a port's name in a rule for egress.
    fn of(policy: &Policy, pods: &[&Pod]) -> Self {
        let mut item = Self {
            name: policy.key.name.clone(),
            edges: vec![],
            prefixes: vec![],
            blocks: vec![],
            selectors: vec![],
            rules: [vec![], vec![]],
        };
        for direction in Direction::BOTH {
            for rule in rules(policy, direction) {
                let mut ranges = vec![];
                if let Ports::Listed(ports) = &rule.ports {
                    for port in ports {
                        match port {
                            Port::Every(protocol) => ranges.push((*protocol, 0, u16::MAX)),
                            Port::Range { protocol, first, last } => {
                                ranges.push((*protocol, *first, *last))
                            }
                            Port::Named { protocol, name } if direction == Direction::Ingress => {
                                let numbers =
                                    pods.iter().flat_map(|pod| pod.resolve_port(*protocol, name));
                                ranges.extend(
                                    numbers
                                        .collect::<BTreeSet<_>>()
                                        .into_iter()
                                        .map(|n| (*protocol, n, n)),
                                );
                            }
                            Port::Named { .. } | Port::Name(_) | Port::Nothing => {}
                        }
                    }
                }
                item.edges.extend(ranges.iter().copied().flat_map(edges));
                if rule.peers == Peers::Any {
                    item.blocks.extend(Family::BOTH.map(everywhere));
                }
                for peer in peers(rule) {
                    item.peer(&policy.key.namespace, peer);
                }
                item.rules[direction as usize].push(ranges);
            }
        }
        item.edges = distinct(item.edges.iter().copied());
        item.prefixes = distinct(item.prefixes.iter().copied());
        item
    }

    fn peer(&mut self, own: &Arc<str>, peer: &Peer) {
        match peer {
            Peer::Block(block) => {
                let cidr = Prefix::of(block.cidr);
                // A block of a whole family is no class (`sets::whole_family`).
                if cidr.length > 0 || !block.except.is_empty() {
                    self.prefixes.push(cidr);
                    self.prefixes.extend(block.except.iter().map(|e| Prefix::of(*e)));
                }
                self.blocks.push(cidr);
            }
            Peer::Pods { namespaces, pods } => {
                let scope: (Option<&Arc<str>>, Option<&Selector>) = match namespaces {
                    Namespaces::Own => (Some(own), None),
                    Namespaces::Matching(selector) => (None, Some(selector)),
                };
                self.selectors.push(fingerprint(&(scope, pods)));
            }
            Peer::Nothing => {}
        }
    }
}

/// What a rule without peers is about, of a family.
fn everywhere(family: Family) -> Prefix {
    Prefix { family, bits: 0, length: 0 }
}

/// Blocks of the IPv6 trie on the way to these prefixes, which are in order.
fn steps(prefixes: &[Prefix]) -> u64 {
    let (mut steps, mut last, mut made) = (0, 0, 0);
    for prefix in prefixes.iter().filter(|p| p.family == Family::V6) {
        // What two prefixes share of the way all between them share too: so of what was made
        // before, that is there for this one which is on the way to the last one.
        let shared = match (last ^ prefix.bits).leading_zeros() {
            bits @ 16.. => u64::from(bits - 16) / 8 + 1,
            _ => 0,
        };
        let way = u64::from(prefix.length.saturating_sub(16)).div_ceil(8);
        made = shared.min(made);
        steps += way.saturating_sub(made);
        (last, made) = (prefix.bits, made.max(way));
    }
    steps
}

/// For each prefix the blocks that begin at or above it, added up.
fn members(prefixes: &[Prefix], blocks: impl Iterator<Item = Prefix>) -> u64 {
    let mut begins: HashMap<Prefix, u64> = HashMap::new();
    let mut lengths: [BTreeSet<u8>; 2] = Default::default();
    for prefix in blocks {
        *begins.entry(prefix).or_default() += 1;
        lengths[prefix.family as usize].insert(prefix.length);
    }
    let covers = |prefix: &Prefix| {
        let lengths = lengths[prefix.family as usize].range(..=prefix.length);
        lengths.filter_map(|length| begins.get(&prefix.shortened(*length))).sum::<u64>()
    };
    prefixes.iter().map(covers).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_the_distinct_beginnings_of_prefixes() {
        let mut bits = 1_u128;
        for round in 0..200 {
            let mut prefixes = vec![];
            for i in 0..round {
                bits = bits.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
                // Few different bits, so that they share much.
                let few = bits & 0x0300_0101_0001_0100_0001_0000_0100_0001;
                let length = [0, 8, 16, 17, 24, 32, 47, 64, 120, 121, 127, 128][i % 12];
                prefixes
                    .push(Prefix { family: Family::V6, bits: few, length: 128 }.shortened(length));
            }
            let prefixes = distinct(prefixes.into_iter());
            let mut all = HashSet::new();
            for prefix in &prefixes {
                let below = prefix.length.saturating_sub(16).div_ceil(8);
                all.extend((0..below).map(|step| prefix.shortened(16 + 8 * step)));
            }
            assert_eq!(steps(&prefixes), all.len() as u64, "{prefixes:?}");
        }
    }
}
