//! The leaf of every address and prefix: its class and incarnation.
//!
//! Not here: interning of classes ([`crate::classes`]), and when a leaf is made anew (the
//! compiler).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use netpolc_table::{
    Class, Incarnation, Key, Origin, Program, TableId,
    schema::{self, Family, remote_key, set_remote},
};

use crate::{
    content::distinct,
    index::AtomId,
    membership::{Atom, Membership},
    nodes::Nodes,
    output::Output,
    prefix::Prefix,
    services::Services,
    worklist::LeafMarks,
};

/// What a leaf says of the addresses under its prefix and under no longer one.
pub(crate) struct Leaf {
    /// The atoms that they are members of, sorted.
    pub(crate) members: Vec<AtomId>,
    incarnation: Incarnation,
    origins: Vec<Origin>,
}

impl Leaf {
    /// None where the prefix needs no leaf of its own: nothing begins here, so its addresses are
    /// what the next shorter prefix says.
    pub(crate) fn of(
        prefix: Prefix,
        membership: &Membership,
        nodes: &Nodes,
        services: &Services,
    ) -> Option<Self> {
        let mut needed = membership.is_boundary(prefix);
        // Blocks that cover it are pushed into its leaf, since a lookup finds the longest prefix
        // alone (S21).
        let mut members = membership.blocks_over(prefix);
        let atoms = membership.atoms();
        let implied = |atom: AtomId| Origin::Implied { reason: atoms.label(atom).clone() };
        let mut origins: Vec<Origin> = members.iter().map(|atom| implied(*atom)).collect();
        let mut incarnation = Incarnation::default();
        if prefix.is_address() {
            let address = prefix.to_ip();
            for node in nodes.at(address) {
                let own = atoms.find(&Atom::Node(node.clone()));
                let found = own.into_iter().chain(atoms.of_nodes(nodes.labels(node)));
                for atom in found {
                    members.push(atom);
                    origins.push(Origin::Node { node: node.clone() });
                    needed = true;
                }
            }
            for atom in services.atoms_of(address, nodes.at(address)) {
                members.push(atom);
                origins.push(implied(atom));
                needed = true;
            }
            members.extend(membership.atoms_of_pods(address));
            members.extend(membership.atom_of_node(address));
            // Also pods that no peer names have leaves: the incarnation keeps who gets the address
            // next from inheriting connections (S43).
            let mut mixed = None;
            for pod in membership.owners(address) {
                mixed = Some(mixed.unwrap_or(0) ^ pod.incarnation.get());
                origins.push(Origin::Pod { pod: pod.label.clone() });
            }
            if let Some(mixed) = mixed {
                incarnation = Incarnation::new(mixed.max(1));
                needed = true;
            }
        }
        // Two nodes with one address may be members of one atom.
        members.sort_unstable();
        members.dedup();
        needed.then_some(Self { members, incarnation, origins })
    }

    /// Writes it, with the class of its members.
    pub(crate) fn put(self, prefix: Prefix, class: Class, out: &mut Output) {
        let entry = set_remote(class, self.incarnation).from(self.origins);
        out.put(TableId::remote(prefix.family), leaf_key(prefix), entry);
    }
}

/// Removes a leaf, where there is one.
pub(crate) fn take(prefix: Prefix, out: &mut Output) {
    out.take(TableId::remote(prefix.family), leaf_key(prefix));
}

/// The class of a prefix that has a leaf.
pub(crate) fn class_of(prefix: Prefix, program: &Program) -> Option<Class> {
    let entry = program.get(TableId::remote(prefix.family), &leaf_key(prefix))?;
    Some(schema::Leaf::of(prefix.family, entry).class)
}

/// The first prefix that has a class and is none of these addresses, as an example.
pub(crate) fn example(class: Class, without: &[IpAddr], program: &Program) -> Option<Prefix> {
    let family = class.family();
    let entries = program.table(TableId::remote(family)).entries.iter();
    let of_class = entries.filter(|(_, entry)| schema::Leaf::of(family, entry).class == class);
    let mut prefixes = of_class.map(|(key, _)| {
        let (value, length) = key.prefix();
        Prefix { family, bits: value.get(), length }
    });
    prefixes.find(|prefix| !without.contains(&prefix.to_ip()))
}

/// The prefixes whose leaves the marks of an update are about, in order.
pub(crate) fn touched(
    marks: LeafMarks,
    membership: &Membership,
    nodes: &Nodes,
    out: &Output,
) -> BTreeSet<Prefix> {
    let LeafMarks { mut prefixes, under, groups, nodes: of_nodes, every_node } = marks;
    // In a load every address is touched by its own object, and nothing has a leaf yet.
    if !out.is_loading() {
        let groups = distinct(groups.into_iter()).into_iter();
        let of_groups = groups.flat_map(|group| membership.group_addresses(group));
        prefixes.extend(of_groups.map(Prefix::address));
        under.into_iter().for_each(|cidr| prefixes.extend(within(out.program(), cidr)));
    }
    let of_nodes: BTreeSet<Arc<str>> =
        if every_node { nodes.names().cloned().collect() } else { of_nodes };
    let of_nodes = of_nodes.iter().flat_map(|node| nodes.addresses(node));
    prefixes.extend(of_nodes.copied().map(Prefix::address));
    prefixes
}

fn leaf_key(prefix: Prefix) -> Key {
    remote_key(prefix.to_ip(), prefix.length)
}

/// Prefixes that have a leaf and lie in this one.
fn within(program: &Program, cidr: Prefix) -> impl Iterator<Item = Prefix> {
    let family: Family = cidr.family;
    let last = Prefix { bits: cidr.last(), length: family.bits(), family };
    let entries = &program.table(TableId::remote(family)).entries;
    entries.range(leaf_key(cidr)..=leaf_key(last)).map(move |(key, _)| {
        let (value, length) = key.prefix();
        Prefix { family, bits: value.get(), length }
    })
}
