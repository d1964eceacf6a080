//! The CNI commands: what is printed, and the exit code.
//!
//! Not here: reading the configuration ([`crate::config`]), the conversation with the agent ([`crate::ask`]).

use serde_json::{Value, json};

use crate::{
    ask::ask,
    config::{Config, Error, Fail},
    protocol::{Reply, Request},
};

/// Versions of the specification whose results can be passed on.
pub const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.3.0"];
/// CNI error code: try again later.
const TRY_AGAIN: u32 = 11;
/// CNI error code for STATUS: the plugin is not available, running containers may have limited connectivity.
const UNAVAILABLE: u32 = 50;

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
    let (pod, namespace) = (format!("{}/{}", sandbox.namespace, sandbox.name), sandbox.namespace.clone());
    let passed_on = Outcome::fine(config.prev_result.clone());
    let failure = match ask(&config.socket, &Request::Add(sandbox), config.timeout()?) {
        Ok(Reply::Enforced) => return Ok(passed_on),
        Ok(Reply::Refused { why }) => why,
        Err(error) => error.to_string(),
    };
    let why = if config.exempt_namespaces.contains(&namespace) {
        "its namespace is exempt"
    } else if config.fail == Fail::Open {
        "the configuration says to fail open"
    } else {
        let message = format!("pod {pod} is not isolated yet: {failure}");
        return Ok(Outcome::error(&config.cni_version, TRY_AGAIN, message));
    };
    let note = format!("netpolc: pod {pod} starts although its policies may not hold yet ({why}): {failure}");
    Ok(Outcome { note: Some(note), ..passed_on })
}

fn check(config: &Config, variable: &impl Fn(&str) -> Option<String>) -> Result<Outcome, Error> {
    let sandbox = config.sandbox(variable)?;
    let pod = format!("{}/{}", sandbox.namespace, sandbox.name);
    let why = match ask(&config.socket, &Request::Check(sandbox), config.timeout()?) {
        Ok(Reply::Enforced) => return Ok(Outcome::fine(None)),
        Ok(Reply::Refused { why }) => why,
        Err(error) => error.to_string(),
    };
    Ok(Outcome::error(&config.cni_version, TRY_AGAIN, format!("pod {pod}: {why}")))
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

fn status(config: &Config) -> Outcome {
    match std::os::unix::net::UnixStream::connect(&config.socket) {
        Err(error) if config.fail == Fail::Closed => {
            let message = format!("the netpolc agent does not listen on {}: {error}", config.socket.display());
            Outcome::error(&config.cni_version, UNAVAILABLE, message)
        }
        _ => Outcome::fine(None),
    }
}
