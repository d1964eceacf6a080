//! What packets are noted as, and so recorded (S87). That each dropped packet is noted once, for
//! its reason, is checked in every case.

use crate::{
    DropReason::Policy as ByPolicy,
    Noted::{self, Dropped, Opened},
    conformance::{
        Case,
        world::{
            ACK, FIN, Hosts, Policy, RST, SYN, SYN_ACK, Talk, Unit, dns, name, served, web, world,
        },
    },
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for hosts in Hosts::both() {
        cases.extend([openings(&hosts), denials(&hosts), unpoliced(&hosts), anew(&hosts)]);
        cases.extend([datagrams(&hosts), many_datagrams(&hosts)]);
    }
    cases
}

const NOTHING: &[Noted] = &[];

fn openings(h: &Hosts) -> Case {
    let (out, udp, into) = (web(h), dns(h), served(h));
    let case = name("S87 an opening is noted, and what belongs to it is not", h);
    Case::new(case, world(Policy::Some, Policy::Some))
        .out_passes("SYN", out.out(SYN))
        .noted(&[Opened])
        .out_passes("SYN again", out.out(SYN))
        .noted(NOTHING)
        .in_passes("SYN+ACK", out.back(SYN_ACK))
        .noted(NOTHING)
        .out_passes("data", out.out(ACK))
        .noted(NOTHING)
        .in_passes("data back", out.back(ACK))
        .noted(NOTHING)
        .in_passes("SYN in", into.back(SYN))
        .noted(&[Opened])
        .out_passes("a question", udp.out(Unit::Udp))
        .noted(&[Opened])
        .in_passes("its answer", udp.back(Unit::Udp))
        .noted(NOTHING)
        .out_passes("another question", udp.out(Unit::Udp))
        .noted(NOTHING)
}

fn denials(h: &Hosts) -> Case {
    let other = Talk::new(h.a, 4000, h.stranger, 80);
    let case = name("S87 every packet that is denied is noted, whatever it is", h);
    Case::new(case, world(Policy::Some, Policy::Some))
        .out_drops("SYN", other.out(SYN))
        .noted(&[Dropped(ByPolicy)])
        .out_drops("SYN again", other.out(SYN))
        .noted(&[Dropped(ByPolicy)])
        .in_drops("data from nowhere", other.back(ACK))
        .noted(&[Dropped(ByPolicy)])
        .in_drops("a datagram", other.back(Unit::Udp))
        .noted(&[Dropped(ByPolicy)])
}

fn unpoliced(h: &Hosts) -> Case {
    let (into, out) = (served(h), web(h));
    let case = name("S87 openings of pods that nothing isolates are not noted", h);
    Case::new(case, world(Policy::Open, Policy::Open))
        .in_passes("SYN in", into.back(SYN))
        .noted(NOTHING)
        .out_passes("SYN out", out.out(SYN))
        .noted(NOTHING)
}

/// Datagrams whose answers the tables permit need no entry (S87).
fn datagrams(h: &Hosts) -> Case {
    let (udp, into) = (dns(h), Talk::new(h.a, 53, h.stranger, 4000));
    let other = Talk { local: (udp.local.0, udp.local.1 + 1), ..dns(h) };
    let case = name("S87 the first datagram is noted, and then none for a while", h);
    Case::new(case, world(Policy::Open, Policy::Some))
        .out_passes("a question", udp.out(Unit::Udp))
        .noted(&[Opened])
        .in_passes("its answer", udp.back(Unit::Udp))
        .noted(NOTHING)
        .out_passes("another question", udp.out(Unit::Udp))
        .noted(NOTHING)
        .out_passes("one from another port", other.out(Unit::Udp))
        .noted(&[Opened])
        .in_passes("one that comes in", into.back(Unit::Udp))
        .noted(&[Opened])
        .after(59)
        .in_passes("late", udp.back(Unit::Udp))
        .noted(NOTHING)
        .after(60)
        .out_passes("60 s after it", udp.out(Unit::Udp))
        .noted(NOTHING)
        .after(61)
        .out_passes("61 s after it", udp.out(Unit::Udp))
        .noted(&[Opened])
        .out_passes("61 s", other.out(Unit::Udp))
        .noted(&[Opened])
}

/// Each flow of datagrams is noted by itself, however many there are.
fn many_datagrams(h: &Hosts) -> Case {
    let case = name("S87 flows of datagrams are noted one by one", h);
    let mut case = Case::new(case, world(Policy::Open, Policy::Some));
    for port in 4000..4100 {
        let talk = Talk { local: (h.a, port), ..dns(h) };
        case = case
            .out_passes("a question", talk.out(Unit::Udp))
            .noted(&[Opened])
            .in_passes("its answer", talk.back(Unit::Udp))
            .noted(NOTHING);
    }
    case
}

fn anew(h: &Hosts) -> Case {
    let (out, into) = (web(h), served(h));
    let case = name("S87 a connection that begins anew is noted again", h);
    Case::new(case, world(Policy::Some, Policy::Open))
        .out_passes("SYN", out.out(SYN))
        .noted(&[Opened])
        .in_passes("RST", out.back(RST))
        .noted(NOTHING)
        .out_passes("SYN anew", out.out(SYN))
        .noted(&[Opened])
        .out_passes("FIN", out.out(FIN))
        .noted(NOTHING)
        // Egress is open, so that no entry is needed: each opening counts.
        .in_passes("SYN in", into.back(SYN))
        .noted(&[Opened])
        .in_passes("SYN in again", into.back(SYN))
        .noted(&[Opened])
}
