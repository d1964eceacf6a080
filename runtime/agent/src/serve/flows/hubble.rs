//! The agent's side of Hubble's API: it opens where clients come in, hands over the hub's flows,
//! and tells of the cluster's nodes.
//!
//! Not here: the API ([`netpolc_hubble`]).

use std::{net::IpAddr, sync::Arc};

pub use netpolc_hubble::serve::{DEFAULT_CLUSTER, Files, Listen, Options};
use netpolc_hubble::{
    serve::{Bound, Error},
    source::Nodes,
};
use netpolc_policy::Cluster;
use tokio::sync::watch;

use super::hub::Hub;

/// Hubble's API, which ends when this is dropped.
#[derive(Debug)]
pub struct Api {
    node: Arc<str>,
    /// What is not served yet: clients wait until there are flows.
    bound: Option<Bound>,
    nodes: watch::Sender<Arc<Nodes>>,
}

impl Api {
    /// Opens where clients come in.
    ///
    /// # Errors
    /// That cannot be opened.
    pub fn bind(options: &Options, node: Arc<str>) -> Result<Self, Error> {
        let bound = Some(options.bind()?);
        let (nodes, _) = watch::channel(Arc::new(Nodes::new()));
        Ok(Self { node, bound, nodes })
    }

    /// Serves the hub's flows.
    pub fn serve(&mut self, hub: Hub) {
        let Some(bound) = self.bound.take() else { return };
        let address = bound.address();
        match bound.serve(self.node.clone(), Arc::new(hub), self.nodes.subscribe()) {
            Ok(()) => tracing::info!(?address, "Hubble's API is served"),
            Err(error) => tracing::warn!(%error, "Hubble's API is not served"),
        }
    }

    /// Nodes may have changed. Nobody is told where they have not.
    pub fn nodes(&self, cluster: &Cluster) {
        let nodes = cluster.nodes.iter();
        let nodes: Nodes =
            nodes.map(|(name, node)| (name.clone(), reached(&node.addresses))).collect();
        self.nodes.send_if_modified(|before| {
            let differs = **before != nodes;
            if differs {
                *before = Arc::new(nodes);
            }
            differs
        });
    }
}

/// Of a node's addresses the one under which other nodes reach it: the first one that is not
/// public, since a public one may be that of something in front of the node.
fn reached(addresses: &[IpAddr]) -> Option<IpAddr> {
    let is_private = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    };
    addresses.iter().find(is_private).or(addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_reached_by_what_is_not_public() {
        let of = |list: &[&str]| {
            let addresses: Vec<IpAddr> = list.iter().map(|ip| ip.parse().unwrap()).collect();
            reached(&addresses).map(|address| address.to_string())
        };
        assert_eq!(of(&["203.0.113.7", "10.0.0.7"]).as_deref(), Some("10.0.0.7"));
        assert_eq!(of(&["2001:db8::7", "fd00::7"]).as_deref(), Some("fd00::7"));
        assert_eq!(of(&["203.0.113.7", "2001:db8::7"]).as_deref(), Some("203.0.113.7"));
        assert_eq!(of(&[]), None);
    }
}
