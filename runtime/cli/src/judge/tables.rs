//! The judge that asks the compiled tables, and what offline answers add to them: the pod itself (S47)
//! and, for want of a packet that tells where it was born, the node's addresses (S44).

use std::net::IpAddr;

use netpolc_lower::{Compiler, Scope, compile};
use netpolc_policy::{
    Cluster, Direction, Pod,
    oracle::{Party, Question},
};
use netpolc_table::{
    EndpointId, Origin, Program, TableId,
    eval::{self, Decision, Pipeline, Verdict},
};

use super::{Answer, Error, Judge, Place, Reason, Side};

/// All pods' tables, and their evaluator.
pub struct Tables<'a> {
    cluster: &'a Cluster,
    compiler: Compiler,
}

impl<'a> Tables<'a> {
    /// Compiles the cluster with every pod an endpoint.
    ///
    /// # Errors
    /// A cluster that needs more ids than there are.
    pub fn new(cluster: &'a Cluster) -> Result<Self, Error> {
        Ok(Self { cluster, compiler: compile(cluster, Scope::Everywhere)? })
    }

    /// The compiled program.
    pub fn program(&self) -> &Program {
        self.compiler.program()
    }

    /// The compiler, to give it events that do not change the cluster (interfaces).
    pub(super) fn compiler(&mut self) -> &mut Compiler {
        &mut self.compiler
    }

    /// The policed pods that a party stands for, with their endpoints.
    pub(super) fn subjects(&self, party: &Party) -> Vec<(&'a Pod, EndpointId)> {
        let endpoint = |pod: &'a Pod| Some((pod, self.compiler.endpoint(&pod.key)?));
        match party {
            Party::Pod(key, _) => {
                self.cluster.pods.get(key).filter(|p| p.is_policed()).and_then(endpoint).into_iter().collect()
            }
            Party::Address(address) => {
                let claims = |p: &&Pod| p.is_policed() && p.addresses.contains(address);
                self.cluster.pods.values().filter(claims).filter_map(endpoint).collect()
            }
        }
    }

    /// Is `remote` an address of the pod's own node?
    pub(super) fn is_own_node(&self, pod: &Pod, remote: IpAddr) -> bool {
        pod.node.as_ref().and_then(|n| self.cluster.nodes.get(n)).is_some_and(|n| n.addresses.contains(&remote))
    }

    /// What the tables say for one pod, whose packets go to or come from `remote`.
    pub(super) fn side(
        &self,
        direction: Direction,
        subject: (&Pod, EndpointId),
        remote: IpAddr,
        question: &Question,
    ) -> Side {
        self.side_at(direction, subject, (remote, question.port), question)
    }

    /// The same with another port of the destination than the question's.
    fn side_at(
        &self,
        direction: Direction,
        (pod, endpoint): (&Pod, EndpointId),
        (remote, port): (IpAddr, Option<u16>),
        question: &Question,
    ) -> Side {
        let pipeline = match direction {
            Direction::Ingress => Pipeline::ToPod,
            Direction::Egress => Pipeline::FromPod,
        };
        let program = self.compiler.program();
        let port = question.protocol.protocol().and(port);
        let decision = eval::decide(program, pipeline, endpoint, remote, question.protocol.number(), port);
        let isolated = pipeline.set(eval::word(program, endpoint)).is_some();
        let by = places(&decision);
        let (allowed, reason) = match decision.verdict {
            Verdict::Permit if !isolated => (true, Reason::NotIsolated),
            Verdict::Permit if by.iter().all(|p| matches!(p, Place::Other { .. })) && !by.is_empty() => {
                (true, Reason::OwnNode)
            }
            Verdict::Permit => (true, Reason::Allowed),
            Verdict::Deny if pod.addresses.contains(&remote) => (true, Reason::OwnPod),
            Verdict::Deny if direction == Direction::Ingress && self.is_own_node(pod, remote) => {
                (true, Reason::OwnNode)
            }
            Verdict::Defer if pod.addresses.contains(&remote) => (true, Reason::OwnPod),
            Verdict::Defer => (false, Reason::Service),
            Verdict::Deny => (false, Reason::Denied),
        };
        let by = if matches!(reason, Reason::Allowed | Reason::Denied) { by } else { vec![] };
        Side { allowed, pod: Some(pod.key.clone()), reason, by }
    }

    /// The source's side: what was sent to a Service is judged by its backend (S48).
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
            Side::strictest(destinations.map(|s| self.side(Direction::Ingress, s, remote, question)).collect()),
        ))
    }
}

/// What decided, as users see it, each once. Peers stand in a row's entry and ports in a verdict's: a rule
/// allows by what it has in both.
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

/// The rule's port with each of its peers.
fn joined(port: &Origin, peers: &[Origin]) -> Vec<Place> {
    let Origin::Rule { policy, rule, port: number, .. } = port else { return place(port).into_iter().collect() };
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
        Origin::Isolates { policy } => Place::Policy { policy: policy.to_string() },
        Origin::Implied { reason } => Place::Other { implied: reason.to_string() },
        Origin::Pod { .. } | Origin::Node { .. } => return None,
    })
}
