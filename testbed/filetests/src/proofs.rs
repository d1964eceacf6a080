//! What must hold of every case at every step, whatever was blessed: golden files show what changes, these say
//! that it is still right.
//!
//! Not here: the proof of filters, which belongs to what is printed ([`crate::filters`]).

use netpolc_lower::verify;
use netpolc_table::{Program, check, text};

use crate::state::State;

/// Counterexamples that a message names.
const SHOWN: usize = 3;

/// Does everything hold?
pub(crate) fn hold(state: &State) -> Result<(), String> {
    let program = state.compiler.program();
    // A pod may reach a tunnel's port only where its policy says so, which the oracle knows nothing of.
    if state.wire.tunnels.is_empty() {
        let found = verify(&state.shares.cluster(&state.cluster), &state.compiler, SHOWN);
        fail("the oracle contradicts the tables", found.iter().map(ToString::to_string))?;
    }
    let errors = check::check(program).into_iter().filter(|f| f.severity == check::Severity::Error);
    fail("the tables break their rules", errors.map(|f| f.to_string()))?;
    let printed = text::print(program);
    match text::parse(&printed) {
        Ok(parsed) if parsed == *program => {}
        Ok(_) => return Err("the text form parses to another program".into()),
        Err(error) => return Err(format!("the text form does not parse: {error}")),
    }
    let anew = state.anew()?;
    if anew.program().canonical() != program.canonical() {
        return Err("what the events led to is not what compiling the same objects anew gives".into());
    }
    let Some((before, plan)) = &state.update else { return Ok(()) };
    let mut led = before.clone();
    plan.steps.iter().for_each(|(_, write)| led.apply(write));
    if same(&led, program) { Ok(()) } else { Err("the plan does not lead to the program".into()) }
}

/// Up to origins, which a target need not keep.
fn same(one: &Program, other: &Program) -> bool {
    one.tables().zip(other.tables()).all(|(a, b)| {
        let equal = |((ka, a), (kb, b)): ((_, &netpolc_table::Entry), (_, _))| ka == kb && a.same_action(b);
        a.entries.len() == b.entries.len() && a.entries.iter().zip(&b.entries).all(equal)
    })
}

fn fail(what: &str, found: impl Iterator<Item = String>) -> Result<(), String> {
    let found: Vec<String> = found.collect();
    if found.is_empty() { Ok(()) } else { Err(format!("{what}: {}", found.join("; "))) }
}
