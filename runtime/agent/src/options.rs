//! How an agent is run, and how one pass went.
//!
//! Not here: where its objects come from and what enforces (whoever starts it), the command line.

use std::{path::PathBuf, sync::Arc};

/// How an agent is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node whose pods are enforced.
    pub node: Arc<str>,
    /// Where the tables are pinned, which also gives the state files their names.
    pub pin_dir: PathBuf,
    /// Where the CNI plugin is answered; None with files.
    pub cni_socket: Option<PathBuf>,
    /// The taint that the node loses when the agent enforces.
    pub startup_taint: Option<String>,
    /// One pass, or until stopped.
    pub passes: Passes,
}

impl Options {
    /// Without CNI plugin and taint, until stopped.
    pub fn new(node: &str, pin_dir: PathBuf) -> Self {
        let passes = Passes::UntilStopped;
        Options { node: node.into(), pin_dir, cni_socket: None, startup_taint: None, passes }
    }
}

/// How long the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// One pass.
    Once,
    /// Until a signal.
    UntilStopped,
}

/// How one pass went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// What is wrong with the input and which pods are not enforced, a line each.
    pub notices: Vec<String>,
    /// How many of the notices are errors.
    pub errors: usize,
    /// What kept the kernel from being in step, where something did.
    pub failure: Option<String>,
}
