//! Reads the network configuration from standard input, and the CNI variables from the environment.
//!
//! Not here: what is done with them ([`crate::run`]).

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    orphan::Agent,
    protocol::{SOCKET, Sandbox},
};

/// How long ADD may take unless the configuration says otherwise, in milliseconds.
const TIMEOUT_MS: u64 = 5_000;
/// The longest time that the configuration may set, in milliseconds: kubelet gives up on a sandbox
/// after four minutes.
const MAX_TIMEOUT_MS: u64 = 120_000;

/// What is wrong with the input. [`Error::code`] is the CNI error code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is not JSON, or not a network configuration.
    #[error("the network configuration is not valid: {0}")]
    Config(#[from] serde_json::Error),
    /// A variable of the environment is missing.
    #[error("the variable {0} is not set; a CNI runtime must set it")]
    Variable(&'static str),
    /// A key of CNI_ARGS is missing.
    #[error("CNI_ARGS has no {0}; the runtime must pass the pod's name (kubelet's runtimes do)")]
    Argument(&'static str),
    /// The plugin does not follow another one that creates the interface.
    #[error(
        "prevResult is missing; put netpolc after the plugin that creates the pod's interface in \
        the \"plugins\" list"
    )]
    NotChained,
    /// `timeoutMilliseconds` is out of range.
    #[error("timeoutMilliseconds must be between 1 and {MAX_TIMEOUT_MS}, not {0}")]
    Timeout(u64),
}

impl Error {
    /// The CNI error code (the specification's section 5, "Error").
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
    /// The pod does not start, and the runtime tries again.
    #[default]
    Closed,
    /// The pod starts without its policies, until the agent is back.
    Open,
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The version of the specification in which the result is printed.
    pub cni_version: String,
    /// The result of the plugins before this one; None where there are none.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// The path of the agent's socket.
    #[serde(default = "socket")]
    pub socket: PathBuf,
    /// How long to wait for the agent in milliseconds, connecting included.
    #[serde(default)]
    timeout_milliseconds: Option<u64>,
    /// What happens to a pod that the agent does not confirm.
    #[serde(default)]
    pub fail: Fail,
    /// Namespaces whose pods always start, such as those that the agent itself needs after a
    /// reboot.
    #[serde(default)]
    pub exempt_namespaces: BTreeSet<String>,
    /// How to recognise the agent's pods, by whose absence the plugin finds that it is orphaned;
    /// None where it never checks that.
    #[serde(default)]
    pub agent: Option<Agent>,
}

fn socket() -> PathBuf {
    SOCKET.into()
}

impl Config {
    /// Parses the bytes from standard input.
    ///
    /// # Errors
    /// The bytes are not a valid network configuration, or the timeout is out of range.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let config: Config = serde_json::from_slice(bytes)?;
        config.timeout()?;
        Ok(config)
    }

    /// How long to wait for the agent.
    ///
    /// # Errors
    /// The configured time is out of range.
    pub fn timeout(&self) -> Result<Duration, Error> {
        match self.timeout_milliseconds.unwrap_or(TIMEOUT_MS) {
            ms @ 1..=MAX_TIMEOUT_MS => Ok(Duration::from_millis(ms)),
            ms => Err(Error::Timeout(ms)),
        }
    }

    /// The sandbox that prevResult and the environment describe.
    ///
    /// # Errors
    /// prevResult, a variable or a key of CNI_ARGS is missing.
    pub fn sandbox(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Sandbox, Error> {
        let must = |name: &'static str| {
            variable(name).filter(|v| !v.is_empty()).ok_or(Error::Variable(name))
        };
        let arguments = variable("CNI_ARGS").unwrap_or_default();
        let argument = |name: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .filter(|v| !v.is_empty())
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

/// The addresses of the result. `ips[].address` holds prefixes, such as 10.0.0.2/24.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let list = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    list.iter().filter_map(address).collect()
}

/// The names of the host's interfaces in the result: those without a sandbox.
fn host_interfaces(result: &Value) -> Vec<String> {
    let list = result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let host = |i: &&Value| i["sandbox"].as_str().is_none_or(str::is_empty);
    list.iter().filter(host).filter_map(|i| i["name"].as_str().map(str::to_owned)).collect()
}
