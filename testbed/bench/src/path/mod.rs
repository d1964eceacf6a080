//! `netpolc bench path`: real packets between two pods of one node through no policy, netpolc,
//! nftables and ipset, each with the same 1,000 policies, side by side.
//!
//! Each contender has a namespace cluster of its own. A round runs every load on every contender in
//! a rotating order; a figure is the median over the rounds of its ratio to no policy *in the same
//! round*, since absolute rates drift. Not here: what a packet costs inside the hook
//! (`super::packet`).

mod load;
mod rivals;

use std::{collections::BTreeMap, net::Ipv4Addr, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use netpolc_policy::{
    Block, Cluster, Isolation, Labels, Namespace, Node, ObjectKey, Operator, Peer, Peers, Phase,
    Pod, PodNetwork, Policy, Port, Ports, Protocol, Requirement, Rule, Selector,
};
use netpolc_testbed::{
    feed,
    netns::{Net, NodeSpec, PodSpec, Site, Spec},
    random::Rng,
};
use serde::Serialize;

use self::{
    load::{Load, Server},
    rivals::PodPolicy,
};
use super::enforce::Enforced;

const POLICIES: usize = 1000;
const NODE: &str = "bench";
const PORT: u16 = 9999;
/// How long one load runs.
const LENGTH: Duration = Duration::from_millis(250);

/// What polices the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// Nothing polices the path.
    None,
    /// eBPF as the agent installs it.
    Netpolc,
    /// A verdict map per pod, interval sets, established connections first.
    Nftables,
    /// iptables with one ipset of (pod, port, peer), without connection tracking.
    Ipset,
}

impl Contender {
    const ALL: [Contender; 4] =
        [Contender::None, Contender::Netpolc, Contender::Nftables, Contender::Ipset];

    fn title(self) -> &'static str {
        match self {
            Contender::None => "no policy",
            Contender::Netpolc => "netpolc",
            Contender::Nftables => "nftables",
            Contender::Ipset => "ipset",
        }
    }
}

/// A ratio to the path without policy, and how much it moved.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figure {
    /// The median ratio over all rounds.
    pub ratio: f64,
    /// Half the distance between the quartiles: the noise.
    pub noise: f64,
}

/// All results of the measurement.
#[derive(Debug, Serialize)]
pub struct PathReport {
    /// How many rounds were measured.
    pub rounds: usize,
    /// Median of what no policy reached, for scale: operations or bytes a second.
    pub scale: BTreeMap<&'static str, f64>,
    /// The figure of each contender under each load.
    pub figures: BTreeMap<&'static str, BTreeMap<&'static str, Figure>>,
}

impl PathReport {
    /// Column titles and rows for a table.
    pub fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let titles = std::iter::once("ratio to no policy")
            .chain(Load::ALL.map(Load::title))
            .map(String::from)
            .collect();
        let row = |contender: &Contender| {
            let figures = self.figures.get(contender.title());
            let cell = |load: Load| {
                let figure = figures.and_then(|f| f.get(load.title()));
                figure.map_or_else(String::new, |f| format!("{:.2} ±{:.2}", f.ratio, f.noise))
            };
            std::iter::once(contender.title().to_string()).chain(Load::ALL.map(cell)).collect()
        };
        (titles, Contender::ALL.iter().filter(|c| **c != Contender::None).map(row).collect())
    }
}

/// A contender's cluster, policed and serving.
struct Lane {
    contender: Contender,
    net: Net,
    server: Server,
    // Enforcement ends with the lane, before its namespaces.
    enforced: Option<Enforced>,
}

impl Lane {
    fn site(&self, name: &str) -> Result<&Site> {
        Ok(self.net.pod(&key(name))?)
    }

    fn measure(&self, load: Load) -> Result<f64> {
        let client = self.site("client")?;
        // One segment a packet, or as many as fit: what the sending device hands on.
        let segments = if load == Load::Segments { "1" } else { "65535" };
        let args = ["link", "set", "dev", "eth0", "gso_max_segs", segments];
        let done = client
            .command("ip")
            .args(args)
            .stderr(Stdio::piped())
            .output()
            .context("ip link set gso_max_segs")?;
        ensure!(
            done.status.success(),
            "ip link set gso_max_segs: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(load::run(client, self.server.address(), load, LENGTH)?)
    }
}

/// Measures for `rounds` rounds; `progress` hears of each.
///
/// # Errors
/// Where root or a tool (nft, ipset, iptables) is missing, or where a contender stops what its
/// policies allow.
pub fn run(rounds: usize, mut progress: impl FnMut(String)) -> Result<PathReport> {
    let policies = policies();
    let mut lanes = Vec::new();
    for contender in Contender::ALL {
        progress(format!("{}: {POLICIES} policies", contender.title()));
        lanes.push(lane(contender, &policies).with_context(|| contender.title())?);
    }
    let mut rates: BTreeMap<(Contender, Load), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for load in Load::ALL {
            for i in 0..lanes.len() {
                let lane = &lanes[(i + round) % lanes.len()];
                let rate = lane.measure(load).with_context(|| lane.contender.title())?;
                rates.entry((lane.contender, load)).or_default().push(rate);
            }
        }
        progress(format!("round {} of {rounds}", round + 1));
    }
    for lane in lanes {
        let server = lane.net.pod(&key("server"))?.clone();
        lane.server.stop(&server);
        drop(lane.enforced);
    }
    let mut report = PathReport { rounds, scale: BTreeMap::new(), figures: BTreeMap::new() };
    for load in Load::ALL {
        let scale = &rates[&(Contender::None, load)];
        report.scale.insert(load.title(), quantile(scale.clone(), 0.5));
        for contender in Contender::ALL {
            let ratios: Vec<f64> =
                rates[&(contender, load)].iter().zip(scale).map(|(a, b)| a / b).collect();
            let noise = (quantile(ratios.clone(), 0.75) - quantile(ratios.clone(), 0.25)) / 2.0;
            let figure = Figure { ratio: quantile(ratios, 0.5), noise };
            report.figures.entry(contender.title()).or_default().insert(load.title(), figure);
        }
    }
    Ok(report)
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("bench", name)
}

fn pod_address(i: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 10).to_bits() + i as u32)
}

/// Pod 0 is the server, and the only one that exists besides the client; the others are there to be
/// in the way.
fn policies() -> Vec<PodPolicy> {
    let mut rng = Rng::new(1);
    let client = pod_address(POLICIES);
    let policy = |i: usize, rng: &mut Rng| {
        let mut peers: Vec<_> = (0..4)
            .map(|_| {
                let bits =
                    Ipv4Addr::new(172, 16, 0, 0).to_bits() + ((rng.below(1 << 12) as u32) << 8);
                ipnetwork::Ipv4Network::new(Ipv4Addr::from_bits(bits), 24).expect("24 bits")
            })
            .collect();
        let mut ports: Vec<u16> = (0..64).map(|_| 1024 + rng.below(8000) as u16).collect();
        if i == 0 {
            peers.push(ipnetwork::Ipv4Network::from(client));
            ports.push(PORT);
        }
        peers.sort();
        peers.dedup();
        ports.sort_unstable();
        ports.dedup();
        PodPolicy { pod: pod_address(i), peers, ports: ports.into_iter().map(|p| (p, p)).collect() }
    };
    (0..POLICIES).map(|i| policy(i, &mut rng)).collect()
}

fn lane(contender: Contender, policies: &[PodPolicy]) -> Result<Lane> {
    let pod = |name: &str, address: Ipv4Addr| PodSpec {
        key: key(name),
        node: NODE.into(),
        addresses: vec![address.into()],
        network: PodNetwork::Own,
    };
    let spec = Spec {
        nodes: vec![NodeSpec {
            name: NODE.into(),
            addresses: vec![Ipv4Addr::new(192, 168, 77, 1).into()],
        }],
        pods: vec![pod("server", pod_address(0)), pod("client", pod_address(POLICIES))],
        outside: vec![],
    };
    let net = Net::up(&spec)?;
    let node = net.node(NODE)?.clone();
    let enforced = match contender {
        Contender::None => None,
        Contender::Netpolc => Some(Enforced::on(&net, NODE, &cluster(policies))?),
        Contender::Nftables => {
            feed(&node, "nft", &["-f", "-"], &rivals::nft(policies))?;
            None
        }
        Contender::Ipset => {
            feed(&node, "ipset", &["restore"], &rivals::ipset(policies))?;
            feed(&node, "iptables-restore", &[], rivals::IPTABLES)?;
            None
        }
    };
    let client = net.pod(&key("client"))?;
    for (name, value) in
        [("net/ipv4/tcp_tw_reuse", "1"), ("net/ipv4/ip_local_port_range", "1100 65000")]
    {
        client
            .run(|| std::fs::write(format!("/proc/sys/{name}"), value))?
            .with_context(|| format!("sysctl {name}"))?;
    }
    let server = Server::start(net.pod(&key("server"))?, (pod_address(0), PORT).into())?;
    Ok(Lane { contender, net, server, enforced })
}

/// Runs a tool in the node's namespace with `text` on its standard input.
fn feed(node: &Site, program: &str, args: &[&str], text: &str) -> Result<()> {
    let done = feed::feed(node.command(program).args(args), text.as_bytes())
        .with_context(|| format!("{program}: is it installed?"))?;
    ensure!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// The same policies as Kubernetes has them.
fn cluster(policies: &[PodPolicy]) -> Cluster {
    let label = |value: &str| -> Labels { [("pod", value)].into_iter().collect() };
    let pod = |name: &str, address: Ipv4Addr| Pod {
        key: key(name),
        uid: None,
        node: Some(NODE.into()),
        labels: label(name),
        addresses: vec![address.into()],
        network: PodNetwork::Own,
        phase: Phase::Active,
        ports: vec![],
        grouping: Default::default(),
        owner: None,
    };
    let mut cluster = Cluster::default();
    cluster.namespaces.insert("bench".into(), Namespace::default());
    cluster.nodes.insert(
        NODE.into(),
        Node { addresses: vec![Ipv4Addr::new(192, 168, 77, 1).into()], ..Node::default() },
    );
    let client = pod("client", pod_address(POLICIES));
    cluster.pods.insert(client.key.clone(), client);
    for (i, policy) in policies.iter().enumerate() {
        let name: Arc<str> = if i == 0 { "server".into() } else { format!("pod{i}").into() };
        let pod = pod(&name, policy.pod);
        let block =
            |p: &ipnetwork::Ipv4Network| Peer::Block(Block { cidr: (*p).into(), except: vec![] });
        let port =
            |&(first, last): &(u16, u16)| Port::Range { protocol: Protocol::Tcp, first, last };
        let rule = Rule {
            peers: Peers::Listed(policy.peers.iter().map(block).collect()),
            ports: Ports::Listed(policy.ports.iter().map(port).collect()),
        };
        let requirement =
            Requirement { key: "pod".into(), operator: Operator::In(vec![name.clone()]) };
        let policy = Policy {
            key: pod.key.clone(),
            selector: Selector { requirements: vec![requirement] },
            ingress: Isolation::Isolated(vec![rule]),
            egress: Isolation::Open,
            mode: Default::default(),
        };
        cluster.policies.insert(policy.key.clone(), policy);
        cluster.pods.insert(pod.key.clone(), pod);
    }
    cluster
}
