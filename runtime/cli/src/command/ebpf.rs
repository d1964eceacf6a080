//! `netpolc compile --target ebpf`: prints the maps that hold a program, and the instructions that
//! read them.
//!
//! Nothing is loaded into the kernel, so this needs neither root nor a kernel with eBPF. Not here:
//! generating the instructions (`netpolc_target_ebpf`).

use std::io::Write;

use anyhow::anyhow;
use netpolc_table::{Program, TableId};
use netpolc_target::Hook;
use netpolc_target_ebpf::{
    disasm,
    layout::{Clock, MapId},
    program::{self, Options, Parameters},
};
use serde_json::json;

use crate::{cli::raw::Report, output};

/// Prints the maps, the numbers of entries, and the programs of all hooks.
///
/// # Errors
/// A program cannot be generated for these capacities, or the output cannot be written.
pub fn show(program: &Program, report: Report, out: &mut impl Write) -> anyhow::Result<()> {
    let capacities = netpolc_target_ebpf::capacities(program);
    // The seed and the clock depend on the machine, but they change constants only, not
    // instructions.
    let parameters = Parameters { capacities, seed: 0, clock: Clock { hz: 250 } };
    let generate =
        |hook: Hook| -> anyhow::Result<String> {
            let code = program::generate(hook, &parameters, &Options::default());
            Ok(disasm::listing(&code.map_err(|e| {
                anyhow!("the program of {} could not be generated: {e}", hook.name())
            })?))
        };
    let listings = [Hook::ToPod, Hook::FromPod, Hook::Translated]
        .map(|hook| generate(hook).map(|text| (hook, text)));
    let listings = listings.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let maps = MapId::ALL.iter().map(|&id| {
        let (value, entries) = (id.value_size(&capacities), u64::from(id.max_entries(&capacities)));
        (
            id.name(),
            id.key_size(),
            value,
            entries,
            (value + if entries > 1 { id.key_size().into() } else { 0 }) * entries,
        )
    });
    let entries = program.tables().filter(|t| t.id != TableId::Directory);
    let entries = entries.map(|t| (t.id.spec().name, t.entries.len()));
    match report.notation() {
        Some(notation) => {
            let maps: Vec<_> = maps
                .map(|(name, key, value, entries, bytes)| {
                    json!({"name": name, "keySize": key, "valueSize": value, "maxEntries": entries, "bytes": bytes})
                })
                .collect();
            let programs: Vec<_> = listings
                .iter()
                .map(|(hook, text)| json!({"hook": hook.name(), "listing": text}))
                .collect();
            let entries: serde_json::Map<_, _> =
                entries.map(|(name, count)| (name.into(), json!(count))).collect();
            let all = json!({"maps": maps, "entries": entries, "programs": programs});
            output::write_data(out, &all, notation)?;
        }
        None => {
            let rows = maps.map(|(name, key, value, entries, bytes)| {
                [
                    name.to_owned(),
                    key.to_string(),
                    value.to_string(),
                    entries.to_string(),
                    size(bytes),
                ]
            });
            writeln!(
                out,
                "{}\n",
                output::table(&["map", "key bytes", "value bytes", "entries", "memory"], rows)
            )?;
            let rows = entries.map(|(name, count)| [name.to_owned(), count.to_string()]);
            writeln!(out, "{}", output::table(&["table", "entries to write"], rows))?;
            for (hook, listing) in &listings {
                writeln!(out, "\nprogram {}:\n{}", hook.name(), listing.trim_end())?;
            }
        }
    }
    Ok(())
}

/// Formats a number of bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 20 => format!("{:.1} MiB", b as f64 / f64::from(1 << 20)),
        b if b >= 1 << 10 => format!("{:.1} KiB", b as f64 / 1024.0),
        b => format!("{b} B"),
    }
}
