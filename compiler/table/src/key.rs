//! Match keys: exact, LPM and range.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use smallvec::SmallVec;

/// An unsigned value of up to 128 bits, 8-byte aligned to keep keys small. Orders as a number.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    high: u64,
    low: u64,
}

impl Value {
    /// The value as one number.
    pub fn get(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// The low 64 bits, for fields that are no wider.
    pub fn low(self) -> u64 {
        self.low
    }
}

impl From<u128> for Value {
    fn from(v: u128) -> Self {
        Self { high: (v >> 64) as u64, low: v as u64 }
    }
}
impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self { high: 0, low: v }
    }
}
impl From<u32> for Value {
    fn from(v: u32) -> Self {
        u64::from(v).into()
    }
}
impl From<u16> for Value {
    fn from(v: u16) -> Self {
        u64::from(v).into()
    }
}
impl From<u8> for Value {
    fn from(v: u8) -> Self {
        u64::from(v).into()
    }
}
/// 32 bits for IPv4, 128 for IPv6: the family is the table's, never the value's.
impl From<IpAddr> for Value {
    fn from(a: IpAddr) -> Self {
        match a {
            IpAddr::V4(a) => a.into(),
            IpAddr::V6(a) => a.into(),
        }
    }
}
impl From<Ipv4Addr> for Value {
    fn from(a: Ipv4Addr) -> Self {
        a.to_bits().into()
    }
}
impl From<Ipv6Addr> for Value {
    fn from(a: Ipv6Addr) -> Self {
        a.to_bits().into()
    }
}
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.get())
    }
}

/// One field of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// The field must be equal to this.
    Exact(Value),
    /// Equal in the first `length` of the field's bits; the other bits of `value` are zero.
    Lpm {
        /// The prefix, in the field's full width.
        value: Value,
        /// The length of the prefix in bits.
        length: u8,
    },
    /// `low <= field <= high`.
    Range {
        /// The first value that matches.
        low: u32,
        /// The last value that matches.
        high: u32,
    },
}

impl Match {
    /// A match of exactly this value.
    pub fn exact(v: impl Into<Value>) -> Self {
        Match::Exact(v.into())
    }

    /// The value of an exact or LPM field, the low end of a range.
    pub fn value(&self) -> Value {
        match *self {
            Match::Exact(v) | Match::Lpm { value: v, .. } => v,
            Match::Range { low, .. } => low.into(),
        }
    }
}

/// A whole key, one [`Match`] for each field of the table, in the table's order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub(crate) SmallVec<[Match; 3]>);

impl Key {
    /// A key of these fields.
    pub fn new(fields: impl IntoIterator<Item = Match>) -> Self {
        Key(fields.into_iter().collect())
    }

    /// One match for each field of the table's key, in the schema's order.
    pub fn fields(&self) -> &[Match] {
        &self.0
    }

    /// The prefix of a key that is one: its bits and its length. Of a field that is matched
    /// otherwise, no bits.
    pub fn prefix(&self) -> (Value, u8) {
        match self.0.first() {
            Some(&Match::Lpm { value, length }) => (value, length),
            other => (other.map_or(Value::default(), Match::value), 0),
        }
    }
}
