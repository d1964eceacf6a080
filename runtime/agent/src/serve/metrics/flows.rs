//! Counters of flows: by verdict, by policy, and of what has no flow.
//!
//! Not here: what a flow is ([`netpolc_flow`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use netpolc_flow::{Flow, Verdict, line::Unrecorded};

/// How many policies are told apart. The flows of all others are counted together, so that a
/// cluster's policies never become too many time series.
const MOST: usize = 1000;
/// The name under which the others are counted. No policy has it: a NetworkPolicy's name has a
/// namespace in front, and those of other kinds say their kind.
const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPolicy {
    policy: String,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: String,
}

/// What is counted of flows, with the policies that have a time series of their own.
#[derive(Debug, Default)]
pub struct FlowCounters {
    flows: Family<ByVerdict, Counter>,
    policies: Family<ByPolicy, Counter>,
    unrecorded: Family<ByReason, Counter>,
    /// The policies that are told apart.
    known: Mutex<BTreeSet<String>>,
}

impl FlowCounters {
    /// Makes the counters a part of what is served.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("flows", "Flows, by what was decided", self.flows.clone());
        registry.register(
            "policy_flows",
            "Flows that a policy has decided, by policy and by what was decided; those of policies \
             beyond the first 1,000 have the policy \"other\"",
            self.policies.clone(),
        );
        registry.register(
            "unrecorded_packets",
            "Packets that were noticed and have no flow, by why they were noticed",
            self.unrecorded.clone(),
        );
    }

    /// Counts flows.
    pub fn flows(&self, flows: &[Flow]) {
        let mut verdicts: BTreeMap<Verdict, u64> = BTreeMap::new();
        let mut policies: BTreeMap<(String, Verdict), u64> = BTreeMap::new();
        for flow in flows {
            *verdicts.entry(flow.verdict).or_default() += 1;
            for policy in flow.policies() {
                *policies.entry((policy, flow.verdict)).or_default() += 1;
            }
        }
        for (verdict, count) in verdicts {
            let labels = ByVerdict { verdict: verdict.name() };
            self.flows.get_or_create(&labels).inc_by(count);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for ((policy, verdict), count) in policies {
            if known.len() < MOST {
                known.insert(policy.clone());
            }
            let policy = if known.contains(&policy) { policy } else { OTHER.into() };
            let labels = ByPolicy { policy, verdict: verdict.name() };
            self.policies.get_or_create(&labels).inc_by(count);
        }
    }

    /// Counts packets without a flow.
    pub fn unrecorded(&self, all: &[Unrecorded]) {
        for one in all {
            let labels = ByReason { reason: one.reason.to_string() };
            self.unrecorded.get_or_create(&labels).inc_by(one.packets);
        }
    }
}

#[cfg(test)]
mod tests {
    use netpolc_policy::Direction;
    use prometheus_client::encoding::text::encode;

    use super::*;
    use netpolc_flow::{Decider, Kind, Peer};

    fn flow(policy: &str, verdict: Verdict) -> Flow {
        Flow {
            time: 0,
            node: "n1".into(),
            verdict,
            reason: None,
            direction: Direction::Ingress,
            pod: None,
            source: Peer::default(),
            destination: Peer::default(),
            protocol: "TCP".into(),
            tcp_flags: None,
            icmp: None,
            by: vec![Decider::whole(Kind::NetworkPolicy, policy)],
            bytes: 60,
        }
    }

    #[test]
    fn flows_are_counted_by_verdict_and_policy_within_bounds() {
        let (counters, mut registry) = (FlowCounters::default(), Registry::with_prefix("netpolc"));
        counters.register(&mut registry);
        counters.flows(&[flow("shop/a", Verdict::Denied), flow("shop/a", Verdict::Allowed)]);
        counters.flows(&[flow("shop/a", Verdict::Denied)]);
        counters.unrecorded(&[Unrecorded {
            pod: None,
            direction: Direction::Egress,
            reason: "policy".into(),
            packets: 7,
        }]);
        let many: Vec<Flow> =
            (0..2 * MOST).map(|n| flow(&format!("shop/p{n}"), Verdict::Audit)).collect();
        counters.flows(&many);
        // One that is known already still is.
        counters.flows(&[flow("shop/a", Verdict::Denied)]);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "netpolc_flows_total{verdict=\"denied\"} 3",
            "netpolc_flows_total{verdict=\"audit\"} 2000",
            "netpolc_policy_flows_total{policy=\"shop/a\",verdict=\"denied\"} 3",
            "netpolc_policy_flows_total{policy=\"shop/a\",verdict=\"allowed\"} 1",
            "netpolc_policy_flows_total{policy=\"other\",verdict=\"audit\"} 1001",
            "netpolc_unrecorded_packets_total{reason=\"policy\"} 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
