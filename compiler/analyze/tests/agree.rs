//! The analysis gives the oracle's answers, and those of the tables, for random clusters with
//! tiers, groups and addresses that are claimed twice.

use std::{collections::BTreeSet, net::IpAddr};

use netpolc_analyze::{Analysis, End, around::around};
use netpolc_policy::{
    AddressBook, Cluster, Direction, IpFamily, Pod,
    oracle::{self, Party, Question, Reason},
};
use netpolc_testbed::random::{self, Claims, Rng, Shape};

/// What does not come from policies about the two addresses alone, and is not the analysis's to
/// answer.
fn is_of_another_kind(reason: &Reason) -> bool {
    matches!(reason, Reason::Service | Reason::Closed | Reason::Own | Reason::Node | Reason::Tunnel)
}

fn compare(cluster: &Cluster, seed: u64) -> usize {
    let mut analysis = Analysis::new(cluster);
    let ports: BTreeSet<_> = random::ports(cluster).into_iter().collect();
    let addresses = random::addresses(cluster);
    let policed = cluster.pods.values().filter(|pod| pod.is_policed());
    let mut compared = 0;
    for pod in policed.collect::<Vec<&Pod>>() {
        let Some(class) = analysis.universe().class_of(&pod.key) else {
            panic!("{} has no class", pod.key);
        };
        for family in IpFamily::BOTH {
            let mut own = pod.addresses.iter().filter(|a| IpFamily::of(**a) == family);
            let Some(own) = own.next().copied() else { continue };
            // What passes between a pod and its own node is not the analysis's to answer (S44,
            // S82).
            let node = pod.node.as_ref().and_then(|name| cluster.nodes.get(name));
            let is_own_node = |a: &IpAddr| node.is_some_and(|node| node.addresses.contains(a));
            let remotes = addresses.iter().copied().filter(|a| !is_own_node(a));
            for remote in remotes.filter(|a| IpFamily::of(*a) == family) {
                let end = analysis.universe().remote_at(remote);
                for &(transport, port) in &ports {
                    let number = transport.number();
                    if matches!((number, family), (1, IpFamily::V6) | (58, IpFamily::V4)) {
                        continue;
                    }
                    let asked = match (number, port) {
                        (1, None) => 8 << 8,
                        (58, None) => 128 << 8,
                        (6 | 17 | 132, None) => continue,
                        (_, port) => port.unwrap_or(0),
                    };
                    for direction in Direction::BOTH {
                        let (us, them) = (Party::Pod(pod.key.clone(), own), Party::Address(remote));
                        let (source, destination) = match direction {
                            Direction::Ingress => (them, us),
                            Direction::Egress => (us, them),
                        };
                        let question =
                            Question { source, destination, protocol: transport, port, via: None };
                        let judged = oracle::judge(cluster, &question);
                        let reason = match direction {
                            Direction::Ingress => judged.ingress.reason,
                            Direction::Egress => judged.egress.reason,
                        };
                        if is_of_another_kind(&reason) {
                            continue;
                        }
                        let permitted = analysis.with(class, direction, end);
                        let set = analysis.traffic(permitted);
                        assert_eq!(
                            set.contains(number, asked),
                            reason.allows(),
                            "seed {seed}: {direction} of {} with {remote}, protocol {number} port \
                             {asked}: the oracle says {reason}, the analysis permits {set}",
                            pod.key
                        );
                        compared += 1;
                        // The row says the same as the single answer.
                        let profile = analysis.universe().class(class).profile;
                        let row = analysis.row(profile, direction);
                        assert_eq!(row.with(end), permitted, "seed {seed}: row of {}", pod.key);
                    }
                }
            }
        }
    }
    compared
}

#[test]
fn the_analysis_agrees_with_the_oracle() {
    let mut compared = 0;
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let claims = if seed % 3 == 0 { Claims::Contested } else { Claims::Unique };
        let shape = Shape { claims, ..Shape::default() };
        let cluster = random::cluster(&mut rng, &shape);
        compared += compare(&cluster, seed);
    }
    assert!(compared > 100_000, "only {compared} answers were compared");
}

#[test]
fn both_ends_have_to_permit() {
    let mut rng = Rng::new(7);
    let cluster = random::cluster(&mut rng, &Shape::default());
    let mut analysis = Analysis::new(&cluster);
    let classes: Vec<_> = analysis.universe().classes().map(|(id, _)| id).collect();
    let mut pairs = 0;
    for &a in &classes {
        for &b in &classes {
            let Some(both) = analysis.between(End::Pods(a), End::Pods(b), IpFamily::V4) else {
                continue;
            };
            let of = |id, analysis: &Analysis<'_>| {
                analysis.universe().class(id).remotes[0].expect("an IPv4 address")
            };
            let (to, from) = (of(b, &analysis), of(a, &analysis));
            let egress = analysis.with(a, Direction::Egress, to);
            let ingress = analysis.with(b, Direction::Ingress, from);
            let expected = analysis.traffic(egress).intersection(analysis.traffic(ingress));
            assert_eq!(*analysis.traffic(both), expected);
            pairs += 1;
        }
    }
    assert!(pairs > 20, "only {pairs} pairs");
}

#[test]
fn what_has_no_influence_is_left_out_and_nothing_else() {
    let (mut asked, mut smaller) = (0, 0);
    for seed in 0..200 {
        let mut rng = Rng::new(70_000 + seed);
        let claims = if seed % 3 == 0 { Claims::Contested } else { Claims::Unique };
        let cluster = random::cluster(&mut rng, &Shape { claims, ..Shape::default() });
        let book = AddressBook::of(&cluster);
        for question in random::questions(&mut rng, &cluster, 40) {
            let around = around(&cluster, &book, &question);
            let (whole, part) =
                (oracle::judge(&cluster, &question), oracle::judge(&around, &question));
            assert_eq!(whole, part, "seed {seed}: {question:?}");
            asked += 1;
            smaller += usize::from(around.pods.len() < cluster.pods.len());
        }
    }
    assert!(asked > 5_000 && smaller * 2 > asked, "{smaller} of {asked} clusters were smaller");
}
