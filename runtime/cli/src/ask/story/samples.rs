//! Whom an end of a question stands for: samples, each of them ends that no rule tells apart.
//!
//! Here: the samples of an end, and which of the pairs of two samples stand for all. Not here: the
//! packets between them ([`super::packets`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use netpolc_analyze::{
    Analysis,
    list::private,
    region::{RegionId, Regions},
    universe::{PodClassId, RemoteId},
};
use netpolc_kube_sync::Survey;
use netpolc_policy::{Cluster, IpFamily, ObjectKey, oracle::Party};

use crate::ask::end::End;

/// One pod, node or address.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// None: an address that is asked about as such.
    pub(super) pod: Option<ObjectKey>,
    /// Those under which it is asked about, at least one.
    pub(super) addresses: Vec<IpAddr>,
    /// The node whose addresses these are; None where they are no node's.
    node: Option<Arc<str>>,
}

impl Member {
    /// A pod with these of its addresses; None: whoever has them.
    pub(super) fn new(cluster: &Cluster, pod: Option<ObjectKey>, addresses: Vec<IpAddr>) -> Self {
        let known = pod.as_ref().and_then(|key| cluster.pods.get(key));
        let node = match known {
            Some(pod) if pod.is_policed() => None,
            Some(pod) if pod.node.is_some() => pod.node.clone(),
            _ => {
                let mut nodes = cluster.nodes.iter();
                let has = |list: &[IpAddr]| list.iter().any(|own| addresses.contains(own));
                nodes.find(|(_, node)| has(&node.addresses)).map(|(name, _)| name.clone())
            }
        };
        Self { pod, addresses, node }
    }

    fn of_node(name: &Arc<str>, addresses: Vec<IpAddr>) -> Self {
        Self { pod: None, addresses, node: Some(name.clone()) }
    }

    pub(super) fn name(&self) -> String {
        match &self.pod {
            Some(pod) => pod.to_string(),
            None => self.addresses.first().map(IpAddr::to_string).unwrap_or_default(),
        }
    }

    pub(super) fn address(&self, family: IpFamily) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| IpFamily::of(*address) == family)
    }

    pub(super) fn party(&self, address: IpAddr) -> Party {
        match &self.pod {
            Some(pod) => Party::Pod(pod.clone(), address),
            None => Party::Address(address),
        }
    }

    /// Are these the same pod?
    pub(super) fn is(&self, other: &Self) -> bool {
        self.pod.is_some() && self.pod == other.pod
    }
}

/// Members that no rule tells apart, at least one.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) members: Vec<Member>,
}

impl Sample {
    pub(super) fn of(member: Member) -> Self {
        Self { members: vec![member] }
    }
}

/// Two members, and for how many pairs of members they stand.
pub(super) type Pair<'s> = (&'s Member, &'s Member, usize);

/// Is exactly one pod meant at both ends, and the same one?
pub(super) fn is_one_pod(sources: &[Sample], destinations: &[Sample]) -> bool {
    let mut all = sources.iter().chain(destinations).flat_map(|sample| &sample.members);
    all.next().is_some_and(|first| all.all(|other| first.is(other)))
}

/// Works the packets of one question out.
pub(super) struct Asking<'a> {
    pub(super) survey: &'a Survey,
    /// Made only where several pods or ports are meant.
    analysis: Option<Analysis<'a>>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(survey: &'a Survey) -> Self {
        Self { survey, analysis: None }
    }

    pub(super) fn cluster(&self) -> &'a Cluster {
        &self.survey.loaded.cluster
    }

    pub(super) fn analysis(&mut self) -> &mut Analysis<'a> {
        let cluster = self.cluster();
        self.analysis.get_or_insert_with(|| Analysis::new(cluster))
    }

    pub(super) fn samples(&mut self, end: &End) -> anyhow::Result<Vec<Sample>> {
        let cluster = self.cluster();
        Ok(match end {
            End::Pods(keys) => self.pods(keys)?,
            End::Address(address) => {
                let pod = self.holder(*address).cloned();
                vec![Sample::of(Member::new(cluster, pod, vec![*address]))]
            }
            End::Block(block) => {
                let samples = self.block(block, Addresses::All);
                anyhow::ensure!(
                    !samples.is_empty(),
                    "every address of {block} is a Service's; ask about svc/NAMESPACE/NAME"
                );
                samples
            }
            End::Internet => {
                let everything = ["0.0.0.0/0", "::/0"].map(|text| text.parse().expect("a prefix"));
                everything.iter().flat_map(|block| self.block(block, Addresses::Public)).collect()
            }
            End::Node(name) => {
                let node = cluster.nodes.get(&**name);
                let addresses = node.map(|node| node.addresses.clone()).unwrap_or_default();
                anyhow::ensure!(!addresses.is_empty(), "Node {name} has no address in the input");
                vec![Sample::of(Member::of_node(&name.as_str().into(), addresses))]
            }
            End::Service(key) => anyhow::bail!("Service {key} is no sample"),
        })
    }

    /// The pod that an address means; None where it is no pod's, or several pods claim it.
    fn holder(&self, address: IpAddr) -> Option<&'a ObjectKey> {
        let survey = self.survey;
        let holders = survey.book.holders(address);
        let mut holders = holders.filter(|key| survey.loaded.cluster.pods[*key].is_policed());
        holders.next().filter(|_| holders.next().is_none())
    }

    /// These pods by their classes.
    fn pods(&mut self, keys: &[ObjectKey]) -> anyhow::Result<Vec<Sample>> {
        let cluster = self.cluster();
        let member = |key: &ObjectKey| {
            let addresses = cluster.addresses(&cluster.pods[key]).to_vec();
            (!addresses.is_empty()).then(|| Member::new(cluster, Some(key.clone()), addresses))
        };
        let members: Vec<Member> = keys.iter().filter_map(member).collect();
        anyhow::ensure!(
            !members.is_empty(),
            "pod {} has no address in the input (status.podIPs is empty)",
            keys[0]
        );
        Ok(self.by_class(members))
    }

    /// Puts together whom no rule tells apart, in the order of the first ones.
    fn by_class(&mut self, members: Vec<Member>) -> Vec<Sample> {
        if members.len() < 2 {
            return members.into_iter().map(Sample::of).collect();
        }
        type Kind = (Option<PodClassId>, [Option<RemoteId>; 2]);
        let universe = self.analysis().universe();
        let mut samples: Vec<Sample> = Vec::new();
        let mut known: HashMap<Kind, usize> = HashMap::new();
        for member in members {
            let class = member.pod.as_ref().and_then(|pod| universe.class_of(pod));
            let remote = |family| member.address(family).map(|at| universe.remote_at(at));
            match known.get(&(class, IpFamily::BOTH.map(remote))) {
                Some(at) => samples[*at].members.push(member),
                None => {
                    known.insert((class, IpFamily::BOTH.map(remote)), samples.len());
                    samples.push(Sample::of(member));
                }
            }
        }
        samples
    }

    /// A pair of members for each answer that there can be between two samples. A pod and itself
    /// are none.
    pub(super) fn pairs<'s>(&self, source: &'s Sample, destination: &'s Sample) -> Vec<Pair<'s>> {
        let ends = [source, destination].map(|sample| &sample.members[..]);
        let [is_policed, is_other_policed] = ends.map(|members| self.is_policed(&members[0]));
        let of = |[source, destination]: [usize; 2], count| {
            (&ends[0][source], &ends[1][destination], count)
        };
        let joined = if is_policed == is_other_policed {
            // Others of the class may be judged by rules, and a pod with itself never is (S47).
            let [_, others] = join(ends.map(|m| m.iter().map(|m| m.pod.as_ref()).collect()));
            [None, others]
        } else {
            // A node and a pod that runs on it always reach each other (S44, S45).
            join(ends.map(|m| m.iter().map(|m| self.node(m)).collect()))
        };
        joined.into_iter().flatten().map(|(at, count)| of(at, count)).collect()
    }

    fn is_policed(&self, member: &Member) -> bool {
        let pod = member.pod.as_ref().and_then(|key| self.cluster().pods.get(key));
        pod.is_some_and(|pod| pod.is_policed())
    }

    /// The node that a pod runs on, or whose addresses it has.
    fn node<'m>(&'m self, member: &'m Member) -> Option<&'m Arc<str>> {
        let pod = member.pod.as_ref().and_then(|key| self.cluster().pods.get(key));
        pod.and_then(|pod| pod.node.as_ref()).or(member.node.as_ref())
    }

    /// The pods and the nodes that have addresses in a block, and an address for each part of the
    /// rest that some rule tells apart. Of the internet no node is a part, whatever its addresses.
    fn block(&mut self, block: &IpNetwork, which: Addresses) -> Vec<Sample> {
        let (survey, cluster) = (self.survey, self.cluster());
        let mut of_pods: BTreeMap<&ObjectKey, Vec<IpAddr>> = BTreeMap::new();
        let mut taken: HashSet<IpAddr> = HashSet::new();
        for (address, key) in survey.book.within(block) {
            if which.has(address) && cluster.pods[key].is_policed() {
                of_pods.entry(key).or_default().push(address);
                taken.insert(address);
            }
        }
        let mut members: Vec<Member> = of_pods
            .into_iter()
            .map(|(key, addresses)| Member::new(cluster, Some(key.clone()), addresses))
            .collect();
        for (name, node) in &cluster.nodes {
            let own = node.addresses.iter().copied();
            let own: Vec<IpAddr> = own
                .filter(|address| block.contains(*address) && !taken.contains(address))
                .collect();
            if !own.is_empty() && which == Addresses::All {
                members.push(Member::of_node(name, own));
            }
        }
        let mut samples = self.by_class(members);
        taken.extend(cluster.nodes.values().flat_map(|node| &node.addresses));
        taken.extend(cluster.services.values().flat_map(|service| &service.addresses));
        let regions = Regions::beside(cluster, block);
        let within = regions.ids().filter(|region| regions.is_within(*region, block));
        let free = within.filter_map(|region| which.free(&regions, region, &taken));
        let outside = |address| Member { pod: None, addresses: vec![address], node: None };
        samples.extend(free.map(|address| Sample::of(outside(address))));
        samples
    }
}

/// Which addresses of a block are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addresses {
    All,
    /// Those that the internet routes.
    Public,
}

/// What stands for the internet where no rule tells it apart.
const USUAL: [&str; 2] = ["1.1.1.1", "2606:4700:4700::1111"];

impl Addresses {
    fn has(self, address: IpAddr) -> bool {
        self == Addresses::All || private(address).is_none()
    }

    /// An address of the region that is none of those that are taken.
    fn free(self, regions: &Regions, region: RegionId, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        if self == Addresses::Public {
            let mut usual = USUAL.iter().filter_map(|text| text.parse().ok());
            let is_here = |a: &IpAddr| regions.containing(*a) == region && !taken.contains(a);
            if let Some(address) = usual.find(is_here) {
                return Some(address);
            }
        }
        let prefixes = regions.addresses(&BTreeSet::from([region]));
        prefixes.into_iter().find_map(|prefix| {
            let mut next = Some(prefix.network());
            while let Some(address) = next.filter(|address| prefix.contains(*address)) {
                let range = private(address).filter(|_| self == Addresses::Public);
                if range.is_none() && !taken.contains(&address) {
                    return Some(address);
                }
                next = after(range.map_or(address, IpNetwork::broadcast));
            }
            None
        })
    }
}

/// The address that follows this one.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => a.to_bits().checked_add(1).map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

/// The places of two values, one of each list, and how many such pairs there are.
type Joined = Option<([usize; 2], usize)>;

/// The first pair of equal values and the first of others, each with the number of such pairs,
/// without a walk over all pairs. Nothing equals None.
fn join<K: Eq + Hash>([left, right]: [Vec<Option<K>>; 2]) -> [Joined; 2] {
    let mut places: HashMap<&K, (usize, usize)> = HashMap::new();
    for (at, value) in right.iter().enumerate() {
        let Some(value) = value else { continue };
        places.entry(value).or_insert((at, 0)).1 += 1;
    }
    let mut equal: Joined = None;
    for (at, value) in left.iter().enumerate() {
        let Some((other, count)) = value.as_ref().and_then(|value| places.get(value)) else {
            continue;
        };
        equal.get_or_insert(([at, *other], 0)).1 += count;
    }
    let others = left.len() * right.len() - equal.map_or(0, |(_, count)| count);
    let differ = |at: &[usize; 2]| {
        let value = &left[at[0]];
        value.is_none() || *value != right[at[1]]
    };
    // Where the first value equals all of the other list, whatever differs from one differs from
    // all of them.
    let with_first = (0..right.len()).map(|at| [0, at]);
    let first = with_first.chain((1..left.len()).map(|at| [at, 0])).find(differ);
    [equal, first.map(|at| (at, others))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_without_a_walk_over_them() {
        let some = |values: &[u8]| -> Vec<Option<u8>> {
            values.iter().map(|v| (*v != 0).then_some(*v)).collect()
        };
        for (left, right, expected) in [
            (&[1, 2][..], &[1, 2][..], [Some(([0, 0], 2)), Some(([0, 1], 2))]),
            (&[1], &[1], [Some(([0, 0], 1)), None]),
            (&[1, 2], &[1], [Some(([0, 0], 1)), Some(([1, 0], 1))]),
            (&[0, 3], &[0, 3, 3], [Some(([1, 1], 2)), Some(([0, 0], 4))]),
        ] {
            assert_eq!(join([some(left), some(right)]), expected, "{left:?} {right:?}");
        }
    }
}
