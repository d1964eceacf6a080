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
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use netpolc_table::{
    ActionId, Class, Entry, Origin, Origins, PortClassId, Program, RowId, SetId, TableId,
    schema::{
        self, Answer, Family, RowKey as RowTableKey, TriedKey, VerdictKey, base_key, row_key,
        set_row,
    },
};

use crate::{
    answers::{Answers, Said},
    cells::{self, Cells},
    grants::{Conflict, Difference, Form, Grant, Granted, Grants, Outcome, Place},
    ids::Ids,
    index::{AtomId, IdMap},
    installed::InstalledRows,
    interval::{Edge, Permitted, Stretch},
    membership::Atoms,
    output::Output,
    overflow::{Numbered, Overflow},
    ports::{Cell, Ports},
    set::Set,
    tried,
};

/// What a row says. Rows with the same ports by other rules differ: an entry's origins are exact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RowKey {
    grants: Grants,
    differs: Vec<Difference>,
}

impl RowKey {
    /// The stretches whose edges the row needs.
    fn stretches(&self) -> impl Iterator<Item = Stretch> {
        let granted = self.grants.iter().filter_map(Grant::stretch);
        granted.chain(self.differs.iter().filter_map(Difference::stretch))
    }

    /// The edges of its port ranges.
    fn edges(&self) -> impl Iterator<Item = Edge> {
        let granted = self.grants.iter().flat_map(Grant::edges);
        granted.chain(self.differs.iter().flat_map(Difference::edges))
    }
}

/// Whom an entry is about.
#[derive(Clone, Copy)]
struct Subject<'a> {
    place: Place,
    members: &'a [AtomId],
    atoms: &'a Atoms,
}

impl Subject<'_> {
    fn family(&self) -> Family {
        match self.place {
            Place::Base(family) => family,
            Place::Class(class) => class.family(),
        }
    }

    /// What the set says about it.
    fn outcome(&self, set: &Set, form: Form) -> Outcome {
        tried::outcome(set, self.family(), self.members, self.atoms, form)
    }

    fn differences(&self, set: &Set, enforced: &Granted) -> Vec<Difference> {
        tried::differences(set, enforced, (self.family(), self.members), self.atoms)
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
    /// Where rules of one priority answer differently; None: in the base.
    conflicts: BTreeMap<Option<Class>, Conflict>,
    /// Whether it has said everywhere what is only tried about.
    comparison: Comparison,
}

/// Whether the rows of a set say all that is to be said of what is only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Whole,
    /// The namespace's share did not suffice.
    Partial,
}

#[derive(Debug)]
pub(crate) struct Rows {
    ids: Ids<RowId>,
    rows: IdMap<RowId, Row>,
    sets: IdMap<SetId, SetRows>,
    /// Sets with an entry for a class.
    by_class: IdMap<Class, Vec<SetId>>,
    ports: Ports,
    cells: Cells,
    /// The same of what is only tried.
    tried: Cells,
    installed: InstalledRows,
    answers: Answers,
}

fn tried_cells(differs: &[Difference], edges: &[Edge]) -> u64 {
    cells::of(differs.iter().map(Difference::range), edges)
}

/// The classes that a set has an entry for, in order.
fn classes_of(set: SetId, program: &Program) -> Vec<Class> {
    let key = |family, id| row_key(set, Class::new(family, id));
    let all = key(Family::V4, 0)..=key(Family::V6, u16::MAX);
    let entries = program.table(TableId::Row).entries.range(all);
    entries.map(|(key, _)| RowTableKey::of(key).class).collect()
}

/// A live set whose base is there.
const OPENED: &str = "a set is opened before it has rows";

impl Rows {
    pub(crate) fn new() -> Self {
        Self {
            ids: Ids::new(Numbered::Rows),
            rows: IdMap::default(),
            sets: IdMap::default(),
            by_class: IdMap::default(),
            ports: Ports::new(),
            cells: Cells::default(),
            tried: Cells::default(),
            installed: InstalledRows::default(),
            answers: Answers::default(),
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
        self.tried.limit(cells / 2);
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
            edges: cells::edges(set.all_rules()),
            base: Default::default(),
            rows: HashMap::new(),
            conflicts: BTreeMap::new(),
            comparison: Comparison::Whole,
        };
        self.sets.insert(set.id, rows);
        for family in Family::BOTH {
            let subject = Subject { place: Place::Base(family), members: &[], atoms };
            let mut outcome = subject.outcome(set, Form::Short);
            outcome.differs = subject.differences(set, &outcome.grant);
            if let Some(conflict) = &outcome.conflict {
                self.opened(set.id).conflicts.insert(None, conflict.clone());
            }
            self.opened(set.id).base[family as usize] = outcome.clone();
            outcome.origins.extend(set.closing());
            let entry = self.entry(set, subject, outcome, out)?;
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
        let seen = set.sees(members, atoms);
        let said = match self.repeat(set, class.family(), &seen) {
            Some(said) => said,
            None => {
                let said =
                    self.say(set, Subject { place: Place::Class(class), members, atoms }, out)?;
                if self.is_settled(set) {
                    self.answers.keep(set.id, class.family(), &seen, said.clone());
                }
                said
            }
        };
        if let Some(conflict) = said.conflict {
            self.opened(set.id).conflicts.insert(Some(class), conflict);
        }
        let Some(entry) = said.entry else { return Ok(()) };
        let key = row_key(set.id, class);
        debug_assert!(
            out.program().get(TableId::Row, &key).is_none(),
            "set {} and {class:?} have an entry already",
            set.id
        );
        out.put(TableId::Row, key, entry);
        self.by_class.entry(class).or_default().push(set.id);
        Ok(())
    }

    /// What a set has said in this update of addresses of which it sees these members, with one use
    /// more of its row.
    fn repeat(&mut self, set: &Set, family: Family, seen: &[AtomId]) -> Option<Said> {
        let said = self.answers.find(set.id, family, seen)?;
        if let Answer::Row(id) = Answer::of(said.entry.as_ref()) {
            // Gone where the class that it was made for is: made anew then.
            self.rows.get_mut(&id)?.users += 1;
        }
        Some(said.clone())
    }

    /// Has there been room for everything that the set says? Where there is none, the next class
    /// may find some.
    fn is_settled(&self, set: &Set) -> bool {
        let of_set = self.sets.get(&set.id).expect(OPENED);
        of_set.comparison == Comparison::Whole && !self.cells.has_refused(&of_set.namespace)
    }

    /// Works out what a set says of addresses, and makes their row where there is none yet.
    fn say(
        &mut self,
        set: &Set,
        mut subject: Subject<'_>,
        out: &mut Output,
    ) -> Result<Said, Overflow> {
        let mut outcome = subject.outcome(set, Form::Short);
        let base = &self.opened(set.id).base[subject.family() as usize];
        // What a base of everything permits it permits at any backend too, so that ports of
        // Services need not be left out of it (S48).
        let by_base = !set.key.is_ordered() && base.grant == Granted::Everything;
        if by_base {
            outcome.grant = Granted::Everything;
        }
        outcome.differs = subject.differences(set, &outcome.grant);
        let is_said = match set.key.is_ordered() {
            // Where rules have an order, the entry names the rule that decided about the class.
            true => outcome == *base,
            false => outcome.grant == base.grant && outcome.differs == base.differs,
        };
        if is_said {
            return Ok(Said { entry: None, conflict: None });
        }
        if by_base {
            subject.members = &[];
        }
        let conflict = outcome.conflict.clone();
        let entry = Some(self.entry(set, subject, outcome, out)?);
        Ok(Said { entry, conflict })
    }

    /// An update is over.
    pub(crate) fn end_update(&mut self) {
        self.answers.forget();
    }

    /// Where rules of one priority answer differently in a set.
    pub(crate) fn conflicts(&self, set: SetId) -> impl Iterator<Item = (&Conflict, Option<Class>)> {
        let conflicts = self.sets.get(&set).into_iter().flat_map(|rows| &rows.conflicts);
        conflicts.map(|(class, conflict)| (conflict, *class))
    }

    /// Is some of what is only tried left out of what a set says, for want of room?
    pub(crate) fn is_partial(&self, set: SetId) -> bool {
        self.sets.get(&set).is_some_and(|rows| rows.comparison == Comparison::Partial)
    }

    /// A class is gone: no set says anything of it any more.
    pub(crate) fn drop_class(&mut self, class: Class, out: &mut Output) {
        for set in self.by_class.remove(&class).unwrap_or_default() {
            self.opened(set).conflicts.remove(&Some(class));
            self.take(set, class, out);
        }
    }

    /// A set is gone, with all its rows.
    pub(crate) fn close(&mut self, set: SetId, out: &mut Output) {
        for class in classes_of(set, out.program()) {
            self.take(set, class, out);
            if let Some(sets) = self.by_class.get_mut(&class) {
                sets.retain(|other| *other != set);
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
        subject: Subject<'_>,
        Outcome { grant, origins, conflict: _, differs }: Outcome,
        out: &mut Output,
    ) -> Result<Entry, Overflow> {
        let entry = match grant.clone() {
            Granted::Nothing if differs.is_empty() => schema::plain(ActionId::Deny),
            Granted::Everything if differs.is_empty() => schema::plain(ActionId::Permit),
            listed => {
                // Where a difference has to be said, the ports are listed.
                let listed = match listed {
                    Granted::Everything => subject.outcome(set, Form::Listed).grant,
                    other => other,
                };
                let grants = match listed {
                    Granted::Ports(grants) => grants,
                    Granted::Nothing | Granted::Everything => Vec::new(),
                };
                let key = RowKey { grants, differs };
                let known = self.opened(set.id).rows.get(&key).copied();
                if known.is_none() && !self.has_room(set, &key.differs) {
                    // What is only tried gives way.
                    self.opened(set.id).comparison = Comparison::Partial;
                    let outcome = Outcome { grant, origins, ..Outcome::default() };
                    return self.entry(set, subject, outcome, out);
                }
                let row = match known {
                    Some(row) => Some(row),
                    None => self.make(set, subject.place, key, out)?,
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

    /// Is there room for a new row with these differences? They count by themselves, so that what
    /// is only tried never takes from what is enforced.
    fn has_room(&mut self, set: &Set, differs: &[Difference]) -> bool {
        let of_set = self.sets.get(&set.id).expect(OPENED);
        self.tried.try_take(&of_set.namespace, tried_cells(differs, &of_set.edges))
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
        let of_namespace = key.grants.iter().filter(|grant| set.is_of_namespace(grant.source));
        let cells = cells::of(of_namespace.map(Grant::range), &of_set.edges);
        if !self.cells.take(&of_set.namespace, cells) {
            let tried = tried_cells(&key.differs, &of_set.edges);
            self.tried.give_back(&of_set.namespace, tried);
            return Ok(None);
        }
        let row = self.choose_id(set.id, place, &key.grants)?;
        // All edges come first: only then is every grant a whole number of intervals, and each
        // interval permitted once, by all the grants that cover it.
        for stretch in key.stretches() {
            self.ports.add_edges(stretch, out)?;
        }
        let permits = key
            .grants
            .iter()
            .map(|grant| (grant.stretch(), set.source_origin(grant.source, grant.port)));
        self.mark(Cell::Permit, row, permits, out);
        let differs = key.differs.iter().map(|difference| {
            (difference.stretch(), Origin::Tried { policy: difference.policy.clone() })
        });
        self.mark(Cell::Differs, row, differs, out);
        self.opened(set.id).rows.insert(key.clone(), row);
        self.rows.insert(row, Row { set: set.id, key, users: 0, cells });
        Ok(Some(row))
    }

    /// Marks the port classes of these stretches in a row, each once, with all its origins; none is
    /// what has no ports.
    fn mark(
        &mut self,
        cell: Cell,
        row: RowId,
        stretches: impl Iterator<Item = (Option<Stretch>, Origin)>,
        out: &mut Output,
    ) {
        let mut origins: Vec<Origin> = Vec::new();
        // By places in this list, since most classes have the same origins.
        let mut marks: BTreeMap<PortClassId, Vec<usize>> = BTreeMap::new();
        for (stretch, origin) in stretches {
            for pc in self.ports.classes(stretch) {
                marks.entry(pc).or_default().push(origins.len());
            }
            origins.push(origin);
        }
        let mut shared: BTreeMap<Vec<usize>, Origins> = BTreeMap::new();
        for (pc, places) in marks {
            let of =
                |places: &[usize]| places.iter().map(|place| origins[*place].clone()).collect();
            let origins = match shared.get(&places) {
                Some(origins) => origins.clone(),
                None => shared.entry(places.clone()).or_insert(of(&places)).clone(),
            };
            self.ports.mark(cell, (row, pc), origins, out);
        }
    }

    /// The id that an installed program has for a row of this set with the same ports, else any.
    fn choose_id(&mut self, set: SetId, place: Place, key: &Grants) -> Result<RowId, Overflow> {
        let content = Permitted::of(key.iter().map(Grant::piece));
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
            let tried = tried_cells(&row.key.differs, &of_set.edges);
            self.tried.give_back(&of_set.namespace, tried);
        }
        // Verdicts go before edges do: while its edges are there, its grants are whole numbers of
        // intervals.
        self.clear(Cell::Permit, id, row.key.grants.iter().map(Grant::stretch), out);
        self.clear(Cell::Differs, id, row.key.differs.iter().map(Difference::stretch), out);
        for stretch in row.key.stretches() {
            self.ports.drop_edges(stretch, out);
        }
        self.ids.free(id);
    }

    fn clear(
        &mut self,
        cell: Cell,
        row: RowId,
        stretches: impl Iterator<Item = Option<Stretch>>,
        out: &mut Output,
    ) {
        for stretch in stretches {
            for pc in self.ports.classes(stretch) {
                self.ports.clear(cell, (row, pc), out);
            }
        }
    }
}

/// Ids of an installed program.
impl Rows {
    /// Uses none of its ids of rows and port classes.
    pub(crate) fn avoid(&mut self, installed: &Program) {
        for key in installed.table(TableId::Verdict).entries.keys() {
            self.ids.reserve(VerdictKey::of(key).row);
        }
        for key in installed.table(TableId::Tried).entries.keys() {
            self.ids.reserve(TriedKey::of(key).row);
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
            let here = edges.entry(set.namespace.clone()).or_default();
            here.extend(set.rows.keys().flat_map(RowKey::edges));
        }
        edges.into_iter().map(|(namespace, edges)| (namespace, edges.len() as u64)).collect()
    }
}
