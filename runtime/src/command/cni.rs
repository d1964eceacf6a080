//! `netpolc cni`: keeps the chained plugin in a node's CNI configuration, or out of it.
//!
//! Not here: the files ([`crate::chain`]), the plugin itself (`netpolc-cni`).

use std::path::PathBuf;

use anyhow::Context;
use netpolc_cni::config::Fail;
use netpolc_policy::ObjectKey;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    agent::watch::Watch,
    chain::{Installed, Node, PLUGIN},
    cli::resolve::Passes,
    output::{self, Outcome},
};

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
        options: Plugin,
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

/// The plugin's options; what is its own default anyway is not written.
#[derive(Clone, Debug, Default)]
pub struct Plugin {
    /// Where the agent listens.
    pub socket: Option<PathBuf>,
    /// How long a pod's start may wait for the agent, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What happens without its answer.
    pub fail: Fail,
    /// Namespaces whose pods start without it.
    pub exempt_namespaces: Vec<String>,
    /// A pod of the agent's DaemonSet, by whose likes the plugin sees whether netpolc was uninstalled.
    pub pod: Option<ObjectKey>,
}

impl Plugin {
    fn options(&self) -> Map<String, Value> {
        let mut options = Map::new();
        if let Some(socket) = &self.socket {
            options.insert("socket".into(), json!(socket));
        }
        if let Some(timeout) = self.timeout_ms {
            options.insert("timeoutMilliseconds".into(), json!(timeout));
        }
        if self.fail == Fail::Open {
            options.insert("fail".into(), json!("open"));
        }
        if !self.exempt_namespaces.is_empty() {
            options.insert("exemptNamespaces".into(), json!(self.exempt_namespaces));
        }
        if let Some(pod) = &self.pod {
            // All but the part that tells a DaemonSet's pods from each other.
            let prefix = pod.name.rsplit_once('-').map_or(&*pod.name, |(name, _)| name);
            options.insert("agent".into(), json!({"namespace": &*pod.namespace, "namePrefix": format!("{prefix}-")}));
        }
        options
    }
}

/// Runs the command.
///
/// # Errors
/// One pass: what failed. With `--watch` it is reported, and tried again at the next change.
pub fn run(cni: &Cni) -> anyhow::Result<Outcome> {
    match cni.passes {
        Passes::Once => pass(cni).map(|()| Outcome::Fine),
        Passes::UntilStopped => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
            runtime.block_on(keep(cni))
        }
    }
}

async fn keep(cni: &Cni) -> anyhow::Result<Outcome> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Before the first look, so that no change is missed. What a pass writes itself leads to one more, which finds nothing to do.
    let mut watch = Watch::new(std::slice::from_ref(&cni.node.conf_dir));
    loop {
        if let Err(error) = pass(cni) {
            tracing::error!("{error:#}");
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(Outcome::Fine),
            _ = terminate.recv() => return Ok(Outcome::Fine),
            () = watch.changed() => watch.settle().await,
        }
    }
}

fn pass(cni: &Cni) -> anyhow::Result<()> {
    match &cni.wanted {
        Wanted::In { program, options, strictness } => {
            let program = match program {
                Some(program) => program.clone(),
                None => std::env::current_exe().context("the path of this program")?.with_file_name(PLUGIN),
            };
            match cni.node.install(&program, &options.options()) {
                Ok(Installed::Already) => {}
                Ok(Installed::Chained(path)) => output::complain(format_args!("chained into {}", path.display())),
                Ok(Installed::NoNetwork) => output::complain(format_args!(
                    "no CNI configuration in {} yet; the plugin is chained when one appears and this command runs again",
                    cni.node.conf_dir.display()
                )),
                Err(error) if *strictness == Strictness::Optional => output::complain(error),
                Err(error) => return Err(error.into()),
            }
        }
        Wanted::Out => {
            for path in cni.node.remove()? {
                output::complain(format_args!("removed from {}", path.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_understands_its_options() {
        let plugin = Plugin {
            socket: Some("/run/x.sock".into()),
            timeout_ms: Some(700),
            fail: Fail::Open,
            exempt_namespaces: vec!["kube-system".into()],
            pod: Some(ObjectKey::new("kube-system", "net-policy-x7x8z")),
        };
        let mut options = plugin.options();
        options.insert("cniVersion".into(), json!("1.0.0"));
        let config = netpolc_cni::config::Config::parse(&serde_json::to_vec(&options).unwrap()).unwrap();
        assert_eq!(config.socket, PathBuf::from("/run/x.sock"));
        assert_eq!((config.timeout().unwrap().as_millis(), config.fail), (700, Fail::Open));
        assert!(config.exempt_namespaces.contains("kube-system"));
        let agent = config.agent.unwrap();
        assert_eq!((&*agent.namespace, &*agent.name_prefix), ("kube-system", "net-policy-"));
        assert_eq!(agent.pod_logs, PathBuf::from("/var/log/pods"));
        assert!(Plugin::default().options().is_empty());
    }
}
