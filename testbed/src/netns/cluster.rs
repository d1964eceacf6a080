//! A running cluster of namespaces: brought up from a [`Spec`], changed pod by pod, removed by
//! Drop.
//!
//! Not here: the addresses and routes themselves (`super::wiring`).

use std::{collections::BTreeMap, fs, net::IpAddr, process::Command, sync::Arc};

use netpolc_policy::{ObjectKey, PodNetwork};

use super::{
    Error, Guard, Namespace, NodeSpec, OutsideSpec, PodSpec, Spec, interface_index,
    wiring::{self, Link},
};

/// A namespace of the cluster with what a test wants to know of it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Node name, `namespace/name` of a pod, or the outside host's name.
    pub name: String,
    /// The network namespace that it is in.
    pub namespace: Namespace,
    /// Its addresses, of both families.
    pub addresses: Vec<IpAddr>,
    /// The other end of its eth0, at its node (pods) or in the fabric. None for hostNetwork pods.
    pub host_end: Option<HostEnd>,
}

/// The host-side interface of a pod, which policy is attached to.
#[derive(Clone, Debug)]
pub struct HostEnd {
    /// The namespace of the node.
    pub namespace: Namespace,
    /// The name of the interface in that namespace.
    pub interface: String,
    /// The index of the interface in that namespace.
    pub index: u32,
}

impl Site {
    /// Does `work` on a thread inside. See [`Namespace::run`].
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.namespace.run(work)
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        self.namespace.command(program)
    }

    /// The first address of the other's family kind: IPv4 or IPv6.
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv4() == other.is_ipv4())
    }
}

/// A running cluster. Dropping it removes every namespace, also while a panic unwinds; when the
/// process dies otherwise, its guard removes them.
#[derive(Debug)]
pub struct Net {
    fabric: Namespace,
    nodes: BTreeMap<Arc<str>, (Site, Link)>,
    pods: BTreeMap<ObjectKey, Site>,
    outside: BTreeMap<Arc<str>, Site>,
    next_link: u16,
    guard: Guard,
}

impl Net {
    /// Makes everything in `spec`: some 150 ms for two nodes and ten pods.
    ///
    /// # Errors
    /// The caller is not root, `ip` is missing or refuses a line, or two sites have one name.
    pub fn up(spec: &Spec) -> Result<Self, Error> {
        let guard = Guard::claim()?;
        let fabric = Namespace::create(&guard.namespace("fabric"))?;
        forward(&fabric)?;
        let mut net = Net {
            fabric,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            outside: BTreeMap::new(),
            next_link: 1,
            guard,
        };
        net.add_nodes(&spec.nodes)?;
        net.add_outside(&spec.outside)?;
        net.add_pods(&spec.pods)?;
        Ok(net)
    }

    /// The part of the namespaces' names that is this cluster's: `netpolc-ID-...`.
    pub fn id(&self) -> &str {
        self.guard.id()
    }

    /// The node of this name.
    ///
    /// # Errors
    /// There is no such node in the cluster.
    pub fn node(&self, name: &str) -> Result<&Site, Error> {
        self.nodes
            .get(name)
            .map(|(site, _)| site)
            .ok_or_else(|| Error::Name(format!("no node {name} in the cluster")))
    }

    /// The pod of this namespace and name.
    ///
    /// # Errors
    /// There is no such pod in the cluster.
    pub fn pod(&self, key: &ObjectKey) -> Result<&Site, Error> {
        self.pods.get(key).ok_or_else(|| Error::Name(format!("no pod {key} in the cluster")))
    }

    /// The host of this name outside the cluster.
    ///
    /// # Errors
    /// There is no such host outside the cluster.
    pub fn outside(&self, name: &str) -> Result<&Site, Error> {
        self.outside.get(name).ok_or_else(|| Error::Name(format!("no outside host {name}")))
    }

    /// All nodes, sorted by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Site> {
        self.nodes.values().map(|(site, _)| site)
    }

    /// All pods, sorted by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = (&ObjectKey, &Site)> {
        self.pods.iter()
    }

    /// The namespace that routes between nodes and to the outside.
    pub fn fabric(&self) -> &Namespace {
        &self.fabric
    }

    /// Adds pods. An address that another pod has moves to the new one, as when a pod is re-created
    /// (S43).
    ///
    /// # Errors
    /// A pod is in the cluster already, its node is not, or `ip` refuses a line.
    pub fn add_pods(&mut self, pods: &[PodSpec]) -> Result<(), Error> {
        let (mut links, mut at_fabric) = (Vec::new(), String::new());
        let (mut at_nodes, mut settle) =
            (BTreeMap::<Arc<str>, String>::new(), BTreeMap::<Arc<str>, String>::new());
        for pod in pods {
            if self.pods.contains_key(&pod.key)
                || links.iter().any(|(p, _, _): &(&PodSpec, _, _)| p.key == pod.key)
            {
                return Err(Error::Name(format!("pod {} is in the cluster already", pod.key)));
            }
            let node = self.node(&pod.node)?.clone();
            if pod.network == PodNetwork::Host {
                self.pods.insert(
                    pod.key.clone(),
                    Site { name: pod.key.to_string(), host_end: None, ..node },
                );
                continue;
            }
            let namespace = self.create(&format!("pod.{}.{}", pod.key.namespace, pod.key.name))?;
            let link = self.link(&namespace, pod.key.to_string(), &pod.addresses);
            link.router_lines(at_nodes.entry(pod.node.clone()).or_default());
            link.settle_line(settle.entry(pod.node.clone()).or_default());
            let node_link = &self.nodes[&pod.node].1;
            pod.addresses.iter().for_each(|a| node_link.behind_line(*a, &mut at_fabric));
            links.push((pod, namespace, link));
        }
        wiring::run([(&self.fabric, at_fabric)])?;
        let nodes = |lines: BTreeMap<Arc<str>, String>| {
            wiring::run(
                lines.into_iter().map(|(node, lines)| (&self.nodes[&node].0.namespace, lines)),
            )
        };
        nodes(at_nodes)?;
        wiring::run(links.iter().map(|(_, ns, link)| (ns, guest_lines(link))))?;
        nodes(settle)?;
        for (pod, namespace, link) in links {
            let host_end = host_end(&self.nodes[&pod.node].0.namespace, &link)?;
            let site = Site {
                name: pod.key.to_string(),
                namespace,
                addresses: pod.addresses.clone(),
                host_end: Some(host_end),
            };
            self.pods.insert(pod.key.clone(), site);
        }
        Ok(())
    }

    /// Removes a pod, its interface first, so that it is gone from the node at once.
    ///
    /// # Errors
    /// There is no such pod in the cluster, or `ip` refuses a line.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Result<(), Error> {
        let site = self
            .pods
            .remove(key)
            .ok_or_else(|| Error::Name(format!("no pod {key} in the cluster")))?;
        let Some(end) = site.host_end else { return Ok(()) };
        wiring::run([(&end.namespace, format!("link del dev {}\n", end.interface))])?;
        // An address that another pod has taken over keeps its route.
        let free = |a: &&IpAddr| !self.pods.values().any(|p| p.addresses.contains(a));
        let routes = site
            .addresses
            .iter()
            .filter(free)
            .map(|a| format!("route del {}\n", wiring::host_route(*a)));
        wiring::run([(&self.fabric, routes.collect())])?;
        Namespace::remove(site.namespace.name())
    }

    fn add_nodes(&mut self, nodes: &[NodeSpec]) -> Result<(), Error> {
        let made = nodes.iter().map(|node| {
            let namespace = self.create(&format!("node.{}", node.name))?;
            forward(&namespace)?;
            let link = self.link(&namespace, node.name.to_string(), &node.addresses);
            Ok((node.name.clone(), namespace, link))
        });
        let made: Vec<_> = made.collect::<Result<_, Error>>()?;
        self.wire(made.iter().map(|(_, ns, link)| (ns, link)))?;
        for (name, namespace, link) in made {
            let host_end = Some(host_end(&self.fabric, &link)?);
            let site = Site {
                name: name.to_string(),
                namespace,
                addresses: link.addresses.clone(),
                host_end,
            };
            self.nodes.insert(name, (site, link));
        }
        Ok(())
    }

    fn add_outside(&mut self, hosts: &[OutsideSpec]) -> Result<(), Error> {
        for host in hosts {
            let namespace = self.create(&format!("outside.{}", host.name))?;
            let link = self.link(&namespace, host.name.to_string(), &host.addresses);
            self.wire([(&namespace, &link)])?;
            let host_end = Some(host_end(&self.fabric, &link)?);
            let site = Site {
                name: host.name.to_string(),
                namespace,
                addresses: host.addresses.clone(),
                host_end,
            };
            self.outside.insert(host.name.clone(), site);
        }
        Ok(())
    }

    /// Hangs guests on the fabric. A router that has no IPv4 address yet gets one to ask by ARP
    /// with.
    fn wire<'a>(
        &self,
        guests: impl IntoIterator<Item = (&'a Namespace, &'a Link)>,
    ) -> Result<(), Error> {
        let guests: Vec<_> = guests.into_iter().collect();
        let mut at_fabric = "link set dev lo up\naddr replace 169.254.0.1/32 dev lo\n".to_owned();
        guests.iter().for_each(|(_, link)| link.router_lines(&mut at_fabric));
        wiring::run([(&self.fabric, at_fabric)])?;
        wiring::run(guests.iter().map(|(namespace, link)| {
            let mut lines = guest_lines(link);
            if !link.addresses.iter().any(IpAddr::is_ipv4) {
                lines.push_str(
                    "addr add 169.254.0.2/32 dev lo\nroute add default via 169.254.1.1 dev eth0\n",
                );
            }
            (*namespace, lines)
        }))?;
        let mut settle = String::new();
        guests.iter().for_each(|(_, link)| link.settle_line(&mut settle));
        wiring::run([(&self.fabric, settle)])
    }

    fn create(&self, name: &str) -> Result<Namespace, Error> {
        Namespace::create(&self.guard.namespace(name))
    }

    fn link(&mut self, guest: &Namespace, alias: String, addresses: &[IpAddr]) -> Link {
        let number = self.next_link;
        self.next_link += 1;
        Link { number, alias, guest: guest.name().to_owned(), addresses: addresses.to_vec() }
    }
}

fn guest_lines(link: &Link) -> String {
    let mut lines = String::new();
    link.guest_lines(&mut lines);
    lines
}

fn host_end(router: &Namespace, link: &Link) -> Result<HostEnd, Error> {
    let interface = link.interface();
    let index = router.run(|| interface_index(&interface))?.map_err(|e| {
        Error::system(format!("find interface {interface} in {}", router.name()), e)
    })?;
    Ok(HostEnd { namespace: router.clone(), interface, index })
}

/// Turns a namespace into a router. A kernel may lack IPv6; IPv4 must work.
fn forward(namespace: &Namespace) -> Result<(), Error> {
    let on = || {
        let _ = fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
    };
    namespace
        .run(on)?
        .map_err(|e| Error::system(format!("enable forwarding in {}", namespace.name()), e))
}
