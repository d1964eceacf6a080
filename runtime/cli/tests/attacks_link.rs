//! Attacks through the node's tunnels and the link: what a pod sends to its own node for the node
//! to pass on, and discovery and errors that carry data to somebody else. Needs root, `ip` and
//! `nft`. Other attacks: `attacks.rs`.

mod common;

use std::net::IpAddr;

use common::{
    frames::{BOTH, EGRESS, MARK, SHAPES, Way, expect, policies, policy},
    stage::on_stage,
};
use netpolc_testbed::adversary::{
    Place, Tracking,
    bytes::{self, Header, number},
};

/// The inner packet's frame for the node's overlay device.
fn overlay(inner: &Way, packet: &[u8]) -> Vec<u8> {
    const OVERLAY_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
    let frame = bytes::ethernet(
        OVERLAY_MAC,
        [2, 0x11, 0x22, 0x33, 0x44, 0x55],
        &[],
        bytes::ether_type(inner.destination),
        packet,
    );
    bytes::udp(40_000, 8472, &bytes::vxlan(&frame))
}

/// S45, S55: nothing comes out of the own node's overlay device that a pod has put in, under its
/// own address or another's.
#[test]
fn s45_a_pod_sends_into_no_tunnel_of_its_node() {
    // p1 and p4 may reach nobody; p2 and p5 take packets of the pods of the other node alone; p0
    // and p3 are free.
    let from_far = "ingress: [{from: [{podSelector: {matchLabels: {id: far}}}, {namespaceSelector: \
        {}, podSelector: {matchLabels: {id: far}}}]}]";
    let rules = policies([1, 4], EGRESS) + &policies([2, 5], from_far);
    on_stage(Tracking::Off, &rules, |stage| {
        let world = stage.lab.world.clone();
        let into = |sender: usize, inner: Way| {
            let outer = Way {
                destination: world.node[0],
                ..Way::new(&world, Place::Pod(sender), Place::Outside, false)
            };
            let packet = inner.packet(number::UDP, &bytes::udp(4000, 53, MARK));
            outer.frame(&world, &[], &outer.packet(number::UDP, &overlay(&inner, &packet)))
        };
        for [free, jailed, victim] in SHAPES {
            for v6 in [false, true] {
                for sender in [free, jailed] {
                    let forged = Way::new(&world, Place::Pod(sender), Place::Pod(victim), v6);
                    let forged = forged.under(world.far[usize::from(v6)]);
                    expect(stage, forged, &[into(sender, forged)], 0, "through the overlay");
                    let own = Way::new(&world, Place::Pod(sender), Place::Outside, v6);
                    expect(stage, own, &[into(sender, own)], 0, "through the overlay");
                }
                // The overlay works for who may use it: another node.
                let honest = Way::new(&world, Place::Outside, Place::Pod(victim), v6)
                    .under(world.far[usize::from(v6)]);
                let outer = Way {
                    source: world.far_node[0],
                    destination: world.node[0],
                    ..Way::new(&world, Place::Outside, Place::Outside, false)
                };
                let packet = honest.packet(number::UDP, &bytes::udp(4000, 53, MARK));
                let frame = outer.frame(
                    &world,
                    &[],
                    &outer.packet(number::UDP, &overlay(&honest, &packet)),
                );
                expect(stage, honest, &[frame], 1, "another node's overlay packet");
            }
        }
    });
}

/// S45: nor into another node's.
#[test]
fn s45_a_pod_sends_into_no_tunnel_of_another_node() {
    on_stage(Tracking::Off, &policies([4], BOTH), |stage| {
        let world = stage.lab.world.clone();
        for [pod, ..] in SHAPES {
            let inner =
                Way::new(&world, Place::Pod(pod), Place::Outside, false).under(world.stranger[0]);
            let packet = inner.packet(number::UDP, &bytes::udp(4000, 53, MARK));
            for v6 in [false, true] {
                let outer = Way {
                    destination: world.far_node[usize::from(v6)],
                    ..Way::new(&world, Place::Pod(pod), Place::Outside, v6)
                };
                let vxlan =
                    outer.frame(&world, &[], &outer.packet(number::UDP, &overlay(&inner, &packet)));
                expect(stage, outer, &[vxlan], 0, "VXLAN");
            }
        }
    });
}

/// S36: discovery is for the link. What a router passes on is judged.
#[test]
fn s36_discovery_carries_nothing_to_who_is_not_on_the_link() {
    on_stage(Tracking::Off, &policies([1, 4], EGRESS), |stage| {
        let world = stage.lab.world.clone();
        for pod in [1, 4] {
            let out = Way::new(&world, Place::Pod(pod), Place::Outside, true);
            for destination in [world.stranger, world.far, world.far_node] {
                let out = Way { destination: destination[1], ..out };
                let IpAddr::V6(target) = out.source else { unreachable!("IPv6") };
                for kind in [133, 135, 136] {
                    let body = bytes::icmp(kind, 0, [0; 4], &[&target.octets(), MARK].concat());
                    let header = Header { hops: 255, ..Header::default() };
                    let packet =
                        bytes::ip(out.source, out.destination, number::ICMPV6, &header, &body);
                    expect(
                        stage,
                        out,
                        &[out.frame(&world, &[], &packet)],
                        0,
                        &format!("ICMPv6 type {kind}"),
                    );
                }
            }
        }
    });
}

/// S36: a fragment header does not hide an advertisement: the node's kernel may take it off (RFC
/// 6980).
#[test]
fn s36_a_fragment_header_hides_no_advertisement() {
    for tracking in [Tracking::On, Tracking::Off] {
        on_stage(tracking, &policy(0, EGRESS), |stage| {
            let world = stage.lab.world.clone();
            let link = Way::new(&world, Place::Pod(4), Place::Pod(5), true);
            let IpAddr::V6(target) = world.pods[3].addresses[1] else { unreachable!("IPv6") };
            for kind in [134, 136, 137] {
                let body =
                    bytes::icmp(kind, 0, [0x20, 0, 0, 0], &[&target.octets(), MARK].concat());
                let body = [bytes::fragment(number::ICMPV6, 0, false, 7), body].concat();
                let header = Header { hops: 255, ..Header::default() };
                let packet =
                    bytes::ip(link.source, link.destination, number::FRAGMENT, &header, &body);
                expect(
                    stage,
                    link,
                    &[link.frame(&world, &[], &packet)],
                    0,
                    &format!("ICMPv6 type {kind}, {tracking:?}"),
                );
            }
        });
    }
}

/// S35: an error goes to the other end of the connection that it is about, and to nobody else.
#[test]
fn s35_an_error_goes_to_who_it_is_about() {
    on_stage(Tracking::Off, &policies([1, 4], EGRESS), |stage| {
        let world = stage.lab.world.clone();
        for pod in [1, 4] {
            for v6 in [false, true] {
                let at = usize::from(v6);
                // There is a connection with a pod of the other node.
                let back =
                    Way::new(&world, Place::Outside, Place::Pod(pod), v6).under(world.far[at]);
                expect(stage, back, &[back.udp(&world, 98)], 1, "an honest one");
                let quote = bytes::quote(world.far[at], back.destination, number::UDP, (4000, 98));
                let (protocol, kind) = if v6 { (number::ICMPV6, 1) } else { (number::ICMP, 3) };
                let body = bytes::icmp(kind, 3, [0; 4], &[&quote, MARK].concat());
                let out = Way::new(&world, Place::Pod(pod), Place::Outside, v6);
                expect(
                    stage,
                    out,
                    &[out.frame(&world, &[], &out.packet(protocol, &body))],
                    0,
                    "to a stranger",
                );
                let out = Way { destination: world.far[at], ..out };
                expect(
                    stage,
                    out,
                    &[out.frame(&world, &[], &out.packet(protocol, &body))],
                    1,
                    "to the other end",
                );
            }
        }
    });
}

/// S47: the pod's own address is no better in an error.
#[test]
fn s47_an_error_under_the_pod_s_own_address_is_forged() {
    on_stage(Tracking::Off, &policies([1, 4], "policyTypes: [Ingress]"), |stage| {
        let world = stage.lab.world.clone();
        for pod in [1, 4] {
            for v6 in [false, true] {
                // The pod has a connection.
                let out = Way::new(&world, Place::Pod(pod), Place::Outside, v6);
                expect(stage, out, &[out.udp(&world, 53)], 1, "an honest one");
                let quote = bytes::quote(out.source, out.destination, number::UDP, (4000, 53));
                let (protocol, kind) = if v6 { (number::ICMPV6, 1) } else { (number::ICMP, 3) };
                let body = bytes::icmp(kind, 3, [0; 4], &[&quote, MARK].concat());
                let back = Way::new(&world, Place::Outside, Place::Pod(pod), v6);
                let own = back.under(back.destination);
                expect(
                    stage,
                    own,
                    &[own.frame(&world, &[], &own.packet(protocol, &body))],
                    0,
                    "under its own",
                );
                expect(
                    stage,
                    back,
                    &[back.frame(&world, &[], &back.packet(protocol, &body))],
                    1,
                    "an honest error",
                );
            }
        }
    });
}

/// S36: a pod is no DHCP server.
#[test]
fn s36_a_pod_answers_as_no_dhcp_server() {
    on_stage(Tracking::Off, &policy(0, EGRESS), |stage| {
        let world = stage.lab.world.clone();
        for (v6, ports) in [(false, (67, 68)), (true, (547, 546))] {
            let link = Way::new(&world, Place::Pod(4), Place::Pod(5), v6);
            let frame = |ports: (u16, u16)| {
                link.frame(
                    &world,
                    &[],
                    &link.packet(number::UDP, &bytes::udp(ports.0, ports.1, MARK)),
                )
            };
            expect(stage, link, &[frame(ports)], 0, "an answer");
            expect(stage, link, &[frame((4000, ports.1))], 1, "another packet");
        }
    });
}
