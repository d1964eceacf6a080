//! The agent.

pub mod events;
pub mod record;
pub mod watch;
