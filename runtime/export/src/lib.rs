//! Flows in the forms of other systems: events of OCSF, and logs of OpenTelemetry.
//!
//! [`ocsf`] is a form of lines, for logs and for `netpolc flows`. `otlp` sends flows, and an
//! agent's metrics, to a collector, from a thread of its own. Not here: what a flow is
//! ([`netpolc_flow`]), and where an agent takes flows from (`netpolc-agent`).

mod known;
pub mod ocsf;
#[cfg(feature = "otlp")]
pub mod otlp;
