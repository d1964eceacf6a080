//! What single kinds of flows become: Services, nodes, late answers, what has no rule, what was
//! denied, names that collide or are hostile.

mod common;

use common::{at, both, flow, pod};
use netpolc_flow::{
    Flow, Peer,
    Verdict::{self, Allowed, Audit, Denied},
    line::{Line, Unrecorded},
};
use netpolc_kube_sync::{Absent, Input, Survey, controls, load, survey};
use netpolc_policy::{
    Direction::{self, Egress, Ingress},
    Isolation, Labels, Mode, ObjectKey, Policy,
};
use netpolc_recommend::{
    Drops, Error, Evidence, Known, Name, Options, Recommendation, Scope, recommend, start,
};

/// A web server, a database of two pods behind a Service, and an API server on a node.
const CLUSTER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-7f-a
  namespace: shop
  labels: {app: web, pod-template-hash: 7f}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7f, controller: true}]
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.0.1.1}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: db-0
  namespace: shop
  labels: {app: db, statefulset.kubernetes.io/pod-name: db-0}
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, controller: true}]
spec: {nodeName: n1, containers: [{name: c, ports: [{name: pg, containerPort: 5432}]}]}
status: {phase: Running, podIPs: [{ip: 10.0.1.2}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: db-1
  namespace: shop
  labels: {app: db, statefulset.kubernetes.io/pod-name: db-1}
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, controller: true}]
spec: {nodeName: n2, containers: [{name: c, ports: [{name: pg, containerPort: 5432}]}]}
status: {phase: Running, podIPs: [{ip: 10.0.2.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.9, selector: {app: db}, ports: [{port: 15432, targetPort: pg}]}
"#;

fn shop(more: &str) -> Survey {
    let text = [CLUSTER, more, &start(&["shop".into()])].concat();
    let survey = survey([Input::bytes("cluster.yaml", text)], Absent::MadeUp);
    assert!(!survey.loaded.has_errors(), "{:?}", survey.loaded.problems);
    survey
}

fn web() -> Peer {
    let labels = "app=web,pod-template-hash=7f";
    Peer { node: Some("n1".into()), ..pod("shop/web-7f-a", "Deployment web", labels, "10.0.1.1") }
}

fn db() -> Peer {
    Peer { node: Some("n1".into()), ..pod("shop/db-0", "StatefulSet db", "app=db", "10.0.1.2") }
}

fn address(text: &str) -> Peer {
    Peer { address: text.parse().ok(), ..Peer::default() }
}

fn node(name: &str, address: &str) -> Peer {
    Peer { node: Some(name.into()), ..self::address(address) }
}

fn evidence(flows: impl IntoIterator<Item = Flow>) -> Evidence {
    let mut evidence = Evidence::default();
    flows.into_iter().for_each(|flow| evidence.flow(&flow));
    evidence
}

fn made(
    flows: impl IntoIterator<Item = Flow>,
    survey: &Survey,
    options: &Options,
) -> Recommendation {
    let known = Known { cluster: &survey.loaded.cluster, frontends: &survey.frontends };
    recommend(&evidence(flows), Some(known), options).unwrap()
}

fn usual(flows: impl IntoIterator<Item = Flow>) -> Recommendation {
    made(flows, &shop(""), &Options::default())
}

/// The rules of a policy, as they are printed without comments, on one line.
fn rules(found: &Recommendation, name: &str, direction: Direction) -> String {
    let yaml = found.yaml();
    let document =
        yaml.split("---\n").find(|document| document.contains(&format!("name: {name}\n")));
    let document = document.unwrap_or_else(|| panic!("no policy {name} in:\n{yaml}"));
    let (begin, end) = match direction {
        Ingress => ("\n  ingress:", Some("\n  egress:")),
        Egress => ("\n  egress:", None),
    };
    let Some((_, rest)) = document.split_once(begin) else { return "open".into() };
    let part = end.and_then(|end| rest.split_once(end)).map_or(rest, |(part, _)| part);
    let lines = part.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}

#[test]
fn both_ends_of_what_was_seen_get_a_rule_with_names_and_labels_that_stay() {
    let found = usual(both(Audit, (&web(), &db()), "TCP", 5432));
    assert_eq!(
        rules(&found, "db-seen", Ingress),
        "- from: - podSelector: matchLabels: app: web ports: - protocol: TCP port: pg"
    );
    assert_eq!(
        rules(&found, "web-seen", Egress),
        "- to: - podSelector: matchLabels: app: db ports: - protocol: TCP port: pg"
    );
    assert_eq!(rules(&found, "web-seen", Ingress), "[]");
    assert_eq!((found.uncovered.len(), found.denied.len()), (0, 0));
    let yaml = found.yaml();
    for part in [
        "# StatefulSet shop/db: 1 pod observed, on node n1.\n",
        "# Not observed: its pods on node n2, whose flows were not read.\n",
        "  # From Deployment shop/web: seen once, at 2026-12-01T02:00:00Z.\n",
        "  # Such as shop/web-7f-a to shop/db-0.\n",
        "  # Nothing else was seen that needs a rule, so egress is closed.\n  egress: []\n",
        "    app.kubernetes.io/managed-by: netpolc-recommend\n",
    ] {
        assert!(yaml.contains(part), "no {part:?} in:\n{yaml}");
    }
    assert_eq!(
        found.expectations(),
        "# What was seen, by netpolc recommend.\n\
         deployment/shop/web -> statefulset/shop/db:5432/tcp allowed  # once\n"
    );
}

#[test]
fn s48_a_services_address_stands_for_the_pods_behind_it() {
    let service = Peer { service: Some("shop/db".into()), ..address("10.96.0.9") };
    let seen = [flow((Allowed, Egress), (&web(), &service), "TCP", 15432)];
    let found = usual(seen.clone());
    assert_eq!(
        rules(&found, "web-seen", Egress),
        "- to: - podSelector: matchLabels: app: db ports: - protocol: TCP port: pg"
    );
    assert!(found.yaml().contains("# By Service shop/db.\n"), "{}", found.yaml());
    // Flows alone do not say who is behind it.
    let audit = both(Audit, (&web(), &db()), "TCP", 5432).into_iter().chain(seen);
    let found = recommend(&evidence(audit), None, &Options::default()).unwrap();
    assert_eq!(found.uncovered.len(), 1);
    assert!(found.uncovered[0].to_string().contains("-f or --context"), "{:?}", found.uncovered);
}

#[test]
fn s44_s45_the_own_node_needs_no_rule_but_what_it_forwards_does() {
    let (own, other) = (node("n1", "192.168.0.1"), node("n2", "192.168.0.2"));
    let found = usual([
        // A probe of kubelet, and what comes by a port of the node.
        flow((Allowed, Ingress), (&own, &db()), "TCP", 9000),
        flow((Audit, Ingress), (&own, &web()), "TCP", 8080),
        flow((Audit, Ingress), (&other, &web()), "TCP", 8080),
        flow((Audit, Egress), (&web(), &own), "TCP", 10250),
        flow((Audit, Egress), (&web(), &other), "TCP", 6443),
    ]);
    assert_eq!(rules(&found, "db-seen", Ingress), "[]");
    assert_eq!(
        rules(&found, "web-seen", Ingress),
        "- from: - ipBlock: cidr: \"192.168.0.1/32\" ports: - protocol: TCP port: http \
         - from: - ipBlock: cidr: \"192.168.0.2/32\" ports: - protocol: TCP port: http"
    );
    assert_eq!(
        rules(&found, "web-seen", Egress),
        "- to: - ipBlock: cidr: \"192.168.0.2/32\" ports: - protocol: TCP port: 6443"
    );
    assert!(found.yaml().contains("# From node n2: seen once"), "{}", found.yaml());
}

#[test]
fn s34_what_no_rule_can_say_is_told() {
    let ping = both(Audit, (&web(), &db()), "ICMP", 0).into_iter().map(|mut flow| {
        (flow.source.port, flow.destination.port, flow.icmp) = (None, None, Some([8, 0]));
        flow
    });
    let found = usual(ping);
    let told: Vec<String> = found.uncovered.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    let head = "Deployment shop/web to StatefulSet shop/db, ICMP, seen once: NetworkPolicy has no";
    assert!(told.iter().all(|line| line.starts_with(head)), "{told:?}");
    assert!(found.yaml().contains(&format!("#   {head}")), "{}", found.yaml());
    assert_eq!(rules(&found, "db-seen", Ingress), "[]");
}

#[test]
fn what_was_denied_stays_denied_unless_it_is_wanted() {
    let denied = |verdict| both(verdict, (&web(), &db()), "TCP", 22);
    let seen: Vec<Flow> =
        both(Allowed, (&web(), &db()), "TCP", 5432).into_iter().chain(denied(Denied)).collect();
    let found = usual(seen.clone());
    assert!(!found.yaml().contains("port: 22"), "{}", found.yaml());
    assert_eq!(found.denied.len(), 2);
    assert!(found.yaml().contains("TCP 22, seen once: x/default-deny-audit"), "{}", found.yaml());
    // What is tried and would permit it changes nothing: it was denied.
    let tried = seen.iter().cloned().chain(denied(Audit));
    assert!(!usual(tried).yaml().contains("port: 22"));
    let options = Options { drops: Drops::Needed, ..Options::default() };
    let found = made(seen.clone(), &shop(""), &options);
    assert!(found.yaml().contains("port: 22"), "{}", found.yaml());
    // A protection that drops something says nothing of what is needed.
    let spoofed = seen.into_iter().map(|mut flow| {
        if flow.verdict == Denied {
            flow.reason = Some("spoofed_source".into());
        }
        flow
    });
    assert!(!made(spoofed, &shop(""), &options).yaml().contains("port: 22"));
}

#[test]
fn what_one_end_saw_is_needed_at_the_other_unless_that_has_denied_it() {
    let own = |verdict: Verdict, port| flow((verdict, Egress), (&web(), &db()), "TCP", port);
    let other = flow((Denied, Ingress), (&web(), &db()), "TCP", 22);
    let found = usual([own(Allowed, 5432), own(Allowed, 22), other]);
    assert_eq!(
        rules(&found, "db-seen", Ingress),
        "- from: - podSelector: matchLabels: app: web ports: - protocol: TCP port: pg"
    );
    assert!(found.yaml().contains("# It was seen at the other end alone.\n"), "{}", found.yaml());
}

#[test]
fn late_answers_are_no_connections() {
    let dns = || pod("kube-system/dns-1", "Deployment dns", "k8s-app=dns", "10.0.1.9");
    let mut late = flow((Audit, Ingress), (&dns(), &web()), "UDP", 45_000);
    late.source.port = Some(53);
    // From another port it is no answer, and a port that somebody chose may be asked.
    let mut other = late.clone();
    other.source.port = Some(54);
    let mut chosen = late.clone();
    chosen.destination.port = Some(514);
    let asked = flow((Audit, Egress), (&web(), &dns()), "UDP", 53);
    let found = usual([asked.clone(), late.clone()]);
    assert_eq!(rules(&found, "web-seen", Ingress), "[]");
    assert!(found.yaml().contains("# Left out: 1 answer that came late"), "{}", found.yaml());
    let found = usual([asked, late.clone(), other, chosen]);
    let ports = "ports: - protocol: UDP port: 514 - protocol: UDP port: 45000";
    assert!(rules(&found, "web-seen", Ingress).ends_with(ports), "{}", found.yaml());
    // Nothing was asked.
    assert!(usual([late]).yaml().contains("port: 45000"));
}

#[test]
fn an_address_that_a_node_did_not_know_yet_is_the_pods_that_has_it() {
    let found = usual([flow((Audit, Ingress), (&address("10.0.1.1"), &db()), "TCP", 5432)]);
    assert!(rules(&found, "db-seen", Ingress).contains("app: web"), "{}", found.yaml());
    assert!(!found.yaml().contains("ipBlock"), "{}", found.yaml());
}

#[test]
fn many_addresses_become_blocks_and_everybody_is_no_block() {
    let client = |text: String| flow((Audit, Ingress), (&address(&text), &web()), "TCP", 8080);
    let near = || (1..=40).map(|last| client(format!("203.0.113.{last}")));
    let found = usual(near());
    let cidrs = rules(&found, "web-seen", Ingress).matches("cidr: \"203.0.113.").count();
    assert!((1..=32).contains(&cidrs), "{}", found.yaml());
    assert!(found.yaml().contains("which permit also what lies between them."), "{}", found.yaml());
    let options = Options { most_blocks: 40, ..Options::default() };
    let found = made(near(), &shop(""), &options);
    assert_eq!(rules(&found, "web-seen", Ingress).matches("/32").count(), 40);
    let far = (1..=40).map(|first| client(format!("{first}.2.3.4")));
    let found = usual(far);
    assert_eq!(rules(&found, "web-seen", Ingress), "[]");
    let told = found.uncovered[0].to_string();
    assert!(
        told.starts_with("40 addresses outside of the cluster to Deployment shop/web"),
        "{told}"
    );
    assert!(!found.yaml().contains("cidr"), "{}", found.yaml());
}

#[test]
fn a_direction_that_nothing_isolates_is_left_as_it_is() {
    let survey = survey([Input::bytes("cluster.yaml", CLUSTER)], Absent::MadeUp);
    let seen = [
        flow((Audit, Ingress), (&web(), &db()), "TCP", 5432),
        flow((Allowed, Egress), (&db(), &web()), "TCP", 8080),
    ];
    let found = made(seen.clone(), &survey, &Options::default());
    assert_eq!(rules(&found, "db-seen", Egress), "open");
    assert!(found.yaml().contains("# Egress is left as it is:"), "{}", found.yaml());
    assert!(found.notes.iter().any(|note| note.contains("Egress is left as it is")));
    // Who is not isolated at all has no policy, and nobody is an error.
    let open = made(seen[1..].to_vec(), &survey, &Options::default());
    assert!(open.policies.is_empty() && open.notes.len() == 1, "{:?}", open.notes);
    assert_eq!(
        recommend(&Evidence::default(), None, &Options::default()).err(),
        Some(Error::NoFlows)
    );
    let nobody = Scope { namespaces: vec!["other".into()], ..Scope::default() };
    let options = Options { scope: nobody, ..Options::default() };
    let error = recommend(&evidence(seen), None, &options).unwrap_err();
    assert_eq!(error, Error::NothingPoliced);
}

#[test]
fn policies_are_for_whom_they_are_wanted_and_marked_where_they_are_tried() {
    let seen = || both(Audit, (&web(), &db()), "TCP", 5432);
    let name = |kind: Option<&str>, name: &str| Name {
        kind: kind.map(Into::into),
        namespace: Some("shop".into()),
        name: name.into(),
    };
    let of = |workload: Name| Scope { namespaces: vec![], workloads: vec![workload] };
    for (scope, names) in [
        (Scope::default(), vec!["shop/db-seen", "shop/web-seen"]),
        (of(name(None, "web")), vec!["shop/web-seen"]),
        (of(name(Some("statefulset"), "db")), vec!["shop/db-seen"]),
    ] {
        let options = Options { scope, mode: Mode::Audited, ..Options::default() };
        let found = made(seen(), &shop(""), &options);
        let loaded = load([Input::bytes("found", found.yaml())]).cluster;
        let keys: Vec<String> = loaded.policies.keys().map(ToString::to_string).collect();
        assert_eq!(keys, names);
        assert!(loaded.policies.values().all(|policy| policy.mode == Mode::Audited));
    }
}

#[test]
fn workloads_of_one_name_or_of_the_same_labels_are_told_apart_or_joined() {
    let more = |kind: &str, name: &str, labels: &str, ip: &str| {
        let owner =
            format!("{{apiVersion: apps/v1, kind: {kind}, name: {name}, controller: true}}");
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-x, namespace: shop, labels: \
             {{{labels}}}, ownerReferences: [{owner}]}}\nspec: {{nodeName: n1}}\n\
             status: {{phase: Running, podIPs: [{{ip: {ip}}}]}}\n"
        )
    };
    let twin = |labels| {
        let peer = pod("shop/web-x", "DaemonSet web", labels, "10.0.1.7");
        flow((Audit, Ingress), (&db(), &peer), "TCP", 1)
    };
    // The same name: the kind tells them apart, and so does what one of them lacks.
    let survey = shop(&more("DaemonSet", "web", "app: web, tier: x", "10.0.1.7"));
    let seen = both(Audit, (&db(), &web()), "TCP", 8080).into_iter();
    let found = made(seen.clone().chain([twin("app=web,tier=x")]), &survey, &Options::default());
    let yaml = found.yaml();
    assert!(yaml.contains("name: deployment-web-seen\n"), "{yaml}");
    assert!(yaml.contains("name: daemonset-web-seen\n"), "{yaml}");
    let lacks = "    matchExpressions:\n    - key: tier\n      operator: DoesNotExist\n";
    assert!(yaml.contains(lacks), "{yaml}");
    // The same labels: one policy for both.
    let survey = shop(&more("DaemonSet", "web2", "app: web", "10.0.1.7"));
    let found = made(seen, &survey, &Options::default());
    let yaml = found.yaml();
    assert!(yaml.contains("name: web2-and-1-more-seen\n"), "{yaml}");
    assert!(yaml.contains("# No labels tell the pods of these workloads apart"), "{yaml}");
}

#[test]
fn what_is_missing_is_said() {
    let mut seen = evidence(both(Audit, (&web(), &db()), "TCP", 5432));
    seen.take(&Line::Lost(7));
    seen.take(&Line::Unrecorded(vec![Unrecorded {
        pod: Some("shop/db-0".into()),
        direction: Ingress,
        reason: "audit".into(),
        packets: 9,
    }]));
    let policies = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: \
                    old, namespace: shop}\nspec: {podSelector: {}, ingress: [{}]}\n";
    let survey = shop(policies);
    let known = Known { cluster: &survey.loaded.cluster, frontends: &survey.frontends };
    let found = recommend(&seen, Some(known), &Options::default()).unwrap();
    let notes = found.notes.join("\n");
    assert!(notes.contains("7 flows are missing"), "{notes}");
    assert!(notes.contains("9 packets were counted and have no flow"), "{notes}");
    let yaml = found.yaml();
    assert!(yaml.contains("# Beside it, NetworkPolicy shop/old goes on permitting"), "{yaml}");
}

/// Flows are read from files, which anybody may have written.
#[test]
fn names_and_labels_of_others_stay_in_their_comments_and_quotes() {
    let evil = "x\nspec: {}\n---\u{1b}[2J\u{202e}\u{85}: \"#";
    let hostile = Peer {
        workload: Some(format!("Deployment {evil}").into()),
        labels: Labels::from_iter([("app", evil), ("a: b\n", "c"), ("tier", "no"), ("n", "1e3")]),
        node: Some(evil.into()),
        ..pod("shop/evil", "", "", "10.0.1.66")
    };
    let named = Peer { pod: Some(format!("shop/{evil}").into()), ..hostile.clone() };
    let service = Peer { service: Some(evil.into()), ..address("10.9.9.9") };
    let mut seen = both(Audit, (&hostile, &db()), "TCP", 5432);
    seen.extend(both(Audit, (&named, &db()), "TCP", 5433));
    seen.extend(both(Audit, (&db(), &service), "TCP", 5434));
    seen.extend(both(Audit, (&node(evil, "192.0.2.3"), &db()), "TCP", 5435));
    seen.extend(both(Denied, (&node(evil, "192.0.2.4"), &db()), "TCP", 5436));
    for flow in &mut seen {
        flow.by.iter_mut().for_each(|by| by.name = evil.into());
    }
    let found = recommend(&evidence(seen), None, &Options::default()).unwrap();
    let yaml = found.yaml();
    assert_eq!(yaml.chars().find(|c| controls(*c) && *c != '\n'), None, "{yaml}");
    let json = found.json().unwrap().to_string();
    assert_eq!(json.chars().find(|c| controls(*c)), None, "{json}");
    let policies: Vec<Policy> =
        load([Input::bytes("x", yaml.clone())]).cluster.policies.into_values().collect();
    assert_eq!(policies.len(), 2, "{yaml}");
    assert_eq!(policies[1].key, ObjectKey::new("shop", "evil-seen"));
    assert_ne!(policies[0].ingress, Isolation::Open);
    assert!(yaml.contains("# From node x\\nspec: {}\\n---"), "{yaml}");
    assert!(yaml.contains("tier: \"no\"\n") && yaml.contains("\"n\": \"1e3\"\n"), "{yaml}");
}

#[test]
fn the_same_flows_in_another_order_give_the_same_text() {
    let mut flows = both(Audit, (&web(), &db()), "TCP", 5432);
    flows.extend(both(Audit, (&db(), &web()), "TCP", 8080));
    flows.extend((1..9).map(|i| {
        let client = address(&format!("198.51.100.{i}"));
        let mut flow = flow((Audit, Ingress), (&client, &web()), "TCP", 8080);
        flow.time = at(i);
        flow
    }));
    let text = usual(flows.clone()).yaml();
    flows.reverse();
    assert_eq!(usual(flows).yaml(), text);
}
