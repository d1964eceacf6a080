//! Connections while something changes between packets: policies (S40-S42), incarnations and
//! endpoints (S43).

use netpolc_table::{
    Class, Incarnation, TableId, Write,
    schema::{self, Word},
};

use crate::conformance::{
    Case,
    world::{
        A, ACK, FIN, Hosts, INCARNATION, Policy, RST, SYN, SYN_ACK, Talk, Unit, dns, name, served,
        set_word, switch, web, word, world,
    },
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for hosts in Hosts::both() {
        cases.extend([
            opener_decides(&hosts),
            not_needed(&hosts),
            recorded(&hosts),
            same_opener(&hosts),
            time_wait(&hosts),
            tightening(&hosts),
            tightening_udp(&hosts),
            loosening(&hosts),
            incarnation(&hosts),
            endpoint_reused(&hosts),
            born(&hosts),
        ]);
    }
    cases
}

fn opener_decides(h: &Hosts) -> Case {
    // The friend opens to a port that only its own policy permits; A's egress permits nothing of
    // it.
    let into = served(h);
    let udp = Talk::new(h.a, 53, h.friend, 4000);
    // Where egress is open nothing needs to be known, until an endpoint records before it is
    // isolated there too.
    Case::new(
        name("S40 a connection is judged by who opened it", h),
        world(Policy::Some, Policy::Open),
    )
    .write(records(word(A, Policy::Some, Policy::Open)))
    .in_passes("SYN in", into.back(SYN))
    .out_passes("SYN+ACK out", into.out(SYN_ACK))
    .in_passes("ACK in", into.back(ACK))
    .in_passes("a question", udp.back(Unit::Udp))
    .out_passes("its answer", udp.out(Unit::Udp))
    .write(switch(A, Policy::Some, Policy::Nothing))
    .out_passes("egress is isolated now: data out", into.out(ACK))
    .out_passes("UDP out", udp.out(Unit::Udp))
    .out_drops("but nothing new", Talk::new(h.a, 81, h.friend, 4000).out(SYN))
    .out_drops("nor on that tuple", into.out(SYN))
    .in_passes("data in", into.back(ACK))
    .out_passes("data out", into.out(ACK))
}

/// A keeps everything that opens.
fn records(word: Word) -> Write {
    set_word(A, Word { flags: word.flags | Word::RECORD, ..word })
}

fn not_needed(h: &Hosts) -> Case {
    let (into, udp) = (served(h), Talk::new(h.a, 53, h.friend, 4000));
    let both = Talk::new(h.a, 53, h.friend, 53);
    Case::new(name("S39a what needs no entry has none", h), world(Policy::Some, Policy::Open))
        .in_passes("SYN in", into.back(SYN))
        .out_passes("SYN+ACK out", into.out(SYN_ACK))
        .in_passes("a question", udp.back(Unit::Udp))
        .out_passes("its answer, egress is open", udp.out(Unit::Udp))
        .write(switch(A, Policy::Some, Policy::Nothing))
        .out_drops("isolated without recording: data out", into.out(ACK))
        .out_drops("an answer out", udp.out(Unit::Udp))
        .in_passes("the question again", udp.back(Unit::Udp))
        .out_passes("its answer", udp.out(Unit::Udp))
        .write(switch(A, Policy::Some, Policy::Some))
        .in_passes("a datagram that both directions permit", both.back(Unit::Udp))
        .out_passes("and back", both.out(Unit::Udp))
        .write(switch(A, Policy::Nothing, Policy::Some))
        .in_drops("ingress is cut, and the pod opened nothing", both.back(Unit::Udp))
        .out_passes("it does now", both.out(Unit::Udp))
        .in_passes("and is answered", both.back(Unit::Udp))
}

fn recorded(h: &Hosts) -> Case {
    let (out, into) = (web(h), Talk::new(h.a, 81, h.stranger, 5000));
    let record = set_word(A, Word::flagged(Word::RECORD));
    Case::new(
        name("S40 connections from before the pod was isolated", h),
        world(Policy::Open, Policy::Open),
    )
    .write(record)
    .out_passes("SYN out", out.out(SYN))
    .in_passes("SYN+ACK", out.back(SYN_ACK))
    .in_passes("a SYN in that policy would deny", into.back(SYN))
    .out_passes("SYN+ACK", into.out(SYN_ACK))
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_passes("a reply to what the pod opened", out.back(ACK))
    .in_drops("what it must not have served", into.back(ACK))
    .out_drops("nor answer", into.out(ACK))
    .in_drops("a new SYN", Talk::new(h.a, 80, h.friend, 5001).back(SYN))
}

fn same_opener(h: &Hosts) -> Case {
    let talk = web(h);
    Case::new(
        name("S40 a permitted SYN on a live tuple leaves the opener", h),
        world(Policy::Everyone, Policy::Some),
    )
    .out_passes("the pod opens", talk.out(SYN))
    .in_passes("SYN+ACK", talk.back(SYN_ACK))
    .in_passes("ACK", talk.back(ACK))
    .in_passes("a permitted SYN the other way", talk.back(SYN))
    .write(switch(A, Policy::Everyone, Policy::Nothing))
    .out_drops("the pod's side is cut: it opened, and may not", talk.out(ACK))
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_passes("the friend answers what the pod opened", talk.back(ACK))
}

fn time_wait(h: &Hosts) -> Case {
    let talk = web(h);
    Case::new(name("S40 a new SYN in TIME_WAIT opens anew", h), world(Policy::Some, Policy::Some))
        .out_passes("the pod opens", talk.out(SYN))
        .in_passes("SYN+ACK", talk.back(SYN_ACK))
        .out_passes("FIN", talk.out(FIN))
        .in_passes("FIN", talk.back(FIN))
        .write(switch(A, Policy::Everyone, Policy::Nothing))
        .in_passes("the friend opens the same tuple", talk.back(SYN))
        .out_passes("and is answered", talk.out(SYN_ACK))
        .out_passes("data", talk.out(ACK))
        .in_passes("RST", talk.back(RST))
        .write(switch(A, Policy::Nothing, Policy::Some))
        .in_drops("a SYN that policy denies does not", talk.back(SYN))
        .out_passes("the pod opens it again", talk.out(SYN))
        .in_passes("and is answered", talk.back(SYN_ACK))
        .after(30)
        .in_passes("past the timeout of a reset", talk.back(ACK))
}

fn tightening(h: &Hosts) -> Case {
    let (out, into) = (web(h), served(h));
    Case::new(
        name("S41 tightening cuts what is no longer allowed", h),
        world(Policy::Some, Policy::Some),
    )
    .out_passes("SYN out", out.out(SYN))
    .in_passes("SYN+ACK", out.back(SYN_ACK))
    .in_passes("data", out.back(ACK))
    .in_passes("SYN in", into.back(SYN))
    .out_passes("SYN+ACK", into.out(SYN_ACK))
    .out_passes("data", into.out(ACK))
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_drops("what the friend opened: in", into.back(ACK))
    .out_passes("what the pod opened: out", out.out(ACK))
    .in_passes("what the pod opened: in", out.back(ACK))
    .write(switch(A, Policy::Nothing, Policy::Nothing))
    .in_drops("nothing in", out.back(ACK))
    .out_drops("nothing out", out.out(ACK))
    .out_drops("nothing out", into.out(ACK))
    .write(switch(A, Policy::Some, Policy::Some))
    .in_passes("permitted again", out.back(ACK))
    .out_passes("permitted again", into.out(ACK))
}

fn tightening_udp(h: &Hosts) -> Case {
    let talk = dns(h);
    Case::new(
        name("S41 UDP that was cut is not reopened by the other side", h),
        world(Policy::Nothing, Policy::Some),
    )
    .out_passes("a question", talk.out(Unit::Udp))
    .in_passes("its answer", talk.back(Unit::Udp))
    .out_passes("a stream", talk.out(Unit::Udp))
    .write(switch(A, Policy::Everyone, Policy::Nothing))
    .out_drops("the pod asks again", talk.out(Unit::Udp))
    .in_passes("the server sends, as ingress permits", talk.back(Unit::Udp))
    .out_drops("which does not make it the opener", talk.out(Unit::Udp))
    .after(100)
    .in_passes("the server sends on", talk.back(Unit::Udp))
    .after(100)
    .out_drops("still not", talk.out(Unit::Udp))
    .write(switch(A, Policy::Nothing, Policy::Nothing))
    .in_drops("ingress is cut too", talk.back(Unit::Udp))
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_passes("the question is permitted again, and so its answer", talk.back(Unit::Udp))
}

fn loosening(h: &Hosts) -> Case {
    let (out, into) = (web(h), served(h));
    Case::new(name("S42 loosening and deleting kill nothing", h), world(Policy::Some, Policy::Some))
        .out_passes("SYN out", out.out(SYN))
        .in_passes("SYN+ACK", out.back(SYN_ACK))
        .in_passes("SYN in", into.back(SYN))
        .out_passes("SYN+ACK", into.out(SYN_ACK))
        .write(switch(A, Policy::Friends, Policy::Everyone))
        .in_passes("data in", out.back(ACK))
        .out_passes("data out", into.out(ACK))
        .write(switch(A, Policy::Open, Policy::Open))
        .in_passes("data in", out.back(ACK))
        .out_passes("data out", into.out(ACK))
        .write(switch(A, Policy::Some, Policy::Some))
        .in_passes("isolated again: data in", out.back(ACK))
        .out_passes("isolated again: data out", into.out(ACK))
}

fn incarnation(h: &Hosts) -> Case {
    let (out, udp) = (web(h), dns(h));
    let moved = |incarnation| {
        let key = schema::remote_key(h.friend, h.family.bits());
        Write::put(
            TableId::remote(h.family),
            key,
            schema::set_remote(Class::new(h.family, 1), incarnation),
        )
    };
    Case::new(
        name("S43 an address that became another pod's", h),
        world(Policy::Nothing, Policy::Some),
    )
    .out_passes("SYN", out.out(SYN))
    .in_passes("SYN+ACK", out.back(SYN_ACK))
    .in_passes("data", out.back(ACK))
    .out_passes("a question", udp.out(Unit::Udp))
    .write(moved(Incarnation::new(INCARNATION.get() + 1)))
    .in_drops("the new pod answers", out.back(ACK))
    .in_drops("and by UDP", udp.back(Unit::Udp))
    .out_passes("a question to the new pod", udp.out(Unit::Udp))
    .in_passes("its answer", udp.back(Unit::Udp))
    .out_passes("a connection to the new pod", out.out(SYN))
    .in_passes("SYN+ACK", out.back(SYN_ACK))
    .write(moved(INCARNATION))
    .in_drops("the old one's time is over", udp.back(Unit::Udp))
    .in_drops("and its connection's", out.back(ACK))
}

fn endpoint_reused(h: &Hosts) -> Case {
    let (out, udp) = (web(h), dns(h));
    let gone = Write::remove(TableId::Endpoint, schema::endpoint_key(A.endpoint));
    Case::new(
        name("S43 an endpoint id that became another pod's", h),
        world(Policy::Nothing, Policy::Some),
    )
    .out_passes("SYN", out.out(SYN))
    .in_passes("SYN+ACK", out.back(SYN_ACK))
    .out_passes("a question", udp.out(Unit::Udp))
    .write(gone)
    .in_passes("no endpoint, no policy", out.back(SYN))
    .write(switch(A, Policy::Nothing, Policy::Some))
    .in_drops("the new pod has no connections", out.back(ACK))
    .in_drops("of any kind", udp.back(Unit::Udp))
    .out_passes("it opens its own", udp.out(Unit::Udp))
    .in_passes("and is answered", udp.back(Unit::Udp))
}

fn born(h: &Hosts) -> Case {
    let talk = Talk::new(h.a, 8080, h.stranger, 40000);
    let both = word(A, Policy::Nothing, Policy::Nothing);
    let guard = set_word(A, Word { flags: both.flags | Word::GUARD, ..both });
    Case::new(
        name("S44 S40 what the node opened stays the node's", h),
        world(Policy::Nothing, Policy::Open),
    )
    .write(records(word(A, Policy::Nothing, Policy::Open)))
    .born_passes("SYN", talk.back(SYN))
    .out_passes("SYN+ACK, egress is open", talk.out(SYN_ACK))
    .write(guard)
    .out_passes("egress is isolated now", talk.out(ACK))
    .born_passes("data", talk.back(ACK))
    .out_passes("data", talk.out(ACK))
    .in_drops("not from elsewhere", talk.back(ACK))
}
