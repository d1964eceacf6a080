//! Software flower against what the tables say, packet by packet: random clusters, every
//! combination of conntrack state, fragment, source and protocol. The reference here is written
//! from the semantics, not from the lowering.

mod common;

use std::net::IpAddr;

use common::{compiled, filters, ip};
use netpolc_table::{
    EndpointId, Program,
    eval::{self, Pipeline, Verdict},
    schema::{Family, Word},
};
use netpolc_target::semantics::{DHCP, DHCPV6, icmp, may_be_unproven};
use netpolc_target_flower::{
    eval::{Born, Fragment, Outcome, Packet, Semantics, run},
    filter::{Filter, Side, ct},
    lower::{
        region::{Answer, region},
        software,
    },
    text,
    topology::Topology,
};
use netpolc_testbed::random::{self, Rng, Shape};

/// A protocol for experiments (RFC 3692).
const UNNAMED: u8 = 253;

/// One endpoint of a program, as the semantics see it.
struct Pod<'a> {
    program: &'a Program,
    topology: &'a Topology,
    endpoint: EndpointId,
    own: &'a [IpAddr],
}

impl Pod<'_> {
    /// Permits(direction, remote, port): the port is None where it cannot be read.
    fn permits(
        &self,
        pipeline: Pipeline,
        remote: IpAddr,
        packet: &Packet,
        port: Option<u16>,
    ) -> bool {
        let has_ports = [6, 17, 132].contains(&packet.protocol);
        // Port 0 is how software flower sees a port that it cannot read.
        let unread = has_ports && (packet.fragment != Fragment::No || port == Some(0));
        (pipeline == Pipeline::FromPod && self.own.contains(&remote))
            || match unread {
                true => {
                    eval::alike(self.program, pipeline, self.endpoint, remote, packet.protocol)
                        == Some(Verdict::Permit)
                }
                false => {
                    let port = port.filter(|_| has_ports);
                    // Filters pass all protocols without ports or none, so they are as strict as
                    // for one that no security group names (S77).
                    let protocol = if has_ports { packet.protocol } else { UNNAMED };
                    let (program, endpoint) = (self.program, self.endpoint);
                    eval::verdict(program, pipeline, endpoint, remote, protocol, port)
                        == Verdict::Permit
                }
            }
    }

    /// Does a direction permit anything at all in this family?
    fn any(&self, pipeline: Pipeline, family: Family) -> bool {
        let set = pipeline.set(eval::word(self.program, self.endpoint));
        let of_family = |a: &&IpAddr| Family::of(**a) == family;
        (pipeline == Pipeline::FromPod && self.own.iter().any(|a| of_family(&a)))
            || region(self.program, set, family).parts.iter().any(|p| p.answer != Answer::Deny)
    }

    /// Is everything permitted, in both families?
    fn open(&self, pipeline: Pipeline) -> bool {
        let set = pipeline.set(eval::word(self.program, self.endpoint));
        let open = |f: &Family| {
            region(self.program, set, *f).parts.iter().all(|p| p.answer == Answer::Permit)
        };
        Family::BOTH.iter().all(open)
    }

    fn passes(&self, side: Side, packet: &Packet) -> bool {
        let word = eval::word(self.program, self.endpoint);
        let (here, other, remote) = match side {
            Side::Ingress => (Pipeline::FromPod, Pipeline::ToPod, packet.destination),
            Side::Egress => (Pipeline::ToPod, Pipeline::FromPod, packet.source),
        };
        let whole = packet.fragment == Fragment::No;
        let kind = packet.icmp_type.filter(|_| whole);
        let discovery = packet.protocol == 58
            && packet.hop_limit == 255
            && packet.ethertype == 0x86dd
            && kind.is_some_and(|k| (icmp::DISCOVERY.0..=icmp::DISCOVERY.1).contains(&k));
        let guard = side == Side::Ingress && word.flags & (Word::GUARD | Word::EGRESS) != 0;
        let judged = here.set(word).is_some() && !self.open(here);
        if !guard && !judged {
            return true;
        }
        if packet.ethertype == 0x0806 {
            return true;
        }
        if packet.ethertype != 0x0800 && packet.ethertype != 0x86dd {
            return false;
        }
        let mut state = packet.ct;
        // A pod is no router (S36).
        if guard && discovery && kind.is_some_and(|k| icmp::OF_ROUTERS.contains(&k)) {
            return false;
        }
        if guard {
            let own = self.own.contains(&packet.source);
            let ports = whole.then_some((packet.source_port, packet.destination_port));
            let exception = match packet.source {
                IpAddr::V4(source) => {
                    source.is_unspecified()
                        && packet.protocol == 17
                        && ports == Some((Some(DHCP.0), Some(DHCP.1)))
                }
                IpAddr::V6(source) => {
                    let listener =
                        packet.protocol == 58 && kind.is_some_and(|k| icmp::LISTENER.contains(&k));
                    let dhcp =
                        packet.protocol == 17 && ports == Some((Some(DHCPV6.0), Some(DHCPV6.1)));
                    let many = packet.destination.is_multicast();
                    may_be_unproven(source) && (discovery || many && (listener || dhcp))
                }
            };
            if !own && !exception {
                return false;
            }
            state = if own { state | ct::TRACKED } else { 0 };
        }
        if !judged || discovery {
            return true;
        }
        if state & ct::TRACKED == 0 {
            state = 0;
        }
        // Where security groups judge what the node sends, its addresses are like any other (S82).
        let nodes: &[IpAddr] = match Pipeline::Born.set(word) {
            Some(_) => &[],
            None => &self.topology.node_addresses,
        };
        let born = packet.born == Born::Here && nodes.contains(&packet.source);
        if side == Side::Egress && born {
            return true;
        }
        // Forged (S47).
        if side == Side::Egress && self.own.contains(&packet.source) {
            return false;
        }
        let reply = state & ct::REPLY != 0;
        let family = Family::of(remote);
        let is_icmp = packet.protocol == if family == Family::V4 { 1 } else { 58 };
        if reply && packet.protocol == 6 && whole && packet.tcp_flags & 0x12 == 0x02 {
            return false;
        }
        if reply {
            let to_node = side == Side::Ingress && nodes.contains(&remote);
            if self.open(other)
                || to_node
                || self.permits(other, remote, packet, packet.source_port)
            {
                return true;
            }
        }
        if is_icmp && state & ct::RELATED != 0 {
            let opener = if reply { other } else { here };
            let nodes = nodes.iter().any(|a| Family::of(*a) == family);
            if self.any(opener, family) || (reply && side == Side::Ingress && nodes) {
                return true;
            }
        }
        let error = is_icmp
            && kind.is_some_and(|k| match family {
                Family::V4 => icmp::ERRORS_V4.contains(&k),
                Family::V6 => icmp::ERRORS_V6.contains(&k),
            });
        !error && self.permits(here, remote, packet, packet.destination_port)
    }
}

fn listing(filters: &[Filter], side: Side) -> String {
    let here = filters.iter().filter(|f| f.side == side);
    here.map(|f| text::line("pod", f, |_| None) + "\n").collect()
}

const STATES: [u16; 8] = [
    0,
    ct::TRACKED | ct::NEW,
    ct::TRACKED | ct::ESTABLISHED,
    ct::TRACKED | ct::ESTABLISHED | ct::REPLY,
    ct::TRACKED | ct::RELATED,
    ct::TRACKED | ct::RELATED | ct::REPLY,
    ct::TRACKED | ct::INVALID,
    ct::ESTABLISHED | ct::REPLY,
];

fn packet(rng: &mut Rng, addresses: &[IpAddr], own: &[IpAddr], numbers: &[u16]) -> Packet {
    let source =
        if rng.chance(60) && !own.is_empty() { *rng.pick(own) } else { *rng.pick(addresses) };
    let destination = *rng.pick(addresses);
    let (source, destination) =
        if rng.chance(50) { (source, destination) } else { (destination, source) };
    let ethertype = match rng.below(20) {
        0 => 0x0806,
        1 => 0x8100,
        _ if source.is_ipv4() => 0x0800,
        _ => 0x86dd,
    };
    let icmp = if source.is_ipv4() { 1 } else { 58 };
    let protocol = *rng.pick(&[6, 6, 17, 17, 132, icmp, icmp, 47]);
    let ports = [6, 17, 132].contains(&protocol);
    let port = |rng: &mut Rng| ports.then(|| *rng.pick(numbers));
    let (source_port, destination_port) = (port(rng), port(rng));
    let kinds = [0, 3, 8, 11, 5, 1, 2, 4, 128, 129, 130, 133, 135, 136, 137, 143];
    Packet {
        ethertype,
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        tcp_flags: *rng.pick(&[2, 0x12, 0x10]),
        icmp_type: (protocol == icmp).then(|| *rng.pick(&kinds)),
        hop_limit: *rng.pick(&[255, 64]),
        mac: [0; 6],
        fragment: *rng.pick(&[
            Fragment::No,
            Fragment::No,
            Fragment::No,
            Fragment::First,
            Fragment::Later,
        ]),
        ct: *rng.pick(&STATES),
        born: *rng.pick(&[Born::Elsewhere, Born::Elsewhere, Born::Here]),
    }
}

#[test]
fn random_clusters_are_enforced_as_the_tables_say() {
    let mut counts = [0usize; 2];
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let shape = Shape { pods: 8, ..Shape::default() };
        let cluster = random::cluster(&mut rng, &shape);
        let (compiler, mut topology) = compiled(&cluster);
        topology.node_addresses =
            cluster.nodes.values().next().map(|n| n.addresses.clone()).unwrap_or_default();
        let program = compiler.program();
        let lowered = software::lower(program, &topology).unwrap();
        let mut addresses = random::addresses(&cluster);
        addresses.extend(["fe80::1", "::", "0.0.0.0", "ff02::1"].map(ip));
        let numbers: Vec<u16> = random::ports(&cluster)
            .into_iter()
            .filter_map(|(_, p)| p)
            .chain([67, 68, 546, 547])
            .collect();
        let keys: Vec<_> = compiler.endpoints().map(|(key, id)| (key.clone(), id)).collect();
        for (key, endpoint) in keys {
            let own = &cluster.pods[&key].addresses;
            let pod = Pod { program, topology: &topology, endpoint, own };
            let filters = filters(&lowered, endpoint);
            for (side, at) in [(Side::Ingress, 0), (Side::Egress, 1)] {
                for _ in 0..300 {
                    let mut packet = packet(&mut rng, &addresses, own, &numbers);
                    if packet.source.is_ipv4() != packet.destination.is_ipv4() {
                        continue;
                    }
                    if packet.ethertype == 0x8100 {
                        // Nothing tracks what is under a tag.
                        packet.ct = 0;
                    }
                    if side == Side::Ingress {
                        // The host has not seen it yet.
                        packet.ct &= !ct::TRACKED;
                        packet.born = Born::Elsewhere;
                    }
                    let outcomes = run(&filters, side, &packet, Semantics::SOFTWARE);
                    let passes = pod.passes(side, &packet);
                    let found: Vec<bool> = outcomes.iter().map(|o| *o != Outcome::Drop).collect();
                    assert_eq!(
                        found,
                        [passes],
                        "seed {seed} {key} {side:?} {packet:?}\n{}",
                        listing(&filters, side)
                    );
                    counts[at] += usize::from(passes);
                }
            }
        }
    }
    assert!(counts.iter().all(|c| *c > 1000), "{counts:?}");
}
