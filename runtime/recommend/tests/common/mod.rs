//! Flows for tests, as an agent would make them of a cluster's packets.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::IpAddr;

use netpolc_flow::{Decider, Flow, Kind, Peer, Verdict};
use netpolc_policy::{Cluster, Direction, Labels, Pod};

/// A moment: so many seconds after 2026-12-01T02:00:00Z.
pub fn at(seconds: u64) -> u64 {
    (1_796_090_400 + seconds) * 1_000_000_000
}

/// Who is at an address, as an agent that knows this cluster says it.
pub fn peer(cluster: &Cluster, address: IpAddr, port: u16) -> Peer {
    let mut peer = Peer { address: Some(address), port: Some(port), ..Peer::default() };
    if let Some(pod) = cluster.claimants(address).first() {
        peer.pod = Some(pod.key.to_string().into());
        peer.labels = pod.labels.clone();
        peer.node = pod.node.clone();
        if let Some(owner) = &pod.owner {
            peer.owned_by(owner);
        }
        return peer;
    }
    let mut services = cluster.services.iter();
    if let Some((key, _)) = services.find(|(_, service)| service.addresses.contains(&address)) {
        peer.service = Some(key.to_string().into());
        return peer;
    }
    let mut nodes = cluster.nodes.iter();
    let node = nodes.find(|(_, node)| node.addresses.contains(&address));
    peer.node = node.map(|(name, _)| name.clone());
    peer
}

/// A pod that no cluster has.
pub fn pod(key: &str, workload: &str, labels: &str, address: &str) -> Peer {
    Peer {
        address: address.parse().ok(),
        pod: Some(key.into()),
        workload: (!workload.is_empty()).then(|| workload.into()),
        labels: labels.split(',').filter_map(|l| l.split_once('=')).collect::<Labels>(),
        ..Peer::default()
    }
}

/// What a pod's node says of a packet between these two, to this port.
pub fn flow(
    (verdict, direction): (Verdict, Direction),
    (source, destination): (&Peer, &Peer),
    protocol: &str,
    port: u16,
) -> Flow {
    let source = Peer { port: source.port.or(Some(40_000)), ..source.clone() };
    let destination = Peer { port: Some(port), ..destination.clone() };
    let own = if direction == Direction::Ingress { &destination } else { &source };
    let tried = Decider::whole(Kind::NetworkPolicy, "x/default-deny-audit");
    Flow {
        time: at(0),
        node: own.node.clone().unwrap_or_else(|| "n1".into()),
        verdict,
        reason: (verdict == Verdict::Denied).then(|| "policy".into()),
        direction,
        pod: own.pod.clone(),
        protocol: protocol.into(),
        tcp_flags: None,
        icmp: None,
        by: if verdict == Verdict::Allowed { vec![] } else { vec![tried] },
        bytes: 74,
        source,
        destination,
    }
}

/// The same at both ends, where those are pods.
pub fn both(verdict: Verdict, ends: (&Peer, &Peer), protocol: &str, port: u16) -> Vec<Flow> {
    let (from, to) = ends;
    let egress =
        from.pod.as_ref().map(|_| flow((verdict, Direction::Egress), ends, protocol, port));
    let ingress =
        to.pod.as_ref().map(|_| flow((verdict, Direction::Ingress), ends, protocol, port));
    egress.into_iter().chain(ingress).collect()
}

/// The pods that policies can be about.
pub fn policed(cluster: &Cluster) -> impl Iterator<Item = &Pod> {
    cluster.pods.values().filter(|pod| pod.is_policed())
}
