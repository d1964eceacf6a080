//! Whom policies select and peers mean, which ports they name, and how peers are put together.

use netpolc_analyze::lint::Check;

use crate::{finds, finds_nothing, input::Objects, lint, only_notes};

fn shop() -> Objects {
    Objects::of(&["shop", "monitoring"])
        .pod_with("shop/web", "app: web", "{name: http, containerPort: 8080}")
        .pod("shop/db", "app: db")
        .pod("monitoring/prom", "app: prom")
}

const FROM_WEB: &str = "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: \
                        {matchLabels: {app: web}}}]}]";

#[test]
fn a_policy_that_selects_no_pod() {
    let typo = shop().policy("shop/p", "podSelector: {matchLabels: {app: wbe}}");
    let check = Check::SelectsNoPod;
    let head = "warning NetworkPolicy shop/p spec.podSelector";
    finds(check, typo.yaml(), head, "no pod of namespace shop has app=wbe", "Write app=web,");
    let both = "podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, \
                values: [db]}]}";
    finds(check, shop().policy("shop/p", both).yaml(), head, "all of this at once", "Take out");
    finds_nothing(check, shop().policy("shop/p", FROM_WEB).yaml());
    let tier = "tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shpo}}}, \
                ingress: [{action: Deny, from: [{namespaces: {}}]}]";
    let tier = shop().tier("t", tier);
    let head = "warning ClusterNetworkPolicy t spec.subject";
    finds(check, tier.yaml(), head, "no namespace has team=shpo", "Write team=shop,");
}

#[test]
fn a_security_group_policy_that_selects_no_pod() {
    let with = |labels: &str| {
        let spec = format!(
            "spec: {{podSelector: {{matchLabels: {{{labels}}}}}, securityGroups: {{groupIds: \
             [sg-1]}}}}"
        );
        let version = "vpcresources.k8s.aws/v1beta1";
        shop().add(version, "SecurityGroupPolicy", "name: p, namespace: shop", &spec)
    };
    let head = "warning SecurityGroupPolicy shop/p spec.podSelector";
    let check = Check::SelectsNoPod;
    finds(check, with("app: wbe").yaml(), head, "gives its groups to no pod", "Write app=web,");
    finds_nothing(check, with("app: web").yaml());
}

#[test]
fn a_policy_in_a_namespace_that_is_not_there() {
    let check = Check::NoSuchNamespace;
    let absent = shop().policy("shpo/p", "podSelector: {}");
    let head = "warning NetworkPolicy shpo/p metadata.namespace";
    finds(check, absent.yaml(), head, "is in namespace shpo,", "Write `namespace: shop`");
    finds_nothing(Check::SelectsNoPod, absent.yaml());
    finds_nothing(check, shop().policy("shop/p", "podSelector: {}").yaml());
    // Where the input declares no namespaces at all, nothing can be said about this one.
    let none = Objects::default().pod("a/b", "app: web").policy("c/p", "podSelector: {}");
    finds_nothing(check, none.yaml());
    finds(Check::SelectsNoPod, none.yaml(), "warning NetworkPolicy c/p spec.podSelector", "", "");
}

#[test]
fn a_peer_that_means_nobody() {
    let check = Check::PeerMeansNobody;
    let with = |peer: &str| {
        let spec =
            format!("podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{from: [{peer}]}}]");
        shop().policy("shop/p", &spec)
    };
    let head = "warning NetworkPolicy shop/p spec.ingress[0].from[0]";
    for (peer, what, change) in [
        ("podSelector: {matchLabels: {app: webb}}", "of namespace shop has app=webb", "app=web,"),
        (
            "podSelector: {matchLabels: {app: prom}}",
            "shop has app=prom",
            "metadata.name: monitoring",
        ),
        (
            "namespaceSelector: {matchLabels: {team: monitorin}}",
            "no namespace of the input has team=monitorin",
            "Write team=monitoring,",
        ),
        (
            "namespaceSelector: {matchLabels: {team: monitoring}}, podSelector: {matchLabels: \
             {app: grafana}}",
            "no pod of namespace monitoring has app=grafana",
            "such as prom",
        ),
        (
            "ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/25, 192.0.2.128/25]}",
            "takes out all of 192.0.2.0/24",
            "narrow",
        ),
    ] {
        finds(check, with(&format!("{{{peer}}}")).yaml(), head, what, change);
    }
    for peer in [
        "podSelector: {matchLabels: {app: web}}",
        "namespaceSelector: {}",
        "ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/25]}",
    ] {
        finds_nothing(check, with(&format!("{{{peer}}}")).yaml());
    }
}

#[test]
fn a_peer_that_means_pods_on_the_network_of_their_node() {
    let node = "spec: {nodeName: n1, hostNetwork: true, containers: [{name: c, image: i}]}\nstatus: \
                {phase: Running, podIPs: [{ip: 192.168.0.1}]}";
    let metadata = "name: exporter, namespace: monitoring, labels: {app: exporter}";
    let with = shop().add("v1", "Pod", metadata, node).policy(
        "shop/p",
        "podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}, \
         podSelector: {matchLabels: {app: exporter}}}]}]",
    );
    let head = "warning NetworkPolicy shop/p spec.ingress[0].from[0]";
    let what = "use the network of their node, such as monitoring/exporter";
    finds(Check::PeerMeansNobody, with.yaml(), head, what, "`ipBlock`");
}

#[test]
fn a_peer_of_a_tier_that_means_nobody() {
    let check = Check::PeerMeansNobody;
    let with = |peer: &str| {
        let spec = format!(
            "tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [{{action: Deny, to: \
             [{{{peer}}}]}}]"
        );
        shop().tier("t", &spec)
    };
    let head = "warning ClusterNetworkPolicy t spec.egress[0].to[0]";
    let nodes = "nodes: {matchLabels: {zone: b}}";
    let found = lint(with(nodes).yaml());
    assert!(found.iter().any(|f| f.check == Check::NotChecked && f.what.contains("no Node")));
    let node = "status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}";
    let with_node = with(nodes).add("v1", "Node", "name: n1, labels: {zone: a}", node);
    finds(check, with_node.yaml(), head, "no node has zone=b", "such as a");
    let typo = "namespaces: {matchLabels: {team: shpo}}";
    finds(check, with(typo).yaml(), head, "no namespace of the input has team=shpo", "team=shop,");
    finds_nothing(check, with("namespaces: {matchLabels: {team: shop}}").yaml());
}

#[test]
fn an_input_without_pods_says_what_was_not_checked() {
    let none = Objects::of(&["shop"]).policy("shop/p", FROM_WEB);
    let found = lint(none.yaml());
    let checks: Vec<Check> = found.iter().map(|f| f.check).collect();
    assert_eq!(checks, [Check::NotChecked], "{found:?}");
    assert!(found[0].what.contains("has no pod and no workload"));
}

#[test]
fn a_port_name_that_nobody_has() {
    let check = Check::UnknownPortName;
    let ingress = |port: &str| {
        let spec = format!(
            "podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{ports: [{{{port}}}]}}]"
        );
        shop().policy("shop/p", &spec)
    };
    let head = "warning NetworkPolicy shop/p spec.ingress[0].ports[0]";
    let what = "No container of the pods concerned has a port with the name \"htpp\"";
    finds(check, ingress("port: htpp").yaml(), head, what, "Write \"http\"");
    let udp = ingress("port: http, protocol: UDP");
    finds(check, udp.yaml(), head, "is a port of TCP", "`protocol: TCP`");
    finds_nothing(check, ingress("port: http").yaml());
    let egress = |peer: &str| {
        let spec =
            format!("podSelector: {{}}, egress: [{{to: [{{{peer}}}], ports: [{{port: http}}]}}]");
        shop().policy("shop/p", &spec)
    };
    let head = "warning NetworkPolicy shop/p spec.egress[0].ports[0]";
    let db = egress("podSelector: {matchLabels: {app: db}}");
    finds(check, db.yaml(), head, "\"http\"", "Write the number");
    let block = egress("ipBlock: {cidr: 10.0.0.0/8}");
    finds(check, block.yaml(), head, "blocks of addresses", "Write the number");
    finds_nothing(check, egress("podSelector: {matchLabels: {app: web}}").yaml());
}

#[test]
fn two_peers_where_one_was_meant() {
    let check = Check::OrInsteadOfAnd;
    let with = |from: &str| {
        let spec =
            format!("podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{from: [{from}]}}]");
        shop().policy("shop/p", &spec)
    };
    let namespace = "{namespaceSelector: {matchLabels: {team: monitoring}}}";
    let prom = "{podSelector: {matchLabels: {app: prom}}}";
    let head = "warning NetworkPolicy shop/p spec.ingress[0].from[1]";
    for from in [format!("{namespace}, {prom}"), format!("{prom}, {namespace}")] {
        finds(
            check,
            with(&from).yaml(),
            head,
            "every pod of these namespaces",
            "Remove the hyphen",
        );
    }
    // Pods of the own namespace beside another namespace are a usual thing to mean.
    let web = "{podSelector: {matchLabels: {app: web}}}";
    let usual = with(&format!("{namespace}, {web}"));
    only_notes(check, usual.yaml());
    assert_eq!(crate::of(check, usual.yaml()).len(), 1);
    let joined = "{namespaceSelector: {matchLabels: {team: monitoring}}, podSelector: {matchLabels: \
                  {app: prom}}}";
    finds_nothing(check, with(joined).yaml());
    finds_nothing(check, with(&format!("{namespace}, {{podSelector: {{}}}}")).yaml());
    let block = "{ipBlock: {cidr: 10.0.0.0/8}}";
    finds_nothing(check, with(&format!("{namespace}, {block}, {prom}")).yaml());
}

#[test]
fn a_rule_for_the_port_of_a_service() {
    let check = Check::ServicePort;
    let with = |target: u16, spec: &str| {
        let service = format!(
            "spec: {{clusterIP: 10.96.0.7, selector: {{app: web}}, ports: [{{port: 80, targetPort: \
             {target}}}]}}"
        );
        shop().add("v1", "Service", "name: web, namespace: shop", &service).policy("shop/p", spec)
    };
    let egress = "podSelector: {matchLabels: {app: db}}, egress: [{to: [{podSelector: {matchLabels: \
                  {app: web}}}], ports: [{port: 80}]}]";
    let head = "warning NetworkPolicy shop/p spec.egress[0].ports[0]";
    let what = "TCP 80, which is the port of Service shop/web; its pods listen on 8080";
    finds(check, with(8080, egress).yaml(), head, what, "`port: 8080`");
    finds_nothing(check, with(80, egress).yaml());
    let ingress = "podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]";
    let head = "warning NetworkPolicy shop/p spec.ingress[0].ports[0]";
    finds(check, with(8080, ingress).yaml(), head, what, "`port: 8080`");
    for also in ["8080", "http"] {
        let both = ingress.replace("[{port: 80}]", &format!("[{{port: 80}}, {{port: {also}}}]"));
        finds_nothing(check, with(8080, &both).yaml());
    }
    // Other pods that the rule means may well listen on 80.
    let to_db = egress.replace("app: web", "app: db");
    finds_nothing(check, with(8080, &to_db).yaml());
}
