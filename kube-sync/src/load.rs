//! Files, directories and bytes to a cluster: reading within limits, duplicates, and what the API
//! server would have added.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use netpolc_policy::{Cluster, ObjectKey};

use crate::{
    Object, Problem, Severity,
    decode::decode,
    intern::Interner,
    object::NAMESPACE_NAME_LABEL,
    problem::{ObjectRef, Path as FieldPath, Problems},
    source::{Reader, Source},
};

/// An input longer than this, in bytes, is refused.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file of any name; or a directory, of which every `*.yaml`, `*.yml` and `*.json` is read in
    /// the order of their names, hidden files and subdirectories left out.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// Text that is already there.
    Bytes {
        /// What to call it in messages.
        name: Arc<str>,
        /// YAML or JSON.
        bytes: Vec<u8>,
    },
}

impl Input {
    /// The input that a command line argument names: `-` is standard input.
    pub fn argument(argument: impl Into<PathBuf>) -> Self {
        let path = argument.into();
        if path.as_os_str() == "-" { Input::Stdin } else { Input::Path(path) }
    }

    /// Text under a name.
    pub fn bytes(name: impl Into<Arc<str>>, bytes: impl Into<Vec<u8>>) -> Self {
        Input::Bytes { name: name.into(), bytes: bytes.into() }
    }
}

/// What the inputs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Everything that could be understood.
    pub cluster: Cluster,
    /// In the order in which they were found; at most [`crate::MAX_PROBLEMS`] and one.
    pub problems: Vec<Problem>,
    /// Inputs of which some text could not be read at all (unreadable, oversized, broken syntax, a
    /// policy without a namespace that can be told), so that objects may be missing from `cluster`.
    /// Whoever already enforces objects keeps those that are not here while this is not empty. An
    /// object that was found but is broken in part does not count: it isolates by itself. Nor does
    /// what is no Kubernetes object.
    pub incomplete: Vec<Arc<str>>,
}

impl Loaded {
    /// Was any object, document or input refused, in part or as a whole?
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|p| p.severity == Severity::Error)
    }
}

/// Reads all `inputs`. Never fails: what is wrong is in the result, and the rest applies.
///
/// Of two objects with the same kind and name the first is kept; the second is reported, with both
/// places, as an error where they differ.
pub fn load(inputs: impl IntoIterator<Item = Input>) -> Loaded {
    let mut loader = Loader::default();
    for input in inputs {
        loader.input(input);
    }
    loader.finish()
}

/// What one text says; for watches, which have objects and no files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// The objects, lists resolved. Unlike in a cluster, duplicates are all here.
    pub objects: Vec<Object>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Something could not be read at all.
    pub lost: bool,
}

/// Converts the objects in `bytes` (JSON or YAML), called `name` in messages.
pub fn convert(name: &str, bytes: &[u8]) -> Converted {
    let (mut problems, mut interner) = (Problems::default(), Interner::default());
    let mut objects = Vec::new();
    let lost = read(name, bytes, &mut problems, &mut interner, &mut |_, object, _| objects.push(object));
    Converted { objects, problems: problems.into_list(), lost }
}

/// Decodes `bytes` as far as they are UTF-8. True where something was lost.
fn read(
    name: &str,
    bytes: &[u8],
    problems: &mut Problems,
    interner: &mut Interner,
    sink: &mut crate::object::Sink,
) -> bool {
    let source = Source::new(name.into(), bytes);
    let mut reader = Reader::new(&source, problems, interner);
    let (text, broken) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = error.valid_up_to();
            (std::str::from_utf8(&bytes[..valid]).unwrap_or_default(), Some(valid))
        }
    };
    if let Some(at) = broken {
        reader.lost = true;
        let message = "not UTF-8 from here on; what follows is not read; save the file as UTF-8";
        reader.error(u32::try_from(at).unwrap_or(u32::MAX), &FieldPath::Root, message);
    }
    decode(&mut reader, text, sink);
    reader.lost
}

#[derive(Default)]
struct Loader {
    cluster: Cluster,
    problems: Problems,
    incomplete: Vec<Arc<str>>,
    interner: Interner,
    /// Where each object was found.
    places: HashMap<(&'static str, ObjectKey), (Arc<str>, u32)>,
}

impl Loader {
    fn input(&mut self, input: Input) {
        match input {
            Input::Path(path) => self.path(&path),
            Input::Stdin => self.reader("-", io::stdin().lock()),
            Input::Bytes { name, bytes } => self.bytes(&name, &bytes),
        }
    }

    fn path(&mut self, path: &Path) {
        let name = path.display().to_string();
        if !path.is_dir() {
            return match File::open(path) {
                Ok(file) => self.reader(&name, file),
                Err(error) => self.unreadable(&name, &error.to_string()),
            };
        }
        match manifests(path) {
            Ok(files) if files.is_empty() => {
                let message = "no *.yaml, *.yml or *.json in this directory";
                self.whole(&name, message.into(), Severity::Warning);
            }
            Ok(files) => files.iter().for_each(|file| self.path(file)),
            Err(error) => self.unreadable(&name, &error.to_string()),
        }
    }

    fn reader(&mut self, name: &str, from: impl Read) {
        let mut bytes = Vec::new();
        match from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes) {
            Ok(_) => self.bytes(name, &bytes),
            Err(error) => self.unreadable(name, &error.to_string()),
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return self.unreadable(name, &format!("more than {} MiB; split it into files", MAX_FILE_BYTES >> 20));
        }
        let Self { cluster, problems, incomplete, interner, places } = self;
        let lost = read(name, bytes, problems, interner, &mut |reader, object, at| {
            keep(cluster, places, reader, object, at);
        });
        if lost {
            incomplete.push(name.into());
        }
    }

    fn unreadable(&mut self, name: &str, error: &str) {
        self.incomplete.push(name.into());
        self.whole(name, format!("cannot be read: {error}"), Severity::Error);
    }

    fn whole(&mut self, name: &str, message: String, severity: Severity) {
        let file = name.into();
        self.problems.push(Problem { file, line: None, document: None, object: None, field: None, message, severity });
    }

    /// Adds the namespaces that exist because pods are in them.
    fn finish(mut self) -> Loaded {
        for key in self.cluster.pods.keys() {
            if !self.cluster.namespaces.contains_key(&key.namespace) {
                let labels = self.interner.labels([(NAMESPACE_NAME_LABEL, &*key.namespace)]);
                self.cluster.namespaces.insert(key.namespace.clone(), labels);
            }
        }
        Loaded { cluster: self.cluster, problems: self.problems.into_list(), incomplete: self.incomplete }
    }
}

/// The files of a directory that hold objects, in the order of their names.
fn manifests(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in directory.read_dir()? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|e| e.to_str());
        if !hidden && matches!(extension, Some("yaml" | "yml" | "json")) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Puts `object` into the cluster, unless there is one of the same kind and name.
fn keep(
    cluster: &mut Cluster,
    places: &mut HashMap<(&'static str, ObjectKey), (Arc<str>, u32)>,
    reader: &mut Reader,
    object: Object,
    at: u32,
) {
    let (kind, key) = match &object {
        Object::Namespace(name, _) => ("Namespace", ObjectKey::new("", name.clone())),
        Object::Pod(pod) => ("Pod", pod.key.clone()),
        Object::Policy(policy) => ("NetworkPolicy", policy.key.clone()),
        Object::Node(name, _) => ("Node", ObjectKey::new("", name.clone())),
        Object::Service(key, _) => ("Service", key.clone()),
    };
    match places.entry((kind, key.clone())) {
        Entry::Vacant(place) => {
            place.insert((reader.source.name.clone(), reader.source.line(at as usize)));
            match object {
                Object::Namespace(name, labels) => drop(cluster.namespaces.insert(name, labels)),
                Object::Pod(pod) => drop(cluster.pods.insert(key, pod)),
                Object::Policy(policy) => drop(cluster.policies.insert(key, policy)),
                Object::Node(name, node) => drop(cluster.nodes.insert(name, node)),
                Object::Service(_, service) => drop(cluster.services.insert(key, service)),
            }
        }
        Entry::Occupied(place) => {
            let (file, line) = place.get();
            let same = match &object {
                Object::Namespace(name, labels) => cluster.namespaces.get(name) == Some(labels),
                Object::Pod(pod) => cluster.pods.get(&key) == Some(pod),
                Object::Policy(policy) => cluster.policies.get(&key) == Some(policy),
                Object::Node(name, node) => cluster.nodes.get(name) == Some(node),
                Object::Service(key, service) => cluster.services.get(key) == Some(service),
            };
            let name = if key.namespace.is_empty() { key.name.to_string() } else { key.to_string() };
            reader.object = Some(ObjectRef { kind: kind.into(), name: name.into() });
            if same {
                let message = format!("given before at {file}:{line}; remove one");
                reader.warning(at, &FieldPath::Root, message);
            } else {
                let message = format!("contradicts the one at {file}:{line}, which is kept; remove one");
                reader.error(at, &FieldPath::Root, message);
            }
        }
    }
}
