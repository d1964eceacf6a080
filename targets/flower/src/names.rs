//! The names and values that tc uses for the parts of a filter.
//!
//! Not here: whole filters as text ([`crate::text`]) or JSON ([`crate::json`]).

use crate::filter::{Copies, EtherType, Filter, Masked, Match, Pattern, Ports, Side, ct};

/// The name of a hook: `ingress` or `egress`.
pub fn side(side: Side) -> &'static str {
    match side {
        Side::Ingress => "ingress",
        Side::Egress => "egress",
    }
}

/// What tc calls the ethertype of a filter after `protocol`: `all`, `ip`, `ipv6` or `arp`.
pub fn protocol(filter: &Filter) -> &'static str {
    match &filter.matches {
        Match::Local => "all",
        Match::Flower(pattern) => match pattern.ethertype {
            EtherType::All => "all",
            EtherType::Ipv4 => "ip",
            EtherType::Ipv6 => "ipv6",
            EtherType::Arp => "arp",
        },
    }
}

/// Where a filter runs: `hardware`, `software` or `both`.
pub fn placement(copies: Copies) -> &'static str {
    match copies {
        Copies::Software => "software",
        Copies::Hardware => "hardware",
        Copies::Both => "both",
    }
}

/// The keys that a pattern has, with the names and values that tc uses, in its order.
pub fn keys(pattern: &Pattern) -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    if let Some(mac) = pattern.destination_mac {
        keys.push(("dst_mac", mac.map(|b| format!("{b:02x}")).join(":")));
    }
    if let Some(protocol) = pattern.protocol {
        let name = match (protocol, pattern.ethertype) {
            (6, _) => "tcp".into(),
            (17, _) => "udp".into(),
            (132, _) => "sctp".into(),
            (1, EtherType::Ipv4) => "icmp".into(),
            (58, EtherType::Ipv6) => "icmpv6".into(),
            _ => protocol.to_string(),
        };
        keys.push(("ip_proto", name));
    }
    let mut add = |name: &'static str, value: Option<String>| keys.extend(value.map(|v| (name, v)));
    add("ip_ttl", pattern.hop_limit.map(|v| v.to_string()));
    add("dst_ip", pattern.destination.map(|p| p.to_string()));
    add("src_ip", pattern.source.map(|p| p.to_string()));
    add("dst_port", pattern.destination_port.map(ports));
    add("src_port", pattern.source_port.map(ports));
    add("tcp_flags", pattern.tcp_flags.map(|m| format!("{:#05x}/{:#05x}", m.value, m.mask)));
    add(
        if pattern.ethertype == EtherType::Ipv6 { "icmp6_type" } else { "icmp_type" },
        pattern.icmp_type.map(|v| v.to_string()),
    );
    add("ct_state", pattern.ct_state.map(state));
    keys
}

/// A set of ports as tc writes it: `80`, `8000/0xfff8` or `80-90`.
fn ports(ports: Ports) -> String {
    match ports {
        Ports::Masked(Masked { value, mask: u16::MAX }) => value.to_string(),
        Ports::Masked(Masked { value, mask }) => format!("{value}/{mask:#06x}"),
        Ports::Range { low, high } => format!("{low}-{high}"),
    }
}

/// The bits of `ct_state` under its mask, each with `+` or `-`: `+trk+est-rpl`.
fn state(key: Masked) -> String {
    let names = [
        (ct::TRACKED, "trk"),
        (ct::NEW, "new"),
        (ct::ESTABLISHED, "est"),
        (ct::RELATED, "rel"),
        (ct::INVALID, "inv"),
        (ct::REPLY, "rpl"),
    ];
    let used = names.iter().filter(|(bit, _)| key.mask & bit != 0);
    used.map(|(bit, name)| format!("{}{name}", if key.value & bit != 0 { '+' } else { '-' }))
        .collect()
}
