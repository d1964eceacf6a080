//! Counters of flows: by verdict, by rule, and of what has no flow.
//!
//! Each rule of a policy that decides about a pod of this node has a time series from the start, so
//! that one that is never used shows as 0. Series end with their rules. Not here: what a flow is
//! ([`netpolc_flow`]), and which rules there are ([`super::rules`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use netpolc_flow::{Decider, Flow, Verdict, line::Unrecorded};

/// How many rules are told apart. The flows of all others are counted together, so that a cluster's
/// policies never become too many time series.
const MOST: usize = 2000;
/// How many of them may have a series before they have decided anything: what is used goes first.
const MOST_UNUSED: usize = MOST / 2;
/// The policy under which the others are counted. No policy has this name: a NetworkPolicy's has a
/// namespace in front, and those of other kinds say their kind.
const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRule {
    policy: String,
    rule: String,
    verdict: &'static str,
}

impl ByRule {
    fn of(rule: &Decider, verdict: Verdict) -> Self {
        let name = rule.rule.as_deref().unwrap_or_default().to_owned();
        Self { policy: rule.policy(), rule: name, verdict: verdict.name() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: String,
}

/// What is counted of flows, with the rules that have time series of their own.
#[derive(Debug, Default)]
pub struct FlowCounters {
    flows: Family<ByVerdict, Counter>,
    rules: Family<ByRule, Counter>,
    unrecorded: Family<ByReason, Counter>,
    lost: Counter,
    events: Family<ByResult, Counter>,
    known: Mutex<Known>,
}

/// The rules that are told apart, with the verdicts of their series.
#[derive(Debug, Default)]
struct Known {
    rules: BTreeMap<Decider, BTreeSet<Verdict>>,
    /// Whether rules have come since [`FlowCounters::take_new`].
    has_new: bool,
}

impl FlowCounters {
    /// Makes the counters a part of what is served.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("flows", "Flows, by what was decided", self.flows.clone());
        registry.register(
            "rule_flows",
            "Flows that a rule has decided, by policy, rule and what was decided; the rule is \
             empty where the policy as a whole decides, since it isolates or is only tried; those \
             of rules beyond the first 2,000 have the policy \"other\"",
            self.rules.clone(),
        );
        registry.register(
            "unrecorded_packets",
            "Packets that were noticed and have no flow, by why they were noticed",
            self.unrecorded.clone(),
        );
        registry.register(
            "lost_flows",
            "Flows that the agent has dropped, since it was too slow",
            self.lost.clone(),
        );
        registry.register(
            "denial_events",
            "Events about denied traffic that were reported, and denied packets that were \
             suppressed, since there were too many kinds of traffic",
            self.events.clone(),
        );
    }

    /// Counts flows.
    pub fn flows(&self, flows: &[Flow]) {
        let mut verdicts: BTreeMap<Verdict, u64> = BTreeMap::new();
        let mut rules: BTreeMap<(Decider, Verdict), u64> = BTreeMap::new();
        for flow in flows {
            *verdicts.entry(flow.verdict).or_default() += 1;
            let decided = flow.by.iter().filter(|one| one.is_policy()).map(Decider::rule);
            for rule in decided.collect::<BTreeSet<Decider>>() {
                *rules.entry((rule, flow.verdict)).or_default() += 1;
            }
        }
        for (verdict, count) in verdicts {
            let labels = ByVerdict { verdict: verdict.name() };
            self.flows.get_or_create(&labels).inc_by(count);
        }
        let mut known = self.known();
        for ((rule, verdict), count) in rules {
            let labels = match known.admit(&rule, verdict, MOST) {
                true => ByRule::of(&rule, verdict),
                false => {
                    ByRule { policy: OTHER.into(), rule: String::new(), verdict: verdict.name() }
                }
            };
            self.rules.get_or_create(&labels).inc_by(count);
        }
    }

    /// Counts packets without a flow.
    pub fn unrecorded(&self, all: &[Unrecorded]) {
        for one in all {
            let labels = ByReason { reason: one.reason.to_string() };
            self.unrecorded.get_or_create(&labels).inc_by(one.packets);
        }
    }

    /// Counts flows that were dropped.
    pub fn lost(&self, count: u64) {
        self.lost.inc_by(count);
    }

    /// Counts Events about denied traffic, and packets that no Event will tell of.
    pub fn events(&self, reported: u64, suppressed: u64) {
        for (result, count) in [("reported", reported), ("suppressed", suppressed)] {
            self.events.get_or_create(&ByResult { result }).inc_by(count);
        }
    }

    /// Whether there are rules that were not told apart at the last call. Perhaps some of them are
    /// gone by now: flows are counted a little later than they happen.
    pub fn take_new(&self) -> bool {
        std::mem::take(&mut self.known().has_new)
    }

    /// Ends the series of rules of which `exists` says that they are gone, and begins those of
    /// `here`, each with the verdict that it is there for.
    pub fn follow(
        &self,
        exists: impl Fn(&Decider) -> bool,
        here: impl IntoIterator<Item = (Decider, Verdict)>,
    ) {
        let mut known = self.known();
        known.rules.retain(|rule, verdicts| {
            let stays = exists(rule);
            if !stays {
                for verdict in verdicts.iter() {
                    self.rules.remove(&ByRule::of(rule, *verdict));
                }
            }
            stays
        });
        for (rule, verdict) in here {
            if known.admit(&rule, verdict, MOST_UNUSED) {
                drop(self.rules.get_or_create(&ByRule::of(&rule, verdict)));
            }
        }
        known.has_new = false;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether a rule is told apart, now where there are fewer than `most`.
    fn admit(&mut self, rule: &Decider, verdict: Verdict, most: usize) -> bool {
        if let Some(verdicts) = self.rules.get_mut(rule) {
            verdicts.insert(verdict);
            return true;
        }
        let has_room = self.rules.len() < most;
        if has_room {
            self.rules.insert(rule.clone(), [verdict].into());
            self.has_new = true;
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use netpolc_policy::Direction;
    use prometheus_client::encoding::text::encode;

    use super::*;
    use netpolc_flow::{Kind, Peer};

    fn rule(policy: &str, rule: &str) -> Decider {
        let whole = Decider::whole(Kind::NetworkPolicy, policy);
        Decider { rule: (!rule.is_empty()).then(|| rule.into()), ..whole }
    }

    fn flow(by: &[Decider], verdict: Verdict) -> Flow {
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
            by: by.to_vec(),
            bytes: 60,
        }
    }

    struct Scene {
        counters: FlowCounters,
        registry: Registry,
    }

    impl Scene {
        fn new() -> Self {
            let (counters, mut registry) =
                (FlowCounters::default(), Registry::with_prefix("netpolc"));
            counters.register(&mut registry);
            Self { counters, registry }
        }

        fn text(&self) -> String {
            let mut text = String::new();
            encode(&mut text, &self.registry).unwrap();
            text
        }

        fn has(&self, lines: &[&str]) {
            let text = self.text();
            for line in lines {
                assert!(text.lines().any(|l| l == *line), "{line} in\n{text}");
            }
        }
    }

    #[test]
    fn flows_are_counted_by_verdict_and_rule_within_bounds() {
        let scene = Scene::new();
        let a = |n: u32| Decider { peer: Some(n), ..rule("shop/a", "ingress[0]") };
        // Two peers of one rule are one rule.
        scene.counters.flows(&[flow(&[a(0), a(1)], Verdict::Allowed)]);
        let denied = || flow(&[rule("shop/a", "")], Verdict::Denied);
        scene.counters.flows(&[denied(), denied()]);
        scene.counters.unrecorded(&[Unrecorded {
            pod: None,
            direction: Direction::Egress,
            reason: "policy".into(),
            packets: 7,
        }]);
        let many = (0..2 * MOST).map(|n| flow(&[rule(&format!("shop/p{n}"), "")], Verdict::Audit));
        scene.counters.flows(&many.collect::<Vec<Flow>>());
        // One that is known already still is.
        scene.counters.flows(&[denied()]);
        scene.has(&[
            "netpolc_flows_total{verdict=\"denied\"} 3",
            "netpolc_flows_total{verdict=\"audit\"} 4000",
            "netpolc_rule_flows_total{policy=\"shop/a\",rule=\"\",verdict=\"denied\"} 3",
            "netpolc_rule_flows_total{policy=\"shop/a\",rule=\"ingress[0]\",verdict=\"allowed\"} 1",
            "netpolc_rule_flows_total{policy=\"other\",rule=\"\",verdict=\"audit\"} 2002",
            "netpolc_unrecorded_packets_total{reason=\"policy\"} 7",
        ]);
    }

    /// However often policies are made anew under other names, there is room for those that exist,
    /// and a rule that was never used shows as 0.
    #[test]
    fn series_end_with_their_rules_and_begin_before_they_are_used() {
        let scene = Scene::new();
        for round in 0..2 * MOST {
            let name = format!("shop/p{round}");
            let unused = [(rule(&name, "ingress[0]"), Verdict::Allowed)];
            let exists = |one: &Decider| one.policy() == name;
            scene.counters.follow(exists, unused);
            assert!(!scene.counters.take_new());
            scene.counters.flows(&[flow(&[rule(&name, "")], Verdict::Denied)]);
            assert!(scene.counters.take_new());
        }
        let last = 2 * MOST - 1;
        let text = scene.text();
        let series = text.lines().filter(|line| line.starts_with("netpolc_rule_flows_total"));
        assert_eq!(series.count(), 2, "{text}");
        scene.has(&[
            &format!(
                "netpolc_rule_flows_total{{policy=\"shop/p{last}\",rule=\"ingress[0]\",\
                verdict=\"allowed\"}} 0"
            ),
            &format!(
                "netpolc_rule_flows_total{{policy=\"shop/p{last}\",rule=\"\",verdict=\"denied\"}} 1"
            ),
        ]);
        // Rules that are not used leave room for those that are.
        let unused = (0..MOST).map(|n| (rule(&format!("a/{n}"), ""), Verdict::Denied));
        scene.counters.follow(|_| true, unused);
        scene.counters.flows(&[flow(&[rule("z/z", "")], Verdict::Denied)]);
        scene.has(&["netpolc_rule_flows_total{policy=\"z/z\",rule=\"\",verdict=\"denied\"} 1"]);
    }
}
