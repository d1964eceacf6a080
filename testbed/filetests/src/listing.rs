//! A section of a generated program as text that changes with the section alone: instructions are
//! counted from its beginning, and jumps out of it name the note at which they arrive.

use std::collections::BTreeMap;

use netpolc_table::Program;
use netpolc_target::Hook;
use netpolc_target_ebpf::{
    disasm,
    layout::Clock,
    program::{Options, Parameters, generate},
};

struct Line<'a> {
    number: usize,
    text: &'a str,
}

/// The instructions of a hook's program under the first note that begins with `note`.
pub(crate) fn section(program: &Program, hook: &str, note: &str) -> Result<String, String> {
    let hook = match hook {
        "to_pod" => Hook::ToPod,
        "from_pod" => Hook::FromPod,
        "translated" => Hook::Translated,
        _ => return Err(format!("{hook} is not one of to_pod, from_pod, translated")),
    };
    let capacities = netpolc_target_ebpf::capacities(program);
    // Seed and clock are the machine's; they change constants, not instructions.
    let parameters = Parameters { capacities, seed: 0, clock: Clock { hz: 250 } };
    let code = generate(hook, &parameters, &Options::default()).map_err(|e| e.to_string())?;
    let listing = disasm::listing(&code);
    // Of each instruction: the note above it. A note may stand at several places, which are alike.
    let (mut notes, mut shown, mut present) = (BTreeMap::new(), Vec::new(), "");
    let mut over = false;
    for text in listing.lines() {
        let Some(line) = instruction(text) else {
            over |= !shown.is_empty();
            present = text;
            continue;
        };
        notes.insert(line.number, present);
        if present.starts_with(note) && !over {
            shown.push(line);
        }
    }
    let first = shown
        .first()
        .ok_or_else(|| format!("no note of this program begins with `{note}`"))?
        .number;
    let place: BTreeMap<usize, usize> =
        shown.iter().map(|l| (l.number, l.number - first)).collect();
    let mut out = format!("{}\n", notes[&first]);
    for line in &shown {
        out += &format!("{:4}  {}\n", place[&line.number], jump(line.text, &place, &notes));
    }
    Ok(out)
}

/// `[>]NUMBER  TEXT`, indented; None for a note.
fn instruction(text: &str) -> Option<Line<'_>> {
    let rest = text.strip_prefix(' ')?.trim_start_matches([' ', '>']);
    let (number, text) = rest.split_once("  ")?;
    Some(Line { number: number.parse().ok()?, text })
}

/// The instruction with its target counted from the section's beginning, or named.
fn jump(text: &str, place: &BTreeMap<usize, usize>, notes: &BTreeMap<usize, &str>) -> String {
    let Some((before, target)) = text.rsplit_once("goto ") else { return text.to_owned() };
    let Ok(target) = target.parse::<usize>() else { return text.to_owned() };
    match (place.get(&target), notes.get(&target)) {
        (Some(here), _) => format!("{before}goto {here}"),
        (None, note) => format!("{before}goto <{}>", note.copied().unwrap_or_default()),
    }
}
