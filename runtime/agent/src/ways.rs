//! Which host-side interface is a pod's.
//!
//! Sources, the best first, and why each may be believed:
//!
//! 1. CNI: the runtime says which namespace and which interfaces it made for the pod.
//! 2. A host route (/32, /128) to the pod's address, which only the node's administrator can make ([`super::routes`]).
//! 3. Where the pod was found before: that does not change because somebody is in doubt now.
//! 4. The one namespace that has the pod's address. What is in a namespace is in the hands of a pod that may administer it, so
//!    this never moves a pod, an address in two namespaces is in neither, and a namespace is one pod's only.
//! 5. For a namespace whose interface is a NIC's virtual function: the representor behind which a bridge learned its address.
//!
//! An interface belongs to a namespace by what the kernel says of the host's end, never by what is said inside, and a bridge,
//! another master or loopback is nobody's. Not here: what follows from a way ([`crate`]).

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

/// Where CNI says that a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Path of its namespace, as the container runtime names it.
    pub netns: String,
    /// Names of interfaces on the host that were made for it.
    pub host_interfaces: Vec<String>,
}

/// What is known of a pod whose interface is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its addresses; without one it is found by its place only.
    pub addresses: Vec<IpAddr>,
    /// What CNI said.
    pub place: Option<Place>,
    /// Its interface so far.
    pub before: Option<IfIndex>,
    /// Its hardware address so far.
    pub mac: Option<Mac>,
}

/// How an interface was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// CNI said so.
    Cni,
    /// A host route leads there.
    Route,
    /// It was the pod's before, and nothing better is known.
    Before,
    /// Its other end is in the only namespace that has the pod's address.
    Namespace,
    /// A bridge learned the pod's hardware address there.
    Bridge,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Cni => "CNI said so",
            By::Route => "a host route leads there",
            By::Before => "it was found there before",
            By::Namespace => "the namespace behind it has the pod's address",
            By::Bridge => "a bridge learned the pod's hardware address there",
        })
    }
}

/// A pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its number here.
    pub ifindex: IfIndex,
    /// Why it is believed.
    pub by: By,
}

/// What there is to know about one pod's interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The interface, where there is one.
    pub way: Option<Way>,
    /// The pod's hardware address, where its interface hangs on a bridge ([`super::macs`]).
    pub mac: Option<Mac>,
    /// What speaks against it, or keeps it from being found.
    pub doubt: Option<String>,
}

impl Answer {
    /// Answers for networks in which each address has its own interface.
    pub fn by_address(pods: &[Wanted], interface: impl Fn(IpAddr) -> Option<IfIndex>) -> Vec<Answer> {
        let way = |pod: &Wanted| {
            let ifindex = pod.addresses.iter().find_map(|a| interface(*a))?;
            Some(Way { ifindex, by: By::Route })
        };
        pods.iter().map(|pod| Answer { way: way(pod), ..Answer::default() }).collect()
    }
}

/// Finds the interfaces of all pods, in their order, from the calling thread's namespace.
///
/// # Errors
/// A netlink call fails here; a namespace that vanishes while it is read is left out.
pub fn find(pods: &[Wanted]) -> io::Result<Vec<Answer>> {
    let mut ground = Ground { links: links::all()?, routes: routes::hosts()?, ..Ground::default() };
    let mut socket = Socket::open(Protocol::Route)?;
    for place in pods.iter().filter_map(|pod| pod.place.as_ref()) {
        let namespace = path_here(&place.netns).and_then(|path| Namespace::open(&path).ok());
        let Some(namespace) = namespace.filter(Namespace::is_network) else { continue };
        if let Ok(Some(number)) = links::number_of(&mut socket, &namespace) {
            ground.places.insert(place.netns.clone(), number);
        }
    }
    let mut answers = search(&ground, pods, &mut socket)?;
    macs::find(&ground.links, pods, &mut answers)?;
    Ok(answers)
}

fn search(ground: &Ground, pods: &[Wanted], socket: &mut Socket) -> io::Result<Vec<Answer>> {
    let mut search = Search::new(ground, pods);
    search.firm();
    if search.is_over() {
        return Ok(search.answers);
    }
    let own = Namespace::current()?;
    let others = search.others();
    let mut insides = Vec::new();
    for namespace in Namespace::all().into_iter().filter(|n| *n != own) {
        let number = links::number_of(socket, &namespace).ok().flatten();
        if number.is_some_and(|number| others.contains(&number)) {
            continue;
        }
        insides.extend(namespace.run(|| inside(number)).flatten());
    }
    search.by_namespace(&insides);
    if search.waits_for_bridge(&insides) {
        search.by_bridge(&insides, &switch::ports()?);
    }
    Ok(search.answers)
}

/// The path by which this process sees a namespace that a container runtime named. A path of a process' own namespace means another
/// process here, where that has another process namespace, so only names count.
fn path_here(netns: &str) -> Option<PathBuf> {
    let path =
        netns.strip_prefix("/var/run/").map_or_else(|| PathBuf::from(netns), |rest| Path::new("/run").join(rest));
    let known = FOLDERS.iter().any(|folder| path.parent() == Some(Path::new(folder)));
    known.then_some(path)
}

/// What the node itself says.
#[derive(Debug, Default)]
struct Ground {
    links: Vec<Link>,
    routes: Vec<(IpAddr, u32)>,
    /// Namespaces that CNI named, by path, with the numbers that the node has for them.
    places: BTreeMap<String, i32>,
}

/// What a namespace says of itself.
#[derive(Debug, Default)]
struct Inside {
    /// The node's number for it.
    number: Option<i32>,
    /// Its addresses, each with its interface's number and hardware address there, and whether that has another end.
    addresses: Vec<(IpAddr, u32, Option<Mac>, End)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In some other namespace.
    Elsewhere,
    /// None, as a NIC's.
    None,
}

/// In the namespace that is looked into.
fn inside(number: Option<i32>) -> io::Result<Inside> {
    let links = links::all()?;
    let of = |index: u32| links.iter().find(|link| link.index == index);
    let addresses = links::addresses()?.into_iter().filter_map(|found| {
        let link = of(found.index)?;
        let end = if link.peer.is_some() { End::Elsewhere } else { End::None };
        Some((found.address, found.index, link.mac, end))
    });
    Ok(Inside { number, addresses: addresses.collect() })
}

/// The search under way.
struct Search<'a> {
    ground: &'a Ground,
    pods: &'a [Wanted],
    /// Interfaces that may be a pod's.
    fit: BTreeMap<IfIndex, &'a Link>,
    /// Interfaces that are some pod's, as far as is known.
    taken: BTreeSet<IfIndex>,
    answers: Vec<Answer>,
}

impl<'a> Search<'a> {
    fn new(ground: &'a Ground, pods: &'a [Wanted]) -> Self {
        let fit = links::fit_for_pods(&ground.links).map(|link| (IfIndex::new(link.index), link)).collect();
        Self { ground, pods, fit, taken: BTreeSet::new(), answers: vec![Answer::default(); pods.len()] }
    }

    fn open(&self) -> impl Iterator<Item = usize> + use<> {
        let open: Vec<usize> = (0..self.pods.len()).filter(|i| self.answers[*i].way.is_none()).collect();
        open.into_iter()
    }

    /// Is there no pod left that could still be found?
    fn is_over(&self) -> bool {
        self.open().all(|i| self.pods[i].addresses.is_empty())
    }

    fn name(&self, ifindex: IfIndex) -> &str {
        self.fit.get(&ifindex).map_or("?", |link| link.name.as_str())
    }

    fn doubt(&mut self, pod: usize, doubt: String) {
        self.answers[pod].doubt.get_or_insert(doubt);
    }

    /// Gives each of the interfaces to its pod; one that several want, or have already, to the one that had it before.
    fn give(&mut self, found: Vec<(usize, IfIndex)>, by: By) {
        let (kept, new): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(pod, ifindex)| self.pods[*pod].before == Some(*ifindex));
        for (pod, ifindex) in kept.into_iter().chain(new) {
            if self.taken.insert(ifindex) {
                self.answers[pod].way = Some(Way { ifindex, by });
            } else {
                let doubt = format!("interface {} ({ifindex}) is another pod's already", self.name(ifindex));
                self.doubt(pod, doubt);
            }
        }
    }

    /// What no pod can forge.
    fn firm(&mut self) {
        let found = self.open().filter_map(|pod| Some((pod, self.by_cni(self.pods[pod].place.as_ref()?)?)));
        self.give(found.collect(), By::Cni);

        let mut found = Vec::new();
        for pod in self.open() {
            let wanted = &self.pods[pod];
            let ways = self.ground.routes.iter().filter(|(address, _)| wanted.addresses.contains(address));
            let ways: BTreeSet<IfIndex> =
                ways.map(|(_, i)| IfIndex::new(*i)).filter(|i| self.fit.contains_key(i)).collect();
            match ways.len() {
                0 => {}
                1 => found.extend(ways.first().map(|ifindex| (pod, *ifindex))),
                _ => {
                    let names: Vec<&str> = ways.iter().map(|i| self.name(*i)).collect();
                    self.doubt(pod, format!("host routes to its addresses lead to {}", names.join(" and ")));
                }
            }
        }
        self.give(found, By::Route);

        let before = self.open().filter_map(|pod| Some((pod, self.pods[pod].before?)));
        let before = before.filter(|(_, ifindex)| self.fit.contains_key(ifindex)).collect();
        self.give(before, By::Before);
    }

    fn by_cni(&self, place: &Place) -> Option<IfIndex> {
        let named = |link: &&&Link| place.host_interfaces.contains(&link.name);
        let one = |links: Vec<&&Link>| match links[..] {
            [link] => Some(IfIndex::new(link.index)),
            _ => None,
        };
        if let Some(number) = self.ground.places.get(&place.netns) {
            let behind: Vec<&&Link> =
                self.fit.values().filter(|link| link.peer.is_some_and(|p| p.namespace == *number)).collect();
            if !behind.is_empty() {
                return one(behind.iter().copied().filter(named).collect()).or_else(|| one(behind));
            }
        }
        one(self.fit.values().filter(named).collect())
    }

    /// Numbers of namespaces that are some pod's.
    fn others(&self) -> BTreeSet<i32> {
        self.taken.iter().filter_map(|ifindex| Some(self.fit.get(ifindex)?.peer?.namespace)).collect()
    }

    /// The namespaces, of those that are nobody's yet, that have one of the pod's addresses.
    fn candidates(&self, pod: usize, insides: &[Inside]) -> Vec<usize> {
        let others = self.others();
        let mine = |inside: &Inside| {
            let nobodys = inside.number.is_none_or(|number| !others.contains(&number));
            // Where no link of this node leads, only a NIC's virtual function can be.
            let here = |end: End| inside.number.is_some() || end == End::None;
            let mut addresses = inside.addresses.iter();
            nobodys && addresses.any(|(a, .., end)| here(*end) && self.pods[pod].addresses.contains(a))
        };
        (0..insides.len()).filter(|i| mine(&insides[*i])).collect()
    }

    /// The host's end of the interface that has the first of the pod's addresses there.
    fn end(&self, pod: usize, inside: &Inside) -> Option<IfIndex> {
        self.pods[pod].addresses.iter().find_map(|address| {
            let (_, index, ..) = inside.addresses.iter().find(|(a, ..)| a == address)?;
            let peer = Peer { index: *index, namespace: inside.number? };
            self.fit.values().find(|link| link.peer == Some(peer)).map(|link| IfIndex::new(link.index))
        })
    }

    /// Namespaces that only one pod can be in, again and again: each leaves fewer for the others.
    fn by_namespace(&mut self, insides: &[Inside]) {
        loop {
            let found: Vec<(usize, IfIndex)> = self
                .open()
                .filter_map(|pod| match self.candidates(pod, insides)[..] {
                    [only] => Some((pod, self.end(pod, &insides[only])?)),
                    _ => None,
                })
                .collect();
            let before = self.taken.len();
            self.give(found, By::Namespace);
            if self.taken.len() == before {
                break;
            }
        }
        for pod in self.open() {
            let several = self.candidates(pod, insides).len();
            if several > 1 {
                let doubt =
                    format!("{several} network namespaces have its address, and CNI did not say which is its own");
                self.doubt(pod, doubt);
            }
        }
    }

    /// Pods in a namespace whose interface has no other end.
    fn alone(&self, insides: &[Inside]) -> Vec<(usize, Mac)> {
        let alone = self.open().filter_map(|pod| {
            let [only] = self.candidates(pod, insides)[..] else { return None };
            let mut here = insides[only].addresses.iter();
            let (.., mac, _) = here.find(|(a, .., end)| *end == End::None && self.pods[pod].addresses.contains(a))?;
            Some((pod, (*mac)?))
        });
        alone.collect()
    }

    fn waits_for_bridge(&self, insides: &[Inside]) -> bool {
        !self.alone(insides).is_empty()
    }

    fn by_bridge(&mut self, insides: &[Inside], ports: &BTreeMap<Mac, u32>) {
        let alone = self.alone(insides);
        let found = alone.iter().filter_map(|(pod, mac)| Some((*pod, IfIndex::new(*ports.get(mac)?))));
        // What has its other end in a namespace is that one's.
        let nic = |(_, i): &(usize, IfIndex)| self.fit.get(i).is_some_and(|link| link.peer.is_none());
        let found = found.filter(nic).collect();
        self.give(found, By::Bridge);
        for (pod, mac) in alone {
            self.answers[pod].mac = self.answers[pod].way.map(|_| mac);
        }
    }
}

#[cfg(test)]
mod tests;
