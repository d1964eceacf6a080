//! The entries that an agent would write for a cluster over those that are installed: with the same
//! ids, interfaces and devices.
//!
//! Not here: the comparison with what is installed ([`super`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use netpolc_lower::{Compiler, Event, Interface, Overflow, Scope, Tunnel, Wire};
use netpolc_policy::{Cluster, ObjectKey};
use netpolc_table::{
    EndpointId, IfIndex, Program, TableId, eval,
    schema::{InterfaceKey, OnLinkKey, OwnMacKey, SetEndpoint, SetMac, TunnelKey, Word},
};

/// Compiles a cluster that was admitted for a node. What only the node itself knows is taken over
/// from what is installed.
///
/// # Errors
/// The cluster needs more ids than there are.
pub fn expected(
    cluster: &Cluster,
    node: &Arc<str>,
    installed: &Program,
    pods: &BTreeMap<EndpointId, ObjectKey>,
) -> Result<Compiler, Overflow> {
    let macs: BTreeMap<EndpointId, _> = installed
        .table(TableId::OwnMac)
        .entries
        .iter()
        .map(|(key, entry)| (OwnMacKey::of(key).endpoint, SetMac::of(entry).address))
        .collect();
    let interfaces: Vec<(IfIndex, EndpointId)> = installed
        .table(TableId::Interface)
        .entries
        .iter()
        .map(|(key, entry)| (InterfaceKey::of(key).ifindex, SetEndpoint::of(entry).endpoint))
        .collect();
    let mut compiler = Compiler::new(Scope::Node(node.clone())).wired(wire(installed, &interfaces));
    compiler.seed(installed);
    compiler.load(cluster)?;
    let events = interfaces.iter().filter_map(|(ifindex, endpoint)| {
        let interface = Interface { ifindex: *ifindex, mac: macs.get(endpoint).copied() };
        Some(Event::Interface { pod: pods.get(endpoint)?.clone(), interface: Some(interface) })
    });
    compiler.apply_all(events)?;
    Ok(compiler)
}

/// The node's devices as the tables know them. The cluster's objects say nothing of bridges and
/// tunnels, so an entry about them that somebody has changed is the agent's to find.
fn wire(installed: &Program, interfaces: &[(IfIndex, EndpointId)]) -> Wire {
    let tunnels = installed.table(TableId::Tunnel).entries.keys().map(|key| {
        let TunnelKey { protocol, port } = TunnelKey::of(key);
        if protocol == 17 { Tunnel::Udp(port) } else { Tunnel::Protocol(protocol) }
    });
    let on_link = installed.table(TableId::OnLinkV6).entries.keys().filter_map(|key| {
        let OnLinkKey { address } = OnLinkKey::of(key);
        ipnetwork::Ipv6Network::new(address.address, address.length).ok()
    });
    let bridged = interfaces
        .iter()
        .filter(|(_, endpoint)| eval::word(installed, *endpoint).flags & Word::BRIDGED != 0)
        .map(|(ifindex, _)| *ifindex);
    Wire {
        tunnels: tunnels.collect(),
        on_link: on_link.collect(),
        bridged: bridged.collect::<BTreeSet<_>>(),
    }
}
