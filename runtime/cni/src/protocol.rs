//! What plugin and agent say to each other: one JSON object and a newline each way, then the connection ends.
//!
//! Not here: sockets.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/netpolc/cni.sock";
/// No line is longer.
pub const LONGEST: usize = 64 << 10;

/// How long an agent takes to answer a plugin that does not say how long it waits, in milliseconds.
const USUAL_PATIENCE_MS: u64 = 4_000;

/// A line to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
    /// How long the plugin waits for the answer from now on, in milliseconds: the agent then says in time why not.
    #[serde(default = "usual_patience")]
    pub patience_milliseconds: u64,
}

fn usual_patience() -> u64 {
    USUAL_PATIENCE_MS
}

/// What the plugin asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Request {
    /// Answer when the pod's policies hold on its interface.
    Add(Sandbox),
    /// As [`Request::Add`], of one that was added before: is it still so?
    Check(Sandbox),
    /// The sandbox goes.
    Del {
        /// Of the sandbox.
        container: String,
    },
}

/// A pod's sandbox as the runtime and the plugins before this one describe it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Of the sandbox.
    pub container: String,
    /// Of the pod.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// Of the pod: one of the same name that was made anew has another. Empty where the runtime does not tell.
    #[serde(default)]
    pub uid: String,
    /// Path of the network namespace.
    pub netns: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Names of interfaces on the host that the plugins before this one made for the pod.
    pub host_interfaces: Vec<String>,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Reply {
    /// The pod's policies hold, or none selects it.
    Enforced,
    /// They do not; the sandbox must not start.
    Refused {
        /// Why, and what to do.
        why: String,
    },
}

/// A line of the protocol.
///
/// # Errors
/// serde_json's, which does not happen for these types.
pub fn line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|json| json + "\n")
}
