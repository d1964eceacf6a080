//! The CNI commands: what is printed, and the exit code.
//!
//! Not here: reading the configuration ([`crate::config`]), the conversation with the agent ([`crate::ask`]).

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    ask::{self, ask},
    config::{Config, Error, Fail},
    orphan::{GRACE, Witness},
    protocol::{Reply, Request, Sandbox},
};

/// Versions of the specification whose results can be passed on.
pub const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.3.0"];
/// CNI error code: try again later.
const TRY_AGAIN: u32 = 11;
/// CNI error code for STATUS: the plugin is not available, running containers may have limited connectivity.
const UNAVAILABLE: u32 = 50;

/// How long an agent is waited for that was uninstalled, in case it is there again.
const AT_ONCE: Duration = Duration::from_millis(200);

/// What the process prints and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output: a result, an error object, or nothing.
    pub output: Option<Value>,
    /// For standard error, which runtimes log.
    pub note: Option<String>,
    /// 0, or 1 where `output` is an error.
    pub code: u8,
}

impl Outcome {
    fn fine(output: Option<Value>) -> Self {
        Outcome { output, note: None, code: 0 }
    }

    fn error(version: &str, code: u32, message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        Outcome { output: Some(json!({"cniVersion": version, "code": code, "msg": message})), note: None, code: 1 }
    }
}

/// Does the command that `variable("CNI_COMMAND")` names with the configuration in `input`.
pub fn run(input: &[u8], variable: impl Fn(&str) -> Option<String>) -> Outcome {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Outcome::fine(Some(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS})));
    }
    let config = match Config::parse(input) {
        Ok(config) => config,
        Err(error) => return Outcome::error("1.0.0", error.code(), error),
    };
    let version = config.cni_version.clone();
    if !VERSIONS.contains(&version.as_str()) {
        let message = format!("cniVersion {version} is not supported; supported are {}", VERSIONS.join(", "));
        return Outcome::error(&version, 1, message);
    }
    let done = match command.as_str() {
        "ADD" => add(&config, &variable),
        "CHECK" => check(&config, &variable),
        "DEL" => Ok(del(&config, &variable)),
        "STATUS" => Ok(status(&config)),
        // The agent finds out by itself what is gone.
        "GC" => Ok(Outcome::fine(None)),
        other => Ok(Outcome::error(
            &version,
            4,
            format!("CNI_COMMAND {other:?} is not one of ADD, DEL, CHECK, GC, STATUS, VERSION"),
        )),
    };
    done.unwrap_or_else(|error| Outcome::error(&version, error.code(), error))
}

fn add(config: &Config, variable: &impl Fn(&str) -> Option<String>) -> Result<Outcome, Error> {
    let sandbox = config.sandbox(variable)?;
    let pod = format!("{}/{}", sandbox.namespace, sandbox.name);
    let passed_on = Outcome::fine(config.prev_result.clone());
    Ok(match confirm(config, sandbox, Request::Add)? {
        Confirmed::Yes => passed_on,
        Confirmed::Spared { why, failure } => {
            let note = format!("netpolc: pod {pod} starts although its policies may not hold yet ({why}): {failure}");
            Outcome { note: Some(note), ..passed_on }
        }
        Confirmed::No(failure) => {
            Outcome::error(&config.cni_version, TRY_AGAIN, format!("pod {pod} is not isolated yet: {failure}"))
        }
    })
}

fn check(config: &Config, variable: &impl Fn(&str) -> Option<String>) -> Result<Outcome, Error> {
    let sandbox = config.sandbox(variable)?;
    let pod = format!("{}/{}", sandbox.namespace, sandbox.name);
    Ok(match confirm(config, sandbox, Request::Check)? {
        Confirmed::Yes => Outcome::fine(None),
        Confirmed::Spared { why, failure } => {
            Outcome { note: Some(format!("netpolc: pod {pod} ({why}): {failure}")), ..Outcome::fine(None) }
        }
        Confirmed::No(failure) => Outcome::error(&config.cni_version, TRY_AGAIN, format!("pod {pod}: {failure}")),
    })
}

/// What became of asking the agent about a pod.
enum Confirmed {
    Yes,
    No(String),
    /// The agent does not confirm it, and it runs all the same.
    Spared {
        why: String,
        failure: String,
    },
}

/// Asks the agent, and says what follows where it does not confirm.
fn confirm(config: &Config, sandbox: Sandbox, request: fn(Sandbox) -> Request) -> Result<Confirmed, Error> {
    let missing = config.agent.as_ref().and_then(|agent| {
        let witness = Witness { namespace: &sandbox.namespace, name: &sandbox.name };
        agent.missing_for(witness, config.socket.parent().unwrap_or(Path::new("/run/netpolc")))
    });
    let orphaned = missing.filter(|missing| *missing >= GRACE);
    // Each pod of a node that netpolc has left would wait in vain.
    let timeout = orphaned.map_or(config.timeout()?, |_| AT_ONCE);
    let namespace = sandbox.namespace.clone();
    let (failure, silent) = match ask(&config.socket, &request(sandbox), timeout) {
        Ok(Reply::Enforced) => return Ok(Confirmed::Yes),
        Ok(Reply::Refused { why }) => (why, false),
        Err(error) => (error.to_string(), matches!(error, ask::Error::Socket { .. })),
    };
    let why = match orphaned {
        _ if config.exempt_namespaces.contains(&namespace) => "its namespace is exempt".to_owned(),
        _ if config.fail == Fail::Open => "the configuration says to fail open".to_owned(),
        Some(missing) if silent => format!(
            "netpolc was uninstalled: this node has had no pod of its agent for {} s; take the plugin out of the network \
             configuration, as netpolc cni remove does",
            missing.as_secs()
        ),
        _ => return Ok(Confirmed::No(failure)),
    };
    Ok(Confirmed::Spared { why, failure })
}

/// Never fails: a sandbox must be able to go without an agent, which finds out by itself.
fn del(config: &Config, variable: &impl Fn(&str) -> Option<String>) -> Outcome {
    let Some(container) = variable("CNI_CONTAINERID").filter(|c| !c.is_empty()) else { return Outcome::fine(None) };
    // Not worth waiting for.
    let timeout = config.timeout().unwrap_or_default().min(std::time::Duration::from_millis(200));
    let note = ask(&config.socket, &Request::Del { container }, timeout).err();
    Outcome {
        note: note.map(|e| format!("netpolc: the agent was not told of a sandbox that goes: {e}")),
        ..Outcome::fine(None)
    }
}

/// A runtime that hears an error here starts no pod at all: none of the exempt namespaces either, on which the agent itself may
/// depend. So it is one only where no pod could start anyway.
fn status(config: &Config) -> Outcome {
    let none_starts = config.fail == Fail::Closed && config.exempt_namespaces.is_empty() && config.agent.is_none();
    match std::os::unix::net::UnixStream::connect(&config.socket) {
        Err(error) if none_starts => {
            let message = format!("the netpolc agent does not listen on {}: {error}", config.socket.display());
            Outcome::error(&config.cni_version, UNAVAILABLE, message)
        }
        _ => Outcome::fine(None),
    }
}
