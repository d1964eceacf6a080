//! The dashboard and the alerts ask for metrics that exist, with their own suffixes and labels, and
//! each alert has a summary and leads to a page that says what to do. promtool of Debian's packages
//! checks the rules.

#[path = "common/chart.rs"]
mod rendered;

use std::{collections::BTreeSet, fs, process::Command, sync::Arc, time::Duration};

use netpolc_agent::{
    serve::{metrics::Metrics, sandboxes::Answer},
    trials::Would,
};
use netpolc_flow::{Decider, Kind, Verdict, line::Unrecorded};
use netpolc_policy::Direction;
use rendered::{chart, find, objects, root, run, tool};
use serde_json::Value;

const RULES: &str = "runtime/deploy/helm/netpolc/alerts/netpolc.yaml";
const DASHBOARD: &str = "runtime/deploy/helm/netpolc/dashboards/netpolc.json";
const RUNBOOK: &str = "https://github.com/netpolc/netpolc/blob/main/docs/alerts.md#";

/// What an agent serves: the names, without `netpolc_`, that expressions may use.
fn served() -> BTreeSet<String> {
    let metrics = Metrics::new("/nowhere".into());
    // A family is served when something has been counted.
    metrics.enforced(1, None);
    metrics.pod_start(Answer::Refused, Duration::ZERO);
    metrics.arrived("pods", 1);
    metrics.resynced("pods", 1);
    metrics.error("update");
    metrics.audited("sound", 0, Duration::ZERO);
    metrics.tried(&[(("shop/a".into(), Would::Deny), 1)].into());
    metrics.exporting(Arc::default());
    let decider = Decider::whole(Kind::NetworkPolicy, "shop/a");
    metrics.flows.follow(|_| true, [(decider, Verdict::Denied)]);
    metrics.flows.events(1, 1);
    let text = r#"{"time":0,"node":"n","verdict":"denied","direction":"ingress","source":{},
        "destination":{},"protocol":"TCP","bytes":60}"#;
    metrics.flows.flows(&[serde_json::from_str(text).unwrap()]);
    let (pod, reason) = (None, "policy".into());
    let missing = Unrecorded { pod, direction: Direction::Ingress, reason, packets: 1 };
    metrics.flows.unrecorded(&[missing]);
    let text = metrics.text();
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE netpolc_"));
    let mut names: BTreeSet<String> = kinds
        .flat_map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect::<Vec<_>>()
        })
        .collect();
    assert!(names.len() > 25, "{names:?}");
    // What is read from a kernel or from watches, of which there are none here.
    let source = |file: &str| {
        fs::read_to_string(root().join("runtime/agent/src/serve/metrics").join(file)).unwrap()
    };
    for (file, before, suffix) in [
        ("collect.rs", "gauge(", ""),
        ("collect.rs", "name: ", "_total"),
        ("watched.rs", "encode_descriptor(", ""),
    ] {
        let text = source(file);
        let behind = text.split(before).skip(1).map(str::trim_start);
        let quoted = behind.filter_map(|rest| rest.strip_prefix('"')?.split('"').next());
        names.extend(quoted.map(|name| format!("{name}{suffix}")));
    }
    for name in ["pods", "dropped_packets_total", "watch_up", "watch_last_contact_seconds"] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
    names
}

/// What is wrong with the metrics of an expression.
fn wrong(served: &BTreeSet<String>, expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: BTreeSet<&str> = words.filter_map(|word| word.strip_prefix("netpolc_")).collect();
    if named.is_empty() {
        return vec![format!("no metric of netpolc is in {expression}")];
    }
    let unknown = named.iter().filter(|name| !served.contains(**name));
    unknown.map(|name| format!("netpolc_{name} in {expression}")).collect()
}

/// Every string under the key `expr`.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("expr") {
                found.push(text.clone());
            }
            map.values().for_each(|value| expressions(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let text = fs::read_to_string(root().join(DASHBOARD)).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let (mut all, served) = (Vec::new(), served());
    expressions(&dashboard, &mut all);
    assert!(all.len() > 25, "{all:?}");
    let wrong: Vec<String> = all.iter().flat_map(|one| wrong(&served, one)).collect();
    assert_eq!(wrong, [] as [String; 0]);
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    let objects = chart(&["-set", "dashboard.enabled=true"]);
    let map = objects.iter().find(|o| o["metadata"]["name"] == "netpolc-dashboard").unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["data"]["netpolc.json"].as_str().unwrap().trim(), text.trim());
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_lead_to_what_to_do() {
    let text = fs::read(root().join(RULES)).unwrap();
    let rules = &objects(&text)[0];
    let page = fs::read_to_string(root().join("docs/alerts.md")).unwrap();
    let headings: BTreeSet<&str> = page.lines().filter_map(|l| l.strip_prefix("## ")).collect();
    let served = served();
    let mut names = BTreeSet::new();
    for rule in
        rules["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array()).flatten()
    {
        let name = rule["alert"].as_str().unwrap();
        let wrong = wrong(&served, rule["expr"].as_str().unwrap());
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        let annotations = &rule["annotations"];
        let summary = annotations["summary"].as_str().unwrap_or_default();
        assert!(summary.ends_with('.'), "{name}: {summary:?}");
        let runbook = annotations["runbook_url"].as_str().unwrap_or_default();
        assert_eq!(runbook, format!("{RUNBOOK}{}", name.to_lowercase()), "{name}");
        assert!(headings.contains(name), "docs/alerts.md has no heading {name}");
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(matches!(severity, "critical" | "warning"), "{name}: {severity:?}");
        names.insert(name.to_owned());
    }
    assert!(names.len() > 10, "{names:?}");
    let of_page: BTreeSet<String> =
        headings.into_iter().filter(|h| h.starts_with("Netpolc")).map(Into::into).collect();
    assert_eq!(of_page, names, "docs/alerts.md is about other alerts");

    assert!(chart(&[]).iter().all(|object| object["kind"] != "PrometheusRule"));
    let rendered = chart(&[
        "-set",
        "prometheusRule.enabled=true",
        "-set",
        "prometheusRule.labels={release: x}",
    ]);
    let object = find(&rendered, "PrometheusRule");
    assert_eq!(object["spec"], *rules);
    assert_eq!(object["metadata"]["labels"]["release"], "x");
}

/// A name that is not served is found, and so is a counter without its suffix.
#[test]
fn an_expression_that_asks_for_nothing_is_found() {
    let served = served();
    assert_eq!(wrong(&served, "rate(netpolc_flows_total[5m])"), [] as [String; 0]);
    for bad in
        ["rate(netpolc_flow_total[5m])", "rate(netpolc_flows[5m])", "netpolc_in_step_total", "up"]
    {
        assert_eq!(wrong(&served, bad).len(), 1, "{bad}");
    }
}

#[test]
fn promtool_takes_the_rules() {
    let folder = String::from_utf8(run(tool("packages.sh").arg("prometheus"), b"")).unwrap();
    let mut promtool = Command::new(format!("{}/usr/bin/promtool", folder.trim()));
    let said = run(promtool.args(["check", "rules"]).arg(root().join(RULES)), b"");
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("SUCCESS: 14 rules found"), "{said}");
}
