//! Policies from needs: one for each unit, with a rule for each of those who were seen, and for
//! each rule what it was seen for.
//!
//! Here: which directions a policy is about, names, ports and blocks. Not here: how a policy is
//! written ([`crate::manifest`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use netpolc_flow::time;
use netpolc_kube_sync::NAMESPACE_NAME_LABEL;
use netpolc_policy::{
    Block, Direction, Isolation, Namespaces, ObjectKey, Operator, Peer, Peers, Policy, Port, Ports,
    Protocol, Requirement, Rule, Selector,
};

use crate::{
    Half, Options, Recommended, RuleSeen, Told,
    evidence::Evidence,
    meaning::Other,
    merge,
    need::{Need, Needs, Observed, Seen},
    world::{UnitId, World},
};

/// How many ranges of ports a rule has at most.
const MAX_RANGES: usize = 16;
/// How many rules about addresses a direction has at most.
const MAX_ADDRESS_RULES: usize = 16;
/// How many names a comment has at most.
const MAX_NAMED: usize = 6;
/// The longest name of a policy, which the API permits 253 bytes.
const MAX_NAME: usize = 240;

/// Ports of the destination.
type PortSet = BTreeSet<(Protocol, u16)>;

/// All policies, and what is to be said besides.
#[derive(Default)]
pub(crate) struct Drafts {
    pub policies: Vec<Recommended>,
    pub uncovered: Vec<Told>,
    pub notes: Vec<String>,
    /// The units that have a policy.
    pub units: BTreeSet<UnitId>,
    /// Needs of theirs that no rule says.
    pub left: BTreeSet<Need>,
}

/// What is needed to write a policy.
pub(crate) struct Source<'a> {
    pub world: &'a World,
    pub evidence: &'a Evidence,
    pub needs: &'a Needs,
    pub options: &'a Options,
}

impl Source<'_> {
    /// Is the unit one for which policies are wanted?
    pub fn is_wanted(&self, unit: UnitId) -> bool {
        self.world.unit(unit).members.iter().any(|member| self.options.scope.wants(member))
    }

    pub fn drafts(&self) -> Drafts {
        let mut all = Drafts::default();
        for (unit, observed) in &self.needs.observed {
            if self.is_wanted(*unit) {
                self.unit(*unit, observed, &mut all);
            }
        }
        all
    }

    /// The policy of one unit.
    fn unit(&self, unit: UnitId, observed: &Observed, all: &mut Drafts) {
        let about = self.world.unit(unit);
        let policed = |direction: Direction| {
            observed.policed.contains(&direction)
                || self.world.pods(unit).any(|pod| self.world.isolates(pod, direction))
        };
        let directions = Direction::BOTH.map(|direction| (direction, policed(direction)));
        if directions.iter().all(|(_, policed)| !policed) {
            all.notes.push(format!(
                "{about} has no policy here: nothing was seen that isolates its pods, enforced or \
                 only tried, so it is not known what else they do"
            ));
            return;
        }
        let Some(selector) = &about.selector else {
            all.notes.push(format!(
                "{about} has no policy here: its pods carry no label that flows show; give the \
                 cluster by -f or --context"
            ));
            return;
        };
        let mut halves = Direction::BOTH.map(|_| Half::default());
        let mut isolation = Direction::BOTH.map(|_| Isolation::Open);
        for (index, (direction, policed)) in directions.into_iter().enumerate() {
            if !policed {
                let seen: u64 = self.of(unit, direction).map(|(_, seen)| seen.here).sum();
                let some = match seen {
                    0 => String::new(),
                    seen => format!(", only what was seen {}", times(seen)),
                };
                let note = format!(
                    "{} is left as it is: nothing was seen that isolates it, enforced or only \
                     tried, so not all of it is known{some}.",
                    capital(direction),
                );
                all.notes.push(format!("{about}: {note}"));
                halves[index].notes.push(note);
                continue;
            }
            let (rules, half) = self.half(unit, direction, observed, all);
            isolation[index] = Isolation::Isolated(rules);
            halves[index] = half;
        }
        let [ingress, egress] = isolation;
        let comments = self.comments(unit, observed, all);
        all.policies.push(Recommended {
            policy: Policy {
                key: ObjectKey::new(about.namespace.clone(), self.name(unit)),
                selector: selector.selector(),
                ingress,
                egress,
                mode: self.options.mode,
            },
            workloads: about.members.iter().cloned().collect(),
            comments,
            halves,
        });
        all.units.insert(unit);
    }

    /// The needs of a direction of a unit.
    fn of(&self, unit: UnitId, direction: Direction) -> impl Iterator<Item = (&Need, &Seen)> {
        let (other, protocol) = (Other::Unit(UnitId(0)), Protocol::Tcp);
        let needs = self.needs.needs.range(Need { unit, direction, other, protocol, port: 0 }..);
        needs.take_while(move |(need, _)| need.unit == unit && need.direction == direction)
    }

    /// What is said of the policy as a whole.
    fn comments(&self, unit: UnitId, observed: &Observed, all: &mut Drafts) -> Vec<String> {
        let (world, about) = (self.world, self.world.unit(unit));
        let mut comments = vec![format!(
            "{about}: {} observed, on {}.",
            counted(observed.pods.len(), "pod", "pods"),
            named("node", observed.nodes.iter().map(|name| name.to_string()))
        )];
        if about.members.len() > 1 {
            comments.push(
                "No labels tell the pods of these workloads apart, so one policy selects all of \
                 them."
                    .into(),
            );
        }
        let elsewhere = world.pods(unit).filter(|pod| {
            pod.node.as_ref().is_some_and(|node| !self.evidence.nodes.contains(node))
        });
        let elsewhere: BTreeSet<String> =
            elsewhere.filter_map(|pod| pod.node.as_ref()).map(ToString::to_string).collect();
        if !elsewhere.is_empty() {
            let text = format!(
                "Not observed: its pods on {}, whose flows were not read.",
                named("node", elsewhere.into_iter())
            );
            all.notes.push(format!("{about}: {text} Read the flows of all nodes"));
            comments.push(text);
        }
        let missing: u64 = observed
            .pods
            .iter()
            .filter_map(|pod| self.evidence.unrecorded.get(pod.to_string().as_str()))
            .sum();
        if missing > 0 {
            let text = format!(
                "{} were counted and have no flow, since there were so many; rules may be missing.",
                counted(missing as usize, "packet", "packets")
            );
            all.notes.push(format!("{about}: {text}"));
            comments.push(text);
        }
        let own = ObjectKey::new(about.namespace.clone(), self.name(unit));
        let others = world.enforced(unit).into_iter().filter(|key| **key != own);
        let others: Vec<String> = others.map(ToString::to_string).collect();
        if !others.is_empty() {
            let text = format!(
                "Beside it, {} what it permits until it is changed.",
                match &others[..] {
                    [one] => format!("NetworkPolicy {one} goes on permitting"),
                    more => format!(
                        "each of the NetworkPolicies {} goes on permitting",
                        listed(more.iter().cloned())
                    ),
                }
            );
            comments.push(text);
        }
        comments
    }

    /// The name of a unit's policy, which is the same in each run.
    fn name(&self, unit: UnitId) -> String {
        let about = self.world.unit(unit);
        let Some(first) = about.members.first() else { return "seen".into() };
        let same = self.world.units.iter().filter(|other| {
            other.namespace == about.namespace
                && other.members.first().is_some_and(|member| member.name == first.name)
        });
        let mut name = match same.count() {
            0 | 1 => first.name.to_string(),
            _ => format!("{}-{}", first.kind.to_ascii_lowercase(), first.name),
        };
        name.truncate(MAX_NAME - 16);
        let name = name.trim_end_matches(['-', '.']);
        match about.members.len() {
            1 => format!("{name}-seen"),
            more => format!("{name}-and-{}-more-seen", more - 1),
        }
    }

    /// The rules of a direction.
    fn half(
        &self,
        unit: UnitId,
        direction: Direction,
        observed: &Observed,
        all: &mut Drafts,
    ) -> (Vec<Rule>, Half) {
        let (mut rules, mut half) = (Vec::new(), Half::default());
        let mut units: BTreeMap<UnitId, BTreeMap<(Protocol, u16), &Seen>> = BTreeMap::new();
        let mut addresses: BTreeMap<(Protocol, u16), BTreeMap<IpAddr, &Seen>> = BTreeMap::new();
        for (need, seen) in self.of(unit, direction) {
            let port = (need.protocol, need.port);
            match need.other {
                Other::Unit(other) => {
                    units.entry(other).or_default().insert(port, seen);
                }
                Other::Address(address) => {
                    addresses.entry(port).or_default().insert(address, seen);
                }
            }
        }
        let mut units: Vec<_> = units.into_iter().collect();
        let own = &self.world.unit(unit).namespace;
        units.sort_by_key(|(other, _)| {
            let other = self.world.unit(*other);
            (other.namespace != *own, other.namespace.clone(), other.members.clone())
        });
        for (other, ports) in units {
            match self.peer(unit, other) {
                Some(peer) => {
                    let destination = if direction == Direction::Ingress { unit } else { other };
                    let seen: Vec<&Seen> = ports.values().copied().collect();
                    let (ports, widened) = self.ports(Some(destination), ports.into_keys());
                    let whom = self.world.unit(other).to_string();
                    half.rules.push(rule_seen(direction, whom, &seen, widened));
                    rules.push(Rule { peers: Peers::Listed(vec![peer]), ports });
                }
                None => {
                    let why = "its pods carry no label that flows show; give the cluster by -f or \
                               --context";
                    for ((protocol, port), seen) in ports {
                        let other_end = Other::Unit(other);
                        all.left.insert(Need { unit, direction, other: other_end, protocol, port });
                        all.uncovered.push(Told {
                            whose: self.world.unit(unit).to_string(),
                            direction,
                            other: self.world.unit(other).to_string(),
                            traffic: format!("{protocol} {port}"),
                            why: why.into(),
                            count: seen.here.max(seen.there),
                        });
                    }
                }
            }
        }
        self.blocks(unit, direction, addresses, (&mut rules, &mut half), all);
        if let Some(answers) = observed.answers.get(&direction) {
            half.notes.push(format!(
                "Left out: {} that came late, after the connection was forgotten.",
                counted(*answers as usize, "answer", "answers")
            ));
        }
        if rules.is_empty() {
            half.notes.push(format!(
                "Nothing else was seen that needs a rule, so {direction} is closed."
            ));
        }
        (rules, half)
    }

    /// The peer that selects a unit; None where nothing does.
    fn peer(&self, unit: UnitId, other: UnitId) -> Option<Peer> {
        let (own, other) = (&self.world.unit(unit).namespace, self.world.unit(other));
        let pods = other.selector.as_ref()?.selector();
        let namespaces = match *own == other.namespace {
            true => Namespaces::Own,
            false => Namespaces::Matching(Selector {
                requirements: vec![Requirement {
                    key: NAMESPACE_NAME_LABEL.into(),
                    operator: Operator::In(vec![other.namespace.clone()]),
                }],
            }),
        };
        Some(Peer::Pods { namespaces, pods })
    }

    /// These ports as a rule has them, by name where the destination has one, and what is said
    /// where that permits more.
    fn ports(
        &self,
        destination: Option<UnitId>,
        ports: impl Iterator<Item = (Protocol, u16)>,
    ) -> (Ports, Option<String>) {
        let mut written: Vec<(Protocol, u16, Port)> = Vec::new();
        let mut numbers: BTreeMap<Protocol, BTreeSet<u16>> = BTreeMap::new();
        for (protocol, number) in ports {
            let name = destination.and_then(|unit| self.world.port_name(unit, protocol, number));
            match name {
                Some(name) => written.push((protocol, number, Port::Named { protocol, name })),
                None => drop(numbers.entry(protocol).or_default().insert(number)),
            }
        }
        let mut widened = None;
        for (protocol, numbers) in numbers {
            let ranges = merge::ranges(&numbers, MAX_RANGES);
            let within: usize =
                ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum();
            if within > numbers.len() {
                widened = Some(format!(
                    "{} {protocol} ports were seen; the ranges permit {} others.",
                    numbers.len(),
                    within - numbers.len()
                ));
            }
            written.extend(
                ranges
                    .into_iter()
                    .map(|(first, last)| (protocol, first, Port::Range { protocol, first, last })),
            );
        }
        written.sort_by_key(|(protocol, number, _)| (*protocol, *number));
        (Ports::Listed(written.into_iter().map(|(.., port)| port).collect()), widened)
    }

    /// The rules about addresses: nodes, and what is outside of the cluster.
    fn blocks(
        &self,
        unit: UnitId,
        direction: Direction,
        by_port: BTreeMap<(Protocol, u16), BTreeMap<IpAddr, &Seen>>,
        (rules, half): (&mut Vec<Rule>, &mut Half),
        all: &mut Drafts,
    ) {
        let mut groups: BTreeMap<(Option<Arc<str>>, BTreeSet<IpAddr>), PortSet> = BTreeMap::new();
        for (port, addresses) in &by_port {
            let mut split: BTreeMap<Option<Arc<str>>, BTreeSet<IpAddr>> = BTreeMap::new();
            for address in addresses.keys() {
                split.entry(self.world.node_at(*address).cloned()).or_default().insert(*address);
            }
            for (node, addresses) in split {
                groups.entry((node, addresses)).or_default().insert(*port);
            }
        }
        if groups.len() > MAX_ADDRESS_RULES {
            // Rather fewer rules that say more together than pages that nobody reads.
            let mut joined: BTreeMap<_, PortSet> = BTreeMap::new();
            let mut outside = (BTreeSet::new(), PortSet::new());
            for ((node, addresses), ports) in groups {
                match node {
                    Some(_) => drop(joined.insert((node, addresses), ports)),
                    None => {
                        outside.0.extend(addresses);
                        outside.1.extend(ports);
                    }
                }
            }
            joined.insert((None, outside.0), outside.1);
            half.notes.push(
                "Addresses and ports are so many that one rule has all of them together, each \
                 address with each port."
                    .into(),
            );
            groups = joined;
        }
        for ((node, addresses), ports) in groups {
            let seen: Vec<&Seen> = ports
                .iter()
                .filter_map(|port| by_port.get(port))
                .flat_map(|known| known.iter().filter(|(address, _)| addresses.contains(address)))
                .map(|(_, seen)| *seen)
                .collect();
            let whom = match (&node, addresses.len()) {
                (Some(name), _) => format!("node {name}"),
                (None, 1) => addresses.iter().map(ToString::to_string).collect(),
                (None, many) => format!("{many} addresses outside of the cluster"),
            };
            let taboo = |block: &IpNetwork| self.is_taboo(block, &addresses);
            let Some(blocks) = merge::blocks(&addresses, self.options.most_blocks, &taboo) else {
                for (protocol, port) in ports.iter().copied() {
                    let each = addresses.iter().map(|address| {
                        let other = Other::Address(*address);
                        Need { unit, direction, other, protocol, port }
                    });
                    all.left.extend(each);
                }
                let ports: Vec<String> = ports.iter().map(|(p, n)| format!("{p} {n}")).collect();
                let why = "they are too many and too far apart for blocks; if everybody may, add \
                           a rule for 0.0.0.0/0 and ::/0, or raise --merge-addresses";
                all.uncovered.push(Told {
                    whose: self.world.unit(unit).to_string(),
                    direction,
                    other: whom,
                    traffic: listed(ports.into_iter()),
                    why: why.into(),
                    count: seen.iter().map(|seen| seen.here).sum(),
                });
                continue;
            };
            // An address has no names of ports, so only the unit itself may have some (S31).
            let destination = (direction == Direction::Ingress).then_some(unit);
            let (ports, mut widened) = self.ports(destination, ports.into_iter());
            if blocks.len() < addresses.len() {
                widened = Some(format!(
                    "{} addresses became {}, which permit also what lies between them.{}",
                    addresses.len(),
                    counted(blocks.len(), "block", "blocks"),
                    widened.map(|more| format!(" {more}")).unwrap_or_default()
                ));
            }
            let peers = blocks
                .into_keys()
                .map(|cidr| Peer::Block(Block { cidr, except: Vec::new() }))
                .collect();
            let mut said = rule_seen(direction, whom, &seen, widened);
            if node.is_some() && direction == Direction::Ingress {
                said.comments.push(
                    "A node's address is that of its hostNetwork pods, and of what comes from \
                     outside by a port of the node."
                        .into(),
                );
            }
            half.rules.push(said);
            rules.push(Rule { peers: Peers::Listed(peers), ports });
        }
    }

    /// Has a wider block somebody of the cluster who was not seen?
    fn is_taboo(&self, block: &IpNetwork, addresses: &BTreeSet<IpAddr>) -> bool {
        let is_other = |address: &IpAddr| block.contains(*address) && !addresses.contains(address);
        let pods = self.world.book.within(block).map(|(address, _)| address);
        let nodes = self.world.cluster.nodes.values().flat_map(|node| &node.addresses);
        pods.into_iter().any(|address| is_other(&address)) || nodes.into_iter().any(is_other)
    }
}

/// What a rule was seen for.
fn rule_seen(
    direction: Direction,
    whom: String,
    seen: &[&Seen],
    widened: Option<String>,
) -> RuleSeen {
    let here: u64 = seen.iter().map(|seen| seen.here).sum();
    let there: u64 = seen.iter().map(|seen| seen.there).sum();
    let first = seen.iter().map(|seen| seen.first).min().unwrap_or_default();
    let last = seen.iter().map(|seen| seen.last).max().unwrap_or_default();
    let preposition = if direction == Direction::Ingress { "From" } else { "To" };
    let count = if here > 0 { here } else { there };
    let mut comments =
        vec![format!("{preposition} {whom}: seen {}, {}.", times(count), period(first, last))];
    let examples: BTreeSet<&String> = seen.iter().flat_map(|seen| &seen.examples).collect();
    if !examples.is_empty() {
        comments.push(format!("Such as {}.", listed(examples.into_iter().take(2).cloned())));
    }
    let services: BTreeSet<String> =
        seen.iter().flat_map(|seen| &seen.services).map(ToString::to_string).collect();
    if !services.is_empty() {
        comments.push(format!("By {}.", named("Service", services.into_iter())));
    }
    if here == 0 {
        comments.push("It was seen at the other end alone.".into());
    }
    comments.extend(widened);
    RuleSeen { other: whom, comments, count, first, last }
}

/// A time, or from when to when.
pub(crate) fn period(first: u64, last: u64) -> String {
    let second = |at: u64| {
        let text = time::text(at);
        text.split_once('.').map_or(text.clone(), |(whole, _)| format!("{whole}Z"))
    };
    match (second(first), second(last)) {
        (first, last) if first == last => format!("at {first}"),
        (first, last) => format!("from {first} to {last}"),
    }
}

pub(crate) fn times(count: u64) -> String {
    match count {
        1 => "once".into(),
        count => format!("{count} times"),
    }
}

fn capital(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    }
}

pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `node n1`, or `nodes n1, n2`.
pub(crate) fn named(what: &str, names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", listed(names.into_iter()))
}

/// The first of these, and how many there are beyond.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    names.truncate(MAX_NAMED);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{rest}", names.join(", "))
}
