//! The plugin's process: configuration from standard input, result to standard output, as the CNI specification says.

use std::{
    io::{Read, Write},
    process::ExitCode,
};

/// A network configuration with the result of a long chain is some ten KiB.
const LONGEST_INPUT: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().take(LONGEST_INPUT).read_to_end(&mut input) {
        eprintln!("netpolc-cni: standard input: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = netpolc_cni::run::run(&input, |name| std::env::var(name).ok());
    if let Some(note) = outcome.note {
        eprintln!("{note}");
    }
    if let Some(output) = outcome.output
        && let Err(error) = writeln!(std::io::stdout(), "{output}")
    {
        eprintln!("netpolc-cni: standard output: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(outcome.code)
}
