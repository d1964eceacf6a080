//! Golden files: a case is Kubernetes objects and events in, text out, and a change of the compiler
//! or of a target shows as a difference that a reviewer understands.
//!
//! ```text
//! case      a file: its sentence, directives, objects and events
//! state     cluster and compiler, led from one event to the next as an agent leads them
//! print     what a directive asks for: tables, JSON, problems; plan, filters, listing: the others
//! proofs    what must hold of every case, whatever was blessed
//! diff      what differs, for people
//! ```
//!
//! The format and how to bless: README.md beside this crate's manifest. Not here: verdicts (the
//! corpus in `testbed/cases`), and anything that needs a kernel.

mod case;
mod diff;
mod filters;
mod layout;
mod listing;
mod plan;
mod print;
mod proofs;
mod state;

pub use case::{Case, Fault};
pub use diff::unified;

/// What the case prints: each part under a heading.
///
/// # Errors
/// What is wrong with the case, or with what it shows: a directive that makes no sense, an object
/// that is not there, tables that the oracle contradicts.
pub fn run(case: &Case) -> Result<String, Fault> {
    let mut out = String::new();
    let mut state = state::State::load(case)?;
    for (number, step) in case.steps.iter().enumerate() {
        if number > 0 {
            out += &format!("=== event: {}\n\n", step.sentence);
            state.apply(step)?;
        }
        proofs::hold(&state).map_err(|message| Fault { line: step.line, message })?;
        let problems = state.problems();
        if !problems.is_empty() {
            out += &format!("=== problems\n{problems}\n");
        }
        for print in &step.prints {
            let text = print::print(&state, &print.what)
                .map_err(|message| Fault { line: print.line, message })?;
            out += &format!("=== {}\n{}\n\n", print.what, text.trim_end());
        }
        if step.prints.is_empty() && problems.is_empty() {
            let message = "nothing is printed here: add a line `# print: ...`".into();
            return Err(Fault { line: step.line, message });
        }
    }
    Ok(out.trim_end().to_owned() + "\n")
}
