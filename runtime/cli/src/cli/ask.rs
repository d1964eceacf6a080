//! The arguments of the commands that answer questions: `explain`, `list`, `diff` and `test`.
//!
//! Not here: what they mean to answer ([`crate::ask`]).

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::raw::{Reading, Report};
use crate::ask::By;

/// The arguments that say what a question is about. Files are named one by one, so that the ends of
/// a connection can stand behind them.
#[derive(Debug, Args)]
pub struct AskInput {
    /// A file or directory with Kubernetes objects, YAML or JSON; - is standard input. Repeat it
    /// for several
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub live: Live,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub reading: Reading,
}

impl AskInput {
    /// Names it no input?
    pub fn is_nothing(&self) -> bool {
        let Live { kubeconfig, context } = &self.live;
        self.files.is_empty() && kubeconfig.is_none() && context.is_none()
    }
}

/// The arguments that name the tables in this machine's kernel.
#[derive(Debug, Args)]
pub struct InKernel {
    /// Ask the tables that this machine's kernel holds; needs root
    #[arg(long)]
    pub installed: bool,
    /// With --installed: the folder in a bpffs that holds the tables [default: /sys/fs/bpf/netpolc]
    #[arg(long, value_name = "DIR", requires = "installed")]
    pub pin_dir: Option<PathBuf>,
}

/// The arguments that name a live cluster.
#[derive(Debug, Args)]
pub struct Live {
    /// Read the cluster itself, by this kubeconfig [default: of KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true)]
    pub kubeconfig: Option<Option<PathBuf>>,
    /// Read the cluster itself, by this context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// The arguments of `netpolc explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Who opens the connection
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Who answers it
    #[arg(value_name = "DESTINATION[:PORT][/PROTOCOL]")]
    pub destination: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: AskInput,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub kernel: InKernel,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = StoryFormat::Text)]
    pub output: StoryFormat,
}

/// The output formats of explanations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoryFormat {
    /// For a terminal
    Text,
    /// For a pull request
    Markdown,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
}

/// The arguments of `netpolc list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: AskInput,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub kernel: InKernel,
    /// Put together the pods of a workload or of a namespace, or show each pod
    #[arg(long, value_enum, default_value_t = By::Workload, conflicts_with = "installed")]
    pub by: By,
    /// Only connections that these open: pods, workloads, labels, or namespace/*
    #[arg(long, value_name = "SOURCE", conflicts_with = "installed")]
    pub from: Vec<String>,
    /// Only connections to these
    #[arg(long, value_name = "DESTINATION", conflicts_with = "installed")]
    pub to: Vec<String>,
    /// Only this port: a number or a range, of TCP unless --protocol says otherwise
    #[arg(long, value_name = "PORT", conflicts_with = "installed")]
    pub port: Option<String>,
    /// Only this protocol: tcp, udp, sctp, icmp, icmpv6 or protocol-N
    #[arg(long, value_name = "NAME", conflicts_with = "installed")]
    pub protocol: Option<String>,
    /// Only what may be reached from public addresses
    #[arg(long, conflicts_with_all = ["outside", "not_isolated", "installed", "from"])]
    pub exposed: bool,
    /// Only connections with addresses outside of the cluster
    #[arg(long, conflicts_with_all = ["not_isolated", "installed"])]
    pub outside: bool,
    /// Only which pods no policy isolates, by direction
    #[arg(long, conflicts_with_all = ["installed", "from", "to", "port", "protocol"])]
    pub not_isolated: bool,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = ListFormat::Text)]
    pub output: ListFormat,
}

/// The output formats of lists and differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For a terminal
    Text,
    /// For a pull request
    Markdown,
    /// For spreadsheets
    Csv,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
    /// A graph, for Graphviz
    Dot,
    /// A page with a matrix and a graph, complete in one file
    Html,
}

/// The arguments of `netpolc diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// OLD and NEW: the cluster as it was and as it will be, a file or directory each. NEW may be
    /// policies alone, which are added to OLD or replace those of their names. With --kubeconfig or
    /// --context, OLD is the live cluster and only NEW is named
    #[arg(value_name = "STATE", num_args = 1..=2, required = true)]
    pub states: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub live: Live,
    /// Put together the pods of a workload or of a namespace, or show each pod
    #[arg(long, value_enum, default_value_t = By::Workload)]
    pub by: By,
    /// End with exit code 1 if anything differs
    #[arg(long)]
    pub exit_code: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub reading: Reading,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = ListFormat::Text)]
    pub output: ListFormat,
}

/// The arguments of `netpolc verify`.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: AskInput,
    /// Only this node's pods [default: every pod; with --installed the node of the agent]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub kernel: InKernel,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Report::Table)]
    pub output: Report,
}

/// The arguments of `netpolc test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Files with expectations, one a line, such as `shop/ui -> shop/db:5432 denied`
    #[arg(value_name = "EXPECTATIONS", required = true)]
    pub expectations: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: AskInput,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = StoryFormat::Text)]
    pub output: StoryFormat,
}
