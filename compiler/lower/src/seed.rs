//! Ids of an installed program: the same content gets the same id again, so that a restarted agent
//! writes only what differs.

use std::collections::{BTreeMap, HashMap};

use netpolc_table::{
    ActionId, Match, Program, TableId,
    schema::{Family, IdKind},
};

use crate::{compiler::Compiler, ids::Ids, ports::interval_fingerprint};

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
    /// By set, family and class (None: base).
    places: HashMap<(u16, Family, Option<u16>), u16>,
    /// By set.
    contents: HashMap<u16, BTreeMap<u16, Permitted>>,
}

impl InstalledRows {
    fn of(installed: &Program) -> Self {
        let mut intervals: HashMap<u16, Permitted> = HashMap::from([(0, vec![(0, 0, 0)])]);
        for (key, entry) in &installed.table(TableId::Port).entries {
            if let Match::Range { low, high } = key.fields()[1] {
                let interval = (key.value(0).low() as u8, low as u16, high as u16);
                intervals.entry(entry.params[0] as u16).or_default().push(interval);
            }
        }
        let mut permitted: HashMap<u16, Permitted> = HashMap::new();
        for key in installed.table(TableId::Verdict).entries.keys() {
            let class = intervals.get(&(key.value(1).low() as u16)).into_iter().flatten();
            permitted.entry(key.value(0).low() as u16).or_default().extend(class);
        }
        let mut rows = Self::default();
        for (table, has_class) in [(TableId::Base, false), (TableId::Row, true)] {
            for (key, entry) in &installed.table(table).entries {
                if entry.action == ActionId::SetRow {
                    let (set, row) = (key.value(0).low() as u16, entry.params[0] as u16);
                    let family = if key.value(1).low() == 4 { Family::V4 } else { Family::V6 };
                    rows.places.insert((set, family, has_class.then(|| key.value(2).low() as u16)), row);
                    let content = permitted.get(&row).cloned().unwrap_or_default();
                    rows.contents.entry(set).or_default().entry(row).or_insert_with(|| merged(content));
                }
            }
        }
        rows
    }

    /// Rows of a set that may have this content, the likeliest first.
    pub(crate) fn candidates(&self, set: u16, place: (Family, Option<u16>), content: &Permitted) -> Vec<u16> {
        let Some(rows) = self.contents.get(&set) else { return Vec::new() };
        let mut found: Vec<u16> = rows.iter().filter(|(_, c)| *c == content).map(|(row, _)| *row).collect();
        let here = self.places.get(&(set, place.0, place.1));
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
            let (kind, id) = (key.value(0).low(), key.value(1).low() as u16);
            let ids = match kind {
                k if k == IdKind::Endpoint as u64 => &mut self.endpoint_ids,
                k if k == IdKind::Set as u64 => &mut self.sets.ids,
                k if k == IdKind::ClassV4 as u64 => &mut self.classes[0].ids,
                k if k == IdKind::ClassV6 as u64 => &mut self.classes[1].ids,
                _ => continue,
            };
            ids.seed(entry.params[0], id);
        }
        for (key, entry) in &installed.table(TableId::Port).entries {
            if let Match::Range { low, .. } = key.fields()[1] {
                let meaning = interval_fingerprint(key.value(0).low() as u8, low as u16);
                self.ports.ids.seed(meaning, entry.params[0] as u16);
            }
        }
        self.sets.installed_rows = InstalledRows::of(installed);
    }

    /// Before anything else: uses none of the ids of an installed program until
    /// [`Compiler::forget_installed`]. Everything will be written anew; nothing can clash.
    pub fn avoid(&mut self, installed: &Program) {
        let keep = |ids: &mut Ids, table: TableId, field: usize, family: Option<Family>| {
            for key in installed.table(table).entries.keys() {
                if family.is_none_or(|f| key.value(1).low() == u64::from(f.number())) {
                    ids.reserve(key.value(field).low() as u16);
                }
            }
        };
        keep(&mut self.endpoint_ids, TableId::Endpoint, 0, None);
        keep(&mut self.sets.ids, TableId::Base, 0, None);
        keep(&mut self.sets.ids, TableId::Row, 0, None);
        keep(&mut self.sets.row_ids, TableId::Verdict, 0, None);
        keep(&mut self.ports.ids, TableId::Verdict, 1, None);
        for entry in installed.table(TableId::Port).entries.values() {
            self.ports.ids.reserve(entry.params[0] as u16);
        }
        for family in Family::BOTH {
            let ids = &mut self.classes[family as usize].ids;
            keep(ids, TableId::Row, 2, Some(family));
            for entry in installed.table(TableId::remote(family)).entries.values() {
                ids.reserve(entry.params[0] as u16);
            }
        }
        for key in installed.table(TableId::Directory).entries.keys() {
            let (kind, id) = (key.value(0).low(), key.value(1).low() as u16);
            match kind {
                k if k == IdKind::Endpoint as u64 => self.endpoint_ids.reserve(id),
                k if k == IdKind::Set as u64 => self.sets.ids.reserve(id),
                k if k == IdKind::ClassV4 as u64 => self.classes[0].ids.reserve(id),
                k if k == IdKind::ClassV6 as u64 => self.classes[1].ids.reserve(id),
                _ => {}
            }
        }
    }

    /// The program that [`Compiler::seed`] spoke of is replaced by this one: all its other ids are free.
    pub fn forget_installed(&mut self) {
        let [v4, v6] = &mut self.classes;
        let all = [&mut v4.ids, &mut v6.ids, &mut self.sets.ids, &mut self.sets.row_ids, &mut self.ports.ids];
        all.into_iter().for_each(Ids::forget_seed);
        self.endpoint_ids.forget_seed();
        self.sets.installed_rows = InstalledRows::default();
    }
}
