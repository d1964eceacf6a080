//! What the node itself sends to pods that have security groups (S82): the word's born set judges
//! it. What it sends to others is in `policy`.

use netpolc_table::{SetId, schema::Word};

use crate::{
    conformance::{
        Case,
        world::{
            A, ACK, Hosts, Policy, SYN, SYN_ACK, Talk, Unit, born_set, dns, name, served, set_word,
            web, word, world,
        },
    },
    semantics::FRAGMENT_SECONDS,
};

use super::{errors::too_big, fragments::parts_of};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for hosts in Hosts::both() {
        cases.extend([
            rules(&hosts),
            removed(&hosts),
            replies(&hosts),
            own_traffic(&hosts),
            fragments(&hosts),
            errors(&hosts),
        ]);
    }
    cases
}

/// A's word with these policies, and with this one for what is born on the node.
fn gated(ingress: Policy, egress: Policy, born: Policy) -> Word {
    Word { born_set: born_set(A, born), ..word(A, ingress, egress) }
}

/// A case that begins with such a word.
fn case(text: &str, h: &Hosts, word: Word) -> Case {
    let case = Case::new(name(text, h), world(Policy::Nothing, Policy::Nothing));
    case.write(set_word(A, word))
}

fn rules(h: &Hosts) -> Case {
    let probe = served(h);
    let word = gated(Policy::Nothing, Policy::Nothing, Policy::Some);
    case("S82 the born set judges what is born on the node, and nothing else does", h, word)
        .in_drops("forwarded: the ingress set judges", probe.back(SYN))
        .born_passes("a probe that it permits", probe.back(SYN))
        .out_passes("the answer", probe.out(SYN_ACK))
        .born_passes("data", probe.back(ACK))
        .born_drops("to another port", Talk::new(h.a, 81, h.friend, 4000).back(SYN))
        .born_drops("from another address", Talk::new(h.a, 80, h.stranger, 4000).back(SYN))
        .born_drops("UDP", Talk::new(h.a, 80, h.friend, 4001).back(Unit::Udp))
        .out_drops("the pod cannot open the reverse tuple", probe.out(SYN))
        .in_drops("forwarded data on the tuple", probe.back(ACK))
        .born_drops("from the pod's own address", Talk::new(h.a, 80, h.a, 4000).back(SYN))
        .write(set_word(A, gated(Policy::Everyone, Policy::Nothing, Policy::Nothing)))
        .in_passes("the ingress set permits", Talk::new(h.a, 81, h.friend, 4000).back(SYN))
        .born_drops("and the born set does not", Talk::new(h.a, 81, h.friend, 4001).back(SYN))
        .write(set_word(A, Word { flags: Word::EGRESS, ..word }))
        .born_passes("ingress is not isolated", Talk::new(h.a, 81, h.friend, 4002).back(SYN))
}

fn removed(h: &Hosts) -> Case {
    let (probe, other) = (served(h), Talk::new(h.a, 81, h.stranger, 4000));
    let nothing = gated(Policy::Nothing, Policy::Nothing, Policy::Nothing);
    case("S80 S82 a removed rule cuts what the node opened", h, nothing)
        .write(set_word(A, gated(Policy::Nothing, Policy::Nothing, Policy::Some)))
        .born_passes("SYN", probe.back(SYN))
        .out_passes("SYN+ACK", probe.out(SYN_ACK))
        .write(set_word(A, nothing))
        .born_drops("data", probe.back(ACK))
        .out_drops("and the pod's", probe.out(ACK))
        .write(set_word(A, word(A, Policy::Nothing, Policy::Nothing)))
        .born_passes("without groups it passes (S44)", probe.back(ACK))
        .out_passes("and so does the pod's", probe.out(ACK))
        .born_passes("whatever the node opens", other.back(SYN))
        .out_passes("with its answer", other.out(SYN_ACK))
        .write(set_word(A, gated(Policy::Nothing, Policy::Nothing, Policy::Some)))
        .out_drops("until the pod gets groups again", other.out(ACK))
        .out_passes("which judge each by itself", probe.out(ACK))
}

fn replies(h: &Hosts) -> Case {
    let (out, question) = (web(h), dns(h));
    let nothing = gated(Policy::Nothing, Policy::Some, Policy::Nothing);
    case("S80 S82 the node answers what the pod opened", h, nothing)
        .born_drops("an answer to nothing", out.back(SYN_ACK))
        .out_passes("SYN", out.out(SYN))
        .born_passes("SYN+ACK", out.back(SYN_ACK))
        .out_passes("ACK", out.out(ACK))
        .out_passes("a question", question.out(Unit::Udp))
        .born_passes("its answer", question.back(Unit::Udp))
        .born_drops("another answer", Talk::new(h.a, 4001, h.friend, 53).back(Unit::Udp))
        .write(set_word(A, gated(Policy::Nothing, Policy::Nothing, Policy::Nothing)))
        .born_drops("the pod may not open it any more", out.back(ACK))
}

/// What a pod sends to itself by way of a Service is not born on the node.
fn own_traffic(h: &Hosts) -> Case {
    use crate::{Hook, Verdict::Next};
    let through = Talk::new(h.a, 80, h.stranger, 4000);
    let nothing = gated(Policy::Nothing, Policy::Nothing, Policy::Nothing);
    case("S47 S82 groups do not judge the pod's own traffic as the node's", h, nothing)
        .entered("its SYN", Hook::ToPod, A.interface, through.back(SYN), Next)
        .out_passes("its answer", through.out(SYN_ACK))
        .born_drops("the node's on the same tuple", through.back(ACK))
}

fn fragments(h: &Hosts) -> Case {
    let good = parts_of(Talk::new(h.a, 53, h.friend, 4000).back_packet(Unit::Udp), 1);
    let bad = parts_of(Talk::new(h.a, 54, h.friend, 4000).back_packet(Unit::Udp), 2);
    let word = gated(Policy::Nothing, Policy::Nothing, Policy::Some);
    case("S50 S82 fragments of the node get the verdict of their first one", h, word)
        .born_drops("a later one alone, where ports matter", good[1].clone())
        .born_passes("a first one that is permitted", good[0].clone())
        .born_passes("its second", good[1].clone())
        .born_drops("a first one that is not", bad[0].clone())
        .born_drops("its second", bad[1].clone())
        .after(FRAGMENT_SECONDS.into())
        .born_drops("the record is over", good[1].clone())
        .write(set_word(A, gated(Policy::Nothing, Policy::Nothing, Policy::Friends)))
        .born_passes("every port is permitted", good[1].clone())
        .in_drops("forwarded it is not", bad[1].clone())
}

fn errors(h: &Hosts) -> Case {
    let out = web(h);
    let about = |inner: &Talk| too_big(h, &inner.out_packet(Unit::Tcp(0x10)));
    let nothing = gated(Policy::Nothing, Policy::Some, Policy::Nothing);
    case("S35 S82 errors of the node need a connection that they are about", h, nothing)
        .born_drops("about nothing", about(&out))
        .out_passes("SYN", out.out(SYN))
        .born_passes("about it", about(&out))
        .born_drops("about another", about(&Talk::new(h.a, 4001, h.friend, 80)))
        .write(set_word(A, Word { born_set: SetId::new(0), ..nothing }))
        .born_passes("without groups any (S35, S44)", about(&Talk::new(h.a, 1, h.friend, 80)))
}
