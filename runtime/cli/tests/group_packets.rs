//! Security groups that tell ICMP messages and IP protocols apart, in the life of packets: what the
//! corpus, which asks about openings alone, cannot ask. The generated eBPF programs run in the
//! kernel: that needs root.

mod common;

use std::net::IpAddr;

use common::tables::{Stage, attached};
use netpolc::judge::ebpf;
use netpolc_kube_sync::{Input, load};
use netpolc_lower::{Event, Tunnel, Wire};
use netpolc_policy::Cluster;
use netpolc_target::{
    Datapath, Hook, Target,
    Verdict::{Drop, Next},
    frame::{Packet, icmp_error, quote},
};
use netpolc_target_mem::Mem;

const ESP: u8 = 50;
const GRE: u8 = 47;

/// A family's addresses, and its numbers for the same messages.
struct Family {
    db: IpAddr,
    web: IpAddr,
    /// How groups name its ICMP.
    icmp: &'static str,
    request: u8,
    reply: u8,
    /// A type that is neither an error nor part of an exchange.
    other: u8,
    unreachable: u8,
}

fn families() -> [Family; 2] {
    let address = |text: &str| text.parse().unwrap();
    [
        Family {
            db: address("10.5.0.1"),
            web: address("10.5.0.2"),
            icmp: "icmp",
            request: 8,
            reply: 0,
            other: 17,
            unreachable: 3,
        },
        Family {
            db: address("fd00:5::1"),
            web: address("fd00:5::2"),
            icmp: "icmpv6",
            request: 128,
            reply: 129,
            other: 139,
            unreachable: 1,
        },
    ]
}

/// The db has a group with these rules in and out.
fn cluster(family: &Family, ingress: &[(&str, i16, i16)], egress: &[(&str, i16, i16)]) -> Cluster {
    let Family { db, .. } = family;
    let rule = |(protocol, from, to): &(&str, i16, i16)| {
        format!(
            "{{ipProtocol: '{protocol}', fromPort: {from}, toPort: {to}, ipRanges: [{{cidrIP: \
             10.5.0.0/16}}], ipv6Ranges: [{{cidrIPv6: 'fd00:5::/64'}}]}}"
        )
    };
    let rules = |list: &[_]| list.iter().map(rule).collect::<Vec<_>>().join(", ");
    let text = format!(
        "
{{apiVersion: v1, kind: Namespace, metadata: {{name: shop}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: db, namespace: shop, labels: {{app: db}}}}
spec: {{nodeName: n1, containers: []}}
status: {{phase: Running, podIP: '{db}'}}
---
apiVersion: vpcresources.k8s.aws/v1beta1
kind: SecurityGroupPolicy
metadata: {{name: db, namespace: shop}}
spec: {{podSelector: {{}}, securityGroups: {{groupIds: [sg-db]}}}}
---
apiVersion: ec2.services.k8s.aws/v1alpha1
kind: SecurityGroup
metadata: {{name: db, namespace: shop}}
spec:
  name: db
  ingressRules: [{}]
  egressRules: [{}]
status: {{id: sg-db}}
",
        rules(ingress),
        rules(egress)
    );
    let loaded = load([Input::bytes("groups.yaml", text.as_bytes())]);
    assert_eq!(loaded.problems, []);
    loaded.cluster
}

fn stage<T: Target + Datapath>(cluster: &Cluster, target: T) -> Stage<T> {
    let wire = Wire { tunnels: [Tunnel::Protocol(GRE)].into(), ..Wire::default() };
    let mut stage = Stage::new(cluster, target);
    stage.update(vec![attached("shop", "db"), Event::Wire(wire)]);
    stage
}

/// The pod may ping with any code, and be asked one other message; everything else is closed.
fn messages(family: &Family, target: impl Target + Datapath) {
    let Family { db, web, icmp, request, reply, other, unreachable } = *family;
    let out = |message, id| Packet::new(db, web).message(message, id).payload(b"ping");
    let back = |message, id| Packet::new(web, db).message(message, id).payload(b"ping");
    let kind = i16::from;
    let rules = cluster(family, &[(icmp, kind(other), 4)], &[(icmp, kind(request), -1)]);
    let mut stage = stage(&rules, target);

    assert_eq!(stage.gets(&back([reply, 0], 1)), Drop, "{icmp}: a reply to nothing");
    for code in [0, 7] {
        let id = 2 + u16::from(code);
        assert_eq!(stage.sends(&out([request, code], id)), Next, "{icmp}: a ping, code {code}");
        assert_eq!(stage.gets(&back([reply, code], id)), Next, "{icmp}: its reply, code {code}");
    }
    assert_eq!(stage.gets(&back([reply, 0], 99)), Drop, "{icmp}: a reply to another ping");
    let error = |about: &Packet| icmp_error(web, db, (unreachable, 1), 0, &quote(about, 8));
    assert_eq!(stage.gets(&error(&out([request, 0], 2))), Next, "{icmp}: an error about a ping");
    assert_eq!(stage.gets(&error(&out([request, 0], 98))), Drop, "{icmp}: about none");
    assert_eq!(stage.sends(&out([other, 4], 0)), Drop, "{icmp}: what is open the other way only");

    assert_eq!(stage.gets(&back([request, 0], 1)), Drop, "{icmp}: a ping to the pod");
    assert_eq!(stage.gets(&back([other, 4], 0)), Next, "{icmp}: the message that a rule names");
    for (near, code) in [(other, 3), (other, 5), (other - 1, 4), (other + 1, 4)] {
        assert_eq!(stage.gets(&back([near, code], 0)), Drop, "{icmp}: its neighbour {near}/{code}");
    }

    // S50: the first fragment has type and code, and the later ones follow it.
    let parts = |packet: Packet, id| packet.payload(&[4; 64]).fragments(id, 24);
    let ping = parts(out([request, 0], 60), 5);
    assert_eq!(stage.frame(Hook::FromPod, ping[0].clone()), Next, "{icmp}: the first fragment");
    assert_eq!(stage.frame(Hook::FromPod, ping[1].clone()), Next, "{icmp}: the second");
    let ping = parts(out([request, 0], 61), 6);
    assert_eq!(stage.frame(Hook::FromPod, ping[1].clone()), Drop, "{icmp}: it comes first");

    // S41, S42: replies go as the group says now.
    let closed = cluster(family, &[], &[(icmp, kind(request), 7)]);
    stage.change(&closed);
    assert_eq!(stage.gets(&back([reply, 0], 2)), Drop, "{icmp}: cut");
    assert_eq!(stage.gets(&back([reply, 7], 9)), Next, "{icmp}: still open");
    assert_eq!(stage.gets(&back([other, 4], 0)), Drop, "{icmp}: closed");
    let every = cluster(family, &[], &[(icmp, -1, -1)]);
    stage.change(&every);
    assert_eq!(stage.gets(&back([reply, 0], 2)), Next, "{icmp}: open again");
    let ping = parts(out([request, 0], 62), 7);
    assert_eq!(stage.frame(Hook::FromPod, ping[1].clone()), Next, "{icmp}: whatever its type");
}

/// ESP comes in, GRE goes both ways as far as the group is concerned.
fn protocols(family: &Family, target: impl Target + Datapath) {
    let Family { db, web, icmp, request, .. } = *family;
    let out = |number| Packet::new(db, web).protocol(number).payload(&[4; 64]);
    let back = |number| Packet::new(web, db).protocol(number).payload(&[4; 64]);
    let rules = cluster(family, &[("50", -1, -1), ("47", -1, -1)], &[("47", -1, -1)]);
    let mut stage = stage(&rules, target);
    assert_eq!(stage.sends(&out(ESP)), Drop, "{icmp}: ESP from the pod, before any came");
    assert_eq!(stage.gets(&back(ESP)), Next, "{icmp}: ESP to the pod");
    assert_eq!(stage.sends(&out(ESP)), Next, "{icmp}: an answer");
    for number in [ESP + 2, ESP - 1, 255] {
        assert_eq!(stage.gets(&back(number)), Drop, "{icmp}: protocol {number}");
    }
    let ping = Packet::new(web, db).icmp(request, 1);
    assert_eq!(stage.gets(&ping), Drop, "{icmp}: a ping");
    assert_eq!(stage.gets(&back(GRE)), Next, "{icmp}: GRE to the pod");
    // S45: a group opens no tunnel.
    assert_eq!(stage.sends(&out(GRE)), Drop, "{icmp}: GRE from the pod");

    let later = |packet: Packet, id| packet.fragments(id, 24).swap_remove(1);
    assert_eq!(stage.frame(Hook::ToPod, later(back(ESP), 1)), Next, "{icmp}: a later fragment");
    assert_eq!(stage.frame(Hook::ToPod, later(back(ESP + 2), 2)), Drop, "{icmp}: of another");
    assert_eq!(stage.frame(Hook::FromPod, later(out(GRE), 3)), Drop, "{icmp}: of GRE");

    stage.change(&cluster(family, &[], &[]));
    assert_eq!(stage.gets(&back(ESP)), Drop, "{icmp}: closed");
    assert_eq!(stage.sends(&out(ESP)), Drop, "{icmp}: no more answers");
}

#[test]
fn s77_messages_of_icmp_behind_groups() {
    for family in families() {
        messages(&family, Mem::default());
        messages(&family, ebpf::target(60).expect("the generated programs load (root)"));
    }
}

#[test]
fn s77_protocols_without_ports_behind_groups() {
    for family in families() {
        protocols(&family, Mem::default());
        protocols(&family, ebpf::target(60).expect("the generated programs load (root)"));
    }
}
