//! Ids of an installed program: the same content gets the same id again, so that a restarted agent
//! writes only what differs.

use std::collections::{BTreeMap, HashMap};

use netpolc_table::{
    Class, Id, PortClassId, Program, RowId, SetId, TableId,
    schema::{
        Answer, BaseKey, DirectoryKey, EndpointKey, Family, Fingerprint, Leaf, Named, PortKey, RowKey, SetPortClass,
        VerdictKey,
    },
};

use crate::{compiler::Compiler, ids::Ids, ports::interval_fingerprint, rows::Place};

/// What a row permits, whatever the ids: intervals by protocol (0: protocols without ports), merged and in order.
pub(crate) type Permitted = Vec<(u8, u16, u16)>;

/// Merges intervals of one protocol that touch or overlap.
pub(crate) fn merged(mut intervals: Permitted) -> Permitted {
    intervals.sort_unstable();
    let mut list = Permitted::new();
    for (protocol, first, last) in intervals {
        match list.last_mut() {
            Some((p, _, end)) if *p == protocol && first.saturating_sub(1) <= *end => *end = last.max(*end),
            _ => list.push((protocol, first, last)),
        }
    }
    list
}

/// The rows of an installed program.
#[derive(Debug, Default)]
pub(crate) struct InstalledRows {
    places: HashMap<(SetId, Place), RowId>,
    /// By set.
    contents: HashMap<SetId, BTreeMap<RowId, Permitted>>,
}

impl InstalledRows {
    fn of(installed: &Program) -> Self {
        let mut intervals: HashMap<PortClassId, Permitted> = HashMap::from([(PortClassId::default(), vec![(0, 0, 0)])]);
        for (key, entry) in &installed.table(TableId::Port).entries {
            let PortKey { protocol, port } = PortKey::of(key);
            let interval = (protocol, port.low as u16, port.high as u16);
            intervals.entry(SetPortClass::of(entry).port_class).or_default().push(interval);
        }
        let mut permitted: HashMap<RowId, Permitted> = HashMap::new();
        for VerdictKey { row, port_class } in installed.table(TableId::Verdict).entries.keys().map(VerdictKey::of) {
            let class = intervals.get(&port_class).into_iter().flatten();
            permitted.entry(row).or_default().extend(class);
        }
        let bases = installed.table(TableId::Base).entries.iter().map(|(key, entry)| {
            let BaseKey { set, family } = BaseKey::of(key);
            (set, Place::Base(family), entry)
        });
        let classes = installed.table(TableId::Row).entries.iter().map(|(key, entry)| {
            let RowKey { set, class } = RowKey::of(key);
            (set, Place::Class(class), entry)
        });
        let mut rows = Self::default();
        for (set, place, entry) in bases.chain(classes) {
            if let Answer::Row(row) = Answer::of(Some(entry)) {
                rows.places.insert((set, place), row);
                let content = permitted.get(&row).cloned().unwrap_or_default();
                rows.contents.entry(set).or_default().entry(row).or_insert_with(|| merged(content));
            }
        }
        rows
    }

    /// Rows of a set that may have this content, the likeliest first.
    pub(crate) fn candidates(&self, set: SetId, place: Place, content: &Permitted) -> Vec<RowId> {
        let Some(rows) = self.contents.get(&set) else { return Vec::new() };
        let mut found: Vec<RowId> = rows.iter().filter(|(_, c)| *c == content).map(|(row, _)| *row).collect();
        let here = self.places.get(&(set, place));
        found.sort_by_key(|row| Some(row) != here);
        found
    }
}

impl Compiler {
    /// Before anything else: keeps the ids of an installed program for what they mean there. Ids that
    /// mean nothing here are not used until [`Compiler::forget_installed`].
    pub fn seed(&mut self, installed: &Program) {
        self.avoid(installed);
        for (key, entry) in &installed.table(TableId::Directory).entries {
            let Fingerprint { value } = Fingerprint::of(entry);
            match DirectoryKey::of(key).named {
                Named::Endpoint(id) => self.endpoint_ids.seed(value, id),
                Named::Set(id) => self.sets.ids.seed(value, id),
                Named::Class(Class::V4(id)) => self.classes.v4.ids.seed(value, id),
                Named::Class(Class::V6(id)) => self.classes.v6.ids.seed(value, id),
                Named::Unknown { .. } => {}
            }
        }
        for (key, entry) in &installed.table(TableId::Port).entries {
            let PortKey { protocol, port } = PortKey::of(key);
            let meaning = interval_fingerprint(protocol, port.low as u16);
            self.ports.ids.seed(meaning, SetPortClass::of(entry).port_class);
        }
        self.sets.installed_rows = InstalledRows::of(installed);
    }

    /// Before anything else: uses none of the ids of an installed program until
    /// [`Compiler::forget_installed`]. Everything will be written anew; nothing can clash.
    pub fn avoid(&mut self, installed: &Program) {
        let keys = |table| installed.table(table).entries.keys();
        reserve(&mut self.endpoint_ids, keys(TableId::Endpoint).map(|key| EndpointKey::of(key).endpoint));
        reserve(&mut self.sets.ids, keys(TableId::Base).map(|key| BaseKey::of(key).set));
        for RowKey { set, class } in keys(TableId::Row).map(RowKey::of) {
            self.sets.ids.reserve(set);
            self.reserve_class(class);
        }
        for VerdictKey { row, port_class } in keys(TableId::Verdict).map(VerdictKey::of) {
            self.sets.row_ids.reserve(row);
            self.ports.ids.reserve(port_class);
        }
        let intervals = installed.table(TableId::Port).entries.values();
        reserve(&mut self.ports.ids, intervals.map(|entry| SetPortClass::of(entry).port_class));
        for family in Family::BOTH {
            for entry in installed.table(TableId::remote(family)).entries.values() {
                self.reserve_class(Leaf::of(family, entry).class);
            }
        }
        for key in keys(TableId::Directory) {
            match DirectoryKey::of(key).named {
                Named::Endpoint(id) => self.endpoint_ids.reserve(id),
                Named::Set(id) => self.sets.ids.reserve(id),
                Named::Class(class) => self.reserve_class(class),
                Named::Unknown { .. } => {}
            }
        }
    }

    fn reserve_class(&mut self, class: Class) {
        match class {
            Class::V4(id) => self.classes.v4.ids.reserve(id),
            Class::V6(id) => self.classes.v6.ids.reserve(id),
        }
    }

    /// The program that [`Compiler::seed`] spoke of is replaced by this one: all its other ids are free.
    pub fn forget_installed(&mut self) {
        self.classes.v4.ids.forget_seed();
        self.classes.v6.ids.forget_seed();
        self.sets.ids.forget_seed();
        self.sets.row_ids.forget_seed();
        self.ports.ids.forget_seed();
        self.endpoint_ids.forget_seed();
        self.sets.installed_rows = InstalledRows::default();
    }
}

fn reserve<I: Id>(ids: &mut Ids<I>, list: impl Iterator<Item = I>) {
    list.for_each(|id| ids.reserve(id));
}
