//! The arguments of `netpolc lint`, as clap parses them. Not here: what they mean
//! ([`crate::command::lint`]).

use clap::{Args, ValueEnum};

use super::raw::Input;

/// The arguments of `netpolc lint`.
#[derive(Debug, Args)]
pub struct Lint {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap shows doc comments of flattened groups as help")]
    pub input: Input,
    /// Exit with 1 where something that is as bad as this is found, or worse
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Deny::Warnings)]
    pub deny: Deny,
    /// Do not report what this check finds; may be given several times
    #[arg(long, value_name = "ID")]
    pub allow: Vec<String>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// What makes the exit code 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Deny {
    /// What is certainly wrong
    Errors,
    /// What is probably not meant, too
    Warnings,
    /// Everything
    Notes,
    /// Nothing
    Nothing,
}

/// The output formats of `netpolc lint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: file:line, and what to write instead
    Text,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Annotations in a GitHub workflow
    Github,
    /// A table for pull requests
    Markdown,
    /// For spreadsheets
    Csv,
}
