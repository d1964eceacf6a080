//! Ids by content: two programs that differ only in the ids they use become equal.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ActionId, Entry, Key, Match, Program, TableId,
    schema::{Family, IdKind},
};

/// New ids by old ids.
type Names = BTreeMap<u64, u64>;

/// What a row is, whatever its id: permitted port classes (by new id), then who uses it as what.
type RowContent = (BTreeSet<u64>, BTreeSet<(u64, u64, u64)>);

/// Gives ids from 1 to all of `ids` (0 stays), in the order of what `content` says of them, then of the ids.
fn number<C: Ord>(ids: BTreeSet<u64>, content: impl Fn(u64) -> C) -> Names {
    let mut order: Vec<(C, u64)> = ids.into_iter().filter(|id| *id != 0).map(|id| (content(id), id)).collect();
    order.sort();
    [(0, 0)].into_iter().chain(order.into_iter().zip(1..).map(|((_, old), new)| (old, new))).collect()
}

impl Program {
    /// The same program under ids that follow from what they stand for.
    ///
    /// Endpoints, sets and classes go by their fingerprint in the directory. Without one, an endpoint keeps
    /// its order (its id, where no endpoint has one), a class goes by its prefixes, a set by what it answers. Rows
    /// go by their set and ports, port classes by protocol and first port. Origins and sizes stay. Entries that no packet can reach are
    /// kept, but may stay told apart by the order of their old ids.
    pub fn canonical(&self) -> Program {
        let names = Renaming::of(self);
        let mut out = self.clone();
        for &id in TableId::ALL {
            let entries = &mut out.table_mut(id).entries;
            *entries = std::mem::take(entries).into_iter().map(|(k, e)| names.entry(id, k, e)).collect();
        }
        out
    }

    /// Ids and fingerprints in the directory.
    fn directory(&self, kind: IdKind) -> BTreeMap<u64, u64> {
        let entries = self.table(TableId::Directory).entries.iter();
        let of_kind = entries.filter(|(k, _)| k.value(0).low() == kind as u64);
        of_kind.map(|(k, e)| (k.value(1).low(), e.params[0])).collect()
    }
}

#[derive(Default)]
struct Renaming {
    endpoints: Names,
    sets: Names,
    classes: [Names; 2],
    rows: Names,
    port_classes: Names,
}

impl Renaming {
    fn of(program: &Program) -> Self {
        let mut names = Renaming {
            endpoints: endpoints(program),
            classes: Family::BOTH.map(|f| classes(program, f)),
            port_classes: port_classes(program),
            ..Renaming::default()
        };
        let permitted = permitted(program, &names.port_classes);
        names.sets = sets(program, &names, &permitted);
        names.rows = rows(program, &names, permitted);
        names
    }

    fn entry(&self, table: TableId, key: Key, mut entry: Entry) -> (Key, Entry) {
        let new = |names: &Names, id: u64| names.get(&id).copied().unwrap_or(id);
        let mut fields = key.fields().to_vec();
        let mut field = |i: usize, names: &Names| fields[i] = Match::exact(new(names, key.value(i).low()));
        let family = |i: usize| &self.classes[usize::from(key.value(i).low() != 4)];
        match table {
            TableId::Interface => entry.params[0] = new(&self.endpoints, entry.params[0]),
            TableId::Endpoint => {
                field(0, &self.endpoints);
                entry.params[..2].iter_mut().for_each(|set| *set = new(&self.sets, *set));
            }
            TableId::OwnV4 | TableId::OwnV6 | TableId::OwnMac => field(0, &self.endpoints),
            TableId::RemoteV4 => entry.params[0] = new(&self.classes[0], entry.params[0]),
            TableId::RemoteV6 => entry.params[0] = new(&self.classes[1], entry.params[0]),
            TableId::Port => entry.params[0] = new(&self.port_classes, entry.params[0]),
            TableId::Base => field(0, &self.sets),
            TableId::Row => {
                field(0, &self.sets);
                field(2, family(1));
            }
            TableId::Verdict => {
                field(0, &self.rows);
                field(1, &self.port_classes);
            }
            TableId::Directory => match key.value(0).low() {
                k if k == IdKind::Endpoint as u64 => field(1, &self.endpoints),
                k if k == IdKind::Set as u64 => field(1, &self.sets),
                k if k == IdKind::ClassV4 as u64 => field(1, &self.classes[0]),
                k if k == IdKind::ClassV6 as u64 => field(1, &self.classes[1]),
                _ => (),
            },
            TableId::ServiceV4 | TableId::ServiceV6 | TableId::Tunnel | TableId::OnLinkV6 => (),
        }
        if entry.action == ActionId::SetRow {
            entry.params[0] = new(&self.rows, entry.params[0]);
        }
        (Key::new(fields), entry)
    }
}

fn endpoints(program: &Program) -> Names {
    let listed = program.directory(IdKind::Endpoint);
    let words = program.table(TableId::Endpoint).entries.keys().map(|k| k.value(0).low());
    let interfaces = program.table(TableId::Interface).entries.values().map(|e| e.params[0]);
    let own =
        [TableId::OwnV4, TableId::OwnV6, TableId::OwnMac].into_iter().flat_map(|t| program.table(t).entries.keys());
    let own = own.map(|k| k.value(0).low());
    let ids: BTreeSet<u64> = words.chain(interfaces).chain(own).chain(listed.keys().copied()).collect();
    if listed.is_empty() {
        return ids.into_iter().map(|id| (id, id)).collect();
    }
    number(ids, |id| (!listed.contains_key(&id), listed.get(&id).copied()))
}

fn classes(program: &Program, family: Family) -> Names {
    let kind = if family == Family::V4 { IdKind::ClassV4 } else { IdKind::ClassV6 };
    let listed = program.directory(kind);
    let rows = program.table(TableId::Row).entries.keys().filter(|k| k.value(1).low() == u64::from(family.number()));
    let mut ids: BTreeSet<u64> = rows.map(|k| k.value(2).low()).chain(listed.keys().copied()).collect();
    let mut prefixes: BTreeMap<u64, Vec<&Key>> = BTreeMap::new();
    for (key, entry) in &program.table(TableId::remote(family)).entries {
        ids.insert(entry.params[0]);
        if !listed.contains_key(&entry.params[0]) {
            prefixes.entry(entry.params[0]).or_default().push(key);
        }
    }
    number(ids, |id| (!listed.contains_key(&id), listed.get(&id).copied(), prefixes.get(&id).cloned()))
}

fn port_classes(program: &Program) -> Names {
    let mut intervals: BTreeMap<u64, Vec<&Key>> = BTreeMap::new();
    for (key, entry) in &program.table(TableId::Port).entries {
        intervals.entry(entry.params[0]).or_default().push(key);
    }
    let verdicts = program.table(TableId::Verdict).entries.keys().map(|k| k.value(1).low());
    let ids = verdicts.chain(intervals.keys().copied()).collect();
    number(ids, |id| (!intervals.contains_key(&id), intervals.get(&id).cloned()))
}

/// Port classes, by new id, that each row permits.
fn permitted(program: &Program, port_classes: &Names) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut rows: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for key in program.table(TableId::Verdict).entries.keys() {
        rows.entry(key.value(0).low()).or_default().insert(port_classes[&key.value(1).low()]);
    }
    rows
}

fn sets(program: &Program, names: &Renaming, permitted: &BTreeMap<u64, BTreeSet<u64>>) -> Names {
    let listed = program.directory(IdKind::Set);
    let mut users: BTreeMap<u64, BTreeSet<(u64, usize)>> = BTreeMap::new();
    for (key, entry) in &program.table(TableId::Endpoint).entries {
        for (direction, set) in entry.params[..2].iter().enumerate() {
            users.entry(*set).or_default().insert((names.endpoints[&key.value(0).low()], direction));
        }
    }
    let mut ids: BTreeSet<u64> = users.keys().chain(listed.keys()).copied().collect();
    let mut answers: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for table in [TableId::Base, TableId::Row] {
        for (key, entry) in &program.table(table).entries {
            let set = key.value(0).low();
            ids.insert(set);
            if listed.contains_key(&set) {
                continue;
            }
            let family = key.value(1).low();
            let class = (table == TableId::Row).then(|| names.classes[usize::from(family != 4)][&key.value(2).low()]);
            let ports = (entry.action == ActionId::SetRow).then(|| permitted.get(&entry.params[0]));
            answers.entry(set).or_default().push((family, class, entry.action, ports));
        }
    }
    answers.values_mut().for_each(|list| list.sort());
    number(ids, |id| {
        let unlisted = (answers.get(&id).cloned(), users.get(&id).cloned());
        (!listed.contains_key(&id), listed.get(&id).copied(), unlisted)
    })
}

fn rows(program: &Program, names: &Renaming, permitted: BTreeMap<u64, BTreeSet<u64>>) -> Names {
    let mut rows: BTreeMap<u64, RowContent> =
        permitted.into_iter().map(|(row, ports)| (row, (ports, BTreeSet::new()))).collect();
    for table in [TableId::Base, TableId::Row] {
        for (key, entry) in &program.table(table).entries {
            if entry.action == ActionId::SetRow {
                let (set, family) = (names.sets[&key.value(0).low()], key.value(1).low());
                let class = match table {
                    TableId::Base => u64::MAX,
                    _ => names.classes[usize::from(family != 4)][&key.value(2).low()],
                };
                rows.entry(entry.params[0]).or_default().1.insert((set, family, class));
            }
        }
    }
    number(rows.keys().copied().collect(), |row| {
        let (ports, users) = &rows[&row];
        (users.first().map_or(u64::MAX, |u| u.0), ports, users)
    })
}
