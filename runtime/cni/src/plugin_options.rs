//! The plugin's options, as an installer writes them into a configuration.
//!
//! Not here: how the plugin reads them ([`crate::config`]), and the rest of the configuration
//! ([`crate::conflist`]).

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::config::Fail;

/// The name of a pod of the agent's DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// The namespace that the DaemonSet is in.
    pub namespace: String,
    /// The name of the pod, with the suffix that is unique to it.
    pub name: String,
}

/// The plugin's options. Those with the plugin's own default are not written.
#[derive(Clone, Debug, Default)]
pub struct PluginOptions {
    /// The path of the agent's socket; None for the default.
    pub socket: Option<PathBuf>,
    /// How long a pod's start may wait for the agent, in milliseconds; None for the default.
    pub timeout_ms: Option<u64>,
    /// What happens to a pod that the agent does not confirm.
    pub fail: Fail,
    /// Namespaces whose pods start without the agent.
    pub exempt_namespaces: Vec<String>,
    /// A pod of the agent's DaemonSet, by whose name the plugin recognises such pods and finds
    /// whether netpolc was uninstalled; None where it never checks that.
    pub pod: Option<AgentPod>,
}

impl PluginOptions {
    /// The options as they are written into the configuration.
    pub fn json(&self) -> Map<String, Value> {
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
            // The name without its suffix is common to all pods of the DaemonSet.
            let prefix = pod.name.rsplit_once('-').map_or(pod.name.as_str(), |(name, _)| name);
            options.insert(
                "agent".into(),
                json!({"namespace": &pod.namespace, "namePrefix": format!("{prefix}-")}),
            );
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_plugin_understands_its_options() {
        let plugin = PluginOptions {
            socket: Some("/run/x.sock".into()),
            timeout_ms: Some(700),
            fail: Fail::Open,
            exempt_namespaces: vec!["kube-system".into()],
            pod: Some(AgentPod {
                namespace: "kube-system".into(),
                name: "net-policy-x7x8z".into(),
            }),
        };
        let mut options = plugin.json();
        options.insert("cniVersion".into(), json!("1.0.0"));
        let config = Config::parse(&serde_json::to_vec(&options).unwrap()).unwrap();
        assert_eq!(config.socket, PathBuf::from("/run/x.sock"));
        assert_eq!((config.timeout().unwrap().as_millis(), config.fail), (700, Fail::Open));
        assert!(config.exempt_namespaces.contains("kube-system"));
        let agent = config.agent.unwrap();
        assert_eq!((&*agent.namespace, &*agent.name_prefix), ("kube-system", "net-policy-"));
        assert_eq!(agent.pod_logs, PathBuf::from("/var/log/pods"));
        assert!(PluginOptions::default().json().is_empty());
    }
}
