//! Entries for what sets grant: deny, permit, or a row of port classes.
//!
//! The owner of the tables `base` and `row`, and of what only rows ask for: the port classes that
//! they permit, and the count of what each namespace takes. A row belongs to one set, so that it
//! goes with the set and its entries name exactly the rules that are behind them; within a set,
//! classes that are granted the same by the same rules share it.
//!
//! An entry for a set and a class never changes, because neither of the two does: it is made when
//! the later one comes and goes when the first one goes.
//!
//! Not here: what is granted ([`crate::grants`], [`crate::order`]), and which pairs of set and
//! class there are (the compiler).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use netpolc_policy::Protocol;
use netpolc_table::{
    ActionId, Class, Entry, Origin, PortClassId, Program, RowId, SetId, TableId,
    schema::{self, Answer, Family, VerdictKey, base_key, row_key, set_row},
};

use crate::{
    cells::{self, Cells},
    grants::{self, Conflict, Granted, Outcome, Place, RowKey},
    ids::Ids,
    index::AtomId,
    installed::InstalledRows,
    interval::{Edge, merged},
    membership::Atoms,
    order,
    output::Output,
    overflow::{Numbered, Overflow},
    ports::Ports,
    set::Set,
};

/// What a set says about addresses of a family that are members of these atoms: for no members,
/// what it says about those that no peer of it names.
fn outcome(set: &Set, family: Family, members: &[AtomId], atoms: &Atoms) -> Outcome {
    if set.key.is_ordered() {
        order::outcome(set, family, members, atoms)
    } else {
        grants::sum(set, family, members, atoms)
    }
}

#[derive(Debug)]
struct Row {
    set: SetId,
    key: RowKey,
    /// Entries that lead to it.
    users: usize,
    /// What it counts for ([`cells`]).
    cells: u64,
}

/// What has been made of a set.
#[derive(Debug)]
struct SetRows {
    namespace: Arc<str>,
    /// Of its own rules, see [`cells::edges`].
    edges: Vec<Edge>,
    /// By family: what it says of addresses that no peer of it names.
    base: [Outcome; 2],
    rows: HashMap<RowKey, RowId>,
    /// Classes with an entry.
    classes: BTreeSet<Class>,
    /// Where rules of one priority answer differently; None: in the base.
    conflicts: BTreeMap<Option<Class>, Conflict>,
}

#[derive(Debug)]
pub(crate) struct Rows {
    ids: Ids<RowId>,
    rows: HashMap<RowId, Row>,
    sets: HashMap<SetId, SetRows>,
    /// Sets with an entry for a class.
    by_class: HashMap<Class, BTreeSet<SetId>>,
    ports: Ports,
    cells: Cells,
    installed: InstalledRows,
}

/// A live set whose base is there.
const OPENED: &str = "a set is opened before it has rows";

impl Rows {
    pub(crate) fn new() -> Self {
        Self {
            ids: Ids::new(Numbered::Rows),
            rows: HashMap::new(),
            sets: HashMap::new(),
            by_class: HashMap::new(),
            ports: Ports::new(),
            cells: Cells::default(),
            installed: InstalledRows::default(),
        }
    }

    /// Gives out no ids of rows and of port classes from these on.
    pub(crate) fn limit(&mut self, rows: u32, port_classes: u32) {
        self.ids.limit(rows);
        self.ports.limit(port_classes);
    }

    /// Each namespace may take so many verdicts; see [`Cells`].
    pub(crate) fn bound(&mut self, cells: u64) {
        self.cells.limit(cells);
    }

    /// The namespaces whose rows take more verdicts than they may.
    pub(crate) fn take_excess(&mut self) -> BTreeMap<Arc<str>, u64> {
        self.cells.take_excess()
    }

    /// Before anything else: the tables always cover every port.
    pub(crate) fn cover_ports(&mut self, out: &mut Output) -> Result<(), Overflow> {
        self.ports.cover(out)
    }

    /// Writes what a new set says of addresses that no peer of it names.
    pub(crate) fn open(
        &mut self,
        set: &Set,
        atoms: &Atoms,
        out: &mut Output,
    ) -> Result<(), Overflow> {
        let rows = SetRows {
            namespace: set.namespace.clone(),
            edges: cells::edges(&set.rules),
            base: Default::default(),
            rows: HashMap::new(),
            classes: BTreeSet::new(),
            conflicts: BTreeMap::new(),
        };
        self.sets.insert(set.id, rows);
        for family in Family::BOTH {
            let mut outcome = outcome(set, family, &[], atoms);
            if let Some(conflict) = &outcome.conflict {
                self.opened(set.id).conflicts.insert(None, conflict.clone());
            }
            self.opened(set.id).base[family as usize] = outcome.clone();
            outcome.origins.extend(set.closing());
            let entry = self.entry(set, Place::Base(family), outcome, out)?;
            out.put(TableId::Base, base_key(set.id, family), entry);
        }
        Ok(())
    }

    /// Writes what a set says of a class, once for each pair, where that is not what it says of
    /// addresses that no peer names: those need no entry, and most classes are such to most sets.
    pub(crate) fn put(
        &mut self,
        set: &Set,
        (class, members): (Class, &[AtomId]),
        atoms: &Atoms,
        out: &mut Output,
    ) -> Result<(), Overflow> {
        let outcome = outcome(set, class.family(), members, atoms);
        let base = &self.opened(set.id).base[class.family() as usize];
        let is_said = match set.key.is_ordered() {
            // Where rules have an order, the entry names the rule that decided about the class.
            true => outcome == *base,
            // What a base of everything permits it permits at any backend too, so that ports of
            // Services need not be left out of it (S48).
            false => outcome.grant == base.grant || base.grant == Granted::Everything,
        };
        if is_said {
            return Ok(());
        }
        if let Some(conflict) = &outcome.conflict {
            self.opened(set.id).conflicts.insert(Some(class), conflict.clone());
        }
        let entry = self.entry(set, Place::Class(class), outcome, out)?;
        out.put(TableId::Row, row_key(set.id, class), entry);
        let first = self.opened(set.id).classes.insert(class);
        debug_assert!(first, "set {} and {class:?} have an entry already", set.id);
        self.by_class.entry(class).or_default().insert(set.id);
        Ok(())
    }

    /// Where rules of one priority answer differently in a set.
    pub(crate) fn conflicts(&self, set: SetId) -> impl Iterator<Item = (&Conflict, Option<Class>)> {
        let conflicts = self.sets.get(&set).into_iter().flat_map(|rows| &rows.conflicts);
        conflicts.map(|(class, conflict)| (conflict, *class))
    }

    /// A class is gone: no set says anything of it any more.
    pub(crate) fn drop_class(&mut self, class: Class, out: &mut Output) {
        for set in self.by_class.remove(&class).unwrap_or_default() {
            self.opened(set).classes.remove(&class);
            self.opened(set).conflicts.remove(&Some(class));
            self.take(set, class, out);
        }
    }

    /// A set is gone, with all its rows.
    pub(crate) fn close(&mut self, set: SetId, out: &mut Output) {
        for class in std::mem::take(&mut self.opened(set).classes) {
            self.take(set, class, out);
            if let Some(sets) = self.by_class.get_mut(&class) {
                sets.remove(&set);
                if sets.is_empty() {
                    self.by_class.remove(&class);
                }
            }
        }
        for family in Family::BOTH {
            let before = out.take(TableId::Base, base_key(set, family));
            self.release(before.as_ref(), out);
        }
        self.sets.remove(&set);
    }

    pub(crate) fn end_quarantine(&mut self) {
        self.ids.end_quarantine();
        self.ports.end_quarantine();
    }

    fn opened(&mut self, set: SetId) -> &mut SetRows {
        self.sets.get_mut(&set).expect(OPENED)
    }

    fn take(&mut self, set: SetId, class: Class, out: &mut Output) {
        let before = out.take(TableId::Row, row_key(set, class));
        self.release(before.as_ref(), out);
    }

    /// The entry for an outcome; makes the row where there is none yet, and counts its use.
    fn entry(
        &mut self,
        set: &Set,
        place: Place,
        Outcome { grant, origins, conflict: _ }: Outcome,
        out: &mut Output,
    ) -> Result<Entry, Overflow> {
        let entry = match grant {
            Granted::Nothing => schema::plain(ActionId::Deny),
            Granted::Everything => schema::plain(ActionId::Permit),
            Granted::Ports(key) => {
                let known = self.opened(set.id).rows.get(&key).copied();
                let row = match known {
                    Some(row) => Some(row),
                    None => self.make(set, place, key, out)?,
                };
                match row.and_then(|row| Some((row, self.rows.get_mut(&row)?))) {
                    Some((id, row)) => {
                        row.users += 1;
                        set_row(id)
                    }
                    // Its policies are about to be set aside, and allow nothing then.
                    None => schema::plain(ActionId::Deny),
                }
            }
        };
        Ok(entry.from(origins))
    }

    /// A row without users yet. None: the namespace has too many verdicts already.
    fn make(
        &mut self,
        set: &Set,
        place: Place,
        key: RowKey,
        out: &mut Output,
    ) -> Result<Option<RowId>, Overflow> {
        let of_set = self.sets.get(&set.id).expect(OPENED);
        let of_namespace = key.iter().filter(|grant| set.is_of_namespace(grant.source));
        let cells = cells::of(of_namespace, &of_set.edges);
        if !self.cells.take(&of_set.namespace, cells) {
            return Ok(None);
        }
        let row = self.choose_id(set.id, place, &key)?;
        // All edges come first: only then is every grant a whole number of intervals, and each
        // interval permitted once, by all the grants that cover it.
        for range in key.iter().filter_map(|grant| grant.range()) {
            self.ports.add_edges(range, out)?;
        }
        let mut permits: BTreeMap<PortClassId, Vec<Origin>> = BTreeMap::new();
        for grant in &key {
            let origin = set.source_origin(grant.source, grant.port);
            match grant.range() {
                None => permits.entry(PortClassId::default()).or_default().push(origin),
                Some(range) => {
                    for pc in self.ports.classes(range) {
                        permits.entry(pc).or_default().push(origin.clone());
                    }
                }
            }
        }
        for (pc, origins) in permits {
            self.ports.permit(row, pc, origins, out);
        }
        self.opened(set.id).rows.insert(key.clone(), row);
        self.rows.insert(row, Row { set: set.id, key, users: 0, cells });
        Ok(Some(row))
    }

    /// The id that an installed program has for a row of this set with the same ports, else any.
    fn choose_id(&mut self, set: SetId, place: Place, key: &RowKey) -> Result<RowId, Overflow> {
        let interval = |grant: &grants::Grant| {
            (grant.protocol.map_or(0, Protocol::number), grant.first, grant.last)
        };
        let content = merged(key.iter().map(interval).collect());
        let mut candidates = self.installed.candidates(set, place, &content).into_iter();
        match candidates.find(|row| self.ids.take_reserved(*row)) {
            Some(row) => Ok(row),
            None => self.ids.take(None),
        }
    }

    /// Counts one use less of the row in `entry`; the last use removes it.
    fn release(&mut self, entry: Option<&Entry>, out: &mut Output) {
        let Answer::Row(id) = Answer::of(entry) else { return };
        let Some(row) = self.rows.get_mut(&id) else { return };
        row.users -= 1;
        if row.users > 0 {
            return;
        }
        let Some(row) = self.rows.remove(&id) else { return };
        if let Some(of_set) = self.sets.get_mut(&row.set) {
            of_set.rows.remove(&row.key);
            self.cells.give_back(&of_set.namespace, row.cells);
        }
        // Verdicts go before edges do: while its edges are there, its grants are whole numbers of
        // intervals.
        for grant in &row.key {
            let classes: Vec<PortClassId> = match grant.range() {
                None => vec![PortClassId::default()],
                Some(range) => self.ports.classes(range).collect(),
            };
            classes.into_iter().for_each(|pc| self.ports.revoke(id, pc, out));
        }
        for range in row.key.iter().filter_map(|grant| grant.range()) {
            self.ports.drop_edges(range, out);
        }
        self.ids.free(id);
    }
}

/// Ids of an installed program.
impl Rows {
    /// Uses none of its ids of rows and port classes.
    pub(crate) fn avoid(&mut self, installed: &Program) {
        for key in installed.table(TableId::Verdict).entries.keys() {
            self.ids.reserve(VerdictKey::of(key).row);
        }
        self.ports.avoid(installed);
    }

    /// Keeps them for what they mean there.
    pub(crate) fn seed(&mut self, installed: &Program) {
        self.ports.seed(installed);
        self.installed = InstalledRows::of(installed);
    }

    pub(crate) fn forget_installed(&mut self) {
        self.ids.forget_seed();
        self.ports.forget_installed();
        self.installed = InstalledRows::default();
    }
}

/// Who takes how much.
impl Rows {
    /// Rows of each namespace.
    pub(crate) fn usage(&self) -> BTreeMap<Arc<str>, u64> {
        let mut usage = BTreeMap::new();
        for set in self.sets.values() {
            *usage.entry(set.namespace.clone()).or_default() += set.rows.len() as u64;
        }
        usage
    }

    /// Distinct edges of port ranges in the rows of each namespace.
    pub(crate) fn edge_usage(&self) -> BTreeMap<Arc<str>, u64> {
        let mut edges: BTreeMap<Arc<str>, HashSet<Edge>> = BTreeMap::new();
        for set in self.sets.values() {
            let grants = set.rows.keys().flatten();
            let here = edges.entry(set.namespace.clone()).or_default();
            here.extend(grants.flat_map(|grant| grant.edges()));
        }
        edges.into_iter().map(|(namespace, edges)| (namespace, edges.len() as u64)).collect()
    }
}
