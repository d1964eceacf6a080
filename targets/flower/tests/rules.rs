//! How many filters each mode takes, against the plain expansion:
//! `cargo test -p netpolc-target-flower --test rules -- --nocapture` prints the table of
//! docs/flower-rules.md.

mod common;

use netpolc_table::{EndpointId, IfIndex};
use std::{collections::BTreeSet, net::IpAddr};

use common::{
    compiled,
    plain::{Plain, expand},
};
use ipnetwork::IpNetwork;
use netpolc_policy::{Cluster, Direction, Isolation, ObjectKey, Pod, audit};
use netpolc_target_flower::{
    filter::Copies,
    lower::{chains::Role, lower},
    lowered::{Lowered, Mode, Placed},
    quirks::capabilities,
    topology::{Forwarding, Topology},
};
use netpolc_testbed::{
    big::Big,
    random::{self, Rng, Shape},
    shop::Stage,
};

/// Numbers of one node.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    pods: usize,
    plain: usize,
    plain_with_replies: usize,
    software: usize,
    fixed: usize,
    chains: usize,
    plain_openings: usize,
    representor: usize,
    left: u64,
    prefilter: usize,
    left_by_prefilter: u64,
}

impl Row {
    fn add(&mut self, other: Row) {
        self.pods += other.pods;
        self.plain += other.plain;
        self.plain_with_replies += other.plain_with_replies;
        self.software += other.software;
        self.fixed += other.fixed;
        self.chains += other.chains;
        self.plain_openings += other.plain_openings;
        self.representor += other.representor;
        self.left += other.left;
        self.prefilter += other.prefilter;
        self.left_by_prefilter += other.left_by_prefilter;
    }
}

/// Filters that say what policies say, with what holds for the rest of their chains.
fn policy_filters(placed: &[Placed]) -> usize {
    let says = |p: &&Placed| {
        [Role::Remote, Role::Port, Role::Rest].iter().any(|r| *r as u8 == p.filter.cookie.0[4])
    };
    placed.iter().filter(says).count()
}

/// The same cluster with policies that isolate as they do and allow nothing.
fn closed(cluster: &Cluster) -> Cluster {
    let mut closed = cluster.clone();
    for policy in closed.policies.values_mut() {
        for isolation in [&mut policy.ingress, &mut policy.egress] {
            if let Isolation::Isolated(rules) = isolation {
                rules.clear();
            }
        }
    }
    closed
}

/// Lowers every node of a cluster and counts; fails where a pod takes more than its plain
/// expansion.
fn count(name: &str, cluster: &Cluster, nodes: usize) -> Row {
    let closed = closed(cluster);
    let (compiler, all) = compiled(cluster);
    let (shut, of_shut) = compiled(&closed);
    let names: BTreeSet<_> =
        cluster.pods.values().filter(|p| p.is_policed()).map(|p| p.node.clone()).collect();
    let mut row = Row::default();
    for node in names.into_iter().take(nodes) {
        let here = |key: &ObjectKey| cluster.pods.get(key).is_some_and(|p| p.node == node);
        let node_addresses =
            node.as_ref().and_then(|n| cluster.nodes.get(n)).map(|n| n.addresses.clone());
        let topology = |compiler: &netpolc_lower::Compiler, of: &Topology| {
            let ids: BTreeSet<EndpointId> =
                compiler.endpoints().filter(|(key, _)| here(key)).map(|(_, id)| id).collect();
            let mut topology = of.clone();
            topology.pods.retain(|id, _| ids.contains(id));
            topology.node_addresses = node_addresses.clone().unwrap_or_default();
            topology.forwarding = Forwarding::Switched;
            topology
        };
        let of_mode = |mode, driver: &str| {
            lower(compiler.program(), &topology(&compiler, &all), mode, &capabilities(driver))
                .expect("it fits")
        };
        let software = of_mode(Mode::Software, "software");
        let base = topology(&shut, &of_shut);
        let base = lower(shut.program(), &base, Mode::Software, &capabilities("software"))
            .expect("it fits");
        let at = |lowered: &Lowered, id: EndpointId| {
            let port = lowered
                .ports
                .iter()
                .find(|(port, _)| port.ifindex == IfIndex::new(1000 + u32::from(id.get())));
            port.map(|(_, placed)| placed.clone()).unwrap_or_default()
        };
        for (key, id) in compiler.endpoints().filter(|(key, _)| here(key)) {
            let pod = &cluster.pods[key];
            let plain = Direction::BOTH.map(|d| expand(cluster, pod, d));
            let once: usize = plain.iter().flatten().map(BTreeSet::len).sum();
            // Where both directions are isolated, replies are judged by the other one's rules,
            // backwards.
            let replies = if plain.iter().all(Option::is_some) { once } else { 0 };
            let placed = at(&software, id);
            let fixed = policy_filters(&at(&base, common::endpoint(&shut, &key.to_string())));
            let ours = policy_filters(&placed).saturating_sub(fixed);
            assert!(
                ours <= once + replies,
                "{name} {key}: {ours} filters, plain {once} + {replies}\n{}",
                placed
                    .iter()
                    .map(|p| netpolc_target_flower::text::line("pod", &p.filter, |_| None) + "\n")
                    .collect::<String>()
            );
            row.pods += 1;
            row.plain += once;
            row.plain_with_replies += once + replies;
            row.software += ours;
            row.fixed += placed.len() - ours;
            row.chains += placed
                .iter()
                .map(|p| (p.filter.side, p.filter.chain))
                .collect::<BTreeSet<_>>()
                .len();
        }
        let hardware = |lowered: &Lowered| {
            let filters = lowered.ports.values().flatten();
            let filters = filters.filter(|p| p.filter.copies != Copies::Software).count();
            (filters, lowered.spilled.iter().map(|s| u64::from(s.filters)).sum::<u64>())
        };
        let (representor, prefilter) =
            (of_mode(Mode::Representor, "mlx5_core"), of_mode(Mode::Prefilter, "rvu_nicpf"));
        let pods = compiler
            .endpoints()
            .filter(|(key, _)| here(key))
            .map(|(key, _)| &cluster.pods[key])
            .collect::<Vec<_>>();
        let ((filters, left), (dropping, left_by_prefilter)) =
            (hardware(&representor), hardware(&prefilter));
        let plain = plain_openings(cluster, &pods);
        row.plain_openings += plain;
        row.add(Row {
            representor: filters,
            left,
            prefilter: dropping,
            left_by_prefilter,
            ..Row::default()
        });
    }
    row
}

/// The plain expansion for a switchdev NIC: what is TCP, egress rules on the pod's port; ingress
/// rules on every port that can reach the pod from such a peer, and there a drop of the rest; for
/// each pair of pods, two filters for each rule that lets one open to the other (one rule where
/// none is needed) to forward what is established.
fn plain_openings(cluster: &Cluster, pods: &[&Pod]) -> usize {
    let is_tcp = |rule: &&Plain| rule.1.is_none_or(|protocol| protocol == 6);
    let local: Vec<(usize, IpAddr)> = pods
        .iter()
        .enumerate()
        .flat_map(|(at, pod)| pod.addresses.iter().map(move |a| (at, *a)))
        .collect();
    let mut count = 0;
    let rules: Vec<[Option<BTreeSet<Plain>>; 2]> = pods
        .iter()
        .map(|pod| [Direction::Egress, Direction::Ingress].map(|d| expand(cluster, pod, d)))
        .collect();
    for (at, pod) in pods.iter().enumerate() {
        let [egress, ingress] = &rules[at];
        if let Some(rules) = egress {
            count += rules.iter().filter(is_tcp).count() + 2;
        }
        let Some(rules) = ingress else { continue };
        // The other pods' ports and one uplink.
        count += pods.len() * pod.addresses.len();
        for rule in rules.iter().filter(is_tcp) {
            let within =
                local.iter().filter(|(of, address)| *of != at && rule.0.contains(*address)).count();
            let one_of_them = local.iter().any(|(_, a)| IpNetwork::from(*a) == rule.0);
            count += within + usize::from(!one_of_them);
        }
    }
    let blocks = |rules: &BTreeSet<Plain>, address: IpAddr| -> BTreeSet<(u16, u16)> {
        let holding = rules.iter().filter(is_tcp).filter(|r| r.0.contains(address));
        holding.map(|r| r.2.unwrap_or((0, 0))).collect()
    };
    for (at, from) in &local {
        for (to, address) in
            local.iter().filter(|(to, a)| to != at && a.is_ipv4() == from.is_ipv4())
        {
            let all = || BTreeSet::from([(0, 0)]);
            let egress = rules[*at][0].as_ref().map_or_else(all, |r| blocks(r, *address));
            let ingress = rules[*to][1].as_ref().map_or_else(all, |r| blocks(r, *from));
            // Blocks nest or are disjoint: what two have in common is the smaller one.
            let common = |a: &(u16, u16), b: &(u16, u16)| {
                let small = if a.1 > b.1 { *a } else { *b };
                (a.0 & b.1 & a.1 == b.0 & a.1 & b.1).then_some(small)
            };
            let both: BTreeSet<(u16, u16)> = egress
                .iter()
                .flat_map(|e| ingress.iter().filter_map(move |i| common(e, i)))
                .collect();
            count += 2 * both.len();
        }
    }
    count
}

#[test]
fn never_more_than_the_plain_expansion() {
    let mut rows = Vec::new();
    for stage in [Stage::DenyUi, Stage::Repaired, Stage::Wrong] {
        let name = format!("web shop, {stage:?}");
        rows.push((name.clone(), count(&name, &stage.cluster(), usize::MAX)));
    }
    let mut sum = Row::default();
    for seed in 0..100 {
        let mut cluster = random::cluster(&mut Rng::new(seed), &Shape::default());
        // The plain expansion knows nothing of them: it would let what a block covers through to
        // Services, and its rules have no order.
        cluster.services.clear();
        cluster.tiers.clear();
        // Nor has it groups, or policies that are only tried.
        cluster.security = Default::default();
        cluster.pods.values_mut().for_each(|pod| pod.grouping = Default::default());
        cluster = audit::enforced(&cluster);
        // Nor of what isolates without a policy.
        cluster.by_default = Default::default();
        cluster.namespaces.values_mut().for_each(|namespace| namespace.unselected = None);
        sum.add(count(&format!("seed {seed}"), &cluster, usize::MAX));
    }
    rows.push(("100 random clusters".into(), sum));
    for pods in [500, 2_000] {
        let whole = Big::default();
        let part = |of: usize| (of * pods).div_ceil(whole.pods).max(1);
        let big = Big {
            pods,
            namespaces: part(whole.namespaces),
            policies: part(whole.policies),
            ..whole
        };
        let name = format!("generated, {pods} pods, one node");
        rows.push((name.clone(), count(&name, &big.cluster(), 1)));
    }
    println!(
        "| cluster | pods | plain | plain, with replies | software: policy | fixed | chains | \
         plain, in a NIC | representor (mlx5_core) | left | prefilter (rvu_nicpf) | left |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (name, r) in rows {
        // What had no room counts too.
        assert!(r.representor as u64 + r.left <= r.plain_openings as u64, "{name}: {r:?}");
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            r.pods,
            r.plain,
            r.plain_with_replies,
            r.software,
            r.fixed,
            r.chains,
            r.plain_openings,
            r.representor,
            r.left,
            r.prefilter,
            r.left_by_prefilter
        );
    }
}
