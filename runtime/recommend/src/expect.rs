//! What was seen as expectations that `netpolc test` reads: one connection a line, which is to be
//! allowed.
//!
//! Not here: their judgement (`netpolc test`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use netpolc_kube_sync::plain;

use crate::{
    draft::times,
    meaning::Other,
    need::{Need, Seen},
    world::{Workload, World},
};

/// The lines, sorted, for these needs.
pub(crate) fn lines<'n>(
    world: &World,
    needs: impl IntoIterator<Item = (&'n Need, &'n Seen)>,
) -> String {
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut gone: BTreeSet<Workload> = BTreeSet::new();
    for (need, seen) in needs {
        for (source, destination) in &seen.pairs {
            let ends = [source, destination];
            let unknown = ends.into_iter().flatten().filter(|w| !world.is_present(w));
            let unknown: Vec<Workload> = unknown.cloned().collect();
            if !unknown.is_empty() {
                gone.extend(unknown);
                continue;
            }
            let (from, to) = match (source, destination, need.other) {
                (Some(source), Some(destination), _) => (source.end(), destination.end()),
                (None, Some(destination), Other::Address(address)) => {
                    (address.to_string(), destination.end())
                }
                (Some(source), None, Other::Address(address)) if address.is_ipv6() => {
                    (source.end(), format!("[{address}]"))
                }
                (Some(source), None, Other::Address(address)) => {
                    (source.end(), address.to_string())
                }
                _ => continue,
            };
            let protocol = need.protocol.to_string().to_ascii_lowercase();
            let to = format!("{to}:{}/{protocol}", need.port);
            let count = expected.entry((from, to)).or_default();
            // Both ends may have seen it.
            *count = (*count).max(seen.here.max(seen.there));
        }
    }
    let mut out = String::from("# What was seen, by netpolc recommend.\n");
    for workload in gone {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# Left out, since it is gone: {}", plain(&workload.to_string()));
    }
    for ((from, to), count) in expected {
        let _ = writeln!(out, "{} -> {} allowed  # {}", plain(&from), plain(&to), times(count));
    }
    out
}
