//! The interpreter: what filters do with a packet, in the kernel's software path and in a NIC.
//!
//! Written from the kernel (net/sched/cls_api.c `__tcf_classify`, net/sched/cls_flower.c
//! `fl_classify`, net/core/flow_dissector.c `__skb_flow_dissect`) and not from the lowering, so
//! that it can judge it. Where a packet may be decided in more ways than one, all of them are
//! given. Not here: what the tables say (`netpolc_table::eval`), real packets (the lab).

use netpolc_table::IfIndex;
use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    capability::Capabilities,
    filter::{Action, Copies, EtherType, Filter, Masked, Match, Pattern, Ports, Side, ct},
};

/// What filters can see of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The ethertype of the outermost header: 0x8100 for a frame with a VLAN tag, whatever is under
    /// it.
    pub ethertype: u16,
    /// The source address of the IP header; any address where there is none.
    pub source: IpAddr,
    /// The destination address of the IP header; any address where there is none.
    pub destination: IpAddr,
    /// The IP protocol number, behind IPv6 extension headers.
    pub protocol: u8,
    /// The source port; None where the protocol has no ports, or they are cut off.
    pub source_port: Option<u16>,
    /// The destination port; None as for the source port.
    pub destination_port: Option<u16>,
    /// The low 12 bits; 0x002 SYN, 0x010 ACK.
    pub tcp_flags: u16,
    /// The type of ICMP or ICMPv6; None for other protocols.
    pub icmp_type: Option<u8>,
    /// Time to live, hop limit.
    pub hop_limit: u8,
    /// The hardware address that the frame is for.
    pub mac: [u8; 6],
    /// Whether this is a whole packet or a fragment of one.
    pub fragment: Fragment,
    /// What connection tracking says, bits of [`ct`]. With TRACKED the host did that before these
    /// filters, and they see it at once; without, they see it behind [`Action::Track`] only.
    pub ct: u16,
    /// Whether a socket of this host made the packet.
    pub born: Born,
}

/// Which part of an IP packet a frame carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// The packet is whole.
    #[default]
    No,
    /// The first fragment: it has the headers, and more follow.
    First,
    /// A later fragment, without the headers behind IP's.
    Later,
}

/// Where a packet was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Born {
    /// The packet was made somewhere else, and came in by an interface.
    #[default]
    Elsewhere,
    /// A socket of this host made the packet.
    Here,
}

/// How a walk through filters ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// No filter decided. In software the packet goes on; in hardware it is the host's.
    Next,
    /// A filter lets the packet go on; in hardware it is the host's then.
    Pass,
    /// The packet is dropped.
    Drop,
    /// The packet leaves by the interface with this index.
    Redirect(IfIndex),
}

/// Whose filters these are and how faithfully they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Semantics {
    /// Whether copies in software or in hardware count.
    pub place: Place,
    /// Whether the filter with the lowest prio decides.
    pub priority: Heed,
    /// Whether a key of value 0 is a key.
    pub zero_keys: Heed,
}

/// Where filters run, and so which copies of them count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Filters run in the kernel's software path.
    Software,
    /// Filters run in the NIC.
    Hardware,
}

/// Whether a NIC heeds a part of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heed {
    /// It counts as it does for the kernel.
    Honoured,
    /// The NIC decides as if it were not there.
    Ignored,
}

impl Semantics {
    /// How the kernel itself reads filters.
    pub const SOFTWARE: Self =
        Self { place: Place::Software, priority: Heed::Honoured, zero_keys: Heed::Honoured };

    /// How a NIC with these capabilities reads filters.
    pub fn hardware(can: &Capabilities) -> Self {
        let heed = |honoured| if honoured { Heed::Honoured } else { Heed::Ignored };
        Self {
            place: Place::Hardware,
            priority: heed(can.priority),
            zero_keys: heed(can.zero_keys),
        }
    }
}

/// Chains a packet is led through before the kernel drops it (`max_reclassify_loop` of
/// `__tcf_classify`).
const GOTOS: u32 = 16;

/// Everything that may become of a packet at one hook of an interface; sorted, never empty. More
/// than one is an ambiguity: filters of one prio with different masks that both match (the one
/// whose mask came first decides), or a NIC that ignores prios. `filters` are those of the
/// interface, sorted.
///
/// A packet that was not established before misses at [`Action::Track`] in hardware:
/// [`Outcome::Next`].
pub fn run(filters: &[Filter], side: Side, packet: &Packet, how: Semantics) -> Vec<Outcome> {
    let mut outcomes = BTreeSet::new();
    let start = filters.partition_point(|f| f.side < side);
    let end = filters.partition_point(|f| f.side <= side);
    let walk = Walk { filters: &filters[start..end], packet, how };
    walk.chain(0, packet.ct * u16::from(packet.ct & ct::TRACKED != 0), 0, &mut outcomes);
    outcomes.into_iter().collect()
}

struct Walk<'a> {
    filters: &'a [Filter],
    packet: &'a Packet,
    how: Semantics,
}

impl Walk<'_> {
    fn chain(&self, chain: u32, state: u16, depth: u32, outcomes: &mut BTreeSet<Outcome>) {
        if depth > GOTOS {
            outcomes.insert(Outcome::Drop);
            return;
        }
        let start = self.filters.partition_point(|f| f.chain < chain);
        let end = self.filters.partition_point(|f| f.chain <= chain);
        let mut rest = &self.filters[start..end];
        while let Some(first) = rest.first() {
            let level = match self.how.priority {
                Heed::Honoured => rest.partition_point(|f| f.prio == first.prio),
                Heed::Ignored => rest.len(),
            };
            let (here, lower) = rest.split_at(level);
            rest = lower;
            let mut goes_on = true;
            for filter in here.iter().filter(|f| self.matches(f, state)) {
                goes_on &= filter.action == Action::Continue;
                self.act(&filter.action, state, depth, outcomes);
            }
            if !goes_on {
                // One of several may say `continue` while another decides; both can be first.
                let also =
                    here.iter().any(|f| f.action == Action::Continue && self.matches(f, state));
                if !also {
                    return;
                }
            }
        }
        outcomes.insert(Outcome::Next);
    }

    fn act(&self, action: &Action, state: u16, depth: u32, outcomes: &mut BTreeSet<Outcome>) {
        match *action {
            Action::Pass => _ = outcomes.insert(Outcome::Pass),
            Action::Drop => _ = outcomes.insert(Outcome::Drop),
            Action::Redirect(port) => _ = outcomes.insert(Outcome::Redirect(port)),
            Action::Goto(chain) => self.chain(chain, state, depth + 1, outcomes),
            Action::Track(chain) => {
                if self.how.place == Place::Hardware && self.packet.ct & ct::ESTABLISHED == 0 {
                    outcomes.insert(Outcome::Next);
                } else {
                    self.chain(chain, self.packet.ct | ct::TRACKED, depth + 1, outcomes);
                }
            }
            Action::Continue => {}
        }
    }

    fn matches(&self, filter: &Filter, state: u16) -> bool {
        let counts = match self.how.place {
            Place::Software => filter.copies != Copies::Hardware,
            Place::Hardware => filter.copies != Copies::Software,
        };
        counts
            && match &filter.matches {
                Match::Local => self.packet.born == Born::Here,
                Match::Flower(pattern) => self.pattern(pattern, state),
            }
    }

    fn pattern(&self, pattern: &Pattern, state: u16) -> bool {
        let packet = self.packet;
        let ethertype = match pattern.ethertype {
            EtherType::All => true,
            EtherType::Ipv4 => packet.ethertype == 0x0800,
            EtherType::Ipv6 => packet.ethertype == 0x86dd,
            EtherType::Arp => packet.ethertype == 0x0806,
        };
        if !ethertype {
            return false;
        }
        let byte =
            |key: Option<u8>, value: u8| key.is_none_or(|k| self.unread(k.into()) || k == value);
        let bits = |key: Option<Masked>, value: u16| {
            key.is_none_or(|k| self.unread(k.value.into()) || k.holds(value))
        };
        let within = |key: Option<ipnetwork::IpNetwork>, address: IpAddr| {
            key.is_none_or(|k| {
                (k.network().is_unspecified() && self.unread(0)) || k.contains(address)
            })
        };
        // What the dissector did not find reads as 0: ports of protocols without, of fragments, of
        // cut headers.
        let ports = |key: Option<Ports>, value: Option<u16>| {
            let value = if self.has_headers() { value.unwrap_or(0) } else { 0 };
            key.is_none_or(|k| {
                matches!(k, Ports::Masked(m) if self.unread(m.value.into())) || k.holds(value)
            })
        };
        let headers = self.has_headers();
        let flags = if headers { packet.tcp_flags & 0xfff } else { 0 };
        let icmp = if headers { packet.icmp_type.unwrap_or(0) } else { 0 };
        byte(pattern.protocol, packet.protocol)
            && within(pattern.source, packet.source)
            && within(pattern.destination, packet.destination)
            && ports(pattern.source_port, packet.source_port)
            && ports(pattern.destination_port, packet.destination_port)
            && bits(pattern.tcp_flags, flags)
            && byte(pattern.icmp_type, icmp)
            && byte(pattern.hop_limit, packet.hop_limit)
            && pattern.destination_mac.is_none_or(|mac| mac == packet.mac)
            && pattern.ct_state.is_none_or(|k| k.holds(state))
    }

    /// Is a key of this value read as no key?
    fn unread(&self, value: u32) -> bool {
        value == 0 && self.how.zero_keys == Heed::Ignored
    }

    /// Are headers behind IP's looked at? `fl_classify` dissects without
    /// FLOW_DISSECTOR_F_PARSE_1ST_FRAG, so first fragments have none either; NICs parse those.
    fn has_headers(&self) -> bool {
        match self.packet.fragment {
            Fragment::No => true,
            Fragment::First => self.how.place == Place::Hardware,
            Fragment::Later => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use ipnetwork::IpNetwork;

    use super::*;
    use crate::filter::Cookie;

    fn packet() -> Packet {
        Packet {
            ethertype: 0x0800,
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: 6,
            source_port: Some(40000),
            destination_port: Some(80),
            tcp_flags: 2,
            icmp_type: None,
            hop_limit: 64,
            mac: [0; 6],
            fragment: Fragment::No,
            ct: ct::NEW,
            born: Born::Elsewhere,
        }
    }

    fn filter(chain: u32, prio: u16, pattern: Pattern, action: Action) -> Filter {
        let cookie = Cookie::new(0, 0, 0);
        let matches = Match::Flower(pattern);
        Filter { side: Side::Ingress, chain, prio, matches, action, copies: Copies::Both, cookie }
    }

    fn v4() -> Pattern {
        Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() }
    }

    #[test]
    fn the_lowest_prio_decides_and_a_chain_without_a_match_falls_through() {
        let net: IpNetwork = "10.0.0.0/24".parse().unwrap();
        let filters = [
            filter(0, 1, v4().to(net), Action::Goto(7)),
            filter(0, 2, v4(), Action::Drop),
            filter(7, 1, Pattern { protocol: Some(17), ..v4() }, Action::Pass),
        ];
        assert_eq!(run(&filters, Side::Ingress, &packet(), Semantics::SOFTWARE), [Outcome::Next]);
        assert_eq!(run(&filters, Side::Egress, &packet(), Semantics::SOFTWARE), [Outcome::Next]);
        let udp = Packet { protocol: 17, ..packet() };
        assert_eq!(run(&filters, Side::Ingress, &udp, Semantics::SOFTWARE), [Outcome::Pass]);
        let ignoring = Semantics { priority: Heed::Ignored, ..Semantics::SOFTWARE };
        assert_eq!(run(&filters, Side::Ingress, &udp, ignoring), [Outcome::Pass, Outcome::Drop]);
    }

    #[test]
    fn masks_of_one_prio_that_overlap_are_an_ambiguity() {
        let filters = [
            filter(0, 1, Pattern { protocol: Some(6), ..v4() }, Action::Pass),
            filter(0, 1, Pattern { destination_port: Some(Ports::one(80)), ..v4() }, Action::Drop),
        ];
        let mut sorted = filters.to_vec();
        sorted.sort();
        assert_eq!(
            run(&sorted, Side::Ingress, &packet(), Semantics::SOFTWARE),
            [Outcome::Pass, Outcome::Drop]
        );
    }

    #[test]
    fn tracked_state_is_seen_behind_the_action_and_new_packets_miss_in_hardware() {
        let established = Masked::new(ct::ESTABLISHED, ct::ESTABLISHED);
        let filters = [
            filter(0, 1, v4(), Action::Track(3)),
            filter(
                3,
                1,
                Pattern { ct_state: Some(established), ..v4() },
                Action::Redirect(IfIndex::new(9)),
            ),
            filter(3, 2, Pattern::default(), Action::Drop),
        ];
        let hardware = Semantics { place: Place::Hardware, ..Semantics::SOFTWARE };
        let old = Packet { ct: ct::ESTABLISHED, ..packet() };
        assert_eq!(run(&filters, Side::Ingress, &packet(), Semantics::SOFTWARE), [Outcome::Drop]);
        assert_eq!(run(&filters, Side::Ingress, &packet(), hardware), [Outcome::Next]);
        assert_eq!(
            run(&filters, Side::Ingress, &old, hardware),
            [Outcome::Redirect(IfIndex::new(9))]
        );
        assert_eq!(run(&filters[1..2], Side::Ingress, &old, hardware), [Outcome::Next]);
    }

    #[test]
    fn ports_of_fragments_read_as_zero_and_zero_keys_can_be_unread() {
        let zero = Pattern { destination_port: Some(Ports::one(0)), ..v4() };
        let filters = [filter(0, 1, zero, Action::Drop)];
        let first = Packet { fragment: Fragment::First, ..packet() };
        let hardware = Semantics { place: Place::Hardware, ..Semantics::SOFTWARE };
        assert_eq!(run(&filters, Side::Ingress, &packet(), Semantics::SOFTWARE), [Outcome::Next]);
        assert_eq!(run(&filters, Side::Ingress, &first, Semantics::SOFTWARE), [Outcome::Drop]);
        assert_eq!(run(&filters, Side::Ingress, &first, hardware), [Outcome::Next]);
        let blind = Semantics { zero_keys: Heed::Ignored, ..hardware };
        assert_eq!(run(&filters, Side::Ingress, &packet(), blind), [Outcome::Drop]);
    }

    #[test]
    fn a_circle_of_chains_is_a_drop_and_continue_leads_on() {
        let filters = [filter(0, 1, v4(), Action::Continue), filter(0, 2, v4(), Action::Goto(0))];
        assert_eq!(run(&filters, Side::Ingress, &packet(), Semantics::SOFTWARE), [Outcome::Drop]);
        let other = Packet { ethertype: 0x8100, ..packet() };
        assert_eq!(run(&filters, Side::Ingress, &other, Semantics::SOFTWARE), [Outcome::Next]);
    }
}
