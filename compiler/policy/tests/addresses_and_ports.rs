//! The oracle on address blocks, ports, other protocols, the node, the pod itself and Services: S17
//! to S34, S44 to S48.

mod common;

use common::*;
use netpolc_policy::{
    ContainerPort, Pod, PodNetwork, Port, Protocol, Rule, Service, ServicePort,
    oracle::{Question, Reason, Transport, judge},
};

fn pair() -> World {
    World::default()
        .pod("n/a", "app=a", "10.0.0.1,fd00::1")
        .pod("n/b", "app=b", "10.0.0.2,fd00::2")
        .node("node", &["172.16.0.1", "fd16::1"])
        .node("far", &["172.16.0.2"])
}

fn from(rules: &[Rule]) -> World {
    pair().ingress("n/p", "app=b", rules)
}

#[test]
fn s18_except_subtracts_from_its_own_block_only() {
    from(&[
        rule(&[block("192.0.2.0/24", &["192.0.2.128/25"])], &[]),
        rule(&[block("192.0.2.200/32", &[])], &[]),
    ])
    .expect(
        "192.0.2.1 > n/b tcp/1: yes
         192.0.2.129 > n/b tcp/1: no
         192.0.2.200 > n/b tcp/1: yes",
    );
}

#[test]
fn s19_the_same_block_in_two_rules_stays_distinct() {
    from(&[
        rule(&[block("192.0.2.0/24", &["192.0.2.0/25"])], &[tcp(1)]),
        rule(&[block("192.0.2.0/24", &["192.0.2.128/25"])], &[tcp(2)]),
    ])
    .expect(
        "192.0.2.1 > n/b tcp/1: no
         192.0.2.1 > n/b tcp/2: yes
         192.0.2.200 > n/b tcp/1: yes
         192.0.2.200 > n/b tcp/2: no",
    );
}

#[test]
fn s20_a_selected_pod_inside_another_peers_except_is_allowed() {
    from(&[rule(&[block("10.0.0.0/8", &["10.0.0.0/24"]), own("app=a")], &[])]).expect(
        "n/a > n/b tcp/1: yes
         10.0.0.77 > n/b tcp/1: no",
    );
}

#[test]
fn s21_a_more_specific_block_inherits_what_covers_it() {
    from(&[
        rule(&[block("192.0.0.0/16", &[])], &[tcp(1)]),
        rule(&[block("192.0.2.0/24", &[])], &[tcp(2)]),
    ])
    .expect(
        "192.0.2.1 > n/b tcp/1: yes
         192.0.2.1 > n/b tcp/2: yes
         192.0.3.1 > n/b tcp/2: no",
    );
}

#[test]
fn s22_nested_blocks_and_excepts() {
    from(&[
        rule(&[block("192.0.0.0/16", &["192.0.2.0/24", "192.0.2.0/28"])], &[]),
        rule(&[block("192.0.2.0/26", &["192.0.2.32/27"])], &[]),
    ])
    .expect(
        "192.0.9.1 > n/b tcp/1: yes
         192.0.2.1 > n/b tcp/1: yes
         192.0.2.33 > n/b tcp/1: no
         192.0.2.65 > n/b tcp/1: no",
    );
}

#[test]
fn s23_blocks_cover_their_own_family_only() {
    from(&[rule(&[block("0.0.0.0/0", &[])], &[])]).expect(
        "192.0.2.1 > n/b tcp/1: yes
         2001:db8::1 > n/b@fd00::2 tcp/1: no
         ::ffff:192.0.2.1 > n/b@fd00::2 tcp/1: no",
    );
    from(&[rule(&[block("::/0", &[])], &[])]).expect(
        "2001:db8::1 > n/b@fd00::2 tcp/1: yes
         ::ffff:192.0.2.1 > n/b@fd00::2 tcp/1: yes
         192.0.2.1 > n/b tcp/1: no",
    );
}

#[test]
fn s24_every_address_of_a_dual_stack_pod_counts() {
    from(&[rule(&[own("app=a")], &[])]).expect(
        "n/a@10.0.0.1 > n/b@10.0.0.2 tcp/1: yes
         n/a@fd00::1 > n/b@fd00::2 tcp/1: yes
         fd00::1 > fd00::2 tcp/1: yes
         fd00::9 > fd00::2 tcp/1: no",
    );
}

#[test]
fn s25_blocks_match_pod_and_node_addresses_too() {
    from(&[rule(&[block("10.0.0.0/24", &[]), block("172.16.0.2/32", &[])], &[])]).expect(
        "n/a > n/b tcp/1: yes
         172.16.0.2 > n/b tcp/1: yes",
    );
}

#[test]
fn s26_a_port_without_number_is_every_port_of_its_protocol() {
    from(&[rule(&[], &[Port::Every(Protocol::Udp)])]).expect(
        "n/a > n/b udp/1: yes
         n/a > n/b udp/65535: yes
         n/a > n/b udp: yes
         n/a > n/b tcp/1: no",
    );
}

#[test]
fn s27_ranges_are_inclusive() {
    from(&[rule(&[], &[range(Protocol::Tcp, 1000, 2049), range(Protocol::Tcp, 65535, 65535)])])
        .expect(
            "n/a > n/b tcp/999: no
         n/a > n/b tcp/1000: yes
         n/a > n/b tcp/2049: yes
         n/a > n/b tcp/2050: no
         n/a > n/b tcp/65534: no
         n/a > n/b tcp/65535: yes
         n/a > n/b tcp: no",
        );
    from(&[rule(&[], &[Port::Nothing])]).expect("n/a > n/b tcp/1: no");
}

fn serves(ports: &[(&str, Protocol, u16)]) -> impl FnOnce(&mut Pod) {
    let port = |(name, protocol, number): &(&str, Protocol, u16)| ContainerPort {
        name: Some((*name).into()),
        protocol: *protocol,
        number: *number,
        host_port: None,
    };
    let ports: Vec<ContainerPort> = ports.iter().map(port).collect();
    move |pod| pod.ports = ports
}

#[test]
fn s29_named_ports_resolve_on_the_destination_by_name_and_protocol() {
    let world = || {
        World::default()
            .pod_with("n/a", "app=a", "10.0.0.1", serves(&[("web", Protocol::Tcp, 7)]))
            .pod_with(
                "n/b",
                "app=b",
                "10.0.0.2",
                serves(&[("web", Protocol::Tcp, 80), ("web", Protocol::Udp, 81)]),
            )
            .pod_with("n/c", "app=b", "10.0.0.3", serves(&[("web", Protocol::Tcp, 8080)]))
    };
    let rules = |peers: &[_]| [rule(peers, &[named(Protocol::Tcp, "web")])];
    for peers in [vec![], vec![own("app=a")], vec![block("10.0.0.0/8", &[])]] {
        world().ingress("n/p", "app=b", &rules(&peers)).expect(
            "n/a > n/b tcp/80: yes
             n/a > n/b udp/81: no
             n/a > n/b tcp/8080: no
             n/a > n/b tcp/7: no
             n/a > n/c tcp/8080: yes",
        );
    }
    for peers in [vec![], vec![own("app=b")]] {
        world().egress("n/p", "app=a", &rules(&peers)).expect(
            "n/a > n/b tcp/80: yes
             n/a > n/b tcp/7: no
             n/a > n/c tcp/80: no
             n/a > n/c tcp/8080: yes",
        );
    }
}

#[test]
fn s30_one_name_on_two_containers_is_both_numbers() {
    World::default()
        .pod("n/a", "", "10.0.0.1")
        .pod_with(
            "n/b",
            "app=b",
            "10.0.0.2",
            serves(&[("web", Protocol::Tcp, 80), ("web", Protocol::Tcp, 81)]),
        )
        .ingress("n/p", "app=b", &[rule(&[], &[named(Protocol::Tcp, "web")])])
        .expect(
            "n/a > n/b tcp/80: yes
             n/a > n/b tcp/81: yes
             n/a > n/b tcp/82: no",
        );
}

#[test]
fn s31_an_unresolved_name_matches_nothing_and_no_block_resolves_one() {
    let web = [named(Protocol::Tcp, "web")];
    let world = || {
        World::default()
            .pod("n/a", "app=a", "10.0.0.1")
            .pod_with("n/b", "app=b", "10.0.0.2", serves(&[("web", Protocol::Tcp, 80)]))
            .pod_with("n/host", "app=b", "10.0.0.3", |pod| {
                serves(&[("web", Protocol::Tcp, 80)])(pod);
                pod.network = PodNetwork::Host;
            })
    };
    world().ingress("n/p", "app=a", &[rule(&[], &web)]).expect("n/b > n/a tcp/80: no");
    world()
        .egress("n/p", "app=a", &[rule(&[block("10.0.0.0/8", &[])], &web)])
        .expect("n/a > n/b tcp/80: no");
    world().egress("n/p", "app=a", &[rule(&[], &web)]).expect(
        "n/a > n/b tcp/80: yes
         n/a > n/host tcp/80: no
         n/a > 192.0.2.1 tcp/80: no",
    );
}

#[test]
fn s32_one_number_on_three_protocols_is_three_ports() {
    from(&[rule(&[], &[range(Protocol::Sctp, 80, 80)])]).expect(
        "n/a > n/b sctp/80: yes
         n/a > n/b tcp/80: no
         n/a > n/b udp/80: no",
    );
}

#[test]
fn s34_other_protocols_pass_only_by_rules_without_ports() {
    let every: Vec<Port> = Protocol::ALL.into_iter().map(Port::Every).collect();
    from(&[rule(&[], &every)]).expect("n/a > n/b 1: no\n n/a > n/b 47: no\n n/a > n/b tcp/1: yes");
    from(&[rule(&[own("app=a")], &[])])
        .expect("n/a > n/b 1: yes\n n/a > n/b 58: yes\n 192.0.2.1 > n/b 1: no");
}

#[test]
fn s44_ingress_from_the_own_nodes_addresses_is_allowed_offline() {
    let world = from(&[]);
    world.expect(
        "172.16.0.1 > n/b tcp/1: yes
         fd16::1 > n/b@fd00::2 1: yes
         172.16.0.2 > n/b tcp/1: no",
    );
    let reason = world.judge("172.16.0.1", "n/b", Transport::Tcp, Some(1)).ingress.reason;
    assert_eq!(reason, Reason::Node);
    pair()
        .pod_with("n/c", "app=b", "10.0.0.3", |pod| pod.node = None)
        .ingress("n/p", "app=b", &[])
        .expect("172.16.0.1 > n/c tcp/1: no");
}

#[test]
fn s45_egress_to_the_own_node_is_allowed_except_on_host_ports() {
    let with_host_port = |protocol, host_port, node: &'static str| {
        move |pod: &mut Pod| {
            pod.node = Some(node.into());
            pod.ports = vec![ContainerPort {
                name: None,
                protocol,
                number: 80,
                host_port: Some(host_port),
            }];
        }
    };
    pair()
        .pod_with("n/x", "", "10.0.0.8", with_host_port(Protocol::Tcp, 8080, "node"))
        .pod_with("n/y", "", "10.0.0.9", with_host_port(Protocol::Tcp, 9090, "far"))
        .egress("n/p", "app=a", &[])
        .expect(
            "n/a > 172.16.0.1 tcp/22: yes
             n/a > 172.16.0.1 1: yes
             n/a > 172.16.0.1 tcp/8080: no
             n/a > 172.16.0.1 udp/8080: yes
             n/a > 172.16.0.1 tcp/9090: yes
             n/a@fd00::1 > fd16::1 tcp/22: yes",
        );
}

#[test]
fn s46_other_nodes_are_policed() {
    pair().egress("n/p", "app=a", &[]).expect("n/a > 172.16.0.2 tcp/22: no");
    pair().egress("n/p", "app=a", &[rule(&[block("172.16.0.0/24", &[])], &[tcp(22)])]).expect(
        "n/a > 172.16.0.2 tcp/22: yes
         n/a > 172.16.0.2 tcp/23: no",
    );
}

#[test]
fn s47_a_pod_reaches_itself() {
    let world = pair().policy("n/deny", "", isolated(&[]), isolated(&[]));
    world.expect(
        "n/a > n/a tcp/1: yes
         10.0.0.1 > 10.0.0.1 udp/1: yes
         n/a@fd00::1 > n/a@fd00::1 1: yes
         n/a > n/b tcp/1: no",
    );
    assert_eq!(world.judge("n/a", "n/a", Transport::Tcp, Some(1)).ingress.reason, Reason::Own);
}

const VIP: &str = "10.96.0.1";

/// `pair()` with a Service on [`VIP`] port 80 and nodePort 30080.
fn shop() -> World {
    let mut world = pair();
    let port = ServicePort { protocol: Protocol::Tcp, number: 80, node_port: Some(30080) };
    let addresses = vec![VIP.parse().unwrap(), "fd96::1".parse().unwrap()];
    let service =
        Service { addresses, ports: vec![port], health_check: Some(31000), ..Service::default() };
    world.0.services.insert(key("n/web"), service);
    world
}

/// Does the oracle let this source through by way of an address, and why?
fn via(
    world: &World,
    source: &str,
    via: (&str, u16),
    destination: &str,
    port: u16,
) -> (bool, Reason) {
    let (source, destination) = (world.party(source), world.party(destination));
    let via = Some((via.0.parse().unwrap(), via.1));
    let question =
        Question { source, destination, protocol: Transport::Tcp, port: Some(port), via };
    let judgement = judge(&world.0, &question);
    (judgement.allowed, judgement.egress.reason)
}

#[test]
fn s48_egress_to_a_service_is_judged_on_the_backend() {
    let world = shop().egress("n/p", "app=a", &[rule(&[own("app=b")], &[tcp(8080)])]);
    assert!(via(&world, "n/a", (VIP, 80), "n/b", 8080).0);
    assert!(!via(&world, "n/a", (VIP, 80), "n/b", 80).0, "the Service's port is not the backend's");
    assert!(!via(&world, "n/a", (VIP, 80), "192.0.2.1", 8080).0, "another backend");
    assert!(!via(&world, "n/a", (VIP, 81), "n/b", 8080).0, "not the Service's port");
    assert!(via(&world, "n/b", (VIP, 80), "192.0.2.1", 8080).0, "not isolated");
    assert_eq!(via(&world, "n/a", (VIP, 80), "n/a", 8080), (true, Reason::Own), "S47");
    assert_eq!(world.judge("n/a", VIP, Transport::Tcp, Some(80)).egress.reason, Reason::Service);
}

#[test]
fn s48_what_covers_a_service_address_does_not_allow_its_ports() {
    let world = shop().egress(
        "n/p",
        "app=a",
        &[rule(&[block("10.96.0.0/12", &[])], &[]), rule(&[], &[tcp(80)])],
    );
    world.expect(
        "n/a > 10.96.0.1 tcp/80: no
         n/a > 10.96.0.1 tcp/81: yes
         n/a > 10.96.0.1 udp/80: yes
         n/a > 10.96.0.1 1: yes
         n/a > 10.96.0.2 tcp/80: yes
         n/a > 203.0.113.1 tcp/80: yes",
    );
    assert!(!via(&world, "n/a", (VIP, 80), "n/b", 8080).0);
    assert!(via(&world, "n/a", (VIP, 80), "n/b", 80).0, "by the rule for port 80");
    let everything = shop().egress("n/p", "app=a", &[rule(&[block("0.0.0.0/0", &[])], &[])]);
    everything.expect("n/a > 10.96.0.1 tcp/80: yes");
    assert!(via(&everything, "n/a", (VIP, 80), "n/b", 8080).0);
    assert!(
        !via(&everything, "n/a@fd00::1", ("fd96::1", 80), "n/b@fd00::2", 8080).0,
        "the other family"
    );
    let ingress = shop().ingress("n/p", "app=a", &[rule(&[block("10.96.0.0/12", &[])], &[])]);
    ingress.expect("10.96.0.1 > n/a tcp/80: yes");
}

#[test]
fn s45_node_ports_of_the_own_node_lead_to_backends_and_health_checks_are_not_the_node_s() {
    let world = shop().egress("n/p", "app=a", &[rule(&[own("app=b")], &[tcp(8080)])]);
    world.expect(
        "n/a > 172.16.0.1 tcp/22: yes
         n/a > 172.16.0.1 tcp/30080: no
         n/a > 172.16.0.1 udp/30080: yes
         n/a > 172.16.0.1 tcp/31000: no
         n/a > 172.16.0.2 tcp/30080: no",
    );
    assert!(via(&world, "n/a", ("172.16.0.1", 30080), "n/b", 8080).0);
    assert!(!via(&world, "n/a", ("172.16.0.1", 30080), "n/b", 80).0);
    assert!(
        !via(&world, "n/a", ("172.16.0.2", 30080), "n/b", 8080).0,
        "S46: another node is an address"
    );
    assert!(!via(&world, "n/a", ("172.16.0.1", 31000), "n/b", 8080).0, "nothing translates it");
    let block = shop().egress("n/p", "app=a", &[rule(&[block("172.16.0.0/24", &[])], &[])]);
    block.expect(
        "n/a > 172.16.0.1 tcp/31000: yes
         n/a > 172.16.0.1 tcp/30080: no
         n/a > 172.16.0.2 tcp/30080: yes",
    );
}
