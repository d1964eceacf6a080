//! Finds annotations in trees, and reads those of netpolc: whether a policy is only tried (S84),
//! whether a namespace isolates pods that no policy selects (S90), and what lint need not report.
//! Not here: what pods' annotations say of security groups (`groups`).

use std::sync::Arc;

use netpolc_policy::{Mode, Unselected};

use crate::{
    problem::{Path, excerpt},
    source::Reader,
    strict,
    tree::{Node, Value},
};

/// The annotation by which a policy is only tried.
const MODE: &str = "netpolc.io/mode";

/// The annotation by which a namespace says what becomes of pods that no policy isolates.
pub(crate) const ISOLATE_BY_DEFAULT: &str = "netpolc.io/isolate-by-default";

/// The annotation by which an object says what lint need not report of it.
pub(crate) const LINT_ALLOW: &str = "netpolc.io/lint-allow";

/// The ids in [`LINT_ALLOW`], which are joined by commas. What they mean, nobody here knows.
pub(crate) fn lint_allow(object: &Node) -> Vec<Arc<str>> {
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let text = annotations.and_then(|annotations| annotations.text(LINT_ALLOW));
    let ids = text.into_iter().flat_map(|text| text.split(','));
    ids.map(str::trim).filter(|id| !id.is_empty()).map(Arc::from).collect()
}

/// What an object says under the name of one annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Annotation<'n> {
    Absent,
    /// The value, and its offset.
    Text(&'n str, u32),
    /// The value is no string, or several values contradict one another; that has been reported.
    Unclear,
}

/// The annotation `name` of what stands at `root`. Where metadata or annotations are given twice,
/// all must say the same of it; a value that is null is empty, as for the API server.
pub(crate) fn find<'n>(
    reader: &mut Reader,
    object: &'n Node,
    root: &Path,
    name: &str,
) -> Annotation<'n> {
    let metadata = root.field("metadata");
    let path = metadata.field("annotations");
    let fields = |node: &'n Node, name: &'static str| {
        let fields = match &node.value {
            Value::Map(fields) => fields.as_slice(),
            _ => &[],
        };
        fields.iter().filter(move |field| field.name == name).map(|field| &field.node)
    };
    let mut found = None;
    for given in fields(object, "metadata").flat_map(|node| fields(node, "annotations")) {
        let mut here = None;
        match &given.value {
            Value::Map(annotations) => {
                for annotation in annotations.iter().filter(|a| a.name == name) {
                    let node = &annotation.node;
                    let said = match &node.value {
                        Value::Null => Annotation::Text("", node.at),
                        Value::String(text) => Annotation::Text(text, node.at),
                        _ => {
                            strict::wrong_type(reader, node, &path.field(name), "a string");
                            Annotation::Unclear
                        }
                    };
                    here = Some(here.map_or(said, |before| same(before, said)));
                }
            }
            Value::Null => {}
            _ => {
                strict::wrong_type(reader, given, &path, "an object");
                here = Some(Annotation::Unclear);
            }
        }
        let here = here.unwrap_or(Annotation::Absent);
        found = Some(found.map_or(here, |before| same(before, here)));
    }
    found.unwrap_or(Annotation::Absent)
}

/// What two places say together; that they differ is reported by [`crate::repeated`].
fn same<'n>(one: Annotation<'n>, other: Annotation<'n>) -> Annotation<'n> {
    match (one, other) {
        (Annotation::Absent, Annotation::Absent) => Annotation::Absent,
        (Annotation::Text(a, at), Annotation::Text(b, _)) if a == b => Annotation::Text(a, at),
        _ => Annotation::Unclear,
    }
}

/// Whether a policy is only tried. What cannot be understood is enforced.
pub(crate) fn mode(reader: &mut Reader, object: &Node) -> Mode {
    match find(reader, object, &Path::Root, MODE) {
        Annotation::Text("audit", _) => Mode::Audited,
        Annotation::Text(other, at) => {
            let metadata = Path::Root.field("metadata");
            let path = metadata.field("annotations");
            let message = format!(
                "`{}` is not a mode, so the policy is enforced; write `audit` to try it only, or \
                 remove the annotation",
                excerpt(other)
            );
            reader.error(at, &path.field(MODE), message);
            Mode::Enforced
        }
        Annotation::Absent | Annotation::Unclear => Mode::Enforced,
    }
}

/// What a value of [`ISOLATE_BY_DEFAULT`] says; None where it cannot be understood.
pub(crate) fn isolate_by_default(value: &str) -> Option<Unselected> {
    match value {
        "true" => Some(Unselected::Isolated),
        "false" => Some(Unselected::Open),
        _ => None,
    }
}

/// Whether the object's document breaks off before its annotations end, so that some may be
/// missing.
fn may_be_missing(object: &Node) -> bool {
    let breaks_off = |node: &Node| node.value == Value::Broken || node.get("").is_some();
    let Some(metadata) = object.get("metadata") else { return breaks_off(object) };
    breaks_off(metadata.get("annotations").unwrap_or(metadata))
}

/// What a namespace says of pods that no policy isolates. What cannot be understood isolates: who
/// wrote it did not mean to leave things as they are, and an error must not open anything.
pub(crate) fn unselected(reader: &mut Reader, object: &Node) -> Option<Unselected> {
    let metadata = Path::Root.field("metadata");
    let path = metadata.field("annotations");
    match find(reader, object, &Path::Root, ISOLATE_BY_DEFAULT) {
        Annotation::Absent if may_be_missing(object) => {
            let message = format!(
                "the document breaks off before the annotations end, and `{ISOLATE_BY_DEFAULT}` \
                 may be among the missing ones, so the namespace's pods are isolated by default"
            );
            reader.error(object.at, &path, message);
            Some(Unselected::Isolated)
        }
        Annotation::Text(text, at) => Some(isolate_by_default(text).unwrap_or_else(|| {
            let message = format!(
                "`{}` is neither `true` nor `false`, so the namespace's pods are isolated by \
                 default; write one of these, or remove the annotation",
                excerpt(text)
            );
            reader.error(at, &path.field(ISOLATE_BY_DEFAULT), message);
            Unselected::Isolated
        })),
        Annotation::Unclear => Some(Unselected::Isolated),
        Annotation::Absent => None,
    }
}
