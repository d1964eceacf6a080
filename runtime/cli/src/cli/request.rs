//! What a command line requests, after defaults were applied and contradictions rejected.
//!
//! Not here: how a command line becomes a request ([`super::resolve`]).

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use netpolc_agent::serve::Passes;
use netpolc_cni::{conflist::Node, plugin_options::PluginOptions};
use netpolc_kube_sync::{Families, watch::Kubeconfig};
use netpolc_lower::Scope;
use netpolc_policy::{ByDefault, Enforcement, ObjectKey};
use netpolc_target_flower::{capability::Capabilities, lowered::Mode};

use super::{agent::AgentTarget, raw::Report};
use crate::{
    command::{
        diff::Diff, expect::Test, explain::Explain, flows::Flows, list::List, recommend::Recommend,
        verify::Verify,
    },
    judge::JudgeName,
    output::Notation,
};

/// The command to run, with its options.
#[derive(Debug)]
pub enum Command {
    /// `netpolc compile`, which prints the tables.
    Compile(Compile),
    /// `netpolc eval`, which answers probes.
    Eval(Eval),
    /// `netpolc explain`, which answers one question with its reasons.
    Explain(Explain),
    /// `netpolc list`, which lists connections.
    List(List),
    /// `netpolc diff`, which compares two states of a cluster.
    Diff(Diff),
    /// `netpolc test`, which compares verdicts with expectations.
    Test(Test),
    /// `netpolc verify`, which proves that tables say what policies say.
    Verify(Verify),
    /// `netpolc lint`, which finds what is probably not meant.
    Lint(crate::command::lint::Lint),
    /// `netpolc agent`, which enforces policies.
    Agent(Box<Agent>),
    /// `netpolc flows`, which shows what was decided about packets.
    Flows(Flows),
    /// `netpolc recommend`, which makes policies from flows.
    Recommend(Recommend),
    /// `netpolc status`, with the pin folder and the output format.
    Status(PathBuf, Report),
    /// `netpolc offload`, with the interface (None for all) and the output format.
    Offload(Option<String>, Report),
    /// `netpolc detach`, with the pin folder.
    Detach(PathBuf),
    /// `netpolc cni`, which changes the network configuration.
    Cni(Cni),
    /// `netpolc completions`, for this shell.
    Completions(clap_complete::Shell),
    /// `netpolc man`, into this folder.
    Man(PathBuf),
    /// `netpolc version`.
    Version,
    /// `netpolc mount-bpffs`, with the path of the mount namespace (None for this process's).
    MountBpffs(Option<PathBuf>),
    /// The program `netpolc-NAME`, with its name and arguments.
    Program(&'static str, Vec<OsString>),
}

/// The cluster on which a command works.
#[derive(Debug)]
pub struct Input {
    /// The cluster that is read through its API server; None for files alone.
    pub cluster: Option<Kubeconfig>,
    /// The files, at least one where there is no cluster and no kernel is asked; `-` occurs at most
    /// once.
    pub files: Vec<PathBuf>,
    /// What becomes of pods that no policy isolates, in namespaces that do not say so.
    pub by_default: ByDefault,
    /// Which packets of pods with security groups they judge.
    pub enforcement: Enforcement,
}

impl Input {
    /// Is nothing named that could be read?
    pub fn is_nothing(&self) -> bool {
        self.cluster.is_none() && self.files.is_empty()
    }
}

/// The options of `netpolc compile`.
#[derive(Debug)]
pub struct Compile {
    /// The input: files, and what becomes of pods that no policy isolates.
    pub input: Input,
    /// The node whose pods have tables of their own, or all nodes.
    pub scope: Scope,
    /// The pod to which the output is restricted; None for no restriction.
    pub pod: Option<ObjectKey>,
    /// The form in which the tables are shown.
    pub show: Show,
}

/// The forms in which `compile` shows tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// The text form of tables, which can be parsed again.
    Text,
    /// JSON, or the same as YAML.
    Data(Notation),
    /// Tables for people.
    Table,
    /// The eBPF target's maps and programs, for people or as JSON.
    Ebpf(Report),
    /// The flower target's filters.
    Flower(Flower),
    /// The tables as P4Info.
    P4Info,
    /// The entries as a WriteRequest of P4Runtime.
    P4Runtime,
    /// The pipeline as a P4 program.
    P4(netpolc_table::p4::Install),
}

/// The forms in which filters are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines of text.
    Text,
    /// JSON, or the same as YAML.
    Data(Notation),
    /// Tables for people.
    Table,
}

/// The options of `netpolc compile --target flower`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flower {
    /// The way in which filters are used.
    pub mode: Mode,
    /// The capabilities of the NIC's driver.
    pub capabilities: Capabilities,
    /// The form in which they are shown.
    pub form: Form,
}

/// The options of `netpolc eval`.
#[derive(Debug)]
pub struct Eval {
    /// The input: files, and what becomes of pods that no policy isolates.
    pub input: Input,
    /// The file with probes; `-` is standard input.
    pub probes: PathBuf,
    /// The judge that answers.
    pub judge: JudgeName,
}

/// The options of `netpolc agent`.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The source of the cluster's objects.
    pub source: Source,
    /// The target that enforces the policies.
    pub target: AgentTarget,
    /// The number of pods that can be isolated.
    pub max_pods: u32,
    /// The number of connections of all pods that are remembered, beyond the first ones of each
    /// pod.
    pub max_connections: u32,
    /// The kinds that are watched beyond those that every cluster has.
    pub families: Families,
    /// The address on which metrics are served; None for not at all.
    pub metrics: Option<SocketAddr>,
    /// The options of the agent itself.
    pub options: netpolc_agent::serve::Options,
}

/// The sources of an agent's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files, at least one, and never `-`.
    Files(Vec<PathBuf>),
    /// The API server, with the credentials of the pod's service account.
    InCluster,
    /// The API server of the current context of the kubeconfig at this path.
    Kubeconfig(PathBuf),
}

/// The options of `netpolc cni`.
#[derive(Clone, Debug)]
pub struct Cni {
    /// The folders of plugins and configurations.
    pub node: Node,
    /// The desired state of the configuration.
    pub desired: Desired,
    /// Whether this is repeated whenever the configuration changes.
    pub passes: Passes,
}

/// The desired state of a network configuration.
#[derive(Clone, Debug)]
pub enum Desired {
    /// The plugin is in the configuration.
    Installed {
        /// The path of the plugin's program; None for `netpolc-cni` beside this program.
        program: Option<PathBuf>,
        /// The plugin's options.
        options: PluginOptions,
        /// Whether a configuration that cannot take the plugin is a failure.
        strictness: Strictness,
    },
    /// The plugin is not in the configuration.
    Removed,
}

/// Whether a configuration that cannot take the plugin is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// It is a failure.
    Required,
    /// It is only reported, because an agent must not wait for it.
    Optional,
}
