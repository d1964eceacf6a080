//! The plugin's options as an installer writes them into a list.
//!
//! Not here: how the plugin reads them ([`crate::config`]), the list ([`crate::conflist`]).

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::config::Fail;

/// A pod, by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name, with the part at its end that tells a DaemonSet's pods from each other.
    pub name: String,
}

/// The plugin's options; what is its own default anyway is not written.
#[derive(Clone, Debug, Default)]
pub struct PluginOptions {
    /// Where the agent listens.
    pub socket: Option<PathBuf>,
    /// How long a pod's start may wait for the agent, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What happens without its answer.
    pub fail: Fail,
    /// Namespaces whose pods start without it.
    pub exempt_namespaces: Vec<String>,
    /// A pod of the agent's DaemonSet, by whose likes the plugin sees whether netpolc was uninstalled.
    pub pod: Option<AgentPod>,
}

impl PluginOptions {
    /// As they stand in the list.
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
            // All but the part that tells a DaemonSet's pods from each other.
            let prefix = pod.name.rsplit_once('-').map_or(pod.name.as_str(), |(name, _)| name);
            options.insert("agent".into(), json!({"namespace": &pod.namespace, "namePrefix": format!("{prefix}-")}));
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
            pod: Some(AgentPod { namespace: "kube-system".into(), name: "net-policy-x7x8z".into() }),
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
