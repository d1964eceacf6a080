//! What keys and actions are made of: each type says how wide it is in a table, how it prints, and
//! how it is written and read.
//!
//! Reading never fails, so that programs which break their tables' rules can be looked at as well
//! (see [`crate::check`]): of a number that is too wide the low bits count, and what is not there
//! is 0.

use std::net::{Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::{Family, FieldSpec, Format, MatchKind};
use crate::{
    Class, ClassId, EndpointId, IfIndex, Incarnation, Match, PortClassId, RowId, SetId, Value,
    id::{Ip, V4},
};

/// A number in a table: a key field that is matched exactly, or a parameter of an action.
pub trait Scalar: Copy {
    /// The width in bits.
    const WIDTH: u8;
    /// How it prints where the declaration does not say otherwise.
    const FORMAT: Format;

    /// The number that stands in a table for this value.
    fn value(self) -> Value;

    /// The value for which this number stands in a table.
    fn of(value: Value) -> Self;
}

/// A part of a table's key: one field or several, which mean something only together.
pub trait Part: Copy {
    /// Its fields. An empty name is that of the part.
    const FIELDS: &'static [FieldSpec];

    /// Appends its fields to a key.
    fn write(self, key: &mut SmallVec<[Match; 3]>);

    /// Reads it from the fields that begin with its own.
    fn read(fields: &[Match]) -> Self;
}

const fn exact(name: &'static str, width: u8, format: Format) -> FieldSpec {
    FieldSpec { name, width, kind: MatchKind::Exact, format }
}

fn first(fields: &[Match]) -> Value {
    fields.first().map_or(Value::default(), Match::value)
}

impl<T: Scalar> Part for T {
    const FIELDS: &'static [FieldSpec] = &[exact("", T::WIDTH, T::FORMAT)];

    fn write(self, key: &mut SmallVec<[Match; 3]>) {
        key.push(Match::Exact(self.value()));
    }

    fn read(fields: &[Match]) -> Self {
        T::of(first(fields))
    }
}

macro_rules! scalars {
    ($($name:ident $(<$family:ident>)?: $raw:ty, $format:ident;)*) => {$(
        impl$(<$family: Ip>)? Scalar for $name$(<$family>)? {
            const WIDTH: u8 = <$raw>::BITS as u8;
            const FORMAT: Format = Format::$format;

            fn value(self) -> Value {
                self.get().into()
            }

            fn of(value: Value) -> Self {
                Self::new(value.low() as $raw)
            }
        }
    )*};
}

scalars! {
    IfIndex: u32, Decimal;
    EndpointId: u16, Decimal;
    SetId: u16, Decimal;
    RowId: u16, Decimal;
    PortClassId: u16, Decimal;
    ClassId<F>: u16, Decimal;
    Incarnation: u16, Hex;
}

macro_rules! numbers {
    ($($raw:ty),*) => {$(
        impl Scalar for $raw {
            const WIDTH: u8 = <$raw>::BITS as u8;
            const FORMAT: Format = Format::Decimal;

            fn value(self) -> Value {
                self.into()
            }

            fn of(value: Value) -> Self {
                value.low() as $raw
            }
        }
    )*};
}

numbers!(u8, u16, u64);

/// 4 or 6; what is neither reads as IPv6.
impl Scalar for Family {
    const WIDTH: u8 = 8;
    const FORMAT: Format = Format::Decimal;

    fn value(self) -> Value {
        self.number().into()
    }

    fn of(value: Value) -> Self {
        if value.low() == u64::from(Family::V4.number()) { Family::V4 } else { Family::V6 }
    }
}

impl Scalar for Ipv4Addr {
    const WIDTH: u8 = 32;
    const FORMAT: Format = Format::Ipv4;

    fn value(self) -> Value {
        self.into()
    }

    fn of(value: Value) -> Self {
        Ipv4Addr::from_bits(value.low() as u32)
    }
}

impl Scalar for Ipv6Addr {
    const WIDTH: u8 = 128;
    const FORMAT: Format = Format::Ipv6;

    fn value(self) -> Value {
        self.into()
    }

    fn of(value: Value) -> Self {
        Ipv6Addr::from_bits(value.get())
    }
}

impl Scalar for super::Mac {
    const WIDTH: u8 = 48;
    const FORMAT: Format = Format::Hex;

    fn value(self) -> Value {
        let [a, b, c, d, e, f] = self;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f]).into()
    }

    fn of(value: Value) -> Self {
        let [_, _, a, b, c, d, e, f] = value.low().to_be_bytes();
        [a, b, c, d, e, f]
    }
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<A> {
    /// The first address: what is beyond the prefix is zero.
    pub address: A,
    /// How many bits are the same.
    pub length: u8,
}

/// What is not matched as a prefix reads as one of no bits.
impl<A: Scalar> Part for Prefix<A> {
    const FIELDS: &'static [FieldSpec] =
        &[FieldSpec { name: "", width: A::WIDTH, kind: MatchKind::Lpm, format: A::FORMAT }];

    fn write(self, key: &mut SmallVec<[Match; 3]>) {
        key.push(Match::Lpm { value: self.address.value(), length: self.length });
    }

    fn read(fields: &[Match]) -> Self {
        let length = match fields.first() {
            Some(&Match::Lpm { length, .. }) => length,
            _ => 0,
        };
        Prefix { address: A::of(first(fields)), length }
    }
}

/// Ports from `low` to `high`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The first value of the interval.
    pub low: u32,
    /// Last; below `1 << 16` in every program that passes the checks.
    pub high: u32,
}

/// What is not matched as a range reads as one number.
impl Part for PortRange {
    const FIELDS: &'static [FieldSpec] =
        &[FieldSpec { name: "", width: 16, kind: MatchKind::Range, format: Format::Decimal }];

    fn write(self, key: &mut SmallVec<[Match; 3]>) {
        key.push(Match::Range { low: self.low, high: self.high });
    }

    fn read(fields: &[Match]) -> Self {
        match fields.first() {
            Some(&Match::Range { low, high }) => PortRange { low, high },
            other => {
                let number = other.map_or(0, |m| m.value().low() as u32);
                PortRange { low: number, high: number }
            }
        }
    }
}

/// Family and number.
impl Part for Class {
    const FIELDS: &'static [FieldSpec] = &[
        exact("family", Family::WIDTH, Family::FORMAT),
        exact("class", <ClassId<V4>>::WIDTH, <ClassId<V4>>::FORMAT),
    ];

    fn write(self, key: &mut SmallVec<[Match; 3]>) {
        self.family().write(key);
        self.get().write(key);
    }

    fn read(fields: &[Match]) -> Self {
        Class::new(Family::read(fields), u16::read(fields.get(1..).unwrap_or_default()))
    }
}

/// What a line of the directory is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Named {
    /// A pod: namespace, name, uid.
    Endpoint(EndpointId),
    /// A policy set: direction, policies' rules, resolved ports.
    Set(SetId),
    /// A class: its peers.
    Class(Class),
    /// Something that this build gives no meaning: of another kind, or beyond the ids of its kind.
    Unknown {
        /// The kind of id as a number; see [`Named::numbers`].
        kind: u8,
        /// The number of the id; see [`Named::numbers`].
        number: u32,
    },
}

impl Named {
    const ENDPOINT: u8 = 1;
    const SET: u8 = 2;
    const CLASS_V4: u8 = 3;
    const CLASS_V6: u8 = 4;

    /// Kinds that mean something are numbered from 1 to this.
    pub const LAST_KIND: u8 = Self::CLASS_V6;

    /// An id by the number of its kind and its own. A number too wide for its kind is of no kind.
    pub fn new(kind: u8, number: u32) -> Self {
        match (kind, u16::try_from(number)) {
            (Self::ENDPOINT, Ok(id)) => Named::Endpoint(EndpointId::new(id)),
            (Self::SET, Ok(id)) => Named::Set(SetId::new(id)),
            (Self::CLASS_V4, Ok(id)) => Named::Class(Class::new(Family::V4, id)),
            (Self::CLASS_V6, Ok(id)) => Named::Class(Class::new(Family::V6, id)),
            _ => Named::Unknown { kind, number },
        }
    }

    /// The number of the kind, and that of the id.
    pub fn numbers(self) -> (u8, u32) {
        match self {
            Named::Endpoint(id) => (Self::ENDPOINT, id.get().into()),
            Named::Set(id) => (Self::SET, id.get().into()),
            Named::Class(Class::V4(id)) => (Self::CLASS_V4, id.get().into()),
            Named::Class(Class::V6(id)) => (Self::CLASS_V6, id.get().into()),
            Named::Unknown { kind, number } => (kind, number),
        }
    }
}

impl Part for Named {
    const FIELDS: &'static [FieldSpec] =
        &[exact("kind", 8, Format::Decimal), exact("id", 32, Format::Decimal)];

    fn write(self, key: &mut SmallVec<[Match; 3]>) {
        let (kind, number) = self.numbers();
        key.extend([Match::exact(kind), Match::exact(number)]);
    }

    fn read(fields: &[Match]) -> Self {
        let number = first(fields.get(1..).unwrap_or_default()).low();
        Named::new(u8::read(fields), number as u32)
    }
}
