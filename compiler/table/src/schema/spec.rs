//! Descriptions of tables, as data: what text form, JSON, checks and targets' limits read.

use super::{ActionId, TableId};

/// How a field is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchKind {
    /// Equality.
    Exact,
    /// Longest prefix.
    Lpm,
    /// A closed interval; entries of one table never overlap, so no priority is needed.
    Range,
}

/// One key field of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSpec {
    /// As printed.
    pub name: &'static str,
    /// Bits.
    pub width: u8,
    /// How it is matched.
    pub kind: MatchKind,
    /// How its values print.
    pub format: Format,
}

/// How a value prints and parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Decimal.
    Decimal,
    /// 0x...
    Hex,
    /// Dotted quad.
    Ipv4,
    /// RFC 5952.
    Ipv6,
    /// tcp, udp, sctp, or a number.
    Protocol,
}

/// An action with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionSpec {
    /// Its id.
    pub id: ActionId,
    /// As printed.
    pub name: &'static str,
    /// Name, bits and format of each parameter.
    pub params: &'static [(&'static str, u8, Format)],
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Its id.
    pub id: TableId,
    /// As printed.
    pub name: &'static str,
    /// Its key.
    pub fields: &'static [FieldSpec],
    /// What entries may do.
    pub actions: &'static [ActionId],
    /// What a miss does, and with what parameters.
    pub default: (ActionId, [u64; 3]),
}
