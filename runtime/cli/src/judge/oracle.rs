//! A judge that evaluates the policies themselves. Not here: the evaluation
//! ([`netpolc_policy::oracle`]).

use netpolc_policy::{
    Cluster,
    oracle::{self, Question, Reason as Why, TierPlace},
};

use super::{Answer, Error, Judge, Place, Reason, Side};

/// A judge that asks [`netpolc_policy::oracle`].
pub struct Oracle<'a> {
    cluster: &'a Cluster,
}

impl<'a> Oracle<'a> {
    /// A judge for the given cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        Self { cluster }
    }
}

impl Judge for Oracle<'_> {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn judge(&mut self, question: &Question) -> Result<Answer, Error> {
        let judgement = oracle::judge(self.cluster, question);
        let answer = Answer::of(side(judgement.egress), side(judgement.ingress));
        debug_assert_eq!(answer.allowed, judgement.allowed);
        Ok(answer)
    }
}

fn side(side: oracle::Side) -> Side {
    let allowed = side.reason.allows();
    let index = |i: usize| u32::try_from(i).unwrap_or(u32::MAX);
    let (reason, by) = match side.reason {
        Why::NotPoliced => (Reason::NotPoliced, vec![]),
        Why::NotIsolated => (Reason::NotIsolated, vec![]),
        Why::Own => (Reason::OwnPod, vec![]),
        Why::Node => (Reason::OwnNode, vec![]),
        Why::Service => (Reason::Service, vec![]),
        Why::Allowed(place) => {
            let (peer, port) = (place.peer.map(index), place.port.map(index));
            let place = Place::Rule {
                policy: place.policy.to_string(),
                rule: index(place.rule),
                peer,
                port,
            };
            (Reason::Allowed, vec![place])
        }
        Why::Accepted(place) => (Reason::Allowed, vec![tier(place)]),
        Why::Refused(places) => (Reason::Denied, places.into_iter().map(tier).collect()),
        Why::ByDefault => (Reason::Denied, vec![Place::by_default()]),
        Why::Closed => (Reason::Denied, vec![]),
        Why::Tunnel => (Reason::Denied, vec![Place::tunnel()]),
        Why::Gated(groups) => (
            Reason::Denied,
            groups.iter().map(|g| Place::Group { group: g.to_string(), rule: None }).collect(),
        ),
        Why::Denied(policies) => (
            Reason::Denied,
            policies.iter().map(|p| Place::Policy { policy: p.to_string() }).collect(),
        ),
    };
    Side { allowed, pod: side.pod, reason, by }
}

fn tier(place: TierPlace) -> Place {
    Place::Tier {
        tier: place.tier.to_string(),
        policy: place.policy.to_string(),
        rule: u32::try_from(place.rule).unwrap_or(u32::MAX),
        action: place.action.to_string(),
    }
}
