//! Tiers in the life of connections: what the corpus, which asks about openings alone, cannot ask.
//! The generated eBPF programs run in the kernel: that needs root.

mod common;

use common::tables::{Stage, attached, packet};
use netpolc::judge::ebpf;
use netpolc_kube_sync::{Input, load};
use netpolc_policy::Cluster;
use netpolc_target::{
    Datapath, Target,
    Verdict::{Drop, Next},
    frame::{Packet, icmp_error, quote},
    semantics::tcp,
};
use netpolc_target_mem::Mem;

const DB: &str = "10.5.0.1";
const WEB: &str = "10.5.0.2";
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

/// The db may ask web, or not; nobody may ask the db.
fn cluster(tier: &str, egress: &str) -> Cluster {
    annotated(tier, egress, "")
}

/// The same, with these annotations of the policy.
fn annotated(tier: &str, egress: &str, annotations: &str) -> Cluster {
    let text = format!(
        "
{{apiVersion: v1, kind: Namespace, metadata: {{name: shop}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: db, namespace: shop, labels: {{app: db}}}}
spec: {{nodeName: n1, containers: []}}
status: {{phase: Running, podIP: {DB}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop, labels: {{app: web}}}}
spec: {{nodeName: n2, containers: []}}
status: {{phase: Running, podIP: {WEB}}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: db, annotations: {{{annotations}}}}}
spec:
  tier: {tier}
  priority: 1
  subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: db}}}}}}}}
  egress: [{{action: {egress}, to: [{{namespaces: {{}}}}]}}]
  ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]
"
    );
    let loaded = load([Input::bytes("tiers.yaml", text.as_bytes())]);
    assert_eq!(loaded.problems, []);
    loaded.cluster
}

fn stage<T: Target + Datapath>(cluster: &Cluster, target: T) -> Stage<T> {
    let mut stage = Stage::new(cluster, target);
    stage.update(vec![attached("shop", "db")]);
    stage
}

fn error(about: &Packet) -> Packet {
    let (web, db) = (WEB.parse().unwrap(), DB.parse().unwrap());
    icmp_error(web, db, (3, 1), 0, &quote(about, 8))
}

fn a_connection(tier: &str, target: impl Target + Datapath) {
    let out = |flags| packet(DB, WEB).tcp(4000, 80, flags);
    let back = |flags| packet(WEB, DB).tcp(80, 4000, flags);
    let mut stage = stage(&cluster(tier, "Accept"), target);
    assert_eq!(stage.gets(&packet(WEB, DB).tcp(4000, 5432, tcp::SYN)), Drop, "{tier}: asked");
    assert_eq!(stage.gets(&back(SYN_ACK)), Drop, "{tier}: an answer to nothing");
    assert_eq!(stage.sends(&out(tcp::SYN)), Next, "{tier}: asks");
    assert_eq!(stage.gets(&back(SYN_ACK)), Next, "{tier}: the answer");
    assert_eq!(stage.sends(&out(tcp::ACK)), Next, "{tier}: data");
    assert_eq!(stage.gets(&back(tcp::ACK)), Next, "{tier}: data back");
    assert_eq!(stage.gets(&error(&out(tcp::ACK))), Next, "{tier}: an error about it");
    let other = packet(DB, WEB).tcp(4001, 80, tcp::ACK);
    assert_eq!(stage.gets(&error(&other)), Drop, "{tier}: an error about nothing");
    let (question, answer) = (packet(DB, WEB).udp(4000, 53), packet(WEB, DB).udp(53, 4000));
    assert_eq!(stage.gets(&answer), Drop, "{tier}: a datagram to nothing");
    assert_eq!(stage.sends(&question), Next, "{tier}: a question");
    assert_eq!(stage.gets(&answer), Next, "{tier}: its answer");

    stage.change(&cluster(tier, "Deny"));
    assert_eq!(stage.gets(&back(tcp::ACK)), Drop, "{tier}: cut towards the pod");
    assert_eq!(stage.sends(&out(tcp::ACK)), Drop, "{tier}: cut from the pod");
    assert_eq!(stage.gets(&answer), Drop, "{tier}: no more answers");
    assert_eq!(stage.gets(&error(&out(tcp::ACK))), Drop, "{tier}: no more errors");
}

/// S68: replies and errors about a permitted connection pass a tier that denies everything the
/// other way, and a tier that tightens cuts it.
#[test]
fn s68_replies_pass_in_every_tier_and_a_tightened_tier_cuts() {
    for tier in ["Admin", "Baseline"] {
        a_connection(tier, Mem::default());
        a_connection(tier, ebpf::target(60).expect("the generated programs load (root)"));
    }
}

/// How many packets a target has counted in all.
fn counted(target: &impl Target) -> u64 {
    target.compared().unwrap().expect("it compares").values().sum()
}

fn a_trial(target: impl Target + Datapath) {
    let mut stage = stage(&annotated("Admin", "Deny", "netpolc.io/mode: audit"), target);
    let asks = |port| packet(WEB, DB).tcp(port, 5432, tcp::SYN);
    assert_eq!(stage.gets(&asks(4000)), Next, "what is tried denies nothing");
    assert_eq!(counted(&stage.target), 1, "an opening");
    assert_eq!(stage.sends(&packet(DB, WEB).tcp(5432, 4000, SYN_ACK)), Next);
    assert_eq!(stage.gets(&packet(WEB, DB).tcp(4000, 5432, tcp::ACK)), Next);
    assert_eq!(counted(&stage.target), 1, "the rest of the connection");
    // Egress is tried too: what the db asks differs, and the answer to it does not.
    let (question, answer) = (packet(DB, WEB).udp(4000, 53), packet(WEB, DB).udp(53, 4000));
    assert_eq!(stage.sends(&question), Next);
    assert_eq!(counted(&stage.target), 2, "a question");
    assert_eq!(stage.gets(&answer), Next);
    assert_eq!(counted(&stage.target), 2, "its answer");
    assert_eq!(stage.gets(&packet(WEB, DB).udp(53, 4001)), Next);
    assert_eq!(counted(&stage.target), 3, "a datagram that answers nothing");

    // Enforced, nothing is compared any more, and what was counted under the entries is gone.
    stage.change(&cluster("Admin", "Deny"));
    assert_eq!(stage.gets(&asks(4001)), Drop);
    assert_eq!(counted(&stage.target), 0);
}

#[test]
fn s85_openings_are_counted_and_answers_are_not() {
    a_trial(Mem::default());
    a_trial(ebpf::target(60).expect("the generated programs load (root)"));
}
