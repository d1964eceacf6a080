//! The arguments of `netpolc recommend`. Not here: what is made of them
//! ([`crate::command::recommend`]).

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use netpolc_policy::Mode;
use netpolc_recommend::{Drops, Name, Options, Scope};

use super::{ask::AskInput, raw::Installed, request::Input, resolve::pin_dir};
use crate::command::{
    flows::{filter::workload_name, time},
    recommend::{self, FlowSource, Recommend as Request},
};

/// What the help ends with.
pub const EXAMPLES: &str = "Examples:
  netpolc recommend --start -n shop | kubectl apply -f -    nothing is denied, and all is recorded
  netpolc recommend --context prod --input-file n1.jsonl --input-file n2.jsonl -n shop --audit
  netpolc recommend -f cluster.yaml --input-file flows.jsonl --expectations seen.txt > policies.yaml
  netpolc test seen.txt -f cluster.yaml -f policies.yaml    do they permit what was seen?

Exit code 1: something was seen that the policies do not permit, such as ICMP, or the input has \
        problems.";

/// The arguments of `netpolc recommend`.
#[derive(Debug, Args)]
pub struct Recommend {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: AskInput,
    /// Read flows from a file, as `netpolc flows -o json` and --flow-log write them, instead of
    /// asking this node's agent; repeat it for the files of several nodes; - is standard input
    #[arg(long, value_name = "FLOWS")]
    pub input_file: Vec<PathBuf>,
    /// Only flows from this time on: so long ago, such as 2h or 7d, or a time such as
    /// 2026-12-01T10:05:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only policies for workloads of this namespace; repeat it for several
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Vec<String>,
    /// Only policies for this workload: web, shop/web or deployment/shop/web; repeat it for several
    #[arg(long, value_name = "WORKLOAD")]
    pub workload: Vec<String>,
    /// Mark the policies with `netpolc.io/mode: audit`: they deny nothing, and what they would deny
    /// is recorded
    #[arg(long)]
    pub audit: bool,
    /// Permit also what policies have denied
    #[arg(long)]
    pub include_denied: bool,
    /// Merge the addresses of a rule into wider blocks where there are more than so many
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub merge_addresses: u16,
    /// Write what was seen, and is permitted, to this file, as expectations for `netpolc test`
    #[arg(long, value_name = "PATH")]
    pub expectations: Option<PathBuf>,
    /// Print policies to begin with: they deny the given namespaces everything and are only tried,
    /// so that all that happens is recorded
    #[arg(long, requires = "namespace", conflicts_with_all = [
        "input_file", "since", "workload", "audit", "include_denied", "expectations", "files",
        "kubeconfig", "context",
    ])]
    pub start: bool,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    pub output: Format,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub installed: Installed,
}

/// The output formats of recommendations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Policies, with comments on what each rule was seen for
    Yaml,
    /// For programs
    Json,
}

impl Recommend {
    /// Applies defaults, and rejects contradictions. `read` says what an input means.
    ///
    /// # Errors
    /// An argument makes no sense, by itself or beside another.
    pub fn resolve(
        self,
        read: impl Fn(AskInput) -> anyhow::Result<Input>,
    ) -> anyhow::Result<Request> {
        let Self { input, input_file, since, namespace, workload, output, .. } = self;
        for name in &namespace {
            ensure!(
                !name.is_empty() && !name.contains(['/', '*']),
                "--namespace {name:?} is not valid; write the whole name of one namespace"
            );
        }
        if self.start {
            if output == Format::Json {
                bail!("--start prints policies as YAML; omit -o");
            }
            return Ok(Request::Start(namespace));
        }
        let is_stdin = |path: &&PathBuf| path.as_path() == Path::new("-");
        if input_file.iter().chain(&input.files).filter(is_stdin).count() > 1 {
            bail!("- is given twice; standard input can be read only once");
        }
        let since = since.as_deref().map(|text| {
            time::since(text, time::now())
                .with_context(|| format!("--since {text:?} makes no sense"))
        });
        let workloads = workload.iter().map(|text| {
            let (kind, namespace, name) = workload_name(text)
                .with_context(|| format!("--workload {text:?} makes no sense"))?;
            Ok(Name { kind, namespace, name })
        });
        let scope =
            Scope { namespaces: namespace, workloads: workloads.collect::<anyhow::Result<_>>()? };
        let pin_dir = pin_dir(self.installed)?;
        Ok(Request::Policies(Box::new(recommend::Policies {
            input: read(input)?,
            flows: match input_file.is_empty() {
                true => FlowSource::Agent(pin_dir),
                false => FlowSource::Files(input_file),
            },
            since: since.transpose()?,
            options: Options {
                mode: if self.audit { Mode::Audited } else { Mode::Enforced },
                drops: if self.include_denied { Drops::Needed } else { Drops::Refused },
                scope,
                most_blocks: usize::from(self.merge_addresses),
            },
            expectations: self.expectations,
            format: output,
        })))
    }
}
