//! Why a packet was decided so, as Hubble has it: reasons, policies, and kinds of rules.
//!
//! Not here: what decided (`netpolc-agent`), and the words for it (`netpolc-flow`).

use netpolc_flow::{Decider, Flow, Verdict};

use super::shown;
use crate::api::flow::{DropReason, Policy};

/// netpolc's reason where policies have denied a packet.
pub const POLICY: &str = "policy";

/// The action of a rule that denies.
const DENY: &str = "Deny";

/// Why the packet was dropped: of Hubble's reasons the nearest.
pub fn reason(flow: &Flow) -> DropReason {
    let Some(reason) = flow.reason.as_deref() else { return DropReason::Unknown };
    match reason {
        POLICY if flow.by.iter().any(denies) => DropReason::PolicyDeny,
        POLICY => DropReason::PolicyDenied,
        "fragment" => DropReason::FirstLogicalDatagramFragmentNotFound,
        "truncated" => DropReason::CtTruncatedOrInvalidHeader,
        "malformed" | "source_route" => DropReason::InvalidPacketDropped,
        "spoofed_source" => DropReason::InvalidSourceIp,
        "state_full" => DropReason::CtMapInsertionFailed,
        "not_ip" => DropReason::UnsupportedL3Protocol,
        "icmp_error" => DropReason::UnknownConnectionTrackingState,
        "discovery" => DropReason::ForbiddenIcmpv6Message,
        "tunnel" => DropReason::EncapsulationTrafficIsProhibited,
        "foreign_destination" => DropReason::UnknownL3TargetAddress,
        _ => DropReason::Unknown,
    }
}

fn denies(decider: &Decider) -> bool {
    decider.action.as_deref() == Some(DENY)
}

/// What has decided, by what it did.
#[derive(Debug, Default)]
pub struct Policies {
    /// The rules that permit.
    pub allowed: Vec<Policy>,
    /// What isolates the pod, and the rules that deny.
    pub denied: Vec<Policy>,
}

impl Policies {
    /// What has decided about this flow; for one that policies which are only tried would have
    /// decided otherwise, those.
    pub fn of(flow: &Flow) -> Self {
        let is_denied = |one: &&Decider| match flow.verdict {
            Verdict::Allowed => false,
            Verdict::Denied => true,
            // What only isolates denies.
            Verdict::Audit => denies(one) || one.rule.is_none(),
        };
        let (denied, allowed): (Vec<&Decider>, _) = flow.by.iter().partition(is_denied);
        let all = |list: Vec<&Decider>| list.into_iter().map(policy).collect();
        Self { allowed: all(allowed), denied: all(denied) }
    }
}

fn policy(one: &Decider) -> Policy {
    let rule = one.rule.as_ref().map(|rule| format!("netpolc:rule={rule}"));
    let index = |what: &str, index: Option<u32>| index.map(|i| format!("netpolc:{what}={i}"));
    let tier = one.tier.as_ref().map(|tier| format!("netpolc:tier={tier}"));
    let action = one.action.as_ref().map(|action| format!("netpolc:action={action}"));
    let labels = [rule, index("peer", one.peer), index("port", one.port), tier, action];
    Policy {
        name: shown(&one.name),
        namespace: shown(one.namespace.as_deref().unwrap_or_default()),
        labels: labels.into_iter().flatten().map(|label| shown(&label)).collect(),
        revision: 0,
        kind: one.kind.name().into(),
    }
}

/// What the rule that decided is about, as Cilium numbers it: its peers are L3, its ports are L4.
pub fn match_type(flow: &Flow) -> u32 {
    const NONE: u32 = 0;
    const L3_ONLY: u32 = 1;
    const L3_L4: u32 = 2;
    const L4_ONLY: u32 = 3;
    const ALL: u32 = 4;
    let rule = flow.by.iter().find(|one| one.rule.is_some());
    match (rule, flow.verdict) {
        (Some(rule), _) => match (rule.peer, rule.port) {
            (Some(_), Some(_)) => L3_L4,
            (Some(_), None) => L3_ONLY,
            (None, Some(_)) => L4_ONLY,
            (None, None) => ALL,
        },
        // Nothing isolates the pod.
        (None, Verdict::Allowed) => ALL,
        (None, Verdict::Denied | Verdict::Audit) => NONE,
    }
}

#[cfg(test)]
mod tests {
    use netpolc_flow::{Kind, Peer};
    use netpolc_policy::Direction;

    use super::*;

    fn denied(reason: &str, by: Vec<Decider>) -> Flow {
        Flow {
            time: 0,
            node: "n1".into(),
            verdict: Verdict::Denied,
            reason: Some(reason.into()),
            direction: Direction::Ingress,
            pod: None,
            source: Peer::default(),
            destination: Peer::default(),
            protocol: "TCP".into(),
            tcp_flags: None,
            icmp: None,
            by,
            bytes: 60,
        }
    }

    #[test]
    fn every_reason_of_a_target_has_one_of_hubbles() {
        for target in netpolc_target::DropReason::ALL {
            let said = reason(&denied(target.name(), vec![]));
            assert_ne!(said, DropReason::Unknown, "{}", target.name());
        }
        let isolates = Decider::whole(Kind::NetworkPolicy, "data/db");
        let rule = Decider {
            rule: Some("ingress[0]".into()),
            action: Some(DENY.into()),
            ..Decider::whole(Kind::ClusterNetworkPolicy, "no-metadata")
        };
        assert_eq!(reason(&denied(POLICY, vec![isolates.clone()])), DropReason::PolicyDenied);
        assert_eq!(reason(&denied(POLICY, vec![isolates, rule])), DropReason::PolicyDeny);
    }

    #[test]
    fn rules_are_about_peers_and_ports() {
        let of = |verdict, peer, port| {
            let rule = Some("ingress[0]".into());
            let by = Decider { rule, peer, port, ..Decider::whole(Kind::NetworkPolicy, "a/b") };
            match_type(&Flow { verdict, by: vec![by], ..denied(POLICY, vec![]) })
        };
        assert_eq!(of(Verdict::Allowed, Some(0), Some(0)), 2);
        assert_eq!(of(Verdict::Allowed, Some(0), None), 1);
        assert_eq!(of(Verdict::Allowed, None, Some(0)), 3);
        assert_eq!(of(Verdict::Denied, None, None), 4);
        assert_eq!(match_type(&denied(POLICY, vec![])), 0);
        let open = Flow { verdict: Verdict::Allowed, ..denied(POLICY, vec![]) };
        assert_eq!(match_type(&open), 4);
    }
}
