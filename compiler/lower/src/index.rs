//! Indices into the compiler's own lists, and the lists that they index. None of them is seen in a
//! table; the ids that are have a quarantine and a limit ([`crate::ids`]).

use std::{
    collections::{BTreeSet, HashMap},
    marker::PhantomData,
};

use netpolc_table::ids;

ids! {
    /// An atom: one distinct peer of a live set. Reused in the update after the one in which the
    /// atom went.
    pub(crate) struct AtomId(u32);

    /// Pods that no selector can tell apart.
    pub(crate) struct GroupId(u32);

    /// A policed pod.
    pub(crate) struct PodId(u32);
}

/// By an id, or by ids. Nobody outside chooses them, so their hash need not withstand anybody.
pub(crate) type IdMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A number that counts from 0.
pub(crate) trait Index: Copy {
    fn at(index: usize) -> Self;
    fn index(self) -> usize;
}

macro_rules! indices {
    ($($name:ident)*) => {$(
        impl Index for $name {
            fn at(index: usize) -> Self {
                Self::new(index as u32)
            }

            fn index(self) -> usize {
                self.get() as usize
            }
        }
    )*};
}

indices!(AtomId GroupId PodId);

/// A list with holes, which are filled first: the last that was made first.
#[derive(Debug)]
pub(crate) struct Slab<I, T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    index: PhantomData<I>,
}

impl<I, T> Default for Slab<I, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: PhantomData }
    }
}

impl<I: Index, T> Slab<I, T> {
    pub(crate) fn insert(&mut self, value: T) -> I {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(value);
        I::at(index)
    }

    pub(crate) fn get(&self, index: I) -> &T {
        self.slots[index.index()].as_ref().expect("an index of something live")
    }

    /// None: nothing has this index any more.
    pub(crate) fn find(&self, index: I) -> Option<&T> {
        self.slots.get(index.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: I) -> &mut T {
        self.slots[index.index()].as_mut().expect("an index of something live")
    }

    /// Takes a value out; its index is the next one to be given out.
    pub(crate) fn remove(&mut self, index: I) -> T {
        let value = self.slots[index.index()].take().expect("an index of something live");
        self.free.push(index.index());
        value
    }
}

/// What involves each atom: sets with a rule for it, or classes that it is in.
#[derive(Debug)]
pub(crate) struct ByAtom<T>(Vec<BTreeSet<T>>);

impl<T> Default for ByAtom<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord + Copy> ByAtom<T> {
    pub(crate) fn add(&mut self, atom: AtomId, value: T) {
        if self.0.len() <= atom.index() {
            self.0.resize_with(atom.index() + 1, BTreeSet::new);
        }
        self.0[atom.index()].insert(value);
    }

    pub(crate) fn remove(&mut self, atom: AtomId, value: T) {
        if let Some(values) = self.0.get_mut(atom.index()) {
            values.remove(&value);
        }
    }

    /// In order; nothing for an atom that nothing involves.
    pub(crate) fn of(&self, atom: AtomId) -> impl Iterator<Item = T> {
        self.0.get(atom.index()).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_filled_before_the_list_grows() {
        let mut slab = Slab::<PodId, &str>::default();
        let (a, b) = (slab.insert("a"), slab.insert("b"));
        assert_eq!(slab.remove(a), "a");
        assert_eq!(slab.insert("c"), a);
        assert_eq!((*slab.get(a), *slab.get(b)), ("c", "b"));
        assert_eq!(slab.insert("d"), PodId::new(2));
    }

    #[test]
    fn an_atom_that_nobody_added_has_nothing() {
        let mut sets = ByAtom::default();
        sets.add(AtomId::new(2), 7);
        sets.add(AtomId::new(2), 3);
        sets.remove(AtomId::new(9), 3);
        let of = |atom| sets.of(AtomId::new(atom)).collect::<Vec<i32>>();
        assert_eq!((of(0), of(2), of(9)), (vec![], vec![3, 7], vec![]));
    }
}
