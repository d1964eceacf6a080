//! Programs that read their standard input.
//!
//! Not here: where they run ([`crate::netns`]).

use std::{
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

/// Runs a program with this on its standard input, and collects all that it prints. A program that
/// ends without reading everything is no error.
///
/// # Errors
/// The program cannot be run.
pub fn feed(command: &mut Command, input: &[u8]) -> io::Result<Output> {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    match child.stdin.take().map(|mut stdin| stdin.write_all(input)) {
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => child.wait_with_output(),
    }
}
