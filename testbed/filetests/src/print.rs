//! What `# print: ...` asks for: tables, the whole text form, JSON; the other forms have modules of
//! their own.

use std::fmt::Write as _;

use netpolc_policy::ObjectKey;
use netpolc_table::{EndpointId, Program, TableId, eval::Pipeline, json, slice, text};
use serde_json::Value;

use crate::{filters, layout, listing, plan, state::State};

/// The forms that `# print:` knows, as messages list them.
const FORMS: &str = "tables [POD] [TABLE...], policy [POD], sets, text [POD], plan, json [POD] \
    [TABLE...], json actions, filters MODE [DRIVER] PORT [HOOK], json-filters MODE [DRIVER] PORT \
    [HOOK], left MODE [DRIVER], disassembly HOOK NOTE";

/// The tables that say what policies grant.
const POLICY: [TableId; 7] = [
    TableId::RemoteV4,
    TableId::RemoteV6,
    TableId::Port,
    TableId::Base,
    TableId::Row,
    TableId::Verdict,
    TableId::Tried,
];

/// What a line `# print:` asks for, as text.
pub(crate) fn print(state: &State, what: &str) -> Result<String, String> {
    let words: Vec<&str> = what.split_whitespace().collect();
    match words[..] {
        ["tables", ref rest @ ..] => {
            let (program, tables) = part(state, rest)?;
            Ok(short(&program, &tables))
        }
        ["policy", ref rest @ ..] => Ok(short(&part(state, rest)?.0, &POLICY)),
        ["text", ref rest @ ..] => Ok(text::print(&part(state, rest)?.0)),
        ["sets"] => Ok(sets(state)),
        ["plan"] => plan::text(state),
        ["json", "actions"] => Ok(layout::json(&tables_as_json(&Program::default())?["actions"])),
        ["json", ref rest @ ..] => {
            let (program, tables) = part(state, rest)?;
            Ok(layout::json(&only(&tables_as_json(&program)?, &tables)))
        }
        ["filters", mode, ref rest @ ..] => filters::text(state, mode, rest),
        ["json-filters", mode, ref rest @ ..] => filters::json(state, mode, rest),
        ["left", mode, ref rest @ ..] => filters::left(state, mode, rest),
        ["disassembly", hook, ref note @ ..] if !note.is_empty() => {
            listing::section(state.compiler.program(), hook, &note.join(" "))
        }
        _ => Err(format!("`{what}` is not one of: {FORMS}")),
    }
}

/// The program, or what of it concerns one pod, and which tables are wanted.
fn part(state: &State, words: &[&str]) -> Result<(Program, Vec<TableId>), String> {
    let program = state.compiler.program();
    let (program, names) = match words {
        [pod, rest @ ..] if pod.contains('/') => {
            (slice::of_endpoint(program, state.endpoint(pod)?), rest)
        }
        _ => (program.clone(), words),
    };
    let mut tables = Vec::new();
    for name in names {
        let found = TableId::ALL.iter().find(|id| id.spec().name == *name);
        tables.push(*found.ok_or_else(|| format!("{name} is neither a pod nor a table"))?);
    }
    if tables.is_empty() {
        tables = TableId::ALL.iter().copied().filter(|id| *id != TableId::Directory).collect();
    }
    Ok((program, tables))
}

/// Tables that have entries, by their names and the names of their keys alone.
fn short(program: &Program, tables: &[TableId]) -> String {
    let mut out = String::new();
    for id in tables {
        let (spec, entries) = (id.spec(), &program.table(*id).entries);
        if entries.is_empty() {
            continue;
        }
        let keys: Vec<&str> = spec.fields.iter().map(|f| f.name).collect();
        let _ = writeln!(out, "{} [{}]", spec.name, keys.join(", "));
        for (key, entry) in entries {
            let _ = writeln!(out, "  {}", text::entry(*id, key, entry));
        }
    }
    if out.is_empty() { "no entries\n".into() } else { out }
}

/// Each endpoint with its word: who shares a set with whom.
fn sets(state: &State) -> String {
    let program = state.compiler.program();
    let line = |(pod, endpoint): (&ObjectKey, EndpointId)| {
        let word = netpolc_table::eval::word(program, endpoint);
        let [ingress, egress] =
            Pipeline::BOTH.map(|pipeline| match (pipeline.set(word), pipeline.tried(word)) {
                (Some(set), _) => format!("set {set}"),
                (None, Some(set)) => format!("open, set {set} tried"),
                (None, None) => "open".into(),
            });
        let born = Pipeline::Born.set(word).map(|set| format!(", from the node set {set}"));
        format!("{pod}: ingress {ingress}, egress {egress}{}\n", born.unwrap_or_default())
    };
    let lines: String = state.compiler.endpoints().map(line).collect();
    if lines.is_empty() { "no endpoints\n".into() } else { lines }
}

fn tables_as_json(program: &Program) -> Result<Value, String> {
    serde_json::to_value(json::Tables(program)).map_err(|error| error.to_string())
}

/// The wanted tables.
fn only(all: &Value, tables: &[TableId]) -> Value {
    let wanted = |table: &&Value| {
        let name = table["name"].as_str().unwrap_or_default();
        tables.iter().any(|id| id.spec().name == name)
    };
    all["tables"].as_array().into_iter().flatten().filter(wanted).cloned().collect()
}
