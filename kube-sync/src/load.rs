//! Loads files, directories and bytes into a cluster: reads them within limits, and adds what the
//! API server would have added. Not here: two objects of one name (`place`), and objects that an
//! input no longer shows (`last_known`).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use netpolc_policy::Cluster;

use crate::{
    Object, Problem, Severity,
    decode::decode,
    gather::Gathered,
    intern::Interner,
    kind::not_enforced,
    object::NAMESPACE_NAME_LABEL,
    place::{self, Places},
    plain,
    problem::{Path as FieldPath, Problems},
    source::{Foreign, Reader, Source},
};
#[cfg(feature = "watch")]
use crate::{decode::item, object::ItemType, source::Origin};

/// The longest input that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// A source of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file of any name; or a directory, in which every `*.yaml`, `*.yml` and `*.json` is read in
    /// the order of names. Hidden files and subdirectories are left out.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// Text that is already in memory.
    Bytes {
        /// The name under which messages refer to the text.
        name: Arc<str>,
        /// The text, YAML or JSON.
        bytes: Vec<u8>,
    },
}

impl Input {
    /// The input that a command line argument names: `-` is standard input.
    pub fn argument(argument: impl Into<PathBuf>) -> Self {
        let path = argument.into();
        if path.as_os_str() == "-" { Input::Stdin } else { Input::Path(path) }
    }

    /// An input of text in memory, which messages call `name`.
    pub fn bytes(name: impl Into<Arc<str>>, bytes: impl Into<Vec<u8>>) -> Self {
        Input::Bytes { name: name.into(), bytes: bytes.into() }
    }
}

/// What was read from the inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Every object that could be read.
    pub cluster: Cluster,
    /// What is wrong, in the order in which it was found: at most [`crate::MAX_PROBLEMS`], and one
    /// for each kind of other engines' policies.
    pub problems: Vec<Problem>,
    /// Inputs, or files of directories, that did not yield all the objects that they hold (because
    /// they are unreadable, empty or malformed, or because of a kind that is missing or unknown,
    /// documents that ran together, or a namespace that cannot be told), so that objects may be
    /// missing from `cluster`. Whoever already enforces objects keeps those that came from these
    /// inputs ([`crate::merge_last_known`]). A policy that is broken in part does not make its file
    /// incomplete: it isolates by itself.
    pub incomplete: Vec<Arc<str>>,
    /// Where the objects of `cluster` were found. A namespace that exists only because pods are in
    /// it has no place.
    pub places: Places,
}

impl Loaded {
    /// Whether any object, document or input was rejected, in part or as a whole.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|p| p.severity == Severity::Error)
    }
}

/// Reads all `inputs`. This never fails: what is wrong is in the result, and the rest applies.
///
/// Of two objects with the same kind and name the first is kept; the second is reported, with both
/// places, as an error where they differ. A second policy isolates all the same.
pub fn load(inputs: impl IntoIterator<Item = Input>) -> Loaded {
    let mut loader = Loader::default();
    for input in inputs {
        loader.input(input);
    }
    loader.finish()
}

/// What was read from one text; for watches, which have objects and no files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// The objects, with the items of lists in place of the lists. Unlike in a cluster, duplicates
    /// are all here.
    pub objects: Vec<Object>,
    /// What is wrong, in the order in which it was found.
    pub problems: Vec<Problem>,
    /// Whether some object may be missing, because a part of the text could not be read.
    pub lost: bool,
}

/// Converts the objects in `bytes` (JSON or YAML), which messages call `name`.
pub fn convert(name: &str, bytes: &[u8]) -> Converted {
    let (mut problems, mut interner) = (Problems::default(), Interner::default());
    let mut objects = Vec::new();
    let sink = &mut |_: &mut Reader, object, _| objects.push(object);
    let reading = read(name, bytes, &mut problems, &mut interner, None, sink);
    Converted { objects, problems: problems.into_list(), lost: reading.lost || !reading.any }
}

/// What reading an input yields besides objects and problems.
struct Reading {
    lost: bool,
    /// Whether there was a document that is not empty.
    any: bool,
    foreign: Foreign,
}

/// Decodes `bytes` up to the first that is not UTF-8.
fn read(
    name: &str,
    bytes: &[u8],
    problems: &mut Problems,
    interner: &mut Interner,
    gathered: Option<&mut Gathered>,
    sink: &mut crate::object::Sink,
) -> Reading {
    let source = Source::new(name.into(), bytes);
    let mut reader = Reader::new(&source, problems, interner);
    reader.gathered = gathered;
    let (text, broken) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = error.valid_up_to();
            (std::str::from_utf8(&bytes[..valid]).unwrap_or_default(), Some(valid))
        }
    };
    if let Some(at) = broken {
        (reader.lost, reader.any) = (true, true);
        let message = "the file is not valid UTF-8 from here on, and the rest is not read; save \
            it as UTF-8";
        reader.error(u32::try_from(at).unwrap_or(u32::MAX), &FieldPath::Root, message);
    }
    decode(&mut reader, text, sink);
    Reading { lost: reader.lost, any: reader.any, foreign: reader.foreign }
}

/// Why a file is read: what is an error in a file that was named is a warning in one that happens
/// to lie in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    ByName,
    /// The file lies in a directory that was given, where files may be anything.
    InDirectory,
}

/// Puts together what inputs hold.
#[derive(Default)]
pub(crate) struct Loader {
    pub cluster: Cluster,
    problems: Problems,
    incomplete: Vec<Arc<str>>,
    pub interner: Interner,
    places: Places,
    /// What is gathered beside the cluster; None where it is enforced.
    pub gathered: Option<Gathered>,
    /// Policies of other engines by kind and version: how many there are, and the file and line of
    /// the first.
    foreign: BTreeMap<(String, String), (usize, Arc<str>, u32)>,
}

impl Loader {
    /// Gathers what answers need, too.
    pub fn answering() -> Self {
        Self { gathered: Some(Gathered::default()), ..Self::default() }
    }

    pub fn input(&mut self, input: Input) {
        match input {
            Input::Path(path) => self.path(&path),
            Input::Stdin => self.reader("-", io::stdin().lock(), Given::ByName),
            Input::Bytes { name, bytes } => self.bytes(&name, &bytes, Given::ByName),
        }
    }

    fn path(&mut self, path: &Path) {
        let name = plain(&path.display().to_string()).into_owned();
        if !path.is_dir() {
            return match File::open(path) {
                Ok(file) => self.reader(&name, file, Given::ByName),
                Err(error) => self.unreadable(&name, &error.to_string()),
            };
        }
        match manifests(path) {
            Ok(files) if files.is_empty() => {
                let message = "this directory contains no *.yaml, *.yml or *.json file";
                self.whole(&name, message.into(), Severity::Warning);
            }
            Ok(files) => files.iter().for_each(|file| self.entry(file)),
            Err(error) => self.unreadable(&name, &error.to_string()),
        }
    }

    /// Reads a file of a directory. Only regular files are read: opening or reading anything else
    /// (a FIFO, a device) could block for ever.
    fn entry(&mut self, path: &Path) {
        let name = plain(&path.display().to_string()).into_owned();
        let open = || -> io::Result<Option<File>> {
            if !path.metadata()?.is_file() {
                return Ok(None);
            }
            // The file may have been replaced by a FIFO since the check, so it is opened without
            // blocking and checked again.
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
            Ok(file.metadata()?.is_file().then_some(file))
        };
        match open() {
            Ok(Some(file)) => self.reader(&name, file, Given::InDirectory),
            Ok(None) => {
                self.incomplete.push(name.as_str().into());
                let message =
                    "this is not a regular file but a FIFO, a socket or a device; it is ignored";
                self.whole(&name, message.into(), Severity::Warning);
            }
            Err(error) => self.unreadable(&name, &error.to_string()),
        }
    }

    fn reader(&mut self, name: &str, from: impl Read, given: Given) {
        let mut bytes = Vec::new();
        match from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes) {
            Ok(_) => self.bytes(name, &bytes, given),
            Err(error) => self.unreadable(name, &error.to_string()),
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8], given: Given) {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return self.unreadable(
                name,
                &format!(
                    "it is larger than {} MiB; split it into several files",
                    MAX_FILE_BYTES >> 20
                ),
            );
        }
        let Self { cluster, problems, incomplete, interner, places, gathered, .. } = self;
        let reading =
            read(name, bytes, problems, interner, gathered.as_mut(), &mut |reader, object, at| {
                place::put(cluster, places, reader, object, at);
            });
        if reading.lost || !reading.any {
            incomplete.push(name.into());
        }
        for (kind, (count, line)) in reading.foreign {
            self.foreign.entry(kind).or_insert_with(|| (0, name.into(), line)).0 += count;
        }
        if !reading.any {
            // An empty file is probably being written (`kubectl get ... > FILE`). A file with
            // comments alone may come from a chart.
            let blank = bytes.iter().all(u8::is_ascii_whitespace);
            let severity =
                if blank || given == Given::ByName { Severity::Error } else { Severity::Warning };
            let message = "this input contains no object, so the objects that it held before stay \
                enforced; to remove them, delete the file or write an empty list into it (kind: \
                List, apiVersion: v1, items: [])";
            self.whole(name, message.into(), severity);
        }
    }

    /// Takes an object that an API server has sent, of the type that it was asked for.
    #[cfg(feature = "watch")]
    pub fn served(&mut self, name: &str, text: &str, item_type: ItemType) {
        let Self { cluster, problems, interner, places, gathered, .. } = self;
        let source = Source::new(name.into(), text.as_bytes());
        let mut reader = Reader::new(&source, problems, interner);
        reader.origin = Origin::Server;
        reader.gathered = gathered.as_mut();
        let fields = serde_json::from_str(text).ok();
        item(&mut reader, text, text, fields, Some(item_type), &mut |reader, object, at| {
            place::put(cluster, places, reader, object, at);
        });
    }

    fn unreadable(&mut self, name: &str, error: &str) {
        self.incomplete.push(name.into());
        self.whole(name, format!("cannot be read: {error}"), Severity::Error);
    }

    /// Reports what is wrong with an input as a whole.
    pub fn whole(&mut self, name: &str, message: String, severity: Severity) {
        let file = name.into();
        self.problems.push(Problem {
            file,
            line: None,
            document: None,
            object: None,
            field: None,
            message,
            severity,
        });
    }

    /// Adds the namespaces that exist because pods are in them, and reports the policies that other
    /// engines would enforce.
    pub fn finish(mut self) -> Loaded {
        for key in self.cluster.pods.keys() {
            if !self.cluster.namespaces.contains_key(&key.namespace) {
                let labels = self.interner.labels([(NAMESPACE_NAME_LABEL, &*key.namespace)]);
                self.cluster.namespaces.insert(key.namespace.clone(), labels.into());
            }
        }
        let Self { cluster, problems, incomplete, places, foreign, .. } = self;
        let mut problems = problems.into_list();
        problems.extend(foreign.into_iter().map(|((kind, version), (count, file, line))| {
            Problem {
                file,
                line: Some(line),
                document: None,
                object: None,
                field: None,
                message: not_enforced(count, &kind, &version),
                severity: Severity::Warning,
            }
        }));
        Loaded { cluster, problems, incomplete, places }
    }
}

/// The files of a directory that may hold objects, in the order of their names.
fn manifests(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in directory.read_dir()? {
        let path = entry?.path();
        if is_manifest(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file of this name is read where it lies in a directory.
pub fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json"))
}
