//! The plan of an event as text: its phases in order, where the target settles, and each write.
//!
//! ```text
//! switch
//!   put endpoint 1 -> set_policy(ingress_set 2, egress_set 0, born_set 0, flags 0x1)
//!     was set_policy(ingress_set 1, egress_set 0, born_set 0, flags 0x1)
//! settle
//! merge
//!   at once
//!     remove port tcp, 80-80 -> set_port_class(port_class 2)
//!     put port tcp, 0-65535 -> set_port_class(port_class 1)
//! ```
//!
//! Entries of the directory are left out, since no packet reads them.

use std::fmt::Write as _;

use netpolc_table::{Key, Phase, Program, TableId, Write, text};

use crate::state::State;

/// The plan of the last event.
pub(crate) fn text(state: &State) -> Result<String, String> {
    let (before, plan) =
        state.update.as_ref().ok_or("a plan belongs to an event: print it below one")?;
    let (mut program, mut out) = (before.clone(), String::new());
    let mut settled = true;
    for (phase, steps) in plan.phases() {
        let mut writes = String::new();
        for (_, write) in steps {
            put(&mut writes, &program, write);
            program.apply(write);
        }
        if writes.is_empty() {
            continue;
        }
        if phase.settles() {
            out += "settle\n";
        }
        settled = phase != Phase::Remove;
        let _ = write!(out, "{}\n{writes}", name(phase));
    }
    if !settled {
        out += "settle\n";
    }
    Ok(if out.is_empty() { "nothing to write\n".into() } else { out })
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Refine => "refine",
        Phase::Switch => "switch",
        Phase::Coarsen => "coarsen",
        Phase::Merge => "merge",
        Phase::Remove => "remove",
    }
}

fn put(out: &mut String, program: &Program, write: &Write) {
    if write.table == TableId::Directory {
        return;
    }
    let table = write.table.spec().name;
    // A key that is removed and put again is replaced.
    let gone = write.remove.iter().filter(|key| !write.put.iter().any(|(put, _)| put == *key));
    let gone: Vec<&Key> = gone.collect();
    let mut indent = "  ";
    if gone.len() + write.put.len() > 1 {
        let _ = writeln!(out, "  at once");
        indent = "    ";
    }
    for key in gone {
        let line = match program.get(write.table, key) {
            // Where an entry came from says nothing about why it goes.
            Some(old) => text::entry(write.table, key, &old.bare()),
            None => format!("{}, which is not there", text::key(write.table, key)),
        };
        let _ = writeln!(out, "{indent}remove {table} {line}");
    }
    for (key, entry) in &write.put {
        let _ = writeln!(out, "{indent}put {table} {}", text::entry(write.table, key, entry));
        match program.get(write.table, key) {
            Some(old) if old.same_action(entry) => {
                let _ = writeln!(out, "{indent}  was the same");
            }
            Some(old) => {
                let _ = writeln!(out, "{indent}  was {}", text::action(old));
            }
            None => {}
        }
    }
}
