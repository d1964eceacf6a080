//! The options of an agent, and the result of one pass.
//!
//! Not here: where its objects come from and which target enforces them, which whoever starts it
//! decides; and the command line.

use std::{path::PathBuf, sync::Arc, time::Duration};

use netpolc_export::otlp;
use netpolc_policy::{ByDefault, Enforcement};

use super::flows::{denials::Limits, hubble, log::FlowLog};

/// What an operator can choose about an agent.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the node, as in spec.nodeName of the pods for which policies are enforced.
    pub node: Arc<str>,
    /// The folder in which the tables are pinned; the names of the state files derive from it.
    pub pin_dir: PathBuf,
    /// The socket on which the CNI plugin is answered; None where it is not, and always with files.
    pub cni_socket: Option<PathBuf>,
    /// The key of the taint that is removed from the node once the agent enforces policies.
    pub startup_taint: Option<String>,
    /// What becomes of pods that no policy isolates, in namespaces that do not say so (S90).
    pub by_default: ByDefault,
    /// Which packets of pods with security groups they judge (S82).
    pub enforcement: Enforcement,
    /// How often the agent compares what the kernel holds with what it has written; None for never.
    pub audit_interval: Option<Duration>,
    /// Where flows are logged; None for nowhere.
    pub flow_log: Option<FlowLog>,
    /// The collector of OpenTelemetry to which flows and metrics are sent; None for none.
    pub otlp: Option<otlp::Config>,
    /// How many Events about denied traffic there may be; None for none, and always with files.
    pub denial_events: Option<Limits>,
    /// Where Hubble's API is served; None for nowhere.
    pub hubble: Option<hubble::Options>,
    /// Whether the agent ends after one pass.
    pub passes: Passes,
}

impl Options {
    /// The options of an agent without a CNI plugin and a taint, which isolates nothing by default,
    /// audits nothing, logs and sends no flows, serves no API, and runs until it is stopped.
    pub fn new(node: &str, pin_dir: PathBuf) -> Self {
        let passes = Passes::UntilStopped;
        Options {
            node: node.into(),
            pin_dir,
            cni_socket: None,
            startup_taint: None,
            by_default: ByDefault::default(),
            enforcement: Enforcement::default(),
            audit_interval: None,
            flow_log: None,
            otlp: None,
            denial_events: None,
            hubble: None,
            passes,
        }
    }
}

/// How long the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// It brings the kernel in step once, and ends.
    Once,
    /// It runs until a signal.
    UntilStopped,
}

/// What one pass has left to be said: where nothing is, all of the input is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// What is wrong with the input, and for which pods nothing is enforced, one line each.
    pub notices: Vec<String>,
    /// How many of the notices are errors.
    pub errors: usize,
    /// Why the kernel is not in step; None where it is.
    pub failure: Option<String>,
}
