//! The arguments of `netpolc agent`, and what they mean together. Not here: what an agent does with
//! them (`netpolc-agent`).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{anyhow, bail};
use clap::{Args, ValueEnum};
use netpolc_agent::serve::{
    Options, Passes,
    flows::{
        denials::Limits,
        log::{FlowLog, Form, Place},
    },
};
use netpolc_export::otlp;
use netpolc_kube_sync::Families;

use super::{
    hubble::Hubble,
    raw::{Installed, Reading},
    request::{self, Source},
    resolve::{is_stdin, pin_dir, reading},
};

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
    /// Write flows here, one on a line, rotated at 100 MiB; - is standard output [default: nowhere]
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub flow_log: Option<PathBuf>,
    /// How flows are written there
    #[arg(long, value_enum, default_value_t = FlowLogFormat::Json, requires = "flow_log")]
    pub flow_log_format: FlowLogFormat,
    /// Send flows and metrics to this collector of OpenTelemetry, by OTLP over HTTP, as in
    /// http://127.0.0.1:4318 [default: nowhere]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Headers of each request to the collector, as NAME=VALUE, joined by commas; values are
    /// percent-encoded
    #[arg(
        long,
        value_name = "HEADERS",
        env = "OTEL_EXPORTER_OTLP_HEADERS",
        hide_env_values = true
    )]
    pub otlp_headers: Option<String>,
    /// Create Events about pods of this node whose traffic is denied, at most ten a minute
    #[arg(long, requires = "kubernetes", conflicts_with = "once")]
    pub denial_events: bool,
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

/// The forms in which flows are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowLogFormat {
    /// JSON of netpolc's own, which `netpolc flows --input-file` reads
    Json,
    /// Events of OCSF (Network Activity), for security tools
    Ocsf,
}

impl Agent {
    /// Applies defaults, and rejects contradictions.
    ///
    /// # Errors
    /// An argument makes no sense, by itself or beside another.
    pub fn resolve(self) -> anyhow::Result<request::Agent> {
        if self.from.iter().any(|f| is_stdin(f)) {
            bail!(
                "--from - is not possible: the agent watches files, and standard input cannot be \
                watched"
            );
        }
        if self.node.is_empty() {
            bail!("--node is empty; give the node's name as in spec.nodeName of its pods");
        }
        if self.denial_events && !self.kubernetes {
            bail!("--denial-events needs --kubernetes, since Events are objects of a cluster");
        }
        let source = match (self.kubernetes, self.kubeconfig) {
            (false, _) if self.cni_socket.is_some() => bail!("--cni-socket needs --kubernetes"),
            (false, None) => Source::Files(self.from),
            (false, Some(_)) => bail!("--kubeconfig needs --kubernetes"),
            (true, None) => Source::InCluster,
            (true, Some(path)) => Source::Kubeconfig(path),
        };
        let form = match self.flow_log_format {
            FlowLogFormat::Json => Form::Json,
            FlowLogFormat::Ocsf => Form::Ocsf,
        };
        let place = |path: PathBuf| match is_stdin(&path) {
            true => Place::StandardOutput,
            false => Place::File(path),
        };
        let headers = self.otlp_headers.unwrap_or_default();
        // A variable that is set to nothing means nothing.
        let endpoint = self.otlp_endpoint.filter(|endpoint| !endpoint.is_empty());
        let otlp = endpoint.map(|endpoint| otlp::Config::read(&endpoint, &headers));
        let otlp = otlp
            .transpose()
            .map_err(|why| anyhow!("--otlp-endpoint or --otlp-headers cannot be used: {why}"))?;
        let (by_default, enforcement) = reading(self.reading)?;
        let options = Options {
            node: self.node.into(),
            pin_dir: pin_dir(self.installed)?,
            cni_socket: self.cni_socket,
            startup_taint: self.startup_taint.filter(|key| !key.is_empty()),
            by_default,
            enforcement,
            audit_interval: (self.audit_interval > 0)
                .then(|| Duration::from_secs(self.audit_interval.into())),
            flow_log: self.flow_log.map(|path| FlowLog { place: place(path), form }),
            otlp,
            denial_events: self.denial_events.then(Limits::default),
            hubble: self.hubble.resolve()?,
            passes: if self.once { Passes::Once } else { Passes::UntilStopped },
        };
        let has = |kind| self.also_watch.contains(&kind);
        let families = Families {
            tiers: has(AlsoWatch::ClusterNetworkPolicies),
            groups: has(AlsoWatch::SecurityGroups),
            staged: has(AlsoWatch::StagedPolicies),
        };
        Ok(request::Agent {
            source,
            target: self.target,
            max_pods: self.max_pods,
            max_connections: self.max_connections,
            families,
            metrics: self.metrics_address,
            options,
        })
    }
}
