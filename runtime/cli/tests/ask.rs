//! The commands that answer questions, as somebody runs them on a shop with a few mistakes. Not
//! here: whether answers are right (`compiler/analyze/tests`), and the page in a browser
//! (`page.rs`).

mod common;

use std::process::{Command, Output};

use common::folder::Folder;
use netpolc_testbed::feed::feed;
use serde_json::Value;

const SHOP: &str = include_str!("../../../testbed/examples/shop.yaml");

/// Runs netpolc with the shop as standard input.
fn netpolc(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolc"));
    feed(command.args(arguments), SHOP.as_bytes()).expect("netpolc runs")
}

fn text(arguments: &[&str]) -> String {
    let out = netpolc(arguments);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&text(arguments)).expect("JSON")
}

fn explain(source: &str, destination: &str) -> Value {
    json(&["explain", source, destination, "-f", "-", "-o", "json"])
}

#[test]
fn a_denial_names_what_comes_nearest_and_what_to_change() {
    let told = explain("shop/web", "shop/db:5432");
    let story = &told[0];
    assert_eq!((told.as_array().unwrap().len(), &story["allowed"]), (1, &Value::Bool(false)));
    let near = story["nearest"].as_array().unwrap();
    // The typing error in a label comes before the rule for another port.
    assert_eq!(near[0]["failures"][0]["what"], "it asks for app=web; pod shop/web has app=wbe");
    assert_eq!(near[0]["failures"][0]["change"], "give pod shop/web the label app=web");
    assert_eq!(near[1]["failures"][0]["what"], "it is about TCP 9187, not TCP 5432");
    assert!(near[0]["rule_at"]["at"].as_str().unwrap().ends_with(":45"), "{near:#?}");
    assert_eq!(near[0]["rule_at"]["text"], "- podSelector: {matchLabels: {app: web}}");
    assert_eq!(
        story["sides"][1]["reason"],
        "isolated by NetworkPolicy shop/db, and none of its rules allows it"
    );
}

#[test]
fn every_kind_of_near_miss_is_told() {
    for (source, destination, what) in [
        ("172.17.1.4", "shop/db:5432", "172.17.1.4 is in its except 172.17.1.0/24"),
        ("192.0.2.1", "shop/db:5432", "192.0.2.1 is not in 172.17.0.0/16"),
        ("tools/probe", "shop/db:9187", "namespace tools has no label project"),
        ("tools/probe", "shop/db:5432", "its peer means pods of the policy's own namespace shop"),
        ("shop/web", "shop/cache:80", "the port name \"metricz\" is on no container of shop/cache"),
    ] {
        let told = explain(source, destination);
        let failures = told[0]["nearest"].to_string();
        let escaped = what.replace('"', "\\\"");
        assert!(failures.contains(&escaped), "{source} {destination}: {failures}");
    }
}

#[test]
fn an_allowed_connection_names_the_rule_and_its_line() {
    let told = text(&["explain", "shop/web", "shop/db:9187", "-f", "-"]);
    for part in [
        "shop/web -> shop/db:9187: allowed",
        "ingress of shop/db: allowed, NetworkPolicy shop/db allows it",
        "NetworkPolicy shop/db spec.ingress[1].from[0]",
        "- namespaceSelector: {matchLabels: {project: mine}}",
        "Replies pass without a rule of their own",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
}

#[test]
fn a_service_is_explained_by_each_of_its_backends() {
    for name in ["api.shop.svc:80", "svc/shop/api:pg", "shop/api"] {
        let told = explain("shop/web", name);
        let stories = told.as_array().unwrap();
        assert_eq!(stories.len(), 1, "{name}: {told:#}");
        assert_eq!(stories[0]["traffic"], "TCP 5432");
        assert_eq!(stories[0]["via"], "10.96.0.7:80");
        assert_eq!(stories[0]["destination"], "shop/db");
    }
}

#[test]
fn both_answers_are_told_where_ports_or_addresses_differ() {
    let ports = explain("shop/web", "shop/db");
    let of = |story: &Value| (story["traffic"].clone(), story["allowed"].clone());
    let answers: Vec<_> = ports.as_array().unwrap().iter().map(of).collect();
    assert!(answers.contains(&("TCP 9187".into(), true.into())), "{answers:?}");
    assert!(answers.contains(&("TCP 5432".into(), false.into())), "{answers:?}");
    let block = text(&["explain", "172.17.0.0/16", "shop/db:5432", "-f", "-"]);
    assert!(block.starts_with("172.17.0.0/16 -> shop/db:5432: partly allowed"), "{block}");
}

#[test]
fn what_is_misspelt_is_an_error_with_what_was_meant() {
    for (arguments, part) in [
        (vec!["explain", "shop/wbe", "shop/db"], "did you mean shop/web?"),
        (vec!["explain", "shop/app=web", "shop/db"], "did you mean app=wbe?"),
        (vec!["explain", "svc/shop/apy", "shop/db"], "did you mean shop/api?"),
        (vec!["explain", "shop/web", "shop/db:pgg"], "it has pg (TCP)"),
        (vec!["explain", "shop/web", "shop/db:pg/udp"], "a UDP port named \"pg\"; it has pg (TCP)"),
        (vec!["explain", "shop/web", "shop/db:99999"], "0 to 65535"),
        (vec!["explain", "svc/shop/api", "shop/db"], "opens no connections"),
        (vec!["explain", "node/n1", "shop/db"], "there is no Node n1"),
        (vec!["list", "--to", "shop/bd"], "did you mean shop/db?"),
        (vec!["list", "--protocol", "quic"], "tcp, udp"),
    ] {
        let arguments = [&arguments[..], &["-f", "-"]].concat();
        let out = netpolc(&arguments);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_list_says_who_reaches_whom() {
    let list = json(&["list", "-f", "-", "-o", "json"]);
    let has = |source: &str, destination: &str, traffic: &str| {
        list.as_array().unwrap().iter().any(|connection| {
            connection["source"]["pods"] == source
                && connection["destination"]["pods"] == destination
                && connection["traffic"] == serde_json::json!([traffic])
        })
    };
    assert!(has("shop/web", "shop/db", "TCP 9187"), "{list:#}");
    assert!(has("shop/db", "shop/web", "everything"), "{list:#}");
    assert!(!has("tools/probe", "shop/db", "TCP 9187"), "{list:#}");
    let table = text(&["list", "-f", "-", "--to", "shop/db"]);
    assert!(table.contains("172.17.0.0/16 but 172.17.1.0/24"), "{table}");
    let exposed = text(&["list", "-f", "-", "--exposed", "-o", "csv"]);
    assert!(exposed.contains("anywhere outside,shop/web,everything"), "{exposed}");
    assert!(!exposed.contains("shop/db"), "{exposed}");
    let open = text(&["list", "-f", "-", "--not-isolated"]);
    assert!(open.contains("shop/db ") && open.contains("isolated"), "{open}");
    let dot = text(&["list", "-f", "-", "-o", "dot"]);
    assert!(dot.contains("\"shop/web\" -> \"shop/db\" [label=\"TCP 9187\"];"), "{dot}");
    let port = text(&["list", "-f", "-", "--port", "9187", "--from", "shop/web", "-o", "csv"]);
    assert!(port.contains("shop/web,shop/db,TCP 9187"), "{port}");
}

#[test]
fn a_difference_says_who_gains_and_who_loses() {
    let folder = Folder::new("ask-diff");
    let new = &*folder.write("deny.yaml", DENY);
    let changes = text(&["diff", "-", new, "-o", "csv"]);
    assert!(changes.contains("lost,shop/web,shop/db,TCP 9187"), "{changes}");
    assert!(!changes.contains("gained"), "{changes}");
    let out = netpolc(&["diff", "-", new, "--exit-code"]);
    assert_eq!(out.status.code(), Some(1));
    let markdown = text(&["diff", "-", new, "-o", "markdown"]);
    assert!(markdown.contains("| lost | shop/web | shop/db | TCP 9187 |"), "{markdown}");
}

const DENY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {matchLabels: {app: wbe}}, policyTypes: [Egress]}
";

#[test]
fn an_expectation_that_is_not_met_is_explained() {
    let folder = Folder::new("ask-test");
    let lines = "\
# Metrics, and nothing else.
shop/web -> shop/db:9187 allowed
shop/web -> shop/db:5432 denied
internet -> shop/web:8080 denied
shop/nobody -> shop/db:80 denied
";
    let file = folder.write("expectations.txt", lines);
    let out = netpolc(&["test", &file, "-f", "-"]);
    let told = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains(":4: internet -> shop/web:8080 denied, but it is: allowed"), "{told}");
    assert!(told.contains(":5: shop/nobody -> shop/db:80 denied: there is no pod"), "{told}");
    assert!(told.ends_with("2 of 4 expectations are met.\n"), "{told}");
}

#[test]
fn tables_are_verified_against_policies() {
    let told = text(&["verify", "-f", "-"]);
    assert!(told.starts_with("Tables and policies agree: "), "{told}");
    let out = netpolc(&["verify", "-f", "-", "--node", "nowhere"]);
    assert_eq!(out.status.code(), Some(2));
}

/// S62: what the stages said that did not decide stands before the rule that did.
#[test]
fn s62_the_way_through_tiers_is_told() {
    let folder = Folder::new("ask-tiers");
    let tier = |name: &str, tier: &str, priority: u32, action: &str, port: u16| {
        format!(
            "---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: {name}}}
spec:
  tier: {tier}
  priority: {priority}
  subject: {{namespaces: {{}}}}
  ingress:
  - action: {action}
    from: [{{namespaces: {{}}}}]
    protocols: [{{tcp: {{destinationPort: {{number: {port}}}}}}}]
"
        )
    };
    let policies = [
        tier("pass", "Admin", 1, "Pass", 9187),
        tier("no-ssh", "Admin", 2, "Deny", 22),
        tier("quiet", "Baseline", 1, "Deny", 8080),
    ];
    let file = folder.write("tiers.yaml", &policies.concat());
    let ask =
        |destination: &str| text(&["explain", "tools/probe", destination, "-f", "-", "-f", &file]);
    let passed = ask("shop/db:9187");
    assert!(passed.contains("a rule of the Admin tier passes it on"), "{passed}");
    assert!(passed.contains("ClusterNetworkPolicy pass spec.ingress[0], Pass"), "{passed}");
    let refused = ask("shop/db:22");
    assert!(
        refused.contains("ClusterNetworkPolicy no-ssh (Admin tier, rule 0) denies it"),
        "{refused}"
    );
    let baseline = ask("shop/web:8080");
    assert!(baseline.contains("no rule of the Admin tier decides about it"), "{baseline}");
    assert!(baseline.contains("no NetworkPolicy isolates the pod for ingress"), "{baseline}");
    assert!(baseline.contains("quiet (Baseline tier, rule 0) denies it"), "{baseline}");
}

/// Every block of the page that shows a command shows what it prints.
#[test]
fn the_page_shows_what_is_printed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/ask.md")).expect("the page");
    let blocks: Vec<&str> = page
        .split("```console\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("the block ends"))
        .collect();
    assert!(blocks.len() >= 3, "only {} blocks", blocks.len());
    for block in blocks {
        let (command, shown) = block.split_once('\n').expect("a command");
        let arguments = command.strip_prefix("$ netpolc ").expect("a command of netpolc");
        let out = Command::new(env!("CARGO_BIN_EXE_netpolc"))
            .args(arguments.split(' '))
            .current_dir(root.join("testbed/examples"))
            .output()
            .expect("netpolc runs");
        let printed = String::from_utf8(out.stdout).expect("UTF-8");
        let trimmed = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.trim_end().to_owned()).collect()
        };
        assert_eq!(trimmed(&printed), trimmed(shown), "{command}");
    }
}
