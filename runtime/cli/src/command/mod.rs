//! The commands, one module each; each takes what is asked of it and says how it ended.

pub mod agent;
pub mod bpffs;
pub mod cni;
pub mod compile;
pub mod detach;
pub mod ebpf;
pub mod eval;
pub mod flower;
pub mod offload;
pub mod program;
pub mod status;

use crate::{cli::request::Command, output::Outcome};

/// Does what the command line says.
///
/// # Errors
/// Wrong input to the command itself, or something missing on this machine: exit code 2.
pub fn run(command: &Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Compile(options) => compile::run(options),
        Command::Eval(options) => eval::run(options),
        Command::Agent(options) => agent::run(options),
        Command::Status(pin_dir, report) => status::run(pin_dir, *report),
        Command::Offload(interface, report) => offload::run(interface.as_deref(), *report),
        Command::Detach(pin_dir) => detach::run(pin_dir),
        Command::Cni(options) => cni::run(options),
        Command::MountBpffs(namespace) => bpffs::run(namespace.as_deref()),
        Command::Program(name, arguments) => program::run(name, arguments),
    }
}
