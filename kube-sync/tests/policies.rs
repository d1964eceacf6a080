//! NetworkPolicies: what the API says about defaults and what is an error, where, and what is left
//! of the policy then.

use netpolc_kube_sync::{Input, Loaded, Severity, load};
use netpolc_policy::{
    Block, Isolation, Namespaces, Operator, Peer, Peers, Policy, Port, Ports, Protocol,
    Requirement, Rule, Selector,
};

/// A policy shop/p with these lines as its spec.
fn load_spec(spec: &str) -> Loaded {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: \
         shop}}\nspec:\n{indented}"
    );
    load([Input::bytes("f.yaml", text)])
}

fn only(loaded: &Loaded) -> &Policy {
    assert_eq!(loaded.cluster.policies.len(), 1, "{:?}", loaded.problems);
    loaded.cluster.policies.values().next().unwrap()
}

fn sound(spec: &str) -> Policy {
    let loaded = load_spec(spec);
    assert_eq!(loaded.problems, [], "{spec}");
    only(&loaded).clone()
}

/// The policy and its error messages without file, line and object.
fn broken(spec: &str) -> (Policy, Vec<String>) {
    let loaded = load_spec(spec);
    assert!(loaded.incomplete.is_empty());
    let message = |p: &netpolc_kube_sync::Problem| {
        assert_eq!(p.severity, Severity::Error, "{p}");
        let text = p.to_string();
        let (_, rest) =
            text.split_once("NetworkPolicy shop/p: ").unwrap_or_else(|| panic!("{text}"));
        rest.to_owned()
    };
    let messages: Vec<String> = loaded.problems.iter().map(message).collect();
    assert!(!messages.is_empty(), "no error for {spec}");
    (only(&loaded).clone(), messages)
}

fn isolated(isolation: &Isolation) -> &[Rule] {
    match isolation {
        Isolation::Isolated(rules) => rules,
        Isolation::Open => panic!("open"),
    }
}

/// The ingress rules of a policy of which they are the only part.
fn ingress(rules: &str) -> Vec<Rule> {
    isolated(&sound(&format!("podSelector: {{}}\ningress:\n{rules}")).ingress).to_vec()
}

fn equals(key: &str, value: &str) -> Requirement {
    Requirement { key: key.into(), operator: Operator::In(vec![value.into()]) }
}

const NOTHING: &[Peer] = &[Peer::Nothing];

/// Does the rule allow nothing at all?
fn allows_nothing(rule: &Rule) -> bool {
    let no_peer =
        matches!(&rule.peers, Peers::Listed(peers) if peers.iter().all(|p| *p == Peer::Nothing));
    let no_port =
        matches!(&rule.ports, Ports::Listed(ports) if ports.iter().all(|p| *p == Port::Nothing));
    no_peer || no_port
}

#[test]
fn s02_absent_policy_types_follow_the_rules() {
    let open = Isolation::Open;
    let none = Isolation::Isolated(vec![]);
    for (spec, ingress, egress) in [
        ("podSelector: {}", &none, &open),
        ("podSelector: {}\npolicyTypes: null", &none, &open),
        ("podSelector: {}\npolicyTypes: []", &none, &open),
        ("podSelector: {}\negress: []", &none, &open),
        ("podSelector: {}\negress: null\ningress: null", &none, &open),
        ("podSelector: {}\npolicyTypes: [Egress]", &open, &none),
        ("podSelector: {}\npolicyTypes: [Ingress, Egress]", &none, &none),
    ] {
        let policy = sound(spec);
        assert_eq!((&policy.ingress, &policy.egress), (ingress, egress), "{spec}");
    }
    let policy = sound("podSelector: {}\negress: [{}]");
    assert_eq!((isolated(&policy.ingress).len(), isolated(&policy.egress).len()), (0, 1));
}

#[test]
fn s02_rules_of_a_direction_not_in_policy_types_are_a_warning() {
    let loaded = load_spec("podSelector: {}\npolicyTypes: [Ingress]\negress: [{}]");
    assert_eq!(only(&loaded).egress, Isolation::Open);
    assert_eq!(loaded.problems.len(), 1);
    assert_eq!(loaded.problems[0].severity, Severity::Warning);
    assert_eq!(loaded.problems[0].field.as_deref(), Some("spec.egress"));
}

#[test]
fn s05_an_empty_list_and_a_list_of_an_empty_rule_are_opposites() {
    assert_eq!(sound("podSelector: {}\ningress: []").ingress, Isolation::Isolated(vec![]));
    assert_eq!(ingress("- {}"), [Rule { peers: Peers::Any, ports: Ports::Any }]);
}

#[test]
fn s06_absent_null_and_empty_lists_in_a_rule_are_any() {
    for rule in
        ["- {from: [], ports: []}", "- {from: null, ports: null}", "- {}", "- {from: , ports: }"]
    {
        assert_eq!(ingress(rule), [Rule { peers: Peers::Any, ports: Ports::Any }], "{rule}");
    }
}

#[test]
fn s08_s09_selectors_of_a_peer() {
    let rules = ingress(
        "- from:\n  - podSelector: {matchLabels: {a: b}}\n  - namespaceSelector: {}\n  - \
         namespaceSelector: {matchLabels: null}\n    podSelector: null\n  - {namespaceSelector: \
         {matchLabels: {n: m}}, podSelector: {}}\n",
    );
    let all = Selector::default;
    let pods = |namespaces, pods| Peer::Pods { namespaces, pods };
    let expected = vec![
        pods(Namespaces::Own, Selector { requirements: vec![equals("a", "b")] }),
        pods(Namespaces::Matching(all()), all()),
        pods(Namespaces::Matching(all()), all()),
        pods(Namespaces::Matching(Selector { requirements: vec![equals("n", "m")] }), all()),
    ];
    assert_eq!(rules[0].peers, Peers::Listed(expected));
}

#[test]
fn s10_operators() {
    let policy = sound(
        "podSelector:\n  matchLabels: {a: ''}\n  matchExpressions:\n  - {key: x/y, operator: In, \
         values: [a, b]}\n  - {key: k, operator: NotIn, values: ['']}\n  - {key: k, operator: \
         Exists}\n  - {key: k, operator: DoesNotExist, values: []}\n",
    );
    let requirement = |key: &str, operator| Requirement { key: key.into(), operator };
    let expected = vec![
        equals("a", ""),
        requirement("x/y", Operator::In(vec!["a".into(), "b".into()])),
        requirement("k", Operator::NotIn(vec!["".into()])),
        requirement("k", Operator::Exists),
        requirement("k", Operator::DoesNotExist),
    ];
    assert_eq!(policy.selector.requirements, expected);
}

#[test]
fn s10_an_illegal_expression_is_true_for_the_subject_and_nothing_for_a_peer() {
    for (expression, field, message) in [
        ("{key: k, operator: In}", ".values", "operator In requires at least one value"),
        (
            "{key: k, operator: NotIn, values: []}",
            ".values",
            "operator NotIn requires at least one value",
        ),
        (
            "{key: k, operator: Exists, values: [a]}",
            ".values",
            "operator Exists takes no values; remove them or use In",
        ),
        (
            "{key: k, operator: DoesNotExist, values: [a]}",
            ".values",
            "operator DoesNotExist takes no values",
        ),
        (
            "{key: k, operator: in, values: [a]}",
            ".operator",
            "`in` is not a valid operator; write In, NotIn, Exists or DoesNotExist",
        ),
        ("{key: k}", ".operator", "the field is required but missing"),
        ("{operator: Exists}", ".key", "the field is required but missing"),
        ("{key: -k, operator: Exists}", ".key", "`-k` is not a valid label key"),
        ("{key: k, operator: In, values: [a b]}", ".values[0]", "`a b` is not a valid label value"),
        (
            "{key: k, operator: In, values: [1]}",
            ".values[0]",
            "must be a string, but is a number; write it in quotes: \"1\"",
        ),
        (
            "{key: k, operator: In, values: [yes]}",
            ".values[0]",
            "must be a string, but is a boolean; write it in quotes",
        ),
        ("{key: k, operator: In, value: [a]}", ".value", "unknown field; did you mean `values`?"),
        ("[]", "", "must be an object, but is a list"),
    ] {
        let selector = format!("{{matchLabels: {{app: db}}, matchExpressions: [{expression}]}}");
        let (policy, messages) =
            broken(&format!("podSelector: {selector}\npolicyTypes: [Ingress]"));
        assert_eq!(policy.selector.requirements, [equals("app", "db")]);
        let expected = format!("spec.podSelector.matchExpressions[0]{field}: {message}");
        assert!(messages[0].starts_with(&expected), "{messages:?}\n{expected}");
        let (policy, messages) = broken(&format!(
            "podSelector: {{}}\ningress: [{{from: [{{podSelector: {selector}}}]}}]"
        ));
        assert_eq!(isolated(&policy.ingress)[0].peers, Peers::Listed(NOTHING.to_vec()));
        let expected =
            format!("spec.ingress[0].from[0].podSelector.matchExpressions[0]{field}: {message}");
        assert!(messages[0].starts_with(&expected), "{messages:?}\n{expected}");
    }
}

#[test]
fn s10_s61_of_too_many_requirements_those_beyond_are_not_read() {
    let labels: Vec<String> = (0..1_500).map(|i| format!("k{i}: v")).collect();
    let labels = format!("{{matchLabels: {{{}}}}}", labels.join(", "));
    let expressions: Vec<String> =
        (0..1_500).map(|i| format!("{{key: k{i}, operator: Exists}}")).collect();
    let expressions = format!("{{matchExpressions: [{}]}}", expressions.join(", "));
    for (selector, field) in [(&labels, "matchLabels"), (&expressions, "matchExpressions")] {
        let (policy, messages) = broken(&format!("podSelector: {selector}"));
        assert_eq!(policy.selector.requirements.len(), 1_000, "the subject selects more");
        let expected = format!(
            "spec.podSelector.{field}: the selector has 1500 requirements, but at most 1000 are \
             read"
        );
        assert!(messages.len() == 1 && messages[0].starts_with(&expected), "{messages:?}");
        let (policy, _) = broken(&format!(
            "podSelector: {{}}\ningress: [{{from: [{{podSelector: {selector}}}]}}]"
        ));
        assert_eq!(
            isolated(&policy.ingress)[0].peers,
            Peers::Listed(NOTHING.to_vec()),
            "a peer selects nothing"
        );
    }
    let values: Vec<String> = (0..10_001).map(|i| format!("v{i}")).collect();
    let selector = format!(
        "{{matchExpressions: [{{key: k, operator: NotIn, values: [{}]}}]}}",
        values.join(", ")
    );
    let (policy, messages) = broken(&format!("podSelector: {selector}"));
    assert_eq!(policy.selector, Selector::default());
    assert!(
        messages[0].contains("the requirement has 10001 values, but may have at most 10000"),
        "{messages:?}"
    );
}

#[test]
fn s61_a_selector_costs_in_proportion_to_its_size() {
    let time = |policies: usize, labels: usize| {
        let labels: Vec<String> = (0..labels).map(|i| format!("\"k{i}\": \"\"")).collect();
        let policy = |i: usize| {
            format!(
                r#"{{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {{"name": "p{i}",
                   "namespace": "n"}}, "spec": {{"podSelector": {{"matchLabels": {{{}}}}}}}}}"#,
                labels.join(", ")
            )
        };
        let items: Vec<String> = (0..policies).map(policy).collect();
        let text =
            format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{}]}}"#, items.join(", "));
        let once = || {
            let began = std::time::Instant::now();
            let loaded = load([Input::bytes("p.json", text.clone())]);
            assert_eq!(loaded.cluster.policies.len(), policies);
            began.elapsed()
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    // As many labels either way: by their square one map of all of them would take 128 times as
    // long.
    let (many, one) = (time(128, 1_000), time(1, 128_000));
    assert!(one < many * 16, "128,000 labels in one map take {one:?}, in 128 maps {many:?}");
}

#[test]
fn s10_broken_labels_of_the_subject_count_as_true() {
    for (selector, field) in [
        ("{matchLabels: {app: db, bad: 5}}", "spec.podSelector.matchLabels.bad"),
        ("{matchLabels: {app: db, bad: n}}", "spec.podSelector.matchLabels.bad"),
        ("{matchLabels: {app: db, -bad: x}}", "spec.podSelector.matchLabels.-bad"),
        ("{matchLabels: {app: db}, matchlabels: {}}", "spec.podSelector.matchlabels"),
        ("{matchLabels: {app: db}, matchExpressions: {}}", "spec.podSelector.matchExpressions"),
    ] {
        let (policy, messages) = broken(&format!("podSelector: {selector}"));
        assert_eq!(policy.selector.requirements, [equals("app", "db")], "{selector}");
        assert!(messages[0].starts_with(&format!("{field}: ")), "{messages:?}");
    }
    for selector in ["[]", "all", "{matchLabels: []}", "{app: db}"] {
        let (policy, _) = broken(&format!("podSelector: {selector}"));
        assert_eq!(policy.selector, Selector::default(), "{selector}");
    }
}

#[test]
fn s17_host_bits_are_masked_with_a_warning() {
    let loaded = load_spec(
        "podSelector: {}\ningress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: \
         [10.2.3.4/16]}}]}]",
    );
    let block =
        Block { cidr: "10.0.0.0/8".parse().unwrap(), except: vec!["10.2.0.0/16".parse().unwrap()] };
    assert_eq!(isolated(&only(&loaded).ingress)[0].peers, Peers::Listed(vec![Peer::Block(block)]));
    assert_eq!(loaded.problems.len(), 2);
    assert!(loaded.problems.iter().all(|p| p.severity == Severity::Warning));
    assert!(
        loaded.problems[0]
            .message
            .contains("10.1.2.3/8 has bits set beyond its prefix; it is read as 10.0.0.0/8")
    );
}

#[test]
fn s23_mapped_addresses_are_ipv6() {
    let loaded =
        load_spec("podSelector: {}\ningress: [{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]");
    let rules = isolated(&only(&loaded).ingress);
    let Peers::Listed(peers) = &rules[0].peers else { panic!() };
    assert!(matches!(&peers[0], Peer::Block(block) if block.cidr.is_ipv6()));
    assert!(
        !loaded.has_errors() && loaded.problems[0].message.contains("write 10.0.0.0/8"),
        "{:?}",
        loaded.problems
    );
}

#[test]
fn s26_s27_ports() {
    let rules = ingress(
        "- ports: [{}, {protocol: UDP}, {port: 80}, {port: 1, endPort: 65535, protocol: SCTP}, \
         {port: 7, endPort: 7}, {port: web}]",
    );
    let range = |protocol, first, last| Port::Range { protocol, first, last };
    let expected = vec![
        Port::Every(Protocol::Tcp),
        Port::Every(Protocol::Udp),
        range(Protocol::Tcp, 80, 80),
        range(Protocol::Sctp, 1, 65535),
        range(Protocol::Tcp, 7, 7),
        Port::Named { protocol: Protocol::Tcp, name: "web".into() },
    ];
    assert_eq!(rules[0].ports, Ports::Listed(expected));
}

#[test]
fn s27_s61_a_broken_port_allows_nothing_and_leaves_the_others() {
    for (port, field, message) in [
        ("{port: 0}", ".port", "0 is not an integer from 1 to 65535"),
        ("{port: 65536}", ".port", "65536 is not an integer from 1 to 65535"),
        ("{port: -1}", ".port", "-1 is not an integer"),
        ("{port: 80.0}", ".port", "80.0 is not an integer"),
        ("{port: 010}", ".port", "010 is not an integer"),
        ("{port: '80'}", ".port", "`80` is not a valid port name; write a number without quotes"),
        ("{port: UPPER}", ".port", "`UPPER` is not a valid port name"),
        ("{port: a--b}", ".port", "`a--b` is not a valid port name"),
        ("{port: sixteen-letters-}", ".port", "`sixteen-letters-` is not a valid port name"),
        ("{port: []}", ".port", "must be a number, but is a list"),
        ("{port: 80, endPort: 79}", ".endPort", "79 is less than port 80"),
        (
            "{port: 80, endPort: '90'}",
            ".endPort",
            "must be a number, but is a string; write it without quotes",
        ),
        ("{port: web, endPort: 90}", ".endPort", "endPort requires a number in `port`, not a name"),
        ("{endPort: 90}", ".endPort", "endPort requires `port`, the first port of the range"),
        (
            "{port: 80, protocol: tcp}",
            ".protocol",
            "`tcp` is not a valid protocol; write TCP, UDP or SCTP (in capitals)",
        ),
        ("{port: 80, protocol: ICMP}", ".protocol", "`ICMP` is not a valid protocol"),
        ("{port: 80, endport: 90}", ".endport", "unknown field; did you mean `endPort`?"),
        ("null", "", "must be an object, but is null"),
        ("80", "", "must be an object, but is a number"),
    ] {
        let (policy, messages) =
            broken(&format!("podSelector: {{}}\ningress: [{{ports: [{port}, {{port: 443}}]}}]"));
        let Ports::Listed(ports) = &isolated(&policy.ingress)[0].ports else { panic!("{port}") };
        assert_eq!(ports[0], Port::Nothing, "{port}");
        assert_eq!(ports[1], Port::Range { protocol: Protocol::Tcp, first: 443, last: 443 });
        let expected = format!("spec.ingress[0].ports[0]{field}: {message}");
        assert!(
            messages.len() == 1 && messages[0].starts_with(&expected),
            "{messages:?}\n{expected}"
        );
    }
}

#[test]
fn s61_a_broken_peer_allows_nothing_and_leaves_the_others() {
    for (peer, field, message) in [
        ("{}", "", "the peer is empty; write `podSelector: {}` to match all pods"),
        ("null", "", "must be an object, but is null"),
        ("{podSelector: null}", "", "the peer is empty"),
        (
            "{matchLabels: {a: b}}",
            ".matchLabels",
            "unknown field; it belongs in a `podSelector` or `namespaceSelector`",
        ),
        ("{podselector: {}}", ".podselector", "unknown field; did you mean `podSelector`?"),
        (
            "{podSelector: {}, ports: []}",
            ".ports",
            "unknown field; it belongs in an item of `ingress` or `egress`",
        ),
        (
            "{podSelector: {}, podSelector: {matchLabels: {a: b}}}",
            ".podSelector",
            "the field is given twice; keep one",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}",
            "",
            "ipBlock cannot be combined with podSelector",
        ),
        ("{ipBlock: {}}", ".ipBlock.cidr", "the field is required but missing"),
        (
            "{ipBlock: {cidr: 10.0.0.1}}",
            ".ipBlock.cidr",
            "`10.0.0.1` is not a valid CIDR; write 10.0.0.1/32 for the one address",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/33}}",
            ".ipBlock.cidr",
            "`10.0.0.0/33` is not a valid CIDR; write one such as",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/255.0.0.0}}",
            ".ipBlock.cidr",
            "`10.0.0.0/255.0.0.0` is not a valid CIDR",
        ),
        ("{ipBlock: {cidr: 10.0.0.0/0x8}}", ".ipBlock.cidr", "`10.0.0.0/0x8` is not a valid CIDR"),
        (
            "{ipBlock: {cidr: 10.0.0.0256/8}}",
            ".ipBlock.cidr",
            "`10.0.0.0256/8` is not a valid CIDR",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}",
            ".ipBlock.except[0]",
            "10.0.0.0/8 does not lie strictly within 10.0.0.0/8",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}",
            ".ipBlock.except[0]",
            "11.0.0.0/16 does not lie strictly within",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: ['::/1']}}",
            ".ipBlock.except[0]",
            "::/1 does not lie strictly within",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}",
            ".ipBlock.except[0]",
            "`x` is not a valid CIDR",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: 10.1.0.0/16}}",
            ".ipBlock.except",
            "must be a list, but is a string",
        ),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, excepts: [10.1.0.0/16]}}",
            ".ipBlock.excepts",
            "unknown field; did you mean `except`?",
        ),
    ] {
        for (rules, peers, spec) in
            [("ingress", "from", "podSelector: {}"), ("egress", "to", "podSelector: {}")]
        {
            let (policy, messages) =
                broken(&format!("{spec}\n{rules}: [{{{peers}: [{peer}, {{podSelector: {{}}}}]}}]"));
            let isolation = if rules == "ingress" { &policy.ingress } else { &policy.egress };
            let Peers::Listed(listed) = &isolated(isolation)[0].peers else { panic!("{peer}") };
            assert_eq!(listed[0], Peer::Nothing, "{peer}");
            assert_eq!(
                listed[1],
                Peer::Pods { namespaces: Namespaces::Own, pods: Selector::default() }
            );
            let expected = format!("spec.{rules}[0].{peers}[0]{field}: {message}");
            assert!(messages[0].starts_with(&expected), "{messages:?}\n{expected}");
        }
    }
}

#[test]
fn s61_a_broken_rule_allows_nothing_and_leaves_the_others() {
    for (rule, field, message) in [
        ("{to: [{podSelector: {}}]}", ".to", "unknown field; did you mean `from`?"),
        (
            "{podSelector: {}}",
            ".podSelector",
            "unknown field; it belongs in an item of `from` or `to`",
        ),
        ("{from: [], port: 80}", ".port", "unknown field; did you mean `ports`?"),
        (
            "{from: {podSelector: {}}}",
            ".from",
            "must be a list, but is an object; put `- ` before its first line",
        ),
        ("{ports: 80}", ".ports", "must be a list, but is a number"),
        ("{from: [], from: [{podSelector: {}}]}", ".from", "the field is given twice; keep one"),
        ("null", "", "must be an object, but is null"),
        ("all", "", "must be an object, but is a string"),
    ] {
        let (policy, messages) = broken(&format!("podSelector: {{}}\ningress: [{rule}, {{}}]"));
        let rules = isolated(&policy.ingress);
        assert!(allows_nothing(&rules[0]), "{rule}");
        assert_eq!(rules[1], Rule { peers: Peers::Any, ports: Ports::Any });
        let expected = format!("spec.ingress[0]{field}: {message}");
        assert!(messages[0].starts_with(&expected), "{messages:?}\n{expected}");
    }
    let (policy, messages) = broken("podSelector: {}\negress: [{from: [{podSelector: {}}]}]");
    assert!(allows_nothing(&isolated(&policy.egress)[0]));
    assert_eq!(messages, ["spec.egress[0].from: unknown field; did you mean `to`?"]);
}

#[test]
fn s61_a_broken_spec_isolates_what_it_may_have_spoken_of() {
    for (spec, field) in [
        ("podSelector: {}\npolicyTypes: [Ingress, Engress]", "spec.policyTypes[1]"),
        ("podSelector: {}\npolicyTypes: Ingress", "spec.policyTypes"),
        ("podSelector: {}\npolicyTypes: [null]", "spec.policyTypes[0]"),
        ("podSelector: {}\nEgress: []", "spec.Egress"),
        ("podSelector: {}\negres: [{}]", "spec.egres"),
        ("podSelector: {}\negress: {}", "spec.egress"),
        ("podSelector: {}\nto: [{}]", "spec.to"),
        (
            "podSelector: {}\npolicyTypes: [Egress]\npolicyTypes: [Ingress]\negress: [null]",
            "spec.policyTypes",
        ),
    ] {
        let (policy, messages) = broken(spec);
        assert!(messages[0].starts_with(field), "{messages:?}");
        assert!(isolated(&policy.egress).iter().all(allows_nothing), "{spec}");
        assert_eq!(isolated(&policy.ingress), [], "{spec}");
    }
    let (policy, _) = broken("podSelector: {}\npolicyTypes: [Egress]\negres: [{}]");
    assert_eq!((policy.ingress, policy.egress), (Isolation::Open, Isolation::Isolated(vec![])));
}

#[test]
fn s61_a_misplaced_field_beside_spec_and_a_spec_of_the_wrong_type_isolate_both() {
    for tail in [
        "spec: all",
        "spec: []",
        "egress: [{}]\nspec: {podSelector: {}}",
        "Spec: {podSelector: {}}",
    ] {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, \
             namespace: shop}}\n{tail}\n"
        );
        let loaded = load([Input::bytes("f", text)]);
        assert!(loaded.has_errors());
        let policy = only(&loaded);
        let none = Isolation::Isolated(vec![]);
        assert_eq!(
            (&policy.selector, &policy.ingress, &policy.egress),
            (&Selector::default(), &none, &none),
            "{tail}"
        );
    }
}

#[test]
fn status_and_what_servers_write_may_carry_anything() {
    let text = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p","annotations":{"x":"[{}]"},
        "managedFields":[{"a":1}]},"spec":{"podSelector":{}},"status":{"conditions":[{"from":1}]}}"#;
    let loaded = load([Input::bytes("f.json", text)]);
    assert_eq!(loaded.problems, []);
    assert_eq!(only(&loaded).key.to_string(), "default/p");
}

/// S10: what the API server stores for a label whose value is null.
#[test]
fn s10_a_null_value_is_the_empty_one_and_is_said() {
    let loaded = load_spec("podSelector: {matchLabels: {app: }}\npolicyTypes: [Ingress]");
    assert_eq!(only(&loaded).selector.requirements, [equals("app", "")]);
    assert!(!loaded.has_errors() && loaded.problems.len() == 1, "{:?}", loaded.problems);
}

/// S17: blocks that API servers have stored when they were valid.
#[test]
fn s17_leading_zeros_are_decimal_and_are_said() {
    for (written, read) in [
        ("010.9.2.012/32", "10.9.2.12/32"),
        ("10.0.0.0/08", "10.0.0.0/8"),
        ("10.0.0.0/032", "10.0.0.0/32"),
        ("::ffff:010.0.0.0/104", "::ffff:10.0.0.0/104"),
    ] {
        let loaded = load_spec(&format!(
            "podSelector: {{}}\ningress: [{{from: [{{ipBlock: {{cidr: '{written}'}}}}]}}]"
        ));
        let rules = isolated(&only(&loaded).ingress);
        let block = Block { cidr: read.parse().unwrap(), except: vec![] };
        assert_eq!(rules[0].peers, Peers::Listed(vec![Peer::Block(block)]), "{written}");
        assert!(
            !loaded.has_errors() && loaded.problems[0].message.contains("leading zeros"),
            "{:?}",
            loaded.problems
        );
    }
}

#[test]
fn an_absent_pod_selector_is_said() {
    let loaded = load_spec("policyTypes: [Ingress]");
    assert_eq!(loaded.problems.len(), 1);
    assert!(!loaded.has_errors());
    assert_eq!(loaded.problems[0].field.as_deref(), Some("spec.podSelector"));
}

#[test]
fn problems_have_the_line_of_the_field() {
    let text = "# a comment\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  \
        name: ui\n  namespace: shop\nspec:\n  podSelector: {}\n  egress:\n  - ports:\n    - port: \
        80\n    from:\n    - podSelector: {}\n";
    let loaded = load([Input::bytes("shop.yaml", text)]);
    assert_eq!(
        loaded.problems[0].to_string(),
        "shop.yaml:12: NetworkPolicy shop/ui: spec.egress[0].from: unknown field; did you mean \
         `to`?"
    );
    let json = "{\n \"kind\": \"NetworkPolicy\",\n \"apiVersion\": \"networking.k8s.io/v1\",\n \
        \"metadata\": {\"name\": \"p\"},\n \"spec\": {\"podSelector\": {},\n  \"ingress\": \
        [{\"ports\": [\n   {\"port\": \"80\"}]}]}}";
    let loaded = load([Input::bytes("p.json", json)]);
    assert_eq!(
        loaded.problems[0].to_string(),
        "p.json:7: NetworkPolicy default/p: spec.ingress[0].ports[0].port: `80` is not a valid \
         port name; write a number without quotes"
    );
}
