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

/// A pod with this container port that only other=some may reach, and Services in front of it.
fn shop() -> String {
    let web = pod("web-0", "web", "n1", &["10.0.0.5", "fd00::5"]);
    let port = "containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]";
    [
        web.replace("containers: [{name: c}]", port)
            .replace("namespace: a,", "namespace: a, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: u, controller: true}],"),
        pod("cli", "cli", "n1", &["10.0.0.6", "fd00::6"]),
        ingress("web", "{from: [{podSelector: {matchLabels: {other: some}}}], ports: [{port: 8080}]}"),
        service("web", "web", "10.96.0.9", "{name: http, port: 80, targetPort: 8080}, \
                                            {name: same, port: 8080}"),
    ]
    .concat()
}

/// What the question is told on standard error.
fn note(source: &str, destination: &str, input: &str) -> String {
    let out = run(&["explain", source, destination], input);
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// S48: a packet to a Service's address is judged by the backends.
#[test]
fn s48_an_address_of_a_service_is_the_service() {
    let shop = shop();
    assert_eq!(answers("a/cli", "10.96.0.9:80", &shop), ["a/cli > a/web-0 TCP 8080 denied 1"]);
    assert_eq!(answers("a/cli", "10.96.0.9:http", &shop), ["a/cli > a/web-0 TCP 8080 denied 1"]);
    let said = note("a/cli", "10.96.0.9:80", &shop);
    assert!(said.contains("note: 10.96.0.9 is an address of Service a/web"), "{said}");
    let ports = "Service a/web, whose ports are http (TCP 80), same (TCP 8080)";
    refused("a/cli", "10.96.0.9:81", &shop, ports);
    refused("a/cli", "10.96.0.9:80/udp", &shop, ports);
    let other = "has no such port for UDP, but http (TCP 80)";
    refused("a/cli", "svc/a/web:80/udp", &shop, other);
    let two = shop + &service("two", "cli", "10.96.0.9", "{port: 80}, {port: 90}");
    refused("a/cli", "10.96.0.9:80", &two, "write svc/a/two or svc/a/web");
    assert_eq!(answers("a/web-0", "10.96.0.9:90", &two), ["a/web-0 > a/cli TCP 90 allowed 1"]);
}

/// A name that a workload and a Service share means what has the port; where both have it, what was
/// taken is said.
#[test]
fn a_name_of_pods_and_of_a_service_means_what_has_the_port() {
    let shop = shop();
    for (destination, answer, said) in [
        (
            "a/web:80",
            "TCP 8080",
            "Service a/web; for the pods of this name, write statefulset/a/web:80",
        ),
        ("a/web:8080", "TCP 8080", ""),
        ("a/web:9", "TCP 9", ""),
        (
            "a/web:http",
            "TCP 8080",
            "taken as statefulset/a/web; for the Service of this name, write svc/a/web:http",
        ),
        ("a/web/udp", "UDP 53", ""),
    ] {
        assert_eq!(
            answers("a/cli", destination, &shop),
            [format!("a/cli > a/web-0 {answer} denied 1")],
            "{destination}"
        );
        let told = note("a/cli", destination, &shop);
        assert_eq!(!said.is_empty(), told.contains("taken as"), "{destination}: {told}");
        assert!(told.contains(said), "{destination}: {told}");
    }
    let told = note("a/cli", "a/web", &shop);
    assert!(told.contains("a/web is taken as statefulset/a/web"), "{told}");
}

/// An IPv6 address and a port are not taken for a longer address without a word.
#[test]
fn an_ipv6_address_with_a_port_stands_in_brackets() {
    let shop = shop();
    let way = "write [fd00::5]:443, or [fd00::5:443] for that address";
    refused("2001:db8::1", "fd00::5:443", &shop, way);
    refused("2001:db8::1", "fd00::5:443/tcp", &shop, way);
    let denied = ["2001:db8::1 > a/web-0 TCP 443 denied 1"];
    assert_eq!(answers("2001:db8::1", "[fd00::5]:443", &shop), denied);
    let address = ["2001:db8::1 > fd00::5:443 TCP 80 allowed 1"];
    assert_eq!(answers("2001:db8::1", "[fd00::5:443]:80", &shop), address);
    let known = shop + &pod("known", "k", "n1", &["fd00::5:443"]);
    let pod = ["2001:db8::1 > a/known TCP 80 allowed 1"];
    assert_eq!(answers("2001:db8::1", "fd00::5:443/tcp", &known), pod);
}
