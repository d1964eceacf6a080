//! `netpolc bench`.

use crate::{cli::resolve::Bench, output::Outcome};

/// Runs the command.
///
/// # Errors
/// What is missing on this machine.
pub fn run(_options: &Bench) -> anyhow::Result<Outcome> {
    anyhow::bail!("bench: no part is built in")
}
