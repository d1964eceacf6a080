//! Keeps the drivers in docs/offload.md the same as the table that the code uses.

use std::{fmt::Write, fs};

use netpolc_target_flower::{
    capability::Capabilities,
    quirks::{DRIVERS, capabilities},
};

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/offload.md");

/// Whether a driver honours each of the abilities that drivers differ in, and its numbers.
fn summary(can: &Capabilities) -> String {
    if can.filters == 0 {
        return "nothing".into();
    }
    let abilities = [
        (can.tcp_flags, "TCP flags"),
        (can.ipv6, "IPv6"),
        (can.port_masks, "port masks"),
        (can.sctp_ports, "SCTP ports"),
        (can.zero_keys, "keys of value 0"),
        (can.priority, "priority"),
        (can.chains > 0, "chains"),
        (can.redirect, "redirect"),
        (can.ct, "ct"),
        (can.ct_reply, "ct_state rpl"),
    ];
    abilities.iter().filter(|(able, _)| *able).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// What comes of it (detect/verdict.rs, choose).
fn use_of(can: &Capabilities) -> &'static str {
    match (can.tcp_flags, can.ct && can.chains > 0 && can.redirect && can.priority && can.zero_keys)
    {
        (true, true) => "drop, forward",
        (true, false) => "drop",
        (false, true) => "forward",
        (false, false) => "nothing: eBPF only",
    }
}

fn numbers(can: &Capabilities) -> String {
    let all = [(can.filters, "filters"), (can.tables, "chains x prios"), (can.masks, "masks")];
    let limited = all.iter().filter(|(count, _)| *count != u32::MAX && *count != 0);
    limited.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_manual_has_the_table_of_drivers() {
    let mut wanted =
        String::from("| driver | honours | used at the most | so it may |\n|---|---|---|---|\n");
    // The simulation is no driver that a user meets.
    let drivers = || DRIVERS.iter().filter(|q| q.driver != "simnic");
    for quirks in drivers() {
        let can = capabilities(quirks.driver);
        writeln!(
            wanted,
            "| {} | {} | {} | {} |",
            quirks.driver,
            summary(&can),
            numbers(&can),
            use_of(&can)
        )
        .unwrap();
    }
    for quirks in drivers() {
        writeln!(wanted, "\n{}:\n\n| what it does | source |\n|---|---|", quirks.driver).unwrap();
        for fact in quirks.facts {
            writeln!(wanted, "| {} | {} |", fact.says, fact.source).unwrap();
        }
    }
    let manual = fs::read_to_string(MANUAL).unwrap_or_else(|e| panic!("{MANUAL}: {e}"));
    assert!(manual.contains(&wanted), "docs/offload.md is to have:\n{wanted}");
}
