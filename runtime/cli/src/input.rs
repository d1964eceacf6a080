//! Reads the objects on which a command works, and reports what is wrong with them. Not here: the
//! reading itself (`netpolc-kube-sync`).

use netpolc_kube_sync::{Loaded, Problem, Severity};

use crate::{
    cli::request::Input,
    output::{self, Outcome},
};

/// Reads files, directories, and `-` for standard input. What is wrong is in the result, and the
/// rest applies.
pub fn load(input: &Input) -> Loaded {
    let mut loaded =
        netpolc_kube_sync::load(input.files.iter().map(netpolc_kube_sync::Input::argument));
    loaded.cluster.by_default = input.by_default.clone();
    loaded
}

/// Prints each problem as one line on standard error. Returns `Problems` if any of them is an
/// error.
pub fn report(problems: &[Problem]) -> Outcome {
    for problem in problems {
        output::complain(problem.line());
    }
    Outcome::of_problems(problems.iter().filter(|p| p.severity == Severity::Error).count())
}
