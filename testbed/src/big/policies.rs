//! The policies of a big cluster: for each namespace in turn a default deny, then allowances.

use std::sync::Arc;

use netpolc_policy::{
    Block, Isolation, Namespaces, ObjectKey, Operator, Peer, Peers, Policy, Port, Ports, Protocol,
    Requirement, Rule, Selector,
};

use super::{APPS, Big, TEAMS, TIERS, namespace_name};
use crate::random::Rng;

pub(super) fn all(big: Big) -> impl Iterator<Item = Policy> {
    let mut rng = Rng::new(big.seed ^ 0x706f_6c69_6379);
    (0..big.policies).map(move |i| {
        let key = |name: &str| {
            ObjectKey::new(
                namespace_name(i % big.namespaces),
                format!("{name}-{}", i / big.namespaces),
            )
        };
        match i / big.namespaces % 10 {
            0 => Policy {
                key: key("default-deny"),
                selector: Selector::default(),
                ingress: Isolation::Isolated(Vec::new()),
                egress: Isolation::Open,
                mode: Default::default(),
            },
            1 => egress(&mut rng, key("egress")),
            2 => blocks(&mut rng, key("from-outside")),
            3 => teams(&mut rng, key("from-teams")),
            4 => Policy {
                key: key("monitoring"),
                selector: Selector::default(),
                ingress: Isolation::Isolated(vec![Rule {
                    peers: Peers::Listed(vec![Peer::Pods {
                        namespaces: Namespaces::Matching(equals(
                            "kubernetes.io/metadata.name",
                            "ns-0000",
                        )),
                        pods: equals("app", "metrics"),
                    }]),
                    ports: Ports::Listed(vec![Port::Named {
                        protocol: Protocol::Tcp,
                        name: "metrics".into(),
                    }]),
                }]),
                egress: Isolation::Open,
                mode: Default::default(),
            },
            _ => apps(&mut rng, key("allow")),
        }
    })
}

/// An app takes some of the namespace's other apps on a few ports.
fn apps(rng: &mut Rng, key: ObjectKey) -> Policy {
    let mut others = rng.list(2, |rng| Peer::Pods {
        namespaces: Namespaces::Own,
        pods: equals("app", rng.pick::<&str>(&APPS)),
    });
    if rng.chance(30) {
        others.push(Peer::Pods {
            namespaces: Namespaces::Own,
            pods: equals("tier", rng.pick::<&str>(&TIERS)),
        });
    }
    let ports = ports(rng);
    ingress(rng, key, Rule { peers: Peers::Listed(others), ports })
}

/// An app takes apps of other teams' namespaces.
fn teams(rng: &mut Rng, key: ObjectKey) -> Policy {
    let peers = rng.list(2, |rng| Peer::Pods {
        namespaces: Namespaces::Matching(equals("team", &format!("team-{}", rng.below(TEAMS)))),
        pods: equals("app", rng.pick::<&str>(&APPS)),
    });
    let ports = ports(rng);
    ingress(rng, key, Rule { peers: Peers::Listed(peers), ports })
}

/// An app takes some outside networks with holes.
fn blocks(rng: &mut Rng, key: ObjectKey) -> Policy {
    let peers = rng.list(3, |rng| {
        let (a, b) = (rng.within(16, 31), rng.below(256));
        let cidr = format!("172.{a}.{b}.0/24").parse().expect("a prefix");
        let hole = format!("172.{a}.{b}.{}/28", rng.below(16) * 16).parse().expect("a prefix");
        Peer::Block(Block { cidr, except: vec![hole] })
    });
    let everywhere = Block {
        cidr: "0.0.0.0/0".parse().expect("a prefix"),
        except: ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
            .map(|e| e.parse().expect("a prefix"))
            .into(),
    };
    let peers = if rng.chance(20) { vec![Peer::Block(everywhere)] } else { peers };
    let ports = ports(rng);
    ingress(rng, key, Rule { peers: Peers::Listed(peers), ports })
}

/// DNS, one app of the namespace, and one network.
fn egress(rng: &mut Rng, key: ObjectKey) -> Policy {
    let range = |protocol, port| Port::Range { protocol, first: port, last: port };
    let dns = Rule {
        peers: Peers::Listed(vec![Peer::Pods {
            namespaces: Namespaces::Matching(equals("kubernetes.io/metadata.name", "ns-0001")),
            pods: Selector::default(),
        }]),
        ports: Ports::Listed(vec![range(Protocol::Udp, 53), range(Protocol::Tcp, 53)]),
    };
    let app = Rule {
        peers: Peers::Listed(vec![Peer::Pods {
            namespaces: Namespaces::Own,
            pods: equals("app", rng.pick::<&str>(&APPS)),
        }]),
        ports: Ports::Listed(vec![Port::Named { protocol: Protocol::Tcp, name: "http".into() }]),
    };
    let network = Rule {
        peers: Peers::Listed(vec![Peer::Block(Block {
            cidr: format!("172.{}.0.0/16", rng.within(16, 31)).parse().expect("a prefix"),
            except: Vec::new(),
        })]),
        ports: Ports::Listed(vec![range(Protocol::Tcp, 443)]),
    };
    let selector = equals("app", rng.pick::<&str>(&APPS));
    Policy {
        key,
        selector,
        ingress: Isolation::Open,
        egress: Isolation::Isolated(vec![dns, app, network]),
        mode: Default::default(),
    }
}

fn ingress(rng: &mut Rng, key: ObjectKey, rule: Rule) -> Policy {
    let selector = equals("app", rng.pick::<&str>(&APPS));
    Policy {
        key,
        selector,
        ingress: Isolation::Isolated(vec![rule]),
        egress: Isolation::Open,
        mode: Default::default(),
    }
}

/// One to four ports of those that are common.
fn ports(rng: &mut Rng) -> Ports {
    let count = rng.within(1, 4);
    Ports::Listed(rng.list(count, |rng| match rng.below(10) {
        0 => {
            let first = 30_000 + rng.below(64) as u16 * 16;
            Port::Range { protocol: Protocol::Tcp, first, last: first + 15 }
        }
        1..3 => Port::Named { protocol: Protocol::Tcp, name: "http".into() },
        _ => {
            let number = *rng.pick(&[
                80, 443, 3306, 5432, 5672, 6379, 8080, 8443, 9042, 9090, 9092, 9200, 27017,
            ]);
            Port::Range { protocol: Protocol::Tcp, first: number, last: number }
        }
    }))
}

pub(super) fn equals(key: &str, value: &str) -> Selector {
    let operator = Operator::In(vec![Arc::from(value)]);
    Selector { requirements: vec![Requirement { key: key.into(), operator }] }
}
