//! A big cluster: 1,000 namespaces, 100,000 pods on nodes of 110, 10,000 policies; any other size
//! by the same rules. Deterministic. As a model ([`Big::cluster`]) and as the List files that
//! `kubectl get -o json` would give ([`Big::write`]), streamed.
//!
//! What is typical of real clusters is typical here: a few big namespaces and many small ones,
//! Deployments of a few pods that share all labels but none with other Deployments
//! (`pod-template-hash`), default-deny with allowances by app, by namespace and by block.

mod files;
mod ordered;
mod policies;

pub use ordered::Ordered;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use netpolc_policy::{
    Cluster, ContainerPort, Grouping, Labels, Namespace, Node, ObjectKey, Owner, OwnerKind, Phase,
    Pod, PodNetwork, Policy, Protocol,
};

use crate::random::Rng;

/// Pods that a node has room for (the kubelet's default).
pub const PODS_PER_NODE: usize = 110;

const APPS: [&str; 12] = [
    "web", "api", "worker", "db", "cache", "queue", "auth", "search", "billing", "mail", "metrics",
    "gateway",
];
const TIERS: [&str; 4] = ["frontend", "backend", "data", "infra"];
const TEAMS: usize = 40;

/// The size of a big cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Big {
    /// How many namespaces there are.
    pub namespaces: usize,
    /// How many pods there are.
    pub pods: usize,
    /// How many policies there are.
    pub policies: usize,
    /// Whether pods and nodes have IPv6 addresses too.
    pub stack: Stack,
    /// Another one gives another cluster of the same kind.
    pub seed: u64,
}

/// Address families of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Pods have IPv4 addresses alone.
    V4,
    /// Pods have addresses of both families.
    Dual,
}

impl Default for Big {
    fn default() -> Self {
        Big { namespaces: 1_000, pods: 100_000, policies: 10_000, stack: Stack::Dual, seed: 1 }
    }
}

impl Big {
    /// The cluster as policy sees it. Some 100 MB at the default size.
    pub fn cluster(&self) -> Cluster {
        Cluster {
            namespaces: (0..self.namespaces).map(|n| self.namespace(n)).collect(),
            pods: self.pods().map(|p| (p.key.clone(), p)).collect(),
            policies: self.policies().map(|p| (p.key.clone(), p)).collect(),
            nodes: (0..self.nodes()).map(|n| (node_name(n), self.node(n))).collect(),
            ..Cluster::default()
        }
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.pods.div_ceil(PODS_PER_NODE)
    }

    /// The name of the node with the number `n`, for compiling for one.
    pub fn node_name(&self, n: usize) -> Arc<str> {
        node_name(n)
    }

    /// Name and labels of a namespace.
    pub fn namespace(&self, n: usize) -> (Arc<str>, Namespace) {
        let name = namespace_name(n);
        let labels = [
            ("kubernetes.io/metadata.name".to_owned(), name.to_string()),
            ("team".to_owned(), format!("team-{}", n % TEAMS)),
            ("env".to_owned(), ["prod", "prod", "staging", "dev"][n % 4].to_owned()),
        ];
        (name, labels.into_iter().collect::<Labels>().into())
    }

    /// The node number `n`.
    pub fn node(&self, n: usize) -> Node {
        let [high, low] = (n as u16).to_be_bytes();
        let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::new(192, 168, high, low).into()];
        if self.stack == Stack::Dual {
            addresses.push(Ipv6Addr::new(0xfd00, 0xff, 0, 0, 0, 0, 0, n as u16).into());
        }
        Node { addresses, ..Node::default() }
    }

    /// All pods, Deployment by Deployment. The scheduler has spread them: the pods of one
    /// Deployment are on as many nodes.
    pub fn pods(&self) -> impl Iterator<Item = Pod> {
        let nodes = self.nodes();
        let names: Vec<Arc<str>> = (0..nodes).map(node_name).collect();
        let mut deployments = Deployments::new(*self);
        let mut current = deployments.next();
        (0..self.pods).map(move |i| {
            if current.left == 0 {
                current = deployments.next();
            }
            current.left -= 1;
            let (node, slot) = (i % nodes, i / nodes);
            let uid = format!("{:08x}-0000-4000-8000-{i:012x}", self.seed);
            Pod {
                key: ObjectKey::new(
                    current.namespace.clone(),
                    format!("{}-{:05x}", current.name, current.left),
                ),
                uid: Some(uid.into()),
                node: Some(names[node].clone()),
                labels: current.labels.clone(),
                addresses: self.pod_addresses(node, slot),
                network: PodNetwork::Own,
                phase: Phase::Active,
                ports: current.ports.clone(),
                grouping: Grouping {
                    account: current.labels.get("app").unwrap_or("default").into(),
                    ..Grouping::default()
                },
                owner: Some(current.owner.clone()),
            }
        })
    }

    /// All policies, one after the other.
    pub fn policies(&self) -> impl Iterator<Item = Policy> {
        policies::all(*self)
    }

    /// Each node has a /24 of 10.0.0.0/8 and a /112 of fd00::/16 for its pods.
    fn pod_addresses(&self, node: usize, slot: usize) -> Vec<IpAddr> {
        let [high, low] = (node as u16).to_be_bytes();
        let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::new(10, high, low, slot as u8 + 2).into()];
        if self.stack == Stack::Dual {
            addresses
                .push(Ipv6Addr::new(0xfd00, 0, 0, node as u16, 0, 0, 0, slot as u16 + 2).into());
        }
        addresses
    }
}

/// Pods that share a template.
struct Deployment {
    namespace: Arc<str>,
    name: String,
    owner: Arc<Owner>,
    labels: Labels,
    ports: Vec<ContainerPort>,
    /// How many pods are still to come.
    left: usize,
}

/// Deployments one after the other, namespaces in turns; those with low numbers get more.
struct Deployments {
    big: Big,
    rng: Rng,
    number: usize,
}

impl Deployments {
    fn new(big: Big) -> Self {
        Self { big, rng: Rng::new(big.seed), number: 0 }
    }

    fn next(&mut self) -> Deployment {
        let number = self.number;
        self.number += 1;
        // Every namespace once, then the lower ones more often (the smaller of two draws).
        let n = if number < self.big.namespaces {
            number
        } else {
            self.rng.below(self.big.namespaces).min(self.rng.below(self.big.namespaces))
        };
        let app = *self.rng.pick(&APPS);
        let hash = format!("{:010x}", self.rng.draw() >> 24);
        let labels = [
            ("app", app.to_owned()),
            ("tier", TIERS[number % TIERS.len()].to_owned()),
            ("version", format!("v{}", self.rng.within(1, 3))),
            ("pod-template-hash", hash.clone()),
        ];
        let port = |name: &str, number| ContainerPort {
            name: Some(name.into()),
            protocol: Protocol::Tcp,
            number,
            host_port: None,
        };
        Deployment {
            namespace: namespace_name(n),
            name: format!("{app}-{hash}"),
            owner: Arc::new(Owner { kind: OwnerKind::Deployment, name: app.into() }),
            labels: labels.into_iter().collect(),
            ports: vec![port("http", 8080), port("metrics", 9090 + (number % 4) as u16)],
            left: *self.rng.pick(&[1, 2, 2, 3, 3, 5, 8, 20]),
        }
    }
}

fn namespace_name(n: usize) -> Arc<str> {
    format!("ns-{n:04}").into()
}

fn node_name(n: usize) -> Arc<str> {
    format!("node-{n:04}").into()
}
