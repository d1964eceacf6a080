//! Small dense ids, as tables hold them.
//!
//! A freed id is in quarantine until the next update. Until then the target may still hold entries
//! that give it its old meaning, and packets are under way that have read it in one table and look
//! for it in the next; so what it named and what it will name must never be in one update. The next
//! update begins only after the target has finished the last one, packets included.
//!
//! Ids of an installed program are kept for the content that they have there, by fingerprint.

use std::collections::{BTreeSet, HashMap};

use netpolc_table::Id;

use crate::overflow::{Numbered, Overflow};

/// What was counted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acquired<I> {
    /// It was there already.
    Known(I),
    /// It has been made, and whoever asked completes it.
    New(I),
}

/// Ids of one kind from 1, below 65535 (which is left to targets) or what a target can hold.
#[derive(Debug)]
pub(crate) struct Ids<I> {
    what: Numbered,
    limit: u16,
    next: u16,
    free: BTreeSet<I>,
    quarantine: Vec<I>,
    /// Ids that an installed program uses, by fingerprint.
    seeded: HashMap<u64, I>,
    /// Seeded ids that are not in use here (yet).
    reserved: BTreeSet<I>,
    /// Ids in use that the counter has not reached: they came from a seed.
    ahead: BTreeSet<I>,
}

impl<I: Id> Ids<I> {
    pub(crate) fn new(what: Numbered) -> Self {
        Self {
            what,
            limit: u16::MAX,
            next: 1,
            free: BTreeSet::new(),
            quarantine: Vec::new(),
            seeded: HashMap::new(),
            reserved: BTreeSet::new(),
            ahead: BTreeSet::new(),
        }
    }

    /// Gives out none from `limit` on.
    pub(crate) fn limit(&mut self, limit: u32) {
        self.limit = u16::try_from(limit).unwrap_or(u16::MAX);
    }

    /// Keeps `id` for the content with this fingerprint.
    pub(crate) fn seed(&mut self, fingerprint: u64, id: I) {
        self.seeded.insert(fingerprint, id);
        self.reserve(id);
    }

    /// Keeps `id` out of use until [`Ids::forget_seed`].
    pub(crate) fn reserve(&mut self, id: I) {
        // 0 is nobody's: no class, no set, no row.
        if id != I::default() {
            self.reserved.insert(id);
        }
    }

    /// The installed program is replaced: what it used and this one does not is free.
    pub(crate) fn forget_seed(&mut self) {
        self.seeded.clear();
        let used_up_to = self.next;
        self.free.extend(
            std::mem::take(&mut self.reserved).into_iter().filter(|id| id.number() < used_up_to),
        );
    }

    /// Takes an id that a seed keeps, where nobody took it yet.
    pub(crate) fn take_reserved(&mut self, id: I) -> bool {
        let kept = self.reserved.remove(&id);
        if kept && id.number() >= self.next {
            self.ahead.insert(id);
        }
        kept
    }

    /// An id for the content with this fingerprint: the seeded one, else the lowest free one.
    pub(crate) fn take(&mut self, fingerprint: Option<u64>) -> Result<I, Overflow> {
        let seeded = fingerprint.and_then(|f| self.seeded.get(&f).copied());
        if let Some(id) = seeded.filter(|id| self.take_reserved(*id)) {
            return Ok(id);
        }
        if let Some(id) = self.free.pop_first() {
            return Ok(id);
        }
        loop {
            if self.next >= self.limit {
                return Err(Overflow { what: self.what, capacity: u32::from(self.limit) - 1 });
            }
            let id = I::numbered(self.next);
            self.next += 1;
            // Ids that a seed gave out or keeps lie anywhere; the counter passes them by.
            if !self.ahead.remove(&id) && !self.reserved.contains(&id) {
                return Ok(id);
            }
        }
    }

    /// Puts an id in quarantine until [`Ids::end_quarantine`].
    pub(crate) fn free(&mut self, id: I) {
        self.quarantine.push(id);
    }

    /// A new update begins: the target has finished the last one.
    pub(crate) fn end_quarantine(&mut self) {
        for id in self.quarantine.drain(..) {
            if id.number() < self.next {
                self.free.insert(id);
            } else {
                // The counter will come to it; to have it in both would give it out twice.
                self.ahead.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netpolc_table::RowId;

    use super::*;

    const fn row(number: u16) -> RowId {
        RowId::new(number)
    }

    #[test]
    fn a_freed_id_is_not_used_in_the_same_update() {
        let mut ids = Ids::<RowId>::new(Numbered::Rows);
        let a = ids.take(None).unwrap();
        ids.free(a);
        assert_ne!(ids.take(None).unwrap(), a);
        ids.end_quarantine();
        assert_eq!(ids.take(None).unwrap(), a);
    }

    #[test]
    fn s59_no_id_is_given_out_beyond_what_a_target_can_hold() {
        let mut ids = Ids::new(Numbered::Rows);
        ids.limit(3);
        assert_eq!((ids.take(None), ids.take(None)), (Ok(row(1)), Ok(row(2))));
        assert_eq!(ids.take(None), Err(Overflow { what: Numbered::Rows, capacity: 2 }));
        ids.free(row(1));
        ids.end_quarantine();
        assert_eq!(ids.take(None), Ok(row(1)));
    }

    #[test]
    fn seeded_ids_keep_their_content_and_nobody_else_gets_them() {
        let mut ids = Ids::new(Numbered::Rows);
        ids.seed(77, row(2));
        ids.reserve(row(3));
        ids.reserve(row(0));
        assert_eq!(ids.take(None).unwrap(), row(1));
        assert_eq!(ids.take(None).unwrap(), row(4));
        assert_eq!(ids.take(Some(77)).unwrap(), row(2));
        ids.forget_seed();
        assert_eq!(ids.take(Some(77)).unwrap(), row(3), "and never 0");
    }

    #[test]
    fn a_seeded_id_above_the_counter_is_met_once() {
        let mut ids = Ids::new(Numbered::Rows);
        ids.seed(5, row(3));
        let high = ids.take(Some(5)).unwrap();
        assert_eq!(
            (1..=3).map(|_| ids.take(None).unwrap()).collect::<Vec<_>>(),
            [1, 2, 4].map(row),
            "3 is in use"
        );
        for id in [row(1), row(2), row(4), high] {
            ids.free(id);
        }
        ids.end_quarantine();
        let taken: Vec<RowId> = (0..4).map(|_| ids.take(None).unwrap()).collect();
        assert_eq!(taken, [1, 2, 3, 4].map(row));
    }
}
