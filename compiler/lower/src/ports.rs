//! Port classes: elementary intervals between the edges of live grants, per protocol.
//!
//! Splitting an interval and merging two keep the answer of every row: the new half has the
//! verdicts of the whole, and two halves are merged only when no grant has an edge between them any
//! more, so that every row has the same verdict for both.
//!
//! A protocol without ports has intervals only while some grant tells it apart from the others.
//! Its first interval is split off port class 0, and the last one goes back into it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use netpolc_policy::Protocol;
use netpolc_table::{
    ActionId, Entry, Key, Origins, PortClassId, Program, RowId, TableId,
    schema::{
        self, PortKey, SetPortClass, TriedKey, VerdictKey, port_key, set_port_class, tried_key,
        verdict_key,
    },
};

use crate::{
    ids::Ids,
    interval::{Stretch, edges},
    output::Output,
    overflow::{Numbered, Overflow},
};

/// The owner of the tables `port`, `verdict` and `tried`.
#[derive(Debug)]
pub(crate) struct Ports {
    ids: Ids<PortClassId>,
    /// First port of each interval -> its class.
    intervals: BTreeMap<u8, BTreeMap<u16, PortClassId>>,
    /// How many grants begin or have just ended at a port.
    edges: BTreeMap<Edge, usize>,
    /// How many grants tell a protocol without ports apart.
    apart: BTreeMap<u8, usize>,
    /// Rows with an entry for a class, in each of the two tables.
    rows: [HashMap<PortClassId, BTreeSet<RowId>>; 2],
}

/// A table that has an entry for a row and a port class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// `verdict`: the row permits the class.
    Permit,
    /// `tried`: what is only tried would answer otherwise.
    Differs,
}

impl Cell {
    const ALL: [Cell; 2] = [Cell::Permit, Cell::Differs];

    fn table(self) -> TableId {
        match self {
            Cell::Permit => TableId::Verdict,
            Cell::Differs => TableId::Tried,
        }
    }

    fn key(self, row: RowId, port_class: PortClassId) -> Key {
        match self {
            Cell::Permit => verdict_key(row, port_class),
            Cell::Differs => tried_key(row, port_class),
        }
    }

    fn entry(self) -> Entry {
        schema::plain(match self {
            Cell::Permit => ActionId::Permit,
            Cell::Differs => ActionId::Differs,
        })
    }
}

/// A port before which something begins, by IP protocol number.
type Edge = (u8, u32);

/// Seeds an interval's id by where it begins: where it ends changes with every edge inside.
fn meaning(protocol: u8, first: u16) -> u64 {
    u64::from(protocol) << 16 | u64::from(first)
}

impl Ports {
    pub(crate) fn new() -> Self {
        Self {
            ids: Ids::new(Numbered::PortClasses),
            intervals: BTreeMap::new(),
            edges: BTreeMap::new(),
            apart: BTreeMap::new(),
            rows: Default::default(),
        }
    }

    /// Gives out no id from `limit` on.
    pub(crate) fn limit(&mut self, limit: u32) {
        self.ids.limit(limit);
    }

    /// One interval for each protocol: the table always covers every port.
    pub(crate) fn cover(&mut self, out: &mut Output) -> Result<(), Overflow> {
        for protocol in Protocol::ALL {
            self.begin(protocol.number(), out)?;
        }
        Ok(())
    }

    /// One interval for all of a protocol.
    fn begin(&mut self, number: u8, out: &mut Output) -> Result<PortClassId, Overflow> {
        let pc = self.ids.take(Some(meaning(number, 0)))?;
        self.intervals.entry(number).or_default().insert(0, pc);
        out.put(TableId::Port, port_key(number, 0, u16::MAX), set_port_class(pc));
        Ok(pc)
    }

    /// The classes of the intervals that a grant consists of; its edges must have been added. None:
    /// those of all protocols without ports, however many are told apart just now.
    pub(crate) fn classes(&self, stretch: Option<Stretch>) -> Vec<PortClassId> {
        let Some((number, first, last)) = stretch else {
            let apart = self.apart.keys().flat_map(|number| self.intervals[number].values());
            return [PortClassId::default()].iter().chain(apart).copied().collect();
        };
        self.intervals[&number].range(first..=last).map(|(_, pc)| *pc).collect()
    }

    /// Counts the edges of a grant, and splits the intervals that they are the first to lie in.
    pub(crate) fn add_edges(&mut self, stretch: Stretch, out: &mut Output) -> Result<(), Overflow> {
        let (number, ..) = stretch;
        if Protocol::from_number(number).is_none() {
            let count = self.apart.entry(number).or_default();
            *count += 1;
            if *count == 1 {
                // What is told apart keeps the answers that it had as one of all others.
                let pc = self.begin(number, out)?;
                self.repeat(PortClassId::default(), pc, out);
            }
        }
        for edge in edges(stretch) {
            let count = self.edges.entry(edge).or_default();
            *count += 1;
            if *count == 1 {
                self.split(edge, out)?;
            }
        }
        Ok(())
    }

    /// Counts the edges of a grant that is gone, and merges what nothing separates any more.
    pub(crate) fn drop_edges(&mut self, stretch: Stretch, out: &mut Output) {
        for edge in edges(stretch) {
            let count = self.edges.get_mut(&edge).expect("added before");
            *count -= 1;
            if *count == 0 {
                self.edges.remove(&edge);
                self.merge(edge, out);
            }
        }
        let (number, ..) = stretch;
        let Some(count) = self.apart.get_mut(&number) else { return };
        *count -= 1;
        if *count == 0 {
            self.apart.remove(&number);
            self.end(number, out);
        }
    }

    /// The protocol is one of all others again: no grant has an edge in it any more, and every row
    /// answers for its one interval as for class 0.
    fn end(&mut self, number: u8, out: &mut Output) {
        for pc in self.intervals.remove(&number).into_iter().flat_map(BTreeMap::into_values) {
            self.forget(pc, out);
            out.take(TableId::Port, port_key(number, 0, u16::MAX));
            self.ids.free(pc);
        }
    }

    /// First port, last port and class of the interval that `port` is in.
    fn interval(&self, number: u8, port: u16) -> (u16, u16, PortClassId) {
        let intervals = &self.intervals[&number];
        let (&first, &pc) =
            intervals.range(..=port).next_back().expect("the table covers every port");
        let next = intervals.range((Bound::Excluded(port), Bound::Unbounded)).next();
        (first, next.map_or(u16::MAX, |(n, _)| n - 1), pc)
    }

    /// The lower half keeps its id and all its verdicts, so only the upper one is new: every row
    /// with a verdict for the whole gets one for that.
    fn split(&mut self, (number, at): Edge, out: &mut Output) -> Result<(), Overflow> {
        let at = at as u16;
        let (first, last, left) = self.interval(number, at);
        let right = self.ids.take(Some(meaning(number, at)))?;
        self.intervals.entry(number).or_default().insert(at, right);
        self.repeat(left, right, out);
        out.take(TableId::Port, port_key(number, first, last));
        out.put(TableId::Port, port_key(number, first, at - 1), set_port_class(left));
        out.put(TableId::Port, port_key(number, at, last), set_port_class(right));
        Ok(())
    }

    /// Gives every row the entries for a new class that it has for another one.
    fn repeat(&mut self, of: PortClassId, new: PortClassId, out: &mut Output) {
        for cell in Cell::ALL {
            let rows = self.rows[cell as usize].get(&of).cloned().unwrap_or_default();
            for &row in &rows {
                let entry = out.program().get(cell.table(), &cell.key(row, of));
                let entry = entry.expect("a row in the index has an entry").clone();
                out.put(cell.table(), cell.key(row, new), entry);
            }
            if !rows.is_empty() {
                self.rows[cell as usize].insert(new, rows);
            }
        }
    }

    /// Takes every entry for a class away.
    fn forget(&mut self, pc: PortClassId, out: &mut Output) {
        for cell in Cell::ALL {
            for row in self.rows[cell as usize].remove(&pc).unwrap_or_default() {
                out.take(cell.table(), cell.key(row, pc));
            }
        }
    }

    /// The lower half's class is that of both from now on: no grant has an edge here any more, so
    /// every row answers alike on both sides.
    fn merge(&mut self, (number, at): Edge, out: &mut Output) {
        let at = at as u16;
        let (_, last, right) = self.interval(number, at);
        let (first, _, left) = self.interval(number, at - 1);
        self.intervals.entry(number).or_default().remove(&at);
        self.forget(right, out);
        out.take(TableId::Port, port_key(number, first, at - 1));
        out.take(TableId::Port, port_key(number, at, last));
        out.put(TableId::Port, port_key(number, first, last), set_port_class(left));
        self.ids.free(right);
    }

    /// Marks a port class in a row.
    pub(crate) fn mark(
        &mut self,
        cell: Cell,
        (row, pc): (RowId, PortClassId),
        origins: Origins,
        out: &mut Output,
    ) {
        self.rows[cell as usize].entry(pc).or_default().insert(row);
        out.put(cell.table(), cell.key(row, pc), cell.entry().with(origins));
    }

    /// Takes the mark away, where there is one.
    pub(crate) fn clear(&mut self, cell: Cell, (row, pc): (RowId, PortClassId), out: &mut Output) {
        if self.rows[cell as usize].get_mut(&pc).is_some_and(|rows| rows.remove(&row)) {
            out.take(cell.table(), cell.key(row, pc));
        }
    }

    pub(crate) fn end_quarantine(&mut self) {
        self.ids.end_quarantine();
    }

    /// Uses none of the installed program's ids.
    pub(crate) fn avoid(&mut self, installed: &Program) {
        for key in installed.table(TableId::Verdict).entries.keys() {
            self.ids.reserve(VerdictKey::of(key).port_class);
        }
        for key in installed.table(TableId::Tried).entries.keys() {
            self.ids.reserve(TriedKey::of(key).port_class);
        }
        for entry in installed.table(TableId::Port).entries.values() {
            self.ids.reserve(SetPortClass::of(entry).port_class);
        }
    }

    /// Keeps its ids for the intervals that begin where they do there.
    pub(crate) fn seed(&mut self, installed: &Program) {
        for (key, entry) in &installed.table(TableId::Port).entries {
            let PortKey { protocol, port } = PortKey::of(key);
            let meaning = meaning(protocol, port.low as u16);
            self.ids.seed(meaning, SetPortClass::of(entry).port_class);
        }
    }

    pub(crate) fn forget_installed(&mut self) {
        self.ids.forget_seed();
    }
}
