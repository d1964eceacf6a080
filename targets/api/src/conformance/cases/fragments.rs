//! Fragments (S50): in order, out of order, without a first one, too small.

use netpolc_table::schema::{Family, Word};

use crate::{
    Hook,
    Verdict::Next,
    conformance::{
        Case,
        world::{A, B, Hosts, Policy, Talk, Unit, name, set_word, switch, world},
    },
    frame::{Extension, Fragment, More, Packet, shorten},
    semantics::{FRAGMENT_SECONDS, ip},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![behind_extensions(), discovery_in_fragments()];
    for hosts in Hosts::both() {
        cases.extend([
            in_order(&hosts),
            out_of_order(&hosts),
            alike(&hosts),
            keys(&hosts),
            small(&hosts),
            replies(&hosts),
            born_and_own(&hosts),
        ]);
    }
    cases
}

/// A datagram from `friend` to A's `port`, in three fragments.
fn parts(h: &Hosts, port: u16, id: u32) -> Vec<Vec<u8>> {
    parts_of(Talk::new(h.a, port, h.friend, 4000).back_packet(Unit::Udp), id)
}

pub(super) fn parts_of(packet: Packet, id: u32) -> Vec<Vec<u8>> {
    packet.payload(&[7; 60]).fragments(id, 24)
}

fn in_order(h: &Hosts) -> Case {
    let (good, bad) = (parts(h, 53, 1), parts(h, 54, 2));
    Case::new(
        name("S50 later fragments get their first one's verdict", h),
        world(Policy::Some, Policy::Open),
    )
    .in_passes("first", good[0].clone())
    .in_passes("second", good[1].clone())
    .in_passes("last", good[2].clone())
    .in_drops("first to another port", bad[0].clone())
    .in_drops("second", bad[1].clone())
    .in_drops("last", bad[2].clone())
    .after(u64::from(FRAGMENT_SECONDS) - 5)
    .in_passes("repeated in time", good[2].clone())
    .after(10)
    .in_drops("repeated too late", good[2].clone())
    .in_passes("first again", good[0].clone())
    .in_passes("and its last", good[2].clone())
    .in_drops("the same identification, denied", parts(h, 54, 1)[0].clone())
    .in_drops("and its last", good[2].clone())
}

fn out_of_order(h: &Hosts) -> Case {
    let good = parts(h, 53, 1);
    Case::new(name("S50 fragments before their first one", h), world(Policy::Some, Policy::Open))
        .in_drops("last, which depends on the port", good[2].clone())
        .in_drops("second", good[1].clone())
        .in_passes("first", good[0].clone())
        .in_passes("second, sent again", good[1].clone())
        .in_passes("last, sent again", good[2].clone())
}

fn alike(h: &Hosts) -> Case {
    let of = |remote, unit| parts_of(Talk::new(h.a, 53, remote, 4000).back_packet(unit), 5);
    let gre = |remote| of(remote, Unit::Other(47))[1].clone();
    let udp = |remote| of(remote, Unit::Udp)[1].clone();
    let last = |remote, unit| of(remote, unit)[2].clone();
    let tcp = Unit::Tcp(0x10);
    Case::new(
        name("S50 where every port of the protocol is alike", h),
        world(Policy::Some, Policy::Open),
    )
    .in_passes("from the network, which has every port", udp(h.network))
    .in_passes("GRE from the network", gre(h.network))
    .in_drops("from a friend, who has some", udp(h.friend))
    .in_drops("GRE from a friend, who has ports only", gre(h.friend))
    .in_drops("from a stranger, who has none", udp(h.stranger))
    .write(switch(A, Policy::Tcp, Policy::Open))
    .in_passes("TCP by a rule with every TCP port", last(h.friend, tcp))
    .in_drops("UDP by a rule with every TCP port", udp(h.friend))
    .in_drops("GRE by a rule with every TCP port", gre(h.friend))
    .write(switch(A, Policy::Everyone, Policy::Open))
    .in_passes("by a base that permits", udp(h.stranger))
    .in_passes("GRE by a base that permits", gre(h.stranger))
    .write(switch(A, Policy::Nothing, Policy::Open))
    .in_drops("by a base that denies", udp(h.friend))
}

fn keys(h: &Hosts) -> Case {
    let good = parts(h, 53, 1);
    let other = |id, remote| {
        parts_of(Talk::new(h.a, 53, remote, 4000).back_packet(Unit::Udp), id)[1].clone()
    };
    let mut case =
        Case::new(name("S50 a verdict is for one packet", h), world(Policy::Some, Policy::Some))
            .write(switch(B, Policy::Nothing, Policy::Nothing))
            .in_passes("first", good[0].clone())
            .in_drops("another identification", other(2, h.friend))
            .in_drops("another source", other(1, h.b))
            .in_drops(
                "another protocol",
                parts_of(Talk::new(h.a, 53, h.friend, 4000).back_packet(Unit::Other(47)), 1)[1]
                    .clone(),
            )
            .out_drops(
                "the other hook",
                parts_of(Talk::new(h.a, 53, h.friend, 4000).out_packet(Unit::Udp), 1)[1].clone(),
            )
            .at(B)
            .in_drops("another pod", good[1].clone())
            .at(A)
            .in_passes("the packet itself", good[1].clone());
    if h.family == Family::V6 {
        case = case
            .in_drops("an identification that is equal in its low half", other(0x10001, h.friend));
    }
    case
}

fn small(h: &Hosts) -> Case {
    let tcp = Talk::new(h.a, 80, h.friend, 4000).back_packet(Unit::Tcp(2)).payload(&[0; 64]);
    let tiny = tcp.fragments(3, 8);
    let fair = tcp.fragments(4, 16);
    let udp = parts(h, 53, 9);
    Case::new(name("S50 S52 fragments that hide headers", h), world(Policy::Some, Policy::Open))
        .in_drops("a first fragment without TCP's flags", tiny[0].clone())
        .in_drops("its second, with the flags", tiny[1].clone())
        .in_drops("its third", tiny[2].clone())
        .in_passes("a first fragment with the flags", fair[0].clone())
        .in_passes("its second", fair[1].clone())
        .in_drops("another second that would replace the flags", tiny_over(&tcp, 4))
        .in_drops("a first UDP fragment without its header", shorten(udp[0].clone(), 17))
        .in_drops("its second", udp[1].clone())
        .in_passes("UDP from 8 bytes on replaces nothing", {
            let whole =
                Talk::new(h.a, 53, h.network, 4000).back_packet(Unit::Udp).payload(&[0; 32]);
            whole.fragments(6, 8)[1].clone()
        })
        .write(switch(A, Policy::Everyone, Policy::Open))
        .in_drops("TCP from 8 bytes on, even where all is permitted", tiny_over(&tcp, 8))
}

/// A TCP fragment that begins 8 bytes into the header.
fn tiny_over(packet: &Packet, id: u32) -> Vec<u8> {
    packet.fragments(id, 8)[1].clone()
}

fn replies(h: &Hosts) -> Case {
    let talk = Talk::new(h.a, 4000, h.friend, 53);
    let answer = parts_of(talk.back_packet(Unit::Udp), 1);
    let question = parts_of(talk.out_packet(Unit::Udp), 2);
    Case::new(name("S37 S50 an answer in fragments", h), world(Policy::Nothing, Policy::Some))
        .in_drops("an answer to nothing", answer[0].clone())
        .in_drops("its second", answer[1].clone())
        .out_passes("a question in fragments", question[0].clone())
        .out_passes("its second", question[1].clone())
        .out_passes("its last", question[2].clone())
        .in_passes("the answer", answer[0].clone())
        .in_passes("its second", answer[1].clone())
        .in_passes("its last", answer[2].clone())
}

fn born_and_own(h: &Hosts) -> Case {
    let stranger = parts_of(Talk::new(h.a, 53, h.stranger, 4000).back_packet(Unit::Udp), 1);
    let own = parts_of(Talk::new(h.a, 53, h.a, 4000).back_packet(Unit::Udp), 1);
    let forged = parts_of(Talk::new(h.a, 53, h.a, 4000).back_packet(Unit::Udp), 2);
    Case::new(
        name("S44 S47 S50 fragments of the node and of the pod itself", h),
        world(Policy::Nothing, Policy::Open),
    )
    .in_drops("a stranger's second", stranger[1].clone())
    .born_passes("the node's second", stranger[1].clone())
    .born_passes("the node's first", stranger[0].clone())
    .in_drops("which lets no other pass", stranger[1].clone())
    .entered("the pod's own second", Hook::ToPod, A.interface, own[1].clone(), Next)
    .entered("the pod's own first", Hook::ToPod, A.interface, own[0].clone(), Next)
    .entered("the pod's own last", Hook::ToPod, A.interface, own[2].clone(), Next)
    .in_drops("from elsewhere it is forged", forged[1].clone())
    .write(switch(A, Policy::Everyone, Policy::Open))
    .in_drops("whoever is permitted", forged[1].clone())
}

fn behind_extensions() -> Case {
    let h = Hosts::of(Family::V6);
    let udp = Talk::new(h.a, 53, h.friend, 4000).back_packet(Unit::Udp);
    let before = udp
        .clone()
        .extension(Extension::padded(ip::HOP_BY_HOP, 0))
        .extension(Extension::padded(ip::ROUTING, 0));
    let (good, bad) = (parts_of(before.clone(), 1), parts_of(before, 2));
    // Destination options in the fragmentable part: the fragment header names them, not UDP.
    let options = Fragment { id: 3, offset: 0, more: More::Follow };
    let first = udp
        .fragment(options)
        .extension(Extension::padded(ip::DESTINATION, 0))
        .payload(&[0; 16])
        .build();
    let later = Packet::new(h.friend, h.a).protocol(ip::DESTINATION).payload(&[0; 8]);
    let later = later.fragment(Fragment { id: 3, offset: 4, more: More::Last });
    let stray = Packet::new(h.network, h.a).protocol(ip::DESTINATION).payload(&[0; 8]);
    let stray = stray.fragment(Fragment { id: 4, offset: 4, more: More::Last });
    Case::new(
        "S50 S51 fragments behind and before extension headers",
        world(Policy::Some, Policy::Open),
    )
    .in_passes("first", good[0].clone())
    .in_passes("second", good[1].clone())
    .in_drops("without a first", bad[1].clone())
    .in_drops("options, second before its first", later.build())
    .in_passes("options, first", first)
    .in_passes("options, second", later.build())
    .in_drops("a protocol that is not known, though all are permitted", stray.build())
}

fn discovery_in_fragments() -> Case {
    let h = Hosts::of(Family::V6);
    let (std::net::IpAddr::V6(a), std::net::IpAddr::V6(r)) = (h.a, h.stranger) else {
        unreachable!("of family V6")
    };
    let packet = crate::frame::discovery(135, r, a, a);
    let fragment = |more| packet.clone().fragment(Fragment { id: 1, offset: 0, more }).build();
    let options = packet.clone().extension(Extension::padded(ip::HOP_BY_HOP, 0)).build();
    let sent = |more, limit| {
        let fragment = Fragment { id: 1, offset: 0, more };
        crate::frame::discovery(136, a, r, a).hop_limit(limit).fragment(fragment).build()
    };
    Case::new(
        "S36 S50 neighbour discovery is never fragmented",
        world(Policy::Nothing, Policy::Open),
    )
    .in_passes("whole", packet.build())
    .in_passes("behind an extension header", options)
    .in_drops("a first fragment", fragment(More::Follow))
    .in_drops("an atomic fragment", fragment(More::Last))
    .write(set_word(A, Word::flagged(Word::GUARD)))
    .out_drops("from the pod, a first fragment", sent(More::Follow, 255))
    .out_drops("from the pod, an atomic fragment", sent(More::Last, 255))
    .out_drops("whatever its hop limit", sent(More::Last, 64))
    .write(switch(A, Policy::Nothing, Policy::Open))
    .out_passes("where nothing is guarded", sent(More::Last, 255))
}
