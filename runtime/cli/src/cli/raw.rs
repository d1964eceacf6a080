//! The command line, as clap parses it. Not here: what it means ([`super::resolve`]).

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    ask::{Diff, Explain, List, Test, Verify},
    hubble::Hubble,
};
use crate::{judge::JudgeName, output::Notation};

/// Compiles Kubernetes NetworkPolicies into match-action tables and enforces them with generated
/// eBPF.
#[derive(Debug, Parser)]
#[command(name = "netpolc", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Exit codes: 0 success; 1 the input has problems, or a verdict is not the \
        expected one; \
2 wrong usage, or something is missing on this machine.\n\
Set RUST_LOG=debug to see what netpolc does, and NO_COLOR=1 for plain text.")]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub said: Said,
}

/// The options of every command that say how much is said, and how.
#[derive(Clone, Copy, Debug, Args)]
pub struct Said {
    /// Log more; twice: all there is. RUST_LOG takes precedence
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Print no warnings and no notes; errors are printed all the same
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Whether output is coloured; NO_COLOR=1 takes it away, too
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = When::Auto)]
    pub color: When,
}

/// When output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands of `netpolc`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether one end may talk to another, why, and what would change the answer
    #[command(after_help = "An end is a pod or workload (shop/ui, deployment/shop/ui), a Service \
        (shop/api, api.shop.svc),
labels (shop/app=ui, app=ui), namespace/*, node/NAME, an address, a CIDR, or internet. A port is a \
        number,
a range or a name; without one, one port that passes is explained and one that does not.

Examples:
  netpolc explain shop/ui shop/db:5432 -f manifests/
  netpolc explain internet shop/ui:https -f cluster.yaml
  netpolc explain shop/app=ui api.shop.svc:80 -f cluster.yaml -o json")]
    Explain(Explain),
    /// List who may open which connections
    #[command(after_help = "Examples:
  netpolc list -f cluster.yaml                         all connections, by workload
  netpolc list -f cluster.yaml --to data/postgres      who reaches my database
  netpolc list -f cluster.yaml --exposed               what public addresses can reach
  netpolc list -f cluster.yaml --not-isolated          pods that no policy isolates
  netpolc list -f cluster.yaml -o html > page.html     a page to search and to click through")]
    List(List),
    /// Show who gains and who loses which connections by a change
    #[command(after_help = "Examples:
  netpolc diff main/ branch/                           two states of a repository
  netpolc diff cluster.yaml new-policy.yaml            what one policy would change
  netpolc diff main/ branch/ -o markdown --exit-code   for a pull request")]
    Diff(Diff),
    /// Compare verdicts with expectations, and explain each that is not met
    #[command(after_help = "A line of a file with expectations:
  shop/ui -> shop/db:5432 denied
Ends and ports are those of `netpolc explain`. Text behind # is a comment. Without a port the \
        verdict is
that of every port. Exit code 1: an expectation is not met.

Example:
  netpolc test expectations.txt -f manifests/")]
    Test(Test),
    /// Prove that the compiled tables say what the policies say, for all addresses and ports
    #[command(after_help = "Two evaluations that share no code are held against each other. Exit \
        code 1: they disagree.

Examples:
  netpolc verify -f cluster.yaml
  netpolc verify -f cluster.yaml --node worker-1
  netpolc verify --installed --kubeconfig=admin.conf   what this machine's kernel holds")]
    Verify(Verify),
    /// Show the tables that policies become
    #[command(after_help = "Examples:
  netpolc compile -f policies/                         the tables, as text
  kubectl get ns,nodes,pods,svc,netpol -A -o yaml | netpolc compile -f - --node worker-1 -o json
  netpolc compile --kubeconfig --node worker-1         the same, of every kind that netpolc reads
  netpolc compile -f shop.yaml --pod shop/ui -o table  what concerns one pod, with the policies it \
        comes from
  netpolc compile -f shop.yaml --target ebpf           the maps and the programs, disassembled
  netpolc compile -f shop.yaml --target flower --mode representor --driver mlx5_core --node worker-1
                                                       filters for a NIC, and what is left to \
        eBPF")]
    Compile(Compile),
    /// Answer probes: may this source talk to that destination?
    #[command(after_help = "A probe is one JSON object a line:
  {\"src\":\"shop/ui\",\"dst\":\"shop/catalog\",\"proto\":\"tcp\",\"port\":80}
  {\"src\":\"192.0.2.7\",\"dst\":\"default/db\",\"dstIP\":\"10.0.0.9\",\"proto\":\"icmp\"}
Keys: src, dst (\"namespace/pod\" or an address), proto (tcp, udp, sctp, icmp or a number; tcp \
        where absent),
port, type and code (of icmp; an echo request where absent), and for dual-stack pods family (4 or \
        6),
srcIP, dstIP. Other keys are kept.

A Service by its name stands for each of its backends, and every one has a verdict:
  {\"src\":\"shop/ui\",\"service\":\"shop/api\",\"port\":\"http\"}
  {\"src\":\"shop/ui\",\"dst\":\"svc/shop/api:http\"}
Here port is the Service's, by name or number; without it all ports are meant. `allowed` says \
        whether all backends
are reached. To ask about a backend by itself, write it as dst, and in the key via the address and \
        port of the
Service that the packet was sent to:
  {\"src\":\"shop/ui\",\"dst\":\"shop/api-0\",\"port\":8080,\"via\":\"10.96.0.10:80\"}

Where the input has a workload without pods (Deployment and the like), a pod of its name stands \
        for it:
shop/web for the Deployment web.

Examples:
  netpolc eval -f shop.yaml --probes probes.jsonl
  netpolc eval --context staging --probes probes.jsonl
  kubectl get ns,nodes,pods,svc,netpol -A -o yaml | netpolc eval -f - --probes probes.jsonl
  echo '{\"src\":\"shop/ui\",\"dst\":\"shop/carts\",\"port\":80}' | netpolc eval -f shop.yaml \
        --probes - --judge ebpf")]
    Eval(Eval),
    /// Find what is probably not meant as it is written, in policies and in what they add up to
    #[command(
        after_help = "Each finding has an id, which docs/lint.md explains and --allow leaves \
        out. An object
leaves it out for itself by the annotation netpolc.io/lint-allow: \"ID,ID\".

Examples:
  netpolc lint -f manifests/
  kubectl get ns,nodes,pods,svc,netpol -A -o yaml | netpolc lint -f -
  netpolc lint -f manifests/ --deny errors --allow not-isolated
  netpolc lint -f manifests/ -o sarif > lint.sarif     for code scanning"
    )]
    Lint(super::lint::Lint),
    /// Enforce the policies for the pods of one node, and keep them enforced as the files change
    #[command(after_help = "Enforcement stays when the agent stops; `netpolc detach` removes it.

Examples:
  netpolc agent --from /etc/netpolc --node worker-1
  netpolc agent --from cluster.yaml --node worker-1 --once
  netpolc agent --kubernetes --node worker-1           as a pod of the cluster
  netpolc agent --kubernetes --kubeconfig admin.conf --node worker-1")]
    Agent(Agent),
    /// Show which packets were denied and which connections opened on this node, and by which rules
    #[command(after_help = super::flows::EXAMPLES)]
    Flows(Box<super::flows::Flows>),
    /// Show what is enforced on this node
    #[command(after_help = "Examples:\n  netpolc status\n  netpolc status -o json")]
    Status(Status),
    /// Show what this machine's NICs can do with filters, how that was found, and what will be used
    #[command(
        after_help = "Needs root: on NICs with hw-tc-offload it tries filters that no packet \
            matches, and removes
them at once.

Examples:
  netpolc offload
  netpolc offload --interface eth0 -o json"
    )]
    Offload(Offload),
    /// Stop enforcing on this node and remove every trace
    #[command(after_help = "Example:\n  netpolc detach")]
    Detach(Installed),
    /// Keep the chained CNI plugin in this node's network configuration
    #[command(subcommand, hide = true)]
    Cni(Cni),
    /// Mount a BPF file system at /sys/fs/bpf where there is none
    #[command(
        hide = true,
        after_help = "Example, in a container that sees the node's /proc as /host/proc:
  netpolc mount-bpffs --mount-namespace /host/proc/1/ns/mnt"
    )]
    MountBpffs(MountBpffs),
    /// Watch policies work: a small web shop in network namespaces, with real packets
    #[command(disable_help_flag = true)]
    Demo(Passed),
    /// Measure: cost per packet, compile time, the real path against nftables and ipset
    #[command(disable_help_flag = true)]
    Bench(Passed),
    /// Print what a shell needs to complete this command's arguments
    #[command(after_help = "Examples:
  netpolc completions bash > /etc/bash_completion.d/netpolc
  source <(netpolc completions zsh)")]
    Completions(Completions),
    /// Write the manual pages into a folder
    #[command(after_help = "Example:\n  netpolc man /usr/local/share/man/man1")]
    Man(Man),
    /// Print the version, and what this machine's kernel has of what netpolc uses
    Version,
}

/// The arguments of `netpolc completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// The arguments of `netpolc man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder; it must exist
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// The arguments of `netpolc compile`.
#[derive(Debug, Args)]
pub struct Compile {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: Input,
    /// Only this node's pods get tables of their own [default: every pod]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Show only what concerns this pod
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<String>,
    /// What to show
    #[arg(long, value_enum, default_value_t = CompileTarget::Tables)]
    pub target: CompileTarget,
    /// With --target flower: how flower is used [default: software]
    #[arg(long, value_enum)]
    pub mode: Option<FlowerMode>,
    /// With --target flower: for which NIC driver, as `ethtool -i` names it, or as it is called,
    /// such as mlx5 or octeontx2 [default: mlx5_core]
    #[arg(long, value_name = "NAME")]
    pub driver: Option<String>,
    /// With --target p4: how entries come into the tables [default: const]
    #[arg(long, value_enum)]
    pub entries: Option<P4Entries>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// The arguments that name the input.
#[derive(Debug, Args)]
pub struct Input {
    /// Files or directories with Kubernetes objects, YAML or JSON; - is standard input
    #[arg(short = 'f', long = "file", value_name = "PATH", num_args = 1..)]
    #[arg(required_unless_present_any = ["kubeconfig", "context"])]
    pub files: Vec<PathBuf>,
    /// Read the cluster itself, by this kubeconfig [default: of KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    pub kubeconfig: Option<Option<PathBuf>>,
    /// Read the cluster itself, by this context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub reading: Reading,
}

/// The arguments that say how policies are read where they leave a choice.
#[derive(Clone, Debug, Args)]
pub struct Reading {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub by_default: ByDefault,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub groups: Groups,
}

/// The arguments that say what becomes of pods that no policy isolates.
#[derive(Clone, Debug, Args)]
pub struct ByDefault {
    /// Deny what no NetworkPolicy decides: where none selects a pod for a direction, nothing is
    /// allowed in it
    #[arg(long)]
    pub isolate_by_default: bool,
    /// Namespaces that --isolate-by-default leaves alone, joined by commas
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', requires = "isolate_by_default")]
    pub isolate_by_default_except: Vec<String>,
}

/// The arguments about security groups.
#[derive(Clone, Copy, Debug, Args)]
pub struct Groups {
    /// Which packets of a pod the security groups that it has judge
    #[arg(long, value_enum, default_value_t = SecurityGroups::Strict)]
    pub security_groups: SecurityGroups,
}

/// Which packets of a pod its security groups judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SecurityGroups {
    /// All, also from the pods of its node
    Strict,
    /// Those that do not stay on the pod's node
    Standard,
}

/// The target whose form of the policies `compile` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompileTarget {
    /// The tables, neutral between targets
    Tables,
    /// The eBPF maps and programs
    Ebpf,
    /// TC-flower filters
    Flower,
    /// The pipeline as a P4_16 program for v1model
    P4,
}

/// The ways in which entries come into the tables of a P4 program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum P4Entries {
    /// As constants of the program
    Const,
    /// By P4Runtime: the program has none
    AtRunTime,
}

/// The ways in which flower filters are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowerMode {
    /// On representors and the uplink of a NIC in switchdev mode; eBPF decides what is left
    Representor,
    /// On a NIC's physical port, to drop; eBPF decides what is left
    Prefilter,
    /// By the kernel, without eBPF: the whole policy
    Software,
}

/// Kinds that a cluster need not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AlsoWatch {
    /// ClusterNetworkPolicies of policy.networking.k8s.io and networking.k8s.aws
    ClusterNetworkPolicies,
    /// SecurityGroupPolicies, ServiceAccounts, and SecurityGroups of ec2.services.k8s.aws
    SecurityGroups,
    /// StagedKubernetesNetworkPolicies of projectcalico.org
    StagedPolicies,
    /// None of them
    None,
}

/// The output formats of `compile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The text form, which can be parsed again
    Text,
    /// JSON, for programs
    Json,
    /// The same as YAML
    Yaml,
    /// Tables for people, with the policies that entries come from
    Table,
    /// The tables as P4Info, in Protocol Buffers' text format
    P4info,
    /// The entries as a WriteRequest of P4Runtime, in Protocol Buffers' text format
    P4runtime,
}

/// The output formats of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Report {
    /// Tables for people
    Table,
    /// JSON, for programs
    Json,
    /// The same as YAML
    Yaml,
}

impl Report {
    /// How it is written for programs; None: it is for people.
    pub fn notation(self) -> Option<Notation> {
        match self {
            Report::Table => None,
            Report::Json => Some(Notation::Json),
            Report::Yaml => Some(Notation::Yaml),
        }
    }
}

/// The arguments of `netpolc eval`.
#[derive(Debug, Args)]
pub struct Eval {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: Input,
    /// The probes, one JSON object a line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub probes: PathBuf,
    /// Which judge answers
    #[arg(long, value_enum, default_value_t = JudgeName::Oracle)]
    pub judge: JudgeName,
}

/// The default number of pods that can be isolated.
pub const MAX_PODS: u32 = 255;
/// The default number of connections of all pods that are remembered.
pub const MAX_CONNECTIONS: u32 = 1 << 21;
/// The default number of seconds between two audits.
pub const AUDIT_INTERVAL: u32 = 300;

/// The arguments of `netpolc agent`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["from", "kubernetes"]))]
pub struct Agent {
    /// Files or directories with Kubernetes objects, watched for changes
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub from: Vec<PathBuf>,
    /// Watch the cluster's API server
    #[arg(long)]
    pub kubernetes: bool,
    /// How to reach the API server [default: by the pod's service account]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Answer the chained CNI plugin on this socket, usually /run/netpolc/cni.sock [default: not at
    /// all]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub cni_socket: Option<PathBuf>,
    /// The node whose pods are enforced, as in spec.nodeName
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: String,
    /// What enforces the policies
    #[arg(long, value_enum, default_value_t = AgentTarget::Auto)]
    pub target: AgentTarget,
    /// Pods on this node that policies may isolate, at most; a power of two less one, or rounded up
    /// to it
    #[arg(long, value_name = "N", default_value_t = MAX_PODS, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub max_pods: u32,
    /// Connections of all pods of this node that are remembered, beyond the first 1,536 of each
    #[arg(long, value_name = "N", default_value_t = MAX_CONNECTIONS, value_parser = clap::value_parser!(u32).range(0..=1 << 26))]
    pub max_connections: u32,
    /// Serve /metrics, /healthz and /readyz here [default: not at all]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// Remove this taint from the node as soon as the agent enforces: new nodes that have it from
    /// the start take no pods before
    #[arg(long, value_name = "KEY", requires = "kubernetes")]
    pub startup_taint: Option<String>,
    /// Kinds beyond NetworkPolicy to watch where the cluster has them, joined by commas
    #[arg(
        long,
        value_name = "KIND",
        value_delimiter = ',',
        default_value = "cluster-network-policies"
    )]
    pub also_watch: Vec<AlsoWatch>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub reading: Reading,
    /// How often what the kernel holds is compared with what was written to it, and repaired where
    /// somebody else has changed it; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = AUDIT_INTERVAL, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub audit_interval: u32,
    /// Write flows here as JSON lines, rotated at 100 MiB; - is standard output [default: nowhere]
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub flow_log: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub hubble: Hubble,
    /// Bring the kernel in step once, and exit
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub installed: Installed,
}

/// The targets with which the agent can enforce policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AgentTarget {
    /// eBPF, helped by NICs where `netpolc offload` finds that they can
    Auto,
    /// eBPF alone
    Ebpf,
    /// The kernel's flower filters alone, for hosts without eBPF
    Flower,
}

/// The arguments that say where the tables are pinned.
#[derive(Debug, Args)]
pub struct Installed {
    /// The folder in a bpffs that holds the tables
    #[arg(long, value_name = "DIR", default_value = super::PIN_DIR)]
    pub pin_dir: PathBuf,
}

/// The arguments of `netpolc status`.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub installed: Installed,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Report::Table)]
    pub output: Report,
}

/// The commands of `netpolc cni`.
#[derive(Debug, Subcommand)]
pub enum Cni {
    /// Copy netpolc-cni to the plugins and chain it into the network configuration
    #[command(
        after_help = "Pods then start only when the agent has confirmed that their policies hold.
The original configuration is kept beside the new one. Installing twice changes nothing.

Examples:
  netpolc cni install
  netpolc cni install --watch --exempt-namespace kube-system --exempt-namespace storage"
    )]
    Install(CniInstall),
    /// Restore the original network configuration, and remove the plugin
    #[command(after_help = "Example:\n  netpolc cni remove")]
    Remove(CniNode),
}

/// The arguments of `netpolc cni install`.
#[derive(Debug, Args)]
pub struct CniInstall {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub node: CniNode,
    /// The plugin's program [default: netpolc-cni beside this program]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The agent's socket, where it is not the usual one
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// How long a pod's start may wait for the agent [default: 5000]
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(1..=120_000))]
    pub timeout_ms: Option<u64>,
    /// What happens to a pod that the agent does not confirm in time
    #[arg(long, value_enum, default_value_t = Failure::Closed)]
    pub fail: Failure,
    /// Namespaces whose pods start without the agent: those it needs itself to start after a reboot
    #[arg(long = "exempt-namespace", value_name = "NAMESPACE", value_delimiter = ',')]
    #[arg(default_values_t = ["kube-system".to_owned()])]
    pub exempt_namespaces: Vec<String>,
    /// A pod of the agent's DaemonSet, usually the one that this runs in: where a node has had none
    /// for two minutes, netpolc was uninstalled, and the plugin lets pods start [default: it never
    /// does]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: Option<String>,
    /// Do not fail if the plugin cannot be added to the configuration, but only report it
    #[arg(long)]
    pub optional: bool,
}

/// What happens to a pod that the agent does not confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Failure {
    /// It does not start yet
    Closed,
    /// It starts without its policies
    Open,
}

/// The arguments that say where a node keeps its plugins.
#[derive(Debug, Args)]
pub struct CniNode {
    /// The folder with plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub bin_dir: PathBuf,
    /// The folder with network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub conf_dir: PathBuf,
    /// The configuration in it to change [default: the first by name, as container runtimes choose]
    #[arg(long, value_name = "NAME")]
    pub file: Option<String>,
    /// Change only the configuration, and leave the plugin's program alone
    #[arg(long, conflicts_with = "bin_dir")]
    pub chain_only: bool,
    /// Do it again whenever the configuration changes, until stopped
    #[arg(long)]
    pub watch: bool,
}

/// The arguments of `netpolc mount-bpffs`.
#[derive(Debug, Args)]
pub struct MountBpffs {
    /// In which mount namespace [default: this process's]
    #[arg(long, value_name = "FILE")]
    pub mount_namespace: Option<PathBuf>,
}

/// The arguments of `netpolc offload`.
#[derive(Debug, Args)]
pub struct Offload {
    /// Show only this interface [default: all]
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Report::Table)]
    pub output: Report,
}

/// Arguments that are passed on to another program.
#[derive(Debug, Args)]
pub struct Passed {
    /// The arguments of the program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub arguments: Vec<OsString>,
}
