//! What packets may look like: options, extension headers, truncation, VLAN tags, other layer-3
//! protocols.

use netpolc_table::schema::{Family, Word};

use crate::{
    conformance::{
        Case,
        world::{A, Hosts, Policy, SYN, Talk, Unit, set_word, switch, world},
    },
    frame::{Extension, Fragment, More, Packet, Tag, ethernet, shorten, truncate},
    semantics::{ip, sctp, tcp},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        options(),
        source_routes_v4(),
        source_routes_v6(),
        lying_lengths(),
        not_ip(),
        open_direction(),
        extensions(),
        extension_limits(),
        extension_cuts(),
    ];
    for hosts in Hosts::both() {
        cases.extend([
            tags(&hosts),
            truncated(&hosts),
            short(&hosts),
            unread_frames_leave_no_guarded_pod(&hosts),
        ]);
    }
    cases
}

/// A SYN from `friend` to A, on `port`.
fn syn(h: &Hosts, port: u16) -> Packet {
    Talk::new(h.a, port, h.friend, 4000).back_packet(SYN)
}

fn options() -> Case {
    let h = Hosts::of(Family::V4);
    let mut case = Case::new("S49 IPv4 options", world(Policy::Some, Policy::Open));
    for length in [1, 4, 8, 20, 39, 40] {
        // No-operations, so that the port's place would read as something else.
        let options = vec![1; length];
        case = case
            .in_passes(&format!("{length} bytes, port 80"), syn(&h, 80).options(&options).build());
        case = case
            .in_drops(&format!("{length} bytes, port 81"), syn(&h, 81).options(&options).build());
    }
    // 80 where the destination port would stand without options.
    case.in_drops("a port inside the options", syn(&h, 81).options(&[0, 0, 0, 80]).build())
}

fn source_routes_v4() -> Case {
    let h = Hosts::of(Family::V4);
    let into = |options: &[u8]| syn(&h, 80).options(options).build();
    let out = |options: &[u8]| {
        Talk::new(h.a, 4000, h.network, 80).out_packet(SYN).options(options).build()
    };
    let route = |kind| [kind, 7, 4, 10, 0, 9, 9, 0];
    let mut case = Case::new("S45 S49 IPv4 source routes", world(Policy::Some, Policy::Some));
    for (what, kind) in [("loose", 131), ("strict", 137)] {
        case = case.in_drops(what, into(&route(kind))).out_drops(what, out(&route(kind)));
        let behind = [[1, 1, 1, 1].as_slice(), &[68, 8, 5, 0, 1, 2, 3, 4], &route(kind)].concat();
        case = case.in_drops(&format!("{what}, behind others"), into(&behind));
    }
    let quiet = [68, 8, 5, 0, 131, 7, 137, 7];
    let recorded = [7, 7, 4, 10, 0, 9, 9, 0];
    case.in_passes("its number inside another option", into(&quiet))
        .in_passes("a record of the route", into(&recorded))
        .in_passes("behind the list's end nothing counts", into(&[0, 131, 3, 4]))
        .in_drops("an option of no length", into(&[7, 0, 0, 0]))
        .in_drops("of length 1", into(&[7, 1, 0, 0]))
        .in_drops("beyond the header", into(&[7, 5, 0, 0]))
        .in_drops("without its length", into(&[1, 1, 1, 7]))
        .out_passes("the pod's others", out(&recorded))
        .write(switch(A, Policy::Open, Policy::Open))
        .in_passes("where nothing is judged", into(&route(131)))
        .write(set_word(A, Word::flagged(Word::GUARD)))
        .out_drops("a guarded pod has none either", out(&route(131)))
        .out_passes("broken lists are the receiver's", out(&[7, 1, 0, 0]))
}

fn source_routes_v6() -> Case {
    let h = Hosts::of(Family::V6);
    let routed = |segments: u8| {
        let mut header = Extension::padded(ip::ROUTING, 2);
        header.bytes[3] = segments;
        header
    };
    let into = |header| syn(&h, 80).extension(header);
    let out =
        |header| Talk::new(h.a, 4000, h.network, 80).out_packet(SYN).extension(header).build();
    let parts = into(routed(1)).payload(&[0; 64]).fragments(7, 32);
    Case::new("S45 S51 IPv6 routing headers", world(Policy::Some, Policy::Some))
        .in_passes("no segments left", into(routed(0)).build())
        .in_drops("one", into(routed(1)).build())
        .in_drops("255", into(routed(255)).build())
        .in_drops(
            "behind another header",
            syn(&h, 80).extension(Extension::padded(0, 0)).extension(routed(1)).build(),
        )
        .in_drops("in fragments, the first", parts[0].clone())
        .in_drops("in fragments, the second", parts[1].clone())
        .out_passes("from the pod, no segments left", out(routed(0)))
        .out_drops("from the pod", out(routed(1)))
        .write(switch(A, Policy::Open, Policy::Open))
        .in_passes("where nothing is judged", into(routed(1)).build())
        .write(set_word(A, Word::flagged(Word::GUARD)))
        .out_drops("a guarded pod has none either", out(routed(1)))
}

/// Sets bytes of a frame.
fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn lying_lengths() -> Case {
    let (v4, v6) = (Hosts::of(Family::V4), Hosts::of(Family::V6));
    let (p4, p6) = (syn(&v4, 80).build(), syn(&v6, 80).build());
    let mut padded = p4.clone();
    padded.extend([0; 6]);
    Case::new("S52 length fields that lie", world(Policy::Everyone, Policy::Open))
        .in_passes("honest", p4.clone())
        .in_passes("with padding behind it", padded.clone())
        .in_passes("honest IPv6", p6.clone())
        .in_drops("version 5", with(p4.clone(), 14, &[0x55]))
        .in_drops("version 6 in an IPv4 frame", with(p4.clone(), 14, &[0x65]))
        .in_drops("header length 4", with(p4.clone(), 14, &[0x44]))
        .in_drops("header length 15, beyond the packet", with(p4.clone(), 14, &[0x4f]))
        .in_drops("total length beyond the frame", with(p4.clone(), 16, &[0, 41]))
        .in_drops("total length at its largest", with(p4.clone(), 16, &[0xff, 0xff]))
        .in_drops("total length below the header's", with(p4.clone(), 16, &[0, 19]))
        .in_drops("total length 0", with(p4.clone(), 16, &[0, 0]))
        .in_drops("total length ends inside TCP's flags", with(p4.clone(), 16, &[0, 33]))
        .in_passes("total length ends behind TCP's flags", with(p4.clone(), 16, &[0, 34]))
        .in_drops("layer 4 only in the padding", with(padded, 16, &[0, 20]))
        .in_drops("version 4 in an IPv6 frame", with(p6.clone(), 14, &[0x40]))
        .in_drops("payload length beyond the frame", with(p6.clone(), 18, &[0, 21]))
        .in_drops("payload length 0", with(p6.clone(), 18, &[0, 0]))
        .in_drops("payload length ends inside TCP's flags", with(p6.clone(), 18, &[0, 13]))
        .in_passes("payload length ends behind TCP's flags", with(p6, 18, &[0, 14]))
}

fn not_ip() -> Case {
    let h = Hosts::of(Family::V4);
    let frame = |kind: u16| [ethernet(&[], kind), vec![0; 60]].concat();
    let mut case =
        Case::new("S36 S52 what is neither IP nor ARP", world(Policy::Everyone, Policy::Everyone));
    for (what, kind) in
        [("LLC", 0x0026), ("MPLS", 0x8847), ("PPPoE", 0x8864), ("LLDP", 0x88cc), ("RARP", 0x8035)]
    {
        case = case.in_drops(what, frame(kind)).out_drops(what, frame(kind));
    }
    case.in_passes("IP", Talk::new(h.a, 1, h.stranger, 2).back(Unit::Udp))
}

/// A frame that no hook can read leaves no guarded pod, isolated or not (S55).
fn unread_frames_leave_no_guarded_pod(h: &Hosts) -> Case {
    let frame = |kind: u16| [ethernet(&[], kind), vec![0; 60]].concat();
    let prioritised = |count: usize, source| {
        let packet = Talk::new(source, 4000, h.network, 80).out_packet(SYN);
        (0..count)
            .fold(packet, |packet, i| {
                packet.tag(if i % 2 == 0 { Tag::vlan(0) } else { Tag::qinq(0) })
            })
            .build()
    };
    let guard = Word::flagged(Word::GUARD);
    let mut case = Case::new(
        format!("S54 S55 what cannot be read, {:?}", h.family),
        world(Policy::Open, Policy::Open),
    );
    case = case.out_passes("not guarded", frame(0x8847)).write(set_word(A, guard));
    for kind in [0x0026, 0x8847, 0x8864, 0x88cc, 0x8035] {
        case =
            case.out_drops(&format!("type {kind:#x}"), frame(kind)).in_passes("to it", frame(kind));
    }
    for count in 0..=2 {
        case = case.out_passes(&format!("{count} priority tags"), prioritised(count, h.a));
    }
    for count in 0..=8 {
        case = case.out_drops(
            &format!("{count} priority tags, another's address"),
            prioritised(count, h.b),
        );
    }
    case.out_drops("more tags than are read", prioritised(3, h.a))
}

fn open_direction() -> Case {
    let h = Hosts::of(Family::V4);
    let p4 = syn(&h, 80).build();
    let fragment = Fragment { id: 3, offset: 40, more: More::Last };
    Case::new(
        "S3 S52 nothing is refused in a direction that is not isolated",
        world(Policy::Open, Policy::Nothing),
    )
    .in_passes("MPLS", [ethernet(&[], 0x8847), vec![0; 60]].concat())
    .in_passes("cut", truncate(p4.clone(), 40))
    .in_passes("total length beyond the frame", with(p4, 16, &[0, 41]))
    .in_passes(
        "a fragment without its first",
        syn(&h, 80).payload(&[0; 64]).fragment(fragment).build(),
    )
}

fn tags(h: &Hosts) -> Case {
    let (vlan, qinq) = (Tag::vlan(100), Tag::qinq(200));
    let other = Tag { kind: 0x9100, id: 1 };
    let packet =
        |tags: &[Tag], port| tags.iter().fold(syn(h, port), |packet, tag| packet.tag(*tag)).build();
    let mut case =
        Case::new(format!("S54 VLAN tags, {:?}", h.family), world(Policy::Some, Policy::Open));
    for (what, tags) in [
        ("802.1Q", &[vlan][..]),
        ("802.1ad", &[qinq]),
        ("802.1ad around 802.1Q", &[qinq, vlan]),
        ("802.1Q around 802.1Q", &[vlan, vlan]),
    ] {
        case = case.in_passes(what, packet(tags, 80)).in_drops(what, packet(tags, 81));
    }
    let arp = [ethernet(&[qinq, vlan], 0x0806), vec![0; 28]].concat();
    case.in_drops("three tags", packet(&[qinq, vlan, vlan], 80))
        .in_drops("an unknown tag", packet(&[other], 80))
        .in_passes("ARP in tags", arp)
        .in_drops("ends inside the tag", truncate(packet(&[vlan], 80), 16))
        .in_drops("ends inside the second tag", truncate(packet(&[qinq, vlan], 80), 20))
        .in_drops("ends behind the tags", truncate(packet(&[qinq, vlan], 80), 22))
        .in_drops("ends inside the IP header", truncate(packet(&[qinq, vlan], 80), 22 + 19))
}

fn truncated(h: &Hosts) -> Case {
    let l3 = 14 + if h.family == Family::V4 { 20 } else { 40 };
    let mut case =
        Case::new(format!("S52 cut frames, {:?}", h.family), world(Policy::Everyone, Policy::Open));
    for (what, unit) in [
        ("TCP", SYN),
        ("UDP", Unit::Udp),
        ("SCTP", Unit::Sctp(sctp::INIT)),
        ("GRE", Unit::Other(47)),
    ] {
        let whole = Talk::new(h.a, 80, h.friend, 4000).back(unit);
        for length in [l3, l3 + 3, l3 + 7, l3 + 8, whole.len() - 1] {
            case =
                case.in_drops(&format!("{what} cut at {length}"), truncate(whole.clone(), length));
        }
        case = case.in_passes(what, whole);
    }
    // Behind a tag a kernel hands on any length.
    let tagged = syn(h, 80).tag(Tag::vlan(1)).build();
    for length in [18, 19, 37, 38, 57] {
        case = case.in_drops(&format!("tagged, cut at {length}"), truncate(tagged.clone(), length));
    }
    case
}

fn short(h: &Hosts) -> Case {
    let into = |unit| Talk::new(h.a, 80, h.friend, 4000).back_packet(unit);
    let request = if h.family == Family::V4 { 8 } else { 128 };
    let mut case = Case::new(
        format!("S52 layer 4 that is too short, {:?}", h.family),
        world(Policy::Everyone, Policy::Open),
    );
    for (what, unit, needed) in [
        ("TCP", SYN, 14),
        ("UDP", Unit::Udp, 8),
        ("SCTP", Unit::Sctp(sctp::INIT), 16),
        ("ICMP", Unit::Icmp(request), 8),
        ("GRE", Unit::Other(47), 0),
    ] {
        let whole = into(unit).build();
        let have = whole.len() - 14 - if h.family == Family::V4 { 20 } else { 40 };
        case = case
            .in_passes(&format!("{what}, {needed} bytes"), shorten(whole.clone(), have - needed));
        if needed > 0 {
            case = case.in_drops(
                &format!("{what}, {} bytes", needed - 1),
                shorten(whole.clone(), have - needed + 1),
            );
            case = case.in_drops(&format!("{what}, none"), shorten(whole, have));
        }
    }
    case
}

fn extensions() -> Case {
    let h = Hosts::of(Family::V6);
    let (hop, routing, destination, mobility) = (
        Extension::padded(ip::HOP_BY_HOP, 0),
        Extension::padded(ip::ROUTING, 2),
        Extension::padded(ip::DESTINATION, 1),
        Extension::padded(ip::MOBILITY, 0),
    );
    let atomic = Extension::fragment(Fragment { id: 9, offset: 0, more: More::Last });
    let chain = |list: &[&Extension], port| {
        list.iter().fold(syn(&h, port), |packet, e| packet.extension((*e).clone())).build()
    };
    let auth = Extension::authentication(3);
    let mut case = Case::new("S51 IPv6 extension headers", world(Policy::Some, Policy::Open));
    for (what, list) in [
        ("hop-by-hop, next header 0", &[&hop][..]),
        ("routing", &[&routing]),
        ("destination", &[&destination]),
        ("mobility", &[&mobility]),
        ("authentication, 24 bytes", &[&auth]),
        ("authentication, 12 bytes", &[&Extension::authentication(0)]),
        ("an atomic fragment", &[&atomic]),
        ("the longest option header", &[&Extension::padded(ip::DESTINATION, 255)]),
        ("as RFC 8200 recommends", &[&hop, &destination, &routing, &atomic, &auth, &destination]),
        (
            "eight",
            &[&hop, &destination, &routing, &atomic, &auth, &destination, &mobility, &destination],
        ),
        ("hop-by-hop twice", &[&hop, &hop]),
    ] {
        case = case.in_passes(what, chain(list, 80)).in_drops(what, chain(list, 81));
    }
    case
}

fn extension_limits() -> Case {
    let h = Hosts::of(Family::V6);
    let destination = Extension::padded(ip::DESTINATION, 0);
    let atomic = Extension::fragment(Fragment { id: 9, offset: 0, more: More::Last });
    let chain = |list: &[Extension]| {
        list.iter().fold(syn(&h, 80), |packet, e| packet.extension(e.clone())).build()
    };
    let none = Packet::new(h.friend, h.a).build();
    Case::new("S51 IPv6 extension headers that are too many", world(Policy::Everyone, Policy::Open))
        .in_passes("eight", chain(&vec![destination.clone(); 8]))
        .in_drops("nine", chain(&vec![destination.clone(); 9]))
        .in_drops("forty", chain(&vec![destination; 40]))
        .in_drops("two fragment headers", chain(&[atomic.clone(), atomic]))
        .in_passes("no next header, a protocol as any other", none)
        .in_passes(
            "encrypted, a protocol as any other",
            Talk::new(h.a, 0, h.friend, 0).back(Unit::Other(50)),
        )
}

fn extension_cuts() -> Case {
    let h = Hosts::of(Family::V6);
    let one = |e: Extension| syn(&h, 80).extension(e).build();
    let hop = one(Extension::padded(ip::HOP_BY_HOP, 0));
    let auth = one(Extension::authentication(1));
    let fragment = one(Extension::fragment(Fragment { id: 9, offset: 0, more: More::Last }));
    let long = with(hop.clone(), 55, &[200]);
    // The header claims the TCP header, or a part of it, for itself.
    let swallows = with(hop.clone(), 55, &[1]);
    let mut case = Case::new(
        "S51 S52 IPv6 extension headers that overrun",
        world(Policy::Everyone, Policy::Open),
    )
    .in_drops("a length beyond the packet", long)
    .in_drops("a length that swallows half of TCP", swallows)
    .in_drops("an authentication length beyond the packet", with(auth.clone(), 55, &[250]));
    for (what, frame, size) in
        [("hop-by-hop", hop, 8), ("authentication", auth, 16), ("fragment", fragment, 8)]
    {
        let behind = frame.len() - 54;
        for bytes in [0, 1, 2, size - 1, size, size + 13] {
            case = case.in_drops(
                &format!("{what}, {bytes} bytes are there"),
                shorten(frame.clone(), behind - bytes),
            );
        }
        case = case.in_passes(what, shorten(frame, behind - size - 14));
    }
    let flags = tcp::SYN | tcp::FIN;
    case.in_passes("whole", Talk::new(h.a, 80, h.friend, 1).back(Unit::Tcp(flags)))
}
