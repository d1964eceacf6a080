//! Established connections between this node's pods, forwarded by a switch.
//!
//! A filter repeats the policy of the connection's opener on each of its packets: the openers'
//! packets by destination port, replies by source port, as the opener's egress set and the other
//! side's ingress set say. So a tighter policy is a replacement of filters, and no tracked
//! connection needs to be forgotten. Tracking is in zone 0 and never commits. Filters are in
//! software as well, or a connection that hardware does not know would find no filter there. Where
//! the host may translate, replies are the host's ([`Forwarding::Translating`]). They keep alive
//! what the eBPF programs remember of the connection, so there only TCP is forwarded, which
//! acknowledges all that it gets; datagrams may go one way for long. No filter of such a chain
//! relies on another, so the chain is named after its pod and changes in place ([`crate::sync`]):
//! another pod's coming and going changes that pod's filters only. Not here: openings
//! ([`super::representor`]).

use std::net::IpAddr;

use netpolc_table::{EndpointId, Origins, TableId, schema::Family};

use super::{
    budget::{Unit, Value},
    chains::{Chains, Role, Rule},
    common::{FIRST_PRIO, index, name},
    flat::blocks,
    layers::{hardware, number},
    local::{Local, Pod},
    ports::PortSet,
    region::Answer,
};
use crate::{
    capability::Capabilities,
    filter::{Action, Copies, Masked, Pattern, Side, ct, host},
    lowered::{Reason, Spilled},
    topology::Forwarding,
};

/// The prio of the filter in chain 0 that tracks, for IPv4; IPv6 has the next one.
pub const PRIO: u16 = FIRST_PRIO + 8;
/// Part of the name of the chain of a pod's connections.
const NAME: &str = "connections";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a pod sends to the others, one unit for each of its addresses; else why nothing is
/// forwarded.
///
/// # Errors
/// Says why nothing is forwarded from this pod; None where there is nothing to forward, since it
/// has no address or no other pod is there.
pub fn units(
    local: &Local<'_>,
    endpoint: EndpointId,
    chains: &mut Chains,
    can: &Capabilities,
) -> Result<Vec<Unit>, Option<Spilled>> {
    let pod = &local.pods[&endpoint];
    let others: Vec<&Pod> =
        local.pods.iter().filter(|(e, _)| **e != endpoint).map(|(_, p)| p).collect();
    if others.is_empty() || pod.own.iter().all(Vec::is_empty) {
        return Err(None);
    }
    let spilled = |reason: Reason| {
        let what = "established connections".to_owned();
        Err(Some(Spilled {
            port: pod.port.clone(),
            what,
            reason,
            filters: 0,
            origins: Origins::default(),
        }))
    };
    // Everything that forwarding needs, in the order in which it is worth telling.
    let reasons = [
        (local.topology.forwarding != Forwarding::Routed, Reason::Routed),
        (can.ct && can.chains > 0, Reason::Ct),
        (can.redirect, Reason::Redirect),
        (can.priority && can.zero_keys, Reason::Priority),
        (pod.mac.is_some() && others.iter().any(|o| o.mac.is_some()), Reason::NextHop),
    ];
    if let Some((_, reason)) = reasons.iter().find(|(able, _)| !able) {
        return spilled(*reason);
    }
    let mut units = Vec::new();
    for family in Family::BOTH.into_iter().filter(|f| *f == Family::V4 || can.ipv6) {
        for address in &pod.own[index(family)] {
            let forwarding = local.topology.forwarding;
            let Some(rules) = connections(pod, *address, &others, forwarding, can) else {
                return spilled(Reason::Filters);
            };
            if rules.is_empty() {
                continue;
            }
            let origins: Origins =
                rules.iter().flat_map(|r| r.origins.as_slice()).cloned().collect();
            let rest = both(hardware(
                Role::Rest,
                TableId::Base,
                Pattern::of(family),
                Action::Pass,
                &Origins::default(),
            ));
            let Ok(chain) =
                chains.named(Side::Ingress, &(NAME, address), number(vec![rules, vec![rest]], can))
            else {
                return spilled(Reason::Tables);
            };
            let from = Pattern::of(family).from(host(*address));
            let track = both(hardware(
                Role::Forward,
                TableId::Endpoint,
                from,
                Action::Track(chain),
                &origins,
            ));
            let prio = PRIO + index(family) as u16;
            units.push(Unit {
                port: pod.port.clone(),
                what: format!("established {} connections of {}", name(family), pod.name),
                value: Value::Forward,
                rules: vec![Rule { prio, ..track }],
                origins,
            });
        }
    }
    // Without the direction only what is permitted in both is certain.
    if units.is_empty() && !can.ct_reply { spilled(Reason::CtReply) } else { Ok(units) }
}

/// The filters for packets from one address of a pod; None where ports take too many.
fn connections(
    pod: &Pod,
    from: IpAddr,
    others: &[&Pod],
    forwarding: Forwarding,
    can: &Capabilities,
) -> Option<Vec<Rule>> {
    let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut rules = Vec::new();
    for other in others {
        let Some(mac) = other.mac else { continue };
        for to in &other.own[index(family)] {
            let (there, in_) = (pod.egress(family).part(*to), other.ingress(family).part(from));
            let (back, out) = (other.egress(family).part(from), pod.ingress(family).part(*to));
            let opened = there.answer.and(&in_.answer);
            let replied = match forwarding {
                Forwarding::Switched => back.answer.and(&out.answer),
                Forwarding::Translating | Forwarding::Routed => Answer::Deny,
            };
            let parts = [there, in_, back, out].into_iter();
            let origins: Origins = parts.flat_map(|p| p.origins.as_slice()).cloned().collect();
            let forward = |state: Masked, pattern: Pattern| {
                let pattern = Pattern {
                    destination_mac: Some(mac),
                    ct_state: Some(state),
                    ..pattern.to(host(*to))
                };
                both(hardware(
                    Role::Forward,
                    TableId::Verdict,
                    pattern,
                    Action::Redirect(other.port.ifindex),
                    &origins,
                ))
            };
            // Everything is permitted whoever opened, so neither ports nor the direction matter.
            let established = ct::TRACKED | ct::ESTABLISHED;
            if (&opened, &replied) == (&Answer::Permit, &Answer::Permit) {
                rules.push(forward(Masked::new(established, established), Pattern::of(family)));
                continue;
            }
            // Without `rpl` the NIC cannot tell the opener's packets, which have the policed port
            // as their destination, from replies, which have it as their source.
            if !can.ct_reply {
                continue;
            }
            let mask = established | ct::REPLY;
            for (protocol, ports) in pieces(&opened, forwarding, can)? {
                let pattern = Pattern { protocol, destination_port: ports, ..Pattern::of(family) };
                rules.push(forward(Masked::new(established, mask), pattern));
            }
            for (protocol, ports) in pieces(&replied, forwarding, can)? {
                let pattern = Pattern { protocol, source_port: ports, ..Pattern::of(family) };
                rules.push(forward(Masked::new(mask, mask), pattern));
            }
        }
    }
    Some(rules)
}

/// A protocol (None: every one) and its ports (None: every one).
type Piece = (Option<u8>, Option<crate::filter::Ports>);

/// The protocols and ports that an answer permits, as keys; None where ports take too many.
fn pieces(answer: &Answer, forwarding: Forwarding, can: &Capabilities) -> Option<Vec<Piece>> {
    let protocols: &[u8] = match (forwarding, answer) {
        (Forwarding::Translating, _) => &[TCP],
        (_, Answer::Permit) => return Some(vec![(None, None)]),
        _ => &[TCP, UDP],
    };
    let mut list = Vec::new();
    for &protocol in protocols {
        let mut ports = answer.ports(protocol).into_owned();
        if !ports.is_all() {
            // What has no port reads as port 0.
            ports = ports.without(&PortSet::of([(0, 0)]));
        }
        list.extend(blocks(&ports, can)?.into_iter().map(|p| (Some(protocol), p)));
    }
    Some(list)
}

/// The same filter with a copy in software as well.
fn both(rule: Rule) -> Rule {
    Rule { copies: Copies::Both, ..rule }
}
