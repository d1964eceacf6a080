//! The commands, one module each. A command takes its resolved options and returns its outcome. Not
//! here: parsing the command line ([`crate::cli`]).

pub mod agent;
pub mod bpffs;
pub mod cni;
pub mod compile;
pub mod detach;
pub mod diff;
pub mod ebpf;
pub mod eval;
pub mod expect;
pub mod explain;
pub mod flower;
pub mod flows;
pub mod lint;
pub mod list;
pub mod offload;
pub mod program;
pub mod recommend;
pub mod shell;
pub mod status;
pub mod verify;
pub mod version;

use crate::{cli::request::Command, output::Outcome};

/// Runs a command.
///
/// # Errors
/// The options are not valid, or something is missing on this machine. The exit code is then 2.
pub fn run(command: &Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Compile(options) => compile::run(options),
        Command::Eval(options) => eval::run(options),
        Command::Explain(options) => explain::run(options),
        Command::List(options) => list::run(options),
        Command::Diff(options) => diff::run(options),
        Command::Test(options) => expect::run(options),
        Command::Verify(options) => verify::run(options),
        Command::Lint(options) => lint::run(options),
        Command::Agent(options) => agent::run(options),
        Command::Flows(options) => flows::run(options),
        Command::Recommend(options) => recommend::run(options),
        Command::Status(pin_dir, report) => status::run(pin_dir, *report),
        Command::Offload(interface, report) => offload::run(interface.as_deref(), *report),
        Command::Detach(pin_dir) => detach::run(pin_dir),
        Command::Cni(options) => cni::run(options),
        Command::Completions(shell) => shell::completions(*shell),
        Command::Man(folder) => shell::manual(folder),
        Command::Version => version::run(),
        Command::MountBpffs(namespace) => bpffs::run(namespace.as_deref()),
        Command::Program(name, arguments) => program::run(name, arguments),
    }
}
