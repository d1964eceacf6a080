//! `netpolc status`: prints what is enforced on this node. Not here: collecting it
//! ([`crate::status`]).

use std::{collections::BTreeMap, path::Path};

use netpolc_agent::serve::record::Record;
use netpolc_table::SetId;
use netpolc_target::OffloadRecord;

use super::ebpf::size;
use crate::{
    cli::raw::Report,
    output::{self, Colour, Outcome},
    status::{Status, collect},
};

/// Runs `netpolc status`.
///
/// # Errors
/// The user is not root, or the pinned tables cannot be read.
pub fn run(pin_dir: &Path, report: Report) -> anyhow::Result<Outcome> {
    output::needs_root("status")?;
    let status = collect(pin_dir)?;
    match report.notation() {
        Some(notation) => output::print_data(&status, notation)?,
        None => {
            use std::io::Write;
            let mut out = output::stdout();
            out.write_all(text(&status, Colour::of_stdout()).as_bytes())?;
            out.flush()?;
        }
    }
    let in_step = status.agent.as_ref().is_none_or(|a| a.record.is_in_step());
    Ok(if in_step { Outcome::Fine } else { Outcome::Problems })
}

fn text(status: &Status, colour: Colour) -> String {
    let mut text = String::new();
    match &status.agent {
        Some(agent) => {
            let Record { node, policies, problems, kept, behind, blind, unfound, .. } =
                &agent.record;
            let state =
                if agent.running { colour.good("running") } else { colour.bad("not running") };
            let policies = match policies.len() {
                1 => "1 policy applies".to_owned(),
                count => format!("{count} policies apply"),
            };
            text += &format!("node {node}: agent {state}, {policies} here\n");
            if let Some(behind) = behind {
                text += &format!("{} {behind}\n", colour.bad("not in step:"));
            }
            if let Some(blind) = blind {
                text += &format!("{} {blind}\n", colour.bad("blind:"));
            }
            for pod in unfound {
                let why =
                    "a policy selects it, but no interface of this node leads to its addresses";
                text += &format!("{} pod {pod}: {why}\n", colour.bad("not enforced:"));
            }
            for problem in problems {
                text += &format!("{} {problem}\n", colour.bad("problem:"));
            }
            for object in kept {
                text += &format!("{} {object}\n", colour.bad("kept:"));
            }
        }
        None => text += "there is no record of an agent, so endpoints have no names\n",
    }
    if !status.enforcing {
        text += "nothing is enforced here\n";
        return text;
    }
    text += &filters(status);
    if status.endpoints.is_empty() {
        return text;
    }
    let set = |set: Option<SetId>| set.map_or("open".to_owned(), |s| format!("set {s}"));
    let rows = status.endpoints.iter().map(|e| {
        let drops: Vec<String> =
            e.drops.iter().map(|(why, count)| format!("{why}: {count}")).collect();
        [
            e.endpoint.to_string(),
            e.pod.clone().unwrap_or_else(|| "?".into()),
            e.interface.clone().unwrap_or_else(|| "none".into()),
            set(e.ingress_set),
            set(e.egress_set),
            format!("{}/{}", e.connections, e.connections_capacity),
            drops.join("\n"),
        ]
    });
    text += "\n";
    text += &output::table(
        &["id", "pod", "interface", "ingress", "egress", "connections", "drops"],
        rows,
    );
    text += &policies(status);
    text += &tried(status);
    let rows =
        status.tables.iter().map(|(name, entries)| [(*name).to_owned(), entries.to_string()]);
    text += "\n\n";
    text += &output::table(&["table", "entries"], rows);
    let rows = status.maps.iter().map(|m| {
        [
            m.name.to_owned(),
            m.kind.to_owned(),
            m.used.map_or("".to_owned(), |u| u.to_string()),
            size(m.bytes),
        ]
    });
    text += &format!("\n\n{} policy sets\n\n", status.policy_sets);
    text += &output::table(&["map", "kind", "used", "memory"], rows);
    text += "\n";
    text
}

/// Prints the policies that select a pod here, with what is enforced of each.
fn policies(status: &Status) -> String {
    let policies = status.agent.iter().flat_map(|a| &a.record.policies);
    let mut rows = policies
        .map(|p| {
            let generation = p.generation.map_or("".into(), |g| g.to_string());
            [
                p.policy.clone(),
                generation,
                p.pods.to_string(),
                p.entries.to_string(),
                p.errors.to_string(),
            ]
        })
        .peekable();
    if rows.peek().is_none() {
        return String::new();
    }
    format!("\n\n{}", output::table(&["policy", "generation", "pods", "entries", "errors"], rows))
}

/// Prints what policies that are only tried would have changed since the agent started (S85).
fn tried(status: &Status) -> String {
    let tried = status.agent.iter().flat_map(|a| &a.record.tried);
    let mut rows = tried
        .map(|t| [t.policy.clone(), t.would_deny.to_string(), t.would_permit.to_string()])
        .peekable();
    if rows.peek().is_none() {
        return String::new();
    }
    format!("\n\n{}", output::table(&["only tried", "would deny", "would permit"], rows))
}

/// Prints what NICs or the kernel's own filters enforce, and what they leave to eBPF, and why.
fn filters(status: &Status) -> String {
    if status.filters.is_empty() {
        return String::new();
    }
    let records = status.agent.iter().flat_map(|a| &a.record.offload);
    let records: BTreeMap<&str, &OffloadRecord> =
        records.map(|o| (o.interface.as_str(), o)).collect();
    let rows = status.filters.iter().map(|f| {
        let record = records.get(f.interface.as_str());
        let left = record.iter().flat_map(|r| r.spilled.iter().chain(&r.refused));
        let left: Vec<String> = left.map(|(why, count)| format!("{count}: {why}")).collect();
        [
            f.interface.clone(),
            record.map_or("?".into(), |r| r.mode.clone()),
            record.map_or("?".into(), |r| r.driver.clone()),
            f.filters.to_string(),
            f.in_hardware.to_string(),
            left.join("\n"),
        ]
    });
    let titles = ["interface", "mode", "driver", "filters", "in hardware", "left to eBPF"];
    format!("\n{}\n", output::table(&titles, rows))
}
