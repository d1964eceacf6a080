//! The oracle on selection: S1 to S16.

mod common;

use common::*;
use netpolc_policy::{
    Isolation, Namespace, Namespaces, Operator, Peer, Phase, PodNetwork, Requirement, Selector,
    oracle::{Reason, Transport},
};

fn shop() -> World {
    World::default()
        .namespace("shop", "team=a")
        .namespace("other", "team=b")
        .pod("shop/ui", "app=ui", "10.0.0.1")
        .pod("shop/db", "app=db", "10.0.0.2")
        .pod("other/ui", "app=ui", "10.0.1.1")
}

#[test]
fn s01_empty_selector_selects_all_pods_of_its_namespace_only() {
    shop().ingress("shop/deny", "", &[]).expect(
        "shop/ui > shop/db tcp/80: no
         shop/db > shop/ui tcp/80: no
         192.0.2.1 > shop/ui tcp/80: no
         shop/ui > other/ui tcp/80: yes",
    );
}

#[test]
fn s03_directions_isolate_independently() {
    shop().egress("shop/deny", "app=ui", &[]).expect(
        "shop/ui > shop/db tcp/80: no
         shop/db > shop/ui tcp/80: yes
         192.0.2.1 > shop/ui tcp/80: yes",
    );
}

#[test]
fn s04_policies_rules_and_peers_are_a_union() {
    let world = shop()
        .ingress(
            "shop/a",
            "app=db",
            &[rule(&[own("app=none")], &[]), rule(&[own("app=ui")], &[tcp(1)])],
        )
        .ingress("shop/b", "app=db", &[rule(&[own("app=none"), own("app=ui")], &[tcp(2)])])
        .ingress("shop/c", "", &[]);
    world.expect(
        "shop/ui > shop/db tcp/1: yes
         shop/ui > shop/db tcp/2: yes
         shop/ui > shop/db tcp/3: no
         other/ui > shop/db tcp/1: no",
    );
}

#[test]
fn s05_no_rules_deny_all_and_one_empty_rule_allows_all() {
    shop().ingress("shop/none", "app=db", &[]).expect("shop/ui > shop/db tcp/80: no");
    shop().ingress("shop/all", "app=db", &[rule(&[], &[])]).expect(
        "shop/ui > shop/db tcp/80: yes
         192.0.2.1 > shop/db 1: yes",
    );
}

#[test]
fn s06_absent_peers_are_everybody_and_absent_ports_everything() {
    shop().ingress("shop/p", "app=db", &[rule(&[], &[tcp(80)])]).expect(
        "192.0.2.1 > shop/db tcp/80: yes
         other/ui > shop/db tcp/80: yes
         other/ui > shop/db tcp/81: no",
    );
    shop().ingress("shop/p", "app=db", &[rule(&[own("app=ui")], &[])]).expect(
        "shop/ui > shop/db udp/9: yes
         shop/ui > shop/db 253: yes
         192.0.2.1 > shop/db tcp/80: no",
    );
}

#[test]
fn s07_both_sides_must_allow() {
    let world = shop()
        .egress("shop/out", "app=ui", &[rule(&[own("app=db")], &[tcp(1), tcp(2)])])
        .ingress("shop/in", "app=db", &[rule(&[own("app=ui")], &[tcp(2), tcp(3)])]);
    world.expect(
        "shop/ui > shop/db tcp/1: no
         shop/ui > shop/db tcp/2: yes
         shop/ui > shop/db tcp/3: no",
    );
}

#[test]
fn s08_selectors_of_one_peer_are_and_of_two_peers_or() {
    let both = [rule(&[pods("team=b", "app=ui")], &[])];
    shop().pod("other/db", "app=db", "10.0.1.2").ingress("shop/p", "app=db", &both).expect(
        "other/ui > shop/db tcp/1: yes
         other/db > shop/db tcp/1: no
         shop/ui > shop/db tcp/1: no",
    );
    let either = [rule(&[pods("team=b", ""), own("app=ui")], &[])];
    shop().pod("other/db", "app=db", "10.0.1.2").ingress("shop/p", "app=db", &either).expect(
        "other/ui > shop/db tcp/1: yes
         other/db > shop/db tcp/1: yes
         shop/ui > shop/db tcp/1: yes",
    );
}

#[test]
fn s09_empty_namespace_selector_is_every_namespace_and_only_pods() {
    shop()
        .pod("unlisted/x", "", "10.0.9.9")
        .ingress("shop/p", "app=db", &[rule(&[pods("", "")], &[])])
        .expect(
            "other/ui > shop/db tcp/1: yes
         unlisted/x > shop/db tcp/1: yes
         192.0.2.1 > shop/db tcp/1: no",
        );
}

#[test]
fn s10_negative_operators_match_absent_keys_in_peers_and_namespaces() {
    let requirement = |key: &str, operator| Selector {
        requirements: vec![Requirement { key: key.into(), operator }],
    };
    let not_b = requirement("team", Operator::NotIn(vec!["b".into()]));
    let no_app = requirement("app", Operator::DoesNotExist);
    let peer = Peer::Pods { namespaces: Namespaces::Matching(not_b), pods: no_app };
    shop()
        .pod("shop/bare", "", "10.0.0.3")
        .pod("unlisted/bare", "", "10.0.9.9")
        .pod("other/bare", "", "10.0.1.3")
        .ingress("shop/p", "app=db", &[rule(&[peer], &[])])
        .expect(
            "shop/bare > shop/db tcp/1: yes
             unlisted/bare > shop/db tcp/1: yes
             other/bare > shop/db tcp/1: no
             shop/ui > shop/db tcp/1: no",
        );
}

#[test]
fn s11_a_selector_that_matches_nothing_matches_nothing() {
    for peer in [own("app=none"), pods("team=none", ""), Peer::Nothing] {
        shop().ingress("shop/p", "app=db", &[rule(&[peer], &[])]).expect(
            "shop/ui > shop/db tcp/1: no
             192.0.2.1 > shop/db tcp/1: no",
        );
    }
    shop().ingress("shop/p", "app=none", &[]).expect("shop/ui > shop/db tcp/1: yes");
}

#[test]
fn s12_labels_of_pods_and_namespaces_are_read_at_the_time_of_the_question() {
    let mut world = shop().ingress("shop/p", "app=db", &[rule(&[pods("team=b", "app=ui")], &[])]);
    world.expect("other/ui > shop/db tcp/1: yes");
    world.0.namespaces.insert("other".into(), Namespace::default());
    world.expect("other/ui > shop/db tcp/1: no");
    world = world.namespace("other", "team=b");
    world.0.pods.get_mut(&key("other/ui")).unwrap().labels = labels("app=x");
    world.expect("other/ui > shop/db tcp/1: no");
}

#[test]
fn s13_finished_pods_drop_out_and_leave_their_address() {
    let world = shop()
        .pod_with("shop/job", "app=ui", "10.0.0.9", |pod| pod.phase = Phase::Finished)
        .ingress("shop/p", "app=db", &[rule(&[own("app=ui")], &[])]);
    world.expect("shop/job > shop/db tcp/1: no\n 10.0.0.9 > shop/db tcp/1: no");
    let world = world.pod("shop/next", "app=db", "10.0.0.9");
    world.expect(
        "10.0.0.9 > shop/db tcp/1: no\n shop/ui > 10.0.0.9 tcp/1: yes\n 192.0.2.1 > \
        10.0.0.9 tcp/1: no",
    );
    let side = world.judge("shop/ui", "shop/job", Transport::Tcp, Some(1)).ingress;
    assert_eq!(side.reason, Reason::NotPoliced);
}

#[test]
fn s15_host_network_pods_are_neither_subjects_nor_peers() {
    let world = shop()
        .pod_with("shop/agent", "app=ui", "172.16.0.5", |pod| pod.network = PodNetwork::Host)
        .ingress("shop/p", "app=db", &[rule(&[own("app=ui")], &[])])
        .egress("shop/q", "app=db", &[rule(&[own("app=ui")], &[])])
        .ingress("shop/r", "app=ui", &[rule(&[own("app=db")], &[])]);
    world.expect(
        "shop/agent > shop/db tcp/1: no
         192.0.2.1 > shop/agent tcp/1: yes
         shop/db > shop/agent tcp/1: no
         shop/db > shop/ui tcp/1: yes",
    );
}

#[test]
fn an_address_of_two_pods_is_a_member_only_of_peers_that_select_both() {
    let world = shop()
        .pod("shop/twin", "app=ui,twin=yes", "10.0.0.7")
        .pod("other/twin", "app=ui", "10.0.0.7")
        .ingress(
            "shop/p",
            "app=db",
            &[rule(&[pods("", "twin=yes")], &[tcp(1)]), rule(&[pods("", "app=ui")], &[tcp(2)])],
        )
        .egress("other/deny", "app=ui", &[]);
    world.expect(
        "shop/twin > shop/db tcp/1: no
         shop/twin > shop/db tcp/2: yes
         10.0.0.7 > shop/db tcp/2: no",
    );
}

#[test]
fn the_judgement_names_what_decided() {
    let world = shop()
        .egress(
            "shop/out",
            "app=ui",
            &[rule(&[own("app=x")], &[]), rule(&[own("app=x"), own("app=db")], &[tcp(1), tcp(2)])],
        )
        .ingress("shop/a", "app=db", &[])
        .ingress("shop/b", "", &[rule(&[], &[])])
        .ingress("other/deny", "", &[])
        .policy("other/deny2", "", isolated(&[]), Isolation::Open);
    let judgement = world.judge("shop/ui", "shop/db", Transport::Tcp, Some(2));
    assert_eq!(
        judgement.to_string(),
        "allowed; egress: allowed by shop/out rule 1 peer 1 port 1; ingress: allowed by shop/b \
         rule 0"
    );
    let judgement = world.judge("10.0.0.2", "other/ui", Transport::Tcp, Some(2));
    assert_eq!(
        judgement.to_string(),
        "denied; egress: not isolated; ingress: denied: isolated by other/deny, other/deny2"
    );
    assert_eq!(judgement.egress.pod, Some(key("shop/db")));
    assert_eq!(
        judgement.ingress.reason,
        Reason::Denied(vec![key("other/deny"), key("other/deny2")])
    );
}
