//! What Namespaces say of pods that no policy isolates (S91): the annotation, in both ways of
//! reading JSON, in YAML, and where two documents contradict each other or one cannot be read.

use netpolc_kube_sync::{Input, Loaded, Places, load, merge_last_known};
use netpolc_policy::{Cluster, Unselected};

const ANNOTATION: &str = "netpolc.io/isolate-by-default";

fn text(text: impl Into<Vec<u8>>) -> Loaded {
    load([Input::bytes("f.yaml", text)])
}

fn messages(loaded: &Loaded) -> Vec<String> {
    loaded.problems.iter().map(ToString::to_string).collect()
}

/// A Namespace with these annotations, in JSON.
fn namespace(annotations: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"n","labels":{{"a":"b"}},"annotations":{annotations}}}}}"#
    )
}

/// What the namespace says. JSON is read in two ways, of which a comment before it rules one out.
fn read(annotations: &str) -> (Option<Unselected>, Vec<String>) {
    let json = namespace(annotations);
    let (fast, thorough) = (text(json.clone()), text(format!("# YAML\n{json}")));
    assert_eq!(fast.cluster, thorough.cluster, "{annotations}");
    assert_eq!(fast.problems.len(), thorough.problems.len(), "{annotations}");
    let namespace = &fast.cluster.namespaces["n"];
    assert_eq!(namespace.labels.get("a"), Some("b"));
    (namespace.unselected, messages(&fast))
}

#[test]
fn s91_true_and_false_are_read_and_everything_else_isolates_and_is_named() {
    let with = |value: &str| format!(r#"{{"{ANNOTATION}":{value},"x":"y"}}"#);
    for (value, expected) in
        [(r#""true""#, Some(Unselected::Isolated)), (r#""false""#, Some(Unselected::Open))]
    {
        assert_eq!(read(&with(value)), (expected, vec![]), "{value}");
    }
    assert_eq!(read("null"), (None, vec![]));
    assert_eq!(read("{}"), (None, vec![]));
    for (value, message) in [
        (r#""yes""#, "`yes` is neither `true` nor `false`, so the namespace's pods are isolated"),
        (r#""True""#, "write one of these, or remove the annotation"),
        (r#""""#, "is neither `true` nor `false`"),
        ("null", "is neither `true` nor `false`"),
        ("true", "must be a string"),
        ("false", "must be a string"),
        ("{}", "must be a string"),
    ] {
        let (unselected, messages) = read(&with(value));
        assert_eq!(unselected, Some(Unselected::Isolated), "{value}");
        assert_eq!(messages.len(), 1, "{messages:?}");
        let expected = format!("Namespace n: metadata.annotations.{ANNOTATION}: ");
        assert!(messages[0].contains(&expected), "{messages:?}");
        assert!(messages[0].contains(message), "{messages:?}");
    }
    for annotations in [r#"["x"]"#, "5", r#""true""#] {
        let (unselected, messages) = read(annotations);
        assert_eq!(unselected, Some(Unselected::Isolated), "{annotations}");
        assert!(messages[0].contains("must be an object"), "{messages:?}");
    }
    let (unselected, messages) =
        read(&format!(r#"{{"{ANNOTATION}":"false","{ANNOTATION}":"true"}}"#));
    assert_eq!(unselected, Some(Unselected::Isolated));
    assert!(messages.iter().any(|message| message.contains("given twice")), "{messages:?}");
}

/// S61: of two documents about one namespace, the stricter counts, whichever comes first.
#[test]
fn s61_s91_of_two_documents_that_contradict_each_other_the_stricter_counts() {
    let (shut, open) = (format!("{ANNOTATION}: 'true'"), format!("{ANNOTATION}: 'false'"));
    let document = |annotation: &str| {
        let metadata = format!("{{name: shop, annotations: {{{annotation}}}}}");
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {metadata}\n")
    };
    for (one, other, expected) in [
        (&*shut, &*open, Some(Unselected::Isolated)),
        (&shut, "", Some(Unselected::Isolated)),
        // Without an annotation, it is for the node to say, which may isolate.
        (&open, "", None),
    ] {
        for pair in [[one, other], [other, one]] {
            let loaded = text(pair.map(document).join("---\n"));
            assert_eq!(loaded.cluster.namespaces["shop"].unselected, expected, "{pair:?}");
            let messages = messages(&loaded);
            assert!(messages[0].contains("contradicts"), "{pair:?} {messages:?}");
        }
    }
}

/// S61: a file that breaks takes back nothing of what it said, and a sound file does.
#[test]
fn s61_s91_what_a_broken_file_said_stays() {
    let sound = namespace(&format!(r#"{{"{ANNOTATION}":"true"}}"#));
    let (before, places) = {
        let merged = merge_last_known(text(sound.clone()), &Cluster::default(), &Places::new());
        (merged.cluster, merged.places)
    };
    for broken in [&sound[..sound.len() - 20], "apiVersion: v1\nkind: Namespace\nmetadata: [n]\n"] {
        let merged = merge_last_known(text(broken), &before, &places);
        let unselected = merged.cluster.namespaces.get("n").and_then(|n| n.unselected);
        assert_eq!(unselected, Some(Unselected::Isolated), "{broken}");
    }
    let merged = merge_last_known(text(namespace("{}")), &before, &places);
    assert_eq!(merged.cluster.namespaces["n"].unselected, None);
}

/// S61, S91: a document that breaks off isolates where the annotation may have been in the part
/// that is missing, also where nothing was known of the namespace before.
#[test]
fn s61_s91_a_document_that_breaks_off_isolates_unless_its_annotations_are_whole() {
    let (shut, open) = (Some(Unselected::Isolated), Some(Unselected::Open));
    for (metadata, expected, consequences) in [
        ("{name: n, annotations: {A: 'true'}, labels: {a: \"b}", shut, 0),
        ("{name: n, annotations: {A: 'false'}, labels: {a: \"b}", open, 0),
        ("{name: n, annotations: {x: y}, labels: {a: \"b}", None, 0),
        ("{name: n, annotations: {}}\nspec: {finalizers: [\"x}", None, 0),
        ("{name: n}\nspec: {finalizers: [\"x}", None, 0),
        ("{name: n, annotations: {x: \"y}", shut, 1),
        ("{name: n, labels: {a: \"b}, annotations: {A: 'false'}", shut, 1),
        ("\n  name: n\n  labels:\n    a: \"b\n  annotations:\n    A: 'true'\n", shut, 1),
    ] {
        let metadata = metadata.replace('A', ANNOTATION);
        let loaded = text(format!("kind: Namespace\napiVersion: v1\nmetadata: {metadata}"));
        let messages = messages(&loaded);
        let unselected = loaded.cluster.namespaces.get("n").map(|n| n.unselected);
        assert_eq!(unselected, Some(expected), "{metadata} {messages:?}");
        assert!(messages[0].contains("is not valid YAML"), "{messages:?}");
        let told = messages.iter().filter(|m| m.contains("breaks off before the annotations end"));
        assert_eq!(told.count(), consequences, "{messages:?}");
    }
}
