//! Inputs: documents, lists, duplicates, files and directories, limits. What is wrong is said with
//! its place, and the rest applies.

use std::{fs, path::PathBuf, process};

use netpolc_kube_sync::{Input, Loaded, Severity, convert, load};
use netpolc_policy::{Isolation, ObjectKey, Peer, Peers, Ports};

fn text(name: &str, text: &str) -> Loaded {
    load([Input::bytes(name, text)])
}

fn messages(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(ToString::to_string).collect()
}

fn pods(loaded: &Loaded) -> Vec<String> {
    loaded.cluster.pods.keys().map(ToString::to_string).collect()
}

const POD_A: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: m}\n";
const POD_B: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: m}\n";

/// A directory that is gone with its value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netpolc-inputs-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_broken_document_leaves_the_others() {
    let loaded = text("f.yaml", &format!("{POD_A}---\nkind: Pod\nbad: ]\n---\n{POD_B}"));
    assert_eq!(pods(&loaded), ["m/a", "m/b"]);
    assert_eq!(loaded.problems.len(), 1);
    assert!(
        messages(&loaded)[0].starts_with("f.yaml:6: Pod: this is not valid YAML: "),
        "{:?}",
        messages(&loaded)
    );
    assert_eq!(loaded.problems[0].document, Some(2));
    assert_eq!(*loaded.incomplete, ["f.yaml".into()]);
}

#[test]
fn s61_a_policy_that_breaks_off_isolates_by_what_stands_before() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, \
        namespace: m}\nspec:\n  podSelector: {matchLabels: {app: db}}\n  policyTypes: [Ingress]\n  \
        ingress:\n  - from: [{podSelector: {}}]\n    ports: [{port: 1}]\n  - from: [{podSelector: \
        {}}]\n    po\n    rts: [{port: 2}]\n";
    let loaded = text("f.yaml", policy);
    let found = &loaded.cluster.policies[&ObjectKey::new("m", "p")];
    assert_eq!(found.selector.requirements.len(), 1);
    let Isolation::Isolated(rules) = &found.ingress else { panic!() };
    assert!(matches!(&rules[0].ports, Ports::Listed(ports) if ports.len() == 1));
    for rule in &rules[1..] {
        assert_eq!(rule.peers, Peers::Listed(vec![Peer::Nothing]));
    }
    assert!(loaded.has_errors() && !loaded.incomplete.is_empty());
    assert!(
        messages(&loaded)[0].contains("NetworkPolicy m/p: this is not valid YAML"),
        "{:?}",
        messages(&loaded)
    );
    // Cut at every byte it never allows more, and isolates as soon as the spec has begun.
    for end in policy.find("spec:").unwrap() + 5..policy.find("    po\n").unwrap() {
        let loaded = text("f.yaml", &format!("{} {{]", &policy[..end]));
        let found =
            loaded.cluster.policies.values().next().unwrap_or_else(|| panic!("{}", &policy[..end]));
        let Isolation::Isolated(rules) = &found.ingress else { panic!("{}", &policy[..end]) };
        let whole = |rule: &&netpolc_policy::Rule| rule.peers != Peers::Listed(vec![Peer::Nothing]);
        for rule in rules.iter().filter(whole) {
            let Ports::Listed(_) = &rule.ports else { panic!("{}\n{rule:?}", &policy[..end]) };
        }
    }
}

#[test]
fn s61_a_line_indented_wrongly_does_not_cut_the_ports_off_a_rule() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, \
        namespace: m}\nspec:\n  podSelector: {}\n  ingress:\n  - from: [{podSelector: {}}]\n   \
        ports: [{port: 1}]\n";
    let loaded = text("f.yaml", policy);
    let found = loaded.cluster.policies.values().next().unwrap();
    let Isolation::Isolated(rules) = &found.ingress else { panic!() };
    assert!(rules.iter().all(|rule| rule.peers == Peers::Listed(vec![Peer::Nothing])), "{rules:?}");
    let types = policy.replace(
        "  ingress:\n  - from: [{podSelector: {}}]\n   ports: [{port: 1}]\n",
        "  policyTypes:\n    - Ingress\n   - Egress\n",
    );
    let loaded = text("f.yaml", &types);
    let found = loaded.cluster.policies.values().next().unwrap();
    assert_eq!(
        (&found.ingress, &found.egress),
        (&Isolation::Isolated(vec![]), &Isolation::Isolated(vec![]))
    );
}

#[test]
fn a_policy_whose_namespace_was_not_reached_isolates_nothing_elsewhere() {
    let loaded = text(
        "f",
        "kind: NetworkPolicy\nspec: {podSelector: {}}\nmetadata:\n  name: p\n  labels: [\n",
    );
    assert!(loaded.cluster.policies.is_empty());
    assert!(loaded.has_errors() && !loaded.incomplete.is_empty());
}

#[test]
fn lists_of_both_kinds_and_both_formats() {
    let json = |kind: &str, items: &str| {
        format!(r#"{{"apiVersion":"v1","items":[{items}],"kind":"{kind}"}}"#)
    };
    let typed =
        r#"{"metadata":{"name":"a","namespace":"m"}},{"metadata":{"name":"b","namespace":"m"}}"#;
    let untyped = r#"{"kind":"Pod","metadata":{"name":"a","namespace":"m"}},{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","namespace":"m"}}"#;
    for (list, items) in [("PodList", typed), ("List", untyped), ("PodList", untyped)] {
        for text_form in [json(list, items), format!("# YAML\n{}", json(list, items))] {
            let loaded = text("f", &text_form);
            assert_eq!(messages(&loaded), Vec::<String>::new());
            assert_eq!(pods(&loaded), ["m/a", "m/b"], "{text_form}");
        }
    }
    let kind_first = format!(r#"{{"kind":"PodList","apiVersion":"v1","items":[{typed}]}}"#);
    assert_eq!(pods(&text("f", &kind_first)), ["m/a", "m/b"]);
    let policies = r#"{"kind":"NetworkPolicyList","apiVersion":"networking.k8s.io/v1","items":[{"metadata":{"name":"p"},"spec":{"podSelector":{}}}]}"#;
    assert_eq!(text("f", policies).cluster.policies.len(), 1);
    assert_eq!(
        text("f", r#"{"kind":"PodList","apiVersion":"v1","items":null}"#),
        Loaded::default()
    );
}

#[test]
fn errors_in_a_list_are_per_item() {
    let items = r#"{"kind":"Pod","metadata":{"name":"a","namespace":"m"}},
        5,
        {"metadata":{"name":"x"}},
        {"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","metadata":{"name":"p"},"spec":{"x":1}},
        {"kind":"Pod","metadata":{"name":"b","namespace":"m"}}"#;
    for prefix in ["", "# YAML\n"] {
        let loaded = text("f", &format!("{prefix}{{\"kind\":\"List\",\"items\":[{items}]}}"));
        assert_eq!(pods(&loaded), ["m/a", "m/b"]);
        assert_eq!(loaded.cluster.policies.len(), 1);
        let problems = messages(&loaded);
        let first = 1 + prefix.lines().count();
        let expected = [
            format!("f:{}: must be a Kubernetes object, but is a number", first + 1),
            format!(
                "f:{}: kind: the field is missing; this is not a Kubernetes object, and it is \
                 ignored",
                first + 2
            ),
            format!("f:{}: NetworkPolicy default/p: spec.x: unknown field;", first + 3),
        ];
        assert_eq!(problems.len(), 3, "{problems:?}");
        for (problem, expected) in problems.iter().zip(&expected) {
            assert!(problem.starts_with(expected), "{problem}\n{expected}");
        }
    }
}

#[test]
fn broken_json_keeps_what_came_before() {
    let items = r#"{"kind":"Pod","metadata":{"name":"a","namespace":"m"}},"#;
    let loaded =
        text("f.json", &format!("{{\"kind\":\"List\",\"items\":[{items}\n{{\"kind\": oops"));
    assert_eq!(pods(&loaded), ["m/a"]);
    assert!(
        messages(&loaded)[0].starts_with("f.json:2: this is not valid JSON: "),
        "{:?}",
        messages(&loaded)
    );
    assert_eq!(loaded.incomplete.len(), 1);
    let whole = format!(
        "{}\n{}",
        r#"{"kind":"Pod","metadata":{"name":"a","namespace":"m"}}"#, r#"{"kind" "Pod"}"#
    );
    let loaded = text("f.json", &whole);
    assert_eq!(pods(&loaded), ["m/a"]);
    assert!(
        messages(&loaded)[0].starts_with("f.json:2: this is not valid JSON: "),
        "{:?}",
        messages(&loaded)
    );
}

#[test]
fn documents_of_mixed_formats_and_flow_yaml() {
    let loaded = text(
        "f",
        &format!(
            "\u{feff}{POD_A}---\n{{\"kind\":\"Pod\",\"metadata\":{{\"name\":\"b\",\"namespace\":\"m\"}}}}\n--- # flow\n{{kind: Pod, metadata: {{name: c, namespace: m}}}}\n...\n"
        ),
    );
    assert_eq!(messages(&loaded), Vec::<String>::new());
    assert_eq!(pods(&loaded), ["m/a", "m/b", "m/c"]);
    let concatenated = r#"{"kind":"Pod","metadata":{"name":"a"}}{"kind":"Pod","metadata":{"name":"b"}}
        {"kind":"Pod","metadata":{"name":"c"}}"#;
    assert_eq!(pods(&text("f", concatenated)), ["default/a", "default/b", "default/c"]);
    // Whoever writes a file empties it first: no statement that there are no objects.
    for empty in ["", "\n", "# nothing\n---\n# at all\n", "---\n---\n", "---\nnull\n"] {
        let loaded = text("f", empty);
        assert_eq!((loaded.cluster, loaded.incomplete.len()), (Default::default(), 1), "{empty:?}");
        assert!(loaded.problems[0].message.contains("contains no object"), "{empty:?}");
    }
}

#[test]
fn other_kinds_are_ignored_and_misspelt_ones_are_said() {
    for quiet in [
        "kind: Deployment\napiVersion: apps/v1\nspec: {x: [}",
        "kind: ConfigMap\napiVersion: v1\ndata: {a: b}",
        "kind: Pod\napiVersion: example.com/v1",
        "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1",
    ] {
        let loaded = text("f", quiet);
        assert_eq!(loaded.cluster, Default::default());
        assert_eq!(loaded.has_errors(), quiet.contains('}') && quiet.contains("[}"), "{quiet}");
    }
    let other = text(
        "f",
        "kind: NetworkPolicy\napiVersion: crd.projectcalico.org/v1\nmetadata: {name: p}\nspec: {x: \
         1}",
    );
    assert_eq!((other.cluster.policies.len(), other.problems[0].severity), (0, Severity::Warning));
    let misspelt =
        text("f", "kind: NetworkPolcy\napiVersion: networking.k8s.io/v1\nmetadata: {name: p}");
    assert!(
        misspelt.has_errors() && messages(&misspelt)[0].contains("did you mean NetworkPolicy?")
    );
    let unnamed = text(
        "f",
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {generateName: \
         p-}\nspec: {podSelector: {}}",
    );
    assert!(unnamed.has_errors());
    assert_eq!(
        unnamed.cluster.policies.keys().next().unwrap().to_string(),
        "default/unnamed.line-1"
    );
    let strange = text(
        "f",
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: \"A\\nb\"}\nspec: \
         {podSelector: {}}",
    );
    assert!(strange.has_errors());
    assert_eq!(strange.cluster.policies.keys().next().unwrap().to_string(), "default/a-b");
}

#[test]
fn of_two_objects_of_one_name_the_first_is_kept() {
    let first = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: m, labels: {x: one}}\n";
    let loaded =
        load([Input::bytes("1.yaml", first), Input::bytes("2.yaml", format!("# .\n{POD_A}"))]);
    assert_eq!(loaded.cluster.pods.values().next().unwrap().labels.get("x"), Some("one"));
    assert_eq!(
        messages(&loaded),
        ["2.yaml:2: Pod m/a: this object contradicts the one at 1.yaml:1, which is kept; remove \
             one"]
    );
    assert!(loaded.has_errors() && loaded.incomplete.is_empty());
    assert_eq!(loaded.places.len(), 1);
    let same = text("f", &format!("{POD_A}---\n{POD_A}"));
    assert_eq!(messages(&same), ["f:5: Pod m/a: this object is already given at f:1; remove one"]);
    assert!(!same.has_errors());
}

#[test]
fn directories_are_read_in_order_and_unreadable_inputs_leave_the_rest() {
    let directory = Directory::new("directory");
    directory.file("b.yml", POD_B);
    directory.file("a.yaml", &POD_A.replace("namespace: m", "namespace: m, labels: {x: a}"));
    directory.file("c.json", r#"{"kind":"Pod","metadata":{"name":"c","namespace":"m"}}"#);
    directory.file("z.yaml", POD_A);
    directory.file(".hidden.yaml", "{");
    directory.file("notes.txt", "{");
    fs::create_dir(directory.0.join("sub.yaml")).unwrap();
    let missing = directory.0.join("missing.yaml");
    let loaded = load([Input::argument(&missing), Input::argument(&directory.0)]);
    assert_eq!(pods(&loaded), ["m/a", "m/b", "m/c"]);
    assert_eq!(loaded.problems.len(), 2, "{:?}", messages(&loaded));
    assert!(messages(&loaded)[0].contains("missing.yaml: cannot be read: No such file"));
    assert!(messages(&loaded)[1].contains("z.yaml:1: Pod m/a: this object contradicts the one at"));
    assert_eq!(loaded.incomplete.len(), 1);
    let named = load([Input::argument(directory.file("pod.txt", POD_A))]);
    assert_eq!(pods(&named), ["m/a"]);
    let empty = Directory::new("empty");
    assert!(messages(&load([Input::argument(&empty.0)]))[0].contains("no *.yaml"));
    assert_eq!(Input::argument("-"), Input::Stdin);
}

#[test]
fn what_is_no_text_is_said_and_what_stands_before_applies() {
    let mut bytes = format!("{POD_A}---\n").into_bytes();
    bytes.extend(b"a: \xff\xfe\n");
    let loaded = load([Input::bytes("f", bytes)]);
    assert_eq!(pods(&loaded), ["m/a"]);
    assert!(
        messages(&loaded)[0].starts_with("f:5: the file is not valid UTF-8 from here on"),
        "{:?}",
        messages(&loaded)
    );
    assert_eq!(loaded.incomplete.len(), 1);
}

#[test]
fn oversized_and_nested_input_is_an_error_in_reasonable_time() {
    let long_yaml = format!(
        "{POD_B}---\na: {}\n---\n{POD_A}",
        "x".repeat(netpolc_kube_sync::MAX_YAML_DOCUMENT_BYTES)
    );
    let loaded = text("f", &long_yaml);
    assert_eq!(pods(&loaded), ["m/a", "m/b"]);
    assert!(messages(&loaded)[0].contains("larger than 64 MiB"));
    let deep = "[".repeat(1_000_000);
    let nested =
        format!("{{\"kind\":\"List\",\"items\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let inside = format!(
        "{{\"kind\":\"NetworkPolicy\",\"apiVersion\":\"networking.k8s.io/v1\",\"metadata\":{{\"name\":\"p\"}},\"spec\":{{\"podSelector\":{}{}}}}}",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    for input in [&deep, &nested, &inside] {
        assert!(text("f", input).has_errors());
    }
    assert_eq!(text("f", &inside).cluster.policies.len(), 1);
    let many = "---\n]\n".repeat(50_000);
    assert_eq!(text("f", &many).problems.len(), netpolc_kube_sync::MAX_PROBLEMS + 1);
}

#[test]
fn convert_gives_single_objects_to_watches() {
    let converted = convert(
        "watch",
        br#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"n","labels":{"a":"b"}}}"#,
    );
    let [netpolc_kube_sync::Object::Namespace(name, namespace)] = &converted.objects[..] else {
        panic!()
    };
    let labels = &namespace.labels;
    assert_eq!(
        (&**name, labels.get("a"), labels.get("kubernetes.io/metadata.name")),
        ("n", Some("b"), Some("n"))
    );
    assert!(convert("watch", b"{").lost);
}
