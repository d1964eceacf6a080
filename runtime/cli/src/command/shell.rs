//! `netpolc completions` and `netpolc man`: what shells and `man` need to know of the command line.
//! Not here: the command line ([`crate::cli`]).

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    cli::raw::Cli,
    output::{self, Outcome},
};

/// Runs `netpolc completions`.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(shell: Shell) -> anyhow::Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "netpolc", &mut text);
    let mut out = output::stdout();
    std::io::Write::write_all(&mut out, &text)?;
    std::io::Write::flush(&mut out)?;
    Ok(Outcome::Fine)
}

/// Runs `netpolc man`.
///
/// # Errors
/// The folder does not exist, or cannot be written.
pub fn manual(folder: &Path) -> anyhow::Result<Outcome> {
    clap_mangen::generate_to(Cli::command(), folder)
        .with_context(|| format!("the manual pages cannot be written to {}", folder.display()))?;
    Ok(Outcome::Fine)
}
