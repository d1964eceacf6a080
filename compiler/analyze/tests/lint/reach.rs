//! What may be reached in the end, and what exceeds the quotas of the cloud.

use netpolc_analyze::lint::{Check, Severity};

use crate::{finds, finds_nothing, input::Objects, lint, only_notes};

fn shop() -> Objects {
    Objects::of(&["shop", "kube-system"]).pod("shop/web", "app: web").pod("shop/db", "app: db")
}

fn with_dns() -> Objects {
    shop().pod("kube-system/coredns", "k8s-app: kube-dns")
}

const TO_DB: &str = "{to: [{podSelector: {matchLabels: {app: db}}}]}";
const TO_DNS: &str = "{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: \
                      kube-dns}}}], ports: [{port: 53, protocol: UDP}]}";

fn egress(rules: &str) -> String {
    format!("podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{rules}]")
}

#[test]
fn pods_that_cannot_ask_for_names() {
    let check = Check::DnsDenied;
    let head = "warning NetworkPolicy shop/p spec.egress";
    let cut = with_dns().policy("shop/p", &egress(TO_DB));
    finds(check, cut.yaml(), head, "1 pod of namespace shop may open", "k8s-app: kube-dns");
    finds_nothing(
        check,
        with_dns().policy("shop/p", &egress(&format!("{TO_DB}, {TO_DNS}"))).yaml(),
    );
    // Whoever may send nothing needs no names, and who is not isolated has them.
    finds_nothing(check, with_dns().policy("shop/p", &egress("")).yaml());
    finds_nothing(check, with_dns().yaml());
    // The internet without the cluster has a resolver, but not the cluster's.
    let outside = "{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}";
    finds(check, with_dns().policy("shop/p", &egress(outside)).yaml(), head, "not ask", "");
    // A cache on the node is one, too.
    let cache = "{to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{port: 53, protocol: UDP}]}";
    finds_nothing(check, with_dns().policy("shop/p", &egress(&format!("{TO_DB}, {cache}"))).yaml());
    // Without a DNS in the input, UDP 53 to anybody is enough.
    let http = TO_DB.replace("]}", "], ports: [{port: 80}]}");
    finds(check, shop().policy("shop/p", &egress(&http)).yaml(), head, "any address", "");
    finds_nothing(check, shop().policy("shop/p", &egress(TO_DB)).yaml());
}

#[test]
fn a_dns_behind_another_port() {
    let service = "spec: {clusterIP: 10.96.0.10, selector: {k8s-app: kube-dns}, ports: [{name: dns, \
                   port: 53, targetPort: 5353, protocol: UDP}]}";
    let metadata = "name: kube-dns, namespace: kube-system";
    let to = format!("{TO_DB}, {}", TO_DNS.replace("port: 53,", "port: 5353,"));
    let fine = with_dns().add("v1", "Service", metadata, service).policy("shop/p", &egress(&to));
    finds_nothing(Check::DnsDenied, fine.yaml());
}

#[test]
fn the_metadata_service_within_reach() {
    let check = Check::MetadataReachable;
    let with = |peer: &str| {
        let rule = format!("{{to: [{{ipBlock: {{{peer}}}}}]}}");
        let web = shop().policy("shop/p", &egress(&rule));
        web.policy("shop/q", "podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]")
    };
    let head = "warning NetworkPolicy shop/p spec.egress[0].to[0].ipBlock";
    let wide = with("cidr: 0.0.0.0/0");
    finds(check, wide.yaml(), head, "lets 1 pod reach 169.254.169.254", "169.254.169.254/32]");
    let wide = with("cidr: \"::/0\"");
    finds(check, wide.yaml(), head, "reach fd00:ec2::254", "except: [fd00:ec2::254/128]");
    finds_nothing(check, with("cidr: 0.0.0.0/0, except: [169.254.169.254/32]").yaml());
    finds_nothing(check, with("cidr: 169.254.169.254/32").yaml());
    let tier = "tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: \
                [{networks: [169.254.169.254/32, \"fd00:ec2::254/128\"]}]}]";
    finds_nothing(check, with("cidr: 0.0.0.0/0").tier("guard", tier).yaml());
    // Of pods that nothing isolates there is one note, with their number.
    let note = "note the input";
    finds(check, shop().yaml(), note, "2 pods may reach", "ClusterNetworkPolicy");
    finds_nothing(check, shop().tier("guard", tier).yaml());
}

#[test]
fn a_rule_that_lets_the_world_in() {
    let check = Check::OpenToWorld;
    let with = |rule: &str| {
        let spec = format!("podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{{rule}}}]");
        shop().policy("shop/p", &spec)
    };
    let head = "warning NetworkPolicy shop/p spec.ingress[0]";
    finds(check, with("").yaml(), head, "every address outside in, on every port of 1 pod", "List");
    let head = "warning NetworkPolicy shop/p spec.ingress[0].from[0]";
    let but_private = "from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]";
    finds(check, with(but_private).yaml(), head, "on every port", "List the peers");
    let all = format!("{but_private}, ports: [{{port: 1, endPort: 65535}}]");
    finds(check, with(&all).yaml(), head, "on every port", "List the peers");
    let one = format!("{but_private}, ports: [{{port: 443}}]");
    let head = "note NetworkPolicy shop/p spec.ingress[0].from[0]";
    finds(check, with(&one).yaml(), head, "on some ports", "Leave it");
    finds_nothing(check, with("from: [{ipBlock: {cidr: 192.0.2.0/24}}]").yaml());
    finds_nothing(check, with("from: [{podSelector: {}}]").yaml());
    // What a tier closes is not open.
    let tier = "tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: \
                [{namespaces: {}}]}]";
    let pods_alone = with("").tier("t", tier);
    assert_eq!(crate::of(check, pods_alone.yaml()).len(), 1);
}

#[test]
fn pods_that_nothing_isolates() {
    let check = Check::NotIsolated;
    let some = shop().policy("shop/p", "podSelector: {matchLabels: {app: web}}");
    let head = "warning Namespace shop";
    finds(
        check,
        some.yaml(),
        head,
        "1 pod of namespace shop for ingress: pod db",
        "podSelector: {}",
    );
    // A namespace that has no policies has forgotten none of its pods.
    only_notes(check, shop().yaml());
    finds(check, shop().yaml(), "note Namespace shop", "pod db, pod web", "");
    finds_nothing(check, shop().policy("shop/p", "podSelector: {}").yaml());
}

fn groups(count: usize, rules: usize) -> Objects {
    let ids: Vec<String> = (0..count).map(|i| format!("sg-{i}")).collect();
    let mut objects = shop();
    for (i, ids) in ids.chunks(5).enumerate() {
        let spec = format!(
            "spec: {{podSelector: {{matchLabels: {{app: web}}}}, securityGroups: {{groupIds: \
             [{}]}}}}",
            ids.join(", ")
        );
        let metadata = format!("name: p{i}, namespace: shop");
        objects =
            objects.add("vpcresources.k8s.aws/v1beta1", "SecurityGroupPolicy", &metadata, &spec);
    }
    let ranges = (0..rules).map(|i| format!("{{CidrIp: 192.0.{}.{}/32}}", i / 256, i % 256));
    let ranges: Vec<String> = ranges.collect();
    let group = |id: &String| {
        format!(
            "{{GroupId: {id}, IpPermissions: [{{IpProtocol: tcp, FromPort: 80, ToPort: 80, \
             IpRanges: [{}]}}]}}",
            ranges.join(", ")
        )
    };
    let all: Vec<String> = ids.iter().map(group).collect();
    objects.raw(&format!("---\nSecurityGroups: [{}]", all.join(", ")))
}

#[test]
fn groups_that_exceed_a_quota() {
    let check = Check::GroupQuota;
    finds_nothing(check, groups(5, 60).yaml());
    let head = "warning SecurityGroup sg-0 IpPermissions";
    finds(check, groups(1, 61).yaml(), head, "61 ingress rules of one family", "Join blocks");
    let head = "warning SecurityGroupPolicy shop/p0 spec.securityGroups";
    finds(check, groups(6, 1).yaml(), head, "shop/web, would have 6 groups", "fewer");
    let product = crate::of(check, groups(5, 201).yaml());
    assert!(product.iter().any(|(_, what, _)| what.contains("at most 1000 as the product")));
    let fits = crate::of(check, groups(5, 200).yaml());
    assert!(!fits.iter().any(|(_, what, _)| what.contains("product")), "{fits:?}");
}

#[test]
fn the_entries_of_prefix_lists_count() {
    let entries: Vec<String> = (0..70).map(|i| format!("{{Cidr: 192.0.2.{i}/32}}")).collect();
    let group = "---\nSecurityGroups: [{GroupId: sg-0, IpPermissions: [{IpProtocol: '-1', \
                 PrefixListIds: [{PrefixListId: pl-0}]}]}]\n";
    let list = format!("{group}---\nPrefixListId: pl-0\nEntries: [{}]", entries.join(", "));
    let head = "warning SecurityGroup sg-0 IpPermissions";
    finds(Check::GroupQuota, shop().raw(&list).yaml(), head, "has 70 ingress rules", "Join");
}

#[test]
fn a_group_that_lets_the_world_in() {
    let with = |protocol: &str, cidr: &str| {
        let group = format!(
            "---\nSecurityGroups: [{{GroupId: sg-0, IpPermissions: [{{{protocol}, IpRanges: \
             [{{CidrIp: {cidr}}}]}}]}}]"
        );
        let spec = "spec: {podSelector: {}, securityGroups: {groupIds: [sg-0]}}";
        let version = "vpcresources.k8s.aws/v1beta1";
        shop().add(version, "SecurityGroupPolicy", "name: p, namespace: shop", spec).raw(&group)
    };
    let check = Check::OpenToWorld;
    let all = with("IpProtocol: '-1'", "0.0.0.0/0");
    let head = "warning SecurityGroup sg-0 IpPermissions";
    finds(check, all.yaml(), head, "on every port of 2 pods", "List");
    let one = "IpProtocol: tcp, FromPort: 443, ToPort: 443";
    only_notes(check, with(one, "0.0.0.0/0").yaml());
    assert_eq!(crate::of(check, with(one, "0.0.0.0/0").yaml()).len(), 1);
    finds_nothing(check, with("IpProtocol: '-1'", "192.0.2.0/24").yaml());
}

#[test]
fn findings_are_in_order_and_each_there_once() {
    let found = lint(with_dns().policy("shop/p", &egress(TO_DB)).yaml());
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
    assert!(found.iter().any(|f| f.severity == Severity::Warning));
}
