//! A part of a program, for people who ask about one pod.
//!
//! Not here: printing it ([`crate::text`]).

use std::collections::BTreeSet;

use crate::{
    Class, EndpointId, Entry, Incarnation, Key, PortClassId, Program, RowId, SetId, TableId, eval,
    schema::{
        Answer, BaseKey, DirectoryKey, EndpointKey, Family, Leaf, Named, OwnKey, OwnMacKey, RowKey,
        SetEndpoint, SetPortClass, TriedKey, VerdictKey, Word,
    },
};

/// What of a program concerns one endpoint: its words, the sets they name, their rows, and the
/// remotes and ports that these tell apart from others.
pub fn of_endpoint(program: &Program, endpoint: EndpointId) -> Program {
    let word = eval::word(program, endpoint);
    let sets: BTreeSet<SetId> =
        word.sets().into_iter().filter(|s| *s != SetId::default()).collect();
    let mut shown = Program::default();
    let mut keep = |table: TableId, wanted: &dyn Fn(&Key, &Entry) -> bool| {
        let entries = program.table(table).entries.iter().filter(|(k, e)| wanted(k, e));
        let entries: Vec<_> = entries.map(|(k, e)| (k.clone(), e.clone())).collect();
        shown.table_mut(table).size = program.table(table).size;
        shown.table_mut(table).entries.extend(entries.iter().cloned());
        entries
    };
    keep(TableId::Interface, &|_, e| SetEndpoint::of(e).endpoint == endpoint);
    keep(TableId::Endpoint, &|k, _| EndpointKey::of(k).endpoint == endpoint);
    keep(TableId::OwnV4, &|k, _| OwnKey::of(Family::V4, k).endpoint == endpoint);
    keep(TableId::OwnV6, &|k, _| OwnKey::of(Family::V6, k).endpoint == endpoint);
    keep(TableId::OwnMac, &|k, _| OwnMacKey::of(k).endpoint == endpoint);
    let base = keep(TableId::Base, &|k, _| sets.contains(&BaseKey::of(k).set));
    let rows = keep(TableId::Row, &|k, _| sets.contains(&RowKey::of(k).set));
    let row_ids: BTreeSet<RowId> =
        base.iter().chain(&rows).filter_map(|(_, e)| Answer::of(Some(e)).row()).collect();
    let verdicts = keep(TableId::Verdict, &|k, _| row_ids.contains(&VerdictKey::of(k).row));
    let tried = keep(TableId::Tried, &|k, _| row_ids.contains(&TriedKey::of(k).row));
    let port_classes: BTreeSet<PortClassId> = verdicts
        .iter()
        .map(|(k, _)| VerdictKey::of(k).port_class)
        .chain(tried.iter().map(|(k, _)| TriedKey::of(k).port_class))
        .collect();
    keep(TableId::Port, &|_, e| port_classes.contains(&SetPortClass::of(e).port_class));
    let classes: BTreeSet<Class> = rows.iter().map(|(key, _)| RowKey::of(key).class).collect();
    keep(TableId::Tunnel, &|_, _| true);
    keep(TableId::OnLinkV6, &|_, _| true);
    if word.flags & Word::EGRESS != 0 {
        keep(TableId::ServiceV4, &|_, _| true);
        keep(TableId::ServiceV6, &|_, _| true);
    }
    // Prefixes of these classes, and those cut out of them (an except is a longer prefix of another
    // class).
    for family in Family::BOTH {
        let table = program.table(TableId::remote(family));
        let covers: Vec<(u128, u8)> = table
            .entries
            .iter()
            .filter(|(_, e)| classes.contains(&Leaf::of(family, e).class))
            .map(|(k, _)| prefix(k))
            .collect();
        let inside = |key: &Key| {
            let (bits, length) = prefix(key);
            covers.iter().any(|(cover, cut)| {
                let host = u32::from(family.bits() - cut);
                *cut <= length && bits.checked_shr(host) == cover.checked_shr(host)
            })
        };
        keep(table.id, &|key, e| {
            let leaf = Leaf::of(family, e);
            let is_pod = leaf.incarnation != Incarnation::default();
            classes.contains(&leaf.class) || (!is_pod && inside(key))
        });
    }
    keep(TableId::Directory, &|key, _| match DirectoryKey::of(key).named {
        Named::Endpoint(id) => id == endpoint,
        Named::Set(id) => sets.contains(&id),
        Named::Class(id) => classes.contains(&id),
        Named::Unknown { .. } => false,
    });
    shown
}

fn prefix(key: &Key) -> (u128, u8) {
    let (value, length) = key.prefix();
    (value.get(), length)
}
