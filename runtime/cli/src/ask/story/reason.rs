//! The reason of one side in a sentence, and the rules that it is about.

use netpolc_kube_sync::Survey;
use netpolc_policy::{
    Cluster, Direction, Mode, Phase, PodNetwork, Tier,
    oracle::{self, Party, Question, Reason, Side, TierPlace},
};

use super::{Quote, group_object, policy_object, tier_object};

const ITSELF: &str = "a pod always reaches itself (S47)";

/// Why a side allows or denies a packet.
pub(super) fn sentence(
    cluster: &Cluster,
    question: &Question,
    direction: Direction,
    side: &Side,
) -> String {
    let party = match direction {
        Direction::Egress => &question.source,
        Direction::Ingress => &question.destination,
    };
    match &side.reason {
        Reason::NotPoliced => not_policed(cluster, party),
        Reason::NotIsolated if question.source.address() == question.destination.address() => {
            ITSELF.into()
        }
        Reason::NotIsolated => format!("no policy decides about {direction} of this pod"),
        Reason::Own => ITSELF.into(),
        Reason::Node => match direction {
            Direction::Ingress => "a node always reaches the pods that run on it".into(),
            Direction::Egress => "a pod always reaches the node that it runs on".into(),
        },
        Reason::Service => {
            "the address and port are a Service's; ask about the Service by its name, so that its \
             backends are judged"
                .into()
        }
        Reason::Allowed(place) => format!("NetworkPolicy {} allows it", place.policy),
        Reason::Denied(policies) => {
            let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
            let rule = if names.len() == 1 { "none of its rules allows" } else { "no rule allows" };
            let plural = if names.len() == 1 { "y" } else { "ies" };
            format!("isolated by NetworkPolic{plural} {}, and {rule} it", names.join(", "))
        }
        Reason::ByDefault => {
            format!(
                "no NetworkPolicy selects the pod for {direction}, and pods are isolated by default"
            )
        }
        Reason::Accepted(place) => format!("ClusterNetworkPolicy {} accepts it", tier(place)),
        Reason::Refused(places) => {
            let names: Vec<String> = places.iter().map(tier).collect();
            format!("ClusterNetworkPolicy {} denies it", names.join(" and "))
        }
        Reason::Tunnel => {
            "the protocol leads into a tunnel, which no pod may send into, whatever permits it"
                .into()
        }
        Reason::Closed => {
            "the address and port belong to a Service that is set aside because of its size".into()
        }
        Reason::Gated(groups) if groups.is_empty() => {
            "the pod names security groups, and the input says nothing about them".into()
        }
        Reason::Gated(groups) => {
            let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
            format!("none of the pod's security groups permits it: {}", names.join(", "))
        }
    }
}

fn tier(place: &TierPlace) -> String {
    format!("{} ({} tier, rule {})", place.policy, place.tier, place.rule)
}

fn not_policed(cluster: &Cluster, party: &Party) -> String {
    if let Party::Pod(key, _) = party
        && let Some(pod) = cluster.pods.get(key)
    {
        return match (pod.network, pod.phase) {
            (PodNetwork::Host, _) => {
                "the pod uses the network of its node, to which no policy applies".into()
            }
            (_, Phase::Finished) => "the pod has ended, and no policy applies to it".into(),
            _ => "no policy applies to the pod".into(),
        };
    }
    let address = party.address();
    let node = cluster.nodes.iter().find(|(_, node)| node.addresses.contains(&address));
    match node {
        Some((name, _)) => format!("{address} is node {name}, to which no policy applies"),
        None => format!("{address} is no pod's address, and no policy applies to it"),
    }
}

/// What the stages said that did not decide, in the order in which they are asked (S62).
pub(super) fn way(cluster: &Cluster, direction: Direction, side: &Side) -> Vec<String> {
    let Some(pod) = side.pod.as_ref().and_then(|key| cluster.pods.get(key)) else {
        return Vec::new();
    };
    let deciding = match &side.reason {
        Reason::Accepted(place) => Some(place.tier),
        Reason::Refused(places) => places.first().map(|place| place.tier),
        Reason::Own | Reason::Node | Reason::Service | Reason::NotPoliced | Reason::Tunnel => {
            return Vec::new();
        }
        _ => None,
    };
    let is_about = |tier: Tier| {
        cluster.tiers.values().any(|policy| {
            policy.tier == tier
                && policy.mode == Mode::Enforced
                && !policy.rules(direction).is_empty()
                && policy.is_about(cluster, pod)
        })
    };
    let has_passed = |tier: Tier| side.passed.iter().any(|place| place.tier == tier);
    let mut way = Vec::new();
    let undecided = |tier: Tier| match has_passed(tier) {
        true => format!("a rule of the {tier} tier passes it on"),
        false => format!("no rule of the {tier} tier decides about it"),
    };
    if deciding != Some(Tier::Admin) && is_about(Tier::Admin) {
        way.push(undecided(Tier::Admin));
    }
    if deciding == Some(Tier::Baseline) {
        way.push(format!("no NetworkPolicy isolates the pod for {direction}"));
    }
    if side.reason == Reason::NotIsolated && is_about(Tier::Baseline) {
        way.push(format!("no NetworkPolicy isolates the pod for {direction}"));
        way.push(undecided(Tier::Baseline));
    }
    if side.reason.allows()
        && let Some(groups) = oracle::groups_of(cluster, pod)
    {
        let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
        way.push(format!("security groups of the pod permit it: {}", names.join(", ")));
    }
    way
}

/// The rules that the reason is about, and before them those that passed the packet on.
pub(super) fn quotes(survey: &Survey, direction: Direction, side: &Side) -> Vec<Quote> {
    let peers = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let of_tier = |place: &TierPlace| {
        let path = format!("spec.{direction}[{}]", place.rule);
        let mut quote = Quote::of(survey, &tier_object(&place.policy), &path);
        quote.what = format!("{}, {}", quote.what, place.action);
        quote
    };
    let mut quotes: Vec<Quote> = side.passed.iter().map(of_tier).collect();
    match &side.reason {
        Reason::Allowed(place) => {
            let object = policy_object(&place.policy);
            let rule = format!("spec.{direction}[{}]", place.rule);
            let peer = place.peer.map(|peer| format!("{rule}.{peers}[{peer}]"));
            let port = place.port.map(|port| format!("{rule}.ports[{port}]"));
            let is_whole = peer.is_none() && port.is_none();
            quotes.extend(
                [peer, port].into_iter().flatten().map(|path| Quote::of(survey, &object, &path)),
            );
            if is_whole {
                quotes.push(Quote::of(survey, &object, &rule));
            }
        }
        Reason::Denied(policies) => quotes.extend(
            policies.iter().map(|key| Quote::of(survey, &policy_object(key), "spec.podSelector")),
        ),
        Reason::Accepted(place) => quotes.push(of_tier(place)),
        Reason::Refused(places) => quotes.extend(places.iter().map(of_tier)),
        Reason::Gated(groups) => {
            quotes.extend(groups.iter().map(|id| Quote::of(survey, &group_object(id.as_str()), "")))
        }
        _ => {}
    }
    quotes
}
