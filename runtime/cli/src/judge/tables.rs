//! A judge that evaluates the compiled tables. Two rules are added, because without a packet its
//! origin is not known: a pod may talk to itself (S47), and the addresses of its node stand for the
//! node (S44). Not here: evaluating a table (`netpolc_table::eval`).

use std::net::IpAddr;

use netpolc_lower::{Compiler, Event, NO_RULE_DECIDES, Scope, Wire, compile};
use netpolc_policy::{
    Cluster, Direction, Pod, Port, Ports, Protocol,
    oracle::{Party, Question},
};
use netpolc_table::{
    EndpointId, Origin, Program, TableId, TierAction,
    eval::{self, Decision, Pipeline, Verdict},
};

use super::{Answer, Error, Judge, Place, Reason, Side};

/// A judge that evaluates the tables of all pods.
pub struct Tables<'a> {
    cluster: &'a Cluster,
    compiler: Compiler,
}

impl<'a> Tables<'a> {
    /// Compiles the cluster, with every pod as an endpoint.
    ///
    /// # Errors
    /// The cluster needs more ids than there are.
    pub fn new(cluster: &'a Cluster) -> Result<Self, Error> {
        let mut compiler = compile(cluster, Scope::Everywhere)?;
        compiler.apply(Event::Wire(Wire::of_every_node()))?;
        Ok(Self { cluster, compiler })
    }

    /// The program that was compiled from the cluster.
    pub fn program(&self) -> &Program {
        self.compiler.program()
    }

    /// The compiler, for events that do not change the cluster (interfaces).
    pub(super) fn compiler(&mut self) -> &mut Compiler {
        &mut self.compiler
    }

    /// The pods for which a party stands and to which policies apply, with their endpoints.
    pub(super) fn subjects(&self, party: &Party) -> Vec<(&'a Pod, EndpointId)> {
        let endpoint = |pod: &'a Pod| Some((pod, self.compiler.endpoint(&pod.key)?));
        match party {
            Party::Pod(key, _) => self
                .cluster
                .pods
                .get(key)
                .filter(|p| p.is_policed())
                .and_then(endpoint)
                .into_iter()
                .collect(),
            Party::Address(address) => {
                self.cluster.claimants(*address).into_iter().filter_map(endpoint).collect()
            }
        }
    }

    /// Whether `remote` is an address of the pod's own node.
    pub(super) fn is_own_node(&self, pod: &Pod, remote: IpAddr) -> bool {
        pod.node
            .as_ref()
            .and_then(|n| self.cluster.nodes.get(n))
            .is_some_and(|n| n.addresses.contains(&remote))
    }

    /// The verdict of the tables for one pod, whose packets go to or come from `remote`.
    pub(super) fn side(
        &self,
        direction: Direction,
        subject: (&Pod, EndpointId),
        remote: IpAddr,
        question: &Question,
    ) -> Side {
        self.side_at(direction, subject, (remote, question.port), question)
    }

    /// The same, with another destination port than the question's.
    fn side_at(
        &self,
        direction: Direction,
        (pod, endpoint): (&Pod, EndpointId),
        (remote, port): (IpAddr, Option<u16>),
        question: &Question,
    ) -> Side {
        let program = self.compiler.program();
        let from_node = direction == Direction::Ingress && self.is_own_node(pod, remote);
        let gated = from_node && Pipeline::Born.set(eval::word(program, endpoint)).is_some();
        let pipeline = match direction {
            Direction::Ingress if gated => Pipeline::Born,
            Direction::Ingress => Pipeline::ToPod,
            Direction::Egress => Pipeline::FromPod,
        };
        // Behind a Service there are ports only; of ICMP the question has type and code.
        let port = if question.protocol.protocol().is_some() { port } else { question.port };
        let number = question.protocol.number();
        if pipeline == Pipeline::FromPod && eval::is_tunnel(program, number, None) {
            let (pod, by) = (Some(pod.key.clone()), vec![Place::tunnel()]);
            return Side { allowed: false, pod, reason: Reason::Denied, by };
        }
        let decision = eval::decide(program, pipeline, endpoint, remote, number, port);
        let isolated = pipeline.set(eval::word(program, endpoint)).is_some();
        let mut by = places(&decision);
        by.retain(|place| !matches!(place, Place::Other { implied } if implied == NO_RULE_DECIDES));
        if decision.verdict == Verdict::Deny {
            by.retain(|place| !matches!(place, Place::Tier { .. }));
            let denying = self.denying(
                &decision,
                (direction, pod, remote),
                (question.protocol.protocol(), port),
            );
            // Where a tier denies, nobody else is asked.
            if !denying.is_empty() {
                by = denying;
            }
        }
        let (allowed, reason) = match decision.verdict {
            Verdict::Permit if gated => (true, Reason::OwnNode),
            Verdict::Permit if !isolated || by.is_empty() => (true, Reason::NotIsolated),
            Verdict::Permit if by.iter().all(|p| matches!(p, Place::Other { .. })) => {
                (true, Reason::OwnNode)
            }
            Verdict::Permit => (true, Reason::Allowed),
            Verdict::Deny if pod.addresses.contains(&remote) => (true, Reason::OwnPod),
            Verdict::Deny if from_node && !gated => (true, Reason::OwnNode),
            Verdict::Defer if pod.addresses.contains(&remote) => (true, Reason::OwnPod),
            Verdict::Defer => (false, Reason::Service),
            Verdict::Deny => (false, Reason::Denied),
        };
        let by = if matches!(reason, Reason::Allowed | Reason::Denied) { by } else { vec![] };
        Side { allowed, pod: Some(pod.key.clone()), reason, by }
    }

    /// The rules of tiers that deny these ports, where a tier does. An entry lists all rules that
    /// decide anything about its class; those count here that are asked first about these ports.
    fn denying(
        &self,
        decision: &Decision,
        (direction, pod, remote): (Direction, &Pod, IpAddr),
        asked: (Option<Protocol>, Option<u16>),
    ) -> Vec<Place> {
        let named = |protocol, name: &str| {
            let stands_for = |pod: &Pod| {
                asked.1.is_some_and(|port| pod.resolve_port(protocol, name).contains(&port))
            };
            match direction {
                Direction::Ingress => stands_for(pod),
                Direction::Egress => self.cluster.claimants(remote).into_iter().any(stands_for),
            }
        };
        let rules = origins(decision).iter().filter_map(|origin| {
            let Origin::Tier { policy, rule, action, .. } = origin else { return None };
            let mut policies = self.cluster.tiers.values();
            let found = policies.find(|found| found.key.to_string() == **policy)?;
            let ports = &found.rules(direction).get(usize::try_from(*rule).ok()?)?.ports;
            let level = (found.tier, found.priority);
            // What denies was accepted by nobody.
            let is_asked = *action != TierAction::Accept && matches(ports, asked, named);
            is_asked.then_some((level, policy, *rule, *action, origin))
        });
        let mut rules: Vec<_> = rules.collect();
        rules.sort();
        // What passes leaves its tier. Of each policy of the first priority the first rule answers,
        // and among the answers Deny wins (S64).
        for of_tier in rules.chunk_by(|a, b| a.0.0 == b.0.0) {
            let mut answers = of_tier.to_vec();
            answers.retain(|(level, ..)| *level == of_tier[0].0);
            answers.dedup_by_key(|(_, policy, ..)| *policy);
            answers.retain(|(.., action, _)| *action == TierAction::Deny);
            if !answers.is_empty() {
                return answers.into_iter().filter_map(|(.., origin)| place(origin)).collect();
            }
        }
        Vec::new()
    }

    /// The verdict of the source's side. A packet to a Service is judged by its backend (S48).
    pub(super) fn egress(&self, subject: (&Pod, EndpointId), question: &Question) -> Side {
        let sent = question.via.map(|(address, port)| (address, Some(port)));
        let sent = sent.map(|remote| self.side_at(Direction::Egress, subject, remote, question));
        match sent {
            Some(side) if side.reason != Reason::Service => side,
            _ => self.side(Direction::Egress, subject, question.destination.address(), question),
        }
    }
}

impl Judge for Tables<'_> {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn judge(&mut self, question: &Question) -> Result<Answer, Error> {
        let sources = self.subjects(&question.source).into_iter();
        let remote = question.source.address();
        let destinations = self.subjects(&question.destination).into_iter();
        Ok(Answer::of(
            Side::strictest(sources.map(|subject| self.egress(subject, question)).collect()),
            Side::strictest(
                destinations.map(|s| self.side(Direction::Ingress, s, remote, question)).collect(),
            ),
        ))
    }
}

/// Do these ports match? `named` says whether a name stands for the port.
fn matches(
    ports: &Ports,
    (asked, port): (Option<Protocol>, Option<u16>),
    named: impl Fn(Protocol, &str) -> bool,
) -> bool {
    let Ports::Listed(list) = ports else { return true };
    let Some(asked) = asked else { return false };
    list.iter().any(|listed| match listed {
        Port::Every(protocol) => asked == *protocol,
        Port::Range { protocol, first, last } => {
            asked == *protocol && port.is_some_and(|port| (*first..=*last).contains(&port))
        }
        Port::Named { protocol, name } => asked == *protocol && named(asked, name),
        Port::Name(name) => named(asked, name),
        Port::Nothing => false,
    })
}

/// What has decided, as users see it, without repetitions. A rule's peers are in the origins of a
/// row's entry and its ports in those of a verdict's entry, so a rule that allows the packet is
/// found in both.
fn places(decision: &Decision) -> Vec<Place> {
    let hit = |table: TableId| {
        let step = decision.steps.iter().find(|s| s.table == table);
        step.and_then(|s| s.hit.as_ref()).map(|(_, entry)| entry.origins.as_slice())
    };
    let mut places: Vec<Place> = match (decision.verdict, hit(TableId::Verdict)) {
        (Verdict::Permit, Some(ports)) => {
            let peers = hit(TableId::Row).or(hit(TableId::Base)).unwrap_or_default();
            ports.iter().flat_map(|port| joined(port, peers)).collect()
        }
        _ => decision.origins.as_slice().iter().filter_map(place).collect(),
    };
    places.sort();
    places.dedup();
    places
}

/// The origins of the entry that answers for the class, or for addresses that no peer names.
fn origins(decision: &Decision) -> &[Origin] {
    let hit = |table| {
        let step = decision.steps.iter().find(|step| step.table == table);
        step.and_then(|step| step.hit.as_ref()).map(|(_, entry)| entry.origins.as_slice())
    };
    hit(TableId::Row).or(hit(TableId::Base)).unwrap_or_default()
}

/// Combines a rule's port with each of its peers.
fn joined(port: &Origin, peers: &[Origin]) -> Vec<Place> {
    let Origin::Rule { policy, rule, port: number, .. } = port else {
        return place(port).into_iter().collect();
    };
    let peer = |origin: &Origin| match origin {
        Origin::Rule { policy: p, rule: r, peer, .. } if p == policy && r == rule => Some(*peer),
        _ => None,
    };
    let with = |peer| Place::Rule { policy: policy.to_string(), rule: *rule, peer, port: *number };
    let found: Vec<Place> = peers.iter().filter_map(peer).map(with).collect();
    if found.is_empty() { vec![with(None)] } else { found }
}

fn place(origin: &Origin) -> Option<Place> {
    Some(match origin {
        Origin::Rule { policy, rule, peer, port } => {
            Place::Rule { policy: policy.to_string(), rule: *rule, peer: *peer, port: *port }
        }
        Origin::Tier { tier, policy, rule, action } => Place::Tier {
            tier: tier.to_string(),
            policy: policy.to_string(),
            rule: *rule,
            action: action.to_string(),
        },
        Origin::Group { group, rule } => Place::Group {
            group: group.to_string(),
            rule: rule.as_ref().map(|rule| rule.to_string()),
        },
        Origin::Isolates { policy } => Place::Policy { policy: policy.to_string() },
        Origin::ByDefault => Place::by_default(),
        Origin::Implied { reason } => Place::Other { implied: reason.to_string() },
        Origin::Tried { .. } | Origin::Pod { .. } | Origin::Node { .. } => return None,
    })
}
