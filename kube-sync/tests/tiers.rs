//! ClusterNetworkPolicies of both groups: what is read, what is an error, where, and what is left
//! of the policy then. Not here: policies that are only tried (`modes.rs`).

use netpolc_kube_sync::{Input, Loaded, Severity, load};
use netpolc_policy::{
    Action, Mode, Operator, Port, Ports, Protocol, Requirement, Selector, Tier, TierApi, TierKey,
    TierPeer, TierPolicy, TierRule,
};

const UPSTREAM: &str = "policy.networking.k8s.io/v1alpha2";
const AWS: &str = "networking.k8s.aws/v1alpha1";

fn text(text: impl Into<Vec<u8>>) -> Loaded {
    load([Input::bytes("f.yaml", text)])
}

/// A policy p of this version with these lines as its spec.
fn with_spec(version: &str, spec: &str) -> Loaded {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    text(format!(
        "apiVersion: {version}\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\nspec:\n{indented}"
    ))
}

const HEAD: &str = "tier: Admin\npriority: 7\nsubject: {namespaces: {}}\n";

fn only(loaded: &Loaded) -> &TierPolicy {
    assert_eq!(loaded.cluster.tiers.len(), 1, "{:?}", loaded.problems);
    loaded.cluster.tiers.values().next().unwrap()
}

fn sound(version: &str, spec: &str) -> TierPolicy {
    let loaded = with_spec(version, spec);
    assert_eq!(loaded.problems, [], "{spec}");
    only(&loaded).clone()
}

/// The policy and its errors without file, line and object.
fn broken(version: &str, spec: &str) -> (TierPolicy, Vec<String>) {
    let loaded = with_spec(version, spec);
    assert_eq!(loaded.incomplete.len(), 0, "{spec}");
    let message = |p: &netpolc_kube_sync::Problem| {
        assert_eq!(p.severity, Severity::Error, "{p}");
        let text = p.to_string();
        let (place, rest) =
            text.split_once("ClusterNetworkPolicy p: ").unwrap_or_else(|| panic!("{text}"));
        assert!(place.starts_with("f.yaml:"), "{text}");
        rest.to_owned()
    };
    let messages: Vec<String> = loaded.problems.iter().map(message).collect();
    assert!(!messages.is_empty(), "no error for {spec}");
    (only(&loaded).clone(), messages)
}

fn equals(key: &str, value: &str) -> Selector {
    let operator = Operator::In(vec![value.into()]);
    Selector { requirements: vec![Requirement { key: key.into(), operator }] }
}

fn every_pod() -> TierPeer {
    TierPeer::Pods { namespaces: Selector::default(), pods: Selector::default() }
}

fn deny_all() -> TierRule {
    TierRule { name: None, action: Action::Deny, peers: vec![TierPeer::Anybody], ports: Ports::Any }
}

fn port(protocol: Protocol, first: u16, last: u16) -> Port {
    Port::Range { protocol, first, last }
}

/// Whether the rule permits something: directly, or by passing it on.
fn permits(rule: &TierRule) -> bool {
    let nothing = rule.peers.iter().all(|peer| *peer == TierPeer::Nobody)
        || matches!(&rule.ports, Ports::Listed(list) if list.iter().all(|p| *p == Port::Nothing));
    rule.action != Action::Deny && !nothing
}

fn permits_nothing(policy: &TierPolicy) -> bool {
    !policy.ingress.iter().chain(&policy.egress).any(permits)
}

#[test]
fn s63_s67_s71_a_policy_with_everything() {
    let policy = sound(
        UPSTREAM,
        "tier: Baseline
priority: 1000
subject:
  pods:
    namespaceSelector: {matchLabels: {env: prod}}
    podSelector: {matchLabels: {app: db}}
ingress:
- name: web
  action: Accept
  from:
  - namespaces: {matchLabels: {env: test}}
  - pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}
  protocols:
  - tcp: {destinationPort: {number: 80}}
  - udp: {destinationPort: {range: {start: 53, end: 54}}}
  - destinationNamedPort: metrics
- action: Pass
  from: [{namespaces: {}}]
egress:
- action: Deny
  to:
  - networks: [10.0.0.0/8, 2001:db8::/32]
  - nodes: {matchLabels: {zone: a}}
  protocols: [{sctp: {destinationPort: {number: 65535}}}]
",
    );
    assert_eq!(policy.key, TierKey { api: TierApi::Upstream, name: "p".into() });
    assert_eq!((policy.tier, policy.priority.get()), (Tier::Baseline, 1000));
    assert_eq!(policy.mode, Mode::Enforced);
    assert_eq!(policy.subject.namespaces, equals("env", "prod"));
    assert_eq!(policy.subject.pods, equals("app", "db"));
    let accept = TierRule {
        name: Some("web".into()),
        action: Action::Accept,
        peers: vec![
            TierPeer::Pods { namespaces: equals("env", "test"), pods: Selector::default() },
            TierPeer::Pods { namespaces: Selector::default(), pods: equals("app", "web") },
        ],
        ports: Ports::Listed(vec![
            port(Protocol::Tcp, 80, 80),
            port(Protocol::Udp, 53, 54),
            Port::Name("metrics".into()),
        ]),
    };
    let pass =
        TierRule { name: None, action: Action::Pass, peers: vec![every_pod()], ports: Ports::Any };
    assert_eq!(policy.ingress, [accept, pass]);
    let networks = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let deny = TierRule {
        name: None,
        action: Action::Deny,
        peers: vec![TierPeer::Networks(networks), TierPeer::Nodes(equals("zone", "a"))],
        ports: Ports::Listed(vec![port(Protocol::Sctp, 65535, 65535)]),
    };
    assert_eq!(policy.egress, [deny]);
}

#[test]
fn s69_absent_protocols_are_all_traffic() {
    let spec = format!("{HEAD}ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]");
    assert_eq!(sound(UPSTREAM, &spec).ingress[0].ports, Ports::Any);
    assert_eq!(sound(AWS, &spec).ingress[0].ports, Ports::Any);
}

#[test]
fn s70_the_form_of_aws() {
    let policy = sound(
        AWS,
        &format!(
            "{HEAD}egress:
- action: Accept
  to: [{{networks: [10.0.0.0/8]}}]
  ports:
  - portNumber: {{protocol: UDP, port: 53}}
  - portNumber: {{port: 80}}
  - portRange: {{protocol: SCTP, start: 1, end: 9}}
  - namedPort: http
"
        ),
    );
    assert_eq!(policy.key.api, TierApi::Aws);
    let ports = vec![
        port(Protocol::Udp, 53, 53),
        port(Protocol::Tcp, 80, 80),
        port(Protocol::Sctp, 1, 9),
        Port::Name("http".into()),
    ];
    assert_eq!(policy.egress[0].ports, Ports::Listed(ports));
    for (ports, message) in [
        ("ports: [{portNumber: {port: 0}}]", "[0].portNumber.port: 0 is not an integer"),
        ("ports: [{portNumber: {protocol: TCP}}]", "portNumber.port: the field is required"),
        ("ports: [{portRange: {start: 9, end: 9}}]", "start 9 is not less than end 9"),
        ("ports: [{namedPort: 80}]", "namedPort: must be a string"),
        ("ports: [{namedPort: a, portNumber: {port: 1}}]", "exactly one of portNumber"),
        ("ports: [{tcp: {destinationPort: {number: 1}}}]", "ports[0].tcp: unknown field"),
        ("ports: []", "ports: the list is empty"),
        ("protocols: [{tcp: {}}]", "protocols: unknown field; did you mean `ports`"),
    ] {
        for action in ["Accept", "Deny", "Pass"] {
            let rule = format!("{{action: {action}, from: [{{namespaces: {{}}}}], {ports}}}");
            let (policy, messages) = broken(AWS, &format!("{HEAD}ingress: [{rule}]"));
            assert!(messages.iter().any(|m| m.contains(message)), "{ports}: {messages:?}");
            assert!(permits_nothing(&policy), "{ports} {action}: {policy:?}");
            if action != "Accept" {
                assert_eq!(policy.ingress, [deny_all()], "{ports} {action}");
            }
        }
    }
}

/// Two objects of one kind and name are two objects where their groups differ.
#[test]
fn s70_both_groups_stand_beside_one_another() {
    let object = |version: &str| {
        format!(
            "apiVersion: {version}\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\n\
             spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}}}\n"
        )
    };
    let loaded = text(format!("{}---\n{}", object(UPSTREAM), object(AWS)));
    assert_eq!(loaded.problems, []);
    let names: Vec<String> = loaded.cluster.tiers.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["p", "p.networking.k8s.aws"]);
}

/// The parts of an egress rule that are broken, with what is said about them.
const RULES: &[(&str, &str)] = &[
    ("", "egress[0].to: the field is required but missing"),
    ("to: []", "egress[0].to: the list is empty"),
    ("to: {namespaces: {}}", "egress[0].to: must be a list"),
    ("to: [{}]", "egress[0].to[0]: the peer is empty; write `namespaces: {}`"),
    ("to: [{namespaces: {}, nodes: {}}]", "namespaces and nodes cannot be combined"),
    ("to: [{namespace: {}}]", "to[0].namespace: unknown field; did you mean `namespaces`?"),
    ("to: [{namespaces: {matchLabels: {a: [b]}}}]", "to[0].namespaces.matchLabels.a: must be"),
    (
        "to: [{pods: {namespaceSelector: {}}}]",
        "to[0].pods.podSelector: the field is required but missing",
    ),
    ("to: [{networks: [10.0.0.0]}]", "is not a valid CIDR; write 10.0.0.0/32"),
    ("to: [{networks: []}]", "to[0].networks: the list is empty"),
    ("to: [{domainNames: [example.com]}]", "names are not supported yet"),
    ("from: [{namespaces: {}}]", "egress[0].from: unknown field; did you mean `to`?"),
    ("to: [{namespaces: {}}], protocols: []", "protocols: the list is empty"),
    ("to: [{namespaces: {}}], protocols: [{}]", "protocols[0]: exactly one of tcp, udp"),
    ("to: [{namespaces: {}}], protocols: [{tcp: {}}]", "exactly one of destinationPort must be"),
    ("to: [{namespaces: {}}], protocols: [{icmp: {}}]", "protocols[0].icmp: unknown field"),
    (
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 70000}}}]",
        "tcp.destinationPort.number: 70000 is not an integer from 1 to 65535",
    ),
    (
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: 8}}}}]",
        "start 9 is not less than end 8",
    ),
    (
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9}}}}]",
        "range.end: the field is required but missing",
    ),
    ("to: [{namespaces: {}}], protocols: [{destinationNamedPort: '80'}]", "not a valid port name"),
    (
        "to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: a}]",
        "destinationNamedPort cannot be combined with networks or nodes",
    ),
    (
        "to: [{nodes: {}}], protocols: [{destinationNamedPort: a}]",
        "destinationNamedPort cannot be combined with networks or nodes",
    ),
    ("to: [{namespaces: {}}], ports: [{port: 80}]", "egress[0].ports: unknown field"),
];

#[test]
fn s72_s74_a_broken_rule_accepts_nothing_and_else_denies_everything() {
    for (parts, message) in RULES {
        for action in ["Accept", "Deny", "Pass"] {
            let spec = format!("{HEAD}egress: [{{action: {action}, {parts}}}]");
            let (policy, messages) = broken(UPSTREAM, &spec);
            assert!(messages.iter().any(|m| m.contains(message)), "{parts}: {messages:?}");
            let [rule] = &policy.egress[..] else { panic!("{parts}: {policy:?}") };
            if action == "Accept" {
                assert!(rule.action == Action::Accept && !permits(rule), "{parts}: {rule:?}");
            } else {
                assert_eq!(*rule, deny_all(), "{parts} {action}");
            }
            assert_eq!((policy.tier, policy.priority.get()), (Tier::Admin, 7));
        }
    }
}

/// Of an Accept what is sound stays: it permits less than was written.
#[test]
fn s72_the_sound_part_of_a_broken_accept_stays() {
    let spec = format!(
        "{HEAD}egress:
- action: Accept
  to: [{{namespaces: {{}}}}, {{domainNames: [a.example]}}, {{networks: [10.0.0.0/8]}}]
  protocols:
  - {{tcp: {{destinationPort: {{number: 0}}}}}}
  - {{udp: {{destinationPort: {{number: 53}}}}}}
- action: Accept
  to: [{{namespaces: {{}}}}]
"
    );
    let (policy, messages) = broken(UPSTREAM, &spec);
    assert_eq!(messages.len(), 2, "{messages:?}");
    let networks = TierPeer::Networks(vec!["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(policy.egress[0].peers, [every_pod(), TierPeer::Nobody, networks]);
    let ports = vec![Port::Nothing, port(Protocol::Udp, 53, 53)];
    assert_eq!(policy.egress[0].ports, Ports::Listed(ports));
    assert_eq!(policy.egress[1].peers, [every_pod()], "the rest is enforced as it is");
}

#[test]
fn s72_an_action_that_is_not_known_denies_everything() {
    for (action, advice) in [
        ("action: Allow,", "write Accept"),
        ("action: accept,", "write Accept, Deny or Pass"),
        ("action: 5,", "must be a string"),
        ("", "egress[0].action: the field is required"),
    ] {
        let spec = format!("{HEAD}egress: [{{{action} to: [{{namespaces: {{}}}}]}}]");
        let (policy, messages) = broken(UPSTREAM, &spec);
        assert!(messages[0].contains(advice), "{messages:?}");
        assert_eq!(policy.egress, [deny_all()], "{action}");
    }
}

/// A name changes nothing, so a broken one does not either.
#[test]
fn s74_a_name_is_at_most_100_characters() {
    let rule = |name: &str| {
        format!("{HEAD}egress: [{{name: {name}, action: Accept, to: [{{namespaces: {{}}}}]}}]")
    };
    assert!(sound(UPSTREAM, &rule(&"x".repeat(100))).egress[0].name.is_some());
    let (policy, messages) = broken(UPSTREAM, &rule(&"x".repeat(101)));
    assert!(messages[0].contains("egress[0].name: the name has 101 characters"), "{messages:?}");
    assert_eq!((policy.egress[0].name.clone(), permits(&policy.egress[0])), (None, true));
}

/// Everything else about the policy holds, but nothing of it permits any more.
#[test]
fn s72_a_policy_whose_pods_or_place_are_not_known_permits_nothing() {
    let rules = "egress:
- {action: Accept, to: [{namespaces: {}}]}
- {action: Pass, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}
- {action: Deny, to: [{networks: [0.0.0.0/0]}]}
";
    let cases = [
        ("tier: Admin\npriority: 1\nsubject: {}", "spec.subject: the subject is empty"),
        ("tier: Admin\npriority: 1", "spec.subject: the field is required but missing"),
        (
            "tier: Admin\npriority: 1\nsubject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}",
            "`namespaces` and `pods` cannot be combined",
        ),
        (
            "tier: Admin\npriority: 1\nsubject: {namespaces: {matchLabels: {a: 5}}}",
            "spec.subject.namespaces.matchLabels.a: must be a string",
        ),
        ("tier: Admin\npriority: 1\nsubject: {pods: {podSelectr: {}}}", "unknown field"),
        (
            "tier: Top\npriority: 1\nsubject: {namespaces: {}}",
            "`Top` is not a tier; write Admin or",
        ),
        ("priority: 1\nsubject: {namespaces: {}}", "spec.tier: the field is required"),
        ("tier: Admin\nsubject: {namespaces: {}}", "spec.priority: the field is required"),
        ("tier: Admin\npriority: 1001\nsubject: {namespaces: {}}", "integer from 0 to 1000"),
        ("tier: Admin\npriority: -1\nsubject: {namespaces: {}}", "integer from 0 to 1000"),
        ("tier: Admin\npriority: '1'\nsubject: {namespaces: {}}", "must be a number"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: {}}\nx: 1", "spec.x: unknown field"),
    ];
    for (head, message) in cases {
        let (policy, messages) = broken(UPSTREAM, &format!("{head}\n{rules}"));
        assert!(messages.iter().any(|m| m.contains(message)), "{head}: {messages:?}");
        let [accept, pass, deny] = &policy.egress[..] else { panic!("{head}: {policy:?}") };
        assert_eq!((accept.action, &*accept.peers), (Action::Accept, &[TierPeer::Nobody][..]));
        assert_eq!(pass.action, Action::Deny, "{head}");
        assert_eq!(pass.peers, [TierPeer::Nodes(Selector::default())], "of the same peers");
        assert_eq!(pass.ports, Ports::Listed(vec![port(Protocol::Tcp, 1, 1)]));
        assert!(matches!(&deny.peers[..], [TierPeer::Networks(_)]), "{head}");
        assert_eq!(policy.subject, Default::default(), "{head}: every pod");
    }
    let (policy, _) = broken(
        UPSTREAM,
        "tier: Admin\npriority: 1\nsubject: {namespaces: {matchLabels: {a: 5, b: c}}}",
    );
    assert_eq!(policy.subject.namespaces, equals("b", "c"), "what is understood narrows it");
}

/// What may have been a direction's rules may have denied anything.
#[test]
fn s72_a_direction_that_cannot_be_read_is_denied() {
    for (spec, message) in [
        ("egres: [{action: Deny, to: [{namespaces: {}}]}]", "did you mean `egress`?"),
        ("egress: {action: Deny}", "spec.egress: must be a list"),
        ("egress: 5", "spec.egress: must be a list"),
        ("egress: [5]", "spec.egress[0]: must be an object"),
    ] {
        let (policy, messages) = broken(UPSTREAM, &format!("{HEAD}ingress: []\n{spec}"));
        assert!(messages[0].contains(message), "{messages:?}");
        assert_eq!((&*policy.ingress, &*policy.egress), (&[][..], &[deny_all()][..]), "{spec}");
    }
}

#[test]
fn s74_limits_are_those_of_the_api() {
    let list = |count: usize, item: &str| vec![item; count].join(", ");
    let rules = |count, action: &str| {
        let rule = format!("{{action: {action}, to: [{{namespaces: {{}}}}]}}");
        format!("{HEAD}egress: [{}]", list(count, &rule))
    };
    for (version, most) in [(UPSTREAM, 25), (AWS, 100)] {
        assert_eq!(sound(version, &rules(most, "Accept")).egress.len(), most);
        for action in ["Accept", "Deny", "Pass"] {
            let (policy, messages) = broken(version, &rules(most + 1, action));
            assert_eq!(messages.len(), 1, "{messages:?}");
            assert!(messages[0].contains(&format!("at most {most} may be")), "{messages:?}");
            assert_eq!(policy.egress.len(), most + 1);
            assert_eq!(permits(&policy.egress[most - 1]), action != "Deny");
            assert!(!permits(&policy.egress[most]), "{action}");
        }
        let peers = |count| {
            let peers = list(count, "{namespaces: {}}");
            format!("{HEAD}egress: [{{action: Accept, to: [{peers}]}}]")
        };
        assert_eq!(sound(version, &peers(most)).egress[0].peers.len(), most);
        let (policy, messages) = broken(version, &peers(most + 1));
        assert!(messages[0].contains(&format!("at most {most} may be")), "{messages:?}");
        assert_eq!(policy.egress[0].peers.len(), most, "the first ones stay");
    }
    let networks = |count| {
        let networks = list(count, "10.0.0.0/8");
        format!("{HEAD}egress: [{{action: Deny, to: [{{networks: [{networks}]}}]}}]")
    };
    sound(UPSTREAM, &networks(25));
    assert_eq!(broken(UPSTREAM, &networks(26)).0.egress, [deny_all()]);
    let protocols = |count| {
        let protocols = list(count, "{tcp: {destinationPort: {number: 1}}}");
        format!("{HEAD}egress: [{{action: Pass, to: [{{nodes: {{}}}}], protocols: [{protocols}]}}]")
    };
    sound(UPSTREAM, &protocols(25));
    assert_eq!(broken(UPSTREAM, &protocols(26)).0.egress, [deny_all()]);
}

/// Fields that only one direction, or only one of the groups, has.
#[test]
fn s71_peers_belong_to_their_direction_and_group() {
    for (version, rules) in [
        (UPSTREAM, "ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]"),
        (UPSTREAM, "ingress: [{action: Deny, from: [{nodes: {}}]}]"),
        (AWS, "egress: [{action: Deny, to: [{nodes: {}}]}]"),
    ] {
        let (_, messages) = broken(version, &format!("{HEAD}{rules}"));
        assert!(messages[0].contains("unknown field"), "{messages:?}");
    }
}

#[test]
fn s62_both_versions_of_the_upstream_group_say_the_same() {
    let spec = "tier: Admin\npriority: 1\nsubject: {namespaces: {}}\negress:\n- action: Accept\n  \
                to: [{networks: [10.0.0.0/8]}]\n  protocols: [{tcp: {destinationPort: {number: \
                80}}}]\n";
    assert_eq!(sound("policy.networking.k8s.io/v1beta1", spec), sound(UPSTREAM, spec));
}

#[test]
fn s61_a_policy_of_a_wrong_kind_or_version_only_denies() {
    let object = |header: &str| {
        text(format!(
            "{header}metadata: {{name: p}}\nspec: {{tier: Admin, priority: 1, subject: \
             {{namespaces: {{}}}}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}]}}]}}\n"
        ))
    };
    for header in [
        "kind: ClusterNetworkPolicy\n",
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: ClusterNetworkPolicy\n",
        "apiVersion: policy.networking.k8s.io/v1\nkind: ClusterNetworkPolicy\n",
        "apiVersion: policy.networkin.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n",
        "apiVersion: networking.k8s.io/v1\nkind: ClusterNetworkPolicy\n",
        "apiVersion: v1\nkind: ClusterNetworkPolicy\n",
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolcy\n",
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: cnp\n",
        "apiVersion: networking.k8s.aws/v1beta1\nkind: ClusterNetworkPolicy\n",
        "apiVersion: networking.k8s.aws/v1alpha1\nkind: ClusterNetworkPolicies\n",
        "apiVersion: policy.networking.k8s.io/v1alpha2\n",
    ] {
        let loaded = object(header);
        assert!(loaded.has_errors(), "{header}");
        assert!(permits_nothing(only(&loaded)), "{header}");
        let aws = header.contains("k8s.aws");
        assert_eq!(only(&loaded).key.api == TierApi::Aws, aws, "{header}");
    }
    let other = object("apiVersion: crd.antrea.io/v1alpha1\nkind: ClusterNetworkPolicy\n");
    assert_eq!((other.cluster.tiers.len(), other.has_errors()), (0, false), "another engine's");
}

/// The twin is tried only where both documents are: an enforced document denies although the other
/// is audited.
#[test]
fn s61_two_policies_of_one_name_both_deny() {
    let object = |mode: &str, rules: &str| {
        format!(
            "apiVersion: {UPSTREAM}\nkind: ClusterNetworkPolicy\nmetadata: {{name: p, \
             annotations: {{{mode}}}}}\nspec: {{tier: Admin, priority: 1, subject: \
             {{namespaces: {{}}}}, ingress: [{rules}]}}\n"
        )
    };
    let audit = "netpolc.io/mode: audit";
    for (mode, expected) in [(audit, Mode::Audited), ("", Mode::Enforced)] {
        let first = object(audit, "{action: Accept, from: [{namespaces: {}}]}");
        let second = object(
            mode,
            "{action: Deny, from: [{namespaces: {}}]}, {action: Pass, from: [{namespaces: {}}]}, \
             {action: Accept, from: [{namespaces: {}}]}",
        );
        let loaded = text(format!("{first}---\n{second}---\n{first}"));
        let messages: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        assert!(messages[0].contains("contradicts the one at f.yaml:1"), "{messages:?}");
        assert!(messages[1].contains("is already given"), "{messages:?}");
        let [kept, twin] = loaded.cluster.tiers.values().collect::<Vec<_>>()[..] else {
            panic!("{:?}", loaded.cluster.tiers)
        };
        assert!(permits(&kept.ingress[0]) && kept.mode == Mode::Audited);
        assert_eq!((&*twin.key.name, twin.mode), ("p.given-2", expected));
        assert!(permits_nothing(twin) && twin.ingress.len() == 3);
    }
}

/// A policy without a name denies all the same.
#[test]
fn s61_a_policy_without_a_name_is_kept() {
    let loaded = text(format!(
        "apiVersion: {UPSTREAM}\nkind: ClusterNetworkPolicy\nspec: {{tier: Admin, priority: 1, \
         subject: {{namespaces: {{}}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n"
    ));
    assert!(loaded.has_errors());
    assert_eq!(only(&loaded).ingress[0].action, Action::Deny);
}
