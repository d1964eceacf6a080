//! The plugin's process: it reads the configuration from standard input and writes the result to
//! standard output, as the CNI specification requires. Not here: what the commands do
//! (`netpolc_cni::run`).

use std::{
    io::{Read, Write},
    process::ExitCode,
};

/// The longest input, in bytes. A network configuration with the result of a long chain has some
/// ten KiB.
const MAX_INPUT_LEN: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut input = Vec::new();
    if let Err(error) = std::io::stdin().take(MAX_INPUT_LEN).read_to_end(&mut input) {
        eprintln!("netpolc-cni: standard input could not be read: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = netpolc_cni::run::run(&input, |name| std::env::var(name).ok());
    if let Some(note) = outcome.note {
        eprintln!("{note}");
    }
    if let Some(output) = outcome.output
        && let Err(error) = writeln!(std::io::stdout(), "{output}")
    {
        eprintln!("netpolc-cni: standard output could not be written: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(outcome.code)
}
