//! The packet cases of every target, as real frames through software flower in the lab.
//!
//! Where it answers otherwise is listed here with the reason; what is listed and does not happen
//! any more fails too.

mod node;

use std::{net::IpAddr, time::Duration};

use netpolc_table::{IfIndex, Program, TableId};
use netpolc_target::{
    Arrival, Frame, Hook, Verdict,
    conformance::{
        Case, Step, cases,
        world::{A, B, Hosts},
    },
};
use netpolc_target_flower::{
    lower::software,
    topology::{PodPort, Port, Topology},
};
use netpolc_testbed::lab::{self, wire::forget_connections};
use node::{Node, Place, Seen, destination};

/// What software flower answers more strictly: what stands in the name of case and step, and why.
const STRICTER: &[(&str, &str)] = &[
    (
        "S43",
        "a packet denied towards the pod is tracked nevertheless (the host confirms it before the \
         hook), so the other side counts as opener",
    ),
    ("S50", "fragments to a pod: the host reassembles them or nobody knows their ports"),
    ("in fragments", "fragments to a pod"),
    ("S3 S52", "the host's own stack does not route packets that are cut, or a fragment alone"),
    (
        "S35",
        "errors are let in by connection tracking only, which wants the quoted connection whole",
    ),
    (
        "S37 S38 SCTP",
        "the frames' verification tags are made up, and connection tracking compares them",
    ),
    ("S37 S39 other protocols", "connection tracking knows no GRE in this kernel"),
    ("S39a what needs no entry has none", "connection tracking keeps the opener that it saw first"),
    ("S38 a bare SYN", "a SYN with odd flags is not tracked, so nothing answers it"),
    (
        "S38 simultaneous open",
        "connection tracking calls the crossing SYN a reply, as it does a SYN on a live tuple",
    ),
    (
        "S40 a new SYN in TIME_WAIT",
        "connection tracking keeps the old connection's opener until its time is over",
    ),
    (
        "S51 IPv6 extension headers",
        "extension headers that the dissector does not skip hide the ports",
    ),
    (
        "S52 layer 4 that is too short, V4",
        "the frames' IP checksums are wrong, so that the host does not route them",
    ),
    ("S52 length fields that lie: total", "the frame's IP checksum is wrong"),
    ("S54", "tagged frames are dropped"),
    ("with options and tags", "tagged frames are dropped"),
    ("S36 ARP passes, and a pod speaks for itself: tagged", "tagged frames are dropped"),
    (
        "S36 ARP passes, and a pod speaks for itself: where nothing is guarded",
        "the host answers no ARP in another pod's name",
    ),
    ("to a link-local address", "nobody in the lab has that address"),
    (
        "S55 hardware addresses",
        "the host carries nothing that is for another's; tagged frames are dropped",
    ),
    (
        "S45 S49 IPv4 source routes: where nothing is judged",
        "the host does not route by the sender's list",
    ),
    (
        "S47 a pod reaches itself",
        "flower does not know by which interface a packet came, so its own address is forged; what \
         it sends to itself never leaves it",
    ),
    (BORN, "the ingress set judges what the node sends, too"),
];

/// What software flower judges by the ingress set, and other targets by the born set (S82).
const BORN: &str = "S82";

/// What passes although other targets drop it, and why nothing is gained by it.
const WIDER: &[(&str, &str)] = &[
    ("S36 S52 what is neither", "policy permits everybody everything, so nothing is read"),
    (
        "S51 IPv6 extension headers that are too many",
        "policy permits everybody everything, so nothing is read",
    ),
    (
        "S51 S52 IPv6 extension headers that overrun",
        "policy permits everybody everything, so nothing is read",
    ),
    ("S52 length fields that lie", "policy permits everybody everything, so nothing is read"),
    ("S52 cut frames", "policy permits everybody everything, so nothing is read"),
    ("S52 layer 4 that is too short", "policy permits everybody everything, so nothing is read"),
    (
        "S39a what needs no entry has none",
        "connection tracking knows who opened a connection, whether or not anything was isolated \
         then",
    ),
    (
        "S35",
        "an error about a connection that was permitted once, as long as connection tracking keeps \
         it",
    ),
    (
        "S47 the pod's own address from elsewhere",
        "policy permits everybody everything, so nothing is read",
    ),
    (
        "S44 forwarded packets whose interface is forgotten",
        "connection tracking has seen the denied opening, so the pod's answer to what it never got \
         passes",
    ),
    ("S36 neighbour discovery passes", "flower has no key for the target, the size or the link"),
    (
        "S45 S51 IPv6 routing headers",
        "flower has no key for segments; the host drops what it would have to route by them",
    ),
    ("hardware addresses", "software flower does not look at hardware addresses"),
    ("S45 tunnels that end on a node", "software flower does not know the node's tunnels"),
    ("S55 0.0.0.0 for DHCP only: a pod is no", "software flower does not look for servers"),
    (
        "S82 the born set judges",
        "the ingress set judges what the node sends, too; it permits no more than the groups do in \
         any program that the compiler makes",
    ),
];

/// The node's addresses: in the cases about it, the stranger is one of them.
fn topology(case: &Case) -> Topology {
    let port =
        |ifindex, name: &str| PodPort { port: Port { ifindex, name: name.into() }, mac: None };
    let pods = [(A.endpoint, port(A.interface, "pod-a")), (B.endpoint, port(B.interface, "pod-b"))];
    let node = case.name.contains("S44").then(|| Hosts::both().map(|h| h.stranger).to_vec());
    Topology { pods: pods.into(), node_addresses: node.unwrap_or_default(), ..Topology::default() }
}

fn places() -> Vec<Place> {
    let [v4, v6] = Hosts::both();
    let place = |name: &str, ifindex, addresses: &[IpAddr]| Place {
        name: name.into(),
        ifindex,
        addresses: addresses.to_vec(),
    };
    vec![
        place("pod-a", A.interface, &[v4.a, v6.a]),
        place("pod-b", B.interface, &[v4.b, v6.b]),
        // Interfaces of nobody, one of which has A's index in its low bits.
        place("nobody", IfIndex::new(777), &[]),
        place("alias", IfIndex::new(A.interface.get() + (1 << 16)), &[]),
    ]
}

/// ARP and neighbour discovery are not routed, other layer-3 protocols and tagged frames neither.
fn routable(frame: &[u8]) -> Option<IpAddr> {
    let discovery = frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(21) == Some(&255);
    destination(frame).filter(|_| !discovery)
}

fn put(node: &Node, hook: Hook, frame: &Frame, expected: Verdict) -> Seen {
    let bytes = &frame.bytes;
    match (hook, frame.arrival) {
        // What is to be dropped may also get stuck behind the hook: a fragment that waits for its
        // others. Nothing is ever on the interfaces of nobody, and nothing is counted there.
        (Hook::FromPod, _) if ![A.interface, B.interface].contains(&frame.interface) => {
            Seen::Passed
        }
        (Hook::FromPod, _) if expected == Verdict::Drop => {
            node.pod_sends_beyond(frame.interface, bytes)
        }
        (Hook::FromPod, _) => node.pod_sends(frame.interface, bytes),
        (Hook::ToPod, Arrival::Born) => {
            let destination = destination(bytes).expect("what the node sends is IP");
            node.born(frame.interface, &bytes[14..], destination)
        }
        // What the kernel has cut anew was forwarded, as what comes in by an interface.
        (Hook::ToPod | Hook::Translated, _) => node.to_pod(frame.interface, bytes, routable(bytes)),
    }
}

#[derive(Default)]
struct Tally {
    packets: usize,
    /// Cases that wait for time to pass, or ask at a hook that flower has not, are run up to that.
    cut: usize,
    wider: Vec<String>,
    stricter: Vec<String>,
}

fn run(node: &mut Node, case: &Case, tally: &mut Tally) {
    let topology = topology(case);
    let mut program: Program = case.program.clone();
    let install = |node: &mut Node, program: &Program| {
        node.install(&software::lower(program, &topology).expect("the world can be enforced"));
    };
    // Removing all filters also empties the flow table of act_ct.
    install(node, &Program::default());
    forget_connections().expect("conntrack");
    install(node, &program);
    for step in &case.steps {
        match step {
            Step::Advance(_) => {
                tally.cut += 1;
                return;
            }
            Step::Write(write) => {
                program.apply(write);
                // An address or endpoint gets another pod: its connections are to be deleted, as
                // the agent does.
                let remote = [TableId::RemoteV4, TableId::RemoteV6].contains(&write.table);
                if remote || write.table == TableId::Endpoint && write.put.is_empty() {
                    forget_connections().expect("conntrack");
                    // Until act_ct's flow table has seen that they are gone (nf_flow_table_core.c,
                    // every second).
                    std::thread::sleep(Duration::from_millis(2500));
                }
                install(node, &program);
            }
            // Filters record nothing (S87).
            Step::Noted(_) => {}
            // Flower judges where packets leave and reach pods; what is between is another
            // target's.
            Step::Packet { hook: Hook::Translated, .. } => {
                tally.cut += 1;
                return;
            }
            Step::Packet { what, hook, frame, expected } => {
                tally.packets += 1;
                let seen = put(node, *hook, frame, *expected);
                let name = format!("{}: {what}", case.name);
                match (*expected != Verdict::Drop, seen) {
                    (true, Seen::Passed) | (false, Seen::Dropped | Seen::NotCarried) => {}
                    (false, Seen::Passed) => tally.wider.push(name),
                    (true, _) => tally.stricter.push(format!("{name} ({hook:?} {seen:?})")),
                }
            }
        }
    }
}

#[test]
fn software_flower_gives_the_answers_of_every_target_or_stricter_ones() {
    if lab::outside(software_flower_gives_the_answers_of_every_target_or_stricter_ones) {
        return;
    }
    let mut node = Node::up(&places());
    let mut tally = Tally::default();
    // Software flower refuses Services: where their packets leave a pod it would have to judge the
    // backend.
    let cases: Vec<Case> = cases()
        .into_iter()
        .filter(|c| !c.name.contains("Service") && !c.name.contains("S48"))
        .collect();
    for case in &cases {
        run(&mut node, case, &mut tally);
    }
    println!(
        "{} cases ({} up to where time passes or another hook is asked), {} packets: {} answered \
         more strictly, {} more widely",
        cases.len(),
        tally.cut,
        tally.packets,
        tally.stricter.len(),
        tally.wider.len()
    );
    // Wider first: a later message would hide it.
    for (kind, found, declared) in
        [("WIDER", &tally.wider, WIDER), ("stricter", &tally.stricter, STRICTER)]
    {
        let undeclared: Vec<&str> = found
            .iter()
            .filter(|n| !declared.iter().any(|(part, _)| n.contains(part)))
            .map(|n| &**n)
            .collect();
        assert!(undeclared.is_empty(), "{kind} and not declared:\n{}", undeclared.join("\n"));
        let unused: Vec<&str> = declared
            .iter()
            .map(|(part, _)| *part)
            .filter(|part| !found.iter().any(|n| n.contains(part)))
            .collect();
        assert!(unused.is_empty(), "declared as {kind} and not so any more: {unused:?}");
    }
    lab::assert_kernel_is_quiet();
}
