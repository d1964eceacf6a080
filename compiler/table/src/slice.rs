//! A part of a program, for people who ask about one pod.
//!
//! Not here: printing it ([`crate::text`]).

use std::collections::BTreeSet;

use crate::{
    ActionId, Entry, Key, Match, Program, TableId, eval,
    schema::{Family, IdKind, Word},
};

/// What of a program concerns one endpoint: its words, the sets they name, their rows, and the
/// remotes and ports that these tell apart from others.
pub fn of_endpoint(program: &Program, endpoint: u16) -> Program {
    let word = eval::word(program, endpoint);
    let sets: BTreeSet<u64> =
        [word.ingress_set, word.egress_set].into_iter().filter(|s| *s != 0).map(u64::from).collect();
    let first = |key: &Key| key.value(0).low();
    let mut shown = Program::default();
    let mut keep = |table: TableId, wanted: &dyn Fn(&Key, &Entry) -> bool| {
        let entries = program.table(table).entries.iter().filter(|(k, e)| wanted(k, e));
        let entries: Vec<_> = entries.map(|(k, e)| (k.clone(), e.clone())).collect();
        shown.table_mut(table).size = program.table(table).size;
        shown.table_mut(table).entries.extend(entries.iter().cloned());
        entries
    };
    let own = |key: &Key, _: &Entry| first(key) == u64::from(endpoint);
    keep(TableId::Interface, &|_, e| e.params[0] == u64::from(endpoint));
    keep(TableId::Endpoint, &own);
    keep(TableId::OwnV4, &own);
    keep(TableId::OwnV6, &own);
    keep(TableId::OwnMac, &own);
    let of_sets = |key: &Key, _: &Entry| sets.contains(&first(key));
    let base = keep(TableId::Base, &of_sets);
    let rows = keep(TableId::Row, &of_sets);
    let row_ids: BTreeSet<u64> =
        base.iter().chain(&rows).filter(|(_, e)| e.action == ActionId::SetRow).map(|(_, e)| e.params[0]).collect();
    let verdicts = keep(TableId::Verdict, &|k, _| row_ids.contains(&first(k)));
    let port_classes: BTreeSet<u64> = verdicts.iter().map(|(k, _)| k.value(1).low()).collect();
    keep(TableId::Port, &|_, e| port_classes.contains(&e.params[0]));
    let mut classes = [BTreeSet::new(), BTreeSet::new()];
    for (key, _) in &rows {
        let family = usize::from(key.value(1).low() == u64::from(Family::V6.number()));
        classes[family].insert(key.value(2).low());
    }
    let [v4, v6] = &classes;
    keep(TableId::Tunnel, &|_, _| true);
    keep(TableId::OnLinkV6, &|_, _| true);
    if word.flags & Word::EGRESS != 0 {
        keep(TableId::ServiceV4, &|_, _| true);
        keep(TableId::ServiceV6, &|_, _| true);
    }
    // Prefixes of these classes, and those cut out of them (an except is a longer prefix of another
    // class).
    for (family, classes) in [(Family::V4, v4), (Family::V6, v6)] {
        let table = program.table(TableId::remote(family));
        let covers: Vec<(u128, u8)> = table
            .entries
            .iter()
            .filter(|(_, e)| classes.contains(&e.params[0]))
            .filter_map(|(k, _)| prefix(k))
            .collect();
        let inside = |key: &Key| {
            prefix(key).is_some_and(|(bits, length)| {
                covers.iter().any(|(cover, cut)| {
                    let host = u32::from(family.bits() - cut);
                    *cut <= length && bits.checked_shr(host) == cover.checked_shr(host)
                })
            })
        };
        let pods = |e: &Entry| e.params[1] != 0;
        keep(table.id, &|key, e| classes.contains(&e.params[0]) || (!pods(e) && inside(key)));
    }
    keep(TableId::Directory, &|key, _| {
        let (kind, id) = (first(key), key.value(1).low());
        match kind {
            k if k == IdKind::Endpoint as u64 => id == u64::from(endpoint),
            k if k == IdKind::Set as u64 => sets.contains(&id),
            k if k == IdKind::ClassV4 as u64 => v4.contains(&id),
            k if k == IdKind::ClassV6 as u64 => v6.contains(&id),
            _ => false,
        }
    });
    shown
}

fn prefix(key: &Key) -> Option<(u128, u8)> {
    match key.fields()[0] {
        Match::Lpm { value, length } => Some((value.get(), length)),
        _ => None,
    }
}
