//! CIDR atoms: which prefixes are boundaries, and which blocks cover a prefix or an address.
//!
//! All boundaries of all live blocks (cidrs and excepts) are prefixes, so they nest: what lies
//! under a boundary and under no longer one is uniform, and inherits from every cover (S21).

use std::collections::{BTreeMap, HashMap};

use ipnetwork::IpNetwork;
use netpolc_policy::Block;

use crate::{index::AtomId, prefix::Prefix};

/// Blocks that begin or end at one prefix.
#[derive(Debug, Default)]
struct Boundary {
    begins: Vec<AtomId>,
    excepted: Vec<AtomId>,
}

/// The boundaries of all live blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    boundaries: HashMap<Prefix, Boundary>,
    /// How many boundaries have each length, by family.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl Blocks {
    fn prefixes(block: &Block) -> impl Iterator<Item = (Prefix, bool)> {
        let excepts = block.except.iter().map(|e| (Prefix::of(*e), true));
        std::iter::once((Prefix::of(block.cidr), false)).chain(excepts)
    }

    /// Adds a block's boundaries and returns them, the cidr first.
    pub(super) fn insert(&mut self, atom: AtomId, block: &Block) -> Vec<Prefix> {
        self.add(atom, Self::prefixes(block));
        Self::prefixes(block).map(|(p, _)| p).collect()
    }

    /// The same for the union of some networks.
    pub(super) fn insert_all(&mut self, atom: AtomId, networks: &[IpNetwork]) {
        self.add(atom, networks.iter().map(|network| (Prefix::of(*network), false)));
    }

    /// Removes what [`Blocks::insert_all`] added.
    pub(super) fn remove_all(&mut self, atom: AtomId, networks: &[IpNetwork]) {
        self.take(atom, networks.iter().map(|network| (Prefix::of(*network), false)));
    }

    fn add(&mut self, atom: AtomId, boundaries: impl Iterator<Item = (Prefix, bool)>) {
        for (prefix, excepted) in boundaries {
            let lengths = &mut self.lengths[prefix.family as usize];
            let boundary = self.boundaries.entry(prefix).or_insert_with(|| {
                *lengths.entry(prefix.length).or_default() += 1;
                Boundary::default()
            });
            if excepted { boundary.excepted.push(atom) } else { boundary.begins.push(atom) }
        }
    }

    /// Removes a block's boundaries and returns them.
    pub(super) fn remove(&mut self, atom: AtomId, block: &Block) -> Vec<Prefix> {
        self.take(atom, Self::prefixes(block));
        Self::prefixes(block).map(|(p, _)| p).collect()
    }

    fn take(&mut self, atom: AtomId, boundaries: impl Iterator<Item = (Prefix, bool)>) {
        for (prefix, _) in boundaries {
            let Some(boundary) = self.boundaries.get_mut(&prefix) else { continue };
            boundary.begins.retain(|a| *a != atom);
            boundary.excepted.retain(|a| *a != atom);
            if boundary.begins.is_empty() && boundary.excepted.is_empty() {
                self.boundaries.remove(&prefix);
                let lengths = &mut self.lengths[prefix.family as usize];
                let count = lengths.get_mut(&prefix.length).expect("counted when made");
                *count -= 1;
                if *count == 0 {
                    lengths.remove(&prefix.length);
                }
            }
        }
    }

    pub(super) fn is_boundary(&self, prefix: Prefix) -> bool {
        self.boundaries.contains_key(&prefix)
    }

    /// Adds the blocks that contain all of `prefix` to `atoms`: those that begin at one of its
    /// covers, without those that have an except there.
    pub(super) fn cover(&self, prefix: Prefix, atoms: &mut Vec<AtomId>) {
        let from = atoms.len();
        let mut excepted: Vec<AtomId> = Vec::new();
        for &length in
            self.lengths[prefix.family as usize].keys().take_while(|l| **l <= prefix.length)
        {
            if let Some(boundary) = self.boundaries.get(&prefix.shortened(length)) {
                atoms.extend(&boundary.begins);
                excepted.extend(&boundary.excepted);
            }
        }
        if !excepted.is_empty() {
            let mut kept = from;
            for i in from..atoms.len() {
                if !excepted.contains(&atoms[i]) {
                    atoms[kept] = atoms[i];
                    kept += 1;
                }
            }
            atoms.truncate(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str, except: &[&str]) -> Block {
        Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|e| e.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn s18_s21_s22_covers_and_excepts_nest() {
        let mut blocks = Blocks::default();
        blocks.insert(AtomId::new(1), &block("10.0.0.0/8", &["10.1.0.0/16"]));
        blocks.insert(AtomId::new(2), &block("10.1.2.0/24", &[]));
        blocks.insert(AtomId::new(3), &block("10.1.0.0/16", &["10.1.2.0/25"]));
        let cover = |address: &str| {
            let mut atoms = vec![];
            blocks.cover(Prefix::address(address.parse().unwrap()), &mut atoms);
            atoms.sort_unstable();
            atoms.into_iter().map(AtomId::get).collect::<Vec<_>>()
        };
        assert_eq!(cover("10.9.9.9"), [1]);
        assert_eq!(cover("10.1.9.9"), [3]);
        assert_eq!(cover("10.1.2.9"), [2]);
        assert_eq!(cover("10.1.2.200"), [2, 3]);
        assert!(cover("11.0.0.0").is_empty());
        assert!(cover("::ffff:10.9.9.9").is_empty(), "S23: IPv4-mapped is IPv6");
    }

    #[test]
    fn removing_a_block_leaves_no_boundary() {
        let mut blocks = Blocks::default();
        let b = block("2001:db8::/32", &["2001:db8:1::/48"]);
        blocks.insert(AtomId::new(7), &b);
        blocks.remove(AtomId::new(7), &b);
        assert!(blocks.boundaries.is_empty() && blocks.lengths.iter().all(|l| l.is_empty()));
    }
}
