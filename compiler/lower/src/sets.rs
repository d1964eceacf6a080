//! The live policy sets. Endpoints that the same policies select share a set (S16: and only those).
//!
//! A set never changes. Where a policy does, its endpoints choose another set with another id, so
//! an id keeps its meaning for as long as some endpoint's word names it.
//!
//! Not here: what a set consists of ([`crate::set`]), and its rows ([`crate::rows`]).

use std::collections::{BTreeSet, HashMap};

use netpolc_policy::Direction;
use netpolc_table::{
    Program, SetId, TableId,
    schema::{BaseKey, Named, RowKey, directory_key, fingerprint},
};

use crate::{
    deciding::{Deciding, SetKey},
    ids::{Acquired, Ids},
    index::{AtomId, ByAtom, IdMap},
    installed::directory,
    membership::{Atom, Atoms, Membership, PortName},
    output::Output,
    overflow::{Numbered, Overflow},
    set::Set,
    worklist::Worklist,
};

/// The live sets, and which of them each atom matters to.
#[derive(Debug)]
pub(crate) struct Sets {
    ids: Ids<SetId>,
    by_key: HashMap<SetKey, SetId>,
    /// With how many endpoints use it.
    sets: IdMap<SetId, (Set, usize)>,
    /// Sets with a rule for an atom, for a port name, and those that leave out ports of Services.
    by_atom: ByAtom<SetId>,
    by_name: HashMap<PortName, BTreeSet<SetId>>,
    egress: BTreeSet<SetId>,
}

impl Sets {
    pub(crate) fn new() -> Self {
        Self {
            ids: Ids::new(Numbered::Sets),
            by_key: HashMap::new(),
            sets: IdMap::default(),
            by_atom: ByAtom::default(),
            by_name: HashMap::new(),
            egress: BTreeSet::new(),
        }
    }

    /// A live set.
    pub(crate) fn get(&self, id: SetId) -> &Set {
        &self.sets[&id].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Set> {
        self.sets.values().map(|(set, _)| set)
    }

    /// The sets that have to look at an address because it is a member of these atoms.
    pub(crate) fn looking_at(&self, members: &[AtomId], atoms: &Atoms) -> BTreeSet<SetId> {
        let mut sets = BTreeSet::new();
        for &atom in members {
            match atoms.get(atom) {
                Atom::Port { name, .. } => {
                    sets.extend(self.by_name.get(name).into_iter().flatten());
                }
                Atom::Service { .. } => sets.extend(&self.egress),
                Atom::Pods { .. }
                | Atom::Block(_)
                | Atom::Networks(_)
                | Atom::Group(_)
                | Atom::Node(_)
                | Atom::Nodes(_)
                | Atom::PodsOn(_) => sets.extend(self.by_atom.of(atom)),
            }
        }
        sets
    }

    /// The set for these policies (those that isolate in the key's direction), counted once more.
    /// A new one has no rows yet.
    pub(crate) fn acquire(
        &mut self,
        key: SetKey,
        deciding: &Deciding,
        membership: &mut Membership,
        out: &mut Output,
        work: &mut Worklist,
    ) -> Result<Acquired<SetId>, Overflow> {
        if let Some(&id) = self.by_key.get(&key) {
            if let Some((_, users)) = self.sets.get_mut(&id) {
                *users += 1;
            }
            return Ok(Acquired::Known(id));
        }
        let meaning = key.fingerprint(deciding);
        let id = self.ids.take(Some(meaning))?;
        let set = Set::flatten(id, key.clone(), deciding, membership, work);
        set.peers().for_each(|atom| self.by_atom.add(atom, id));
        for name in set.names() {
            membership.subscribe(name, work);
            self.by_name.entry(name.clone()).or_default().insert(id);
        }
        if key.direction == Direction::Egress {
            self.egress.insert(id);
        }
        out.put(TableId::Directory, directory_key(Named::Set(id)), fingerprint(meaning));
        self.by_key.insert(key, id);
        self.sets.insert(id, (set, 1));
        Ok(Acquired::New(id))
    }

    /// Counts one endpoint less. True: it was the last one, and the set is gone with its peers; its
    /// rows are still there.
    pub(crate) fn release(
        &mut self,
        id: SetId,
        membership: &mut Membership,
        out: &mut Output,
        work: &mut Worklist,
    ) -> bool {
        let Some((_, users)) = self.sets.get_mut(&id) else { return false };
        *users -= 1;
        if *users > 0 {
            return false;
        }
        let Some((set, _)) = self.sets.remove(&id) else { return false };
        out.take(TableId::Directory, directory_key(Named::Set(id)));
        self.egress.remove(&id);
        self.by_key.remove(&set.key);
        for name in set.names() {
            membership.unsubscribe(name, work);
            if let Some(sets) = self.by_name.get_mut(name) {
                sets.remove(&id);
                if sets.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        // In order, so that indices come free in the same order in every process.
        set.peers().for_each(|atom| self.by_atom.remove(atom, id));
        let mut atoms: Vec<AtomId> = set.acquired().collect();
        atoms.sort_unstable();
        atoms.into_iter().for_each(|atom| membership.release(atom, work));
        self.ids.free(id);
        true
    }

    /// Gives out no set id from `limit` on.
    pub(crate) fn limit(&mut self, limit: u32) {
        self.ids.limit(limit);
    }

    pub(crate) fn end_quarantine(&mut self) {
        self.ids.end_quarantine();
    }

    /// Uses none of the installed program's set ids.
    pub(crate) fn avoid(&mut self, installed: &Program) {
        let keys = |table| installed.table(table).entries.keys();
        let bases = keys(TableId::Base).map(|key| BaseKey::of(key).set);
        let rows = keys(TableId::Row).map(|key| RowKey::of(key).set);
        bases.chain(rows).for_each(|id| self.ids.reserve(id));
        for (named, _) in directory(installed) {
            if let Named::Set(id) = named {
                self.ids.reserve(id);
            }
        }
    }

    /// Keeps the installed program's set ids for what they mean there.
    pub(crate) fn seed(&mut self, installed: &Program) {
        for (named, meaning) in directory(installed) {
            if let Named::Set(id) = named {
                self.ids.seed(meaning, id);
            }
        }
    }

    pub(crate) fn forget_installed(&mut self) {
        self.ids.forget_seed();
    }
}
