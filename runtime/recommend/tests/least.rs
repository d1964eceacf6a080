//! Random clusters and what happens in them: the recommended policies permit what was seen, and
//! nothing else. The oracle says so, of policies that were read from what is printed.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use common::{both, peer, policed};
use netpolc_flow::Verdict;
use netpolc_kube_sync::{Input, load};
use netpolc_policy::{
    Cluster, ContainerPort, Direction, Frontends, Isolation, Labels, Mode, ObjectKey, Owner,
    OwnerKind, Policy, Protocol, Selector,
    oracle::{self, Party, Question},
};
use netpolc_recommend::{Evidence, Known, Options, Recommendation, recommend};
use netpolc_testbed::random::{self, Rng, Shape};

const PORTS: [u16; 6] = [53, 80, 81, 82, 8080, 40_000];
const OUTSIDE: [&str; 3] = ["203.0.113.7", "198.51.100.9", "2001:db8::7"];

/// Whether the cluster is known beside the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input_ {
    Cluster,
    FlowsAlone,
}

/// A cluster with workloads, in which everything is denied, but only tried.
fn cluster(rng: &mut Rng, input: Input_) -> Cluster {
    let shape = Shape { policies: 0, tiers: 0, groups: false, ..Shape::default() };
    let mut cluster = random::cluster(rng, &shape);
    cluster.services.clear();
    cluster.by_default = Default::default();
    cluster.staged.clear();
    for namespace in cluster.namespaces.values_mut() {
        namespace.unselected = None;
        // As the API server would have it.
        namespace.labels = Labels::default();
    }
    let mut numbers = BTreeMap::new();
    for (key, pod) in &mut cluster.pods {
        pod.node.get_or_insert_with(|| "node0".into());
        let number = numbers.entry(key.namespace.clone()).or_insert(0);
        *number += 1;
        pod.owner = (!rng.chance(25)).then(|| {
            let kind = [OwnerKind::Deployment, OwnerKind::StatefulSet][*number % 2].clone();
            Arc::new(Owner { kind, name: format!("w{}", *number % 3).into() })
        });
        pod.ports.iter_mut().for_each(|port| port.host_port = None);
        if rng.chance(50) {
            let name = Some(rng.pick(&["http", "web"]).to_owned().into());
            let protocol = Protocol::Tcp;
            pod.ports.push(ContainerPort { name, protocol, number: 80, host_port: None });
        }
        if input == Input_::FlowsAlone {
            // Without a label nothing could be written.
            let own = pod.owner.as_ref().map_or(key.to_string(), |owner| owner.to_string());
            let own = own.replace([' ', '/'], "-");
            let labels = pod.labels.iter().map(|(k, v)| (k.to_string(), v.to_string()));
            pod.labels = labels.chain([("id".to_owned(), own)]).collect();
        }
    }
    let spaces: BTreeSet<Arc<str>> = cluster.pods.keys().map(|key| key.namespace.clone()).collect();
    for namespace in spaces {
        let key = ObjectKey::new(namespace, "default-deny-audit");
        let deny = || Isolation::Isolated(vec![]);
        let (ingress, egress, selector) = (deny(), deny(), Selector::default());
        let policy = Policy { key: key.clone(), selector, ingress, egress, mode: Mode::Audited };
        cluster.policies.insert(key, policy);
    }
    cluster
}

/// Everybody's addresses.
fn everybody(cluster: &Cluster) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> =
        policed(cluster).flat_map(|pod| pod.addresses.iter().copied()).collect();
    all.extend(OUTSIDE.iter().map(|address| address.parse::<IpAddr>().unwrap()));
    all.extend(cluster.nodes.values().flat_map(|node| node.addresses.iter().copied()));
    all
}

/// A connection: from, to, protocol, port.
type Talk = (IpAddr, IpAddr, Protocol, u16);

/// Who is meant by an address: the workloads of one policy, or the address itself.
fn who(cluster: &Cluster, found: &Recommendation, address: IpAddr) -> String {
    let Some(pod) = cluster.claimants(address).first().copied() else {
        return address.to_string();
    };
    let name = match &pod.owner {
        Some(owner) => format!("{} {}/{}", owner.kind.name(), pod.key.namespace, owner.name),
        None => format!("Pod {}", pod.key),
    };
    let of = |one: &&netpolc_recommend::Recommended| {
        one.workloads.iter().any(|workload| workload.to_string() == name)
    };
    found.policies.iter().find(of).map_or(name, |one| one.policy.key.to_string())
}

fn question(cluster: &Cluster, (from, to, protocol, port): Talk) -> Question {
    let party = |address: IpAddr| match cluster.claimants(address).first() {
        Some(pod) => Party::Pod(pod.key.clone(), address),
        None => Party::Address(address),
    };
    Question {
        source: party(from),
        destination: party(to),
        protocol: protocol.into(),
        port: Some(port),
        via: None,
    }
}

/// The policies as they are read from what is printed, enforced in this cluster.
fn applied(cluster: &Cluster, found: &Recommendation) -> Cluster {
    let yaml = found.yaml();
    let loaded = load([Input::bytes("recommended", yaml.clone())]);
    assert_eq!(loaded.problems, [], "{yaml}");
    let mut applied = cluster.clone();
    applied.policies = loaded.cluster.policies;
    for (name, namespace) in &mut applied.namespaces {
        namespace.labels = [("kubernetes.io/metadata.name", &**name)].into_iter().collect();
    }
    for key in cluster.pods.keys() {
        let labels = [("kubernetes.io/metadata.name", &*key.namespace)];
        let space = applied.namespaces.entry(key.namespace.clone()).or_default();
        space.labels = labels.into_iter().collect();
    }
    applied
}

fn one(seed: u64, input: Input_) -> usize {
    let mut rng = Rng::new(seed);
    let cluster = cluster(&mut rng, input);
    let all = everybody(&cluster);
    let (mut talks, mut evidence): (BTreeSet<Talk>, _) = (BTreeSet::new(), Evidence::default());
    for _ in 0..rng.within(1, 25) {
        let (from, to) = (*rng.pick(&all), *rng.pick(&all));
        let (protocol, port) = (*rng.pick(&Protocol::ALL), *rng.pick(&PORTS));
        let ends = (peer(&cluster, from, 40_001), peer(&cluster, to, port));
        let is_own = ends.0.pod == ends.1.pod
            || (ends.0.node == ends.1.node && (ends.0.pod.is_none() || ends.1.pod.is_none()));
        if from.is_ipv4() != to.is_ipv4() || is_own {
            continue;
        }
        for verdict in [Verdict::Audit, Verdict::Allowed] {
            let flows = both(verdict, (&ends.0, &ends.1), &protocol.to_string(), port);
            flows.iter().for_each(|flow| evidence.flow(flow));
            if !flows.is_empty() {
                talks.insert((from, to, protocol, port));
            }
        }
    }
    if talks.is_empty() {
        return 0;
    }
    let frontends = Frontends::default();
    let known = Known { cluster: &cluster, frontends: &frontends };
    let known = (input == Input_::Cluster).then_some(known);
    let found = recommend(&evidence, known, &Options::default())
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    assert_eq!(found.uncovered, [], "seed {seed}");
    let applied = applied(&cluster, &found);
    // By whom, and not by which pod: a policy is for all pods of a workload.
    let meant: BTreeSet<(String, String, Protocol, u16)> = talks
        .iter()
        .map(|(from, to, protocol, port)| {
            (who(&cluster, &found, *from), who(&cluster, &found, *to), *protocol, *port)
        })
        .collect();
    let seen: BTreeSet<IpAddr> = talks.iter().flat_map(|talk| [talk.0, talk.1]).collect();
    let isolated = |name: &str, direction: Direction| {
        let mut policies = found.policies.iter().map(|one| &one.policy);
        let policy = policies.find(|policy| policy.key.to_string() == name);
        policy.is_some_and(|policy| *policy.isolation(direction) != Isolation::Open)
    };
    let mut judged = 0;
    for from in &all {
        for to in &all {
            let ends = [peer(&cluster, *from, 1), peer(&cluster, *to, 1)];
            let is_own = ends[0].node == ends[1].node && ends.iter().any(|end| end.pod.is_none());
            // Of pods that no flow names nothing is known without the cluster.
            let unknown = input == Input_::FlowsAlone
                && ends
                    .iter()
                    .zip([from, to])
                    .any(|(end, a)| end.pod.is_some() && !seen.contains(a));
            let same = ends[0].pod.is_some() && ends[0].pod == ends[1].pod;
            if from.is_ipv4() != to.is_ipv4() || is_own || same || unknown {
                continue;
            }
            let (source, destination) = (who(&cluster, &found, *from), who(&cluster, &found, *to));
            for protocol in Protocol::ALL {
                for port in PORTS.into_iter().chain([79, 83, 9999]) {
                    let talk = (*from, *to, protocol, port);
                    let verdict = oracle::judge(&applied, &question(&applied, talk));
                    let is_meant =
                        meant.contains(&(source.clone(), destination.clone(), protocol, port));
                    let is_judged = isolated(&source, Direction::Egress)
                        || isolated(&destination, Direction::Ingress);
                    assert_eq!(
                        verdict.allowed,
                        is_meant || !is_judged,
                        "seed {seed}, {input:?}: {talk:?}, {source} -> {destination}: {verdict}\n{}",
                        found.yaml()
                    );
                    assert!(!talks.contains(&talk) || verdict.allowed, "seed {seed}: {talk:?}");
                    judged += 1;
                }
            }
        }
    }
    judged
}

#[test]
fn what_was_seen_is_permitted_and_nothing_else_is() {
    let judged: usize = (0..60).map(|seed| one(seed, Input_::Cluster)).sum();
    assert!(judged > 100_000, "{judged}");
}

#[test]
fn without_the_cluster_the_same_holds_of_all_that_flows_name() {
    let judged: usize = (1000..1060).map(|seed| one(seed, Input_::FlowsAlone)).sum();
    assert!(judged > 50_000, "{judged}");
}
