//! What the tables say, seen from packets: directions, classes, families, protocols, self and node.

use std::net::{IpAddr, Ipv6Addr};

use netpolc_table::{
    Class, ClassId, EndpointId, IfIndex, Incarnation, SetId, TableId, Write,
    id::{V4, V6},
    schema::{self, Family, Word},
};

use crate::{
    Hook,
    Verdict::{Drop, Next},
    conformance::{
        Case,
        world::{
            A, ACK, B, Hosts, Policy, RST, SYN, SYN_ACK, Talk, Unit, name, permit_portless,
            permit_tunnels, set_word, switch, word, world,
        },
    },
    frame::{Extension, Packet, arp, discovery, truncate},
    semantics::{DISCOVERY_BYTES, ip, sctp},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![arp_passes(), families_are_apart()];
    for hosts in Hosts::both() {
        cases.extend([
            directions(&hosts),
            ports(&hosts),
            classes(&hosts),
            protocols(&hosts),
            other_interface(&hosts),
            unused(&hosts),
            node(&hosts),
            own_node_and_self(&hosts),
            own_source_is_forged(&hosts),
            forgotten(&hosts),
            tunnels(&hosts),
        ]);
    }
    cases.extend([discovery_passes(), discovery_limits()]);
    cases
}

fn directions(h: &Hosts) -> Case {
    let opened = Talk::new(h.a, 80, h.stranger, 4000);
    let opens = Talk::new(h.a, 4000, h.stranger, 80);
    Case::new(
        name("S3 S60 directions isolate independently, and no longer", h),
        world(Policy::Open, Policy::Open),
    )
    .in_passes("no policy", opened.back(SYN))
    .out_passes("no policy", opens.out(SYN))
    .write(switch(A, Policy::Nothing, Policy::Open))
    .in_drops("ingress isolated", Talk::new(h.a, 80, h.stranger, 4001).back(SYN))
    .out_passes("egress is not", Talk::new(h.a, 4001, h.stranger, 80).out(SYN))
    .write(switch(A, Policy::Open, Policy::Nothing))
    .in_passes("ingress is not", Talk::new(h.a, 80, h.stranger, 4002).back(SYN))
    .out_drops("egress isolated", Talk::new(h.a, 4002, h.stranger, 80).out(SYN))
    .write(switch(A, Policy::Open, Policy::Open))
    .in_passes("nothing is isolated", Talk::new(h.a, 80, h.stranger, 4003).back(SYN))
    .out_passes("nothing is isolated", Talk::new(h.a, 4003, h.stranger, 80).out(SYN))
}

fn ports(h: &Hosts) -> Case {
    let into = |unit, port| Talk::new(h.a, port, h.friend, 4000).back(unit);
    let out = |unit, port| Talk::new(h.a, 4000, h.friend, port).out(unit);
    let init = Unit::Sctp(sctp::INIT);
    let mut case = Case::new(
        name("S32 the same number on three protocols, and the ports beside it", h),
        world(Policy::Some, Policy::Some),
    );
    for (what, port, tcp, udp, stcp) in [
        ("port 80 is TCP's", 80, true, false, false),
        ("port 53 is UDP's", 53, false, true, false),
        ("port 36412 is SCTP's", 36412, false, false, true),
        ("one below TCP's", 79, false, false, false),
        ("one above TCP's", 81, false, false, false),
        ("port 0", 0, false, false, false),
        ("port 65535", 65535, false, false, false),
    ] {
        for (unit, passes) in [(SYN, tcp), (Unit::Udp, udp), (init, stcp)] {
            // Each tuple only once, or state would answer: 4000 on this side, the port on the
            // other, and the reverse.
            case = if passes {
                case.in_passes(what, into(unit, port)).out_passes(what, out(unit, port))
            } else {
                case.in_drops(what, into(unit, port)).out_drops(what, out(unit, port))
            };
        }
    }
    case
}

fn classes(h: &Hosts) -> Case {
    let from = |remote, port| Talk::new(h.a, 80, remote, port).back(SYN);
    Case::new(name("S21 S25 classes of remotes", h), world(Policy::Some, Policy::Some))
        .in_passes("a friend", from(h.friend, 1))
        .in_passes("another pod of the class", from(h.b, 1))
        .in_drops("nobody's class", from(h.stranger, 1))
        .in_passes("in the network", from(h.network, 1))
        .in_passes("in the network, any port", Talk::new(h.a, 9999, h.network, 2).back(SYN))
        .write(Write::put(
            TableId::remote(h.family),
            schema::remote_key(h.network, h.family.bits()),
            schema::set_remote(Class::unnamed(h.family), Incarnation::default()),
        ))
        .in_drops("taken out of the network", from(h.network, 3))
        .write(switch(A, Policy::Everyone, Policy::Open))
        .in_passes("a base that permits", from(h.stranger, 4))
        .write(switch(A, Policy::Nothing, Policy::Open))
        .in_drops("a base that denies", from(h.friend, 5))
}

fn families_are_apart() -> Case {
    let (v4, v6) = (Hosts::of(Family::V4), Hosts::of(Family::V6));
    // Class 1 means other peers in each family; a mapped address is IPv6.
    let mapped = "::ffff:10.0.1.1".parse().expect("an address");
    let stranger = Write::put(
        TableId::RemoteV6,
        schema::remote_key(v6.stranger, 128),
        schema::set_remote(ClassId::<V6>::new(5), Incarnation::default()),
    );
    let deny = Write::put(
        TableId::Row,
        schema::row_key(SetId::new(2), ClassId::<V4>::new(5)),
        schema::plain(netpolc_table::ActionId::Permit),
    );
    Case::new("S23 families do not leak into each other", world(Policy::Some, Policy::Open))
        .write(stranger)
        .write(deny)
        .in_drops(
            "a class of the other family's number",
            Talk::new(v6.a, 80, v6.stranger, 1).back(SYN),
        )
        .in_drops("IPv4-mapped", Talk::new(v6.a, 80, mapped, 1).back(SYN))
        .in_passes("IPv4 itself", Talk::new(v4.a, 80, v4.friend, 1).back(SYN))
}

fn protocols(h: &Hosts) -> Case {
    let gre = |remote| Talk::new(h.a, 0, remote, 0).back(Unit::Other(47));
    let request = if h.family == Family::V4 { 8 } else { 128 };
    let ping = |remote, id| Talk::new(h.a, id, remote, 0).back(Unit::Icmp(request));
    let foreign = if h.family == Family::V4 { ip::ICMPV6 } else { ip::ICMP };
    Case::new(
        name("S34 other protocols want a rule without ports", h),
        world(Policy::Tcp, Policy::Open),
    )
    .in_drops("GRE by a rule with every TCP port", gre(h.friend))
    .in_drops("echo by a rule with every TCP port", ping(h.friend, 1))
    .in_drops("UDP by a rule with every TCP port", Talk::new(h.a, 80, h.friend, 1).back(Unit::Udp))
    .in_passes("TCP", Talk::new(h.a, 80, h.friend, 1).back(SYN))
    .write(switch(A, Policy::Friends, Policy::Open))
    .in_passes("GRE by a rule without ports", gre(h.friend))
    .in_passes("echo by a rule without ports", ping(h.friend, 1))
    .in_passes(
        "the other family's ICMP is a protocol like any other",
        Talk::new(h.a, 0, h.friend, 0).back(Unit::Other(foreign)),
    )
    .in_passes("IGMP", Talk::new(h.a, 0, h.friend, 0).back(Unit::Other(2)))
    .in_passes("protocol 255", Talk::new(h.a, 0, h.friend, 0).back(Unit::Other(255)))
    .in_drops("GRE from a stranger", gre(h.stranger))
    .in_drops("echo from a stranger", ping(h.stranger, 2))
}

fn other_interface(h: &Hosts) -> Case {
    let nobody = crate::conformance::world::Pod {
        endpoint: EndpointId::new(0),
        interface: IfIndex::new(777),
    };
    let aliased = crate::conformance::world::Pod {
        endpoint: EndpointId::new(0),
        interface: IfIndex::new(A.interface.get() + (1 << 16)),
    };
    let syn = Talk::new(h.a, 80, h.stranger, 1).back(SYN);
    Case::new(
        name("S16 S53 an interface has its own policy or none", h),
        world(Policy::Nothing, Policy::Nothing),
    )
    .in_drops("A", syn.clone())
    .at(nobody)
    .in_passes("nobody's interface", syn.clone())
    .out_passes("nobody's interface", Talk::new(h.stranger, 1, h.a, 80).out(SYN))
    .at(aliased)
    .in_passes("an index that equals A's in its low bits", syn.clone())
    .at(B)
    .in_passes("B is not isolated", Talk::new(h.b, 80, h.stranger, 1).back(SYN))
}

fn unused(h: &Hosts) -> Case {
    let unset = Word {
        ingress_set: SetId::new(17),
        egress_set: SetId::new(18),
        born_set: SetId::new(0),
        flags: Word::INGRESS | Word::EGRESS,
    };
    Case::new(
        name("S53 a set that nothing was written for denies", h),
        world(Policy::Open, Policy::Open),
    )
    .write(set_word(A, unset))
    .in_drops("ingress", Talk::new(h.a, 80, h.friend, 1).back(SYN))
    .out_drops("egress", Talk::new(h.a, 1, h.friend, 80).out(SYN))
    .in_drops("port and class 0", Talk::new(h.a, 0, h.stranger, 0).back(Unit::Other(50)))
}

fn node(h: &Hosts) -> Case {
    let probe = Talk::new(h.a, 8080, h.stranger, 40000);
    let datagram = Talk::new(h.a, 53, h.stranger, 40001);
    Case::new(
        name("S44 born on the node, whatever its address", h),
        world(Policy::Nothing, Policy::Nothing),
    )
    .in_drops("forwarded with the same address", probe.back(SYN))
    .born_passes("the kubelet's SYN", probe.back(SYN))
    .out_passes("the answer", probe.out(SYN_ACK))
    .born_passes("data", probe.back(ACK))
    .out_passes("data", probe.out(ACK))
    .in_drops("forwarded data on the tuple", probe.back(ACK))
    .out_drops("the pod cannot open the reverse tuple", probe.out(SYN))
    .born_passes("UDP", datagram.back(Unit::Udp))
    .out_passes("its answer", datagram.out(Unit::Udp))
    .out_drops("another port", Talk::new(h.a, 54, h.stranger, 40001).out(Unit::Udp))
}

fn own_node_and_self(h: &Hosts) -> Case {
    let own = Talk::new(h.a, 80, h.a, 4000);
    let back = |case: Case, what: &str, bytes: Vec<u8>| {
        case.entered(what, Hook::ToPod, A.interface, bytes, Next)
    };
    let mut case =
        Case::new(name("S47 a pod reaches itself", h), world(Policy::Nothing, Policy::Nothing))
            .out_passes("out", Talk::new(h.a, 4000, h.a, 80).out(SYN));
    case = back(case, "and in again", own.back(SYN)).out_passes("the answer", own.out(SYN_ACK));
    case = back(case, "and in again", Talk::new(h.a, 4000, h.a, 80).back(SYN_ACK));
    case = back(case, "UDP", own.back(Unit::Udp));
    case = back(case, "GRE", own.back(Unit::Other(47)));
    case.in_drops("another pod's address is not its own", Talk::new(h.a, 80, h.b, 4000).back(SYN))
}

/// From outside, with the victim's own address as its source.
fn own_source_is_forged(h: &Hosts) -> Case {
    let own = Talk::new(h.a, 80, h.a, 4000);
    let answer = Talk::new(h.a, 4001, h.a, 80);
    let mut case = Case::new(
        name("S47 the pod's own address from elsewhere", h),
        world(Policy::Everyone, Policy::Open),
    );
    for unit in [
        SYN,
        SYN_ACK,
        ACK,
        RST,
        Unit::Udp,
        Unit::Sctp(1),
        Unit::Other(47),
        Unit::Icmp(8),
        Unit::Icmp(128),
    ] {
        case = case
            .in_drops(&format!("{unit:?} from outside, everybody is permitted"), own.back(unit));
    }
    case.entered("by another pod's interface", Hook::ToPod, B.interface, own.back(SYN), Drop)
        .forgotten_drops("cut anew", own.back(SYN))
        .born_passes("the node may do so", own.back(SYN))
        .out_passes("to itself", answer.out(SYN))
        .in_drops("an answer to it from outside", answer.back(SYN_ACK))
        .entered("the true answer", Hook::ToPod, A.interface, answer.back(SYN_ACK), Next)
        .write(switch(A, Policy::Open, Policy::Open))
        .in_passes("nothing is judged any more", own.back(SYN))
}

/// Forwarded, and cut anew by the kernel: no interface, no socket (S44).
fn forgotten(h: &Hosts) -> Case {
    let (web, dns) = (Talk::new(h.a, 80, h.stranger, 40000), Talk::new(h.a, 53, h.stranger, 40001));
    let parts = dns.back_packet(Unit::Udp).payload(&[5; 64]).fragments(9, 24);
    let served = Talk::new(h.a, 80, h.friend, 40002);
    Case::new(
        name("S44 forwarded packets whose interface is forgotten", h),
        world(Policy::Some, Policy::Nothing),
    )
    .forgotten_drops("SYN", web.back(SYN))
    .forgotten_drops("UDP", dns.back(Unit::Udp))
    .forgotten_drops("a first fragment", parts[0].clone())
    .forgotten_drops("a later fragment", parts[1].clone())
    .out_drops("which makes no entry that remembers the node", web.out(SYN_ACK))
    .forgotten_passes("policy decides", served.back(SYN))
    .out_passes("and the answer is an answer", served.out(SYN_ACK))
    .write(switch(A, Policy::Nothing, Policy::Nothing))
    .in_drops("tightening cuts it", served.back(ACK))
    .out_drops("in both directions: its entry was not born on the node", served.out(ACK))
    .born_passes("the node's own, in fragments", parts[0].clone())
    .born_passes("the node's own, in fragments", parts[1].clone())
}

fn arp_passes() -> Case {
    let (a, b, r) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 9, 9].into());
    let with = |at: usize, byte: u8| {
        let mut frame = arp(a, r);
        frame[at] = byte;
        frame
    };
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 0], &frame[12..]].concat();
    Case::new(
        "S36 ARP passes, and a pod speaks for itself",
        world(Policy::Nothing, Policy::Nothing),
    )
    .in_passes("a request", arp(r, a))
    .in_passes("whoever says it", arp(b, a))
    .out_passes("from the pod", arp(a, r))
    .out_passes("a probe", arp([0, 0, 0, 0].into(), a))
    .out_passes("tagged", tagged(arp(a, r)))
    .out_drops("as another pod", arp(b, r))
    .out_drops("as another pod, tagged", tagged(arp(b, r)))
    .out_drops("cut off", truncate(arp(a, r), 14 + 27))
    .out_drops("of another link layer", with(15, 6))
    .out_drops("of another protocol", with(16, 9))
    .out_drops("of long addresses", with(18, 8))
    .write(set_word(A, Word::flagged(Word::GUARD)))
    .out_drops("as another pod, not isolated", arp(b, r))
    .write(switch(A, Policy::Nothing, Policy::Open))
    .out_passes("where nothing is guarded", arp(b, r))
}

fn discovery_passes() -> Case {
    let h = Hosts::of(Family::V6);
    let [IpAddr::V6(a), IpAddr::V6(b), IpAddr::V6(r)] = [h.a, h.b, h.stranger] else {
        unreachable!("of family V6")
    };
    let [link, all]: [Ipv6Addr; 2] =
        ["fe80::1", "ff02::1"].map(|text| text.parse().expect("an address"));
    let mut case = Case::new(
        "S36 neighbour discovery passes, and a pod speaks for itself",
        world(Policy::Nothing, Policy::Nothing),
    );
    for kind in 133..=137 {
        case = case.in_passes(&format!("type {kind} in"), discovery(kind, r, a, a).build());
    }
    for kind in [133, 135, 136] {
        for (where_to, to) in [("the link", b), ("a link-local address", link), ("all nodes", all)]
        {
            case = case.out_passes(
                &format!("type {kind} to {where_to}"),
                discovery(kind, a, to, a).build(),
            );
        }
        case = case
            .out_drops(&format!("type {kind} to a far address"), discovery(kind, a, r, a).build());
    }
    let large = |more| {
        let body = [r.octets().as_slice(), &vec![7; more]].concat();
        discovery(135, a, link, r).payload(&body).build()
    };
    let guarded = set_word(A, Word::flagged(Word::GUARD));
    let closed = word(A, Policy::Nothing, Policy::Nothing);
    let routed = Word { flags: closed.flags & !Word::BRIDGED, ..closed };
    case.out_drops("a router advertisement", discovery(134, a, link, r).build())
        .out_drops("a redirect", discovery(137, a, link, r).build())
        .out_drops("an advertisement for another pod", discovery(136, a, link, b).build())
        .out_passes(
            "an advertisement of its link-local address",
            discovery(136, a, b, link).build(),
        )
        .out_passes("as large as may be", large(DISCOVERY_BYTES - 24))
        .out_drops("larger", large(DISCOVERY_BYTES - 23))
        .write(set_word(A, routed))
        .out_drops("the link of a bridge that it is not on", discovery(135, a, b, a).build())
        .out_passes("all nodes", discovery(135, a, all, a).build())
        .write(guarded)
        .out_drops("a router advertisement, not isolated", discovery(134, link, r, r).build())
        .out_drops(
            "an advertisement for another pod, not isolated",
            discovery(136, a, link, b).build(),
        )
        .out_passes("a far one is judged as any packet", discovery(135, a, r, r).build())
        .out_passes("a larger one is judged as any packet", large(DISCOVERY_BYTES))
        .write(switch(A, Policy::Nothing, Policy::Open))
        .out_passes("where nothing is guarded", discovery(134, a, r, r).build())
}

/// Into a tunnel that ends on a node (S45): only by a rule that names the port.
fn tunnels(h: &Hosts) -> Case {
    let vxlan = |to| Talk::new(h.a, 50000, to, 4789).out_packet(Unit::Udp);
    let protocol = |number, to| Talk::new(h.a, 0, to, 0).out(Unit::Other(number));
    let guard = Word::flagged(Word::GUARD);
    let parts = vxlan(h.friend).payload(&[4; 64]).fragments(5, 24);
    let part = |number, to, id, at| {
        let packet = Talk::new(h.a, 0, to, 0).out_packet(Unit::Other(number));
        packet.payload(&[4; 64]).fragments(id, 24).swap_remove(at)
    };
    let (first, later) =
        (|number, to, id| part(number, to, id, 0), |number, to, id| part(number, to, id, 1));
    let case =
        Case::new(name("S45 tunnels that end on a node", h), world(Policy::Open, Policy::Everyone))
            .out_drops("VXLAN, though everything is permitted", vxlan(h.stranger).build())
            .out_drops("IPv4 in IP", protocol(4, h.stranger))
            .out_drops("IPv6 in IP", protocol(41, h.stranger))
            .out_drops("in fragments, the first", parts[0].clone())
            .out_drops("in fragments, the second", parts[1].clone())
            .out_drops("IPv4 in IP in fragments, the second alone", later(4, h.stranger, 6))
            .out_passes("another protocol in fragments, the second alone", later(5, h.stranger, 7))
            .in_passes("IPv4 in IP in fragments to the pod", {
                let packet = Talk::new(h.a, 0, h.stranger, 0).back_packet(Unit::Other(4));
                packet.payload(&[4; 64]).fragments(8, 24).swap_remove(1)
            })
            .out_passes(
                "its neighbour port",
                Talk::new(h.a, 50000, h.stranger, 4790).out(Unit::Udp),
            )
            .out_passes("from that port", Talk::new(h.a, 4789, h.stranger, 50000).out(Unit::Udp))
            .out_passes("that number in TCP", Talk::new(h.a, 50000, h.stranger, 4789).out(SYN))
            .in_passes("to the pod", Talk::new(h.a, 4789, h.stranger, 50000).back(Unit::Udp))
            .write(switch(A, Policy::Open, Policy::Some))
            .out_drops("VXLAN where another port is permitted", vxlan(h.friend).build())
            .out_drops("VXLAN where every port is permitted", vxlan(h.network).build())
            .write(permit_tunnels())
            .out_passes("a rule names the port", vxlan(h.friend).build())
            .out_drops("but not to a stranger", vxlan(h.stranger).build())
            .out_drops("IPv4 in IP, where every protocol is permitted", protocol(4, h.network))
            .write(permit_portless())
            .out_passes("another protocol, where a row permits those", protocol(5, h.friend))
            .out_drops("IPv4 in IP there", protocol(4, h.friend))
            .out_drops("IPv4 in IP there, in fragments, the first", first(4, h.friend, 11))
            .out_drops("and the second", later(4, h.friend, 11))
            .out_drops("and the second alone", later(4, h.friend, 12))
            .write(set_word(A, guard))
            .out_drops("VXLAN, not isolated", vxlan(h.stranger).build())
            .out_drops("IPv4 in IP, not isolated", protocol(4, h.stranger))
            .out_drops("in fragments, the second alone", later(41, h.stranger, 9))
            .out_passes("UDP in fragments, whose second has no port", parts[1].clone())
            .write(switch(A, Policy::Open, Policy::Open))
            .out_passes("where nothing is guarded", vxlan(h.stranger).build())
            .out_passes("nor in fragments", later(41, h.stranger, 10));
    if h.family == Family::V4 {
        return case;
    }
    let behind = |count| {
        let option = |packet: Packet, _| packet.extension(Extension::padded(ip::DESTINATION, 0));
        (0..count).fold(vxlan(h.stranger), option).build()
    };
    case.out_passes("behind nine extension headers, where nothing is guarded", behind(9))
        .write(set_word(A, guard))
        .out_drops("behind eight, not isolated", behind(8))
        .out_drops("behind nine, which are not all read", behind(9))
}

fn discovery_limits() -> Case {
    let h = Hosts::of(Family::V6);
    let (IpAddr::V6(a), IpAddr::V6(r)) = (h.a, h.stranger) else { unreachable!("of family V6") };
    let types: [u8; 6] = [130, 131, 132, 138, 143, 139];
    let mut case =
        Case::new("S36 other ICMPv6 is policed", world(Policy::Nothing, Policy::Nothing))
            .in_drops("hop limit 254: forwarded", discovery(135, r, a, a).hop_limit(254).build())
            .in_drops("in IPv4 it is nothing special", {
                let h4 = Hosts::of(Family::V4);
                Packet::new(h4.stranger, h4.a).hop_limit(255).icmp(135, 0).build()
            });
    for kind in types {
        case = case.in_drops(&format!("type {kind}"), discovery(kind, r, a, a).build());
    }
    case
}
