//! The arguments of `netpolc flows`. Not here: what its filters mean
//! ([`crate::command::flows::filter`]).

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::{
    ask::AskInput,
    raw::Installed,
    resolve::{Asks, ask_input, pin_dir},
};
use crate::command::flows::{
    self,
    filter::{Filter, Kind, Side, What},
    time,
};

/// What the help ends with.
pub const EXAMPLES: &str = "Examples:
  netpolc flows --verdict denied --follow              what is denied from now on, and why
  netpolc flows --since 10m --to-pod shop/checkout     what pods of that name were sent
  netpolc flows --follow --not namespace=kube-system --to-port 5432
  netpolc flows --verdict denied --nearest --kubeconfig  what would have to change
  netpolc flows --top --since 1h                       who is denied most, and by which policy
  netpolc flows --input-file /var/log/netpolc/flows.jsonl --policy shop/api";

/// How many flows are shown where nothing says how many.
const LAST: usize = 20;

/// The arguments of `netpolc flows`.
#[derive(Debug, Args)]
pub struct Flows {
    /// Show flows as they happen, until stopped
    #[arg(long)]
    pub follow: bool,
    /// Only so many of the flows that there are already, the last ones [default: 20, and none with
    /// --follow; all with --since, --top and --input-file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub last: Option<u32>,
    /// Only flows from this time on: so long ago, such as 30s, 5m, 2h or 1d, or a time such as
    /// 2026-12-01T10:05:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Count who is denied most, and by which policy, instead of listing; with --follow every
    /// second
    #[arg(long)]
    pub top: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub filters: Filters,
    /// Read flows from a file, such as a log of flows, instead of asking the agent; - is standard
    /// input
    #[arg(long, value_name = "PATH", conflicts_with = "follow")]
    pub input_file: Option<PathBuf>,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = FlowFormat::Compact)]
    pub output: FlowFormat,
    /// Under each packet that policies denied, show the rules that come nearest to allowing it, by
    /// the policies of the cluster that -f or --kubeconfig names, as they are now
    #[arg(long)]
    pub nearest: bool,
    #[command(flatten, next_help_heading = "What --nearest reads")]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: AskInput,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub installed: Installed,
}

impl Flows {
    /// Applies defaults, and rejects contradictions.
    ///
    /// # Errors
    /// An argument makes no sense, by itself or beside another.
    pub fn resolve(self) -> anyhow::Result<flows::Flows> {
        let Self { follow, last, since, top, filters, input_file, output, installed, .. } = self;
        if self.nearest && (top || output != FlowFormat::Compact) {
            bail!("--nearest has lines for people: omit --top, and -o other than compact");
        }
        if !self.nearest && !self.input.is_nothing() {
            bail!("-f, --kubeconfig and --context say what --nearest reads; add --nearest");
        }
        let nearest = self.nearest.then(|| ask_input(self.input, Asks::Policies)).transpose()?;
        if top && output != FlowFormat::Compact {
            bail!("--top is a table of its own; omit -o");
        }
        if follow && output == FlowFormat::Table {
            bail!(
                "-o table needs all flows before it begins; with --follow use -o compact, json or ocsf"
            );
        }
        let now = time::now();
        let since = since.as_deref().map(|text| {
            time::since(text, now).with_context(|| format!("--since {text:?} makes no sense"))
        });
        let since = since.transpose()?;
        let usual = match (follow, top || since.is_some() || input_file.is_some()) {
            (_, true) => None,
            (true, false) => Some(0),
            (false, false) => Some(LAST),
        };
        let source = match (input_file, pin_dir(installed)?) {
            (Some(path), _) => flows::Source::File(path),
            (None, pin_dir) if follow => flows::Source::AgentOnwards(pin_dir),
            (None, pin_dir) => flows::Source::Agent(pin_dir),
        };
        Ok(flows::Flows {
            source,
            last: last.map(|last| last as usize).or(usual),
            since,
            filter: Filter::read(&filters)?,
            nearest,
            view: if top { flows::View::Top } else { flows::View::List(output) },
        })
    }
}

/// The output formats of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowFormat {
    /// A line for each, for a terminal
    Compact,
    /// A table, once all are there
    Table,
    /// A JSON object on a line for each, for programs and for --input-file
    Json,
    /// An event of OCSF (Network Activity) on a line for each, for security tools
    Ocsf,
}

/// The filters. Each may be repeated.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filters (repeat one for several values, any of which will do)")]
pub struct Filters {
    /// What was decided: allowed, denied or audit
    #[arg(long, value_name = "VERDICT")]
    pub verdict: Vec<String>,
    /// Why a packet was dropped, such as policy or spoofed_source
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Pods at either end whose names begin so
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub pod: Vec<String>,
    /// Pods that sent the packet
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub from_pod: Vec<String>,
    /// Pods that were to get it
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub to_pod: Vec<String>,
    /// The namespace of either end
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// The sender's namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub from_namespace: Vec<String>,
    /// The receiver's namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub to_namespace: Vec<String>,
    /// Labels of either end, as kubectl -l takes them: app=web,tier!=x
    #[arg(long, value_name = "SELECTOR")]
    pub label: Vec<String>,
    /// Labels of the sender
    #[arg(long, value_name = "SELECTOR")]
    pub from_label: Vec<String>,
    /// Labels of the receiver
    #[arg(long, value_name = "SELECTOR")]
    pub to_label: Vec<String>,
    /// The address of either end
    #[arg(long, value_name = "ADDRESS|CIDR")]
    pub ip: Vec<String>,
    /// The sender's address
    #[arg(long, value_name = "ADDRESS|CIDR")]
    pub from_ip: Vec<String>,
    /// The receiver's address
    #[arg(long, value_name = "ADDRESS|CIDR")]
    pub to_ip: Vec<String>,
    /// The port of either end, or a range
    #[arg(long, value_name = "PORT")]
    pub port: Vec<String>,
    /// The sender's port
    #[arg(long, value_name = "PORT")]
    pub from_port: Vec<String>,
    /// The receiver's port
    #[arg(long, value_name = "PORT")]
    pub to_port: Vec<String>,
    /// tcp, udp, sctp, icmp, icmpv6 or protocol-N
    #[arg(long, value_name = "NAME")]
    pub protocol: Vec<String>,
    /// Services that the packet was sent to, or came from
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub service: Vec<String>,
    /// Workloads of either end: web, shop/web or deployment/shop/web
    #[arg(long, value_name = "WORKLOAD")]
    pub workload: Vec<String>,
    /// Policies that decided, as flows name them
    #[arg(long, value_name = "POLICY")]
    pub policy: Vec<String>,
    /// Leave out what this filter finds, such as namespace=kube-system
    #[arg(long, value_name = "FILTER=VALUE")]
    pub not: Vec<String>,
}

impl Filters {
    /// The values by the kinds of filters.
    pub fn given(&self) -> impl Iterator<Item = (Kind, &String)> {
        let all = [
            (Kind::any(What::Verdict), &self.verdict),
            (Kind::any(What::Reason), &self.reason),
            (Kind::any(What::Pod), &self.pod),
            (Kind::of(Side::From, What::Pod), &self.from_pod),
            (Kind::of(Side::To, What::Pod), &self.to_pod),
            (Kind::any(What::Namespace), &self.namespace),
            (Kind::of(Side::From, What::Namespace), &self.from_namespace),
            (Kind::of(Side::To, What::Namespace), &self.to_namespace),
            (Kind::any(What::Label), &self.label),
            (Kind::of(Side::From, What::Label), &self.from_label),
            (Kind::of(Side::To, What::Label), &self.to_label),
            (Kind::any(What::Ip), &self.ip),
            (Kind::of(Side::From, What::Ip), &self.from_ip),
            (Kind::of(Side::To, What::Ip), &self.to_ip),
            (Kind::any(What::Port), &self.port),
            (Kind::of(Side::From, What::Port), &self.from_port),
            (Kind::of(Side::To, What::Port), &self.to_port),
            (Kind::any(What::Protocol), &self.protocol),
            (Kind::any(What::Service), &self.service),
            (Kind::any(What::Workload), &self.workload),
            (Kind::any(What::Policy), &self.policy),
        ];
        all.into_iter().flat_map(|(kind, values)| values.iter().map(move |value| (kind, value)))
    }
}
