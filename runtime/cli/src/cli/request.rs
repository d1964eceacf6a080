//! What a command line asks for, once defaults are applied and contradictions refused.
//!
//! Not here: how that is worked out ([`super::resolve`]).

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use netpolc_agent::Passes;
use netpolc_cni::{conflist::Node, plugin_options::PluginOptions};
use netpolc_lower::Scope;
use netpolc_policy::ObjectKey;
use netpolc_target_flower::{capability::Capabilities, lowered::Mode};

use super::raw::{AgentTarget, Format, Report};
use crate::judge::JudgeName;

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// See [`Compile`].
    Compile(Compile),
    /// See [`Eval`].
    Eval(Eval),
    /// See [`Agent`].
    Agent(Agent),
    /// Where, and how to show it.
    Status(PathBuf, Report),
    /// Which interface (None: all), and how to show it.
    Offload(Option<String>, Report),
    /// Where.
    Detach(PathBuf),
    /// See [`Cni`].
    Cni(Cni),
    /// In which mount namespace; None: this process's.
    MountBpffs(Option<PathBuf>),
    /// Another program, `netpolc-` and this, and what it is given.
    Program(&'static str, Vec<OsString>),
}

/// `netpolc compile`.
#[derive(Debug)]
pub struct Compile {
    /// At least one; `-` at most once.
    pub files: Vec<PathBuf>,
    /// Whose pods have tables of their own.
    pub scope: Scope,
    /// Show only what concerns it.
    pub pod: Option<ObjectKey>,
    /// How.
    pub show: Show,
}

/// What `compile` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// The IR's text form.
    Text,
    /// p4info JSON.
    Json,
    /// For people.
    Table,
    /// The eBPF target's maps and programs, for people or as JSON.
    Ebpf(Report),
    /// Filters.
    Flower(Flower),
}

/// `netpolc compile --target flower`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flower {
    /// How it is used.
    pub mode: Mode,
    /// What the driver can do.
    pub capabilities: Capabilities,
    /// How to show it.
    pub format: Format,
}

/// `netpolc eval`.
#[derive(Debug)]
pub struct Eval {
    /// At least one.
    pub files: Vec<PathBuf>,
    /// `-`: standard input.
    pub probes: PathBuf,
    /// Who answers.
    pub judge: JudgeName,
}

/// `netpolc agent`.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Where the cluster's objects come from.
    pub source: Source,
    /// What enforces.
    pub target: AgentTarget,
    /// Pods that can be isolated.
    pub max_pods: u32,
    /// Connections of all of them that are remembered, beyond the first ones of each.
    pub max_connections: u32,
    /// Where monitoring is served.
    pub metrics: Option<SocketAddr>,
    /// How it is run.
    pub options: netpolc_agent::Options,
}

/// Where the agent's objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files: at least one; never `-`.
    Files(Vec<PathBuf>),
    /// The API server, as the pod's service account.
    InCluster,
    /// The API server of a kubeconfig's current context.
    Kubeconfig(PathBuf),
}

/// `netpolc cni`.
#[derive(Clone, Debug)]
pub struct Cni {
    /// Where.
    pub node: Node,
    /// In or out.
    pub wanted: Wanted,
    /// Once, or whenever the configuration changes.
    pub passes: Passes,
}

/// What the configuration is to be like.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// With the plugin.
    In {
        /// The plugin's program; None: `netpolc-cni` beside this one.
        program: Option<PathBuf>,
        /// Its options.
        options: PluginOptions,
        /// What a configuration means that takes no plugin.
        strictness: Strictness,
    },
    /// Without it.
    Out,
}

/// Is a configuration that takes no plugin a failure?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Yes.
    Required,
    /// No, it is only reported: an agent must not wait for it.
    Optional,
}
