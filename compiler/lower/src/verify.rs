//! The proof: oracle and tables give one answer for every pod, direction, remote and port, checked
//! at the boundaries of all classes and port intervals of the compiled program. What lies between
//! two boundaries has the same class and port class, so nothing else can differ.
//!
//! Not here: packets, state and what a target holds.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use netpolc_policy::{
    Cluster, ObjectKey,
    oracle::{self, Party, Question, Reason, Transport},
};
use netpolc_table::{
    EndpointId, Program, TableId, boundaries,
    eval::{self, Pipeline, Verdict},
    schema::{Family, PortKey, ServiceKey},
};

use crate::{compiler::Compiler, event::Scope, overflow::Diagnostic};

/// A packet that oracle and tables judge differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The endpoint that is asked about.
    pub pod: ObjectKey,
    /// Whether the packet goes to it, comes from it, or is born on its node and goes to it.
    pub pipeline: Pipeline,
    /// The address at the other end.
    pub remote: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    /// Of the destination, or type << 8 | code of ICMP; None for protocols without ports.
    pub port: Option<u16>,
    /// Why the oracle allows or denies it.
    pub oracle: String,
    /// How the tables judge it.
    pub tables: Verdict,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, pipeline, remote, protocol, port, oracle, tables } = self;
        let packet = match pipeline {
            Pipeline::ToPod => "ingress",
            Pipeline::FromPod => "egress",
            Pipeline::Born => "ingress from its own node",
        };
        let port = port.map_or_else(String::new, |p| format!(" port {p}"));
        write!(
            f,
            "{packet} of {pod} with {remote} protocol {protocol}{port}: policy says {oracle}, \
             tables say {tables:?}"
        )
    }
}

/// Protocols without ports that no object need name for their answers to differ: both ICMPs, and
/// one for experiments (RFC 3692), which stands for all others but those of tunnels (GRE).
const PORTLESS: [u8; 4] = [1, 47, 58, 253];

/// Compares the compiler's program with the oracle; returns up to `limit` packets that differ. So
/// it does with the shadow verdict (S85), as the tables have it beside the other one, except for
/// what goes to a Service.
///
/// Traffic of a pod with itself (S47) is decided before or behind the tables and is left out. What
/// is born on the node is asked about with every address as its source (S44, S82). The cost is
/// endpoints x remotes x ports x policies.
pub fn verify(cluster: &Cluster, compiler: &Compiler, limit: usize) -> Vec<Counterexample> {
    let program = compiler.program();
    let (remotes, ports) = (remotes(program), ports(program));
    let judges = Judges {
        cluster,
        // A forwarded packet with a node's address is judged as that address (S44).
        without_nodes: Cluster { nodes: Default::default(), ..cluster.clone() },
        program,
        everywhere: *compiler.scope() == Scope::Everywhere,
    };
    let is_whole = |d: &Diagnostic| !matches!(d, Diagnostic::NotCompared { .. });
    let shadow = netpolc_policy::audit::shadow(cluster);
    let shadow = shadow.filter(|_| compiler.diagnostics().iter().all(is_whole));
    let shadow = shadow.as_ref().map(|cluster| Judges {
        cluster,
        without_nodes: Cluster { nodes: Default::default(), ..cluster.clone() },
        ..judges
    });
    let mut found = Vec::new();
    for (pod, endpoint) in compiler.endpoints() {
        let own = &cluster.pods[pod].addresses;
        let address = |remote: &IpAddr| own.first().copied().unwrap_or(*remote);
        for &remote in remotes.iter().filter(|remote| !own.contains(remote)) {
            let us = (pod, address(&remote), endpoint);
            let packets =
                ports.iter().flat_map(|port| Pipeline::ALL.map(|pipeline| (pipeline, *port)));
            found.extend(packets.filter_map(|(pipeline, port)| {
                let differ = judges.differ(us, pipeline, remote, port);
                differ.or_else(|| {
                    shadow.as_ref()?.differ_from_shadow(&judges, us, pipeline, remote, port)
                })
            }));
            if found.len() >= limit {
                found.truncate(limit);
                return found;
            }
        }
    }
    found
}

/// Who is asked about each packet.
struct Judges<'a> {
    cluster: &'a Cluster,
    without_nodes: Cluster,
    program: &'a Program,
    everywhere: bool,
}

impl Judges<'_> {
    /// Some: oracle and tables judge this packet differently.
    fn differ(
        &self,
        (pod, address, endpoint): (&ObjectKey, IpAddr, EndpointId),
        pipeline: Pipeline,
        remote: IpAddr,
        (protocol, port): (u8, Option<u16>),
    ) -> Option<Counterexample> {
        let us = (pod, address, endpoint);
        let reason = self.reason(us, pipeline, remote, (protocol, port));
        if reason == Reason::Tunnel && self.denies_tunnel(protocol) {
            return None;
        }
        let tables = eval::decide(self.program, pipeline, endpoint, remote, protocol, port).verdict;
        if self.expected(&reason, remote, tables) == tables {
            return None;
        }
        let oracle = reason.to_string();
        Some(Counterexample { pod: pod.clone(), pipeline, remote, protocol, port, oracle, tables })
    }

    /// Does the table of tunnels, which is asked before all others, have this protocol? A program
    /// that was made for no node in particular has none in it.
    fn denies_tunnel(&self, protocol: u8) -> bool {
        let knows_none = self.program.table(TableId::Tunnel).entries.is_empty();
        knows_none || eval::is_tunnel(self.program, protocol, None)
    }

    /// The same about the shadow verdict, where these judges are asked about the shadow.
    fn differ_from_shadow(
        &self,
        enforced: &Judges<'_>,
        (pod, address, endpoint): (&ObjectKey, IpAddr, EndpointId),
        pipeline: Pipeline,
        remote: IpAddr,
        (protocol, port): (u8, Option<u16>),
    ) -> Option<Counterexample> {
        let (us, packet) = ((pod, address, endpoint), (protocol, port));
        let [now, then] = [enforced, self].map(|judges| {
            let reason = judges.reason(us, pipeline, remote, packet);
            (!matches!(reason, Reason::Service | Reason::Tunnel)).then_some(reason)
        });
        let (now, then) = (now?, then?);
        let differs = eval::tried(self.program, pipeline, endpoint, remote, protocol, port);
        if differs.is_some() == (now.allows() != then.allows()) {
            return None;
        }
        let oracle = format!("{then} if what is tried were enforced");
        let permits = now.allows() != differs.is_some();
        let tables = if permits { Verdict::Permit } else { Verdict::Deny };
        Some(Counterexample { pod: pod.clone(), pipeline, remote, protocol, port, oracle, tables })
    }

    fn reason(
        &self,
        (pod, address, _): (&ObjectKey, IpAddr, EndpointId),
        pipeline: Pipeline,
        remote: IpAddr,
        (protocol, port): (u8, Option<u16>),
    ) -> Reason {
        let (us, them) = (Party::Pod(pod.clone(), address), Party::Address(remote));
        let transport = Transport::from_number(protocol);
        let question = |source, destination| Question {
            source,
            destination,
            protocol: transport,
            port,
            via: None,
        };
        match pipeline {
            Pipeline::Born => oracle::born(self.cluster, pod, remote, transport, port),
            Pipeline::ToPod => {
                oracle::judge(&self.without_nodes, &question(them, us)).ingress.reason
            }
            Pipeline::FromPod => oracle::judge(self.cluster, &question(us, them)).egress.reason,
        }
    }

    /// What tables should say where the oracle has this reason.
    fn expected(&self, reason: &Reason, remote: IpAddr, tables: Verdict) -> Verdict {
        match reason {
            Reason::Service => {
                // Whose port of a node's address it is depends on the node, so without one the
                // tables do not say.
                let is_node = || self.cluster.nodes.values().any(|n| n.addresses.contains(&remote));
                if self.everywhere && tables == Verdict::Deny && is_node() {
                    Verdict::Deny
                } else {
                    Verdict::Defer
                }
            }
            _ if reason.allows() => Verdict::Permit,
            _ => Verdict::Deny,
        }
    }
}

/// The boundaries of all prefixes, and an address of each family that is far from all.
fn remotes(program: &Program) -> BTreeSet<IpAddr> {
    let mut list = boundaries(program);
    list.extend(["203.0.113.77", "2001:db8:ffff::77"].map(|a| a.parse::<IpAddr>().expect("it is")));
    list
}

/// First and last port of every interval, the ports of Services, and protocols without ports.
fn ports(program: &Program) -> BTreeSet<(u8, Option<u16>)> {
    let mut list = BTreeSet::from(PORTLESS.map(|number| (number, None)));
    for key in program.table(TableId::Port).entries.keys() {
        let PortKey { protocol, port } = PortKey::of(key);
        list.extend([port.low, port.high].map(|p| (protocol, Some(p as u16))));
    }
    for family in Family::BOTH {
        let keys = program
            .table(TableId::service(family))
            .entries
            .keys()
            .map(|key| ServiceKey::of(family, key));
        list.extend(keys.map(|key| (key.protocol, Some(key.port))));
    }
    list
}
