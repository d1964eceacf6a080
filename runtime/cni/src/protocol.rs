//! The protocol between plugin and agent: one JSON object and a newline each way, and then the
//! connection ends.
//!
//! Not here: sockets ([`crate::ask`], `crate::server`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The default path of the agent's socket.
pub const SOCKET: &str = "/run/netpolc/cni.sock";
/// The longest line of the protocol, in bytes.
pub const MAX_LINE_LEN: usize = 64 << 10;

/// How long an agent may take to answer a plugin that does not say how long it waits, in
/// milliseconds.
const DEFAULT_WAIT_MS: u64 = 4_000;

/// A request as it is sent to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// The request itself.
    #[serde(flatten)]
    pub request: Request,
    /// How long the plugin will wait for the answer, in milliseconds, so that the agent can give a
    /// reason in time.
    #[serde(default = "default_wait")]
    pub patience_milliseconds: u64,
}

fn default_wait() -> u64 {
    DEFAULT_WAIT_MS
}

/// What the plugin asks about a sandbox or says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Request {
    /// To answer once the pod's policies are enforced on its interface.
    Add(Sandbox),
    /// As [`Request::Add`], for a pod that was added before: whether its policies are still
    /// enforced.
    Check(Sandbox),
    /// To forget a sandbox that is being deleted.
    Del {
        /// The container id of the sandbox.
        container: String,
    },
}

/// A pod's sandbox as the runtime and the plugins before this one describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// The container id of the sandbox.
    pub container: String,
    /// The namespace of the pod.
    pub namespace: String,
    /// The name of the pod.
    pub name: String,
    /// The UID of the pod, which differs for a pod that was created again under the same name.
    /// Empty where the runtime does not pass it.
    #[serde(default)]
    pub uid: String,
    /// The path of the sandbox's network namespace.
    pub netns: String,
    /// The addresses that the plugins before this one have assigned to the pod.
    pub addresses: Vec<IpAddr>,
    /// The names of interfaces on the host that the plugins before this one have created for the
    /// pod.
    pub host_interfaces: Vec<String>,
}

/// What the agent answers to any request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Reply {
    /// The pod's policies are enforced, or no policy selects it.
    Enforced,
    /// They are not enforced, so the sandbox must not start.
    Refused {
        /// The reason, and what to do about it.
        why: String,
    },
}

/// Encodes a value as a line of the protocol.
///
/// # Errors
/// The value cannot be encoded as JSON, which does not happen with the types of this module.
pub fn line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|json| json + "\n")
}
