//! Packets to Services (S48): marked where they leave the pod, judged on the backend after
//! translation.

use netpolc_table::{
    EndpointId, IfIndex, TableId, Write,
    schema::{self, Family},
};

use crate::{
    Arrival, Hook,
    Verdict::{Defer, Drop, Next},
    conformance::{
        Case,
        world::{
            A, ACK, B, FIN, Hosts, Policy, SERVICE_PORTS, SYN, SYN_ACK, Talk, UPLINK, Unit, name,
            switch, world,
        },
    },
    frame::{icmp_error, quote, truncate},
    semantics::sctp,
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for hosts in Hosts::both() {
        cases.extend([
            on_their_way(&hosts),
            judged_after(&hosts),
            at_a_local_backend(&hosts),
            unknown_senders(&hosts),
            tightened(&hosts),
            deleted(&hosts),
            permitted_anyway(&hosts),
            replies_first(&hosts),
            opened_before(&hosts),
            to_itself(&hosts),
            fragments(&hosts),
            errors(&hosts),
            headers(&hosts),
        ]);
    }
    cases
}

/// From A to the Service.
fn to(h: &Hosts, local: u16, port: u16) -> Talk {
    Talk::new(h.a, local, h.service, port)
}

/// The same after translation.
fn translated(h: &Hosts, backend: std::net::IpAddr, port: u16) -> Talk {
    Talk::new(h.a, 4000, backend, port)
}

/// The Service goes.
fn delete(h: &Hosts) -> Write {
    let remove = SERVICE_PORTS
        .map(|(protocol, port)| schema::service_key(h.service, protocol, port))
        .to_vec();
    Write { table: TableId::service(h.family), remove, put: vec![] }
}

fn on_their_way(h: &Hosts) -> Case {
    let (web, dns, sigtran) = (to(h, 4000, 80), to(h, 4000, 53), to(h, 4000, 36412));
    Case::new(
        name("S48 a Service's address is not judged where it is sent", h),
        world(Policy::Nothing, Policy::Some),
    )
    .out_defers("SYN", web.out(SYN))
    .in_passes("SYN+ACK", web.back(SYN_ACK))
    .out_defers("ACK", web.out(ACK))
    .in_passes("data", web.back(ACK))
    .out_defers("FIN", web.out(FIN))
    .out_defers("a question", dns.out(Unit::Udp))
    .in_passes("the answer", dns.back(Unit::Udp))
    .out_defers("INIT", sigtran.out(Unit::Sctp(sctp::INIT)))
    .in_passes("INIT ACK", sigtran.back(Unit::Sctp(sctp::INIT_ACK)))
    .out_drops("another port", to(h, 4000, 81).out(SYN))
    .out_drops("the port under another protocol", to(h, 4000, 80).out(Unit::Udp))
    .out_drops("no port", to(h, 4000, 0).out(Unit::Other(47)))
    .out_drops(
        "an echo request",
        to(h, 4000, 0).out(Unit::Icmp(if h.family == Family::V4 { 8 } else { 128 })),
    )
    .out_drops("a stranger's address", Talk::new(h.a, 4000, h.stranger, 80).out(SYN))
    .in_drops("the Service opens nothing", to(h, 4001, 80).back(SYN))
    .in_drops("nor answers what nobody asked", to(h, 4001, 80).back(SYN_ACK))
    .out_passes("what is permitted is judged at once", Talk::new(h.a, 4000, h.friend, 80).out(SYN))
}

fn judged_after(h: &Hosts) -> Case {
    let at = |backend, port| translated(h, backend, port).out(SYN);
    let masqueraded = Talk::new(h.stranger, 61000, h.friend, 80).out(SYN);
    let denied = Talk::new(h.stranger, 61000, h.friend, 8080).out(SYN);
    Case::new(
        name("S48 egress is judged on the backend's address and port", h),
        world(Policy::Open, Policy::Some),
    )
    .leaves("a backend that is permitted", A.interface, at(h.friend, 80), Next)
    .leaves("on another port than is permitted", A.interface, at(h.friend, 8080), Drop)
    .leaves("a backend that is not", A.interface, at(h.stranger, 80), Drop)
    .leaves("a backend that may have any port", A.interface, at(h.network, 9), Next)
    .leaves("data, too", A.interface, translated(h, h.friend, 80).out(ACK), Next)
    .leaves("data, too", A.interface, translated(h, h.friend, 8080).out(ACK), Drop)
    .leaves(
        "an answer opens nothing",
        A.interface,
        translated(h, h.stranger, 80).out(SYN_ACK),
        Drop,
    )
    .leaves("what nothing has translated", A.interface, to(h, 4000, 80).out(SYN), Drop)
    .leaves("masqueraded", A.interface, masqueraded, Next)
    .leaves("masqueraded", A.interface, denied, Drop)
    .leaves("UDP", A.interface, translated(h, h.friend, 53).out(Unit::Udp), Next)
    .leaves("UDP", A.interface, translated(h, h.friend, 80).out(Unit::Udp), Drop)
    .leaves(
        "GRE, which no Service has",
        A.interface,
        translated(h, h.friend, 0).out(Unit::Other(47)),
        Drop,
    )
    .leaves(
        "GRE to whom it may be sent",
        A.interface,
        translated(h, h.network, 0).out(Unit::Other(47)),
        Next,
    )
    .entered("not marked", Hook::Translated, A.interface, at(h.stranger, 80), Next)
}

fn at_a_local_backend(h: &Hosts) -> Case {
    let at = |port| Talk::new(h.a, 4000, h.b, port).out(SYN);
    Case::new(name("S48 S7 a backend on the same node", h), world(Policy::Open, Policy::Some))
        .at(B)
        .comes("permitted by the sender, not isolated", A.interface, at(80), Next)
        .comes("denied by the sender", A.interface, at(81), Drop)
        .entered(
            "the same unmarked, which the sender's hook has judged",
            Hook::ToPod,
            A.interface,
            at(81),
            Next,
        )
        .write(switch(B, Policy::Nothing, Policy::Open))
        .comes("permitted by the sender, denied by the backend", A.interface, at(80), Drop)
        .write(switch(B, Policy::Everyone, Policy::Open))
        .comes("permitted by both", A.interface, at(80), Next)
        .comes("denied by the sender", A.interface, at(81), Drop)
        .at(crate::conformance::world::Pod {
            endpoint: EndpointId::new(0),
            interface: IfIndex::new(777),
        })
        .comes("on an interface that is nobody's", A.interface, at(80), Next)
        .comes("on an interface that is nobody's", A.interface, at(81), Drop)
}

fn unknown_senders(h: &Hosts) -> Case {
    let packet = || translated(h, h.stranger, 80).out(SYN);
    Case::new(name("S48 S44 whose packet it is", h), world(Policy::Open, Policy::Nothing))
        .leaves("A's", A.interface, packet(), Drop)
        .leaves("B's, who is not isolated", B.interface, packet(), Next)
        .leaves("of an interface that is nobody's", UPLINK, packet(), Drop)
        .leaves("born on the node: the bit is somebody else's", Arrival::Born, packet(), Defer)
        .leaves("cut anew: nobody knows the sender", Arrival::Forgotten, packet(), Drop)
        .comes("born on the node", Arrival::Born, Talk::new(h.stranger, 1, h.a, 80).out(SYN), Defer)
        .write(switch(A, Policy::Open, Policy::Open))
        .leaves("A's, no longer isolated", A.interface, packet(), Next)
}

fn tightened(h: &Hosts) -> Case {
    let (web, behind) = (to(h, 4000, 80), translated(h, h.friend, 80));
    Case::new(
        name("S41 S42 S48 policy changes under a connection to a Service", h),
        world(Policy::Open, Policy::Some),
    )
    .out_defers("SYN", web.out(SYN))
    .leaves("SYN", A.interface, behind.out(SYN), Next)
    .write(switch(A, Policy::Nothing, Policy::Nothing))
    .out_defers("data", web.out(ACK))
    .leaves("data", A.interface, behind.out(ACK), Drop)
    .write(switch(A, Policy::Nothing, Policy::Friends))
    .out_defers("data", web.out(ACK))
    .leaves("data", A.interface, behind.out(ACK), Next)
    .in_passes("the answer", web.back(ACK))
    .write(switch(A, Policy::Nothing, Policy::Open))
    .out_passes("no longer isolated", web.out(ACK))
    .in_passes("the answer", web.back(ACK))
}

fn deleted(h: &Hosts) -> Case {
    let (web, dns) = (to(h, 4000, 80), to(h, 4000, 53));
    Case::new(
        name("S48 a Service goes, its connections stay", h),
        world(Policy::Nothing, Policy::Some),
    )
    .out_defers("SYN", web.out(SYN))
    .in_passes("SYN+ACK", web.back(SYN_ACK))
    .out_defers("a question", dns.out(Unit::Udp))
    .write(delete(h))
    .out_defers("data of a running connection", web.out(ACK))
    .in_passes("and its answer", web.back(ACK))
    .out_defers("another question from the same port", dns.out(Unit::Udp))
    .in_passes("and its answer", dns.back(Unit::Udp))
    .out_drops("a new connection", to(h, 4001, 80).out(SYN))
    .out_drops("the same anew", web.out(SYN))
    .out_drops("a question from another port", to(h, 4001, 53).out(Unit::Udp))
    .out_defers("the end", web.out(FIN))
    .after(200)
    .out_drops("long after it", web.out(ACK))
}

fn permitted_anyway(h: &Hosts) -> Case {
    let (web, dns) = (to(h, 4000, 80), to(h, 4000, 53));
    Case::new(
        name("S48 where every backend is permitted nothing is deferred", h),
        world(Policy::Open, Policy::Everyone),
    )
    .out_passes("SYN", web.out(SYN))
    .out_passes("a question", dns.out(Unit::Udp))
    .write(switch(A, Policy::Nothing, Policy::Open))
    .out_passes("not isolated", to(h, 4001, 80).out(SYN))
    .in_passes("the answer", to(h, 4001, 80).back(SYN_ACK))
}

fn replies_first(h: &Hosts) -> Case {
    // A masqueraded client whose port happens to be that of a Service on its address.
    let served = Talk::new(h.a, 8080, h.service, 80);
    let asked = Talk::new(h.a, 8080, h.service, 53);
    Case::new(
        name("S37 S48 a reply to a Service's address is a reply", h),
        world(Policy::Everyone, Policy::Nothing),
    )
    .in_passes("SYN", served.back(SYN))
    .out_passes("SYN+ACK", served.out(SYN_ACK))
    .out_passes("data", served.out(ACK))
    .in_passes("a question", asked.back(Unit::Udp))
    .out_passes("the answer", asked.out(Unit::Udp))
    .out_defers("an opening on the tuple", served.out(SYN))
}

fn opened_before(h: &Hosts) -> Case {
    let (web, dns) = (to(h, 4000, 80), to(h, 4000, 53));
    Case::new(
        name("S40 S48 connections from before the isolation", h),
        world(Policy::Nothing, Policy::Open),
    )
    .out_passes("SYN", web.out(SYN))
    .in_passes("SYN+ACK", web.back(SYN_ACK))
    .out_passes("a question", dns.out(Unit::Udp))
    .write(switch(A, Policy::Nothing, Policy::Nothing))
    .out_defers("data", web.out(ACK))
    .in_passes("its answer", web.back(ACK))
    .out_defers("a question", dns.out(Unit::Udp))
    .in_passes("its answer", dns.back(Unit::Udp))
}

fn to_itself(h: &Hosts) -> Case {
    // The Service leads back to the pod, with the node's address as source.
    let back = Talk::new(h.a, 80, h.stranger, 61000);
    let asked = Talk::new(h.a, 53, h.stranger, 61000);
    let closed = world(Policy::Nothing, Policy::Nothing);
    Case::new(name("S47 a pod reaches itself through a Service", h), closed)
        .out_defers("to the Service", to(h, 4000, 80).out(SYN))
        .comes("back from it", A.interface, back.back(SYN), Next)
        .out_passes("the answer", back.out(SYN_ACK))
        .in_passes("which comes from the Service", to(h, 4000, 80).back(SYN_ACK))
        .comes("data", A.interface, back.back(ACK), Next)
        .out_passes("data", back.out(ACK))
        .comes("a question", A.interface, asked.back(Unit::Udp), Next)
        .out_passes("its answer", asked.out(Unit::Udp))
        .entered(
            "unmarked",
            Hook::ToPod,
            A.interface,
            Talk::new(h.a, 81, h.stranger, 61000).back(SYN),
            Next,
        )
        .entered(
            "another pod's",
            Hook::ToPod,
            B.interface,
            Talk::new(h.a, 82, h.stranger, 61000).back(SYN),
            Drop,
        )
        .in_drops("from elsewhere, on the tuple", back.back(SYN))
}

fn fragments(h: &Hosts) -> Case {
    let cut = |talk: Talk, id| talk.out_packet(Unit::Udp).payload(&[5; 48]).fragments(id, 24);
    let sent = cut(to(h, 4000, 53), 1);
    let good = cut(translated(h, h.friend, 53), 2);
    let bad = cut(translated(h, h.friend, 54), 3);
    let free = cut(translated(h, h.network, 54), 4);
    let behind = cut(Talk::new(h.a, 4000, h.b, 53), 5);
    let case = Case::new(name("S48 S50 fragments", h), world(Policy::Open, Policy::Some))
        .out_drops("a later one before its first", sent[1].clone())
        .out_defers("the first", sent[0].clone())
        .out_defers("a later one", sent[1].clone())
        .leaves("a later one before its first", A.interface, good[1].clone(), Drop)
        .leaves("the first", A.interface, good[0].clone(), Next)
        .leaves("a later one", A.interface, good[1].clone(), Next)
        .leaves("the first to another port", A.interface, bad[0].clone(), Drop)
        .leaves("a later one to another port", A.interface, bad[1].clone(), Drop)
        .leaves("where every port is alike", A.interface, free[1].clone(), Next)
        .at(B)
        .write(switch(B, Policy::Everyone, Policy::Open))
        .comes("a later one before its first", A.interface, behind[1].clone(), Drop)
        .comes("the first", A.interface, behind[0].clone(), Next)
        .comes("a later one", A.interface, behind[1].clone(), Next);
    case.leaves("the node's own: somebody else's bit", Arrival::Born, free[1].clone(), Defer)
        .leaves("cut anew: the first", Arrival::Forgotten, free[0].clone(), Drop)
        .leaves("cut anew: a later one", Arrival::Forgotten, free[1].clone(), Drop)
}

fn errors(h: &Hosts) -> Case {
    let web = to(h, 4000, 80);
    let kind = if h.family == Family::V4 { (3, 4) } else { (2, 0) };
    let about = |talk: &Talk| {
        icmp_error(h.stranger, h.a, kind, 1280, &quote(&talk.out_packet(ACK), 8)).build()
    };
    let by_pod = icmp_error(h.a, h.service, kind, 1280, &quote(&web.back_packet(ACK), 8)).build();
    let after = icmp_error(
        h.a,
        h.friend,
        kind,
        1280,
        &quote(&translated(h, h.friend, 80).back_packet(ACK), 8),
    )
    .build();
    Case::new(
        name("S35 S48 path MTU discovery through a Service", h),
        world(Policy::Nothing, Policy::Some),
    )
    .in_drops("about nothing", about(&to(h, 4001, 81)))
    .out_defers("SYN", web.out(SYN))
    .in_passes("too big", about(&web))
    .out_drops("by the pod", by_pod)
    .leaves("by the pod, after translation", A.interface, after, Drop)
    .write(delete(h))
    .in_passes("too big, the Service gone", about(&web))
    .in_drops("about another connection", about(&to(h, 4002, 80)))
}

fn headers(h: &Hosts) -> Case {
    let whole = translated(h, h.friend, 80).out(SYN);
    let tagged =
        translated(h, h.friend, 80).out_packet(SYN).tag(crate::frame::Tag::vlan(5)).build();
    let other = translated(h, h.friend, 81).out_packet(SYN).tag(crate::frame::Tag::vlan(5)).build();
    Case::new(
        name("S48 S52 S54 headers of what was translated", h),
        world(Policy::Open, Policy::Some),
    )
    .leaves("whole", A.interface, whole.clone(), Next)
    .leaves("cut off in the ports", A.interface, truncate(whole.clone(), whole.len() - 8), Drop)
    .leaves("tagged", A.interface, tagged, Next)
    .leaves("tagged", A.interface, other, Drop)
}
