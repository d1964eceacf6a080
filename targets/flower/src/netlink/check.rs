//! Which filters can be told to the kernel at all.
//!
//! Classifier flower leaves out keys whose premise is not there (fl_set_key in
//! net/sched/cls_flower.c: ports and TCP flags without their protocol, for example): what is left
//! matches more than was meant. Such a filter is refused here. Not here: what a NIC refuses.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::numbers::{CHAIN_MASK, port_keys};
use crate::filter::{Action, EtherType, Filter, Match, Pattern, Ports, ct};

/// Why there is no message for a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The number of a chain has more than 28 bits.
    #[error("a chain's number is above 268435455")]
    Chain,
    /// The prio is 0, which stands for any.
    #[error("prio 0 stands for any")]
    Prio,
    /// A key belongs to IPv4 or IPv6.
    #[error("{0} needs protocol ip or ipv6")]
    EtherType(&'static str),
    /// An address of the other family.
    #[error("{0} is not of the filter's protocol")]
    Family(IpNetwork),
    /// A key belongs to some protocols above IP.
    #[error("{0} needs an ip_proto that has it")]
    Protocol(&'static str),
    /// The kernel takes 0 as no key; other ranges that are none it refuses itself.
    #[error("a range of ports cannot begin with 0")]
    Range,
    /// A mask that leaves nothing to match, or a value with bits outside of it.
    #[error("{0} has a value outside of its mask, or no mask")]
    Mask(&'static str),
    /// A bit that ct_state does not have.
    #[error("ct_state has no such bits")]
    CtState,
}

/// Can the kernel be told about this filter, with every key?
///
/// # Errors
/// Names the first part of the filter that the kernel would leave out or take for something else.
pub fn check(filter: &Filter) -> Result<(), Unfit> {
    let most = CHAIN_MASK as u32;
    let leads_to = match filter.action {
        Action::Goto(chain) | Action::Track(chain) => chain,
        _ => 0,
    };
    if filter.chain > most || leads_to > most {
        return Err(Unfit::Chain);
    }
    if filter.prio == 0 {
        return Err(Unfit::Prio);
    }
    match &filter.matches {
        Match::Local => Ok(()),
        Match::Flower(pattern) => keys(pattern),
    }
}

fn keys(pattern: &Pattern) -> Result<(), Unfit> {
    let ip = matches!(pattern.ethertype, EtherType::Ipv4 | EtherType::Ipv6);
    let addresses = [pattern.source, pattern.destination];
    for (used, what) in [
        (pattern.protocol.is_some(), "ip_proto"),
        (pattern.hop_limit.is_some(), "ip_ttl"),
        (addresses.iter().any(Option::is_some), "an address"),
    ] {
        if used && !ip {
            return Err(Unfit::EtherType(what));
        }
    }
    let other = |address: IpAddr| address.is_ipv6() != (pattern.ethertype == EtherType::Ipv6);
    if let Some(prefix) = addresses.into_iter().flatten().find(|p| other(p.ip())) {
        return Err(Unfit::Family(prefix));
    }
    let icmp = if pattern.ethertype == EtherType::Ipv6 { 58 } else { 1 };
    for (used, what, has) in [
        (pattern.source_port.is_some(), "src_port", pattern.protocol.and_then(port_keys).is_some()),
        (
            pattern.destination_port.is_some(),
            "dst_port",
            pattern.protocol.and_then(port_keys).is_some(),
        ),
        (pattern.tcp_flags.is_some(), "tcp_flags", pattern.protocol == Some(6)),
        (pattern.icmp_type.is_some(), "icmp type", pattern.protocol == Some(icmp)),
    ] {
        if used && !has {
            return Err(Unfit::Protocol(what));
        }
    }
    let masked = |ports: Option<Ports>| match ports {
        Some(Ports::Masked(masked)) => Some(masked),
        _ => None,
    };
    for (what, masked) in [
        ("src_port", masked(pattern.source_port)),
        ("dst_port", masked(pattern.destination_port)),
        ("tcp_flags", pattern.tcp_flags),
        ("ct_state", pattern.ct_state),
    ] {
        if masked.is_some_and(|m| m.mask == 0 || m.value & !m.mask != 0) {
            return Err(Unfit::Mask(what));
        }
    }
    for ports in [pattern.source_port, pattern.destination_port] {
        if let Some(Ports::Range { low: 0, .. }) = ports {
            return Err(Unfit::Range);
        }
    }
    let known = ct::NEW | ct::ESTABLISHED | ct::RELATED | ct::TRACKED | ct::INVALID | ct::REPLY;
    match pattern.ct_state {
        Some(state) if state.mask & !known != 0 => Err(Unfit::CtState),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Cookie, Copies, Masked, Side};

    fn refused(pattern: Pattern) -> Option<Unfit> {
        let (matches, cookie) = (Match::Flower(pattern), Cookie::new(1, 1, 1));
        let (side, copies) = (Side::Ingress, Copies::Software);
        check(&Filter { side, chain: 0, prio: 1, matches, action: Action::Drop, copies, cookie })
            .err()
    }

    #[test]
    fn what_the_kernel_would_leave_out_is_refused() {
        let v4 = || Pattern { ethertype: EtherType::Ipv4, ..Pattern::default() };
        let tcp = || Pattern { protocol: Some(6), ..v4() };
        assert_eq!(refused(Pattern::default()), None);
        assert_eq!(refused(Pattern { destination_port: Some(Ports::one(80)), ..tcp() }), None);
        let of_all = Pattern { protocol: Some(6), ..Pattern::default() };
        assert_eq!(refused(of_all), Some(Unfit::EtherType("ip_proto")));
        let ports = Pattern { destination_port: Some(Ports::one(80)), ..v4() };
        assert_eq!(refused(ports), Some(Unfit::Protocol("dst_port")));
        let flags = Pattern { protocol: Some(17), tcp_flags: Some(Masked::new(2, 2)), ..v4() };
        assert_eq!(refused(flags), Some(Unfit::Protocol("tcp_flags")));
        let other = "fd00::/8".parse().unwrap();
        assert_eq!(refused(v4().to(other)), Some(Unfit::Family(other)));
        let icmp = Pattern { protocol: Some(58), icmp_type: Some(1), ..v4() };
        assert_eq!(refused(icmp), Some(Unfit::Protocol("icmp type")));
        let range = Pattern { source_port: Some(Ports::Range { low: 0, high: 9 }), ..tcp() };
        assert_eq!(refused(range), Some(Unfit::Range));
        let empty = Pattern { tcp_flags: Some(Masked { value: 0, mask: 0 }), ..tcp() };
        assert_eq!(refused(empty), Some(Unfit::Mask("tcp_flags")));
        let bits = Pattern { ct_state: Some(Masked::exact(2)), ..v4() };
        assert_eq!(refused(bits), Some(Unfit::CtState));
    }

    #[test]
    fn chains_and_prios_have_bounds() {
        let matches = Match::Flower(Pattern::default());
        let (side, cookie, copies) = (Side::Egress, Cookie::new(1, 1, 1), Copies::Hardware);
        let with = |chain, prio, action| {
            check(&Filter { side, chain, prio, matches: matches.clone(), action, copies, cookie })
                .err()
        };
        assert_eq!(with((1 << 28) - 1, 1, Action::Track((1 << 28) - 1)), None);
        assert_eq!(with(1 << 28, 1, Action::Pass), Some(Unfit::Chain));
        assert_eq!(with(0, 1, Action::Goto(1 << 28)), Some(Unfit::Chain));
        assert_eq!(with(0, 0, Action::Pass), Some(Unfit::Prio));
    }
}
