//! Finds the hardware address of a bridged pod: the only source address that frames from its
//! interface may have (S55).
//!
//! A bridge delivers by the hardware addresses that it has seen, whoever sent them, so a pod that
//! may send under another pod's address gets that pod's packets. A pod's own address is the one
//! that its interface has in its namespace when it is first read, which with the CNI plugin is
//! before the pod's containers run. Later changes are the pod's own doing and are not trusted. An
//! address that the bridge itself or another of its pods has is not trusted either.
//!
//! Not here: which interface is the pod's ([`super::discovery`]), and how the address is enforced.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netpolc_host::{
    links::{self, Link, Peer},
    netlink::{Protocol, Socket},
    netns::Namespace,
    switch::Mac,
};
use netpolc_table::IfIndex;

use crate::discovery::{Discovery, PodFacts};

/// The address that stands for none, for a pod that claims another's: no frame has it as its
/// source, and no unicast frame is sent to it.
const NONE: Mac = [0xff; 6];

/// Adds the hardware addresses of bridged pods to the results of the discovery.
///
/// # Errors
/// A netlink call in the calling thread's namespace fails. A namespace that vanishes while it is
/// read is left out.
pub fn find(links: &[Link], pods: &[PodFacts], answers: &mut [Discovery]) -> io::Result<()> {
    let unknown = unknown(links, pods, answers);
    let said = if unknown.is_empty() { BTreeMap::new() } else { ask(&unknown)? };
    decide(links, pods, answers, &said);
    Ok(())
}

/// A pod's interface and its bridge; None where the interface is not a port of a bridge.
fn bridged<'a>(links: &'a [Link], answer: &Discovery) -> Option<(&'a Link, &'a Link)> {
    let at = |index: u32| links.iter().find(|link| link.index == index);
    let port = at(answer.interface?.ifindex.get())?;
    let bridge = at(port.master?).filter(|master| master.is_bridge())?;
    Some((port, bridge))
}

/// The address that was found before; None where the pod has another interface now.
fn known(pod: &PodFacts, port: &Link) -> Option<Mac> {
    pod.mac.filter(|mac| pod.previous == Some(IfIndex::new(port.index)) && *mac != NONE)
}

/// The pod ends of bridged interfaces whose addresses are not known yet.
fn unknown(links: &[Link], pods: &[PodFacts], answers: &[Discovery]) -> BTreeSet<Peer> {
    let unknown = pods.iter().zip(answers).filter_map(|(pod, answer)| {
        let (port, _) = bridged(links, answer)?;
        port.peer.filter(|_| known(pod, port).is_none() && answer.mac.is_none())
    });
    unknown.collect()
}

/// Reads the addresses that these interfaces have in their namespaces.
fn ask(peers: &BTreeSet<Peer>) -> io::Result<BTreeMap<Peer, Mac>> {
    let mut socket = Socket::open(Protocol::Route)?;
    let mut said = BTreeMap::new();
    for namespace in Namespace::all() {
        let Some(number) = links::number_of(&mut socket, &namespace).ok().flatten() else {
            continue;
        };
        let here: BTreeSet<u32> =
            peers.iter().filter(|p| p.namespace == number).map(|p| p.index).collect();
        if here.is_empty() {
            continue;
        }
        let Ok(Ok(inside)) = namespace.run(links::all) else { continue };
        let inside = inside.into_iter().filter(|link| here.contains(&link.index));
        said.extend(
            inside.filter_map(|link| {
                Some((Peer { index: link.index, namespace: number }, link.mac?))
            }),
        );
    }
    Ok(said)
}

/// Assigns each bridged pod its address: first those that were known before, so that a new pod
/// cannot claim one of them.
fn decide(
    links: &[Link],
    pods: &[PodFacts],
    answers: &mut [Discovery],
    said: &BTreeMap<Peer, Mac>,
) {
    let bridges = links.iter().filter(|link| link.is_bridge());
    let mut taken: BTreeSet<(u32, Mac)> =
        bridges.filter_map(|bridge| Some((bridge.index, bridge.mac?))).collect();
    let mut new = Vec::new();
    for (i, (pod, answer)) in pods.iter().zip(answers.iter_mut()).enumerate() {
        let Some((port, bridge)) = bridged(links, answer) else { continue };
        match known(pod, port) {
            Some(mac) => {
                taken.insert((bridge.index, mac));
                answer.mac = Some(mac);
            }
            None => new.push((i, port, bridge)),
        }
    }
    for (i, port, bridge) in new {
        let answer = &mut answers[i];
        let Some(mac) = answer.mac.or_else(|| said.get(&port.peer?).copied()) else { continue };
        answer.mac = Some(mac);
        if !taken.insert((bridge.index, mac)) {
            answer.mac = Some(NONE);
            let text = mac.map(|byte| format!("{byte:02x}")).join(":");
            let doubt = format!(
                "its hardware address {text} belongs to another one on {}, so no packet from it \
                passes",
                bridge.name
            );
            answer.doubt.get_or_insert(doubt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{HostInterface, Source};

    const BRIDGE: Mac = [2, 0, 0, 0, 0, 5];
    const A: Mac = [2, 0, 0, 0, 0, 0xa];
    const B: Mac = [2, 0, 0, 0, 0, 0xb];

    /// A bridge 5 with the ports 12 and 13; 14 is nobody's port.
    fn ground() -> Vec<Link> {
        let port = |index, namespace, master| Link {
            index,
            master,
            peer: Some(Peer { index: 2, namespace }),
            ..Link::default()
        };
        let kind = Some("bridge".into());
        let bridge =
            Link { index: 5, name: "cni0".into(), mac: Some(BRIDGE), kind, ..Link::default() };
        vec![bridge, port(12, 0, Some(5)), port(13, 1, Some(5)), port(14, 2, None)]
    }

    fn found(pods: &[PodFacts], said: &[(i32, Mac)]) -> Vec<Discovery> {
        let at = |ifindex| Discovery {
            interface: Some(HostInterface { ifindex, source: Source::Before }),
            ..Discovery::default()
        };
        let mut answers: Vec<Discovery> = [12, 13, 14].map(IfIndex::new).map(at).into();
        let said = said
            .iter()
            .map(|(namespace, mac)| (Peer { index: 2, namespace: *namespace }, *mac))
            .collect();
        decide(&ground(), pods, &mut answers, &said);
        answers
    }

    fn macs(answers: &[Discovery]) -> Vec<Option<Mac>> {
        answers.iter().map(|answer| answer.mac).collect()
    }

    #[test]
    fn s55_a_bridged_pod_has_the_address_of_its_interface() {
        let pods = vec![PodFacts::default(); 3];
        let routed = found(&pods, &[(0, A), (1, B), (2, A)]);
        assert_eq!(macs(&routed), [Some(A), Some(B), None]);
        assert!(routed.iter().all(|answer| answer.doubt.is_none()));
    }

    #[test]
    fn s55_what_a_pod_says_later_is_not_believed() {
        let before =
            PodFacts { previous: Some(IfIndex::new(12)), mac: Some(A), ..PodFacts::default() };
        let pods = vec![before, PodFacts::default(), PodFacts::default()];
        assert_eq!(macs(&found(&pods, &[(0, B), (1, B)])), [Some(A), Some(B), None]);
        let links = ground();
        let at = Discovery {
            interface: Some(HostInterface { ifindex: IfIndex::new(12), source: Source::Before }),
            ..Discovery::default()
        };
        assert!(unknown(&links, &pods[..1], std::slice::from_ref(&at)).is_empty());
        // At another interface it is another thing.
        let moved = PodFacts { previous: Some(IfIndex::new(99)), ..pods[0].clone() };
        assert_eq!(unknown(&links, &[moved], &[at]).len(), 1);
    }

    #[test]
    fn s55_an_address_that_another_has_is_nobodys() {
        let before =
            PodFacts { previous: Some(IfIndex::new(13)), mac: Some(A), ..PodFacts::default() };
        let pods = vec![PodFacts::default(), before, PodFacts::default()];
        let answers = found(&pods, &[(0, A)]);
        assert_eq!(macs(&answers), [Some(NONE), Some(A), None]);
        assert!(
            answers[0]
                .doubt
                .as_ref()
                .unwrap()
                .contains("02:00:00:00:00:0a belongs to another one on cni0")
        );
        assert_eq!(macs(&found(&pods, &[(0, BRIDGE)])), [Some(NONE), Some(A), None]);
        // Once it has another one, it is believed.
        let again =
            PodFacts { previous: Some(IfIndex::new(12)), mac: Some(NONE), ..PodFacts::default() };
        assert_eq!(macs(&found(&[again], &[(0, B)]))[0], Some(B));
    }
}
