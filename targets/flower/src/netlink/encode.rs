//! A filter as an RTM_NEWTFILTER or RTM_DELTFILTER message.
//!
//! Not here: sending it.

use netpolc_table::IfIndex;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netpolc_host::{
    netlink::{
        flags::{ACK, CREATE, ECHO, EXCLUSIVE},
        message, nest, put,
    },
    tc::{self, TCA_KIND, TCA_OPTIONS},
};

use super::numbers::*;
use super::parent;
use crate::filter::{Action, Cookie, Copies, EtherType, Filter, Masked, Match, Pattern, Ports};

/// What is done with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is new; EEXIST where its handle is taken.
    Add,
    /// It takes the place of the one with its handle, at once.
    Replace,
    /// The one with its handle goes.
    Remove,
}

/// Appends the message to a buffer. `sequence` comes back with the answer; `handle` is not 0. What
/// [`super::check()`] refuses would be left out of the message, so ask it first.
///
/// A filter for software and hardware is taken by the kernel when only software takes it, so of
/// those the kernel is asked to send back what became of it (NLM_F_ECHO, tfilter_notify in
/// net/sched/cls_api.c) and to say why (TCA_CLS_FLAGS_VERBOSE, tc_cls_common_offload_init in
/// include/net/pkt_cls.h).
pub fn encode(
    to: &mut Vec<u8>,
    way: Way,
    ifindex: IfIndex,
    filter: &Filter,
    handle: u32,
    sequence: u32,
) {
    let (kind, flags) = match way {
        Way::Add => (libc::RTM_NEWTFILTER, CREATE | EXCLUSIVE),
        Way::Replace => (libc::RTM_NEWTFILTER, CREATE),
        Way::Remove => (libc::RTM_DELTFILTER, 0),
    };
    let echo = if way != Way::Remove && filter.copies == Copies::Both { ECHO } else { 0 };
    let ethertype = match &filter.matches {
        Match::Local => ETH_ALL,
        Match::Flower(pattern) => ethertype(pattern.ethertype),
    };
    let info = u32::from(filter.prio) << 16 | u32::from(ethertype.to_be());
    message(to, kind, ACK | flags | echo, sequence, |to| {
        to.extend(tc::header(ifindex.get(), handle, parent(filter.side), info));
        let classifier: &[u8] =
            if filter.matches == Match::Local { b"basic\0" } else { b"flower\0" };
        put(to, TCA_KIND, classifier);
        put(to, TCA_CHAIN, &filter.chain.to_ne_bytes());
        if way != Way::Remove {
            nest(to, TCA_OPTIONS, |to| match &filter.matches {
                Match::Local => basic(to, &filter.action, filter.cookie),
                Match::Flower(pattern) => flower(to, filter, pattern),
            });
        }
    });
}

fn ethertype(of: EtherType) -> u16 {
    match of {
        EtherType::All => ETH_ALL,
        EtherType::Ipv4 => ETH_IPV4,
        EtherType::Ipv6 => ETH_IPV6,
        EtherType::Arp => ETH_ARP,
    }
}

fn flower(to: &mut Vec<u8>, filter: &Filter, pattern: &Pattern) {
    if pattern.ethertype != EtherType::All {
        put(to, ETH_TYPE, &ethertype(pattern.ethertype).to_be_bytes());
    }
    if let Some(mac) = pattern.destination_mac {
        put(to, ETH_DST, &mac);
        put(to, ETH_DST_MASK, &[0xff; 6]);
    }
    if let Some(protocol) = pattern.protocol {
        put(to, IP_PROTO, &[protocol]);
    }
    address(to, pattern.source, IPV4_SRC, IPV6_SRC);
    address(to, pattern.destination, IPV4_DST, IPV6_DST);
    let keys = pattern.protocol.and_then(port_keys);
    for (ports, side, range) in
        [(pattern.source_port, 0, PORT_SRC_MIN), (pattern.destination_port, 1, PORT_DST_MIN)]
    {
        match (ports, keys) {
            (Some(Ports::Masked(Masked { value, mask })), Some(keys)) => {
                put(to, keys[side].0, &value.to_be_bytes());
                put(to, keys[side].1, &mask.to_be_bytes());
            }
            (Some(Ports::Range { low, high }), Some(_)) => {
                put(to, range, &low.to_be_bytes());
                put(to, range + 1, &high.to_be_bytes());
            }
            _ => {}
        }
    }
    if let Some(Masked { value, mask }) = pattern.tcp_flags {
        put(to, TCP_FLAGS, &value.to_be_bytes());
        put(to, TCP_FLAGS + 1, &mask.to_be_bytes());
    }
    if let Some(kind) = pattern.icmp_type {
        let key = if pattern.ethertype == EtherType::Ipv6 { ICMPV6_TYPE } else { ICMPV4_TYPE };
        put(to, key, &[kind]);
        put(to, key + 1, &[0xff]);
    }
    if let Some(limit) = pattern.hop_limit {
        put(to, IP_TTL, &[limit]);
        put(to, IP_TTL + 1, &[0xff]);
    }
    if let Some(Masked { value, mask }) = pattern.ct_state {
        put(to, CT_STATE, &value.to_ne_bytes());
        put(to, CT_STATE + 1, &mask.to_ne_bytes());
    }
    let flags = match filter.copies {
        Copies::Software => SKIP_HW,
        Copies::Hardware => SKIP_SW,
        Copies::Both => VERBOSE,
    };
    put(to, FLAGS, &flags.to_ne_bytes());
    nest(to, FLOWER_ACT, |to| actions(to, &filter.action, filter.cookie));
}

fn address(to: &mut Vec<u8>, prefix: Option<IpNetwork>, v4: u16, v6: u16) {
    let Some(prefix) = prefix else { return };
    match (prefix.network(), prefix.mask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            put(to, v4, &address.octets());
            put(to, v4 + 1, &mask.octets());
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => {
            put(to, v6, &address.octets());
            put(to, v6 + 1, &mask.octets());
        }
        _ => {}
    }
}

/// `basic match meta(sk_family gt 0)`
fn basic(to: &mut Vec<u8>, action: &Action, cookie: Cookie) {
    nest(to, BASIC_EMATCHES, ematch);
    nest(to, BASIC_ACT, |to| actions(to, action, cookie));
}

/// A tree of one match: TCF_EM_META (4) with TCF_META_ID_SK_FAMILY (16) greater (1) than
/// TCF_META_ID_VALUE (0), both of TCF_META_TYPE_INT (1, in the highest 4 bits).
pub(super) fn ematch(to: &mut Vec<u8>) {
    const INT: u16 = 1 << 12;
    put(to, 1, &[1u16.to_ne_bytes(), 0u16.to_ne_bytes()].concat());
    nest(to, 2, |to| {
        // struct tcf_ematch_hdr: matchid, kind, flags, pad; then the match's own attributes.
        let mut value: Vec<u8> = [0u16, 4, 0, 0].into_iter().flat_map(u16::to_ne_bytes).collect();
        // struct tcf_meta_hdr: left and right, each kind u16, shift u8, operation u8.
        let side = |kind: u16, operation: u8| [kind.to_ne_bytes(), [0, operation]].concat();
        put(&mut value, 1, &[side(INT | 16, 1), side(INT, 0)].concat());
        put(&mut value, 3, &0u32.to_ne_bytes());
        put(to, 1, &value);
    });
}

fn actions(to: &mut Vec<u8>, action: &Action, cookie: Cookie) {
    let gact = |to: &mut Vec<u8>, at, control| {
        one(to, at, b"gact\0", Some(cookie), |to| put(to, PARMS, &parameters(control)));
    };
    match *action {
        Action::Pass => gact(to, 1, ACT_OK),
        Action::Drop => gact(to, 1, ACT_SHOT),
        Action::Continue => gact(to, 1, ACT_UNSPEC),
        Action::Goto(chain) => gact(to, 1, ACT_GOTO | chain as i32),
        Action::Track(chain) => {
            one(to, 1, b"ct\0", None, |to| {
                put(to, CT_PARMS, &parameters(ACT_PIPE));
                // Zone 0 is no attribute: kernels without zones refuse it.
                put(to, CT_ACTION, &0u16.to_ne_bytes());
            });
            gact(to, 2, ACT_GOTO | chain as i32);
        }
        Action::Redirect(port) => one(to, 1, b"mirred\0", Some(cookie), |to| {
            let mut value = parameters(ACT_STOLEN).to_vec();
            value.extend(EGRESS_REDIR.to_ne_bytes());
            value.extend(port.get().to_ne_bytes());
            put(to, PARMS, &value);
        }),
    }
}

fn one(
    to: &mut Vec<u8>,
    at: u16,
    kind: &[u8],
    cookie: Option<Cookie>,
    options: impl FnOnce(&mut Vec<u8>),
) {
    nest(to, at, |to| {
        put(to, ACT_KIND, kind);
        nest(to, ACT_OPTIONS, options);
        if let Some(Cookie(bytes)) = cookie {
            put(to, ACT_COOKIE, &bytes);
        }
    });
}

/// struct tc_gen: index, capab, action, refcnt, bindcnt.
fn parameters(control: i32) -> [u8; 20] {
    let mut value = [0; 20];
    value[8..12].copy_from_slice(&control.to_ne_bytes());
    value
}
