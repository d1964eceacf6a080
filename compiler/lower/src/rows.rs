//! What a set grants a class: deny, permit, or a row of port classes.

use std::collections::{BTreeMap, BTreeSet};

use netpolc_policy::{Direction, Protocol};
use netpolc_table::{
    ActionId, Class, Entry, Origin, PortClassId, RowId, SetId, TableId,
    schema::{self, Answer, Family, base_key, row_key, set_row, verdict_key},
};

use crate::{
    Overflow,
    atoms::{Atom, AtomId},
    cells,
    compiler::Compiler,
    ports::{self, Edge},
    seed::merged,
    sets::{Ports, Set, What, Who, without},
};

/// One interval of one protocol that a rule grants; `None` is every protocol without ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Grant {
    protocol: Option<Protocol>,
    first: u16,
    last: u16,
    /// Index into the set's sources.
    source: u32,
    /// Index of the port in the API object.
    port: Option<u32>,
}

impl Grant {
    /// The ports at which it begins and has just ended, where that is within a protocol's ports.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Edge> {
        self.range().into_iter().flat_map(ports::edges)
    }

    /// None: it is about what has no ports.
    pub(crate) fn range(&self) -> Option<(Protocol, u16, u16)> {
        Some((self.protocol?, self.first, self.last))
    }
}

/// Sorted grants, each once. Rows with the same ports by other rules differ: an entry's origins are exact.
pub(crate) type RowKey = Vec<Grant>;

#[derive(Debug)]
pub(crate) struct Row {
    set: SetId,
    key: RowKey,
    users: usize,
    /// What it counts for ([`cells`]).
    cells: u64,
}

/// Where a set uses a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Base(Family),
    Class(Class),
}

/// What a set says about a class.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) grant: Granted,
    pub(crate) origins: Vec<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    Nothing,
    Everything,
    Ports(RowKey),
}

/// A grant without these ranges.
fn remaining(grant: Grant, ports: &BTreeSet<(Protocol, u16, u16)>) -> Vec<Grant> {
    let Some(protocol) = grant.protocol else { return vec![grant] };
    let cut = ports.iter().filter(|(p, ..)| *p == protocol).map(|(_, first, last)| (*first, *last));
    without((grant.first, grant.last), cut).map(|(first, last)| Grant { first, last, ..grant }).collect()
}

impl Compiler {
    /// Puts together what all matching rules of a set grant the members of these atoms.
    pub(crate) fn outcome(&self, set: &Set, family: Family, members: &[AtomId]) -> Outcome {
        let mut everything = false;
        let service_ports = self.service_ports(set, members);
        let mut grants = RowKey::new();
        let mut origins = Vec::new();
        // Of those, the rules that allow every port of every protocol.
        let mut unlimited = Vec::new();
        let base = set.base.iter().filter(|r| match set.rules[**r].who {
            Who::Any => true,
            Who::Family(f) => f == family,
            Who::Atom(_) => false,
        });
        let by_atom = members.iter().filter_map(|atom| set.by_atom.get(atom)).flatten();
        for &index in base.chain(by_atom) {
            let rule = &set.rules[index];
            origins.push(set.origin(rule));
            let Ports::Listed(ports) = &*rule.ports else {
                everything = true;
                unlimited.push(set.origin(rule));
                if !service_ports.is_empty() {
                    let mut grant = |protocol, first, last| {
                        grants.push(Grant { protocol, first, last, source: rule.source, port: None });
                    };
                    grant(None, 0, 0);
                    Protocol::ALL.into_iter().for_each(|protocol| grant(Some(protocol), 0, u16::MAX));
                }
                continue;
            };
            for (port, what) in ports {
                let mut grant = |protocol, first, last| {
                    grants.push(Grant { protocol, first, last, source: rule.source, port: *port });
                };
                match what {
                    What::Range(protocol, first, last) => grant(Some(*protocol), *first, *last),
                    What::Portless => grant(None, 0, 0),
                    What::Named(protocol, name) => {
                        for atom in members {
                            match &self.atoms.slot(*atom).atom {
                                Atom::Port { protocol: p, name: n, number } if p == protocol && n == name => {
                                    grant(Some(*protocol), *number, *number);
                                }
                                _ => {}
                            }
                        }
                    }
                }
            }
        }
        if !service_ports.is_empty() {
            everything = false;
            grants = grants.iter().flat_map(|g| remaining(*g, &service_ports)).collect();
        }
        if set.key.direction == Direction::Egress {
            // A row's bit for a tunnel's port says that a rule names it (S45).
            let tunnels = self.wire.ports();
            let cut = |g: &Grant| if g.port.is_none() { remaining(*g, &tunnels) } else { vec![*g] };
            grants = grants.iter().flat_map(cut).collect();
        }
        grants.sort();
        grants.dedup();
        match (everything, grants.is_empty()) {
            // One entry answers for all ports, so it names only rules that allow every one of them.
            (true, _) => Outcome { grant: Granted::Everything, origins: unlimited },
            (false, true) => Outcome { grant: Granted::Nothing, origins },
            (false, false) => Outcome { grant: Granted::Ports(grants), origins },
        }
    }

    /// The ports of Services among the members of a class, as far as they are that for the pods of this set (S48).
    fn service_ports(&self, set: &Set, members: &[AtomId]) -> BTreeSet<(Protocol, u16, u16)> {
        if set.key.direction == Direction::Ingress {
            return BTreeSet::new();
        }
        let lists = members.iter().filter_map(|atom| match &self.atoms.slot(*atom).atom {
            Atom::Service { node, ports } if node.is_none() || *node == set.key.node => Some(ports),
            _ => None,
        });
        lists.flatten().copied().collect()
    }

    /// Writes what `set` says of addresses that no peer of it names.
    pub(crate) fn put_base(&mut self, set: SetId, family: Family) -> Result<(), Overflow> {
        let this = &self.sets.sets[&set];
        let mut outcome = self.outcome(this, family, &[]);
        outcome.origins.extend(this.isolating.iter().map(|p| Origin::Isolates { policy: p.clone() }));
        let entry = self.entry_of(set, Place::Base(family), &outcome)?;
        self.sets.get_mut(set).base_grants[family as usize] = outcome.grant;
        self.put(TableId::Base, base_key(set, family), entry);
        Ok(())
    }

    /// Writes, changes or removes the row entry of a set for a class.
    pub(crate) fn put_row(&mut self, set: SetId, class: Class) -> Result<(), Overflow> {
        let this = &self.sets.sets[&set];
        let outcome = self.outcome(this, class.family(), &self.classes.get(class).members);
        let base = &this.base_grants[class.family() as usize];
        if outcome.grant == *base || *base == Granted::Everything {
            self.take_row(set, class);
            return Ok(());
        }
        let entry = self.entry_of(set, Place::Class(class), &outcome)?;
        let key = row_key(set, class);
        let before = self.program.get(TableId::Row, &key).cloned();
        self.put(TableId::Row, key, entry);
        self.release_row(before.as_ref());
        self.sets.get_mut(set).entries.insert(class);
        self.classes.get_mut(class).sets.insert(set);
        Ok(())
    }

    /// Removes the row entry of a set for a class, where there is one. The class may be gone already.
    pub(crate) fn take_row(&mut self, set: SetId, class: Class) {
        if !self.sets.get_mut(set).entries.remove(&class) {
            return;
        }
        let before = self.take(TableId::Row, row_key(set, class));
        self.release_row(before.as_ref());
    }

    /// The entry for an outcome; makes the row where there is none yet, and counts its use.
    fn entry_of(&mut self, set: SetId, place: Place, outcome: &Outcome) -> Result<Entry, Overflow> {
        let entry = match &outcome.grant {
            Granted::Nothing => schema::plain(ActionId::Deny),
            Granted::Everything => schema::plain(ActionId::Permit),
            Granted::Ports(key) => {
                let known = self.sets.get_mut(set).rows.get(key).copied();
                let row = match known {
                    Some(row) => row,
                    None => match self.make_row(set, place, key)? {
                        Some(row) => row,
                        // Its policies are about to be set aside, and allow nothing then.
                        None => return Ok(schema::plain(ActionId::Deny).from(outcome.origins.iter().cloned())),
                    },
                };
                self.sets.rows.get_mut(&row).expect("a live row").users += 1;
                set_row(row)
            }
        };
        Ok(entry.from(outcome.origins.iter().cloned()))
    }

    /// None: the namespace has too many verdicts already.
    fn make_row(&mut self, set: SetId, place: Place, key: &RowKey) -> Result<Option<RowId>, Overflow> {
        let this = &self.sets.sets[&set];
        let cells = cells::of(key, &this.edges);
        if !self.cells.take(&this.namespace, cells) {
            return Ok(None);
        }
        let grant = |g: &Grant| (g.protocol.map_or(0, Protocol::number), g.first, g.last);
        let content = merged(key.iter().map(grant).collect());
        let candidates = self.sets.installed_rows.candidates(set, place, &content);
        let row = match candidates.into_iter().find(|row| self.sets.row_ids.take_reserved(*row)) {
            Some(row) => row,
            None => self.sets.row_ids.take(None)?,
        };
        for grant in key {
            if let Some(protocol) = grant.protocol {
                self.add_edges(protocol, grant.first, grant.last)?;
            }
        }
        let mut permits: BTreeMap<PortClassId, Vec<Origin>> = BTreeMap::new();
        let this = &self.sets.sets[&set];
        for grant in key {
            let origin = this.source_origin(grant.source, grant.port);
            match grant.protocol {
                None => permits.entry(PortClassId::default()).or_default().push(origin),
                Some(protocol) => {
                    for pc in self.ports.classes(protocol, grant.first, grant.last) {
                        permits.entry(pc).or_default().push(origin.clone());
                    }
                }
            }
        }
        for (pc, origins) in permits {
            self.permit(row, pc, origins);
        }
        self.sets.get_mut(set).rows.insert(key.clone(), row);
        self.sets.rows.insert(row, Row { set, key: key.clone(), users: 0, cells });
        Ok(Some(row))
    }

    /// Counts one use less of the row in `entry`; the last use removes it.
    pub(crate) fn release_row(&mut self, entry: Option<&Entry>) {
        let Answer::Row(id) = Answer::of(entry) else { return };
        let row = self.sets.rows.get_mut(&id).expect("a live row");
        row.users -= 1;
        if row.users > 0 {
            return;
        }
        let row = self.sets.rows.remove(&id).expect("a live row");
        if let Some(set) = self.sets.sets.get_mut(&row.set) {
            set.rows.remove(&row.key);
            self.cells.give_back(&set.namespace, row.cells);
        }
        let mut classes: Vec<PortClassId> = Vec::new();
        for grant in &row.key {
            match grant.protocol {
                None => classes.push(PortClassId::default()),
                Some(protocol) => classes.extend(self.ports.classes(protocol, grant.first, grant.last)),
            }
        }
        for pc in classes {
            if self.ports.rows.get_mut(&pc).is_some_and(|rows| rows.remove(&id)) {
                self.take(TableId::Verdict, verdict_key(id, pc));
            }
        }
        for grant in &row.key {
            if let Some(protocol) = grant.protocol {
                self.drop_edges(protocol, grant.first, grant.last);
            }
        }
        self.sets.row_ids.give_back(id);
    }
}
