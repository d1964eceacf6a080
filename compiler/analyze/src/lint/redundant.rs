//! NetworkPolicies and rules of theirs that change nothing: without them every answer about every
//! pod would be the same.
//!
//! Whatever is reported may be removed all at once, since each is compared with the cluster without
//! those that were reported before. Of two rules that say the same the first one therefore stays.
//!
//! Not here: rules of ClusterNetworkPolicies, whose order counts (`tier_order`).

use netpolc_policy::{Direction, Isolation, Mode, ObjectKey, Peers, Policy, Port, Ports};

use super::{Check, Lint, Object, Place, Says, Selecting, Severity, count, listed};
use crate::{
    Analysis,
    peers::Claimants,
    side::{Side, Without},
    traffic::TrafficId,
    universe::{ProfileId, RemoteId},
};

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    let mut found = Vec::new();
    // Policies are in the order of their keys, so those of a namespace stand together. The last one
    // is looked at first, so that of two the first one stays; and those that only isolate are
    // looked at when it is known which others could go, since these isolate, too.
    let mut gone: Vec<Without> = Vec::new();
    let same =
        |a: &Selecting<'_>, b: &Selecting<'_>| a.policy.key.namespace == b.policy.key.namespace;
    let in_turn = lint.policies.chunk_by(same).flat_map(|here| {
        let (rules, nothing): (Vec<_>, Vec<_>) =
            here.iter().rev().partition(|of| of.rules().next().is_some());
        rules.into_iter().chain(nothing)
    });
    let mut before: Option<&str> = None;
    for of in in_turn {
        let policy = of.policy;
        let is_enforced = matches!(of.object, Object::NetworkPolicy(_));
        if !is_enforced || policy.mode != Mode::Enforced || of.profiles.is_empty() {
            continue;
        }
        if before != Some(&*policy.key.namespace) {
            gone.clear();
            before = Some(&policy.key.namespace);
        }
        let pods: usize = of.profiles.iter().map(|id| lint.pods[id.index()]).sum();
        let out = Without::Policy(policy.key.clone());
        if let Some(why) = is_idle(lint.analysis, of, &plus(&gone, &out)) {
            let adds = if of.rules().next().is_some() { Adds::Rules } else { Adds::Nothing };
            let severity = match adds {
                Adds::Rules => Severity::Warning,
                Adds::Nothing => Severity::Note,
            };
            found.push((
                severity,
                Check::PolicyChangesNothing,
                of.object.clone(),
                String::new(),
                policy_says(why, adds, pods),
            ));
            gone.push(out);
            continue;
        }
        let rules: Vec<_> = of.rules().collect();
        for (place, rule) in rules.into_iter().rev() {
            let key = policy.key.clone();
            let out = Without::Rule(key, place.direction, place.rule);
            let touched = touched(lint.analysis, policy, place, rule);
            // That a rule means nobody, or no port, is said elsewhere.
            if touched == Touched::Nobody || is_portless(&rule.ports) {
                continue;
            }
            let without = plus(&gone, &out);
            let analysis = &mut *lint.analysis;
            let mut profiles = of.profiles.iter();
            if !profiles.all(|id| is_same(analysis, *id, place.direction, &without, &touched)) {
                continue;
            }
            let why = why(analysis, &of.profiles, place.direction, &without, &touched);
            let other = match why {
                Why::Granted => other_rule(analysis, &lint.policies, of, place, &touched, &without),
                Why::Decided => None,
            };
            found.push((
                Severity::Warning,
                Check::RuleChangesNothing,
                of.object.clone(),
                place.to_string(),
                rule_says(why, other.as_deref(), pods),
            ));
            gone.push(out);
        }
    }
    for (severity, check, object, field, says) in found {
        lint.report_as(severity, check, object, field, says);
    }
}

/// Why something changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Other NetworkPolicies grant the same.
    Granted,
    /// Tiers or security groups decide all that it would grant.
    Decided,
}

/// What a policy adds to isolating its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adds {
    /// Rules that allow something.
    Rules,
    /// Nothing: it is there to isolate.
    Nothing,
}

fn policy_says(why: Why, adds: Adds, pods: usize) -> Says {
    let pods = count(pods, "pod");
    match (adds, why) {
        (Adds::Rules, Why::Decided) => Says {
            what: format!(
                "The policy changes nothing as the cluster is now: ClusterNetworkPolicies or \
                 security groups decide all that it would about {pods} that it selects."
            ),
            change: "Remove it, or change what decides in its place.".into(),
        },
        (Adds::Rules, Why::Granted) => Says {
            what: format!(
                "The policy changes nothing as the cluster is now: other policies isolate {pods} \
                 that it selects, and allow all that it allows."
            ),
            change: "Remove it, or the rules of others that repeat it.".into(),
        },
        (Adds::Nothing, _) => Says {
            what: format!(
                "The policy changes nothing as the cluster is now: other policies isolate {pods} \
                 that it selects."
            ),
            change: "Leave it where it is there for pods to come; remove it if not.".into(),
        },
    }
}

fn rule_says(why: Why, other: Option<&str>, pods: usize) -> Says {
    let by = match (why, other) {
        (Why::Decided, _) => {
            "ClusterNetworkPolicies or security groups decide all that it would allow".into()
        }
        (Why::Granted, Some(other)) => format!("{other} already allows what it allows"),
        (Why::Granted, None) => "other rules together already allow what it allows".into(),
    };
    Says {
        what: format!(
            "The rule changes nothing as the cluster is now: {by}, for {} that its policy selects.",
            count(pods, "pod")
        ),
        change: match why {
            Why::Granted => "Remove the rule, or narrow the one that repeats it.".into(),
            Why::Decided => "Remove the rule, or change what decides in its place.".into(),
        },
    }
}

fn plus(gone: &[Without], out: &Without) -> Without {
    Without::Several(gone.iter().chain([out]).cloned().collect())
}

fn is_portless(ports: &Ports) -> bool {
    matches!(ports, Ports::Listed(list) if list.iter().all(|port| *port == Port::Nothing))
}

/// With whom an answer may change where a rule is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Touched {
    Nobody,
    These(Vec<RemoteId>),
    Everybody,
}

fn touched(
    analysis: &mut Analysis<'_>,
    policy: &Policy,
    place: Place,
    rule: &netpolc_policy::Rule,
) -> Touched {
    debug_assert!(policy.isolation(place.direction) != &Isolation::Open, "it has a rule");
    if rule.peers == Peers::Any {
        return Touched::Everybody;
    }
    let mut remotes = Vec::new();
    for (_, peer) in listed(rule) {
        let namespace = &policy.key.namespace;
        let meant = analysis.peers.of_policy(&analysis.universe, namespace, peer);
        remotes.extend_from_slice(meant.among(Claimants::Any));
    }
    match remotes.is_empty() {
        true => Touched::Nobody,
        false => Touched::These(remotes),
    }
}

/// Some where every answer about every pod that the policy selects is the same without it.
fn is_idle(analysis: &mut Analysis<'_>, of: &Selecting<'_>, without: &Without) -> Option<Why> {
    let mut whys = Vec::new();
    for direction in Direction::BOTH {
        if *of.policy.isolation(direction) == Isolation::Open {
            continue;
        }
        let mut here = Touched::These(Vec::new());
        for (place, rule) in of.rules().filter(|(place, _)| place.direction == direction) {
            here = match (here, touched(analysis, of.policy, place, rule)) {
                (Touched::Everybody, _) | (_, Touched::Everybody) => Touched::Everybody,
                (Touched::These(mut all), Touched::These(remotes)) => {
                    all.extend(remotes);
                    Touched::These(all)
                }
                (here, _) => here,
            };
        }
        let mut profiles = of.profiles.iter();
        if !profiles.all(|id| is_same(analysis, *id, direction, without, &here)) {
            return None;
        }
        whys.push(why(analysis, &of.profiles, direction, without, &here));
    }
    match whys.contains(&Why::Decided) {
        true => Some(Why::Decided),
        false => Some(Why::Granted),
    }
}

/// Why no answer is another one.
fn why(
    analysis: &mut Analysis<'_>,
    profiles: &[ProfileId],
    direction: Direction,
    without: &Without,
    touched: &Touched,
) -> Why {
    let is_granted = profiles.iter().all(|id| {
        let old = analysis.side(*id, direction);
        let new = analysis.side_without(*id, direction, without);
        let mut compare = Compare { analysis, old: &old, new: &new };
        match touched {
            Touched::These(remotes) => {
                remotes.iter().all(|remote| compare.is_granted_the_same(Some(*remote)))
            }
            Touched::Everybody | Touched::Nobody => compare.is_granted_the_same(None),
        }
    });
    if is_granted { Why::Granted } else { Why::Decided }
}

/// Is every answer about a direction of the profile the same?
fn is_same(
    analysis: &mut Analysis<'_>,
    profile: ProfileId,
    direction: Direction,
    without: &Without,
    touched: &Touched,
) -> bool {
    // What was left out before has changed no answer, so the cluster as it is may be compared.
    let old = analysis.side(profile, direction);
    let new = analysis.side_without(profile, direction, without);
    let mut compare = Compare { analysis, old: &old, new: &new };
    match touched {
        // Whom no rule means is isolated as before.
        Touched::These(remotes) if old.is_isolated() == new.is_isolated() => {
            remotes.iter().all(|remote| compare.with(*remote))
        }
        _ => {
            compare.base() && {
                let new = new.row(&analysis.universe, &mut analysis.traffic);
                *analysis.row(profile, direction) == new
            }
        }
    }
}

struct Compare<'c, 'a> {
    analysis: &'c mut Analysis<'a>,
    old: &'c Side,
    new: &'c Side,
}

impl Compare<'_, '_> {
    fn with(&mut self, remote: RemoteId) -> bool {
        // Where NetworkPolicies grant the same, nothing else need be asked.
        self.is_granted_the_same(Some(remote)) || {
            let Analysis { universe, traffic, .. } = &mut *self.analysis;
            let of = |side: &Side, traffic: &mut _| side.with(remote, universe, traffic);
            of(self.old, traffic) == of(self.new, traffic)
        }
    }

    /// Do NetworkPolicies grant the same, before tiers and groups are asked?
    fn is_granted_the_same(&mut self, remote: Option<RemoteId>) -> bool {
        let Analysis { universe, traffic, .. } = &mut *self.analysis;
        let granted = |side: &Side, traffic: &mut _| side.granted(remote, universe, traffic);
        granted(self.old, traffic) == granted(self.new, traffic)
    }

    fn base(&mut self) -> bool {
        let Analysis { universe, traffic, .. } = &mut *self.analysis;
        let of = |side: &Side, traffic: &mut _| side.base(universe, traffic);
        of(self.old, traffic) == of(self.new, traffic)
    }
}

/// The rule that allows the same, where there is a single one: without it as well an answer would
/// change.
fn other_rule(
    analysis: &mut Analysis<'_>,
    policies: &[Selecting<'_>],
    of: &Selecting<'_>,
    place: Place,
    touched: &Touched,
    without: &Without,
) -> Option<String> {
    let profile = *of.profiles.first()?;
    let remote = match touched {
        Touched::These(remotes) => remotes.first().copied(),
        Touched::Everybody | Touched::Nobody => None,
    };
    let namespace = &of.policy.key.namespace;
    let here = policies.partition_point(|other| key(other) < (false, namespace));
    let here = policies[here..].iter().take_while(|other| key(other) == (false, namespace));
    let answer = |analysis: &mut Analysis<'_>, without: &Without| -> TrafficId {
        let side = analysis.side_without(profile, place.direction, without);
        match remote {
            Some(remote) => side.with(remote, &analysis.universe, &mut analysis.traffic),
            None => side.base(&analysis.universe, &mut analysis.traffic),
        }
    };
    let old = answer(analysis, without);
    for other in here.filter(|other| other.profiles.contains(&profile)) {
        for (there, _) in other.rules().filter(|(there, _)| there.direction == place.direction) {
            let key: ObjectKey = other.policy.key.clone();
            let is_itself = key == of.policy.key && there == place;
            let out = Without::Rule(key, there.direction, there.rule);
            let both = Without::Several(vec![without.clone(), out]);
            if !is_itself && answer(analysis, &both) != old {
                let owner = &other.policy.key;
                return Some(match *owner == of.policy.key {
                    true => format!("{there} of the same policy"),
                    false => format!("{there} of NetworkPolicy {owner}"),
                });
            }
        }
    }
    None
}

/// Staged policies come behind all others.
fn key<'s>(of: &'s Selecting<'_>) -> (bool, &'s std::sync::Arc<str>) {
    (matches!(of.object, Object::StagedPolicy(_)), &of.policy.key.namespace)
}
