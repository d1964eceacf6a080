//! The `netpolc` command: reads the command line, and leaves the rest to the library.

use std::process::ExitCode;

use clap::Parser;
use netpolc::{
    cli::{raw::Cli, resolve},
    command, output,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = resolve::resolve(cli).and_then(|resolved| {
        let quiet = !matches!(resolved, resolve::Command::Agent(_));
        log(if quiet { "warn" } else { "netpolc=info,warn" });
        command::run(&resolved)
    });
    output::finish(done)
}

/// Traces go to standard error; RUST_LOG chooses which.
fn log(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}
