//! The `netpolc` command: parses the command line, and leaves everything else to the library.

use std::process::ExitCode;

use clap::Parser;
use netpolc::{
    cli::{raw::Cli, request, resolve},
    command, log, output,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let said = cli.said;
    output::choose(said.color, said.quiet);
    let done = resolve::resolve(cli).and_then(|resolved| {
        let quiet = !matches!(resolved, request::Command::Agent(_));
        let default = match (said.quiet, said.verbose) {
            (true, _) => "error",
            (_, 2..) => "trace",
            (_, 1) => "debug",
            _ if quiet => "warn",
            _ => "netpolc=info,warn",
        };
        log::start(default, said.log_format);
        command::run(&resolved)
    });
    output::finish(done)
}
