//! S55: a source that is not the pod's own never leaves, with the few exceptions by which a pod
//! gets its addresses.

use netpolc_table::{
    ActionId, SetId, TableId, Write,
    schema::{self, Family, Mac, Word},
};

use crate::{
    conformance::{
        Case,
        world::{A, ACK, Hosts, Policy, SYN, Talk, Unit, set_mac, set_word, switch, world},
    },
    frame::{
        Extension, Fragment, MACS, More, Packet, Tag, arp, discovery, ethernet, shorten, truncate,
    },
    semantics::ip,
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![dhcp(), link_local(), hardware_arp()];
    for hosts in Hosts::both() {
        cases.extend([isolated(&hosts), guarded(&hosts), hardware(&hosts)]);
    }
    cases
}

const GUARD: Word = Word::flagged(Word::GUARD);

fn isolated(h: &Hosts) -> Case {
    Case::new(
        format!("S55 an isolated pod has only its own addresses, {:?}", h.family),
        world(Policy::Open, Policy::Everyone),
    )
    .out_passes("its own", Talk::new(h.a, 1, h.friend, 80).out(SYN))
    .out_drops("another pod's", Talk::new(h.b, 1, h.friend, 80).out(SYN))
    .out_drops("a stranger's", Talk::new(h.stranger, 1, h.friend, 80).out(Unit::Udp))
    .out_drops("also in the middle of a connection", Talk::new(h.b, 1, h.friend, 80).out(ACK))
    .in_passes("towards the pod any address", Talk::new(h.b, 1, h.friend, 80).back(SYN))
}

fn guarded(h: &Hosts) -> Case {
    let own = Talk::new(h.a, 1, h.friend, 80);
    let foreign = Talk::new(h.b, 1, h.friend, 80);
    let l3 = 14 + if h.family == Family::V4 { 20 } else { 40 };
    let version = |mut frame: Vec<u8>| {
        frame[14] = 0x50;
        frame
    };
    let later = Fragment { id: 7, offset: 9, more: More::Last };
    Case::new(format!("S55 the guard alone, {:?}", h.family), world(Policy::Open, Policy::Open))
        .out_passes("without the guard", foreign.out(SYN))
        .write(set_word(A, GUARD))
        .out_passes("its own", own.out(SYN))
        .out_passes("its own, anything", own.out(Unit::Other(47)))
        .out_passes("its own, cut behind the addresses", truncate(own.out(SYN), l3 + 1))
        .out_passes("its own, a fragment", own.out_packet(Unit::Udp).fragment(later).build())
        .out_drops("another's", foreign.out(SYN))
        .out_drops(
            "another's in tags",
            foreign.out_packet(SYN).tag(Tag::qinq(1)).tag(Tag::vlan(2)).build(),
        )
        .out_drops("another's, cut behind the addresses", truncate(foreign.out(SYN), l3 + 1))
        .out_drops("another's, a fragment", foreign.out_packet(Unit::Udp).fragment(later).build())
        .out_drops("no version that has a source", version(own.out(SYN)))
        .out_drops(
            "cut before the source",
            truncate(own.out_packet(SYN).tag(Tag::vlan(1)).build(), 18 + 11),
        )
        .in_passes(
            "towards the pod nothing is guarded",
            Talk::new(h.stranger, 1, h.b, 80).back(SYN),
        )
}

/// The frame with another hardware address: at 0 its destination's, at 6 its source's.
fn with_mac(mut frame: Vec<u8>, at: usize, mac: Mac) -> Vec<u8> {
    frame[at..at + 6].copy_from_slice(&mac);
    frame
}

const FOREIGN: Mac = [0x02, 0, 0, 0, 0, 9];

/// On a bridge, where hardware addresses lead (S55).
fn hardware(h: &Hosts) -> Case {
    let [to, from] = MACS;
    let (web, served) = (Talk::new(h.a, 1, h.friend, 80), Talk::new(h.a, 80, h.stranger, 1));
    let elsewhere = Talk::new(h.b, 80, h.stranger, 1);
    let later = Fragment { id: 7, offset: 9, more: More::Last };
    let piece = elsewhere.back_packet(Unit::Udp).fragment(later).build();
    let many = if h.family == Family::V4 { "224.0.0.251" } else { "ff02::fb" }
        .parse()
        .expect("an address");
    let near = |at: usize, mut mac: Mac| {
        mac[at] ^= 0x80;
        mac
    };
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let tagged = |talk: &Talk| talk.out_packet(SYN).tag(Tag::vlan(1)).build();
    let mut case = Case::new(
        format!("S55 hardware addresses, {:?}", h.family),
        world(Policy::Open, Policy::Open),
    )
    .write(set_mac(A, Some(from)))
    .out_passes("another's, where nothing is guarded", with_mac(web.out(SYN), 6, FOREIGN))
    .in_drops("flooded to the pod", served.back(SYN))
    .forgotten_drops("cut anew, flooded to the pod", served.back(SYN))
    .in_passes("to the pod", with_mac(served.back(SYN), 0, from))
    .in_drops("another's packet", with_mac(elsewhere.back(SYN), 0, from))
    .in_drops("another's packet, to all", with_mac(elsewhere.back(SYN), 0, [0xff; 6]))
    .in_drops("another's fragment", with_mac(piece, 0, from))
    .in_passes("to many", with_mac(served.back(SYN), 0, group))
    .in_passes(
        "to many, by their address",
        with_mac(Talk::new(many, 80, h.stranger, 1).back(Unit::Udp), 0, group),
    )
    .write(set_word(A, GUARD))
    .out_passes("its own", web.out(SYN))
    .out_passes("its own, tagged", tagged(&web));
    for at in 0..6 {
        case = case
            .out_drops("another's", with_mac(web.out(SYN), 6, near(at, from)))
            .in_drops("flooded to the pod", with_mac(served.back(SYN), 0, near(at, from)));
    }
    case.out_drops("another's, tagged", with_mac(tagged(&web), 6, FOREIGN))
        .out_drops(
            "another's, of no protocol that is read",
            with_mac(ethernet(&[], 0x88cc), 6, FOREIGN),
        )
        .write(switch(A, Policy::Everyone, Policy::Everyone))
        .out_drops("another's, isolated", with_mac(web.out(SYN), 6, FOREIGN))
        .in_drops("flooded to the pod, isolated", served.back(SYN))
        .write(set_mac(A, Some(to)))
        .out_drops("its former address", web.out(SYN))
        .in_passes("by its new one", served.back(SYN))
        .write(set_mac(A, None))
        .out_passes("where its address is not known", with_mac(web.out(SYN), 6, FOREIGN))
}

/// A pod names no hardware address but its own for its IPv4 address (S36).
fn hardware_arp() -> Case {
    let [_, from] = MACS;
    let own = arp([10, 0, 0, 1].into(), [10, 0, 9, 9].into());
    let probe = arp([0, 0, 0, 0].into(), [10, 0, 0, 1].into());
    let guard = Word::flagged(Word::GUARD);
    let node = schema::on_link_key("fe80::1".parse().expect("an address"), 128);
    let claim = |target: &str| {
        let [from, all, target] =
            ["fd00::1", "ff02::1", target].map(|text| text.parse().expect("an address"));
        discovery(136, from, all, target).build()
    };
    Case::new("S36 hardware addresses in ARP and discovery", world(Policy::Open, Policy::Open))
        .write(set_word(A, guard))
        .out_passes("another's, where its own is not known", with_mac(own.clone(), 14 + 8, FOREIGN))
        .write(set_mac(A, Some(from)))
        .out_passes("its own", own.clone())
        .out_drops("another's", with_mac(own, 14 + 8, FOREIGN))
        .out_drops("another's in a probe", with_mac(probe, 14 + 8, FOREIGN))
        .out_passes("its link-local address", claim("fe80::1"))
        .write(Write::put(TableId::OnLinkV6, node, schema::plain(ActionId::OnLink)))
        .out_drops("the node's link-local address", claim("fe80::1"))
        .out_passes("its own, next to the node's", claim("fe80::2"))
}

fn dhcp() -> Case {
    let any: std::net::IpAddr = "0.0.0.0".parse().expect("an address");
    let all: std::net::IpAddr = "255.255.255.255".parse().expect("an address");
    let frame = |from, to| Packet::new(any, all).udp(from, to).payload(&[1; 240]);
    let (v4, v6) = (Hosts::of(Family::V4), Hosts::of(Family::V6));
    let served = Packet::new(v4.a, v4.b);
    let first = Fragment { id: 1, offset: 0, more: More::Follow };
    let later = Fragment { id: 1, offset: 30, more: More::Last };
    let guard_and_policy = set_word(
        A,
        Word {
            ingress_set: SetId::new(0),
            egress_set: SetId::new(11),
            born_set: SetId::new(0),
            flags: Word::GUARD | Word::EGRESS,
        },
    );
    Case::new("S55 0.0.0.0 for DHCP only", world(Policy::Open, Policy::Open))
        .write(set_word(A, GUARD))
        .out_passes("discover", frame(68, 67).build())
        .out_passes(
            "with options and tags",
            frame(68, 67).options(&[1; 4]).tag(Tag::vlan(3)).build(),
        )
        .out_drops("the other way round", frame(67, 68).build())
        .out_drops("to another port", frame(68, 53).build())
        .out_drops("a pod is no server", served.clone().udp(67, 68).build())
        .out_drops(
            "a pod is no server, tagged",
            served.clone().udp(67, 68).tag(Tag::vlan(3)).build(),
        )
        .out_passes("a relay", served.udp(67, 67).build())
        .out_drops("a pod is no DHCPv6 server", Packet::new(v6.a, v6.b).udp(547, 546).build())
        .out_passes("a DHCPv6 client", Packet::new(v6.a, v6.b).udp(546, 547).build())
        .out_drops("by TCP", Packet::new(any, all).tcp(68, 67, 2).build())
        .out_drops("ICMP", Packet::new(any, all).icmp(8, 1).build())
        .out_drops("a first fragment", frame(68, 67).fragment(first).build())
        .out_drops("a later fragment", frame(68, 67).fragment(later).build())
        .out_drops("too short for ports", shorten(Packet::new(any, all).udp(68, 67).build(), 1))
        .out_drops("cut", truncate(frame(68, 67).build(), 60))
        .write(guard_and_policy)
        .out_drops("and policy judges it", frame(68, 67).build())
}

fn link_local() -> Case {
    let h = Hosts::of(Family::V6);
    let std::net::IpAddr::V6(friend) = h.friend else { unreachable!("of family V6") };
    let link: std::net::Ipv6Addr = "fe80::1".parse().expect("an address");
    let last: std::net::Ipv6Addr = "febf::1".parse().expect("an address");
    let site: std::net::Ipv6Addr = "fec0::1".parse().expect("an address");
    let none = std::net::Ipv6Addr::UNSPECIFIED;
    let all: std::net::Ipv6Addr = "ff02::1".parse().expect("an address");
    let routers: std::net::Ipv6Addr = "ff02::16".parse().expect("an address");
    let alert = Extension::padded(ip::HOP_BY_HOP, 0);
    let listener = |source, kind| {
        Packet::new(source, routers)
            .extension(alert.clone())
            .icmp(kind, 0)
            .hop_limit(1)
            .payload(&[0; 16])
    };
    let atomic = Fragment { id: 1, offset: 0, more: More::Last };
    let mut case = Case::new(
        "S55 :: and fe80:: for discovery, listeners and DHCPv6 only",
        world(Policy::Open, Policy::Open),
    )
    .write(set_word(A, GUARD));
    for source in [link, last, none] {
        case = case
            .out_passes(
                &format!("{source}: a solicitation"),
                discovery(135, source, all, friend).build(),
            )
            .out_passes(
                &format!("{source}: a router solicitation"),
                discovery(133, source, all, friend).build(),
            )
            .out_drops(
                &format!("{source}: with another hop limit"),
                discovery(135, source, all, friend).hop_limit(64).build(),
            )
            .out_drops(
                &format!("{source}: an atomic fragment"),
                discovery(135, source, all, friend).fragment(atomic).build(),
            )
            .out_passes(&format!("{source}: a listener report"), listener(source, 143).build())
            .out_passes(&format!("{source}: an old listener report"), listener(source, 131).build())
            .out_passes(
                &format!("{source}: DHCPv6"),
                Packet::new(source, routers).udp(546, 547).build(),
            )
            .out_drops(
                &format!("{source}: DHCPv6 to one"),
                Packet::new(source, friend).udp(546, 547).build(),
            )
            .out_drops(
                &format!("{source}: a report to one"),
                Packet::new(source, friend).icmp(131, 0).build(),
            )
            .out_drops(
                &format!("{source}: another port"),
                Packet::new(source, routers).udp(546, 53).build(),
            )
            .out_drops(
                &format!("{source}: DHCP's ports"),
                Packet::new(source, routers).udp(68, 67).build(),
            )
            .out_drops(&format!("{source}: echo"), Packet::new(source, friend).icmp(128, 1).build())
            .out_drops(&format!("{source}: TCP"), Packet::new(source, friend).tcp(1, 80, 2).build())
            .out_drops(
                &format!("{source}: nothing behind the header"),
                Packet::new(source, friend).build(),
            );
    }
    case.out_drops(
        "fec0:: is not link-local: a solicitation",
        discovery(135, site, friend, friend).build(),
    )
    .out_drops(
        "another pod's address: a solicitation",
        discovery(135, "fd00::2".parse().expect("an address"), friend, friend).build(),
    )
    .write(set_word(
        A,
        Word {
            ingress_set: SetId::new(0),
            egress_set: SetId::new(11),
            born_set: SetId::new(0),
            flags: Word::EGRESS,
        },
    ))
    .out_passes("isolated: discovery passes", discovery(135, link, all, friend).build())
    .out_drops("isolated: listeners are policed", listener(link, 143).build())
    .write(set_word(
        A,
        Word {
            ingress_set: SetId::new(0),
            egress_set: SetId::new(15),
            born_set: SetId::new(0),
            flags: Word::EGRESS,
        },
    ))
    .out_passes("isolated: listeners may be permitted", listener(link, 143).build())
}
