//! Ids: a type for each kind of number that names something, so that no two kinds can be mixed up.
//!
//! Each is as wide as the field that holds it in the tables, prints as the number alone, and turns
//! into a number or comes from one only where the code says so (`new`, `get`, `parse`). What an id
//! stands for is its type's doc; how it is printed in a table is `schema::part`'s.
//!
//! ```compile_fail,E0308
//! use netpolc_table::{PortClassId, RowId, schema::verdict_key};
//! // The row comes first.
//! verdict_key(PortClassId::new(3), RowId::new(7));
//! ```
//! ```compile_fail,E0308
//! use netpolc_table::{ClassId, Incarnation, id::V4, schema::set_remote};
//! // The class comes first.
//! set_remote(Incarnation::new(0xbeef), ClassId::<V4>::new(3));
//! ```
//! ```compile_fail,E0308
//! use netpolc_table::{EndpointId, SetId, schema::endpoint_key};
//! endpoint_key(SetId::new(1));
//! ```
//! ```compile_fail,E0308
//! use netpolc_table::{EndpointId, IfIndex, schema::{interface_key, set_endpoint}};
//! interface_key(EndpointId::new(1));
//! ```
//! ```compile_fail,E0308
//! use netpolc_table::{ClassId, id::{V4, V6}};
//! // Classes of the families are numbered apart: 3 and 3 are two classes.
//! ClassId::<V4>::new(3) == ClassId::<V6>::new(3);
//! ```
//! ```compile_fail,E0308
//! use netpolc_table::{ClassId, SetId, id::V4, schema::row_key};
//! row_key(ClassId::<V4>::new(3), SetId::new(1));
//! ```
//! ```compile_fail,E0308
//! use netpolc_table::schema::base_key;
//! // No number is an id by itself.
//! base_key(1u16, netpolc_table::schema::Family::V4);
//! ```
//!
//! The right way round each of them compiles:
//!
//! ```
//! use netpolc_table::{
//!     ClassId, EndpointId, IfIndex, Incarnation, PortClassId, RowId, SetId,
//!     id::V4,
//!     schema::{Family, base_key, endpoint_key, interface_key, row_key, set_remote, verdict_key},
//! };
//! verdict_key(RowId::new(7), PortClassId::new(3));
//! set_remote(ClassId::<V4>::new(3), Incarnation::new(0xbeef));
//! endpoint_key(EndpointId::new(1));
//! interface_key(IfIndex::new(1));
//! row_key(SetId::new(1), ClassId::<V4>::new(3));
//! base_key(SetId::new(1), Family::V4);
//! ```

use std::{fmt, hash::Hash, marker::PhantomData};

use crate::schema::Family;

/// Declares ids: the type's doc, its name and the integer inside. Also for the ids of other crates.
///
/// ```
/// netpolc_table::ids! {
///     /// Of a peer.
///     struct AtomId(u32);
///
///     /// Of pods that no selector can tell apart.
///     struct GroupId(u32);
/// }
/// fn join(group: GroupId, atom: AtomId) {}
///
/// join(GroupId::new(1), AtomId::new(2));
/// assert_eq!(AtomId::new(2).to_string(), "2");
/// ```
/// ```compile_fail,E0308
/// netpolc_table::ids! {
///     /// Of a peer.
///     struct AtomId(u32);
///
///     /// Of pods that no selector can tell apart.
///     struct GroupId(u32);
/// }
/// fn join(group: GroupId, atom: AtomId) {}
///
/// join(AtomId::new(2), GroupId::new(1));
/// ```
#[macro_export]
macro_rules! ids {
    ($($(#[$doc:meta])* $visible:vis struct $name:ident($raw:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        $visible struct $name($raw);

        impl $name {
            /// The id with this number.
            $visible const fn new(number: $raw) -> Self {
                Self(number)
            }

            /// The number inside, as tables store it.
            $visible const fn get(self) -> $raw {
                self.0
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = ::std::num::ParseIntError;

            fn from_str(number: &str) -> Result<Self, Self::Err> {
                number.parse().map(Self)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Debug::fmt(&self.0, f)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

ids! {
    /// An interface of the network namespace that the node's agent is in, as the kernel numbers
    /// them; the kernel gives 0 to none.
    pub struct IfIndex(u32);

    /// A pod of this node, as the tables know it. 0: none.
    pub struct EndpointId(u16);

    /// A policy set: what the policies that isolate an endpoint in one direction say together. 0:
    /// none.
    pub struct SetId(u16);

    /// What a set answers a class with where that depends on the port. 0: none.
    pub struct RowId(u16);

    /// Ports that no row tells apart. 0: what has no ports.
    pub struct PortClassId(u16);

    /// Tells a pod from another one that had its address. 0: not one pod's address.
    pub struct Incarnation(u16);
}

/// Ids that stand in records and reports: as their numbers.
macro_rules! recorded {
    ($($name:ident),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                serde::Deserialize::deserialize(deserializer).map(Self)
            }
        }
    )*};
}

recorded!(IfIndex, EndpointId, SetId);

/// An id that a compiler or an update gives out and takes back. 0 is never given out.
pub trait Id: Copy + Ord + Hash + Default + fmt::Debug + fmt::Display {
    /// The kind, as messages name it.
    const WHAT: &'static str;

    /// The id with this number.
    fn numbered(number: u16) -> Self;

    /// The number inside, as tables store it.
    fn number(self) -> u16;
}

macro_rules! given_out {
    ($($name:ident $what:literal),*) => {$(
        impl Id for $name {
            const WHAT: &'static str = $what;

            fn numbered(number: u16) -> Self {
                Self(number)
            }

            fn number(self) -> u16 {
                self.0
            }
        }
    )*};
}

given_out!(EndpointId "endpoint", SetId "set", RowId "row", PortClassId "port class");

/// IPv4, as a type: [`Family::V4`] where the compiler can know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V4;

/// IPv6, as a type: [`Family::V6`] where the compiler can know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V6;

/// A family as a type: [`V4`] or [`V6`].
pub trait Ip: Copy + Ord + Hash + Default + fmt::Debug {
    /// The same as a value.
    const FAMILY: Family;

    /// A class of this family as one of either.
    fn class(id: ClassId<Self>) -> Class;

    /// A class of either family, where it is of this one.
    fn own(class: Class) -> Option<ClassId<Self>>;
}

impl Ip for V4 {
    const FAMILY: Family = Family::V4;

    fn class(id: ClassId<Self>) -> Class {
        Class::V4(id)
    }

    fn own(class: Class) -> Option<ClassId<Self>> {
        match class {
            Class::V4(id) => Some(id),
            Class::V6(_) => None,
        }
    }
}

impl Ip for V6 {
    const FAMILY: Family = Family::V6;

    fn class(id: ClassId<Self>) -> Class {
        Class::V6(id)
    }

    fn own(class: Class) -> Option<ClassId<Self>> {
        match class {
            Class::V6(id) => Some(id),
            Class::V4(_) => None,
        }
    }
}

/// Addresses of one family that no set tells apart. 0: those that no peer names.
///
/// The families are numbered apart, so a number without its family says nothing. Code that is made
/// once for each family takes `ClassId<F>`; code that learns the family from a packet or a key has
/// a [`Class`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ClassId<F>(u16, PhantomData<F>);

impl<F> ClassId<F> {
    /// The id with this number.
    pub const fn new(number: u16) -> Self {
        Self(number, PhantomData)
    }

    /// The number among the classes of its family.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl<F> fmt::Debug for ClassId<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<F> fmt::Display for ClassId<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<F: Ip> Id for ClassId<F> {
    const WHAT: &'static str = "class";

    fn numbered(number: u16) -> Self {
        Self::new(number)
    }

    fn number(self) -> u16 {
        self.0
    }
}

/// A class with its family. Orders by family, then by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A class of IPv4 addresses.
    V4(ClassId<V4>),
    /// A class of IPv6 addresses.
    V6(ClassId<V6>),
}

impl Class {
    /// The class with this number in a family.
    pub const fn new(family: Family, number: u16) -> Self {
        match family {
            Family::V4 => Class::V4(ClassId::new(number)),
            Family::V6 => Class::V6(ClassId::new(number)),
        }
    }

    /// Addresses of a family that no peer names.
    pub const fn unnamed(family: Family) -> Self {
        Class::new(family, 0)
    }

    /// The family of the addresses in the class.
    pub const fn family(self) -> Family {
        match self {
            Class::V4(_) => Family::V4,
            Class::V6(_) => Family::V6,
        }
    }

    /// The number among the classes of its family.
    pub const fn get(self) -> u16 {
        match self {
            Class::V4(id) => id.get(),
            Class::V6(id) => id.get(),
        }
    }
}

impl<F: Ip> From<ClassId<F>> for Class {
    fn from(id: ClassId<F>) -> Self {
        F::class(id)
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}
