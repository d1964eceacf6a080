//! Ids by content: two programs that differ only in the ids they use become equal.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Class, ClassId, EndpointId, Entry, Id, Key, PortClassId, Program, RowId, SetId, TableId,
    id::{Ip, V4, V6},
    schema::{
        Answer, BaseKey, DirectoryKey, EndpointKey, Family, Fingerprint, Leaf, Named, OwnKey,
        OwnMacKey, RowKey, SetEndpoint, SetPortClass, TriedKey, VerdictKey, Word, base_key,
        directory_key, endpoint_key, own_key, own_mac_key, row_key, set_endpoint, set_port_class,
        set_remote, tried_key, verdict_key,
    },
};

/// New ids by old ids.
type Names<I> = BTreeMap<I, I>;

/// What an id stands for, where the directory says it.
type Listed<I> = BTreeMap<I, u64>;

/// Where a set uses a row. Orders classes before the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Class(Class),
    Base,
}

/// The port classes (by new id) that a row permits, and those for which the shadow differs.
type RowPorts = [BTreeSet<PortClassId>; 2];

/// What a row is, whatever its id: its port classes, then who uses it as what.
type RowContent = (RowPorts, BTreeSet<(SetId, Family, Place)>);

/// Gives ids from 1 to all of `ids` (0 stays), in the order of what `content` says of them, then of
/// the ids.
fn number<I: Id, C: Ord>(ids: BTreeSet<I>, content: impl Fn(I) -> C) -> Names<I> {
    let zero = I::default();
    let mut order: Vec<(C, I)> =
        ids.into_iter().filter(|id| *id != zero).map(|id| (content(id), id)).collect();
    order.sort();
    let named = order.into_iter().zip(1..=u16::MAX).map(|((_, old), new)| (old, I::numbered(new)));
    [(zero, zero)].into_iter().chain(named).collect()
}

fn new<I: Copy + Ord>(names: &Names<I>, id: I) -> I {
    names.get(&id).copied().unwrap_or(id)
}

impl Program {
    /// The same program under ids that follow from what they stand for.
    ///
    /// Endpoints, sets and classes go by their fingerprint in the directory. Without one, an
    /// endpoint keeps its order (its id, where no endpoint has one), a class goes by its prefixes,
    /// a set by what it answers. Rows go by their set and ports, port classes by protocol and first
    /// port. Origins and sizes stay. Entries that no packet can reach are kept, but may stay told
    /// apart by the order of their old ids.
    pub fn canonical(&self) -> Program {
        let names = Renaming::of(self);
        let mut out = self.clone();
        for &id in TableId::ALL {
            let entries = &mut out.table_mut(id).entries;
            *entries =
                std::mem::take(entries).into_iter().map(|(k, e)| names.entry(id, k, e)).collect();
        }
        out
    }

    /// Ids and fingerprints of one kind in the directory.
    fn directory<I: Ord>(&self, kind: impl Fn(Named) -> Option<I>) -> Listed<I> {
        let entries = self.table(TableId::Directory).entries.iter();
        entries
            .filter_map(|(k, e)| Some((kind(DirectoryKey::of(k).named)?, Fingerprint::of(e).value)))
            .collect()
    }

    /// The answers of all sets, in the order of tables and keys.
    fn answers(&self) -> impl Iterator<Item = (SetId, Family, Place, &Entry)> {
        let bases = self.table(TableId::Base).entries.iter().map(|(key, entry)| {
            let BaseKey { set, family } = BaseKey::of(key);
            (set, family, Place::Base, entry)
        });
        let rows = self.table(TableId::Row).entries.iter().map(|(key, entry)| {
            let RowKey { set, class } = RowKey::of(key);
            (set, class.family(), Place::Class(class), entry)
        });
        bases.chain(rows)
    }
}

#[derive(Default)]
struct Renaming {
    endpoints: Names<EndpointId>,
    sets: Names<SetId>,
    classes: Names<Class>,
    rows: Names<RowId>,
    port_classes: Names<PortClassId>,
}

impl Renaming {
    fn of(program: &Program) -> Self {
        let mut names = Renaming {
            endpoints: endpoints(program),
            classes: classes::<V4>(program).chain(classes::<V6>(program)).collect(),
            port_classes: port_classes(program),
            ..Renaming::default()
        };
        let ports = row_ports(program, &names.port_classes);
        names.sets = sets(program, &names, &ports);
        names.rows = rows(program, &names, ports);
        names
    }

    fn entry(&self, table: TableId, key: Key, entry: Entry) -> (Key, Entry) {
        let (mut key, mut after) = (key, None);
        let mut family = None;
        match table {
            TableId::Interface => {
                after = Some(set_endpoint(new(&self.endpoints, SetEndpoint::of(&entry).endpoint)))
            }
            TableId::Endpoint => {
                key = endpoint_key(new(&self.endpoints, EndpointKey::of(&key).endpoint));
                let word = Word::of(&entry);
                let [ingress_set, egress_set, born_set] =
                    word.sets().map(|set| new(&self.sets, set));
                after = Some(Word { ingress_set, egress_set, born_set, ..word }.entry());
            }
            TableId::OwnV4 | TableId::OwnV6 => {
                let family = if table == TableId::OwnV4 { Family::V4 } else { Family::V6 };
                let own = OwnKey::of(family, &key);
                key = own_key(new(&self.endpoints, own.endpoint), own.address);
            }
            TableId::OwnMac => {
                key = own_mac_key(new(&self.endpoints, OwnMacKey::of(&key).endpoint))
            }
            TableId::RemoteV4 => family = Some(Family::V4),
            TableId::RemoteV6 => family = Some(Family::V6),
            TableId::Port => {
                after = Some(set_port_class(new(
                    &self.port_classes,
                    SetPortClass::of(&entry).port_class,
                )));
            }
            TableId::Base => {
                let base = BaseKey::of(&key);
                key = base_key(new(&self.sets, base.set), base.family);
            }
            TableId::Row => {
                let row = RowKey::of(&key);
                key = row_key(new(&self.sets, row.set), new(&self.classes, row.class));
            }
            TableId::Verdict => {
                let verdict = VerdictKey::of(&key);
                key = verdict_key(
                    new(&self.rows, verdict.row),
                    new(&self.port_classes, verdict.port_class),
                );
            }
            TableId::Tried => {
                let tried = TriedKey::of(&key);
                key = tried_key(
                    new(&self.rows, tried.row),
                    new(&self.port_classes, tried.port_class),
                );
            }
            TableId::Directory => {
                key = directory_key(match DirectoryKey::of(&key).named {
                    Named::Endpoint(id) => Named::Endpoint(new(&self.endpoints, id)),
                    Named::Set(id) => Named::Set(new(&self.sets, id)),
                    Named::Class(id) => Named::Class(new(&self.classes, id)),
                    unknown @ Named::Unknown { .. } => unknown,
                });
            }
            TableId::ServiceV4 | TableId::ServiceV6 | TableId::Tunnel | TableId::OnLinkV6 => (),
        }
        if let Some(family) = family {
            let leaf = Leaf::of(family, &entry);
            after = Some(set_remote(new(&self.classes, leaf.class), leaf.incarnation));
        } else if let Some(row) = Answer::of(Some(&entry)).row() {
            after = Some(Answer::Row(new(&self.rows, row)).entry());
        }
        match after {
            Some(after) => (key, after.with(entry.origins)),
            None => (key, entry),
        }
    }
}

fn endpoints(program: &Program) -> Names<EndpointId> {
    let listed = program.directory(|named| match named {
        Named::Endpoint(id) => Some(id),
        _ => None,
    });
    let keys = |table| program.table(table).entries.keys();
    let words = keys(TableId::Endpoint).map(|k| EndpointKey::of(k).endpoint);
    let interfaces =
        program.table(TableId::Interface).entries.values().map(|e| SetEndpoint::of(e).endpoint);
    let own = Family::BOTH
        .into_iter()
        .flat_map(|f| keys(TableId::own(f)).map(move |k| OwnKey::of(f, k).endpoint));
    let macs = keys(TableId::OwnMac).map(|k| OwnMacKey::of(k).endpoint);
    let ids: BTreeSet<EndpointId> =
        words.chain(interfaces).chain(own).chain(macs).chain(listed.keys().copied()).collect();
    if listed.is_empty() {
        return ids.into_iter().map(|id| (id, id)).collect();
    }
    number(ids, |id| (!listed.contains_key(&id), listed.get(&id).copied()))
}

fn classes<F: Ip>(program: &Program) -> impl Iterator<Item = (Class, Class)> + use<F> {
    let listed: Listed<ClassId<F>> = program.directory(|named| match named {
        Named::Class(class) => F::own(class),
        _ => None,
    });
    let rows =
        program.table(TableId::Row).entries.keys().filter_map(|k| F::own(RowKey::of(k).class));
    let mut ids: BTreeSet<ClassId<F>> = rows.chain(listed.keys().copied()).collect();
    let mut prefixes: BTreeMap<ClassId<F>, Vec<&Key>> = BTreeMap::new();
    for (key, entry) in &program.table(TableId::remote(F::FAMILY)).entries {
        let class = crate::schema::SetRemote::<F>::of(entry).class;
        ids.insert(class);
        if !listed.contains_key(&class) {
            prefixes.entry(class).or_default().push(key);
        }
    }
    let names = number(ids, |id| {
        (!listed.contains_key(&id), listed.get(&id).copied(), prefixes.get(&id).cloned())
    });
    names.into_iter().map(|(old, new)| (F::class(old), F::class(new)))
}

fn port_classes(program: &Program) -> Names<PortClassId> {
    let mut intervals: BTreeMap<PortClassId, Vec<&Key>> = BTreeMap::new();
    for (key, entry) in &program.table(TableId::Port).entries {
        intervals.entry(SetPortClass::of(entry).port_class).or_default().push(key);
    }
    let keys = |table| program.table(table).entries.keys();
    let verdicts = keys(TableId::Verdict).map(|k| VerdictKey::of(k).port_class);
    let tried = keys(TableId::Tried).map(|k| TriedKey::of(k).port_class);
    let ids = verdicts.chain(tried).chain(intervals.keys().copied()).collect();
    number(ids, |id| (!intervals.contains_key(&id), intervals.get(&id).cloned()))
}

/// The port classes of each row.
fn row_ports(program: &Program, port_classes: &Names<PortClassId>) -> BTreeMap<RowId, RowPorts> {
    let mut rows: BTreeMap<RowId, RowPorts> = BTreeMap::new();
    for key in program.table(TableId::Verdict).entries.keys() {
        let VerdictKey { row, port_class } = VerdictKey::of(key);
        rows.entry(row).or_default()[0].insert(port_classes[&port_class]);
    }
    for key in program.table(TableId::Tried).entries.keys() {
        let TriedKey { row, port_class } = TriedKey::of(key);
        rows.entry(row).or_default()[1].insert(port_classes[&port_class]);
    }
    rows
}

fn sets(program: &Program, names: &Renaming, ports: &BTreeMap<RowId, RowPorts>) -> Names<SetId> {
    let listed = program.directory(|named| match named {
        Named::Set(id) => Some(id),
        _ => None,
    });
    let mut users: BTreeMap<SetId, BTreeSet<(EndpointId, usize)>> = BTreeMap::new();
    for (key, entry) in &program.table(TableId::Endpoint).entries {
        let (endpoint, word) = (EndpointKey::of(key).endpoint, Word::of(entry));
        for (place, set) in word.sets().into_iter().enumerate() {
            users.entry(set).or_default().insert((names.endpoints[&endpoint], place));
        }
    }
    let mut ids: BTreeSet<SetId> = users.keys().chain(listed.keys()).copied().collect();
    let mut answers: BTreeMap<SetId, Vec<_>> = BTreeMap::new();
    for (set, family, place, entry) in program.answers() {
        ids.insert(set);
        if listed.contains_key(&set) {
            continue;
        }
        let class = match place {
            Place::Base => None,
            Place::Class(class) => Some(names.classes[&class]),
        };
        let ports = Answer::of(Some(entry)).row().map(|row| ports.get(&row));
        answers.entry(set).or_default().push((family, class, entry.action, ports));
    }
    answers.values_mut().for_each(|list| list.sort());
    number(ids, |id| {
        let unlisted = (answers.get(&id).cloned(), users.get(&id).cloned());
        (!listed.contains_key(&id), listed.get(&id).copied(), unlisted)
    })
}

fn rows(program: &Program, names: &Renaming, ports: BTreeMap<RowId, RowPorts>) -> Names<RowId> {
    let mut rows: BTreeMap<RowId, RowContent> =
        ports.into_iter().map(|(row, ports)| (row, (ports, BTreeSet::new()))).collect();
    for (set, family, place, entry) in program.answers() {
        if let Some(row) = Answer::of(Some(entry)).row() {
            let place = match place {
                Place::Class(class) => Place::Class(names.classes[&class]),
                Place::Base => Place::Base,
            };
            rows.entry(row).or_default().1.insert((names.sets[&set], family, place));
        }
    }
    number(rows.keys().copied().collect(), |row| {
        let (ports, users) = &rows[&row];
        // What no set uses comes last.
        let user = users.first().map(|u| u.0);
        (user.is_none(), user, ports, users)
    })
}
