//! Small words to write clusters and questions with; every test reads like the item it proves.
#![allow(dead_code)]

use std::net::IpAddr;

use netpolc_policy::oracle::{Judgement, Party, Question, Transport, judge};
use netpolc_policy::*;

/// A cluster that is built up line by line.
#[derive(Default)]
pub struct World(pub Cluster);

pub fn key(name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').unwrap();
    ObjectKey::new(namespace, name)
}

/// `a=1,b=2`
pub fn labels(text: &str) -> Labels {
    text.split(',').filter(|t| !t.is_empty()).map(|pair| pair.split_once('=').unwrap()).collect()
}

/// `a=1,b=2` as requirements; empty selects everything.
pub fn selector(text: &str) -> Selector {
    let pairs = text.split(',').filter(|t| !t.is_empty()).map(|pair| pair.split_once('=').unwrap());
    let requirement = |(k, v): (&str, &str)| Requirement {
        key: k.into(),
        operator: Operator::In(vec![v.into()]),
    };
    Selector { requirements: pairs.map(requirement).collect() }
}

pub fn own(pods: &str) -> Peer {
    Peer::Pods { namespaces: Namespaces::Own, pods: selector(pods) }
}

pub fn pods(namespaces: &str, pods: &str) -> Peer {
    Peer::Pods { namespaces: Namespaces::Matching(selector(namespaces)), pods: selector(pods) }
}

pub fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block(Block {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|e| e.parse().unwrap()).collect(),
    })
}

pub fn range(protocol: Protocol, first: u16, last: u16) -> Port {
    Port::Range { protocol, first, last }
}

pub fn tcp(number: u16) -> Port {
    range(Protocol::Tcp, number, number)
}

pub fn named(protocol: Protocol, name: &str) -> Port {
    Port::Named { protocol, name: name.into() }
}

/// Empty lists stand for absent ones.
pub fn rule(peers: &[Peer], ports: &[Port]) -> Rule {
    Rule {
        peers: if peers.is_empty() { Peers::Any } else { Peers::Listed(peers.to_vec()) },
        ports: if ports.is_empty() { Ports::Any } else { Ports::Listed(ports.to_vec()) },
    }
}

pub fn isolated(rules: &[Rule]) -> Isolation {
    Isolation::Isolated(rules.to_vec())
}

impl World {
    pub fn namespace(mut self, name: &str, text: &str) -> Self {
        self.0.namespaces.insert(name.into(), labels(text).into());
        self
    }

    pub fn node(mut self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.0.nodes.insert(name.into(), Node { addresses, ..Node::default() });
        self
    }

    /// A running pod on `node` with addresses separated by commas.
    pub fn pod(self, name: &str, text: &str, addresses: &str) -> Self {
        self.pod_with(name, text, addresses, |_| {})
    }

    pub fn pod_with(
        mut self,
        name: &str,
        text: &str,
        addresses: &str,
        change: impl FnOnce(&mut Pod),
    ) -> Self {
        let mut pod = Pod {
            key: key(name),
            uid: None,
            node: Some("node".into()),
            labels: labels(text),
            addresses: addresses.split(',').map(|a| a.parse().unwrap()).collect(),
            network: PodNetwork::Own,
            phase: Phase::Active,
            ports: Vec::new(),
            grouping: Default::default(),
            owner: None,
        };
        change(&mut pod);
        self.0.pods.insert(pod.key.clone(), pod);
        self
    }

    pub fn policy(
        mut self,
        name: &str,
        subject: &str,
        ingress: Isolation,
        egress: Isolation,
    ) -> Self {
        let policy = Policy {
            key: key(name),
            selector: selector(subject),
            ingress,
            egress,
            mode: Mode::Enforced,
        };
        self.0.policies.insert(policy.key.clone(), policy);
        self
    }

    pub fn ingress(self, name: &str, subject: &str, rules: &[Rule]) -> Self {
        self.policy(name, subject, isolated(rules), Isolation::Open)
    }

    pub fn egress(self, name: &str, subject: &str, rules: &[Rule]) -> Self {
        self.policy(name, subject, Isolation::Open, isolated(rules))
    }

    /// `ns/pod`, `ns/pod@address` or an address.
    pub fn party(&self, text: &str) -> Party {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Party::Address(address);
        }
        match text.split_once('@') {
            Some((pod, address)) => Party::Pod(key(pod), address.parse().unwrap()),
            None => Party::Pod(key(text), self.0.pods[&key(text)].addresses[0]),
        }
    }

    pub fn judge(
        &self,
        source: &str,
        destination: &str,
        protocol: Transport,
        port: Option<u16>,
    ) -> Judgement {
        let question = Question {
            source: self.party(source),
            destination: self.party(destination),
            protocol,
            port,
            via: None,
        };
        judge(&self.0, &question)
    }

    pub fn tcp(&self, source: &str, destination: &str, port: u16) -> bool {
        self.judge(source, destination, Transport::Tcp, Some(port)).allowed
    }

    /// Each line is `source > destination PROTOCOL/port: yes|no`; protocol 1 and the like have no
    /// port.
    pub fn expect(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let (question, answer) = line.rsplit_once(": ").unwrap();
            let (source, rest) = question.split_once(" > ").unwrap();
            let (destination, what) = rest.split_once(' ').unwrap();
            let (protocol, port) =
                what.split_once('/').map_or((what, None), |(p, n)| (p, Some(n.parse().unwrap())));
            let protocol = match protocol {
                "tcp" => Transport::Tcp,
                "udp" => Transport::Udp,
                "sctp" => Transport::Sctp,
                number => Transport::from_number(number.parse().unwrap()),
            };
            let judgement = self.judge(source, destination, protocol, port);
            assert_eq!(judgement.allowed, answer == "yes", "{line}\n{judgement}");
        }
    }
}
