//! `netpolc offload`: shows what the NICs of this machine can do with filters, how that was found,
//! and which mode follows.
//!
//! Not here: finding it out (`netpolc_target_flower::detect`).

use std::{collections::BTreeMap, io::Write};

use anyhow::Context;
use netpolc_target_flower::{
    detect::{
        self, Findings,
        facts::{Eswitch, HwTc},
    },
    lowered::Mode,
};
use serde::Serialize;

use crate::{
    cli::raw::Report,
    output::{self, Colour, Outcome},
};

/// The output of `-o json`.
#[derive(Serialize)]
struct Offload {
    interfaces: Vec<Findings>,
}

/// Runs `netpolc offload`. It succeeds even where no NIC can offload anything.
///
/// # Errors
/// The user is not root, there is no interface of this name, or the kernel's interfaces cannot be
/// read.
pub fn run(interface: Option<&str>, report: Report) -> anyhow::Result<Outcome> {
    output::needs_root("offload (it tries filters on NICs)")?;
    let interfaces = match interface {
        Some(name) => vec![detect::interface(name).context("--interface")?],
        None => detect::interfaces()?,
    };
    match report.notation() {
        Some(notation) => output::print_data(&Offload { interfaces }, notation)?,
        None => {
            let mut out = output::stdout();
            out.write_all(text(&interfaces, Colour::of_stdout()).as_bytes())?;
            out.flush()?;
        }
    }
    Ok(Outcome::Fine)
}

fn mode(findings: &Findings) -> &'static str {
    match findings.mode {
        Some(Mode::Representor) => "representor",
        Some(Mode::Prefilter) => "prefilter",
        // This is never chosen for a single interface: it applies to the whole host.
        Some(Mode::Software) => "software",
        None => "eBPF only",
    }
}

fn text(interfaces: &[Findings], colour: Colour) -> String {
    // There are many interfaces of pods, and none of them has filters in hardware, so they are
    // listed on one line, unless one of them was asked for.
    let (without, nics): (Vec<&Findings>, Vec<&Findings>) = interfaces
        .iter()
        .partition(|f| interfaces.len() > 1 && f.facts.hw_tc_offload == HwTc::Missing);
    let rows = nics.iter().map(|f| {
        let facts = &f.facts;
        let offload = match &facts.hw_tc_offload {
            HwTc::On => "on",
            HwTc::Off => "off",
            HwTc::Missing => "none",
            HwTc::Unknown(_) => "?",
        };
        let eswitch = match &facts.eswitch {
            Eswitch::Switchdev => "switchdev",
            Eswitch::Legacy => "legacy",
            Eswitch::Absent(_) => "none",
        };
        let plain = |value: &Option<String>| value.clone().unwrap_or_default();
        [
            facts.interface.clone(),
            plain(&facts.driver),
            offload.into(),
            eswitch.into(),
            plain(&facts.switch_id),
            plain(&facts.port_name),
            mode(f).into(),
        ]
    });
    let head = [
        "interface",
        "driver",
        "hw-tc-offload",
        "eswitch",
        "phys_switch_id",
        "phys_port_name",
        "mode",
    ];
    let mut text = String::new();
    if !nics.is_empty() {
        text += &output::table(&head, rows);
        text += "\n";
    }
    if !without.is_empty() {
        let names: Vec<&str> = without.iter().map(|f| f.facts.interface.as_str()).collect();
        text += &format!("without hw-tc-offload: {}\n", names.join(", "));
    }
    for findings in nics.into_iter().filter(|f| f.facts.hw_tc_offload != HwTc::Missing) {
        text += &details(findings, colour);
    }
    // The ports of a NIC share a driver, so these are listed once for each driver.
    let drivers: BTreeMap<&str, _> = interfaces
        .iter()
        .map(|f| (f.capabilities.driver.as_str(), f.driver_facts))
        .filter(|(_, f)| !f.is_empty())
        .collect();
    for (driver, facts) in drivers {
        text += &format!("\n{}, as read in its sources:\n", colour.strong(driver));
        for fact in facts {
            text += &format!("- {} {}\n", fact.says, colour.faint(&format!("({})", fact.source)));
        }
    }
    if interfaces.iter().all(|f| f.mode.is_none()) {
        text += "\nNo interface here offloads filters: eBPF enforces everything, in software.\n";
    }
    text
}

/// Describes what one interface can do, how that was found, and why it cannot do more.
fn details(findings: &Findings, colour: Colour) -> String {
    let mut text = format!("\n{}: {}\n", colour.strong(&findings.facts.interface), mode(findings));
    if !findings.evidence.is_empty() {
        let mut rows: Vec<[String; 3]> = findings
            .evidence
            .iter()
            .map(|e| {
                let can = if e.able { "yes" } else { "no" };
                [e.ability.describe().to_owned(), can.to_owned(), e.describe(findings.driver_known)]
            })
            .collect();
        let can = &findings.capabilities;
        for (what, limit, found) in [
            ("filters", can.filters, "driver table"),
            ("chains besides 0", can.chains, "probe and driver table"),
            ("chains x prios", can.tables, "driver table"),
            ("masks of one of them", can.masks, "driver table"),
        ] {
            // Chain numbers have 28 bits, so a limit of that size is none.
            let limit = if limit >= (1 << 28) - 1 { "any".to_owned() } else { limit.to_string() };
            rows.push([format!("number of {what}"), limit, found.into()]);
        }
        text += &output::table(&["what", "can", "how it was found"], rows);
        text += "\n";
    }
    for reason in &findings.reasons {
        text += &format!("- {reason}\n");
    }
    text
}
