//! Connections: replies, and what is none. Changes between packets are in `changes`.

use netpolc_table::schema::Family;

use crate::{
    conformance::{
        Case,
        world::{
            A, ACK, B, FIN, Hosts, Policy, RST, SYN, SYN_ACK, Talk, Unit, dns, name, served,
            switch, web, world,
        },
    },
    semantics::{sctp, tcp},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for hosts in Hosts::both() {
        cases.extend([
            replies(&hosts),
            two_pods(&hosts),
            reverse(&hosts),
            no_answer_to_a_denied_packet(&hosts),
            not_openings(&hosts),
            bare_syns(&hosts),
            crossing(&hosts),
            echo(&hosts),
            sctp_replies(&hosts),
        ]);
    }
    cases
}

fn replies(h: &Hosts) -> Case {
    let (out, udp, into) = (web(h), dns(h), served(h));
    let gre = Talk::new(h.a, 0, h.network, 0);
    Case::new(name("S37 replies to what was permitted", h), world(Policy::Some, Policy::Some))
        .out_passes("SYN", out.out(SYN))
        .in_passes("SYN+ACK", out.back(SYN_ACK))
        .out_passes("ACK", out.out(ACK))
        .in_passes("data", out.back(ACK))
        .in_passes("FIN", out.back(FIN))
        .out_passes("FIN", out.out(FIN))
        .in_passes("the last ACK", out.back(ACK))
        .in_passes("SYN in", into.back(SYN))
        .out_passes("SYN+ACK out", into.out(SYN_ACK))
        .out_passes("RST out", into.out(RST))
        .out_passes("a question", udp.out(Unit::Udp))
        .in_passes("its answer", udp.back(Unit::Udp))
        .in_passes("and more of it", udp.back(Unit::Udp))
        .in_drops("from another port", Talk::new(h.a, 4000, h.friend, 54).back(Unit::Udp))
        .in_drops("from another address", Talk::new(h.a, 4000, h.b, 53).back(Unit::Udp))
        .in_drops("to another port", Talk::new(h.a, 4001, h.friend, 53).back(Unit::Udp))
        .in_drops("by another protocol", udp.back(SYN_ACK))
        .out_passes("GRE to the network", gre.out(Unit::Other(47)))
        .in_passes("GRE back, permitted by itself", gre.back(Unit::Other(47)))
}

fn two_pods(h: &Hosts) -> Case {
    let (at_a, at_b) = (Talk::new(h.a, 4000, h.b, 80), Talk::new(h.b, 80, h.a, 4000));
    // B permits class 2, which is A, only by way of Everyone.
    Case::new(name("S37 two policed pods on one node", h), world(Policy::Nothing, Policy::Some))
        .write(switch(B, Policy::Everyone, Policy::Nothing))
        .out_passes("A's SYN leaves A", at_a.out(SYN))
        .at(B)
        .in_passes("and reaches B", at_b.back(SYN))
        .out_passes("B's SYN+ACK leaves B", at_b.out(SYN_ACK))
        .at(A)
        .in_passes("and reaches A", at_a.back(SYN_ACK))
        .out_passes("A's ACK leaves A", at_a.out(ACK))
        .at(B)
        .in_passes("and reaches B", at_b.back(ACK))
        .out_passes("data leaves B", at_b.out(ACK))
        .at(A)
        .in_passes("and reaches A", at_a.back(ACK))
}

fn reverse(h: &Hosts) -> Case {
    let (out, udp) = (web(h), dns(h));
    Case::new(
        name("S38 the reverse tuple admits no new connection", h),
        world(Policy::Nothing, Policy::Some),
    )
    .out_passes("SYN", out.out(SYN))
    .in_passes("SYN+ACK", out.back(SYN_ACK))
    .in_passes("data", out.back(ACK))
    .in_drops("a SYN on the reverse tuple", out.back(SYN))
    .in_drops("a SYN with ECE and CWR", out.back(Unit::Tcp(tcp::SYN | 0xc0)))
    .in_drops("a SYN with FIN", out.back(Unit::Tcp(tcp::SYN | tcp::FIN)))
    .in_drops("a SYN with RST", out.back(Unit::Tcp(tcp::SYN | tcp::RST)))
    .in_passes("the connection goes on", out.back(ACK))
    .out_passes("a question", udp.out(Unit::Udp))
    .in_passes("its answer", udp.back(Unit::Udp))
    .in_drops(
        "a question back from another port",
        Talk::new(h.a, 53, h.friend, 4000).back(Unit::Udp),
    )
}

fn no_answer_to_a_denied_packet(h: &Hosts) -> Case {
    let (at_a, at_b) = (Talk::new(h.a, 4000, h.b, 53), Talk::new(h.b, 53, h.a, 4000));
    let (syn_a, syn_b) = (Talk::new(h.a, 4000, h.b, 80), Talk::new(h.b, 80, h.a, 4000));
    Case::new(
        name("S38 one pod's state admits nothing for another", h),
        world(Policy::Nothing, Policy::Some),
    )
    .write(switch(B, Policy::Nothing, Policy::Nothing))
    .out_passes("A's datagram leaves A", at_a.out(Unit::Udp))
    .out_passes("A's SYN leaves A", syn_a.out(SYN))
    .at(B)
    .in_drops("B denies the datagram", at_b.back(Unit::Udp))
    .in_drops("B denies the SYN", syn_b.back(SYN))
    .out_drops("B must not answer the datagram", at_b.out(Unit::Udp))
    .out_drops("B must not answer the SYN", syn_b.out(SYN_ACK))
    .out_drops("nor reset", syn_b.out(RST))
}

fn not_openings(h: &Hosts) -> Case {
    let (reply, request) = if h.family == Family::V4 { (0, 8) } else { (129, 128) };
    let talk = |port| Talk::new(h.a, port, h.stranger, 4000);
    let mut case = Case::new(
        name("S38 what opens nothing is judged by policy", h),
        world(Policy::Some, Policy::Open),
    );
    for (i, (what, unit)) in
        [("SYN+ACK", SYN_ACK), ("ACK", ACK), ("FIN", FIN), ("RST", RST)].into_iter().enumerate()
    {
        let port = 80 + i as u16;
        case = case
            .in_drops(&format!("{what} from a stranger"), talk(port).back(unit))
            .out_passes(&format!("{what} out, which is not isolated"), talk(port).out(unit))
            .in_drops(&format!("{what} opened nothing"), talk(port).back(ACK));
        case = case.in_passes(
            &format!("{what} to a permitted port"),
            Talk::new(h.a, 80, h.friend, 5000 + port).back(unit),
        );
    }
    case = case
        .in_drops("an echo reply without a request", talk(9).back(Unit::Icmp(reply)))
        .out_passes("an echo reply out", talk(9).out(Unit::Icmp(reply)))
        .in_drops("which asks nothing", talk(9).back(Unit::Icmp(reply)))
        .out_passes("a request out", talk(9).out(Unit::Icmp(request)))
        .in_passes("its reply", talk(9).back(Unit::Icmp(reply)));
    // What is judged by policy and permitted makes no state either: the other direction stays
    // closed.
    case.write(switch(A, Policy::Everyone, Policy::Nothing))
        .in_passes("a permitted ACK", talk(99).back(ACK))
        .out_drops("opened nothing", talk(99).out(ACK))
        .in_passes("a permitted SYN+ACK", talk(98).back(SYN_ACK))
        .out_drops("opened nothing", talk(98).out(ACK))
        .in_passes("a permitted echo reply", talk(97).back(Unit::Icmp(reply)))
        .out_drops("opened nothing", talk(97).out(Unit::Icmp(request)))
}

fn bare_syns(h: &Hosts) -> Case {
    let mut case = Case::new(
        name("S38 a bare SYN is an opening whatever else is set", h),
        world(Policy::Nothing, Policy::Everyone),
    );
    for (i, flags) in [0x02, 0x03, 0x42, 0x82, 0xc2, 0xc3, 0x0a, 0x22].into_iter().enumerate() {
        let talk = Talk::new(h.a, 3000 + i as u16, h.friend, 80);
        case = case
            .out_passes("opens", talk.out(Unit::Tcp(flags)))
            .in_passes("is answered", talk.back(SYN_ACK))
            .out_passes("ACK", talk.out(ACK))
            .in_passes("data", talk.back(ACK))
            .in_drops(&format!("{flags:#x} never passes as a reply"), talk.back(Unit::Tcp(flags)));
    }
    case
}

fn crossing(h: &Hosts) -> Case {
    let (talk, closed) = (web(h), Talk::new(h.a, 4001, h.friend, 80));
    let into = Talk::new(h.a, 80, h.friend, 4002);
    Case::new(name("S38 simultaneous open", h), world(Policy::Nothing, Policy::Some))
        .out_passes("SYN", talk.out(SYN))
        .in_passes("the other's SYN crosses it", talk.back(SYN))
        .out_passes("SYN+ACK", talk.out(SYN_ACK))
        .in_passes("SYN+ACK", talk.back(SYN_ACK))
        .in_passes("data", talk.back(ACK))
        .in_drops("after that a SYN is a new connection", talk.back(SYN))
        .out_passes("another SYN", closed.out(SYN))
        .in_passes("which is refused", closed.back(RST))
        .in_drops("a SYN after that does not cross", closed.back(SYN))
        .write(switch(A, Policy::Some, Policy::Nothing))
        .in_passes("SYN in", into.back(SYN))
        .out_passes("the pod's SYN crosses it", into.out(SYN))
        .in_passes("SYN+ACK", into.back(SYN_ACK))
        .out_passes("SYN+ACK", into.out(SYN_ACK))
}

fn echo(h: &Hosts) -> Case {
    let (request, reply) = if h.family == Family::V4 { (8, 0) } else { (128, 129) };
    let talk = Talk::new(h.a, 77, h.friend, 0);
    let mut case = Case::new(name("S37 S38 echo", h), world(Policy::Nothing, Policy::Friends))
        .in_drops("a reply before any request", talk.back(Unit::Icmp(reply)))
        .out_passes("a request", talk.out(Unit::Icmp(request)))
        .in_passes("its reply", talk.back(Unit::Icmp(reply)))
        .in_drops("a request on the same identifier", talk.back(Unit::Icmp(request)))
        .in_drops(
            "a reply with another identifier",
            Talk::new(h.a, 78, h.friend, 0).back(Unit::Icmp(reply)),
        )
        .in_drops("a reply from another", Talk::new(h.a, 77, h.network, 0).back(Unit::Icmp(reply)))
        .in_drops(
            "another type with the identifier",
            talk.back(Unit::Icmp(if h.family == Family::V4 { 16 } else { 140 })),
        );
    if h.family == Family::V4 {
        case = case
            .out_passes("a timestamp request", Talk::new(h.a, 79, h.friend, 0).out(Unit::Icmp(13)))
            .in_passes("its reply", Talk::new(h.a, 79, h.friend, 0).back(Unit::Icmp(14)));
    }
    case.after(40).in_drops("a reply after expiry", talk.back(Unit::Icmp(reply)))
}

fn sctp_replies(h: &Hosts) -> Case {
    let talk = Talk::new(h.a, 4000, h.friend, 36412);
    let chunk = Unit::Sctp;
    Case::new(name("S37 S38 SCTP", h), world(Policy::Nothing, Policy::Some))
        .in_drops("DATA before INIT", talk.back(chunk(sctp::DATA)))
        .out_passes("DATA out, permitted by policy", talk.out(chunk(sctp::DATA)))
        .in_drops("which opened nothing", talk.back(chunk(sctp::DATA)))
        .out_passes("INIT", talk.out(chunk(sctp::INIT)))
        .in_passes("INIT ACK", talk.back(chunk(sctp::INIT_ACK)))
        .out_passes("COOKIE ECHO", talk.out(chunk(10)))
        .in_passes("COOKIE ACK", talk.back(chunk(11)))
        .in_passes("DATA", talk.back(chunk(sctp::DATA)))
        .in_drops("INIT on the reverse tuple", talk.back(chunk(sctp::INIT)))
        .after(200)
        .out_passes("a heartbeat", talk.out(chunk(4)))
        .after(200)
        .in_passes("kept it alive", talk.back(chunk(5)))
        .in_passes("SHUTDOWN", talk.back(chunk(sctp::SHUTDOWN)))
        .out_passes("SHUTDOWN ACK", talk.out(chunk(sctp::SHUTDOWN_ACK)))
        .in_passes("SHUTDOWN COMPLETE", talk.back(chunk(sctp::SHUTDOWN_COMPLETE)))
        .after(12)
        .in_drops("over", talk.back(chunk(sctp::DATA)))
        .in_drops("another port", Talk::new(h.a, 4000, h.friend, 36413).back(chunk(sctp::INIT)))
}
