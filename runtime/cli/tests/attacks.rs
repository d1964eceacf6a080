//! Attacks that worked once, each with the frames that did it and with an honest one beside it that
//! must pass. Needs root, `ip` and `nft`. What nobody has thought of yet is the adversary's
//! (`adversary.rs`).

mod common;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use common::{
    frames::{BOTH, BRIDGED, EGRESS, MARK, SHAPES, Way, expect, policies, policy},
    stage::on_stage,
};
use netpolc_testbed::adversary::{
    Place, Tracking, World,
    bytes::{self, Header, number},
};

/// IPv6 in two pieces, the first with a routing header of `unfragmentable` bytes before its
/// fragment header.
fn cut(
    world: &World,
    way: Way,
    protocol: u8,
    head: &[u8],
    unfragmentable: usize,
    id: u32,
) -> Vec<Vec<u8>> {
    let mut whole = [head, MARK].concat();
    whole.resize(96 + 20, 0x2e);
    whole.extend(MARK);
    let pieces = [(0, true, &whole[..96]), (96, false, &whole[96..])];
    let frames = pieces.map(|(offset, more, part)| {
        let mut body = [&bytes::fragment(protocol, offset, more, id), part].concat();
        let mut next = number::FRAGMENT;
        if offset == 0 && unfragmentable > 0 {
            let units = (unfragmentable / 8 - 1) as u8;
            body = [bytes::routing(next, 253, 0, units, Ipv6Addr::UNSPECIFIED), body].concat();
            next = number::ROUTING;
        }
        way.frame(world, &[], &way.packet(next, &body))
    });
    frames.to_vec()
}

/// S44: what the kernel cuts anew after reassembly was forwarded, not born, however long its
/// unfragmentable part is.
#[test]
fn s44_an_ipv6_packet_that_was_cut_anew_is_not_born_on_the_node() {
    // p1 and p4 are closed, p2 and p5 open.
    on_stage(Tracking::On, &policies([1, 4], BOTH), |stage| {
        let world = stage.lab.world.clone();
        let mut id = 0;
        for (closed, open) in [(1, 2), (4, 5)] {
            for from in [Place::Outside, Place::Pod(0), Place::Pod(3)] {
                for unfragmentable in [0, 64, 128, 256, 512, 1024] {
                    for (protocol, head) in [
                        (number::UDP, bytes::udp(4000, 98, b"")),
                        (number::TCP, bytes::tcp(4000, 80, 2, b"")),
                    ] {
                        id += 1;
                        // As many pieces as the kernel makes of it.
                        let mut through = |to, wanted| {
                            let way = Way::new(&world, from, Place::Pod(to), true);
                            let frames = cut(&world, way, protocol, &head, unfragmentable, id);
                            stage.arrive(way.from, way.to, &frames, MARK, wanted)
                        };
                        let what = format!(
                            "{from:?} protocol {protocol}, {unfragmentable} bytes before the \
                             fragment"
                        );
                        assert_eq!(through(closed, 0), 0, "{what}, to p{closed}");
                        assert!(through(open, 1) > 0, "{what}, to p{open}");
                    }
                }
            }
        }
    });
}

/// S44: the node's own long datagrams, which its kernel cuts, reach an isolated pod.
#[test]
fn s44_fragments_of_the_node_s_own_reach_an_isolated_pod() {
    for tracking in [Tracking::Off, Tracking::On] {
        on_stage(tracking, &policies([1, 4], BOTH), |stage| {
            let sockets = stage.lab.node_sockets().expect("sockets");
            for pod in [1, 4] {
                for address in stage.lab.world.pods[pod].addresses {
                    let mut payload = vec![0x2e; 3000];
                    payload[40..40 + MARK.len()].copy_from_slice(MARK);
                    payload[2900..2900 + MARK.len()].copy_from_slice(MARK);
                    let socket = &sockets[usize::from(address.is_ipv6())];
                    socket.send_to(&payload, SocketAddr::new(address, 9)).expect("sent");
                    let arrived = stage.arrive(Place::Node, Place::Pod(pod), &[], MARK, 2);
                    assert_eq!(arrived, 2, "{address}, {tracking:?}");
                }
            }
        });
    }
}

/// S54, S55: the kernel looks through any number of priority tags, and so through a forged source
/// behind them.
#[test]
fn s55_priority_tags_hide_no_source() {
    // p2 and p5 take packets of p0 and p3 alone; nobody is isolated in egress.
    let from = |friend| {
        format!(
            "ingress: [{{from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{id: \
             p{friend}}}}}}}]}}]"
        )
    };
    let policies = policy(2, &from(0)) + &policy(5, &from(3));
    on_stage(Tracking::Off, &policies, |stage| {
        let world = stage.lab.world.clone();
        for [friend, attacker, victim] in SHAPES {
            for v6 in [false, true] {
                let own = Way::new(&world, Place::Pod(friend), Place::Pod(victim), v6);
                let forged = Way::new(&world, Place::Pod(attacker), Place::Pod(victim), v6)
                    .under(own.source);
                for depth in 0..=8 {
                    for kind in [number::VLAN, number::QINQ] {
                        let tags = vec![(kind, 0); depth];
                        let frame = |way: Way| {
                            way.frame(
                                &world,
                                &tags,
                                &way.packet(number::UDP, &bytes::udp(4000, 53, MARK)),
                            )
                        };
                        let what = format!(
                            "{depth} tags of type {kind:#x}, p{attacker} as p{friend}, IPv6: {v6}"
                        );
                        expect(stage, forged, &[frame(forged)], 0, &what);
                        if depth <= 1 {
                            expect(
                                stage,
                                own,
                                &[frame(own)],
                                1,
                                &format!("{what}, p{friend} itself"),
                            );
                        }
                    }
                }
            }
        }
    });
}

/// S55: what is neither IP nor ARP does not leave a pod, since who knows who would unwrap it.
#[test]
fn s55_what_is_not_ip_leaves_no_pod() {
    on_stage(Tracking::Off, &policies([1], BOTH), |stage| {
        let world = stage.lab.world.clone();
        let way = Way::new(&world, Place::Pod(3), Place::Pod(5), false);
        let packet = way.packet(number::UDP, &bytes::udp(4000, 53, MARK));
        for kind in [0x8864, 0x8847, 0x88e7, 0x6558, 0x9100, 0x0600, packet.len() as u16] {
            let frame = bytes::ethernet(world.mac(way.to), world.mac(way.from), &[], kind, &packet);
            expect(stage, way, &[frame], 0, &format!("type {kind:#06x}"));
        }
        expect(stage, way, &[way.udp(&world, 53)], 1, "an honest one");
    });
}

/// S55: pods are guarded on a node without any policy, too: policies of other nodes trust the
/// sources.
#[test]
fn s55_pods_are_guarded_where_nobody_is_isolated() {
    on_stage(Tracking::Off, "", |stage| {
        let world = stage.lab.world.clone();
        for [friend, attacker, _] in SHAPES {
            for v6 in [false, true] {
                let own = Way::new(&world, Place::Pod(attacker), Place::Outside, v6);
                for source in [world.pods[friend].addresses, world.stranger, world.node, world.far]
                {
                    let forged = own.under(source[usize::from(v6)]);
                    expect(
                        stage,
                        forged,
                        &[forged.udp(&world, 53)],
                        0,
                        &format!("p{attacker} as {}", forged.source),
                    );
                }
                expect(stage, own, &[own.udp(&world, 53)], 1, &format!("p{attacker} itself"));
            }
        }
    });
}

/// S47: the pod's own address as the source of what comes from elsewhere is forged, whatever its
/// policies allow.
#[test]
fn s47_nobody_else_is_the_pod_itself() {
    let spec = "ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: \
        '2001:db8::/33'}}]}]";
    on_stage(Tracking::Off, &policies([1, 4], spec), |stage| {
        let world = stage.lab.world.clone();
        for victim in [1, 4] {
            for v6 in [false, true] {
                let honest = Way::new(&world, Place::Outside, Place::Pod(victim), v6);
                let forged = honest.under(honest.destination);
                for port in [80, 99] {
                    expect(
                        stage,
                        forged,
                        &[forged.udp(&world, port)],
                        0,
                        &format!("p{victim} port {port} IPv6: {v6}"),
                    );
                    expect(
                        stage,
                        honest,
                        &[honest.udp(&world, port)],
                        1,
                        &format!("p{victim} port {port} IPv6: {v6}"),
                    );
                }
            }
        }
    });
}

/// S35: an error about a packet that never was carries nothing out of a pod whose egress is denied.
#[test]
fn s35_errors_about_nothing_carry_nothing_out() {
    on_stage(Tracking::Off, &policies([1, 4], EGRESS), |stage| {
        let world = stage.lab.world.clone();
        for pod in [1, 4] {
            for v6 in [false, true] {
                let way = Way::new(&world, Place::Pod(pod), Place::Outside, v6);
                let (protocol, kinds): (u8, &[u8]) = if v6 {
                    (number::ICMPV6, &[1, 2, 3, 4])
                } else {
                    (number::ICMP, &[3, 4, 5, 11, 12])
                };
                for kind in kinds {
                    for inner in [number::UDP, number::TCP, number::SCTP, protocol, 47] {
                        let quote = bytes::quote(way.destination, way.source, inner, (53, 4000));
                        let body = bytes::icmp(*kind, 3, [0; 4], &[&quote, MARK].concat());
                        let frame = way.frame(&world, &[], &way.packet(protocol, &body));
                        expect(
                            stage,
                            way,
                            &[frame],
                            0,
                            &format!("p{pod} type {kind} about protocol {inner}"),
                        );
                    }
                }
                // What comes in may be complained about: with port 98 there is a connection.
                let back = Way::new(&world, Place::Outside, Place::Pod(pod), v6);
                expect(stage, back, &[back.udp(&world, 98)], 1, "an honest one");
                let quote = bytes::quote(way.destination, way.source, number::UDP, (4000, 98));
                let kind = if v6 { 1 } else { 3 };
                let body = bytes::icmp(kind, 3, [0; 4], &[&quote, MARK].concat());
                let frame = way.frame(&world, &[], &way.packet(protocol, &body));
                expect(stage, way, &[frame], 1, &format!("p{pod}: an honest error"));
            }
        }
    });
}

/// S45: the own node may be reached, and what lies behind it by a source route may not.
#[test]
fn s45_a_source_route_leads_nowhere() {
    on_stage(Tracking::Off, &policies([1, 4], EGRESS), |stage| {
        let world = stage.lab.world.clone();
        for pod in [1, 4] {
            let way = Way::new(&world, Place::Pod(pod), Place::Outside, false);
            let IpAddr::V4(last) = way.destination else { unreachable!("asked for IPv4") };
            for kind in [0x83, 0x89] {
                let options = [&[kind, 7, 4][..], &last.octets(), &[0]].concat();
                let header = Header { hops: 64, options, ..Header::default() };
                let packet = bytes::ip(
                    way.source,
                    world.node[0],
                    number::UDP,
                    &header,
                    &bytes::udp(1, 53, MARK),
                );
                expect(
                    stage,
                    way,
                    &[way.frame(&world, &[], &packet)],
                    0,
                    &format!("p{pod} option {kind}"),
                );
            }
            let way = Way::new(&world, Place::Pod(pod), Place::Outside, true);
            let IpAddr::V6(last) = way.destination else { unreachable!("asked for IPv6") };
            for kind in [0, 2, 3, 4] {
                let front = bytes::routing(number::UDP, kind, 1, 4, last);
                let body = [front, bytes::udp(1, 53, MARK)].concat();
                let header = Header { hops: 64, ..Header::default() };
                let packet = bytes::ip(way.source, world.node[1], number::ROUTING, &header, &body);
                expect(
                    stage,
                    way,
                    &[way.frame(&world, &[], &packet)],
                    0,
                    &format!("p{pod} routing header {kind}"),
                );
            }
        }
    });
}

/// S36: a bridged pod answers for itself, and never as a router.
#[test]
fn s36_a_pod_speaks_for_itself_in_arp_and_discovery() {
    on_stage(Tracking::Off, &policies([4], BOTH), |stage| {
        let world = stage.lab.world.clone();
        let [victim, attacker, hearer] = BRIDGED;
        let (all, mac) = ([0xff; 6], world.pods[attacker].mac);
        let (from, to) = (Place::Pod(attacker), Place::Pod(hearer));
        let answer = |sender: IpAddr| {
            let arp = bytes::arp(2, (mac, sender), (all, sender));
            bytes::ethernet(all, mac, &[], number::ARP, &[&arp, MARK].concat())
        };
        let arp = |pod: usize| answer(world.pods[pod].addresses[0]);
        assert_eq!(stage.arrive(from, to, &[arp(victim)], MARK, 0), 0, "ARP for p{victim}");
        assert_eq!(
            stage.arrive(from, to, &[answer(world.bridge[0])], MARK, 0),
            0,
            "ARP for the gateway"
        );
        assert_eq!(stage.arrive(from, to, &[arp(attacker)], MARK, 1), 1, "ARP for itself");
        let many: IpAddr = "ff02::1".parse().expect("an address");
        let own = world.pods[attacker].addresses[1];
        let message = |kind: u8, target: IpAddr| {
            let IpAddr::V6(target) = target else { unreachable!("IPv6") };
            let body = bytes::icmp(kind, 0, [0x20, 0, 0, 0], &[&target.octets(), MARK].concat());
            let packet = bytes::ip(
                own,
                many,
                number::ICMPV6,
                &Header { hops: 255, ..Header::default() },
                &body,
            );
            bytes::ethernet([0x33, 0x33, 0, 0, 0, 1], mac, &[], number::IPV6, &packet)
        };
        for (kind, target, passes) in [
            (135, world.pods[victim].addresses[1], 1),
            (136, own, 1),
            (136, world.pods[victim].addresses[1], 0),
            (136, world.bridge[1], 0),
            (134, own, 0),
            (137, own, 0),
        ] {
            let arrived = stage.arrive(from, to, &[message(kind, target)], MARK, passes);
            assert_eq!(arrived, passes, "ICMPv6 type {kind} for {target}");
        }
    });
}
