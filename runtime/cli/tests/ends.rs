//! Questions whose ends are groups of pods, blocks, Services and addresses, on small inputs whose
//! answers were worked out by hand. Not here: what else the commands print (`ask.rs`).

mod common;

use std::process::{Command, Output};

use common::folder::Folder;
use netpolc_testbed::feed::feed;
use serde_json::Value;

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    feed(command.args(arguments).args(["-f", "-"]), input.as_bytes()).expect("netpolc runs")
}

/// The answers, `SOURCE > DESTINATION TRAFFIC verdict pairs`, in the order of the text.
fn answers(source: &str, destination: &str, input: &str) -> Vec<String> {
    let out = run(&["explain", source, destination, "-o", "json"], input);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{source} {destination}: {errors}");
    let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let text = |story: &Value, key: &str| story[key].as_str().expect("a text").to_owned();
    let one = |story: &Value| {
        let verdict = if story["allowed"] == true { "allowed" } else { "denied" };
        let [source, destination, traffic] =
            ["source", "destination", "traffic"].map(|key| text(story, key));
        format!("{source} > {destination} {traffic} {verdict} {}", story["pairs"])
    };
    let mut answers: Vec<String> = told.as_array().expect("a list").iter().map(one).collect();
    answers.sort();
    answers
}

/// The question is refused, and the message has this in it.
fn refused(source: &str, destination: &str, input: &str, part: &str) {
    let out = run(&["explain", source, destination], input);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{source} {destination}: {errors}");
    assert!(errors.contains(part), "{source} {destination}: {errors}");
}

/// A pod of namespace a, with the label app=APP.
fn pod(name: &str, app: &str, node: &str, addresses: &[&str]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, labels: {{app: \
         {app}}}}}\nspec: {{nodeName: {node}, containers: [{{name: c}}]}}\nstatus: {{podIPs: \
         [{}]}}\n",
        addresses.join(", ")
    )
}

fn node(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: \
         [{{type: InternalIP, address: {address}}}]}}\n"
    )
}

/// A policy of namespace a about ingress of the pods with app=APP; without rules, it denies all.
fn ingress(app: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {app}, \
         namespace: a}}\nspec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: \
         [Ingress], ingress: [{rules}]}}\n"
    )
}

fn service(name: &str, app: &str, address: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: \
         {{clusterIP: {address}, selector: {{app: {app}}}, ports: [{ports}]}}\n"
    )
}

/// Two pods that nobody may reach, and one that everybody may.
fn twins() -> String {
    [
        pod("p", "x", "n1", &["10.0.0.1"]),
        pod("q", "x", "n1", &["10.0.0.2"]),
        pod("r", "open", "n2", &["10.0.0.3"]),
        ingress("x", ""),
        ingress("open", "{}"),
    ]
    .concat()
}

/// S47: what a pod may do with itself says nothing about the others of its class.
#[test]
fn s47_a_group_is_not_asked_about_a_pod_and_itself() {
    let twins = twins();
    assert_eq!(answers("a/app=x", "a/app=x:80", &twins), ["a/p > a/q TCP 80 denied 2"]);
    assert_eq!(
        answers("a/*", "a/*:80", &twins),
        ["a/p > a/r TCP 80 allowed 2", "a/p, a/r > a/q, a/p TCP 80 denied 4"]
    );
    assert_eq!(
        answers("a/p", "a/*:80", &twins),
        ["a/p > a/q TCP 80 denied 1", "a/p > a/r TCP 80 allowed 1"]
    );
    assert_eq!(answers("10.0.0.1", "a/app=x:80", &twins), ["a/p > a/q TCP 80 denied 1"]);
    let folder = Folder::new("ends-twins");
    let file = folder.write("expectations.txt", "a/app=x -> a/app=x:80 allowed\n");
    assert_eq!(run(&["test", &file], &twins).status.code(), Some(1));
}

/// S47: a pod that is named at both ends is told why.
#[test]
fn s47_one_pod_at_both_ends_reaches_itself() {
    let twins = twins();
    for (source, destination) in
        [("a/p", "a/p:80"), ("a/p", "10.0.0.1:80"), ("10.0.0.2", "a/q"), ("a/p", "pod/a/p/udp")]
    {
        let out = run(&["explain", source, destination], &twins);
        let told = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{source} {destination}");
        assert_eq!(told.matches("a pod always reaches itself (S47)").count(), 2, "{told}");
    }
}

/// S47: a client that is behind the Service, too, is not asked about itself.
#[test]
fn s47_a_service_is_asked_from_the_other_pods() {
    let input = twins() + &service("s", "x", "10.96.0.1", "{port: 80}");
    assert_eq!(answers("a/*", "svc/a/s:80", &input), ["a/q, a/p, a/r > a/p, a/q TCP 80 denied 4"]);
    let one = [pod("p", "x", "n1", &["10.0.0.1"]), ingress("x", "")].concat();
    let one = one + &service("s", "x", "10.96.0.1", "{port: 80}");
    assert_eq!(answers("a/p", "svc/a/s:80", &one), ["a/p > a/p TCP 80 allowed 1"]);
}

/// S44: a node reaches the pods that run on it, and those of other nodes as their policies say.
#[test]
fn s44_a_node_is_asked_about_its_own_pods_and_others() {
    let input = [
        node("n1", "192.168.0.1"),
        node("n2", "192.168.0.2"),
        pod("p", "x", "n1", &["10.0.0.1"]),
        pod("q", "x", "n2", &["10.0.0.2"]),
        pod("r", "x", "n2", &["10.0.0.3"]),
        ingress("x", ""),
    ];
    assert_eq!(
        answers("node/n1", "a/*:80", &input.concat()),
        ["192.168.0.1 > a/p TCP 80 allowed 1", "192.168.0.1 > a/q TCP 80 denied 2"]
    );
}

/// A block means the pods and nodes in it, too, and not only the addresses that are nobody's.
#[test]
fn a_block_is_asked_about_the_pods_and_nodes_in_it() {
    let input = [
        node("n1", "10.0.0.1"),
        node("n2", "10.0.0.2"),
        pod("p", "x", "n1", &["10.0.0.5", "fd00::5"]),
        pod("q", "b", "n2", &["10.0.0.6"]),
        pod("s", "b", "n2", &["10.0.0.7"]),
        pod("far", "x", "n2", &["10.0.1.5"]),
        ingress("x", "{from: [{podSelector: {matchLabels: {app: b}}}]}"),
        service("s", "b", "10.0.9.1", "{port: 80}"),
    ]
    .concat();
    assert_eq!(
        answers("8.8.8.8", "10.0.0.0/24:80", &input),
        [
            "8.8.8.8 > 10.0.0.1, 10.0.0.0 TCP 80 allowed 3",
            "8.8.8.8 > a/p TCP 80 denied 1",
            "8.8.8.8 > a/q TCP 80 allowed 2",
        ]
    );
    assert_eq!(
        answers("10.0.0.4/30", "a/far:80", &input),
        [
            "10.0.0.4 > a/far TCP 80 denied 1",
            "a/p > a/far TCP 80 denied 1",
            "a/q > a/far TCP 80 allowed 2",
        ]
    );
    // No address is left beside those of these pods.
    assert_eq!(answers("8.8.8.8", "10.0.0.6/31:80", &input), ["8.8.8.8 > a/q TCP 80 allowed 2"]);
    assert_eq!(answers("10.0.0.5/32", "a/p:80", &input), ["a/p > a/p TCP 80 allowed 1"]);
    refused("8.8.8.8", "10.0.9.1/32:80", &input, "every address of 10.0.9.1/32 is a Service's");
}

/// Pods whose addresses the internet routes are a part of it, and private ranges are none.
#[test]
fn the_internet_is_asked_about_pods_with_public_addresses() {
    let input = [
        pod("p", "x", "n1", &["203.0.113.5", "2001:db8::5"]),
        pod("in", "x", "n1", &["10.0.0.6", "fd00::6"]),
        pod("out", "b", "n1", &["10.0.0.7", "fd00::7"]),
        ingress("x", "{from: [{ipBlock: {cidr: 0.0.0.0/1}}]}"),
    ]
    .concat();
    assert_eq!(
        answers("a/out", "internet:80", &input),
        [
            "a/out > 128.0.0.0, 1.1.1.1, 2606:4700:4700::1111 TCP 80 allowed 3",
            "a/out > a/p TCP 80 allowed 1",
            "a/out > a/p TCP 80 denied 1",
        ]
    );
}

/// S13: no policy applies to a pod that has ended, so it is in no group.
#[test]
fn s13_a_group_leaves_out_pods_that_have_ended() {
    let ended =
        pod("job", "x", "n1", &["10.0.0.9"]).replace("status: {", "status: {phase: Succeeded, ");
    let alone = ended.replace("app: x", "app: alone").replace("name: job", "name: alone");
    let input = [twins(), ended, alone].concat();
    assert_eq!(answers("a/r", "a/app=x:80", &input), ["a/r > a/p TCP 80 denied 2"]);
    assert_eq!(answers("a/r", "a/job:80", &input), ["a/r > a/job TCP 80 allowed 1"]);
    refused("a/r", "app=alone", &input, "such as pod/a/alone");
}
