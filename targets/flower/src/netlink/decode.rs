//! A filter from an RTM_NEWTFILTER message, as dumps bring them.
//!
//! Only what [`super::encode()`] makes is a [`Filter`]; everything else is somebody else's and told
//! by its place alone.

use ipnetwork::IpNetwork;
use netpolc_host::{
    netlink::{self, attribute, attributes, be16_at, u16_at, u32_at},
    tc::{EGRESS, HEADER, INGRESS, TCA_KIND, TCA_OPTIONS},
};
use netpolc_table::IfIndex;

use super::{encode, numbers::*};
use crate::filter::{
    Action, Cookie, Copies, EtherType, Filter, Masked, Match, Pattern, Ports, Side,
};

/// A filter as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The interface at whose clsact qdisc it is.
    pub ifindex: IfIndex,
    /// At which hook of the interface it is.
    pub side: Side,
    /// Its chain. Packets begin in chain 0.
    pub chain: u32,
    /// The prio that it has in its chain.
    pub prio: u16,
    /// Its handle; with the place above it is the identity.
    pub handle: u32,
    /// Devices that have it in hardware, 0 where none.
    pub in_hardware: u32,
    /// Whose it is, and the filter itself where it is netpolc's.
    pub found: Found,
}

/// What a filter in the kernel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A filter that netpolc made.
    Ours(Filter),
    /// One that carries our cookie and was changed since, or was made by another version.
    Changed {
        /// The packets that it matches.
        matches: Match,
        /// Is that all? If not, only classifier and ethertype are right.
        exact: bool,
    },
    /// A filter of somebody else.
    Foreign,
}

/// The filter in a message body (behind the netlink header). None: not of clsact, or the entry of a
/// prio that dumps put in front of its filters.
pub fn decode(body: &[u8]) -> Option<Decoded> {
    let (ifindex, handle, parent, info) =
        (u32_at(body, 4)?, u32_at(body, 8)?, u32_at(body, 12)?, u32_at(body, 16)?);
    let side = match parent {
        INGRESS => Side::Ingress,
        EGRESS => Side::Egress,
        _ => return None,
    };
    if handle == 0 {
        return None;
    }
    let attributes = body.get(HEADER..)?;
    let (prio, ethertype) = ((info >> 16) as u16, u16::from_be(info as u16));
    let chain = attribute(attributes, TCA_CHAIN).and_then(u32_of).unwrap_or(0);
    let options = attribute(attributes, TCA_OPTIONS).unwrap_or_default();
    let kind = attribute(attributes, TCA_KIND)?;
    let flags = attribute(options, FLAGS).and_then(u32_of).unwrap_or(0);
    let in_hardware = match attribute(options, IN_HW_COUNT).and_then(u32_of) {
        Some(count) if kind == b"flower\0" => count,
        _ => u32::from(kind == b"flower\0" && flags & IN_HW != 0),
    };
    let act = if kind == b"basic\0" { BASIC_ACT } else { FLOWER_ACT };
    let actions = attribute(options, act).unwrap_or_default();
    let cookie = cookie(actions);
    let found = match cookie.filter(Cookie::is_ours) {
        None => Found::Foreign,
        Some(cookie) => {
            let of = |ethertype| Pattern { ethertype, ..Pattern::default() };
            let (matches, exact) = match kind {
                b"basic\0" if ethertype == ETH_ALL => (Some(Match::Local), local(options)),
                b"flower\0" => match pattern(options, ethertype) {
                    Some(pattern) => (Some(Match::Flower(pattern)), true),
                    None => (known(ethertype).map(|e| Match::Flower(of(e))), false),
                },
                // Not even of a kind that we make.
                _ => (None, false),
            };
            let copies = match flags & (SKIP_HW | SKIP_SW) {
                _ if matches == Some(Match::Local) => Some(Copies::Software),
                0 => Some(Copies::Both),
                SKIP_HW => Some(Copies::Software),
                SKIP_SW => Some(Copies::Hardware),
                _ => None,
            };
            match (matches, copies, action(actions)) {
                (None, ..) => Found::Foreign,
                (Some(matches), Some(copies), Some(action)) if exact => {
                    Found::Ours(Filter { side, chain, prio, matches, action, copies, cookie })
                }
                (Some(matches), ..) => Found::Changed { matches, exact },
            }
        }
    };
    Some(Decoded { ifindex: IfIndex::new(ifindex), side, chain, prio, handle, in_hardware, found })
}

fn u32_of(value: &[u8]) -> Option<u32> {
    u32_at(value, 0)
}

fn be16(value: &[u8]) -> Option<u16> {
    be16_at(value, 0)
}

fn known(ethertype: u16) -> Option<EtherType> {
    match ethertype {
        ETH_ALL => Some(EtherType::All),
        ETH_IPV4 => Some(EtherType::Ipv4),
        ETH_IPV6 => Some(EtherType::Ipv6),
        ETH_ARP => Some(EtherType::Arp),
        _ => None,
    }
}

/// The keys that we use; None where another one is in use, which would make the filter narrower
/// than what we say it is.
fn pattern(options: &[u8], ethertype: u16) -> Option<Pattern> {
    let ethertype = known(ethertype)?;
    let mut pattern = Pattern { ethertype, ..Pattern::default() };
    let protocol = attribute(options, IP_PROTO).and_then(|v| v.first().copied());
    pattern.protocol = protocol;
    pattern.source = address(options, IPV4_SRC, IPV6_SRC)?;
    pattern.destination = address(options, IPV4_DST, IPV6_DST)?;
    let keys = protocol.and_then(port_keys);
    pattern.source_port = ports(options, keys.map(|k| k[0]), PORT_SRC_MIN)?;
    pattern.destination_port = ports(options, keys.map(|k| k[1]), PORT_DST_MIN)?;
    pattern.tcp_flags = masked(options, TCP_FLAGS, be16);
    let icmp = if ethertype == EtherType::Ipv6 { ICMPV6_TYPE } else { ICMPV4_TYPE };
    pattern.icmp_type = byte(options, icmp)?;
    pattern.hop_limit = byte(options, IP_TTL)?;
    pattern.ct_state = masked(options, CT_STATE, |v| u16_at(v, 0));
    pattern.destination_mac = match (attribute(options, ETH_DST), attribute(options, ETH_DST_MASK))
    {
        (Some(mac), Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff])) => mac.try_into().ok(),
        (None, _) => None,
        (Some(_), mask) if mask.is_none_or(|m| m.iter().all(|b| *b == 0)) => None,
        _ => return None,
    };
    Some(pattern)
}

/// A key of one byte whose mask is all or nothing; None: another mask.
fn byte(options: &[u8], kind: u16) -> Option<Option<u8>> {
    match (attribute(options, kind), attribute(options, kind + 1)) {
        (Some(&[value]), Some([0xff])) => Some(Some(value)),
        (_, None | Some([0])) => Some(None),
        _ => None,
    }
}

fn masked(options: &[u8], kind: u16, number: impl Fn(&[u8]) -> Option<u16>) -> Option<Masked> {
    let (value, mask) =
        (number(attribute(options, kind)?)?, number(attribute(options, kind + 1)?)?);
    (mask != 0).then(|| Masked::new(value, mask))
}

/// The prefix in a filter's attributes, if any. The outer None: the mask is not that of a prefix.
fn address(options: &[u8], v4: u16, v6: u16) -> Option<Option<IpNetwork>> {
    let of = |kind: u16| {
        Some((
            netlink::address(attribute(options, kind)?)?,
            netlink::address(attribute(options, kind + 1)?)?,
        ))
    };
    match of(v4).or_else(|| of(v6)) {
        Some((_, mask)) if mask.is_unspecified() => Some(None),
        Some((address, mask)) => IpNetwork::with_netmask(address, mask).ok().map(Some),
        None => Some(None),
    }
}

/// The ports in a filter's attributes, if any. The outer None: only half a range is there.
fn ports(options: &[u8], keys: Option<(u16, u16)>, range: u16) -> Option<Option<Ports>> {
    let of = |kind: u16| attribute(options, kind).and_then(be16);
    match (of(range), of(range + 1)) {
        (Some(low), Some(high)) => return Some(Some(Ports::Range { low, high })),
        (None, None) => {}
        _ => return None,
    }
    let Some((key, mask)) = keys else { return Some(None) };
    Some(match (of(key), of(mask)) {
        (Some(value), Some(mask)) if mask != 0 => Some(Ports::Masked(Masked::new(value, mask))),
        _ => None,
    })
}

/// The match that [`encode::ematch`] makes, byte by byte; the kernel gives it back as it was.
fn local(options: &[u8]) -> bool {
    let mut expected = Vec::new();
    encode::ematch(&mut expected);
    let list = |tree: &[u8]| attribute(tree, 2).and_then(|l| attribute(l, 1)).map(<[u8]>::to_vec);
    let found = attribute(options, BASIC_EMATCHES).and_then(list);
    // The kernel adds a left value; header and right value are what counts.
    let parts = |m: &[u8]| {
        let own = m.get(8..).unwrap_or_default();
        (
            m.get(2..4).map(<[u8]>::to_vec),
            attribute(own, 1).map(<[u8]>::to_vec),
            attribute(own, 3).map(<[u8]>::to_vec),
        )
    };
    found.as_deref().map(parts) == list(&expected).as_deref().map(parts)
}

/// The cookie of the last action.
fn cookie(actions: &[u8]) -> Option<Cookie> {
    let (_, last) = attributes(actions).last()?;
    attribute(last, ACT_COOKIE)?.try_into().ok().map(Cookie)
}

fn action(actions: &[u8]) -> Option<Action> {
    let list: Vec<(&[u8], &[u8])> = attributes(actions)
        .filter_map(|(_, a)| Some((attribute(a, ACT_KIND)?, attribute(a, ACT_OPTIONS)?)))
        .collect();
    let control =
        |options: &[u8], kind: u16| Some(u32_of(attribute(options, kind)?.get(8..)?)? as i32);
    let chain =
        |control: i32| (control & !CHAIN_MASK == ACT_GOTO).then_some((control & CHAIN_MASK) as u32);
    match list[..] {
        [(b"gact\0", options)] => match control(options, PARMS)? {
            ACT_OK => Some(Action::Pass),
            ACT_SHOT => Some(Action::Drop),
            ACT_UNSPEC => Some(Action::Continue),
            other => chain(other).map(Action::Goto),
        },
        [(b"ct\0", track), (b"gact\0", options)] => {
            let plain = |kind| attribute(track, kind).is_none_or(|v| v.iter().all(|b| *b == 0));
            let plain = control(track, CT_PARMS)? == ACT_PIPE && plain(CT_ACTION) && plain(CT_ZONE);
            plain.then(|| chain(control(options, PARMS)?).map(Action::Track))?
        }
        [(b"mirred\0", options)] => {
            let value = attribute(options, PARMS)?;
            let redirects = u32_of(value.get(20..)?)? == EGRESS_REDIR as u32;
            redirects.then(|| u32_of(value.get(24..)?).map(IfIndex::new).map(Action::Redirect))?
        }
        _ => None,
    }
}
