//! The agent's input from files. They are read on a thread of its own, so that neither a FIFO nor a
//! large dump blocks the loop; objects that can no longer be read stay; and the node's name must
//! occur in the input.
//!
//! Not here: when files are read ([`super::file_watch`]), and what follows ([`super::file_loop`]).

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use netpolc_kube_sync::{
    Input, Loaded, Merged, Places, Problem, Severity, contains_file, merge_last_known,
};
use netpolc_policy::Cluster;
use tokio::sync::oneshot;

/// The input files, and what was last read from them.
#[derive(Debug)]
pub struct Files {
    node: Arc<str>,
    paths: Vec<PathBuf>,
    /// Where the objects of the agent's cluster were found.
    places: Places,
    /// Whether the files have ever named the node. If so, the name is not misspelt.
    named: bool,
    reading: Option<oneshot::Receiver<Loaded>>,
    /// Whether the files have changed while they were read, so that they have to be read again.
    again: bool,
}

/// What was read from the files.
#[derive(Debug)]
pub struct FileUpdate {
    /// The objects to enforce, those that stay from before included.
    pub merged: Merged,
    /// What is wrong with the input, one line each.
    pub problems: Vec<String>,
    /// Why nothing is to be enforced; None where the input can be used.
    pub refused: Option<String>,
    /// Inputs that could not be read completely, so that objects of these may be missing.
    pub incomplete: Vec<Arc<str>>,
    /// How many of the problems are errors.
    pub errors: usize,
}

impl Files {
    /// The files at `paths`; nothing is read yet.
    pub fn new(node: Arc<str>, paths: &[PathBuf]) -> Self {
        let paths = paths.to_vec();
        Self { node, paths, places: Places::new(), named: false, reading: None, again: false }
    }

    /// Begins to read the files. While they are being read, this makes them be read once more
    /// afterwards.
    pub fn read(&mut self) {
        self.again = self.reading.is_some();
        if self.again {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        let paths = self.paths.clone();
        // This is not one of the runtime's threads: the runtime would wait for it at its end, and
        // reading a FIFO without a writer never ends.
        std::thread::spawn(move || {
            drop(sender.send(netpolc_kube_sync::load(paths.iter().map(Input::argument))))
        });
        self.reading = Some(receiver);
    }

    /// Waits until the files have been read; forever where nothing is being read. Cancel safe.
    pub async fn next_update(&mut self, before: &Cluster) -> FileUpdate {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let loaded = reading.await;
        self.reading = None;
        if std::mem::take(&mut self.again) {
            self.read();
        }
        match loaded {
            Ok(loaded) => self.take(loaded, before),
            // The thread has panicked.
            Err(_) => {
                let refused =
                    Some("the files could not be read, through a bug in netpolc".to_owned());
                let merged = Merged {
                    cluster: before.clone(),
                    places: self.places.clone(),
                    retained: vec![],
                };
                FileUpdate { merged, problems: vec![], refused, incomplete: vec![], errors: 1 }
            }
        }
    }

    fn take(&mut self, loaded: Loaded, before: &Cluster) -> FileUpdate {
        let mut problems: Vec<String> = loaded.problems.iter().map(Problem::line).collect();
        let mut errors = loaded.problems.iter().filter(|p| p.severity == Severity::Error).count();
        let incomplete = loaded.incomplete.clone();
        let merged = merge_last_known(loaded, before, &self.places);
        self.places = merged.places.clone();
        let unknown_node = unknown_node(&merged.cluster, &self.node);
        self.named |= unknown_node.is_none();
        let refused = unknown_node.filter(|why| {
            errors += 1;
            problems.push(why.clone());
            !self.named
        });
        FileUpdate { merged, problems, refused, incomplete, errors }
    }
}

impl FileUpdate {
    /// The files from which the objects came.
    pub fn files(&self) -> BTreeSet<String> {
        self.merged.places.values().map(|place| place.file.to_string()).collect()
    }

    /// The first input that is incomplete and from which the installed tables may come. `files` are
    /// the files from which they came; None where that is not known, so that any input may be one.
    pub fn missing(&self, files: Option<&BTreeSet<String>>) -> Option<&Arc<str>> {
        let gave = |input: &&Arc<str>| {
            files.is_none_or(|files| files.iter().any(|file| contains_file(input, file)))
        };
        self.incomplete.iter().find(gave)
    }
}

/// A message where the input names nodes, but not this one.
fn unknown_node(cluster: &Cluster, node: &Arc<str>) -> Option<String> {
    const SHOWN: usize = 5;
    let pods = cluster.pods.values().filter_map(|pod| pod.node.as_ref());
    let names: BTreeSet<&Arc<str>> = cluster.nodes.keys().chain(pods).collect();
    if names.is_empty() || names.contains(node) {
        return None;
    }
    let shown: Vec<&str> = names.iter().take(SHOWN).map(|name| &***name).collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    Some(format!(
        "no Node and no pod's spec.nodeName is `{node}`, so nothing is enforced; give --node a \
        name that the files have ({}{more})",
        shown.join(", ")
    ))
}
