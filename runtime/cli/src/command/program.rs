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
    let own = std::env::current_exe().context("the path of this program could not be found")?;
    let beside = own.with_file_name(&program);
    let path: PathBuf = if beside.is_file() { beside } else { program.clone().into() };
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
