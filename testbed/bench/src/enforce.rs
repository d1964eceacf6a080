//! Enforcement of a namespace cluster's node by the agent itself, with maps of this process alone.

use anyhow::{Context as _, Result};
use netpolc_agent::{Agent, network::Kernel};
use netpolc_policy::Cluster;
use netpolc_target_ebpf::{Capacities, Config, Connections, Ebpf};
use netpolc_testbed::netns::Net;

/// Room for 1,000 local pods with ports of their own each, and fewer connections than a real node
/// keeps.
pub fn roomy() -> Config {
    let capacities =
        Capacities { endpoints: 1 << 11, sets: 1 << 11, port_words: 1 << 8, ..Capacities::roomy() };
    Config { capacities, connections: Connections::fixed(7), ..Config::default() }.fixed()
}

/// A node that is policed as long as this lives.
pub struct Enforced {
    _agent: Agent<Ebpf, Kernel>,
}

impl Enforced {
    /// Polices `node`.
    ///
    /// # Errors
    /// The kernel refuses the programs, or the cluster has no such node.
    pub fn on(net: &Net, node: &str, cluster: &Cluster) -> Result<Self> {
        let work = || -> Result<Self> {
            let mut agent = Agent::new(node.into(), Ebpf::private(roomy())?, Kernel::new())?;
            agent.update(cluster.clone()).context("enforce the policies")?;
            Ok(Self { _agent: agent })
        };
        net.node(node)?.run(work)?
    }
}
