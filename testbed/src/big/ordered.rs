//! What administrators and a cloud add to a big cluster: ClusterNetworkPolicies in both tiers, and
//! security groups with SecurityGroupPolicies that give them to pods.

use ipnetwork::IpNetwork;
use netpolc_policy::{
    Action, Cluster, GroupPeer, GroupRule, ObjectKey, Port, Ports, Priority, Protocol,
    SecurityGroup, SecurityGroupId, SecurityGroupPolicy, Selector, Subject, Tier, TierApi, TierKey,
    TierPeer, TierPolicy, TierRule, Traffic,
};

use super::{APPS, Big, TEAMS, namespace_name, policies::equals};
use crate::random::Rng;

/// How much of each there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// ClusterNetworkPolicies, half of them in either tier.
    pub tiers: u16,
    /// Security groups.
    pub groups: usize,
    /// Rules of each group.
    pub rules: usize,
}

impl Default for Ordered {
    fn default() -> Self {
        Self { tiers: 100, groups: 200, rules: 60 }
    }
}

impl Ordered {
    /// Adds them to the cluster of `big`.
    pub fn add(self, big: &Big, cluster: &mut Cluster) {
        let mut rng = Rng::new(big.seed ^ 0x7469_6572);
        for number in 0..self.tiers {
            let policy = tier(&mut rng, number, self.tiers);
            cluster.tiers.insert(policy.key.clone(), policy);
        }
        for number in 0..self.groups {
            let group = group(&mut rng, self);
            cluster.security.groups.insert(id(number), group);
        }
        for number in 0..big.namespaces {
            let key = ObjectKey::new(namespace_name(number), "groups");
            let count = rng.within(1, 5);
            let mut groups = rng.list(count, |rng| id(rng.below(self.groups)));
            groups.sort();
            groups.dedup();
            let app = *rng.pick(&APPS);
            let pods = Some(equals("app", app));
            let policy = SecurityGroupPolicy { key: key.clone(), pods, accounts: None, groups };
            cluster.security.policies.insert(key, policy);
        }
    }
}

fn id(number: usize) -> SecurityGroupId {
    format!("sg-{number:08x}").into()
}

fn tier(rng: &mut Rng, number: u16, all: u16) -> TierPolicy {
    let tier = if number < all / 2 { Tier::Admin } else { Tier::Baseline };
    let team = |rng: &mut Rng| equals("team", &format!("team-{}", rng.below(TEAMS)));
    let pods = |namespaces, pods| TierPeer::Pods { namespaces, pods };
    let ports = |protocol, number| {
        Ports::Listed(vec![Port::Range { protocol, first: number, last: number }])
    };
    let rule = |action, peers, ports| TierRule { name: None, action, peers, ports };
    let dns = || pods(equals("kubernetes.io/metadata.name", "ns-0000"), Selector::default());
    let metadata = || TierPeer::Networks(vec!["169.254.169.254/32".parse().expect("a prefix")]);
    TierPolicy {
        key: TierKey { api: TierApi::Upstream, name: format!("tier-{number}").into() },
        tier,
        priority: Priority::new(number * 5).expect("the API takes it"),
        // Most are about a team, some about everybody.
        subject: match number % 10 {
            0 => Subject::default(),
            _ => Subject { namespaces: team(rng), pods: Selector::default() },
        },
        ingress: vec![
            rule(Action::Accept, vec![dns()], ports(Protocol::Tcp, 9000 + number)),
            rule(Action::Pass, vec![pods(team(rng), Selector::default())], Ports::Any),
            rule(Action::Deny, vec![pods(team(rng), Selector::default())], Ports::Any),
        ],
        egress: vec![
            rule(Action::Accept, vec![dns()], ports(Protocol::Udp, 53)),
            rule(Action::Deny, vec![metadata()], Ports::Any),
            rule(Action::Deny, vec![pods(team(rng), equals("app", "metrics"))], Ports::Any),
        ],
        mode: Default::default(),
    }
}

fn group(rng: &mut Rng, shape: Ordered) -> SecurityGroup {
    let rule = |rng: &mut Rng| {
        let first = *rng.pick(&[22, 53, 80, 443, 5432, 8080]);
        let protocol = *rng.pick(&[Protocol::Tcp, Protocol::Udp]);
        let network = format!("10.{}.{}.0/24", rng.below(64), rng.below(256));
        let network: IpNetwork = network.parse().expect("a prefix");
        GroupRule {
            id: None,
            traffic: Traffic::Ports { protocol, first, last: first },
            peers: vec![match rng.chance(30) {
                true => GroupPeer::Group(id(rng.below(shape.groups))),
                false => GroupPeer::Network(network),
            }],
        }
    };
    let ingress = rng.list(shape.rules, rule);
    let all = |network: &str| GroupRule {
        id: None,
        traffic: Traffic::Everything,
        peers: vec![GroupPeer::Network(network.parse().expect("a prefix"))],
    };
    SecurityGroup { name: None, ingress, egress: vec![all("0.0.0.0/0"), all("::/0")] }
}
