//! What the `netpolc` command does: the commands, the judges they ask, and the agent.
//!
//! This is the only place that knows every target. Not here: what policies mean
//! (`netpolc-policy`), how tables come about (`netpolc-lower`) and how targets hold them.

pub mod agent;
pub mod bench;
pub mod chain;
pub mod cli;
pub mod command;
pub mod input;
pub mod interrupt;
pub mod judge;
pub mod log;
pub mod metrics;
pub mod net;
pub mod output;
pub mod status;
