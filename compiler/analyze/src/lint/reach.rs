//! What pods may reach in the end, after tiers, NetworkPolicies and security groups: DNS, the
//! cloud's metadata service, and pods that nothing isolates at all.
//!
//! Not here: what one rule says by itself (`shape`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use netpolc_policy::{Direction, IpFamily, Mode, Peer, Pod, Protocol, frontend};

use super::{Check, Lint, Object, Place, Says, Severity, count, few, listed};
use crate::{
    Analysis,
    peers::Claimants,
    ports::{Listed, PortName},
    side::Side,
    traffic::{TrafficId, TrafficSet},
    universe::{ProfileId, RemoteId},
};

pub(super) fn check(lint: &mut Lint<'_, '_>) {
    dns(lint);
    metadata(lint);
    open(lint);
}

/// The name by which people know a pod: its workload's, or its own.
fn workload(pod: &Pod) -> String {
    pod.owner.as_ref().map_or_else(|| format!("pod {}", pod.key.name), |owner| owner.to_string())
}

/// The workloads of these profiles by namespace, with the number of their pods.
fn workloads<'a>(
    lint: &Lint<'_, 'a>,
    profiles: &BTreeSet<ProfileId>,
) -> BTreeMap<&'a Arc<str>, (BTreeSet<String>, usize)> {
    let mut found: BTreeMap<&Arc<str>, (BTreeSet<String>, usize)> = BTreeMap::new();
    for (_, class) in lint.universe().classes() {
        if !profiles.contains(&class.profile) {
            continue;
        }
        for pod in &class.pods {
            let (names, count) = found.entry(&pod.key.namespace).or_default();
            names.insert(workload(pod));
            *count += 1;
        }
    }
    found
}

fn permits(
    analysis: &mut Analysis<'_>,
    side: &Side,
    remote: RemoteId,
    wanted: &TrafficSet,
) -> bool {
    let permitted = side.with(remote, &analysis.universe, &mut analysis.traffic);
    !analysis.traffic.get(permitted).intersection(wanted).is_nothing()
}

/// Where pods ask for names.
struct Resolvers {
    /// The remotes of the cluster's own DNS; empty where the input does not have it.
    own: BTreeSet<RemoteId>,
    /// Pods that a rule lets ask a cache on the node: an address of it, or a link-local one.
    cached: BTreeSet<ProfileId>,
    /// UDP 53, and what it is behind the DNS Service.
    ports: TrafficSet,
    /// What each port name may stand for.
    names: HashMap<PortName, TrafficId>,
}

fn resolvers(lint: &Lint<'_, '_>) -> Resolvers {
    let universe = lint.universe();
    let is_dns = |pod: &Pod| pod.labels.get("k8s-app") == Some("kube-dns");
    let cluster = lint.analysis.cluster();
    let pods = cluster.pods.values().filter(|pod| pod.is_policed() && is_dns(pod));
    let own = pods.flat_map(|pod| &pod.addresses).map(|a| universe.remote_at(*a)).collect();
    let mut ports = TrafficSet::ports(Protocol::Udp, 53, 53);
    for (key, service) in &lint.facts.frontends {
        let is_dns =
            service.selector.as_ref().is_some_and(|s| s.get("k8s-app") == Some("kube-dns"));
        let all = frontend::PortChoice::Number(53);
        if !is_dns {
            continue;
        }
        let backends = frontend::backends(cluster, &lint.facts.frontends, key, &all);
        for backend in backends.into_iter().flatten() {
            if backend.frontend.protocol == Protocol::Udp {
                let port = TrafficSet::ports(Protocol::Udp, backend.port, backend.port);
                ports = ports.union(&port);
            }
        }
    }
    Resolvers { own, cached: cached(lint, &ports), ports, names: HashMap::new() }
}

fn cached(lint: &Lint<'_, '_>, ports: &TrafficSet) -> BTreeSet<ProfileId> {
    let nodes = lint.analysis.cluster().nodes.values().flat_map(|node| &node.addresses);
    let nodes: BTreeSet<&IpAddr> = nodes.collect();
    let is_cache = |peer: &Peer| {
        let Peer::Block(block) = peer else { return false };
        let prefix = block.cidr.prefix();
        // A wider block means the world, and no cache in particular.
        match block.cidr.network() {
            IpAddr::V4(address) if address.is_link_local() => prefix >= 16,
            IpAddr::V6(address) if address.is_unicast_link_local() => prefix >= 10,
            address => prefix == full_length(address) && nodes.contains(&address),
        }
    };
    let mut found = BTreeSet::new();
    for of in &lint.policies {
        let mut rules = of.rules().filter(|(place, _)| place.direction == Direction::Egress);
        let asks = rules.any(|(_, rule)| {
            let allowed = Listed::of(&rule.ports).known.intersection(ports);
            !allowed.is_nothing() && listed(rule).any(|(_, peer)| is_cache(peer))
        });
        if asks {
            found.extend(of.profiles.iter().copied());
        }
    }
    found
}

/// The length of a prefix that is one address.
fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn dns(lint: &mut Lint<'_, '_>) {
    if !lint.has_pods() {
        return;
    }
    let mut resolvers = resolvers(lint);
    let mut cut: BTreeSet<ProfileId> = BTreeSet::new();
    let ids: Vec<ProfileId> = lint.universe().profiles().map(|(id, _)| id).collect();
    for id in ids {
        let side = lint.analysis.side(id, Direction::Egress);
        let is_cached = resolvers.cached.contains(&id);
        if side.is_isolated() && !is_cached && !asks(lint.analysis, &side, &mut resolvers) {
            cut.insert(id);
        }
    }
    for (namespace, (names, pods)) in workloads(lint, &cut) {
        let of = |id: &ProfileId| cut.contains(id);
        let isolates = lint.policies.iter().find(|of_policy| {
            matches!(of_policy.object, Object::NetworkPolicy(_))
                && of_policy.policy.mode == Mode::Enforced
                && of_policy.policy.key.namespace == *namespace
                && of_policy.policy.egress != netpolc_policy::Isolation::Open
                && of_policy.profiles.iter().any(of)
        });
        let (object, field) = match isolates {
            Some(policy) => (policy.object.clone(), "spec.egress"),
            None => (Object::Namespace(namespace.clone()), ""),
        };
        let whom = match resolvers.own.is_empty() {
            true => "any address",
            false => "the pods of kube-dns",
        };
        let says = Says {
            what: format!(
                "{} of namespace {namespace} may open connections, but not ask {whom} for names \
                 ({}): {}.",
                count(pods, "pod"),
                resolvers.ports,
                few(&names)
            ),
            change:
                "Allow egress to UDP and TCP 53 of pods with k8s-app: kube-dns in the namespace \
                     kube-system."
                    .into(),
        };
        lint.report(Check::DnsDenied, object, field, says);
    }
}

/// May pods of this side ask for names, or send nothing at all?
fn asks(analysis: &mut Analysis<'_>, side: &Side, resolvers: &mut Resolvers) -> bool {
    let granted =
        side.granted_with_anybody(&analysis.universe, &mut analysis.traffic, &mut resolvers.names);
    if granted == TrafficId::NOTHING {
        return true;
    }
    let mut own = resolvers.own.iter();
    if own.any(|remote| permits(analysis, side, *remote, &resolvers.ports)) {
        return true;
    }
    // Without a DNS in the input, whoever may ask anybody may ask the one that there is.
    resolvers.own.is_empty()
        && !analysis.traffic.get(granted).intersection(&resolvers.ports).is_nothing()
}

/// Where a cloud tells whoever asks which credentials a node has.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

fn metadata(lint: &mut Lint<'_, '_>) {
    let http = TrafficSet::ports(Protocol::Tcp, 80, 80);
    let (mut free, mut reaching) = (0, BTreeMap::<ProfileId, BTreeSet<IpAddr>>::new());
    let ids: Vec<ProfileId> = lint.universe().profiles().map(|(id, _)| id).collect();
    for id in ids {
        let side = lint.analysis.side(id, Direction::Egress);
        let mut reached = BTreeSet::new();
        for address in METADATA {
            let universe = lint.universe();
            let family = IpFamily::of(address);
            let has_family = universe.remotes_of(id).iter().any(|r| universe.family(*r) == family);
            let remote = universe.remote_at(address);
            if has_family && permits(lint.analysis, &side, remote, &http) {
                reached.insert(address);
            }
        }
        if reached.is_empty() {
            continue;
        }
        if side.is_isolated() {
            reaching.insert(id, reached);
        } else {
            free += lint.pods[id.index()];
        }
    }
    wide_rules(lint, &reaching, &http);
    if free > 0 {
        let says = Says {
            what: format!(
                "{} may reach the cloud's metadata service, since no policy isolates {} egress.",
                count(free, "pod"),
                if free == 1 { "its" } else { "their" }
            ),
            change: "Deny 169.254.169.254 and fd00:ec2::254 by a ClusterNetworkPolicy of the tier \
                     Admin, or isolate egress."
                .into(),
        };
        lint.report_as(Severity::Note, Check::MetadataReachable, Object::Input, "", says);
    }
}

/// The rules that let isolated pods reach the metadata service without naming it.
fn wide_rules(
    lint: &mut Lint<'_, '_>,
    reaching: &BTreeMap<ProfileId, BTreeSet<IpAddr>>,
    http: &TrafficSet,
) {
    let mut found = Vec::new();
    for of in lint.policies.iter().filter(|of| matches!(of.object, Object::NetworkPolicy(_))) {
        let addresses: BTreeSet<&IpAddr> =
            of.profiles.iter().filter_map(|id| reaching.get(id)).flatten().collect();
        if addresses.is_empty() || of.policy.mode == Mode::Audited {
            continue;
        }
        let pods: usize = of
            .profiles
            .iter()
            .filter(|id| reaching.contains_key(id))
            .map(|id| lint.pods[id.index()])
            .sum();
        let rules = of.rules().filter(|(place, _)| place.direction == Direction::Egress);
        for (place, rule) in rules {
            if Listed::of(&rule.ports).known.intersection(http).is_nothing() {
                continue;
            }
            for address in &addresses {
                found.extend(wide_peers(lint.analysis, of, place, rule, **address).map(
                    |(field, change)| {
                        let what = format!(
                            "The rule lets {} reach {address}, where the cloud's metadata service \
                             hands out the node's credentials.",
                            count(pods, "pod")
                        );
                        (of.object.clone(), field, Says { what, change })
                    },
                ));
            }
        }
    }
    for (object, field, says) in found {
        lint.report(Check::MetadataReachable, object, field, says);
    }
}

/// The field of the rule that means the address without naming it, and what to write there.
fn wide_peers(
    analysis: &mut Analysis<'_>,
    of: &super::Selecting<'_>,
    place: Place,
    rule: &netpolc_policy::Rule,
    address: IpAddr,
) -> Option<(String, String)> {
    if rule.peers == netpolc_policy::Peers::Any {
        let change = "List the peers that are meant; where that is everybody, write an ipBlock \
                      with the address in its `except`.";
        return Some((place.to_string(), change.into()));
    }
    let remote = analysis.universe.remote_at(address);
    let length = full_length(address);
    for (index, peer) in listed(rule) {
        let Peer::Block(block) = peer else { continue };
        // Whoever writes the address itself means it.
        if block.cidr.prefix() == length {
            continue;
        }
        let namespace = &of.policy.key.namespace;
        let meant = analysis.peers.of_policy(&analysis.universe, namespace, peer);
        if meant.has(remote, Claimants::All) {
            let change = format!("Add `except: [{address}/{length}]` to the ipBlock.");
            return Some((format!("{}.ipBlock", place.peer(index)), change));
        }
    }
    None
}

fn open(lint: &mut Lint<'_, '_>) {
    let ids: Vec<ProfileId> = lint.universe().profiles().map(|(id, _)| id).collect();
    let is_open = |id: &ProfileId| lint.analysis.side(*id, Direction::Ingress).is_open();
    let open: BTreeSet<ProfileId> = ids.into_iter().filter(is_open).collect();
    for (namespace, (names, pods)) in workloads(lint, &open) {
        let here = lint.universe().profiles_in(namespace);
        // Where policies isolate other pods of the namespace, these were probably forgotten.
        let is_used = here.iter().any(|id| !open.contains(id));
        let severity = if is_used { Severity::Warning } else { Severity::Note };
        let what = format!(
            "Nothing isolates {} of namespace {namespace} for ingress: {}.",
            count(pods, "pod"),
            few(&names)
        );
        let change = "Add a NetworkPolicy with `podSelector: {}`, `policyTypes: [Ingress]` and no \
                      rules to the namespace, and allow what is needed."
            .into();
        let object = Object::Namespace(namespace.clone());
        lint.report_as(severity, Check::NotIsolated, object, "", Says { what, change });
    }
}
