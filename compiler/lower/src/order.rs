//! What an ordered set grants a class: the tiers and the NetworkPolicies between them, with
//! security groups as a gate beside them, evaluated once for all ports (S62-S65, S76).
//!
//! Ports are kept as sets of intervals, and every rule is asked about those that no rule before it
//! has decided, so that the work is in proportion to the rules that match and their intervals.
//! Pure: rules and members in, grants and their origins out.
//!
//! Not here: sets without tiers, whose rules have no order ([`crate::grants`]).

use std::collections::BTreeSet;

use netpolc_policy::Action;
use netpolc_table::{Origin, schema::Family};

use crate::{
    grants::{self, Conflict, Form, Grant, Granted, Outcome},
    index::AtomId,
    interval::{Lane, PortSet},
    membership::Atoms,
    rules::{Role, Rule},
    set::Set,
};

/// The ports that are still open to a decision, and what has been decided.
struct Evaluation<'a> {
    set: &'a Set,
    members: &'a [AtomId],
    atoms: &'a Atoms,
    /// No rule has matched these.
    open: PortSet,
    grants: Vec<Grant>,
    /// Rules that decided something, whatever it was.
    origins: Vec<Origin>,
    /// The first two rules of one priority that answer differently.
    conflict: Option<Conflict>,
}

/// Asks the rules of a set in their order about addresses of a family that are members of these
/// atoms.
pub(crate) fn outcome(
    set: &Set,
    family: Family,
    members: &[AtomId],
    atoms: &Atoms,
    form: Form,
) -> Outcome {
    // By index: the order in which the set was made is the order in which rules are asked.
    let mut indices: Vec<usize> = set.indices_for(family, members).collect();
    indices.sort_unstable();
    let rules: Vec<&Rule> = indices.into_iter().map(|index| &set.rules[index]).collect();
    let mut evaluation = Evaluation {
        set,
        members,
        atoms,
        open: PortSet::everything(&set.apart),
        grants: Vec::new(),
        origins: Vec::new(),
        conflict: None,
    };
    evaluation.tiers(&rules, |role| matches!(role, Role::Admin { .. }));
    if set.key.is_isolated() {
        evaluation.policies(&rules);
    } else {
        evaluation.tiers(&rules, |role| matches!(role, Role::Baseline { .. }));
        let rest = std::mem::take(&mut evaluation.open);
        evaluation.grant(&rest, set.default_source(), None);
    }
    let closed = grants::service_ports(set, members, atoms);
    let gates = evaluation.gates(&rules);
    let Evaluation { grants, mut origins, conflict, .. } = evaluation;
    // One entry answers for all ports, so it names only rules that grant every one of them.
    if closed.is_empty()
        && form == Form::Short
        && let Some(source) = sole(set, &grants)
    {
        let mut origins = granting(set, &rules, source);
        if !set.key.is_grouped() {
            return Outcome { grant: Granted::Everything, origins, conflict, ..Outcome::default() };
        }
        let everything = PortSet::everything(&set.apart);
        if let Some((gate, _)) = gates.iter().find(|(_, ports)| *ports == everything) {
            origins.push(set.origin(gate));
            return Outcome { grant: Granted::Everything, origins, conflict, ..Outcome::default() };
        }
    }
    let mut grants = grants::cut(set, grants, &closed);
    if set.key.is_grouped() {
        grants = gated(grants, &gates);
        origins.extend(gates.iter().map(|(rule, _)| set.origin(rule)));
    }
    let grant = if grants.is_empty() { Granted::Nothing } else { Granted::Ports(grants) };
    Outcome { grant, origins, conflict, ..Outcome::default() }
}

/// The source that grants everything and is the only one; None where there is none.
fn sole(set: &Set, grants: &[Grant]) -> Option<u32> {
    let source = grants.first()?.source;
    let is_sole = grants.iter().all(|grant| grant.source == source);
    let granted = PortSet::of(grants.iter().map(Grant::piece));
    (is_sole && granted == PortSet::everything(&set.apart)).then_some(source)
}

/// The first two rules of different policies that answer differently for some ports, with the one
/// that counts first: Deny before Accept before Pass.
fn conflict(set: &Set, matched: &[(&Rule, Action, PortSet)]) -> Option<Conflict> {
    let rank = |action: Action| match action {
        Action::Deny => 0,
        Action::Accept => 1,
        Action::Pass => 2,
    };
    for (i, (one, action, ports)) in matched.iter().enumerate() {
        for (other, reaction, others) in &matched[i + 1..] {
            if action == reaction || one.role.policy() == other.role.policy() {
                continue;
            }
            let Some(piece) = ports.intersection(others).pieces().next() else { continue };
            let is_first = rank(*action) < rank(*reaction);
            let (wins, loses) = if is_first { (one, other) } else { (other, one) };
            return Some(Conflict {
                wins: set.policy_of(wins),
                loses: set.policy_of(loses),
                direction: set.key.direction,
                piece,
            });
        }
    }
    None
}

/// The origins of what a source grants: its rules that match, each with its peer.
fn granting(set: &Set, rules: &[&Rule], source: u32) -> Vec<Origin> {
    let of_source = rules.iter().filter(|rule| rule.source == source);
    let mut origins: Vec<Origin> = of_source.map(|rule| set.origin(rule)).collect();
    if origins.is_empty() {
        origins.push(set.source_origin(source, None));
    }
    origins.dedup();
    origins
}

/// What is left of grants behind security groups, with the rules of groups that let it through: an
/// entry names both.
fn gated(grants: Vec<Grant>, gates: &[(&Rule, PortSet)]) -> Vec<Grant> {
    let open = gates.iter().fold(PortSet::default(), |all, (_, ports)| all.union(ports));
    let mut left: Vec<Grant> = Vec::new();
    for grant in grants {
        let pieces = PortSet::of([grant.piece()]).intersection(&open);
        left.extend(pieces.pieces().map(|piece| grant.on(piece)));
    }
    let granted = PortSet::of(left.iter().map(Grant::piece));
    for (rule, ports) in gates {
        let pieces = ports.intersection(&granted);
        left.extend(pieces.pieces().map(|piece| Grant::by(rule.source, piece)));
    }
    // Who grants all protocols without ports grants each of them: only where somebody grants less
    // does the table `port` have to tell a protocol apart.
    let all = |grant: &Grant| grant.lane == Lane::Others;
    let whole: BTreeSet<(u32, Option<u32>)> =
        left.iter().filter(|grant| all(grant)).map(|grant| (grant.source, grant.port)).collect();
    left.retain(|grant| {
        !matches!(grant.lane, Lane::Apart(_)) || !whole.contains(&(grant.source, grant.port))
    });
    left.sort();
    left.dedup();
    left
}

impl Evaluation<'_> {
    /// One tier. What passes leaves it, and is open again behind it.
    fn tiers(&mut self, rules: &[&Rule], in_tier: impl Fn(&Role) -> bool) {
        let rules: Vec<&Rule> = rules.iter().copied().filter(|rule| in_tier(&rule.role)).collect();
        let mut passed = PortSet::default();
        for level in rules.chunk_by(|a, b| a.role.level() == b.role.level()) {
            passed = passed.union(&self.level(level));
        }
        self.open = self.open.union(&passed);
    }

    /// The policies of one priority (S64): each is asked by itself about what is open, and among
    /// their answers Deny wins, then Accept, then Pass. Returns what passes.
    fn level(&mut self, rules: &[&Rule]) -> PortSet {
        let mut matched: Vec<(&Rule, Action, PortSet)> = Vec::new();
        for policy in rules.chunk_by(|a, b| a.role.policy() == b.role.policy()) {
            let mut open = self.open.clone();
            for rule in policy {
                let here = open.intersection(&self.ports(rule));
                if let (false, Some(action)) = (here.is_empty(), rule.role.action()) {
                    open = open.minus(&here);
                    matched.push((rule, action, here));
                }
            }
        }
        if self.conflict.is_none() {
            self.conflict = conflict(self.set, &matched);
        }
        let with = |action: Action| {
            let those = matched.iter().filter(|(_, a, _)| *a == action);
            those.fold(PortSet::default(), |all, (.., ports)| all.union(ports))
        };
        let (denied, accepted, passed) =
            (with(Action::Deny), with(Action::Accept), with(Action::Pass));
        let passed = passed.minus(&denied).minus(&accepted);
        for (rule, action, ports) in &matched {
            let decided = match action {
                Action::Deny => ports.clone(),
                Action::Accept => ports.minus(&denied),
                Action::Pass => ports.intersection(&passed),
            };
            if decided.is_empty() {
                continue;
            }
            self.origins.push(self.set.origin(rule));
            if *action == Action::Accept {
                self.grant_rule(rule, &decided);
            }
        }
        self.open = self.open.minus(&denied).minus(&accepted).minus(&passed);
        passed
    }

    /// The NetworkPolicies, which add up, and which decide about all that comes to them (S65).
    fn policies(&mut self, rules: &[&Rule]) {
        let open = std::mem::take(&mut self.open);
        for rule in rules.iter().filter(|rule| matches!(rule.role, Role::Policy)) {
            let here = open.intersection(&self.ports(rule));
            if !here.is_empty() {
                self.origins.push(self.set.origin(rule));
                self.grant_rule(rule, &here);
            }
        }
    }

    /// The rules of security groups that match, with the ports that each permits.
    fn gates<'r>(&self, rules: &[&'r Rule]) -> Vec<(&'r Rule, PortSet)> {
        let of_groups = rules.iter().filter(|rule| rule.role == Role::Group);
        of_groups.map(|rule| (*rule, self.ports(rule))).collect()
    }

    /// All ports that a rule is about, for these members.
    fn ports(&self, rule: &Rule) -> PortSet {
        let parts = grants::parts(self.set, rule, self.members, self.atoms);
        PortSet::of(parts.iter().map(Grant::piece))
    }

    /// Grants what a rule is about, as far as it is in `ports`, by each of the ports that it lists.
    fn grant_rule(&mut self, rule: &Rule, ports: &PortSet) {
        for part in grants::parts(self.set, rule, self.members, self.atoms) {
            let here = PortSet::of([part.piece()]).intersection(ports);
            self.grant(&here, part.source, part.port);
        }
    }

    fn grant(&mut self, ports: &PortSet, source: u32, port: Option<u32>) {
        self.grants.extend(ports.pieces().map(|piece| Grant { port, ..Grant::by(source, piece) }));
        if port.is_none() && source == self.set.default_source() && !ports.is_empty() {
            self.origins.push(self.set.source_origin(source, None));
        }
    }
}
