//! The agent's input from files: reading on a thread of its own, so that neither a FIFO nor a large
//! dump keeps the loop from anything; what stays enforced of it; and whether the node's name occurs
//! in it at all.
//!
//! Not here: when files are read ([`super::file_watch`]), what follows ([`super::file_loop`]).

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use netpolc_kube_sync::{Held, Input, Loaded, Places, Problem, Severity, holds, keep};
use netpolc_policy::Cluster;
use tokio::sync::oneshot;

/// The files and what is known of them.
#[derive(Debug)]
pub struct Files {
    node: Arc<str>,
    paths: Vec<PathBuf>,
    /// Where the objects of the agent's cluster were found.
    places: Places,
    /// The files named the node before: that they do not now is no misspelt name.
    named: bool,
    reading: Option<oneshot::Receiver<Loaded>>,
    /// They changed while they were read.
    again: bool,
}

/// What a reading says.
#[derive(Debug)]
pub struct News {
    /// What is to be enforced.
    pub held: Held,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
    /// Why nothing is to be enforced yet.
    pub refused: Option<String>,
    /// Inputs that could not be read as a whole: objects of these may be missing.
    pub incomplete: Vec<Arc<str>>,
    /// How many of the problems are errors.
    pub errors: usize,
}

impl Files {
    /// Reads nothing yet.
    pub fn new(node: Arc<str>, paths: &[PathBuf]) -> Self {
        let paths = paths.to_vec();
        Self { node, paths, places: Places::new(), named: false, reading: None, again: false }
    }

    /// Begins to read, or to read again as soon as what is read at the moment is done.
    pub fn read(&mut self) {
        self.again = self.reading.is_some();
        if self.again {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        let paths = self.paths.clone();
        // Not one of the runtime's: it would be waited for at the end, and a FIFO without a writer
        // ends never.
        std::thread::spawn(move || drop(sender.send(netpolc_kube_sync::load(paths.iter().map(Input::argument)))));
        self.reading = Some(receiver);
    }

    /// What was read; never where nothing is. Cancel safe.
    pub async fn news(&mut self, before: &Cluster) -> News {
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
                let refused = Some("the files could not be read (a fault of netpolc)".to_owned());
                let held = Held { cluster: before.clone(), places: self.places.clone(), kept: vec![] };
                News { held, problems: vec![], refused, incomplete: vec![], errors: 1 }
            }
        }
    }

    fn take(&mut self, loaded: Loaded, before: &Cluster) -> News {
        let mut problems: Vec<String> = loaded.problems.iter().map(Problem::line).collect();
        let mut errors = loaded.problems.iter().filter(|p| p.severity == Severity::Error).count();
        let incomplete = loaded.incomplete.clone();
        let held = keep(loaded, before, &self.places);
        self.places = held.places.clone();
        let nameless = nameless(&held.cluster, &self.node);
        self.named |= nameless.is_none();
        let refused = nameless.filter(|why| {
            errors += 1;
            problems.push(why.clone());
            !self.named
        });
        News { held, problems, refused, incomplete, errors }
    }
}

impl News {
    /// The files that the objects came from.
    pub fn files(&self) -> BTreeSet<String> {
        self.held.places.values().map(|place| place.file.to_string()).collect()
    }

    /// The first input of which objects are missing that may be among those of `files`, from which
    /// comes what is enforced; None for `files`: any may be.
    pub fn missing(&self, files: Option<&BTreeSet<String>>) -> Option<&Arc<str>> {
        let gave = |input: &&Arc<str>| files.is_none_or(|files| files.iter().any(|file| holds(input, file)));
        self.incomplete.iter().find(gave)
    }
}

/// What to say where the input knows nodes, but not this one.
fn nameless(cluster: &Cluster, node: &Arc<str>) -> Option<String> {
    const SHOWN: usize = 5;
    let pods = cluster.pods.values().filter_map(|pod| pod.node.as_ref());
    let names: BTreeSet<&Arc<str>> = cluster.nodes.keys().chain(pods).collect();
    if names.is_empty() || names.contains(node) {
        return None;
    }
    let shown: Vec<&str> = names.iter().take(SHOWN).map(|name| &***name).collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    Some(format!(
        "no Node and no pod's spec.nodeName is `{node}`: nothing is enforced for a node that nothing names; give --node \
         the name that the files have ({}{more})",
        shown.join(", ")
    ))
}
