//! `netpolc demo` and `netpolc bench`: runs separate programs, which the netpolc of a node does not
//! contain.
//!
//! They are found as cargo finds its subcommands: beside this program, or else on PATH. Not here:
//! the programs themselves (`testbed/`).

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::output::Outcome;

/// Replaces this process by the program `netpolc-NAME`.
///
/// # Errors
/// There is no such program, or it cannot be started.
pub fn run(name: &str, arguments: &[OsString]) -> anyhow::Result<Outcome> {
    let program = format!("netpolc-{name}");
    let own = own()?;
    let path = find(&program)?;
    let error = Command::new(&path).args(arguments).exec();
    if error.kind() != io::ErrorKind::NotFound {
        return Err(error).with_context(|| format!("{} could not be started", path.display()));
    }
    bail!(
        "netpolc {name} is run by the program {program}, which is neither in {} nor on PATH; \
        `cargo build --release -p {program}` in netpolc's sources builds it",
        own.parent().unwrap_or(Path::new("/")).display()
    )
}

/// The program of this name beside this one; else the name alone, which is looked up on PATH.
///
/// # Errors
/// The system does not say where this program is.
pub fn find(program: &str) -> anyhow::Result<PathBuf> {
    let beside = own()?.with_file_name(program);
    Ok(if beside.is_file() { beside } else { program.into() })
}

fn own() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("the path of this program could not be found")
}
