//! Works out what a command line means: applies defaults, parses names and rejects contradictions.
//! Not here: the arguments ([`super::raw`]), and the result ([`super::request`]).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use netpolc_agent::serve::{Options, Passes, flows::log::FlowLog};
use netpolc_analyze::list::Only;
use netpolc_cni::{
    config::Fail,
    conflist::Node,
    plugin_options::{AgentPod, PluginOptions},
};
use netpolc_kube_sync::{Families, watch::Kubeconfig};
use netpolc_lower::Scope;
use netpolc_policy::{ByDefault, Enforcement, ObjectKey, Unselected};
use netpolc_table::p4::Install;
use netpolc_target_flower::{lowered::Mode, quirks};

use super::{
    ask::{AskInput, InKernel, Live},
    raw::{self, AlsoWatch, CompileTarget, FlowerMode, Format, P4Entries, Report, SecurityGroups},
    request::{
        Agent, Cni, Command, Compile, Desired, Eval, Flower, Form, Input, Show, Source, Strictness,
    },
};
use crate::{
    command::{
        diff::Diff,
        expect::Test,
        explain::Explain,
        lint::{self, Lint},
        list::{self, List},
        verify::Verify,
    },
    output::Notation,
};

/// Turns the parsed command line into a request.
///
/// # Errors
/// Arguments contradict each other, or are not valid.
pub fn resolve(cli: raw::Cli) -> anyhow::Result<Command> {
    Ok(match cli.command {
        raw::Command::Compile(c) => Command::Compile(Compile {
            input: input(c.input)?,
            scope: c.node.map_or(Scope::Everywhere, |node| Scope::Node(node.into())),
            pod: c.pod.as_deref().map(pod).transpose()?,
            show: match (c.target, c.output) {
                (
                    CompileTarget::Ebpf | CompileTarget::Flower,
                    Format::P4info | Format::P4runtime,
                ) => {
                    bail!("-o p4info and -o p4runtime show the tables; omit --target")
                }
                (target, _) if target != CompileTarget::P4 && c.entries.is_some() => {
                    bail!("--entries applies to P4 programs only; add --target p4")
                }
                (CompileTarget::Flower, Format::Text) => flower(c.mode, c.driver, Form::Text)?,
                (CompileTarget::Flower, Format::Table) => flower(c.mode, c.driver, Form::Table)?,
                (CompileTarget::Flower, Format::Json) => {
                    flower(c.mode, c.driver, Form::Data(Notation::Json))?
                }
                (CompileTarget::Flower, Format::Yaml) => {
                    flower(c.mode, c.driver, Form::Data(Notation::Yaml))?
                }
                (_, _) if c.mode.is_some() || c.driver.is_some() => {
                    bail!("--mode and --driver apply to flower only; add --target flower")
                }
                (CompileTarget::Tables | CompileTarget::P4, Format::P4info) => Show::P4Info,
                (CompileTarget::Tables | CompileTarget::P4, Format::P4runtime) => Show::P4Runtime,
                (CompileTarget::P4, Format::Text) => Show::P4(match c.entries {
                    None | Some(P4Entries::Const) => Install::Const,
                    Some(P4Entries::AtRunTime) => Install::AtRunTime,
                }),
                (CompileTarget::P4, Format::Json | Format::Yaml | Format::Table) => {
                    bail!("--target p4 shows a program, which is text; omit -o")
                }
                (CompileTarget::Tables, Format::Text) => Show::Text,
                (CompileTarget::Tables, Format::Json) => Show::Data(Notation::Json),
                (CompileTarget::Tables, Format::Yaml) => Show::Data(Notation::Yaml),
                (CompileTarget::Tables, Format::Table) => Show::Table,
                (CompileTarget::Ebpf, Format::Yaml) => Show::Ebpf(Report::Yaml),
                (CompileTarget::Ebpf, Format::Json) => Show::Ebpf(Report::Json),
                (CompileTarget::Ebpf, Format::Text | Format::Table) => Show::Ebpf(Report::Table),
            },
        }),
        raw::Command::Eval(e) => {
            let input = input(e.input)?;
            if is_stdin(&e.probes) && input.files.iter().any(|f| is_stdin(f)) {
                bail!("-f - and --probes - both need standard input; give one of them a file");
            }
            Command::Eval(Eval { input, probes: e.probes, judge: e.judge })
        }
        raw::Command::Explain(e) => Command::Explain(Explain {
            input: ask_input(e.input, Asks::of(&e.kernel))?,
            installed: in_kernel(e.kernel)?,
            source: e.source,
            destination: e.destination,
            format: e.output,
        }),
        raw::Command::List(l) => Command::List(List {
            input: ask_input(l.input, Asks::of(&l.kernel))?,
            installed: in_kernel(l.kernel)?,
            by: l.by,
            from: l.from,
            to: l.to,
            port: l.port,
            protocol: l.protocol,
            what: match (l.exposed, l.outside, l.not_isolated) {
                (true, ..) => list::What::Connections(Only::Exposed),
                (_, true, _) => list::What::Connections(Only::Outside),
                (.., true) => list::What::NotIsolated,
                (false, false, false) => list::What::Connections(Only::All),
            },
            format: l.output,
        }),
        raw::Command::Diff(d) => {
            let (old, new) = states(&d.states, d.live, d.reading)?;
            Command::Diff(Diff { old, new, by: d.by, exit_code: d.exit_code, format: d.output })
        }
        raw::Command::Test(t) => Command::Test(Test {
            input: ask_input(t.input, Asks::Policies)?,
            expectations: t.expectations,
            format: t.output,
        }),
        raw::Command::Completions(c) => Command::Completions(c.shell),
        raw::Command::Man(m) => Command::Man(m.folder),
        raw::Command::Version => Command::Version,
        raw::Command::Verify(v) => Command::Verify(Verify {
            input: ask_input(v.input, Asks::Policies)?,
            scope: v.node.map_or(Scope::Everywhere, |node| Scope::Node(node.into())),
            installed: in_kernel(v.kernel)?,
            report: v.output,
        }),
        raw::Command::Lint(l) => Command::Lint(Lint {
            input: input(l.input)?,
            deny: l.deny,
            allow: l.allow.iter().map(|id| lint::check(id)).collect::<anyhow::Result<_>>()?,
            format: l.output,
        }),
        raw::Command::Agent(a) => {
            if a.from.iter().any(|f| is_stdin(f)) {
                bail!(
                    "--from - is not possible: the agent watches files, and standard input cannot \
                    be watched"
                );
            }
            if a.node.is_empty() {
                bail!("--node is empty; give the node's name as in spec.nodeName of its pods");
            }
            let passes = if a.once { Passes::Once } else { Passes::UntilStopped };
            let source = match (a.kubernetes, a.kubeconfig) {
                (false, _) if a.cni_socket.is_some() => bail!("--cni-socket needs --kubernetes"),
                (false, None) => Source::Files(a.from),
                (false, Some(_)) => bail!("--kubeconfig needs --kubernetes"),
                (true, None) => Source::InCluster,
                (true, Some(path)) => Source::Kubeconfig(path),
            };
            let (target, metrics, pin_dir) = (a.target, a.metrics_address, pin_dir(a.installed)?);
            let (by_default, enforcement) = reading(a.reading)?;
            let options = Options {
                node: a.node.into(),
                pin_dir,
                cni_socket: a.cni_socket,
                startup_taint: a.startup_taint.filter(|key| !key.is_empty()),
                by_default,
                enforcement,
                audit_interval: (a.audit_interval > 0)
                    .then(|| Duration::from_secs(a.audit_interval.into())),
                flow_log: a.flow_log.map(|path| match is_stdin(&path) {
                    true => FlowLog::StandardOutput,
                    false => FlowLog::File(path),
                }),
                hubble: a.hubble.resolve()?,
                passes,
            };
            let (max_pods, max_connections) = (a.max_pods, a.max_connections);
            let has = |kind| a.also_watch.contains(&kind);
            let families = Families {
                tiers: has(AlsoWatch::ClusterNetworkPolicies),
                groups: has(AlsoWatch::SecurityGroups),
                staged: has(AlsoWatch::StagedPolicies),
            };
            Command::Agent(Agent {
                source,
                target,
                max_pods,
                max_connections,
                families,
                metrics,
                options,
            })
        }
        raw::Command::Flows(f) => Command::Flows(f.resolve()?),
        raw::Command::Status(s) => Command::Status(pin_dir(s.installed)?, s.output),
        raw::Command::Offload(o) => Command::Offload(o.interface, o.output),
        raw::Command::Detach(d) => Command::Detach(pin_dir(d)?),
        raw::Command::Cni(c) => Command::Cni(cni(c)?),
        raw::Command::MountBpffs(m) => Command::MountBpffs(m.mount_namespace),
        raw::Command::Demo(passed) => Command::Program("demo", passed.arguments),
        raw::Command::Bench(passed) => Command::Program("bench", passed.arguments),
    })
}

/// Resolves the options of flower. The default driver of a mode is the best-known one that supports
/// it.
fn flower(mode: Option<FlowerMode>, driver: Option<String>, form: Form) -> anyhow::Result<Show> {
    const SOFTWARE: &str = "software";
    let (mode, default) = match mode.unwrap_or(FlowerMode::Software) {
        FlowerMode::Representor => (Mode::Representor, "mlx5_core"),
        FlowerMode::Prefilter => (Mode::Prefilter, "mlx5_core"),
        FlowerMode::Software => (Mode::Software, SOFTWARE),
    };
    let driver = driver.as_deref().map_or(default, quirks::driver_named);
    if mode == Mode::Software && driver != SOFTWARE {
        bail!(
            "--driver {driver} does not apply to software flower, which uses no NIC; add --mode \
            representor or --mode prefilter"
        );
    }
    if driver != SOFTWARE && quirks::quirks(driver).is_none() {
        let known: Vec<&str> = quirks::DRIVERS.iter().map(|q| q.driver).collect();
        bail!("--driver {driver} is not a known driver; the known ones are {}", known.join(", "));
    }
    if mode != Mode::Software && driver == SOFTWARE {
        bail!("--driver software is not a NIC's driver; omit --mode, or give the driver of a NIC");
    }
    Ok(Show::Flower(Flower { mode, capabilities: quirks::capabilities(driver), form }))
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn input(raw: raw::Input) -> anyhow::Result<Input> {
    let raw::Input { files, kubeconfig, context, reading: raw } = raw;
    if files.iter().filter(|f| is_stdin(f)).count() > 1 {
        bail!("-f - is given twice; standard input can be read only once");
    }
    let (by_default, enforcement) = reading(raw)?;
    Ok(Input { cluster: cluster(kubeconfig, context)?, files, by_default, enforcement })
}

/// The live cluster that is meant, where one is.
fn cluster(
    kubeconfig: Option<Option<PathBuf>>,
    context: Option<String>,
) -> anyhow::Result<Option<Kubeconfig>> {
    if context.as_ref().is_some_and(String::is_empty) {
        bail!("--context is empty; give the name of a context, or omit it for the current one");
    }
    Ok((kubeconfig.is_some() || context.is_some()).then(|| Kubeconfig {
        // The option without a path means the usual kubeconfig.
        path: kubeconfig.flatten(),
        context,
    }))
}

/// What is asked, at least.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Policies, so that there has to be an input.
    Policies,
    /// The tables in the kernel.
    Kernel,
}

impl Asks {
    fn of(kernel: &InKernel) -> Self {
        if kernel.installed { Asks::Kernel } else { Asks::Policies }
    }
}

/// The input of a question. It may be left out where the kernel's tables are asked.
fn ask_input(asked: AskInput, asks: Asks) -> anyhow::Result<Input> {
    let AskInput { files, live: Live { kubeconfig, context }, reading } = asked;
    let input = input(raw::Input { files, kubeconfig, context, reading })?;
    if asks == Asks::Policies && input.is_nothing() {
        bail!(
            "there is nothing to ask about; add -f with a file or folder of Kubernetes objects, or \
             --context with the name of a live cluster"
        );
    }
    Ok(input)
}

/// The folder of pins whose tables are asked; None where none are.
fn in_kernel(kernel: InKernel) -> anyhow::Result<Option<PathBuf>> {
    let InKernel { installed, pin_dir: dir } = kernel;
    let pin_dir = || dir.unwrap_or_else(|| super::PIN_DIR.into());
    installed.then(|| self::pin_dir(raw::Installed { pin_dir: pin_dir() })).transpose()
}

fn reading(raw: raw::Reading) -> anyhow::Result<(ByDefault, Enforcement)> {
    let enforcement = match raw.groups.security_groups {
        SecurityGroups::Strict => Enforcement::Strict,
        SecurityGroups::Standard => Enforcement::Standard,
    };
    Ok((by_default(raw.by_default)?, enforcement))
}

/// The two states that `netpolc diff` compares.
fn states(
    states: &[PathBuf],
    Live { kubeconfig, context }: Live,
    raw: raw::Reading,
) -> anyhow::Result<(Input, Input)> {
    let (by_default, enforcement) = reading(raw)?;
    let of = |cluster: Option<Kubeconfig>, files: &[PathBuf]| Input {
        cluster,
        files: files.to_vec(),
        by_default: by_default.clone(),
        enforcement,
    };
    match (states, cluster(kubeconfig, context)?) {
        ([old, new], None) if is_stdin(old) && is_stdin(new) => {
            bail!("OLD and NEW are both -; standard input can be read only once")
        }
        ([_, _], None) => Ok((of(None, &states[..1]), of(None, &states[1..]))),
        ([_], Some(cluster)) => Ok((of(Some(cluster), &[]), of(None, states))),
        ([_], None) => bail!("name both states, OLD and NEW; or --context for a live cluster"),
        _ => bail!("with a live cluster, which is OLD, name NEW alone"),
    }
}

fn by_default(raw: raw::ByDefault) -> anyhow::Result<ByDefault> {
    // An empty name stands for no namespaces at all.
    let except: BTreeSet<Arc<str>> = raw
        .isolate_by_default_except
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(Arc::from)
        .collect();
    if let Some(name) = except.iter().find(|name| name.contains(['*', '/', ' '])) {
        bail!(
            "--isolate-by-default-except {name:?} is not the name of a namespace; give whole \
            names, joined by commas"
        );
    }
    let unselected = if raw.isolate_by_default { Unselected::Isolated } else { Unselected::Open };
    Ok(ByDefault { unselected, except })
}

/// Parses a pod's name, `namespace/name`.
///
/// # Errors
/// The text has another form.
pub fn pod(text: &str) -> anyhow::Result<ObjectKey> {
    let parts = text
        .split_once('/')
        .filter(|(ns, name)| !ns.is_empty() && !name.is_empty() && !name.contains('/'));
    let (namespace, name) = parts
        .with_context(|| format!("{text:?} is not the name of a pod; write namespace/name"))?;
    Ok(ObjectKey::new(namespace, name))
}

fn cni(command: raw::Cni) -> anyhow::Result<Cni> {
    let (node, desired) = match command {
        raw::Cni::Install(install) => {
            let strictness =
                if install.optional { Strictness::Optional } else { Strictness::Required };
            let options = PluginOptions {
                socket: install.socket,
                timeout_ms: install.timeout_ms,
                fail: match install.fail {
                    raw::Failure::Closed => Fail::Closed,
                    raw::Failure::Open => Fail::Open,
                },
                // An empty name stands for no namespaces at all.
                exempt_namespaces: install
                    .exempt_namespaces
                    .into_iter()
                    .filter(|name| !name.is_empty())
                    .collect(),
                pod: install
                    .pod
                    .as_deref()
                    .map(pod)
                    .transpose()
                    .context("--pod is not valid")?
                    .map(|key| AgentPod {
                        namespace: key.namespace.to_string(),
                        name: key.name.to_string(),
                    }),
            };
            (install.node, Desired::Installed { program: install.program, options, strictness })
        }
        raw::Cni::Remove(node) => (node, Desired::Removed),
    };
    if node.file.as_deref().is_some_and(|name| name.is_empty() || name.contains('/')) {
        bail!(
            "--file is not valid; give the name of a file in --conf-dir, such as 10-calico.conflist"
        );
    }
    let passes = if node.watch { Passes::UntilStopped } else { Passes::Once };
    let bin_dir = (!node.chain_only).then_some(node.bin_dir);
    Ok(Cni { node: Node { bin_dir, conf_dir: node.conf_dir, file: node.file }, desired, passes })
}

/// Checks the pin folder: bpffs accepts no names with dots, and the names of state files derive
/// from the absolute path.
pub(super) fn pin_dir(installed: raw::Installed) -> anyhow::Result<PathBuf> {
    let dir = installed.pin_dir;
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if !dir.is_absolute() || name.is_empty() || name.contains('.') {
        bail!(
            "--pin-dir {} is not valid; give an absolute path in a bpffs without dots, such as {}",
            dir.display(),
            super::PIN_DIR
        );
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn parse(line: &str) -> anyhow::Result<Command> {
        resolve(raw::Cli::try_parse_from(line.split(' '))?)
    }

    #[test]
    fn clap_finds_no_contradiction() {
        raw::Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_every_pod_and_text() {
        let Command::Compile(c) = parse("netpolc compile -f a b -f c").unwrap() else {
            panic!("not compile")
        };
        assert_eq!((c.input.files.len(), c.scope, c.show), (3, Scope::Everywhere, Show::Text));
    }

    #[test]
    fn a_cluster_is_read_by_a_kubeconfig_or_a_context_and_files_add_to_it() {
        let of = |line: &str| {
            let Command::Compile(c) = parse(line).unwrap() else { panic!("not compile") };
            (c.input.cluster, c.input.files.len())
        };
        let config = |path: Option<&str>, context: Option<&str>| {
            Some(Kubeconfig { path: path.map(Into::into), context: context.map(Into::into) })
        };
        assert_eq!(of("netpolc compile -f x"), (None, 1));
        assert_eq!(of("netpolc compile --kubeconfig"), (config(None, None), 0));
        assert_eq!(of("netpolc compile --kubeconfig c -f x"), (config(Some("c"), None), 1));
        assert_eq!(of("netpolc compile --context b"), (config(None, Some("b")), 0));
    }

    #[test]
    fn s90_what_isolates_by_default_is_the_same_for_files_and_for_an_agent() {
        let flags = "--isolate-by-default --isolate-by-default-except a,b,";
        let Command::Compile(compile) = parse(&format!("netpolc compile -f x {flags}")).unwrap()
        else {
            panic!("not compile")
        };
        let agent = parse(&format!("netpolc agent --from x --node n {flags}")).unwrap();
        let Command::Agent(agent) = agent else { panic!("not agent") };
        // As the chart writes an empty list.
        let none = "netpolc eval -f x --probes y --isolate-by-default --isolate-by-default-except=";
        let Command::Eval(eval) = parse(none).unwrap() else { panic!("not eval") };
        assert_eq!(eval.input.by_default.except, [].into());
        let except = ["a".into(), "b".into()].into();
        let expected = ByDefault { unselected: Unselected::Isolated, except };
        assert_eq!(compile.input.by_default, expected);
        assert_eq!(agent.options.by_default, expected);
    }

    #[test]
    fn s82_groups_judge_the_same_packets_for_files_and_for_an_agent() {
        for (flags, expected) in [
            ("", Enforcement::Strict),
            (" --security-groups strict", Enforcement::Strict),
            (" --security-groups standard", Enforcement::Standard),
        ] {
            let eval = parse(&format!("netpolc eval -f x --probes y{flags}")).unwrap();
            let Command::Eval(eval) = eval else { panic!("not eval") };
            let compile = parse(&format!("netpolc compile -f x{flags}")).unwrap();
            let Command::Compile(compile) = compile else { panic!("not compile") };
            let agent = parse(&format!("netpolc agent --from x --node n{flags}")).unwrap();
            let Command::Agent(agent) = agent else { panic!("not agent") };
            let found =
                [eval.input.enforcement, compile.input.enforcement, agent.options.enforcement];
            assert_eq!(found, [expected; 3], "{flags}");
        }
    }

    #[test]
    fn contradictions_are_refused_with_what_to_do() {
        for (line, part) in [
            ("netpolc compile", "--file <PATH>..."),
            ("netpolc compile --context=", "--context is empty"),
            ("netpolc compile -f - -f -", "twice"),
            ("netpolc eval -f - --probes -", "standard input"),
            ("netpolc agent --from - --node n", "watches files"),
            ("netpolc agent --node n", "--kubernetes"),
            ("netpolc agent --from x --kubernetes --node n", "cannot be used with"),
            ("netpolc agent --from x --kubeconfig y --node n", "--kubernetes"),
            ("netpolc agent --from x --cni-socket y --node n", "--kubernetes"),
            ("netpolc compile -f x --pod ui", "namespace/name"),
            ("netpolc eval -f x --probes y --isolate-by-default-except a", "--isolate-by-default"),
            (
                "netpolc compile -f x --isolate-by-default --isolate-by-default-except kube-*",
                "whole names",
            ),
            ("netpolc compile -f x --pod a/b/c", "namespace/name"),
            ("netpolc lint -f x --allow no-such-check", "the ids are"),
            ("netpolc cni remove --file /etc/cni/net.d/10-x.conflist", "--conf-dir"),
            ("netpolc compile -f x --mode software", "--target flower"),
            ("netpolc compile -f x --target p4 --mode software", "--target flower"),
            ("netpolc compile -f x --entries const", "--target p4"),
            ("netpolc compile -f x --target p4 -o json", "omit -o"),
            ("netpolc compile -f x --target ebpf -o p4info", "omit --target"),
            ("netpolc compile -f x --target flower -o p4runtime", "omit --target"),
            ("netpolc compile -f x --target flower --driver ice", "--mode prefilter"),
            (
                "netpolc compile -f x --target flower --mode prefilter --driver e1000",
                "the known ones are",
            ),
            (
                "netpolc compile -f x --target flower --mode prefilter --driver software",
                "not a NIC's driver",
            ),
            ("netpolc status --pin-dir netpolc", "absolute"),
            ("netpolc status --pin-dir /sys/fs/bpf/a.b", "dots"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
