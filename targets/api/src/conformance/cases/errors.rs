//! ICMP errors (S35): judged by the packet they quote.

use std::net::IpAddr;

use netpolc_table::schema::Family;

use crate::{
    Hook,
    Verdict::Next,
    conformance::{
        Case,
        world::{A, Hosts, Policy, SYN, SYN_ACK, Talk, Unit, name, switch, world},
    },
    frame::{Extension, Fragment, More, Packet, icmp_error, quote, shorten, truncate},
    semantics::{ip, quotation},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![redirects(), inner_options(), inner_extensions()];
    for hosts in Hosts::both() {
        cases.extend([
            with_state(&hosts),
            without_state(&hosts),
            not_needed(&hosts),
            forged(&hosts),
            cut(&hosts),
            sent(&hosts),
            of_echo(&hosts),
            not_isolated(&hosts),
            change_nothing(&hosts),
        ]);
    }
    cases
}

/// Types and codes of errors; the first is "too big".
fn kinds(h: &Hosts) -> &'static [(u8, u8)] {
    match h.family {
        Family::V4 => &[(3, 4), (3, 1), (3, 3), (4, 0), (11, 0), (12, 0)],
        Family::V6 => &[(2, 0), (1, 0), (1, 4), (3, 0), (4, 1)],
    }
}

/// "Too big" from a router (a stranger) about `inner`, with 8 bytes of its layer 4.
pub(super) fn too_big(h: &Hosts, inner: &Packet) -> Vec<u8> {
    error(h, kinds(h)[0], &quote(inner, 8))
}

fn error(h: &Hosts, kind: (u8, u8), quoted: &[u8]) -> Vec<u8> {
    icmp_error(h.stranger, h.a, kind, 1280, quoted).build()
}

fn not_needed(h: &Hosts) -> Case {
    let served = Talk::new(h.a, 80, h.friend, 5000);
    let both = Talk::new(h.a, 53, h.friend, 53);
    Case::new(
        name("S35 errors about what both directions permit, which has no entry", h),
        world(Policy::Some, Policy::Open),
    )
    .in_passes("SYN in", served.back(SYN))
    .in_passes("too big, what the pod answers", too_big(h, &served.out_packet(Unit::Tcp(0x10))))
    .in_drops("another port", too_big(h, &Talk::new(h.a, 81, h.friend, 5000).out_packet(Unit::Udp)))
    .in_drops(
        "another remote",
        too_big(h, &Talk::new(h.a, 80, h.stranger, 5000).out_packet(Unit::Tcp(0x10))),
    )
    .write(switch(A, Policy::Some, Policy::Some))
    .in_drops(
        "egress is isolated: nobody has opened it",
        too_big(h, &served.out_packet(Unit::Tcp(0x10))),
    )
    .in_passes("too big, UDP that both permit", too_big(h, &both.out_packet(Unit::Udp)))
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_drops("which one of them does not any more", too_big(h, &both.out_packet(Unit::Udp)))
}

fn with_state(h: &Hosts) -> Case {
    let (tcp, udp) = (Talk::new(h.a, 4000, h.friend, 80), Talk::new(h.a, 4000, h.friend, 53));
    let served = Talk::new(h.a, 80, h.friend, 5000);
    let sctp = Talk::new(h.a, 4000, h.friend, 36412);
    let mut case = Case::new(
        name("S35 errors about connections; path MTU discovery", h),
        world(Policy::Some, Policy::Some),
    )
    .out_passes("SYN", tcp.out(SYN))
    .in_passes("SYN+ACK", tcp.back(SYN_ACK))
    .out_passes("a question", udp.out(Unit::Udp))
    .out_passes("INIT", sctp.out(Unit::Sctp(1)))
    .in_passes("SYN in", served.back(SYN))
    .in_passes("too big, TCP", too_big(h, &tcp.out_packet(Unit::Tcp(0x10))))
    .in_passes("too big, UDP", too_big(h, &udp.out_packet(Unit::Udp)))
    .in_passes("too big, SCTP", too_big(h, &sctp.out_packet(Unit::Sctp(0))))
    .in_passes("too big, what the pod answers", too_big(h, &served.out_packet(Unit::Tcp(0x10))))
    .in_passes(
        "with the whole packet quoted",
        error(h, kinds(h)[0], &tcp.out_packet(Unit::Tcp(0x10)).payload(&[0; 400]).datagram()),
    );
    for kind in kinds(h) {
        case = case.in_passes(
            &format!("{kind:?}"),
            error(h, *kind, &quote(&udp.out_packet(Unit::Udp), 8)),
        );
    }
    let own = icmp_error(h.a, h.a, kinds(h)[0], 1280, &quote(&tcp.out_packet(Unit::Tcp(0x10)), 8))
        .build();
    case = case.in_drops("from its own address, by somebody else", own.clone());
    case = case.entered("by itself, through a Service", Hook::ToPod, A.interface, own, Next);
    case.in_drops(
        "another port",
        too_big(h, &Talk::new(h.a, 81, h.friend, 5000).out_packet(Unit::Udp)),
    )
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_drops("about what is no longer permitted", too_big(h, &served.out_packet(Unit::Tcp(0x10))))
    .in_passes("about what still is", too_big(h, &tcp.out_packet(Unit::Tcp(0x10))))
}

fn without_state(h: &Hosts) -> Case {
    let (web, other) = (Talk::new(h.a, 4000, h.friend, 80), Talk::new(h.a, 4000, h.friend, 81));
    let gre = |remote| Talk::new(h.a, 0, remote, 0).out_packet(Unit::Other(47));
    let timestamp = Talk::new(h.a, 7, h.network, 0).out_packet(Unit::Icmp(17));
    Case::new(
        name("S35 errors about packets that nobody sent", h),
        world(Policy::Nothing, Policy::Some),
    )
    .in_drops("though policy permits them", too_big(h, &web.out_packet(Unit::Tcp(0x10))))
    .in_drops("another port", too_big(h, &other.out_packet(Unit::Tcp(0x10))))
    .in_drops("a stranger", too_big(h, &Talk::new(h.a, 4000, h.stranger, 80).out_packet(SYN)))
    .in_drops("any protocol to the network", too_big(h, &gre(h.network)))
    .in_drops("ICMP that keeps no state", too_big(h, &timestamp))
    .out_passes("SYN", web.out(SYN))
    .out_passes("GRE", gre(h.network).build())
    .in_passes("now it was sent", too_big(h, &web.out_packet(Unit::Tcp(0x10))))
    .in_passes("GRE, too", too_big(h, &gre(h.network)))
    .write(switch(A, Policy::Nothing, Policy::Open))
    .in_drops("egress is open", too_big(h, &other.out_packet(Unit::Tcp(0x10))))
    .write(switch(A, Policy::Nothing, Policy::Nothing))
    .in_drops("egress is closed", too_big(h, &web.out_packet(Unit::Tcp(0x10))))
}

fn forged(h: &Hosts) -> Case {
    let web = Talk::new(h.a, 4000, h.friend, 80);
    let other_pod = Talk::new(h.b, 4000, h.friend, 80);
    // A packet that the pod received, not one that it sent.
    let received = web.back_packet(Unit::Tcp(0x10));
    let nested = icmp_error(h.a, h.friend, kinds(h)[0], 0, &quote(&received, 8));
    let other_family = Hosts::of(if h.family == Family::V4 { Family::V6 } else { Family::V4 });
    let mixed = quote(&Talk::new(other_family.a, 4000, other_family.friend, 80).out_packet(SYN), 8);
    Case::new(name("S35 forged errors", h), world(Policy::Nothing, Policy::Everyone))
        .in_drops("about another's packet", too_big(h, &other_pod.out_packet(SYN)))
        .in_drops("about a packet that the pod received", too_big(h, &received))
        .in_drops("about an error", too_big(h, &nested))
        .in_drops("about a packet of the other family", error(h, kinds(h)[0], &mixed))
        .in_drops("it opened nothing: SYN+ACK", web.back(SYN_ACK))
        .in_drops("it opened nothing: SYN", web.back(SYN))
        .in_drops("its sender opens nothing", Talk::new(h.a, 4000, h.stranger, 80).back(Unit::Udp))
        .out_passes("SYN", web.out(SYN))
        .in_passes("honest", too_big(h, &web.out_packet(SYN)))
}

fn cut(h: &Hosts) -> Case {
    let web = Talk::new(h.a, 4000, h.friend, 80);
    let header = if h.family == Family::V4 { 20 } else { 40 };
    let of = |length: usize| {
        let mut quoted = quote(&web.out_packet(SYN), 8);
        quoted.truncate(length);
        error(h, kinds(h)[0], &quoted)
    };
    let mut case = Case::new(
        name("S35 S52 errors that quote too little", h),
        world(Policy::Nothing, Policy::Everyone),
    )
    .out_passes("SYN", web.out(SYN))
    .in_passes("8 bytes of layer 4", of(header + 8));
    for length in [header + 7, header + 4, header, header - 1, 8, 1, 0] {
        case = case.in_drops(&format!("{length} bytes in all"), of(length));
    }
    let mut version = quote(&web.out_packet(SYN), 8);
    version[0] = 0x55;
    let whole = of(header + 8);
    case.in_drops("no version", error(h, kinds(h)[0], &version))
        .in_drops("the frame is cut", truncate(whole.clone(), whole.len() - 1))
        .in_drops("an error of 7 bytes", shorten(of(0), 1))
}

fn sent(h: &Hosts) -> Case {
    let served = Talk::new(h.a, 53, h.friend, 4000);
    let closed = Talk::new(h.a, 54, h.friend, 4000);
    let unreachable = |inner: &Packet, from: IpAddr| {
        icmp_error(from, h.friend, kinds(h)[2], 0, &quote(inner, 8)).build()
    };
    let header = if h.family == Family::V4 { 20 } else { 40 };
    let quoting = |length: usize| {
        let inner = served.back_packet(Unit::Udp).payload(&vec![6; length - header - 8]);
        icmp_error(h.a, h.friend, kinds(h)[2], 0, &inner.datagram())
    };
    let about = |length: usize| quoting(length).build();
    let carried =
        icmp_error(h.a, h.stranger, kinds(h)[2], 0, &quote(&served.back_packet(Unit::Udp), 8));
    let most = quotation(h.family.number());
    let pieces = quoting(400).fragments(3, 200);
    Case::new(name("S35 errors that the pod sends", h), world(Policy::Some, Policy::Nothing))
        .out_drops(
            "about what policy would let in",
            unreachable(&served.back_packet(Unit::Udp), h.a),
        )
        .out_drops("about what it does not", unreachable(&closed.back_packet(Unit::Udp), h.a))
        .in_passes("a question", served.back(Unit::Udp))
        .out_passes("about a connection", unreachable(&served.back_packet(Unit::Udp), h.a))
        .out_passes("as much as may be quoted", about(most))
        .out_drops("more", about(most + 1))
        .out_drops("in fragments: the first", pieces[0].clone())
        .out_drops("in fragments: the second", pieces[1].clone())
        .out_drops("about a connection, to somebody else", carried.build())
        .out_drops("about its own packet", unreachable(&served.out_packet(Unit::Udp), h.a))
        .out_drops("from another's address", unreachable(&served.back_packet(Unit::Udp), h.b))
        .out_drops("it opens nothing", Talk::new(h.a, 54, h.friend, 4000).out(Unit::Udp))
}

fn of_echo(h: &Hosts) -> Case {
    let (request, reply) = if h.family == Family::V4 { (8, 0) } else { (128, 129) };
    let talk = |id, remote| Talk::new(h.a, id, remote, 0);
    Case::new(name("S35 errors about echo: traceroute", h), world(Policy::Nothing, Policy::Friends))
        .out_passes("a request", talk(7, h.friend).out(Unit::Icmp(request)))
        .in_passes(
            "time exceeded",
            error(
                h,
                *kinds(h).last().expect("some"),
                &quote(&talk(7, h.friend).out_packet(Unit::Icmp(request)), 8),
            ),
        )
        .in_drops(
            "about a request that was not sent",
            too_big(h, &talk(8, h.friend).out_packet(Unit::Icmp(request))),
        )
        .in_drops("to a stranger", too_big(h, &talk(8, h.stranger).out_packet(Unit::Icmp(request))))
        .in_drops(
            "about a reply to nothing",
            too_big(h, &talk(8, h.friend).out_packet(Unit::Icmp(reply))),
        )
        .write(switch(A, Policy::Nothing, Policy::Nothing))
        .in_drops(
            "no longer permitted",
            too_big(h, &talk(7, h.friend).out_packet(Unit::Icmp(request))),
        )
}

fn not_isolated(h: &Hosts) -> Case {
    let junk = error(h, kinds(h)[0], &[0; 12]);
    Case::new(
        name("S35 S44 errors where nothing is judged", h),
        world(Policy::Open, Policy::Nothing),
    )
    .in_passes("ingress is open", junk.clone())
    .write(switch(A, Policy::Nothing, Policy::Nothing))
    .in_drops("ingress is closed", junk.clone())
    .born_passes("born on the node", junk)
}

fn change_nothing(h: &Hosts) -> Case {
    let udp = Talk::new(h.a, 4000, h.friend, 53);
    let about = too_big(h, &udp.out_packet(Unit::Udp));
    Case::new(name("S35 S39 errors keep nothing alive", h), world(Policy::Nothing, Policy::Some))
        .out_passes("a question", udp.out(Unit::Udp))
        .after(20)
        .in_passes("an error about it", about.clone())
        .after(20)
        .in_drops("an answer too late", udp.back(Unit::Udp))
        .in_drops("and an error about what is over", about)
}

fn redirects() -> Case {
    let h = Hosts::of(Family::V4);
    let web = Talk::new(h.a, 4000, h.friend, 80);
    let redirect = |inner: &Packet| error(&h, (5, 1), &quote(inner, 8));
    Case::new("S35 redirects", world(Policy::Nothing, Policy::Some))
        .out_passes("SYN", web.out(SYN))
        .in_passes("about a connection", redirect(&web.out_packet(SYN)))
        .in_drops("about another", redirect(&Talk::new(h.a, 4000, h.friend, 81).out_packet(SYN)))
}

fn inner_options() -> Case {
    let h = Hosts::of(Family::V4);
    let web = |port| Talk::new(h.a, 4000, h.friend, port).out_packet(SYN);
    let fragment = Fragment { id: 1, offset: 3, more: More::Last };
    let first = Fragment { id: 1, offset: 0, more: More::Follow };
    let later = web(80).payload(&[0; 16]).fragment(fragment).datagram();
    Case::new(
        "S35 S49 quoted packets with options and fragments, V4",
        world(Policy::Nothing, Policy::Some),
    )
    .out_passes("SYN", web(80).build())
    .in_passes("options", too_big(&h, &web(80).options(&[1; 12])))
    .in_passes(
        "a source route that is quoted goes nowhere",
        too_big(&h, &web(80).options(&[131, 3, 4, 1])),
    )
    .in_drops("options, another port", too_big(&h, &web(81).options(&[1; 12])))
    .in_passes("a first fragment", too_big(&h, &web(80).fragment(first)))
    .in_drops("a later fragment has no ports", error(&h, (3, 4), &later))
    .in_passes("options outside", {
        icmp_error(h.stranger, h.a, (3, 4), 1280, &quote(&web(80), 8)).options(&[1; 8]).build()
    })
}

fn inner_extensions() -> Case {
    let h = Hosts::of(Family::V6);
    let web = |port| Talk::new(h.a, 4000, h.friend, port).out_packet(SYN);
    let destination = Extension::padded(ip::DESTINATION, 1);
    let mut segments = Extension::padded(ip::ROUTING, 2);
    segments.bytes[3] = 1;
    let nine =
        (0..9).fold(web(80), |packet, _| packet.extension(Extension::padded(ip::DESTINATION, 0)));
    let later = web(80).payload(&[0; 16]).fragment(Fragment { id: 1, offset: 3, more: More::Last });
    let first = web(80).fragment(Fragment { id: 1, offset: 0, more: More::Follow });
    Case::new(
        "S35 S51 quoted packets with extension headers, V6",
        world(Policy::Nothing, Policy::Some),
    )
    .out_passes("SYN", web(80).build())
    .in_passes("one", too_big(&h, &web(80).extension(destination.clone())))
    .in_passes(
        "segments that are left of a quoted packet",
        too_big(&h, &web(80).extension(segments)),
    )
    .in_drops("one, another port", too_big(&h, &web(81).extension(destination.clone())))
    .in_passes(
        "two",
        too_big(&h, &web(80).extension(Extension::padded(0, 0)).extension(destination.clone())),
    )
    .in_drops("nine", too_big(&h, &nine))
    .in_passes("a first fragment", too_big(&h, &first))
    .in_drops("a later fragment", error(&h, (2, 0), &later.datagram()))
    .in_passes("outside", {
        icmp_error(h.stranger, h.a, (2, 0), 1280, &quote(&web(80), 8))
            .extension(destination)
            .build()
    })
}
