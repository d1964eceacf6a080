//! Reading the objects that a command works on, and saying what is wrong with them.

use std::path::PathBuf;

use netpolc_kube_sync::{Input, Loaded, Problem, Severity};

use crate::output::{self, Outcome};

/// Reads files, directories and `-`. What is wrong is in the result; the rest applies.
pub fn load(paths: &[PathBuf]) -> Loaded {
    netpolc_kube_sync::load(paths.iter().map(Input::argument))
}

/// Prints each problem as one line on standard error. `Problems` where any is an error.
pub fn report(problems: &[Problem]) -> Outcome {
    for problem in problems {
        output::complain(problem.line());
    }
    Outcome::of_problems(problems.iter().filter(|p| p.severity == Severity::Error).count())
}
