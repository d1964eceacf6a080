//! The network configuration on standard input and the CNI variables of the environment, as the plugin reads them.
//!
//! Not here: what is done with them ([`crate::run`]).

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    orphan::Agent,
    protocol::{SOCKET, Sandbox},
};

/// The longest that ADD may take unless the configuration says otherwise.
const TIMEOUT_MS: u64 = 5_000;
/// The longest that the configuration may ask for; kubelet gives up on a sandbox after four minutes.
const MAX_TIMEOUT_MS: u64 = 120_000;

/// What is wrong with the input. The CNI error code is [`Error::code`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not the shape of a network configuration.
    #[error("network configuration: {0}")]
    Config(#[from] serde_json::Error),
    /// A variable is missing.
    #[error("{0} is not set; a CNI runtime sets it")]
    Variable(&'static str),
    /// A key of CNI_ARGS is missing.
    #[error("CNI_ARGS has no {0}; the runtime must pass the pod's name (kubelet's runtimes do)")]
    Argument(&'static str),
    /// Not chained behind a plugin that makes the interface.
    #[error(
        "prevResult is missing: put netpolc behind the plugin that makes the pod's interface in the \"plugins\" list"
    )]
    NotChained,
    /// A number out of range.
    #[error("timeoutMilliseconds must be between 1 and {MAX_TIMEOUT_MS}, not {0}")]
    Timeout(u64),
}

impl Error {
    /// The CNI error code (section 5, "Error").
    pub fn code(&self) -> u32 {
        match self {
            Error::Config(_) => 6,
            Error::Variable(_) | Error::Argument(_) => 4,
            Error::NotChained | Error::Timeout(_) => 7,
        }
    }
}

/// What happens to a pod that the agent does not confirm in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// It does not start; the runtime tries again.
    #[default]
    Closed,
    /// It starts without its policies, until the agent is back.
    Open,
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Of the result.
    pub cni_version: String,
    /// The result of the plugins before this one.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// Where the agent listens.
    #[serde(default = "socket")]
    pub socket: PathBuf,
    /// How long to wait for the agent, connecting included.
    #[serde(default)]
    timeout_milliseconds: Option<u64>,
    /// What happens without its answer.
    #[serde(default)]
    pub fail: Fail,
    /// Namespaces whose pods always start: those the agent itself needs to start after a reboot.
    #[serde(default)]
    pub exempt_namespaces: BTreeSet<String>,
    /// The agent's pods, by which an orphaned plugin knows that it is one; None: it never does.
    #[serde(default)]
    pub agent: Option<Agent>,
}

fn socket() -> PathBuf {
    SOCKET.into()
}

impl Config {
    /// From standard input's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let config: Config = serde_json::from_slice(bytes)?;
        config.timeout()?;
        Ok(config)
    }

    /// How long to wait.
    ///
    /// # Errors
    /// A number out of range.
    pub fn timeout(&self) -> Result<Duration, Error> {
        match self.timeout_milliseconds.unwrap_or(TIMEOUT_MS) {
            ms @ 1..=MAX_TIMEOUT_MS => Ok(Duration::from_millis(ms)),
            ms => Err(Error::Timeout(ms)),
        }
    }

    /// The sandbox that prevResult and the environment describe.
    ///
    /// # Errors
    /// What is missing.
    pub fn sandbox(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Sandbox, Error> {
        let must = |name: &'static str| variable(name).filter(|v| !v.is_empty()).ok_or(Error::Variable(name));
        let arguments = variable("CNI_ARGS").unwrap_or_default();
        let argument = |name: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).filter(|v| !v.is_empty())
        };
        let named = |name: &'static str| argument(name).ok_or(Error::Argument(name));
        let previous = self.prev_result.as_ref().ok_or(Error::NotChained)?;
        Ok(Sandbox {
            container: must("CNI_CONTAINERID")?,
            netns: must("CNI_NETNS")?,
            namespace: named("K8S_POD_NAMESPACE")?,
            name: named("K8S_POD_NAME")?,
            uid: argument("K8S_POD_UID").unwrap_or_default(),
            addresses: addresses(previous),
            host_interfaces: host_interfaces(previous),
        })
    }
}

/// `ips[].address` are prefixes (10.0.0.2/24).
fn addresses(result: &Value) -> Vec<IpAddr> {
    let list = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    list.iter().filter_map(address).collect()
}

/// Interfaces without a sandbox are the host's.
fn host_interfaces(result: &Value) -> Vec<String> {
    let list = result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let host = |i: &&Value| i["sandbox"].as_str().is_none_or(str::is_empty);
    list.iter().filter(host).filter_map(|i| i["name"].as_str().map(str::to_owned)).collect()
}
