//! The CNI commands: what they print, and their exit codes.
//!
//! Not here: reading the configuration ([`crate::config`]), and talking to the agent
//! ([`crate::ask`]).

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    ask::{self, ask},
    config::{Config, Error, Fail},
    orphan::{GRACE, Witness},
    protocol::{Reply, Request, Sandbox},
};

/// The versions of the specification whose results can be passed on.
pub const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.3.0"];
/// The CNI error code for "try again later".
const TRY_AGAIN: u32 = 11;
/// The CNI error code of STATUS for a plugin that is not available, so that running containers may
/// have limited connectivity.
const UNAVAILABLE: u32 = 50;

/// How long to wait for an agent that seems to be uninstalled, in case it is there again, or that
/// need not answer.
const SHORT_TIMEOUT: Duration = Duration::from_millis(200);

/// What the process prints, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is printed on standard output: a result or an error object; None for nothing.
    pub output: Option<Value>,
    /// What is printed on standard error, which runtimes log; None for nothing.
    pub note: Option<String>,
    /// The exit code: 1 where `output` is an error, and else 0.
    pub code: u8,
}

impl Outcome {
    fn fine(output: Option<Value>) -> Self {
        Outcome { output, note: None, code: 0 }
    }

    fn error(version: &str, code: u32, message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        Outcome {
            output: Some(json!({"cniVersion": version, "code": code, "msg": message})),
            note: None,
            code: 1,
        }
    }
}

/// Runs the command that `variable("CNI_COMMAND")` names, with the configuration in `input`.
/// `variable` looks up variables of the environment.
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
        let message =
            format!("cniVersion {version} is not supported; supported are {}", VERSIONS.join(", "));
        return Outcome::error(&version, 1, message);
    }
    let done = match command.as_str() {
        "ADD" => add(&config, &variable),
        "CHECK" => check(&config, &variable),
        "DEL" => Ok(del(&config, &variable)),
        "STATUS" => Ok(status(&config)),
        // The agent itself finds out which sandboxes no longer exist.
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
            let note = format!(
                "netpolc: pod {pod} starts although its policies may not be enforced yet ({why}): \
                {failure}"
            );
            Outcome { note: Some(note), ..passed_on }
        }
        Confirmed::No(failure) => Outcome::error(
            &config.cni_version,
            TRY_AGAIN,
            format!("pod {pod} is not isolated yet: {failure}"),
        ),
    })
}

fn check(config: &Config, variable: &impl Fn(&str) -> Option<String>) -> Result<Outcome, Error> {
    let sandbox = config.sandbox(variable)?;
    let pod = format!("{}/{}", sandbox.namespace, sandbox.name);
    Ok(match confirm(config, sandbox, Request::Check)? {
        Confirmed::Yes => Outcome::fine(None),
        Confirmed::Spared { why, failure } => Outcome {
            note: Some(format!(
                "netpolc: pod {pod} was not confirmed, and passes all the same ({why}): {failure}"
            )),
            ..Outcome::fine(None)
        },
        Confirmed::No(failure) => Outcome::error(
            &config.cni_version,
            TRY_AGAIN,
            format!("pod {pod} is not isolated: {failure}"),
        ),
    })
}

/// The outcome of asking the agent about a pod.
enum Confirmed {
    Yes,
    No(String),
    /// The agent does not confirm the pod, but it may run all the same.
    Spared {
        why: String,
        failure: String,
    },
}

/// Asks the agent about a pod, and decides what follows where it does not confirm the pod.
fn confirm(
    config: &Config,
    sandbox: Sandbox,
    request: fn(Sandbox) -> Request,
) -> Result<Confirmed, Error> {
    let missing = config.agent.as_ref().and_then(|agent| {
        let witness = Witness { namespace: &sandbox.namespace, name: &sandbox.name };
        agent.missing_for(witness, config.socket.parent().unwrap_or(Path::new("/run/netpolc")))
    });
    let orphaned = missing.filter(|missing| *missing >= GRACE);
    // Where netpolc was uninstalled, each pod would wait in vain.
    let timeout = orphaned.map_or(config.timeout()?, |_| SHORT_TIMEOUT);
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
            "netpolc was uninstalled: this node has had no pod of its agent for {} s; remove the \
            plugin from the network configuration, as netpolc cni remove does",
            missing.as_secs()
        ),
        _ => return Ok(Confirmed::No(failure)),
    };
    Ok(Confirmed::Spared { why, failure })
}

/// Handles DEL. This never fails: a sandbox must be deletable without an agent, which later finds
/// out by itself.
fn del(config: &Config, variable: &impl Fn(&str) -> Option<String>) -> Outcome {
    let Some(container) = variable("CNI_CONTAINERID").filter(|c| !c.is_empty()) else {
        return Outcome::fine(None);
    };
    // Deleting a sandbox does not depend on the agent, so it is not worth waiting for.
    let timeout = config.timeout().unwrap_or_default().min(std::time::Duration::from_millis(200));
    let note = ask(&config.socket, &Request::Del { container }, timeout).err();
    Outcome {
        note: note.map(|e| {
            format!("netpolc: the agent could not be told that a sandbox is being deleted: {e}")
        }),
        ..Outcome::fine(None)
    }
}

/// Handles STATUS. After an error here, a runtime starts no pods at all, not even those of exempt
/// namespaces, on which the agent itself may depend. So an error is returned only where no pod
/// could start anyway.
fn status(config: &Config) -> Outcome {
    let none_starts = config.fail == Fail::Closed
        && config.exempt_namespaces.is_empty()
        && config.agent.is_none();
    match std::os::unix::net::UnixStream::connect(&config.socket) {
        Err(error) if none_starts => {
            let message = format!(
                "the netpolc agent does not listen on {}: {error}",
                config.socket.display()
            );
            Outcome::error(&config.cni_version, UNAVAILABLE, message)
        }
        _ => Outcome::fine(None),
    }
}
