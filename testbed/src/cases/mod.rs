//! The shared corpus: clusters, policies and questions with their verdicts, each proving an item of
//! the semantics. The verdicts were worked out from the API text by hand; every judge (the oracle,
//! the table evaluator, the targets) must give them.
//!
//! Here: the cases ([`all`]) and the file format ([`parse`]). Not here: any judge, and what tables
//! look like (`testbed/filetests`).
//!
//! A file under `testbed/cases/` is a stream of YAML documents:
//!
//! ```yaml
//! kind: Case
//! items: [S18, S19]            # what it proves; the first is the probes' default
//! description: In one sentence.
//! cluster: two-nodes           # optional: the objects of cases/clusters/two-nodes.yaml come first
//! expect:                      # optional: the problems that decoding must report, and no others
//! - {severity: error, object: default/name, field: "spec.ingress[0].from"}
//! ---
//! # Kubernetes objects, verbatim
//! ---
//! kind: Probes
//! probes:                      # lists multiply out
//! - {src: [ns/pod, 10.0.0.1], dst: ns/pod, proto: [TCP, ICMP], port: [80, 443],
//!    allowed: false, item: S19}
//! ```
//!
//! ICMP is an echo request, unless `message: [13/0]` names other types and codes. Probes take
//! `family: 4` or `6`, `srcIP` and `dstIP` for pods with several addresses. Without
//! them IPv4 is chosen where both ends have it. `via: "10.96.0.1:80"` is the address and port of a
//! Service that the packet was sent to and that became `dst` and `port`.

mod notation;
mod probe;

use netpolc_kube_sync::{Problem, Severity};
use netpolc_policy::Cluster;

pub use probe::Probe;

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/cases.rs"));
}

/// One case with all names resolved.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without `.yaml`.
    pub name: String,
    /// The items of the semantics it proves, such as `S18`.
    pub items: Vec<String>,
    /// What the case shows, in a sentence.
    pub description: String,
    /// Name and text of the inputs with its objects, as a person would give them to `netpolc`. What
    /// is not an object is blanked out, so that lines are those of the file.
    pub inputs: Vec<(String, String)>,
    /// The objects of the case.
    pub cluster: Cluster,
    /// What kube-sync reported about the objects.
    pub problems: Vec<Problem>,
    /// What it should have reported.
    pub expect: Vec<Expect>,
    /// The questions, lists multiplied out.
    pub probes: Vec<Probe>,
}

/// A problem that decoding must report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Whether the object was refused or only partly understood.
    pub severity: Severity,
    /// The object's `namespace/name`.
    pub object: String,
    /// Path of the field; None: any.
    pub field: Option<String>,
}

/// What is wrong with a case file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cases/{file}:{line}: {message}")]
pub struct Error {
    /// The path of the file below `cases/`.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What and what to do.
    pub message: String,
}

/// All cases by name.
///
/// # Panics
/// Where a case file is malformed; the message names file and line.
pub fn all() -> Vec<Case> {
    let files = embedded::CASES.iter().filter(|(path, _)| !path.contains('/'));
    let cases = files.map(|(path, text)| {
        parse(path.trim_end_matches(".yaml"), text).unwrap_or_else(|e| panic!("{e}"))
    });
    cases.collect()
}

/// The case called `name`.
///
/// # Panics
/// Where there is none, or it is malformed.
pub fn named(name: &str) -> Case {
    let file = format!("{name}.yaml");
    let (_, text) = embedded::CASES
        .iter()
        .find(|(path, _)| *path == file)
        .unwrap_or_else(|| panic!("no case {name}"));
    parse(name, text).unwrap_or_else(|e| panic!("{e}"))
}

/// Reads one case file.
///
/// # Errors
/// Names the line that is not a case: no header, a document that is not understood, or a probe that
/// names nothing in the cluster.
pub fn parse(name: &str, text: &str) -> Result<Case, Error> {
    let file = format!("{name}.yaml");
    let error = |line: usize, message: String| Error { file: file.clone(), line, message };
    let documents = notation::documents(text);
    let mut case = Case {
        name: name.to_owned(),
        items: Vec::new(),
        description: String::new(),
        inputs: Vec::new(),
        cluster: Cluster::default(),
        problems: Vec::new(),
        expect: Vec::new(),
        probes: Vec::new(),
    };
    let (mut objects, mut probes, mut header) = (String::new(), Vec::new(), None);
    for document in &documents {
        let kind = document
            .lines
            .iter()
            .find(|l| !l.is_empty() && !l.starts_with('#'))
            .copied()
            .unwrap_or("");
        match kind {
            "kind: Case" => header = Some(document),
            "kind: Probes" => probes.push(document),
            _ => {
                document.lines.iter().for_each(|l| objects.extend([l, "\n"]));
                objects.push_str("---\n");
                continue;
            }
        }
        objects.extend(document.lines.iter().map(|_| "\n"));
        objects.push_str("---\n");
    }
    let header =
        header.ok_or_else(|| error(1, "no document `kind: Case`: put one first".into()))?;
    let shared = read_header(header, &mut case).map_err(|(line, message)| error(line, message))?;
    if let Some((line, shared)) = shared {
        let path = format!("clusters/{shared}.yaml");
        let (_, text) = embedded::CASES
            .iter()
            .find(|(p, _)| *p == path)
            .ok_or_else(|| error(line, format!("there is no cases/{path}")))?;
        case.inputs.push((format!("cases/{path}"), (*text).to_owned()));
    }
    // Some ask about the shared cluster alone; a text without objects is an error.
    if objects.lines().any(|line| !(line.is_empty() || line.starts_with('#') || line == "---")) {
        case.inputs.push((format!("cases/{file}"), objects));
    }
    (case.cluster, case.problems) = decode(&case.inputs);
    for document in probes {
        for (line, fields) in
            notation::rows(document, "probes").map_err(|(line, message)| error(line, message))?
        {
            let found = probe::resolve(line, &fields, &case.cluster, &case.items[0]);
            case.probes.extend(found.map_err(|message| error(line, message))?);
        }
    }
    if case.probes.is_empty() {
        return Err(error(1, "the case asks nothing: add a document `kind: Probes`".into()));
    }
    Ok(case)
}

fn decode(inputs: &[(String, String)]) -> (Cluster, Vec<Problem>) {
    let inputs = inputs
        .iter()
        .map(|(name, text)| netpolc_kube_sync::Input::bytes(name.as_str(), text.as_bytes()));
    let loaded = netpolc_kube_sync::load(inputs);
    (loaded.cluster, loaded.problems)
}

/// Fills in what the header says; gives the shared cluster it names.
fn read_header(
    document: &notation::Document<'_>,
    case: &mut Case,
) -> Result<Option<(usize, String)>, (usize, String)> {
    let mut shared = None;
    for (line, key, value) in notation::fields(document)? {
        match (key.as_str(), value) {
            ("kind", _) => {}
            ("items", notation::Value::List(items)) if !items.is_empty() => case.items = items,
            ("description", notation::Value::One(text)) => case.description = text,
            ("cluster", notation::Value::One(name)) => shared = Some((line, name)),
            ("expect", _) => {
                for (line, fields) in notation::rows(document, "expect")? {
                    case.expect.push(expect(&fields).map_err(|message| (line, message))?);
                }
            }
            (key, _) => {
                return Err((
                    line,
                    format!("field {key} of a case header: unknown, empty or of another type"),
                ));
            }
        }
    }
    if case.items.is_empty() || case.description.is_empty() {
        return Err((document.line, "a case header needs items and a description".into()));
    }
    Ok(shared)
}

fn expect(fields: &notation::Fields) -> Result<Expect, String> {
    let one = |name: &str| match fields.iter().find(|(k, _)| k == name) {
        None => Ok(None),
        Some((_, notation::Value::One(text))) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{name} of an expected problem is one string")),
    };
    let severity = match one("severity")?.as_deref() {
        Some("error") => Severity::Error,
        Some("warning") => Severity::Warning,
        other => return Err(format!("severity is error or warning, not {other:?}")),
    };
    let object = one("object")?.ok_or("an expected problem needs its object, as namespace/name")?;
    Ok(Expect { severity, object, field: one("field")? })
}
