//! Where the fields of policies stand: file, line and text, for every kind of policy and groups.

use netpolc_kube_sync::{Absent, Input, Line, ObjectId, ObjectKind, Survey, survey};
use netpolc_policy::{ObjectKey, TierApi};

fn read(text: &str) -> Survey {
    survey([Input::bytes("policies/api.yaml", text)], Absent::Absent)
}

fn id(kind: ObjectKind, namespace: &str, name: &str) -> ObjectId {
    ObjectId { kind, key: ObjectKey::new(namespace, name) }
}

fn shown(line: Option<Line>) -> String {
    line.map_or("nowhere".into(), |line| format!("{line}: {}", line.text))
}

const POLICY: &str = "\
# The web shop's API.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: api
  namespace: shop
spec:
  podSelector:
    matchLabels: {app: api}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: web}}
    - namespaceSelector:
        matchLabels: {team: ops}
      podSelector: {}
    ports:
    - port: 8080
    - {port: 9090,
       protocol: UDP}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none, namespace: shop}
spec: {podSelector: {}}
";

#[test]
fn every_part_of_a_policy_has_its_line_and_text() {
    let found = read(POLICY);
    let api = id(ObjectKind::Policy, "shop", "api");
    for (path, expected) in [
        ("", "2: apiVersion: networking.k8s.io/v1"),
        ("spec.podSelector", "8: podSelector:"),
        ("spec.podSelector.matchLabels.app", "9: matchLabels: {app: api}"),
        ("spec.ingress[0]", "11: - from:"),
        ("spec.ingress[0].from[0]", "12: - podSelector: {matchLabels: {app: web}}"),
        ("spec.ingress[0].from[1].namespaceSelector", "13: - namespaceSelector:"),
        ("spec.ingress[0].from[1].podSelector", "15: podSelector: {}"),
        ("spec.ingress[0].ports[0].port", "17: - port: 8080"),
        ("spec.ingress[0].ports[1]", "18: - {port: 9090,"),
        ("spec.ingress[0].ports[1].protocol", "19: protocol: UDP}"),
        // What is not written has the line of what it belongs to.
        ("spec.ingress[0].ports[0].protocol", "17: - port: 8080"),
        ("spec.policyTypes", "7: spec:"),
        ("spec.egress[0].to[1]", "7: spec:"),
        ("status.conditions", "2: apiVersion: networking.k8s.io/v1"),
    ] {
        let line = found.lines.field(&api, path);
        assert_eq!(shown(line), format!("policies/api.yaml:{expected}"), "{path}");
    }
    let none = id(ObjectKind::Policy, "shop", "none");
    let line = found.lines.object(&none);
    assert_eq!(shown(line), "policies/api.yaml:25: apiVersion: networking.k8s.io/v1");
    assert_eq!(line.map(|line| line.number), Some(Some(found.loaded.places[&none].line)));
    assert_eq!(found.lines.object(&id(ObjectKind::Policy, "shop", "x")), None);
}

#[test]
fn lines_are_there_for_every_kind_of_policy_and_for_groups() {
    let text = "\
kind: List
apiVersion: v1
items:
- apiVersion: policy.networking.k8s.io/v1alpha2
  kind: ClusterNetworkPolicy
  metadata: {name: all}
  spec:
    tier: Admin
    priority: 1
    subject: {namespaces: {}}
    egress:
    - action: Deny
      to:
      - networks: [10.0.0.0/8]
- apiVersion: vpcresources.k8s.aws/v1beta1
  kind: SecurityGroupPolicy
  metadata: {name: db, namespace: shop}
  spec:
    podSelector: {}
    securityGroups:
      groupIds: [sg-1]
- apiVersion: projectcalico.org/v3
  kind: StagedKubernetesNetworkPolicy
  metadata: {name: api, namespace: shop}
  spec:
    podSelector: {}
---
SecurityGroups:
- GroupId: sg-1
  IpPermissions:
  - IpProtocol: tcp
    FromPort: 80
    ToPort: 80
    IpRanges:
    - CidrIp: 10.0.0.0/8
";
    let found = read(text);
    assert_eq!(found.loaded.problems, []);
    for (id, path, line) in [
        (
            id(ObjectKind::Tier(TierApi::Upstream), "", "all"),
            "spec.egress[0].to[0].networks[0]",
            14,
        ),
        (id(ObjectKind::Tier(TierApi::Upstream), "", "all"), "spec.egress[0].action", 12),
        (id(ObjectKind::GroupPolicy, "shop", "db"), "spec.securityGroups.groupIds[0]", 21),
        (id(ObjectKind::Staged, "shop", "api"), "spec.podSelector", 26),
        (id(ObjectKind::Group, "", "sg-1"), "IpPermissions[0].IpRanges[0].CidrIp", 35),
    ] {
        let found = found.lines.field(&id, path);
        assert_eq!(found.map(|line| line.number), Some(Some(line)), "{id} {path}");
    }
}

#[test]
fn a_list_on_one_line_of_json_shows_the_field_and_not_the_list() {
    let policy = |name: &str| {
        format!(
            r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":
            "{name}","namespace":"shop"}},"spec":{{"podSelector":{{}},"ingress":[{{"from":[
            {{"podSelector":{{"matchLabels":{{"app":"é"}}}}}}]}}]}}}}"#
        )
    };
    let items: Vec<String> = (0..50).map(|i| policy(&format!("p{i}"))).collect();
    let text = format!(r#"{{"kind":"List","apiVersion":"v1","items":[{}]}}"#, items.join(","));
    let found = read(&text.replace('\n', ""));
    let id = id(ObjectKind::Policy, "shop", "p40");
    let line = found.lines.field(&id, "spec.ingress[0].from[0].podSelector").unwrap();
    assert_eq!(line.number, Some(1));
    assert!(line.text.starts_with(r#""podSelector":{"matchLabels""#), "{}", line.text);
    assert!(line.text.len() < 220, "{}", line.text);
}

#[test]
fn what_an_alias_stands_for_has_the_line_of_the_alias() {
    let text = "\
kind: List
apiVersion: v1
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: a, namespace: shop}
  spec:
    podSelector: {}
    ingress:
    - from: &web
      - podSelector: {matchLabels: {app: web}}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: b, namespace: shop}
  spec:
    podSelector: {}
    ingress:
    - from: *web
";
    let found = read(text);
    let field = |name: &str| {
        let id = id(ObjectKind::Policy, "shop", name);
        found.lines.field(&id, "spec.ingress[0].from[0].podSelector").unwrap().number
    };
    assert_eq!((field("a"), field("b")), (Some(11), Some(18)));
}

#[test]
fn of_two_policies_of_one_name_the_lines_are_those_of_the_one_that_counts() {
    let policy = |port: u16| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, \
             namespace: shop}}\nspec:\n  podSelector: {{}}\n  ingress: [{{ports: [{{port: \
             {port}}}]}}]\n"
        )
    };
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: shop}\n";
    let found = read(&[policy(1), policy(2), policy(1), pod.into()].concat());
    let line = |id: ObjectId| found.lines.field(&id, "spec.ingress").and_then(|l| l.number);
    assert_eq!(line(id(ObjectKind::Policy, "shop", "a")), Some(7));
    assert_eq!(line(id(ObjectKind::Policy, "shop", "a.given-2")), Some(14));
    assert_eq!(line(id(ObjectKind::Pod, "shop", "x")), None);
}
