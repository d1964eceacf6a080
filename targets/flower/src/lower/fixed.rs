//! Filters of software flower that policies do not change: sources, neighbours, related errors, the
//! node itself.
//!
//! Not here: policy ([`super::answers`]), how these are put together ([`super::software`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use netpolc_table::{Origins, TableId, schema::Family};
use netpolc_target::semantics::{DHCP, DHCPV6, icmp, ip};

use super::{
    answers::{rest, rule},
    chains::{Role, Rule},
    common::{OPENING, implied},
    region::{Answer, Region},
};
use crate::filter::{Action, Copies, EtherType, Masked, Match, Pattern, Ports, ct, host};

/// A fixed filter's prio within its chain: each has one ethertype.
const ARP: u16 = 1;
const DISCOVERY: u16 = 2;
const OWN_V4: u16 = 3;
const DHCP_V4: u16 = 4;
const OWN_V6: u16 = 5;
const LINK_LOCAL: u16 = 6;
const LISTENER: u16 = 7;
const DHCP_V6: u16 = 8;
const REST: u16 = 100;

/// The one filter of chain 0, which leads to everything else. Whatever changes for the endpoint,
/// this is replaced in one message.
pub fn start(chain: u32) -> Rule {
    rule(
        1,
        Role::Start,
        TableId::Endpoint,
        Pattern::default(),
        &Action::Goto(chain),
        &Origins::default(),
    )
}

/// ARP and neighbour discovery, whoever sends it (S36).
pub fn neighbours() -> Vec<Rule> {
    let mut rules = vec![arp()];
    rules.extend(discovery(Action::Pass));
    rules
}

/// Denies what comes to the pod and claims to come from it (S47): what a pod sends to itself never
/// leaves it.
pub fn forged(own: &[(IpAddr, Origins)], denied: &Action) -> Vec<Rule> {
    let forged = |(address, origins): &(IpAddr, Origins)| {
        let family = Family::of(*address);
        let prio = if family == Family::V4 { OWN_V4 } else { OWN_V6 };
        let pattern = Pattern::of(family).from(host(*address));
        rule(prio, Role::Guard, TableId::own(family), pattern, denied, origins)
    };
    own.iter().map(forged).collect()
}

fn arp() -> Rule {
    let pattern = Pattern { ethertype: EtherType::Arp, ..Pattern::default() };
    rule(ARP, Role::Neighbour, TableId::Endpoint, pattern, &Action::Pass, &implied("ARP (S36)"))
}

fn icmp_v6(kind: u8) -> Pattern {
    Pattern { protocol: Some(ip::ICMPV6), icmp_type: Some(kind), ..Pattern::of(Family::V6) }
}

/// Neighbour discovery; `routers` is what becomes of what only routers send.
fn discovery(routers: Action) -> impl Iterator<Item = Rule> {
    let (first, last) = icmp::DISCOVERY;
    (first..=last).map(move |kind| {
        let pattern = Pattern { hop_limit: Some(255), ..icmp_v6(kind) };
        let origins = implied("neighbour discovery (S36)");
        let action = if icmp::OF_ROUTERS.contains(&kind) { routers.clone() } else { Action::Pass };
        rule(DISCOVERY, Role::Neighbour, TableId::Endpoint, pattern, &action, &origins)
    })
}

/// What the pod may send by its source (S55): its own addresses as `proven` says, what needs no
/// source of its own as `unproven` says. `set` is the egress set's answer, None where everything
/// passes.
pub fn sources(
    own: &[(IpAddr, Origins)],
    proven: &Action,
    unproven: &Action,
    link_local: u32,
    set: Option<&Region>,
) -> Vec<Rule> {
    let mut rules = vec![arp()];
    for (address, origins) in own {
        // Neighbour discovery has to be told from the rest first.
        let (prio, action) = match address {
            IpAddr::V4(_) => (OWN_V4, proven.clone()),
            IpAddr::V6(_) => (OWN_V6, Action::Goto(link_local)),
        };
        let pattern = Pattern::of(Family::of(*address)).from(host(*address));
        rules.push(rule(
            prio,
            Role::Guard,
            TableId::own(Family::of(*address)),
            pattern,
            &action,
            origins,
        ));
    }
    let (client, server) = DHCP;
    if set.is_none_or(|set| some(set, ip::UDP, Some(server))) {
        let pattern = Pattern::of(Family::V4).from(host(Ipv4Addr::UNSPECIFIED.into()));
        let pattern = udp(pattern, client, server);
        rules.push(rule(
            DHCP_V4,
            Role::Guard,
            TableId::OwnV4,
            pattern,
            unproven,
            &implied("DHCP (S55)"),
        ));
    }
    for prefix in [unspecified(), local_prefix()] {
        let pattern = Pattern::of(Family::V6).from(prefix);
        let origins = implied("link-local sources (S55)");
        rules.push(rule(
            LINK_LOCAL,
            Role::Guard,
            TableId::OwnV6,
            pattern,
            &Action::Goto(link_local),
            &origins,
        ));
    }
    rules.push(rest(REST, Action::Drop, implied("spoofed sources (S55)")));
    rules
}

/// What the pod may send from fe80::/10, :: and its own IPv6 addresses.
pub fn link_local(
    own: &[(IpAddr, Origins)],
    proven: &Action,
    unproven: &Action,
    set: Option<&Region>,
) -> Vec<Rule> {
    // A pod is not a router, so it may not send what only routers send.
    let mut rules: Vec<Rule> = discovery(Action::Drop).collect();
    for (address, origins) in own.iter().filter(|(a, _)| a.is_ipv6()) {
        let pattern = Pattern::of(Family::V6).from(host(*address));
        rules.push(rule(OWN_V6, Role::Guard, TableId::OwnV6, pattern, proven, origins));
    }
    if set.is_none_or(|set| some(set, ip::ICMPV6, None)) {
        let origins = implied("multicast listener discovery (S55)");
        let listener = icmp::LISTENER.map(|kind| icmp_v6(kind).to(multicast()));
        rules.extend(
            listener.map(|p| rule(LISTENER, Role::Guard, TableId::OwnV6, p, unproven, &origins)),
        );
    }
    let (client, server) = DHCPV6;
    if set.is_none_or(|set| some(set, ip::UDP, Some(server))) {
        let pattern = udp(Pattern::of(Family::V6).to(multicast()), client, server);
        rules.push(rule(
            DHCP_V6,
            Role::Guard,
            TableId::OwnV6,
            pattern,
            unproven,
            &implied("DHCPv6 (S55)"),
        ));
    }
    rules.push(rest(REST, Action::Drop, implied("spoofed sources (S55)")));
    rules
}

/// May a set permit such a packet, to some address?
fn some(set: &Region, protocol: u8, port: Option<u16>) -> bool {
    set.parts.iter().any(|p| p.answer.permits(protocol, port))
}

fn udp(pattern: Pattern, source: u16, destination: u16) -> Pattern {
    Pattern {
        protocol: Some(ip::UDP),
        source_port: Some(Ports::one(source)),
        destination_port: Some(Ports::one(destination)),
        ..pattern
    }
}

fn unspecified() -> IpNetwork {
    host(Ipv6Addr::UNSPECIFIED.into())
}

fn local_prefix() -> IpNetwork {
    let link_local = Ipv6Network::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    IpNetwork::V6(link_local.expect("10 is no more than 128"))
}

fn multicast() -> IpNetwork {
    let all = Ipv6Network::new(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
    IpNetwork::V6(all.expect("8 is no more than 128"))
}

/// ICMP errors about connections that may exist: those that this hook's direction opened, where its
/// set permits anything, and those that the other opened, where `replies` (None: everything, and
/// replies pass anyway) does. The tracker compares the quoted packet with its connection
/// (net/netfilter/nf_conntrack_proto_icmp.c, nf_conntrack_inet_error).
pub fn related(prio: u16, set: &[Region; 2], replies: Option<&[Region; 2]>) -> Vec<Rule> {
    let any = |region: &Region| region.parts.iter().any(|p| p.answer != Answer::Deny);
    let of = |(at, family): (usize, Family)| {
        let (value, mask) = match (any(&set[at]), replies.is_some_and(|r| any(&r[at]))) {
            (false, false) => return None,
            (true, true) => (ct::TRACKED | ct::RELATED, ct::TRACKED | ct::RELATED),
            (true, false) => (ct::TRACKED | ct::RELATED, ct::TRACKED | ct::RELATED | ct::REPLY),
            (false, true) => {
                let all = ct::TRACKED | ct::RELATED | ct::REPLY;
                (all, all)
            }
        };
        let protocol = Some(icmp_of(family));
        let pattern =
            Pattern { protocol, ct_state: Some(Masked::new(value, mask)), ..Pattern::of(family) };
        let origins = implied("related ICMP errors (S35)");
        Some(rule(
            prio + at as u16,
            Role::State,
            TableId::Endpoint,
            pattern,
            &Action::Pass,
            &origins,
        ))
    };
    Family::BOTH.into_iter().enumerate().filter_map(of).collect()
}

/// SYN without ACK in the reply direction: the other side would open the tuple as its own (S37,
/// S41), and connection tracking still calls it a reply. Where the tuple is free again, tracking
/// calls it new, and the set judges it.
pub fn reopened(prio: u16, denied: &Action, isolates: &Origins) -> Vec<Rule> {
    let reply = ct::TRACKED | ct::REPLY;
    let of = |(at, family): (usize, Family)| {
        let ct_state = Some(Masked::new(reply, reply));
        let pattern = Pattern {
            protocol: Some(ip::TCP),
            tcp_flags: Some(OPENING),
            ct_state,
            ..Pattern::of(family)
        };
        rule(prio + at as u16, Role::State, TableId::Endpoint, pattern, denied, isolates)
    };
    Family::BOTH.into_iter().enumerate().map(of).collect()
}

/// The IP protocol number of a family's ICMP.
pub fn icmp_of(family: Family) -> u8 {
    match family {
        Family::V4 => ip::ICMP,
        Family::V6 => ip::ICMPV6,
    }
}

/// ICMP errors that relate to nothing are denied, also by a set that permits their sender
/// everything (S35).
pub fn errors(prio: u16, family: Family, denied: &Action, isolates: &Origins) -> Vec<Rule> {
    let (prio, kinds): (u16, &[u8]) = match family {
        Family::V4 => (prio, &icmp::ERRORS_V4),
        Family::V6 => (prio + 1, &icmp::ERRORS_V6),
    };
    let error = |kind: &u8| {
        let pattern = Pattern {
            protocol: Some(icmp_of(family)),
            icmp_type: Some(*kind),
            ..Pattern::of(family)
        };
        rule(prio, Role::State, TableId::Endpoint, pattern, denied, isolates)
    };
    kinds.iter().map(error).collect()
}

/// Where denied packets to a pod go: those of this host's sockets to `node` (S44), the others
/// nowhere.
pub fn born_here(node: u32, isolates: &Origins) -> Vec<Rule> {
    let cookie = Role::Node.cookie(TableId::Endpoint, &0u8);
    let (action, origins) = (Action::Goto(node), implied("own node (S44)"));
    let local =
        Rule { prio: 1, matches: Match::Local, action, copies: Copies::Software, cookie, origins };
    vec![local, rest(REST, Action::Drop, isolates.clone())]
}

/// Passes what has one of the node's addresses: behind a bridge, a packet of another pod still
/// belongs to that pod's socket, so that a socket alone proves nothing.
pub fn node(addresses: &[IpAddr], isolates: &Origins) -> Vec<Rule> {
    let mut rules = vec![rest(REST, Action::Drop, isolates.clone())];
    for address in addresses {
        let prio = if address.is_ipv4() { 1 } else { 2 };
        let pattern = Pattern::of(Family::of(*address)).from(host(*address));
        let origins = implied("own node (S44)");
        rules.push(rule(prio, Role::Node, TableId::Endpoint, pattern, &Action::Pass, &origins));
    }
    rules
}
