//! `netpolc demo` and `netpolc bench`: programs of their own, which a node's netpolc does not carry.
//!
//! They are found as cargo finds its subcommands: beside this program, else on PATH.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::output::Outcome;

/// Becomes the program `netpolc-NAME`.
///
/// # Errors
/// There is none, or it cannot be started.
pub fn run(name: &str, arguments: &[OsString]) -> anyhow::Result<Outcome> {
    let program = format!("netpolc-{name}");
    let own = std::env::current_exe().context("the path of this program")?;
    let beside = own.with_file_name(&program);
    let path: PathBuf = if beside.is_file() { beside } else { program.clone().into() };
    let error = Command::new(&path).args(arguments).exec();
    if error.kind() != io::ErrorKind::NotFound {
        return Err(error).with_context(|| path.display().to_string());
    }
    bail!(
        "netpolc {name} is done by the program {program}, which is neither in {} nor on PATH; `cargo build --release -p \
         {program}` in netpolc's sources builds it",
        own.parent().unwrap_or(Path::new("/")).display()
    )
}
