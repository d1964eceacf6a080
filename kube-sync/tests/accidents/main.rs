//! Files as they become by everyday accidents: S61, nothing is opened by one. Either what is there
//! still isolates, or the file counts as incomplete and what came from it stays.

mod edits;
mod tiers;

use std::{fs, path::PathBuf, process};

use edits::{Dice, accident};
use netpolc_kube_sync::{Input, Loaded, Merged, Places, Severity, load, merge_last_known};
use netpolc_policy::{Cluster, Isolation, ObjectKey};

const BASE: &str = "apiVersion: v1
kind: Pod
metadata: {name: db, namespace: a, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: tool, namespace: c, labels: {app: tool}}
spec: {nodeName: n1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.0.0.2}
";

fn policy(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, \
         namespace: {namespace}}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Ingress]}}\n"
    )
}

fn text(text: impl Into<Vec<u8>>) -> Loaded {
    load([Input::bytes("f", text)])
}

fn with_base(policies: &str) -> Loaded {
    load([Input::bytes("base", BASE), Input::bytes("f", policies)])
}

/// The pods that some policy isolates for ingress.
fn isolated(cluster: &Cluster) -> Vec<String> {
    let by = |key: &ObjectKey| {
        let pod = &cluster.pods[key];
        cluster.policies.values().any(|policy| {
            policy.key.namespace == key.namespace
                && policy.selector.matches(&pod.labels)
                && policy.ingress != Isolation::Open
                && !pod.addresses.is_empty()
        })
    };
    cluster.pods.keys().filter(|key| by(key)).map(ToString::to_string).collect()
}

fn errors(loaded: &Loaded) -> Vec<String> {
    let errors = loaded.problems.iter().filter(|p| p.severity == Severity::Error);
    errors.map(ToString::to_string).collect()
}

/// Both policies isolate, and the file is not taken for whole.
fn refused_and_isolating(policies: &str, pods: &[&str], message: &str) {
    let loaded = with_base(policies);
    assert_eq!(isolated(&loaded.cluster), pods, "{policies}\n{:?}", loaded.problems);
    assert_eq!(*loaded.incomplete, ["f".into()], "{policies}\n{:?}", loaded.problems);
    assert!(
        errors(&loaded).iter().any(|e| e.contains(message)),
        "{policies}\n{:?}",
        loaded.problems
    );
}

#[test]
fn s61_documents_that_ran_together_are_each_read_and_said() {
    let (first, second) = (policy("first", "a"), policy("second", "c"));
    let both = ["a/db", "c/tool"];
    refused_and_isolating(&format!("{first}{second}"), &both, "two documents without `---`");
    refused_and_isolating(&format!("{first}---{second}"), &both, "is joined to the text after it");
    let block = first
        .replace("spec: {podSelector: {}, policyTypes: [Ingress]}", "spec:\n  podSelector: {}");
    refused_and_isolating(
        &format!("{}---\n{second}", first.trim_end()),
        &both,
        "this is not valid YAML",
    );
    refused_and_isolating(
        &format!("{block}  policyTypes: [Ingress]\n{second}"),
        &both,
        "two documents without `---`",
    );
    let glued =
        format!("{block}  ingress:\n  - ports:\n    - port: 53\n      protocol: UDP---\n{second}");
    refused_and_isolating(&glued, &both, "two documents without `---`");
    let list = |item: &str| {
        let indented: Vec<String> = item.lines().map(|line| format!("  {line}\n")).collect();
        format!(
            "apiVersion: v1\nitems:\n- {}kind: List\nmetadata: {{resourceVersion: ''}}\n",
            indented.concat().trim_start()
        )
    };
    let lists = format!("{}{}{}", list(&first), list(&second), list(&policy("third", "b")));
    refused_and_isolating(&lists, &both, "two documents without `---`");
    let pods = BASE.replace("---\n", "");
    let loaded = load([Input::bytes("f", format!("{pods}---\n{first}---\n{second}"))]);
    assert_eq!(
        (isolated(&loaded.cluster), loaded.incomplete.len()),
        (vec!["a/db".into(), "c/tool".into()], 1)
    );
}

#[test]
fn s61_keys_given_twice_are_a_problem_everywhere() {
    let pod = |labels: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: x, namespace: a, {labels}}}\nspec: \
             {{nodeName: n1}}\n\
             status: {{podIP: 10.0.0.9}}\n"
        )
    };
    for (labels, field) in [
        ("labels: {app: web, app: db}", "metadata.labels.app: the field is given twice"),
        ("labels: {app: web}, labels: {app: db}", "metadata.labels: the field is given twice"),
    ] {
        // Of both the last counts, as for kubectl.
        let loaded = text(pod(labels));
        assert_eq!(loaded.cluster.pods.values().next().unwrap().labels.get("app"), Some("db"));
        assert!(errors(&loaded)[0].contains(field), "{:?}", loaded.problems);
        let json = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"x","namespace":"a",{}}}}}"#,
            labels
                .replace("labels", "\"labels\"")
                .replace("app", "\"app\"")
                .replace("web", "\"web\"")
                .replace("db", "\"db\"")
        );
        let loaded = text(json.clone());
        assert_eq!(loaded.cluster.pods.values().next().unwrap().labels.get("app"), Some("db"));
        assert!(errors(&loaded)[0].contains(field), "{:?}", loaded.problems);
        let loaded = text(format!(r#"{{"kind":"List","apiVersion":"v1","items":[{json}]}}"#));
        assert!(errors(&loaded)[0].contains(field), "{:?}", loaded.problems);
    }
    let item = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}"#;
    let other = item.replace("\"x\"", "\"y\"");
    let twice =
        text(format!(r#"{{"kind":"List","apiVersion":"v1","items":[{item}],"items":[{other}]}}"#));
    assert_eq!((twice.cluster.pods.len(), twice.incomplete.len()), (2, 1), "{:?}", twice.problems);
    // The same value twice is what kubectl applies without a word.
    let same =
        with_base(&policy("p", "a").replace("kind:", "apiVersion: networking.k8s.io/v1\nkind:"));
    assert_eq!((isolated(&same.cluster), errors(&same)), (vec!["a/db".to_owned()], vec![]));
    assert_eq!(
        (same.problems.len(), same.cluster.policies.values().next().unwrap().egress.clone()),
        (1, Isolation::Open)
    );
    // Of two namespaces one is left alone: what was in force there stays.
    let namespaces = policy("p", "a").replace("namespace: a", "namespace: c, namespace: a");
    refused_and_isolating(&namespaces, &["a/db"], "metadata.namespace: the field is given twice");
}

#[test]
fn s61_empty_documents_and_comments_behind_separators_are_nothing() {
    let (first, second) = (policy("first", "a"), policy("second", "c"));
    for text in [
        format!("# chart\n---\n# Source: empty\n---\n{first}---\n---\n{second}"),
        format!("---# Source: a\n{first}---# Source: b\n{second}"),
        format!("---\nnull\n---\n{first}--- # x\n~\n---\n{second}---\n"),
        format!(
            "\u{feff}---\r\n# x\r\n---\r\n{}---\r\n{}",
            first.replace('\n', "\r\n"),
            second.replace('\n', "\r\n")
        ),
        format!("%YAML 1.2\n---\n...\n---\n{first}...\n---\n{second}...\n"),
        format!("apiVersion: v1\nkind: List\nitems:\n- null\n---\n{first}---\n{second}"),
    ] {
        let loaded = with_base(&text);
        assert_eq!(isolated(&loaded.cluster), ["a/db", "c/tool"], "{text}\n{:?}", loaded.problems);
        assert_eq!(
            (loaded.problems.len(), loaded.incomplete.len()),
            (0, 0),
            "{text}\n{:?}",
            loaded.problems
        );
    }
}

#[test]
fn s61_a_policy_of_a_wrong_version_or_kind_isolates_and_is_an_error() {
    let good = policy("p", "a");
    for version in [
        "v1",
        "networking.k8s.io",
        "networking.k8s.io/V1",
        "networking.k8s.io/v1beta2",
        "apps/v1",
        "'v1 '",
        "1",
    ] {
        let loaded = with_base(&good.replace("networking.k8s.io/v1", version));
        assert_eq!(isolated(&loaded.cluster), ["a/db"], "{version}");
        assert!(errors(&loaded)[0].contains("apiVersion"), "{version}: {:?}", loaded.problems);
    }
    for kind in [
        "NetworkPolicies",
        "networkpolicies",
        "netpol",
        "NetPol",
        "NetworkPolcy",
        "NetworkRule",
        "[NetworkPolicy]",
    ] {
        refused_and_isolating(
            &good.replace("kind: NetworkPolicy", &format!("kind: {kind}")),
            &["a/db"],
            "kind",
        );
    }
    for line in ["", "Kind: NetworkPolicy\n", "kind:\n"] {
        refused_and_isolating(
            &good.replace("kind: NetworkPolicy\n", line),
            &["a/db"],
            "kind: the field is missing",
        );
    }
    for namespace in ["nameSpace: a", "namepsace: a", "ns: a"] {
        let message = "unknown field; did you mean `namespace`?";
        let message = if namespace.starts_with("ns") { "unknown field" } else { message };
        refused_and_isolating(&good.replace("namespace: a", namespace), &["a/db"], message);
    }
    let listed: Vec<String> = good.lines().map(|line| format!("  {line}\n")).collect();
    refused_and_isolating(
        &format!("- {}", listed.concat().trim_start()),
        &["a/db"],
        "this is a list, not an object",
    );
}

#[test]
fn s61_text_that_is_no_object_is_incomplete() {
    for (text, message) in [
        ("<html><body>504 Gateway Time-out</body></html>", "HTML"),
        ("<html>\n<head><title>a: b</title></head>\n<style>a { b: c }</style></html>", "HTML"),
        ("Error from server (Forbidden): networkpolicies is forbidden", "kubectl"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        ("{}", "kind: the field is missing"),
        ("{}\n", "kind: the field is missing"),
        ("some: values\n", "kind: the field is missing"),
        ("just text", "this is text, not an object"),
        ("5", "must be a Kubernetes object"),
        ("{{- if .Values.on }}\napiVersion: v1\nkind: Pod\n{{- end }}\n", "helm template"),
        ("# licence\n{{- if .Values.on }}\napiVersion: v1\n{{- end }}\n", "helm template"),
        (
            "kind: NetworkPolicy\nmetadata:\n  name: {{ include \"x\" . }}\n  namespace: a\n",
            "helm template",
        ),
        (
            "apiVersion: v1\nkind: Status\nstatus: Failure\nmessage: forbidden\n",
            "API server's response",
        ),
        ("apiVersion: v1\nkind: Pdo\nmetadata: {name: x}\n", "`Pdo` in `v1` is not a known kind"),
        ("apiVersion: v1\nkind: List\nitmes: []\n", "items"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x, lables: {app: db}}\n",
            "did you mean `labels`?",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstaus: {podIP: 10.0.0.1}\n",
            "did you mean `status`?",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namspace":"a"}}"#,
            "did you mean `namespace`?",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nspec: {podSelector: {}}\n",
            "the namespace is unknown",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {labels: {a: b}}\n",
            "metadata.name: the field is missing",
        ),
    ] {
        let loaded = self::text(text);
        assert_eq!(*loaded.incomplete, ["f".into()], "{text}\n{:?}", loaded.problems);
        assert!(
            errors(&loaded).iter().any(|e| e.contains(message)),
            "{text}\n{:?}",
            loaded.problems
        );
    }
}

#[test]
fn s61_text_behind_json_is_said_and_what_is_json_in_it_is_read() {
    let pods = r#"{"kind":"List","apiVersion":"v1","items":[]}"#;
    let policy = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p","namespace":"a"},"spec":{"podSelector":{}}}"#;
    for text in [
        format!(
            "{pods}\n==== START logs for container ====\n2026 {{ started }}\n==== END \
             ====\n{policy}\n"
        ),
        format!("{policy}\nsome text"),
        format!("{pods}\n{}", self::policy("p", "a")),
    ] {
        let loaded = with_base(&text);
        assert_eq!(isolated(&loaded.cluster), ["a/db"], "{text}\n{:?}", loaded.problems);
        assert_eq!(loaded.incomplete.len(), 1, "{text}");
        assert!(
            errors(&loaded)[0].contains("follows a JSON document"),
            "{text}\n{:?}",
            loaded.problems
        );
    }
}

#[test]
fn s61_an_empty_namespace_is_an_absent_one() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: '', uid: ''}\nstatus: \
        {podIP: 10.0.0.3}\n";
    for text in
        [format!("{pod}---\n{}", policy("p", "''")), format!("{pod}---\n{}", policy("p", ""))]
    {
        let loaded = self::text(text);
        assert_eq!(
            (isolated(&loaded.cluster), loaded.problems.len()),
            (vec!["default/x".to_owned()], 0)
        );
        assert_eq!(loaded.cluster.pods.values().next().unwrap().uid, None);
    }
    // A namespace that YAML takes for a boolean is what was written, and is said.
    let loaded = self::text(policy("p", "n"));
    assert_eq!(loaded.cluster.policies.keys().next().unwrap().to_string(), "n/p");
    assert!(errors(&loaded)[0].contains("write it in quotes"));
}

#[test]
fn s24_an_address_in_the_wrong_place_is_said() {
    for status in [
        "podIPs: [10.9.1.91]",
        "podIPs: [{address: 10.9.1.91}]",
        "podIPs: [null]",
        "podIPs: {ip: 10.9.1.91}",
    ] {
        let loaded = text(format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nstatus: {{{status}}}\n"
        ));
        assert!(errors(&loaded)[0].contains("status.podIPs"), "{status}: {:?}", loaded.problems);
    }
    for item in ["192.168.9.1", "{type: InternalIP}", "{address: 192.168.9.1}"] {
        let loaded = text(format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: x}}\nstatus: {{addresses: [{item}]}}\n"
        ));
        assert!(
            errors(&loaded)[0].contains("status.addresses[0]"),
            "{item}: {:?}",
            loaded.problems
        );
    }
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nstatus: {loadBalancer: \
        {ingress: [192.0.2.1]}}\n";
    assert!(errors(&text(service))[0].contains("status.loadBalancer.ingress[0]"));
}

#[test]
fn custom_kinds_are_not_lists_and_other_engines_are_named_once() {
    let lists = "apiVersion: example.com/v1\nkind: AllowList\nitems: [a, b]\n---\napiVersion: \
        example.com/v1\nkind: BlockList\nitems: {a: b}\n";
    let json = r#"{"apiVersion":"example.com/v1","items":["a",{"kind":"Pod","metadata":{"name":"x"}}],"kind":"AllowList"}"#;
    for text in [lists, json] {
        assert_eq!(self::text(text), Loaded::default(), "{text}");
    }
    let other = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n";
    let template = "apiVersion: template.openshift.io/v1\nkind: Template\nobjects: []\n";
    let loaded = self::text(format!("{other}---\n{template}---\n{other}"));
    let said: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(loaded.problems.len(), 2, "{said:?}");
    assert!(
        said[0].starts_with("f:1: 2 CiliumNetworkPolicy (cilium.io/v2) in total")
            && said[1].contains("1 Template"),
        "{said:?}"
    );
    assert!(errors(&loaded).is_empty() && loaded.incomplete.is_empty());
}

/// Two policies of one name: which of them is meant nobody knows, so both isolate.
#[test]
fn s61_of_two_policies_of_one_name_both_isolate_and_the_first_allows() {
    let first =
        policy("p", "a").replace("podSelector: {}", "podSelector: {matchLabels: {app: web}}");
    let second = policy("p", "a").replace("policyTypes: [Ingress]", "ingress: [{}]");
    let loaded = with_base(&format!("{first}---\n{second}---\n{second}"));
    assert_eq!(isolated(&loaded.cluster), ["a/db"]);
    assert!(
        loaded.cluster.policies.values().all(|p| p.ingress == Isolation::Isolated(vec![])),
        "no rule of the second"
    );
    assert!(errors(&loaded)[0].contains("contradicts the one at f:1"), "{:?}", loaded.problems);
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netpolc-accidents-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn load(&self) -> Loaded {
        load([Input::Path(self.0.clone())])
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// S61: what came from an incomplete file stays, and what is gone from a sound one is gone.
#[test]
fn s61_objects_stay_by_the_file_that_they_came_from() {
    let directory = Directory::new("files");
    let file = |name: &str, text: &str| fs::write(directory.0.join(name), text).unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: a}\nspec: \
        {clusterIP: 10.96.0.1}\n";
    file("base.yaml", BASE);
    file("one.yaml", &format!("{service}---\n{}", policy("one", "a")));
    file("two.yaml", &policy("two", "c"));
    let held = merge_last_known(directory.load(), &Cluster::default(), &Places::new());
    assert_eq!((isolated(&held.cluster).len(), held.retained.len()), (2, 0));
    for broken in ["foo: [", "", "{}", "<html/>", "# nothing\n", "kind: NetworkPolicyRule\n"] {
        file("one.yaml", broken);
        let Merged { cluster, retained, places } =
            merge_last_known(directory.load(), &held.cluster, &held.places);
        assert_eq!(cluster, held.cluster, "{broken}");
        let kept: Vec<String> = retained.iter().map(|k| k.object.to_string()).collect();
        assert_eq!(kept, ["Service a/s", "NetworkPolicy a/one"], "{broken}");
        // Deletions beside it count.
        fs::remove_file(directory.0.join("two.yaml")).unwrap();
        let after = merge_last_known(directory.load(), &cluster, &places);
        assert_eq!(
            (isolated(&after.cluster), after.cluster.services.len()),
            (vec!["a/db".to_owned()], 1),
            "{broken}"
        );
        file("two.yaml", &policy("two", "c"));
    }
    // Gone with its file, or with the repair.
    fs::remove_file(directory.0.join("one.yaml")).unwrap();
    assert_eq!(
        isolated(&merge_last_known(directory.load(), &held.cluster, &held.places).cluster),
        ["c/tool"]
    );
    // An input that is gone as a whole is no statement.
    fs::rename(&directory.0, directory.0.with_extension("moved")).unwrap();
    let gone = merge_last_known(directory.load(), &held.cluster, &held.places);
    fs::rename(directory.0.with_extension("moved"), &directory.0).unwrap();
    assert_eq!(gone.cluster, held.cluster);
}

/// S61: of a pod that is damaged the sound one from before counts; a policy that is broken isolates
/// by itself.
#[test]
fn s61_a_damaged_pod_does_not_replace_a_sound_one() {
    let sound = |text: &str| format!("{text}---\n{}", policy("p", "a"));
    let held = merge_last_known(text(sound(BASE)), &Cluster::default(), &Places::new());
    for (from, to) in [
        ("podIP: 10.0.0.1", "podIPs: [10.0.0.1]"),
        ("podIP: 10.0.0.1", "podIP: xx.0.0.1"),
        ("{app: db}", "{app: db, app: x}"),
        ("labels: {app: db}", "lables: {app: db}"),
        ("nodeName: n1", "nodeName: 1"),
    ] {
        let damaged =
            merge_last_known(text(sound(&BASE.replacen(from, to, 1))), &held.cluster, &held.places);
        assert_eq!(damaged.cluster, held.cluster, "{to}");
        assert_eq!(damaged.retained.len(), 1, "{to}");
    }
    let changed = merge_last_known(
        text(sound(&BASE.replacen("app: db", "app: new", 1))),
        &held.cluster,
        &held.places,
    );
    assert_eq!((changed.retained.len(), changed.cluster == held.cluster), (0, false));
}

/// S61: what is no regular file in a directory is never waited for.
#[test]
fn s61_a_fifo_in_a_directory_is_left_out() {
    let directory = Directory::new("fifo");
    fs::write(directory.0.join("a.yaml"), BASE).unwrap();
    let path = directory.0.join("b.yaml");
    assert!(process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    std::os::unix::fs::symlink(&path, directory.0.join("c.yaml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", directory.0.join("d.yaml")).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let folder = directory.0.clone();
    std::thread::spawn(move || drop(sender.send(load([Input::Path(folder)]))));
    let loaded = receiver.recv_timeout(std::time::Duration::from_secs(30)).expect("it never waits");
    assert_eq!(
        (loaded.cluster.pods.len(), loaded.incomplete.len(), loaded.has_errors()),
        (2, 3, false)
    );
}

/// S61: whatever happens to a file, no pod that was isolated is open afterwards; and where the text
/// alone would open one, there is an error.
#[test]
fn s61_accidents_open_nothing() {
    let list = |objects: &[&str]| {
        let items = objects.iter().map(|object| {
            let indented: Vec<String> = object.lines().map(|line| format!("  {line}\n")).collect();
            format!("- {}", indented.concat().trim_start())
        });
        format!(
            "apiVersion: v1\nitems:\n{}kind: List\nmetadata:\n  resourceVersion: \"\"\n",
            items.collect::<String>()
        )
    };
    let (a, c) = (policy("first", "a"), policy("second", "c"));
    let pods: Vec<&str> = BASE.split("---\n").collect();
    let shapes = [
        format!("{BASE}---\n{a}---\n{c}"),
        format!("{a}---\n{c}---\n{BASE}"),
        list(&[pods[0], pods[1], &a, &c]),
        format!("{}---\n{}", list(&pods), list(&[&a, &c])),
        format!("# chart\n---\n# Source: a\n{a}---\n# Source: b\n{BASE}---\n{c}"),
    ];
    let sound: Vec<Merged> = shapes
        .iter()
        .map(|shape| merge_last_known(text(shape.as_str()), &Cluster::default(), &Places::new()))
        .collect();
    let mut dice = Dice(61);
    let mut opened = 0;
    for run in 0..8_000 {
        let which = dice.below(shapes.len());
        let before = &sound[which];
        assert_eq!(isolated(&before.cluster), ["a/db", "c/tool"]);
        let mut damaged = accident(&mut dice, &shapes[which]);
        if dice.below(4) == 0 {
            damaged = accident(&mut dice, &damaged);
        }
        let loaded = text(damaged.as_str());
        let alone = isolated(&loaded.cluster);
        let said = errors(&loaded);
        if alone.len() < 2 {
            opened += 1;
            assert!(!said.is_empty(), "run {run}: opened without a word:\n{damaged}");
        }
        let problems = loaded.problems.clone();
        let after = merge_last_known(loaded, &before.cluster, &before.places);
        assert_eq!(
            isolated(&after.cluster),
            ["a/db", "c/tool"],
            "run {run}: {problems:?}\n{damaged}"
        );
    }
    assert!(opened > 400, "only {opened} of the accidents did anything");
}

/// S10: whom a broken selector selects beyond those that it should, it must not open.
#[test]
fn s10_a_policy_whose_selector_is_broken_isolates_and_allows_nothing() {
    for spec in [
        "{podSelector: {matchExpressions: [{key: app, operator: Inn, values: [web]}]}, ingress: [{}]}",
        "{podSelektor: {matchLabels: {app: web}}, ingress: [{}]}",
        "{podSelector: {matchLabel: {app: web}}, ingress: [{}]}",
        "{podSelector: {matchLabels: {app: yes}}, ingress: [{}]}",
    ] {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: open, namespace: shop}}\nspec: {spec}\n"
        );
        let loaded = netpolc_kube_sync::load([netpolc_kube_sync::Input::bytes("x.yaml", text)]);
        assert!(loaded.has_errors(), "{spec}");
        let policy = loaded.cluster.policies.values().next().unwrap();
        assert_eq!(policy.ingress, netpolc_policy::Isolation::Isolated(vec![]), "{spec}");
    }
}

/// A label that YAML takes for a boolean is the word that is written, so that a policy about the
/// word selects the pod.
#[test]
fn s61_a_boolean_label_is_the_word_that_is_written() {
    for word in ["yes", "No", "on", "true"] {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: shop, labels: {{x: {word}}}}}\n\
             spec: {{containers: [{{name: c}}]}}\n"
        );
        let loaded = netpolc_kube_sync::load([netpolc_kube_sync::Input::bytes("x.yaml", text)]);
        assert!(loaded.has_errors(), "{word}");
        let pod = loaded.cluster.pods.values().next().unwrap();
        assert_eq!(pod.labels.get("x"), Some(word));
    }
}
