//! An end of a flow as Hubble has it: identity, labels, names; and what identifies a flow.
//!
//! Cilium numbers identities: pods of one namespace with the same labels have one. netpolc has no
//! such numbers, so they are derived: from the namespace and from the labels that all pods of a
//! workload share. Every agent derives the same, now and later.

use netpolc_flow::{Flow, Peer};
use ring::digest::{Context, SHA256};

use super::shown;
use crate::api::flow as pb;

/// Cilium's reserved identities, with their labels.
const UNKNOWN: (u32, &str) = (0, "reserved:unknown");
const HOST: (u32, &str) = (1, "reserved:host");
const WORLD: (u32, &str) = (2, "reserved:world");
const REMOTE_NODE: (u32, &str) = (6, "reserved:remote-node");
/// The first identity that is not reserved.
const FIRST: u32 = 256;
/// Identities of a cluster have at most 24 bits; those behind are about blocks of addresses.
const BEHIND: u32 = 1 << 24;

/// Labels that differ among the pods of one workload, or with each of its versions.
const OF_ONE_POD: [&str; 10] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// The end as Hubble has it. An address that is a Service's own belongs to the world, as it does
/// for Cilium before the Service is translated.
pub fn endpoint(peer: &Peer, flow: &Flow, cluster: &str) -> pb::Endpoint {
    let reserved = |(identity, label): (u32, &str)| pb::Endpoint {
        identity,
        labels: vec![label.into()],
        ..pb::Endpoint::default()
    };
    let Some((namespace, name)) = peer.pod.as_deref().and_then(|pod| pod.split_once('/')) else {
        return reserved(match (&peer.node, peer.address) {
            (Some(node), _) if *node == flow.node => HOST,
            (Some(_), _) => REMOTE_NODE,
            (None, Some(_)) => WORLD,
            (None, None) => UNKNOWN,
        });
    };
    let labels = peer.labels.iter().map(|(key, value)| shown(&format!("k8s:{key}={value}")));
    let of_namespace = shown(&format!("k8s:io.kubernetes.pod.namespace={namespace}"));
    let workload = peer.workload.as_deref().and_then(|workload| workload.split_once(' '));
    let workloads =
        workload.map(|(kind, name)| pb::Workload { name: shown(name), kind: shown(kind) });
    pb::Endpoint {
        id: 0,
        identity: identity(namespace, peer),
        namespace: shown(namespace),
        labels: labels.chain([of_namespace]).collect(),
        pod_name: shown(name),
        workloads: workloads.into_iter().collect(),
        cluster_name: cluster.into(),
    }
}

/// The number for pods of this namespace with labels like these.
fn identity(namespace: &str, peer: &Peer) -> u32 {
    let mut hash = Hash::new("identity");
    hash.add(namespace);
    for (key, value) in peer.labels.iter().filter(|(key, _)| !OF_ONE_POD.contains(&&***key)) {
        hash.add(key);
        hash.add(value);
    }
    let [a, b, c, d, ..] = hash.end();
    FIRST + u32::from_be_bytes([a, b, c, d]) % (BEHIND - FIRST)
}

/// The Service whose address it is.
pub fn service(peer: &Peer) -> Option<pb::Service> {
    let (namespace, name) = peer.service.as_deref()?.split_once('/')?;
    Some(pb::Service { name: shown(name), namespace: shown(namespace) })
}

/// The names that the address has in DNS, as far as they are known: a Service's.
pub fn names(peer: &Peer) -> Vec<String> {
    let service = service(peer).map(|of| format!("{}.{}.svc", of.name, of.namespace));
    service.into_iter().collect()
}

/// What identifies the flow: the same for everybody who asks for it.
pub fn uuid(flow: &Flow) -> String {
    let mut hash = Hash::new("flow");
    hash.add(&flow.node);
    hash.add(&flow.time.to_string());
    hash.add(flow.verdict.name());
    hash.add(flow.pod.as_deref().unwrap_or_default());
    hash.add(flow.reason.as_deref().unwrap_or_default());
    hash.add(&format!("{:?} {} {:?}", flow.direction, flow.protocol, flow.icmp));
    for peer in [&flow.source, &flow.destination] {
        hash.add(&format!("{:?} {:?}", peer.address, peer.port));
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.end()[..16]);
    // RFC 9562: version 8, whose other bits are as one likes.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

/// A hash of a list of texts, each told apart from its neighbours.
struct Hash(Context);

impl Hash {
    fn new(what: &str) -> Self {
        let mut hash = Self(Context::new(&SHA256));
        hash.add(what);
        hash
    }

    fn add(&mut self, text: &str) {
        self.0.update(&(text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
    }

    fn end(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(labels: &[(&str, &str)]) -> Peer {
        let labels = labels.iter().copied().collect();
        Peer { pod: Some("shop/web-1".into()), labels, ..Peer::default() }
    }

    #[test]
    fn pods_of_one_workload_have_one_identity_and_others_another() {
        let of = |labels: &[(&str, &str)]| identity("shop", &pod(labels));
        let web = of(&[("app", "web")]);
        assert_eq!(web, of(&[("app", "web"), ("pod-template-hash", "5f4d")]));
        assert_eq!(web, of(&[("app", "web"), ("statefulset.kubernetes.io/pod-name", "web-3")]));
        assert_ne!(web, of(&[("app", "api")]));
        assert_ne!(web, identity("test", &pod(&[("app", "web")])));
        // The same in every version, and on every machine.
        assert_eq!((web, of(&[])), (1_083_426, 16_284_350));
        assert!((FIRST..BEHIND).contains(&web));
    }
}
