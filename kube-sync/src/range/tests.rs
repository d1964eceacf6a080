//! Which ranges are free.

use netpolc_policy::{Mode, Node, Ports, Rule, Selector};

use super::*;

fn policy(cidr: &str, except: &[&str]) -> Policy {
    let block = Block {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let rule = Rule { peers: Peers::Listed(vec![Peer::Block(block)]), ports: Ports::Any };
    Policy {
        key: ObjectKey::new("shop", format!("{cidr}{}", except.len())),
        selector: Selector::default(),
        ingress: Isolation::Open,
        egress: Isolation::Isolated(vec![rule]),
        mode: Mode::Enforced,
    }
}

fn chosen(policies: &[Policy]) -> [Range; 2] {
    let policies = policies.iter().map(|p| (p.key.clone(), p.clone())).collect();
    let cluster = Cluster { policies, ..Cluster::default() };
    choose(&cluster, &Frontends::new(), 10).map(Option::unwrap)
}

fn v4(policies: &[Policy]) -> String {
    chosen(policies)[0].network.to_string()
}

#[test]
fn no_rule_is_about_a_made_up_address() {
    assert_eq!(v4(&[]), "10.255.0.0/16");
    assert_eq!(v4(&[policy("10.255.7.0/24", &[])]), "10.254.0.0/16");
    assert_eq!(v4(&[policy("10.0.0.0/8", &[])]), "172.31.0.0/16");
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"].map(|cidr| policy(cidr, &[]));
    assert_eq!(v4(&private), "100.127.0.0/16");
    assert_eq!(
        chosen(&[policy("fd00::/8", &[])])[1].network.to_string(),
        "fc00:6574:706f:6c63::/64"
    );
}

#[test]
fn what_is_everything_but_the_private_networks_does_not_reach_made_up_pods() {
    let internet = policy("0.0.0.0/0", &["172.16.0.0/12", "192.168.0.0/16"]);
    assert_eq!(v4(std::slice::from_ref(&internet)), "172.31.0.0/16");
    assert_eq!(v4(&[internet, policy("172.31.0.0/16", &[])]), "172.30.0.0/16");
    assert_eq!(v4(&[policy("0.0.0.0/0", &[])]), "10.255.0.0/16", "it is about every range");
}

#[test]
fn a_range_in_a_block_names_the_block() {
    let (mut all, wide) = (Vec::new(), ["0.0.0.0/3", "96.0.0.0/3", "160.0.0.0/3", "192.0.0.0/3"]);
    all.extend(wide.map(|cidr| policy(cidr, &[])));
    all.push(policy("240.0.0.0/8", &[]));
    let (inside, cidr) = chosen(&all)[0].inside.clone().unwrap();
    assert_eq!(cidr.to_string(), "0.0.0.0/3");
    assert!(inside.to_string().starts_with("NetworkPolicy shop/0.0.0.0/3"), "{inside}");
}

#[test]
fn a_used_address_excludes_its_range_and_more_pods_get_a_larger_one() {
    let node = Node { addresses: vec!["10.255.1.1".parse().unwrap()], ..Node::default() };
    let cluster = Cluster { nodes: [("n".into(), node)].into(), ..Cluster::default() };
    let range = |count| choose(&cluster, &Frontends::new(), count)[0].clone().map(|r| r.network);
    assert_eq!(range(65_000).unwrap().to_string(), "10.254.0.0/16");
    assert_eq!(range(70_000).unwrap().to_string(), "10.224.0.0/12");
    assert_eq!(range(2_000_000), None);
    assert_eq!(address("10.224.0.0/12".parse().unwrap(), 0).to_string(), "10.224.0.1");
}
