//! Finds the host-side interface of each pod.
//!
//! These are the sources, the best first, and the reasons why each may be trusted:
//!
//! 1. CNI: the runtime says which namespace and which interfaces it created for the pod.
//! 2. A host route (/32, /128) to the pod's address, which only the node's administrator can
//!    create.
//! 3. The interface where the pod was found before, which stays valid where other sources are in
//!    doubt.
//! 4. The only namespace that has the pod's address. A pod may administer its own namespace, so its
//!    contents may be forged. Therefore this source never moves a pod, an address that is in two
//!    namespaces counts for neither, and a namespace belongs to one pod only.
//! 5. For a namespace whose interface is a NIC's virtual function, the representor behind which a
//!    bridge has learned its hardware address.
//!
//! Which namespace an interface leads to is known from the kernel's data about the host's end, and
//! never from the data inside the namespace. A bridge, another master device and the loopback
//! device are no pod's interface. Not here: keeping the results ([`crate::pod_interfaces`]) and
//! attaching programs ([`crate`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use netpolc_host::{
    links::{self, Link, Peer},
    netlink::{Protocol, Socket},
    netns::{FOLDERS, Namespace},
    routes,
    switch::{self, Mac},
};
use netpolc_table::IfIndex;
use serde::{Deserialize, Serialize};

use crate::macs;

/// Where a pod's sandbox is, according to CNI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The path of the sandbox's network namespace, as the container runtime names it.
    pub netns: String,
    /// The names of interfaces on the host that were created for the sandbox.
    pub host_interfaces: Vec<String>,
}

/// What is known about a pod whose interface is searched for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's addresses. A pod without addresses can only be found by its placement.
    pub addresses: Vec<IpAddr>,
    /// Where the pod is, according to CNI; None where CNI has not said.
    pub placement: Option<Placement>,
    /// The index of the interface where the pod was found before; None for a new pod.
    pub previous: Option<IfIndex>,
    /// The hardware address that was found before; None where there was none.
    pub mac: Option<Mac>,
}

/// The source from which an interface is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// CNI has named it.
    Cni,
    /// A host route to the pod's address leads there.
    Route,
    /// The pod was found there before, and no better source names another one.
    Before,
    /// Its other end is in the only namespace that has the pod's address.
    Namespace,
    /// A bridge has learned the pod's hardware address there.
    Bridge,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Cni => "CNI has named it",
            Source::Route => "a host route leads there",
            Source::Before => "the pod was found there before",
            Source::Namespace => "the namespace behind it has the pod's address",
            Source::Bridge => "a bridge has learned the pod's hardware address there",
        })
    }
}

/// A pod's interface on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostInterface {
    /// The index of the interface in the host's namespace.
    pub ifindex: IfIndex,
    /// The source from which it is known.
    pub source: Source,
}

/// The result of the search for one pod's interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// The interface; None where it was not found.
    pub interface: Option<HostInterface>,
    /// The pod's hardware address; None where its interface is not attached to a bridge.
    pub mac: Option<Mac>,
    /// Why the result is uncertain, or why the interface was not found; None where there is no
    /// doubt.
    pub doubt: Option<String>,
}

impl Discovery {
    /// Results for networks in which each address has its own interface, for tests.
    pub fn by_address(
        pods: &[PodFacts],
        interface: impl Fn(IpAddr) -> Option<IfIndex>,
    ) -> Vec<Discovery> {
        let interface_of = |pod: &PodFacts| {
            let ifindex = pod.addresses.iter().find_map(|a| interface(*a))?;
            Some(HostInterface { ifindex, source: Source::Route })
        };
        pods.iter()
            .map(|pod| Discovery { interface: interface_of(pod), ..Discovery::default() })
            .collect()
    }
}

/// Finds the interfaces of all pods in the calling thread's network namespace; the results are in
/// the order of the pods.
///
/// # Errors
/// A netlink call in the calling thread's namespace fails. A namespace that vanishes while it is
/// read is left out.
pub fn find_interfaces(pods: &[PodFacts]) -> io::Result<Vec<Discovery>> {
    let mut host =
        HostView { links: links::all()?, routes: routes::hosts()?, ..HostView::default() };
    let mut socket = Socket::open(Protocol::Route)?;
    for placement in pods.iter().filter_map(|pod| pod.placement.as_ref()) {
        let namespace = local_path(&placement.netns).and_then(|path| Namespace::open(&path).ok());
        let Some(namespace) = namespace.filter(Namespace::is_network) else { continue };
        if let Ok(Some(number)) = links::number_of(&mut socket, &namespace) {
            host.named.insert(placement.netns.clone(), number);
        }
    }
    let mut results = search(&host, pods, &mut socket)?;
    macs::find(&host.links, pods, &mut results)?;
    Ok(results)
}

fn search(host: &HostView, pods: &[PodFacts], socket: &mut Socket) -> io::Result<Vec<Discovery>> {
    let mut search = Search::new(host, pods);
    // Reading namespaces is expensive, so the sources that need none come first. Usually they
    // suffice.
    search.by_trusted_sources();
    if search.is_over() {
        return Ok(search.results);
    }
    let own = Namespace::current()?;
    let others = search.assigned_namespaces();
    let mut views = Vec::new();
    for namespace in Namespace::all().into_iter().filter(|n| *n != own) {
        let number = links::number_of(socket, &namespace).ok().flatten();
        if number.is_some_and(|number| others.contains(&number)) {
            continue;
        }
        views.extend(namespace.run(|| inside(number)).flatten());
    }
    search.by_namespace(&views);
    if search.waits_for_bridge(&views) {
        search.by_bridge(&views, &switch::ports()?);
    }
    Ok(search.results)
}

/// The path by which this process can open a namespace that a container runtime has named; None
/// where it cannot. A path below /proc may mean another process here, since this process may be in
/// another process namespace, so only named namespaces count.
fn local_path(netns: &str) -> Option<PathBuf> {
    let path = netns
        .strip_prefix("/var/run/")
        .map_or_else(|| PathBuf::from(netns), |rest| Path::new("/run").join(rest));
    let known = FOLDERS.iter().any(|folder| path.parent() == Some(Path::new(folder)));
    known.then_some(path)
}

/// What the host's own namespace shows.
#[derive(Debug, Default)]
struct HostView {
    links: Vec<Link>,
    routes: Vec<(IpAddr, u32)>,
    /// The namespaces that CNI has named, by path, with the ids that the host has for them.
    named: BTreeMap<String, i32>,
}

/// What a pod's namespace shows.
#[derive(Debug, Default)]
struct NamespaceView {
    /// The id that the host has for the namespace; None where no link of the host leads there.
    number: Option<i32>,
    /// The addresses in the namespace, each with the index and hardware address of its interface,
    /// and where the other end of that interface is.
    addresses: Vec<(IpAddr, u32, Option<Mac>, End)>,
}

/// Where the other end of an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In another namespace, as for a veth pair.
    Elsewhere,
    /// There is no other end, as for a NIC.
    None,
}

/// Reads the calling thread's namespace, which has the id `number`.
fn inside(number: Option<i32>) -> io::Result<NamespaceView> {
    let links = links::all()?;
    let of = |index: u32| links.iter().find(|link| link.index == index);
    let addresses = links::addresses()?.into_iter().filter_map(|found| {
        let link = of(found.index)?;
        let end = if link.peer.is_some() { End::Elsewhere } else { End::None };
        Some((found.address, found.index, link.mac, end))
    });
    Ok(NamespaceView { number, addresses: addresses.collect() })
}

/// The state of a search.
struct Search<'a> {
    host: &'a HostView,
    pods: &'a [PodFacts],
    /// The interfaces that may belong to a pod.
    eligible: BTreeMap<IfIndex, &'a Link>,
    /// The interfaces that have been assigned to a pod.
    assigned: BTreeSet<IfIndex>,
    /// The results so far, in the order of the pods.
    results: Vec<Discovery>,
}

impl<'a> Search<'a> {
    fn new(host: &'a HostView, pods: &'a [PodFacts]) -> Self {
        let eligible =
            links::fit_for_pods(&host.links).map(|link| (IfIndex::new(link.index), link)).collect();
        Self {
            host,
            pods,
            eligible,
            assigned: BTreeSet::new(),
            results: vec![Discovery::default(); pods.len()],
        }
    }

    /// The pods whose interface has not been found yet.
    fn open(&self) -> impl Iterator<Item = usize> + use<> {
        let open: Vec<usize> =
            (0..self.pods.len()).filter(|i| self.results[*i].interface.is_none()).collect();
        open.into_iter()
    }

    /// Whether no pod is left that could still be found.
    fn is_over(&self) -> bool {
        self.open().all(|i| self.pods[i].addresses.is_empty())
    }

    fn name(&self, ifindex: IfIndex) -> &str {
        self.eligible.get(&ifindex).map_or("?", |link| link.name.as_str())
    }

    fn doubt(&mut self, pod: usize, doubt: String) {
        self.results[pod].doubt.get_or_insert(doubt);
    }

    /// Assigns interfaces to pods. Where several pods are found at one interface, the pod that had
    /// it before gets it, and the others get a doubt.
    fn assign(&mut self, found: Vec<(usize, IfIndex)>, source: Source) {
        let (unchanged, new): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(pod, ifindex)| self.pods[*pod].previous == Some(*ifindex));
        for (pod, ifindex) in unchanged.into_iter().chain(new) {
            if self.assigned.insert(ifindex) {
                self.results[pod].interface = Some(HostInterface { ifindex, source });
            } else {
                let doubt = format!(
                    "interface {} ({ifindex}) belongs to another pod already",
                    self.name(ifindex)
                );
                self.doubt(pod, doubt);
            }
        }
    }

    /// Searches the sources that no pod can forge: CNI, host routes, and where pods were before.
    fn by_trusted_sources(&mut self) {
        let found = self
            .open()
            .filter_map(|pod| Some((pod, self.by_cni(self.pods[pod].placement.as_ref()?)?)));
        self.assign(found.collect(), Source::Cni);

        let mut found = Vec::new();
        for pod in self.open() {
            let facts = &self.pods[pod];
            let routes =
                self.host.routes.iter().filter(|(address, _)| facts.addresses.contains(address));
            let targets: BTreeSet<IfIndex> = routes
                .map(|(_, i)| IfIndex::new(*i))
                .filter(|i| self.eligible.contains_key(i))
                .collect();
            match targets.len() {
                0 => {}
                1 => found.extend(targets.first().map(|ifindex| (pod, *ifindex))),
                _ => {
                    let names: Vec<&str> = targets.iter().map(|i| self.name(*i)).collect();
                    self.doubt(
                        pod,
                        format!("host routes to its addresses lead to {}", names.join(" and ")),
                    );
                }
            }
        }
        self.assign(found, Source::Route);

        let before = self.open().filter_map(|pod| Some((pod, self.pods[pod].previous?)));
        let before = before.filter(|(_, ifindex)| self.eligible.contains_key(ifindex)).collect();
        self.assign(before, Source::Before);
    }

    fn by_cni(&self, placement: &Placement) -> Option<IfIndex> {
        let named = |link: &&&Link| placement.host_interfaces.contains(&link.name);
        let one = |links: Vec<&&Link>| match links[..] {
            [link] => Some(IfIndex::new(link.index)),
            _ => None,
        };
        if let Some(number) = self.host.named.get(&placement.netns) {
            let behind: Vec<&&Link> = self
                .eligible
                .values()
                .filter(|link| link.peer.is_some_and(|p| p.namespace == *number))
                .collect();
            if !behind.is_empty() {
                return one(behind.iter().copied().filter(named).collect()).or_else(|| one(behind));
            }
        }
        one(self.eligible.values().filter(named).collect())
    }

    /// The ids of the namespaces that have been assigned to a pod.
    fn assigned_namespaces(&self) -> BTreeSet<i32> {
        self.assigned
            .iter()
            .filter_map(|ifindex| Some(self.eligible.get(ifindex)?.peer?.namespace))
            .collect()
    }

    /// The namespaces that have one of the pod's addresses and have not been assigned to a pod.
    fn candidates(&self, pod: usize, views: &[NamespaceView]) -> Vec<usize> {
        let others = self.assigned_namespaces();
        let mine = |inside: &NamespaceView| {
            let is_free = inside.number.is_none_or(|number| !others.contains(&number));
            // A namespace to which no link of this host leads can only have a NIC's virtual
            // function.
            let here = |end: End| inside.number.is_some() || end == End::None;
            let mut addresses = inside.addresses.iter();
            is_free
                && addresses.any(|(a, .., end)| here(*end) && self.pods[pod].addresses.contains(a))
        };
        (0..views.len()).filter(|i| mine(&views[*i])).collect()
    }

    /// The host's end of the interface that has the first of the pod's addresses in that namespace.
    fn end(&self, pod: usize, inside: &NamespaceView) -> Option<IfIndex> {
        self.pods[pod].addresses.iter().find_map(|address| {
            let (_, index, ..) = inside.addresses.iter().find(|(a, ..)| a == address)?;
            let peer = Peer { index: *index, namespace: inside.number? };
            self.eligible
                .values()
                .find(|link| link.peer == Some(peer))
                .map(|link| IfIndex::new(link.index))
        })
    }

    /// Assigns namespaces that are the only candidate of a pod. This is repeated, since each
    /// assignment leaves fewer candidates for the others.
    fn by_namespace(&mut self, views: &[NamespaceView]) {
        loop {
            let found: Vec<(usize, IfIndex)> = self
                .open()
                .filter_map(|pod| match self.candidates(pod, views)[..] {
                    [only] => Some((pod, self.end(pod, &views[only])?)),
                    _ => None,
                })
                .collect();
            let before = self.assigned.len();
            self.assign(found, Source::Namespace);
            if self.assigned.len() == before {
                break;
            }
        }
        for pod in self.open() {
            let several = self.candidates(pod, views).len();
            if several > 1 {
                let doubt = format!(
                    "{several} network namespaces have its address, and CNI has not said which one \
                    is its own"
                );
                self.doubt(pod, doubt);
            }
        }
    }

    /// The pods in a namespace whose interface has no other end, each with its hardware address.
    fn alone(&self, views: &[NamespaceView]) -> Vec<(usize, Mac)> {
        let alone = self.open().filter_map(|pod| {
            let [only] = self.candidates(pod, views)[..] else { return None };
            let mut here = views[only].addresses.iter();
            let (.., mac, _) = here
                .find(|(a, .., end)| *end == End::None && self.pods[pod].addresses.contains(a))?;
            Some((pod, (*mac)?))
        });
        alone.collect()
    }

    fn waits_for_bridge(&self, views: &[NamespaceView]) -> bool {
        !self.alone(views).is_empty()
    }

    fn by_bridge(&mut self, views: &[NamespaceView], ports: &BTreeMap<Mac, u32>) {
        let alone = self.alone(views);
        let found =
            alone.iter().filter_map(|(pod, mac)| Some((*pod, IfIndex::new(*ports.get(mac)?))));
        // An interface with its other end in a namespace belongs to that namespace's pod, so only
        // one without may be a representor.
        let nic = |(_, i): &(usize, IfIndex)| {
            self.eligible.get(i).is_some_and(|link| link.peer.is_none())
        };
        let found = found.filter(nic).collect();
        self.assign(found, Source::Bridge);
        for (pod, mac) in alone {
            self.results[pod].mac = self.results[pod].interface.map(|_| mac);
        }
    }
}

#[cfg(test)]
mod tests;
