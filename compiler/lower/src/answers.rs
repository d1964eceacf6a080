//! What sets have said in the update under way, by what they see of a class.
//!
//! A class is a combination of all atoms that anybody names, so very many classes look alike to any
//! one set: it sees only those members that its own rules can tell apart. Each combination that a
//! set sees is worked out once in an update, however many classes show it. Within an update no atom
//! changes its meaning, and no id of a set is used twice; so what is kept here holds until its end,
//! and no longer.
//!
//! Not here: what a set says ([`crate::grants`], [`crate::order`]), and what becomes of it
//! ([`crate::rows`]).

use netpolc_table::{Entry, SetId, schema::Family};

use crate::{
    grants::Conflict,
    index::{AtomId, IdMap},
};

/// What a set says of addresses.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// None: what it says of addresses that no peer of it names.
    pub(crate) entry: Option<Entry>,
    /// Rules of one priority that answer differently.
    pub(crate) conflict: Option<Conflict>,
}

/// What a set says by the members that it sees, in order.
type BySeen = IdMap<Box<[AtomId]>, Said>;

/// By set and family, and then by what the set sees.
#[derive(Debug, Default)]
pub(crate) struct Answers(IdMap<(SetId, Family), BySeen>);

impl Answers {
    /// What the set said of addresses of which it saw these members.
    pub(crate) fn find(&self, set: SetId, family: Family, seen: &[AtomId]) -> Option<&Said> {
        self.0.get(&(set, family))?.get(seen)
    }

    /// What it says of them, from now on.
    pub(crate) fn keep(&mut self, set: SetId, family: Family, seen: &[AtomId], said: Said) {
        self.0.entry((set, family)).or_default().insert(seen.into(), said);
    }

    /// The update is over.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}
