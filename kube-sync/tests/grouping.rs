//! Who has which security groups: SecurityGroupPolicies, what pods say, ServiceAccounts; and what
//! stays of all that where a file breaks. What is not understood opens nothing.

use netpolc_kube_sync::{Input, Loaded, Merged, load, merge_last_known};
use netpolc_policy::{
    InterfaceId, ObjectKey, Operator, Pod, Requirement, SecurityGroupId, SecurityGroupPolicy,
    Selector,
};

fn text(name: &str, text: impl Into<Vec<u8>>) -> Loaded {
    load([Input::bytes(name, text)])
}

fn messages(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(ToString::to_string).collect()
}

const RULES: &str = r#"{"SecurityGroupRules": [
    {"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-a", "IsEgress": false, "IpProtocol": "-1", "CidrIpv4": "10.0.0.0/8"},
    {"SecurityGroupRuleId": "sgr-4", "GroupId": "sg-c", "IsEgress": true, "IpProtocol": "-1", "PrefixListId": "pl-1"}]}"#;

fn matching(key: &str, value: &str) -> Selector {
    let operator = Operator::In(vec![value.into()]);
    Selector { requirements: vec![Requirement { key: key.into(), operator }] }
}

/// A SecurityGroupPolicy shop/p with this spec.
fn group_policy(spec: &str) -> (SecurityGroupPolicy, Vec<String>) {
    let loaded = text(
        "f.yaml",
        format!(
            "apiVersion: vpcresources.k8s.aws/v1beta1\nkind: SecurityGroupPolicy\nmetadata: \
             {{name: p, namespace: shop}}\nspec: {spec}\n"
        ),
    );
    let policy = loaded.cluster.security.policies.values().next();
    (policy.unwrap_or_else(|| panic!("{:?}", loaded.problems)).clone(), messages(&loaded))
}

#[test]
fn s75_security_group_policies() {
    let (policy, messages) = group_policy(
        "{podSelector: {matchLabels: {app: db}}, serviceAccountSelector: {}, securityGroups: \
         {groupIds: [sg-a, sg-b, sg-a]}}",
    );
    assert_eq!(messages, [] as [&str; 0]);
    assert_eq!(policy.pods, Some(matching("app", "db")));
    assert_eq!(policy.accounts, Some(Selector::default()));
    assert_eq!(policy.groups, ["sg-a".into(), "sg-b".into()]);
}

/// The pods that it may be about have a group then, but none that permits anything.
#[test]
fn s75_a_broken_policy_gives_a_group_that_permits_nothing() {
    let groups = "securityGroups: {groupIds: [sg-a]}";
    for (spec, message) in [
        (format!("{{{groups}}}"), "podSelector and serviceAccountSelector are both absent"),
        (format!("{{podSelecter: {{}}, {groups}}}"), "did you mean `podSelector`?"),
        (format!("{{podSelector: {{matchLabels: {{a: 1}}}}, {groups}}}"), "must be a string"),
        (format!("{{podSelector: {{matchNames: [a]}}, {groups}}}"), "matchNames: unknown field"),
        (format!("{{podSelector: {{}}, {groups}, x: 1}}"), "spec.x: unknown field"),
        ("{podSelector: {}}".into(), "securityGroups: the field is required"),
        ("{podSelector: {}, securityGroups: {}}".into(), "no group is named"),
        ("{podSelector: {}, securityGroups: {groupIds: []}}".into(), "no group is named"),
        ("{podSelector: {}, securityGroups: {groupIds: sg-a}}".into(), "must be a list"),
        ("{podSelector: {}, securityGroups: {groupIds: [5]}}".into(), "must be a string"),
        ("{podSelector: {}, securityGroups: {groupIds: ['']}}".into(), "is not the id of a group"),
        ("{podSelector: {}, securityGroups: {ids: [sg-a]}}".into(), "ids: unknown field"),
    ] {
        let (policy, messages) = group_policy(&spec);
        assert!(messages.iter().any(|m| m.contains(message)), "{spec}: {messages:?}");
        assert_eq!(policy.groups, ["unreadable".into()], "{spec}");
        assert_eq!(policy.pods, Some(Selector::default()), "{spec}");
    }
    let six = "{podSelector: {}, securityGroups: {groupIds: [sg-1, sg-2, sg-3, sg-4, sg-5, sg-6]}}";
    let (policy, messages) = group_policy(six);
    assert!(messages[0].contains("at most 5 may be"), "{messages:?}");
    assert_eq!(policy.groups.len(), 5, "fewer groups permit less");
    let (policy, _) = group_policy("{podSelector: {}, securityGroups: {groupIds: [sg-1, 5]}}");
    assert_eq!(policy.groups, ["sg-1".into()]);
}

#[test]
fn s75_two_policies_of_one_name_and_one_of_a_wrong_version() {
    let object = |version: &str, group: &str| {
        format!(
            "apiVersion: {version}\nkind: SecurityGroupPolicy\nmetadata: {{name: p, namespace: \
             shop}}\nspec: {{podSelector: {{}}, securityGroups: {{groupIds: [{group}]}}}}\n"
        )
    };
    let version = "vpcresources.k8s.aws/v1beta1";
    let loaded = text("f", format!("{}---\n{}", object(version, "sg-a"), object(version, "sg-b")));
    let policies = &loaded.cluster.security.policies;
    assert_eq!(policies[&ObjectKey::new("shop", "p")].groups, ["sg-a".into()]);
    assert_eq!(policies[&ObjectKey::new("shop", "p.given-2")].groups, ["unreadable".into()]);
    for version in ["vpcresources.k8s.aws/v1", "vpcresources.k8s.aw/v1beta1", "v1"] {
        let loaded = text("f", object(version, "sg-a"));
        assert!(loaded.has_errors(), "{version}");
        let policy = loaded.cluster.security.policies.values().next().unwrap();
        assert_eq!(policy.groups, ["unreadable".into()], "{version}");
    }
}

/// A pod with these annotations and this spec, read in both ways.
fn pod(annotations: &str, spec: &str) -> (Pod, Vec<String>) {
    let json = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "a", "namespace": "shop", "annotations": {annotations}}},
        "spec": {spec}}}"#
    );
    let fast = text("f", json.as_str());
    let thorough = text("f", format!("# YAML\n{json}"));
    assert_eq!(fast.cluster, thorough.cluster, "{json}");
    let of = |loaded: &Loaded| {
        let part = |p: &netpolc_kube_sync::Problem| (p.field.clone(), p.message.clone());
        loaded.problems.iter().map(part).collect::<Vec<_>>()
    };
    assert_eq!(of(&fast), of(&thorough), "{json}");
    (fast.cluster.pods.values().next().unwrap().clone(), messages(&fast))
}

#[test]
fn s75_what_a_pod_says_of_its_groups() {
    let (read, messages) = pod(
        r#"{"vpc.amazonaws.com/pod-eni": "[{\"eniId\":\"eni-1\",\"ifAddress\":\"02:00\",\"vlanId\":1}]",
            "fargate.amazonaws.com/pod-sg": "sg-a,sg-b", "other": "x"}"#,
        r#"{"serviceAccountName": "robot"}"#,
    );
    assert_eq!(messages, [] as [&str; 0]);
    assert_eq!(&*read.grouping.account, "robot");
    assert_eq!(read.grouping.interfaces, ["eni-1".into()]);
    assert_eq!(read.grouping.fargate, ["sg-a".into(), "sg-b".into()]);
    for (spec, account) in [
        ("{}", "default"),
        (r#"{"serviceAccountName": ""}"#, "default"),
        (r#"{"serviceAccountName": null, "serviceAccount": "old"}"#, "old"),
        (r#"{"serviceAccountName": "new", "serviceAccount": "old"}"#, "new"),
    ] {
        let (read, messages) = pod("null", spec);
        assert_eq!((&*read.grouping.account, messages.len()), (account, 0), "{spec}");
        assert!(read.grouping.interfaces.is_empty() && read.grouping.fargate.is_empty());
    }
}

/// S79: a pod whose groups cannot be told has one that exists nowhere.
#[test]
fn s79_an_annotation_that_cannot_be_read_closes_the_pod() {
    for (annotation, closes) in [
        (r#""vpc.amazonaws.com/pod-eni": """#, true),
        (r#""vpc.amazonaws.com/pod-eni": "eni-1""#, true),
        (r#""vpc.amazonaws.com/pod-eni": "[{\"eniid\":\"eni-1\"}]""#, true),
        (r#""vpc.amazonaws.com/pod-eni": "[{\"eniId\":\"\"}]""#, true),
        (r#""vpc.amazonaws.com/pod-eni": "{}""#, true),
        (r#""vpc.amazonaws.com/pod-eni": ["eni-1"]"#, true),
        (r#""vpc.amazonaws.com/pod-eni": "[]", "vpc.amazonaws.com/pod-eni": "x""#, true),
        (r#""fargate.amazonaws.com/pod-sg": """#, false),
        (r#""fargate.amazonaws.com/pod-sg": "sg-a,,sg-b""#, false),
        (r#""fargate.amazonaws.com/pod-sg": "[\"sg-a\"]""#, false),
        (r#""fargate.amazonaws.com/pod-sg": 5"#, false),
    ] {
        let (read, messages) = pod(&format!("{{{annotation}}}"), "{}");
        assert!(messages[0].contains("metadata.annotations"), "{annotation}: {messages:?}");
        let grouping = read.grouping;
        if closes {
            assert_eq!(grouping.interfaces, [InterfaceId::from("unreadable")], "{annotation}");
        } else {
            assert_eq!(grouping.fargate, [SecurityGroupId::from("unreadable")], "{annotation}");
        }
    }
}

#[test]
fn s71_s75_labels_of_nodes_and_accounts_are_read_in_both_ways() {
    for json in [
        r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"zone": "a"}}}"#,
        r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "n1", "namespace": "shop", "labels": {"zone": "a"}}}"#,
        r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "n1", "namespace": "shop", "labels": {"zone": "a"}},
            "secrets": [], "imagePullSecrets": [], "automountServiceAccountToken": false}"#,
    ] {
        let (fast, thorough) = (text("f", json), text("f", format!("# YAML\n{json}")));
        assert_eq!((&*fast.problems, &fast.cluster), (&[][..], &thorough.cluster), "{json}");
        let of_nodes = fast.cluster.nodes.values().map(|node| &node.labels);
        let mut labels = of_nodes.chain(fast.cluster.security.accounts.values());
        assert_eq!(labels.next().unwrap().get("zone"), Some("a"), "{json}");
    }
}

/// What `second` gives where `first` was known before.
fn after(first: Vec<Input>, second: Vec<Input>) -> Merged {
    let before = merge_last_known(load(first), &Default::default(), &Default::default());
    merge_last_known(load(second), &before.cluster, &before.places)
}

#[test]
fn s61_what_a_broken_file_held_stays_and_what_a_sound_one_lost_goes() {
    let rules = |ids: &[&str]| {
        let rule = |id: &&str| {
            format!(
                r#"{{"SecurityGroupRuleId": "{id}", "GroupId": "sg-a", "IsEgress": false, "IpProtocol": "-1",
                "CidrIpv4": "10.0.0.0/8"}}"#
            )
        };
        let list: Vec<String> = ids.iter().map(rule).collect();
        format!(r#"{{"SecurityGroupRules": [{}]}}"#, list.join(","))
    };
    let group = r#"{"SecurityGroups": [{"GroupId": "sg-a", "GroupName": "a"}]}"#;
    let ids = |merged: &Merged| -> Vec<String> {
        let groups = merged.cluster.security.groups.values();
        groups.flat_map(|g| &g.ingress).map(|r| r.id.as_deref().unwrap_or("none").into()).collect()
    };
    let file = |name: &str, text: &str| Input::bytes(name, text);
    let before = || vec![file("1", &rules(&["sgr-1", "sgr-2"])), file("2", &rules(&["sgr-3"]))];
    let broken = r#"{"SecurityGroupRules": [{"#;
    let merged = after(before(), vec![file("1", &rules(&["sgr-1"])), file("2", broken)]);
    assert_eq!(ids(&merged), ["sgr-1", "sgr-3"], "sgr-2 is gone from a sound file");
    assert_eq!(merged.retained.len(), 1);
    assert!(merged.retained[0].to_string().starts_with("SecurityGroupRule sg-a/sgr-3 stays"));
    let merged = after(before(), vec![file("1", broken), file("2", broken)]);
    assert_eq!(ids(&merged), ["sgr-1", "sgr-2", "sgr-3"]);
    // A sound description is newer than what is left of the rules.
    let described = r#"{"SecurityGroups": [{"GroupId": "sg-a", "IpPermissions": []}]}"#;
    let merged = after(before(), vec![file("1", broken), file("2", broken), file("3", described)]);
    assert_eq!(ids(&merged), [] as [&str; 0]);
    // The description's file broke, and a rule's is sound: what went from that does not come back.
    let first = vec![file("g", group), file("1", &rules(&["sgr-1", "sgr-2"]))];
    let merged = after(first, vec![file("g", "{"), file("1", &rules(&["sgr-2"]))]);
    assert_eq!(ids(&merged), ["sgr-2"]);
    assert_eq!(merged.cluster.security.groups[&"sg-a".into()].name.as_deref(), Some("a"));
    let first = vec![file("g", group), file("1", &rules(&["sgr-1"]))];
    let merged = after(first, vec![file("g", "{"), file("1", &rules(&[]))]);
    assert_eq!(ids(&merged), [] as [&str; 0]);
    assert_eq!(merged.cluster.security.groups.len(), 1, "the group itself stays");
}

#[test]
fn s61_every_kind_stays_where_its_file_breaks() {
    let all = format!(
        r#"{RULES}
{{"SecurityGroups": [{{"GroupId": "sg-z", "IpPermissions": [{{"IpProtocol": "-1"}}]}}]}}
{{"NetworkInterfaces": [{{"NetworkInterfaceId": "eni-1", "Groups": [{{"GroupId": "sg-a"}}]}}]}}
{{"PrefixListId": "pl-1", "Entries": [{{"Cidr": "10.0.0.0/8"}}]}}
{{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {{"name": "a", "namespace": "shop", "labels": {{"a": "b"}}}}}}
{{"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy", "metadata": {{"name": "p", "namespace": "shop"}},
  "spec": {{"podSelector": {{}}, "securityGroups": {{"groupIds": ["sg-a"]}}}}}}
{{"apiVersion": "projectcalico.org/v3", "kind": "StagedKubernetesNetworkPolicy", "metadata": {{"name": "p", "namespace": "shop"}},
  "spec": {{"podSelector": {{}}}}}}
{{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {{"name": "p"}},
  "spec": {{"tier": "Admin", "priority": 1, "subject": {{"namespaces": {{}}}}}}}}
{{"apiVersion": "networking.k8s.aws/v1alpha1", "kind": "ClusterNetworkPolicy", "metadata": {{"name": "p"}},
  "spec": {{"tier": "Admin", "priority": 1, "subject": {{"namespaces": {{}}}}}}}}
"#
    );
    let before = text("f", all.as_str());
    assert_eq!(before.problems, []);
    let merged = after(vec![Input::bytes("f", all)], vec![Input::bytes("f", "{")]);
    assert_eq!(merged.cluster, before.cluster);
    let sound = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": []}";
    let merged = after(vec![Input::bytes("f", RULES)], vec![Input::bytes("f", sound)]);
    assert_eq!(merged.cluster, Default::default(), "an empty list is sound");
}

/// A ClusterNetworkPolicy that is broken by an edit stays as it was: what it would deny then may be
/// everything.
#[test]
fn s61_a_policy_of_a_tier_that_breaks_stays_as_it_was() {
    let policy = |action: &str| {
        let text = format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: \
             {{name: p}}\nspec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, \
             ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]}}\n"
        );
        vec![Input::bytes("f", text)]
    };
    let before = load(policy("Pass")).cluster;
    let merged = after(policy("Pass"), policy("pass"));
    assert_eq!((&merged.cluster, merged.retained.len()), (&before, 1));
}
