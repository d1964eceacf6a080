//! One filter as a value: where it sits, what it matches, what it does, and the entry it comes
//! from.
//!
//! The same type is lowered to, printed, interpreted, sent to the kernel and read back from it;
//! equal values are equal filters. Not here: encodings ([`crate::netlink`]), text
//! ([`crate::text`]).

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netpolc_table::{IfIndex, schema::Family};

/// Which hook of an interface's clsact qdisc. On a pod's host-side interface or representor,
/// ingress sees what the pod sends and egress what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// `ingress`: what comes in by the interface.
    Ingress,
    /// `egress`: software only, no NIC driver offloads it
    Egress,
}

/// A filter. Its identity in the kernel is (interface, side, chain, prio, handle); handles are
/// given by [`crate::sync`] and are not part of the value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter {
    /// The hook that the filter sits at.
    pub side: Side,
    /// The chain; packets start in 0. Below 2^28 (TC_ACT_EXT_VAL_MASK).
    pub chain: u32,
    /// Lower is asked first; 1 to 65,535. One prio of one chain has one ethertype and one
    /// classifier.
    pub prio: u16,
    /// The packets that it matches.
    pub matches: Match,
    /// What it does with what it matches.
    pub action: Action,
    /// Whether it is in software, in hardware or in both.
    pub copies: Copies,
    /// Names the IR entry it comes from, across restarts.
    pub cookie: Cookie,
}

/// Where copies of a filter live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Copies {
    /// In software only: `skip_hw`.
    Software,
    /// In hardware only: `skip_sw`.
    Hardware,
    /// In both: what uses connection tracking must be, or a miss in hardware finds no rule in
    /// software.
    Both,
}

/// The classifier of a filter and the packets that it matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// Every packet of an ethertype, or of all (`None`): classifier flower without keys, or
    /// `protocol all`.
    Flower(Pattern),
    /// The packet belongs to a socket of this host (classifier basic, `meta(sk_family gt 0)`): born
    /// here, not forwarded by its IP stack. Software only.
    Local,
}

/// The keys of classifier flower that are in use. `None` is no key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    /// `protocol`: which packets the filter sees at all.
    pub ethertype: EtherType,
    /// `ip_proto`: the IP protocol number.
    pub protocol: Option<u8>,
    /// `src_ip`; of the family that the ethertype says. Length 0 is no key.
    pub source: Option<IpNetwork>,
    /// `dst_ip`; of the family that the ethertype says. Length 0 is no key.
    pub destination: Option<IpNetwork>,
    /// `src_port`; needs `protocol` TCP, UDP or SCTP.
    pub source_port: Option<Ports>,
    /// `dst_port`; needs `protocol` TCP, UDP or SCTP.
    pub destination_port: Option<Ports>,
    /// `tcp_flags VALUE/MASK`; needs `protocol` TCP.
    pub tcp_flags: Option<Masked>,
    /// `type`; needs `protocol` ICMP or ICMPv6.
    pub icmp_type: Option<u8>,
    /// `ip_ttl`: time to live or hop limit.
    pub hop_limit: Option<u8>,
    /// `dst_mac`: the hardware address that the frame is for, all bits.
    pub destination_mac: Option<[u8; 6]>,
    /// `ct_state`: bits of [`ct`].
    pub ct_state: Option<Masked>,
}

/// The ethertype in a filter's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EtherType {
    /// `protocol all`: every frame.
    #[default]
    All,
    /// `protocol ip`: IPv4.
    Ipv4,
    /// `protocol ipv6`: IPv6.
    Ipv6,
    /// `protocol arp`: ARP.
    Arp,
}

impl From<Family> for EtherType {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => EtherType::Ipv4,
            Family::V6 => EtherType::Ipv6,
        }
    }
}

/// A set of ports that one filter can match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// `PORT/MASK`: those with these bits under the mask. One port: mask 0xffff.
    Masked(Masked),
    /// `LOW-HIGH`, inclusive (flow dissector key PORTS_RANGE): software only, no NIC driver
    /// offloads it.
    Range {
        /// First; at least 1 (the kernel takes 0 as unset).
        low: u16,
        /// Last; above `low`.
        high: u16,
    },
}

/// A value under a mask; bits outside the mask are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Masked {
    /// The bits that must be set or clear; 0 where the mask is 0.
    pub value: u16,
    /// The bits that count; never 0.
    pub mask: u16,
}

/// Bits of `ct_state` (TCA_FLOWER_KEY_CT_FLAGS_* in include/uapi/linux/pkt_cls.h).
pub mod ct {
    /// `new`: the packet begins a connection.
    pub const NEW: u16 = 1;
    /// `est`: the packet belongs to a connection that exists.
    pub const ESTABLISHED: u16 = 1 << 1;
    /// `rel`: the packet is an ICMP error about a connection, or was expected by one.
    pub const RELATED: u16 = 1 << 2;
    /// `trk`: the tracker saw the packet.
    pub const TRACKED: u16 = 1 << 3;
    /// `inv`: the tracker could not place the packet.
    pub const INVALID: u16 = 1 << 4;
    /// `rpl`: the packet goes in the direction opposite to its connection's first one.
    pub const REPLY: u16 = 1 << 5;
}

/// What a filter does; every one ends the walk through its chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// `pass`: no more filters; hardware hands the packet to the host.
    Pass,
    /// `drop`: the packet is gone.
    Drop,
    /// `goto chain N`: the first filter of that chain is next.
    Goto(u32),
    /// `ct` in zone 0 without commit, then `goto chain N`. Committing here would break the host's
    /// NAT.
    Track(u32),
    /// `mirred egress redirect dev PORT`
    Redirect(IfIndex),
    /// `continue`: the next filter of the same chain (used for probing, and for exceptions in
    /// software).
    Continue,
}

/// 16 bytes that the kernel keeps with a filter's last action (TCA_ACT_COOKIE): `"npc"`, a version,
/// the role in the lowering, the table, two zero bytes, and a 64-bit fingerprint of the entry's
/// meaning (not of its ids).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub [u8; 16]);

impl Cookie {
    /// What our cookies start with; filters without it are somebody else's.
    pub const MAGIC: [u8; 4] = *b"npc\x01";

    /// A cookie. `role` and `table` are numbers of the lowering's choice, `fingerprint` names the
    /// entry.
    pub fn new(role: u8, table: u8, fingerprint: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&Self::MAGIC);
        bytes[4] = role;
        bytes[5] = table;
        bytes[8..].copy_from_slice(&fingerprint.to_be_bytes());
        Self(bytes)
    }

    /// Did netpolc, in this version of the format, make the filter?
    pub fn is_ours(&self) -> bool {
        self.0[..4] == Self::MAGIC
    }
}

impl Masked {
    /// Exactly this value: all 16 bits count.
    pub fn exact(value: u16) -> Self {
        Self { value, mask: u16::MAX }
    }

    /// A value under a mask; bits of `value` outside the mask are cleared.
    pub fn new(value: u16, mask: u16) -> Self {
        Self { value: value & mask, mask }
    }

    /// Does `value` have these bits under the mask?
    pub fn holds(self, value: u16) -> bool {
        value & self.mask == self.value
    }
}

impl Ports {
    /// Exactly this port.
    pub fn one(port: u16) -> Self {
        Ports::Masked(Masked::exact(port))
    }

    /// Is `port` one of them?
    pub fn holds(self, port: u16) -> bool {
        match self {
            Ports::Masked(m) => m.holds(port),
            Ports::Range { low, high } => (low..=high).contains(&port),
        }
    }
}

impl Match {
    /// Could one packet match both? May say yes where none does.
    pub fn may_overlap(&self, other: &Self) -> bool {
        match (self, other) {
            (Match::Flower(one), Match::Flower(other)) => one.may_overlap(other),
            _ => true,
        }
    }
}

impl Masked {
    fn may_overlap(self, other: Self) -> bool {
        (self.value ^ other.value) & self.mask & other.mask == 0
    }
}

impl Ports {
    fn may_overlap(self, other: Self) -> bool {
        match (self, other) {
            (Ports::Masked(one), Ports::Masked(other)) => one.may_overlap(other),
            (Ports::Range { low, high }, Ports::Range { low: l, high: h }) => low <= h && l <= high,
            (Ports::Range { low, high }, Ports::Masked(masked))
            | (Ports::Masked(masked), Ports::Range { low, high }) => {
                masked.mask != u16::MAX || (low..=high).contains(&masked.value)
            }
        }
    }
}

impl Pattern {
    /// Could one packet match both patterns? As [`Match::may_overlap`].
    pub fn may_overlap(&self, other: &Self) -> bool {
        fn both<T: Copy>(one: Option<T>, other: Option<T>, may: impl FnOnce(T, T) -> bool) -> bool {
            one.zip(other).is_none_or(|(a, b)| may(a, b))
        }
        fn same<T: PartialEq>(one: T, other: T) -> bool {
            one == other
        }
        let nested = |a: IpNetwork, b: IpNetwork| a.contains(b.ip()) || b.contains(a.ip());
        let all = EtherType::All;
        (self.ethertype == all || other.ethertype == all || self.ethertype == other.ethertype)
            && both(self.protocol, other.protocol, same)
            && both(self.source, other.source, nested)
            && both(self.destination, other.destination, nested)
            && both(self.source_port, other.source_port, Ports::may_overlap)
            && both(self.destination_port, other.destination_port, Ports::may_overlap)
            && both(self.tcp_flags, other.tcp_flags, Masked::may_overlap)
            && both(self.icmp_type, other.icmp_type, same)
            && both(self.hop_limit, other.hop_limit, same)
            && both(self.destination_mac, other.destination_mac, same)
            && both(self.ct_state, other.ct_state, Masked::may_overlap)
    }

    /// All packets of a family.
    pub fn of(family: Family) -> Self {
        Pattern { ethertype: family.into(), ..Pattern::default() }
    }

    /// The family, where the ethertype says one.
    pub fn family(&self) -> Option<Family> {
        match self.ethertype {
            EtherType::Ipv4 => Some(Family::V4),
            EtherType::Ipv6 => Some(Family::V6),
            EtherType::All | EtherType::Arp => None,
        }
    }

    /// The same pattern for packets from this prefix only; length 0 adds no key.
    pub fn from(mut self, prefix: IpNetwork) -> Self {
        self.source = (prefix.prefix() > 0).then_some(prefix);
        self
    }

    /// The same pattern for packets to this prefix only; length 0 adds no key.
    pub fn to(mut self, prefix: IpNetwork) -> Self {
        self.destination = (prefix.prefix() > 0).then_some(prefix);
        self
    }
}

/// The prefix that holds this address alone.
pub fn host(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}
