//! The proof that tables say what policies say: for every endpoint, every class of addresses and
//! all ports at once.
//!
//! Here: what a program permits as sets of traffic, held against the analysis of the cluster that
//! it was compiled from, or should have been. An address stands for all that neither the tables nor
//! the rules tell apart from it. Not here: what is decided around the tables, and left out: the pod
//! itself (S47), its own node (S44, S45), tunnels (S45), and Services before their translation
//! (S48).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use netpolc_policy::{Direction, ObjectKey, Pod, oracle};
use netpolc_table::{
    Class, EndpointId, Program, SetId, TableId, boundaries,
    eval::{self, Pipeline},
    schema::{Family, ServiceKey},
};

use crate::{Analysis, tables::Tables, traffic::TrafficSet, universe::RemoteId};

/// Traffic that tables and policies judge differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The endpoint that is asked about.
    pub pod: ObjectKey,
    /// Whether the traffic goes to it or comes from it.
    pub direction: Direction,
    /// The address at the other end.
    pub remote: IpAddr,
    /// What the tables permit, and no policy does.
    pub only_tables: TrafficSet,
    /// What the policies permit, and the tables do not.
    pub only_policies: TrafficSet,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, direction, remote, only_tables, only_policies } = self;
        write!(f, "{direction} of {pod} with {remote}: ")?;
        match (only_tables.is_nothing(), only_policies.is_nothing()) {
            (false, true) => write!(f, "the tables permit {only_tables}, which policies deny"),
            (true, _) => write!(f, "the tables deny {only_policies}, which policies permit"),
            (false, false) => write!(
                f,
                "the tables permit {only_tables}, which policies deny, and deny {only_policies}, \
                 which policies permit"
            ),
        }
    }
}

/// What was compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// How many answers were compared: an endpoint, a direction and a class of addresses each.
    pub compared: usize,
    /// Those that differ, up to the limit that was asked for.
    pub disagreements: Vec<Disagreement>,
}

/// Compares a program with the analysis of a cluster, for these endpoints, and returns up to
/// `limit` disagreements. Each pod has to be one of the cluster's.
pub fn compare(
    analysis: &mut Analysis<'_>,
    program: &Program,
    endpoints: &[(ObjectKey, EndpointId)],
    limit: usize,
) -> Comparison {
    let mut found = Comparison::default();
    let mut tables = Tables::of(program);
    let samples = samples(analysis, program);
    // Many endpoints have the same rules and the same set; what they answer is worked out once.
    let mut known: HashMap<Side, Vec<usize>> = HashMap::new();
    for (key, endpoint) in endpoints {
        let Some(class) = analysis.universe().class_of(key) else { continue };
        let profile = analysis.universe().class(class).profile;
        let word = eval::word(program, *endpoint);
        for direction in Direction::BOTH {
            let set = pipeline(direction).set(word);
            let side = Side { profile, direction, set };
            let differ = known
                .entry(side)
                .or_insert_with(|| differing(analysis, &mut tables, &samples, side));
            found.compared += samples.len();
            let pod = &analysis.cluster().pods[key];
            for at in differ {
                let sample = &samples[*at];
                if is_decided_elsewhere(analysis, pod, direction, sample.address) {
                    continue;
                }
                if found.disagreements.len() >= limit {
                    return found;
                }
                let policies = analysis.row(profile, direction).with(sample.remote);
                let permitted = tables.permitted(&mut analysis.traffic, set, sample.class);
                let of = |id| analysis.traffic(id).minus(&sample.without(direction));
                let (policies, permitted) = (of(policies), of(permitted));
                found.disagreements.push(Disagreement {
                    pod: key.clone(),
                    direction,
                    remote: sample.address,
                    only_tables: permitted.minus(&policies),
                    only_policies: policies.minus(&permitted),
                });
            }
        }
    }
    found
}

/// The samples about which tables and policies do not say the same.
fn differing(
    analysis: &mut Analysis<'_>,
    tables: &mut Tables<'_>,
    samples: &[Sample],
    Side { profile, direction, set }: Side,
) -> Vec<usize> {
    let row = analysis.row(profile, direction);
    let mut found = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let policies = row.with(sample.remote);
        let permitted = tables.permitted(&mut analysis.traffic, set, sample.class);
        if policies == permitted {
            continue;
        }
        let of = |id| analysis.traffic(id).minus(&sample.without(direction));
        if of(policies) != of(permitted) {
            found.push(at);
        }
    }
    found
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Side {
    profile: crate::universe::ProfileId,
    direction: Direction,
    set: Option<SetId>,
}

/// The pipeline that judges what others send to a pod, or what it sends.
pub fn pipeline(direction: Direction) -> Pipeline {
    match direction {
        Direction::Ingress => Pipeline::ToPod,
        Direction::Egress => Pipeline::FromPod,
    }
}

/// Is the traffic with this address decided before or behind the tables, or by more than them?
fn is_decided_elsewhere(
    analysis: &Analysis<'_>,
    pod: &Pod,
    direction: Direction,
    address: IpAddr,
) -> bool {
    let nodes = &analysis.cluster().nodes;
    let own = pod.node.as_ref().and_then(|name| nodes.get(name));
    let on_own = own.is_some_and(|node| node.addresses.contains(&address));
    // A program for all nodes knows of no pod's own one.
    let on_any = nodes.values().any(|node| node.addresses.contains(&address));
    pod.addresses.contains(&address) || on_own || direction == Direction::Egress && on_any
}

/// An address that stands for others.
struct Sample {
    address: IpAddr,
    remote: RemoteId,
    class: Class,
    /// The ports of Services at this address, and whatever its family does not have.
    services: TrafficSet,
    away: TrafficSet,
}

impl Sample {
    /// The traffic that is not compared.
    fn without(&self, direction: Direction) -> TrafficSet {
        match direction {
            Direction::Ingress => self.away.clone(),
            Direction::Egress => {
                let tunnels = oracle::TUNNELS.iter().map(|number| TrafficSet::protocol(*number));
                tunnels.fold(self.away.union(&self.services), |all, set| all.union(&set))
            }
        }
    }
}

/// An address for each combination of a remote and a class, at the ends of every prefix that the
/// tables have, beside them, and at every pod and node.
fn samples(analysis: &Analysis<'_>, program: &Program) -> Vec<Sample> {
    let mut addresses = boundaries(program);
    let universe = analysis.universe();
    let cluster = analysis.cluster();
    for region in universe.regions.ids() {
        let parts = universe.regions.addresses(&BTreeSet::from([region]));
        addresses.extend(parts.first().map(|prefix| prefix.network()));
    }
    addresses.extend(cluster.pods.values().filter(|p| p.is_policed()).flat_map(|p| &p.addresses));
    addresses.extend(cluster.nodes.values().flat_map(|node| &node.addresses));
    let mut services: HashMap<IpAddr, TrafficSet> = HashMap::new();
    for family in Family::BOTH {
        for key in program.table(TableId::service(family)).entries.keys() {
            let ServiceKey { address, protocol, port } = ServiceKey::of(family, key);
            let Some(protocol) = netpolc_policy::Protocol::from_number(protocol) else { continue };
            let known = services.entry(address).or_default();
            *known = known.union(&TrafficSet::ports(protocol, port, port));
        }
    }
    for service in cluster.services.values() {
        for address in &service.closed.addresses {
            let known = services.entry(*address).or_default();
            for (protocol, first, last) in &service.closed.ports {
                *known = known.union(&TrafficSet::ports(*protocol, *first, *last));
            }
        }
    }
    let mut seen: BTreeMap<(RemoteId, Class), IpAddr> = BTreeMap::new();
    let mut of_services = Vec::new();
    for address in addresses {
        let at = (universe.remote_at(address), eval::remote(program, address).class);
        match services.contains_key(&address) {
            true => of_services.push((at, address)),
            false => drop(seen.entry(at).or_insert(address)),
        }
    }
    let all = seen.into_iter().chain(of_services);
    let sample = |((remote, class), address): ((RemoteId, Class), IpAddr)| Sample {
        address,
        remote,
        class,
        services: services.get(&address).cloned().unwrap_or_default(),
        away: TrafficSet::protocol(if address.is_ipv4() { 58 } else { 1 }),
    };
    all.map(sample).collect()
}
