//! ClusterNetworkPolicies and rules of theirs that change nothing, because earlier ones of their
//! tier decide all that they would decide.
//!
//! What comes behind the tier does not count: a Deny of what no NetworkPolicy allows today is there
//! for the policies of tomorrow. As with NetworkPolicies, all that is reported may be removed at
//! once.

use std::collections::{BTreeMap, BTreeSet};

use netpolc_policy::{ContainerPort, Direction, Mode, Tier, TierPolicy, TierRule};

use super::{Check, Lint, Object, Place, Says, count};
use crate::{
    Analysis,
    peers::Claimants,
    side::Without,
    universe::{ProfileId, RemoteId},
};

/// Profiles to which the same policies of tiers apply, and on which names stand for the same ports.
type Group = (Vec<usize>, Vec<(Option<std::sync::Arc<str>>, u8, u16)>);

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    if lint.tiers.is_empty() {
        return;
    }
    let groups = groups(lint);
    let mut found = Vec::new();
    let mut gone: Vec<Without> = Vec::new();
    let tiers = &lint.tiers;
    // Within a priority and over priorities the last one is looked at first, so that of two the
    // earlier one stays.
    let mut order: Vec<usize> = (0..tiers.len()).collect();
    order.sort_by_key(|i| (tiers[*i].0.tier, tiers[*i].0.priority, *i));
    for index in order.into_iter().rev() {
        let (policy, profiles) = &tiers[index];
        let about: Vec<ProfileId> = groups
            .iter()
            .filter(|((policies, _), _)| policies.contains(&index))
            .map(|(_, profile)| *profile)
            .collect();
        if about.is_empty() || policy.mode != Mode::Enforced {
            continue;
        }
        let pods: usize = profiles.iter().map(|id| lint.pods[id.index()]).sum();
        let object = Object::ClusterNetworkPolicy(policy.key.clone());
        let rules = Direction::BOTH.into_iter().flat_map(|direction| {
            let rules = policy.rules(direction).iter().enumerate();
            rules.map(move |(rule, it)| (Place { direction, rule }, it))
        });
        let rules: Vec<(Place, &TierRule)> = rules.collect();
        let mut idle = Vec::new();
        let mut looked_at = 0;
        for &(place, rule) in rules.iter().rev() {
            let Some(remotes) = touched(lint.analysis, rule) else { continue };
            looked_at += 1;
            let out = Without::TierRule(policy.key.clone(), place.direction, place.rule);
            let without = plus(&gone, &out);
            let analysis = &mut *lint.analysis;
            let is_idle = about
                .iter()
                .all(|id| is_same(analysis, *id, place.direction, policy.tier, &without, &remotes));
            if is_idle {
                gone.push(out);
                idle.push(place);
            }
        }
        if !idle.is_empty() && idle.len() == looked_at {
            found.push((
                Check::PolicyChangesNothing,
                object,
                String::new(),
                policy_says(policy, pods),
            ));
            continue;
        }
        for place in idle {
            let says = rule_says(policy, place, pods);
            found.push((Check::RuleChangesNothing, object.clone(), place.to_string(), says));
        }
    }
    for (check, object, field, says) in found {
        lint.report(check, object, field, says);
    }
}

fn policy_says(policy: &TierPolicy, pods: usize) -> Says {
    let (tier, pods) = (policy.tier, count(pods, "pod"));
    Says {
        what: format!(
            "The policy changes nothing as the cluster is now: others of the tier {tier} decide \
             all \
             that it would decide about {pods}."
        ),
        change: "Remove it, or give it a lower number as its priority if it should come first."
            .into(),
    }
}

fn rule_says(policy: &TierPolicy, place: Place, pods: usize) -> Says {
    let rule = &policy.rules(place.direction)[place.rule];
    Says {
        what: format!(
            "The rule changes nothing as the cluster is now: earlier rules of the tier {} decide \
             all that it would {} about {}.",
            policy.tier,
            rule.action.to_string().to_lowercase(),
            count(pods, "pod")
        ),
        change: "Remove it, or move it before the rules that are wider.".into(),
    }
}

fn plus(gone: &[Without], out: &Without) -> Without {
    Without::Several(gone.iter().chain([out]).cloned().collect())
}

/// A profile for each group.
fn groups(lint: &Lint<'_, '_>) -> BTreeMap<Group, ProfileId> {
    let mut about: BTreeMap<ProfileId, Vec<usize>> = BTreeMap::new();
    for (index, (_, profiles)) in lint.tiers.iter().enumerate() {
        profiles.iter().for_each(|id| about.entry(*id).or_default().push(index));
    }
    let names: BTreeSet<_> = lint
        .tiers
        .iter()
        .flat_map(|(policy, _)| &policy.ingress)
        .flat_map(|rule| match &rule.ports {
            netpolc_policy::Ports::Any => &[][..],
            netpolc_policy::Ports::Listed(list) => list,
        })
        .filter_map(|port| match port {
            netpolc_policy::Port::Named { name, .. } | netpolc_policy::Port::Name(name) => {
                Some(name)
            }
            _ => None,
        })
        .collect();
    let mut groups = BTreeMap::new();
    for (id, policies) in about {
        let pod = lint.universe().profile(id).pod;
        let is_named =
            |port: &&ContainerPort| port.name.as_ref().is_some_and(|name| names.contains(name));
        let ports = pod.ports.iter().filter(is_named);
        let mut ports: Vec<_> =
            ports.map(|p| (p.name.clone(), p.protocol.number(), p.number)).collect();
        ports.sort_unstable();
        ports.dedup();
        groups.entry((policies, ports)).or_insert(id);
    }
    groups
}

/// Those with whom an answer may change where the rule is left out: everybody where it names
/// nobody; None where it means nobody.
fn touched(analysis: &mut Analysis<'_>, rule: &TierRule) -> Option<Touched> {
    let mut remotes = Vec::new();
    for peer in &rule.peers {
        match analysis.peers.of_tier(&analysis.universe, peer) {
            None => return Some(Touched::Everybody),
            Some(meant) => {
                let meant = meant.iter().flat_map(|meant| meant.among(Claimants::Any));
                remotes.extend(meant.copied());
            }
        }
    }
    (!remotes.is_empty()).then_some(Touched::These(remotes))
}

enum Touched {
    These(Vec<RemoteId>),
    Everybody,
}

/// Does the tier answer the same about a direction of the profile?
fn is_same(
    analysis: &mut Analysis<'_>,
    profile: ProfileId,
    direction: Direction,
    tier: Tier,
    without: &Without,
    touched: &Touched,
) -> bool {
    let old = analysis.side(profile, direction);
    let new = analysis.side_without(profile, direction, without);
    let Analysis { universe, traffic, .. } = analysis;
    let mut same = |remote: Option<RemoteId>| {
        old.tier(tier, remote, universe, traffic) == new.tier(tier, remote, universe, traffic)
    };
    match touched {
        Touched::These(remotes) => remotes.iter().all(|remote| same(Some(*remote))),
        Touched::Everybody => {
            same(None) && old.named_by_tier(tier, universe).into_iter().all(|r| same(Some(r)))
        }
    }
}
