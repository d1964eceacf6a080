//! The `netpolc-bench` command: reads the command line, and leaves the rest to the library.

use std::process::ExitCode;

use clap::Parser;
use netpolc::{log, output};
use netpolc_bench::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log::start("warn", log::Format::Text);
    output::finish(netpolc_bench::run(&arguments.request()))
}
