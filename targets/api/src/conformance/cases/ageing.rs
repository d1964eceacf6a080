//! How long connections live (S39). Times stay seconds away from the limits: a datapath may refresh
//! only once a second.

use crate::{
    conformance::{
        Case,
        world::{
            A, ACK, FIN, Hosts, Policy, RST, SYN, SYN_ACK, Talk, Unit, name, switch, web, world,
        },
    },
    semantics::{Phase, ip, seconds},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for hosts in Hosts::both() {
        cases.extend([
            opening(&hosts),
            established(&hosts),
            replied(&hosts),
            closing(&hosts),
            reset(&hosts),
            udp(&hosts),
            udp_replied(&hosts),
            others(&hosts),
            reused(&hosts),
            opener_of_an_expired_tuple(&hosts),
        ]);
    }
    cases
}

fn of(protocol: u8, phase: Phase) -> u64 {
    seconds(protocol, phase).into()
}

fn opening(h: &Hosts) -> Case {
    let (fresh, stale) = (web(h), Talk::new(h.a, 4001, h.friend, 80));
    let limit = of(ip::TCP, Phase::Opening);
    Case::new(name("S39 an unanswered SYN", h), world(Policy::Nothing, Policy::Some))
        .out_passes("SYN", stale.out(SYN))
        .out_passes("SYN", fresh.out(SYN))
        .after(limit - 5)
        .in_passes("answered in time", fresh.back(SYN_ACK))
        .after(10)
        .in_drops("answered too late", stale.back(SYN_ACK))
        .in_passes("goes on", fresh.back(ACK))
}

fn established(h: &Hosts) -> Case {
    let talk = web(h);
    let limit = of(ip::TCP, Phase::Established);
    Case::new(name("S39 an idle connection", h), world(Policy::Nothing, Policy::Some))
        .out_passes("SYN", talk.out(SYN))
        .in_passes("SYN+ACK", talk.back(SYN_ACK))
        .out_passes("ACK", talk.out(ACK))
        .in_passes("data", talk.back(ACK))
        .after(limit - 5)
        .in_passes("days later", talk.back(ACK))
        .after(limit - 5)
        .in_passes("which kept it alive", talk.back(ACK))
        .after(limit + 5)
        .in_drops("too many days later", talk.back(ACK))
}

fn replied(h: &Hosts) -> Case {
    let talk = web(h);
    // Nothing but SYNs is looked up where both directions permit: the connection must last all the
    // same.
    Case::new(
        name("S39 S40 a connection that both directions permitted", h),
        world(Policy::Everyone, Policy::Some),
    )
    .out_passes("SYN", talk.out(SYN))
    .in_passes("SYN+ACK", talk.back(SYN_ACK))
    .out_passes("ACK", talk.out(ACK))
    .after(5000)
    .in_passes("data", talk.back(ACK))
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_passes("replies are looked up now", talk.back(ACK))
}

fn closing(h: &Hosts) -> Case {
    let talk = web(h);
    let limit = of(ip::TCP, Phase::Closing);
    Case::new(name("S39 a closed connection", h), world(Policy::Nothing, Policy::Some))
        .out_passes("SYN", talk.out(SYN))
        .in_passes("SYN+ACK", talk.back(SYN_ACK))
        .in_passes("data", talk.back(ACK))
        .out_passes("FIN", talk.out(FIN))
        .after(limit - 5)
        .in_passes("half closed, data", talk.back(ACK))
        .after(limit - 5)
        .in_passes("which kept it alive", talk.back(FIN))
        .after(limit + 5)
        .in_drops("over", talk.back(ACK))
}

fn reset(h: &Hosts) -> Case {
    let talk = web(h);
    Case::new(name("S39 a reset connection", h), world(Policy::Nothing, Policy::Some))
        .out_passes("SYN", talk.out(SYN))
        .in_passes("SYN+ACK", talk.back(SYN_ACK))
        .in_passes("data", talk.back(ACK))
        .out_passes("RST", talk.out(RST))
        .after(of(ip::TCP, Phase::Reset) - 4)
        .in_passes("what was under way", talk.back(ACK))
        .after(of(ip::TCP, Phase::Reset) + 4)
        .in_drops("over", talk.back(ACK))
}

fn udp(h: &Hosts) -> Case {
    let (fresh, stale) = (Talk::new(h.a, 4000, h.friend, 53), Talk::new(h.a, 4001, h.friend, 53));
    let limit = of(ip::UDP, Phase::Opening);
    Case::new(name("S38 S39 an answer after expiry", h), world(Policy::Nothing, Policy::Some))
        .out_passes("a question", fresh.out(Unit::Udp))
        .out_passes("another", stale.out(Unit::Udp))
        .after(limit - 5)
        .in_passes("in time", fresh.back(Unit::Udp))
        .after(10)
        .in_drops("too late", stale.back(Unit::Udp))
}

fn udp_replied(h: &Hosts) -> Case {
    let talk = Talk::new(h.a, 4000, h.friend, 53);
    let (answered, limit) = (of(ip::UDP, Phase::Replied), of(ip::UDP, Phase::Established));
    let once = Talk::new(h.a, 4001, h.friend, 53);
    Case::new(name("S39 UDP with answers", h), world(Policy::Nothing, Policy::Some))
        .out_passes("a question", talk.out(Unit::Udp))
        .in_passes("its answer", talk.back(Unit::Udp))
        .out_passes("another one", once.out(Unit::Udp))
        .in_passes("its answer", once.back(Unit::Udp))
        .after(answered - 5)
        .in_passes("more of the answer", talk.back(Unit::Udp))
        .out_passes("a stream", talk.out(Unit::Udp))
        .after(10)
        .in_drops("no stream, and too late", once.back(Unit::Udp))
        .after(limit - 15)
        .in_passes("more", talk.back(Unit::Udp))
        .after(limit - 5)
        .out_passes("a question", talk.out(Unit::Udp))
        .after(limit - 5)
        .in_passes("more", talk.back(Unit::Udp))
        .after(limit + 5)
        .in_drops("too late", talk.back(Unit::Udp))
}

fn others(h: &Hosts) -> Case {
    let talk = Talk::new(h.a, 0, h.friend, 0);
    let gre = Unit::Other(47);
    let limit = of(47, Phase::Opening);
    Case::new(name("S37 S39 other protocols", h), world(Policy::Nothing, Policy::Friends))
        .in_drops("before", talk.back(gre))
        .out_passes("opens", talk.out(gre))
        .in_passes("is answered", talk.back(gre))
        .in_drops("by the same protocol only", talk.back(Unit::Other(50)))
        .after(limit - 5)
        .in_passes("later", talk.back(gre))
        .after(limit + 5)
        .in_drops("too late", talk.back(gre))
}

fn reused(h: &Hosts) -> Case {
    let talk = Talk::new(h.a, 4000, h.friend, 53);
    Case::new(
        name("S39 an expired entry is used again in place", h),
        world(Policy::Nothing, Policy::Some),
    )
    .out_passes("a question", talk.out(Unit::Udp))
    .after(200)
    .in_drops("dead", talk.back(Unit::Udp))
    .out_passes("the same question", talk.out(Unit::Udp))
    .in_passes("is answered", talk.back(Unit::Udp))
    .after(200)
    .in_drops("dead again", talk.back(Unit::Udp))
}

fn opener_of_an_expired_tuple(h: &Hosts) -> Case {
    let talk = Talk::new(h.a, 53, h.friend, 4000);
    Case::new(
        name("S40 S43 an expired tuple is opened by the other side", h),
        world(Policy::Nothing, Policy::Friends),
    )
    .out_passes("the pod asks", talk.out(Unit::Udp))
    .after(200)
    .write(switch(A, Policy::Some, Policy::Nothing))
    .in_passes("the friend asks", talk.back(Unit::Udp))
    .out_passes("the pod answers", talk.out(Unit::Udp))
    .write(switch(A, Policy::Nothing, Policy::Friends))
    .in_drops("the friend opened, and may no longer", talk.back(Unit::Udp))
}
