//! The shared corpus as real packets: the opening packet of every question, through software
//! flower, and through the simulated NIC with the personality of every driver.
//!
//! All pods of a case are on one node. Questions that this cannot put to the kernel are counted and
//! printed: those about a node's own addresses (the packet cases have them), about link-local ones,
//! which nobody routes, about an address that two pods claim, and about a pod and itself. What a
//! pod sends to itself never leaves it; on the wire its address on the way to it is forged for
//! flower, which does not know the interface that a packet came by (lab_conformance).

mod node;

use netpolc_table::IfIndex;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use netpolc_lower::{Compiler, Scope, compile};
use netpolc_policy::{
    ObjectKey,
    oracle::{self, Party, Transport},
};
use netpolc_target::{
    frame::Packet,
    semantics::{sctp, tcp},
};
use netpolc_target_flower::{
    lower::lower,
    lowered::Mode,
    quirks::{DRIVERS, capabilities},
    topology::{PodPort, Port, Topology},
};
use netpolc_testbed::{
    cases::{self, Case, Probe},
    lab::{self, wire::forget_connections},
};
use node::{Node, Place, ip_batch, route, unroute};

/// Pods that one case asks about, at most.
const PODS: usize = 24;

/// A case on the node's interfaces.
struct Staged {
    compiler: Compiler,
    topology: Topology,
    /// Pod -> its interface.
    pods: BTreeMap<ObjectKey, IfIndex>,
    /// Address -> where the host sends it.
    routes: BTreeMap<IpAddr, IfIndex>,
    /// Questions that can be asked.
    probes: Vec<Probe>,
    left_out: usize,
}

/// The pod that an address belongs to, where it is one's that is enforced.
fn owner(case: &Case, compiler: &Compiler, address: IpAddr) -> Option<ObjectKey> {
    let mut pods = case.cluster.pods.iter().filter(|(_, pod)| pod.addresses.contains(&address));
    pods.find(|(key, _)| compiler.endpoint(key).is_some()).map(|(key, _)| key.clone())
}

fn stage(
    case: &Case,
    interfaces: &[(IfIndex, String)],
    uplink: &Port,
    before: &BTreeSet<IpAddr>,
) -> Staged {
    let compiler = compile(&case.cluster, Scope::Everywhere).expect("it fits");
    let asked = case.probes.iter().flat_map(|p| [&p.question.source, &p.question.destination]);
    let keys: BTreeSet<ObjectKey> = asked
        .filter_map(|party| match party {
            Party::Pod(key, _) => compiler.endpoint(key).map(|_| key.clone()),
            Party::Address(address) => owner(case, &compiler, *address),
        })
        .collect();
    assert!(keys.len() <= interfaces.len(), "{}: {} pods", case.name, keys.len());
    let pods: BTreeMap<ObjectKey, IfIndex> =
        keys.into_iter().zip(interfaces.iter().map(|(i, _)| *i)).collect();
    let (mut routes, mut twice) = (BTreeMap::new(), BTreeSet::new());
    for (key, ifindex) in &pods {
        for address in &case.cluster.pods[key].addresses {
            if routes.insert(*address, *ifindex).is_some() {
                twice.insert(*address);
            }
        }
    }
    let nodes: BTreeSet<IpAddr> =
        case.cluster.nodes.values().flat_map(|n| n.addresses.clone()).collect();
    let grouped = !case.cluster.security.groups.is_empty();
    let askable = |probe: &&Probe| {
        let question = &probe.question;
        let (from, to) = (question.source.address(), question.destination.address());
        let local = matches!(from, IpAddr::V6(a) if a.is_unicast_link_local());
        // Of a Service's packets only what follows translation is sent here, and judged as what it
        // is: software flower does not know.
        let translated = question.via.is_some();
        // Behind groups it does not tell protocols without ports apart, and is stricter there.
        let apart = grouped && probe.allowed && question.protocol.protocol().is_none();
        // It knows no tunnels either, and lets their protocols through where policy does.
        let tunnel = oracle::TUNNELS.contains(&question.protocol.number());
        !local
            && !translated
            && !apart
            && !tunnel
            && from != to
            && [from, to].iter().all(|address| !nodes.contains(address) && !twice.contains(address))
    };
    let probes: Vec<Probe> = case.probes.iter().filter(askable).cloned().collect();
    let name = |ifindex: IfIndex| {
        interfaces.iter().find(|(i, _)| *i == ifindex).expect("one of them").1.clone()
    };
    let ports = pods.iter().map(|(key, &ifindex)| {
        let port =
            PodPort { port: Port { ifindex, name: name(ifindex) }, mac: Some(node::FAR_MAC) };
        (compiler.endpoint(key).expect("an endpoint"), port)
    });
    let topology =
        Topology { pods: ports.collect(), uplinks: vec![uplink.clone()], ..Topology::default() };
    // Routes of the case before this one go first.
    let gone = before.iter().map(|address| unroute(*address));
    let made = routes.iter().map(|(address, ifindex)| route(*address, &name(*ifindex)));
    ip_batch(&gone.chain(made).collect::<String>());
    let left_out = case.probes.len() - probes.len();
    Staged { compiler, topology, pods, routes, probes, left_out }
}

/// The opening packet of a question, with its number as its last bytes.
fn opening(probe: &Probe, number: u32) -> Vec<u8> {
    let question = &probe.question;
    let (from, to) = (question.source.address(), question.destination.address());
    let (local, port) = (20000 + (number % 40000) as u16, question.port.unwrap_or(0));
    let packet = Packet::new(from, to);
    let packet = match question.protocol {
        Transport::Tcp => packet.tcp(local, port, tcp::SYN),
        Transport::Udp => packet.udp(local, port),
        Transport::Sctp => packet.sctp(local, port, sctp::INIT),
        Transport::Other(1) if from.is_ipv4() => packet.icmp(8, local),
        Transport::Other(58) if from.is_ipv6() => packet.icmp(128, local),
        Transport::Other(other) => packet.protocol(other),
    };
    packet.payload(&[&[0; 16][..], &number.to_be_bytes()].concat()).build()
}

/// Sends all questions of a case at once; those whose packets arrive where they should.
fn ask(node: &Node, staged: &Staged) -> BTreeSet<usize> {
    let party = |party: &Party| match party {
        Party::Pod(key, _) => staged.pods.get(key).copied(),
        Party::Address(address) => staged.routes.get(address).copied(),
    };
    node.drain();
    for (number, probe) in staged.probes.iter().enumerate() {
        let wire =
            party(&probe.question.source).map_or(&node.uplink, |ifindex| &node.pods[&ifindex]);
        wire.send(&opening(probe, number as u32)).expect("a frame");
    }
    std::thread::sleep(Duration::from_millis(30));
    let mut arrived = BTreeSet::new();
    let mut look = |wire: &lab::wire::Wire, ifindex: Option<IfIndex>| {
        while let Some(frame) = wire.receive() {
            let Some(number) = frame.last_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize)
            else {
                continue;
            };
            let wanted = staged.probes.get(number).map(|p| party(&p.question.destination));
            if wanted == Some(ifindex) {
                arrived.insert(number);
            }
        }
    };
    node.pods.iter().for_each(|(ifindex, wire)| look(wire, Some(*ifindex)));
    look(&node.uplink, None);
    arrived
}

fn interfaces(ports: impl IntoIterator<Item = IfIndex>, prefix: &str) -> Vec<(IfIndex, String)> {
    ports.into_iter().enumerate().map(|(i, ifindex)| (ifindex, format!("{prefix}{i}"))).collect()
}

#[test]
fn the_corpus_through_software_flower() {
    if lab::outside(the_corpus_through_software_flower) {
        return;
    }
    let place = |i: usize| Place {
        name: format!("pod{i}"),
        ifindex: IfIndex::new(200 + i as u32),
        addresses: vec![],
    };
    let places: Vec<Place> = (0..PODS).map(place).collect();
    let mut node = Node::up(&places);
    let interfaces = interfaces(places.iter().map(|p| p.ifindex), "pod");
    let uplink = Port {
        ifindex: IfIndex::new(netpolc_testbed::netns::interface_index("uplink").expect("it")),
        name: "uplink".into(),
    };
    let (mut wrong, mut asked, mut left_out, begin) = (vec![], 0, 0, Instant::now());
    let mut before = BTreeSet::new();
    for case in cases::all() {
        let staged = stage(&case, &interfaces, &uplink, &before);
        before = staged.routes.keys().copied().collect();
        let lowered = lower(
            staged.compiler.program(),
            &staged.topology,
            Mode::Software,
            &capabilities("software"),
        )
        .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        node.install(&lowered);
        forget_connections().expect("conntrack");
        let arrived = ask(&node, &staged);
        for (number, probe) in staged.probes.iter().enumerate() {
            if arrived.contains(&number) != probe.allowed {
                let got = if probe.allowed { "dropped" } else { "PASSED" };
                wrong.push(format!(
                    "{}.yaml:{} {}: {got} {:?}",
                    case.name, probe.line, probe.item, probe.question
                ));
            }
        }
        asked += staged.probes.len();
        left_out += staged.left_out;
    }
    println!("{asked} questions, {left_out} left out, {:?}", begin.elapsed());
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    // Services, nodes' addresses and what groups tell apart are one in nine of the corpus.
    assert!(left_out * 8 < asked, "too few are asked");
    lab::assert_kernel_is_quiet();
}

/// Through representor mode: nothing that policy allows is dropped, and nothing else than denied
/// openings.
fn personality(driver: &str) {
    let cases = cases::all();
    let (mut node, nic, ports) = Node::on_nic(driver, PODS);
    let interfaces = interfaces(ports, "simr");
    let uplink = Port {
        ifindex: IfIndex::new(netpolc_testbed::netns::interface_index("simp0").expect("it")),
        name: "simp0".into(),
    };
    let (mut wrong, mut routed, mut rows) = (vec![], BTreeSet::new(), [0; 5]);
    let drops = || {
        nic.counters().iter().filter(|(k, _)| k.ends_with(".hw_drop")).map(|(_, v)| *v).sum::<u64>()
    };
    for case in &cases {
        let staged = stage(case, &interfaces, &uplink, &routed);
        routed = staged.routes.keys().copied().collect();
        let can = capabilities(driver);
        let lowered = lower(staged.compiler.program(), &staged.topology, Mode::Representor, &can);
        let lowered = lowered.expect("hardware refuses nothing");
        let report = node.flower.sync(&lowered).expect("filters");
        let denied = |p: &&Probe| !p.allowed && p.question.protocol == Transport::Tcp;
        let openings = staged.probes.iter().filter(denied).count() as u64;
        let filters = lowered.ports.values().map(Vec::len).sum::<usize>() as u64;
        let mut dropped = 0;
        // Without filters there is nothing to see.
        if filters > 0 {
            forget_connections().expect("conntrack");
            let before = drops();
            let arrived = ask(&node, &staged);
            dropped = drops() - before;
            for (number, probe) in staged.probes.iter().enumerate() {
                if probe.allowed && !arrived.contains(&number) {
                    wrong.push(format!(
                        "{}.yaml:{} {}: {:?}",
                        case.name, probe.line, probe.item, probe.question
                    ));
                }
            }
            if dropped > openings {
                wrong.push(format!(
                    "{}.yaml: {dropped} drops, {openings} denied TCP openings",
                    case.name
                ));
            }
        }
        let row =
            [staged.probes.len() as u64, openings, dropped, filters, report.refused.len() as u64];
        rows.iter_mut().zip(row).for_each(|(sum, more)| *sum += more);
    }
    let [asked, denied, dropped, filters, refused] = rows;
    println!(
        "{driver}: {asked} questions; {denied} denied TCP openings, {dropped} of them dropped in \
         hardware; {filters} filters, {refused} refused"
    );
    assert!(wrong.is_empty(), "{driver}, {}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(filters > 0, dropped > 0, "{driver}: filters that drop nothing");
    lab::assert_kernel_is_quiet();
}

/// A test for each driver, so that each has a lab of its own.
macro_rules! personalities {
    ($($name:ident: $driver:literal,)*) => {
        $(#[test]
        fn $name() {
            if !lab::outside($name) {
                personality($driver);
            }
        })*

        #[test]
        fn every_driver_has_its_test() {
            let tested = [$($driver),*];
            assert!(DRIVERS.iter().all(|q| tested.contains(&q.driver)));
        }
    };
}

personalities! {
    bnxt_drops_nothing_that_is_allowed: "bnxt_en",
    i40e_drops_nothing_that_is_allowed: "i40e",
    ice_drops_nothing_that_is_allowed: "ice",
    mlx5_drops_nothing_that_is_allowed: "mlx5_core",
    nfp_drops_nothing_that_is_allowed: "nfp",
    octeontx2_drops_nothing_that_is_allowed: "rvu_nicpf",
    sfc_drops_nothing_that_is_allowed: "sfc",
    simnic_drops_nothing_that_is_allowed: "simnic",
}
