//! Reading an installed program: the same content gets the same id again, so that a restarted agent
//! writes only what differs.
//!
//! Each owner of ids reads its own ([`Ids::seed`](crate::ids::Ids::seed)); here is what several of
//! them need, and rows, which the directory does not list.

use std::collections::{BTreeMap, HashMap};

use netpolc_policy::Protocol;
use netpolc_table::{
    PortClassId, Program, RowId, SetId, TableId,
    schema::{
        Answer, BaseKey, DirectoryKey, Fingerprint, Named, PortKey, RowKey, SetPortClass,
        VerdictKey,
    },
};

use crate::{
    grants::Place,
    interval::{Lane, Permitted, Piece},
};

/// What the directory says of each id: the fingerprint of what it stands for.
pub(crate) fn directory(installed: &Program) -> impl Iterator<Item = (Named, u64)> {
    let lines = installed.table(TableId::Directory).entries.iter();
    lines.map(|(key, entry)| (DirectoryKey::of(key).named, Fingerprint::of(entry).value))
}

/// The rows of an installed program.
#[derive(Debug, Default)]
pub(crate) struct InstalledRows {
    places: HashMap<(SetId, Place), RowId>,
    /// By set.
    contents: HashMap<SetId, BTreeMap<RowId, Permitted>>,
}

impl InstalledRows {
    pub(crate) fn of(installed: &Program) -> Self {
        let portless = (PortClassId::default(), vec![(Lane::Others, 0, 0)]);
        let mut intervals: HashMap<PortClassId, Vec<Piece>> = HashMap::from([portless]);
        for (key, entry) in &installed.table(TableId::Port).entries {
            let PortKey { protocol, port } = PortKey::of(key);
            let lane = Protocol::from_number(protocol).map_or(Lane::Apart(protocol), Lane::Ports);
            let interval = (lane, port.low as u16, port.high as u16);
            intervals.entry(SetPortClass::of(entry).port_class).or_default().push(interval);
        }
        let mut permitted: HashMap<RowId, Vec<Piece>> = HashMap::new();
        for key in installed.table(TableId::Verdict).entries.keys() {
            let VerdictKey { row, port_class } = VerdictKey::of(key);
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
                let of_set = rows.contents.entry(set).or_default();
                of_set.entry(row).or_insert_with(|| Permitted::of(content));
            }
        }
        rows
    }

    /// Rows of a set that permit just this, the likeliest first: several may, by other rules, and
    /// then the one that was in this place.
    pub(crate) fn candidates(&self, set: SetId, place: Place, content: &Permitted) -> Vec<RowId> {
        let Some(rows) = self.contents.get(&set) else { return Vec::new() };
        let same = rows.iter().filter(|(_, c)| *c == content);
        let mut found: Vec<RowId> = same.map(|(row, _)| *row).collect();
        let here = self.places.get(&(set, place));
        found.sort_by_key(|row| Some(row) != here);
        found
    }
}
