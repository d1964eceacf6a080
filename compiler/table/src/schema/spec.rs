//! Descriptions of tables, as data: what text form, JSON, checks and targets' limits read.

use super::{ActionId, TableId};

/// How a field is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchKind {
    /// The value is equal.
    Exact,
    /// The longest prefix that covers the value wins.
    Lpm,
    /// A closed interval; entries of one table never overlap, so no priority is needed.
    Range,
}

/// One key field of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSpec {
    /// The name in text and JSON.
    pub name: &'static str,
    /// The width in bits, at most 128.
    pub width: u8,
    /// Which kind of match keys have in this field.
    pub kind: MatchKind,
    /// The notation of its values in text.
    pub format: Format,
}

/// How a value prints and parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A decimal number.
    Decimal,
    /// A hexadecimal number with `0x` in front.
    Hex,
    /// An IPv4 address as a dotted quad.
    Ipv4,
    /// An IPv6 address as RFC 5952 writes it.
    Ipv6,
    /// tcp, udp, sctp, or a number.
    Protocol,
}

/// An action with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionSpec {
    /// The id that entries name the action by.
    pub id: ActionId,
    /// The name in text and JSON.
    pub name: &'static str,
    /// Name, bits and format of each parameter.
    pub params: &'static [(&'static str, u8, Format)],
}

/// What the schema says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The id that programs name the table by.
    pub id: TableId,
    /// The name in text and JSON.
    pub name: &'static str,
    /// The fields of its keys, in order. At most the last one is not exact.
    pub fields: &'static [FieldSpec],
    /// The actions that its entries may have.
    pub actions: &'static [ActionId],
    /// What a miss does, and with what parameters.
    pub default: (ActionId, [u64; 4]),
}
