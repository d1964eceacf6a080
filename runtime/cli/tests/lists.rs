//! Lists of small inputs whose answers were worked out by hand from the API's text: manifests
//! without pods, and pods that a list must not put together or leave out without a word. Not here:
//! lists of random clusters (`compiler/analyze/tests`), and the other commands (`ask.rs`).

use std::process::{Command, Output};

use netpolc_testbed::feed::feed;

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    feed(command.args(arguments), input.as_bytes()).expect("netpolc runs")
}

fn netpolc(arguments: &[&str], input: &str) -> (String, String) {
    let out = run(&[arguments, &["-f", "-"]].concat(), input);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out_text, errors) = (text(out.stdout), text(out.stderr));
    assert!(out.status.success(), "{arguments:?}: {errors}");
    (out_text, errors)
}

/// The connections of a list: `source > destination: traffic`, one a line.
fn list(input: &str) -> Vec<String> {
    let (csv, _) = netpolc(&["list", "-o", "csv"], input);
    let lines = csv.lines().skip(1).map(|line| {
        let cells = cells(line);
        assert_eq!(cells[2], cells[3], "all pods of a workload are alike: {line}");
        format!("{} > {}: {}", cells[0], cells[1], cells[2])
    });
    lines.collect()
}

/// The cells of a line of CSV in which no cell has a quotation mark.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut is_quoted = false;
    for character in line.chars() {
        match character {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(String::new()),
            other => cells.last_mut().expect("a cell").push(other),
        }
    }
    cells
}

fn namespace(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

/// A workload whose pods have the label app=NAME.
fn workload(kind: &str, namespace: &str, name: &str, ports: &str) -> String {
    labelled(kind, namespace, name, name, ports)
}

/// A workload whose pods have the label app=APP.
fn labelled(kind: &str, namespace: &str, name: &str, app: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: apps/v1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  replicas: 3\n  selector: {{matchLabels: {{app: {app}}}}}\n  \
         template:\n    metadata: {{labels: {{app: {app}}}}}\n    \
         spec: {{containers: [{{name: main, ports: [{ports}]}}]}}\n"
    )
}

fn policy(namespace: &str, app: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {app}, \
         namespace: {namespace}}}\nspec:\n  podSelector: {{matchLabels: {{app: {app}}}}}\n{spec}"
    )
}

/// Two namespaces: `shop` with `web` and `db`, and `jobs` with `sync`.
fn three_workloads() -> String {
    [
        namespace("shop"),
        namespace("jobs"),
        workload("Deployment", "shop", "web", ""),
        workload(
            "StatefulSet",
            "shop",
            "db",
            "{name: sql, containerPort: 5432}, \
             {name: stream, containerPort: 9000, protocol: SCTP}, \
             {name: stream, containerPort: 9001, protocol: UDP}",
        ),
        workload("DaemonSet", "jobs", "sync", ""),
    ]
    .concat()
}

#[test]
fn manifests_without_pods_and_policies_permit_everything() {
    assert_eq!(
        list(&three_workloads()),
        [
            "jobs/sync > shop/db: everything",
            "jobs/sync > shop/web: everything",
            "jobs/sync > anywhere outside: everything",
            "shop/db > jobs/sync: everything",
            "shop/db > shop/web: everything",
            "shop/db > anywhere outside: everything",
            "shop/web > jobs/sync: everything",
            "shop/web > shop/db: everything",
            "shop/web > anywhere outside: everything",
            "anywhere outside > jobs/sync: everything",
            "anywhere outside > shop/db: everything",
            "anywhere outside > shop/web: everything",
        ]
    );
}

/// Pods of two workloads that no rule tells apart are no pair of pods of one of them.
#[test]
fn s47_a_workload_of_one_pod_has_no_connection_with_itself() {
    let web = workload("Deployment", "shop", "web", "");
    let pod = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, \
             ownerReferences: [{{apiVersion: batch/v1, kind: Job, name: sync, \
             controller: true}}]}}\n"
        )
    };
    let selves = |input: &str| -> Vec<String> {
        let lines = list(input).into_iter();
        lines.filter(|l| l.contains("web > shop/web") || l.contains("sync > shop/sync")).collect()
    };
    assert_eq!(selves(&[web.clone(), pod("sync-1")].concat()), Vec::<String>::new());
    let two = [web, pod("sync-1"), pod("sync-2")].concat();
    assert_eq!(selves(&two), ["shop/sync > shop/sync: everything"]);
}

/// `sql` is a TCP port and no UDP port, `stream` an SCTP port and a UDP port with other numbers,
/// and `missing` no port at all.
#[test]
fn s29_s31_a_port_name_counts_with_its_protocol_where_a_container_has_it() {
    let spec = "  ingress:\n  - from: [{namespaceSelector: {}}]\n    ports: [{port: sql}, \
                {port: sql, protocol: UDP}, {port: stream, protocol: SCTP}, \
                {port: stream, protocol: UDP}, {port: missing}]\n";
    let lines = list(&[three_workloads(), policy("shop", "db", spec)].concat());
    let to_db: Vec<&String> = lines.iter().filter(|line| line.contains("> shop/db:")).collect();
    let ports = "TCP 5432; UDP 9001; SCTP 9000";
    assert_eq!(
        to_db,
        [&format!("jobs/sync > shop/db: {ports}"), &format!("shop/web > shop/db: {ports}")]
    );
}

#[test]
fn s31_a_port_name_of_an_egress_rule_is_looked_up_on_each_peer() {
    let spec = "  policyTypes: [Egress]\n  egress:\n  - ports: [{port: sql}]\n";
    let lines = list(&[three_workloads(), policy("shop", "web", spec)].concat());
    let from_web: Vec<&String> = lines.iter().filter(|l| l.starts_with("shop/web >")).collect();
    // Neither an address outside nor sync has a port of that name.
    assert_eq!(from_web, ["shop/web > shop/db: TCP 5432"]);
}

#[test]
fn s27_ranges_of_ports_are_joined_and_end_where_they_say() {
    let spec = "  ingress:\n  - ports: [{port: 1000, endPort: 2000}, {port: 2001, endPort: 2001}, \
                {port: 1, endPort: 65535, protocol: SCTP}]\n";
    let lines = list(&[three_workloads(), policy("shop", "db", spec)].concat());
    let ports = "TCP 1000-2001; SCTP 1-65535";
    for source in ["jobs/sync", "shop/web", "anywhere outside"] {
        assert!(lines.contains(&format!("{source} > shop/db: {ports}")), "{lines:#?}");
    }
}

/// Excepts, a block inside another one's except, and both families. No pod without an address is in
/// a block.
#[test]
fn s18_s22_s23_blocks_are_listed_by_what_is_left_of_them() {
    let spec = "  ingress:\n  - from:\n    - ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}\n    \
                - ipBlock: {cidr: 10.10.0.0/16}\n    - ipBlock: {cidr: 'fd00::/8', except: \
                ['fd00:1::/32']}\n    ports: [{port: 443}]\n";
    let lines = list(&[three_workloads(), policy("shop", "db", spec)].concat());
    let to_db: Vec<&String> = lines.iter().filter(|line| line.contains("> shop/db:")).collect();
    assert_eq!(
        to_db,
        ["10.10.0.0/16, anywhere outside (IPv4) but 10.0.0.0/8; fd00::/8 but fd00:1::/32 > \
          shop/db: TCP 443"]
    );
}

#[test]
fn s10_expressions_select_by_what_is_and_by_what_is_not() {
    for (expression, sources) in [
        ("{key: app, operator: In, values: [web, other]}", vec!["shop/web"]),
        ("{key: app, operator: NotIn, values: [web]}", vec![]),
        ("{key: app, operator: Exists}", vec!["shop/web"]),
        ("{key: app, operator: DoesNotExist}", vec![]),
        ("{key: tier, operator: NotIn, values: [x]}", vec!["shop/web"]),
        ("{key: tier, operator: DoesNotExist}", vec!["shop/web"]),
    ] {
        let spec = format!(
            "  ingress:\n  - from: [{{podSelector: {{matchExpressions: [{expression}]}}}}]\n"
        );
        let lines = list(&[three_workloads(), policy("shop", "db", &spec)].concat());
        let to_db = lines.iter().filter_map(|line| line.split_once(" > shop/db:"));
        let found: Vec<&str> = to_db.map(|(source, _)| source).collect();
        assert_eq!(found, sources, "{expression}");
    }
}

#[test]
fn workloads_of_one_name_are_told_apart_by_their_kind() {
    let input = [
        workload("Deployment", "shop", "web", ""),
        labelled("StatefulSet", "shop", "web", "db", ""),
        workload("Deployment", "jobs", "web", ""),
        policy("shop", "db", "  ingress: []\n"),
    ]
    .concat();
    let (text, _) = netpolc(&["list", "--from", "jobs/web", "-o", "csv"], &input);
    let to: Vec<String> = text.lines().skip(1).map(|line| cells(line)[1].clone()).collect();
    // Nothing reaches the StatefulSet, which the policy isolates.
    assert_eq!(to, ["deployment/shop/web", "anywhere outside"]);
    let (text, _) = netpolc(&["list", "--from", "statefulset/shop/web", "-o", "csv"], &input);
    let from: Vec<String> = text.lines().skip(1).map(|line| cells(line)[0].clone()).collect();
    assert_eq!(from, ["statefulset/shop/web"; 3]);
}

/// A pod with this owner, or with `spec`.
fn pod(name: &str, owner: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: kube-system, \
         ownerReferences: [{owner}]}}\nspec: {{nodeName: n1, {spec}}}\n"
    )
}

#[test]
fn static_pods_of_one_node_are_listed_each_by_itself() {
    let owner = "{apiVersion: v1, kind: Node, name: n1, controller: true}";
    let input = [pod("dns-n1", owner, ""), pod("etcd-n1", owner, "")].concat();
    let lines = list(&input);
    assert!(lines.contains(&"kube-system/dns-n1 > kube-system/etcd-n1: everything".into()));
}

#[test]
fn s15_pods_on_the_network_of_their_node_are_said_to_be_left_out() {
    let owner = "{apiVersion: apps/v1, kind: DaemonSet, name: proxy, controller: true}";
    let deny = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, \
                namespace: kube-system}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n";
    let on_node = pod("proxy-1", owner, "hostNetwork: true");
    let input = [deny, &on_node, &pod("dns", "", "")].concat();
    let (text, errors) = netpolc(&["list"], &input);
    assert_eq!(text, "No connection may be opened.\n");
    let note = "note: pods that use the network of their node are not in the list, since no \
                policy applies to them: 1 pod of kube-system/proxy";
    assert!(errors.contains(note), "{errors}");
    let (text, _) = netpolc(&["list", "--not-isolated", "-o", "csv"], &input);
    assert_eq!(text, "pods of,ingress,egress\r\nkube-system/proxy,open,open\r\n");
    // Of one workload, some pods may be on their nodes' network.
    let input = [input, pod("proxy-2", owner, "")].concat();
    let (text, _) = netpolc(&["list", "--not-isolated", "-o", "csv"], &input);
    let partly = "kube-system/proxy,some pods are open,some pods are open\r\n";
    assert_eq!(text, format!("pods of,ingress,egress\r\n{partly}"));
}
